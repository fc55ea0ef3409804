"""Where candidates come from: one SELECT of videos with a quota each.

What a viewer has seen, and what the caller left out, takes nobody's place in a source, but that
only so many are looked at: the newest of a hashtag, creator or sound, the nearest neighbours, the
most trending. What they muted is no interest of theirs. A neighbour that is not published takes a
place, and so does what trends and is published later, since to ask would be to read its row. The
last source, the newest of all that every filter lets through, keeps a page full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Subquery, literal
from sqlalchemy.orm import InstrumentedAttribute, aliased

from recommender.database.expressions import Statement, fence, materialized
from recommender.formats.scalars import EARLIEST, LIST_LENGTH
from recommender.models import (
    Affinity,
    Follow,
    MutedCreator,
    MutedHashtag,
    MutedSound,
    UserHashtag,
    UserSound,
    Video,
    VideoHashtag,
)
from recommender.models.types import UtcDateTime
from recommender.ranking.viewer import CYCLE, Viewer

LEAST_TREND = -1e6
"""No trend is less; as a bound it lets an index be walked in order."""

FOLLOWED_LIMIT = 5_000
"""How many creators whom a viewer follows are looked at; it also keeps SQLite from beginning at all
videos."""

VIDEOS_PER_SUBJECT = 50
"""How many videos of one hashtag, creator or sound are looked at."""

SCAN_FACTOR = 4
"""How many of the newest of all hashtags, creators or sounds, and of the most trending, are looked
at for each that a source gives: the viewer has seen some."""

NEIGHBOUR_SCAN_FACTOR = 2
"""How many neighbours are looked at for each that is given, the nearest first."""

NEW_VIDEO_LIMIT = 1_000
"""How many new videos are looked at for those on trial."""

SHUFFLE_STEP = 1_220_703_125
"""How far apart in their circle videos on trial stand whose rows follow one another."""

MUTED = {
    "creator": MutedCreator.creator_id,
    "hashtag": MutedHashtag.hashtag_id,
    "sound": MutedSound.sound_id,
}


@dataclass(frozen=True, slots=True)
class Source:
    """A named source of candidates.

    Args:
        name: as pages and explanations name it.
        quota: how many candidates it gives at most, of `CANDIDATES` of all sources.
        select: the ids of videos, the best first, as a SELECT from `Video`; of a viewer, and for so
            many candidates.
        is_listed: whether it is a SELECT from rows that name videos instead, so that theirs are
            not read.
    """

    name: str
    quota: int
    select: Callable[[Viewer, int], sa.Select[int]]
    is_listed: bool = False


def following(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest of the creators whom the viewer follows."""
    followed = (
        sa.select(Follow.creator_id)
        .where(Follow.user_id == viewer.user_id, _wanted(viewer, "creator", Follow.creator_id))
        .limit(FOLLOWED_LIMIT)
        .subquery("followed")
    )
    return _newest_of(viewer, Video.creator_id, followed, quota)


def neighbours(viewer: Viewer, quota: int) -> sa.Select[int]:
    """What others engaged with who also engaged with what the viewer engaged with lately."""
    every = viewer.near
    nearest = (
        sa.select(every)
        .where(every.c.video_id.is_not(None))
        .order_by(every.c.similarity.desc(), every.c.video_id.desc())
        .limit(NEIGHBOUR_SCAN_FACTOR * quota)
        .subquery("nearest")
    )
    return sa.select(nearest.c.video_id).order_by(
        nearest.c.similarity.desc(), nearest.c.video_id.desc()
    )


