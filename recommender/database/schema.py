"""The check that a database has the tables and first rows of this package's migrations."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from recommender.database import lookup
from recommender.database.session import Session
from recommender.errors import SchemaOutOfDate
from recommender.models.tables import LEARNING_STATE
from recommender.models.types import SCHEMA_REVISION, VERSION_TABLE, Base


def schema_revision(connection: Connection) -> str | None:
    """Return the migration of the database, None if it was never migrated."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num", sa.Text))
    return connection.scalar(sa.select(version.c.version_num))


def check_schema(connection: Connection) -> None:
    """Raise `SchemaOutOfDate` unless the database is at the migration of this package."""
    revision = schema_revision(connection)
    if revision is None:
        check_no_tables(connection)
        raise SchemaOutOfDate
    if revision > SCHEMA_REVISION:
        raise SchemaOutOfDate(
            f"the database is at migration {revision}, newer than this package's"
            f" {SCHEMA_REVISION}: upgrade the package"
        )
    if revision < SCHEMA_REVISION:
        raise SchemaOutOfDate(
            f"the database is at migration {revision}, this package needs {SCHEMA_REVISION}:"
            " run `recommender db upgrade`"
        )


def check_no_tables(connection: Connection) -> None:
    """Raise `SchemaOutOfDate` if a database without migrations has tables with our names."""
    inspector = sa.inspect(connection)
    existing = {*inspector.get_table_names(), *inspector.get_view_names()}
    in_the_way = sorted(existing & set(Base.metadata.tables))
    if not in_the_way:
        return
    more = f" and {len(in_the_way) - 1} more" if len(in_the_way) > 1 else ""
    raise SchemaOutOfDate(
        f"no migration made the table {in_the_way[0]}{more} in the schema"
        f" {inspector.default_schema_name}: rename or drop such tables (`Base.metadata.create_all`"
        " does not make a usable database), then run `recommender db upgrade`"
    )


def first_state(rows: sa.Result[Any]) -> Any:
    """Return the row of the learning state.

    Raises:
        SchemaOutOfDate: there is no row, because no migration made the tables.
    """
    if (state := rows.one_or_none()) is None:
        raise SchemaOutOfDate(
            "the tables lack their first rows, as after `Base.metadata.create_all`: drop the tables"
            " and run `recommender db upgrade`"
        )
    return state


def check_first_rows(session: Session) -> None:
    """Raise `SchemaOutOfDate` if no migration made the tables; call it if a row is missing."""
    first_state(lookup.run(session, sa.select(LEARNING_STATE.c.id)))
