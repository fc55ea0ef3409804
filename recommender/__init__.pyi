# ruff: noqa: I001 - the order is that of the wings
# The public names, each listed once. `__init__.py` imports a name when it is first used.

# The ground
from .errors import (
    BadData as BadData,
    CursorAhead as CursorAhead,
    DatabaseBusy as DatabaseBusy,
    DatabaseDamaged as DatabaseDamaged,
    DatabaseUnreachable as DatabaseUnreachable,
    EventConflict as EventConflict,
    ExperimentRunning as ExperimentRunning,
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
    UnknownFeed as UnknownFeed,
    UnknownProfile as UnknownProfile,
    UnknownSignal as UnknownSignal,
    UnknownUser as UnknownUser,
    UnknownVideo as UnknownVideo,
)
from .settings import Settings as Settings
from .database.engine import (
    create_engine as create_engine,
    prepare_engine as prepare_engine,
)
from .database.host_times import as_datetime as as_datetime
from .database.transactions import (
    run_transaction as run_transaction,
    translate_errors as translate_errors,
)
from .database.migrations import upgrade as upgrade
from .database.spaces import (
    Space as Space,
    create_space as create_space,
    drop_space as drop_space,
    index_space as index_space,
    list_spaces as list_spaces,
)

# Write: users, videos, follows, mutes, blocks, events, candidates and embeddings
from .formats.rows import (
    CandidateRow as CandidateRow,
    EmbeddingRow as EmbeddingRow,
    UserRow as UserRow,
    VideoRow as VideoRow,
)
from .formats.scalars import (
    EventKind as EventKind,
    MuteKind as MuteKind,
    VideoStatus as VideoStatus,
)
from .formats.visibility import Audience as Audience
from .ingest.users import upsert_users as upsert_users
from .ingest.videos import (
    set_video_status as set_video_status,
    upsert_videos as upsert_videos,
)
from .ingest.follows import (
    follow as follow,
    unfollow as unfollow,
)
from .ingest.mutes import (
    mute as mute,
    unmute as unmute,
)
from .ingest.blocks import (
    block as block,
    unblock as unblock,
)
from .ingest.dismissals import dismiss as dismiss
from .ingest.events import (
    record as record,
    record_many as record_many,
)
from .ingest.candidates import upsert_candidates as upsert_candidates
from .ingest.embeddings import upsert_embeddings as upsert_embeddings
from .ingest.values import (
    Counts as Counts,
    Event as Event,
)

# Read: feeds, and why they are as they are
from .feed.for_you import (
    for_you as for_you,
    rank as rank,
)
from .feed.memory import mark_seen as mark_seen
from .feed.sessions import record_page as record_page
from .feed.explain import explain as explain
from .feed.comparison import diff_profiles as diff_profiles
from .feed.resolve import resolve as resolve
from .feed.feeds import (
    create_feed as create_feed,
    delete_feed as delete_feed,
    get_feed as get_feed,
    list_feeds as list_feeds,
)
from .feed.values import (
    Contribution as Contribution,
    Explanation as Explanation,
    FeedItem as FeedItem,
    FeedPage as FeedPage,
    FilterOutcome as FilterOutcome,
    Reason as Reason,
    Words as Words,
)

# Lists beside For You
from .lists.timelines import (
    following as following,
    trending as trending,
)
from .lists.similar import similar as similar
from .lists.digest import (
    Digest as Digest,
    digest as digest,
)
from .lists.reach import (
    Recipient as Recipient,
    reach as reach,
)
from .lists.people import people as people
from .lists.people_values import (
    PeoplePage as PeoplePage,
    Person as Person,
    PersonReason as PersonReason,
)

# Ranking: what a feed consists of, and the weights
from .ranking.request import (
    Feed as Feed,
    FeedRequest as FeedRequest,
    Profile as Profile,
)
from .ranking.scoring import feed_query as feed_query
from .ranking.signals import (
    Candidate as Candidate,
    SIGNALS as SIGNALS,
    Signal as Signal,
)
from .ranking.sources import (
    SOURCES as SOURCES,
    Source as Source,
)
from .ranking.registry import Registry as Registry
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

# Learning
from .learning.refresh import refresh as refresh

# Files
from .files.file_format import FileFormat as FileFormat
from .files.importer import import_file as import_file
from .files.exporter import export_file as export_file

# Operations
from .operations.audit import audit as audit
from .operations.doctor import diagnose as diagnose
from .operations.prune import prune as prune
from .operations.users import (
    rename_user as rename_user,
    reset_user as reset_user,
)
from .operations.merge import merge_users as merge_users
from .operations.archive import export_user as export_user
from .operations.erase import (
    erase_user as erase_user,
    erase_video as erase_video,
)

# Monitoring
from .monitoring.metrics import metrics as metrics

# Experiments
from .formats.experiments import Arm as Arm
from .experiments.experiments import (
    Experiment as Experiment,
    ExperimentArm as ExperimentArm,
    get_experiment as get_experiment,
    list_experiments as list_experiments,
    start_experiment as start_experiment,
    stop_experiment as stop_experiment,
)
from .experiments.report import experiment_report as experiment_report

# Slices
from .slices.slice import slice_users as slice_users

# Evaluation and training
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.next_videos import evaluate_next as evaluate_next
from .evaluation.next_follows import evaluate_follow as evaluate_follow
from .evaluation.off_policy import replay_profile as replay_profile
from .evaluation.log_files import LogFiles as LogFiles
from .training.fit import fit as fit
from .training.fit_pages import fit_pages as fit_pages

# Reports for people
from .reports.collect import report as report
