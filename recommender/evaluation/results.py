"""Compute every ranker's figures from scores and pages, with intervals over users."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from math import fsum
from typing import Any, Protocol, TypeAlias

from recommender.evaluation import metrics
from recommender.evaluation.bootstrap import (
    Interval,
    bootstrap,
    differences,
    mean_of_sums,
    paired_tests,
    weighted_mean,
)
from recommender.evaluation.logistic import fit_platt, logistic

SIZES = (10, 20)
"""The numbers of first videos over which accuracy is measured."""

ACCURACY = {
    "recall": metrics.recall,
    "ndcg": metrics.ndcg,
    "mrr": metrics.reciprocal_rank,
    "hit": metrics.is_hit,
}

PAGE_SIZE = max(SIZES)

JUDGED_BY = f"ndcg@{PAGE_SIZE}"
"""The page metric by which rankers are compared."""

Sums: TypeAlias = Sequence[float]


@dataclass(frozen=True, slots=True)
class ImpressionQuality:
    """The accuracy of a ranker over impressions.

    Attributes:
        ranker: its name.
        gauc: the mean AUC of users, weighted by their impressions, 0 to 1; 0.5 by chance.
        change: the GAUC minus the first ranker's, over the same users.
        p_value: of a paired test that the change is 0, corrected for the number of rankers, above 0
            and at most 1, see `paired_tests`; None for the first ranker.
        auc: over all impressions, 0 to 1.
        log_loss: in nats, of probabilities fitted to the scores of earlier slices; None if there is
            only one slice.
        calibration_error: of the same probabilities, 0 to 1.
    """

    ranker: str
    gauc: Interval | None
    change: Interval | None
    p_value: float | None
    auc: Interval | None
    log_loss: Interval | None
    calibration_error: Interval | None


@dataclass(frozen=True, slots=True)
class PageQuality:
    """The quality of a ranker's pages, judged by later positives.

    Attributes:
        ranker: its name.
        accuracy: recall, nDCG, MRR and hit rate among the first 10 and 20, 0 to 1 each.
        change: the nDCG@20 minus the first ranker's, over the same users.
        p_value: of the change, as for impressions.
        coverage: the share of the videos that is on any page, 0 to 1.
        creator_gini: the Gini coefficient of creators' appearances, 0 to 1.
        small_creators: the share of places with videos by small creators, 0 to 1. They are the
            creators whose number of engaged views is at most the median.
        diversity: the intra-list diversity of hashtags, creator and sound, 0 to 1.
        novelty: the mean novelty of the videos on a page, in bits.
    """

    ranker: str
    accuracy: Mapping[str, Interval | None]
    change: Interval | None
    p_value: float | None
    coverage: float
    creator_gini: float
    small_creators: Interval | None
    diversity: Interval | None
    novelty: Interval | None


@dataclass(frozen=True, slots=True)
class CandidateRecall:
    """How much of what users wanted later was among the candidates of their pages.

    Attributes:
        share: the share of all later positives that any source found, 0 to 1.
        sources: the share that each source found, by its name; several may find the same video.
    """

    share: Interval | None
    sources: Mapping[str, Interval | None]


@dataclass(slots=True)
class ScoredImpressions:
    """Impressions in the order of their slices, with a score from each ranker.

    Attributes:
        users: the impressions' users, numbered from 0.
        outcomes: true if the impression led to the target.
        scores: by ranker; the others are compared with the first.
        bounds: the index where every slice starts, and the end of the last slice.
        keys: the users' keys, by number.
        in_segment: by segment of videos, 1 for every impression of a video in it, else 0.
    """

    users: array[int] = field(default_factory=lambda: array("l"))
    outcomes: list[bool] = field(default_factory=list)
    scores: dict[str, array[float]] = field(default_factory=lambda: defaultdict(_doubles))
    bounds: list[int] = field(default_factory=lambda: [0])
    keys: list[str] = field(default_factory=list)
    in_segment: dict[str, bytearray] = field(default_factory=lambda: defaultdict(bytearray))

    def qualities(self, seed: int) -> tuple[ImpressionQuality, ...]:
        """Return the figures of every ranker."""
        places = places_of_users(self.users)
        weights = [len(some) for some in places]
        values = self.user_aucs(places)
        gains = differences(values)
        p_values = paired_tests(gains, weights, seed=seed)
        return tuple(
            ImpressionQuality(
                ranker=name,
                gauc=weighted_mean(values[name], weights, seed=seed),
                change=weighted_mean(gains[name], weights, seed=seed),
                p_value=p_values.get(name),
                **self._of_all(name, places, seed),
            )
            for name in self.scores
        )

    def compared_users(self) -> int:
        """Return the number of users with impressions of both outcomes."""
        outcomes = Counter(user for user, _ in set(zip(self.users, self.outcomes, strict=True)))
        return sum(number > 1 for number in outcomes.values())

    def user_aucs(self, places: Sequence[Sequence[int]]) -> dict[str, list[float | None]]:
        """Return, by ranker, the AUC of every user's impressions at the given places.

        A user has None if their outcomes are all the same.
        """
        outcomes = [[self.outcomes[place] for place in some] for some in places]
        return {
            name: [
                metrics.auc([scores[place] for place in some], user_outcomes)
                for some, user_outcomes in zip(places, outcomes, strict=True)
            ]
            for name, scores in self.scores.items()
        }

    def _of_all(
        self, name: str, places: Sequence[Sequence[int]], seed: int
    ) -> dict[str, Interval | None]:
        """Return a ranker's figures that compare impressions of different users."""
        scores = self.scores[name]
        auc_units = _auc_units(scores, self.outcomes, places)
        fitted = self._fitted(scores, places)
        return {
            "auc": bootstrap(auc_units, _auc, seed=seed),
            "log_loss": bootstrap([unit[:2] for unit in fitted], mean_of_sums, seed=seed),
            "calibration_error": bootstrap([unit[1:] for unit in fitted], _gap, seed=seed),
        }

    def _fitted(self, scores: Sequence[float], places: Sequence[Sequence[int]]) -> list[Sums]:
        """Return, per user, the sum of losses, the number of impressions, and the gaps by bin.

        The first slice is left out: no earlier scores tell what its scores mean.
        """
        chances = self._probabilities(scores)
        begun = self.bounds[1] if len(self.bounds) > 1 else 0
        units: list[Sums] = []
        for some in places:
            known = [place for place in some if place >= begun]
            given = [chances[place - begun] for place in known]
            outcomes = [self.outcomes[place] for place in known]
            loss = metrics.log_loss(given, outcomes) * len(given) if given else 0.0
            units.append((loss, float(len(given)), *metrics.gaps(given, outcomes)))
        return units

    def _probabilities(self, scores: Sequence[float]) -> array[float]:
        """Return probabilities from the second slice on, fitted to the earlier slices."""
        probabilities = _doubles()
        for begun, ended in pairwise(self.bounds[1:]):
            intercept, slope = fit_platt(scores[:begun], self.outcomes[:begun])
            probabilities.extend(logistic(intercept + slope * s) for s in scores[begun:ended])
        return probabilities


