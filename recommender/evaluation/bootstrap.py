"""Bootstrap intervals over resampled units, such as users, and paired tests of differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import getitem, itemgetter
from random import Random
from typing import NamedTuple

MAX_UNITS = 400
"""The maximum number of units to resample. More units hardly improve an interval."""


FLIPS = 10_000
"""The maximum number of sign patterns of a paired test."""

SIGNIFICANT = 0.05
"""The corrected p value below which a difference counts as significant."""

_BYTE = 8
"""The number of signs that are drawn, and looked up, together."""


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


def weighted_mean(
    values: Sequence[float | None], weights: Sequence[float], *, seed: int = 0
) -> Interval | None:
    """Return the weighted mean of units with its interval; None if no unit has a value.

    Args:
        values: one per unit, None for a unit that does not count.
        weights: one per unit.
        seed: as for `bootstrap`.
    """
    return bootstrap(_weighed(values, weights), mean_of_sums, seed=seed)


def differences(
    values: Mapping[str, Sequence[float | None]],
) -> dict[str, list[float | None]]:
    """Return each ranker's values minus the first ranker's, unit by unit.

    Args:
        values: by ranker, one per unit; None for a unit that does not count.
    """
    first = next(iter(values.values()), ())
    return {
        name: [
            None if value is None or before is None else value - before
            for value, before in zip(own, first, strict=True)
        ]
        for name, own in values.items()
    }


def paired_tests(
    gains: Mapping[str, Sequence[float | None]], weights: Sequence[float], *, seed: int = 0
) -> dict[str, float]:
    """Return the corrected p values of the rankers' mean differences, without the first ranker.

    Every ranker is tested over units (`sign_flip_test`), and `holm` corrects for the number of
    tests. A ranker without a unit in common with the first one is left out.

    Args:
        gains: by ranker, as `differences` returns them.
        weights: one per unit.
        seed: as for `sign_flip_test`.
    """
    return holm({
        name: sign_flip_test([gain for gain, _ in _weighed(own, weights)], seed=seed)
        for name, own in list(gains.items())[1:]
        if any(gain is not None for gain in own)
    })  # fmt: skip


def sign_flip_test(differences: Sequence[float], *, times: int = FLIPS, seed: int = 0) -> float:
    """Return the p value of a two-sided randomisation test that the mean difference is 0.

    If two rankers do not differ, a user's difference is as likely to have the other sign (Fisher,
    1935; Smucker and others, 2007, for rankings). The p value is the share of sign patterns whose
    sum is at least as far from 0 as the actual sum. If there are more patterns than `times`, random
    ones are drawn, and the actual pattern counts as one of them (Phipson and Smyth, 2010).

    Args:
        differences: one per independent unit, such as a user, in any unit of measurement.
        times: the maximum number of patterns.
        seed: the same seed draws the same patterns for the same number of units.

    Returns:
        Above 0 and at most 1; 1 if there is no difference.
    """
    values = [value for value in _grouped(differences, seed) if value]
    tables = [_signed_sums(values[at : at + _BYTE]) for at in range(0, len(values), _BYTE)]
    # Sums that are equal but for rounding are ties.
    bound = abs(math.fsum(values)) - 1e-9 * math.fsum(map(abs, values))
    is_exact = 2 ** len(values) <= times
    patterns = _every_pattern(values) if is_exact else _random_patterns(len(tables), times, seed)
    sums = (sum(map(getitem, tables, pattern)) for pattern in patterns)
    extreme = sum(abs(total) >= bound for total in sums)
    return extreme / 2 ** len(values) if is_exact else (extreme + 1) / (times + 1)


def _weighed(values: Sequence[float | None], weights: Sequence[float]) -> list[tuple[float, float]]:
    """Return units for a weighted mean; units without a value add nothing."""
    return [
        (0.0, 0.0) if value is None else (value * weight, float(weight))
        for value, weight in zip(values, weights, strict=True)
    ]


def _signed_sums(values: Sequence[float]) -> list[float]:
    """Return the sum for each of 256 patterns; a bit that is 1 makes the value of its place plus.

    Places without a value count as 0.
    """
    sums = [0.0]
    for place in range(_BYTE):
        value = values[place] if place < len(values) else 0.0
        sums = [total - value for total in sums] + [total + value for total in sums]
    return sums


def _every_pattern(values: Sequence[float]) -> Iterator[bytes]:
    size = -(-len(values) // _BYTE)
    return (number.to_bytes(size, "little") for number in range(2 ** len(values)))


def _random_patterns(size: int, times: int, seed: int) -> Iterator[bytes]:
    chance = Random(seed)  # noqa: S311 - not for secrets
    return (chance.randbytes(size) for _ in range(times))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values that are corrected for the number of tests (Holm, 1979).

    If a corrected value below .05 counts as a difference, the chance of even one false alarm among
    all tests is at most .05, however they depend on each other.

    Args:
        p_values: by test, 0 to 1 each.

    Returns:
        By test, in the same order, 0 to 1 each, and none smaller than before.
    """
    corrected, reached = {}, 0.0
    for done, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - done) * p_values[name]))
        corrected[name] = reached
    return {name: corrected[name] for name in p_values}


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
