"""Learn weights that select page candidates, from later positive outcomes in a log.

Served videos were already selected by the ranking, so weights over impressions (`fit`) never learn
from the rest. These weights are learned from all candidates. A log is replayed slice by slice. The
feed at the start of a slice gives the candidates. Candidates with a target outcome within the slice
are the positives. The last slice is held out, and measured as `evaluate` measures pages.

A video may have no positives only because no one saw it (exposure bias). Signals that measure how
little a video was shown would learn that bias, so they are left out.
"""

from __future__ import annotations

import math
import time
from collections import Counter
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
from recommender.evaluation.labels import target_values
from recommender.evaluation.log_cut import SAMPLE, check_sample
from recommender.evaluation.log_files import ENGAGED, LogFiles
from recommender.evaluation.log_replay import (
    DAY,
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
from recommender.telemetry import traced
from recommender.training.candidates import CandidateSample
from recommender.training.impressions import MIN_COMPARED
from recommender.training.versions import (
    MIN_USERS,
    LearnedVersion,
    LearnedWeights,
    check_bounds,
    check_request,
    ridges_of,
    without_constants,
    write_version,
)

EXPOSURE = ("freshness", "exploration")
"""Signals that measure how little a video was shown."""

Outcomes = Mapping[str, set[str]]
"""The outcomes by video key."""


@dataclass(frozen=True, slots=True)
class PageFit(LearnedVersion):
    """The results of a fit over candidates. Weights and errors are in the units of the signals.

    Attributes:
        profile: the new version, ``name@version``.
        parent: the profile that was active, ``name@version``.
        target: the outcomes with their values.
        since, until: the bounds of the log; `until` is None without a bound.
        learned_until: events at this time or later, the last slice, were held out.
        pages: the number of pages learned from. Each has a positive among its candidates.
        users: the number of their viewers.
        candidates: the number of their candidates.
        reached: the recall of the candidates: the share of all positives among them, 0 to 1.
        reached_by: the share that each source found, by its name; several may find the same video.
        weights: the weight of every signal.
        errors: standard errors over users, of the signals with a coefficient.
        undetermined: signals whose weight the pages do not determine; their weight is 0. Either
            they never differ within a page, or the positives are all minima or all maxima.
        left_out: the other signals in `EXPOSURE`; their weight is 0.
        cut: signals whose weight was cut to the bound.
        held_out: the number of pages of the last slice.
        quality: the figures of the new version on these pages, as in `evaluate`: recall, nDCG, MRR
            and hit rate among the first 10 and 20, from 0 to 1.
        before: the same for the parent.
        gain: the nDCG@20 of the new version less that of the parent; None with too few pages.
        seconds: the duration.
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
    reached_by: Mapping[str, float]
    weights: Mapping[str, float]
    errors: Mapping[str, float]
    undetermined: tuple[str, ...]
    left_out: tuple[str, ...]
    cut: tuple[str, ...]
    held_out: int
    quality: Mapping[str, Interval | None]
    before: Mapping[str, Interval | None]
    gain: Interval | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fit as JSON; an interval has a value, a low and a high bound."""
        return {"over": "candidates", **LearnedVersion.as_dict(self)}


@traced
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
    """Learn a version whose weights select page candidates; it serves once it is activated.

    Candidates stay in a temporary table. Each step is one statement that returns sums.

    Args:
        engine: of the database to write the version to.
        name: the name of the profile, as for `create_profile`.
        log: a prepared engine whose log is replayed, or files.
        since: the cut of the log, with an offset.
        target: as for `fit`.
        until: events at this time or later are left out.
        every: the length of a slice; the last slice is held out.
        sample: the maximum number of viewers per slice.
        author: the author of the version, 1 to 255 characters.
        note: the reason for the version, 1 to 10,000 characters.
        scratch: as for `evaluate`.
        settings: read from the environment if None.
        progress: called with the name of a stage, the amount done, and the total.

    Raises:
        InvalidValue: a value is malformed, or the log determines no weight.
        NotFound: a file does not exist.
        BadData: a row is malformed, or names an unknown user or video.
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
    with translate_errors(), scratch_timeline(cut, scratch, settings, engine) as timeline:
        timeline.begin(log, cut.at, report)
        learner = _PageLearner(timeline, parent, values, every, sample, report)
        result = learner.fit()
    return write_version(
        engine, name, result, author=author, note=note, started=started, settings=settings,
        until=until and end,
    )  # fmt: skip


@dataclass(slots=True)
class _PageLearner:
    """The state of a fit over the pages of a log.

    Attributes:
        timeline: the log; its database has all that was known at the cut.
        parent: the active profile.
        values: the values of the outcomes.
        every: the length of a slice.
        sample: the maximum number of viewers per slice.
        report: called with the progress.
        numbers: a number for every viewer.
        pages, candidates: the numbers of pages and candidates learned from.
        wanted: the number of positives.
        reached: the number of positives among the candidates.
        reached_by: the number that each source found.
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
    reached_by: Counter[str] = field(default_factory=Counter)

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of all signals."""
        return tuple(self.timeline.registry.every_signal)

    def fit(self) -> PageFit:
        """Learn weights from all slices but the last, and measure them on the last.

        Raises:
            InvalidValue: the log determines no weight.
        """
        timeline, done = self.timeline, 0
        last = timeline.events[-1].row["at"]
        with timeline.engine.connect() as connection:
            choices = CandidateSample(connection, self.signals, timeline.settings)
            with choices.opened():
                for part in timeline.walk(timeline.cut.at, self.every):
                    if part.end > last:
                        return self._learned(choices, part)
                    choices.add(self._rows(part, done))
                    done += len(part.events)
        raise AssertionError("the last event is in the last slice")

    def _rows(self, part: Slice, done: int) -> Iterator[tuple[Any, ...]]:
        """Yield the candidates of a slice as rows of a `CandidateSample`."""
        positives = self.timeline.positives(part.events, list(self.values))
        with Session(self.timeline.engine) as session:
            catalogue = Catalogue(session, part.start, self.timeline.settings)
            requests = self._page_requests(session, catalogue, part, positives)
            for count, (request, relevant) in enumerate(requests, start=1):
                self.wanted += len(relevant)
                found = request.found(relevant)
                self.reached += len(found)
                self.reached_by.update(name for names in found for name in names)
                yield from self._page(request, positives[request.user])
                seen = done + round(len(part.events) * count / min(self.sample, len(positives)))
                self.report("fitting", seen, len(self.timeline.events))

    def _page_requests(
        self, session: Session, catalogue: Catalogue, part: Slice, positives: Mapping[str, Outcomes]
    ) -> Iterator[tuple[PageRequest, frozenset[str]]]:
        """Return the requests of a random sample of viewers with their positives in a slice."""
        # The same order as in `evaluate`, so that the figures of both can be compared.
        requests = page_requests(
            session, catalogue, positives, part.start, self.timeline.settings, 0
        )
        # A sample may exceed `sys.maxsize`, which `islice` does not take.
        return (request for _, request in zip(range(self.sample), requests, strict=False))

    def _page(self, request: PageRequest, outcomes: Outcomes) -> Iterator[tuple[Any, ...]]:
        """Yield the positives of a page and a sample of its other candidates.

        A page without positives yields nothing.
        """
        candidates = [
            (candidate[0], self._worth(outcomes.get(candidate[3], set())))
            for candidate in request.candidates
        ]
        total = math.fsum(worth for _, worth in candidates)
        if not total:
            return
        positives = [candidate for candidate in candidates if candidate[1]]
        self.candidates += len(candidates)
        self.pages += 1
        number = self.numbers.setdefault(request.user, len(self.numbers))
        negatives = [candidate for candidate in candidates if not candidate[1]]
        others, copies = _sampled(negatives, request)
        for place, (values, worth) in enumerate([*positives, *others]):
            stands_for = 1.0 if worth else copies
            yield (self.pages, place, number, worth / total, stands_for, *values)

    def _worth(self, led_to: set[str]) -> float:
        return math.fsum(self.values[name] for name in led_to)

    def _learned(self, choices: CandidateSample, last: Slice) -> PageFit:
        """Return the fit, once all slices but the last are in the table."""
        if len(self.numbers) < MIN_USERS:
            raise InvalidValue(
                f"pages of {len(self.numbers):,} users before the last slice have a candidate that"
                f" led to: {', '.join(self.values)}; it takes {MIN_USERS};"
                " learn from a longer time, or from shorter slices"
            )
        determined, timeline = choices.determined(), self.timeline
        settings = timeline.settings
        left_out = tuple(name for name in determined if name in EXPOSURE)
        wanted = tuple(name for name in determined if name not in EXPOSURE)
        names, scale = without_constants(wanted, choices.scale(wanted, self.pages), settings)
        if not names:
            raise InvalidValue(f"no signal tells what {self.pages:,} pages led to from the rest")
        regression = fit_logistic(
            partial(choices.sums, names),
            partial(choices.scores, names),
            scale,
            ridges_of(scale, settings),
        )
        learned = LearnedWeights.of(names, regression, self.signals)
        ranked = self._last_pages(last, learned.weights)
        old, new = ranked.qualities(0)
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
            reached_by={
                each.name: self.reached_by[each.name] / self.wanted
                for each in timeline.registry.every_source
            },
            weights=learned.weights,
            errors=learned.errors,
            undetermined=tuple(
                name for name in self.signals if name not in names and name not in left_out
            ),
            left_out=left_out,
            cut=learned.cut,
            held_out=len(ranked.relevant),
            quality=new.accuracy,
            before=old.accuracy,
            gain=new.change if len(ranked.relevant) >= MIN_COMPARED else None,
            seconds=0.0,
        )

    def _last_pages(self, part: Slice, weights: Mapping[str, float]) -> RankedPages:
        """Return the pages of a slice, ranked by the new weights and by the parent."""
        timeline = self.timeline
        new = profile_ranker(Profile("new", 1, weights), "new", timeline.registry)
        before = profile_ranker(self.parent, "before", timeline.registry)
        positives = timeline.positives(part.events, list(self.values))
        with Session(timeline.engine) as session:
            catalogue = Catalogue(session, part.start, timeline.settings)
            ranked = RankedPages(
                catalogue.videos, catalogue.users, pages={before.name: [], new.name: []}
            )
            for request, relevant in self._page_requests(session, catalogue, part, positives):
                ranked.relevant.append(relevant)
                for ranker in (new, before):
                    ranked.pages[ranker.name].append(ranker.page(request))
        return ranked


def _sampled(others: Sequence[Any], request: PageRequest) -> tuple[Sequence[Any], float]:
    """Return a random sample of the other candidates of a page, and the weight of its rows."""
    limit = request.settings.fit_candidates
    if len(others) <= limit:
        return others, 1.0
    chance = Random(f"{request.user} {request.as_of}")  # noqa: S311 - not for secrets
    return chance.sample(others, limit), len(others) / limit
