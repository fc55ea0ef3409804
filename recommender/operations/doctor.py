"""Whether a database is as the recommender needs it: looked at, and never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Engine, Index
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateIndex

from recommender.database import lookup
from recommender.database.engine import check_schema, schema_revision
from recommender.database.planner_statistics import unplanned_tables
from recommender.database.transactions import translate_errors
from recommender.formats import scalars
from recommender.models.tables import INTERACTIONS, LEARNING_STATE, PENDING, VIDEO_HASHTAGS, VIDEOS
from recommender.models.types import Base, UtcDateTime
from recommender.operations import erase
from recommender.operations.query_plans import check_plans

MOST_SKEW = timedelta(minutes=1)

OLDEST_ROLLUPS = timedelta(hours=1)

MOST_COUNTED = 1_000_000
"""Events counted at most of those that wait for a refresh."""

MOST_DEAD = 10_000

DEAD_SHARE = 0.2
"""Dead rows, of all, from which a table is worth a vacuum; those of autovacuum by default."""

RELIST = (
    "UPDATE rec_video_hashtags SET listed_at = (SELECT published_at FROM rec_videos"
    " WHERE id = video_id AND status = 'published')"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do where it is not well."""

    check: str
    ok: bool
    found: str
    advice: str | None = None


Check = Callable[[Session], Finding]


def diagnose(engine: Engine, *, plans: bool = False) -> tuple[Finding, ...]:
    """Look at what can go wrong with a database without anybody being told.

    The clock; the backlog of what a refresh counts; indexes; values that are kept in two places;
    on SQLite the journal, on PostgreSQL dead rows and planner statistics. It reads some tables
    whole: on many millions of rows let PostgreSQL's `statement_timeout` be minutes.

    Args:
        engine: a prepared engine.
        plans: whether to rank a page for some users as well, and look at how it was found.

    Returns:
        What was found by each check, those of this database, in one order.

    Raises:
        DatabaseUnreachable: the database cannot be reached.
        SchemaOutOfDate: it is not at the migration that this package needs.
        RecommenderError: the database refused.
    """
    with translate_errors(), Session(engine) as session:
        check_schema(lookup.connection(session))
        checks = ON_SQLITE if lookup.is_sqlite(session) else ON_POSTGRESQL
        last = (_plans,) if plans else ()
        return tuple(check(session) for check in (*CHECKS, *checks, *last))


def _finding(check: str, wrong: str | None, found: str, advice: str) -> Finding:
    return Finding(check, wrong is None, wrong or found, advice if wrong else None)


def _database(session: Session) -> Finding:
    connection = lookup.connection(session)
    dialect = connection.dialect
    version = ".".join(map(str, dialect.server_version_info or ()))
    name = "SQLite" if dialect.name == "sqlite" else "PostgreSQL"
    return Finding("database", True, f"{name} {version}, migration {schema_revision(connection)}")  # noqa: FBT003


def _clock(session: Session) -> Finding:
    """How far the server's clock is from this machine's, by which events are said to be late."""
    if lookup.is_sqlite(session):
        return Finding("clock", True, "that of this machine")  # noqa: FBT003
    now = sa.select(sa.func.clock_timestamp(type_=UtcDateTime()))
    before = scalars.now()
    server: datetime = lookup.run(session, now).scalar_one()
    skew = server - (before + (scalars.now() - before) / 2)
    found = f"{skew.total_seconds():+.1f} s at the server"
    return _finding(
        "clock", found if abs(skew) > MOST_SKEW else None, found,
        "set both clocks by NTP: reading times and times of events come from this machine's",
    )  # fmt: skip


def _rollups(session: Session) -> Finding:
    """How many events no refresh has counted, and when one last did."""
    some = sa.select(sa.literal(1)).select_from(PENDING).limit(MOST_COUNTED + 1).subquery()
    count = sa.select(sa.func.count()).select_from(some)
    waiting = lookup.run(session, count).scalar() or 0
    refreshed = sa.select(LEARNING_STATE.c.refreshed_at)
    at = lookup.run(session, refreshed).scalar()
    said = f"more than {MOST_COUNTED:,}" if waiting > MOST_COUNTED else f"{waiting:,}"
    when = f"refreshed at {scalars.written_time(at)}" if at else "never refreshed"
    found = f"{said} events wait, {when}"
    is_late = waiting and (at is None or scalars.now() - at > OLDEST_ROLLUPS)
    return _finding(
        "rollups", found if is_late else None, found,
        "run `recommender refresh`, every few minutes",
    )  # fmt: skip


def _indexes(session: Session) -> Finding:
    """Whether every index of the models is there, and on PostgreSQL finished."""
    connection = lookup.connection(session)
    inspector = sa.inspect(connection)
    missing, count = [], 0
    for table in Base.metadata.tables.values():
        there = {
            (each["name"], *each["column_names"]) for each in inspector.get_indexes(table.name)
        }
        wanted = {(str(each.name), *each.columns.keys()): each for each in table.indexes}
        count += len(wanted)
        missing += [wanted[key] for key in sorted(wanted.keys() - there)]
    invalid = [] if lookup.is_sqlite(session) else _invalid_indexes(session)
    wrong = [f"{each.name} is missing" for each in missing]
    wrong += [f"{name} is invalid" for name in invalid]
    advice = [_made(session, each) for each in missing]
    advice += [f"REINDEX INDEX CONCURRENTLY {name}" for name in invalid]
    return _finding("indexes", ", ".join(wrong) or None, f"all {count}", "; ".join(advice))


