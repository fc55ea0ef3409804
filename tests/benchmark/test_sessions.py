"""Single pages, sessions of ten pages, and several clients: what each asks for and writes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import RecommenderError, Settings
from recommender.benchmark import clients, pages
from recommender.benchmark.clients import Client, Work
from recommender.benchmark.distributions import END
from recommender.benchmark.large_world import LargeWorld
from recommender.benchmark.load import load
from recommender.benchmark.pages import FOR_YOU, measure_pages, timed_page
from recommender.benchmark.sessions import (
    PAGES_OF_A_SESSION,
    TIME_OF_A_PAGE,
    measure_sessions,
    session_pages,
    swipes_on,
)
from recommender.models import FeedSession, ServedVideo, User
from recommender.models.tables import EVENTS
from tests.support.kinds import only_postgresql, slow_on_postgresql
from tests.support.worlds import make_user, make_videos

SMALL = LargeWorld(videos=300, users=100, follows=900, interactions=2_000, seen=150)
ONE, OTHER = SMALL.user_key(3), SMALL.user_key(4)
TWENTY = 20

NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def make_world(engine: Engine) -> None:
    load(engine, SMALL)


@pytest.fixture
def world(engine: Engine) -> Engine:
    return engine


def served(engine: Engine) -> list[tuple[str, int]]:
    """Return the viewers of all sessions, in order, with the numbers of pages."""
    query = sa.select(User.key, FeedSession.pages).join(User, User.id == FeedSession.user_id)
    with Session(engine) as session:
        return sorted((row.key, row.pages) for row in session.execute(query))


def test_a_session_is_ten_recorded_pages_and_the_swipes_between_them(world: Engine) -> None:
    assert len(list(session_pages(world, ONE))) == PAGES_OF_A_SESSION
    assert served(world) == [(ONE, PAGES_OF_A_SESSION)]
    with Session(world) as session:
        positions = session.scalars(
            sa.select(ServedVideo.position).order_by(ServedVideo.position)
        ).all()
        events = session.execute(sa.select(EVENTS)).all()
        between = sa.select(ServedVideo.video_id, ServedVideo.served_at).where(
            ServedVideo.position <= 180
        )
        shown = {(row.video_id, row.served_at) for row in session.execute(between)}
    assert positions == list(range(1, TWENTY * PAGES_OF_A_SESSION + 1))
    assert {(event.video_id, event.at) for event in events} == shown
    assert len(events) == TWENTY * (PAGES_OF_A_SESSION - 1)
    assert {event.kind for event in events} == {"impression", "watch"}
    assert {event.at for event in events} == {END + page * TIME_OF_A_PAGE for page in range(9)}


@slow_on_postgresql
def test_a_session_ends_with_the_last_video(engine: Engine) -> None:
    def write(session: Session) -> None:
        make_user(session, "ana")
        make_videos(session, *(f"v{number}" for number in range(30)), published_at=END)

    recommender.run_transaction(engine, write)
    assert len(list(session_pages(engine, "ana"))) == 2


@slow_on_postgresql
def test_swipes_depend_on_the_viewer_and_the_position_only(world: Engine) -> None:
    _, page = timed_page(world, ONE)
    _, again = timed_page(world, ONE)
    swipes, others = swipes_on(page), swipes_on(again)
    assert [swipe.video for swipe in swipes] == [item.video for item in page.items]
    kinds = [(swipe.kind, swipe.completion) for swipe in swipes]
    assert kinds == [(swipe.kind, swipe.completion) for swipe in others]
    assert not {swipe.key for swipe in swipes} & {swipe.key for swipe in others}
    later = replace(page, request=replace(page.request, position=21))
    assert kinds != [(swipe.kind, swipe.completion) for swipe in swipes_on(later)]


@slow_on_postgresql
def test_sessions_are_measured_by_place_and_as_a_whole(world: Engine) -> None:
    transactions: list[object] = []
    sa.event.listen(world, "begin", transactions.append)
    measured = measure_sessions(world, [ONE, OTHER])
    begun = len(transactions)
    first, following, every = [each.times.count for each in measured]
    assert [each.state for each in measured] == [
        f"session, {which}" for which in ("first", "next", "all")
    ]
    warm_up = (ONE, PAGES_OF_A_SESSION)
    sessions = served(world)
    assert warm_up in sessions
    assert [viewer for viewer, _ in sessions] == [ONE, ONE, OTHER]
    assert first == 2
    recorded = sum(each for _, each in sessions)
    assert every == first + following == recorded - PAGES_OF_A_SESSION
    previews, swipes = 2, recorded - len(sessions)
    assert begun == previews + recorded + swipes


@slow_on_postgresql
def test_a_world_that_was_seen_has_no_following_pages(engine: Engine) -> None:
    recommender.run_transaction(engine, lambda session: make_user(session, "ana"))
    states = [each.state for each in measure_sessions(engine, ["ana"])]
    assert states == ["session, first", "session, all"]


@slow_on_postgresql
def test_a_connection_opens_within_a_cold_page_and_before_a_connected_one(
    world: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def page(*arguments: Any, **options: Any) -> object:
        calls.append("page")
        return recommender.for_you(*arguments, **options)

    monkeypatch.setattr(pages, "for_you", page)
    sa.event.listen(world, "connect", lambda *_: calls.append("connect"))
    viewers = [ONE, OTHER]
    measured = list(measure_pages(world, FOR_YOU, viewers, SMALL.user_key(1)))
    cold, connected, warm_up, warm, seen_many = 2, 2, 2, 4, 2
    assert calls == [
        *["page", "connect"] * cold,
        *["connect", "page"] * connected,
        *["page"] * (warm_up + warm + seen_many),
    ]
    assert [(each.state, each.times.count) for each in measured] == [
        ("cold", 2), ("connected", 2), ("warm", 4), ("warm, seen many", 1)
    ]  # fmt: skip


@slow_on_postgresql
def test_pages_of_another_profile_are_previews(world: Engine) -> None:
    assert len(list(measure_pages(world, "classic", [ONE, OTHER], SMALL.user_key(1)))) == 4
    assert served(world) == []


def client(url: str, number: int = 0, number_of_clients: int = 1) -> Client:
    return Client(url, Settings(), SMALL, number, number_of_clients, seconds=0.0)


@pytest.mark.parametrize("number_of_clients", [1, 8, 500])
def test_clients_ask_for_different_usual_viewers_in_turn(number_of_clients: int) -> None:
    usual = [SMALL.user_key(number) for number in range(2, SMALL.users + 1)]
    asked = [
        list(islice(client("sqlite://", number, number_of_clients).viewers(), 200))
        for number in range(number_of_clients)
    ]
    turns = [viewer for turn in zip(*asked, strict=True) for viewer in turn]
    assert turns[: len(usual)] == usual
    assert set(turns) == set(usual)


def test_a_client_records_sessions_or_asks_for_previews(world: Engine, kind: str) -> None:
    asked = clients.asked_pages(world, iter([ONE, OTHER]))
    assert len(list(islice(asked, PAGES_OF_A_SESSION + 1))) == (2 if kind == "sqlite" else 11)
    is_writing = kind == "postgresql"
    assert served(world) == ([(ONE, PAGES_OF_A_SESSION), (OTHER, 1)] if is_writing else [])


def test_a_client_waits_for_the_others_and_asks_for_a_page_at_least(world: Engine) -> None:
    start = Barrier(2, timeout=20)
    waiting = threading.Thread(target=start.wait)
    waiting.start()
    work = clients._run(client(world.url.render_as_string(hide_password=False)), start)
    waiting.join()
    assert len(work.times) == 1
    assert work.client_cpu > 0


def test_a_client_that_fails_lets_no_other_wait(tmp_path: Path) -> None:
    start = Barrier(2)
    with pytest.raises(recommender.SchemaOutOfDate):
        clients._run(client(f"sqlite:///{tmp_path}/empty.db"), start)
    assert start.broken


def test_the_error_of_the_client_that_failed_is_raised() -> None:
    waiting, failed = Future[Work](), Future[Work]()
    waiting.set_exception(BrokenBarrierError())
    failed.set_exception(RecommenderError("no more connections"))
    with pytest.raises(RecommenderError, match="no more connections"):
        clients._results([waiting, failed])


def test_the_share_of_the_clients_is_of_all_processor_time() -> None:
    work = [Work([0.1], 1.0, 0.25, 0.5), Work([0.1], 1.0, 0.5, 0.75)]
    assert clients.client_share(work) == 0.375
    assert clients.client_share([*work, Work([0.1], 1.0, 0.5, None)]) is None


@NEEDS_PROC
def test_the_processor_time_is_that_of_user_and_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "SERVER", Path("/proc/self/comm").read_text().strip())
    before, tick = sum(os.times()[:2]), 1 / os.sysconf("SC_CLK_TCK")
    seconds = clients.server_seconds(os.getpid()) or 0.0
    assert before - tick <= seconds <= sum(os.times()[:2]) + tick


@only_postgresql
@NEEDS_PROC
@pytest.mark.skipif("RECOMMENDER_TEST_POSTGRES_URL" in os.environ, reason="it may run elsewhere")
def test_the_processor_time_of_the_servers_process_grows_with_its_work(engine: Engine) -> None:
    process = clients.server_process(engine)
    before = clients.server_seconds(process)
    assert before is not None
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM generate_series(1, 1000000)")
    after = clients.server_seconds(process)
    assert after is not None
    assert after > before


def test_the_time_of_what_is_no_server_is_not_known() -> None:
    assert [clients.server_seconds(process) for process in (None, os.getpid())] == [None, None]


def test_sqlite_has_no_process_of_its_own(world: Engine, kind: str) -> None:
    assert (clients.server_process(world) is None) == (kind == "sqlite")


def test_a_client_counts_until_the_time_is_up() -> None:
    answered: list[float] = []

    def ask() -> float:
        answered.append(0.5)
        return 0.5

    work = clients.work_on(iter(ask, None), None, 0.01)
    assert (work.times, work.server_cpu) == (answered, None)
    assert work.seconds >= 0.01
