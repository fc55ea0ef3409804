"""Two plain lists next to For You: the newest videos of followed creators, and trending videos.

Both only read. The cursor of a page holds the last video's position in the order (keyset
pagination). A deep page therefore costs the same as the first. Videos that are inserted or removed
between two pages make no other video come twice or be skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Subquery, literal

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.schema import first_state
from recommender.database.session import Session
from recommender.feed.cursors import (
    BY_FOLLOWED,
    BY_NEWNESS,
    BY_TREND,
    TOP_OF_TRENDING,
    ListPosition,
)
from recommender.feed.items import item_of
from recommender.feed.resolve import learning_at, reading_time, resolve
from recommender.feed.statements import page_query
from recommender.feed.values import FeedPage
from recommender.formats import scalars
from recommender.formats.scalars import LARGEST_ID, AnyKey
from recommender.models import Follow, LearningState, MutedCreator, Video
from recommender.models.types import UtcDateTime
from recommender.ranking.filters import (
    FILTERS,
    creator_not_muted,
    not_in_future,
    not_own,
    not_seen,
    published,
)
from recommender.ranking.request import DEFAULT_LIMIT, FeedRequest, Profile
from recommender.ranking.scoring import score_key
from recommender.ranking.signals import trend
from recommender.ranking.sources import LEAST_TREND
from recommender.ranking.viewer import Viewer
from recommender.settings import Settings

FOLLOWING = Profile("following", 1, {})

TRENDING = Profile("trending", 1, {"trending": 1.0})

NOT_BY_VIDEO = (not_in_future, not_own, not_seen, creator_not_muted)
"""The filters that `following` does not apply to each video.

