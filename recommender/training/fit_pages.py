"""Learn weights that choose a page: which of a page's candidates its viewer liked later.

Served videos were already selected by the ranking, so weights over impressions (`fit`) never learn
from the rest. These weights are learned from all candidates. A log is replayed slice by slice. The
candidates are those of the feed at the start of the slice, and the positives are those that led to
the target within the slice. The last slice is held out, and measured as `evaluate` measures pages.

A video may have no positives only because no one saw it (exposure bias). Signals that measure how
little a video was shown would learn that bias, so they are left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.transactions import run_transaction, translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.evaluate import SAMPLE, check_sample, plain_figures
from recommender.evaluation.labels import target_values
from recommender.evaluation.log_files import LogFiles
from recommender.evaluation.log_replay import (
    DAY,
    ENGAGED,
    Cut,
    Progress,
    Slice,
    Timeline,
    no_progress,
    scratch_timeline,
)
from recommender.evaluation.logistic import fit_logistic
from recommender.evaluation.rankers import Catalogue, PageRequest, page_requests, profile_ranker
from recommender.evaluation.results import RankedPages
from recommender.ranking.profiles import get_profile
from recommender.ranking.request import Profile
from recommender.settings import Settings
from recommender.training.candidates import CandidateSample
from recommender.training.versions import (
    MIN_USERS,
    SIGNAL_NAMES,
    LearnedVersion,
    LearnedWeights,
    check_bounds,
    check_request,
    write_version,
)

EXPOSURE = ("freshness", "exploration")
"""Signals that say how little a video could be shown so far."""

Outcomes = Mapping[str, set[str]]
"""What each of some videos led to."""


@dataclass(frozen=True, slots=True)
class PageFit(LearnedVersion):
    """What a fit over candidates found. Weights and their errors are in the signals' own units.

    Attributes:
        profile: the new version.
        parent: the profile that served until now, ``name@version``.
        target: the outcomes with their values.
        since, until: the part of the log that was looked at; `until` None where there is no bound.
        learned_until: what came then or later, the last slice, was held out.
        pages: how many it learned from: those with a positive among their candidates.
        users: whose they are.
        candidates: how many these pages had.
        reached: the part of what these viewers, and others, wanted that was among the candidates,
            0 to 1.
        weights: of each signal.
        errors: their standard errors, over users; none of a signal that has no say.
        undetermined: signals that the pages say nothing of, being the same for all candidates of
            each, or that nothing chosen had more, or less, of than the rest: weight 0.
        left_out: those of `EXPOSURE` otherwise: weight 0.
        scale: what weights and errors were multiplied by, so that no weight is too large; 1 where
            none was.
        held_out: how many pages there are of the last slice.
        quality: the new version's figures of these pages, as of `evaluate`: recall, nDCG, MRR and
            hit rate among the first 10 and 20, 0 to 1 each.
        before: those of the parent's pages.
        seconds: how long it took.
    """

    profile: str
    parent: str
    target: Mapping[str, float]
    since: datetime
    until: datetime | None
    learned_until: datetime
    pages: int
    users: int
    candidates: int
    reached: float
    weights: Mapping[str, float]
    errors: Mapping[str, float]
    undetermined: tuple[str, ...]
    left_out: tuple[str, ...]
    scale: float
    held_out: int
    quality: Mapping[str, Interval | None]
    before: Mapping[str, Interval | None]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fit as JSON; an interval has a value, a low and a high end."""
        plain = {"over": "candidates", **LearnedVersion.as_dict(self)}
        for name in ("quality", "before"):
            plain[name] = plain_figures(plain[name])
        return plain


