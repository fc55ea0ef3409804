"""The package inside a host application, with its sessions, engines and tables."""

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
from recommender import Candidate, Signal, create_engine, models
from recommender.models import Base, Video
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import (
    NOON,
    at,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    scores,
    worked_example,
)

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


class HostBase(DeclarativeBase):
    pass


class Licence(HostBase):
    """A table of the host, keyed by the key of the video."""

    __tablename__ = "licences"

    video: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str]


class Boost(HostBase):
    """A second table of the host: videos to promote, and how much."""

    __tablename__ = "boosts"

    id: Mapped[int] = mapped_column(primary_key=True)
    video: Mapped[str]
    strength: Mapped[float]


def boosted(_candidate: Candidate) -> sa.ColumnElement[float]:
    """Return the strongest boost of the video."""
    strongest = sa.select(sa.func.max(Boost.strength)).where(Boost.video == Video.key)
    return sa.func.coalesce(strongest.scalar_subquery(), sa.literal(0.0, sa.Double))


BOOST = Signal("boost", 0, 1, boosted)


@pytest.fixture
def boosts(session: Session) -> Session:
    """Videos, some of them boosted by the host, some licensed for regions."""
    HostBase.metadata.create_all(session.connection())
    make_user(session)
    for minute, video in enumerate(["old", "middle", "new"], start=1):
        make_video(session, video, published_at=at(minute))
    session.add_all([
        Boost(video="old", strength=1.0), Boost(video="old", strength=0.25),
        Boost(video="middle", strength=0.5),
        Licence(video="old", region="DE"), Licence(video="new", region="DE"),
        Licence(video="middle", region="US"),
    ])  # fmt: skip
    session.flush()
    return session


def licensed(region: str) -> sa.ColumnElement[bool]:
    return (
        sa.select(Licence.video)
        .where(Licence.video == Video.key, Licence.region == region)
        .exists()
    )


def everything(session: Session) -> list[str]:
    """Call every function that takes a session."""
    worked_example(session)
    recommender.upsert_users(session, [{"id": "user1", "interests": ["dance"]}, {"id": "creator4"}])
    recommender.follow(session, "user1", "creator3")
    recommender.unfollow(session, "user1", "creator3")
    recommender.record(session, "user1", "v3", "watch", at=NOON, key="k", completion=0.5)
    with pytest.raises(recommender.EventConflict):
        recommender.record(session, "user1", "v3", "share", at=NOON, key="k")
    recommender.create_profile(session, "mine", {"likes": 1})
    recommender.activate_profile(session, "mine")
    recommender.activate_profile(session, "for_you")
    assert "mine" in {each.name for each in recommender.list_profiles(session)}
    classic: dict[str, Any] = {"profile": "classic", "as_of": at(1)}
    assert recommender.explain(session, "user1", "v3", **classic).rank == 3
    assert names(recommender.rank(session, "user1", ["v3", "v2"], **classic)) == ["v2", "v3"]
    assert names(preview(session, "user1", **classic)) == ["v1", "v2", "v3"]
    assert preview(session, "user1", as_of=at(1)).items == ()
    for which, value in (("keyword", "two steps"), ("creator", "creator4")):
        assert recommender.mute(session, "user1", which, value)
    assert recommender.unmute(session, "user1", "keyword", "two steps")
    make_video(session, "v4", creator="creator4", published_at=at(-1))
    make_video(session, "v5", creator="creator1", hashtags=["dance"], published_at=at(-1))
    make_video(session, "v6", published_at=at(-1))
    explained = recommender.explain(session, "user1", "v4", as_of=at(1))
    assert explained.reason.startswith("Not shown: you muted its creator creator4 on ")
    assert recommender.explain(session, "user1", "v5", as_of=at(1)).rank == 1
    recommender.reset_user(session, "user1")
    return names(preview(session, "user1", as_of=at(1)))


@slow_on_postgresql
def test_a_session_bound_by_class_to_several_databases(engine: Engine, tmp_path: Any) -> None:
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    HostBase.metadata.create_all(other)
    binds = {Base: engine.execution_options(recommender_write=True), HostBase: other}
    with Session(binds=binds) as session, session.begin():
        session.add(Licence(video="v1", region="US"))
        assert everything(session) == ["v5", "v6"]
        assert session.scalar(sa.select(Licence.region)) == "US"
    other.dispose()


