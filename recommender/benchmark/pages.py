"""Measure single pages and lists, one after another.

Times are of whole pages as a host sees them: a connection of the pool, a transaction, the
statements, the page, the commit. The state of a page says what was ready before it:

- *cold*: nothing; it is the first page of a viewer, and opens a connection.
- *connected*: the pool has opened a connection, which has answered no page yet.
- *warm*: the connection has answered a few pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.benchmark.distributions import END
from recommender.benchmark.results import Pages
from recommender.database.transactions import run_transaction
from recommender.feed.for_you import for_you
from recommender.feed.values import FeedPage
from recommender.lists.people import people
from recommender.lists.reach import reach
from recommender.lists.similar import similar
from recommender.models import Video
from recommender.operations.probes import spread_keys

FOR_YOU = "for_you@1"

WARM_UP = 3
"""The pages that a connection answers before pages on it are warm."""


def seconds_of(do: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def timed_page(
    engine: Engine,
    viewer: str,
    *,
    profile: str = FOR_YOU,
    record: bool = True,
    cursor: str | None = None,
    as_of: datetime = END,
) -> tuple[float, FeedPage]:
    """Return a page in a transaction of its own, after the seconds that it takes."""

    def ask(session: Session) -> FeedPage:
        return for_you(
            session, viewer, profile=profile, cursor=cursor, as_of=as_of, record=record
        )  # fmt: skip

    started = time.perf_counter()
    page = run_transaction(engine, ask, write=record)
    return time.perf_counter() - started, page


def measure_pages(
    engine: Engine, profile: str, viewers: Sequence[str], seen_many: str
) -> Iterator[Pages]:
    """Measure first pages of a profile in each state.

    Pages of `FOR_YOU` are recorded, others are previews.

    Args:
        engine: a prepared engine on a database that holds a world.
        profile: the profile, as ``name`` or ``name@version``.
        viewers: the keys of usual viewers.
        seen_many: the key of a viewer who has seen very many videos.
    """

    def ask(viewer: str) -> float:
        return timed_page(engine, viewer, profile=profile, record=profile == FOR_YOU)[0]

    def ask_cold(viewer: str) -> float:
        engine.dispose()
        return ask(viewer)

    def ask_connected(viewer: str) -> float:
        engine.dispose()
        engine.connect().close()  # whatever the engine does to a new connection is done by then
        return ask(viewer)

    times = {
        "cold": [ask_cold(viewer) for viewer in viewers],
        "connected": [ask_connected(viewer) for viewer in viewers],
    }
    for viewer in viewers[:WARM_UP]:
        ask(viewer)
    times["warm"] = [ask(viewer) for viewer in viewers for _ in range(2)]
    times["warm, seen many"] = [ask(seen_many) for _ in viewers][1:]
    for state, seconds in times.items():
        yield Pages.alone(profile, state, seconds)


def measure_lists(engine: Engine, viewers: Sequence[str]) -> Iterator[Pages]:
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
        times = [seconds_of(partial(run_transaction, engine, call)) for call in calls]
        yield Pages.alone(name, "warm", times)
