"""Logistic regression where the data is elsewhere: Newton's method over sums, in pure Python.

Whoever has the data gives, for some coefficients, the sums of `Sums`; all else is arithmetic over
vectors as long as there are features. Each step of Newton's method is a weighted least squares
(IRLS: Green, 1984). Features are brought to mean 0 and standard deviation 1 within, so that the
ridge treats them alike; coefficients come out in the features' own units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import NamedTuple, TypeAlias

from recommender.errors import RecommenderError

Vector: TypeAlias = Sequence[float]

Matrix: TypeAlias = Sequence[Vector]

ROUNDS = 100
"""Steps of Newton's method at most."""

NEARLY = 1e-6
"""The longest step, in standard deviations, after which a fit has converged: errors square."""

ROUNDING = 1e-9
"""By which part a loss may grow, since sums are rounded."""


class Sums(NamedTuple):
    """Sums over impressions at some coefficients; the intercept, a feature of 1, comes first.

    Attributes:
        loss: Σ of minus the logarithm of the likelihood, in nats.
        gradient: Σ (label - probability) · feature.
        information: Σ probability · (1 - probability) · feature · feature of each pair.
    """

    loss: float
    gradient: Vector
    information: Matrix


@dataclass(frozen=True, slots=True)
class Scale:
    """The means and standard deviations of features; of the intercept 0 and 1.

    Attributes:
        means: of each feature, the intercept first.
        deviations: of each, above 0.
    """

    means: Vector
    deviations: Vector

    def raw(self, standard: Vector) -> list[float]:
        """Coefficients of features in their own units, from those of standardised ones."""
        own = [
            value / deviation for value, deviation in zip(standard, self.deviations, strict=True)
        ]
        own[0] -= math.fsum(map(mul, own[1:], self.means[1:]))
        return own

    def gradient(self, raw: Vector) -> list[float]:
        """Sums of residual · feature, of standardised features."""
        return [
            (value - mean * raw[0]) / deviation
            for value, mean, deviation in zip(raw, self.means, self.deviations, strict=True)
        ]

    def products(self, raw: Matrix) -> list[list[float]]:
        """Sums of weight · feature · feature, of standardised features."""
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
    """What was fitted, in the features' own units; the intercept comes first.

    Attributes:
        coefficients: on the logit.
        errors: the standard errors of all but the intercept.
        rounds: steps of Newton's method.
    """

    coefficients: Vector
    errors: Vector
    rounds: int


def fit_logistic(
    sums_at: Callable[[Vector], Sums],
    scores_at: Callable[[Vector], Matrix],
    scale: Scale,
    ridge: float,
) -> Regression:
    """The coefficients that make labels most likely, less a penalty, and their standard errors.

    The penalty is ridge / 2 times the sum of the squared standardised coefficients, without the
    intercept. Labels may be any part of 1, as shares (Papke and Wooldridge, 1996).

    Args:
        sums_at: gives the sums at coefficients, which are in the features' own units.
        scores_at: gives Σ g · gᵀ over independent groups of impressions, such as users, where g is
            the group's part of the gradient.
        scale: of the features.
        ridge: above 0; 1 is a normal prior of variance 1 on each standardised coefficient.

    Raises:
        RecommenderError: it did not converge.
    """
    standard, sums = [0.0] * len(scale.means), _at(sums_at, scale, [0.0] * len(scale.means), ridge)
    for rounds in range(1, ROUNDS + 1):
        step = solve(sums.information, sums.gradient)
        standard, sums = _stepped(sums_at, scale, ridge, standard, sums, step)
        if max(map(abs, step)) < NEARLY:
            coefficients = scale.raw(standard)
            errors = _errors(sums.information, scale.products(scores_at(coefficients)), scale)
            return Regression(coefficients, errors, rounds)
    raise RecommenderError(f"the fit did not converge in {ROUNDS} steps")


def _at(sums_at: Callable[[Vector], Sums], scale: Scale, standard: Vector, ridge: float) -> Sums:
    """The penalised sums, of standardised features."""
    raw = sums_at(scale.raw(standard))
    penalties = [0.0, *(ridge * value for value in standard[1:])]
    information = scale.products(raw.information)
    for place in range(1, len(standard)):
        information[place][place] += ridge
    gradient = scale.gradient(raw.gradient)
    return Sums(
        raw.loss + math.fsum(map(mul, penalties, standard)) / 2,
        [value - penalty for value, penalty in zip(gradient, penalties, strict=True)],
        information,
    )


def _stepped(
    sums_at: Callable[[Vector], Sums],
    scale: Scale,
    ridge: float,
    standard: Vector,
    before: Sums,
    step: Vector,
) -> tuple[list[float], Sums]:
    """The coefficients after a step, which is halved while it makes the loss worse."""
    part = 1.0
    while True:
        moved = [value + part * change for value, change in zip(standard, step, strict=True)]
        after = _at(sums_at, scale, moved, ridge)
        is_better = after.loss <= before.loss + ROUNDING * abs(before.loss)
        if is_better or part * max(map(abs, step)) < NEARLY:
            return moved, after
        part /= 2


def _errors(information: Matrix, scores: Matrix, scale: Scale) -> list[float]:
    """The standard errors that hold whatever the labels' variance, and for groups that vary as one.

    The sandwich of Huber (1967), over groups as of Liang and Zeger (1986).
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
    """The solution x of matrix · x = vector, by Cholesky's decomposition.

    Args:
        matrix: symmetric and positive definite.
        vector: as long as the matrix has rows.

    Raises:
        RecommenderError: the matrix is not positive definite.
    """
    lower = _decomposed(matrix)
    found: list[float] = []
    for row, value in zip(lower, vector, strict=True):
        found.append((value - math.fsum(map(mul, row, found))) / row[-1])
    for place in reversed(range(len(found))):
        below = range(place + 1, len(found))
        found[place] -= math.fsum(lower[row][place] * found[row] for row in below)
        found[place] /= lower[place][place]
    return found


def _decomposed(matrix: Matrix) -> list[list[float]]:
    """The lower triangle whose product with its transpose is the matrix."""
    lower: list[list[float]] = []
    for place, row in enumerate(matrix):
        own: list[float] = []
        for column in range(place):
            rest = row[column] - math.fsum(map(mul, own, lower[column]))
            own.append(rest / lower[column][column])
        square = row[place] - math.fsum(map(mul, own, own))
        if not square > 0:
            raise RecommenderError("the fit has no solution: its equations are not definite")
        lower.append([*own, math.sqrt(square)])
    return lower


def bounded(values: Vector, most: float) -> float:
    """What to multiply weights by, so that none is beyond a bound; the order they give stays.

    Args:
        values: any finite numbers.
        most: the bound, above 0.

    Returns:
        1 where none is beyond it, else less.
    """
    largest = max(map(abs, values), default=0.0)
    return most / largest if largest > most else 1.0
