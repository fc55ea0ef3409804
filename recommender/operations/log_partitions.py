"""Drop old partitions of the log of places, and make those of the days to come; PostgreSQL only.

Both need the role that owns the tables. Without partitions for days, all places are in the default
partition, and `prune` deletes them row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.partitions import (
    DAY,
    Partition,
    log_partitions,
    make_partition,
    partition_of,
    start_of_day,
    table_of,
)
from recommender.database.transactions import run_transaction
from recommender.errors import RecommenderError
from recommender.logs import LOGGER
from recommender.models.serving import DEFAULT_PARTITION
from recommender.models.tables import SERVED, SESSIONS
from recommender.settings import Settings

DAYS_AHEAD = 14
"""The last day to make a partition for, counted from today."""

LEAST_DAYS_AHEAD = 7
"""The days from today that must have partitions; if fewer have, more are made: once a week.

The first partition of a log is for the day after these. See `make_partitions` for the reason.
"""

LOCK_TIMEOUT = "200ms"
"""The longest time for which pages wait while a change of partitions waits for other readers."""

EXCLUSION = f"{DEFAULT_PARTITION}_ahead_ck"
"""The constraint by which the default partition has no place of the days to come."""


def may_change(engine: Engine, settings: Settings) -> bool:
    """Return whether partitions can be made and dropped: PostgreSQL, by the tables' owner."""
    is_sqlite = engine.dialect.name == "sqlite"
    return not is_sqlite and run_transaction(engine, _is_owner, write=False, settings=settings)


def _is_owner(session: Session) -> bool:
    table = sa.table("pg_class", *map(sa.column, ("oid", "relowner")))
    is_log = table.c.oid == sa.cast(SERVED.name, postgresql.REGCLASS)
    owns = sa.select(sa.func.pg_has_role(table.c.relowner, "USAGE")).where(is_log)
    return bool(lookup.run(session, owns).scalar())


def old_partitions(engine: Engine, until: datetime, settings: Settings) -> list[Partition]:
    """Return the partitions that have only places served before a time, the oldest first."""
    every = run_transaction(engine, log_partitions, write=False, settings=settings)
    return [partition for partition in every if partition.ends <= until]


def drop_partition(engine: Engine, old: Partition, settings: Settings) -> int:
    """Drop a partition, after the sessions whose last page was in its time were deleted.

    The places of sessions that go on are moved to the default partition. If other transactions use
    the log for so long that the partition cannot be dropped, the next run drops it.

    Returns:
        The number of deleted places.
    """
    run = partial(run_transaction, engine, settings=settings)
    try:
        places, going_on = run(partial(_content, old))
        return places - run(partial(_drop, old, going_on))
    except RecommenderError as error:
        LOGGER.warning("an old partition of the log was not dropped: %s", error)
        return 0


Keys = Sequence[tuple[Any, ...]]


def _content(old: Partition, session: Session) -> tuple[int, Keys]:
    """Return the number of places in an old partition, and the sessions to move places of."""
    _set(session, "statement_timeout", "0")
    count = sa.select(sa.func.count()).select_from(table_of(old))
    # Who began later has no place in the partition; who is left goes on.
    going_on = sa.select(*SESSIONS.primary_key).where(SESSIONS.c.started_at < old.ends)
    places = int(lookup.run(session, count).scalar_one())
    return places, [tuple(row) for row in lookup.run(session, going_on)]


def _drop(old: Partition, going_on: Keys, session: Session) -> int:
    """Drop a partition; return how many places of the given sessions were moved."""
    _set(session, "lock_timeout", LOCK_TIMEOUT)
    _change(session, "ALTER TABLE %(table)s DETACH PARTITION %(name)s", name=old.name)
    moved = _move(old, going_on, session) if going_on else 0
    _change(session, "DROP TABLE %(name)s", name=old.name)
    return moved


def _move(old: Partition, sessions: Keys, session: Session) -> int:
    """Move the places of sessions from a detached partition to the default one."""
    place, key = table_of(old), list(SESSIONS.primary_key)
    listed = lookup.unnested(key)
    is_listed = (place.c[column.name] == listed.c[column.name] for column in key)
    kept = sa.select(place).join(listed, sa.and_(*is_listed))
    move = sa.insert(SERVED).from_select(place.c.keys(), kept)
    move = move.execution_options(preserve_rowcount=True)
    result: Any = lookup.run(session, move, lookup.listed_values(session, len(key), sessions))
    return int(result.rowcount)


