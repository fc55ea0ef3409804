"""What another order would have led to: sums whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import pytest

from recommender.evaluation.bootstrap import MAX_UNITS, Interval
from recommender.evaluation.off_policy_estimator import (
    GROUPS,
    MAX_WEIGHT,
    Expectation,
    LoggedVideo,
    OffPolicyEstimator,
    ReorderedPage,
    group_of,
)

EFFECTS = (1.0, 0.9, 0.8, 0.65, 0.5, 0.4, 0.35, 0.3)
"""What each group of places is worth."""

PAGE = 20
PAGES = 4


def of(*users: tuple[Sequence[ReorderedPage], Sequence[LoggedVideo]]) -> Expectation:
    """What the pages of users say, and what was on trial in a session of each."""
    reordering = OffPolicyEstimator()
    for pages, trials in users:
        reordering.add(pages, [trials])
    return reordering.expectation()


def value(found: Interval | None) -> float:
    assert found is not None
    return found.value


def page(labels: Sequence[float], order: Sequence[int], first: int = 1) -> ReorderedPage:
    return ReorderedPage([LoggedVideo(first + n, label) for n, label in enumerate(labels)], order)


def test_the_first_half_of_another_order_is_looked_at() -> None:
    found = of(([page([1, 0, 0, 1, 0], [0, 3, 1, 2, 4]), page([0, 0.5], [1, 0])], ()))
    assert found.places == 3
    assert value(found.logged) == pytest.approx(1 / 3)
    assert value(found.unweighted) == pytest.approx(2.5 / 3)
    assert value(found.overlap) == pytest.approx(1 / 3)


def test_without_outcomes_on_trial_nothing_is_expected() -> None:
    found = of(([page([1, 0, 0, 1], [3, 0, 1, 2])], [LoggedVideo(5, 0)]))
    assert (found.expected, found.change, found.effective, found.effects) == (None, None, None, {})
    assert found.trials == 1
    assert found.unweighted is not None


def test_without_pages_there_is_nothing_but_what_places_are_worth() -> None:
    found = of(((), [LoggedVideo(1, 1), LoggedVideo(2, 0)]))
    assert (found.places, found.logged, found.expected, found.overlap) == (0, None, None, None)
    assert found.effects[1] > found.effects[2]


def test_places_are_told_apart_within_sessions_only() -> None:
    """Who is eager goes far; all together the far places would seem to be the better ones."""
    eager = [*[LoggedVideo(1, 1)] * 10, *[LoggedVideo(20, 1)] * 200]
    others = [*[LoggedVideo(1, 0)] * 190, *[LoggedVideo(20, 0)] * 10]
    apart, together = OffPolicyEstimator(), OffPolicyEstimator()
    apart.add((), [eager, others])
    together.add((), [[*eager, *others]])
    assert apart.expectation().effects[17] == pytest.approx(1)
    assert together.expectation().effects[17] > 5


def test_a_session_says_as_much_as_it_has_videos_on_trial() -> None:
    """One of 200 says that the far place is better, a hundred of two that the first one is."""
    one = [*[LoggedVideo(1, 0)] * 100, *[LoggedVideo(20, 1)] * 100]
    reordering = OffPolicyEstimator()
    reordering.add((), [one, *[[LoggedVideo(1, 1), LoggedVideo(20, 0)]] * 100])
    assert reordering.expectation().effects[17] == pytest.approx(1)


def test_many_comparisons_say_what_places_are_worth() -> None:
    chance = Random(1)  # noqa: S311 - not for secrets
    users = [((), trials(chance, 0.8, 400)) for _ in range(60)]
    found = of(*users).effects
    assert list(found.values()) == [pytest.approx(effect, rel=0.15) for effect in EFFECTS]
    assert list(found) == [1, 2, 3, 5, 9, 17, 33, 65]


def trials(chance: Random, worth: float, count: int, last: int = 90) -> list[LoggedVideo]:
    """Videos on trial at any places, as much worth."""
    places = [chance.randint(1, last) for _ in range(count)]
    return [LoggedVideo(p, float(chance.random() < worth * EFFECTS[group_of(p)])) for p in places]


def test_a_weight_is_clipped_and_says_so() -> None:
    """At the far place nothing was ever wanted on trial, and yet one is on the page."""
    tried = [*[LoggedVideo(1, 1)] * 4000, *[LoggedVideo(20, 0)] * 4000]
    found = of(([page([0, 1], [1, 0]), page([0, 1], [0, 1])], tried))
    assert found.clipped == 0
    moved = ReorderedPage([LoggedVideo(1, 0), LoggedVideo(20, 1)], [1, 0])
    found = of(([moved], tried))
    assert found.effects[17] < 1 / MAX_WEIGHT
    assert value(found.expected) == MAX_WEIGHT
    assert found.clipped == 1


def test_the_effective_size_is_less_where_weights_differ() -> None:
    tried = [
        *[LoggedVideo(1, 1)] * 3000,
        *[LoggedVideo(20, 1)] * 1000,
        *[LoggedVideo(20, 0)] * 2000,
    ]
    same = ReorderedPage([LoggedVideo(1, 1), LoggedVideo(20, 1)], [0, 1])
    moved = same._replace(order=[1, 0])
    assert of(([same] * 9, tried)).effective == pytest.approx(9)
    found = of(([same, moved], tried))
    weight = found.effects[1] / found.effects[17]
    assert weight == pytest.approx(3, rel=0.05)
    assert found.effective == pytest.approx((1 + weight) ** 2 / (1 + weight**2))


@pytest.mark.slow
def test_more_users_than_units_give_the_same_sums() -> None:
    chance = Random(2)  # noqa: S311 - not for secrets
    users = [simulated_user(chance, [0, 0]) for _ in range(MAX_UNITS + 100)]
    reordering = OffPolicyEstimator()
    for pages, tried in users:
        reordering.add(pages, [tried])
    assert len(reordering.units) == MAX_UNITS
    found = reordering.expectation()
    places = [(len(each.shown) // 2, each) for pages, _ in users for each in pages]
    labels = (each.shown[n].label for half, each in places for n in range(half))
    assert found.places == sum(half for half, _ in places)
    assert value(found.logged) == pytest.approx(math.fsum(labels) / found.places)


Truth = list[float]


def simulated_user(
    chance: Random, truth: Truth, order: Callable[[tuple[float, float]], float] | None = None
) -> tuple[list[ReorderedPage], list[LoggedVideo]]:
    """Pages by a poor ranking, as far as the user went: those who like more go farther.

    Outcomes are chance, as probable as the place's effect times the video's worth. What the
    candidate's order was worth is added to the truth: sum, and number of places.
    """
    eager = chance.random()
    pages, tried = [], []
    for _ in range(PAGES):
        videos = sorted(((chance.random(), chance.random()) for _ in range(2 * PAGE)), reverse=True)
        shown: list[tuple[LoggedVideo, tuple[float, float]]] = []
        for position in range(1, chance.randint(4, 5 + int(15 * eager)) + 1):
            is_trial = chance.random() < 0.15
            video = (chance.random(), chance.random()) if is_trial else videos.pop(0)
            wanted = chance.random() < EFFECTS[group_of(position)] * worth(video, eager)
            each = LoggedVideo(position, float(wanted))
            if is_trial:
                tried.append(each)
            else:
                shown.append((each, video))
        numbers = sorted(range(len(shown)), key=lambda n: -(order or candidate)(shown[n][1]))
        pages.append(ReorderedPage([each for each, _ in shown], numbers))
        for (place, _), number in zip(shown[: len(shown) // 2], numbers, strict=False):
            truth[0] += EFFECTS[group_of(place.position)] * worth(shown[number][1], eager)
            truth[1] += 1
    return pages, tried


def worth(video: tuple[float, float], eager: float) -> float:
    """How probable an outcome is at the first place."""
    return 0.1 + 0.3 * eager + 0.5 * video[1] ** 2


def candidate(video: tuple[float, float]) -> float:
    return video[1]


@pytest.mark.slow
def test_the_interval_holds_the_truth_and_a_naive_one_does_not() -> None:
    """Of more logs, and of other worlds, the README says how often."""
    truth, held, naive = [0.0, 0.0], 0, 0
    users = [simulated_user(Random(seed), truth) for seed in range(800)]  # noqa: S311
    true = truth[0] / truth[1]
    for start in range(0, 800, 200):
        found = of(*users[start : start + 200])
        assert found.expected
        assert found.unweighted
        held += found.expected.low <= true <= found.expected.high
        naive += found.unweighted.low <= true <= found.unweighted.high
        assert value(found.logged) < value(found.unweighted) < true
    assert (held, naive) == (4, 0)


def test_the_order_as_it_was_gives_the_log_itself() -> None:
    chance = Random(4)  # noqa: S311 - not for secrets
    users = [simulated_user(chance, [0, 0], lambda video: video[0]) for _ in range(30)]
    users = [
        ([each._replace(order=range(len(each.shown))) for each in pages], tried)
        for pages, tried in users
    ]
    found = of(*users)
    assert found.expected == pytest.approx(found.logged, abs=1e-12)
    assert found.unweighted == found.logged
    assert found.change == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.overlap == (1, 1, 1)
    assert found.effective == found.places


def test_every_place_has_a_group() -> None:
    assert [group_of(place) for place in (1, 2, 3, 4, 5, 8, 9, 64, 65, 10_000)] == [
        0, 1, 2, 2, 3, 3, 4, 6, 7, 7,
    ]  # fmt: skip
    assert len(GROUPS) == len(EFFECTS)
