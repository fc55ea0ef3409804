"""The sources of candidates: one SELECT of videos with a quota each.

Seen and excluded videos use up no candidate slots, but a source scans only a limited number of
videos. Muted hashtags, sounds and creators are no interests. Unpublished neighbours and videos
that trend before publication do use slots, as checking them would read their rows. The last
source, the newest videos that pass every filter, keeps a page full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement, FromClause, Subquery, Text, literal
from sqlalchemy.orm import InstrumentedAttribute, aliased

from recommender.database.expressions import Statement, fence, materialized
from recommender.formats.scalars import LIST_LENGTH, UNDATED
from recommender.models import (
    UserHashtag,
    UserSound,
    Video,
    VideoHashtag,
)
from recommender.models.tables import RECENT
from recommender.models.types import UtcDateTime
from recommender.ranking.audience import with_statuses
from recommender.ranking.history import engagements_of
from recommender.ranking.interests import ORDER, is_wanted, liked_creators, most_liked
from recommender.ranking.request import CYCLE
from recommender.ranking.viewer import Viewer

LEAST_TREND = -1e6
"""The lower bound of all trends; as a condition it lets an index be read in order."""

VIDEOS_PER_SUBJECT = 50
"""The largest number of videos read per hashtag, creator or sound."""

SCAN_FACTOR = 4
"""The number of videos scanned per candidate of a quota, as the viewer has seen some."""

NEIGHBOUR_SCAN_FACTOR = 2
"""The number of neighbours scanned per candidate of a quota, nearest first."""

NEW_VIDEO_LIMIT = 1_000
"""The largest number of new videos scanned for exploration candidates."""

SHUFFLE_STEP = 1_220_703_125
"""The distance in the shuffled cycle between two consecutive videos."""


@dataclass(frozen=True, slots=True)
class Source:
    """A named source of candidates.

    Args:
        name: its name in pages and explanations; a host's own is one word of at most 63 bytes,
            unique without regard to case.
        quota: the largest number of its candidates, 1 to 1,000. Our quotas add up to `CANDIDATES`;
            all quotas scale with the setting `candidates`.
        select: a function from a viewer and the scaled quota to a SELECT of one column, best
            first: ids of `Video` or, from a host, also keys.
        rows: for a host's source, the largest number of rows that the SELECT gives, from the
            quota to 100,000; None for four times the quota. Videos that the viewer may not see are
            left out after it.
        is_listed: whether the SELECT reads other tables that name videos, not `Video` itself; a
            host's may read either.
        is_filtered: whether every filter applies to its rows, one after the other, until the quota
            is full. Otherwise most filters apply later, to the candidates of all sources.
    """

    name: str
    quota: int
    select: Callable[[Viewer, int], sa.Select[Any]]
    rows: int | None = None
    is_listed: bool = True
    is_filtered: bool = False


def following(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos by creators whom the viewer follows."""
    wanted = with_statuses(viewer.followed, "published", "followers")
    return newest_of(viewer, Video.creator_id, wanted, quota, "followed_since")


def neighbours(viewer: Viewer, quota: int) -> sa.Select[int]:
    """Videos whose viewers also engaged with the viewer's recently engaged videos."""
    near = viewer.near
    nearest = (
        sa.select(near)
        .where(near.c.video_id.is_not(None))
        .order_by(near.c.weight.desc(), near.c.video_id.desc())
        .limit(NEIGHBOUR_SCAN_FACTOR * quota)
        .subquery("nearest")
    )
    return sa.select(nearest.c.video_id).order_by(
        nearest.c.weight.desc(), nearest.c.video_id.desc()
    )


def social(viewer: Viewer, quota: int) -> sa.Select[int]:
    """Videos that people whom the viewer follows enjoyed lately, most of these people first."""
    # Of the latest engagements only: most of all would be what was popular long ago, and would
    # take a sort of them all.
    latest = (
        engagements_of(viewer.people, RECENT.c.video_id, RECENT.c.at)
        .where(RECENT.c.at <= viewer.as_of)
        .order_by(RECENT.c.at.desc(), RECENT.c.video_id.desc())
        .limit(SCAN_FACTOR * quota)
        .subquery("latest_of_people")
    )
    people, last_at = sa.func.count().label("people"), sa.func.max(latest.c.at).label("last_at")
    grouped = sa.select(latest.c.video_id, people, last_at).group_by(latest.c.video_id)
    # Ordered twice, so that PostgreSQL filters the videos in this order, until there are enough.
    best_first = grouped.order_by(people.desc(), last_at.desc(), latest.c.video_id.desc())
    most = best_first.subquery("most_social")
    order = (most.c.people.desc(), most.c.last_at.desc(), most.c.video_id.desc())
    return sa.select(most.c.video_id).order_by(*order)