@slow_on_postgresql
def test_timelines_and_reports_of_such_a_session(engine: Engine) -> None:
    with Session(binds={Base: engine.execution_options(recommender_write=True)}) as session:
        worked_example(session)
        page = recommender.for_you(session, "user1", as_of=at(1))
        recommender.record_page(session, preview(session, "user1", as_of=at(2)))
        assert len(recommender.trending(session, as_of=at(1)).items) == 3
        assert recommender.following(session, "user1", as_of=at(1)).items
        assert recommender.audit(session).broken == ()
        assert "for_you" in {each.profile for each in recommender.profile_history(session)}
        assert recommender.diff_profiles(session, "for_you", "for_you@1", users=["user1"])
        assert page.request.known


@slow_on_postgresql
@pytest.mark.parametrize("profile", ["classic", "for_you"])
def test_a_host_joins_its_own_table(session: Session, profile: str) -> None:
    worked_example(session)
    connection = session.connection()
    HostBase.metadata.create_all(connection)
    session.add_all([Licence(video="v1", region="DE"), Licence(video="v3", region="US")])
    session.flush()
    request = recommender.resolve(session, "user1", profile)
    statement = (
        recommender.feed_query(request)
        .join(Licence, Licence.video == Video.key)
        .where(Licence.region == "US")
        .add_columns(Video.key, Licence.region)
    )
    assert [(row.key, row.region) for row in session.execute(statement)] == [("v3", "US")]


@slow_on_postgresql
def test_a_hosts_own_signal_moves_the_page(boosts: Session) -> None:
    moment = at(10)
    before = preview(boosts, "viewer", as_of=moment)
    assert names(before) == ["new", "middle", "old"]
    page = preview(boosts, "viewer", as_of=moment, signals={BOOST: 2.0})
    assert names(page) == ["old", "middle", "new"]
    values = {item.video: item.signals["boost"].value for item in page.items}
    assert values == {"old": 1.0, "middle": 0.5, "new": 0.0}
    for video, score in scores(before).items():
        assert scores(page)[video] == pytest.approx(score + 2 * values[video], abs=2e-9)
    against = preview(boosts, "viewer", as_of=moment, signals={BOOST: -2.0})
    assert names(against) == ["new", "middle", "old"]


@slow_on_postgresql
def test_a_hosts_own_signal_is_ranked_and_explained(boosts: Session) -> None:
    own: dict[str, Any] = {"as_of": at(10), "signals": {BOOST: 2.0}}
    ranked = recommender.rank(boosts, "viewer", ["new", "old"], **own)
    assert names(ranked) == ["old", "new"]
    explained = recommender.explain(boosts, "viewer", "middle", **own)
    assert (explained.rank, explained.displaced_by) == (2, ("old",))
    assert explained.item.signals["boost"] == recommender.Contribution(0.5, 2.0)
    request = recommender.resolve(boosts, "viewer", **own)
    rows = boosts.execute(recommender.feed_query(request))
    assert [row.boost for row in rows] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1e10), (-1e10, 0), (1, 0), (0, float("inf")), (float("nan"), 1)]
)
def test_a_hosts_signal_needs_a_range(low: float, high: float) -> None:
    with pytest.raises(recommender.InvalidValue, match=r"^signal 'boost': .* is no range"):
        Signal("boost", low, high, boosted)


@slow_on_postgresql
def test_a_hosts_signal_that_is_no_number_is_an_error(boosts: Session) -> None:
    def odd(_candidate: Candidate) -> sa.ColumnElement[float]:
        infinite = sa.literal(float("inf"), sa.Double)
        return infinite - infinite

    with pytest.raises(recommender.InvalidValue, match=r"^signals: odd is NULL for video"):
        preview(boosts, "viewer", as_of=at(10), signals={Signal("odd", 0, 1, odd): 1.0})


def test_a_hosts_own_signal_goes_with_the_reference_formula(boosts: Session) -> None:
    own: dict[str, Any] = {"profile": "classic", "as_of": at(10)}
    page = preview(boosts, "viewer", signals={BOOST: 2.0}, **own)
    assert scores(page) == {"old": 2, "middle": 1, "new": 0}
    assert names(page) == ["old", "middle", "new"]


@pytest.mark.parametrize(
    "names",
    [("likes",), ("two words",), ("",), ("no-dash",), ("Likes",), ("Page_x",), ("Boost", "boost"),
     ("x" * 64,), ("é" * 32,)],
)  # fmt: skip
def test_a_hosts_signal_needs_a_name_of_its_own(boosts: Session, names: tuple[str, ...]) -> None:
    """Also if it is too long for a column, or differs in case only, which SQLite ignores."""
    signals = {Signal(name, 0, 1, boosted): 1.0 for name in names}
    with pytest.raises(recommender.InvalidValue, match=r"^signals: .* is (taken|not one word)"):
        preview(boosts, "viewer", signals=signals)


