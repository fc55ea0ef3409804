"""A scratch database, which is deleted or emptied after use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import Engine

from recommender.database import migrations
from recommender.database.engine import create_engine
from recommender.database.registered import configured_registry, kept_registry
from recommender.database.transactions import translate_errors, writing
from recommender.errors import InvalidValue
from recommender.models.types import VERSION_TABLE, Base
from recommender.settings import Settings

HostColumns: TypeAlias = Mapping[sa.Table, Sequence[sa.Column[Any]]]


@contextmanager
def scratch_database(
    url: str | None, settings: Settings, host: Engine | None = None
) -> Iterator[Engine]:
    """Provide an engine on a migrated database without rows.

    Args:
        url: a database without this package's tables; they are dropped afterwards. None for an
            SQLite file in a temporary folder.
        settings: the settings of the engine.
        host: an engine of the application. The scratch database gets its registry, and a copy of
            the columns that the registry reads of the application's own tables. None for the
            registry of the environment; these tables are then empty. A table that the scratch
            database has is left as it is.

    Raises:
        InvalidValue: the database has tables of this package, or a table to copy is in a schema
            that it does not have.
    """
    if url is None:
        with TemporaryDirectory(prefix="recommender-") as folder:
            path = Path(folder, "scratch.db")
            with _migrated(f"sqlite:///{path}", settings, host) as engine:
                yield engine
        return
    _check_empty(url, settings)
    with _migrated(url, settings, host) as engine:
        try:
            yield engine
        finally:
            _drop_tables(engine)


@contextmanager
def _migrated(url: str, settings: Settings, host: Engine | None) -> Iterator[Engine]:
    registry = configured_registry() if host is None else kept_registry(host)
    engine = create_engine(url, settings=settings, registry=registry)
    try:
        migrations.upgrade(engine, settings=settings)
        with _copied(registry.columns_read if registry else {}, host, engine, settings):
            yield engine
    finally:
        engine.dispose()


@contextmanager
def _copied(
    columns: HostColumns, host: Engine | None, engine: Engine, settings: Settings
) -> Iterator[None]:
    """Keep copies of the host's tables in the scratch database for the length of the block."""
    copies = {table: _copy_of(table, names) for table, names in columns.items()}
    existing = _existing(engine, list(copies))
    made = {table: copy for table, copy in copies.items() if table not in existing}
    with translate_errors():
        try:
            for table, copy in made.items():
                with writing(engine).begin() as connection:
                    copy.create(connection)
                if host is not None:
                    _copy_rows(table, copy, host, engine, settings)
            yield
        finally:
            with writing(engine).begin() as connection:
                for copy in made.values():
                    copy.drop(connection, checkfirst=True)


def _copy_of(table: sa.Table, columns: Sequence[sa.Column[Any]]) -> sa.Table:
    """Return a table with some columns of another, each indexed, and without its constraints."""
    copied = (sa.Column(column.name, column.type, index=True) for column in columns)
    return sa.Table(table.name, sa.MetaData(), *copied, schema=table.schema)


def _existing(engine: Engine, tables: Sequence[sa.Table]) -> set[sa.Table]:
    with translate_errors(), engine.connect() as connection:
        inspector = sa.inspect(connection)
        for table in tables:
            if table.schema is not None and table.schema not in inspector.get_schema_names():
                raise InvalidValue(
                    f"scratch: the registry reads {table.fullname}, and the scratch database has no"
                    f" schema {table.schema}: give the URL of a database that has it"
                )
        return {t for t in tables if inspector.has_table(t.name, schema=t.schema)}


def _copy_rows(
    table: sa.Table, copy: sa.Table, host: Engine, engine: Engine, settings: Settings
) -> None:
    columns = sa.select(*(table.c[name] for name in copy.c.keys()))  # noqa: SIM118 - not a mapping
    with host.connect() as source:
        rows = source.execution_options(yield_per=settings.batch_size).execute(columns)
        for batch in rows.mappings().partitions():
            with writing(engine).begin() as connection:
                connection.execute(copy.insert(), list(map(dict, batch)))


def _drop_tables(engine: Engine) -> None:
    """Drop all tables of this package, with their rows; a downgrade would refuse some rows."""
    with translate_errors(), writing(engine).begin() as connection:
        Base.metadata.drop_all(connection)
        sa.Table(VERSION_TABLE, sa.MetaData()).drop(connection)


def _check_empty(url: str, settings: Settings) -> None:
    engine = create_engine(url, settings=settings)
    try:
        with translate_errors(), engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
    finally:
        engine.dispose()
    if tables & set(Base.metadata.tables):
        raise InvalidValue("scratch: the database has this package's tables, and may not have any")
