"""Bootstrap intervals over resampled units, such as users."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from random import Random
from typing import NamedTuple

MAX_UNITS = 400
"""The maximum number of units to resample. More units hardly improve an interval."""


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap(
    units: Sequence[Sequence[float]],
    statistic: Callable[[Sequence[float]], float | None],
    *,
    times: int = 200,
    seed: int = 0,
) -> Interval | None:
    """Return a statistic of sums with its bootstrap percentile interval (Efron, 1979).

    Args:
        units: one per independent unit, such as a user: numbers, which are summed by column.
        statistic: of the sums over a sample of units; returns None if it is undefined.
        times: the number of samples.
        seed: the same seed draws the same samples for the same number of units.

    Returns:
        None if the statistic of all units is undefined.
    """
    columns = [list(column) for column in zip(*units, strict=True)]
    value = statistic([math.fsum(column) for column in columns]) if columns else None
    if value is None:
        return None
    grouped = [_grouped(column, seed) for column in columns]
    drawn = (
        statistic([sum(pick(column)) for column in grouped])
        for pick in _picks(len(grouped[0]), times, seed)
    )
    samples = sorted(sample for sample in drawn if sample is not None) or [value]
    return Interval(value, _percentile(samples, 0.025), _percentile(samples, 0.975))


def mean_of_sums(sums: Sequence[float]) -> float | None:
    """Return the mean of a sum and a count, a statistic for `bootstrap`; None if the count is 0."""
    total, count = sums
    return total / count if count else None


def _grouped(column: Sequence[float], seed: int) -> Sequence[float]:
    """Return a column of at most `MAX_UNITS` values: itself, or the sums of random groups."""
    # Random groups are as independent as the units are, and the time stops growing with the units.
    if len(column) <= MAX_UNITS:
        return column
    order = _shuffled(len(column), seed)
    return [sum(column[place] for place in order[first::MAX_UNITS]) for first in range(MAX_UNITS)]


@lru_cache(4)
def _shuffled(count: int, seed: int) -> Sequence[int]:
    order = list(range(count))
    Random(seed).shuffle(order)  # noqa: S311 - not for secrets
    return order


@lru_cache(4)
def _picks(
    count: int, times: int, seed: int
) -> Sequence[Callable[[Sequence[float]], tuple[float, ...]]]:
    """Return functions that each draw a sample of a column, with replacement."""
    chance = Random(seed)  # noqa: S311 - not for secrets
    drawn = (chance.choices(range(count), k=count) for _ in range(times))
    return [itemgetter(*places) if count > 1 else tuple for places in drawn]


def _percentile(ordered: Sequence[float], part: float) -> float:
    """Return a quantile of ordered values, by linear interpolation."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
