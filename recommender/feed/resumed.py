"""The session that a request continues: its place in it, and the videos just before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from recommender.database.expressions import Statement, json_rows, unless_distributed
from recommender.database.partitions import is_of_session
from recommender.errors import CursorAhead, InvalidCursor, InvalidValue
from recommender.feed.cursors import SessionPosition, read_cursor, session_uuid
from recommender.models import FeedSession, ServedVideo, User, Video
from recommender.ranking.request import LARGEST_SPAN, Contenders, FeedRequest, PlacedVideo

_EXPIRED = "session_id: the session has expired: begin one under another id"


def place_of(cursor: str | None, session_id: UUID | str | None) -> SessionPosition:
    """Return the place of a page in its session.

    Raises:
        InvalidCursor: the cursor has not the form of a cursor.
        InvalidValue: the session's id is not a UUID, or is given together with a cursor.
    """
    if cursor is None or cursor == "":
        return SessionPosition(uuid4() if session_id is None else session_uuid(session_id), 1)
    if session_id is not None:
        raise InvalidValue(
            "session_id: is given with a cursor, which names its session: give the cursor alone"
        )
    return read_cursor(cursor)


OWNER = sa.bindparam("owner", type_=sa.BigInteger())
"""The row id of the viewer on Citus, which finds the node by it."""


def with_session(viewer_query: Statement) -> Statement:
    """Add the viewer's session and its last videos to the query of a viewer.

    Execute it with the session's UUID as the bind parameter `session`.
    """
    is_viewer = FeedSession.user_id == User.id
    is_session = sa.and_(
        unless_distributed(is_viewer, sa.and_(is_viewer, FeedSession.user_id == OWNER)),
        FeedSession.session == sa.bindparam("session"),
    )
    is_last = sa.and_(
        _its(ServedVideo),
        ServedVideo.position == FeedSession.next_position - 1,
    )
    return (
        viewer_query.add_columns(
            FeedSession.next_position,
            FeedSession.last_at,
            FeedSession.rewatch,
            FeedSession.started_at,
            FeedSession.seen_until,
            FeedSession.arm,
            FeedSession.contenders,
            Video.creator_id,
            Video.sound_id,
            _last_places().label("last_places"),
        )
        .outerjoin(FeedSession, is_session)
        .outerjoin(ServedVideo, is_last)
        .outerjoin(Video, Video.id == ServedVideo.video_id)
    )


def _its(place: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a place is of the session, on Citus with the viewer's node."""
    is_its = is_of_session(place, FeedSession)
    return unless_distributed(is_its, sa.and_(is_its, place.user_id == OWNER))


def _last_places() -> sa.ScalarSelect[str]:
    """Return the last places of a feed's session as JSON, up to the largest span of a limit."""
    place, video = aliased(ServedVideo), aliased(Video)
    values = (place.position, video.creator_id, video.sound_id, video.format)
    return (
        sa.select(json_rows(*values))
        .select_from(place)
        .join(video, video.id == place.video_id)
        .where(
            _its(place),
            place.position > FeedSession.next_position - LARGEST_SPAN,
            FeedSession.feed_id.is_not(None),
        )
        .correlate(FeedSession)
        .scalar_subquery()
    )


def places_before(row: Any) -> tuple[PlacedVideo, ...]:
    """Return the last videos of a session: of a feed as many as a limit may look at, else one.

    Args:
        row: a row of the query that `with_session` returns.
    """
    if not row.next_position:
        return ()
    places = sorted(json.loads(row.last_places or "[]"))
    if not places:
        return (PlacedVideo(row.creator_id, row.sound_id),)
    return tuple(PlacedVideo(*values) for _, *values in places)


def resumed(request: FeedRequest, row: Any, position: int, *, may_lag: bool) -> FeedRequest:
    """Return the request for the page of its session that begins at a position.

    Args:
        request: the request, with its session.
        row: a row of the query that `with_session` returns.
        position: the position that the cursor holds; 1 for the first page, which needs no session.
        may_lag: whether the database may be a replica, which does not have every page yet.

    Raises:
        InvalidCursor: the viewer has no such session, it has expired, or it has no such page.
        CursorAhead: the same, if the database may lag.
    """
    if position == 1 and row.next_position is None:
        return request
    lifetime = timedelta(seconds=request.settings.session_lifetime)
    is_known = row.next_position is not None and position <= row.next_position
    if not is_known or request.as_of - row.last_at > lifetime:
        raise _lost(position, may_lag=may_lag)
    return replace(
        request,
        position=position,
        next_position=row.next_position,
        rewatch=row.rewatch,
        started_at=row.started_at,
        seen_until=row.seen_until,
        places_before=places_before(row),
        contenders=None if may_lag else _contenders(request, row.contenders),
    )


def stored_contenders(request: FeedRequest, contenders: Contenders) -> dict[str, Any]:
    """Return contenders as a session stores them, with what they were ranked for."""
    return {"origin": _origin(request), **contenders._asdict()}


def _contenders(request: FeedRequest, stored: Mapping[str, Any] | None) -> Contenders | None:
    """Return what a session carries, None if it was ranked for another request, or is for none."""
    if stored is None or stored["origin"] != _origin(request):
        return None
    if stored["pages"] >= request.settings.whole_every or not request.may_carry:
        return None
    return Contenders(stored["pages"], tuple(stored["videos"]))


def _origin(request: FeedRequest) -> str:
    """Return a digest of what decides which candidates there are, besides the session."""
    sources = [(source.name, source.quota) for source in request.registry.every_source]
    parts = request.profile.id, request.formats, request.learned_since, sources
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _lost(position: int, *, may_lag: bool) -> InvalidCursor:
    """Return the error for a session that cannot be continued."""
    if may_lag:
        return CursorAhead()
    return InvalidCursor(_EXPIRED if position == 1 else None)
