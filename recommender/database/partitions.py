"""The partitions of the log of places on PostgreSQL: one for each day, and the default one.

`prune` makes the partitions of the days to come, and drops those of old days. SQLite has one table.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql

from recommender.database import lookup
from recommender.database.session import Session
from recommender.models.serving import DEFAULT_PARTITION, partition_of_log
from recommender.models.tables import SERVED
from recommender.models.types import Base

DAY = timedelta(days=1)
"""The time that a partition holds.

`prune` runs daily, and can only drop what is old as a whole: of wider partitions it would delete
nearly all rows before they can be dropped. Of narrower ones, pages would have to lock more.
"""

_NAME = re.compile(rf"{SERVED.name}_(\d{{8}})")

_BOUNDS = "FOR VALUES FROM ('%(begins)s') TO ('%(ends)s')"
"""The bounds of a partition, written out: PostgreSQL takes no bound values there."""

_EVERY_NAME = rf"^{SERVED.name}_([0-9]{{8}}|default)$"


class Partition(NamedTuple):
    """A partition: the name of its table, its first time, and the time after its last one."""

    name: str
    begins: datetime
    ends: datetime


def is_partition(table: str) -> bool:
    """Return whether a table is a partition of the log, by its name."""
    return table == DEFAULT_PARTITION or _NAME.fullmatch(table) is not None


def is_ours(name: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that a table is of the models, or a partition of one."""
    return sa.or_(name.in_(list(Base.metadata.tables)), name.regexp_match(_EVERY_NAME))


def partition_of(moment: datetime) -> Partition:
    """Return the partition for the day of a time, in UTC."""
    begins = start_of_day(moment)
    return Partition(f"{SERVED.name}_{begins:%Y%m%d}", begins, begins + DAY)


def start_of_day(moment: datetime) -> datetime:
    """Return the beginning of the day of a time, in UTC."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def log_partitions(session: Session) -> list[Partition]:
    """Return the partitions for days, the oldest first; PostgreSQL only."""
    part = sa.table("pg_inherits", *map(sa.column, ("inhrelid", "inhparent")))
    table = sa.table("pg_class", *map(sa.column, ("oid", "relname")))
    statement = (
        sa.select(table.c.relname)
        .join(part, part.c.inhrelid == table.c.oid)
        .where(part.c.inhparent == sa.cast(SERVED.name, postgresql.REGCLASS))
        .order_by(table.c.relname)
    )
    found = map(_NAME.fullmatch, lookup.run(session, statement).scalars())
    days = (datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC) for match in found if match)
    return [partition_of(day) for day in days]


def is_of_session(place: Any, own: Any) -> ColumnElement[bool]:
    """Return the condition that a place is of a session; both are given by their columns."""
    is_own = sa.and_(place.user_id == own.user_id, place.session == own.session)
    # So PostgreSQL reads only the partitions of the session's days.
    return sa.and_(is_own, place.served_at.between(own.started_at, own.last_at))


def make_partition(session: Session, partition: Partition) -> None:
    """Make the partition of a day."""
    for statement in partition_of_log(partition.name, _BOUNDS % partition._asdict()):
        lookup.connection(session).execute(statement)


def table_of(partition: Partition | None) -> sa.TableClause:
    """Return the table of a partition, None for the default one, with the columns of the log."""
    name = partition.name if partition else DEFAULT_PARTITION
    return sa.table(name, *(sa.column(column.name, column.type) for column in SERVED.c))
