"""What another order of videos that were shown would have led to, from sums over users.

The videos of a page change places among themselves, and the first half of these places is looked
at: what would a viewer have met who left halfway? What each video led to is known, but at another
place, and people judge the first place otherwise than the twentieth. After the position-based model
(Craswell and others, 2008) the probability of an outcome is the effect of the place times what the
video is worth to the viewer. So a label counts the effect of the new place by that of the old one:
it is weighted by an inverse propensity (Joachims and others, 2017; for whole rankings Li and
others, "Offline Evaluation of Ranking Policies with Click Models", 2018). The sum is divided by the
number of places (Horvitz and Thompson, 1952) and not by that of the weights (the self-normalised
estimate of Swaminathan and Joachims, 2015), since these are no densities: a video that comes to
better places shall count more. A weight is clipped, which may take something away, and adds
nothing.

The effects of places come from the places kept for videos on trial, which hold any of these
whatever its score: an experiment. The labels at two places are compared within each session, as
Mantel and Haenszel (1959) do within strata, so that those who go far and like more are no effect of
a place. All of it is sums over users: an interval over resampled users also says how unsure the
effects are.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from operator import mul
from random import Random
from typing import NamedTuple

from recommender.evaluation.bootstrap import Interval, bootstrap
from recommender.evaluation.labels import FIRSTS
from recommender.evaluation.metrics import MOST_UNITS

GROUPS = range(len(FIRSTS) + 1)

PAIRS = tuple(product(GROUPS, GROUPS))

PRIOR = 20.0
"""How many videos on trial, at places of average effect, are added to those of each group."""

MOST_WEIGHT = 10.0
"""What a label counts at most."""

ROUNDS = 1_000

NEARLY = 1e-9
"""Of how many rounds, and to which change of an effect, effects are brought into balance."""


class Shown(NamedTuple):
    """A video that was shown: its place in the session, from 1, and what it led to, 0 to 1."""

    position: int
    label: float


class Reordered(NamedTuple):
    """The videos of a page that were shown, in order; and their numbers in another order."""

    shown: Sequence[Shown]
    order: Sequence[int]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What first halves of pages led to, and what those in another order would have.

    Attributes:
        places: how many places these are.
        logged: the mean label as it was, 0 to 1.
        expected: that of the other order, each label weighted by the effects of places; None where
            no video on trial led to anything, so that nothing is known of these.
        change: how much more that is than as it was.
        unweighted: the other order's, were all places alike.
        overlap: the part of the videos that both orders have there, 0 to 1.
        effects: of each group of places, by its first, as a multiple of the first place's.
        effective: how many labels of equal weight would say as much as the weighted ones (Kish,
            1965).
        clipped: how many labels have a weight that was clipped.
        trials: how many videos on trial the effects come from.
        trial_labels: the sum of their labels: where that is below 100, effects are rough.
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
    """The sums of a user, or of several.

    Attributes:
        places: how many are looked at.
        logged: sum of the labels there.
        common: of how many the video is there in both orders.
        moved: sum of labels by pair of groups, the old and the new.
        counts: how many labels these are.
        compared: of each pair of groups, labels on trial at the first by how often at the second.
        trials, wanted: how many videos on trial were shown, and the sum of their labels.
    """

    places: int = 0
    logged: float = 0.0
    common: int = 0
    moved: list[float] = field(default_factory=lambda: [0.0] * len(PAIRS))
    counts: list[int] = field(default_factory=lambda: [0] * len(PAIRS))
    compared: list[float] = field(default_factory=lambda: [0.0] * len(PAIRS))
    trials: int = 0
    wanted: float = 0.0

    def add_page(self, page: Reordered) -> None:
        """Add the first half of a page's places."""
        half = len(page.shown) // 2
        self.places += half
        self.logged += math.fsum(each.label for each in page.shown[:half])
        self.common += sum(number < half for number in page.order[:half])
        for place, number in zip(page.shown, page.order[:half], strict=False):
            video = page.shown[number]
            pair = _pair(group_of(video.position), group_of(place.position))
            self.moved[pair] += video.label
            self.counts[pair] += 1

    def add_trials(self, trials: Sequence[Shown]) -> None:
        """Add the videos on trial of one session."""
        labels, counts = [0.0 for _ in GROUPS], [0 for _ in GROUPS]
        for each in trials:
            labels[group_of(each.position)] += each.label
            counts[group_of(each.position)] += 1
        self.trials += len(trials)
        self.wanted += math.fsum(labels)
        for pair, (one, other) in enumerate(PAIRS):
            if labels[one]:
                self.compared[pair] += labels[one] * counts[other] / len(trials)


