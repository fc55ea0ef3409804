"""Measure how fast pages are, and what they cost, on a synthetic world.

Times are of whole pages as a host sees them: a connection of the pool, a transaction, the
statements, the page, the commit. A *cold* page is the first of a viewer on a new connection; a
*warm* one is on a connection that has answered a few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from statistics import fmean, median
from typing import Any, TypeAlias
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import Connection, Double, Engine, event, literal
from sqlalchemy.orm import Session

from recommender.benchmark import numpy_baseline
from recommender.benchmark.distributions import END
from recommender.benchmark.large_world import LargeWorld
from recommender.benchmark.results import Benchmark, Pages, Times
from recommender.benchmark.vectors import measure_vectors
from recommender.database import lookup
from recommender.database.engine import create_engine
from recommender.database.expressions import Statement
from recommender.database.transactions import run_transaction
from recommender.feed.for_you import for_you
from recommender.feed.resolve import resolve
from recommender.feed.statements import page_rows
from recommender.ingest.events import record_many
from recommender.ingest.values import Event
from recommender.lists.people import people
from recommender.lists.reach import reach
from recommender.lists.similar import similar
from recommender.models import Video
from recommender.operations import query_plans
from recommender.operations.probes import spread_keys
from recommender.ranking.filters import allowed
from recommender.ranking.registry import OURS
from recommender.ranking.request import REFERENCE, FeedRequest
from recommender.ranking.scoring import ordered, ranked, scored
from recommender.ranking.viewer import Shape, Viewer
from recommender.settings import Settings

FOR_YOU = "for_you@1"

SEEN_BY_FEW = 2
"""The id of the first usual user: user 1 has seen very many videos and is measured alone."""

EVENTS_AT_ONCE, BATCHES = 1_000, 5

WARM_UP = 3

Progress: TypeAlias = Callable[[str], None]


def measure(
    engine: Engine,
    world: LargeWorld,
    *,
    settings: Settings | None = None,
    clients: int = 8,
    count: int = 50,
    seconds: float = 5.0,
    exact: int = 2,
    dim: int | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Measure pages and what they are compared with; record pages and events in the world.

    Args:
        engine: a prepared engine on a database that holds the world.
        world: the world in the database.
        settings: the settings of the clients' engines; the defaults if None.
        clients: the number of concurrent clients.
        count: the number of pages per kind, at least 2.
        seconds: how long the concurrent clients ask for pages.
        exact: the number of viewers for whom every video is scored by all signals, which is slow.
        dim: the number of dimensions of vectors to measure, None for none.
        progress: told the name of the next step.
    """
    say = progress or (lambda _what: None)
    viewers = _viewers(world, count)
    pages: list[Pages] = []
    for profile in (FOR_YOU, REFERENCE):
        say(f"pages of {profile}")
        pages += _alone(engine, profile, viewers, world)
    say(f"{clients} clients")
    pages.append(_together(engine, world, settings or Settings(), clients, seconds))
    say("lists")
    pages += _lists(engine, viewers)
    say("the same by hand")
    by_hand = _by_hand(engine, viewers)
    say("every video")
    whole = _whole(engine, viewers)
    say("exact answers")
    exactness = _exact(engine, viewers[:exact])
    say("plans")
    read = _read(engine, viewers[:5])
    say("events")
    events = _events(engine, viewers)
    return Benchmark(
        database=_database(engine),
        videos=world.videos,
        pages=tuple(pages),
        whole=whole,
        ratios={**_ratios(pages, whole), "page / by hand": by_hand},
        exact=exactness,
        events=events,
        read=read,
        vectors=measure_vectors(engine, dim, viewers, say) if dim else {},
    )


