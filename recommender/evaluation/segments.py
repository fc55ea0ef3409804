"""Segments of users and videos, in which rankers are compared separately.

A mean over all users hides what a ranker does to a few of them, so every segment has figures of
its own. The bounds are counted at the cut, or, for the videos of an impression, when it is scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.evaluation import metrics
from recommender.evaluation.bootstrap import Interval, differences, weighted_mean
from recommender.evaluation.log_files import Line
from recommender.evaluation.results import (
    JUDGED_BY,
    PAGE_SIZE,
    RankedPages,
    ScoredImpressions,
    places_of_users,
)
from recommender.models import Interaction, User

NEW_USER = 5
"""A new user has fewer positive videos before the cut."""

HEAVY_USER = 20
"""A heavy user has at least this number of positive videos before the cut."""

RARE_VIDEO = 10
"""A rare video has fewer users who engaged with it."""

NEW_VIDEO = timedelta(days=7)
"""A new video was published less than this time ago."""

LANGUAGES = 3
"""The number of languages with segments: the most frequent ones of the evaluated users."""

MIN_USERS = 20
"""The minimum number of users in a segment. With fewer, its figures are left out."""

ALL_USERS = "all users"

VIDEO_SEGMENTS = ("rare videos", "new videos")


class DatedVideo(Protocol):
    """The facts about a video that decide its segments."""

    @property
    def engaged_views(self) -> int: ...  # noqa: D102
    @property
    def published_at(self) -> datetime: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class SegmentQuality:
    """The accuracy of a ranker in one segment.

    Attributes:
        figure: ``gauc`` of impressions, or ``ndcg@20`` of pages.
        segment: its name.
        ranker: the ranker's name.
        users: the number of users in the segment whose impressions or pages were measured.
        value: the figure over these users; None if they are fewer than `MIN_USERS`.
        change: the value minus the first ranker's, over the same users.
    """

    figure: str
    segment: str
    ranker: str
    users: int
    value: Interval | None
    change: Interval | None


def video_segments(video: DatedVideo, as_of: datetime) -> list[str]:
    """Return the segments of a video as of a time."""
    is_in = (video.engaged_views < RARE_VIDEO, video.published_at > as_of - NEW_VIDEO)
    return [name for name, inside in zip(VIDEO_SEGMENTS, is_in, strict=True) if inside]


def mark_video(scored: ScoredImpressions, video: DatedVideo, as_of: datetime) -> None:
    """Add the video of an impression to its segments.

    Args:
        scored: the impressions.
        video: the video of the last one.
        as_of: when it was scored.
    """
    segments = video_segments(video, as_of)
    for name in VIDEO_SEGMENTS:
        scored.in_segment[name].append(name in segments)


def read_positives(engine: Engine, events: Iterable[Line]) -> dict[str, int]:
    """Return the number of positive videos before the cut of users who have any.

    Args:
        engine: of the scratch database, before anything of the later part is learned.
        events: the later events. Users without any are left out.
    """
    users = {line.row["user"] for line in events}
    statement = (
        sa.select(User.key, sa.func.count())
        .join(Interaction, Interaction.user_id == User.id)
        .where(Interaction.engaged_at.is_not(None))
        .group_by(User.key)
    )
    return dict(_read(engine, statement, users))


def read_user_segments(
    engine: Engine, users: Collection[str], positives: Mapping[str, int]
) -> dict[str, frozenset[str]]:
    """Return the keys of the users in every segment of users.

    Args:
        engine: of the scratch database, after all users of the later part were written.
        users: the keys of the evaluated users.
        positives: the number of their positive videos before the cut; 0 if missing.
    """
    spoken = sa.select(User.key, User.language).where(User.language.is_not(None))
    return user_segments(users, positives, dict(_read(engine, spoken, users)))


def measure_segments(
    scored: ScoredImpressions,
    shown: RankedPages,
    members: Mapping[str, Collection[str]],
    as_of: datetime,
    seed: int,
) -> tuple[SegmentQuality, ...]:
    """Return the accuracy of every ranker in every segment: impressions, then pages.

    Args:
        scored: the impressions.
        shown: the pages.
        members: the keys of the users in every segment of users.
        as_of: the time of the pages.
        seed: as for `bootstrap`.
    """
    return (
        *_impression_segments(scored, members, seed),
        *_page_segments(shown, members, as_of, seed),
    )


def _read(
    engine: Engine, statement: sa.Executable, users: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """Yield the rows of some users, without keeping the others."""
    with Session(engine) as session:
        for key, value in session.execute(statement.execution_options(yield_per=1_000)):
            if key in users:
                yield key, value


def user_segments(
    users: Iterable[str], positives: Mapping[str, int], languages: Mapping[str, str]
) -> dict[str, frozenset[str]]:
    """Return the keys of the users in every segment of users.

    Args:
        users: the keys of the evaluated users.
        positives: the number of their positive videos before the cut; 0 if missing.
        languages: their languages.
    """
    keys = frozenset(users)
    spoken = Counter(languages[key] for key in keys if key in languages)
    if len(keys) in spoken.values():  # a language that all users have is no segment
        spoken.clear()
    biggest = sorted(spoken, key=lambda language: (-spoken[language], language))[:LANGUAGES]
    return {
        ALL_USERS: keys,
        "new users": frozenset(key for key in keys if positives.get(key, 0) < NEW_USER),
        "heavy users": frozenset(key for key in keys if positives.get(key, 0) >= HEAVY_USER),
        **{
            f"language {language}": frozenset(key for key in keys if languages.get(key) == language)
            for language in biggest
        },
    }


def _impression_segments(
    scored: ScoredImpressions, members: Mapping[str, Collection[str]], seed: int
) -> Iterator[SegmentQuality]:
    """Yield the GAUC in every segment; in a segment of videos, only of their impressions."""
    every = places_of_users(scored.users)
    places = {
        name: [own if key in keys else [] for key, own in zip(scored.keys, every, strict=True)]
        for name, keys in members.items()
    }
    for name, marks in scored.in_segment.items():
        places[name] = [[place for place in own if marks[place]] for own in every]
    for name, some in places.items():
        weights = [len(own) for own in some]
        yield from _qualities("gauc", name, scored.user_aucs(some), weights, seed)


def _page_segments(
    shown: RankedPages, members: Mapping[str, Collection[str]], as_of: datetime, seed: int
) -> Iterator[SegmentQuality]:
    """Yield the nDCG@20 in every segment; in a segment of videos, only they are wanted."""
    for name, relevant in _relevant(shown, members, as_of).items():
        values = {
            ranker: [
                metrics.ndcg(page, own, PAGE_SIZE) if own else None
                for page, own in zip(pages, relevant, strict=True)
            ]
            for ranker, pages in shown.pages.items()
        }
        yield from _qualities(JUDGED_BY, name, values, [1] * len(relevant), seed)


def _relevant(
    shown: RankedPages, members: Mapping[str, Collection[str]], as_of: datetime
) -> dict[str, list[Collection[str]]]:
    """Return, by segment, every user's wanted videos; none if the user is not in the segment."""
    of_users: dict[str, list[Collection[str]]] = {
        name: [
            own if key in keys else ()
            for key, own in zip(shown.viewers, shown.relevant, strict=True)
        ]
        for name, keys in members.items()
    }
    of_videos: dict[str, list[Collection[str]]] = {
        name: [
            [key for key in own if name in video_segments(shown.videos[key], as_of)]
            for own in shown.relevant
        ]
        for name in VIDEO_SEGMENTS
    }
    return {**of_users, **of_videos}


def _qualities(
    figure: str,
    segment: str,
    values: Mapping[str, Sequence[float | None]],
    weights: Sequence[float],
    seed: int,
) -> Iterator[SegmentQuality]:
    """Yield the accuracy of every ranker in a segment, from the figure of every user.

    Users without a value do not count.
    """
    for ranker, gains in differences(values).items():
        users = sum(value is not None for value in values[ranker])
        value = change = None
        if users >= MIN_USERS:
            value = weighted_mean(values[ranker], weights, seed=seed)
            change = weighted_mean(gains, weights, seed=seed)
        yield SegmentQuality(figure, segment, ranker, users, value, change)
