"""What another order would have led to: sums whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import NamedTuple

import pytest

from recommender.evaluation.bootstrap import MAX_UNITS, Interval
from recommender.evaluation.off_policy_estimator import (
    GROUPS,
    MAX_WEIGHT,
    Expectation,
    LoggedVideo,
    OffPolicyEstimator,
    Reordered,
    ReorderedPage,
    group_of,
    of_same_score,
)

EFFECTS = (1.0, 0.9, 0.8, 0.65, 0.5, 0.4, 0.35, 0.3)
"""What each group of places is worth."""

PAGE = 40
PAGES = 2


def of(*users: tuple[Sequence[ReorderedPage], Sequence[LoggedVideo]]) -> Expectation:
    """The estimate from users' pages, with one stratum of ranked videos per user."""
    reordering = OffPolicyEstimator()
    for pages, stratum in users:
        reordering.add(pages, [stratum], [])
    return reordering.expectation()


def reordered(*users: tuple[Sequence[ReorderedPage], Sequence[LoggedVideo]]) -> Reordered:
    """The estimate for the other order, which must exist."""
    found = of(*users).reordered
    assert found is not None
    return found


def video(position: int, label: float) -> LoggedVideo:
    return LoggedVideo(position, label, label > 0)


def value(found: Interval | None) -> float:
    assert found is not None
    return found.value


def page(labels: Sequence[float], order: Sequence[int], first: int = 1) -> ReorderedPage:
    return ReorderedPage([video(first + n, label) for n, label in enumerate(labels)], order)


def test_the_first_half_of_another_order_is_looked_at() -> None:
    found = of(([page([1, 0, 0, 1, 0], [0, 3, 1, 2, 4]), page([0, 0.5], [1, 0])], ()))
    assert found.places == 3
    assert value(found.logged) == pytest.approx(1 / 3)
    assert value(found.unweighted) == pytest.approx(2.5 / 3)
    assert value(found.overlap) == pytest.approx(1 / 3)


def test_without_a_positive_nothing_is_expected() -> None:
    found = of(([page([1, 0, 0, 1], [3, 0, 1, 2])], [video(2, 0), video(5, 0)]))
    assert (found.reordered, found.by_exploration) == (None, None)
    assert found.unweighted is not None


def test_without_pages_nothing_is_expected() -> None:
    found = of(((), [video(1, 1), video(2, 0)]))
    assert (found.places, found.logged, found.reordered, found.overlap) == (0, None, None, None)


SWAPPED = page([1, 0], [1, 0])


def test_ranked_and_explored_videos_say_the_same_by_the_same_rules() -> None:
    ranked, explored = OffPolicyEstimator(), OffPolicyEstimator()
    stratum = [video(1, 1), video(1, 0), video(9, 1)]
    ranked.add([SWAPPED], [stratum], [])
    explored.add([SWAPPED], [], [stratum])
    assert ranked.expectation().reordered == explored.expectation().by_exploration
    assert ranked.expectation().by_exploration is None


def test_places_are_told_apart_within_strata_only() -> None:
    """Who is eager goes far; all together the far places would seem to be the better ones."""
    eager = [*[video(1, 1)] * 10, *[video(20, 1)] * 200]
    others = [*[video(1, 0)] * 190, *[video(20, 0)] * 10]
    apart = reordered(([SWAPPED], eager), ((), others))
    together = reordered(([SWAPPED], [*eager, *others]))
    assert apart.effects[17] == pytest.approx(1)
    assert together.effects[17] > 5


def test_a_stratum_says_as_much_as_it_has_videos() -> None:
    """One of 200 says that the far place is better, a hundred of two that the first one is."""
    one = [*[video(1, 0)] * 100, *[video(20, 1)] * 100]
    pairs = [((), [video(1, 1), video(20, 0)]) for _ in range(100)]
    assert reordered(([SWAPPED], one), *pairs).effects[17] == pytest.approx(1)


def test_a_stratum_of_one_group_of_places_says_nothing() -> None:
    found = reordered(([SWAPPED], [video(17, 1), video(32, 0)]), ((), [video(1, 1), video(2, 1)]))
    assert (found.videos, found.positives) == (2, 2)


