"""Check the health of a database and suggest fixes; read-only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, Index
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateIndex

from recommender.database import lookup
from recommender.database.expressions import viewed_and_positive
from recommender.database.partitions import DAY, is_ours, log_partitions
from recommender.database.planner_statistics import unplanned_tables
from recommender.database.schema import check_schema, first_state, schema_revision
from recommender.database.session import Session as AnySession
from recommender.database.spaces import list_spaces
from recommender.database.transactions import translate_errors
from recommender.errors import UnknownSignal
from recommender.formats import scalars
from recommender.formats.findings import Finding
from recommender.formats.visibility import UNDISCOVERABLE
from recommender.learning.lacks import log_lacks
from recommender.models.tables import (
    INTERACTIONS,
    LEARNING_STATE,
    PENDING,
    USERS,
    VIDEO_HASHTAGS,
    VIDEOS,
)
from recommender.models.types import Base, UtcDateTime
from recommender.operations import erase
from recommender.operations.log_partitions import has_exclusion
from recommender.operations.merge_history import unfinished_merges
from recommender.operations.query_plans import check_plans
from recommender.operations.registered_plans import INDEX_ADVICE
from recommender.operations.vector_recall import LEAST_RECALL, recall_of
from recommender.ranking.profiles import get_profile
from recommender.ranking.registry import known_registry
from recommender.telemetry import traced

MAX_CLOCK_OFFSET = timedelta(minutes=1)

MAX_REFRESH_AGE = timedelta(hours=1)

MAX_COUNTED = 1_000_000
"""The limit up to which pending events are counted."""

MIN_DEAD_ROWS = 10_000

DEAD_SHARE = 0.2
"""The share of dead rows above which a table needs a vacuum: autovacuum's default."""

MAX_READ_VECTORS = 10_000
"""The vectors of which a page may scan all: with 384 dimensions it takes 20 to 60 ms on SQLite."""

RELIST = (
    "UPDATE rec_video_hashtags SET listed_at = (SELECT published_at FROM rec_videos"
    " WHERE id = video_id AND status = 'published')"
)


Check = Callable[[Session], Finding]


@traced
def diagnose(engine: Engine, *, plans: bool = False) -> tuple[Finding, ...]:
    """Check a database for problems that cause no error message.

    The checks cover the clock, the active profile, the events pending for a refresh, unfinished
    erasures, indexes, values stored twice, and what the log lacks. SQLite adds the journal mode;
    PostgreSQL adds dead rows and planner statistics. Some tables are read in full: for many
    millions of rows, allow minutes in PostgreSQL's `statement_timeout`.

    Args:
        engine: a prepared engine.
        plans: also rank a page for a few users, and check the query plans.

    Returns:
        One finding per check of this kind of database, always in the same order.

    Raises:
        DatabaseUnreachable: the database cannot be reached.
        SchemaOutOfDate: the schema is not at the migration that this package needs.
        RecommenderError: the database reported an error.
    """
    with translate_errors(), Session(engine) as session:
        check_schema(lookup.connection(session))
        checks = ON_SQLITE if lookup.is_sqlite(session) else ON_POSTGRESQL
        last = (_recall, _plans) if plans else ()
        return tuple(check(session) for check in (*CHECKS, *checks, *last))


def _finding(check: str, wrong: str | None, right: str, advice: str) -> Finding:
    return Finding(check, wrong is None, wrong or right, advice if wrong else None)


def _database(session: Session) -> Finding:
    connection = lookup.connection(session)
    dialect = connection.dialect
    version = ".".join(map(str, dialect.server_version_info or ()))
    name = "SQLite" if dialect.name == "sqlite" else "PostgreSQL"
    return Finding("database", True, f"{name} {version}, migration {schema_revision(connection)}")  # noqa: FBT003


