# The public names, once, by wing: `__init__.py` imports each when it is first used.
from .settings import (
    Settings as Settings,
)
from .errors import (
    BadData as BadData,
    DatabaseBusy as DatabaseBusy,
    DatabaseDamaged as DatabaseDamaged,
    DatabaseUnreachable as DatabaseUnreachable,
    EventConflict as EventConflict,
    EventTooOld as EventTooOld,
    InvalidCursor as InvalidCursor,
    InvalidValue as InvalidValue,
    NotFound as NotFound,
    NotPermitted as NotPermitted,
    PoolTimeout as PoolTimeout,
    QueryTimeout as QueryTimeout,
    RecommenderError as RecommenderError,
    SchemaOutOfDate as SchemaOutOfDate,
    StorageFailure as StorageFailure,
    UnknownProfile as UnknownProfile,
    UnknownSignal as UnknownSignal,
    UnknownUser as UnknownUser,
    UnknownVideo as UnknownVideo,
)
from .database.engine import (
    create_engine as create_engine,
    prepare_engine as prepare_engine,
)
from .database.transactions import (
    run_transaction as run_transaction,
)
from .ingest.events import (
    record as record,
    record_many as record_many,
)
from .ingest.follows import (
    follow as follow,
    unfollow as unfollow,
)
from .ingest.mutes import (
    mute as mute,
    unmute as unmute,
)
from .ingest.users import (
    upsert_users as upsert_users,
)
from .ingest.values import (
    Counts as Counts,
    Event as Event,
)
from .ingest.videos import (
    upsert_videos as upsert_videos,
)
from .ranking.filters import (
    FILTERS as FILTERS,
    Filter as Filter,
)
from .ranking.profiles import (
    activate_profile as activate_profile,
    create_profile as create_profile,
    get_profile as get_profile,
    list_profiles as list_profiles,
    profile_history as profile_history,
)
from .ranking.request import (
    FeedRequest as FeedRequest,
    Profile as Profile,
)
from .ranking.scoring import (
    feed_query as feed_query,
)
from .ranking.signals import (
    Candidate as Candidate,
    SIGNALS as SIGNALS,
    Signal as Signal,
)
from .ranking.sources import (
    SOURCES as SOURCES,
    Source as Source,
)
from .feed.comparison import (
    diff_profiles as diff_profiles,
)
from .feed.explain import (
    explain as explain,
)
from .feed.for_you import (
    for_you as for_you,
    rank as rank,
)
from .feed.resolve import (
    resolve as resolve,
)
from .feed.timelines import (
    following as following,
    trending as trending,
)
from .feed.sessions import (
    record_page as record_page,
)
from .feed.values import (
    Contribution as Contribution,
    Explanation as Explanation,
    FeedItem as FeedItem,
    FeedPage as FeedPage,
    FilterOutcome as FilterOutcome,
)
from .learning.refresh import (
    refresh as refresh,
)
from .files.exporter import (
    export_file as export_file,
)
from .files.importer import (
    import_file as import_file,
)
from .operations.archive import (
    export_user as export_user,
)
from .operations.audit import (
    audit as audit,
)
from .operations.doctor import (
    diagnose as diagnose,
)
from .operations.erase import (
    erase_user as erase_user,
)
from .operations.prune import (
    prune as prune,
)
from .operations.users import (
    reset_user as reset_user,
)
from .evaluation.evaluate import (
    evaluate as evaluate,
)
from .evaluation.log_files import (
    LogFiles as LogFiles,
)
from .evaluation.off_policy import (
    replay_profile as replay_profile,
)
from .training.fit import (
    fit as fit,
)
from .training.fit_pages import (
    fit_pages as fit_pages,
)
