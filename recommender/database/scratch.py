"""A scratch database, which is deleted or emptied after use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import Engine, TableClause
from sqlalchemy.exc import CompileError
from sqlalchemy.orm import Session

from recommender.database import lookup, migrations
from recommender.database.engine import create_engine
from recommender.database.registered import configured_registry, kept_registry
from recommender.database.session import Session as AnySession
from recommender.database.spaces import (
    create_space,
    dimensions_of,
    found_space,
    space_table,
    space_tables,
)
from recommender.database.transactions import translate_errors, writing
from recommender.errors import InvalidValue
from recommender.models.tables import VIDEOS
from recommender.models.types import VERSION_TABLE, Base
from recommender.settings import Settings

HostColumns: TypeAlias = Mapping[TableClause, Sequence[sa.ColumnClause[Any]]]


@contextmanager
def scratch_database(
    url: str | None, settings: Settings, host: Engine | None = None
) -> Iterator[Engine]:
    """Provide an engine on a migrated database without rows.

    Args:
        url: a database without this package's tables; they are dropped afterwards. The extension
            `vector` stays. None for an SQLite file in a temporary folder.
        settings: the settings of the engine.
        host: an engine of the application. The scratch database gets its registry, and a copy of
            the columns that the registry reads of the application's own tables. None for the
            registry of the environment; these tables are then empty. A table that the scratch
            database has is left as it is.

    Raises:
        InvalidValue: the database has tables of this package, or a table cannot be copied to it.
    """
    registry = configured_registry() if host is None else kept_registry(host)
    with ExitStack() as stack:
        if url is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="recommender-"))
        else:
            _check_empty(url, settings)
        place = f"sqlite:///{folder}/scratch.db" if url is None else url
        engine = create_engine(place, settings=settings, registry=registry)
        stack.callback(engine.dispose)
        if url is not None:
            stack.callback(_drop_tables, engine)
        migrations.upgrade(engine, settings=settings)
        if registry is not None and registry.space:
            _create_space(registry.space, host, engine)
        stack.enter_context(
            _copied(registry.columns_read if registry else {}, host, engine, settings)
        )
        yield engine


def _create_space(name: str, host: Engine | None, engine: Engine) -> None:
    """Create a space without vectors, with the dimensions of the application's."""
    dim = 1
    if host is not None:
        with translate_errors(), host.connect() as connection:
            dim = dimensions_of(found_space(connection, name))
    create_space(engine, name, dim=dim)


def copy_vectors(host: Engine, session: AnySession, space: str, keys: Sequence[str]) -> None:
    """Copy the vectors of videos to the scratch database, where the videos have other ids.

    Args:
        host: the engine of the application.
        session: a transaction on the scratch database.
        space: the name of the space.
        keys: the keys of videos that the scratch database has.
    """
    table, named = space_table(space), [(key,) for key in keys]
    id_and_key = [VIDEOS.c.id, VIDEOS.c.key]
    found = lookup.find(session, [VIDEOS.c.key], named, id_and_key)
    ids_of = {key: video_id for video_id, key in found}
    with Session(host) as source:
        key_of = dict(map(tuple, lookup.find(source, [VIDEOS.c.key], named, id_and_key)))
        ids = [(video_id,) for video_id in key_of]
        vectors = lookup.find(source, [table.c.video_id], ids, list(table.c))
    of_key = {key_of[video_id]: vector for video_id, vector in vectors}
    there = lookup.find(
        session, [table.c.video_id], [(i,) for i in ids_of.values()], [table.c.video_id]
    )
    known = {video_id for (video_id,) in there}
    rows = [
        {"video_id": ids_of[key], "vector": vector}
        for key, vector in of_key.items()
        if ids_of[key] not in known
    ]
    if rows:
        lookup.run(session, sa.insert(table), rows)


@contextmanager
def _copied(
    columns: HostColumns, host: Engine | None, engine: Engine, settings: Settings
) -> Iterator[None]:
    """Keep copies of the host's tables in the scratch database for the length of the block."""
    existing = _existing(engine, list(columns))
    copies = {table: _copy_of(table, columns[table]) for table in columns if table not in existing}
    with translate_errors():
        try:
            for table, copy in copies.items():
                _create(copy, engine)
                if host is not None:
                    _copy_rows(columns[table], copy, host, engine, settings)
            yield
        finally:
            with writing(engine).begin() as connection:
                for copy in copies.values():
                    copy.drop(connection, checkfirst=True)


def _copy_of(table: TableClause, columns: Sequence[sa.ColumnClause[Any]]) -> sa.Table:
    """Return a table with some columns of another, and its indexes of these columns only."""
    copied = (sa.Column(column.name, column.type) for column in columns)
    copy = sa.Table(table.name, sa.MetaData(), *copied, schema=table.schema)
    for number, names in enumerate(_indexed(table)):
        if all(name in copy.c for name in names):
            sa.Index(f"{table.name}_copied_{number}", *(copy.c[name] for name in names))
    return copy


def _indexed(table: TableClause) -> Iterator[list[str]]:
    """Yield the columns of every key and every plain index of a table."""
    if isinstance(table, sa.Table):
        keys = (sa.PrimaryKeyConstraint, sa.UniqueConstraint)
        for key in table.constraints:
            if isinstance(key, keys) and key.columns:
                yield [column.name for column in key.columns]
        for index in table.indexes:
            columns = [each for each in index.expressions if isinstance(each, sa.Column)]
            if len(columns) == len(index.expressions) and not index.dialect_kwargs:
                yield [column.name for column in columns]


def _create(copy: sa.Table, engine: Engine) -> None:
    try:
        with writing(engine).begin() as connection:
            copy.create(connection)
    except CompileError as error:
        cause = " ".join(str(error).split())
        raise InvalidValue(
            f"scratch: {copy.fullname}, which the registry reads, cannot be copied to"
            f" {engine.dialect.name}: {cause}; give the URL of a scratch database that can hold it,"
            " or that has this table"
        ) from error


def _existing(engine: Engine, tables: Sequence[TableClause]) -> set[TableClause]:
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
    columns: Sequence[sa.ColumnClause[Any]],
    copy: sa.Table,
    host: Engine,
    engine: Engine,
    settings: Settings,
) -> None:
    names = copy.c.keys()
    with host.connect() as source:
        options = {"yield_per": settings.batch_size}
        rows = source.execute(sa.select(*columns), execution_options=options)
        for batch in rows.partitions():
            with writing(engine).begin() as connection:
                connection.execute(
                    copy.insert(), [dict(zip(names, row, strict=True)) for row in batch]
                )


def _drop_tables(engine: Engine) -> None:
    """Drop all tables of this package, with their rows; a downgrade would refuse some rows."""
    with translate_errors(), writing(engine).begin() as connection:
        for space in space_tables(connection):
            space.drop(connection)
        Base.metadata.drop_all(connection)
        sa.Table(VERSION_TABLE, sa.MetaData()).drop(connection, checkfirst=True)


def _check_empty(url: str, settings: Settings) -> None:
    engine = create_engine(url, settings=settings)
    try:
        with translate_errors(), engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
    finally:
        engine.dispose()
    if tables & set(Base.metadata.tables):
        raise InvalidValue("scratch: the database has this package's tables, and may not have any")