def _clock(session: Session) -> Finding:
    """Compare the server's clock with the clock of this machine."""
    # Events count as late by the clock of this machine.
    if lookup.is_sqlite(session):
        return Finding("clock", True, "the clock of this machine")  # noqa: FBT003
    now = sa.select(sa.func.clock_timestamp(type_=UtcDateTime()))
    before = scalars.now()
    server: datetime = lookup.run(session, now).scalar_one()
    skew = server - (before + (scalars.now() - before) / 2)
    difference = f"{skew.total_seconds():+.1f} s at the server"
    return _finding(
        "clock", difference if abs(skew) > MAX_CLOCK_OFFSET else None, difference,
        "set both clocks by NTP: reading times and event times come from the clock of this machine",
    )  # fmt: skip


def _profile(session: Session) -> Finding:
    """Check that the signals of the profile that serves are known to this process."""
    profile, wrong = get_profile(session), None
    try:
        known_registry(lookup.registry(session)).check(profile)
    except UnknownSignal as error:
        wrong = f"{profile.label} serves, but {error}"
    return _finding(
        "profile", wrong, f"{profile.label} serves",
        "name the registry that has the signal, or activate another profile: every page fails",
    )  # fmt: skip


def rollup_backlog(session: AnySession) -> Any:
    """Return a row of the pending events: their number, the oldest and newest time, `refreshed_at`.

    At most `MAX_COUNTED` + 1 events are read; the times are None if no event is pending.

    Raises:
        SchemaOutOfDate: no migration made the tables.
    """
    events = sa.select(PENDING.c.at).limit(MAX_COUNTED + 1).subquery("pending")
    backlog = sa.select(
        sa.func.count().label("events"),
        sa.func.min(events.c.at).label("oldest"),
        sa.func.max(events.c.at).label("newest"),
    ).subquery("backlog")
    state = sa.join(LEARNING_STATE, backlog, sa.true())
    statement = sa.select(LEARNING_STATE.c.refreshed_at, backlog).select_from(state)
    return first_state(lookup.run(session, statement))


def _rollups(session: Session) -> Finding:
    """Check the number of pending events and the time of the last refresh."""
    row = rollup_backlog(session)
    waiting, at = row.events, row.refreshed_at
    number = f"more than {MAX_COUNTED:,}" if waiting > MAX_COUNTED else f"{waiting:,}"
    when = f"refreshed at {scalars.written_time(at)}" if at else "never refreshed"
    backlog = f"{number} events wait, {when}"
    is_late = waiting and (at is None or scalars.now() - at > MAX_REFRESH_AGE)
    return _finding(
        "rollups", backlog if is_late else None, backlog,
        "run `recommender refresh`, every few minutes",
    )  # fmt: skip


def _indexes(session: Session) -> Finding:
    """Check that every index of the models exists and, on PostgreSQL, is valid."""
    connection = lookup.connection(session)
    inspector = sa.inspect(connection)
    missing, count = [], 0
    for table in Base.metadata.tables.values():
        existing = {
            (index["name"], *index["column_names"]) for index in inspector.get_indexes(table.name)
        }
        expected = {(str(index.name), *index.columns.keys()): index for index in table.indexes}
        count += len(expected)
        missing += [expected[key] for key in sorted(expected.keys() - existing)]
    invalid = [] if lookup.is_sqlite(session) else _invalid_indexes(session)
    wrong = [f"{index.name} is missing" for index in missing]
    wrong += [f"{name} is invalid" for name in invalid]
    advice = [_made(session, index) for index in missing]
    advice += [f"REINDEX INDEX CONCURRENTLY {name}" for name in invalid]
    return _finding("indexes", ", ".join(wrong) or None, f"all {count}", "; ".join(advice))


def _made(session: Session, index: Index) -> str:
    """Return the CREATE INDEX statement."""
    dialect = lookup.connection(session).dialect
    return " ".join(str(CreateIndex(index).compile(dialect=dialect)).split())


def _invalid_indexes(session: Session) -> list[str]:
    """Return the names of the indexes left by an interrupted CREATE INDEX CONCURRENTLY."""
    index = sa.table("pg_index", *map(sa.column, ("indexrelid", "indrelid", "indisvalid")))
    name, owner = (
        sa.cast(sa.cast(column, postgresql.REGCLASS), sa.Text)
        for column in (index.c.indexrelid, index.c.indrelid)
    )
    statement = sa.select(name).where(is_ours(owner), ~index.c.indisvalid)
    return sorted(lookup.run(session, statement).scalars())


