"""Estimate the labels of another order of shown videos (off-policy evaluation).

The videos of a page swap positions, and the first half of the page is judged: what would a viewer
have met who left halfway? Every video's label is known, but at another position, and positions
differ in attention. In the position-based model (Craswell and others, 2008) the probability of a
positive state is the effect of the position times the relevance of the video. So each label is
weighted by the effect of its new position over the effect of its old one: the ratio of the
probabilities of a positive state in both orders. This is click-based inverse propensity weighting
(CIPS: Tanaka and others, "Off-Policy Evaluation for Ranking Policies under Deterministic Logging
Policies", 2026). The order needs no randomness, because the reactions are random. The sum is
divided by the number of positions (Horvitz and Thompson, 1952). Weights are clipped, which may
lower an estimate but never raises it.

The effects of positions come from comparisons within sessions, as Mantel and Haenszel (1959)
compare within strata. Otherwise eager viewers, who scroll further, would look like an effect of
late positions. There are two sources. Ranked videos of a page are compared if their scores are
about equal: their order is then almost random. Exploration candidates are placed at random
regardless of their score: an experiment, but a small one. Everything is a sum over users, so a
bootstrap interval also contains the uncertainty of the effects.
"""

# Not the self-normalised estimate (SNIPS: Swaminathan and Joachims, 2015): the weights are not
# density ratios, and a video that moves to a better position must count more.
# Not doubly robust: both orders are fixed, so with one model of reactions for the weights and for
# the predictions, the predictions cancel out and the weighted label is left.

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from operator import mul
from random import Random
from typing import NamedTuple

from recommender.evaluation.bootstrap import MAX_UNITS, Interval, bootstrap, mean_of_sums
from recommender.evaluation.labels import GROUP_STARTS

GROUPS = range(len(GROUP_STARTS) + 1)

PAIRS = tuple(product(GROUPS, GROUPS))

PRIOR = 2.0
"""The number of average positives that are added to each group of positions."""

SCORE_WIDTH = 0.3
"""The range of about equal scores, in standard deviations of the scores of a page's videos."""

MAX_WEIGHT = 10.0
"""The maximum weight of a label."""


class LoggedVideo(NamedTuple):
    """A shown video: its position in the session, from 1, its label, 0 to 1, and its state."""

    position: int
    label: float
    is_positive: bool


class ReorderedPage(NamedTuple):
    """The shown videos of a page, and the permutation that puts them into another order."""

    shown: Sequence[LoggedVideo]
    order: Sequence[int]


@dataclass(frozen=True, slots=True)
class Reordered:
    """The estimate for the other order, with labels weighted by the effects of positions.

    Attributes:
        expected: the mean label, 0 to 1.
        change: `expected` minus the mean label as served.
        effects: the effects of the groups of positions, by first position, as multiples of the
            first effect. Groups that were not compared with the first one are left out.
        effective: the effective sample size of the weighted labels (Kish, 1965).
        clipped: the number of labels with a clipped weight.
        videos: the number of videos that the effects come from.
        positives: the number of them in a positive state.
    """

    expected: Interval
    change: Interval
    effects: Mapping[int, float]
    effective: float
    clipped: int
    videos: int
    positives: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """The mean labels of the first halves of pages, as served and in another order.

    Attributes:
        places: the number of positions in these halves.
        logged: the mean label as served, 0 to 1.
        reordered: the estimate for the other order, with effects of positions from ranked videos
            of about the same score; None if these led to no positive state.
        by_exploration: the same, with effects of positions from exploration candidates.
        unweighted: the estimate if all positions had the same effect.
        overlap: the share of the videos that both orders have in the first half, 0 to 1.
    """

    places: int
    logged: Interval | None
    reordered: Reordered | None
    by_exploration: Reordered | None
    unweighted: Interval | None
    overlap: Interval | None


