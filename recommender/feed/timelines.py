"""Two plain lists beside For You: the newest of whom a user follows, and what trends.

Both only read. A page goes on below the last video of the page before it, whose place in the order
is the cursor: that costs the same however deep it is, and what is inserted or removed meanwhile
neither repeats nor skips another video.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Double, Subquery, literal
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.errors import InvalidCursor
from recommender.feed.items import item_of
from recommender.feed.resolve import learning_at, reading_time, resolve
from recommender.feed.statements import page_query
from recommender.feed.values import FeedPage
from recommender.formats import scalars
from recommender.models import Follow, LearningState, MutedCreator, Video
from recommender.models.types import UtcDateTime, microseconds
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

BY_FOLLOWED, BY_TREND, BY_NEWNESS = b"f", b"t", b"n"
"""What places are by: the newest of followed creators; and the two parts of what trends, the videos
with a trend and those without."""

DONE = (not_in_future, not_own, not_seen, creator_not_muted)
"""The filters that following does not ask of each video: what was seen may come, the place is not
in the future, and the others are said of the creators."""

LARGEST_TREND = -LEAST_TREND

LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """A video's place in an order, as a cursor writes it.

    Args:
        by: `BY_FOLLOWED`, `BY_TREND` or `BY_NEWNESS`.
        value: the video's trend, or when it was published.
        video_id: its row.
    """

    by: bytes
    value: Any
    video_id: int

    @property
    def cursor(self) -> str:
        """What asks for the videos below: 23 letters, digits, `-` and `_`."""
        value = self.value if self.by == BY_TREND else microseconds(self.value)
        packed = struct.pack(_form(self.by), self.by, value, self.video_id)
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def of(cls, cursor: str, *allowed: bytes) -> Place:
        """The place that a cursor stands for.

        Raises:
            InvalidCursor: it is none of the allowed kinds.
        """
        try:
            packed = base64.urlsafe_b64decode(f"{cursor}=")
            by, value, video_id = struct.unpack(_form(packed[:1]), packed)
            place = cls(by, value if by == BY_TREND else _moment(value), video_id)
        except (binascii.Error, struct.error, ValueError, OverflowError):
            raise _foreign(cursor) from None
        if by not in allowed or not place._is_possible() or place.cursor != cursor:
            raise _foreign(cursor)
        return place

    def _is_possible(self) -> bool:
        """Whether a video can stand there."""
        is_trend = self.by == BY_TREND
        low, high = (LEAST_TREND, LARGEST_TREND) if is_trend else (scalars.EARLIEST, scalars.LATEST)
        return low <= self.value <= high and 1 <= self.video_id <= LARGEST_ID

    def is_above(self) -> ColumnElement[bool]:
        """Whether it stands before a video, in descending order."""
        is_trend = self.by == BY_TREND
        value = literal(self.value, Double() if is_trend else UtcDateTime())
        column = Video.trending if is_trend else Video.published_at
        own = sa.tuple_(value, literal(self.video_id, BigInteger()))
        return sa.tuple_(column, Video.id) < own


def _form(by: bytes) -> str:
    return ">cdq" if by == BY_TREND else ">cqq"


def _moment(since_1970: int) -> datetime:
    return scalars.EARLIEST + timedelta(microseconds=since_1970)


def _foreign(cursor: object) -> InvalidCursor:
    return InvalidCursor(
        f"cursor: {scalars.shown(cursor)} is not one of this list: ask for a page without one"
    )


MOST_TRENDING = Place(BY_TREND, LARGEST_TREND, LARGEST_ID)


def following(
    session: Session,
    user: str,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    as_of: datetime | None = None,
) -> FeedPage:
    """The newest videos of the creators whom the user follows, seen or not; nothing is written.

    Two statements (viewer, page). All filters apply but `not_seen`. A page is short only where
    nothing is left; then it is `exhausted` and has no cursor.

    Args:
        session: the caller's transaction.
        user: the user's key; a stranger follows nobody.
        limit: how many videos at most, 1 to 500.
        cursor: that of the page before; the first page where None.
        as_of: the reading time, with an offset; now where None.

    Raises:
        InvalidValue: a value is not of its form.
        InvalidCursor: the cursor is not one of this list.
    """
    after = None if cursor is None else Place.of(cursor, BY_FOLLOWED)
    request = resolve(session, user, FOLLOWING, limit=limit, as_of=as_of)
    found = _of_followed(request, _newest_place(BY_FOLLOWED, request, after))
    rows = session.execute(page_query(found, "following")).all()
    return _page(request, rows, _followed_place)


def trending(
    session: Session,
    language: str | None = None,
    country: str | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    as_of: datetime | None = None,
) -> FeedPage:
    """What trends in a language and a country, for whom a personal feed is off; nothing is written.

    Nothing is read of any viewer. The most trending first; below them the videos without a trend,
    the newest first. Two statements (learning state, page), and one more on the page where these
    begin. A page is short only where nothing is left; then it is `exhausted` and has no cursor.

    Args:
        session: the caller's transaction.
        language: the videos' language, as written; any where None.
        country: the videos' country, as written; any where None.
        limit: how many videos at most, 1 to 500.
        cursor: that of the page before; the first page where None.
        as_of: the reading time, with an offset; now where None.

    Raises:
        InvalidValue: a value is not of its form.
        InvalidCursor: the cursor is not one of this list.
    """
    after = None if cursor is None else Place.of(cursor, BY_TREND, BY_NEWNESS)
    request = _impersonal(session, language, country, limit, as_of)
    rows: list[Any] = []
    if after is None or after.by == BY_TREND:
        rows += session.execute(_with_trend(request, after or MOST_TRENDING))
        after = None
    if len(rows) < limit:
        newest = _newest_place(BY_NEWNESS, request, after)
        rows += session.execute(_without_trend(request, newest, limit - len(rows)))
    return _page(request, rows, _trending_place)


def _page(request: FeedRequest, rows: Sequence[Any], place_of: Callable[[Any], Place]) -> FeedPage:
    """The rows of `page_query` as a page; short, it is the last."""
    sources = (request.profile.name,)
    items = tuple(
        item_of(request, position, row, sources) for position, row in enumerate(rows, start=1)
    )
    if len(items) < request.limit:
        return FeedPage(request, items, exhausted=True)
    return FeedPage(request, items, cursor=place_of(rows[-1]).cursor)


def _followed_place(row: Any) -> Place:
    return Place(BY_FOLLOWED, row.page_published_at, row.video_id)


def _trending_place(row: Any) -> Place:
    if row.stored_trend is None:
        return Place(BY_NEWNESS, row.page_published_at, row.video_id)
    return Place(BY_TREND, row.stored_trend, row.video_id)


def _newest_place(by: bytes, request: FeedRequest, after: Place | None) -> Place:
    """Where a list by time goes on: below a place, but not before the reading time.

    One bound, not one for each: databases begin at either of two, and walk to the other.
    """
    top = Place(by, request.as_of, LARGEST_ID)
    return top if after is None or after.value > request.as_of else after


def _of_followed(request: FeedRequest, after: Place) -> Statement:
    """The next videos of the followed creators.

    So many videos as are asked for can only be by the so many creators whose own next one is the
    newest, and of each of these only the so many next. The outer join keeps every database from
    beginning at all videos.
    """
    viewer = Viewer.of(request)
    shown = [each.predicate(viewer) for each in FILTERS if each.predicate not in DONE]
    shown.append(after.is_above())
    creators = _next_creators(_next_of_each(viewer, shown), shown, request.limit)
    of_creator = sa.and_(
        Video.creator_id == creators.c.creator_id, Video.published_at >= creators.c.since, *shown
    )
    return (
        sa.select(Video.id.label("video_id"), literal(0, BigInteger()).label("score_key"))
        .select_from(creators)
        .outerjoin(Video, of_creator)
        .order_by(Video.published_at.desc(), Video.id.desc())
        .limit(request.limit)
    )


def _next_of_each(viewer: Viewer, shown: Sequence[ColumnElement[bool]]) -> CTE:
    """The followed creators, and when the next video of each was published, NULL where none is."""
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


def _next_creators(each: CTE, shown: Sequence[ColumnElement[bool]], limit: int) -> Subquery:
    """The creators whose videos can be on the page, and since when these were published.

    The limit is more than there can be: it keeps the database from working out `since` anew for
    each video.
    """
    least = _least(each, limit)
    since = _nth_newest(each.c.creator_id, [*shown, Video.published_at >= least], limit)
    return (
        sa.select(each.c.creator_id, sa.func.coalesce(since, least).label("since"))
        .where(each.c.next_at >= least)
        .limit(scalars.LARGEST_COUNT)
        .subquery("next_creators")
    )


def _least(each: CTE, limit: int) -> sa.ScalarSelect[datetime]:
    """Since when so many creators have a video that can be on the page."""
    nth = (
        sa.select(each.c.next_at)
        .where(each.c.next_at.is_not(None))
        .order_by(each.c.next_at.desc())
        .offset(limit - 1)
        .limit(1)
        .scalar_subquery()
    )
    earliest = literal(scalars.EARLIEST, UtcDateTime())
    least = sa.select(sa.func.coalesce(nth, earliest).label("published_at")).cte("least")
    return sa.select(least.c.published_at).scalar_subquery()


def _nth_newest(
    creator_id: ColumnElement[int], shown: Sequence[ColumnElement[bool]], nth: int
) -> sa.ScalarSelect[datetime]:
    """When the nth newest of a creator's videos was published, NULL where there are fewer."""
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
    """A request of nobody."""
    moment = reading_time(as_of)
    state = sa.select(LearningState.__table__).prefix_with("/* recommender.trending */")
    return FeedRequest(
        user="",
        user_id=None,
        language=_word("language", language),
        country=_word("country", country),
        profile=TRENDING,
        as_of=moment,
        learning=learning_at(lookup.run(session, state).one(), moment),
        limit=limit,
        settings=Settings.from_environment(),
    )


