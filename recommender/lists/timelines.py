"""Two plain lists next to For You: the newest videos of followed creators, and trending videos.

Both only read. The cursor of a page holds the last video's position in the order (keyset
pagination). A deep page therefore costs the same as the first. Videos that are inserted or removed
between two pages make no other video come twice or be skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from recommender.database import lookup
from recommender.database.expressions import Statement, named
from recommender.database.schema import first_state
from recommender.database.session import Session
from recommender.feed.cursors import (
    BY_FOLLOWED,
    BY_NEWNESS,
    BY_TREND,
    LARGEST_TREND,
    TOP_OF_TRENDING,
    ListPosition,
)
from recommender.feed.items import item_of
from recommender.feed.reasons import telling
from recommender.feed.resolve import (
    checked_predicate,
    excluded_keys,
    learning_at,
    reading_time,
    resolve,
)
from recommender.feed.statements import page_query
from recommender.feed.values import FeedItem, FeedPage, Reason, Words, checked_words
from recommender.formats import scalars
from recommender.formats.scalars import LARGEST_ID, AnyKey
from recommender.lists.trending import (
    last_of_newest,
    last_trending,
    most_trending,
    newest_without_trend,
)
from recommender.models import LearningState, Video
from recommender.ranking.additions import check_where
from recommender.ranking.audience import (
    IN_FOLLOWING,
    followed_creators,
    last_of_followed,
    newest_of_followed,
)
from recommender.ranking.filters import (
    available,
    creator_not_blocked,
    creator_not_muted,
    filters_in,
    host_conditions,
    not_in_future,
    not_own,
    published,
)
from recommender.ranking.registry import known_registry
from recommender.ranking.request import DEFAULT_LIMIT, FeedRequest, Profile
from recommender.ranking.viewer import Shape, Viewer
from recommender.settings import Settings
from recommender.telemetry import traced

FOLLOWING = Profile("following", 1, {})

TRENDING = Profile("trending", 1, {"trending": 1.0})

Predicate: TypeAlias = Callable[[Viewer], ColumnElement[bool]]

NOT_BY_VIDEO = (
    published, not_in_future, available, creator_not_blocked, not_own, creator_not_muted,
)  # fmt: skip
"""The filters that `following` does not apply to each video.