@dataclass(slots=True)
class _Comparisons:
    """Comparisons of the groups of positions within strata.

    Attributes:
        videos: the number of videos in strata with several groups.
        positives: the number of them in a positive state.
        compared: by pair of groups, the positives of the first group times the share of the second
            group in the stratum.
    """

    videos: int = 0
    positives: int = 0
    compared: list[float] = field(default_factory=lambda: [0.0] * len(PAIRS))

    def add(self, stratum: Sequence[LoggedVideo]) -> None:
        """Add the videos of one stratum. With one group of positions it says nothing."""
        positives, counts = [0 for _ in GROUPS], [0 for _ in GROUPS]
        for video in stratum:
            positives[group_of(video.position)] += video.is_positive
            counts[group_of(video.position)] += 1
        if len(stratum) == max(counts):
            return
        self.videos += len(stratum)
        self.positives += sum(positives)
        for pair, (one, other) in enumerate(PAIRS):
            if positives[one]:
                self.compared[pair] += positives[one] * counts[other] / len(stratum)


@dataclass(slots=True)
class _Unit:
    """The sums of a user, or of several users.

    Attributes:
        places: the number of positions in first halves.
        logged: the sum of the labels there.
        common: the number of videos that both orders have there.
        moved: the sum of labels by pair of groups, the old and the new.
        counts: the number of labels by pair.
        ranked, explored: the comparisons of ranked videos, and of exploration candidates.
    """

    places: int = 0
    logged: float = 0.0
    common: int = 0
    moved: list[float] = field(default_factory=lambda: [0.0] * len(PAIRS))
    counts: list[int] = field(default_factory=lambda: [0] * len(PAIRS))
    ranked: _Comparisons = field(default_factory=_Comparisons)
    explored: _Comparisons = field(default_factory=_Comparisons)

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

    def add(
        self,
        pages: Sequence[ReorderedPage],
        ranked: Iterable[Sequence[LoggedVideo]],
        explored: Iterable[Sequence[LoggedVideo]],
    ) -> None:
        """Add a user. Each user may be added once.

        Args:
            pages: the pages without exploration candidates, which keep their positions.
            ranked: strata of ranked videos: one page, and about the same score.
            explored: the exploration candidates, one stratum per session.
        """
        if len(self.units) < MAX_UNITS:
            self.units.append(_Unit())
            unit = self.units[-1]
        else:
            unit = self._chance.choice(self.units)
        for page in pages:
            unit.add_page(page)
        for stratum in ranked:
            unit.ranked.add(stratum)
        for stratum in explored:
            unit.explored.add(stratum)

    def expectation(self) -> Expectation:
        """Return the estimates from the sums."""
        return Expectation(
            places=sum(unit.places for unit in self.units),
            logged=self._interval([(unit.logged, unit.places) for unit in self.units]),
            reordered=self._reordered([unit.ranked for unit in self.units]),
            by_exploration=self._reordered([unit.explored for unit in self.units]),
            unweighted=self._interval(
                [(math.fsum(unit.moved), unit.places) for unit in self.units]
            ),
            overlap=self._interval([(unit.common, unit.places) for unit in self.units]),
        )

    def _interval(self, units: Sequence[tuple[float, float]]) -> Interval | None:
        return bootstrap(units, mean_of_sums, seed=self.seed)

    def _reordered(self, comparisons: Sequence[_Comparisons]) -> Reordered | None:
        """Return the estimate with the effects of positions from one comparison per unit."""
        expected = self._weighted(comparisons, logged=False)
        change = self._weighted(comparisons, logged=True)
        if expected is None or change is None:
            return None
        videos = sum(each.videos for each in comparisons)
        positives = sum(each.positives for each in comparisons)
        compared = _summed(each.compared for each in comparisons)
        effects = _effects(compared)
        counts = _summed(unit.counts for unit in self.units)
        ratios = (effects[new] / effects[old] for old, new in PAIRS)
        clipped = [n for n, ratio in zip(counts, ratios, strict=True) if ratio > MAX_WEIGHT]
        return Reordered(
            expected=expected,
            change=change,
            effects=_relative_to_first(effects, compared),
            effective=_effective(counts, effects),
            clipped=round(math.fsum(clipped)),
            videos=videos,
            positives=positives,
        )

    def _weighted(self, comparisons: Sequence[_Comparisons], *, logged: bool) -> Interval | None:
        """Return the mean weighted label, optionally minus the logged mean."""
        units = [
            (
                unit.logged * logged, unit.places, each.positives,
                *unit.moved, *each.compared,
            )
            for unit, each in zip(self.units, comparisons, strict=True)
        ]  # fmt: skip
        return bootstrap(units, _expected, seed=self.seed)


