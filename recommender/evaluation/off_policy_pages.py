"""Read served pages, and put their videos into the order of another profile.

The order follows from the recorded signals. The log cannot say how users would have reacted to
videos they were never shown. Exploration candidates do not depend on scores, so they keep their
positions. Rows come in batches, in the order of their users, so memory does not grow with the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from random import Random
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.errors import InvalidValue
from recommender.evaluation.labels import began_between, served_pages
from recommender.evaluation.log_replay import Progress
from recommender.evaluation.off_policy_estimator import (
    LoggedVideo,
    OffPolicyEstimator,
    ReorderedPage,
    of_same_score,
)
from recommender.feed.feeds import every_feed, feed_of
from recommender.feed.selection import Limit, ScoredCandidate, Spread, limits_of, rearranged
from recommender.formats.scalars import UNDATED
from recommender.models import FeedSession
from recommender.ranking.profiles import list_profiles
from recommender.ranking.request import LARGEST_SPAN, REFERENCE, PlacedVideo, Profile
from recommender.ranking.scoring import score_key_of
from recommender.settings import Settings

ROWS_AT_ONCE = 2_000

MIN_VIDEOS = 2
"""The minimum number of videos of a page that can be reordered."""


@dataclass(slots=True)
class LoggedPages:
    """Served pages in another order. One session is in memory at once.

    Attributes:
        session: the transaction.
        candidate: the profile that gives the order.
        settings: the creator damping of a page.
        sample: the maximum number of sampled users.
        seed: the random seed for the samples of users.
        feed: the name of the feed that served the pages; None for For You.
        reordering: the sums.
        sampled: the row ids of the sampled users.
        came: the number of users with served pages.
        users, pages: the number of users and pages that were reordered.
        left_out: the number of pages served without a signal that the profile weighs.
        not_recorded: these signals.
    """

    session: Session
    candidate: Profile
    settings: Settings
    sample: int
    seed: int
    feed: str | None = None
    reordering: OffPolicyEstimator = field(init=False)
    sampled: list[int] = field(default_factory=list)
    came: int = 0
    users: int = 0
    pages: int = 0
    left_out: int = 0
    not_recorded: set[str] = field(default_factory=set)
    _limits: dict[int | None, tuple[Limit, ...]] = field(init=False)
    _chance: Random = field(init=False)

    def __post_init__(self) -> None:
        self.reordering = OffPolicyEstimator(self.seed)
        self._chance = Random(self.seed)  # noqa: S311 - not for secrets

    def read(
        self, values: Mapping[str, float], since: datetime, until: datetime, report: Progress
    ) -> None:
        """Read the sessions that began between two times.

        Raises:
            InvalidValue: there is none, or the profile weighs signals that were not recorded.
        """
        began = sa.select(sa.func.count()).select_from(FeedSession)
        total = self.session.scalar(began.where(*began_between(since, until, self.feed))) or 0
        statement = served_pages(values, since, until, self.feed)
        rows = self.session.execute(statement.execution_options(yield_per=ROWS_AT_ONCE))
        # Read after the rows are fixed, so that profiles and feeds made in the meantime are known.
        weights = {version.id: version.weights for version in list_profiles(self.session)}
        feeds = map(feed_of, self.session.execute(every_feed()))
        self._limits = {None: limits_of(None), **{feed.id: limits_of(feed) for feed in feeds}}
        done = 0
        for user, served in groupby(rows, attrgetter("user_id")):
            pages: list[ReorderedPage] = []
            ranked: list[list[LoggedVideo]] = []
            explored: list[list[LoggedVideo]] = []
            for _, of_session in groupby(served, attrgetter("session")):
                videos = list(of_session)
                explored.append(_explored(videos))
                before: list[PlacedVideo] = []
                for _, page in groupby(videos, attrgetter("page")):
                    page_rows = list(page)
                    ranked += of_same_score(_ranked(page_rows))
                    pages += self._reordered(page_rows, before, weights)
                    before = [*before, *map(_placed, page_rows)][1 - LARGEST_SPAN :]
                done += 1
                report("reading", done, total)
            self._count(user, pages)
            self.reordering.add(pages, ranked, explored)
        report("reading", total, total)
        self._check()

    def _check(self) -> None:
        if not self.came:
            of_feed = f"the feed {self.feed}" if self.feed else "For You"
            raise InvalidValue(
                f"no page of {of_feed} was served in a session that began then, except pages of"
                f" {REFERENCE}: record the pages that you serve, or choose another time"
            )
        if not self.pages and self.left_out:
            raise InvalidValue(
                f"profile: {self.candidate.label} weighs what no page was recorded with:"
                f" {', '.join(sorted(self.not_recorded))}"
            )

    def _count(self, user: int, pages: Sequence[ReorderedPage]) -> None:
        self.came += 1
        if len(self.sampled) < self.sample:
            self.sampled.append(user)
        elif (place := self._chance.randrange(self.came)) < self.sample:
            self.sampled[place] = user
        self.users += bool(pages)
        self.pages += len(pages)

    def _reordered(
        self,
        page: Sequence[Any],
        before: Sequence[PlacedVideo],
        weights: Mapping[int | None, Mapping[str, float]],
    ) -> Iterator[ReorderedPage]:
        """Yield a page in the new order, without exploration candidates, if it can be reordered."""
        ranked = [row for row in page if row.is_shown and not row.explored]
        if len(ranked) < MIN_VIDEOS:
            return
        weighted = {name for name, weight in self.candidate.weights.items() if weight}
        if missing := weighted - weights[page[0].profile_id].keys():
            self.left_out += 1
            self.not_recorded |= missing
            return
        numbers = {row.video_id: number for number, row in enumerate(ranked)}
        order = [row.video_id for row in self._order(page, before)]
        yield ReorderedPage(
            [_shown(row) for row in ranked], [numbers[video] for video in order if video in numbers]
        )

    def _order(self, page: Sequence[Any], before: Sequence[PlacedVideo]) -> Sequence[Any]:
        """Return the videos of a page in the new order; unchanged if the profile served it."""
        if page[0].profile_id == self.candidate.id:
            return page
        best = sorted(page, key=self._place, reverse=True)
        numbers = {row.video_id: number for number, row in enumerate(best)}
        held = {place: numbers[row.video_id] for place, row in enumerate(page) if row.explored}
        spread = Spread(
            limit=len(page),
            before=before,
            limits=self._limits[page[0].feed_id],
            damping=self.settings.creator_damping,
        )
        scored = [self._selection_facts(row) for row in best]
        return [best[number] for number in rearranged(scored, spread, held)]

    def _place(self, row: Any) -> tuple[int, datetime, int]:
        """Return the sort key of every feed."""
        return self._score_key(row), row.published_at or UNDATED, row.video_id

    def _score_key(self, row: Any) -> int:
        """Return the score key in the new profile; a host's own signals keep their weights."""
        ours = (
            weight * row.signals.get(name, 0.0) for name, weight in self.candidate.weights.items()
        )
        own = (math.prod(factors) for factors in row.signals.values() if isinstance(factors, list))
        total = sum([*ours, *own])
        return score_key_of(total)

    def _selection_facts(self, row: Any) -> ScoredCandidate:
        """Return the facts for diversity; the reference formula limits nothing."""
        if self.candidate.is_reference:
            return ScoredCandidate(self._score_key(row), None, None)
        return ScoredCandidate(
            self._score_key(row), row.creator_id, row.sound_id, format=row.format
        )


def _ranked(page: Sequence[Any]) -> list[tuple[float, LoggedVideo]]:
    """Return the videos of a page that were placed by their score, with the score."""
    return [(row.score_key, _shown(row)) for row in page if row.is_shown and not row.explored]


def _explored(of_session: Sequence[Any]) -> list[LoggedVideo]:
    """Return the videos of a session that are there only because of exploration."""
    # A candidate that scores above the last ranked video would have been placed by its score. Such
    # candidates are missing at later positions, so with them later positions would look worse.
    last = min((row.score_key for row in of_session if not row.explored), default=None)
    return [
        _shown(row)
        for row in of_session
        if row.explored and row.is_shown and (last is None or row.score_key < last)
    ]


def _placed(row: Any) -> PlacedVideo:
    return PlacedVideo(row.creator_id, row.sound_id, row.format)


def _shown(row: Any) -> LoggedVideo:
    return LoggedVideo(row.position, row.label, bool(row.is_positive))
