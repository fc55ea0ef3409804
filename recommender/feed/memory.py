"""The memory of a user: the videos that were served to them, and the ones they have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import BigInteger, ColumnElement, FromClause, Integer, SmallInteger, Uuid
from sqlalchemy.dialects import postgresql, sqlite

from recommender.database import aliases, bulk, lookup
from recommender.database.expressions import Statement
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import InvalidCursor, InvalidValue, UnknownUser
from recommender.feed.cursors import read_cursor, session_uuid
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.models.serving import FOR_YOU_MEMORY
from recommender.models.tables import FEEDS, REMEMBERED, SERVED, SESSIONS, USERS
from recommender.models.types import UtcDateTime
from recommender.telemetry import traced


class Looked(NamedTuple):
    """The part of a session that a request marks as seen: after one position, up to another."""

    after: int
    until: int


def remember(
    session: Session, values: Mapping[str, Any], videos: Sequence[int], started_at: datetime
) -> dict[int, int]:
    """Remember that the videos of a page were served: one statement on SQLite, two on Citus.

    Args:
        session: the caller's transaction.
        values: the user, session, memory and time of the page (`owner`, `own`, `memory`, `moment`),
            and the positions that the request for it marks as seen (`marked`, `looked`).
        videos: the row ids of the page's videos.
        started_at: the time at which the session began.

    Returns:
        How often each video was served to the user by now, by the video's row id.
    """
    # A host's clock may go back, but nothing in a session is older than the session.
    moment = max(values["moment"], started_at)
    if not lookup.is_sqlite(session):
        return _remember_apart(session, {**values, "moment": moment}, videos)
    listed = lookup.listed_values(session, 1, [(video,) for video in videos])
    rows = lookup.run(session, _remember_statement(), {**values, "moment": moment, **listed})
    return {row.video_id: row.attempts for row in rows}


def _remember_apart(
    session: Session, values: Mapping[str, Any], videos: Sequence[int]
) -> dict[int, int]:
    """Mark the pages before as seen, and remember a page: a statement each, on Citus."""
    if values["looked"] > values["marked"]:
        lookup.run(session, _mark_before_statement(), {**values, "its_memory": values["memory"]})
    row = {
        "user_id": values["owner"],
        "memory": values["memory"],
        "session": values["own"],
        "last_at": values["moment"],
        "attempts": 1,
        "seen": False,
    }
    columns = {name: [value] * len(videos) for name, value in row.items()} | {"video_id": videos}
    return bulk.insert_counted(session, REMEMBERED, columns, _CHANGES, ("video_id", "attempts"))


@cache
def _mark_before_statement() -> Any:
    row, place = REMEMBERED.c, SERVED.c
    looked_at = sa.select(place.video_id).where(
        place.user_id == _OWNER,
        place.session == _OWN,
        place.position > sa.bindparam("marked", type_=Integer()),
        place.position <= _LOOKED,
    )
    its_memory = sa.bindparam("its_memory", type_=SmallInteger())  # `memory` is a column
    is_own = (row.user_id == _OWNER, row.memory == its_memory, row.video_id.in_(looked_at))
    return sa.update(REMEMBERED).where(*is_own).values(seen=True)


_MOMENT = sa.bindparam("moment", type_=UtcDateTime())


@cache
def _remember_statement() -> Any:
    """Return the statement that remembers a page, and marks the pages before as seen."""
    listed = lookup.listed(True, (REMEMBERED.c.video_id,))  # noqa: FBT003 - on SQLite
    page = _page(listed, _MOMENT).select_from(listed)
    return _remembered(page, _pages_before(), sqlite)


def remember_at_once(page: FromClause, own: FromClause) -> Any:
    """Return the same statement for PostgreSQL as a part of another one.

    Args:
        page: rows with the `video_id` of the page's videos.
        own: the row of the session with its `started_at` and `last_at`; no row if nothing is to be
            remembered.
    """
    moment = bulk.greatest(own.c.started_at, _MOMENT)
    rows = _page(page, moment).select_from(page).join(own, sa.true())
    return _remembered(rows, _pages_before(own), postgresql)


_CHANGES: Mapping[str, bulk.Merge] = {
    "session": bulk.replace,
    "last_at": bulk.greatest,
    "attempts": bulk.added,
    "seen": sa.or_,
}
"""What a page changes in the memory of a video that was served before."""


def _page(page: FromClause, moment: ColumnElement[Any]) -> Statement:
    """Return the rows of a page that was not served before."""
    once = sa.literal(1, Integer())
    return sa.select(_OWNER, _MEMORY, page.c.video_id, _OWN, moment, once, sa.false())


def _remembered(page: Statement, before: Statement, dialect: Any) -> Any:
    """Return the INSERT of the rows of a page and of the pages before."""
    served = REMEMBERED.c
    insert = dialect.insert(REMEMBERED)
    insert = insert.from_select(list(served.keys()), sa.union_all(page, before))
    changes = {name: merge(served[name], insert.excluded[name]) for name, merge in _CHANGES.items()}
    key = list(REMEMBERED.primary_key)
    upsert = insert.on_conflict_do_update(index_elements=key, set_=changes)
    return upsert.returning(served.video_id, served.attempts)


_OWNER = sa.bindparam("owner", type_=BigInteger())
_MEMORY = sa.bindparam("memory", type_=SmallInteger())
_OWN = sa.bindparam("own", type_=Uuid())
_LOOKED = sa.bindparam("looked", type_=Integer())


def _pages_before(own: FromClause | None = None) -> Statement:
    """Return the rows of the pages before, as they are, but seen and without an attempt.

    Args:
        own: the row of the session, as for `remember_at_once`; without it the session exists.
    """
    row, place = REMEMBERED.alias("row").c, SERVED.alias("place").c
    is_its_row = sa.and_(
        row.user_id == _OWNER, row.memory == _MEMORY, row.video_id == place.video_id
    )
    columns = (row.user_id, row.memory, row.video_id, row.session, row.last_at)
    # Between two times, so that PostgreSQL reads only the partitions of the session's days.
    times = () if own is None else (own.c.started_at, own.c.last_at)
    bounds = [sa.select(time).scalar_subquery() for time in times]
    in_time = [place.served_at.between(bounds[0], bounds[1])] if bounds else []
    return (
        sa.select(*columns, sa.literal(0, Integer()), sa.true())
        .select_from(sa.join(place.page.table, row.seen.table, is_its_row))
        .where(
            place.user_id == _OWNER,
            place.session == _OWN,
            place.position > sa.bindparam("marked", type_=Integer()),
            place.position <= _LOOKED,
            *in_time,
        )
    )


@traced
def mark_seen(
    session: Session,
    user: AnyKey,
    *,
    position: int,
    cursor: str | None = None,
    session_id: UUID | str | None = None,
) -> int:
    """Record how far a viewer looked at the pages of a session: three statements.

    The videos up to that position are seen, also if another session has served them since. They do
    not come again, except in sessions with `rewatch` and on pages of `classic`. Videos after it may
    come again, see `Settings.served_again_after`. A position before one that was marked changes
    nothing.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the viewer's key.
        position: the position of the last video that the viewer looked at, as in
            `FeedItem.position`, from 1. A position after the last page counts as its end.
        cursor: the cursor of any page of the session.
        session_id: the session in place of a cursor, as in `FeedPage.session`.

    Returns:
        The position up to which the session is seen now.

    Raises:
        InvalidValue: a value has the wrong form, or not exactly one of `cursor` and `session_id`
            is given.
        InvalidCursor: the user has no such session.
        UnknownUser: there is no such user.
    """
    if isinstance(position, bool) or not isinstance(position, int) or position < 1:
        raise InvalidValue(f"position: {scalars.shown(position)} is not a whole number from 1")
    if (cursor is None) == (session_id is None):
        raise InvalidValue("cursor: give either a cursor or a session_id")
    own = read_cursor(cursor).session if cursor is not None else session_uuid(session_id)
    key = scalars.parse_named("user", scalars.key, user)
    rows = aliases.find_users(session, [key], [USERS.c.id], lock=True)
    if not rows:
        check_first_rows(session)
        raise UnknownUser(f"there is no user {scalars.shown(user)}")
    seen_until = look_until(session, rows[0][1], own, min(position, MAX_POSITION))
    if seen_until is None:
        raise InvalidCursor
    return seen_until


MAX_POSITION = 2**31 - 1
"""The largest position that a session can have."""


def look_until(
    session: Session, user_id: int | None, own: UUID | None, position: int
) -> int | None:
    """Raise the position up to which a session is seen, and mark its videos: two statements.

    Returns:
        The position up to which it is seen now; None if there is no such session.
    """
    values = {"owner": user_id, "own": own, "looked": position}
    seen_until: int | None = lookup.run(session, _look_statement(), values).scalar()
    if seen_until is not None:
        lookup.run(session, _mark_statement(), values)
    return seen_until


@cache
def _look_statement() -> Any:
    last = SESSIONS.c.next_position - 1
    reached = sa.case((last > _LOOKED, _LOOKED), else_=last)
    return (
        sa.update(SESSIONS)
        .where(SESSIONS.c.user_id == _OWNER, SESSIONS.c.session == _OWN)
        .values(seen_until=bulk.greatest(SESSIONS.c.seen_until, reached))
        .returning(SESSIONS.c.seen_until)
    )


@cache
def _mark_statement() -> Any:
    row, place = REMEMBERED.c, SERVED.c
    own = SESSIONS.c.user_id == _OWNER, SESSIONS.c.session == _OWN
    times = (SESSIONS.c.started_at, SESSIONS.c.last_at)
    # Between two times, so that PostgreSQL reads only the partitions of the session's days.
    first, last = (sa.select(time).where(*own).scalar_subquery() for time in times)
    looked_at = sa.select(place.video_id).where(
        place.user_id == _OWNER,
        place.session == _OWN,
        place.position <= _LOOKED,
        place.served_at.between(first, last),
    )
    is_own = (row.user_id == _OWNER, row.memory == _memory_of_session())
    is_looked_at = (row.video_id.in_(looked_at), ~row.seen)
    return sa.update(REMEMBERED).where(*is_own, *is_looked_at).values(seen=True)


def _memory_of_session() -> sa.ScalarSelect[int]:
    """Return the memory number of the session's feed."""
    memory = sa.func.coalesce(FEEDS.c.memory, sa.literal(FOR_YOU_MEMORY, SmallInteger()))
    sessions = sa.outerjoin(SESSIONS, FEEDS, FEEDS.c.id == SESSIONS.c.feed_id)
    own = sa.select(memory).select_from(sessions)
    return own.where(SESSIONS.c.user_id == _OWNER, SESSIONS.c.session == _OWN).scalar_subquery()
