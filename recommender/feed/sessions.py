"""Sessions and their recorded pages: no video is served twice.

A cursor holds a session and the position at which a page begins. The first request to advance the
session past that position serves the page. Concurrent requests receive the same page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Integer
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased

from recommender.database import bulk, lookup
from recommender.database.aliases import is_meant
from recommender.database.expressions import Statement, named
from recommender.database.session import Session
from recommender.errors import InvalidCursor, InvalidValue, UnknownUser
from recommender.feed.cursors import SessionPosition
from recommender.feed.items import shown_fields
from recommender.feed.memory import Looked, look_until, remember
from recommender.feed.resolve import unranked, with_session
from recommender.feed.statements import (
    MAX_STATEMENTS,
    cached_statement,
    page_query,
    run_cached,
)
from recommender.feed.values import Contribution, FeedItem, FeedPage
from recommender.formats import scalars
from recommender.formats.scalars import LIST_SEPARATOR
from recommender.models import User, Video
from recommender.models.tables import SERVED, SESSIONS
from recommender.models.types import UtcDateTime
from recommender.ranking.filters import allowed, still_allowed
from recommender.ranking.history import not_seen
from recommender.ranking.profiles import profile_of_id
from recommender.ranking.registry import Registry
from recommender.ranking.request import FeedRequest, RequestSummary
from recommender.ranking.scoring import score_key_of, score_of
from recommender.ranking.viewer import Shape, Viewer, ViewerParts, values_of
from recommender.settings import Settings


def record_page(session: Session, page: FeedPage, *, settings: Settings | None = None) -> FeedPage:
    """Record a page as served, so that none of its videos comes again: five statements.

    It is for hosts that rank on a replica or shorten a page (``record=False``), and then record it
    on the primary. `for_you` records its pages by itself. It is safe to repeat: if the session
    already has a page at that position, that page is returned. The filters apply again: videos that
    were served, seen, muted or unpublished meanwhile are left out, and the positions are numbered
    again. The conditions of `where` do not. The page is never `exhausted`, because the replica may
    lack new videos.

    Args:
        session: the caller's transaction; nothing is committed.
        page: as `for_you` returned it, whole or without some of its items.
        settings: the settings of `for_you`; None for the environment's.

    Returns:
        The page as it was served, with its session and the cursor of the next page. If no video is
        left, it is `stale` and nothing was recorded. Its cursor requests the same page again, or
        goes on if the page was `cut_short`; None for another first page: call `for_you` on this
        database.

    Raises:
        InvalidValue: the page is not a page of `for_you`.
        UnknownUser: the viewer is not in the database.
        InvalidCursor: the page's session was deleted.
    """
    request = page.request
    if request.session is None or request.profile.id is None:
        raise InvalidValue("page: only a page of for_you can be recorded")
    row = _session_row(session, request)
    settings = settings or Settings.from_environment()
    own = replace(request, user=row.key, user_id=row.id)
    if own.position < (row.next_position or 1):
        return recorded_page(session, own)
    # The page of a user who was erased since is not a page of the new user with that key.
    items = page.items if request.user_id in {None, row.id, row.named_id} else ()
    items = _servable(session, own, items, row, settings)
    ranked = replace(page, request=own, items=items, exhausted=False, stale=not items)
    return serve(session, ranked, settings, row.seen_until or 0)


def _session_row(session: Session, request: RequestSummary) -> Any:
    """Return the user, the session and its last video; NULL before its first page.

    It locks the user's row. It finds the user by the key, because a replica may not know the row,
    and by the row if the key was changed since.

    Raises:
        UnknownUser: the viewer is not in the database.
    """
    for is_viewer in (_NAMED.key == request.user, _NAMED.id == request.user_id):
        query = _session_query(is_viewer)
        row = session.execute(query, {"session": request.session}).one_or_none()
        if row is not None:
            # The user may have been merged while this transaction waited for the lock.
            return row if row.merged_into is None else _session_row(session, request)
    raise UnknownUser(f"there is no user {scalars.shown(request.user)}")


_NAMED = aliased(User, name="alias")


def _session_query(is_viewer: ColumnElement[bool]) -> Statement:
    user = sa.select(User.id, User.key, User.merged_into, _NAMED.id.label("named_id"))
    query = with_session(user.select_from(_NAMED).join(User, is_meant(User, _NAMED)))
    query = query.where(is_viewer, User.erased_at.is_(None))
    return query.with_for_update(key_share=True, of=User)


def _servable(
    session: Session,
    request: RequestSummary,
    items: Sequence[FeedItem],
    last: Any,
    settings: Settings,
) -> tuple[FeedItem, ...]:
    """Return the items that pass the filters now, once each and placed again: one statement.

    The caller's own conditions are not applied again.

    Args:
        session: the caller's transaction.
        request: the request, with the user's row id.
        items: the items of the page.
        last: the row of the session, with the creator and the sound of its last video.
        settings: the numbers that say what may come again.
    """
    own = unranked(session, request, settings=settings, started_at=last.started_at)
    statement = cached_statement(_passing_query, named, "record_page", Shape.of(own))
    values = values_of(own, [item.video for item in items])
    rows = {row.id: row for row in run_cached(lookup.connection(session), statement, values)}
    items_by_video = {
        item.video_id: item
        for item in items
        if item.video_id in rows and (item.refilled or rows[item.video_id].is_new)
    }
    return _placed_again(own, items_by_video, [last, *(rows[video] for video in items_by_video)])


def _passing_query(shape: Shape, viewer: Viewer) -> Statement:
    """Return the query of the given videos that pass the filters of a request.

    Videos that were served recently or often pass too, if not seen: `is_new` is false for them.
    """
    passing = (Video.id.in_(viewer.given_videos()), *allowed(shape, viewer, again=True))
    is_any = shape.rewatch or shape.is_reference
    is_new = (sa.true() if is_any else not_seen(viewer)).label("is_new")
    return sa.select(Video.id, Video.creator_id, Video.sound_id, is_new).where(*passing)


def _placed_again(
    request: FeedRequest, items_by_video: Mapping[int, FeedItem], rows: Sequence[Any]
) -> tuple[FeedItem, ...]:
    """Return the items numbered again; an item that now follows a similar one is crowded.

    Args:
        request: the request.
        items_by_video: the items that are left, in their order.
        rows: the creator and the sound of the video before the page, and of each item.
    """
    is_spread = not request.profile.is_reference
    places = zip(items_by_video.values(), pairwise(rows), strict=True)
    return tuple(
        replace(item, position=position, crowded=item.crowded or (is_spread and _are_alike(*pair)))
        for position, (item, pair) in enumerate(places, start=request.position)
    )


def _are_alike(one: Any, other: Any) -> bool:
    """Return whether two rows have the same creator or the same sound."""
    has_same_creator = one.creator_id is not None and one.creator_id == other.creator_id
    has_same_sound = one.sound_id is not None and one.sound_id == other.sound_id
    return has_same_creator or has_same_sound


def serve(session: Session, page: FeedPage, settings: Settings, seen_until: int) -> FeedPage:
    """Record a page that was ranked in this transaction, and return it as served: three statements.

    The user's row must be locked. An empty page is not recorded. A page that another transaction
    recorded meanwhile at the same position is returned instead.

    Args:
        session: the caller's transaction.
        page: the page.
        settings: they say whether this page means that the pages before were looked at.
        seen_until: the position up to which the session was seen before.
    """
    request, is_looked_at = page.request, bool(settings.next_page_means_seen)
    looked_at = Looked(seen_until, request.position - 1 if is_looked_at else 0)
    if not page.items:
        # The other page may have left no video for this one.
        if other := _page_at(session, request):
            return other
        if looked_at.until:
            look_until(session, request.user_id, request.session, looked_at.until)
        return _not_recorded(page)
    length = len(page.items)
    started_at = _advance(session, request, length, looked_at.until)
    if started_at is None:
        return recorded_page(session, request)
    attempts = remember(session, request, page.items, started_at, looked_at)
    asked = request.limit if page.exhausted else length
    rows = [
        {**_served_row(request, item), "asked": asked, "attempt": attempts[item.video_id]}
        for item in page.items
    ]
    bulk.insert(session, SERVED, rows, conflict=None)
    return _with_cursor(page, request.position + length)


def _not_recorded(page: FeedPage) -> FeedPage:
    """Return an empty page; its cursor, if any, asks for the same position again."""
    position = page.request.position
    return _with_cursor(page, position) if position > 1 or page.cut_short else page


def _advance(
    session: Session, request: RequestSummary, length: int, seen_until: int
) -> datetime | None:
    """Begin the session or advance it past a page.

    Returns:
        The time at which the session began; None if another page advanced it before.
    """
    values = {
        "asker": request.user_id,
        "own": request.session,
        "before": request.position,
        "after": request.position + length,
        "again": request.rewatch,
        "moment": request.as_of,
        "looked": seen_until,
    }
    is_first = request.position == 1
    statement = _begin_statement(lookup.is_sqlite(session)) if is_first else _advance_statement()
    started_at: datetime | None = lookup.run(session, statement, values).scalar()
    return started_at


@cache
def _begin_statement(on_sqlite: bool) -> Any:  # noqa: FBT001 - the cache key
    insert = (sqlite if on_sqlite else postgresql).insert(SESSIONS)
    row: dict[str, Any] = {
        "user_id": sa.bindparam("asker"),
        "session": sa.bindparam("own"),
        "next_position": sa.bindparam("after"),
        "rewatch": sa.bindparam("again"),
        "started_at": sa.bindparam("moment"),
        "last_at": sa.bindparam("moment"),
        "seen_until": sa.bindparam("looked"),
    }
    return insert.values(row).on_conflict_do_nothing().returning(SESSIONS.c.started_at)


@cache
def _advance_statement() -> Any:
    latest = sa.bindparam("moment", type_=UtcDateTime())
    looked = sa.bindparam("looked", type_=Integer())
    return (
        sa.update(SESSIONS)
        .where(
            SESSIONS.c.user_id == sa.bindparam("asker"),
            SESSIONS.c.session == sa.bindparam("own"),
            SESSIONS.c.next_position == sa.bindparam("before"),
        )
        .values(
            next_position=sa.bindparam("after"),
            last_at=bulk.greatest(SESSIONS.c.last_at, latest),
            seen_until=bulk.greatest(SESSIONS.c.seen_until, looked),
        )
        .returning(SESSIONS.c.started_at)
    )


def _served_row(request: RequestSummary, item: FeedItem) -> Mapping[str, Any]:
    return {
        "user_id": request.user_id,
        "session": request.session,
        "position": item.position,
        "video_id": item.video_id,
        "page": request.position,
        "served_at": request.as_of,
        "profile_id": request.profile.id,
        "score_key": score_key_of(item.score),
        "sources": LIST_SEPARATOR.join(item.sources),
        "explored": item.explored,
        "crowded": item.crowded,
        "refilled": item.refilled,
        "signals": _recorded_signals(request, item),
    }


def _recorded_signals(request: RequestSummary, item: FeedItem) -> dict[str, float | list[float]]:
    """Return the values of the signals that are not 0.

    A signal of the host has its value and its weight, because no profile holds that weight.
    """
    weights = request.profile.weights
    return {
        name: part.value if name in weights else [part.value, part.weight]
        for name, part in item.signals.items()
        if part.value or name not in weights
    }


def recorded_page(session: Session, request: RequestSummary) -> FeedPage:
    """Return the page of a session that was served at a position: one or two statements.

    Its videos have the scores, signals and positions with which they were served. What may no
    longer be shown is left out: what was removed, muted or rejected meanwhile.

    Args:
        session: the caller's transaction.
        request: the request, with its session and position.

    Raises:
        InvalidCursor: no page of the session begins at the position.
    """
    page = _page_at(session, request)
    if page is None:
        raise InvalidCursor
    return page


def _page_at(session: Session, request: RequestSummary) -> FeedPage | None:
    """Return the recorded page that begins at the position of a request; None if there is none."""
    own, place = unranked(session, request), {"own": request.session, "page": request.position}
    rows = lookup.run(session, _recorded_query(own.registry), {**values_of(own), **place}).all()
    if not rows:
        return None
    first = rows[0]
    profile = request.profile
    if first.profile_id != profile.id:
        profile = profile_of_id(session, first.profile_id)
    served = replace(request, profile=profile, limit=first.asked, as_of=first.served_at)
    still = "still_in_classic" if profile.is_reference else "still"
    shown = [row for row in rows if row._mapping[still]]  # noqa: SLF001 - its API
    page = FeedPage(
        request=served,
        items=tuple(_recorded_item(row, profile.weights) for row in shown),
        exhausted=first.after - request.position < first.asked,
    )
    return _with_cursor(page, first.after)


@lru_cache(MAX_STATEMENTS)
def _recorded_query(registry: Registry) -> Statement:
    """Return the query of a page's videos in order, with the position of the next page."""
    viewer, position = Viewer.named(ViewerParts()), sa.bindparam("page", type_=sa.Integer())
    owner, session = viewer.user_id, sa.bindparam("own", type_=sa.Uuid())
    own = (SERVED.c.user_id == owner, SERVED.c.session == session)
    later = sa.select(sa.func.min(SERVED.c.page)).where(*own, SERVED.c.page > position)
    end = sa.select(SESSIONS.c.next_position).where(
        SESSIONS.c.user_id == owner, SESSIONS.c.session == session
    )
    after = sa.func.coalesce(later.scalar_subquery(), end.scalar_subquery()).label("after")
    served = sa.select(*SERVED.c, after).where(*own, SERVED.c.page == position)
    shown = page_query(served, "recorded_page").order_by(None)
    shown = shown.add_columns(
        still_allowed(viewer, registry.filters, is_reference=False).label("still"),
        still_allowed(viewer, registry.filters, is_reference=True).label("still_in_classic"),
    )
    return shown.order_by(shown.selected_columns.position)


def _recorded_item(row: Any, weights: Mapping[str, float]) -> FeedItem:
    values = row.signals
    ours = {name: Contribution(values.get(name, 0.0), weight) for name, weight in weights.items()}
    own = {name: Contribution(*pair) for name, pair in values.items() if name not in weights}
    return FeedItem(
        position=row.position,
        score=score_of(row.score_key),
        sources=tuple(row.sources.split(LIST_SEPARATOR)) if row.sources else (),
        signals={**ours, **own},
        explored=row.explored,
        crowded=row.crowded,
        refilled=row.refilled,
        **shown_fields(row),
    )


def _with_cursor(page: FeedPage, after: int) -> FeedPage:
    """Return the page with its session, and with the cursor of the next page if there is one."""
    session = page.request.session
    assert session is not None  # noqa: S101 - every known viewer's request has one
    place = SessionPosition(session, after, page.request.scan_after)
    cursor = None if page.exhausted else place.cursor
    return replace(page, session=str(session), cursor=cursor)
