"""The weights of neighbours, against a plain regression."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from recommender import Settings, refresh, run_transaction
from recommender.learning import regression
from recommender.learning.recent import CYCLE, hash_end, read_viewers
from recommender.learning.regression import Regression, ViewerSample, neighbour_weights, parse_users
from recommender.models import LearningState, RecentEngagement
from tests.support.refresh_worlds import (
    GIVING,
    behave,
    expected_neighbours,
    expected_weights,
    neighbours,
    people,
    read,
    watch,
    weights,
)

EVERY_CHANGE = Settings(neighbour_growth=1)


def sample(*users: int) -> ViewerSample:
    return ViewerSample(np.array(sorted(users), dtype=np.int64), 1.0)


def test_small_regressions_have_the_solutions_of_their_equations() -> None:
    one, same, other, none = sample(1, 2, 3), sample(1, 2, 3), sample(4, 5), sample()
    for target, sources, ridge, expected in [
        (one, [same], 1.0, [3 / 4]),
        (one, [same, same], 1.0, [3 / 7, 3 / 7]),
        (one, [same, same], 1e-6, [0.5, 0.5]),
        (one, [other], 1.0, [0.0]),
        (one, [none, same], 1.0, [0.0, 3 / 4]),
        (none, [one], 1.0, [0.0]),
        (none, [none], 1.0, [0.0]),
        (sample(1), [sample(1, 2), sample(2)], 0.1, [1.1 / 1.31, 0.0]),
    ]:
        assert neighbour_weights(target, sources, ridge) == pytest.approx(expected, abs=1e-3)


def test_weights_do_not_depend_on_the_order_and_are_between_0_and_1() -> None:
    chance = np.random.default_rng(1)
    videos = [sample(*chance.choice(60, chance.integers(1, 40), replace=False)) for _ in range(30)]
    whole = neighbour_weights(videos[0], videos[1:], 2.0)
    turned = neighbour_weights(videos[0], videos[:0:-1], 2.0)
    assert whole == pytest.approx(turned[::-1], abs=1e-9)
    assert min(whole) == 0
    assert 0 < max(whole) <= 1


def test_samples_estimate_the_weights_of_all_viewers() -> None:
    chance = np.random.default_rng(2)
    tastes = chance.random((6_000, 3))
    liked = tastes @ chance.random((3, 12)) + chance.random((6_000, 12)) > 1.6
    ids = np.arange(1, 6_001)
    hashed = ids % CYCLE * 1_220_703_125 % CYCLE

    def drawn(video: int, limit: int) -> ViewerSample:
        viewers = liked[:, video]
        end = hash_end(int(viewers.sum()), limit)
        return ViewerSample(ids[viewers & (hashed < end)], end / CYCLE)

    found = {}
    for limit in (10**6, 1_000):
        videos = [drawn(video, limit) for video in range(12)]
        found[limit] = np.array(neighbour_weights(videos[0], videos[1:], 100.0))
    assert max(len(drawn(video, 1_000).users) for video in range(12)) <= 1_100
    assert np.abs(found[10**6] - found[1_000]).max() < 0.06
    assert found[10**6].max() > 0.1


def test_estimates_that_no_counts_could_have_give_finite_weights() -> None:
    gram = np.array([[1.0, 4.0], [4.0, 1.0]])
    solution = regression._solve(gram, np.array([1.0, 0.5]), 0.5)
    # The eigenvalues are 5 and -3, and the latter is taken for 0.
    assert solution == pytest.approx([0.75 / 5.5 + 0.25 / 0.5, 0.75 / 5.5 - 0.25 / 0.5])


def test_a_text_of_users_is_read_in_order() -> None:
    assert parse_users("12,3,9007199254740993").tolist() == [3, 12, 9007199254740993]
    assert parse_users(None).tolist() == []


def test_the_weights_are_those_of_the_regression(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regression, "TARGETS_PER_READ", 3)
    monkeypatch.setattr(regression, "KEPT_USERS", 50)
    people(engine, 30, 40)
    behave(engine, 30, 40, 900)
    settings = Settings(neighbours=7, neighbour_shrinkage=1, neighbour_ridge=3)
    refresh(engine, settings=settings)
    expected = expected_weights(engine, 3, shrinkage=1, most=7)
    assert weights(engine) == pytest.approx(expected, abs=1e-9)
    assert len([each for each in expected.values() if each > 0.01]) > 50
    refresh(engine, rebuild=True, settings=replace(settings, neighbour_least_weight=0))
    every = expected_weights(engine, 3, 0, shrinkage=1, most=7)
    assert weights(engine) == pytest.approx(every, abs=1e-9)
    assert len(expected) < len(every)


def test_what_is_computed_bit_by_bit_is_what_is_computed_at_once(engine: Engine) -> None:
    people(engine, 20, 15)
    for seed in (1, 2, 3):
        behave(engine, 20, 15, 80, seed, kinds=GIVING)
        refresh(engine, settings=EVERY_CHANGE)
    found = neighbours(engine), weights(engine)
    refresh(engine, rebuild=True)
    assert neighbours(engine) == pytest.approx(found[0], abs=1e-12)
    assert weights(engine) == pytest.approx(found[1], abs=1e-9)


def test_all_is_computed_again_when_the_whole_has_grown(engine: Engine) -> None:
    people(engine, 20, 6)
    watch(engine, *[(f"u{n}", f"v{v}") for n in range(8) for v in (0, 1, 2, 3)])
    assert refresh(engine).neighbours == 4
    watch(engine, *[(f"u{n}", "v4") for n in range(6)])
    assert refresh(engine).neighbours == 1
    watch(engine, ("u9", "v5"))
    assert refresh(engine).neighbours == 5 + 1
    assert read(engine, LearningState.neighbours_engaged) == [(39,)]
    assert neighbours(engine) == pytest.approx(expected_neighbours(engine), abs=1e-12)


def test_tiny_worlds_have_sane_neighbours(engine: Engine) -> None:
    people(engine, 3, 5)
    watch(engine, ("u0", "v0"), ("u0", "v1"))
    refresh(engine)
    assert weights(engine) == pytest.approx(expected_weights(engine), abs=1e-9)
    watch(engine, *[(f"u{n}", f"v{v}") for n in (1, 2) for v in (2, 3)])
    refresh(engine, settings=Settings(neighbour_ridge=0.01))
    found = weights(engine)
    assert len(found) == 4
    assert all(0 < weight <= 1 for weight in found.values())
    assert weights(engine) == pytest.approx(expected_weights(engine, 0.01), abs=1e-9)


def test_neighbours_are_found_without_the_lock_and_again_if_something_is_counted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(engine, 20, 15)
    behave(engine, 20, 15, 120, kinds=GIVING)
    whole = Regression.neighbours

    def interrupted(*arguments: Any) -> Iterator[Any]:
        rows = list(whole(*arguments))
        monkeypatch.undo()
        watch(engine, *[(f"u{n}", "v14") for n in range(20)])
        refresh(engine)
        yield from rows

    monkeypatch.setattr(Regression, "neighbours", interrupted)
    assert refresh(engine).neighbours == len(counts(engine)) == 15
    assert neighbours(engine) == pytest.approx(expected_neighbours(engine), abs=1e-12)
    assert weights(engine) == pytest.approx(expected_weights(engine), abs=1e-9)


def test_of_a_popular_video_a_part_of_the_viewers_is_read(engine: Engine) -> None:
    people(engine, 90, 4)
    watch(engine, *[(f"u{n}", f"v{v}") for n in range(90) for v in range(1 + (n < 60))])
    refresh(engine, settings=Settings(neighbour_viewers=20))
    ends = {video_id: hash_end(count, 20) for video_id, count in counts(engine).items()}
    listed = run_transaction(engine, lambda session: read_viewers(ends, session))
    assert all(12 < len(parse_users(users)) < 28 for users in listed.values())
    assert len(listed) == 2
    sampled = weights(engine)
    refresh(engine, rebuild=True)
    assert sampled == pytest.approx(weights(engine), abs=0.2)


def counts(engine: Engine) -> dict[int, int]:
    number = sa.func.count()
    with engine.connect() as connection:
        rows = sa.select(RecentEngagement.video_id, number).group_by(RecentEngagement.video_id)
        return dict(map(tuple, connection.execute(rows)))


WITHOUT_NUMPY = """
import sys
import recommender
from sqlalchemy.orm import Session
engine = recommender.create_engine("sqlite://")
recommender.upgrade(engine)
recommender.run_transaction(engine, lambda s: (
    recommender.upsert_users(s, [{"id": "u"}]),
    recommender.upsert_videos(s, [{"id": "v", "creator": "c"}]),
    recommender.record(s, "u", "v", "like"),
))
with Session(engine) as session:
    recommender.for_you(session, "u", record=False)
    recommender.explain(session, "u", "v")
for name in dir(recommender):
    getattr(recommender, name)
assert not any(name.startswith("numpy.") for name in sys.modules)
assert "psycopg" not in sys.modules
recommender.refresh(engine)
assert "numpy.linalg" in sys.modules
"""


def test_numpy_is_imported_by_a_refresh_alone() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_NUMPY], check=True)
