"""What was served: sessions, their cursors, and pages recorded so that nothing comes twice.

A cursor names a session and the place where a page begins. Whoever moves the session on from that
place serves the page; everybody else who asks for it is given the page that was served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.expressions import Statement
from recommender.errors import InvalidCursor, InvalidValue, UnknownUser
from recommender.feed.cursors import cursor_of
from recommender.feed.items import shown_of
from recommender.feed.statements import page_query
from recommender.feed.values import Contribution, FeedItem, FeedPage
from recommender.formats import scalars
from recommender.formats.scalars import LIST_SEPARATOR
from recommender.models import FeedSession, ServedVideo, User, Video
from recommender.models.tables import SERVED, SESSIONS
from recommender.models.types import UtcDateTime
from recommender.ranking.profiles import profile_of_id
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import score_key_of, score_of


def with_session(viewer_query: Statement) -> Statement:
    """The query of a viewer with a session of theirs, and the last video of it, beside.

    It is executed with the session as `session`.
    """
    is_session = sa.and_(
        FeedSession.user_id == User.id, FeedSession.session == sa.bindparam("session")
    )
    is_last = sa.and_(
        ServedVideo.user_id == FeedSession.user_id,
        ServedVideo.session == FeedSession.session,
        ServedVideo.position == FeedSession.next_position - 1,
    )
    return (
        viewer_query.add_columns(
            FeedSession.next_position,
            FeedSession.last_at,
            FeedSession.rewatch,
            Video.creator_id,
            Video.sound_id,
        )
        .outerjoin(FeedSession, is_session)
        .outerjoin(ServedVideo, is_last)
        .outerjoin(Video, Video.id == ServedVideo.video_id)
    )


def resumed(request: FeedRequest, found: Any, position: int) -> FeedRequest:
    """The request as one for the page of its session that begins at a position.

    Args:
        request: with its session.
        found: the row of `with_session`.
        position: as the cursor says.

    Raises:
        InvalidCursor: the viewer has no such session, it has expired, or it has no such page.
    """
    if found.next_position is None or not 1 < position <= found.next_position:
        raise InvalidCursor
    lifetime = timedelta(seconds=request.settings.session_lifetime)
    if request.as_of - found.last_at > lifetime:
        raise InvalidCursor
    return replace(
        request,
        position=position,
        next_position=found.next_position,
        rewatch=found.rewatch,
        last_creator=found.creator_id,
        last_sound=found.sound_id,
    )


def record_page(session: Session, page: FeedPage) -> FeedPage:
    """Record a page as served, so that none of its videos comes again: four statements.

    For hosts that rank on a replica, or cut what they ranked (``record=False``), and record on the
    primary; `for_you` records by itself. Recorded again, or after another page of its session at
    the same place, it is the page that was served first: this is safe to repeat. What was served
    or unpublished meanwhile is left out, and the places are counted anew.

    Args:
        session: the caller's transaction; nothing is committed.
        page: as `for_you` gave it, whole or without some of its items.

    Returns:
        The page as it was served, with its session and the cursor of the next page.

    Raises:
        InvalidValue: it is no page of `for_you`.
        UnknownUser: the viewer is not in the database.
        InvalidCursor: the page's session is gone.
    """
    request = page.request
    if request.user_id is None:
        raise UnknownUser(f"there is no user {scalars.shown(request.user)}")
    if request.session is None or request.profile.id is None:
        raise InvalidValue("page: only a page of for_you can be recorded")
    found = session.execute(_place_query(request)).one_or_none()
    if found is None:
        raise UnknownUser(f"there is no user {scalars.shown(request.user)}")
    if request.position < (found.next_position or 1):
        return recorded_page(session, request)
    may_come = set(session.scalars(_may_come(request, [item.video_id for item in page.items])))
    once = {item.video_id: item for item in page.items if item.video_id in may_come}
    items = tuple(
        replace(item, position=position)
        for position, item in enumerate(once.values(), start=request.position)
    )
    return serve(session, replace(page, items=items))


def _place_query(request: FeedRequest) -> Statement:
    """Where the session goes on, NULL where it has not begun; the user's row is locked."""
    is_session = sa.and_(FeedSession.user_id == User.id, FeedSession.session == request.session)
    return (
        sa.select(User.id, FeedSession.next_position)
        .select_from(User)
        .outerjoin(FeedSession, is_session)
        .where(User.id == request.user_id, User.erased_at.is_(None))
        .with_for_update(of=User)
    )


def _may_come(request: FeedRequest, video_ids: Sequence[int]) -> sa.Select[int]:
    """Those of some videos that are published and were not served yet."""
    served = sa.select(ServedVideo.video_id).where(ServedVideo.user_id == request.user_id)
    if request.rewatch or request.profile.is_reference:
        served = served.where(ServedVideo.session == request.session)
    return sa.select(Video.id).where(
        Video.id.in_(video_ids), Video.status == "published", Video.id.not_in(served)
    )


