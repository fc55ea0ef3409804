"""Settings of PostgreSQL for connections, also through a pooler such as PgBouncer.

A pooler in transaction mode gives the server's connection to another client after every
transaction, with all that was set for longer, and refuses settings at the start of a connection.
So they are set at the beginning of every transaction, which takes one statement. A direct
connection keeps its settings, which takes one statement in its lifetime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from recommender.database.expressions import DISTRIBUTED, is_distributed, materialized
from recommender.settings import Settings

LONGEST_MIGRATION = 86_400.0

_IS_POOLED = "recommender_is_pooled"

_SET = """
SELECT pg_backend_pid() <> %(pid)s, count(set_config(name, value, pg_backend_pid() <> %(pid)s))
FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)
"""
"""Sets settings for as long as the connection lasts, and returns whether a pooler is between.

A pooler gives its clients process ids of its own. Through it, the settings end with the statement.
"""


def milliseconds(seconds: float) -> str:
    """Return a time limit as PostgreSQL reads it."""
    return f"{seconds * 1000:.0f}"


def migration_limits(settings: Settings) -> dict[str, str]:
    """Return the limits of a migration: a short wait for locks, long statements."""
    return {
        "lock_timeout": milliseconds(settings.migration_lock_timeout),
        "statement_timeout": milliseconds(LONGEST_MIGRATION),
        "idle_in_transaction_session_timeout": milliseconds(LONGEST_MIGRATION),
    }


def keep_settings(engine: Engine, values: Mapping[str, str], *, direct: int, pooled: int) -> None:
    """Set settings on every connection of an engine, or in every transaction through a pooler.

    Args:
        engine: an engine on PostgreSQL, before its first connection.
        values: the settings by name.
        direct: how often a statement runs before it is prepared; 0 for never.
        pooled: the same through a pooler.
    """

    def connect(connection: Any, record: ConnectionPoolEntry) -> None:
        note_distribution(engine.dialect, connection)
        connection.autocommit = True
        chosen = _chosen(engine, values)
        parameters = {"names": list(chosen), "values": list(chosen.values())}
        with connection.cursor() as cursor:
            cursor.execute(_SET, {**parameters, "pid": connection.info.backend_pid})
            is_pooled, _ = cursor.fetchone()
        connection.autocommit = False
        record.info[_IS_POOLED] = is_pooled
        connection.prepare_threshold = (pooled if is_pooled else direct) or None

    def begin(connection: Connection) -> None:
        if connection.info.get(_IS_POOLED):
            chosen = _chosen(engine, values)
            local = (sa.func.set_config(*pair, sa.true()) for pair in chosen.items())
            connection.execute(sa.select(*local))

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)


ON_CITUS = {
    "plan_cache_mode": "force_custom_plan",
    "citus.multi_shard_modify_mode": "sequential",
}
"""The settings of connections to a distributed database.

Citus plans no join for values that it does not know. A transaction writes shards one after the
other, because it may write a reference table too.
"""


def _chosen(engine: Engine, values: Mapping[str, str]) -> Mapping[str, str]:
    return {**values, **ON_CITUS} if is_distributed(engine.dialect) else values


_HAS_CITUS = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"

_HAS_DISTRIBUTED = """
SELECT EXISTS (
    SELECT FROM pg_dist_partition JOIN pg_class ON pg_class.oid = logicalrelid
    WHERE relname = 'rec_events' AND coalesce(pg_class.oid = to_regclass('rec_events'), true)
)
"""


def note_distribution(dialect: Dialect, connection: Any) -> None:
    """Note whether Citus distributes our tables, once for an engine: on its first connection.

    Args:
        dialect: the dialect of the engine.
        connection: a connection of psycopg, or an adapted one.
    """
    if hasattr(dialect, DISTRIBUTED):
        return
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(_HAS_CITUS)
    (found,) = cursor.fetchone()
    if found:
        cursor.execute(_HAS_DISTRIBUTED)
        (found,) = cursor.fetchone()
    cursor.close()
    connection.autocommit = False
    vars(dialect)[DISTRIBUTED] = found


def set_for_connection(connection: Connection, values: Mapping[str, str]) -> None:
    """Set settings for as long as a connection lasts, or the transaction through a pooler."""
    driver_connection: Any = connection.connection.driver_connection
    is_pooled = sa.func.pg_backend_pid() != driver_connection.info.backend_pid
    connection.execute(
        sa.select(*(sa.func.set_config(*pair, is_pooled) for pair in values.items()))
    )


@contextmanager
def shorter_statements(connection: Connection, seconds: float) -> Iterator[None]:
    """Limit the statements in a ``with`` block, which runs in a savepoint: four statements more.

    A limit that is shorter already stays. After the block the limit is as before. What a block
    that fails has done is rolled back, and the transaction goes on.

    Args:
        connection: a connection to PostgreSQL, in a transaction.
        seconds: the longest statement of the block.
    """
    with connection.begin_nested():
        values = {"longest": timedelta(seconds=seconds), "written": milliseconds(seconds)}
        before = connection.scalar(_SHORTEN, values)
        yield
        # The end of a savepoint keeps what was set in it; a rollback to it does not.
        connection.execute(_SET_TIMEOUT, {"written": before})


_TIMEOUT = "statement_timeout"

_WRITTEN = sa.bindparam("written", type_=sa.Text())

_SET_TIMEOUT = sa.select(sa.func.set_config(_TIMEOUT, _WRITTEN, sa.true()))


def _shorten() -> sa.Select[Any]:
    """Return the statement that shortens the limit for a transaction, and returns it as it was."""
    # Materialized, so that it is read before it is set.
    before = materialized(
        sa.select(sa.func.current_setting(_TIMEOUT).label("written")).cte("before")
    )
    was = sa.cast(before.c.written, sa.Interval())
    no_limit = sa.literal(timedelta(), sa.Interval())
    is_longer = sa.or_(was == no_limit, was > sa.bindparam("longest", type_=sa.Interval()))
    limit = sa.case((is_longer, _WRITTEN), else_=before.c.written)
    return sa.select(before.c.written, sa.func.set_config(_TIMEOUT, limit, sa.true()))


_SHORTEN = _shorten()
