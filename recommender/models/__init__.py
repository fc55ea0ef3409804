"""The tables: every class is one table of the database."""

from __future__ import annotations

from recommender.models.activity import (
    Block,
    EventRow,
    Follow,
    Interaction,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    PendingEvent,
    UserHashtag,
    UserSound,
)
from recommender.models.catalog import (
    Hashtag,
    ProfileVersion,
    ProfileWeight,
    Sound,
    User,
    Video,
    VideoCaption,
    VideoHashtag,
    VideoTerm,
)
from recommender.models.experiments import ExperimentRow
from recommender.models.learned import (
    Affinity,
    LearningState,
    RecentEngagement,
    Term,
    VideoNeighbour,
)
from recommender.models.outside import OutsideCandidate
from recommender.models.serving import FeedSession, FeedVersion, RememberedVideo, ServedVideo
from recommender.models.suggestions import Suggestion
from recommender.models.types import Base

__all__ = [
    "Affinity",
    "Base",
    "Block",
    "EventRow",
    "ExperimentRow",
    "FeedSession",
    "FeedVersion",
    "Follow",
    "Hashtag",
    "Interaction",
    "LearningState",
    "MutedCreator",
    "MutedHashtag",
    "MutedKeyword",
    "MutedSound",
    "OutsideCandidate",
    "PendingEvent",
    "ProfileVersion",
    "ProfileWeight",
    "RecentEngagement",
    "RememberedVideo",
    "ServedVideo",
    "Sound",
    "Suggestion",
    "Term",
    "User",
    "UserHashtag",
    "UserSound",
    "Video",
    "VideoCaption",
    "VideoHashtag",
    "VideoNeighbour",
    "VideoTerm",
]
