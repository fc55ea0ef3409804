"""The metrics against cases worked out by hand and against scikit-learn."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as peer_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from recommender.evaluation import metrics
from recommender.evaluation.bootstrap import (
    MAX_UNITS,
    _grouped,
    bootstrap,
    differences,
    holm,
    paired_tests,
    sign_flip_test,
    weighted_mean,
)
from recommender.evaluation.logistic import EXACT_SCORES, fit_platt, logistic

IMPRESSIONS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.1, 1.0, 7.0]), st.booleans()), max_size=40
)
LISTS = st.permutations(range(12))


@pytest.mark.parametrize(
    ("scores", "outcomes", "expected"),
    [
        ([], [], None),
        ([1, 2], [True, True], None),
        ([1, 2], [False, False], None),
        ([1, 2], [False, True], 1.0),
        ([1, 2], [True, False], 0.0),
        ([1, 1], [True, False], 0.5),
        ([3, 2, 2, 1], [True, True, False, False], 0.875),
        ([4, 3, 2, 1], [True, False, True, False], 0.75),
    ],
)
def test_auc(scores: list[float], outcomes: list[bool], expected: float | None) -> None:
    assert metrics.auc(scores, outcomes) == expected


@pytest.mark.slow
@given(IMPRESSIONS)
def test_auc_equals_scikit_learns(impressions: list[tuple[float, bool]]) -> None:
    scores = [score for score, _ in impressions]
    outcomes = [outcome for _, outcome in impressions]
    assume(len(set(outcomes)) == 2)
    assert metrics.auc(scores, outcomes) == pytest.approx(roc_auc_score(outcomes, scores))


def test_gauc_weighs_users_by_their_impressions() -> None:
    assert metrics.gauc([(1.0, 3), (0.5, 1), (None, 100)]) == 0.875
    assert metrics.gauc([(None, 5)]) is None
    assert metrics.gauc([]) is None


def test_log_loss() -> None:
    assert metrics.log_loss([0.5, 0.25], [True, False]) == pytest.approx(
        (math.log(2) - math.log(0.75)) / 2
    )
    assert metrics.log_loss([1.0], [True]) == 0
    assert metrics.log_loss([0.0], [True]) == pytest.approx(-math.log(1e-15))


@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=1, max_size=30))
def test_log_loss_equals_scikit_learns(given_ones: list[tuple[float, bool]]) -> None:
    probabilities = [probability for probability, _ in given_ones]
    outcomes = [outcome for _, outcome in given_ones]
    expected = peer_log_loss(outcomes, probabilities, labels=[False, True])
    assert metrics.log_loss(probabilities, outcomes) == pytest.approx(expected)


def test_calibration_error() -> None:
    assert metrics.calibration_error([0.5, 0.5], [True, False]) == 0
    assert metrics.calibration_error([0.9, 0.9], [True, False]) == pytest.approx(0.4)
    assert metrics.calibration_error([1.0, 0.0], [False, True]) == 1
    assert metrics.calibration_error([0.2, 0.8], [False, True], bins=1) == pytest.approx(0)


@pytest.mark.parametrize(
    ("shown", "relevant", "most", "expected"),
    [
        ("abc", "b", 3, (1.0, 1 / math.log2(3), 1 / 2, 1.0)),
        ("abc", "b", 1, (0.0, 0.0, 0.0, 0.0)),
        ("abc", "ax", 3, (0.5, 1 / (1 + 1 / math.log2(3)), 1.0, 1.0)),
        ("abc", "xyz", 3, (0.0, 0.0, 0.0, 0.0)),
        ("", "x", 10, (0.0, 0.0, 0.0, 0.0)),
        ("abcd", "cd", 4, (
            1.0, (1 / 2 + 1 / math.log2(5)) / (1 + 1 / math.log2(3)), 1 / 3, 1.0
        )),
    ],
)  # fmt: skip
def test_lists(shown: str, relevant: str, most: int, expected: tuple[float, ...]) -> None:
    of_list = (metrics.recall, metrics.ndcg, metrics.reciprocal_rank, metrics.is_hit)
    assert [each(shown, relevant, most) for each in of_list] == pytest.approx(expected)


@given(LISTS, st.sets(st.integers(0, 11), min_size=1), st.integers(1, 12))
def test_ndcg_equals_scikit_learns(shown: list[int], relevant: set[int], most: int) -> None:
    gains = [[float(each in relevant) for each in range(12)]]
    scores = [[12.0 - shown.index(each) for each in range(12)]]
    expected = ndcg_score(gains, scores, k=most)
    assert metrics.ndcg(shown, relevant, most) == pytest.approx(expected)


def test_coverage_and_exposure() -> None:
    assert metrics.coverage(["ab", "bc", ""], 6) == 0.5
    assert metrics.exposure(["ab", "bc"]) == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([], 0), ([0, 0], 0), ([3, 3, 3], 0), ([0, 0, 0, 4], 0.75), ([1, 3], 0.25), ([3, 1], 0.25)],
)
def test_gini(counts: list[int], expected: float) -> None:
    assert metrics.gini(counts) == pytest.approx(expected)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_gini_is_half_the_mean_difference_by_the_mean(counts: list[int]) -> None:
    assume(any(counts))
    differences = sum(abs(one - other) for one in counts for other in counts)
    expected = differences / (2 * len(counts) * sum(counts))
    assert metrics.gini(counts) == pytest.approx(expected, abs=1e-12)


def test_diversity() -> None:
    assert metrics.diversity(["ab", "ab"]) == 0
    assert metrics.diversity(["ab", "cd"]) == 1
    assert metrics.diversity(["ab", "bc", ""]) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert metrics.diversity(["ab"]) is None


def test_novelty() -> None:
    assert metrics.novelty("ab", {"a": 3}, 7) == pytest.approx((1 + 3) / 2)
    assert metrics.novelty("a", {"a": 7}, 7) == 0
    assert metrics.novelty("", {}, 7) is None


@given(IMPRESSIONS)
def test_auc_is_the_mean_placement_of_either_outcome(
    impressions: list[tuple[float, bool]],
) -> None:
    scores = [score for score, _ in impressions]
    outcomes = [outcome for _, outcome in impressions]
    parts = metrics.placements(scores, outcomes)
    assert (parts is None) == (len(set(outcomes)) < 2)
    for wanted in (True, False):
        some = [part for part, each in zip(parts or [], outcomes, strict=False) if each is wanted]
        if parts:
            assert sum(some) / len(some) == pytest.approx(metrics.auc(scores, outcomes))


def mean(sums: Sequence[float]) -> float | None:
    total, count = sums
    return total / count if count else None


@pytest.mark.slow
@pytest.mark.parametrize("size", [60, MAX_UNITS * 3])
def test_an_interval_holds_the_mean_of_what_was_drawn(size: int) -> None:
    chance = random.Random(5)  # noqa: S311 - not for secrets
    holds, widths = 0, []
    for seed in range(100):
        drawn = [(chance.gauss(10, 3), 1) for _ in range(size)]
        found = bootstrap(drawn, mean, seed=seed)
        assert found is not None
        assert found.low < found.value < found.high
        holds += found.low <= 10 <= found.high
        widths.append(found.high - found.low)
    assert 87 <= holds <= 100
    assert sum(widths) / 100 == pytest.approx(2 * 1.96 * 3 / math.sqrt(size), rel=0.1)


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    units = [(float(each), 1.0) for each in range(20)]
    first, second, other = (bootstrap(units, mean, seed=seed) for seed in (1, 1, 2))
    assert first == second != other
    assert first is not None
    assert first.value == 9.5
    assert bootstrap(units, lambda _: None) is None
    assert bootstrap([], mean) is None
    assert bootstrap([(4.0, 1.0)], mean) == (4.0, 4.0, 4.0)


def test_a_paired_test_as_worked_out_by_hand() -> None:
    # 1 + 2 + 3 = 6, and of the 8 sign patterns only -6 is as far from 0
    assert sign_flip_test([1.0, 2.0, 3.0]) == 2 / 8
    # 1 + 2 - 3 = 0, and every sum is as far from 0
    assert sign_flip_test([1.0, 2.0, -3.0]) == 1
    # 3 - 1 + 2 = 4: 6, 4, -4 and -6; a user without a difference changes nothing
    assert sign_flip_test([3.0, -1.0, 0.0, 2.0]) == 4 / 8
    # 0.1 + 0.2 is 0.3 but for rounding, so 1 - 0.1 - 0.2 + 0.3 is a tie, in any unit
    assert sign_flip_test([0.1, 0.2, -0.3, 1.0]) == sign_flip_test([1e6, 2e6, -3e6, 1e7]) == 10 / 16
    assert sign_flip_test([0.3, 0.6, 0.9]) == 2 / 8
    assert sign_flip_test([]) == sign_flip_test([0.0, 0.0]) == 1
    # users are weighted: 2 - 1 = 1 of the sums 3, 1, -1 and -3, and a user without an AUC is out
    values = {"first": [0.5, 0.5, None], "other": [1.5, 0.0, None], "same": [0.5, 0.5, None]}
    weights = [2, 2, 7]
    gains = differences(values)
    assert gains["other"] == [1.0, -0.5, None]
    assert gains["first"] == gains["same"] == [0.0, 0.0, None]
    assert paired_tests(gains, weights) == {"other": 1, "same": 1}
    assert paired_tests({"first": [None], "other": [None]}, [1]) == {}
    found = weighted_mean(gains["other"], weights)
    assert found is not None
    assert found.value == 0.25


def test_corrected_p_values_as_worked_out_by_hand() -> None:
    # times 4, 3, 2 and 1 in ascending order, and never below the value before
    given_values = {"c": 0.03, "a": 0.01, "d": 0.005, "b": 0.04}
    assert holm(given_values) == pytest.approx({"c": 0.06, "a": 0.03, "d": 0.02, "b": 0.06})
    assert list(holm(given_values)) == list(given_values)
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1, "b": 1}
    assert holm({}) == {}


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 2.5]), max_size=6))
def test_under_no_difference_false_alarms_are_as_rare_as_the_p_value_says(
    sizes: list[float],
) -> None:
    # under no difference every pattern of signs is as likely as any other
    found = [
        sign_flip_test([sign * size for sign, size in zip(signs, sizes, strict=True)])
        for signs in product((-1, 1), repeat=len(sizes))
    ]
    for p_value in found:
        assert sum(other <= p_value for other in found) / len(found) <= p_value + 1e-9


def test_of_many_rankers_without_a_difference_hardly_one_is_marked() -> None:
    chance = random.Random(4)  # noqa: S311 - not for secrets
    alarms = marked = 0
    for seed in range(150):
        # the users differ much in how much they tell, and all rankers are compared with one
        scale = [chance.expovariate(1) for _ in range(20)]
        gains = {
            f"ranker {number}": [size * chance.gauss(0, 1) for size in scale] for number in range(7)
        }
        p_values = {
            name: sign_flip_test(own, times=200, seed=seed) for name, own in list(gains.items())[1:]
        }
        alarms += min(p_values.values()) < 0.05
        marked += min(holm(p_values).values()) < 0.05
    # 5 % of 150 are 7.5, and without a correction one in four
    assert marked <= 16
    assert alarms >= 25


def test_a_paired_test_of_many_users_is_the_same_for_the_same_seed_and_finds_a_difference() -> None:
    chance = random.Random(6)  # noqa: S311 - not for secrets
    noise = [chance.gauss(0, 1) for _ in range(MAX_UNITS * 2)]
    shifted = [value + 0.2 for value in noise]
    found = [sign_flip_test(shifted, times=500, seed=seed) for seed in (1, 1, 2)]
    assert found == [1 / 501] * 3
    assert sign_flip_test(noise, times=500) == sign_flip_test(noise, times=500) > 0.05
    assert sign_flip_test([-value for value in noise], times=500) > 0.05
    # as for intervals, random groups of users stand for the users
    assert sign_flip_test(noise, times=500) == sign_flip_test(_grouped(noise, 0), times=500)


@given(IMPRESSIONS)
def test_probabilities_of_scores_equal_scikit_learns(impressions: list[tuple[float, bool]]) -> None:
    scores = [score for score, _ in impressions]
    outcomes = [outcome for _, outcome in impressions]
    positives = [score for score, outcome in impressions if outcome]
    negatives = [score for score, outcome in impressions if not outcome]
    # If a threshold separates the outcomes, the slope depends on the ridge and on the solver.
    assume(positives and min(positives) < max(negatives, default=-math.inf))
    assume(min(negatives) < max(positives))
    intercept, slope = fit_platt(scores, outcomes)
    mean = sum(scores) / len(scores)
    peer = LogisticRegression(C=1e9, tol=1e-6, max_iter=10_000, solver="newton-cholesky")
    values = [[score - mean] for score in [*scores, mean, mean]]
    peer.fit(values, [*outcomes, True, False])
    for score in set(scores):
        ours = logistic(intercept + slope * score)
        assert ours == pytest.approx(peer.predict_proba([[score - mean]])[0][1], abs=0.01)


def test_probabilities_of_many_scores_equal_scikit_learns() -> None:
    chance = random.Random(3)  # noqa: S311 - not for secrets
    scores = [chance.gauss(2, 0.5) for _ in range(EXACT_SCORES * 2)]
    outcomes = [chance.random() < logistic(3 * score - 7) for score in scores]
    intercept, slope = fit_platt(scores, outcomes)
    peer = LogisticRegression(C=1e9).fit([[score] for score in scores], outcomes)
    assert slope == pytest.approx(peer.coef_[0][0], rel=0.01)
    assert intercept == pytest.approx(peer.intercept_[0], rel=0.01)


@pytest.mark.parametrize("liked", [1, 3])
@pytest.mark.parametrize("others", [59, 3_000])
def test_a_rare_score_that_tells_all_has_a_probability(others: int, liked: int) -> None:
    scores = [0.0] * others + [1e9] * liked
    outcomes = [False] * others + [True] * liked
    intercept, slope = fit_platt(scores, outcomes)
    found = [logistic(intercept + slope * score) for score in scores]
    assert metrics.log_loss(found, outcomes) < 0.1 * metrics.log_loss(
        [liked / len(scores)] * len(scores), outcomes
    ) + metrics.log_loss([1 / (others + 2)] * others, [False] * others)


def test_no_scores_are_an_even_chance() -> None:
    assert fit_platt([], []) == (0.0, 0.0)
    assert logistic(0) == 0.5
    assert logistic(-800) == 0
    assert logistic(800) == 1
