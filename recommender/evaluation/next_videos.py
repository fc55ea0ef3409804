"""Measure the lists of similar videos: do they hold what users enjoyed next?

Each user is asked about once: the first video that they enjoyed after the cut is the given one, and
the next ones should be in its list. The lists know only what was known at the cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.aliases import id_of
from recommender.database.transactions import translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation.log_cut import (
    SAMPLE,
    begin_learned,
    check_sample,
    check_target,
    cut_of,
)
from recommender.evaluation.log_files import ENGAGED, LogFiles, is_positive
from recommender.evaluation.log_replay import Progress, Timeline, no_progress, scratch_timeline
from recommender.evaluation.rankers import (
    BASELINES,
    PAGE,
    Catalogue,
    PageRequest,
    seen_videos,
)
from recommender.evaluation.results import CandidateRecall, PageQuality, RankedPages
from recommender.feed.values import FeedItem
from recommender.formats import scalars
from recommender.formats.plain import plain_fields
from recommender.lists.similar import SIMILAR, similar
from recommender.models import Interaction, Video
from recommender.ranking.profiles import get_profile
from recommender.ranking.registry import Registry
from recommender.ranking.request import Profile
from recommender.ranking.similar import NEWEST, SIMILAR_SOURCES
from recommender.settings import Settings

NEXT = 5
"""The largest number of next videos: later ones have little to do with the given video."""

CONTENT = ("shared_hashtags", "shared_words", "same_sound", "same_creator")
"""The signals that compare what two videos are, and not who enjoyed them."""

BASELINE_NAMES = ("random", "newest", "popular")
"""The baselines of `rankers` that are compared too."""


@dataclass(frozen=True, slots=True)
class NextEvaluation:
    """The results of an evaluation of lists of similar videos. Every interval is over users.

    Attributes:
        target: the target outcome.
        cutoff: when the log was cut, None if each user's log was cut separately.
        until: events at this time or later were left out; None if there was no bound.
        users: the number of users, each with one given video.
        videos: the number of videos that could be in a list.
        found: how much of what users enjoyed next is among the first 20 of the first list, and how
            much each of its sources found.
        lists: each list.
        seconds: the duration.
    """

    target: str
    cutoff: datetime | None
    until: datetime | None
    users: int
    videos: int
    found: CandidateRecall
    lists: tuple[PageQuality, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON; an interval has a value, a low and a high end."""
        return plain_fields(self)


@dataclass(frozen=True, slots=True)
class GivenVideo:
    """A video that a user enjoyed after the cut.

    Attributes:
        key: its key.
        request: the user's request; the given video counts as seen.
    """

    key: str
    request: PageRequest


@dataclass(frozen=True, slots=True)
class SimilarList:
    """A list of videos for a given one.

    Attributes:
        name: its name in tables.
        videos: returns the keys of the first videos that the user has not seen, in order.
    """

    name: str
    videos: Callable[[GivenVideo], list[str]]


