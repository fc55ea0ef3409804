"""Worlds with random events, and the expected results of a refresh in plain Python."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import numpy as np
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
    LearningState,
    PendingEvent,
    RecentEngagement,
    Video,
    VideoNeighbour,
)
from tests.support.positives import POSITIVE, Deed, is_engaged_view, positive_times
from tests.support.worlds import NOON, at, make_event

KINDS = ["watch"] * 8 + [
    "impression", "like", "share", "save", "unlike", "comment", "unsave", "convert", "interested",
    "not_interested",
]  # fmt: skip


GIVING = [kind for kind in KINDS if kind not in {"unlike", "unsave", "not_interested"}]
"""The kinds that take nothing back."""

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


def behave(
    engine: Engine,
    users: int,
    videos: int,
    events: int,
    seed: int = 1,
    kinds: Sequence[str] = KINDS,
) -> None:
    """Record random events, one per minute. The seed is also the day of the first event."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    made = [
        make_event(
            chance.choice(kinds), f"v{int(videos * chance.random() ** 2)}",
            f"u{chance.randrange(users)}", at=NOON + timedelta(days=seed, minutes=n),
            watch_ms=chance.choice([0, 1000, 5000, 20_000]),
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


def deeds_by_pair(engine: Engine) -> dict[tuple[int, int], list[Deed]]:
    """Return the events of the log by the ids of user and video, in the order of time."""
    row = EventRow
    columns = (row.user_id, row.video_id, row.at, row.kind, row.watch_ms, row.completion)
    found: dict[tuple[int, int], list[Deed]] = defaultdict(list)
    with Session(engine) as session:
        for user_id, video_id, moment, *rest in session.execute(sa.select(*columns)):
            kind, watch_ms, completion = rest
            found[user_id, video_id].append(Deed(kind, moment, watch_ms, completion))
    return {pair: sorted(deeds, key=lambda deed: deed.at) for pair, deeds in found.items()}


def positive_pairs(engine: Engine) -> dict[tuple[int, int], list[datetime]]:
    """Return the positive times of the pairs that are positive, by the numbers of today."""
    durations = dict(read(engine, Video.id, Video.duration_ms))
    (limits,) = read(engine, LearningState.engaged_part, LearningState.engaged_ms)
    found = {
        pair: positive_times(deeds, durations[pair[1]], limits)
        for pair, deeds in deeds_by_pair(engine).items()
    }
    return {pair: times for pair, times in found.items() if times}


def expected_statistics(engine: Engine) -> Statistics:
    positive = positive_pairs(engine)
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for pair, deeds in deeds_by_pair(engine).items():
        is_shown = any(deed.kind in {"impression", "watch"} for deed in deeds)
        found[pair[1]][0] += is_shown or pair in positive
        found[pair[1]][1] += pair in positive
    return {video_id: (v, e) for video_id, (v, e) in found.items() if v or e}


def trends(engine: Engine) -> dict[int, float]:
    return {i: t for i, t in read(engine, Video.id, Video.trending) if t is not None}


def expected_trends(engine: Engine) -> dict[int, float]:
    """Compute trends from the first positive events, with a half-life of 2 days from 2026 on.

    A pair counts from the first moment at which it was positive, even if it is no longer. This is
    what counting one event after the other, in the order of time, leads to.
    """
    durations = dict(read(engine, Video.id, Video.duration_ms))
    sums: Counter[int] = Counter()
    landmark = NOON - timedelta(hours=12)
    for (_, video_id), deeds in deeds_by_pair(engine).items():
        moment = first_positive(deeds, durations[video_id])
        if moment is None:
            continue
        sums[video_id] += 2 ** ((moment - landmark) / timedelta(days=2))  # type: ignore[assignment]
    return {video_id: math.log2(total) for video_id, total in sums.items()}


def first_positive(deeds: Sequence[Deed], duration_ms: int | None) -> datetime | None:
    """Return when a pair was positive first; it must not have had a positive event before."""
    for number, deed in enumerate(deeds, start=1):
        if deed.kind in POSITIVE or is_engaged_view(deed, duration_ms):
            is_now = positive_times(deeds[:number], duration_ms)
            return deed.at if is_now else None
    return None


def recent(engine: Engine) -> dict[int, set[tuple[int, Any]]]:
    found = defaultdict(set)
    for user_id, video_id, moment in read(engine, *RecentEngagement.__table__.c):
        found[user_id].add((video_id, moment))
    return dict(found)


def expected_recent(engine: Engine, most: int = 100) -> dict[int, set[tuple[int, Any]]]:
    found = defaultdict(list)
    for (user_id, video_id), times in positive_pairs(engine).items():
        found[user_id].append((times[-1], video_id))
    return {u: {(v, m) for m, v in sorted(each)[-most:]} for u, each in found.items()}


def neighbours(engine: Engine) -> dict[tuple[int, int], float]:
    """Return the similarity of each source and target."""
    row = VideoNeighbour
    return {
        (i, j): each for i, j, each in read(engine, row.source_id, row.video_id, row.similarity)
    }


def weights(engine: Engine) -> dict[tuple[int, int], float]:
    """Return the weight of each source and target."""
    row = VideoNeighbour
    return {(i, j): each for i, j, each in read(engine, row.source_id, row.video_id, row.weight)}


def expected_neighbours(engine: Engine, **similarity: Any) -> dict[tuple[int, int], float]:
    """The similarities of the neighbours that are kept."""
    kept = expected_weights(engine, **similarity)
    return {pair: each for pair, each in similarities(engine, **similarity).items() if pair in kept}


def expected_weights(
    engine: Engine, ridge: float = 100.0, least: float = 0.005, **similarity: Any
) -> dict[tuple[int, int], float]:
    """Solve the regression of each target on the sources that its similarity chose."""
    viewers: dict[int, set[int]] = defaultdict(set)
    for user_id, engaged in recent(engine).items():
        for video_id, _ in engaged:
            viewers[video_id].add(user_id)
    sources: dict[int, list[int]] = defaultdict(list)
    for i, j in similarities(engine, **similarity):
        sources[j].append(i)
    found = {}
    for j, ids in sources.items():
        gram = np.array([[len(viewers[i] & viewers[k]) for k in ids] for i in ids], float)
        right = np.array([len(viewers[i] & viewers[j]) for i in ids], float)
        solved = np.linalg.solve(gram + ridge * np.eye(len(ids)), right)
        pairs = {(i, j): max(0.0, each) for i, each in zip(ids, solved, strict=True)}
        found.update({pair: each for pair, each in pairs.items() if each >= least})
    return found


def similarities(
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
