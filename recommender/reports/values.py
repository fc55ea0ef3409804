"""The figures of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from recommender.evaluation.bootstrap import Interval
from recommender.experiments.report import ExperimentReport
from recommender.feed.values import FeedPage
from recommender.formats.findings import Finding
from recommender.formats.plain import plain_fields
from recommender.formats.profiles import ProfileRecord
from recommender.operations.audit import Audit

NORMAL_95 = 1.959964
"""The standard errors on either side of a value that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What became of some places.

    Attributes:
        places: videos at positions of sessions.
        pages: pages that begin with one of these places.
        users: users with one of these places.
        judged: places outside of rewatch sessions: only they have outcomes.
        looked: places that the user looked at, as `audit` counts them: with an event, or in the
            part of the session that was seen.
        enjoyed: places that led to a positive state.
        share: `enjoyed` by `looked`, 0 to 1, with its 95 % interval over users; None if no place
            was looked at. Both ends are the share itself if it is of a single user.
    """

    places: int = 0
    pages: int = 0
    users: int = 0
    judged: int = 0
    looked: int = 0
    enjoyed: int = 0
    share: Interval | None = None


def share_of(
    users: int, looked: int, enjoyed: int, squares: tuple[float, float, float]
) -> Interval | None:
    """Return the ratio of two sums over users, with its 95 % interval.

    The places of one user are alike, so the interval is over users: the linearized variance of a
    ratio (Cochran, "Sampling Techniques", 1977, 6.4).

    Args:
        users: the number of users.
        looked: the sum of what they looked at.
        enjoyed: the sum of what they enjoyed.
        squares: the sums over users of looked², enjoyed² and looked · enjoyed.
    """
    if not looked:
        return None
    # Whole numbers, because little is left of these large products.
    looked_squared, enjoyed_squared, product = map(int, squares)
    rest = (
        looked**2 * enjoyed_squared - 2 * looked * enjoyed * product + enjoyed**2 * looked_squared
    )
    ratio = enjoyed / looked
    half = NORMAL_95 * math.sqrt(rest * users / max(1, users - 1)) / looked**2
    return Interval(ratio, max(0.0, ratio - half), min(1.0, ratio + half))


@dataclass(frozen=True, slots=True)
class Day:
    """The outcomes of one day in UTC, which begins at `day`."""

    day: datetime
    outcomes: Outcomes


@dataclass(frozen=True, slots=True)
class PageTimes:
    """How long the pages of the sessions took that began on one day in UTC.

    Attributes:
        day: its beginning.
        pages: the number of pages, with empty ones.
        exhausted: the pages that had fewer videos than asked for, since no more were left.
        milliseconds: the time that ranking them took, added up.
    """

    day: datetime
    pages: int
    exhausted: int
    milliseconds: int


@dataclass(frozen=True, slots=True)
class SourceShare:
    """What a source brought; several may find the same video.

    Attributes:
        source: its name.
        places: the places whose video it found.
        looked: the places among them that were looked at.
        enjoyed: the places among them that were enjoyed.
        alone: the enjoyed places whose video no other source found.
    """

    source: str
    places: int
    looked: int
    enjoyed: int
    alone: int


@dataclass(frozen=True, slots=True)
class SignalShare:
    """What a signal added to scores, on average of a place of the sample.

    Attributes:
        signal: its name.
        enjoyed: the mean of value · weight over places that were enjoyed.
        others: the mean over places that were looked at and not enjoyed.
    """

    signal: str
    enjoyed: float
    others: float


@dataclass(frozen=True, slots=True)
class Positions:
    """The outcomes of a group of positions in sessions, from `first` on."""

    first: int
    outcomes: Outcomes


@dataclass(frozen=True, slots=True)
class ProfileShare:
    """The outcomes of the places that a version of a profile served.

    Attributes:
        profile: as ``name@version``.
        feed: the name of the feed, None for For You.
        outcomes: what became of its places.
    """

    profile: str
    feed: str | None
    outcomes: Outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How the places are spread over videos and creators.

    Attributes:
        published: the videos that are published now.
        served: the different videos that were served.
        new: the videos published in the time of the report.
        new_served: the ones of them that were served.
        tried: the different videos that exploration places showed.
        creators: creators with a place.
        gini: the Gini coefficient of places per creator; None without creators.
        lorenz: points of the Lorenz curve: the share of creators, the fewest places first, and
            the share of places that they have together.
    """

    published: int = 0
    served: int = 0
    new: int = 0
    new_served: int = 0
    tried: int = 0
    creators: int = 0
    gini: float | None = None
    lorenz: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Figures from the places of some users, since they take long to compute.

    Attributes:
        every: the sample has the users whose row id is divisible by this number.
        places: the places of the sample.
        pages: the pages of the sample.
        signals: what each signal added, the largest contribution to enjoyed places first.
        creators: different creators by places, over pages, 0 to 1; None without creators.
        diversity: the intra-list diversity of hashtags over pages, 0 to 1; None without hashtags.
    """

    every: int = 1
    places: int = 0
    pages: int = 0
    signals: tuple[SignalShare, ...] = ()
    creators: float | None = None
    diversity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a report shows, as values.

    Attributes:
        since: the start of the report's time.
        until: its end.
        before: the start of the time before it, which it is compared with.
        now: the outcomes of the report's time.
        then: the outcomes of the time before.
        days: the outcomes of each day with a place, both times, in order.
        sources: what each source brought, the most enjoyed places first.
        trials: the outcomes of exploration places.
        others: the outcomes of all other places.
        positions: the outcomes by groups of positions, in order.
        times: how long pages took, by the day on which their session began.
        experiments: the reports of the experiments of this time, the latest first.
        profiles: the outcomes by profile and feed, the most places first.
        exposure: how the places are spread over videos and creators.
        sample: figures from the places of some users.
        refreshed_at: the time of the last refresh, None before the first.
        history: the origins of all versions of profiles.
        audit: the audit of the sessions since `since`; None if there are too many places.
        findings: the findings of `doctor`.
        pages: the latest first pages, with reasons.
    """

    since: datetime
    until: datetime
    before: datetime
    now: Outcomes
    then: Outcomes
    days: tuple[Day, ...]
    sources: tuple[SourceShare, ...]
    trials: Outcomes
    others: Outcomes
    positions: tuple[Positions, ...]
    times: tuple[PageTimes, ...]
    experiments: tuple[ExperimentReport, ...]
    profiles: tuple[ProfileShare, ...]
    exposure: Exposure
    sample: Sample
    refreshed_at: datetime | None
    history: tuple[ProfileRecord, ...]
    audit: Audit | None
    findings: tuple[Finding, ...]
    pages: tuple[FeedPage, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as nested plain values."""
        return {
            **plain_fields(replace(self, history=(), pages=(), experiments=())),
            "experiments": [each.as_dict() for each in self.experiments],
            "history": [record.as_dict() for record in self.history],
            "audit": self.audit.as_dict() if self.audit else None,
            "pages": [page.as_dict(signals=True) for page in self.pages],
        }
