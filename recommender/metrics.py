"""Metrics of rankings: pure functions of numbers, without a database.

Of scored impressions: AUC, GAUC, log loss, calibration. Of lists: recall, nDCG, MRR, hit rate. Of
many lists together: coverage, Gini, diversity, novelty. And intervals, by the bootstrap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

NEARLY = 1e-15
"""How near a probability may come to 0 or 1 in a logarithm."""


RIDGE = 1e-6
"""What keeps a slope finite where scores separate the outcomes."""


class Interval(NamedTuple):
    """A value, and where 95 % of resampled ones are."""

    value: float
    low: float
    high: float


def auc(scores: Sequence[float], outcomes: Sequence[bool]) -> float | None:
    """How often a positive is scored above a negative; a tie counts half.

    The area under the ROC curve, from the sum of ranks (Mann and Whitney, 1947).

    Args:
        scores: any numbers.
        outcomes: as many, true where positive.

    Returns:
        0 to 1; None where all outcomes are the same.
    """
    positives = sum(outcomes)
    negatives = len(outcomes) - positives
    if not positives or not negatives:
        return None
    order = sorted(range(len(scores)), key=scores.__getitem__)
    total, first = 0.0, 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and scores[order[last + 1]] == scores[order[first]]:
            last += 1
        rank = (first + last) / 2 + 1
        total += rank * sum(outcomes[each] for each in order[first : last + 1])
        first = last + 1
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


def gauc(users: Iterable[tuple[float | None, int]]) -> float | None:
    """The mean AUC of users, weighted by their impressions (Zhu and others, "OCPC", 2017).

    Args:
        users: of each the AUC, None where all outcomes were the same, and how many impressions.

    Returns:
        0 to 1; None where no user has an AUC.
    """
    known = [(value, weight) for value, weight in users if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def log_loss(probabilities: Sequence[float], outcomes: Sequence[bool]) -> float:
    """The mean of minus the logarithm of the probability that was given to what happened.

    Args:
        probabilities: 0 to 1, at least one.
        outcomes: as many.

    Returns:
        0 or more, in nats.
    """
    losses = (
        -math.log(max(NEARLY, probability if outcome else 1 - probability))
        for probability, outcome in zip(probabilities, outcomes, strict=True)
    )
    return math.fsum(losses) / len(probabilities)


def calibration_error(
    probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10
) -> float:
    """How far what was expected is from what happened, on average over bins of equal width.

    The expected calibration error (Naeini and others, 2015).

    Args:
        probabilities: 0 to 1, at least one.
        outcomes: as many.
        bins: how many.

    Returns:
        0 to 1.
    """
    gaps = [0.0] * bins
    for probability, outcome in zip(probabilities, outcomes, strict=True):
        gaps[min(int(probability * bins), bins - 1)] += probability - outcome
    return math.fsum(map(abs, gaps)) / len(probabilities)


def recall(shown: Sequence[Hashable], relevant: Collection[Hashable], most: int) -> float:
    """The part of the relevant that is among the first shown.

    Args:
        shown: the best first, each once.
        relevant: at least one.
        most: how many of the shown count.

    Returns:
        0 to 1.
    """
    return len(set(shown[:most]) & set(relevant)) / len(relevant)


def ndcg(shown: Sequence[Hashable], relevant: Collection[Hashable], most: int) -> float:
    """The discounted gain of the relevant among the first shown, by that of the best order.

    Järvelin and Kekäläinen, 2002, with gains of 0 and 1.

    Args:
        shown: the best first, each once.
        relevant: at least one.
        most: how many of the shown count.

    Returns:
        0 to 1.
    """
    wanted = set(relevant)
    gained = [_discount(place) for place, each in enumerate(shown[:most]) if each in wanted]
    best = [_discount(place) for place in range(min(most, len(wanted)))]
    return math.fsum(gained) / math.fsum(best)


def _discount(place: int) -> float:
    return 1 / math.log2(place + 2)


def reciprocal_rank(shown: Sequence[Hashable], relevant: Collection[Hashable], most: int) -> float:
    """1 by the place of the first relevant among the first shown, 0 where none is.

    Args:
        shown: the best first, each once.
        relevant: any.
        most: how many of the shown count.

    Returns:
        0 to 1.
    """
    wanted = set(relevant)
    places = (place for place, each in enumerate(shown[:most], start=1) if each in wanted)
    return 1 / next(places, math.inf)


def is_hit(shown: Sequence[Hashable], relevant: Collection[Hashable], most: int) -> float:
    """1 where any of the relevant is among the first shown, else 0.

    Args:
        shown: the best first.
        relevant: any.
        most: how many of the shown count.
    """
    return float(not set(relevant).isdisjoint(shown[:most]))


def coverage(lists: Iterable[Iterable[Hashable]], catalogue: int) -> float:
    """The part of a catalogue that is on any list.

    Args:
        lists: of what is in the catalogue.
        catalogue: how many are in it, at least one.

    Returns:
        0 to 1.
    """
    return len({each for shown in lists for each in shown}) / catalogue


def gini(counts: Collection[int]) -> float:
    """How unequal counts are: 0 where all are the same, near 1 where one has nearly all.

    Args:
        counts: none below 0.

    Returns:
        0 to 1; 0 where there is nothing to share.
    """
    total = sum(counts)
    if not total:
        return 0.0
    ranked = sum(rank * count for rank, count in enumerate(sorted(counts), start=1))
    return 2 * ranked / (len(counts) * total) - (len(counts) + 1) / len(counts)


def diversity(tags: Sequence[Collection[Hashable]]) -> float | None:
    """How little two of a list have in common, on average: 1 less the Jaccard index of their tags.

    Args:
        tags: of each of the list; two without any have nothing in common.

    Returns:
        0 to 1; None of fewer than two.
    """
    pairs = [1 - _jaccard(set(one), set(other)) for one, other in combinations(tags, 2)]
    return math.fsum(pairs) / len(pairs) if pairs else None


def _jaccard(one: set[Hashable], other: set[Hashable]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0


def novelty(shown: Iterable[Hashable], viewers: Mapping[Hashable, int], users: int) -> float | None:
    """How little known a list is: the mean of minus log2 of the part of users who know each.

    Zhou and others, 2010; one more viewer and user than there are, so that it is finite.

    Args:
        shown: the list.
        viewers: how many users know each; 0 where it is not there.
        users: how many there are.

    Returns:
        In bits, 0 or more; None of an empty list.
    """
    bits = [-math.log2((viewers.get(each, 0) + 1) / (users + 1)) for each in shown]
    return math.fsum(bits) / len(bits) if bits else None


def exposure(lists: Iterable[Iterable[T]]) -> Counter[T]:
    """How often each is on a list."""
    return Counter(each for shown in lists for each in shown)


def bootstrap(
    units: Sequence[T],
    statistic: Callable[[Sequence[T]], float | None],
    *,
    times: int = 200,
    seed: int = 0,
) -> Interval | None:
    """A statistic with its 95 % interval over resampled units (Efron, 1979; percentiles).

    Args:
        units: what was drawn, such as users.
        statistic: of a sample of them; None where it has none.
        times: how many samples are drawn.
        seed: the same seed draws the same samples.

    Returns:
        None where the statistic of the units is None.
    """
    value = statistic(units)
    if value is None:
        return None
    chance = Random(seed)  # noqa: S311 - not for secrets
    drawn = (statistic(chance.choices(units, k=len(units))) for _ in range(times))
    found = sorted(each for each in drawn if each is not None) or [value]
    return Interval(value, _percentile(found, 0.025), _percentile(found, 0.975))


def _percentile(ordered: Sequence[float], part: float) -> float:
    """Between the two nearest of ordered values."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def logistic_fit(
    scores: Sequence[float], outcomes: Sequence[bool], *, rounds: int = 30
) -> tuple[float, float]:
    """The intercept and slope that make probabilities of scores (Platt, 1999), by Newton's method.

    One positive and one negative at the mean score are added, so that the intercept is finite.

    Args:
        scores: any finite numbers.
        outcomes: as many.
        rounds: of Newton's method at most.

    Returns:
        The intercept and the slope of the logit.
    """
    if not scores:
        return 0.0, 0.0
    mean = math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in scores) / len(scores)) or 1.0
    points = [((each - mean) / spread, float(o)) for each, o in zip(scores, outcomes, strict=True)]
    points += [(0.0, 1.0), (0.0, 0.0)]
    intercept = slope = 0.0
    for _ in range(rounds):
        step = _newton_step(points, intercept, slope)
        intercept, slope = intercept + step[0], slope + step[1]
        if max(map(abs, step)) < 1e-9:
            break
    return intercept - slope * mean / spread, slope / spread


def _newton_step(
    points: Sequence[tuple[float, float]], intercept: float, slope: float
) -> tuple[float, float]:
    gradient0 = hessian00 = hessian01 = 0.0
    gradient1, hessian11 = -RIDGE * slope, RIDGE
    for value, outcome in points:
        probability = logistic(intercept + slope * value)
        weight = probability * (1 - probability)
        gradient0 += outcome - probability
        gradient1 += (outcome - probability) * value
        hessian00 += weight
        hessian01 += weight * value
        hessian11 += weight * value * value
    determinant = hessian00 * hessian11 - hessian01 * hessian01
    return (
        (hessian11 * gradient0 - hessian01 * gradient1) / determinant,
        (hessian00 * gradient1 - hessian01 * gradient0) / determinant,
    )


def logistic(logit: float) -> float:
    """The probability of a logit."""
    if logit < 0:
        return 1 - logistic(-logit)
    return 1 / (1 + math.exp(-logit))
