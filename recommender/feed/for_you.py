"""Pages of For You: ranked, spread, served; given videos ranked; and why."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from recommender.errors import InvalidValue
from recommender.feed.items import check_all_found, item_of, items_of, row_sources
from recommender.feed.resolve import resolve, seed_of
from recommender.feed.selection import Place, contender, places_of
from recommender.feed.sessions import recorded_page, serve
from recommender.feed.statements import contender_rows, page_rows, shown_rows
from recommender.feed.values import FeedItem, FeedPage
from recommender.formats import scalars
from recommender.formats.scalars import is_key
from recommender.logs import log
from recommender.ranking.classic import ranked_reference
from recommender.ranking.request import DEFAULT_LIMIT, LARGEST_LIMIT, FeedRequest
from recommender.ranking.scoring import (
    pool_of,
    ranked_contenders,
    ranked_given,
    ranked_pool,
)
from recommender.ranking.signals import Signal
from recommender.settings import Settings


def for_you(
    session: Session,
    user: str,
    *,
    limit: int = DEFAULT_LIMIT,
    profile: str | None = None,
    cursor: str | None = None,
    as_of: datetime | None = None,
    record: bool = True,
    rewatch: bool = False,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[str] = (),
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
) -> FeedPage:
    """The viewer's For You page.

    Four statements (the viewer, the profile, the feed, what is shown), and two that record it.

    A page is short only where fewer videos are left that the viewer may be shown; it is then
    `exhausted`, and ``rewatch=True`` begins a session that shows again what was seen. Nothing that
    was served or seen comes again; the next page is ranked anew, and so reflects the last swipe. A
    cursor presented again gives the page that was served for it. On SQLite the transaction is one
    that writes, unless ``record=False``.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the viewer's key; a stranger gets what trends, what is fresh and what is good, and no
            session.
        limit: how many videos at most, 1 to 500.
        profile: ``name`` or ``name@version``; the active one where None.
        cursor: of the page before, or None to begin a session.
        as_of: the reading time, with an offset; now where None.
        record: whether the page is served, and so recorded; a preview writes nothing, and leaves
            the same to chance all day.
        rewatch: whether what was seen before the session may come again.
        where: the caller's own predicate over `Video`; a host's tables come in by EXISTS.
        exclude: keys of videos that shall not come, 10,000 at most.
        signals: the host's own signals with their weights, -100 to 100, on top of the profile's.
        settings: the numbers that shape signals and sources; those of the environment where None.

    Raises:
        InvalidValue: a value is not of its form.
        InvalidCursor: the cursor is not one of this user's, or has expired.
        UnknownProfile: there is no such profile or version.
    """
    started = time.monotonic()
    request = resolve(
        session, user, profile, limit=limit, as_of=as_of, where=where, exclude=exclude,
        signals=signals, settings=settings, cursor=cursor, rewatch=rewatch, lock=record,
    )  # fmt: skip
    page = _page(session, request, record=record)
    took, place = time.monotonic() - started, request.position
    log(logging.DEBUG, "page", videos=len(page.items), position=place, seconds=took)
    return page


def _page(session: Session, request: FeedRequest, *, record: bool) -> FeedPage:
    if request.is_served:
        return recorded_page(session, request)
    if record and request.position == 1:
        request = replace(request, seed=seed_of(str(request.session)))
    page = _ranked(session, request)
    return serve(session, page) if record and request.known else page


def _ranked(session: Session, request: FeedRequest) -> FeedPage:
    if request.profile.is_reference:
        items = items_of(request, page_rows(session, request, ranked_reference, "for_you"))
        return FeedPage(request, items, exhausted=len(items) < request.limit)
    rows, places = _spread(session, request)
    shown = shown_rows(session, [row.video_id for row in rows]) if rows else {}
    there = [(row, place) for row, place in zip(rows, places, strict=True) if row.video_id in shown]
    items = tuple(
        _placed(request, position, row, shown[row.video_id], place)
        for position, (row, place) in enumerate(there, start=request.position)
    )
    return FeedPage(request, items, exhausted=len(places) < request.limit)


def _spread(session: Session, request: FeedRequest) -> tuple[list[Any], list[Place]]:
    """The videos of a page, spread: one statement, or two where the best do not say enough."""
    for ranking, pool in ((ranked_pool, pool_of(request.limit)), (ranked_contenders, None)):
        rows = contender_rows(session, request, ranking, "for_you").all()
        places = _places(request, rows, pool)
        if places is not None:
            break
    chosen = places or []
    return [rows[place.contender] for place in chosen], chosen


def _places(request: FeedRequest, rows: Sequence[Any], pool: int | None) -> list[Place] | None:
    return places_of(request, [contender(request, row) for row in rows], pool)


def _placed(request: FeedRequest, position: int, row: Any, shown: Any, place: Place) -> FeedItem:
    sources = row_sources(request, row)
    return item_of(
        request, position, row, sources, shown, explored=place.explored, crowded=place.crowded
    )


def rank(
    session: Session,
    user: str,
    videos: Iterable[str],
    *,
    profile: str | None = None,
    as_of: datetime | None = None,
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
) -> FeedPage:
    """The given videos, all of them, in the viewer's order; no filter applies.

    Args:
        session: the caller's transaction.
        user: the viewer's key, known or not.
        videos: 1 to 500 videos' keys.
        profile: ``name`` or ``name@version``; the active one where None.
        as_of: the reading time, with an offset; now where None.
        signals: the host's own signals with their weights, -100 to 100, on top of the profile's.
        settings: the numbers that shape signals; those of the environment where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
        UnknownVideo: one of the videos does not exist.
    """
    if isinstance(videos, str):
        raise InvalidValue(f"videos: {scalars.shown(videos)} is one key, not several")
    if not isinstance(videos, Iterable):
        raise InvalidValue(f"videos: {scalars.shown(videos)} is no list of keys")
    keys = list(dict.fromkeys(videos))
    if not 1 <= len(keys) <= LARGEST_LIMIT:
        raise InvalidValue(f"videos: {len(keys):,} are given, not 1 to {LARGEST_LIMIT}")
    request = resolve(
        session, user, profile, limit=len(keys), as_of=as_of, signals=signals, settings=settings
    )
    given = [key for key in keys if is_key(key)]
    items = items_of(request, page_rows(session, request, ranked_given, "rank", given))
    check_all_found(keys, {item.video for item in items})
    return FeedPage(replace(request, session=None), items)
