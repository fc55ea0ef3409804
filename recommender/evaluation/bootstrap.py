"""evaluation.bootstrap: TODO."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from random import Random
from typing import NamedTuple

from recommender.evaluation.metrics import MOST_UNITS


class Interval(NamedTuple):
    """A value, and where 95 % of resampled ones are."""

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
    """A statistic of sums, with its 95 % interval over resampled units (Efron, 1979; percentiles).

    More than `MOST_UNITS` are first dealt at random into so many groups, which are as independent
    of each other as the units are; so the time hardly grows with the units.

    Args:
        units: of each what was drawn, such as a user: as many numbers, which are summed.
        statistic: of the sums over a sample of the units; None where it has none.
        times: how many samples are drawn.
        seed: the same seed draws the same samples, of any units of the same number.

    Returns:
        None where the statistic of the units is None.
    """
    columns = [list(column) for column in zip(*units, strict=True)]
    value = statistic([math.fsum(column) for column in columns]) if columns else None
    if value is None:
        return None
    dealt = [_dealt(column, seed) for column in columns]
    drawn = (
        statistic([sum(pick(column)) for column in dealt])
        for pick in _picks(len(dealt[0]), times, seed)
    )
    found = sorted(each for each in drawn if each is not None) or [value]
    return Interval(value, _percentile(found, 0.025), _percentile(found, 0.975))


def _dealt(column: Sequence[float], seed: int) -> Sequence[float]:
    """The sums of `MOST_UNITS` groups, or the column itself where it is no longer than that."""
    if len(column) <= MOST_UNITS:
        return column
    order = _shuffled(len(column), seed)
    return [sum(column[place] for place in order[first::MOST_UNITS]) for first in range(MOST_UNITS)]


@lru_cache(4)
def _shuffled(count: int, seed: int) -> Sequence[int]:
    order = list(range(count))
    Random(seed).shuffle(order)  # noqa: S311 - not for secrets
    return order


@lru_cache(4)
def _picks(
    count: int, times: int, seed: int
) -> Sequence[Callable[[Sequence[float]], tuple[float, ...]]]:
    """Functions that draw as many of a column as it has, each with others again and again."""
    chance = Random(seed)  # noqa: S311 - not for secrets
    drawn = (chance.choices(range(count), k=count) for _ in range(times))
    return [itemgetter(*each) if count > 1 else tuple for each in drawn]


def _percentile(ordered: Sequence[float], part: float) -> float:
    """Between the two nearest of ordered values."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
