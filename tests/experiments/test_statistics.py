"""Statistics of experiments: sums give what plain Python computes from every user."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from statistics import NormalDist, fmean, variance

import pytest

from recommender.experiments.statistics import (
    MIN_USERS,
    RATIO_ALPHA,
    RATIO_PRIOR,
    TIGHTEST_AT,
    Comparison,
    ConfidenceSequence,
    Sums,
    compare,
    plain_margin,
    ratio_p_value,
)

User = tuple[float, float]
"""The outcome of a user, and their past."""


def sums(users: Sequence[User]) -> Sums:
    return Sums(
        len(users),
        math.fsum(y for y, _ in users),
        math.fsum(y * y for y, _ in users),
        math.fsum(x for _, x in users),
        math.fsum(x * x for _, x in users),
        math.fsum(x * y for y, x in users),
    )


def arm(chance: Random, users: int, effect: float = 0.0) -> list[User]:
    pasts = [chance.gauss(3, 1) for _ in range(users)]
    return [(0.6 * x + effect + chance.gauss(2, 0.5), x) for x in pasts]


def unadjusted(users: Sequence[User]) -> list[User]:
    return [(y, 0.0) for y, _ in users]


def with_information(information: float) -> Comparison:
    """A comparison whose control has the mean 1."""
    return Comparison(1.0, 1.0, 1 / math.sqrt(information))


def plain_slope(arms: Sequence[Sequence[User]]) -> float:
    both = past = 0.0
    for users in arms:
        mean_y, mean_x = fmean(y for y, _ in users), fmean(x for _, x in users)
        both += math.fsum((y - mean_y) * (x - mean_x) for y, x in users)
        past += math.fsum((x - mean_x) ** 2 for _, x in users)
    return both / past


@pytest.mark.parametrize("seed", range(3))
def test_sums_give_the_means_and_errors_of_users_adjusted_one_by_one(seed: int) -> None:
    chance = Random(seed)  # noqa: S311 - not for secrets
    arms = [arm(chance, users, effect) for users, effect in ((400, 0.0), (300, 0.2), (150, -0.1))]
    slope = plain_slope(arms)
    middle = fmean(x for users in arms for _, x in users)
    adjusted = [[y - slope * (x - middle) for y, x in users] for users in arms]
    control, *variants = map(sums, arms)
    for found, own in zip(compare(control, variants), adjusted[1:], strict=True):
        error = math.sqrt(variance(adjusted[0]) / 400 + variance(own) / len(own))
        assert found.control == pytest.approx(fmean(adjusted[0]))
        assert found.variant == pytest.approx(fmean(own))
        assert found.difference == pytest.approx(fmean(own) - fmean(adjusted[0]))
        # One more degree of freedom, for the slope, would change the sixth digit.
        assert found.error == pytest.approx(error, rel=1e-3)
        mean = (found.control + found.variant) / 2
        assert found.information == pytest.approx((mean / found.error) ** 2)


def test_the_past_reduces_the_error_and_without_a_past_means_are_as_they_are() -> None:
    chance = Random(1)  # noqa: S311 - not for secrets
    control, variant = arm(chance, 500), arm(chance, 500, 0.1)
    (adjusted,) = compare(sums(control), [sums(variant)])
    (plain,) = compare(sums(unadjusted(control)), [sums(unadjusted(variant))])
    assert plain.control == pytest.approx(fmean(y for y, _ in control))
    # The past explains .6^2 of .6^2 + .5^2 of the variance.
    assert adjusted.error / plain.error == pytest.approx(0.5 / math.hypot(0.6, 0.5), rel=0.1)


def test_an_effect_is_not_mistaken_for_an_effect_of_the_past() -> None:
    control = [(float(n % 2), float(n % 3)) for n in range(600)]
    variant = [(y + 100, x + 10) for y, x in control]
    (found,) = compare(sums(control), [sums(variant)])
    assert plain_slope([control, variant]) == pytest.approx(0, abs=1e-12)
    assert found.difference == pytest.approx(100)


@pytest.mark.parametrize(
    ("control", "variant"),
    [
        ([], []),
        ([(1.0, 0.0), (0.0, 0.0)] * 100, []),
        ([(1.0, 0.0)] * 200, [(1.0, 0.0)] * 200),
        ([(1.0, 1.0), (0.0, 0.0)] * 100, [(1.0, 0.0), (0.0, 1.0)] * (MIN_USERS // 2 - 1)),
    ],
)
def test_with_few_users_or_equal_outcomes_nothing_is_known(
    control: list[User], variant: list[User]
) -> None:
    (found,) = compare(sums(control), [sums(variant)])
    assert found.error == plain_margin(found, 0.05) == math.inf
    assert ConfidenceSequence(0.05, 0.02).margin(found) == math.inf


def test_a_hundred_users_in_each_arm_are_enough() -> None:
    users = [(1.0, 0.0), (0.0, 0.0)] * (MIN_USERS // 2)
    (found,) = compare(sums(users), [sums(users)])
    assert found.error < math.inf


def test_where_the_control_is_0_the_sequence_follows_the_mean_of_both_arms() -> None:
    (found,) = compare(sums([(0.0, 0.0)] * 200), [sums([(1.0, 0.0), (0.0, 0.0)] * 100)])
    alike = found._replace(control=found.variant / 2, variant=found.variant / 2)
    sequence = ConfidenceSequence(0.05, 0.02)
    assert sequence.margin(found) == sequence.margin(alike) < math.inf
    assert sequence.margin(found._replace(control=0.0, variant=0.0)) == math.inf


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("least", [0.02, 0.3])
def test_the_sequence_is_the_normal_mixture(alpha: float, least: float) -> None:
    """Its bound is where the likelihood ratio of the mixture is 1 / alpha (Robbins, 1970)."""
    sequence = ConfidenceSequence(alpha, least)
    for information in (10.0, 1e3, 1e5):
        margin = float(sequence.margin(with_information(information)))
        # The score is a normal walk; the mixture over its drift has the variance 1 / scale.
        score, scale = margin * information, sequence._scale
        ratio = math.sqrt(scale / (information + scale)) * math.exp(
            score**2 / (2 * (information + scale))
        )
        assert ratio == pytest.approx(1 / alpha)


def test_the_sequence_is_tightest_at_a_multiple_of_the_least_effect() -> None:
    sequence = ConfidenceSequence(0.05, 0.02)
    middle = sequence.information_for(TIGHTEST_AT * 0.02)
    in_errors = [
        float(sequence.margin(with_information(middle * factor))) * math.sqrt(middle * factor)
        for factor in (0.25, 0.5, 0.8, 1.0, 1.25, 2, 4)
    ]
    # The formula for the parameter of the mixture is an approximation.
    assert min(in_errors) == pytest.approx(in_errors[3], rel=1e-3)
    assert all(before > after for before, after in pairwise(in_errors[:3]))
    assert all(before < after for before, after in pairwise(in_errors[4:]))
    assert min(in_errors) > NormalDist().inv_cdf(0.975)


@pytest.mark.parametrize("width", [0.0001, 0.01, 0.02, 0.3, 5])
def test_the_information_for_a_width_has_that_width(width: float) -> None:
    sequence = ConfidenceSequence(0.05, 0.02)
    found = with_information(sequence.information_for(width))
    assert float(sequence.margin(found)) == pytest.approx(width)


@pytest.mark.parametrize(
    ("users", "shares", "is_found"),
    [
        ((0, 0), (1, 1), False),
        ((50, 50), (0.5, 0.5), False),
        ((5_000, 5_000), (0.5, 0.5), False),
        ((6_240, 5_760), (0.5, 0.5), True),
        ((5_100, 4_900), (0.5, 0.5), False),
        ((8_000, 1_000, 1_000), (0.8, 0.1, 0.1), False),
        ((8_000, 1_200, 800), (0.8, 0.1, 0.1), True),
        ((140, 70), (0.5, 0.5), True),
    ],
)
def test_the_sample_ratio_check_finds_faults(
    users: Sequence[int], shares: Sequence[float], *, is_found: bool
) -> None:
    assert (ratio_p_value(users, shares) < RATIO_ALPHA) is is_found
    assert ratio_p_value(users, [7 * share for share in shares]) == pytest.approx(
        ratio_p_value(users, shares)
    )


def test_the_evidence_of_the_sample_ratio_has_the_mean_1_under_the_plan() -> None:
    """So it is above 1 / p with a chance of at most p, also at a time that is chosen by looking."""
    users, share = 40, 0.3
    chances = (
        math.comb(users, first) * share**first * (1 - share) ** (users - first)
        for first in range(users + 1)
    )
    evidence = (_evidence(first, users - first, share) for first in range(users + 1))
    assert math.fsum(map(math.prod, zip(chances, evidence, strict=True))) == pytest.approx(1)


def _evidence(first: int, second: int, share: float) -> float:
    """The likelihood ratio by sequential prediction: each user's chance given those before."""
    prior, ratio, counts = (RATIO_PRIOR * share, RATIO_PRIOR * (1 - share)), 1.0, [0, 0]
    for number in [0] * first + [1] * second:
        expected = (prior[number] + counts[number]) / (RATIO_PRIOR + sum(counts))
        ratio *= expected / (share, 1 - share)[number]
        counts[number] += 1
    assert ratio_p_value((first, second), (share, 1 - share)) == pytest.approx(min(1, 1 / ratio))
    return ratio
