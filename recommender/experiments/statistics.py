"""Statistics of experiments: pure functions of sums over users, without a database.

Every number may be an array, so that many experiments or days are computed together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import lazy_loader

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_loader.load("numpy")  # whatever reports no experiment starts without it


Numbers: TypeAlias = Any
"""A number, or a NumPy array of numbers."""

MIN_USERS = 100
"""The minimum number of users in each arm. Means of fewer are too far from normal for intervals."""

RATIO_ALPHA = 0.001
"""The chance that the sample-ratio check stops an experiment without a fault, over all looks."""

RATIO_PRIOR = 100.0
"""The weight of the planned shares in the sample-ratio check, in users.

A larger one finds small faults a little sooner and large ones later. This one finds 52 % instead of
50 % at about 12,000 users, and two thirds instead of a half at 200.
"""

TIGHTEST_AT = 2.0
"""The half-width at which a confidence sequence is tightest, as a multiple of the least effect.

1 would suit variants that are barely worth it. With 2 these need 7 % more users, and a variant
with five times the least effect needs 34 % fewer.
"""


class Sums(NamedTuple):
    """Sums over the users of one arm, which a database can compute at any size.

    Attributes:
        users: the number of users.
        y, yy: the sums of the outcome and of its square.
        x, xx: the sums of the same quantity before the experiment, and of its square.
        xy: the sum of the products.
    """

    users: Numbers
    y: Numbers
    yy: Numbers
    x: Numbers
    xx: Numbers
    xy: Numbers


class Comparison(NamedTuple):
    """A variant compared with the control.

    Attributes:
        control, variant: the mean outcomes, adjusted for the users' past.
        error: the standard error of their difference, infinite if it is not known.
    """

    control: Numbers
    variant: Numbers
    error: Numbers

    @property
    def difference(self) -> Numbers:
        """The variant's mean minus the control's mean."""
        return self.variant - self.control

    @property
    def information(self) -> Numbers:
        """The squared ratio of the mean of both arms and the standard error."""
        # Not the control's mean alone: it is 0 if only users of the variant report videos.
        mean = np.add(self.control, self.variant) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.square(np.divide(mean, self.error))


def compare(control: Sums, variants: Sequence[Sums]) -> list[Comparison]:
    """Compare each variant with the control, with variance reduced by the users' past (CUPED).

    The outcome of a user is lowered by `slope` times how far the user's past lies above the mean
    (Deng, Xu, Kohavi and Walker, "Improving the Sensitivity of Online Controlled Experiments by
    Utilizing Pre-Experiment Data", 2013). The past is the same in all arms but for chance, so this
    changes no expected difference.

    Args:
        control: the sums of the control.
        variants: the sums of each variant.
    """
    arms = [control, *variants]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = _slope(arms)
        past = sum(arm.x for arm in arms) / np.asarray(sum(arm.users for arm in arms))
        means = [_mean(arm.y, arm) - slope * (_mean(arm.x, arm) - past) for arm in arms]
        variances = [_variance_of_mean(arm, slope) for arm in arms]
        return [
            Comparison(means[0], mean, _error(variances[0] + variance, control, variant))
            for mean, variance, variant in zip(means[1:], variances[1:], variants, strict=True)
        ]


def _mean(total: Numbers, arm: Sums) -> Numbers:
    return np.divide(total, arm.users)


def _spread(product: Numbers, left: Numbers, right: Numbers, arm: Sums) -> Numbers:
    """Return the sum of the products of the distances from two means."""
    return product - left * _mean(right, arm)


def _slope(arms: Sequence[Sums]) -> Numbers:
    """Return the slope of the outcome on the past, pooled within arms; 0 without a past."""
    # Within arms: an effect of a variant must not look like an effect of the past.
    both = sum(_spread(arm.xy, arm.x, arm.y, arm) for arm in arms)
    past = np.asarray(sum(_spread(arm.xx, arm.x, arm.x, arm) for arm in arms))
    return np.where(past > 0, both / np.where(past > 0, past, 1.0), 0.0)


def _variance_of_mean(arm: Sums, slope: Numbers) -> Numbers:
    outcome = _spread(arm.yy, arm.y, arm.y, arm)
    both = _spread(arm.xy, arm.x, arm.y, arm)
    past = _spread(arm.xx, arm.x, arm.x, arm)
    squares = outcome - 2 * slope * both + slope**2 * past
    return np.divide(squares, np.multiply(arm.users, np.subtract(arm.users, 1)))


def _error(variance: Numbers, control: Sums, variant: Sums) -> Numbers:
    """Return a standard error; infinite for too few users, or if all outcomes are equal."""
    is_known = (np.minimum(control.users, variant.users) >= MIN_USERS) & (variance > 0)
    return np.sqrt(np.where(is_known, variance, np.inf))


def plain_margin(found: Comparison, alpha: float) -> Numbers:
    """Return half the width of the plain interval. It holds at one look that was fixed before.

    Args:
        found: the comparison.
        alpha: the chance that the interval does not hold, 0 to 1.
    """
    return NormalDist().inv_cdf(1 - alpha / 2) * found.error


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """Intervals that all hold together, however often one looks, with a chance of 1 - `alpha`.

    Robbins' normal mixture as an asymptotic confidence sequence (Howard, Ramdas, McAuliffe and
    Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", 2021;
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences", 2024).

    Attributes:
        alpha: the chance that any of the intervals does not hold, 0 to 1.
        least_effect: the smallest effect that matters, as a part of the control's mean, above 0.
            It is fixed at the start. The sequence is tightest where half its width is `TIGHTEST_AT`
            times this effect: there, or soon after, most verdicts fall.
    """

    # Time is information, not users. Outcomes of users grow while the experiment runs, so a user
    # counts the more, the longer they are in it. Successive differences of estimates with
    # independent increments have covariances that depend on information alone.

    alpha: float
    least_effect: float

    @property
    def _log(self) -> float:
        return -2 * math.log(self.alpha)

    @property
    def _tightest(self) -> float:
        """The ratio of information and `_scale` at which the margin is narrowest."""
        # Formula of Waudby-Smith and others (2024) for the parameter rho of the mixture.
        return self._log + math.log1p(self._log)

    @property
    def _scale(self) -> float:
        ratio = self._tightest
        width = TIGHTEST_AT * self.least_effect
        return float(self._squared(1 / ratio)) / width**2 / ratio

    def _squared(self, share: Numbers) -> Numbers:
        """Return the squared margin in standard errors, from `_scale` divided by information."""
        return (1 + share) * (np.log1p(1 / share) + self._log)

    def margin(self, found: Comparison) -> Numbers:
        """Return half the width of the interval, infinite if the standard error is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share = self._scale / found.information
            margin = np.sqrt(self._squared(share)) * found.error
        return np.where(np.isfinite(share), margin, np.inf)

    def information_for(self, width: float) -> float:
        """Return the information at which half the width is a part of the mean of both arms.

        Args:
            width: the part, above 0.
        """
        information = self._log / width**2
        for _ in range(50):
            # The geometric mean of two steps: a step by itself would jump to and fro.
            share = self._scale / information
            information = math.sqrt(information * float(self._squared(share)) / width**2)
        return information


def ratio_p_value(users: Sequence[float], shares: Sequence[float]) -> float:
    """Return the p value of the sample-ratio check, which holds however often one looks.

    A faulty assignment, or a variant whose users are lost, changes the number of users in the arms.
    Then no difference of means can be trusted. The test compares the planned shares with a
    Dirichlet mixture around them (Lindon and Malek, "Anytime-Valid Inference for Multinomial Count
    Data", 2022). A chi-square test at each look would raise false alarms.

    Args:
        users: the number of users in each arm.
        shares: the planned shares of the arms, above 0; they need not add up to 1.

    Returns:
        0 to 1; 1 without users. The chance that it is ever below p is at most p.
    """
    whole = math.fsum(shares)
    planned = [share / whole for share in shares]
    prior = [RATIO_PRIOR * share for share in planned]
    mixture = _log_beta([a + n for a, n in zip(prior, users, strict=True)]) - _log_beta(prior)
    as_planned = math.fsum(n * math.log(share) for n, share in zip(users, planned, strict=True))
    return math.exp(min(0.0, as_planned - mixture))


def _log_beta(numbers: Sequence[float]) -> float:
    return math.fsum(map(math.lgamma, numbers)) - math.lgamma(math.fsum(numbers))