def make_partitions(engine: Engine, moment: datetime, settings: Settings) -> None:
    """Make the partitions of the days to come, if there are too few. It can be repeated.

    While pages wait, PostgreSQL would search the default partition for places of these days. So a
    constraint that was validated before says that it has none. The constraint would refuse places
    of these days. If a run is killed in between, the next one has a week to remove it.
    """
    run = partial(run_transaction, engine, settings=settings)
    try:
        try:
            if days := run(partial(_missing, moment)):
                run(partial(_exclude, days))
                run(_validate)
                run(partial(_make, days))
        finally:
            run(_include)
    except RecommenderError as error:
        LOGGER.warning("no partitions of the log were made: %s", error)


def _missing(moment: datetime, session: Session) -> list[Partition]:
    """Return the days to make partitions for, none if there are enough."""
    today, ends = start_of_day(moment), [one.ends for one in log_partitions(session)]
    first, last = today + LEAST_DAYS_AHEAD * DAY, today + DAYS_AHEAD * DAY
    if max(ends, default=first) > first:
        return []
    # A host's time may be ahead. The places of such days stay in the default partition.
    _set(session, "statement_timeout", "0")
    place = sa.table(DEFAULT_PARTITION, sa.column("served_at", SERVED.c.served_at.type)).c
    newest = sa.select(sa.func.max(place.served_at)).where(place.served_at < last + DAY)
    if (latest := lookup.run(session, newest).scalar()) is not None:
        first = max(first, start_of_day(latest) + DAY)
    return [partition_of(first + n * DAY) for n in range((last - first) // DAY + 1)]


def _exclude(days: Sequence[Partition], session: Session) -> None:
    """Add the constraint for days, without reading the default partition."""
    _remove_exclusion(session)
    _change(
        session,
        "ALTER TABLE %(default)s ADD CONSTRAINT %(exclusion)s"
        " CHECK (served_at < '%(begins)s' OR served_at >= '%(ends)s') NOT VALID",
        begins=days[0].begins,
        ends=days[-1].ends,
    )


def _validate(session: Session) -> None:
    """Read the default partition to validate the constraint, while others read and write."""
    _set(session, "statement_timeout", "0")
    _change(session, "ALTER TABLE %(default)s VALIDATE CONSTRAINT %(exclusion)s")


def _make(days: Sequence[Partition], session: Session) -> None:
    """Make the partitions of days, and remove the constraint, which they no longer need."""
    _set(session, "lock_timeout", LOCK_TIMEOUT)
    for day in days:
        make_partition(session, day)
    _remove_exclusion(session)


def has_exclusion(session: Session) -> bool:
    """Return whether the constraint is there, as while partitions are made, or if that failed."""
    names = ("conname", "conrelid")
    constraint = sa.table("pg_constraint", *map(sa.column, names)).c
    is_default = constraint.conrelid == sa.cast(DEFAULT_PARTITION, postgresql.REGCLASS)
    found = sa.select(sa.exists().where(is_default, constraint.conname == EXCLUSION))
    return bool(lookup.run(session, found).scalar())


def _include(session: Session) -> None:
    """Remove the constraint if it is there."""
    if has_exclusion(session):
        _remove_exclusion(session)


def _remove_exclusion(session: Session) -> None:
    _set(session, "lock_timeout", LOCK_TIMEOUT)
    _change(session, "ALTER TABLE %(default)s DROP CONSTRAINT IF EXISTS %(exclusion)s")


def _set(session: Session, name: str, value: str) -> None:
    """Change a setting of PostgreSQL until the transaction ends."""
    lookup.run(session, sa.select(sa.func.set_config(name, value, sa.true())))


def _change(session: Session, statement: str, **names: object) -> None:
    ours = {"table": SERVED.name, "default": DEFAULT_PARTITION, "exclusion": EXCLUSION}
    ddl = sa.DDL(statement, context={**ours, **names})  # type: ignore[no-untyped-call]
    lookup.connection(session).execute(ddl)