def test_only_places_that_were_compared_with_the_first_one_have_an_effect() -> None:
    """Places that nothing links with the first one would seem to be as good as all on average."""
    near = [*[video(3, 1)] * 300, *[video(5, 1)] * 100, *[video(5, 0)] * 200]
    through = [*[video(5, 1)] * 100, *[video(9, 1)] * 100]
    far = [*[video(33, 1)] * 100, *[video(65, 1)] * 100]
    found = reordered(([SWAPPED], near), ((), through), ((), far)).effects
    assert found == pytest.approx({3: 1, 5: 1 / 3, 9: 1 / 3}, rel=0.05)


def test_what_places_are_worth_comes_from_positives_whatever_the_target_is() -> None:
    """A like is rare. What makes likes fewer at far places makes all positives fewer."""
    stratum = [*[LoggedVideo(1, 0, is_positive=True)] * 800]
    stratum += [LoggedVideo(20, 0, is_positive=n < 400) for n in range(800)]
    moved = ReorderedPage([video(1, 0), video(20, 1)], [1, 0])
    found = reordered(([moved], stratum))
    assert found.effects[17] == pytest.approx(0.5, rel=0.02)
    assert value(found.expected) == pytest.approx(2, rel=0.02)


def test_many_comparisons_say_what_places_are_worth() -> None:
    chance = Random(1)  # noqa: S311 - not for secrets
    users = [([SWAPPED], any_places(chance, 0.8, 400)) for _ in range(60)]
    found = reordered(*users).effects
    assert list(found.values()) == [pytest.approx(effect, rel=0.15) for effect in EFFECTS]
    assert list(found) == [1, 2, 3, 5, 9, 17, 33, 65]


def any_places(chance: Random, worth: float, count: int, last: int = 90) -> list[LoggedVideo]:
    """Videos at any places, as much worth."""
    places = [chance.randint(1, last) for _ in range(count)]
    return [video(p, chance.random() < worth * EFFECTS[group_of(p)]) for p in places]


def test_scores_are_alike_within_a_part_of_their_deviation() -> None:
    """The deviation of these scores is 10, so that scores from 0 to 3 are alike."""
    scores = [0.0, 1.0, 2.5, 3.1, 20.0, 21.0, 22.5, 23.1]
    found = of_same_score([(score, video(n, 0)) for n, score in enumerate(scores)])
    places = [[each.position for each in stratum] for stratum in found]
    assert places == [[0, 1, 2], [3], [4, 5], [6, 7]]
    assert list(of_same_score([])) == []
    assert len(list(of_same_score([(7.0, video(1, 0)), (7.0, video(2, 0))]))) == 1


def test_a_weight_is_clipped_and_says_so() -> None:
    """At the far place nothing was ever wanted, and yet one is on the page."""
    seen = [*[video(1, 1)] * 4000, *[video(20, 0)] * 4000]
    found = reordered(([page([0, 1], [1, 0]), page([0, 1], [0, 1])], seen))
    assert found.clipped == 0
    moved = ReorderedPage([video(1, 0), video(20, 1)], [1, 0])
    found = reordered(([moved], seen))
    assert found.effects[17] < 1 / MAX_WEIGHT
    assert value(found.expected) == MAX_WEIGHT
    assert found.clipped == 1


def test_the_effective_size_is_less_where_weights_differ() -> None:
    seen = [*[video(1, 1)] * 3000, *[video(20, 1)] * 1000, *[video(20, 0)] * 2000]
    same = ReorderedPage([video(1, 1), video(20, 1)], [0, 1])
    moved = same._replace(order=[1, 0])
    assert reordered(([same] * 9, seen)).effective == pytest.approx(9)
    found = reordered(([same, moved], seen))
    weight = found.effects[1] / found.effects[17]
    assert weight == pytest.approx(3, rel=0.05)
    assert found.effective == pytest.approx((1 + weight) ** 2 / (1 + weight**2))