def fit_pages(
    engine: Engine,
    name: str,
    *,
    log: Engine | LogFiles,
    since: datetime,
    target: str | Mapping[str, float] = ENGAGED,
    until: datetime | None = None,
    every: timedelta = DAY,
    sample: int = SAMPLE,
    author: str | None = None,
    note: str | None = None,
    scratch: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> PageFit:
    """Learn weights that choose a page out of candidates; the version serves once it is activated.

    Each step is one statement that gives sums; candidates are in a temporary table.

    Args:
        engine: of the database that the version is written to.
        name: of the profile, as for `create_profile`.
        log: a prepared engine whose log is replayed, or files.
        since: where the log is cut, with an offset.
        target: as for `fit`.
        until: what comes then or later is left out.
        every: how long a slice is; the last is held out.
        sample: of how many viewers the pages are looked at in each slice, at most.
        author: who makes the version, 1 to 255 characters.
        note: why, 1 to 10,000 characters.
        scratch: as for `evaluate`.
        settings: those of the environment where None.
        progress: called with the name of a stage, how much of it is done, and of how much.

    Raises:
        InvalidValue: a value is not of its form, or the log says nothing.
        NotFound: there is no such file.
        BadData: a row is not in the format, or names what is not there.
        RecommenderError: the regression did not converge.
    """
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    values = target_values(target)
    check_request(name, author, note, every)
    check_sample(sample)
    start, end = check_bounds(since, until, is_replay=True)
    parent = run_transaction(engine, get_profile, write=False, settings=settings)
    report = progress or no_progress
    cut = Cut(start, until=end)
    with translate_errors(), scratch_timeline(cut, scratch, settings) as timeline:
        timeline.begin(log, cut.at, report)
        learner = _PageLearner(timeline, parent, values, every, sample, report)
        found = learner.fit()
    return write_version(
        engine, name, found, author=author, note=note, started=started, settings=settings,
        until=until and end,
    )  # fmt: skip


@dataclass(slots=True)
class _PageLearner:
    """What learns from the pages of a log.

    Attributes:
        timeline: with all that was known at the cut in its database.
        parent: the profile that served until now.
        values: of the outcomes.
        every: how long a slice is.
        sample: of how many viewers of a slice the pages are looked at.
        report: told of the progress.
        numbers: of each viewer a number.
        pages, candidates: how many were learned from.
        wanted, reached: how many videos were wanted, and how many of them were candidates.
    """

    timeline: Timeline
    parent: Profile
    values: Mapping[str, float]
    every: timedelta
    sample: int
    report: Progress
    numbers: dict[str, int] = field(default_factory=dict)
    pages: int = 0
    candidates: int = 0
    wanted: int = 0
    reached: int = 0

    def fit(self) -> PageFit:
        """The weights that all slices but the last say, and how good their pages of the last are.

        Raises:
            InvalidValue: the log says nothing.
        """
        timeline, done = self.timeline, 0
        last = timeline.events[-1].row["at"]
        with timeline.engine.connect() as connection:
            choices = CandidateSample(connection, SIGNAL_NAMES, timeline.settings)
            with choices.opened():
                for part in timeline.walk(timeline.cut.at, self.every):
                    if part.end > last:
                        return self._learned(choices, part)
                    choices.add(self._rows(part, done))
                    done += len(part.events)
        raise AssertionError("the last event is in the last slice")

    def _rows(self, part: Slice, done: int) -> Iterator[tuple[Any, ...]]:
        """The candidates of a slice's pages as rows of `Choices`."""
        wanted = self.timeline.positives(part.events, list(self.values))
        with Session(self.timeline.engine) as session:
            catalogue = Catalogue(session, part.start, self.timeline.settings)
            found = self._page_requests(session, catalogue, part, wanted)
            for count, (request, new) in enumerate(found, start=1):
                self.wanted += len(new)
                yield from self._page(request, wanted[request.user])
                seen = done + round(len(part.events) * count / min(self.sample, len(wanted)))
                self.report("fitting", seen, len(self.timeline.events))

    def _page_requests(
        self, session: Session, catalogue: Catalogue, part: Slice, wanted: Mapping[str, Outcomes]
    ) -> Iterator[tuple[PageRequest, frozenset[str]]]:
        """Some viewers by chance, with what each of them wanted in a slice; as `evaluate` does."""
        found = page_requests(session, catalogue, wanted, part.start, self.timeline.settings, 0)
        return (each for _, each in zip(range(self.sample), found, strict=False))

    def _page(self, request: PageRequest, wanted: Outcomes) -> Iterator[tuple[Any, ...]]:
        """The positives of a page, and some of its other candidates; none without a positive."""
        found = [(each[0], self._worth(wanted.get(each[3], set()))) for each in request.candidates]
        total = math.fsum(worth for _, worth in found)
        if not total:
            return
        positives = [each for each in found if each[1]]
        self.reached += len(positives)
        self.candidates += len(found)
        self.pages += 1
        number = self.numbers.setdefault(request.user, len(self.numbers))
        others, copies = _sampled([each for each in found if not each[1]], request)
        for place, (values, worth) in enumerate([*positives, *others]):
            stands_for = 1.0 if worth else copies
            yield (self.pages, place, number, worth / total, stands_for, *values)

    def _worth(self, led_to: set[str]) -> float:
        return math.fsum(self.values[name] for name in led_to)

    def _learned(self, choices: CandidateSample, last: Slice) -> PageFit:
        """The weights, once all but the last slice is in the table."""
        if len(self.numbers) < MIN_USERS:
            raise InvalidValue(
                f"pages of {len(self.numbers):,} users before the last slice have a candidate that"
                f" led to: {', '.join(self.values)}; it takes {MIN_USERS}"
            )
        determined = choices.determined()
        names = tuple(name for name in determined if name not in EXPOSURE)
        if not names:
            raise InvalidValue(f"no signal tells what {self.pages:,} pages led to from the rest")
        found = fit_logistic(
            partial(choices.sums, names),
            partial(choices.scores, names),
            choices.scale(names, self.pages),
            self.timeline.settings.fit_ridge,
        )
        learned = LearnedWeights.of(names, found)
        shown = self._last_pages(last, learned.weights)
        quality, before = (each.accuracy for each in shown.qualities(0))
        return PageFit(
            profile="",
            parent=self.parent.label,
            target=self.values,
            since=self.timeline.cut.at,
            until=None,
            learned_until=last.start,
            pages=self.pages,
            users=len(self.numbers),
            candidates=self.candidates,
            reached=self.reached / self.wanted,
            weights=learned.weights,
            errors=learned.errors,
            undetermined=tuple(name for name in SIGNAL_NAMES if name not in determined),
            left_out=tuple(name for name in determined if name not in names),
            scale=learned.scale,
            held_out=len(shown.relevant),
            quality=quality,
            before=before,
            seconds=0.0,
        )

    def _last_pages(self, part: Slice, weights: Mapping[str, float]) -> RankedPages:
        """The pages of a slice by the new weights, and by the parent's."""
        timeline = self.timeline
        new = profile_ranker(Profile("new", 1, weights), "new")
        before = profile_ranker(self.parent, "before")
        wanted = timeline.positives(part.events, list(self.values))
        with Session(timeline.engine) as session:
            catalogue = Catalogue(session, part.start, timeline.settings)
            shown = RankedPages(
                catalogue.videos, catalogue.users, pages={new.name: [], before.name: []}
            )
            for request, relevant in self._page_requests(session, catalogue, part, wanted):
                shown.relevant.append(relevant)
                for ranker in (new, before):
                    shown.pages[ranker.name].append(ranker.page(request))
        return shown


def _sampled(others: Sequence[Any], request: PageRequest) -> tuple[Sequence[Any], float]:
    """Some of a page's other candidates by chance, and for how many each of them stands."""
    most = request.settings.fit_candidates
    if len(others) <= most:
        return others, 1.0
    chance = Random(f"{request.user} {request.as_of}")  # noqa: S311 - not for secrets
    return chance.sample(others, most), len(others) / most