@slow_on_postgresql
@pytest.mark.parametrize("profile", ["classic", "for_you"])
def test_a_hosts_predicate_reads_its_own_table(boosts: Session, profile: str) -> None:
    page = preview(boosts, "viewer", as_of=at(10), profile=profile, where=licensed("DE"))
    assert names(page) == ["new", "old"]
    both = sa.and_(licensed("DE"), Video.key.in_(sa.select(Boost.video)))
    page = preview(boosts, "viewer", as_of=at(10), profile=profile, where=both)
    assert names(page) == ["old"]
    nowhere = preview(boosts, "viewer", as_of=at(10), profile=profile, where=licensed("XX"))
    assert nowhere.items == ()


@slow_on_postgresql
def test_what_a_predicate_takes_away_takes_nobodys_place(boosts: Session) -> None:
    for number in range(200):
        make_video(boosts, f"unlicensed-{number}", creator="star", published_at=at(5))
    recommender.follow(boosts, "viewer", "star")
    page = preview(boosts, "viewer", as_of=at(10), limit=3, where=licensed("DE"))
    assert names(page) == ["new", "old"]


@slow_on_postgresql
@pytest.mark.parametrize("profile", ["classic", "for_you"])
def test_a_host_leaves_videos_out(boosts: Session, profile: str) -> None:
    page = preview(boosts, "viewer", as_of=at(10), profile=profile, exclude=["new", "unknown"])
    assert names(page) == ["middle", "old"]
    page = preview(
        boosts, "viewer", as_of=at(10), profile=profile, exclude=["old"], where=licensed("DE")
    )
    assert names(page) == ["new"]


@slow_on_postgresql
def test_what_a_host_rolls_back_never_was(engine: Engine) -> None:
    with Session(engine.execution_options(recommender_write=True)) as session:
        worked_example(session)
        assert names(preview(session, "user1")) == ["v3"]
        session.rollback()
        assert preview(session, "user1").items == ()


def test_an_async_session_runs_everything(kind: str, database: str) -> None:
    url = sa.make_url(database).set(drivername=DRIVERS[kind])

    async def run() -> list[str]:
        bind = recommender.prepare_engine(create_async_engine(url))
        writing = bind.execution_options(recommender_write=True)
        try:
            async with AsyncSession(writing) as session, session.begin():
                return await session.run_sync(everything)
        finally:
            await bind.dispose()

    assert asyncio.run(run()) == ["v5", "v6"]


@pytest.mark.slow
def test_an_async_session_swipes_and_the_next_page_knows(kind: str, database: str) -> None:
    url = sa.make_url(database).set(drivername=DRIVERS[kind])

    def prepare(session: Session) -> None:
        make_user(session)
        make_videos(session, "dance-1", "dance-2", hashtags=["dance"])
        make_videos(session, "cats-1", "cats-2", hashtags=["cats"])

    async def run() -> None:
        bind = recommender.prepare_engine(create_async_engine(url))
        writing = bind.execution_options(recommender_write=True)
        try:
            async with AsyncSession(writing) as session, session.begin():
                await session.run_sync(prepare)
            async with AsyncSession(writing) as session, session.begin():
                page = await session.run_sync(preview, "viewer", as_of=at(1))
                assert names(page) == ["cats-2", "cats-1", "dance-2", "dance-1"]
                body: dict[str, Any] = {"at": at(1), "key": "swipe", "completion": 1.0}
                await session.run_sync(recommender.record, "viewer", "dance-2", "watch", **body)
                page = await session.run_sync(preview, "viewer", as_of=at(2))
                assert names(page) == ["dance-1", "cats-2", "cats-1"]
                own = {"as_of": at(2)}
                said = await session.run_sync(recommender.explain, "viewer", "dance-1", **own)
                assert said.rank == 1
                assert said.item.signals["hashtag_affinity"].value > 0
                said = await session.run_sync(recommender.explain, "viewer", "dance-2", **own)
                assert said.reason == "Not shown: you watched it on 1 January 2026."
        finally:
            await bind.dispose()

    asyncio.run(run())


def test_a_database_in_memory_is_one_for_all_threads() -> None:
    bind = create_engine("sqlite://")
    recommender.upgrade(bind)
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(
            recommender.run_transaction,
            bind,
            lambda session: recommender.upsert_users(session, [{"id": "u"}]),
        ).result()
    with Session(bind) as session:
        assert session.scalars(sa.select(models.User.key)).all() == ["u"]
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
