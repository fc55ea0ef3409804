"""Run migrations: under a lock, on our own tables only, in one transaction.

A released migration is never edited. A migration that adds an index to an existing table does
nothing else: it uses an `autocommit_block` and CONCURRENTLY, after it has dropped the remains of
an interrupted attempt (`if_exists`). A migration that rebuilds a table on SQLite passes the table
as `copy_from`, because a table read from the database has lost AUTOINCREMENT.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import context

from recommender.database.engine import LONGEST_MIGRATION, database_url, migration_engine
from recommender.errors import DatabaseBusy, RecommenderError
from recommender.models.types import PREFIX, VERSION_TABLE, Base, UtcDateTime
from recommender.settings import Settings, configured_url

UPGRADE_LOCK = 7_260_734_851_093_115
POLL_SECONDS = 0.1

options = {
    "target_metadata": Base.metadata,
    "version_table": VERSION_TABLE,
    "transactional_ddl": True,  # SQLite's too: its engine begins for real
    "include_name": lambda name, kind, _parents: kind != "table" or name.startswith(PREFIX),
    "include_object": lambda _object, name, kind, _reflected, _other: (
        kind != "table" or name.startswith(PREFIX)
    ),
    "render_as_batch": True,
    "render_item": lambda kind, item, _context: (
        'sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")'
        if kind == "type" and isinstance(item, UtcDateTime)
        else False
    ),
}


def take_upgrade_lock(connection: sa.Connection, longest: float) -> None:
    """Wait for other upgrades by polling; a blocking lock would deadlock with concurrent indexes.

    Args:
        connection: to PostgreSQL; the lock is held until it closes.
        longest: the seconds to wait, at most.

    Raises:
        DatabaseBusy: another upgrade did not finish in that time.
    """
    deadline = time.monotonic() + longest
    while not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(UPGRADE_LOCK))):
        connection.rollback()
        if time.monotonic() > deadline:
            raise DatabaseBusy("another upgrade of this database has not finished yet")
        time.sleep(POLL_SECONDS)
    connection.commit()


def migrate(connection: sa.Connection) -> None:
    """Run the requested migrations on a connection."""
    context.configure(connection=connection, **options)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # On Citus, tables that refer to each other are changed on one connection.
            connection.execute(sa.text("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"))
        before = context.get_context().get_current_heads()
        context.run_migrations()
        has_moved = context.get_context().get_current_heads() != before
        if has_moved and connection.dialect.name == "sqlite":
            check_references(connection)


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


def run_online() -> None:
    """Migrate on the caller's connection, else on a new one."""
    host_connection = context.config.attributes.get("connection")
    if host_connection is not None:
        migrate(host_connection)
        return
    settings = context.config.attributes.get("settings") or Settings.from_environment()
    url = context.config.attributes.get("url") or configured_url()
    with migration_engine(url, settings).connect() as connection:
        if connection.dialect.name == "postgresql":
            take_upgrade_lock(connection, settings.migration_wait)
        else:
            # A table rebuilt in a batch would otherwise delete the rows that refer to it.
            connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
        migrate(connection)


def run_offline() -> None:
    """Print the SQL for the configured database, with our time limits on PostgreSQL."""
    settings = Settings.from_environment()
    dialect = database_url(configured_url()).get_backend_name()
    context.configure(dialect_name=dialect, literal_binds=True, **options)
    with context.begin_transaction():
        if dialect == "postgresql":
            limits = {
                "lock_timeout": settings.migration_lock_timeout,
                "statement_timeout": LONGEST_MIGRATION,
            }
            for name, seconds in limits.items():
                limit = {"name": name, "milliseconds": round(seconds * 1000)}
                context.execute(sa.DDL("SET LOCAL %(name)s = %(milliseconds)s", context=limit))
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
