"""Figures of a database for monitoring: five statements that read a bounded number of rows.

No index leads to the newest rows of sessions, places or events, because it would cost each page. So
a figure comes from an index, from PostgreSQL's statistics, or from a bounded part of the sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, FromClause, Table
from sqlalchemy.dialects import postgresql

from recommender.database import lookup
from recommender.database.expressions import Statement, named
from recommender.database.partitions import is_ours
from recommender.database.session import Session
from recommender.database.written_out import written_out
from recommender.formats import scalars
from recommender.formats.visibility import STORED_STATUSES
from recommender.models.tables import EVENTS, SERVED, SESSIONS, USERS, VIDEOS
from recommender.models.types import Base
from recommender.monitoring.exposition import Family, exposed
from recommender.operations import erase
from recommender.operations.doctor import rollup_backlog
from recommender.telemetry import traced

RECENT = timedelta(days=1)
"""A session is recent for so long after its last page: the default of `session_lifetime`."""

MAX_LISTED = 10_000
"""The limit up to which videos of a status are counted: PostgreSQL may read a block for each."""

MAX_SESSIONS = 300_000
"""The sessions that are read on SQLite, at most: about 0.1 s."""

MAX_BLOCKS = 4_000
"""The blocks of the table of sessions that are read on PostgreSQL: 32 MB, 270,000 sessions."""


def _gauge(name: str, meaning: str, label: str | None = None) -> dict[str, Any]:
    return {"name": name, "kind": "gauge", "meaning": meaning, "label": label}


def _counter(name: str, meaning: str) -> dict[str, Any]:
    return {"name": name, "kind": "counter", "meaning": meaning, "label": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Figures of a database; None or an empty mapping if they are unknown.

    The metadata of each field holds the name, the type and the meaning of its metric. Nothing in
    them names a user or a video.
    """

    pending_events: int = field(
        metadata=_gauge(
            "pending_events", "Events that no refresh has counted yet, at most 1000001."
        )
    )
    oldest_pending: datetime | None = field(
        metadata=_gauge(
            "oldest_pending_event_timestamp_seconds", "Time of the oldest pending event."
        )
    )
    newest_pending: datetime | None = field(
        metadata=_gauge(
            "newest_pending_event_timestamp_seconds", "Time of the newest pending event."
        )
    )
    refreshed_at: datetime | None = field(
        metadata=_gauge("refresh_timestamp_seconds", "Time of the last refresh.")
    )
    unfinished_erasures: int = field(
        metadata=_gauge("unfinished_erasures", "Erasures that are interrupted or running.")
    )
    videos: Mapping[str, int] = field(
        metadata=_gauge("videos", "Videos by stored status, at most 10001 each.", "status")
    )
    newest_page: datetime | None = field(
        metadata=_gauge("newest_page_timestamp_seconds", "Time of the newest served page.")
    )
    sessions_read: float | None = field(
        metadata=_gauge("sessions_read_ratio", "Part of all sessions that the recent ones are of.")
    )
    recent_sessions: int | None = field(
        metadata=_gauge("recent_sessions", "Sessions, of those read, with a page in the last day.")
    )
    recent_pages: int | None = field(metadata=_gauge("recent_pages", "Pages of recent sessions."))
    recent_places: int | None = field(
        metadata=_gauge("recent_places", "Videos on the pages of recent sessions.")
    )
    recent_asked: int | None = field(
        metadata=_gauge("recent_asked_places", "Videos that recent sessions asked for.")
    )
    recent_exhausted: int | None = field(
        metadata=_gauge(
            "recent_exhausted_pages", "Pages of recent sessions that ran out of videos."
        )
    )
    recent_seconds: float | None = field(
        metadata=_gauge("recent_page_seconds", "Seconds in which recent sessions were ranked.")
    )
    rows: Mapping[str, int] = field(
        metadata=_gauge("rows", "Rows by table: an estimate on PostgreSQL.", "table")
    )
    sessions: int | None = field(
        metadata=_counter("sessions_total", "Sessions that were inserted, also by a merge.")
    )
    places: int | None = field(
        metadata=_counter(
            "places_total", "Places that were inserted, also those that were rolled back."
        )
    )
    events: int | None = field(
        metadata=_counter(
            "events_total", "Events that were inserted, also by an import or a merge."
        )
    )

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by the names of the fields, with times as text."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def as_prometheus(self) -> str:
        """Return the figures in Prometheus' text format, without those that are unknown."""
        return exposed(_family(each, getattr(self, each.name)) for each in fields(self))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return scalars.written_time(value)
    return dict(value) if isinstance(value, Mapping) else value


