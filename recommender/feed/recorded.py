"""Pages that were served, read from the log of places."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.errors import InvalidCursor
from recommender.feed.cursors import SessionPosition
from recommender.feed.items import shown_fields
from recommender.feed.resolve import unranked
from recommender.feed.statements import MAX_STATEMENTS, page_query
from recommender.feed.values import Contribution, FeedItem, FeedPage
from recommender.formats.scalars import LIST_SEPARATOR
from recommender.models.tables import SERVED, SESSIONS
from recommender.ranking.filters import still_allowed
from recommender.ranking.profiles import profile_of_id
from recommender.ranking.registry import Registry
from recommender.ranking.request import Profile, RequestSummary
from recommender.ranking.scoring import score_of
from recommender.ranking.viewer import Viewer, ViewerParts, values_of


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
    page = page_at(session, request)
    if page is None:
        raise InvalidCursor
    return page


def page_at(session: Session, request: RequestSummary) -> FeedPage | None:
    """Return the recorded page that begins at the position of a request; None if there is none."""
    own, place = unranked(session, request), {"own": request.session, "page": request.position}
    rows = lookup.run(session, _recorded_query(own.registry), {**values_of(own), **place}).all()
    if not rows:
        return None
    first = rows[0]
    profiles = _profiles(session, request, {row.profile_id for row in rows})
    # Pages of an experiment have the profile of the arm, which ranks some of the videos, or none of
    # them, if the experiment is interleaved.
    is_own = request.arm is not None or request.profile.id in profiles
    profile = request.profile if is_own else profiles[first.profile_id]
    served = replace(request, profile=profile, limit=first.asked, as_of=first.served_at)
    still = "still_in_classic" if profile.is_reference else "still"
    shown = [row for row in rows if row._mapping[still]]  # noqa: SLF001 - its API
    page = FeedPage(
        request=served,
        items=tuple(_recorded_item(row, profiles[row.profile_id], profile) for row in shown),
        exhausted=first.after - request.position < first.asked,
    )
    return with_cursor(page, first.after)


def _profiles(
    session: Session, request: RequestSummary, ids: Iterable[int]
) -> dict[int | None, Profile]:
    """Return profiles by their row ids; a statement for each but the request's own."""
    own = request.profile
    return {one: own if one == own.id else profile_of_id(session, one) for one in ids}


@lru_cache(MAX_STATEMENTS)
def _recorded_query(registry: Registry) -> Statement:
    """Return the query of a page's videos in order, with the position of the next page."""
    viewer, position = Viewer.named(ViewerParts()), sa.bindparam("page", type_=sa.Integer())
    owner, session = viewer.user_id, sa.bindparam("own", type_=sa.Uuid())
    started_at, last_at, end = (
        sa.select(SESSIONS.c[name])
        .where(SESSIONS.c.user_id == owner, SESSIONS.c.session == session)
        .scalar_subquery()
        for name in ("started_at", "last_at", "next_position")
    )
    # Between two times, so that PostgreSQL reads only the partitions of the session's days.
    in_time = SERVED.c.served_at.between(started_at, last_at)
    own = (SERVED.c.user_id == owner, SERVED.c.session == session, in_time)
    later = sa.select(sa.func.min(SERVED.c.page)).where(*own, SERVED.c.page > position)
    after = sa.func.coalesce(later.scalar_subquery(), end).label("after")
    served = sa.select(*SERVED.c, after).where(*own, SERVED.c.page == position)
    shown = page_query(served, "recorded_page").order_by(None)
    shown = shown.add_columns(
        still_allowed(viewer, registry.filters, is_reference=False).label("still"),
        still_allowed(viewer, registry.filters, is_reference=True).label("still_in_classic"),
    )
    return shown.order_by(shown.selected_columns.position)


def _recorded_item(row: Any, profile: Profile, of_page: Profile) -> FeedItem:
    values, weights = row.signals, profile.weights
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
        profile=None if profile is of_page else profile,
        **shown_fields(row),
    )


def with_cursor(page: FeedPage, after: int) -> FeedPage:
    """Return the page with its session, and with the cursor of the next page if there is one."""
    session = page.request.session
    assert session is not None  # noqa: S101 - every known viewer's request has one
    place = SessionPosition(session, after, page.request.scan_after)
    cursor = None if page.exhausted else place.cursor
    return replace(page, session=str(session), cursor=cursor)
