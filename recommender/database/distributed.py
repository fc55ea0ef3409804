"""Citus: which table every node copies, which is distributed by user, and how they become so.

The catalogue is small and read by every page, so every node has a copy: reference tables. All rows
of a user are on one node, in tables that are distributed by `user_id` and colocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, ForeignKeyConstraint, Table
from sqlalchemy.dialects.postgresql import REGCLASS

from recommender.database.schema import check_schema
from recommender.database.server_settings import migration_limits, set_for_connection
from recommender.database.spaces import space_tables
from recommender.database.transactions import translate_errors, writing
from recommender.errors import InvalidValue, RecommenderError
from recommender.models.tables import USERS, VIDEOS
from recommender.models.types import VERSION_TABLE, Base
from recommender.settings import Settings

DISTRIBUTION_COLUMN = "user_id"

FIRST_TABLE = "rec_events"
"""The distributed table with which all others are colocated."""

DISTRIBUTE_LOCK = 7_260_734_851_093_129
"""The advisory lock of a run of `distribute`."""

_EXTENSION = sa.table("pg_extension", sa.column("extname"))

_MADE = sa.table("pg_dist_partition", *map(sa.column, ("logicalrelid", "partmethod", "repmodel")))
"""The tables that Citus knows. A reference table has the method `n` and the model `t`."""


def is_reference(table: Table) -> bool:
    """Return True if every node has a copy of a table, False if it is distributed by user.

    Raises:
        InvalidValue: the table has neither the mark `REFERENCE` nor one user's rows.
    """
    if table.info.get("is_reference"):
        return True
    keys = [
        table.primary_key,
        *(c for c in table.constraints if isinstance(c, sa.UniqueConstraint)),
    ]
    if all(key.columns.keys()[:1] == [DISTRIBUTION_COLUMN] for key in keys):
        return False
    raise InvalidValue(
        f"{table.name}: the table is neither marked as REFERENCE, nor is {DISTRIBUTION_COLUMN} the"
        " first column of its primary key and of every unique constraint"
    )


def ordered_tables() -> list[Table]:
    """Return all tables in the order in which they are distributed: reference tables first.

    A table comes after the tables that its foreign keys refer to, and `FIRST_TABLE` before all
    tables that are colocated with it.
    """
    version = Table(VERSION_TABLE, sa.MetaData(), info={"is_reference": True})
    tables = Base.metadata.sorted_tables
    reference = [table for table in tables if is_reference(table)]
    others = [table for table in tables if not is_reference(table)]
    first = [table for table in others if table.name == FIRST_TABLE]
    return [*reference, version, *first, *(table for table in others if table not in first)]


def distribute(
    engine: Engine, *, with_data: bool = False, settings: Settings | None = None
) -> tuple[str, ...]:
    """Distribute the tables over the nodes of a Citus cluster, each table in a transaction.

    A run that was interrupted goes on when it runs again. Writers of a table wait while its rows
    move. Foreign keys are dropped first, and created again at the end.

    Args:
        engine: an engine on the coordinator.
        with_data: whether to move existing rows.
        settings: None for the settings of the environment.

    Returns:
        The names of the tables that this run has distributed.

    Raises:
        InvalidValue: the database has users or videos, and `with_data` is false.
        RecommenderError: the database has no extension `citus`, is no PostgreSQL or no coordinator,
            or reported an error.
        SchemaOutOfDate: the schema is not at the migration of this package.
    """
    settings = settings or Settings.from_environment()
    with translate_errors(), writing(engine).connect() as connection:
        _check_citus(connection)
        check_schema(connection)
        set_for_connection(connection, migration_limits(settings))
        try:
            return tuple(_distributed_now(connection, with_data=with_data))
        finally:
            connection.invalidate()  # no one else of the pool gets a connection with these limits


def _distributed_now(connection: Connection, *, with_data: bool) -> Iterator[str]:
    """Distribute the tables that are not distributed yet, and yield their names."""
    connection.scalar(sa.select(sa.func.pg_advisory_lock(DISTRIBUTE_LOCK)))
    tables = [*ordered_tables(), *space_tables(connection)]
    made = made_tables(connection)
    waiting = [table for table in tables if table.name not in made]
    if FIRST_TABLE not in made and not with_data and _has_rows(connection):
        raise InvalidValue(
            "the database has users or videos: run `recommender db distribute --with-data` to move"
            " them, while no application writes"
        )
    if waiting:
        _drop_foreign_keys(connection)
    for table in waiting:
        connection.execute(sa.select(_made(table)))
        connection.commit()
        yield table.name
    for table in tables:
        _remove_local_rows(connection, table)
    _add_foreign_keys(connection)


def made_tables(connection: Connection) -> set[str]:
    """Return the names of the tables of the search path that are distributed or copied."""
    made = sa.or_(
        _MADE.c.partmethod == "h", sa.and_(_MADE.c.partmethod == "n", _MADE.c.repmodel == "t")
    )
    name = sa.table("pg_class", sa.column("oid"), sa.column("relname"))
    rows = sa.select(name.c.relname).join(_MADE, _MADE.c.logicalrelid == name.c.oid)
    is_visible = sa.func.pg_table_is_visible(name.c.oid)
    return set(connection.scalars(rows.where(made, is_visible)))


def has_citus(connection: Connection) -> bool:
    """Return whether the database is PostgreSQL and has the extension `citus`."""
    if connection.dialect.name != "postgresql":
        return False
    is_there = sa.exists().where(_EXTENSION.c.extname == "citus")
    return bool(connection.scalar(sa.select(is_there)))


def _check_citus(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        raise RecommenderError("SQLite is one file: only PostgreSQL with Citus can be distributed")
    if not has_citus(connection):
        raise RecommenderError(
            "the database does not have the extension citus: install it on every node and run"
            " CREATE EXTENSION citus"
        )
    if not connection.scalar(sa.select(sa.func.citus_is_coordinator())):
        raise RecommenderError(
            "this node is not the coordinator of the cluster: use the URL of the coordinator, and"
            " name it by citus_set_coordinator_host"
        )


def _has_rows(connection: Connection) -> bool:
    exists = (sa.exists().select_from(table) for table in (USERS, VIDEOS))
    return bool(connection.scalar(sa.select(sa.or_(*exists))))


def _made(table: Table) -> Any:
    """Return the call that distributes a table, or copies it to every node."""
    if table.name not in Base.metadata.tables or is_reference(table):
        return sa.func.create_reference_table(_named(table))
    if table.name == FIRST_TABLE:
        # Not colocated with tables of the application that have the same type of key.
        return sa.func.create_distributed_table(
            _named(table), DISTRIBUTION_COLUMN, sa.text("colocate_with => 'none'")
        )
    return sa.func.create_distributed_table(
        _named(table), DISTRIBUTION_COLUMN, sa.text(f"colocate_with => '{FIRST_TABLE}'")
    )


def _named(table: Table) -> Any:
    return sa.cast(sa.literal(table.name), REGCLASS)


def _foreign_keys() -> Iterator[ForeignKeyConstraint]:
    """Yield the foreign keys of copies of the tables: DDL of a constraint changes its table."""
    metadata = sa.MetaData()
    for table in [table.to_metadata(metadata) for table in Base.metadata.sorted_tables]:
        keys = (key for key in table.constraints if isinstance(key, ForeignKeyConstraint))
        yield from sorted(keys, key=lambda key: str(key.name))


def _existing_keys(connection: Connection, table: Table) -> set[str]:
    return {str(key["name"]) for key in sa.inspect(connection).get_foreign_keys(table.name)}


def _drop_foreign_keys(connection: Connection) -> None:
    """Drop the foreign keys: Citus would have to follow them from table to table."""
    for key in _foreign_keys():
        connection.execute(sa.schema.DropConstraint(key, if_exists=True))
    connection.commit()


def _add_foreign_keys(connection: Connection) -> None:
    """Create the foreign keys that are missing, each in a transaction."""
    for key in _foreign_keys():
        if str(key.name) not in _existing_keys(connection, key.table):
            connection.execute(sa.schema.AddConstraint(key))
        connection.commit()


def _remove_local_rows(connection: Connection, table: Table) -> None:
    """Remove the rows that were moved, which no statement reads, from the coordinator."""
    connection.execute(
        sa.select(sa.func.truncate_local_data_after_distributing_table(_named(table)))
    )
    connection.commit()
