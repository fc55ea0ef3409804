"""What a host is told if its database has no tables of ours, or has them in another schema."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, SchemaOutOfDate, create_engine, run_transaction
from recommender.database.transactions import writing
from tests.support.viewer_writes import WRITES, Viewer
from tests.support.worlds import make_video

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


@pytest.fixture
def empty(empty_database: str) -> Iterator[Engine]:
    bind = create_engine(empty_database)
    yield bind
    bind.dispose()


@pytest.fixture
def world(engine: Engine) -> Engine:
    return engine


@pytest.fixture
def viewer() -> Viewer:
    videos = ["v"]
    return Viewer("ada", ["ben"], ["old"], videos, random.Random(1), own=videos)  # noqa: S311


def test_every_write_without_tables_says_that_the_schema_is_missing(
    empty: Engine, viewer: Viewer
) -> None:
    for write in WRITES.values():
        with pytest.raises(SchemaOutOfDate, match="recommender db upgrade"):
            run_transaction(empty, lambda session, w=write: w(session, viewer))
        with (
            pytest.raises(SchemaOutOfDate),
            recommender.translate_errors(),
            Session(writing(empty)) as session,
        ):
            write(session, viewer)


def test_an_async_host_translates_errors_too(kind: str, empty_database: str) -> None:
    url = sa.make_url(empty_database).set(drivername=DRIVERS[kind])

    async def follow() -> None:
        bind = recommender.prepare_engine(create_async_engine(url))
        try:
            async with AsyncSession(bind) as session:
                with recommender.translate_errors():
                    await session.run_sync(recommender.follow, "ada", "ben")
        finally:
            await bind.dispose()

    with pytest.raises(SchemaOutOfDate):
        asyncio.run(follow())


def make_world(engine: Engine) -> None:
    def write(session: Session) -> None:
        recommender.upsert_users(session, [{"id": "ada"}, {"id": "ben"}])
        make_video(session, "v")

    run_transaction(engine, write)


@pytest.mark.usefixtures("world")
def test_a_schema_translate_map_is_refused(engine: Engine, kind: str, viewer: Viewer) -> None:
    """Also a map that names the schema in use: nothing is written half."""
    own = {None: "main" if kind == "sqlite" else "public"}
    translated = engine.execution_options(schema_translate_map=own)
    for name in WRITES.keys() - {"resolve"}:  # which only reads
        with pytest.raises(InvalidValue, match=r"^schema_translate_map: .* set search_path"):
            run_transaction(translated, lambda session, n=name: WRITES[n](session, viewer))
    with Session(writing(engine)) as session:
        session.connection(execution_options={"schema_translate_map": own})
        with pytest.raises(InvalidValue, match=r"^schema_translate_map: "):
            recommender.upsert_users(session, [{"id": "cleo"}])