def _doubles() -> array[float]:
    return array("d")


def places_of_users(users: Sequence[int]) -> list[list[int]]:
    """Return the places of every user's impressions, by the users' numbers."""
    places: list[list[int]] = [[] for _ in range(max(users, default=-1) + 1)]
    for place, user in enumerate(users):
        places[user].append(place)
    return places


def _auc_units(
    scores: Sequence[float], outcomes: Sequence[bool], places: Sequence[Sequence[int]]
) -> list[Sums]:
    """Return, per user, the sums for `_auc`: placements and counts of both outcomes.

    A sample of users is compared with all impressions, not only with its own. To first order that
    is the same (Obuchowski, 1997), and nothing has to be sorted again.
    """
    parts = metrics.placements(scores, outcomes)
    if parts is None:
        return []
    units: list[Sums] = []
    for some in places:
        positives = [parts[place] for place in some if outcomes[place]]
        negatives = [parts[place] for place in some if not outcomes[place]]
        units.append((fsum(positives), len(positives), fsum(negatives), len(negatives)))
    value = mean_of_sums((fsum(unit[0] for unit in units), sum(unit[1] for unit in units))) or 0.0
    return [(*unit, value * unit[1]) for unit in units]


def _auc(sums: Sums) -> float | None:
    """Return the AUC of a sample of users: the overall value plus both deviations from it."""
    above, positives, below, negatives, expected = sums
    if not positives or not negatives:
        return None
    return above / positives + below / negatives - expected / positives


def _gap(sums: Sums) -> float | None:
    count, *gaps = sums
    return fsum(map(abs, gaps)) / count if count else None


