"""The package inside a host's application: its sessions, its engines, its own tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

import recommender
from recommender import Base, Video, create_engine
from tests.worlds import NOON, at, names, worked_example


class HostBase(DeclarativeBase):
    pass


class Licence(HostBase):
    """A table of the host's own, keyed by the video's key."""

    __tablename__ = "licences"

    video: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str]


def everything(session: Session) -> list[str]:
    """A call of every function that takes a session."""
    worked_example(session)
    recommender.upsert_users(session, [{"id": "user1", "interests": ["dance"]}])
    recommender.follow(session, "user1", "creator3")
    recommender.unfollow(session, "user1", "creator3")
    recommender.record(session, "user1", "v3", "watch", at=NOON, key="k", completion=0.5)
    with pytest.raises(recommender.EventConflict):
        recommender.record(session, "user1", "v3", "share", at=NOON, key="k")
    recommender.create_profile(session, "mine", {"likes": 1})
    recommender.activate_profile(session, "mine")
    recommender.activate_profile(session, "classic")
    assert len(recommender.list_profiles(session)) == 2
    assert recommender.explain(session, "user1", "v3", as_of=at(1)).rank == 3
    assert names(recommender.rank(session, "user1", ["v3", "v2"])) == ["v2", "v3"]
    return names(recommender.for_you(session, "user1"))


def test_a_session_bound_by_class_to_several_databases(engine: Engine, tmp_path: Any) -> None:
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    HostBase.metadata.create_all(other)
    binds = {Base: engine.execution_options(recommender_write=True), HostBase: other}
    with Session(binds=binds) as session, session.begin():
        session.add(Licence(video="v1", region="US"))
        assert everything(session) == ["v1", "v2", "v3"]
        assert session.scalar(sa.select(Licence.region)) == "US"
    other.dispose()


def test_a_host_joins_its_own_table(session: Session) -> None:
    worked_example(session)
    connection = session.connection()
    HostBase.metadata.create_all(connection)
    session.add_all([Licence(video="v1", region="DE"), Licence(video="v3", region="US")])
    session.flush()
    request = recommender.resolve(session, "user1")
    statement = (
        recommender.feed_query(request)
        .join(Licence, Licence.video == Video.key)
        .where(Licence.region == "US")
        .add_columns(Video.key, Licence.region)
    )
    assert [(row.key, row.region) for row in session.execute(statement)] == [("v3", "US")]


def test_what_a_host_rolls_back_never_was(engine: Engine) -> None:
    with Session(engine.execution_options(recommender_write=True)) as session:
        worked_example(session)
        assert len(recommender.for_you(session, "user1").items) == 3
        session.rollback()
        assert recommender.for_you(session, "user1").items == ()


def test_an_async_session_runs_everything(kind: str, database: str) -> None:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
    url = sa.make_url(database).set(drivername=drivers[kind])

    async def run() -> list[str]:
        bind = recommender.prepare_engine(create_async_engine(url))
        writing = bind.execution_options(recommender_write=True)
        async with AsyncSession(writing) as session, session.begin():
            found = await session.run_sync(everything)
        await bind.dispose()
        return found

    assert asyncio.run(run()) == ["v1", "v2", "v3"]


def test_a_database_in_memory_is_one_for_all_threads() -> None:
    bind = create_engine("sqlite://")
    Base.metadata.create_all(bind)
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(
            recommender.run_transaction,
            bind,
            lambda session: recommender.upsert_users(session, [{"id": "u"}]),
        ).result()
    with Session(bind) as session:
        assert session.scalars(sa.select(recommender.User.key)).all() == ["u"]
    bind.dispose()


def test_rows_may_come_from_a_generator_and_be_none(session: Session) -> None:
    ids = ["a", "b"]
    assert recommender.upsert_users(session, ({"id": each} for each in ids)).inserted == 2
    rows = ({"id": each, "creator": "a", "published_at": NOON} for each in ids)
    assert recommender.upsert_videos(session, rows).inserted == 2
    events = (recommender.Event(each, each, each, "like", NOON) for each in ids)
    assert recommender.record_many(session, events).inserted == 2
    for write in (recommender.upsert_users, recommender.upsert_videos, recommender.record_many):
        empty: Callable[..., Any] = write
        assert empty(session, []) == recommender.Counts()


@pytest.mark.parametrize("rows", [{"id": "x"}, ["x"], [None], "x"])
def test_what_is_no_row_is_refused(session: Session, rows: Any) -> None:
    with pytest.raises(recommender.InvalidValue, match="is not a row of columns and values"):
        recommender.upsert_users(session, rows)


def test_the_pool_of_a_database_in_memory_keeps_one_connection() -> None:
    bind = create_engine("sqlite:///:memory:")
    assert isinstance(bind.pool, StaticPool)
    bind.dispose()
