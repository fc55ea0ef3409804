"""A scratch database, which is deleted or emptied after use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa
from sqlalchemy import Engine

from recommender.database import migrations
from recommender.database.engine import create_engine
from recommender.database.transactions import translate_errors, writing
from recommender.errors import InvalidValue
from recommender.models.types import VERSION_TABLE, Base
from recommender.settings import Settings


@contextmanager
def scratch_database(url: str | None, settings: Settings) -> Iterator[Engine]:
    """Provide an engine on a migrated database without rows.

    Args:
        url: a database without this package's tables; they are dropped afterwards. None for an
            SQLite file in a temporary folder.
        settings: the settings of the engine.

    Raises:
        InvalidValue: the database has tables of this package.
    """
    if url is None:
        with TemporaryDirectory(prefix="recommender-") as folder:
            path = Path(folder, "scratch.db")
            with _migrated(f"sqlite:///{path}", settings) as engine:
                yield engine
        return
    _check_empty(url, settings)
    with _migrated(url, settings) as engine:
        try:
            yield engine
        finally:
            _drop_tables(engine)


@contextmanager
def _migrated(url: str, settings: Settings) -> Iterator[Engine]:
    engine = create_engine(url, settings=settings)
    try:
        migrations.upgrade(engine, settings=settings)
        yield engine
    finally:
        engine.dispose()


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
