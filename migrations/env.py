"""Run migrations: under a lock, on our own tables only, in one transaction.

A released migration is never edited. A migration that adds an index to an existing table does
nothing else: it uses `index_options`, after it has dropped the remains of an interrupted attempt
(`if_exists`). A migration that rebuilds a table on SQLite passes the table as `copy_from`, because
a table read from the database has lost AUTOINCREMENT.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import context

from recommender.database.engine import create_engine, database_url
from recommender.database.migrations import is_made_on
from recommender.database.partitions import is_partition
from recommender.database.schema import check_no_tables
from recommender.database.server_settings import (
    migration_limits,
    set_for_connection,
)
from recommender.database.spaces import space_tables
from recommender.database.transactions import writing
from recommender.errors import DatabaseBusy, RecommenderError
from recommender.models.types import PREFIX, SPACE_PREFIX, VERSION_TABLE, Base, UtcDateTime
from recommender.settings import Settings, configured_url

UPGRADE_LOCK = 7_260_734_851_093_115
POLL_SECONDS = 0.1


def is_ours(table: str) -> bool:
    """Return whether migrations make a table: no space of vectors, and no partition of the log."""
    is_made_later = table.startswith(SPACE_PREFIX) or is_partition(table)
    return table.startswith(PREFIX) and not is_made_later


options = {
    "target_metadata": Base.metadata,
    "version_table": VERSION_TABLE,
    "transactional_ddl": True,  # SQLite's too: its engine begins for real
    "include_name": lambda name, kind, _parents: kind != "table" or is_ours(name),
    "include_object": lambda item, name, kind, _reflected, _other: (
        is_made_on(context.get_context().dialect, item) and (kind != "table" or is_ours(name))
    ),
    "render_as_batch": True,
    "render_item": lambda kind, item, _context: (
        'sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")'
        if kind == "type" and isinstance(item, UtcDateTime)
        else False
    ),
}


def take_upgrade_lock(connection: sa.Connection, longest: float, *, is_callers: bool) -> None:
    """Wait for other upgrades by polling; a blocking lock would deadlock with concurrent indexes.

    The lock belongs to the transaction. A lock of the session would stay behind on the connection
    of a pooler.

    Args:
        connection: to PostgreSQL; its transaction holds the lock until it ends.
        longest: the seconds to wait, at most.
        is_callers: whether the transaction is the caller's.

    Raises:
        DatabaseBusy: another upgrade did not finish in that time.
    """
    deadline = time.monotonic() + longest
    while not has_taken_lock(connection):
        if not is_callers:
            connection.rollback()
        if time.monotonic() > deadline:
            raise DatabaseBusy("another upgrade of this database has not finished yet")
        time.sleep(POLL_SECONDS)


def has_taken_lock(connection: sa.Connection) -> bool:
    """Try to take the upgrade lock, and return whether it was free."""
    # The end of a savepoint drops the snapshot of the query, for which concurrent indexes wait.
    with connection.begin_nested():
        is_free = connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(UPGRADE_LOCK)))
    return bool(is_free)


@contextmanager
def alone(engine: sa.Engine, settings: Settings) -> Iterator[None]:
    """Hold the upgrade lock on a connection of its own, because a migration may commit."""
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        take_upgrade_lock(connection, settings.migration_wait, is_callers=False)
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield


def migrate(
    connection: sa.Connection, begin: Callable[[sa.Connection], None], *, is_callers: bool
) -> None:
    """Run the requested migrations on a connection.

    Args:
        connection: to the database.
        begin: called first in the transaction.
        is_callers: whether the transaction is the caller's, who ends it.
    """
    context.configure(connection=connection, is_callers=is_callers, **options)
    with context.begin_transaction():
        begin(connection)
        if connection.dialect.name == "postgresql":
            # On Citus, tables that refer to each other are changed on one connection.
            connection.execute(sa.text("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"))
        before = context.get_context().get_current_heads()
        if not before:
            check_no_tables(connection)
        elif goes_to_base() and (spaces := space_tables(connection)):
            name = spaces[0].name.removeprefix(SPACE_PREFIX)
            raise RecommenderError(
                f"the space {name} has vectors of the videos that would be dropped: run"
                f" `recommender embeddings drop {name}` first"
            )
        elif is_callers and before != (context.get_revision_argument(),):
            check_no_cascades(connection)
        context.run_migrations()
        has_moved = context.get_context().get_current_heads() != before
        if has_moved and connection.dialect.name == "sqlite":
            check_references(connection)


def goes_to_base() -> bool:
    """Return whether all tables are to be dropped; `alembic current` and `check` go nowhere."""
    try:
        return not context.get_revision_argument()
    except KeyError:
        return False


def check_no_cascades(connection: sa.Connection) -> None:
    """Raise `RecommenderError` if a rebuilt table on SQLite would change rows that refer to it."""
    if connection.dialect.name != "sqlite" or not connection.scalar(sa.text("PRAGMA foreign_keys")):
        return
    table = sa.table("sqlite_master", sa.column("name"))
    key = sa.func.pragma_foreign_key_list(table.c.name).table_valued("table", "on_delete")
    is_changed = key.c.table.startswith(PREFIX, autoescape=True), key.c.on_delete != "NO ACTION"
    if name := connection.scalar(sa.select(table.c.name).join(key, sa.true()).where(*is_changed)):
        raise RecommenderError(
            f"SQLite cannot rebuild tables inside a transaction while foreign keys are on, because"
            f" {name} refers to one with ON DELETE: pass the engine, or run `PRAGMA foreign_keys ="
            " OFF` before the transaction"
        )


def check_references(connection: sa.Connection) -> None:
    """Check the references of our tables: foreign keys are off while SQLite rebuilds a table.

    Raises:
        RecommenderError: a row refers to a missing row; nothing is changed.
    """
    # Table by table, because a host's table may have keys that SQLite cannot check.
    for name in sa.inspect(connection).get_table_names():
        if not name.startswith(PREFIX):
            continue
        broken = sa.func.pragma_foreign_key_check(name).table_valued("parent")
        if (other := connection.scalar(sa.select(broken.c.parent))) is not None:
            raise RecommenderError(f"a row of {name} would refer to no row of {other}")


def begin_on_sqlite(connection: sa.Connection) -> None:
    """Begin a transaction if the driver has not, as that of an engine that is not prepared."""
    driver_connection: Any = connection.connection.driver_connection
    if not driver_connection.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def migrate_on_connection(connection: sa.Connection, settings: Settings) -> None:
    """Run the migrations in the caller's transaction, with the caller's time limits."""
    on_postgresql = partial(take_upgrade_lock, longest=settings.migration_wait, is_callers=True)
    begin = on_postgresql if connection.dialect.name == "postgresql" else begin_on_sqlite
    migrate(connection, begin, is_callers=connection.in_transaction())


def migrate_on_sqlite(engine: sa.Engine) -> None:
    """Run the migrations with foreign keys off, and leave them as they were."""
    with engine.connect() as connection:
        # A table rebuilt in a batch would otherwise delete the rows that refer to it.
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA foreign_keys")
        (are_on,) = cursor.fetchone()
        cursor.execute("PRAGMA foreign_keys = OFF")
        try:
            migrate(connection, begin_on_sqlite, is_callers=False)
        finally:
            cursor.execute(f"PRAGMA foreign_keys = {are_on}")


def migrate_on_postgresql(engine: sa.Engine, settings: Settings) -> None:
    """Run the migrations under the upgrade lock, with time limits of their own."""
    limits = partial(set_for_connection, values=migration_limits(settings))
    with alone(engine, settings), engine.connect() as connection:
        try:
            migrate(connection, limits, is_callers=False)
        finally:
            connection.invalidate()  # no one else of the pool gets a connection with these limits


def run_online() -> None:
    """Migrate on the caller's connection or engine, else on the configured database."""
    attributes = context.config.attributes
    settings = attributes.get("settings") or Settings.from_environment()
    if (connection := attributes.get("connection")) is not None:
        migrate_on_connection(connection, settings)
        return
    engine = writing(attributes.get("engine") or create_engine(settings=settings))
    if engine.dialect.name == "postgresql":
        migrate_on_postgresql(engine, settings)
    else:
        migrate_on_sqlite(engine)


def run_offline() -> None:
    """Print the SQL for the configured database, with our time limits on PostgreSQL."""
    dialect = database_url(configured_url()).get_backend_name()
    settings = Settings.from_environment()
    limits = migration_limits(settings) if dialect == "postgresql" else {}
    context.configure(dialect_name=dialect, literal_binds=True, **options)
    with context.begin_transaction():
        for name, limit in limits.items():
            # Not LOCAL, because the script has several transactions.
            pair = {"name": name, "milliseconds": limit}
            context.execute(sa.DDL("SET %(name)s = %(milliseconds)s", context=pair))
        context.run_migrations()
        for name in limits:
            context.execute(sa.DDL("RESET %(name)s", context={"name": name}))


if context.is_offline_mode():
    run_offline()
else:
    run_online()
