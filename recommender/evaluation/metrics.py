"""Metrics of rankings: pure functions of numbers, without a database.

Scored impressions: AUC, GAUC, log loss, calibration. Lists: recall, nDCG, MRR, hit rate. Many lists
together: coverage, Gini, diversity, novelty.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations, groupby
from statistics import median_low
from typing import TypeVar

T = TypeVar("T")

MIN_PROBABILITY = 1e-15
"""The smallest probability that `log_loss` takes a logarithm of."""

BINS = 10
"""The number of probability bins of a calibration error."""


def auc(scores: Sequence[float], outcomes: Sequence[bool]) -> float | None:
    """Return the share of pairs in which the positive scores above the negative; ties count half.

    The area under the ROC curve, as Mann and Whitney (1947) count it.

    Args:
        scores: any numbers.
        outcomes: one per score, true if positive.

    Returns:
        0 to 1; None if all outcomes are the same.
    """
    parts = placements(scores, outcomes)
    if parts is None:
        return None
    above = [part for part, outcome in zip(parts, outcomes, strict=True) if outcome]
    return math.fsum(above) / len(above)


def placements(scores: Sequence[float], outcomes: Sequence[bool]) -> list[float] | None:
    """Return, per score, the share of opposite outcomes that it is ranked correctly against.

    The mean over the positives is the AUC, and so is the mean over the negatives. Their variance
    tells how certain the AUC is (DeLong and others, 1988).

    Args:
        scores: any numbers.
        outcomes: one per score, true if positive.

    Returns:
        0 to 1 each; None if all outcomes are the same.
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
    """Return the mean AUC of users, weighted by impressions (Zhu and others, "OCPC", 2017).

    Args:
        users: per user the AUC, None if all outcomes were the same, and the impressions.

    Returns:
        0 to 1; None if no user has an AUC.
    """
    known = [(value, weight) for value, weight in users if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def log_loss(probabilities: Sequence[float], outcomes: Sequence[bool]) -> float:
    """Return the mean of -log of the probability given to the actual outcome.

    Args:
        probabilities: 0 to 1, at least one.
        outcomes: one per probability.

    Returns:
        0 or more, in nats.
    """
    losses = (
        -math.log(max(MIN_PROBABILITY, probability if outcome else 1 - probability))
        for probability, outcome in zip(probabilities, outcomes, strict=True)
    )
    return math.fsum(losses) / len(probabilities)


def calibration_error(
    probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = BINS
) -> float:
    """Return the expected calibration error over bins of equal width (Naeini and others, 2015).

    Args:
        probabilities: 0 to 1, at least one.
        outcomes: one per probability.
        bins: the number of bins.

    Returns:
        0 to 1.
    """
    return math.fsum(map(abs, gaps(probabilities, outcomes, bins))) / len(probabilities)


def gaps(probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = BINS) -> list[float]:
    """Return expected minus actual positives, per bin of equal width.

    Args:
        probabilities: 0 to 1.
        outcomes: one per probability.
        bins: the number of bins.
    """
    differences = [0.0] * bins
    for probability, outcome in zip(probabilities, outcomes, strict=True):
        differences[min(int(probability * bins), bins - 1)] += probability - outcome
    return differences


def recall(shown: Sequence[Hashable], relevant: Collection[Hashable], size: int) -> float:
    """Return the share of the relevant items that are among the first shown.

    Args:
        shown: the best first, without repeats.
        relevant: at least one.
        size: the number of shown items that count.

    Returns:
        0 to 1.
    """
    return len(set(shown[:size]) & set(relevant)) / len(relevant)


def ndcg(shown: Sequence[Hashable], relevant: Collection[Hashable], size: int) -> float:
    """Return the discounted gain of the first shown items, relative to the best order.

    Järvelin and Kekäläinen, 2002, with gains of 0 and 1.

    Args:
        shown: the best first, without repeats.
        relevant: at least one.
        size: the number of shown items that count.

    Returns:
        0 to 1.
    """
    positives = set(relevant)
    gained = [_discount(place) for place, item in enumerate(shown[:size]) if item in positives]
    best = [_discount(place) for place in range(min(size, len(positives)))]
    return math.fsum(gained) / math.fsum(best)


def _discount(place: int) -> float:
    return 1 / math.log2(place + 2)


def reciprocal_rank(shown: Sequence[Hashable], relevant: Collection[Hashable], size: int) -> float:
    """Return 1 / position of the first relevant item among the first shown; 0 if none is.

    Args:
        shown: the best first, without repeats.
        relevant: any number of items.
        size: the number of shown items that count.

    Returns:
        0 to 1.
    """
    positives = set(relevant)
    places = (place for place, item in enumerate(shown[:size], start=1) if item in positives)
    return 1 / next(places, math.inf)


def is_hit(shown: Sequence[Hashable], relevant: Collection[Hashable], size: int) -> float:
    """Return 1 if any relevant item is among the first shown, else 0.

    Args:
        shown: the best first.
        relevant: any number of items.
        size: the number of shown items that count.
    """
    return float(not set(relevant).isdisjoint(shown[:size]))


def coverage(lists: Iterable[Iterable[Hashable]], catalogue: int) -> float:
    """Return the share of a catalogue that is on at least one list.

    Args:
        lists: of catalogue items.
        catalogue: the size of the catalogue, at least 1.

    Returns:
        0 to 1.
    """
    return len({item for shown in lists for item in shown}) / catalogue


def gini(counts: Collection[int]) -> float:
    """Return the Gini coefficient: 0 if all counts are equal, near 1 if one has nearly all.

    Args:
        counts: 0 or more each.

    Returns:
        0 to 1; 0 if the sum is 0.
    """
    total = sum(counts)
    if not total:
        return 0.0
    ranked = sum(rank * count for rank, count in enumerate(sorted(counts), start=1))
    return 2 * ranked / (len(counts) * total) - (len(counts) + 1) / len(counts)


def diversity(tags: Sequence[Collection[Hashable]]) -> float | None:
    """Return the intra-list diversity: the mean of 1 - Jaccard(tags) over all pairs in a list.

    Args:
        tags: one set of tags per item; two items without tags have nothing in common.

    Returns:
        0 to 1; None if there are fewer than two items.
    """
    pairs = [1 - _jaccard(set(one), set(other)) for one, other in combinations(tags, 2)]
    return math.fsum(pairs) / len(pairs) if pairs else None


def _jaccard(one: set[Hashable], other: set[Hashable]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0


def novelty(shown: Iterable[Hashable], viewers: Mapping[Hashable, int], users: int) -> float | None:
    """Return the mean of -log2 of the share of users who know an item (Zhou and others, 2010).

    Args:
        shown: the list.
        viewers: the number of users who know an item; 0 if it is missing.
        users: the number of users.

    Returns:
        0 or more, in bits; None if the list is empty.
    """
    # One viewer and one user are added, so that an item without viewers has a finite value.
    bits = [-math.log2((viewers.get(item, 0) + 1) / (users + 1)) for item in shown]
    return math.fsum(bits) / len(bits) if bits else None


def lower_half(counts: Mapping[T, float]) -> set[T]:
    """Return the keys whose counts are at most the (lower) median."""
    median = median_low(counts.values()) if counts else 0
    return {key for key, count in counts.items() if count <= median}


def exposure(lists: Iterable[Iterable[T]]) -> Counter[T]:
    """Count how often every item appears on the lists."""
    return Counter(item for shown in lists for item in shown)
