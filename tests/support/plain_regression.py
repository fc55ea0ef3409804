"""The sums of a logistic regression in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recommender.evaluation.logistic import (
    Matrix,
    Scale,
    Sums,
    Vector,
    logistic,
)

Rows = Sequence[tuple[Sequence[float], float]]


def scale_of(rows: Rows) -> Scale:
    columns = list(zip(*(values for values, _ in rows), strict=True))
    means = [math.fsum(column) / len(rows) for column in columns]
    pairs = zip(columns, means, strict=True)
    spreads = [math.sqrt(math.fsum((v - m) ** 2 for v in c) / len(rows)) for c, m in pairs]
    return Scale([0.0, *means], [1.0, *spreads])


def judged(rows: Rows, coefficients: Vector) -> list[tuple[list[float], float, float]]:
    """Return features with an intercept, label and logit per row."""
    found = []
    for values, label in rows:
        features = [1.0, *values]
        logit = math.fsum(b * x for b, x in zip(coefficients, features, strict=True))
        found.append((features, label, logit))
    return found


def plain_sums(rows: Rows, coefficients: Vector) -> Sums:
    """Return the sums that SQL computes, in plain Python."""
    each = judged(rows, coefficients)
    size = range(len(coefficients))
    p = [logistic(logit) for _, _, logit in each]
    losses = [max(z, 0) + math.log1p(math.exp(-abs(z))) - y * z for _, y, z in each]
    return Sums(
        math.fsum(losses),
        [math.fsum((y - p[n]) * x[i] for n, (x, y, _) in enumerate(each)) for i in size],
        [
            [math.fsum(p[n] * (1 - p[n]) * x[i] * x[j] for n, (x, _, _) in enumerate(each))
             for j in size]
            for i in size
        ],
    )  # fmt: skip


def plain_scores(rows: Rows, groups: Sequence[int], coefficients: Vector) -> Matrix:
    """Return Σ g · gᵀ over groups of rows, where g is the gradient of a group."""
    size = len(coefficients)
    sums: dict[int, list[float]] = {}
    for group, (x, y, z) in zip(groups, judged(rows, coefficients), strict=True):
        own = sums.setdefault(group, [0.0] * size)
        for i in range(size):
            own[i] += (y - logistic(z)) * x[i]
    return [[math.fsum(g[i] * g[j] for g in sums.values()) for j in range(size)]
            for i in range(size)]  # fmt: skip
