"""How good a feed is: what came later in a log, ranked by what was known before.

Impressions are ranked slice by slice, each slice folded in only after all of it was scored
(prequential: Dawid, 1984). Pages are those that the feed would have served at the cut.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.scratch import scratch_database
from recommender.database.transactions import run_transaction, translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation.log_files import LogFiles
from recommender.evaluation.log_replay import (
    DAY,
    ENGAGED,
    TARGETS,
    Cut,
    Progress,
    Slice,
    Timeline,
    check_length,
    cut_per_user,
)
from recommender.evaluation.rankers import (
    BASELINES,
    Ranker,
    Shelf,
    Visit,
    impressions_of,
    of_profile,
    visits,
    without,
)
from recommender.evaluation.results import (
    ImpressionQuality,
    PageQuality,
    ScoredImpressions,
    ShownPages,
)
from recommender.formats import scalars
from recommender.learning.affinities import RULES
from recommender.learning.refresh import refresh
from recommender.models import LearningState
from recommender.ranking.profiles import get_profile
from recommender.ranking.request import REFERENCE, Profile
from recommender.settings import Settings

SAMPLE = 1_000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found; every interval is over users.

    Attributes:
        target: what was hoped for.
        cutoff: when the log was cut, None where each user's was cut by itself.
        until: what came then or later was left out, None where nothing.
        slices: in how many slices impressions were ranked.
        impressions: how many; one of a user, a video and a slice.
        positives: how many of these led to the target.
        impression_users: whose they are.
        page_users: of how many users the pages were looked at.
        videos: how many could be on a page.
        ranking: each ranker over impressions.
        pages: each ranker over pages.
        seconds: how long it took.
    """

    target: str
    cutoff: datetime | None
    until: datetime | None
    slices: int
    impressions: int
    positives: int
    impression_users: int
    page_users: int
    videos: int
    ranking: tuple[ImpressionQuality, ...]
    pages: tuple[PageQuality, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as `evaluate` prints it; an interval has a value, a low and a high end."""
        plain = asdict(self)
        for name in ("cutoff", "until"):
            plain[name] = plain[name] and scalars.written_time(plain[name])
        for name in ("ranking", "pages"):
            plain[name] = [plain_figures(row) for row in plain[name]]
        return plain


def plain_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as JSON has them, in which an interval has a value, a low and a high end."""
    return {
        name: plain_figures(value) if isinstance(value, Mapping)
        else dict(zip(("value", "low", "high"), value, strict=True)) if isinstance(value, tuple)
        else value
        for name, value in row.items()
    }  # fmt: skip


def evaluate(
    source: Engine | LogFiles,
    *,
    cutoff: datetime | None = None,
    until: datetime | None = None,
    holdout: float | None = None,
    profiles: Sequence[str] = (),
    target: str = ENGAGED,
    every: timedelta = DAY,
    ablate: bool = False,
    sample: int = SAMPLE,
    scratch: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Replay a log: rank what came after a cut by what was known before, and compare.

    What was known is imported into a scratch database, and refreshed as of the cut. The source is
    only read. A database's own half-lives and weights of learning are in force, those of a new
    database for files.

    Args:
        source: a prepared engine, whose log is read, or files.
        cutoff: where the log is cut, with an offset.
        until: what comes then or later is left out.
        holdout: cut each user's own log instead, before the last of their positive videos: this
            part of them, above 0 and below 1. What others did later is then known, and the later
            part is one slice.
        profiles: ``name`` or ``name@version``, those of the source; the active one where empty.
            Files know the built-in ones.
        target: what is hoped for: ``engaged`` (an engaged view or any of the others), ``like``,
            ``share``, ``save`` or ``comment``.
        every: how long a slice is; each is scored as of its start.
        ablate: whether the first profile is also evaluated without each of its signals.
        sample: of how many users with later positives the pages are looked at, at most.
        scratch: the URL of a database without this package's tables, of which nothing is left
            afterwards; a SQLite file in a temporary folder where None.
        seed: what the sample of users, and those that intervals are of, depend on.
        settings: those of the environment where None.
        progress: called with the name of a stage, how much of it is done, and of how much.

    Raises:
        InvalidValue: a value is not of its form, or nothing comes after the cut.
        UnknownProfile: there is no such profile or version.
        NotFound: there is no such file.
        BadData: a row is not in the format, or names what is not there.
    """
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    report = progress or _silent
    _check(target, every, sample)
    cut, start = _cut(source, cutoff, until, holdout, target, settings)
    with scratch_database(scratch, settings) as engine, translate_errors():
        profiled = engine if isinstance(source, LogFiles) else source
        rankers = _rankers(_profiles(profiled, profiles), ablate=ablate)
        if isinstance(source, Engine):
            _learn_alike(source, engine, settings)
        timeline = Timeline(engine, cut, settings)
        timeline.read(source, report)
        if not timeline.events:
            raise InvalidValue("nothing in the log comes after the cut")
        refresh(engine, as_of=start, settings=settings)
        run = _Run(timeline, rankers, target, start, None if holdout else every, report)
        shown = run.look_at_pages(sample, seed)
        scored = run.rank_impressions()
    return Evaluation(
        target=target,
        cutoff=None if holdout else start,
        until=None if cut.until == scalars.LATEST else cut.until,
        slices=len(scored.bounds) - 1,
        impressions=len(scored.outcomes),
        positives=sum(scored.outcomes),
        impression_users=len(set(scored.users)),
        page_users=len(shown.relevant),
        videos=len(shown.videos),
        ranking=scored.qualities(seed),
        pages=shown.qualities(seed),
        seconds=round(time.monotonic() - started, 3),
    )


def _silent(_stage: str, _done: int, _total: int) -> None:
    """No progress is wanted."""


def _check(target: str, every: timedelta, sample: int) -> None:
    if target not in TARGETS:
        raise InvalidValue(f"target: {scalars.shown(target)} is not one of {', '.join(TARGETS)}")
    check_length(every)
    check_sample(sample)


def check_sample(sample: int) -> None:
    """How many users are looked at.

    Raises:
        InvalidValue: it is no whole number of at least 1.
    """
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 1:
        raise InvalidValue(f"sample: {scalars.shown(sample)} is no whole number of at least 1")


def _cut(
    source: Engine | LogFiles,
    cutoff: datetime | None,
    until: datetime | None,
    holdout: float | None,
    target: str,
    settings: Settings,
) -> tuple[Cut, datetime]:
    """Where the log is cut, and as of when its earlier part is refreshed."""
    if (cutoff is None) == (holdout is None):
        raise InvalidValue("cutoff: either a cutoff or a holdout must be given, and not both")
    if cutoff is not None:
        start, end = scalars.time(cutoff), scalars.LATEST if until is None else scalars.time(until)
        if end <= start:
            raise InvalidValue(f"until: {scalars.written_time(end)} is not after the cutoff")
        return Cut(start, until=end), start
    if until is not None:
        raise InvalidValue("until: goes with a cutoff, not with a holdout")
    if not 0 < (holdout or 0) < 1:
        raise InvalidValue(f"holdout: {holdout} is not between 0 and 1")
    return cut_per_user(source, target, holdout or 0, settings)


def _learn_alike(source: Engine, engine: Engine, settings: Settings) -> None:
    """Give the scratch database the source's half-lives and weights of learning."""
    columns = [getattr(LearningState, name) for name in (*RULES, "trend_half_life_days")]
    with Session(source) as session:
        rules = session.execute(sa.select(*columns)).one()._asdict()
    alike = sa.update(LearningState).values(rules)
    run_transaction(engine, lambda session: session.execute(alike), settings=settings)


def _profiles(engine: Engine, asked: Sequence[str]) -> dict[str, Profile]:
    """The profiles to evaluate by their names, those asked for first; the reference is among them.

    The profiles of a database are read there: the scratch database has the built-in ones only.
    """
    with translate_errors(), Session(engine) as session:
        found = {name: get_profile(session, name) for name in asked}
        if not found:
            active = get_profile(session)
            found = {active.name: active}
        reference = found.get(REFERENCE) or get_profile(session, REFERENCE)
    named = {_label(name, profile): profile for name, profile in found.items()}
    return {**named, REFERENCE: reference}


def _label(name: str, profile: Profile) -> str:
    """The name that a profile was asked for by, unless a baseline has it."""
    is_taken = any(name == baseline.name for baseline in BASELINES)
    return f"{name}@{profile.version}" if is_taken else name


def _rankers(profiles: Mapping[str, Profile], *, ablate: bool) -> list[Ranker]:
    """All that are compared, the profile asked for first at the head."""
    first = next(iter(profiles.values()))
    return [
        *(of_profile(profile, name) for name, profile in profiles.items()),
        *BASELINES,
        *(without(first) if ablate else ()),
    ]


@dataclass(frozen=True, slots=True)
class _Run:
    """One evaluation under way.

    Attributes:
        timeline: with all that was known at the start in its database.
        rankers: what is compared.
        target: what is hoped for.
        start: the cut.
        every: how long a slice is, None for one of all.
        report: told of the progress.
    """

    timeline: Timeline
    rankers: Sequence[Ranker]
    target: str
    start: datetime
    every: timedelta | None
    report: Progress

    def look_at_pages(self, sample: int, seed: int) -> ShownPages:
        """The pages of some of the users who later wanted what they had not seen before."""
        engine, settings = self.timeline.engine, self.timeline.settings
        with Session(engine) as session:
            shelf = Shelf(session, self.start, settings)
            shown = ShownPages(shelf.cards, shelf.users)
            visits = self._visits(session, shelf, seed)
            for (visit, wanted), done in zip(visits, range(1, sample + 1), strict=False):
                shown.relevant.append(wanted)
                for ranker in self.rankers:
                    shown.pages[ranker.name].append(ranker.page(visit))
                self.report("pages", done, sample)
        self.report("pages", sample, sample)
        return shown

    def _visits(
        self, session: Session, shelf: Shelf, seed: int
    ) -> Iterator[tuple[Visit, frozenset[str]]]:
        """Users by chance, with what each of them wanted later."""
        wanted = self.timeline.wanted(self.timeline.events, [self.target])
        return visits(session, shelf, wanted, self.start, self.timeline.settings, seed)

    def rank_impressions(self) -> ScoredImpressions:
        """Score each slice's impressions as of its start, then let it be known."""
        scored, total = ScoredImpressions(), len(self.timeline.events)
        numbers: dict[str, int] = {}
        done = 0
        for part in self.timeline.walk(self.start, self.every):
            for users in self._score(part, scored, numbers):
                self.report("ranking", done + round(len(part.events) * users), total)
            scored.bounds.append(len(scored.outcomes))
            done += len(part.events)
        self.report("ranking", total, total)
        return scored

    def _score(
        self, part: Slice, scored: ScoredImpressions, numbers: dict[str, int]
    ) -> Iterator[float]:
        """Score a slice's impressions, user by user; tell which part of the users is done."""
        shown = self._shown(part)
        with Session(self.timeline.engine) as session:
            for done, (user, outcomes) in enumerate(shown.items(), start=1):
                number = numbers.setdefault(user, len(numbers))
                found = impressions_of(
                    session, user, list(outcomes), part.start, self.timeline.settings
                )
                for impression in found:
                    scored.users.append(number)
                    scored.outcomes.append(outcomes[impression.video])
                    for ranker in self.rankers:
                        scored.scores[ranker.name].append(ranker.score(impression))
                yield done / len(shown)

    def _shown(self, part: Slice) -> dict[str, dict[str, bool]]:
        """Of each user the videos shown in a slice, and whether each led to the target."""
        shown = self.timeline.shown(part, [self.target])
        return {
            user: {video: bool(each.led_to) for video, each in videos.items()}
            for user, videos in shown.items()
        }
