"""Simulated experiments: users arrive over weeks, and their outcomes grow from day to day.

Every user has a rate of enjoying videos of their own. It shows in their past, if they have one.
`python -m tests.support.simulated_experiments` prints the figures of the wing's README.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recommender.experiments.statistics import (
    Comparison,
    ConfidenceSequence,
    Sums,
    compare,
    plain_margin,
)

Array = NDArray[np.float64]

PLACES = 12
"""The mean number of places that a user looks at on a day on which they come."""

COMES = 0.5
"""The chance that a user comes on a day after their first one."""

RATES = (4, 8)
"""The parameters of the beta distribution of users' rates."""

HAS_PAST = 0.7
"""The share of users with a past of 28 days."""

LEAST_EFFECTS = (0.02, 0.05, 0.1, 0.2, 0.5)

SEED = 10
"""The seed of the figures. `TIGHTEST_AT` was chosen on other seeds, so it does not flatter them."""

METRICS = ("share", "positives")
"""The share of enjoyed places, and their number."""


class Experiments(NamedTuple):
    """Many experiments, by metric: arrays with a row per day and a column per experiment."""

    control: dict[str, Sums]
    variant: dict[str, Sums]

    def comparison(self, metric: str, *, past: bool = True) -> Comparison:
        arms = self.control[metric], self.variant[metric]
        if not past:
            arms = tuple(arm._replace(x=0 * arm.x, xx=0 * arm.x, xy=0 * arm.x) for arm in arms)
        (found,) = compare(arms[0], [arms[1]])
        return found


def simulate(
    runs: int, users: int, days: int, *, effect: float = 0.0, seed: int = SEED
) -> Experiments:
    """Simulate experiments of two arms.

    Args:
        runs: the number of experiments.
        users: the users of each, who arrive on random days.
        days: the length of each.
        effect: by which part the variant raises every user's rate.
        seed: the same seed draws the same experiments.
    """
    chance = np.random.default_rng(seed)
    rate = chance.beta(*RATES, (runs, users))
    arrives = chance.integers(0, days, (runs, users))
    in_variant = chance.random((runs, users)) < 0.5
    past = _past(chance, rate)
    raised = np.minimum(rate * np.where(in_variant, 1 + effect, 1.0), 1.0).ravel()
    looked, enjoyed = np.zeros(runs * users), np.zeros(runs * users)
    by_day: dict[tuple[bool, str], list[Array]] = {}
    for day in range(days):
        comes = (arrives == day) | ((arrives < day) & (chance.random((runs, users)) < COMES))
        who = np.flatnonzero(comes)
        places = chance.poisson(PLACES, who.size)
        looked[who] += places
        enjoyed[who] += chance.binomial(places, raised[who])
        outcomes = _metrics(enjoyed, looked, (runs, users))
        for variant in (False, True):
            is_in = (in_variant == variant) & (arrives <= day)
            for metric in METRICS:
                sums = _sums(is_in, outcomes[metric], past[metric])
                by_day.setdefault((variant, metric), []).append(sums)
    control, variant = (
        {metric: Sums(*np.stack(by_day[arm, metric], axis=1)) for metric in METRICS}
        for arm in (False, True)
    )
    return Experiments(control, variant)


def _metrics(enjoyed: Array, looked: Array, shape: tuple[int, int]) -> dict[str, Array]:
    share = enjoyed / np.maximum(looked, 1)
    return {"share": share.reshape(shape), "positives": enjoyed.reshape(shape)}


def _past(chance: np.random.Generator, rate: Array) -> dict[str, Array]:
    has_past = chance.random(rate.shape) < HAS_PAST
    looked = np.where(has_past, chance.poisson(PLACES * COMES * 28, rate.shape), 0)
    enjoyed = chance.binomial(looked, rate).astype(float)
    return _metrics(enjoyed, looked.astype(float), (rate.shape[0], rate.shape[1]))


def _sums(is_in: NDArray[np.bool_], y: Array, x: Array) -> Array:
    """Return the sums of one arm on one day, a row for each field of `Sums`."""
    own_y, own_x = y * is_in, x * is_in
    products = ((own_y, y), (own_x, x), (own_x, y))
    yy, xx, xy = (np.einsum("ru,ru->r", left, right) for left, right in products)
    return np.stack([is_in.sum(1), own_y.sum(1), yy, own_x.sum(1), xx, xy])


def days_found(experiments: Experiments, metric: str, sequence: ConfidenceSequence) -> Array:
    """Return the day on which the sequence of each experiment first excludes 0, or infinity."""
    found = experiments.comparison(metric)
    return _first(np.abs(found.difference) > sequence.margin(found))


def plainly_found(
    experiments: Experiments, metric: str, alpha: float = 0.05, *, past: bool = True
) -> NDArray[np.bool_]:
    """Return whether the plain interval excludes 0, by day and experiment."""
    found = experiments.comparison(metric, past=past)
    is_found: NDArray[np.bool_] = np.abs(found.difference) > plain_margin(found, alpha)
    return is_found


def _first(found: NDArray[np.bool_]) -> Array:
    return np.where(found.any(0), found.argmax(0) + 1.0, np.inf)


def high_end(count: int, of: int) -> float:
    """Return the upper end of the exact 95 % interval of a share (Clopper and Pearson, 1934)."""
    low, high = count / of, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(count, of, middle) > 0.025 else (low, middle)
    return high


def _at_most(count: int, of: int, share: float) -> float:
    numbers = np.arange(1, of + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((of - numbers + 1) / numbers))])
    drawn = np.arange(count + 1)
    chances = logs[: count + 1] + drawn * np.log(share) + (of - drawn) * np.log1p(-share)
    return float(np.exp(chances).sum())


def print_figures() -> None:
    alike = simulate(1_000, 1_000, 28)
    for metric, least in product(METRICS, LEAST_EFFECTS):
        days = days_found(alike, metric, ConfidenceSequence(0.05, least))
        alarms = int(np.isfinite(days).sum())
        print(f"{metric}, {least}: {alarms} alarms, at most {high_end(alarms, 1_000):.4f}")  # noqa: T201
    for metric in METRICS:
        plain = plainly_found(alike, metric)
        print(f"{metric}: plain daily {plain.any(0).mean()}, at the end {plain[-1].mean()}")  # noqa: T201
    for effect in (0.0375, 0.075, 0.1125, 0.15):
        differ = simulate(400, 3_000, 84, effect=effect, seed=SEED + 1)
        plain = plainly_found(differ, "share")[27]
        for least in (0.02, 0.075):
            days = days_found(differ, "share", ConfidenceSequence(0.05, least))
            half, most = np.quantile(days, (0.5, 0.8), method="inverted_cdf")
            print(f"{effect}, {least}: {plain.mean():.3f} {(days <= 28).mean():.3f} {half} {most}")  # noqa: T201


if __name__ == "__main__":
    print_figures()
