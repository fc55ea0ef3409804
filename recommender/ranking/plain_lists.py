"""The statements of the plain lists: videos of followed creators, and trending videos.

Each is an index walk. The conditions on a video and its place in the list come from the caller. A
statement `last_…` returns the position where a page stops to look for a host's condition: `value`
and `video_id` of the last of the next `Settings.scan_limit` videos, and no row if fewer are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Double, Subquery, literal

from recommender.database.expressions import Number, Statement, fence, number
from recommender.formats import scalars
from recommender.models import Follow, MutedCreator, Video
from recommender.models.types import UtcDateTime
from recommender.ranking.filters import published
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import score_key
from recommender.ranking.signals import trend
from recommender.ranking.viewer import Viewer

Conditions: TypeAlias = Sequence[ColumnElement[bool]]

_NEWEST_FIRST = (Video.published_at.desc(), Video.id.desc())

_STRONGEST_FIRST = (Video.trending.desc(), Video.id.desc())


def newest_of_followed(viewer: Viewer, shown: Conditions, limit: int) -> Statement:
    """Return the newest videos of the followed creators that fulfil some conditions.

    A page of n videos can come from at most n creators: the n with the most recent next video. Only
    n videos are read for each of these creators.
    """
    creators = _next_creators(_next_of_each(viewer, shown), shown, limit)
    of_creator = sa.and_(
        Video.creator_id == creators.c.creator_id, Video.published_at >= creators.c.since, *shown
    )
    # The outer join keeps both databases from starting at all videos.
    return (
        sa.select(Video.id.label("video_id"), literal(0, BigInteger()).label("score_key"))
        .select_from(creators)
        .outerjoin(Video, of_creator)
        .order_by(*_NEWEST_FIRST)
        .limit(limit)
    )


def last_of_followed(request: FeedRequest, is_left: ColumnElement[bool]) -> Statement:
    """Return the last video of the followed creators to look at.

    Each creator with videos left has an equal share of the limit. The newest of the shares' last
    videos is the end, so that no creator's videos are looked at beyond their share.
    """
    viewer = Viewer.of(request)
    left = [published(viewer), is_left]
    creators = _next_of_each(viewer, left)
    active = sa.func.coalesce(sa.func.nullif(sa.func.count(creators.c.next_at), 0), 1)
    share = (viewer.scan_limit - literal(1, BigInteger())) // active
    shares = sa.select(share.label("share")).cte("shares")
    last = (
        sa.select(Video.id)
        .where(Video.creator_id == creators.c.creator_id, *left)
        .order_by(*_NEWEST_FIRST)
        .offset(sa.select(shares.c.share).scalar_subquery())
        .limit(1)
        .scalar_subquery()
    )
    ends = fence(sa.select(last.label("video_id")).select_from(creators)).subquery("ends")
    # Not a join, which would read all videos of a small catalogue.
    value = sa.select(Video.published_at).where(Video.id == ends.c.video_id).scalar_subquery()
    return (
        sa.select(value.label("value"), ends.c.video_id)
        .where(ends.c.video_id.is_not(None))
        .order_by(sa.desc("value"), ends.c.video_id.desc())
        .limit(1)
    )


def _next_of_each(viewer: Viewer, shown: Conditions) -> CTE:
    """Return the followed creators, each with the publication time of their next video or NULL."""
    muted = sa.select(MutedCreator.creator_id).where(MutedCreator.user_id == viewer.user_id)
    followed = (
        sa.select(Follow.creator_id)
        .where(
            Follow.user_id == viewer.user_id,
            Follow.creator_id != viewer.user_id,
            Follow.creator_id.not_in(muted),
        )
        .subquery("followed")
    )
    next_at = _nth_newest(followed.c.creator_id, shown, 1).label("next_at")
    return sa.select(followed.c.creator_id, next_at).cte("next_of_each")


def _next_creators(next_videos: CTE, shown: Conditions, limit: int) -> Subquery:
    """Return the creators that the page can show, each with the earliest publication time to read.

    Args:
        next_videos: as `_next_of_each` returns it.
        shown: the conditions on a video.
        limit: the number of videos of the page.
    """
    least = _earliest_on_page(next_videos, limit)
    since = _nth_newest(next_videos.c.creator_id, [*shown, Video.published_at >= least], limit)
    # The limit cuts nothing off. It keeps the database from computing `since` for each video again.
    return (
        sa.select(next_videos.c.creator_id, sa.func.coalesce(since, least).label("since"))
        .where(next_videos.c.next_at >= least)
        .limit(scalars.LARGEST_COUNT)
        .subquery("next_creators")
    )


def _earliest_on_page(next_videos: CTE, limit: int) -> sa.ScalarSelect[datetime]:
    """Return the time from which `limit` creators have a video: no older video is on the page."""
    nth = (
        sa.select(next_videos.c.next_at)
        .where(next_videos.c.next_at.is_not(None))
        .order_by(next_videos.c.next_at.desc())
        .offset(limit - 1)
        .limit(1)
        .scalar_subquery()
    )
    earliest = literal(scalars.UNDATED, UtcDateTime())
    least = sa.select(sa.func.coalesce(nth, earliest).label("published_at")).cte("least")
    return sa.select(least.c.published_at).scalar_subquery()


def _nth_newest(
    creator_id: ColumnElement[int], shown: Conditions, nth: int
) -> sa.ScalarSelect[datetime | None]:
    """Return the publication time of a creator's nth newest video, NULL if there are fewer."""
    return (
        sa.select(Video.published_at)
        .where(Video.creator_id == creator_id, *shown)
        .order_by(Video.published_at.desc())
        .offset(nth - 1)
        .limit(1)
        .scalar_subquery()
    )


