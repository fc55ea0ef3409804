"""The users around a viewer: blocks, and the newest videos of followed creators."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, FromClause, Subquery, literal
from sqlalchemy.orm import aliased

from recommender.database.expressions import Statement, constant, fence
from recommender.formats import scalars
from recommender.formats.visibility import FOR_FOLLOWERS
from recommender.models import Block, Follow, MutedCreator, Video
from recommender.models.types import UtcDateTime
from recommender.ranking.request import FeedRequest
from recommender.ranking.viewer import Viewer

Conditions: TypeAlias = Sequence[ColumnElement[bool]]

IN_FOLLOWING = ("published", *FOR_FOLLOWERS)
"""The stored statuses of the videos in the list of followed creators."""

_NEWEST_FIRST = (Video.published_at.desc(), Video.id.desc())


def blocked_users(viewer: Viewer) -> sa.Select[int]:
    """Return the users whom the viewer blocked, and the users who blocked the viewer."""
    return sa.select(Block.other_id).where(Block.user_id == viewer.user_id)


def with_statuses(creators: FromClause, *statuses: str) -> Subquery:
    """Return creators with each stored status of videos to look for, as an index has them.

    Args:
        creators: rows of `creator_id`.
        statuses: the stored statuses. One for fewer people that no video has is left out, so that
            it costs no search for each creator.
    """
    rows = sa.union_all(*map(_if_any, statuses)).subquery("statuses")
    pairs = sa.select(creators.c.creator_id, rows.c.status).join(rows, sa.true())
    return pairs.subquery("creators_with_statuses")


def _if_any(status: str) -> sa.Select[str]:
    """Return a row with a stored status, for fewer people only if any video has it."""
    row = sa.select(literal(status, sa.Text()).label("status"))
    return row if status == "published" else row.where(any_with_status(status))


def any_with_status(status: str) -> ColumnElement[bool]:
    """Return the condition that any video has a stored status."""
    video = aliased(Video)
    # Written out and in the order of an index: otherwise PostgreSQL expects many such videos, and
    # reads one after another until it finds one, or all for none.
    newest = (
        sa.select(video.id)
        .where(video.status == constant(status, sa.Text()))
        .order_by(video.published_at.desc())
        .limit(1)
    )
    return newest.scalar_subquery().is_not(None)


def newest_of_followed(shown: Conditions, limit: Any, followed: Subquery) -> Statement:
    """Return the newest videos of the followed creators that fulfil some conditions.

    A page of n videos can come from at most n creators: the n with the most recent next video. Only
    n videos are read for each of these creators.

    Args:
        shown: the conditions on a video.
        limit: the largest number of videos.
        followed: as `followed_creators` returns it.
    """
    creators = _next_creators(_next_of_each(followed, shown), shown, limit)
    of_creator = sa.and_(*_by_creator(creators), Video.published_at >= creators.c.since, *shown)
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
    creators = _next_of_each(followed_creators(viewer, *IN_FOLLOWING), [is_left])
    active = sa.func.coalesce(sa.func.nullif(sa.func.count(creators.c.next_at), 0), 1)
    share = (viewer.scan_limit - literal(1, BigInteger())) // active
    shares = sa.select(share.label("share")).cte("shares")
    last = (
        sa.select(Video.id)
        .where(*_by_creator(creators), is_left)
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


def followed_creators(viewer: Viewer, *statuses: str) -> Subquery:
    """Return the creators whom the viewer follows, as `with_statuses` does.

    Muted and blocked creators are left out, and so is the viewer.
    """
    muted = sa.select(MutedCreator.creator_id).where(MutedCreator.user_id == viewer.user_id)
    followed = sa.select(Follow.creator_id).where(
        Follow.user_id == viewer.user_id,
        Follow.creator_id != viewer.user_id,
        Follow.creator_id.not_in(muted),
        Follow.creator_id.not_in(blocked_users(viewer)),
    )
    return with_statuses(followed.subquery("followed"), *statuses)


def _next_of_each(followed: Subquery, shown: Conditions) -> CTE:
    """Return the followed creators, each with the publication time of their next video or NULL.

    A creator has a row for each stored status.
    """
    next_at = _nth_newest(followed, shown, 1).label("next_at")
    return sa.select(*followed.c, next_at).cte("next_of_each")


def _next_creators(next_videos: CTE, shown: Conditions, limit: Any) -> Subquery:
    """Return the creators that the page can show, each with the earliest publication time to read.

    Args:
        next_videos: as `_next_of_each` returns it.
        shown: the conditions on a video.
        limit: the number of videos of the page.
    """
    least = _earliest_on_page(next_videos, limit)
    since = _nth_newest(next_videos, [*shown, Video.published_at >= least], limit)
    since_or_least = sa.func.coalesce(since, least).label("since")
    # The limit cuts nothing off. It keeps the database from computing `since` for each video again.
    return (
        sa.select(next_videos.c.creator_id, next_videos.c.status, since_or_least)
        .where(next_videos.c.next_at >= least)
        .limit(scalars.LARGEST_COUNT)
        .subquery("next_creators")
    )


def _earliest_on_page(next_videos: CTE, limit: Any) -> sa.ScalarSelect[datetime]:
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
    creators: FromClause, shown: Conditions, nth: Any
) -> sa.ScalarSelect[datetime | None]:
    """Return the publication time of the nth newest video per creator, NULL if there are fewer."""
    return (
        sa.select(Video.published_at)
        .where(*_by_creator(creators), *shown)
        .order_by(Video.published_at.desc())
        .offset(nth - 1)
        .limit(1)
        .scalar_subquery()
    )


def _by_creator(creators: FromClause) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a video is by a creator and has the stored status."""
    return Video.creator_id == creators.c.creator_id, Video.status == creators.c.status