@pytest.mark.slow
def test_more_users_than_units_give_the_same_sums() -> None:
    chance = Random(2)  # noqa: S311 - not for secrets
    users = [simulated_user(chance) for _ in range(MAX_UNITS + 100)]
    reordering = added(users)
    assert len(reordering.units) == MAX_UNITS
    found = reordering.expectation()
    places = [(len(each.shown) // 2, each) for user in users for each in user.pages]
    labels = (each.shown[n].label for half, each in places for n in range(half))
    assert found.places == sum(half for half, _ in places)
    assert value(found.logged) == pytest.approx(math.fsum(labels) / found.places)


class SimulatedUser(NamedTuple):
    """The sums' input of a user, and what the candidate's order is worth at its places."""

    pages: list[ReorderedPage]
    ranked: list[list[LoggedVideo]]
    explored: list[list[LoggedVideo]]
    truth: list[float]


def added(users: Sequence[SimulatedUser]) -> OffPolicyEstimator:
    reordering = OffPolicyEstimator()
    for user in users:
        reordering.add(user.pages, user.ranked, user.explored)
    return reordering


def simulated_user(chance: Random) -> SimulatedUser:
    """Pages by a poor ranking, as far as the user went: those who like more go farther.

    Outcomes are chance, as probable as the place's effect times the video's worth. Videos on trial
    are worth less than half as much.
    """
    eager = chance.random()
    user = SimulatedUser([], [], [], [])
    for _ in range(PAGES):
        videos = sorted(((chance.random(), chance.random()) for _ in range(2 * PAGE)), reverse=True)
        shown: list[tuple[LoggedVideo, tuple[float, float]]] = []
        tried: list[LoggedVideo] = []
        for position in range(1, chance.randint(8, 12 + int(28 * eager)) + 1):
            is_trial = chance.random() < 0.1
            facts = (chance.random(), chance.random()) if is_trial else videos.pop(0)
            probability = EFFECTS[group_of(position)] * worth(facts, eager)
            wanted = chance.random() < probability * (0.4 if is_trial else 1)
            if is_trial:
                tried.append(video(position, wanted))
            else:
                shown.append((video(position, wanted), facts))
        numbers = sorted(range(len(shown)), key=lambda n: -shown[n][1][1])
        user.pages.append(ReorderedPage([each for each, _ in shown], numbers))
        user.ranked.extend(of_same_score([(facts[0], each) for each, facts in shown]))
        user.explored.append(tried)
        for (place, _), number in zip(shown[: len(shown) // 2], numbers, strict=False):
            user.truth.append(EFFECTS[group_of(place.position)] * worth(shown[number][1], eager))
    return user


def worth(facts: tuple[float, float], eager: float) -> float:
    """The probability of an outcome at the first place: it depends on both orders."""
    return 0.05 + 0.2 * eager + 0.35 * facts[0] + 0.4 * facts[1] ** 2


@pytest.mark.slow
def test_the_interval_holds_the_truth_and_a_naive_one_does_not() -> None:
    """Of more logs, and of other worlds, the README says how often."""
    users = [simulated_user(Random(seed)) for seed in range(800)]  # noqa: S311
    true = fmean(worth for user in users for worth in user.truth)
    held, narrower, errors = [0, 0, 0], 0, []
    for start in range(0, 800, 200):
        found = added(users[start : start + 200]).expectation()
        assert found.reordered
        assert found.by_exploration
        estimates = (found.reordered.expected, found.by_exploration.expected, found.unweighted)
        for number, estimate in enumerate(estimates):
            assert estimate
            held[number] += estimate.low <= true <= estimate.high
        narrower += width(estimates[0]) < width(estimates[1])
        errors.append(value(estimates[0]) - true)
    assert (held, narrower) == ([4, 4, 0], 4)
    assert abs(fmean(errors)) < 0.01


def width(found: Interval | None) -> float:
    assert found is not None
    return found.high - found.low


def test_the_order_as_it_was_gives_the_log_itself() -> None:
    chance = Random(4)  # noqa: S311 - not for secrets
    users = [simulated_user(chance) for _ in range(30)]
    users = [
        user._replace(pages=[each._replace(order=range(len(each.shown))) for each in user.pages])
        for user in users
    ]
    found = added(users).expectation()
    assert found.unweighted == found.logged
    assert found.overlap == (1, 1, 1)
    assert found.reordered
    assert found.reordered.expected == pytest.approx(found.logged, abs=1e-12)
    assert found.reordered.change == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.reordered.effective == found.places


def test_every_place_has_a_group() -> None:
    assert [group_of(place) for place in (1, 2, 3, 4, 5, 8, 9, 64, 65, 10_000)] == [
        0, 1, 2, 2, 3, 3, 4, 6, 7, 7,
    ]  # fmt: skip
    assert len(GROUPS) == len(EFFECTS)
