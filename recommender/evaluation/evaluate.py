"""Measure how good a feed is: rank the later part of a log by what was known before.

Impressions are ranked slice by slice. A slice is learned only after all of it was scored
(prequential evaluation: Dawid, 1984). The pages are what the feed would have served at the cut.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.registered import kept_registry
from recommender.database.transactions import translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation.checks import check_ranking
from recommender.evaluation.labels import read_impressions
from recommender.evaluation.log_cut import (
    SAMPLE,
    begin_learned,
    check_sample,
    check_target,
    cut_of,
)
from recommender.evaluation.log_files import ENGAGED, LogFiles
from recommender.evaluation.log_replay import (
    DAY,
    Progress,
    Slice,
    Timeline,
    check_length,
    no_progress,
    scratch_timeline,
)
from recommender.evaluation.rankers import (
    Catalogue,
    PageRequest,
    Ranker,
    asked_profiles,
    every_ranker,
    page_requests,
)
from recommender.evaluation.results import (
    CandidateRecall,
    ImpressionQuality,
    PageQuality,
    RankedPages,
    ScoredImpressions,
)
from recommender.evaluation.segments import (
    SegmentQuality,
    mark_video,
    measure_segments,
    read_positives,
    read_user_segments,
)
from recommender.feed.feeds import check_sources, get_feed
from recommender.formats import scalars
from recommender.formats.findings import Finding
from recommender.formats.plain import plain_fields
from recommender.ranking.registry import Registry, known_registry
from recommender.ranking.request import Feed
from recommender.settings import Settings
from recommender.telemetry import traced


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of an evaluation. Every interval is over users.

    Attributes:
        target: the target outcome.
        feed: the feed whose pages were measured, ``name@version``; None for For You.
        cutoff: when the log was cut, None if each user's log was cut separately.
        until: events at this time or later were left out; None if there was no bound.
        slices: the number of slices in which impressions were ranked.
        impressions: their number; one per user, video and slice.
        positives: the number of impressions that led to the target.
        impression_users: the number of users with impressions.
        compared_users: the number of these with both outcomes, over whom GAUC is a mean.
        page_users: the number of users whose pages were measured.
        videos: the number of videos that could be on a page, of the formats of the feed.
        candidates: how much of what users wanted later was among the candidates.
        ranking: each ranker over impressions.
        pages: each ranker over pages.
        segments: each ranker in each segment of users and videos; empty if they were not asked for.
        seconds: the duration.
    """

    target: str
    feed: str | None
    cutoff: datetime | None
    until: datetime | None
    slices: int
    impressions: int
    positives: int
    impression_users: int
    compared_users: int
    page_users: int
    videos: int
    candidates: CandidateRecall
    ranking: tuple[ImpressionQuality, ...]
    pages: tuple[PageQuality, ...]
    segments: tuple[SegmentQuality, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON; an interval has a value, a low and a high end."""
        return plain_fields(self)

    def checks(self, *, small_creators: float | None = None) -> tuple[Finding, ...]:
        """Check that the first ranker is nowhere worse than simple baselines, see `checks`.

        Args:
            small_creators: the minimum share of places with videos by small creators, 0 to 1; a
                quarter of their share in random order if None.

        Raises:
            InvalidValue: the segments were not asked for, or the share is malformed.
        """
        if not self.segments:
            raise InvalidValue("segments: they must be evaluated to be checked")
        return check_ranking(self.segments, self.pages, small_creators)


@traced
def evaluate(
    source: Engine | LogFiles,
    *,
    cutoff: datetime | None = None,
    until: datetime | None = None,
    holdout: float | None = None,
    profiles: Sequence[str] = (),
    feed: str | None = None,
    database: Engine | None = None,
    target: str = ENGAGED,
    every: timedelta = DAY,
    ablate: bool = False,
    segments: bool = False,
    sample: int = SAMPLE,
    scratch: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Replay a log: rank its later part by what was known before, and compare rankers.

    The earlier part is imported into a scratch database and refreshed as of the cut. The source is
    only read. A database is evaluated with its own half-lives and weights of learning, files with
    the defaults.

    Args:
        source: a prepared engine, whose log is read, or files.
        cutoff: the time at which the log is cut, with an offset.
        until: events at this time or later are left out.
        holdout: instead of a cutoff, the share of every user's positive videos to hold out, above 0
            and below 1. Each log is cut before the last of them. Events of the same time keep the
            order of the files; a database has them by id. The later behaviour of other users is
            then known, and the later part is one slice.
        profiles: ``name`` or ``name@version`` of the source; the active profile, or the profile of
            the feed, if empty. Files have the built-in profiles only.
        feed: the name of a feed: make pages as it does, with its sources, formats and limits, and
            measure only videos of its formats. None for For You.
        database: if the source is files, the prepared engine of a database whose feeds, profiles
            and registered tables count.
        target: ``engaged`` (the video is positive), ``like``, ``share``, ``save``, ``comment``,
            ``convert`` or ``interested``.
        every: the length of a slice. A slice is scored as of its start.
        ablate: also evaluate the first profile without each of its signals.
        segments: also compare the rankers in segments of users and videos, see `segments`.
        sample: the maximum number of users whose pages are measured.
        scratch: the URL of a database without this package's tables, which is emptied afterwards;
            a temporary SQLite file if None.
        seed: the random seed for the samples of users.
        settings: the settings to use; read from the environment if None.
        progress: called with the name of a stage, the amount done, and the total amount.

    Raises:
        InvalidValue: a value is malformed, or no positive event comes before the cut, or nothing
            after it led to the target.
        UnknownProfile: there is no such profile or version.
        UnknownFeed: there is no such feed, or it was deleted.
        NotFound: there is no such file.
        BadData: a row is not in the format, or names an unknown user or video.
    """
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    report = progress or no_progress
    _check(target, every, sample)
    cut, start = cut_of(source, cutoff, until, holdout, target, settings)
    host = _host(source, database)
    made = None if feed is None else _feed(host, feed)
    with scratch_timeline(cut, scratch, settings, host) as timeline, translate_errors():
        # Without a host there are the built-in profiles only, which the scratch database has.
        asked = asked_profiles(host or timeline.engine, profiles, made)
        rankers = every_ranker(asked, timeline.registry, ablate=ablate)
        begin_learned(timeline, source, start, report)
        run = _Run(timeline, rankers, target, start, None if holdout else every, report, made)
        positives = read_positives(timeline.engine, timeline.events) if segments else {}
        shown = run.rank_pages(sample, seed)
        scored = run.rank_impressions()
        users = {*scored.keys, *shown.viewers}
        members = read_user_segments(timeline.engine, users, positives) if segments else {}
    _check_found(shown, scored, target, made)
    return Evaluation(
        target=target,
        feed=made.label if made else None,
        cutoff=None if holdout else start,
        until=None if cut.until == scalars.LATEST else cut.until,
        slices=len(scored.bounds) - 1,
        impressions=len(scored.outcomes),
        positives=sum(scored.outcomes),
        impression_users=len(set(scored.users)),
        compared_users=scored.compared_users(),
        page_users=len(shown.relevant),
        videos=len(shown.videos),
        candidates=shown.recall(_sources(timeline.registry, made), seed),
        ranking=scored.qualities(seed),
        pages=shown.qualities(seed),
        segments=measure_segments(scored, shown, members, start, seed) if segments else (),
        seconds=round(time.monotonic() - started, 3),
    )


def _check(target: str, every: timedelta, sample: int) -> None:
    check_target(target)
    check_length(every)
    check_sample(sample)


def _host(source: Engine | LogFiles, database: Engine | None) -> Engine | None:
    """Return the engine of the database that has the feeds and profiles, if there is one."""
    if isinstance(source, LogFiles):
        return database
    if database is not None:
        raise InvalidValue("database: goes with a log of files, which has no feeds and profiles")
    return source


def _feed(host: Engine | None, name: str) -> Feed:
    """Return the feed of a name, whose sources the registry has."""
    if host is None:
        raise InvalidValue("feed: files have no feeds: give the database that has the feed")
    with translate_errors(), Session(host) as session:
        feed = get_feed(session, name)
    check_sources(feed, known_registry(kept_registry(host)))
    return feed


def _sources(registry: Registry, feed: Feed | None) -> list[str]:
    """Return the names of the sources that give candidates."""
    names = (each.name for each in registry.every_source)
    return [name for name in names if feed is None or feed.reads(name)]


def _check_found(
    shown: RankedPages, scored: ScoredImpressions, target: str, feed: Feed | None
) -> None:
    """Raise `InvalidValue` if no user wanted anything after the cut."""
    if not (shown.relevant or any(scored.outcomes)):
        shows = feed.formats if feed else ()
        of_feed = f" of the feed's formats ({', '.join(shows)})" if shows else ""
        raise InvalidValue(
            f"nothing{of_feed} after the cut led to {target}, so there is nothing to find: choose"
            " another target, or an earlier time"
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """An evaluation in progress.

    Attributes:
        timeline: its database holds the log up to the start.
        rankers: the rankers to compare.
        target: the target outcome.
        start: the cut.
        every: the length of a slice, None for a single slice.
        report: told of the progress.
        feed: the feed that makes the pages; None for For You.
    """

    timeline: Timeline
    rankers: Sequence[Ranker]
    target: str
    start: datetime
    every: timedelta | None
    report: Progress
    feed: Feed | None = None

    def rank_pages(self, sample: int, seed: int) -> RankedPages:
        """Return pages of a sample of the users with new positives later."""
        engine, settings = self.timeline.engine, self.timeline.settings
        with Session(engine) as session:
            catalogue = Catalogue(session, self.start, settings, self.feed)
            shown = RankedPages(catalogue.videos, catalogue.users)
            page_requests = self._page_requests(session, catalogue, seed)
            for (request, positives), done in zip(
                page_requests, range(1, sample + 1), strict=False
            ):
                shown.viewers.append(request.user)
                shown.relevant.append(positives)
                shown.found.append(request.found(positives))
                for ranker in self.rankers:
                    shown.pages[ranker.name].append(ranker.page(request))
                self.report("pages", done, sample)
        self.report("pages", sample, sample)
        return shown

    def _page_requests(
        self, session: Session, catalogue: Catalogue, seed: int
    ) -> Iterator[tuple[PageRequest, frozenset[str]]]:
        """Yield page requests of users in random order, with their later positives."""
        positives = self.timeline.positives(self.timeline.events, [self.target])
        return page_requests(
            session, catalogue, positives, self.start, self.timeline.settings, seed
        )

    def rank_impressions(self) -> ScoredImpressions:
        """Score each slice's impressions as of its start, then learn from the slice."""
        scored, total = ScoredImpressions(), len(self.timeline.events)
        numbers: dict[str, int] = {}
        done = 0
        for part in self.timeline.walk(self.start, self.every):
            for users in self._score(part, scored, numbers):
                self.report("ranking", done + round(len(part.events) * users), total)
            scored.bounds.append(len(scored.outcomes))
            done += len(part.events)
        self.report("ranking", total, total)
        scored.keys.extend(numbers)
        return scored

    def _score(
        self, part: Slice, scored: ScoredImpressions, numbers: dict[str, int]
    ) -> Iterator[float]:
        """Score a slice's impressions, user by user; yield the share of users done."""
        shown, formats = self._shown(part), self.feed.formats if self.feed else ()
        with Session(self.timeline.engine) as session:
            for done, (user, outcomes) in enumerate(shown.items(), start=1):
                number = numbers.setdefault(user, len(numbers))
                impressions = read_impressions(
                    session, user, list(outcomes), part.start, self.timeline.settings, formats
                )
                for impression in impressions:
                    scored.users.append(number)
                    scored.outcomes.append(outcomes[impression.video])
                    mark_video(scored, impression, part.start)
                    for ranker in self.rankers:
                        scored.scores[ranker.name].append(ranker.score(impression))
                yield done / len(shown)

    def _shown(self, part: Slice) -> dict[str, dict[str, bool]]:
        """Return, per user, the videos shown in a slice, true if they led to the target."""
        shown = self.timeline.shown(part, [self.target])
        return {
            user: {video: bool(shown_video.outcomes) for video, shown_video in videos.items()}
            for user, videos in shown.items()
        }