def _family(described: Field[Any], value: Any) -> Family:
    about = described.metadata
    samples = value if about["label"] else {} if value is None else {"": value}
    numbers = {label: _number(each) for label, each in samples.items()}
    name = f"recommender_{about['name']}"
    return Family(name, about["kind"], about["meaning"], about["label"], numbers)


def _number(value: datetime | float) -> float:
    return value.timestamp() if isinstance(value, datetime) else value


@traced
def metrics(session: Session, *, as_of: datetime | None = None) -> Metrics:
    """Return figures of the database for monitoring: five statements.

    None of them reads the places, the log of events or the interactions. The most that they read is
    1,000,001 pending events, 10,001 videos of each status, the keys of erased users, and 32 MB of
    sessions on PostgreSQL, or 300,000 sessions on SQLite.

    Args:
        session: the caller's transaction; nothing is written.
        as_of: the time at which the last day ends, with an offset; None for now.

    Raises:
        InvalidValue: the time is malformed or has no offset.
        SchemaOutOfDate: no migration made the tables.
    """
    moment = scalars.time(scalars.now() if as_of is None else as_of)
    backlog = rollup_backlog(session)
    on_sqlite = lookup.is_sqlite(session)
    return Metrics(
        pending_events=backlog.events,
        oldest_pending=backlog.oldest,
        newest_pending=backlog.newest,
        refreshed_at=backlog.refreshed_at,
        unfinished_erasures=erase.unfinished(session),
        videos=_one(session, _videos()),
        **(_read_sessions if on_sqlite else _sampled_sessions)(session, moment - RECENT),
        **(_largest_ids if on_sqlite else _statistics)(session),
    )


def _one(session: Session, statement: Statement) -> dict[str, Any]:
    """Return the single row of a statement."""
    row = lookup.run(session, named(statement, "metrics")).one()
    return dict(row._mapping)  # noqa: SLF001 - its API


def _videos() -> Statement:
    """Return the statement of the numbers of videos, a column for each status."""
    counts = {
        status: sa.select(VIDEOS.c.id).where(VIDEOS.c.status == status).limit(MAX_LISTED + 1)
        for status in STORED_STATUSES
    }
    columns = (
        sa.select(sa.func.count()).select_from(rows.subquery()).scalar_subquery().label(status)
        for status, rows in counts.items()
    )
    # With a bound limit PostgreSQL plans for a tenth of the videos, and reads the whole table.
    return written_out(sa.select(*columns))


def _sums(sessions: FromClause, since: datetime) -> list[ColumnElement[Any]]:
    """Return the columns of a statement over sessions: the newest page, and the recent sums."""
    own = sessions.c
    is_recent = own.last_at > since
    sums = {
        "recent_pages": own.pages,
        "recent_places": own.next_position - 1,
        "recent_asked": own.asked,
        "recent_exhausted": own.exhausted,
        "milliseconds": own.milliseconds,
    }
    return [
        sa.func.max(own.last_at).label("newest_page"),
        sa.func.count().filter(is_recent).label("recent_sessions"),
        *(
            sa.func.coalesce(sa.func.sum(counter).filter(is_recent), 0).label(name)
            for name, counter in sums.items()
        ),
    ]