def _word(name: str, value: str | None) -> str | None:
    return None if value is None else scalars.parse_named(name, scalars.key, value)


def _with_trend(request: FeedRequest, after: Place) -> Statement:
    """The next most trending videos."""
    order = (Video.trending.desc(), Video.id.desc())
    viewer = Viewer.of(request)
    found = _below(request, viewer, after).where(
        Video.trending >= LEAST_TREND, not_in_future(viewer)
    )
    ranked = found.order_by(*order).limit(request.limit)
    return page_query(ranked, "trending").order_by(None).order_by(*order)


def _without_trend(request: FeedRequest, after: Place, limit: int) -> Statement:
    """The next newest of the videos without a trend."""
    found = _below(request, Viewer.of(request), after).where(Video.trending.is_(None))
    ranked = found.order_by(Video.published_at.desc(), Video.id.desc()).limit(limit)
    return page_query(ranked, "trending")


def _below(request: FeedRequest, viewer: Viewer, after: Place) -> Statement:
    """The published videos below a place, in the request's language and country, if any."""
    value = trend(viewer)
    found = sa.select(
        Video.id.label("video_id"),
        score_key({"trending": value}, viewer),
        value.label("trending"),
        Video.trending.label("stored_trend"),
    ).where(published(viewer), after.is_above())
    if request.language is not None:
        found = found.where(Video.language == viewer.language)
    if request.country is not None:
        found = found.where(Video.country == viewer.country)
    return found
