"""Estimate the labels of another order of shown videos (off-policy evaluation).

The videos of a page swap positions, and the first half of the page is judged: what would a viewer
have met who left halfway? Every video's label is known, but at another position, and positions
differ in attention. In the position-based model (Craswell and others, 2008) the probability of an
outcome is the effect of the position times the relevance of the video. So each label is weighted by
the effect of its new position over the effect of its old one. This is an inverse propensity weight
(Joachims and others, 2017; for rankings Li and others, "Offline Evaluation of Ranking Policies with
Click Models", 2018). The sum is divided by the number of positions (Horvitz and Thompson, 1952).
Weights are clipped, which may lower an estimate but never raises it.

The effects of positions come from the exploration candidates, which are placed at random regardless
of their score: an experiment. Labels at two positions are compared within sessions, as Mantel and
Haenszel (1959) compare within strata. Otherwise eager viewers, who scroll further, would look like
an effect of late positions. Everything is a sum over users, so a bootstrap interval also contains
the uncertainty of the effects.
"""

# Not the self-normalised estimate (SNIPS: Swaminathan and Joachims, 2015): the weights are not
# density ratios, and a video that moves to a better position must count more.

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from operator import mul
from random import Random
from typing import NamedTuple

from recommender.evaluation.bootstrap import MAX_UNITS, Interval, bootstrap, mean_of_sums
from recommender.evaluation.labels import GROUP_STARTS

GROUPS = range(len(GROUP_STARTS) + 1)

PAIRS = tuple(product(GROUPS, GROUPS))

PRIOR = 20.0
"""The number of average exploration candidates that are added to each group of positions."""

MAX_WEIGHT = 10.0
"""The maximum weight of a label."""

ROUNDS = 1_000
"""The maximum number of rounds that balance the effects."""

TOLERANCE = 1e-9
"""The change of an effect at which the effects are balanced."""


class LoggedVideo(NamedTuple):
    """A shown video: its position in the session, from 1, and its label, 0 to 1."""

    position: int
    label: float


class ReorderedPage(NamedTuple):
    """The shown videos of a page, and the permutation that puts them into another order."""

    shown: Sequence[LoggedVideo]
    order: Sequence[int]


@dataclass(frozen=True, slots=True)
class Expectation:
    """The mean labels of the first halves of pages, as served and in another order.

    Attributes:
        places: the number of positions in these halves.
        logged: the mean label as served, 0 to 1.
        expected: the estimate for the other order, with labels weighted by the effects of
            positions; None if no exploration candidate led to the target.
        change: `expected` minus `logged`.
        unweighted: the estimate if all positions had the same effect.
        overlap: the share of the videos that both orders have in the first half, 0 to 1.
        effects: the effects of the groups of positions, by first position, as multiples of the
            effect of position 1.
        effective: the effective sample size of the weighted labels (Kish, 1965).
        clipped: the number of labels with a clipped weight.
        trials: the number of exploration candidates that the effects come from.
        trial_labels: the sum of their labels. Below 100 the effects are imprecise.
    """

    places: int
    logged: Interval | None
    expected: Interval | None
    change: Interval | None
    unweighted: Interval | None
    overlap: Interval | None
    effects: Mapping[int, float]
    effective: float | None
    clipped: int
    trials: int
    trial_labels: float


@dataclass(slots=True)
class _Unit:
    """The sums of a user, or of several users.

    Attributes:
        places: the number of positions in first halves.
        logged: the sum of the labels there.
        common: the number of videos that both orders have there.
        moved: the sum of labels by pair of groups, the old and the new.
        counts: the number of labels by pair.
        compared: by pair, the labels of exploration candidates in the first group times the share
            of candidates in the second.
        trials, labels: the number of shown exploration candidates, and the sum of their labels.
    """

    places: int = 0
    logged: float = 0.0
    common: int = 0
    moved: list[float] = field(default_factory=lambda: [0.0] * len(PAIRS))
    counts: list[int] = field(default_factory=lambda: [0] * len(PAIRS))
    compared: list[float] = field(default_factory=lambda: [0.0] * len(PAIRS))
    trials: int = 0
    labels: float = 0.0

    def add_page(self, page: ReorderedPage) -> None:
        """Add the first half of a page's places."""
        half = len(page.shown) // 2
        self.places += half
        self.logged += math.fsum(video.label for video in page.shown[:half])
        self.common += sum(number < half for number in page.order[:half])
        for place, number in zip(page.shown, page.order[:half], strict=False):
            video = page.shown[number]
            pair = _pair(group_of(video.position), group_of(place.position))
            self.moved[pair] += video.label
            self.counts[pair] += 1

    def add_trials(self, trials: Sequence[LoggedVideo]) -> None:
        """Add the exploration candidates of one session."""
        labels, counts = [0.0 for _ in GROUPS], [0 for _ in GROUPS]
        for video in trials:
            labels[group_of(video.position)] += video.label
            counts[group_of(video.position)] += 1
        self.trials += len(trials)
        self.labels += math.fsum(labels)
        for pair, (one, other) in enumerate(PAIRS):
            if labels[one]:
                self.compared[pair] += labels[one] * counts[other] / len(trials)