class PageVideo(Protocol):
    """The facts about a video that page metrics use."""

    @property
    def engaged_views(self) -> int: ...  # noqa: D102
    @property
    def published_at(self) -> datetime: ...  # noqa: D102
    @property
    def creator(self) -> int | None: ...  # noqa: D102
    @property
    def viewers(self) -> int: ...  # noqa: D102
    @property
    def tags(self) -> frozenset[tuple[str, int]]: ...  # noqa: D102


@dataclass(slots=True)
class RankedPages:
    """Every ranker's pages for some users, and the users' later positives.

    Attributes:
        videos: all videos that can be shown, by key.
        users: the number of users in the database.
        relevant: per user, the videos that led to the target later.
        found: per user, a set of source names for every later positive among the candidates.
        pages: by ranker, one page per user; the others are compared with the first ranker.
        viewers: the users' keys.
    """

    videos: Mapping[str, PageVideo]
    users: int
    relevant: list[Collection[str]] = field(default_factory=list)
    found: list[Sequence[Collection[str]]] = field(default_factory=list)
    pages: dict[str, list[list[str]]] = field(default_factory=lambda: defaultdict(list))
    viewers: list[str] = field(default_factory=list)

    def qualities(self, seed: int) -> tuple[PageQuality, ...]:
        """Return the figures of every ranker."""
        accuracy = {name: self._accuracy(pages) for name, pages in self.pages.items()}
        gains = differences({name: values[JUDGED_BY] for name, values in accuracy.items()})
        weights = [1] * len(self.relevant)
        p_values = paired_tests(gains, weights, seed=seed)
        return tuple(
            PageQuality(
                ranker=name,
                accuracy={
                    metric: weighted_mean(own, weights, seed=seed) for metric, own in values.items()
                },
                change=weighted_mean(gains[name], weights, seed=seed),
                p_value=p_values.get(name),
                **self._beyond_accuracy(self.pages[name], weights, seed),
            )
            for name, values in accuracy.items()
        )

    def recall(self, sources: Sequence[str], seed: int) -> CandidateRecall:
        """Return the shares of the later positives that sources found."""
        by_source = {
            name: self._found([sum(name in names for names in found) for found in self.found], seed)
            for name in sources
        }
        return CandidateRecall(self._found(list(map(len, self.found)), seed), by_source)

    def _found(self, counts: Sequence[int], seed: int) -> Interval | None:
        wanted = map(len, self.relevant)
        units = [(float(count), float(all_)) for count, all_ in zip(counts, wanted, strict=True)]
        return bootstrap(units, mean_of_sums, seed=seed)

    def _accuracy(self, pages: Sequence[Sequence[str]]) -> dict[str, list[float]]:
        """Return each accuracy metric, one value per user."""
        return {
            f"{name}@{size}": [
                metric(page, relevant, size)
                for page, relevant in zip(pages, self.relevant, strict=True)
            ]
            for name, metric in ACCURACY.items()
            for size in SIZES
        }

    def _beyond_accuracy(
        self, pages: Sequence[Sequence[str]], weights: Sequence[float], seed: int
    ) -> dict[str, Any]:
        """Return the figures of pages that do not depend on what users wanted."""
        viewers: dict[Hashable, int] = {key: video.viewers for key, video in self.videos.items()}
        creators = {video.creator for video in self.videos.values()} - {None}
        exposed = metrics.exposure([self.videos[key].creator for key in page] for page in pages)
        diverse = [metrics.diversity([self.videos[key].tags for key in page]) for page in pages]
        novel = [metrics.novelty(page, viewers, self.users) for page in pages]
        return {
            "coverage": metrics.coverage(pages, max(1, len(self.videos))),
            "creator_gini": metrics.gini([exposed[creator] for creator in creators]),
            "small_creators": self._small_creators(pages, seed),
            "diversity": weighted_mean(diverse, weights, seed=seed),
            "novelty": weighted_mean(novel, weights, seed=seed),
        }

    def _small_creators(self, pages: Sequence[Sequence[str]], seed: int) -> Interval | None:
        """Return the share of places with videos by small creators."""
        views: Counter[int] = Counter()
        for video in self.videos.values():
            if video.creator is not None:
                views[video.creator] += video.engaged_views
        small = metrics.lower_half(views)
        shown = [[self.videos[key].creator in small for key in page] for page in pages]
        return bootstrap([(sum(page), len(page)) for page in shown], mean_of_sums, seed=seed)