def _viewers(world: LargeWorld, count: int) -> list[str]:
    """Return the keys of users from all parts of the table, without the first user."""
    last = world.users - SEEN_BY_FEW
    return [world.user_key(SEEN_BY_FEW + last * index // count) for index in range(count)]


def _page(engine: Engine, viewer: str, profile: str) -> float:
    """Return the seconds that one page takes."""
    record = profile == FOR_YOU

    def ask(session: Session) -> None:
        for_you(session, viewer, profile=profile, as_of=END, record=record)

    return _seconds(lambda: run_transaction(engine, ask, write=record))


def _alone(
    engine: Engine, profile: str, viewers: Sequence[str], world: LargeWorld
) -> Iterator[Pages]:
    cold = []
    for viewer in viewers:
        engine.dispose()
        cold.append(_page(engine, viewer, profile))
    for viewer in viewers[:WARM_UP]:
        _page(engine, viewer, profile)
    warm = [_page(engine, viewer, profile) for viewer in viewers for _ in range(2)]
    seen = [_page(engine, world.user_key(1), profile) for _ in viewers][1:]
    for state, times in (("cold", cold), ("warm", warm), ("warm, seen many", seen)):
        yield Pages(profile, state, 1, Times.of(times), round(1 / fmean(times), 1))


def _lists(engine: Engine, viewers: Sequence[str]) -> Iterator[Pages]:
    """Measure the lists beside For You, each on a warm connection."""
    with Session(engine) as session:
        videos = spread_keys(session, Video, len(viewers))
    pairs = list(zip(viewers, videos, strict=False))
    lists: Mapping[str, list[Callable[[Session], object]]] = {
        "similar": [partial(similar, videos=video, user=user, as_of=END) for user, video in pairs],
        "people": [partial(people, user=user, as_of=END) for user, _ in pairs],
        "reach": [partial(reach, video=video, as_of=END) for _, video in pairs],
    }
    for name, calls in lists.items():
        for call in calls[:WARM_UP]:
            run_transaction(engine, call)
        times = [_seconds(partial(run_transaction, engine, call)) for call in calls]
        yield Pages(name, "warm", 1, Times.of(times), round(1 / fmean(times), 1))


def _together(
    engine: Engine, world: LargeWorld, settings: Settings, clients: int, seconds: float
) -> Pages:
    url = engine.url.render_as_string(hide_password=False)
    asks = [(url, settings, world, place, clients, seconds) for place in range(clients)]
    with ProcessPoolExecutor(clients, mp_context=get_context("spawn")) as pool:
        by_client = list(pool.map(_client, asks))
    times = [page_time for client in by_client for page_time in client]
    return Pages(FOR_YOU, "warm", clients, Times.of(times), round(len(times) / seconds, 1))


def _client(ask: tuple[str, Settings, LargeWorld, int, int, float]) -> list[float]:
    """Ask for pages until the time is up and return their seconds; runs in its own process."""
    url, settings, world, place, clients, seconds = ask
    engine = create_engine(url, settings=settings, registry=OURS)
    viewers = [world.user_key(user) for user in range(2 + place, world.users, clients)][:1_000]
    for viewer in viewers[:WARM_UP]:
        _page(engine, viewer, FOR_YOU)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        times.append(_page(engine, viewers[len(times) % len(viewers)], FOR_YOU))
    engine.dispose()
    return times


def _by_hand(engine: Engine, viewers: Sequence[str]) -> float:
    """Return the time of a page, divided by the time of its bare statements in the driver.

    Both times are medians. Each page is made once before, so that its rows are in memory. The two
    ways take turns in coming first.
    """
    pages, bare = list[float](), list[float]()
    with Session(engine) as session:
        connection = lookup.connection(session)
        cursor = connection.connection.cursor()

        def page(viewer: str) -> None:
            for_you(session, viewer, profile=FOR_YOU, as_of=END, record=False)

        def send(statements: Sequence[tuple[str, Any]]) -> None:
            for statement, values in statements:
                cursor.execute(statement, values)
                cursor.fetchall()

        for number, viewer in enumerate([*viewers[:WARM_UP], *viewers, *viewers]):
            with _noted(connection) as sent:
                page(viewer)
            turns = [(pages, partial(page, viewer)), (bare, partial(send, sent))]
            for times, ask in turns if number % 2 else reversed(turns):
                times.append(_seconds(ask))
    return round(median(pages[WARM_UP:]) / median(bare[WARM_UP:]), 3)


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


@contextmanager
def _noted(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements that are sent, with their values."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        sent.append((statement, values))

    event.listen(connection, "before_cursor_execute", note)
    yield sent
    event.remove(connection, "before_cursor_execute", note)


def _whole(engine: Engine, viewers: Sequence[str]) -> dict[str, Any]:
    """Measure the reference formula over every video, in the database and in memory."""
    times: dict[str, list[float]] = {"statement": [], "numpy": [], "classic": []}
    is_equal = True
    with _patient(engine) as session:
        catalogue = numpy_baseline.read_catalogue(session)
        for viewer in viewers[:7]:
            request = resolve(session, viewer, REFERENCE, as_of=END)
            ways: Mapping[str, Callable[[], list[int]]] = {
                "statement": lambda: _ids(session, request),  # noqa: B023 - called in this turn
                "numpy": lambda: numpy_baseline.best(session, request, catalogue),  # noqa: B023
                "classic": lambda: _classic(session, viewer),  # noqa: B023
            }
            answers: list[list[int]] = []
            for name, way in ways.items():
                times[name].append(_seconds(lambda: answers.append(way())))  # noqa: B023
            is_equal &= answers[0] == answers[1] == answers[2]
    return {
        **{name: asdict(Times.of(seconds)) for name, seconds in times.items()},
        "equal": is_equal,
    }


def _ids(session: Session, request: FeedRequest) -> list[int]:
    return [row.video_id for row in page_rows(session, request, ranked, "benchmark")]


def _classic(session: Session, viewer: str) -> list[int]:
    page = for_you(session, viewer, profile=REFERENCE, as_of=END, record=False)
    return [item.video_id for item in page.items]


@contextmanager
def _patient(engine: Engine) -> Iterator[Session]:
    """Open a session without a statement timeout."""
    with Session(engine) as session:
        if engine.dialect.name != "sqlite":
            session.execute(sa.select(sa.func.set_config("statement_timeout", "0", sa.true())))
        yield session


def _exact(engine: Engine, viewers: Sequence[str]) -> dict[str, float]:
    """Compare the best candidates with the best of all videos."""
    recalls, shares = [], []
    with _patient(engine) as session:
        for viewer in viewers:
            request = resolve(session, viewer, FOR_YOU, as_of=END)
            best = _scores(session, request, _every)
            scores = _scores(session, request, ranked)
            recalls.append(len(best.keys() & scores.keys()) / max(1, len(best)))
            shares.append(sum(scores.values()) / max(1, sum(best.values())))
    if not viewers:
        return {"viewers": 0}
    return {
        "recall": round(fmean(recalls), 4),
        "score_share": round(fmean(shares), 4),
        "viewers": len(viewers),
    }


def _scores(session: Session, request: FeedRequest, ranking: Any) -> dict[int, int]:
    rows = page_rows(session, request, ranking, "benchmark")
    return {row.video_id: row.score_key for row in rows}


def _every(shape: Shape, viewer: Viewer) -> Statement:
    """Return the statement that ranks every video that passes the filters."""
    every: Statement = sa.select(
        Video.id.label("video_id"), literal(0.0, Double()).label("sources")
    )
    statement = scored(shape, viewer, every.where(*allowed(shape, viewer)).cte("candidates"))
    return ordered(statement).limit(viewer.limit)


def _read(engine: Engine, viewers: Sequence[str]) -> dict[str, float | None]:
    with Session(engine) as session:
        plans = [
            query_plans.page_plan(session, resolve(session, viewer, FOR_YOU, as_of=END))
            for viewer in viewers
        ]
    return {
        name: None
        if getattr(plans[0], name) is None
        else round(fmean(getattr(p, name) for p in plans))
        for name in ("read", "discarded", "buffers")
    }


def _events(engine: Engine, viewers: Sequence[str]) -> dict[str, float]:
    """Measure the watch events recorded per second."""
    run = uuid4().hex
    with Session(engine) as session:
        videos = session.scalars(sa.select(Video.key).order_by(Video.id.desc()).limit(5_000)).all()

    def watch(number: int) -> Event:
        viewer, video = viewers[number % len(viewers)], videos[number * 7 % len(videos)]
        return Event(f"{run}-{number}", viewer, video, "watch", END, completion=0.9)

    rates = {}
    for name, size, times in (("one", 1, 50), ("many", EVENTS_AT_ONCE, BATCHES)):
        batches = [[watch(size * times + size * t + n) for n in range(size)] for t in range(times)]
        started = time.perf_counter()
        for batch in batches:
            run_transaction(engine, partial(record_many, events=batch))
        rates[name] = round(size * times / (time.perf_counter() - started), 1)
    return rates


def _ratios(pages: Sequence[Pages], whole: Mapping[str, Any]) -> dict[str, float]:
    p50 = {(page.profile, page.state, page.clients): page.times.p50 for page in pages}
    for_you_page = p50[FOR_YOU, "warm", 1]
    return {
        "classic / statement": round(whole["classic"]["p50"] / whole["statement"]["p50"], 4),
        "for_you / statement": round(for_you_page / whole["statement"]["p50"], 4),
        "for_you / numpy": round(for_you_page / whole["numpy"]["p50"], 3),
        "seen many / few": round(p50[FOR_YOU, "warm, seen many", 1] / for_you_page, 3),
    }


def _database(engine: Engine) -> dict[str, Any]:
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            version = connection.scalar(sa.select(sa.func.sqlite_version()))
        return {"name": "sqlite", "version": version, "parallel_workers": 0}
    with engine.connect() as connection:
        names = ("server_version", "max_parallel_workers_per_gather")
        read = [sa.func.current_setting(name) for name in names]
        version, workers = connection.execute(sa.select(*read)).one()
    return {"name": "postgresql", "version": version, "parallel_workers": int(workers)}
