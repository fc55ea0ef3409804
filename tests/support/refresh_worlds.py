"""Worlds with random events, and the expected results of a refresh in plain Python."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    record_many,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.models import (
    Base,
    EventRow,
    Interaction,
    LearningState,
    PendingEvent,
    RecentEngagement,
    Video,
    VideoNeighbour,
)
from tests.support.worlds import NOON, at, make_event

KINDS = ["watch"] * 8 + ["impression", "like", "share", "save", "unlike", "comment", "unsave"]


Statistics = dict[int, tuple[int, int]]


def people(engine: Engine, users: int, videos: int) -> None:
    """Create users u0, u1, … and videos v0, v1, … with hashtags and sounds."""

    def write(session: Session) -> None:
        upsert_users(session, [{"id": f"u{n}"} for n in range(users)])
        upsert_videos(
            session,
            [
                {
                    "id": f"v{n}", "creator": f"u{n % 3}", "published_at": at(-n),
                    "duration_ms": 10_000, "sound": f"s{n % 4}",
                    "hashtags": [f"h{n % 5}", f"h{n % 7}"],
                }
                for n in range(videos)
            ],
        )  # fmt: skip

    run_transaction(engine, write)


def behave(engine: Engine, users: int, videos: int, events: int, seed: int = 1) -> None:
    """Record random events, one per minute. The seed is also the day of the first event."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    made = [
        make_event(
            chance.choice(KINDS), f"v{int(videos * chance.random() ** 2)}",
            f"u{chance.randrange(users)}", at=NOON + timedelta(days=seed, minutes=n),
            watch_ms=chance.choice([None, 1000, 5000, 20_000]),
        )
        for n in range(events)
    ]  # fmt: skip
    for start in range(0, events, 100):
        run_transaction(engine, lambda s, b=made[start : start + 100]: record_many(s, b))


def watch(engine: Engine, *pairs: tuple[str, str], **body: Any) -> None:
    """Record engaged views of videos by users."""
    body = {"watch_ms": 20_000, **body}
    events = [make_event("watch", video, user, **body) for user, video in pairs]
    run_transaction(engine, lambda session: record_many(session, events))


def read(engine: Engine, *columns: Any) -> list[Any]:
    with Session(engine) as session:
        return sorted(tuple(row) for row in session.execute(sa.select(*columns)))


def keyed(engine: Engine) -> dict[int, str]:
    return dict(read(engine, Video.id, Video.key))


def statistics(engine: Engine) -> Statistics:
    rows = read(engine, Video.id, Video.impressions, Video.engaged_views)
    return {video_id: (viewed, engaged) for video_id, viewed, engaged in rows if viewed or engaged}


def expected_statistics(engine: Engine) -> Statistics:
    states = read(engine, Interaction.video_id, Interaction.impressions, Interaction.engaged_views)
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for video_id, impressions, engaged_views in states:
        found[video_id][0] += impressions > 0
        found[video_id][1] += engaged_views > 0
    return {video_id: (v, e) for video_id, (v, e) in found.items() if v or e}


def trends(engine: Engine) -> dict[int, float]:
    return {i: t for i, t in read(engine, Video.id, Video.trending) if t is not None}


def expected_trends(engine: Engine) -> dict[int, float]:
    """Compute trends from first engaged views, with a half-life of 2 days from 2026 on."""
    first: dict[tuple[int, int], Any] = {}
    columns = (EventRow.at, EventRow.user_id, EventRow.video_id, EventRow.engaged)
    for moment, user_id, video_id, engaged in read(engine, *columns):
        if engaged:
            first.setdefault((user_id, video_id), moment)
    sums: Counter[int] = Counter()
    landmark = NOON - timedelta(hours=12)
    for (_, video_id), moment in first.items():
        sums[video_id] += 2 ** ((moment - landmark) / timedelta(days=2))  # type: ignore[assignment]
    return {video_id: math.log2(total) for video_id, total in sums.items()}


def recent(engine: Engine) -> dict[int, set[tuple[int, Any]]]:
    found = defaultdict(set)
    for user_id, video_id, moment in read(engine, *RecentEngagement.__table__.c):
        found[user_id].add((video_id, moment))
    return dict(found)


def expected_recent(engine: Engine, most: int = 50) -> dict[int, set[tuple[int, Any]]]:
    columns = [
        Interaction.user_id, Interaction.video_id, Interaction.engaged_at,
        Interaction.not_interested_at, Interaction.reports,
    ]  # fmt: skip
    found = defaultdict(list)
    for user_id, video_id, moment, refused, reports in read(engine, *columns):
        if moment and not refused and not reports:
            found[user_id].append((moment, video_id))
    return {u: {(v, m) for m, v in sorted(each)[-most:]} for u, each in found.items()}


def neighbours(engine: Engine) -> dict[tuple[int, int], float]:
    return {(i, j): each for i, j, each in read(engine, *VideoNeighbour.__table__.c)}


def expected_neighbours(
    engine: Engine, shrinkage: float = 5.0, most: int = 100
) -> dict[tuple[int, int], float]:
    views = dict(read(engine, Video.id, Video.engaged_views))
    together: Counter[tuple[int, int]] = Counter()
    for engaged in recent(engine).values():
        videos = [video_id for video_id, _ in engaged]
        together.update((i, j) for i in videos for j in videos if i != j)
    among: Counter[int] = Counter()
    for (_, j), common in together.items():
        among[j] += common
    found = defaultdict(list)
    for (i, j), common in together.items():
        if views[j]:
            excess = common - among[j] * views[i] / sum(views.values())
            cosine = excess / math.sqrt(max(views[i], common) * max(views[j], common))
            if excess > 0:
                found[j].append((-cosine * excess / (excess + shrinkage), i))
    return {(i, j): -each for j in found for each, i in sorted(found[j])[:most]}


def everything(engine: Engine) -> dict[str, list[Any]]:
    with Session(engine) as session:
        return {
            table.name: sorted(map(repr, session.execute(sa.select(table))))
            for table in Base.metadata.tables.values()
        }


def check(engine: Engine) -> None:
    """Check everything that a complete refresh derives."""
    assert read(engine, PendingEvent.key) == []
    assert statistics(engine) == expected_statistics(engine)
    assert trends(engine) == pytest.approx(expected_trends(engine), abs=1e-9)
    greatest = max((each for each in trends(engine).values() if each is not None), default=None)
    assert read(engine, LearningState.trend_peak) == [(greatest,)]
    assert recent(engine) == expected_recent(engine)


@contextmanager
def until_done(work: Callable[[], Any], threads: ThreadPoolExecutor) -> Iterator[None]:
    """Repeat work in a thread until the block ends."""
    is_done = False

    def loop() -> None:
        while not is_done:
            work()

    running = threads.submit(loop)
    try:
        yield
    finally:
        is_done = True
        running.result()
