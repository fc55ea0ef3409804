"""Sessions and their recorded pages: no video is served twice.

A cursor holds a session and the position at which a page begins. The first request to advance the
session past that position serves the page. Concurrent requests receive the same page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import aliased

from recommender.database import aliases, lookup
from recommender.database.aliases import is_meant
from recommender.database.expressions import Statement, named
from recommender.database.session import Session
from recommender.errors import InvalidValue, UnknownUser
from recommender.feed.memory import Looked, look_until
from recommender.feed.recorded import page_at, recorded_page, with_cursor
from recommender.feed.resolve import unranked
from recommender.feed.resumed import places_before, with_session
from recommender.feed.selection import is_within, limits_of, used_up
from recommender.feed.statements import cached_statement, run_cached
from recommender.feed.values import FeedItem, FeedPage
from recommender.feed.writes import write_page
from recommender.formats import scalars
from recommender.models import User, Video
from recommender.models.tables import USERS
from recommender.ranking.filters import allowed
from recommender.ranking.history import keyed_videos, not_seen
from recommender.ranking.request import FeedRequest, PlacedVideo, RequestSummary
from recommender.ranking.viewer import Shape, Viewer, values_of
from recommender.settings import Settings
from recommender.telemetry import traced


@traced
def record_page(session: Session, page: FeedPage, *, settings: Settings | None = None) -> FeedPage:
    """Record a page as served, so that none of its videos comes again.

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
    locks = not lookup.is_distributed(session)
    values: dict[str, Any] = {"session": request.session}
    if not locks:
        found = aliases.find_users(session, [request.user], [USERS.c.id], lock=True)
        values["owner"] = found[0][1] if found else request.user_id
    for is_viewer in (_NAMED.key == request.user, _NAMED.id == request.user_id):
        query = _session_query(is_viewer, lock=locks)
        row = session.execute(query, values).one_or_none()
        if row is not None:
            # The user may have been merged while this transaction waited for the lock.
            return row if row.merged_into is None else _session_row(session, request)
    raise UnknownUser(f"there is no user {scalars.shown(request.user)}")


_NAMED = aliased(User, name="alias")


def _session_query(is_viewer: ColumnElement[bool], *, lock: bool) -> Statement:
    user = sa.select(User.id, User.key, User.merged_into, _NAMED.id.label("named_id"))
    query = with_session(user.select_from(_NAMED).join(User, is_meant(User, _NAMED)))
    query = query.where(is_viewer, User.erased_at.is_(None))
    return query.with_for_update(key_share=True, of=User) if lock else query


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
    videos = [_placed(rows[video]) for video in items_by_video]
    return _placed_again(own, list(items_by_video.values()), [*places_before(last), *videos])


def _passing_query(shape: Shape, viewer: Viewer) -> Statement:
    """Return the query of the given videos that pass the filters of a request.

    Videos that were served recently or often pass too, if not seen: `is_new` is false for them.
    """
    passing = (Video.id.in_(keyed_videos(viewer.given)), *allowed(shape, viewer, again=True))
    is_any = shape.rewatch or shape.is_reference
    is_new = (sa.true() if is_any else not_seen(viewer)).label("is_new")
    return sa.select(Video.id, *_PLACED, is_new).where(*passing)


_PLACED = (Video.creator_id, Video.sound_id, Video.format)


def _placed(row: Any) -> PlacedVideo:
    return PlacedVideo(row.creator_id, row.sound_id, row.format)


def _placed_again(
    request: FeedRequest, items: Sequence[FeedItem], shown: Sequence[PlacedVideo]
) -> tuple[FeedItem, ...]:
    """Return the items numbered again; an item that is now beyond a limit is crowded.

    Args:
        request: the request.
        items: the items that are left, in their order.
        shown: the videos before the page that count, then those of the items.
    """
    limits = () if request.profile.is_reference else limits_of(request.feed)
    first = len(shown) - len(items)
    return tuple(
        replace(item, position=request.position + number, crowded=item.crowded or is_crowded)
        for number, item in enumerate(items)
        for place in (first + number,)
        for is_crowded in (not is_within(shown[place], used_up(shown[:place], limits)),)
    )


def serve(
    session: Session,
    page: FeedPage,
    settings: Settings,
    seen_until: int,
    contenders: Mapping[str, Any] | None = None,
) -> FeedPage:
    """Record a page that was ranked in this transaction, and return it as served.

    It takes one statement on PostgreSQL, and three on SQLite. The user's row must be locked. An
    empty page is not recorded. A page that another transaction recorded meanwhile at the same
    position is returned instead.

    Args:
        session: the caller's transaction.
        page: the page.
        settings: they say whether this page means that the pages before were looked at.
        seen_until: the position up to which the session was seen before.
        contenders: what the session carries to its next page, as it is stored.
    """
    request, is_looked_at = page.request, bool(settings.next_page_means_seen)
    looked_at = Looked(seen_until, request.position - 1 if is_looked_at else 0)
    if not page.items:
        # The other page may have left no video for this one.
        if other := page_at(session, request):
            return other
        if looked_at.until:
            look_until(session, request.user_id, request.session, looked_at.until)
        return _not_recorded(page)
    length = len(page.items)
    asked = request.limit if page.exhausted else length
    if not write_page(session, page, asked, looked_at, contenders):
        return recorded_page(session, request)
    return with_cursor(page, request.position + length)


def _not_recorded(page: FeedPage) -> FeedPage:
    """Return an empty page; its cursor, if any, asks for the same position again."""
    position = page.request.position
    return with_cursor(page, position) if position > 1 or page.cut_short else page