def hashtags(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos with hashtags that the viewer declared or has most affinity to."""
    declared = sa.select(UserHashtag.hashtag_id).where(
        UserHashtag.user_id == viewer.user_id, is_wanted(viewer, "hashtag", UserHashtag.hashtag_id)
    )
    every = sa.union(declared, most_liked(viewer, "hashtag")).subquery("every_hashtag")
    return newest_tagged(viewer, every, quota, VIDEOS_PER_SUBJECT)


def newest_tagged(viewer: Viewer, hashtags: FromClause, quota: int, each: int) -> sa.Select[int]:
    """Return the newest videos with some hashtags, a few per hashtag.

    Args:
        viewer: the viewer of the request.
        hashtags: rows of `hashtag_id`.
        quota: the quota of the source.
        each: the largest number of videos read per hashtag.
    """
    # All hashtags of a video have one `listed_at`, so DISTINCT leaves one row per video.
    tag, wanted = VideoHashtag, _with_oldest(viewer, hashtags, each)
    listed = (
        sa.select(tag.video_id, tag.listed_at.label("published_at"))
        .join(wanted, wanted.c.hashtag_id == tag.hashtag_id)
        .where(tag.listed_at.between(wanted.c.since, viewer.as_of))
        .distinct()
    )
    return _newest_among(listed, quota)


def _with_oldest(viewer: Viewer, every: FromClause, each: int) -> CTE:
    """Return hashtags with the publication time of the oldest video to read."""
    # The limit is above any possible number: it makes SQLite compute the table once.
    since = (
        sa.select(VideoHashtag.listed_at)
        .where(
            VideoHashtag.hashtag_id == every.c.hashtag_id, VideoHashtag.listed_at <= viewer.as_of
        )
        .order_by(VideoHashtag.listed_at.desc())
        .offset(each - 1)
        .limit(1)
        .scalar_subquery()
    )
    earliest = literal(UNDATED, UtcDateTime())
    return materialized(
        sa.select(every.c.hashtag_id, sa.func.coalesce(since, earliest).label("since"))
        .limit((LIST_LENGTH + 1) * viewer.interests)
        .cte("wanted_hashtags")
    )


def sounds(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos with sounds that the viewer declared or has most affinity to."""
    declared = sa.select(UserSound.sound_id).where(
        UserSound.user_id == viewer.user_id, is_wanted(viewer, "sound", UserSound.sound_id)
    )
    wanted = sa.union(declared, most_liked(viewer, "sound")).subquery("wanted_sounds")
    return newest_of(viewer, Video.sound_id, wanted, quota, "sounds_since")


def creators(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos by creators to whom the viewer has most affinity, or enjoyed last."""
    wanted = liked_creators(viewer)
    return newest_of(viewer, Video.creator_id, wanted, quota, "creators_since")


def trending(viewer: Viewer, quota: int) -> sa.Select[int]:
    """Trending videos in the viewer's language or an unknown one; in any if it is unknown."""
    video = aliased(Video)
    if not viewer.has_language:
        return _most_trending(_trending(video, quota))
    spoken, unknown = (
        _trending(video, quota, condition)
        for condition in (video.language == viewer.language, video.language.is_(None))
    )
    # Two walks of one index: an OR of both conditions would read and sort all such videos.
    both = sa.union_all(
        sa.select(spoken.subquery("spoken")), sa.select(unknown.subquery("unknown"))
    )
    merged = sa.select(both.subquery("either")).order_by(sa.desc("trending"), sa.desc("id"))
    return _most_trending(merged.limit(SCAN_FACTOR * quota))


def nearby(viewer: Viewer, quota: int) -> sa.Select[int]:
    """Trending videos in the viewer's country."""
    video = aliased(Video)
    return _most_trending(_trending(video, quota, video.country == viewer.country))


def _trending(video: type[Video], quota: int, *where: ColumnElement[bool]) -> Statement:
    """Return the most trending videos that fulfil the conditions, with their trends."""
    return (
        sa.select(video.id, video.trending)
        .where(video.status == "published", video.trending >= LEAST_TREND, *where)
        .order_by(video.trending.desc(), video.id.desc())
        .limit(SCAN_FACTOR * quota)
    )


def _most_trending(statement: Statement) -> sa.Select[int]:
    """Return the ids of the videos of `_trending`, in their order."""
    most = statement.subquery()
    return sa.select(most.c.id).order_by(most.c.trending.desc(), most.c.id.desc())


def fresh(viewer: Viewer, _quota: int) -> sa.Select[int]:
    """New videos with few impressions, in random order: every video gets a chance."""
    video, its = aliased(Video), aliased(Video)
    new = (
        sa.select(video.id, video.published_at)
        .where(
            video.status == "published",
            video.published_at.between(viewer.trial_since, viewer.as_of),
        )
        .order_by(video.published_at.desc(), video.id.desc())
        .limit(NEW_VIDEO_LIMIT)
        .subquery("new")
    )
    # By their place, because an import gives the videos other ids, in the same order.
    number = sa.func.row_number().over(order_by=(new.c.published_at.desc(), new.c.id.desc()))
    place = (number * SHUFFLE_STEP + viewer.trial_start) % CYCLE
    # Fenced, impressions are read one video after another, until there are enough.
    shuffled = fence(sa.select(new.c.id).order_by(place, new.c.id)).subquery("shuffled")
    viewers = sa.select(its.impressions).where(its.id == shuffled.c.id).scalar_subquery()
    return sa.select(shuffled.c.id).where(viewers < viewer.trial_viewers)


def newest(_viewer: Viewer, _quota: int) -> sa.Select[int]:
    """The newest videos of all."""
    return sa.select(Video.id).order_by(Video.published_at.desc(), Video.id.desc())


def newest_of(
    viewer: Viewer, column: InstrumentedAttribute[Any], wanted: Subquery, quota: int, name: str
) -> sa.Select[int]:
    """Return the newest videos by the wanted creators, or with the wanted sounds.

    Args:
        viewer: the viewer of the request.
        column: the column of `Video` that names its creator or sound.
        wanted: the wanted creators or sounds; a second column is the stored status of their videos.
        quota: the quota of the source.
        name: the name of the CTE, another one for each source.
    """
    # n videos can come from at most n creators: those with the most recent uploads, who are looked
    # for only if there are more. Each creator's videos are read newest first, so the size of their
    # back catalogue does not matter.
    limit = SCAN_FACTOR * quota
    if "status" not in wanted.c:
        # As a column, not as a constant: else SQLite may walk all published videos by their time.
        status = literal("published", Text()).label("status")
        wanted = sa.select(*wanted.c, status).subquery(f"statuses_of_{name}")
    every = materialized(sa.select(wanted).cte(f"every_{name}"))
    are_more = sa.select(sa.func.count()).select_from(every).scalar_subquery() > limit
    newest_at = sa.case((are_more, _nth_newest(viewer, column, every, 1)))
    subject, value = every.c[0].label("subject"), newest_at.label("value")
    place = ORDER["sound"](every.c[0]) if column is Video.sound_id else subject
    newest_first = sa.select(subject, value, *every.c[1:])
    newest_first = newest_first.order_by(value.desc().nulls_last(), place, *every.c[1:])
    active = newest_first.limit(limit).subquery(f"newest_{name}")
    nth = _nth_newest(viewer, column, active, VIDEOS_PER_SUBJECT)
    oldest = sa.func.coalesce(nth, literal(UNDATED, UtcDateTime())).label("oldest")
    since = materialized(sa.select(active.c.subject, oldest, *active.c[2:]).limit(limit).cte(name))
    video = aliased(Video)
    newest = (
        sa.select(video.id.label("video_id"), video.published_at)
        .join(since, since.c.subject == getattr(video, column.key))
        .where(
            video.status == since.c.status,
            video.published_at.between(since.c.oldest, viewer.as_of),
        )
    )
    return _newest_among(newest, quota)


def _newest_among(statement: Statement, quota: int) -> sa.Select[int]:
    """Return the newest of some videos.

    Args:
        statement: a SELECT of `video_id` and `published_at`.
        quota: the quota of the source.
    """
    rows = statement.subquery()
    newest = (
        sa.select(rows)
        .order_by(rows.c.published_at.desc(), rows.c.video_id.desc())
        .limit(SCAN_FACTOR * quota)
        .subquery()
    )
    order = (newest.c.published_at.desc(), newest.c.video_id.desc())
    return sa.select(newest.c.video_id).order_by(*order)


def _nth_newest(
    viewer: Viewer, column: InstrumentedAttribute[Any], subjects: FromClause, nth: int
) -> sa.ScalarSelect[datetime | None]:
    """Return the publication time of the nth newest video by each creator, or with each sound."""
    video = aliased(Video)
    return (
        sa.select(video.published_at)
        .where(
            getattr(video, column.key) == subjects.c[0],
            video.status == subjects.c.status,
            video.published_at <= viewer.as_of,
        )
        .order_by(video.published_at.desc())
        .offset(nth - 1)
        .limit(1)
        .scalar_subquery()
    )


SOURCES = (
    Source("following", 100, following),
    Source("social", 40, social),
    Source("neighbours", 200, neighbours),
    Source("hashtags", 80, hashtags),
    Source("sounds", 40, sounds),
    Source("creators", 60, creators),
    Source("trending", 60, trending),
    Source("nearby", 40, nearby),
    Source("fresh", 40, fresh),
    Source("newest", 60, newest, is_listed=False),
)

CANDIDATES = sum(each.quota for each in SOURCES)
"""The sum of the quotas: the default of the setting `candidates`."""

BACKFILL = "newest"
"""The source that fills a page while any video is left."""

EXPLORATION = "fresh"
"""The source of exploration candidates, for which places are reserved."""
