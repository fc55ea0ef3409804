"""Metrics of rankings: pure functions of numbers, without a database.

Of scored impressions: AUC, GAUC, log loss, calibration. Of lists: recall, nDCG, MRR, hit rate. Of
many lists together: coverage, Gini, diversity, novelty. And intervals, by the bootstrap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations, groupby
from typing import TypeVar

T = TypeVar("T")

NEARLY = 1e-15
"""How near a probability may come to 0 or 1 in a logarithm."""

BINS = 10
"""How many bins of probabilities a calibration error is taken over."""

MOST_UNITS = 400
"""How many units a bootstrap draws from at most: more tell its interval hardly better."""

MANY = 2_000

FEW_DIGITS = 2
"""Of how many scores on, and to how many digits of standard deviations, they are rounded to fit."""

RIDGE = 1e-6
"""What keeps a slope finite where scores separate the outcomes."""

SHORTEST_STEP = 1e-6
"""Of how small a part of a step on none is taken."""


def auc(scores: Sequence[float], outcomes: Sequence[bool]) -> float | None:
    """How often a positive is scored above a negative; a tie counts half.

    The area under the ROC curve, as Mann and Whitney (1947) count it.

    Args:
        scores: any numbers.
        outcomes: as many, true where positive.

    Returns:
        0 to 1; None where all outcomes are the same.
    """
    parts = placements(scores, outcomes)
    if parts is None:
        return None
    above = [part for part, outcome in zip(parts, outcomes, strict=True) if outcome]
    return math.fsum(above) / len(above)


def placements(scores: Sequence[float], outcomes: Sequence[bool]) -> list[float] | None:
    """Of each the part of those with the other outcome that it is on the right side of.

    The mean of the positives', and that of the negatives', is the AUC; how they vary says how
    certain it is (DeLong and others, 1988).

    Args:
        scores: any numbers.
        outcomes: as many, true where positive.

    Returns:
        0 to 1 each; None where all outcomes are the same.
    """
    positives = sum(outcomes)
    negatives = len(outcomes) - positives
    if not positives or not negatives:
        return None
    parts = [0.0] * len(scores)
    negatives_below, positives_above = 0, positives
    order = sorted(range(len(scores)), key=scores.__getitem__)
    for _, tied in groupby(order, scores.__getitem__):
        places = list(tied)
        positive = sum(outcomes[place] for place in places)
        negative = len(places) - positive
        positives_above -= positive
        of_positive = (negatives_below + negative / 2) / negatives
        of_negative = (positives_above + positive / 2) / positives
        negatives_below += negative
        for place in places:
            parts[place] = of_positive if outcomes[place] else of_negative
    return parts


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
    probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = BINS
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
    return math.fsum(map(abs, gaps(probabilities, outcomes, bins))) / len(probabilities)


def gaps(probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = BINS) -> list[float]:
    """How many more positives were expected than happened, in each bin of equal width.

    Args:
        probabilities: 0 to 1.
        outcomes: as many.
        bins: how many.
    """
    found = [0.0] * bins
    for probability, outcome in zip(probabilities, outcomes, strict=True):
        found[min(int(probability * bins), bins - 1)] += probability - outcome
    return found


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


def logistic_fit(
    scores: Sequence[float], outcomes: Sequence[bool], *, rounds: int = 30
) -> tuple[float, float]:
    """The intercept and slope that make probabilities of scores (Platt, 1999), by Newton's method.

    One positive and one negative at the mean score are added, so that the intercept is finite.
    More than `MANY` scores are rounded to a hundredth of their standard deviation.

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
    values = [(each - mean) / spread for each in scores]
    if len(values) > MANY:
        values = [round(value, FEW_DIGITS) for value in values]
    counts = Counter(zip(values, map(float, outcomes), strict=True))
    counts.update([(0.0, 1.0), (0.0, 0.0)])
    points = [(value, outcome, count) for (value, outcome), count in counts.items()]
    intercept = slope = 0.0
    for _ in range(rounds):
        step = _newton_step(points, intercept, slope)
        size = _step_size(points, intercept, slope, step)
        intercept, slope = intercept + size * step[0], slope + size * step[1]
        if size * max(map(abs, step)) < 1e-9:
            break
    return intercept - slope * mean / spread, slope / spread


def _newton_step(
    points: Sequence[tuple[float, float, int]], intercept: float, slope: float
) -> tuple[float, float]:
    gradient0 = hessian00 = hessian01 = 0.0
    gradient1, hessian11 = -RIDGE * slope, RIDGE
    for value, outcome, count in points:
        probability = logistic(intercept + slope * value)
        weight = count * probability * (1 - probability)
        gradient0 += count * (outcome - probability)
        gradient1 += count * (outcome - probability) * value
        hessian00 += weight
        hessian01 += weight * value
        hessian11 += weight * value * value
    determinant = hessian00 * hessian11 - hessian01 * hessian01
    return (
        (hessian11 * gradient0 - hessian01 * gradient1) / determinant,
        (hessian00 * gradient1 - hessian01 * gradient0) / determinant,
    )


def _step_size(
    points: Sequence[tuple[float, float, int]],
    intercept: float,
    slope: float,
    step: tuple[float, float],
) -> float:
    """How much of a step to take: a whole one can go too far, where nearly all scores are equal."""
    before, size = _penalty(points, intercept, slope), 1.0
    while size > SHORTEST_STEP:
        if _penalty(points, intercept + size * step[0], slope + size * step[1]) <= before:
            return size
        size /= 2
    return 0.0


def _penalty(points: Sequence[tuple[float, float, int]], intercept: float, slope: float) -> float:
    """What is made small: the sum of log losses, and the ridge."""
    logits = ((intercept + slope * value, outcome, count) for value, outcome, count in points)
    losses = (
        count * (max(logit, 0.0) + math.log1p(math.exp(-abs(logit))) - outcome * logit)
        for logit, outcome, count in logits
    )
    return sum(losses) + RIDGE * slope * slope / 2


def logistic(logit: float) -> float:
    """The probability of a logit."""
    if logit < 0:
        return 1 - logistic(-logit)
    return 1 / (1 + math.exp(-logit))
