"""Logistic regression by Newton's method, over data that stays elsewhere.

The caller supplies sums over the data at given coefficients, see `Sums`. The rest is arithmetic on
vectors with one entry per feature. Each step is a weighted least squares problem (IRLS: Green,
1984). Features are standardised internally, so that all steps have the same scale. Coefficients are
returned in the units of the features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import NamedTuple, TypeAlias

from recommender.errors import RecommenderError

Vector: TypeAlias = Sequence[float]

Matrix: TypeAlias = Sequence[Vector]

MAX_STEPS = 100
"""The maximum number of Newton steps."""

# Near the solution each step squares the error: after a step of 1e-6 it is about 1e-12.
TOLERANCE = 1e-6
"""The step length, in standard deviations, at which a fit has converged."""

LOSS_TOLERANCE = 1e-9
"""The relative increase of a loss that counts as a rounding error."""

EXACT_SCORES = 2_000
"""The number of scores above which `fit_platt` rounds them."""

SCORE_DIGITS = 2
"""The decimal places that `fit_platt` rounds to, in standard deviations."""

PLATT_RIDGE = 1e-6
"""The ridge that keeps the slope of `fit_platt` finite if scores separate the outcomes."""


class Sums(NamedTuple):
    """Sums over the data at some coefficients. The intercept, a feature of 1, comes first.

    Attributes:
        loss: Σ -log likelihood, in nats.
        gradient: Σ (label - probability) · feature.
        information: Σ probability · (1 - probability) · feature · feature, for all feature pairs.
    """

    loss: float
    gradient: Vector
    information: Matrix


@dataclass(frozen=True, slots=True)
class Scale:
    """The means and standard deviations of the features; 0 and 1 for the intercept.

    Attributes:
        means: one per feature, the intercept first.
        deviations: one per feature, above 0.
    """

    means: Vector
    deviations: Vector

    def raw(self, standard: Vector) -> list[float]:
        """Convert coefficients of standardised features to the features' own units."""
        raw = [
            value / deviation for value, deviation in zip(standard, self.deviations, strict=True)
        ]
        raw[0] -= math.fsum(map(mul, raw[1:], self.means[1:]))
        return raw

    def gradient(self, raw: Vector) -> list[float]:
        """Convert Σ residual · feature to standardised features."""
        return [
            (value - mean * raw[0]) / deviation
            for value, mean, deviation in zip(raw, self.means, self.deviations, strict=True)
        ]

    def products(self, raw: Matrix) -> list[list[float]]:
        """Convert Σ weight · feature · feature to standardised features."""
        first, total = raw[0], raw[0][0]
        places = range(len(raw))
        means, deviations = self.means, self.deviations
        return [
            [
                (
                    raw[i][j]
                    - means[i] * first[j]
                    - means[j] * first[i]
                    + means[i] * means[j] * total
                )
                / (deviations[i] * deviations[j])
                for j in places
            ]
            for i in places
        ]


class Regression(NamedTuple):
    """A fitted model in the features' own units. The intercept comes first.

    Attributes:
        coefficients: on the logit.
        errors: the standard errors, without the intercept.
        steps: the number of Newton steps.
    """

    coefficients: Vector
    errors: Vector
    steps: int


def fit_logistic(
    sums_at: Callable[[Vector], Sums],
    scores_at: Callable[[Vector], Matrix],
    scale: Scale,
    ridges: Vector,
) -> Regression:
    """Fit a ridge logistic regression, with standard errors that are robust to grouping.

    The penalty is the sum of ridge / 2 times the squared standardised coefficient, without the
    intercept. Labels may be fractions from 0 to 1 (Papke and Wooldridge, 1996).

    Args:
        sums_at: returns the sums at coefficients in the features' own units.
        scores_at: returns Σ g · gᵀ over independent groups, such as users. g is the group's part
            of the gradient.
        scale: the scale of the features.
        ridges: one per feature, above 0; 1 is a normal prior of variance 1 on the standardised
            coefficient.

    Raises:
        RecommenderError: the fit did not converge.
    """
    standard, sums, steps = _maximise(sums_at, scale, ridges)
    coefficients = scale.raw(standard)
    errors = _errors(sums.information, scale.products(scores_at(coefficients)), scale)
    return Regression(coefficients, errors, steps)


def _maximise(
    sums_at: Callable[[Vector], Sums], scale: Scale, ridges: Vector
) -> tuple[list[float], Sums, int]:
    """Return the most likely standardised coefficients, their sums, and the number of steps."""
    standard = [0.0] * len(scale.means)
    sums = _penalised(sums_at, scale, standard, ridges)
    for steps in range(1, MAX_STEPS + 1):
        step = solve(sums.information, sums.gradient)
        standard, sums = _take_step(sums_at, scale, ridges, standard, sums, step)
        if max(map(abs, step)) < TOLERANCE:
            return standard, sums, steps
    raise RecommenderError(f"the fit did not converge in {MAX_STEPS} steps")


def _penalised(
    sums_at: Callable[[Vector], Sums], scale: Scale, standard: Vector, ridges: Vector
) -> Sums:
    """Return the sums for standardised features, with the penalty."""
    raw = sums_at(scale.raw(standard))
    penalties = [0.0, *map(mul, ridges, standard[1:])]
    information = scale.products(raw.information)
    for place, ridge in enumerate(ridges, start=1):
        information[place][place] += ridge
    gradient = scale.gradient(raw.gradient)
    return Sums(
        raw.loss + math.fsum(map(mul, penalties, standard)) / 2,
        [value - penalty for value, penalty in zip(gradient, penalties, strict=True)],
        information,
    )