@dataclass(slots=True)
class Reordering:
    """The sums over pages whose videos are put into another order.

    Attributes:
        seed: what the samples depend on that intervals are of.
        units: one of each user, or of several where there are many: memory does not grow with them.
    """

    seed: int = 0
    units: list[_Unit] = field(default_factory=list)
    _chance: Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)  # noqa: S311 - not for secrets

    def add(self, pages: Sequence[Reordered], trials: Sequence[Sequence[Shown]]) -> None:
        """Add a user, who has not been added yet.

        Args:
            pages: without what was on trial, which keeps its place.
            trials: what was, of each session.
        """
        if len(self.units) < MOST_UNITS:
            self.units.append(_Unit())
            unit = self.units[-1]
        else:
            unit = self._chance.choice(self.units)
        for page in pages:
            unit.add_page(page)
        for sitting in trials:
            unit.add_trials(sitting)

    def expectation(self) -> Expectation:
        """What the sums say."""
        counts = _summed(unit.counts for unit in self.units)
        compared = _summed(unit.compared for unit in self.units)
        trials = sum(unit.trials for unit in self.units)
        wanted = math.fsum(unit.wanted for unit in self.units)
        effects = _effects(compared, wanted / trials) if wanted else None
        ratios = [effects[new] / effects[old] for old, new in PAIRS] if effects else []
        clipped = [n for n, ratio in zip(counts, ratios, strict=False) if ratio > MOST_WEIGHT]
        return Expectation(
            places=sum(unit.places for unit in self.units),
            logged=self._interval([(unit.logged, unit.places) for unit in self.units]),
            expected=self._weighted(logged=False),
            change=self._weighted(logged=True),
            unweighted=self._interval(
                [(math.fsum(unit.moved), unit.places) for unit in self.units]
            ),
            overlap=self._interval([(unit.common, unit.places) for unit in self.units]),
            effects=_beside_the_first(effects) if effects else {},
            effective=_effective(counts, effects) if effects else None,
            clipped=round(math.fsum(clipped)),
            trials=trials,
            trial_labels=wanted,
        )

    def _interval(self, units: Sequence[tuple[float, float]]) -> Interval | None:
        return bootstrap(units, _mean, seed=self.seed)

    def _weighted(self, *, logged: bool) -> Interval | None:
        """The mean weighted label, less that of the log where asked for."""
        units = [
            (
                unit.logged * logged, unit.places, unit.trials, unit.wanted,
                *unit.moved, *unit.compared,
            )
            for unit in self.units
        ]  # fmt: skip
        return bootstrap(units, _expected, seed=self.seed)


def group_of(position: int) -> int:
    """The group of a place in a session, counted from 0."""
    return bisect_right(FIRSTS, position)


def _mean(sums: Sequence[float]) -> float | None:
    total, count = sums
    return total / count if count else None


def _expected(sums: Sequence[float]) -> float | None:
    """The weighted labels by the number of places, less what is to be taken away."""
    less, places, trials, wanted = sums[:4]
    moved, compared = sums[4 : 4 + len(PAIRS)], sums[4 + len(PAIRS) :]
    if not places or not wanted:
        return None
    weights = _weights(_effects(compared, wanted / trials))
    return (math.fsum(map(mul, weights, moved)) - less) / places


def _weights(effects: Sequence[float]) -> list[float]:
    """What a label counts that came from the first place of a pair to the second."""
    return [min(MOST_WEIGHT, effects[new] / effects[old]) for old, new in PAIRS]


def _effects(compared: Sequence[float], mean: float) -> list[float]:
    """The effects of the groups of places, 1 on average, from comparisons of each two.

    Were they known, what was compared of one with the other by the other's effect would be the same
    as the other way round. They are brought into balance as the stationary distribution of a Markov
    chain is.

    Args:
        compared: as `_Unit` has it, in the order of `PAIRS`.
        mean: of all labels on trial, above 0.
    """
    rates = [[compared[_pair(one, other)] for other in GROUPS] for one in GROUPS]
    against = [math.fsum(column) + PRIOR * mean for column in zip(*rates, strict=True)]
    effects = [1.0 for _ in GROUPS]
    for _ in range(ROUNDS):
        raw = [math.fsum(map(mul, row, effects)) + PRIOR * mean for row in rates]
        found = [value / total for value, total in zip(raw, against, strict=True)]
        scale = len(found) / math.fsum(found)
        before, effects = effects, [value * scale for value in found]
        if max(abs(one - other) for one, other in zip(before, effects, strict=True)) < NEARLY:
            break
    return effects


def _beside_the_first(effects: Sequence[float]) -> dict[int, float]:
    """Each group's effect as a multiple of the first place's, by the group's first place."""
    return {first: effect / effects[0] for first, effect in zip((1, *FIRSTS), effects, strict=True)}


def _effective(counts: Sequence[float], effects: Sequence[float]) -> float:
    weights = _weights(effects)
    total = math.fsum(map(mul, counts, weights))
    squares = math.fsum(n * weight**2 for n, weight in zip(counts, weights, strict=True))
    return total**2 / squares if squares else 0.0


def _pair(one: int, other: int) -> int:
    """Where a pair stands in `PAIRS`."""
    return one * len(GROUPS) + other


def _summed(columns: Iterable[Sequence[float]]) -> list[float]:
    return [math.fsum(column) for column in zip(*columns, strict=True)] or [0.0] * len(PAIRS)
