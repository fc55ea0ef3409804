"""Measure sessions of ten pages, with swipes between them, as an application asks for them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial

from sqlalchemy import Engine

from recommender.benchmark.distributions import END
from recommender.benchmark.pages import FOR_YOU, timed_page
from recommender.benchmark.results import Pages
from recommender.database.transactions import run_transaction
from recommender.feed.values import FeedItem, FeedPage
from recommender.ingest.events import record_many
from recommender.ingest.values import Event

PAGES_OF_A_SESSION = 10

WATCHED = 0.5
"""The share of videos that are watched in part; the other videos get an impression only."""

TIME_OF_A_PAGE = timedelta(minutes=3)
"""The time between two pages of a session: 20 videos of 9 seconds."""


def session_pages(engine: Engine, viewer: str) -> Iterator[float]:
    """Ask for the pages of a session, and yield the seconds that each takes.

    Each page is recorded. Before each following page the swipes on the page before are recorded, in
    a transaction of its own, which is not measured. The session ends after `PAGES_OF_A_SESSION`
    pages, or with the last video.
    """
    cursor, swipes = None, list[Event]()
    for number in range(PAGES_OF_A_SESSION):
        if swipes:
            run_transaction(engine, partial(record_many, events=swipes))
        as_of = END + number * TIME_OF_A_PAGE
        seconds, page = timed_page(engine, viewer, cursor=cursor, as_of=as_of)
        yield seconds
        if page.exhausted:
            return
        cursor, swipes = page.cursor, swipes_on(page)


def swipes_on(page: FeedPage) -> list[Event]:
    """Return an event for each video of a recorded page: a watch or an impression.

    The viewer and the position decide which, so each run records the same mixture.
    """
    request = page.request
    chance = random.Random(f"{request.user}/{request.position}")  # noqa: S311 - no secret

    def swipe(item: FeedItem) -> Event:
        is_watched = chance.random() < WATCHED
        return Event(
            key=f"{request.session}/{item.position}",
            user=request.user,
            video=item.video,
            kind="watch" if is_watched else "impression",
            at=request.as_of,
            completion=round(chance.random(), 2) if is_watched else None,
        )

    return [swipe(item) for item in page.items]


def measure_sessions(engine: Engine, viewers: Sequence[str]) -> list[Pages]:
    """Measure a session of each viewer: the first pages, the following pages, and all pages.

    Each viewer gets a preview before, so that their rows are in memory.

    Args:
        engine: a prepared engine on a database that holds a world.
        viewers: the keys of the viewers, at least one.
    """
    for _ in session_pages(engine, viewers[0]):
        pass  # SQLAlchemy compiles the statements of a session
    sessions = []
    for viewer in viewers:
        timed_page(engine, viewer, record=False)
        sessions.append(list(session_pages(engine, viewer)))
    times = {
        "session, first": [pages[0] for pages in sessions],
        "session, next": [seconds for pages in sessions for seconds in pages[1:]],
        "session, all": [seconds for pages in sessions for seconds in pages],
    }
    # A world whose videos were all seen in earlier runs has no following pages.
    return [Pages.alone(FOR_YOU, state, seconds) for state, seconds in times.items() if seconds]