@dataclass(slots=True)
class OffPolicyEstimator:
    """The sums over reordered pages, and the estimates from them.

    Attributes:
        seed: the random seed of the intervals.
        units: one per user; many users share `MAX_UNITS` units, so that memory is bounded.
    """

    seed: int = 0
    units: list[_Unit] = field(default_factory=list)
    _chance: Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)  # noqa: S311 - not for secrets

    def add(self, pages: Sequence[ReorderedPage], trials: Sequence[Sequence[LoggedVideo]]) -> None:
        """Add a user. Each user may be added once.

        Args:
            pages: the pages without exploration candidates, which keep their positions.
            trials: the exploration candidates, one sequence per session.
        """
        if len(self.units) < MAX_UNITS:
            self.units.append(_Unit())
            unit = self.units[-1]
        else:
            unit = self._chance.choice(self.units)
        for page in pages:
            unit.add_page(page)
        for of_session in trials:
            unit.add_trials(of_session)

    def expectation(self) -> Expectation:
        """Return the estimates from the sums."""
        counts = _summed(unit.counts for unit in self.units)
        compared = _summed(unit.compared for unit in self.units)
        trials = sum(unit.trials for unit in self.units)
        labels = math.fsum(unit.labels for unit in self.units)
        effects = _effects(compared, labels / trials) if labels else None
        ratios = [effects[new] / effects[old] for old, new in PAIRS] if effects else []
        clipped = [n for n, ratio in zip(counts, ratios, strict=False) if ratio > MAX_WEIGHT]
        return Expectation(
            places=sum(unit.places for unit in self.units),
            logged=self._interval([(unit.logged, unit.places) for unit in self.units]),
            expected=self._weighted(logged=False),
            change=self._weighted(logged=True),
            unweighted=self._interval(
                [(math.fsum(unit.moved), unit.places) for unit in self.units]
            ),
            overlap=self._interval([(unit.common, unit.places) for unit in self.units]),
            effects=_relative_to_first(effects) if effects else {},
            effective=_effective(counts, effects) if effects else None,
            clipped=round(math.fsum(clipped)),
            trials=trials,
            trial_labels=labels,
        )

    def _interval(self, units: Sequence[tuple[float, float]]) -> Interval | None:
        return bootstrap(units, mean_of_sums, seed=self.seed)

    def _weighted(self, *, logged: bool) -> Interval | None:
        """Return the mean weighted label, optionally minus the logged mean."""
        units = [
            (
                unit.logged * logged, unit.places, unit.trials, unit.labels,
                *unit.moved, *unit.compared,
            )
            for unit in self.units
        ]  # fmt: skip
        return bootstrap(units, _expected, seed=self.seed)


def group_of(position: int) -> int:
    """Return the group of a position in a session; the first group is 0."""
    return bisect_right(GROUP_STARTS, position)


def _expected(sums: Sequence[float]) -> float | None:
    """Return the weighted labels minus the first sum, per position."""
    less, places, trials, labels = sums[:4]
    moved, compared = sums[4 : 4 + len(PAIRS)], sums[4 + len(PAIRS) :]
    if not places or not labels:
        return None
    weights = _weights(_effects(compared, labels / trials))
    return (math.fsum(map(mul, weights, moved)) - less) / places


def _weights(effects: Sequence[float]) -> list[float]:
    """Return the weight of a label that moves from the first group of a pair to the second."""
    return [min(MAX_WEIGHT, effects[new] / effects[old]) for old, new in PAIRS]


def _effects(compared: Sequence[float], mean: float) -> list[float]:
    """Return the effects of the groups of positions, 1 on average, from pairwise comparisons.

    At the true effects, each comparison of one group with another, times the other's effect,
    balances its reverse. The balance is found like the stationary state of a Markov chain.

    Args:
        compared: as in `_Unit`, in the order of `PAIRS`.
        mean: the mean label of exploration candidates, above 0.
    """
    rates = [[compared[_pair(one, other)] for other in GROUPS] for one in GROUPS]
    against = [math.fsum(column) + PRIOR * mean for column in zip(*rates, strict=True)]
    effects = [1.0 for _ in GROUPS]
    for _ in range(ROUNDS):
        raw = [math.fsum(map(mul, row, effects)) + PRIOR * mean for row in rates]
        balanced = [value / total for value, total in zip(raw, against, strict=True)]
        scale = len(balanced) / math.fsum(balanced)
        before, effects = effects, [value * scale for value in balanced]
        if max(abs(one - other) for one, other in zip(before, effects, strict=True)) < TOLERANCE:
            break
    return effects


def _relative_to_first(effects: Sequence[float]) -> dict[int, float]:
    """Return the effects by the group's first position, as multiples of the first effect."""
    return {
        first: effect / effects[0]
        for first, effect in zip((1, *GROUP_STARTS), effects, strict=True)
    }


def _effective(counts: Sequence[float], effects: Sequence[float]) -> float:
    weights = _weights(effects)
    total = math.fsum(map(mul, counts, weights))
    squares = math.fsum(n * weight**2 for n, weight in zip(counts, weights, strict=True))
    return total**2 / squares if squares else 0.0


def _pair(one: int, other: int) -> int:
    """Return the index of a pair in `PAIRS`."""
    return one * len(GROUPS) + other


def _summed(columns: Iterable[Sequence[float]]) -> list[float]:
    return [math.fsum(column) for column in zip(*columns, strict=True)] or [0.0] * len(PAIRS)
