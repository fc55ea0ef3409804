"""Pages that were served, in the order that another profile gives to the signals recorded.

That is all that a log tells: whatever else the profile would have found, nobody was shown. What was
on trial does not depend on scores, and keeps its place. Rows come in batches, in the order of their
users, so that memory does not grow with the log.
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
from recommender.evaluation.off_policy_estimator import Reordered, Reordering, Shown
from recommender.feed.selection import ScoredCandidate, Spread, rearranged
from recommender.models import FeedSession
from recommender.ranking.profiles import list_profiles
from recommender.ranking.request import REFERENCE, Profile
from recommender.ranking.scoring import score_key_of
from recommender.settings import Settings

ROWS_AT_ONCE = 2_000

FEWEST = 2
"""How many videos it takes for another order."""


@dataclass(slots=True)
class Hindsight:
    """Pages that were served, put into another order; in memory are those of one session at a time.

    Attributes:
        session: the transaction.
        candidate: gives the order.
        settings: the damping of a page.
        sample: how many users are sampled at most.
        seed: what the samples of users depend on.
        reordering: the sums.
        sampled: the rows of some of those who came.
        came: how many came.
        users, pages: how many users and pages have another order.
        left_out: how many pages have too little recorded for one.
        not_recorded: the signals that those lack.
    """

    session: Session
    candidate: Profile
    settings: Settings
    sample: int
    seed: int
    reordering: Reordering = field(init=False)
    sampled: list[int] = field(default_factory=list)
    came: int = 0
    users: int = 0
    pages: int = 0
    left_out: int = 0
    not_recorded: set[str] = field(default_factory=set)
    _chance: Random = field(init=False)

    def __post_init__(self) -> None:
        self.reordering = Reordering(self.seed)
        self._chance = Random(self.seed)  # noqa: S311 - not for secrets

    def read(
        self, values: Mapping[str, float], since: datetime, until: datetime, report: Progress
    ) -> None:
        """Read the sessions that began between two times.

        Raises:
            InvalidValue: there is none, or the candidate weighs what was not recorded.
        """
        began = sa.select(sa.func.count()).select_from(FeedSession)
        total = self.session.scalar(began.where(*began_between(since, until))) or 0
        statement = served_pages(values, since, until)
        rows = self.session.execute(statement.execution_options(yield_per=ROWS_AT_ONCE))
        # After the rows are fixed, so that those of a profile that is made meanwhile have weights.
        weights = {each.id: each.weights for each in list_profiles(self.session)}
        done = 0
        for user, served in groupby(rows, attrgetter("user_id")):
            pages: list[Reordered] = []
            trials: list[list[Shown]] = []
            for _, sitting in groupby(served, attrgetter("session")):
                videos = list(sitting)
                trials.append(_trials(videos))
                before = None
                for _, page in groupby(videos, attrgetter("page")):
                    found = list(page)
                    pages += self._reordered(found, before, weights)
                    before = found[-1]
                done += 1
                report("reading", done, total)
            self._add(user, pages, trials)
        report("reading", total, total)
        self._check()

    def _check(self) -> None:
        if not self.came:
            raise InvalidValue(
                f"no page was served in a session that began then, but for those of {REFERENCE}"
            )
        if not self.pages and self.left_out:
            raise InvalidValue(
                f"profile: {self.candidate.label} weighs what no page was recorded with:"
                f" {', '.join(sorted(self.not_recorded))}"
            )

    def _add(
        self, user: int, pages: Sequence[Reordered], trials: Sequence[Sequence[Shown]]
    ) -> None:
        self.came += 1
        if len(self.sampled) < self.sample:
            self.sampled.append(user)
        elif (place := self._chance.randrange(self.came)) < self.sample:
            self.sampled[place] = user
        self.users += bool(pages)
        self.pages += len(pages)
        self.reordering.add(pages, trials)

    def _reordered(
        self, page: Sequence[Any], before: Any, weights: Mapping[int | None, Mapping[str, float]]
    ) -> Iterator[Reordered]:
        """A page in the candidate's order, without what was on trial, or nothing."""
        ranked = [row for row in page if row.is_shown and not row.explored]
        if len(ranked) < FEWEST:
            return
        wanted = {name for name, weight in self.candidate.weights.items() if weight}
        if missing := wanted - weights[page[0].profile_id].keys():
            self.left_out += 1
            self.not_recorded |= missing
            return
        numbers = {row.video_id: number for number, row in enumerate(ranked)}
        order = [row.video_id for row in self._order(page, before)]
        yield Reordered(
            [_shown(row) for row in ranked], [numbers[video] for video in order if video in numbers]
        )

    def _order(self, page: Sequence[Any], before: Any) -> Sequence[Any]:
        """The videos of a page as the candidate spreads them; as they were where it served them."""
        if page[0].profile_id == self.candidate.id:
            return page
        best = sorted(page, key=self._place, reverse=True)
        numbers = {row.video_id: number for number, row in enumerate(best)}
        held = {place: numbers[row.video_id] for place, row in enumerate(page) if row.explored}
        spread = Spread(
            limit=len(page),
            creator=before and before.creator_id,
            sound=before and before.sound_id,
            damping=self.settings.creator_damping,
        )
        contenders = [self._contender(row) for row in best]
        return [best[number] for number in rearranged(contenders, spread, held)]

    def _place(self, row: Any) -> tuple[int, datetime, int]:
        """What every feed is ordered by."""
        return self._score_key(row), row.published_at, row.video_id

    def _score_key(self, row: Any) -> int:
        """The candidate's score in billionths; a host's own signals keep their weights."""
        ours = (
            weight * row.signals.get(name, 0.0) for name, weight in self.candidate.weights.items()
        )
        own = (math.prod(each) for each in row.signals.values() if isinstance(each, list))
        total = sum([*ours, *own])
        return score_key_of(total)

    def _contender(self, row: Any) -> ScoredCandidate:
        """The reference formula's pages are not spread."""
        if self.candidate.is_reference:
            return ScoredCandidate(self._score_key(row), None, None)
        return ScoredCandidate(self._score_key(row), row.creator_id, row.sound_id)


def _trials(sitting: Sequence[Any]) -> list[Shown]:
    """The videos of a session that only their trial brought there.

    Those of higher scores than the last that was ranked get places by their scores, and are no more
    on trial at later ones: with them, what is on trial would seem to be worth less and less.
    """
    last = min((row.score_key for row in sitting if not row.explored), default=None)
    return [
        _shown(row)
        for row in sitting
        if row.explored and row.is_shown and (last is None or row.score_key < last)
    ]


def _shown(row: Any) -> Shown:
    return Shown(row.position, row.label)