def evaluate_next(
    source: Engine | LogFiles,
    *,
    cutoff: datetime | None = None,
    until: datetime | None = None,
    holdout: float | None = None,
    profiles: Sequence[str] = (),
    target: str = ENGAGED,
    sample: int = SAMPLE,
    scratch: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> NextEvaluation:
    """Measure whether the list of similar videos holds what users enjoyed next.

    The earlier part of the log is learned as by `evaluate`. The first video that a user enjoyed
    after the cut is given, if it was published before. The list should hold the next five that
    they enjoyed, and had not seen before the cut.

    Args:
        source: a prepared engine, whose log is read, or files.
        cutoff: as for `evaluate`.
        until: as for `evaluate`.
        holdout: as for `evaluate`.
        profiles: ``name`` or ``name@version`` of the source; the profile `similar` if empty. Files
            have the built-in profiles only.
        target: the outcome of the given and of the next videos, as for `evaluate`.
        sample: the maximum number of users.
        scratch: as for `evaluate`.
        seed: the random seed for the sample.
        settings: the settings to use; read from the environment if None.
        progress: called with the name of a stage, the amount done, and the total amount.

    Raises:
        InvalidValue: a value is malformed, or no positive event comes before the cut, or no user
            enjoyed two videos after it.
        UnknownProfile: there is no such profile or version.
        NotFound: there is no such file.
        BadData: a row is not in the format, or names an unknown user or video.
    """
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    report = progress or no_progress
    check_target(target)
    check_sample(sample)
    cut, start = cut_of(source, cutoff, until, holdout, target, settings)
    host = None if isinstance(source, LogFiles) else source
    with scratch_timeline(cut, scratch, settings, host) as timeline, translate_errors():
        asked = _profiles(host or timeline.engine, profiles, timeline.registry)
        begin_learned(timeline, source, start, report)
        shown = _rank(timeline, asked, target, start, sample, seed, report)
    if not shown.relevant:
        raise InvalidValue(
            f"no user has two videos after the cut that led to {target}, known at the cut and the"
            " second one new to them: choose another target, or an earlier time"
        )
    return NextEvaluation(
        target=target,
        cutoff=None if holdout else start,
        until=None if cut.until == scalars.LATEST else cut.until,
        users=len(shown.relevant),
        videos=len(shown.videos),
        found=shown.recall([*(each.name for each in SIMILAR_SOURCES), NEWEST], seed),
        lists=shown.qualities(seed),
        seconds=round(time.monotonic() - started, 3),
    )


def _profiles(engine: Engine, asked: Sequence[str], registry: Registry) -> dict[str, Profile]:
    """Return the profiles to evaluate by name.

    Raises:
        InvalidValue: a profile is the reference formula, which has no such list.
        UnknownSignal: a profile weighs a signal that the registry does not have.
    """
    with translate_errors(), Session(engine) as session:
        profiles = {name: get_profile(session, name) for name in asked or [SIMILAR]}
    for name, profile in profiles.items():
        registry.check(profile)
        if profile.is_reference:
            raise InvalidValue(f"profile: {name} has no candidates: choose another")
    return profiles


def _rank(
    timeline: Timeline,
    profiles: Mapping[str, Profile],
    target: str,
    start: datetime,
    sample: int,
    seed: int,
    report: Progress,
) -> RankedPages:
    """Return the lists for a sample of users."""
    lists = _lists(profiles)
    first = next(iter(profiles.values()))
    with Session(timeline.engine) as session:
        catalogue = Catalogue(session, start, timeline.settings)
        shown = RankedPages(catalogue.videos, catalogue.users)
        asked = _given_videos(session, catalogue, timeline, target, start, seed)
        for (given, wanted), done in zip(asked, range(1, sample + 1), strict=False):
            shown.viewers.append(given.request.user)
            shown.relevant.append(wanted)
            items = _similar_items(given, first)
            shown.found.append([item.sources for item in items if item.video in wanted])
            for each in lists:
                shown.pages[each.name].append(each.videos(given))
            report("pages", done, sample)
    report("pages", sample, sample)
    return shown


def _lists(profiles: Mapping[str, Profile]) -> list[SimilarList]:
    """Return all lists, beginning with the first profile."""
    first = next(iter(profiles.values()))
    content = {signal: first.weights.get(signal, 0.0) for signal in CONTENT}
    baselines = [each for each in BASELINES if each.name in BASELINE_NAMES]
    others = [
        _of_profile("personal", first, is_personal=True),
        _of_profile("content", Profile("content", 1, content)),
        SimilarList("creator", _same_creator),
        *(SimilarList(each.name, _baseline(each.page)) for each in baselines),
    ]
    taken = {each.name for each in others}
    return [
        *(
            _of_profile(profile.label if name in taken else name, profile)
            for name, profile in profiles.items()
        ),
        *others,
    ]


def _of_profile(name: str, profile: Profile, *, is_personal: bool = False) -> SimilarList:
    def keys(given: GivenVideo) -> list[str]:
        items = _similar_items(given, profile, is_personal=is_personal)
        return [item.video for item in items]

    return SimilarList(name, keys)


def _similar_items(
    given: GivenVideo, profile: Profile, *, is_personal: bool = False
) -> tuple[FeedItem, ...]:
    """Return the first videos of a list that the user has not seen.

    Args:
        given: the given video.
        profile: the weights.
        is_personal: whether the list leans to the taste of the user.
    """
    request = given.request
    seen = sa.select(Interaction.video_id).where(Interaction.user_id == id_of(request.user))
    page = similar(
        request.session, given.key, user=request.user if is_personal else None, limit=PAGE,
        profile=profile, as_of=request.as_of, where=Video.id.not_in(seen),
        settings=request.settings,
    )  # fmt: skip
    return page.items


def _same_creator(given: GivenVideo) -> list[str]:
    catalogue = given.request.catalogue
    creator = catalogue.videos[given.key].creator
    if creator is None:
        return []
    return given.request.first_new(catalogue.newest, lambda video: video.creator == creator)


def _baseline(page: Callable[[PageRequest], list[str]]) -> Callable[[GivenVideo], list[str]]:
    return lambda given: page(given.request)


def _given_videos(
    session: Session,
    catalogue: Catalogue,
    timeline: Timeline,
    target: str,
    start: datetime,
    seed: int,
) -> Iterator[tuple[GivenVideo, frozenset[str]]]:
    """Yield a given video and the next ones, of users in random order."""
    enjoyed = enjoyed_in_order(timeline, target)
    users = sorted(enjoyed)
    Random(seed).shuffle(users)  # noqa: S311 - not for secrets
    for user in users:
        seen = seen_videos(session, user)
        known = [key for key in enjoyed[user] if key in catalogue.videos]
        wanted = [key for key in known[1:] if key not in seen][:NEXT]
        if wanted:
            request = PageRequest(
                session, user, start, timeline.settings, catalogue, seen | {known[0]}
            )
            yield GivenVideo(known[0], request), frozenset(wanted)


def enjoyed_in_order(timeline: Timeline, target: str) -> dict[str, list[str]]:
    """Return, per user, the videos of the later part that led to a target, the first ones first.

    Args:
        timeline: its log is read.
        target: one of `TARGETS`.
    """
    wanted = timeline.positives(timeline.events, [target])
    firsts: dict[str, dict[str, None]] = {}
    for row, _, _ in timeline.events:
        user, video = row["user"], row["video"]
        is_wanted = video in wanted.get(user, ())
        if is_wanted and is_positive(target, row, timeline.durations[video], timeline.thresholds):
            firsts.setdefault(user, {})[video] = None
    return {user: list(videos) for user, videos in firsts.items()}