def _take_step(
    sums_at: Callable[[Vector], Sums],
    scale: Scale,
    ridges: Vector,
    standard: Vector,
    before: Sums,
    step: Vector,
) -> tuple[list[float], Sums]:
    """Return the coefficients and sums after a step, halved until the loss does not increase."""
    size = 1.0
    while True:
        moved = [value + size * change for value, change in zip(standard, step, strict=True)]
        after = _penalised(sums_at, scale, moved, ridges)
        is_better = after.loss <= before.loss + LOSS_TOLERANCE * abs(before.loss)
        if is_better or size * max(map(abs, step)) < TOLERANCE:
            return moved, after
        size /= 2


def _errors(information: Matrix, scores: Matrix, scale: Scale) -> list[float]:
    """Return the sandwich standard errors (Huber, 1967), clustered (Liang and Zeger, 1986).

    They hold for any variance of the labels, and for correlated labels within a group.
    """
    inverse = [solve(information, unit) for unit in _units(len(information))]
    variances = [
        math.fsum(row[i] * scores[i][j] * row[j] for i in range(len(row)) for j in range(len(row)))
        for row in inverse
    ]
    errors = [math.sqrt(max(0.0, variance)) for variance in variances]
    pairs = zip(errors, scale.deviations, strict=True)
    return [error / deviation for error, deviation in pairs][1:]


def _units(size: int) -> list[list[float]]:
    return [[float(row == column) for column in range(size)] for row in range(size)]


def solve(matrix: Matrix, vector: Vector) -> list[float]:
    """Solve matrix · x = vector by the Cholesky decomposition.

    Args:
        matrix: symmetric and positive definite.
        vector: one entry per row of the matrix.

    Raises:
        RecommenderError: the matrix is not positive definite.
    """
    lower = _cholesky(matrix)
    solution: list[float] = []
    for row, value in zip(lower, vector, strict=True):
        solution.append((value - math.fsum(map(mul, row, solution))) / row[-1])
    for place in reversed(range(len(solution))):
        below = range(place + 1, len(solution))
        solution[place] -= math.fsum(lower[row][place] * solution[row] for row in below)
        solution[place] /= lower[place][place]
    return solution


def _cholesky(matrix: Matrix) -> list[list[float]]:
    """Return the lower triangle whose product with its transpose is the matrix."""
    lower: list[list[float]] = []
    for place, row in enumerate(matrix):
        entries: list[float] = []
        for column in range(place):
            rest = row[column] - math.fsum(map(mul, entries, lower[column]))
            entries.append(rest / lower[column][column])
        square = row[place] - math.fsum(map(mul, entries, entries))
        if not square > 0:
            raise RecommenderError("the fit has no solution: its equations are not definite")
        lower.append([*entries, math.sqrt(square)])
    return lower


def logistic(logit: float) -> float:
    """Return the probability of a logit."""
    if logit < 0:
        return 1 - logistic(-logit)
    return 1 / (1 + math.exp(-logit))


def fit_platt(scores: Sequence[float], outcomes: Sequence[bool]) -> tuple[float, float]:
    """Fit the intercept and slope that turn scores into probabilities (Platt, 1999).

    One positive and one negative at the mean score are added, so that the intercept is finite.
    More than `EXACT_SCORES` scores are rounded to hundredths of their standard deviation.

    Args:
        scores: any finite numbers.
        outcomes: one per score.

    Returns:
        The intercept and the slope of the logit; 0 and 0 without scores.

    Raises:
        RecommenderError: the fit did not converge.
    """
    if not scores:
        return 0.0, 0.0
    mean = math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores)) or 1.0
    values = [(score - mean) / spread for score in scores]
    if len(values) > EXACT_SCORES:
        values = [round(value, SCORE_DIGITS) for value in values]
    counts = Counter(zip(values, map(float, outcomes), strict=True))
    counts.update([(0.0, 1.0), (0.0, 0.0)])
    points = [(value, label, count) for (value, label), count in counts.items()]
    standardised = Scale([0.0, 0.0], [1.0, 1.0])
    fitted, _, _ = _maximise(lambda b: _sums_of_points(points, *b), standardised, [PLATT_RIDGE])
    intercept, slope = fitted
    return intercept - slope * mean / spread, slope / spread


def _sums_of_points(
    points: Sequence[tuple[float, float, int]], intercept: float, slope: float
) -> Sums:
    """Return the sums over points of one feature: its value, the label, and a count."""
    loss = gradient0 = gradient1 = information00 = information01 = information11 = 0.0
    for value, label, count in points:
        logit = intercept + slope * value
        power = math.exp(-abs(logit))
        loss += count * (max(logit, 0.0) + math.log1p(power) - label * logit)
        probability = (1.0 if logit >= 0 else power) / (1 + power)
        residual = count * (label - probability)
        weight = count * power / (1 + power) ** 2
        gradient0 += residual
        gradient1 += residual * value
        information00 += weight
        information01 += weight * value
        information11 += weight * value * value
    information = [[information00, information01], [information01, information11]]
    return Sums(loss, [gradient0, gradient1], information)