def most_trending(
    request: FeedRequest, viewer: Viewer, shown: Conditions, limit: int, least: float
) -> Statement:
    """Return the videos with the strongest trends, from `least` on, that fulfil some conditions."""
    value = trend(viewer)
    videos = _scored(viewer, value, Video.trending).where(Video.trending >= _trend(least), *shown)
    walks = [
        videos.where(*place).order_by(*_STRONGEST_FIRST).limit(limit)
        for place in _places(request, viewer)
    ]
    return _merged(walks, "stored_trend").limit(limit)


def last_trending(request: FeedRequest, is_left: ColumnElement[bool], least: float) -> Statement:
    """Return the last trending video to look at."""
    viewer, limit = Viewer.of(request), request.settings.scan_limit
    walks = [
        sa.select(Video.trending.label("value"), Video.id.label("video_id"))
        .where(published(viewer), *place, Video.trending >= _trend(least), is_left)
        .order_by(*_STRONGEST_FIRST)
        .limit(limit)
        for place in _places(request, viewer)
    ]
    looked_at = _merged(walks, "value").limit(limit).subquery("looked_at")
    order = (looked_at.c.value.desc(), looked_at.c.video_id.desc())
    return sa.select(looked_at).order_by(*order).offset(limit - 1).limit(1)


def newest_without_trend(
    request: FeedRequest, viewer: Viewer, shown: Conditions, limit: int, least: float
) -> Statement:
    """Return the newest videos without a trend, or below `least`, that fulfil some conditions."""
    has_none = sa.or_(Video.trending.is_(None), Video.trending < _trend(least))
    videos = _scored(viewer, number(0), sa.cast(sa.null(), Double)).where(has_none, *shown)
    walks = [
        videos.where(*place).order_by(*_NEWEST_FIRST).limit(limit)
        for place in _places(request, viewer)
    ]
    return _merged(walks, "published_at").limit(limit)


def last_of_newest(request: FeedRequest, is_left: ColumnElement[bool]) -> Statement:
    """Return the last of the newest videos to look at, with a trend or without."""
    viewer = Viewer.of(request)
    return (
        sa.select(Video.published_at.label("value"), Video.id.label("video_id"))
        .where(published(viewer), is_left)
        .order_by(*_NEWEST_FIRST)
        .offset(request.settings.scan_limit - 1)
        .limit(1)
    )


def _trend(stored: float) -> ColumnElement[float]:
    return literal(stored, Double())


def _scored(viewer: Viewer, value: Number, stored: sa.SQLColumnExpression[Any]) -> Statement:
    """Return the videos with the score of a trending list, and their stored trends."""
    return sa.select(
        Video.id.label("video_id"),
        score_key({"trending": value}, viewer),
        value.label("trending"),
        stored.label("stored_trend"),
        Video.published_at,
    )


def _places(request: FeedRequest, viewer: Viewer) -> list[list[ColumnElement[bool]]]:
    """Return the conditions of the request's language and country, for each walk of an index.

    An unknown language counts as any: it is a walk of its own through the same index.
    """
    country = [] if request.country is None else [Video.country == viewer.country]
    if request.language is None:
        return [country]
    return [[Video.language == viewer.language, *country], [Video.language.is_(None), *country]]


def _merged(walks: Sequence[Statement], order: str) -> Statement:
    """Return the videos of several walks of an index in one order, by a column and the id."""
    if len(walks) == 1:
        return walks[0]
    rows = sa.union_all(*(sa.select(walk.subquery()) for walk in walks)).subquery("walks")
    return sa.select(rows).order_by(rows.c[order].desc(), rows.c.video_id.desc())