The start of the page is not in the future. The index walks give published videos for followers. The
other filters are applied to the creators.
"""

BY_INDEX = (published, available)
"""The filters that the index walks of `trending` apply: they give videos for everyone."""


@traced
def following(
    session: Session,
    user: AnyKey,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[AnyKey] = (),
    reasons: bool = False,
    words: Mapping[str, Words] | None = None,
) -> FeedPage:
    """Return the newest videos of the creators that the user follows, seen videos included.

    It writes nothing and takes two statements (viewer, page), and one more with `where`. All
    filters apply except `not_seen`. A page is short only if no more videos are left, or if few
    videos fulfil `where`: a page looks at `Settings.scan_limit` videos, the next page goes on, and
    this page is `cut_short`. The last page is `exhausted` and has no cursor.

    Args:
        session: the caller's transaction.
        user: the user's key; an unknown user follows no one.
        limit: the maximum number of videos, 1 to 500.
        cursor: the cursor of the page before; None or empty for the first page.
        as_of: the reading time, with an offset; None for now.
        where: a condition of the host over `Video`; use EXISTS for the host's tables. Pass it with
            each cursor, and `exclude` too.
        exclude: the keys of videos to leave out, 10,000 at most.
        reasons: whether the items tell their reasons; it costs no statement.
        words: the words for each format in these sentences; another format is called a video.

    Raises:
        InvalidValue: a value has the wrong form.
        InvalidCursor: the cursor does not belong to this list.
    """
    after, own_words = _position(cursor, BY_FOLLOWED), checked_words(words)
    request = resolve(
        session, user, FOLLOWING, limit=limit, as_of=as_of, where=where, exclude=exclude
    )
    check_where(request.where)
    part = _with_end(
        session, request, _start_by_time(BY_FOLLOWED, request, after), last_of_followed
    )
    rows = session.execute(_of_followed(request, part)).all()
    page = _page(request, rows, _followed_position, part)
    return _telling(page, _reason_to_follow, own_words) if reasons else page


@traced
def trending(
    session: Session,
    language: str | None = None,
    country: str | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[AnyKey] = (),
    reasons: bool = False,
    words: Mapping[str, Words] | None = None,
) -> FeedPage:
    """Return the trending videos of a language and a country, for people without a personal feed.

    It reads no data of any viewer and writes nothing. The strongest trend comes first. Videos
    without a trend follow, the newest first; less than one viewer at the reading time is no trend.
    A page takes two statements (learning state, page), and one more where the videos without a
    trend begin; `where` adds one to each of these reads. A page is short only if no more videos are
    left, or if it is `cut_short`, as in `following`. The last page is `exhausted`.

    Args:
        session: the caller's transaction.
        language: the videos' language, as written; None for any. Videos of an unknown language
            are included.
        country: the videos' country, as written; None for any.
        limit: the maximum number of videos, 1 to 500.
        cursor: the cursor of the page before; None or empty for the first page.
        as_of: the reading time, with an offset; None for now.
        where: a condition of the host over `Video`; use EXISTS for the host's tables. Pass it with
            each cursor, and `exclude` too.
        exclude: the keys of videos to leave out, 10,000 at most.
        reasons: whether the items tell their reasons; it costs no statement.
        words: the words for each format in these sentences; another format is called a video.

    Raises:
        InvalidValue: a value has the wrong form.
        InvalidCursor: the cursor does not belong to this list.
    """
    after, own_words = _position(cursor, BY_TREND, BY_NEWNESS), checked_words(words)
    request = _impersonal(
        session, language, country, limit=limit, as_of=as_of, where=checked_predicate(where),
        exclude=excluded_keys(exclude),
    )  # fmt: skip
    check_where(request.where)
    rows: list[Any] = []
    part, least = _Part(after or TOP_OF_TRENDING), _least_trend(request, after)
    if part.after.by == BY_TREND:
        part = _with_end(session, request, part.after, partial(last_trending, least=least))
        rows += session.execute(_with_trend(request, part, least))
    if len(rows) < limit and part.end is None:
        start = replace(_start_by_time(BY_NEWNESS, request, after), least=least)
        part = _with_end(session, request, start, last_of_newest)
        rows += session.execute(_without_trend(request, part, limit + 1 - len(rows)))
    page = _page(request, rows, partial(_trending_position, least=least), part)
    return _telling(page, _reason_to_trend, own_words) if reasons else page


def _telling(
    page: FeedPage, reason_of: Callable[[FeedItem], Reason], words: Mapping[str, Words]
) -> FeedPage:
    """Return a page whose items tell the one cause that puts a video on this list."""
    return replace(
        page, items=tuple(telling(item, (reason_of(item),), words) for item in page.items)
    )


def _reason_to_follow(item: FeedItem) -> Reason:
    return Reason("follows", item.creator)


def _reason_to_trend(item: FeedItem) -> Reason:
    return Reason("trending" if item.signals["trending"].value else "newest")


def _position(cursor: str | None, *allowed: bytes) -> ListPosition | None:
    """Return the position that a cursor holds; None for the first page."""
    return None if cursor is None or cursor == "" else ListPosition.of(cursor, *allowed)


class _Part(NamedTuple):
    """The part of a list that a page reads.

    Attributes:
        after: the position below which it begins.
        end: the last position to look at for a host's condition; None if it is the whole rest.
    """

    after: ListPosition
    end: ListPosition | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions that a video is in the part."""
        end = [] if self.end is None else [self.end.is_reached()]
        return [self.after.is_above(), *end]


def _with_end(
    session: Session,
    request: FeedRequest,
    after: ListPosition,
    end_of: Callable[[FeedRequest, ColumnElement[bool]], Statement],
) -> _Part:
    """Return the part below a position: one statement for a host's condition, else none.

    A host's condition that few videos fulfil would otherwise read the whole list.

    Args:
        session: the caller's transaction.
        request: the request.
        after: the position.
        end_of: builds the statement of the last video to look at.
    """
    if not request.has_conditions:
        return _Part(after)
    row = session.execute(named(end_of(request, after.is_above()), "scan_end")).one_or_none()
    if row is None:  # fewer videos are left than a page may look at
        return _Part(after)
    value = scalars.UNDATED if row.value is None else row.value
    return _Part(after, replace(after, value=value, video_id=row.video_id))