def _made(session: Session, index: Index) -> str:
    """The statement that makes an index."""
    dialect = lookup.connection(session).dialect
    return " ".join(str(CreateIndex(index).compile(dialect=dialect)).split())


def _invalid_indexes(session: Session) -> list[str]:
    """Those that were being made CONCURRENTLY when something ended it."""
    index = sa.table("pg_index", *map(sa.column, ("indexrelid", "indrelid", "indisvalid")))
    name, owner = (
        sa.cast(sa.cast(column, postgresql.REGCLASS), sa.Text)
        for column in (index.c.indexrelid, index.c.indrelid)
    )
    statement = sa.select(name).where(owner.in_(list(Base.metadata.tables)), ~index.c.indisvalid)
    return sorted(lookup.run(session, statement).scalars())


def _erasures(session: Session) -> Finding:
    """Whether everybody whose erasure began is erased."""
    begun = erase.unfinished(session)
    return _finding(
        "erasures", f"{begun:,} not finished" if begun else None, "all finished",
        "run `recommender user erase` of the same user again, unless it is under way",
    )  # fmt: skip


def _copies(session: Session) -> Finding:
    """Whether hashtags list each video by its time while it is published, and not otherwise."""
    listed = sa.case((VIDEOS.c.status == "published", VIDEOS.c.published_at))
    differs = VIDEO_HASHTAGS.c.listed_at.is_distinct_from(listed)
    pairs = sa.join(VIDEO_HASHTAGS, VIDEOS, VIDEOS.c.id == VIDEO_HASHTAGS.c.video_id)
    count = sa.select(sa.func.count()).select_from(pairs).where(differs)
    wrong = lookup.run(session, count).scalar()
    said = f"{wrong:,} times of videos under hashtags are not the videos'"
    return _finding("copies", said if wrong else None, "equal", RELIST)


def _statistics(session: Session) -> Finding:
    """Whether the viewers of all videos, counted and waiting, are those of the states."""
    wrong = []
    for name in ("impressions", "engaged_views"):
        column = INTERACTIONS.c[name]
        viewers = sa.select(sa.func.count()).select_from(INTERACTIONS).where(column > 0)
        sums = [
            sa.select(sa.func.coalesce(sa.func.sum(table.c[name]), 0))
            for table in (VIDEOS, PENDING)
        ]
        every = sa.select(*(each.scalar_subquery() for each in (viewers, *sums)))
        states, counted, waiting = lookup.run(session, every).one()
        if states != counted + waiting:
            wrong.append(f"{name} are {int(counted + waiting):,}, those of states {states:,}")
    return _finding(
        "statistics", "; ".join(wrong) or None, "those of the states",
        "run `recommender refresh --rebuild`",
    )  # fmt: skip


def _journal(session: Session) -> Finding:
    """Whether readers and a writer do without waiting for each other."""
    connection = lookup.connection(session)
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    return _finding(
        "journal", None if mode in {"wal", "memory"} else f"the mode is {mode}", f"{mode}",
        "open it once with `recommender.create_engine` or `prepare_engine` where it can be written",
    )  # fmt: skip


def _dead_rows(session: Session) -> Finding:
    """Whether autovacuum keeps up."""
    names = ("relname", "relid", "n_live_tup", "n_dead_tup")
    stat = sa.table("pg_stat_user_tables", *map(sa.column, names))
    dead, live = stat.c.n_dead_tup, stat.c.n_live_tup
    statement = sa.select(stat.c.relname, dead).where(
        stat.c.relname.in_(list(Base.metadata.tables)),
        sa.func.pg_table_is_visible(stat.c.relid),
        dead >= MOST_DEAD,
        dead > DEAD_SHARE * (live + dead),
    )
    rows = lookup.run(session, statement.order_by(stat.c.relname)).all()
    wrong = ", ".join(f"{name} has {count:,}" for name, count in rows)
    advice = f"VACUUM ANALYZE {', '.join(name for name, _ in rows)}; let autovacuum come more often"
    return _finding("dead_rows", wrong or None, "few", advice)


def _planner(session: Session) -> Finding:
    """Whether PostgreSQL knows how its tables are filled."""
    tables = ", ".join(unplanned_tables(session))
    wrong = f"missing or far off: {tables}" if tables else None
    return _finding("planner", wrong, "there", f"ANALYZE {tables}")


def _plans(session: Session) -> Finding:
    """Whether pages are found by short walks of indexes."""
    done = check_plans(session)
    most = max((plan.read or 0 for plan in done.plans.values()), default=0)
    rows = f", of {most:,} rows at most" if most else ""
    return _finding(
        "plans", "; ".join(done.findings) or None, f"{len(done.plans)} pages by indexes{rows}",
        "see to `indexes` and `planner` first; on SQLite undo an ANALYZE by"
        " DELETE FROM sqlite_stat1",
    )  # fmt: skip


CHECKS: Iterable[Check] = (_database, _clock, _rollups, _erasures, _indexes, _copies, _statistics)

ON_SQLITE: Iterable[Check] = (_journal,)

ON_POSTGRESQL: Iterable[Check] = (_dead_rows, _planner)