Seen videos may come again. The start of the page is not in the future. The other two filters are
applied to the creators.
"""


def following(
    session: Session,
    user: AnyKey,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    as_of: datetime | None = None,
) -> FeedPage:
    """Return the newest videos of the creators that the user follows, seen videos included.

    It writes nothing and takes two statements (viewer, page). All filters apply except `not_seen`.
    A page is short only if no more videos are left; it is then `exhausted` and has no cursor.

    Args:
        session: the caller's transaction.
        user: the user's key; an unknown user follows no one.
        limit: the maximum number of videos, 1 to 500.
        cursor: the cursor of the page before; None for the first page.
        as_of: the reading time, with an offset; None for now.

    Raises:
        InvalidValue: a value has the wrong form.
        InvalidCursor: the cursor does not belong to this list.
    """
    after = None if cursor is None else ListPosition.of(cursor, BY_FOLLOWED)
    request = resolve(session, user, FOLLOWING, limit=limit, as_of=as_of)
    ranked = _of_followed(request, _start_by_time(BY_FOLLOWED, request, after))
    rows = session.execute(page_query(ranked, "following")).all()
    return _page(request, rows, _followed_position)


def trending(
    session: Session,
    language: str | None = None,
    country: str | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    as_of: datetime | None = None,
) -> FeedPage:
    """Return the trending videos of a language and a country, for people without a personal feed.

    It reads no data of any viewer and writes nothing. The strongest trend comes first. Videos
    without a trend follow, the newest first. A page takes two statements (learning state, page),
    and one more where the videos without a trend begin. A page is short only if no more videos are
    left; it is then `exhausted` and has no cursor.

    Args:
        session: the caller's transaction.
        language: the videos' language, as written; None for any. Videos of an unknown language
            are included.
        country: the videos' country, as written; None for any.
        limit: the maximum number of videos, 1 to 500.
        cursor: the cursor of the page before; None for the first page.
        as_of: the reading time, with an offset; None for now.

    Raises:
        InvalidValue: a value has the wrong form.
        InvalidCursor: the cursor does not belong to this list.
    """
    after = None if cursor is None else ListPosition.of(cursor, BY_TREND, BY_NEWNESS)
    request = _impersonal(session, language, country, limit, as_of)
    rows: list[Any] = []
    if after is None or after.by == BY_TREND:
        rows += session.execute(_with_trend(request, after or TOP_OF_TRENDING))
        after = None
    if len(rows) < limit:
        start = _start_by_time(BY_NEWNESS, request, after)
        rows += session.execute(_without_trend(request, start, limit - len(rows)))
    return _page(request, rows, _trending_position)


def _page(
    request: FeedRequest, rows: Sequence[Any], position_of: Callable[[Any], ListPosition]
) -> FeedPage:
    """Return the rows of `page_query` as a page; a short page is the last one."""
    sources = (request.profile.name,)
    items = tuple(
        item_of(request, position, row, sources) for position, row in enumerate(rows, start=1)
    )
    if len(items) < request.limit:
        return FeedPage(request, items, exhausted=True)
    return FeedPage(request, items, cursor=position_of(rows[-1]).cursor)


def _followed_position(row: Any) -> ListPosition:
    return ListPosition(BY_FOLLOWED, row.page_published_at or scalars.UNDATED, row.video_id)


def _trending_position(row: Any) -> ListPosition:
    if row.stored_trend is None:
        return ListPosition(BY_NEWNESS, row.page_published_at or scalars.UNDATED, row.video_id)
    return ListPosition(BY_TREND, row.stored_trend, row.video_id)


def _start_by_time(by: bytes, request: FeedRequest, after: ListPosition | None) -> ListPosition:
    """Return the position below which a page by time begins: never later than the reading time."""
    # One bound and not two: a database starts its index walk at either of two bounds, and reads
    # every row up to the other one.
    top = ListPosition(by, request.as_of, LARGEST_ID)
    return top if after is None or after.value > request.as_of else after


def _of_followed(request: FeedRequest, after: ListPosition) -> Statement:
    """Return the statement of the next videos of the followed creators.

    A page of n videos can come from at most n creators: the n with the most recent next video. Only
    n videos are read for each of these creators.
    """
    viewer = Viewer.of(request)
    shown = [rule.predicate(viewer) for rule in FILTERS if rule.predicate not in NOT_BY_VIDEO]
    shown.append(after.is_above())
    creators = _next_creators(_next_of_each(viewer, shown), shown, request.limit)
    of_creator = sa.and_(
        Video.creator_id == creators.c.creator_id, Video.published_at >= creators.c.since, *shown
    )
    # The outer join keeps both databases from starting at all videos.
    return (
        sa.select(Video.id.label("video_id"), literal(0, BigInteger()).label("score_key"))
        .select_from(creators)
        .outerjoin(Video, of_creator)
        .order_by(Video.published_at.desc(), Video.id.desc())
        .limit(request.limit)
    )


def _next_of_each(viewer: Viewer, shown: Sequence[ColumnElement[bool]]) -> CTE:
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


def _next_creators(next_videos: CTE, shown: Sequence[ColumnElement[bool]], limit: int) -> Subquery:
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
    creator_id: ColumnElement[int], shown: Sequence[ColumnElement[bool]], nth: int
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


def _impersonal(
    session: Session, language: str | None, country: str | None, limit: int, as_of: datetime | None
) -> FeedRequest:
    """Return a request without a viewer."""
    moment = reading_time(as_of)
    state = sa.select(LearningState.__table__).prefix_with("/* recommender.trending */")
    return FeedRequest(
        user="",
        user_id=None,
        language=_label("language", language),
        country=_label("country", country),
        profile=TRENDING,
        as_of=moment,
        learning=learning_at(first_state(lookup.run(session, state)), moment),
        limit=limit,
        settings=Settings.from_environment(),
    )


def _label(name: str, value: str | None) -> str | None:
    return None if value is None else scalars.parse_named(name, scalars.label, value)


def _with_trend(request: FeedRequest, after: ListPosition) -> Statement:
    """Return the statement of the next trending videos, the strongest trend first."""
    is_out = not_in_future(Viewer.of(request))
    walks = [
        walk.where(Video.trending >= LEAST_TREND, is_out)
        .order_by(Video.trending.desc(), Video.id.desc())
        .limit(request.limit)
        for walk in _below(request, after)
    ]
    ranked = _merged(walks, "stored_trend").limit(request.limit)
    order = (Video.trending.desc(), Video.id.desc())
    return page_query(ranked, "trending").order_by(None).order_by(*order)


def _without_trend(request: FeedRequest, after: ListPosition, limit: int) -> Statement:
    """Return the statement of the next videos without a trend, the newest first."""
    walks = [
        walk.where(Video.trending.is_(None))
        .order_by(Video.published_at.desc(), Video.id.desc())
        .limit(limit)
        for walk in _below(request, after)
    ]
    return page_query(_merged(walks, "published_at").limit(limit), "trending")


def _merged(walks: Sequence[Statement], order: str) -> Statement:
    """Return the videos of several walks of an index in one order, by a column and the id."""
    if len(walks) == 1:
        return walks[0]
    rows = sa.union_all(*(sa.select(walk.subquery()) for walk in walks)).subquery("walks")
    return sa.select(rows).order_by(rows.c[order].desc(), rows.c.video_id.desc())


def _below(request: FeedRequest, after: ListPosition) -> list[Statement]:
    """Return the published videos below a position, in the request's language and country.

    An unknown language counts as any: it is a walk of its own through the same index.
    """
    viewer = Viewer.of(request)
    value = trend(viewer)
    videos = sa.select(
        Video.id.label("video_id"),
        score_key({"trending": value}, viewer),
        value.label("trending"),
        Video.trending.label("stored_trend"),
        Video.published_at,
    ).where(published(viewer), after.is_above())
    if request.country is not None:
        videos = videos.where(Video.country == viewer.country)
    if request.language is None:
        return [videos]
    spoken, unknown = Video.language == viewer.language, Video.language.is_(None)
    return [videos.where(spoken), videos.where(unknown)]