def _erasures(session: Session) -> Finding:
    """Check that no erasure is unfinished."""
    begun = erase.unfinished(session)
    return _finding(
        "erasures", f"{begun:,} not finished" if begun else None, "all finished",
        "run `recommender user erase` for the same user again, unless it is still running",
    )  # fmt: skip


def _merges(session: Session) -> Finding:
    """Check that no merge is unfinished."""
    begun = unfinished_merges(session)
    return _finding(
        "merges", f"{begun:,} not finished" if begun else None, "all finished",
        "run `recommender user merge` for the same users again, unless it is still running",
    )  # fmt: skip


def _spaces(session: Session) -> Finding:
    """Check that the space of the registry is there, and that large spaces have an index."""
    registry, spaces = lookup.registry(session), list_spaces(lookup.connection(session))
    wrong, advice = [], []
    wanted = registry.space if registry else None
    if wanted and wanted not in {space.name for space in spaces}:
        wrong.append(f"{wanted}, which the registry reads, is missing")
        advice.append(f"recommender embeddings create {wanted} --dim N")
    for space in spaces:
        if not space.indexed and space.vectors > MAX_READ_VECTORS:
            wrong.append(f"{space.name} has {space.vectors:,} vectors, which each page reads")
            advice.append(
                "use PostgreSQL" if space.indexed is None
                else f"recommender embeddings index {space.name}"
            )  # fmt: skip
    names = ", ".join(f"{space.name} with {space.vectors:,} vectors" for space in spaces)
    return _finding("spaces", "; ".join(wrong) or None, names or "none", "; ".join(advice))


def _copies(session: Session) -> Finding:
    """Check that hashtags list published videos, and only these, by publication time."""
    listed = sa.case((VIDEOS.c.status == "published", VIDEOS.c.published_at))
    differs = VIDEO_HASHTAGS.c.listed_at.is_distinct_from(listed)
    pairs = sa.join(VIDEO_HASHTAGS, VIDEOS, VIDEOS.c.id == VIDEO_HASHTAGS.c.video_id)
    count = sa.select(sa.func.count()).select_from(pairs).where(differs)
    wrong = lookup.run(session, count).scalar()
    difference = f"{wrong:,} listing times of hashtags differ from their videos"
    return _finding("copies", difference if wrong else None, "equal", RELIST)


def _visibility(session: Session) -> Finding:
    """Check that the visibility of videos agrees with their creators."""
    is_hidden, is_shown = VIDEOS.c.visibility >= UNDISCOVERABLE, USERS.c.discoverable
    differs = sa.or_(sa.and_(is_hidden, is_shown), ~sa.or_(is_hidden, is_shown))
    pairs = sa.join(VIDEOS, USERS, USERS.c.id == VIDEOS.c.creator_id)
    count = sa.select(sa.func.count()).select_from(pairs)
    wrong = lookup.run(session, count.where(differs, VIDEOS.c.status != "removed")).scalar()
    difference = f"{wrong:,} videos differ from their creators' `discoverable`"
    return _finding(
        "visibility", difference if wrong else None, "equal",
        "write `discoverable` of these creators twice: the wrong value, then the right one",
    )  # fmt: skip


def _statistics(session: Session) -> Finding:
    """Check that the viewers of all videos, counted and pending, match the states."""
    wrong = []
    names = ("impressions", "engaged_views")
    for name, counts in zip(names, viewed_and_positive(INTERACTIONS.c), strict=True):
        viewers = sa.select(sa.func.count()).select_from(INTERACTIONS).where(counts == 1)
        sums = [
            sa.select(sa.func.coalesce(sa.func.sum(table.c[name]), 0))
            for table in (VIDEOS, PENDING)
        ]
        totals = sa.select(*(total.scalar_subquery() for total in (viewers, *sums)))
        states, counted, waiting = lookup.run(session, totals).one()
        if states != counted + waiting:
            wrong.append(f"{name} are {int(counted + waiting):,}, but {states:,} in the states")
    return _finding(
        "statistics", "; ".join(wrong) or None, "equal to the states",
        "run `recommender refresh --rebuild`",
    )  # fmt: skip


