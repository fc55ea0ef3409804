"""A For You feed inside an application's own SQL database.

One SQLAlchemy statement finds candidates, computes a weighted sum of named signals in the database,
and returns an ordered feed, on the caller's session and in the caller's transaction. Every name
here is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recommender.archive import export_user
    from recommender.auditing import Audit, audit
    from recommender.catalog import follow, unfollow, upsert_users, upsert_videos
    from recommender.choosing import PageFit, fit_pages
    from recommender.comparing import ProfileDiff, diff_profiles
    from recommender.counterfactual import Expectation
    from recommender.engine import create_engine, prepare_engine, run_transaction
    from recommender.erasing import Erasure, erase_user
    from recommender.errors import (
        BadData,
        DatabaseBusy,
        DatabaseDamaged,
        DatabaseUnreachable,
        EventConflict,
        EventTooOld,
        InvalidCursor,
        InvalidValue,
        NotFound,
        NotPermitted,
        PoolTimeout,
        QueryTimeout,
        RecommenderError,
        SchemaOutOfDate,
        StorageFailure,
        UnknownProfile,
        UnknownSignal,
        UnknownUser,
        UnknownVideo,
    )
    from recommender.evaluation import Evaluation, evaluate
    from recommender.export import export_file
    from recommender.feed import explain, for_you, rank
    from recommender.filters import FILTERS, Filter
    from recommender.fitting import Fit, fit
    from recommender.health import Finding, diagnose
    from recommender.interactions import record, record_many
    from recommender.interchange import import_file
    from recommender.learned import (
        Affinity,
        LearningState,
        MutedCreator,
        MutedHashtag,
        MutedKeyword,
        MutedSound,
        RecentEngagement,
        Term,
        VideoNeighbour,
    )
    from recommender.memory import record_page
    from recommender.metrics import Interval
    from recommender.models import (
        EventRow,
        Follow,
        Hashtag,
        Interaction,
        PendingEvent,
        ProfileVersion,
        ProfileWeight,
        Sound,
        User,
        UserHashtag,
        UserSound,
        Video,
        VideoCaption,
        VideoHashtag,
        VideoTerm,
    )
    from recommender.mutes import mute, unmute
    from recommender.profiles import (
        activate_profile,
        create_profile,
        get_profile,
        list_profiles,
        profile_history,
    )
    from recommender.pruning import PruneReport, prune
    from recommender.quality import ImpressionQuality, PageQuality
    from recommender.replay import LogFiles
    from recommender.resolving import resolve
    from recommender.rollups import RefreshReport, refresh
    from recommender.scoring import feed_query
    from recommender.served import Base, FeedSession, ServedVideo
    from recommender.settings import Settings
    from recommender.signals import SIGNALS, Candidate, Signal
    from recommender.sources import SOURCES, Source, source_names
    from recommender.timelines import following, trending
    from recommender.tryout import PagePreview, ProfileReplay, replay_profile
    from recommender.users import reset_user
    from recommender.values import (
        Contribution,
        Counts,
        Event,
        Explanation,
        FeedItem,
        FeedPage,
        FeedRequest,
        FilterOutcome,
        Learning,
        Profile,
        ProfileRecord,
    )
    from recommender.viewer import Viewer

_NAMES = {
    "archive": "export_user",
    "auditing": "Audit audit",
    "catalog": "follow unfollow upsert_users upsert_videos",
    "choosing": "PageFit fit_pages",
    "comparing": "ProfileDiff diff_profiles",
    "counterfactual": "Expectation",
    "engine": "create_engine prepare_engine run_transaction",
    "errors": "BadData DatabaseBusy DatabaseDamaged DatabaseUnreachable EventConflict EventTooOld"
    " InvalidCursor InvalidValue NotFound NotPermitted PoolTimeout QueryTimeout RecommenderError"
    " SchemaOutOfDate StorageFailure UnknownProfile UnknownSignal UnknownUser UnknownVideo",
    "erasing": "Erasure erase_user",
    "evaluation": "Evaluation evaluate",
    "export": "export_file",
    "feed": "explain for_you rank",
    "filters": "FILTERS Filter",
    "fitting": "Fit fit",
    "health": "Finding diagnose",
    "interactions": "record record_many",
    "interchange": "import_file",
    "learned": "Affinity LearningState MutedCreator MutedHashtag MutedKeyword MutedSound"
    " RecentEngagement Term VideoNeighbour",
    "memory": "record_page",
    "metrics": "Interval",
    "models": "EventRow Follow Hashtag Interaction PendingEvent ProfileVersion"
    " ProfileWeight Sound User UserHashtag UserSound Video VideoCaption VideoHashtag VideoTerm",
    "mutes": "mute unmute",
    "profiles": "activate_profile create_profile get_profile list_profiles profile_history",
    "pruning": "PruneReport prune",
    "quality": "ImpressionQuality PageQuality",
    "replay": "LogFiles",
    "resolving": "resolve",
    "rollups": "RefreshReport refresh",
    "scoring": "feed_query",
    "served": "Base FeedSession ServedVideo",
    "settings": "Settings",
    "signals": "SIGNALS Candidate Signal",
    "sources": "SOURCES Source source_names",
    "timelines": "following trending",
    "tryout": "PagePreview ProfileReplay replay_profile",
    "users": "reset_user",
    "values": "Contribution Counts Event Explanation FeedItem FeedPage FeedRequest FilterOutcome"
    " Learning Profile ProfileRecord",
    "viewer": "Viewer",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_MODULES)  # noqa: PLE0605 - the same names as above, which a test compares


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