def _page(
    request: FeedRequest,
    rows: Sequence[Any],
    position_of: Callable[[Any], ListPosition],
    part: _Part,
) -> FeedPage:
    """Return the rows of `page_query` as a page.

    Args:
        request: the request.
        rows: up to one row more than the page has videos, if there is one.
        position_of: the position of a row in the list.
        part: the part of the list that was read last.
    """
    sources, shown = (request.profile.name,), rows[: request.limit]
    items = tuple(
        item_of(request, position, row, sources) for position, row in enumerate(shown, start=1)
    )
    # Videos without a trend, which follow, were not looked for if those with a trend fill the page.
    has_rest = len(rows) > len(shown) or part.end is not None or part.after.by == BY_TREND
    if len(items) == request.limit and has_rest:
        return FeedPage(request, items, cursor=position_of(shown[-1]).cursor)
    if part.end is not None:
        return FeedPage(request, items, cursor=part.end.cursor, cut_short=True)
    return FeedPage(request, items, exhausted=True)


def _followed_position(row: Any) -> ListPosition:
    return ListPosition(BY_FOLLOWED, row.page_published_at or scalars.UNDATED, row.video_id)


def _trending_position(row: Any, least: float) -> ListPosition:
    if row.stored_trend is None:
        published_at = row.page_published_at or scalars.UNDATED
        return ListPosition(BY_NEWNESS, published_at, row.video_id, least)
    return ListPosition(BY_TREND, row.stored_trend, row.video_id)


def _least_trend(request: FeedRequest, after: ListPosition | None) -> float:
    """Return the stored trend below which a trend counts as none: one viewer at the reading time.

    It is never above a trend that the pages before listed, so that no video comes twice.
    """
    if after is not None and after.by == BY_NEWNESS:
        return after.least
    return min(request.learning.trend, LARGEST_TREND if after is None else after.value)


def _start_by_time(by: bytes, request: FeedRequest, after: ListPosition | None) -> ListPosition:
    """Return the position below which a page by time begins: never later than the reading time."""
    # One bound and not two: a database starts its index walk at either of two bounds, and reads
    # every row up to the other one.
    top = ListPosition(by, request.as_of, LARGEST_ID)
    return top if after is None or after.by != by or after.value > request.as_of else after


def _of_followed(request: FeedRequest, part: _Part) -> Statement:
    """Return the statement of the next videos of the followed creators."""
    viewer = Viewer.of(request)
    shown = _shown(request, viewer, part, *NOT_BY_VIDEO)
    newest = newest_of_followed(shown, request.limit + 1, followed_creators(viewer, *IN_FOLLOWING))
    return page_query(newest, "following")


def _shown(
    request: FeedRequest, viewer: Viewer, part: _Part, *elsewhere: Predicate
) -> list[ColumnElement[bool]]:
    """Return the conditions on each video of a part: the list's filters and the host's.

    Args:
        request: the request.
        viewer: its viewer.
        part: the part of the list.
        elsewhere: the filters that are applied elsewhere.
    """
    ours = (rule.predicate for rule in filters_in(request.profile.name))
    host = host_conditions(Shape.of(request), viewer, Video.id).values()
    own = [predicate(viewer) for predicate in ours if predicate not in elsewhere]
    return [*own, *part.conditions(), *host]


def _impersonal(
    session: Session, language: str | None, country: str | None, **options: Any
) -> FeedRequest:
    """Return a request without a viewer."""
    moment = reading_time(options.pop("as_of"))
    state = sa.select(LearningState.__table__).prefix_with("/* recommender.trending */")
    return FeedRequest(
        user="",
        user_id=None,
        language=_label("language", language),
        country=_label("country", country),
        profile=TRENDING,
        as_of=moment,
        learning=learning_at(first_state(lookup.run(session, state)), moment),
        registry=known_registry(lookup.registry(session)),
        settings=Settings.from_environment(),
        **options,
    )


def _label(name: str, value: str | None) -> str | None:
    return None if value is None else scalars.parse_named(name, scalars.label, value)


def _with_trend(request: FeedRequest, part: _Part, least: float) -> Statement:
    """Return the statement of the next trending videos, the strongest trend first."""
    viewer = Viewer.of(request)
    shown = _shown(request, viewer, part, *BY_INDEX)
    ranked = most_trending(request, viewer, shown, request.limit + 1, least)
    order = (Video.trending.desc(), Video.id.desc())
    return page_query(ranked, "trending").order_by(None).order_by(*order)


def _without_trend(request: FeedRequest, part: _Part, limit: int) -> Statement:
    """Return the statement of the next videos without a trend, the newest first."""
    viewer = Viewer.of(request)
    shown = _shown(request, viewer, part, *BY_INDEX, not_in_future)
    ranked = newest_without_trend(request, viewer, shown, limit, part.after.least)
    return page_query(ranked, "trending")