def hashtags(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest of the hashtags that the viewer declared, or has the most affinity to.

    A video is listed at one time by all of its hashtags, and so is one row here.
    """
    tag, wanted = VideoHashtag, _wanted_hashtags(viewer)
    listed = (
        sa.select(tag.video_id, tag.listed_at.label("published_at"))
        .join(wanted, wanted.c.hashtag_id == tag.hashtag_id)
        .where(tag.listed_at.between(wanted.c.since, viewer.as_of))
        .distinct()
    )
    return _newest_among(listed, quota)


def _wanted_hashtags(viewer: Viewer) -> CTE:
    """The hashtags, and since when so many videos of each were published as are looked at.

    Worked out once: the limit, more than there can be, sees to it on SQLite, and PostgreSQL, where
    it thinks that there is one video, would still begin anew for each.
    """
    declared = sa.select(UserHashtag.hashtag_id).where(
        UserHashtag.user_id == viewer.user_id, _wanted(viewer, "hashtag", UserHashtag.hashtag_id)
    )
    every = sa.union(declared, _most_liked(viewer, "hashtag")).subquery("every_hashtag")
    since = (
        sa.select(VideoHashtag.listed_at)
        .where(
            VideoHashtag.hashtag_id == every.c.hashtag_id, VideoHashtag.listed_at <= viewer.as_of
        )
        .order_by(VideoHashtag.listed_at.desc())
        .offset(VIDEOS_PER_SUBJECT - 1)
        .limit(1)
        .scalar_subquery()
    )
    earliest = literal(EARLIEST, UtcDateTime())
    return materialized(
        sa.select(every.c.hashtag_id, sa.func.coalesce(since, earliest).label("since"))
        .limit(LIST_LENGTH + viewer.interests)
        .cte("wanted_hashtags")
    )


def sounds(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest with sounds that the viewer declared, or has the most affinity to."""
    declared = sa.select(UserSound.sound_id).where(
        UserSound.user_id == viewer.user_id, _wanted(viewer, "sound", UserSound.sound_id)
    )
    wanted = sa.union(declared, _most_liked(viewer, "sound")).subquery("wanted_sounds")
    return _newest_of(viewer, Video.sound_id, wanted, quota)


def creators(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest of the creators to whom the viewer has the most affinity."""
    wanted = _most_liked(viewer, "creator").subquery("wanted_creators")
    return _newest_of(viewer, Video.creator_id, wanted, quota)


def _most_liked(viewer: Viewer, subject: str) -> sa.Select[int]:
    best = (
        sa.select(Affinity.subject_id)
        .where(
            Affinity.user_id == viewer.user_id,
            Affinity.subject == subject,
            Affinity.score > 0,
            _wanted(viewer, subject, Affinity.subject_id),
        )
        .order_by(Affinity.score.desc(), Affinity.subject_id)
        .limit(viewer.interests)
        .subquery(f"best_{subject}")
    )
    return sa.select(best.c.subject_id)


def _wanted(
    viewer: Viewer, subject: str, column: InstrumentedAttribute[int]
) -> ColumnElement[bool]:
    """The viewer did not mute it."""
    muted = MUTED[subject]
    owner: ColumnElement[int] = muted.class_.user_id
    return column.not_in(sa.select(muted).where(owner == viewer.user_id))


def trending(viewer: Viewer, quota: int) -> sa.Select[int]:
    """What trends in the viewer's language, or anywhere where that is unknown."""
    each = aliased(Video)
    is_spoken = [each.language == viewer.language] if viewer.has_language else []
    return _trending(each, quota, *is_spoken)


def nearby(viewer: Viewer, quota: int) -> sa.Select[int]:
    """What trends in the viewer's country."""
    each = aliased(Video)
    return _trending(each, quota, each.country == viewer.country)


def _trending(each: type[Video], quota: int, *where: ColumnElement[bool]) -> sa.Select[int]:
    """The most trending of some videos, of which so many are looked at."""
    most = (
        sa.select(each.id, each.trending)
        .where(each.status == "published", each.trending >= LEAST_TREND, *where)
        .order_by(each.trending.desc(), each.id.desc())
        .limit(SCAN_FACTOR * quota)
        .subquery()
    )
    return sa.select(most.c.id).order_by(most.c.trending.desc(), most.c.id.desc())


def fresh(viewer: Viewer, _quota: int) -> sa.Select[int]:
    """New ones that few have seen, by chance: every video gets its trial.

    OFFSET keeps the databases from asking of all new ones whether they are on trial: they are asked
    one after another, until there are enough.
    """
    each, its = aliased(Video), aliased(Video)
    new = (
        sa.select(each.id)
        .where(
            each.status == "published", each.published_at.between(viewer.trial_since, viewer.as_of)
        )
        .order_by(each.published_at.desc(), each.id.desc())
        .limit(NEW_VIDEO_LIMIT)
        .subquery("new")
    )
    place = (new.c.id % CYCLE * SHUFFLE_STEP + viewer.trial_start) % CYCLE
    shuffled = fence(sa.select(new.c.id).order_by(place, new.c.id)).subquery("shuffled")
    viewers = sa.select(its.impressions).where(its.id == shuffled.c.id).scalar_subquery()
    return sa.select(shuffled.c.id).where(viewers < viewer.trial_viewers)


def newest(_viewer: Viewer, _quota: int) -> sa.Select[int]:
    """The newest of all."""
    return _newest()


def _newest_of(
    viewer: Viewer, column: InstrumentedAttribute[Any], wanted: Subquery, quota: int
) -> sa.Select[int]:
    """The newest of the creators, or with the sounds, that are wanted.

    So many videos can only be by as many creators, those whose own newest is the newest; and each
    is walked from its newest on, so that how many others it has costs nothing.
    """
    subject = wanted.c[0].label("subject")
    newest_at = _nth_newest(viewer, column, wanted.c[0], 1)
    active = (
        sa.select(subject, newest_at.label("newest_at"))
        .order_by(sa.desc("newest_at").nulls_last())
        .limit(SCAN_FACTOR * quota)
        .subquery(f"active_{column.key}")
    )
    nth = _nth_newest(viewer, column, active.c.subject, VIDEOS_PER_SUBJECT)
    since = materialized(
        sa.select(active.c.subject, sa.func.coalesce(nth, literal(EARLIEST, UtcDateTime())))
        .where(active.c.newest_at.is_not(None))
        .limit(SCAN_FACTOR * quota)
        .cte()
    )
    each = aliased(Video)
    found = (
        sa.select(each.id.label("video_id"), each.published_at)
        .join(since, since.c[0] == getattr(each, column.key))
        .where(each.status == "published", each.published_at.between(since.c[1], viewer.as_of))
    )
    return _newest_among(found, quota)


def _newest_among(found: Statement, quota: int) -> sa.Select[int]:
    """The newest of some videos, of which so many are looked at; no database begins at all.

    Args:
        found: the columns `video_id` and `published_at`.
        quota: how many the source gives.
    """
    each = found.subquery()
    newest = (
        sa.select(each)
        .order_by(each.c.published_at.desc(), each.c.video_id.desc())
        .limit(SCAN_FACTOR * quota)
        .subquery()
    )
    order = (newest.c.published_at.desc(), newest.c.video_id.desc())
    return sa.select(newest.c.video_id).order_by(*order)


def _nth_newest(
    viewer: Viewer, column: InstrumentedAttribute[Any], subject: ColumnElement[int], nth: int
) -> sa.ScalarSelect[datetime]:
    """When the nth newest of one creator, or with one sound, was published."""
    each = aliased(Video)
    return (
        sa.select(each.published_at)
        .where(
            getattr(each, column.key) == subject,
            each.status == "published",
            each.published_at <= viewer.as_of,
        )
        .order_by(each.published_at.desc())
        .offset(nth - 1)
        .limit(1)
        .scalar_subquery()
    )


def _newest() -> sa.Select[int]:
    return sa.select(Video.id).order_by(Video.published_at.desc(), Video.id.desc())


SOURCES = (
    Source("following", 100, following, is_listed=True),
    Source("neighbours", 200, neighbours, is_listed=True),
    Source("hashtags", 120, hashtags, is_listed=True),
    Source("sounds", 40, sounds, is_listed=True),
    Source("creators", 60, creators, is_listed=True),
    Source("trending", 60, trending, is_listed=True),
    Source("nearby", 40, nearby, is_listed=True),
    Source("fresh", 40, fresh, is_listed=True),
    Source("newest", 60, newest),
)

CANDIDATES = sum(each.quota for each in SOURCES)
"""Of how many the quotas are, which is what the setting `candidates` is where nobody sets it."""

BACKFILL = "newest"
"""The source that is never shorter than a page while there is anything left to show."""

EXPLORATION = "fresh"
"""The source of the videos on trial, which places are kept for."""

_EXPLORATION_POWER = 1 << next(
    place for place, each in enumerate(SOURCES) if each.name == EXPLORATION
)


def is_exploration(sources: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether the `sources` column says that the source of videos on trial found a video."""
    return sa.cast(sources, BigInteger).bitwise_and(_EXPLORATION_POWER) != 0


def was_exploration(sources: float) -> bool:
    """The same of a value of that column."""
    return bool(int(sources) & _EXPLORATION_POWER)