def _read_sessions(session: Session, since: datetime) -> dict[str, Any]:
    """Return the figures of sessions on SQLite; they are unknown if there are too many."""
    some = sa.select(SESSIONS).limit(MAX_SESSIONS + 1).subquery("sessions")
    row = _one(session, sa.select(sa.func.count().label("read"), *_sums(some, since)))
    is_all = row.pop("read") <= MAX_SESSIONS
    figures = _figures({**row, "sessions_read": 1.0})
    return figures if is_all else dict.fromkeys(figures)


def _sampled_sessions(session: Session, since: datetime) -> dict[str, Any]:
    """Return the figures of sessions on PostgreSQL, of a bounded number of blocks."""
    # The seed is constant, so that each call reads the same blocks while the table keeps its size.
    sample = sa.tablesample(SESSIONS, sa.func.system(100 * _read_part()), "sessions", sa.literal(0))
    statement = sa.select(_read_part().label("sessions_read"), *_sums(sample, since))
    return _figures(_one(session, statement))


def _read_part() -> ColumnElement[float]:
    """Return the part of the table of sessions that `MAX_BLOCKS` are, at most 1."""
    size = sa.func.pg_relation_size(sa.cast(SESSIONS.name, postgresql.REGCLASS))
    block = sa.cast(sa.func.current_setting("block_size"), sa.BigInteger)
    part = MAX_BLOCKS * block / sa.cast(sa.func.greatest(size, 1), sa.Double)
    return sa.func.least(part, 1.0, type_=sa.Double())


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """Return the figures in a row of sums, with seconds for milliseconds."""
    whole = {"newest_page", "sessions_read"}
    figures = {name: value if name in whole else int(value) for name, value in row.items()}
    return {"recent_seconds": figures.pop("milliseconds") / 1000, **figures}


def _largest_ids(session: Session) -> dict[str, Any]:
    """Return the rows of users and videos on SQLite: their largest ids, as no row is deleted."""
    largest = (
        sa.select(sa.func.max(table.c.id)).scalar_subquery().label(table.name)
        for table in (USERS, VIDEOS)
    )
    rows = {name: largest or 0 for name, largest in _one(session, sa.select(*largest)).items()}
    return {"rows": rows, "sessions": None, "places": None, "events": None}


def _statistics(session: Session) -> dict[str, Any]:
    """Return PostgreSQL's estimates of rows, and its counts of inserted rows."""
    table = sa.table("pg_class", *map(sa.column, ("oid", "relname", "relkind", "reltuples")))
    activity = sa.table("pg_stat_user_tables", *map(sa.column, ("relid", "n_tup_ins")))
    # The partitions of the log count as the log.
    is_listed = table.c.relname.in_(list(Base.metadata.tables))
    name = sa.case((is_listed, table.c.relname), else_=SERVED.name).label("relname")
    # A table that was never analyzed has -1.
    rows = sa.func.sum(sa.func.nullif(table.c.reltuples, -1)).label("reltuples")
    statement = (
        sa.select(name, rows, sa.func.sum(activity.c.n_tup_ins).label("n_tup_ins"))
        .join(activity, activity.c.relid == table.c.oid)
        .where(
            is_ours(table.c.relname),
            table.c.relkind == "r",
            sa.func.pg_table_is_visible(table.c.oid),
        )
        .group_by(name)
        .order_by(name)
    )
    known = {row.relname: row for row in lookup.run(session, named(statement, "metrics"))}

    def inserted(own: Table) -> int | None:
        return int(known[own.name].n_tup_ins) if own.name in known else None

    return {
        "rows": {
            name: int(row.reltuples) for name, row in known.items() if row.reltuples is not None
        },
        "sessions": inserted(SESSIONS),
        "places": inserted(SERVED),
        "events": inserted(EVENTS),
    }
