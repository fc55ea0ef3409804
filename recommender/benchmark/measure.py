"""Measure how fast pages are, and what they cost, on a synthetic world."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from statistics import fmean, median
from typing import Any, TypeAlias
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import Connection, Double, Engine, event, literal
from sqlalchemy.orm import Session

from recommender.benchmark import numpy_baseline
from recommender.benchmark.clients import FIRST_USUAL, measure_clients
from recommender.benchmark.distributions import END
from recommender.benchmark.large_world import LargeWorld
from recommender.benchmark.pages import (
    FOR_YOU,
    WARM_UP,
    measure_lists,
    measure_pages,
    seconds_of,
)
from recommender.benchmark.results import Benchmark, Pages, Times
from recommender.benchmark.sessions import measure_sessions
from recommender.benchmark.vectors import measure_vectors
from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.transactions import run_transaction
from recommender.feed.for_you import for_you
from recommender.feed.resolve import resolve
from recommender.feed.statements import page_rows
from recommender.ingest.events import record_many
from recommender.ingest.values import Event
from recommender.models import Video
from recommender.operations import query_plans
from recommender.ranking.filters import allowed
from recommender.ranking.request import REFERENCE, FeedRequest
from recommender.ranking.scoring import ordered, ranked, scored
from recommender.ranking.viewer import Shape, Viewer
from recommender.settings import Settings

EVENTS_AT_ONCE, BATCHES = 1_000, 5

Progress: TypeAlias = Callable[[str], None]


def measure(
    engine: Engine,
    world: LargeWorld,
    *,
    settings: Settings | None = None,
    clients: Sequence[int] = (1, 8, 32),
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
        clients: the numbers of concurrent clients to measure.
        count: the number of pages per kind, at least 2.
        seconds: how long each number of clients asks for pages.
        exact: the number of viewers for whom every video is scored by all signals, which is slow.
        dim: the number of dimensions of vectors to measure, None for none.
        progress: told the name of the next step.
    """
    say = progress or (lambda _what: None)
    viewers = _viewers(world, count)
    pages: list[Pages] = []
    for profile in (FOR_YOU, REFERENCE):
        say(f"pages of {profile}")
        pages += measure_pages(engine, profile, viewers, world.user_key(1))
    say("lists")
    pages += measure_lists(engine, viewers)
    say("the same by hand")
    by_hand = _by_hand(engine, viewers)
    say("every video")
    whole = _whole(engine, viewers)
    say("exact answers")
    exactness = _exact(engine, viewers[:exact])
    say("plans")
    read = _read(engine, viewers[:5])
    say("sessions")
    pages += measure_sessions(engine, viewers)
    for number in clients:
        say(f"{number} clients" if number > 1 else "1 client")
        pages.append(measure_clients(engine, world, settings or Settings(), number, seconds))
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
    last = world.users - FIRST_USUAL
    return [world.user_key(FIRST_USUAL + last * index // count) for index in range(count)]


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
                times.append(seconds_of(ask))
    return round(median(pages[WARM_UP:]) / median(bare[WARM_UP:]), 3)


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
                times[name].append(seconds_of(lambda: answers.append(way())))  # noqa: B023
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
        "cold / warm": round(p50[FOR_YOU, "cold", 1] / for_you_page, 3),
        "connected / warm": round(p50[FOR_YOU, "connected", 1] / for_you_page, 3),
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