def serve(session: Session, page: FeedPage) -> FeedPage:
    """Record a page that was ranked, and goes out, in this transaction: two statements.

    Its user's row is locked. An empty page is not recorded.
    """
    request = page.request
    if not page.items:
        return _served(page, request.position) if request.position > 1 else page
    if not _moved_on(session, request, len(page.items)):
        return recorded_page(session, request)
    places = len(page.items)
    could_be = request.limit if page.exhausted else places
    rows = [{**_row(request, item), "asked": could_be} for item in page.items]
    bulk.insert(session, SERVED, rows, conflict=None)
    return _served(page, request.position + places)


def _moved_on(session: Session, request: FeedRequest, places: int) -> bool:
    """Begin the session, or move it on from the page's place; False where another page did."""
    given = {
        "asker": request.user_id,
        "own": request.session,
        "before": request.position,
        "after": request.position + places,
        "again": request.rewatch,
        "moment": request.as_of,
    }
    moved = _begin(lookup.is_sqlite(session)) if request.position == 1 else _move()
    return lookup.run(session, moved, given).scalar() is not None


@cache
def _begin(on_sqlite: bool) -> Any:  # noqa: FBT001 - what it is cached by
    insert = (sqlite if on_sqlite else postgresql).insert(SESSIONS)
    row: dict[str, Any] = {
        "user_id": sa.bindparam("asker"),
        "session": sa.bindparam("own"),
        "next_position": sa.bindparam("after"),
        "rewatch": sa.bindparam("again"),
        "started_at": sa.bindparam("moment"),
        "last_at": sa.bindparam("moment"),
    }
    return insert.values(row).on_conflict_do_nothing().returning(SESSIONS.c.next_position)


@cache
def _move() -> Any:
    latest = sa.bindparam("moment", type_=UtcDateTime())
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
        )
        .returning(SESSIONS.c.next_position)
    )


def _row(request: FeedRequest, item: FeedItem) -> Mapping[str, Any]:
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
        "signals": _recorded_signals(request, item),
    }


def _recorded_signals(request: FeedRequest, item: FeedItem) -> dict[str, float | list[float]]:
    """Each signal's value where it is not 0; of a host's own also its weight, which no row has."""
    ours = request.profile.weights
    return {
        name: each.value if name in ours else [each.value, each.weight]
        for name, each in item.signals.items()
        if each.value or name not in ours
    }


def recorded_page(session: Session, request: FeedRequest) -> FeedPage:
    """The page of a session that was served at a position: one statement, or two.

    Its videos have the scores and signals that they were served for; those that are published no
    more are left out.

    Args:
        session: the caller's transaction.
        request: with its session and position.

    Raises:
        InvalidCursor: no page begins there.
    """
    rows = session.execute(_recorded(request)).all()
    if not rows:
        raise InvalidCursor
    first = rows[0]
    profile = request.profile
    if first.profile_id != profile.id:
        profile = profile_of_id(session, first.profile_id)
    served = replace(request, profile=profile, limit=first.asked, as_of=first.served_at)
    page = FeedPage(
        request=served,
        items=tuple(_item(row, profile.weights) for row in rows if row.page_status == "published"),
        exhausted=first.after - request.position < first.asked,
    )
    return _served(page, first.after)


def _recorded(request: FeedRequest) -> Statement:
    """The videos of a page in order, and where the next page begins."""
    own = (SERVED.c.user_id == request.user_id, SERVED.c.session == request.session)
    later = sa.select(sa.func.min(SERVED.c.page)).where(*own, SERVED.c.page > request.position)
    end = sa.select(SESSIONS.c.next_position).where(
        SESSIONS.c.user_id == request.user_id, SESSIONS.c.session == request.session
    )
    after = sa.func.coalesce(later.scalar_subquery(), end.scalar_subquery()).label("after")
    served = sa.select(*SERVED.c, after).where(*own, SERVED.c.page == request.position)
    shown = page_query(served, "recorded_page").order_by(None)
    shown = shown.add_columns(Video.status.label("page_status"))
    return shown.order_by(shown.selected_columns.position)


def _item(row: Any, weights: Mapping[str, float]) -> FeedItem:
    values = row.signals
    ours = {name: Contribution(values.get(name, 0.0), weight) for name, weight in weights.items()}
    own = {name: Contribution(*each) for name, each in values.items() if name not in weights}
    return FeedItem(
        position=row.position,
        score=score_of(row.score_key),
        sources=tuple(row.sources.split(LIST_SEPARATOR)) if row.sources else (),
        signals={**ours, **own},
        explored=row.explored,
        crowded=row.crowded,
        **shown_of(row),
    )


def _served(page: FeedPage, after: int) -> FeedPage:
    """The page with its session, and the cursor of the next one where there is one."""
    session = page.request.session
    assert session is not None  # noqa: S101 - every known viewer's request has one
    cursor = None if page.exhausted else cursor_of(session, after)
    return replace(page, session=str(session), cursor=cursor)
