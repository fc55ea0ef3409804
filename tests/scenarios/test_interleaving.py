"""Two concurrent operations give the result of one order, in any interleaving of statements."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    RecommenderError,
    Settings,
    erase_user,
    for_you,
    import_file,
    record,
    refresh,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.models import Affinity, Interaction, ServedVideo, User, Video
from tests.support.erasures import counted, is_gone
from tests.support.interleaving import Interleaving, Operation
from tests.support.refresh_worlds import recent, statistics, trends
from tests.support.worlds import at, names

WHOLE = 500
"""More steps than any operation here has."""

POINTS = 8
"""The largest number of points at which an operation is interrupted by the whole other one."""

BY_CHANCE = 14
"""The number of random orders."""

LONG_AGO = at(-60 * 24 * 30)
"""A time so old that no video is explored, and pages are not random."""

SMALL = Settings(batch_size=3, rollup_batch=2)


class Pair(NamedTuple):
    """Two operations on a small world, and the outcome to compare."""

    operations: tuple[Operation, Operation]
    outcome: Callable[[], Any]


def said(operation: Operation) -> Operation:
    """Return an operation that returns the name of its error."""

    def run(engine: Engine) -> Any:
        try:
            return operation(engine)
        except RecommenderError as error:
            return type(error).__name__

    return run


def unit(function: Callable[[Session], Any]) -> Operation:
    """Return an operation of one transaction."""
    return lambda engine: run_transaction(engine, function)


def make(engine: Engine, name: str, videos: int = 2) -> int:
    """Create a user and videos without other users; return the id of the user."""

    def write(session: Session) -> int:
        upsert_users(session, [{"id": name}])
        upsert_videos(session, [
            {"id": f"{name}-{n}", "creator": f"{name}-c", "published_at": LONG_AGO, "sound": name,
             "hashtags": [name], "duration_ms": 10_000} for n in range(videos)
        ])  # fmt: skip
        return session.scalars(sa.select(User.id).where(User.key == name)).one()

    return run_transaction(engine, write)


def rows(engine: Engine, *columns: Any, user_id: int) -> list[Any]:
    (table,) = {column.class_ for column in columns}
    with Session(engine) as session:
        found = session.execute(sa.select(*columns).where(table.user_id == user_id))
        return sorted(tuple(row) for row in found)


def learned(engine: Engine, user_id: int) -> list[Any]:
    """Return the affinities of a user, ordered by the ids of their subjects."""
    found = rows(engine, Affinity.subject, Affinity.subject_id, Affinity.score, user_id=user_id)
    return [(subject, pytest.approx(score)) for subject, _, score in found]


def of_videos(engine: Engine, name: str) -> list[Any]:
    """Return the derived values of the videos of a world, ordered by key."""
    of_user = {video_id: when for each in recent(engine).values() for video_id, when in each}
    with Session(engine) as session:
        mine = sa.select(Video.id).where(Video.key.startswith(f"{name}-")).order_by(Video.key)
        ids = session.scalars(mine).all()
    viewed, trending = statistics(engine), trends(engine)
    return [(viewed.get(i), trending.get(i), of_user.get(i)) for i in ids]


def like_and_unlike(engine: Engine, name: str, _folder: Path) -> Pair:
    user_id = make(engine, name)
    unit(lambda s: record(s, name, f"{name}-0", "like", at=at(0)))(engine)
    state = (Interaction.liked_at, Interaction.unliked_at, Interaction.last_at)
    return Pair(
        (
            unit(lambda s: record(s, name, f"{name}-0", "like", at=at(2))),
            unit(lambda s: record(s, name, f"{name}-0", "unlike", at=at(1))),
        ),
        lambda: (rows(engine, *state, user_id=user_id), learned(engine, user_id)),
    )


def record_and_erase(engine: Engine, name: str, _folder: Path) -> Pair:
    user_id = make(engine, name)
    unit(lambda s: record(s, name, f"{name}-0", "watch", at=at(0), watch_ms=9_999))(engine)
    refresh(engine, as_of=at(0))

    def outcome() -> None:
        is_gone(engine, user_id)
        assert statistics(engine) == counted(engine)

    return Pair(
        (
            unit(lambda s: record(s, name, f"{name}-1", "watch", at=at(1), watch_ms=9_999)),
            lambda bind: erase_user(bind, name).rows["events"],
        ),
        outcome,
    )


def two_pages_of_one_session(engine: Engine, name: str, _folder: Path) -> Pair:
    """Two requests with one cursor get one page. All worlds share one catalogue."""
    make(engine, "catalogue", videos=12)
    user_id = make(engine, name, videos=0)
    cursor = run_transaction(engine, lambda s: for_you(s, name, limit=3, as_of=at(0))).cursor

    def ask(limit: int) -> Operation:
        return unit(lambda s: names(for_you(s, name, limit=limit, cursor=cursor, as_of=at(1))))

    served = (ServedVideo.position, ServedVideo.video_id)
    return Pair((ask(3), ask(4)), lambda: rows(engine, *served, user_id=user_id))


def import_and_refresh(engine: Engine, name: str, folder: Path) -> Pair:
    """The keys of the second batch lie between the keys of the first."""
    user_id = make(engine, name, videos=6)
    file = folder / f"{name}.csv"
    numbers = (0, 2, 4, 1, 3, 5)
    lines = [f"{n},{name},{name}-{n},watch,{at(n).isoformat()},9999" for n in numbers]
    file.write_text("\n".join(["id,user,video,kind,at,watch_ms", *lines]))

    def outcome() -> Any:
        assert statistics(engine) == counted(engine)
        refresh(engine, as_of=at(9))
        return of_videos(engine, name), learned(engine, user_id)

    return Pair(
        (
            lambda bind: import_file(bind, "events", str(file), settings=SMALL).inserted,
            lambda bind: refresh(bind, as_of=at(9), settings=SMALL).terms,
        ),
        outcome,
    )


def refresh_and_refresh(engine: Engine, name: str, _folder: Path) -> Pair:
    """All batches of events are about the same two videos."""
    make(engine, name)

    def watch(session: Session) -> None:
        others = [f"{name}-u{n}" for n in range(3)]
        upsert_users(session, [{"id": user} for user in others])
        for user in others:
            for n in range(2):
                record(session, user, f"{name}-{n}", "watch", at=at(n), key=str(n), watch_ms=9_999)

    run_transaction(engine, watch)
    counted_by: list[int] = []

    def work(bind: Engine) -> None:
        counted_by.append(refresh(bind, as_of=at(9), settings=SMALL).events)

    return Pair((work, work), lambda: (sum(counted_by), of_videos(engine, name)))


def some(steps: int) -> Sequence[int]:
    """Return some points between the steps of an operation, evenly spread."""
    return sorted({1 + point * (steps - 1) // POINTS for point in range(POINTS)})


def orders(steps: Sequence[int]) -> Iterator[list[int]]:
    """Yield orders in which one operation interrupts the other, then random orders."""
    for first in (0, 1):
        for point in some(steps[first]):
            yield [first] * point + [1 - first] * WHOLE
    chance = random.Random(5)  # noqa: S311 - not for secrets
    for _ in range(BY_CHANCE):
        yield chance.choices((0, 1), k=WHOLE)


@pytest.mark.parametrize(
    ("pair", "fewest"),
    [
        (like_and_unlike, {"sqlite": 2, "postgresql": 8}),
        pytest.param(record_and_erase, {"sqlite": 8, "postgresql": 14}, marks=pytest.mark.slow),
        pytest.param(
            two_pages_of_one_session, {"sqlite": 2, "postgresql": 8}, marks=pytest.mark.slow
        ),
        pytest.param(import_and_refresh, {"sqlite": 5, "postgresql": 28}, marks=pytest.mark.slow),
        pytest.param(refresh_and_refresh, {"sqlite": 10, "postgresql": 28}, marks=pytest.mark.slow),
    ],
)
def test_two_end_as_one_after_the_other(
    engine: Engine,
    database: str,
    kind: str,
    tmp_path: Path,
    pair: Callable[[Engine, str, Path], Pair],
    fewest: dict[str, int],
) -> None:
    """Orders that become equal through locks count once. SQLite has one lock, so few remain."""
    different: set[tuple[int, ...]] = set()
    worlds = (f"w{number}" for number in count())

    with Interleaving(database) as both:

        def run(order: Sequence[int]) -> tuple[Any, Any]:
            operations, outcome = pair(engine, next(worlds), tmp_path)
            results = both.run([said(each) for each in operations], order)
            different.add(tuple(both.steps))
            return results, outcome()

        allowed = [run([0] * WHOLE), run([1] * WHOLE)]
        steps = [both.steps.count(number) for number in (0, 1)]
        ended = [(order, run(order)) for order in orders(steps)]
    assert [each for each in ended if each[1] not in allowed] == []
    assert len(different) >= fewest[kind]
    refresh(engine, as_of=at(9))
    assert statistics(engine) == counted(engine)