def of_same_score(scored: Sequence[tuple[float, LoggedVideo]]) -> Iterator[list[LoggedVideo]]:
    """Yield the ranked videos of a page in strata of about the same score.

    Scores of different pages do not compare: the profile has learned from the page before.

    Args:
        scored: scores with their videos.
    """
    width = SCORE_WIDTH * _deviation([score for score, _ in scored])
    strata: defaultdict[float, list[LoggedVideo]] = defaultdict(list)
    for score, video in scored:
        strata[score // width if width else 0.0].append(video)
    yield from strata.values()


def _deviation(values: Sequence[float]) -> float:
    """Return the standard deviation; 0 without values."""
    if not values:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.dist(values, [mean] * len(values)) / math.sqrt(len(values))


def group_of(position: int) -> int:
    """Return the group of a position in a session; the first group is 0."""
    return bisect_right(GROUP_STARTS, position)


def _expected(sums: Sequence[float]) -> float | None:
    """Return the weighted labels minus the first sum, per position."""
    less, places, positives = sums[:3]
    moved, compared = sums[3 : 3 + len(PAIRS)], sums[3 + len(PAIRS) :]
    if not places or not positives:
        return None
    weights = _weights(_effects(compared))
    return (math.fsum(map(mul, weights, moved)) - less) / places


def _weights(effects: Sequence[float]) -> list[float]:
    """Return the weight of a label that moves from the first group of a pair to the second."""
    return [min(MAX_WEIGHT, effects[new] / effects[old]) for old, new in PAIRS]


def _effects(compared: Sequence[float]) -> list[float]:
    """Return the effects of the groups of positions, 1 on average, from pairwise comparisons.

    At the true effects, each comparison of one group with another, times the other's effect,
    balances its reverse. The balance of all groups is a system of linear equations.

    Args:
        compared: as in `_Comparisons`, in the order of `PAIRS`.
    """
    equations = [[*(-compared[_pair(one, other)] for other in GROUPS), PRIOR] for one in GROUPS]
    for group in GROUPS:
        against = (compared[_pair(other, group)] for other in GROUPS)
        equations[group][group] += math.fsum(against) + PRIOR
    return _solution(equations)


def _solution(equations: Sequence[list[float]]) -> list[float]:
    """Solve linear equations by elimination; the constant of an equation is its last entry.

    The diagonal must dominate its columns, so that no row needs to be exchanged.
    """
    for place, row in enumerate(equations):
        for other in equations[place + 1 :]:
            factor = other[place] / row[place]
            other[place:] = [
                value - factor * own for value, own in zip(other[place:], row[place:], strict=True)
            ]
    solution: list[float] = []
    for row in reversed(equations):
        known = math.fsum(map(mul, reversed(row[:-1]), solution))
        solution.append((row[-1] - known) / row[len(equations) - 1 - len(solution)])
    return solution[::-1]


def _relative_to_first(effects: Sequence[float], compared: Sequence[float]) -> dict[int, float]:
    """Return the effects by the group's first position, as multiples of the first effect.

    Groups that were not compared with the first one, directly or through others, are left out.
    """
    linked = [pair for pair, weight in zip(PAIRS, compared, strict=True) if weight]
    first = min(min(pair) for pair in linked)
    reached = {first}
    for _ in GROUPS:
        reached.update(*(pair for pair in linked if not reached.isdisjoint(pair)))
    starts = (1, *GROUP_STARTS)
    return {starts[group]: effects[group] / effects[first] for group in sorted(reached)}


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