def _log(session: Session) -> Finding:
    """Check that the log has what can be learned from."""
    lacks = log_lacks(session)
    found = "; ".join(lack.found for lack in lacks)
    advice = "; ".join(lack.advice for lack in lacks)
    is_well = not any(lack.is_harmful for lack in lacks)
    return Finding("log", is_well, found or "lacks nothing", advice or None)


def _journal(session: Session) -> Finding:
    """Check the journal mode: only a WAL lets readers and a writer work at the same time."""
    connection = lookup.connection(session)
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    return _finding(
        "journal", None if mode in {"wal", "memory"} else f"the mode is {mode}", f"{mode}",
        "open it once, writable, with `recommender.create_engine` or `prepare_engine`",
    )  # fmt: skip


def _dead_rows(session: Session) -> Finding:
    """Check that autovacuum keeps up."""
    names = ("relname", "relid", "n_live_tup", "n_dead_tup")
    stat = sa.table("pg_stat_user_tables", *map(sa.column, names))
    dead, live = stat.c.n_dead_tup, stat.c.n_live_tup
    statement = sa.select(stat.c.relname, dead).where(
        is_ours(stat.c.relname),
        sa.func.pg_table_is_visible(stat.c.relid),
        dead >= MIN_DEAD_ROWS,
        dead > DEAD_SHARE * (live + dead),
    )
    rows = lookup.run(session, statement.order_by(stat.c.relname)).all()
    wrong = ", ".join(f"{name} has {count:,}" for name, count in rows)
    advice = f"VACUUM ANALYZE {', '.join(name for name, _ in rows)}; let autovacuum run more often"
    return _finding("dead_rows", wrong or None, "few", advice)


def _partitions(session: Session) -> Finding:
    """Check that the log has partitions for the days to come, if it has any."""
    ends = [one.ends for one in log_partitions(session)]
    wrong = None
    if has_exclusion(session):
        wrong = "a prune was interrupted: the log refuses places of the days to come"
    elif ends and ends[-1] < scalars.now() + DAY:
        wrong = f"no partition of the log begins after {scalars.written_time(ends[-1])}"
    return _finding(
        "partitions", wrong, f"{len(ends)} days" if ends else "none",
        "run `recommender prune --sessions-older-than AGE` daily, by the owner of the tables",
    )  # fmt: skip


def _planner(session: Session) -> Finding:
    """Check that PostgreSQL has planner statistics that fit its tables."""
    tables = ", ".join(unplanned_tables(session))
    wrong = f"missing or far off: {tables}" if tables else None
    return _finding("planner", wrong, "present", f"ANALYZE {tables}")


def _plans(session: Session) -> Finding:
    """Check that short index scans find the pages of a few users, and a few similar lists."""
    checked = check_plans(session)
    plans = (*checked.plans.values(), *checked.lists.values())
    most_read = max((plan.read or 0 for plan in plans), default=0)
    rows = f", of {most_read:,} rows at most" if most_read else ""
    return _finding(
        "plans", "; ".join(checked.findings) or None,
        f"{len(checked.plans)} pages and {len(checked.lists)} lists by indexes{rows}",
        INDEX_ADVICE if checked.is_registered else "fix `indexes` and `planner` first; on SQLite,"
        " undo an ANALYZE with DELETE FROM sqlite_stat1",
    )  # fmt: skip


def _recall(session: Session) -> Finding:
    """Check that the index of vectors finds most of the nearest vectors."""
    recall = recall_of(session)
    if recall is None:
        return _finding("recall", None, "no index of vectors", "")
    share = f"{recall:.1%} of the nearest vectors are found"
    return _finding(
        "recall", share if recall < LEAST_RECALL else None, share,
        "give the registry a larger `near`: pages then search more of the index",
    )  # fmt: skip


CHECKS: Iterable[Check] = (
    _database, _clock, _profile, _rollups, _erasures, _merges, _indexes, _spaces, _copies,
    _visibility, _statistics, _log,
)  # fmt: skip

ON_SQLITE: Iterable[Check] = (_journal,)

ON_POSTGRESQL: Iterable[Check] = (_dead_rows, _partitions, _planner)
