"""Evaluate the lists of similar videos: do they hold what users enjoyed next?

The first video that a user enjoyed after the cut is the given one, and the next ones should be in
its list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.aliases import id_of
from recommender.errors import InvalidValue
from recommender.evaluation.lists import (
    Asked,
    Cases,
    ListEvaluation,
    ListTask,
    Sourced,
    evaluate_lists,
)
from recommender.evaluation.log_cut import SAMPLE
from recommender.evaluation.log_files import ENGAGED, LogFiles, is_positive
from recommender.evaluation.log_replay import Progress, Timeline
from recommender.evaluation.rankers import BASELINES, PAGE, Catalogue, PageRequest, seen_videos
from recommender.lists.similar import similar
from recommender.models import Interaction, Video
from recommender.ranking.registry import Registry
from recommender.ranking.request import SIMILAR, Profile
from recommender.ranking.similar import NEWEST
from recommender.settings import Settings
from recommender.telemetry import traced

NEXT = 5
"""The largest number of next videos: later ones have little to do with the given video."""

CONTENT = ("shared_hashtags", "shared_words", "same_sound", "same_creator")
"""The signals that compare what two videos are, and not who enjoyed them."""

BASELINE_NAMES = ("random", "newest", "popular")
"""The baselines of `rankers` that are compared too."""


@dataclass(frozen=True, slots=True)
class GivenVideo:
    """A video that a user enjoyed after the cut.

    Attributes:
        key: its key.
        request: the user's request; the given video counts as seen.
    """

    key: str
    request: PageRequest


@traced
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
) -> ListEvaluation:
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
    return evaluate_lists(
        source, _TASK, cutoff=cutoff, until=until, holdout=holdout, profiles=profiles,
        target=target, sample=sample, scratch=scratch, seed=seed, settings=settings,
        progress=progress,
    )  # fmt: skip


def _check(registry: Registry, name: str, profile: Profile) -> None:
    """Check that a profile can rank the list.

    Raises:
        InvalidValue: it is the reference formula.
        UnknownSignal: it weighs a signal that the registry does not have.
    """
    registry.check(profile)
    if profile.is_reference:
        raise InvalidValue(f"profile: {name} has no candidates: choose another")


def _listed(given: GivenVideo, profile: Profile, *, is_personal: bool = False) -> Sourced:
    """Return the first videos of a list that the user has not seen, with their sources.

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
    return [(item.video, item.sources) for item in page.items]


def _others(first: Profile) -> Mapping[str, Callable[[GivenVideo], list[str]]]:
    """Return the lists to compare with."""
    content = Profile("content", 1, {name: first.weights.get(name, 0.0) for name in CONTENT})
    return {
        "personal": lambda given: [key for key, _ in _listed(given, first, is_personal=True)],
        "content": lambda given: [key for key, _ in _listed(given, content)],
        "creator": _same_creator,
        **{each.name: _baseline(each.page) for each in BASELINES if each.name in BASELINE_NAMES},
    }


def _baseline(page: Callable[[PageRequest], list[str]]) -> Callable[[GivenVideo], list[str]]:
    return lambda given: page(given.request)


def _same_creator(given: GivenVideo) -> list[str]:
    """Return the newest videos of the given video's creator."""
    catalogue = given.request.catalogue
    creator = catalogue.videos[given.key].creator
    if creator is None:
        return []
    return given.request.first_new(catalogue.newest, lambda video: video.creator == creator)


def _cases(
    session: Session, timeline: Timeline, target: str, start: datetime, seed: int
) -> Cases[GivenVideo]:
    """Return the given videos of users, with the next ones."""
    catalogue = Catalogue(session, start, timeline.settings)
    enjoyed = enjoyed_in_order(timeline, target)
    users = sorted(enjoyed)
    Random(seed).shuffle(users)  # noqa: S311 - not for secrets

    def asked() -> Iterator[Asked[GivenVideo]]:
        for user in users:
            seen = seen_videos(session, user)
            given, *later = [key for key in enjoyed[user] if key in catalogue.videos] or [""]
            wanted = frozenset([key for key in later if key not in seen][:NEXT])
            if wanted:
                known = seen | {given}
                request = PageRequest(session, user, start, timeline.settings, catalogue, known)
                yield Asked(user, GivenVideo(given, request), wanted)

    return Cases(catalogue.videos, catalogue.users, asked())


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


_TASK = ListTask(
    profile=SIMILAR,
    sources=lambda registry: (*(each.name for each in registry.similar_sources), NEWEST),
    check=_check,
    listed=_listed,
    others=_others,
    cases=_cases,
    nothing="no user enjoyed two videos after the cut that were known at the cut, the second one"
    " new to the user: choose another target, or an earlier time",
)
