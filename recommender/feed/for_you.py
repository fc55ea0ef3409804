"""The pages of For You, and the ranking of given videos."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement

from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.feed.budget import Ranked, checked_budget, more_reduced, ranked_within
from recommender.feed.items import (
    check_videos_exist,
    outcomes_of,
    placed_items,
    scored_candidates,
    video_key,
)
from recommender.feed.places import in_order, is_refillable, left_over, refilled
from recommender.feed.reasons import with_reasons
from recommender.feed.recorded import recorded_page
from recommender.feed.resolve import resolve
from recommender.feed.resumed import stored_contenders
from recommender.feed.selection import draft
from recommender.feed.sessions import serve
from recommender.feed.statements import Candidates, read_given_candidates, read_scan_end
from recommender.feed.values import FeedItem, FeedPage, Words, checked_words
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.logs import log
from recommender.ranking.request import DEFAULT_LIMIT, LARGEST_LIMIT, FeedRequest
from recommender.ranking.signals import Signal
from recommender.ranking.sources import BACKFILL
from recommender.settings import Settings
from recommender.telemetry import count_page, traced


@traced
def for_you(
    session: Session,
    user: AnyKey,
    *,
    limit: int = DEFAULT_LIMIT,
    profile: str | None = None,
    feed: str | None = None,
    cursor: str | None = None,
    session_id: UUID | str | None = None,
    as_of: datetime | None = None,
    record: bool = True,
    rewatch: bool = False,
    assign: str | None = None,
    where: ColumnElement[bool] | None = None,
    formats: Iterable[str] = (),
    exclude: Iterable[AnyKey] = (),
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
    reasons: bool = False,
    words: Mapping[str, Words] | None = None,
    budget_ms: float | None = None,
) -> FeedPage:
    """Return the viewer's next For You page, and record it as served.

    It takes three statements (viewer and profile, ranking, shown columns), and to record the page
    one on PostgreSQL and three on SQLite. Videos that were seen do not come again, and in a session
    nothing comes twice. Videos that were served and not seen may come again after
    `Settings.served_again_after`. They also fill the end of a page that no other video is left for,
    which costs a statement or two. Each page is ranked when it is requested, so it reflects the
    last swipe. A cursor that is presented again
    returns the page that was served for it. A `session_id` that is presented again returns the
    first page of its session. A page is short only if no more videos may be shown; it is then
    `exhausted`. Or it is short because few of the newest videos fulfil `where`: a page looks at
    `Settings.scan_limit` of them, the next page goes on, and this page is `cut_short`. On SQLite
    the transaction must be a writing one, unless ``record=False``.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the viewer's key; an unknown user gets pages, but no session.
        limit: the maximum number of videos, 1 to 500.
        profile: ``name`` or ``name@version``; None for the one of the viewer's arm in an
            experiment, or of the feed, or the active one, or the profile of the page before. A
            session keeps its profile until a page names another one, and is in no experiment then.
        feed: the name of a feed of `create_feed`; None for For You. A session keeps the feed, and
            the version of it, with which it began: its cursors need no `feed`.
        cursor: the cursor of the page before; None or empty to begin a session.
        session_id: a UUID that the client chose for the session that begins, so that it can ask
            again for the first page; None for a new one. It is unique within the user: two users'
            sessions may have the same. An empty page begins no session.
        as_of: the reading time, with an offset; None for now.
        record: whether to serve the page; a preview writes nothing, and has one random seed a day.
        rewatch: whether videos that were seen before the session may come again.
        assign: what decides the arm of an experiment for an unknown user, such as a device's id;
            None if they are in no experiment. A known user's arm follows from their row.
        where: a condition of the host over `Video`; use EXISTS for the host's tables.
        formats: the formats of the videos, 10 at most; empty for all videos, or for those of the
            feed. Each page names its own: a session does not keep them.
        exclude: the keys of videos to leave out, 10,000 at most.
        signals: the host's own signals with their weights, -100 to 100, added to the profile's.
        settings: the numbers that shape signals and sources; None for the environment's.
        reasons: whether the items tell their reasons: one statement more for a known viewer, also
            for a page that was served already.
        words: the words for each format in these sentences; another format is called a video.
        budget_ms: the time that the ranking may take, 1 to 3,600,000 milliseconds; None for any
            time. If recent pages took longer, a page ranks fewer candidates. On PostgreSQL a
            ranking that takes twice as long is cancelled, and the page comes from few sources.
            `FeedPage.reduced` tells it. It is no promise: looking up the viewer, showing and
            recording the page come on top.

    Raises:
        InvalidValue: a value has the wrong form.
        InvalidCursor: the cursor is not this user's, or its session or `session_id` has expired.
        CursorAhead: the same with ``record=False``, if the reason could be a replica that lags: ask
            the primary, which raises `InvalidCursor` for a forged or expired cursor.
        UnknownFeed: there is no such feed, or it was deleted.
        UnknownProfile: the profile or version does not exist.
    """
    started, own_words = time.monotonic(), checked_words(words)
    budget = checked_budget(budget_ms)
    request = resolve(
        session, user, profile, feed=feed, limit=limit, as_of=as_of, where=where, formats=formats,
        exclude=exclude, signals=signals, settings=settings, cursor=cursor, session_id=session_id,
        rewatch=rewatch, assign=assign, lock=record,
    )  # fmt: skip
    page = make_page(session, request, record=record, budget_ms=budget)
    if reasons:
        page = with_reasons(session, request, page, own_words)
    took, place = time.monotonic() - started, request.position
    videos = len(page.items)
    log(logging.DEBUG, "page", videos=videos, position=place, seconds=took)
    count_page(
        videos=videos, position=place, seconds=took, exhausted=page.exhausted, recorded=record
    )
    return page


def make_page(
    session: Session, request: FeedRequest, *, record: bool, budget_ms: float | None = None
) -> FeedPage:
    """Make the page of a resolved request: candidates, places, items, the record of it.

    A page that was served already is returned as it was.
    """
    if request.is_served:
        return recorded_page(session, request)
    started = time.monotonic()
    candidates, places, reduced = ranked_within(session, request, budget_ms)
    page = FeedPage(request, ())
    if len(places) < request.limit:
        page = short_page(session, request)
    if page.exhausted and is_refillable(request):
        candidates, places = refilled(session, request, candidates, places)
        page = replace(page, exhausted=len(places) < request.limit)
    items = placed_items(session, request, candidates, places)
    if request.rival is not None:
        against = replace(request, profile=request.rival, rival=None)
        others = ranked_within(session, against, budget_ms)
        items = interleaved_items(session, request, candidates, items, against, others)
        reduced = more_reduced(reduced, others.reduced)
    took = time.monotonic() - started
    page = replace(page, items=items, milliseconds=round(1000 * took), reduced=reduced)
    if not (record and request.known):
        return page
    # What few sources left over would be ranked by the pages after it, too.
    contenders = None if reduced == "sources" else left_over(request, candidates, places)
    stored = contenders and stored_contenders(request, contenders)
    return serve(session, page, request.settings, request.seen_until, stored)


def interleaved_items(
    session: Session,
    request: FeedRequest,
    candidates: Candidates,
    own: Sequence[FeedItem],
    against: FeedRequest,
    others: Ranked,
) -> tuple[FeedItem, ...]:
    """Return the videos of a page and of the rival profile's page in turn: one statement.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        candidates: the candidates of the page.
        own: the items of the page.
        against: the same request with the rival profile.
        others: what was ranked for that request.
    """
    teams = own, placed_items(session, against, others.candidates, others.places)
    videos = {
        row.video_id: candidate
        for each, found in ((request, candidates), (against, others.candidates))
        for row, candidate in zip(found.rows, scored_candidates(each, found.rows), strict=True)
    }
    lists = [[item.video_id for item in team] for team in teams]
    picks = draft(lists, videos, request)
    return tuple(
        replace(
            teams[pick.team][pick.place],
            position=position,
            crowded=pick.crowded,
            profile=against.profile if pick.team else None,
        )
        for position, pick in enumerate(picks, start=request.position)
    )


def short_page(session: Session, request: FeedRequest) -> FeedPage:
    """Return a page with the reason why it is short, but no items: at most one statement."""
    is_scan = request.has_conditions and request.reads(BACKFILL)
    is_scan = is_scan and not request.profile.is_reference
    end = read_scan_end(session, request) if is_scan else None
    if end is None:
        return FeedPage(request, (), exhausted=True)
    return FeedPage(replace(request, scan_after=end), (), cut_short=True)


@traced
def rank(
    session: Session,
    user: AnyKey,
    videos: Iterable[AnyKey],
    *,
    profile: str | None = None,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[AnyKey] = (),
    allowed_only: bool = False,
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
    reasons: bool = False,
    words: Mapping[str, Words] | None = None,
) -> FeedPage:
    """Return the given videos in the viewer's order, each with the outcomes of the filters.

    No filter leaves a video out, only `exclude` does. `FeedItem.filters` tells which filters would.

    Args:
        session: the caller's transaction.
        user: the viewer's key, known or not.
        videos: the keys of 1 to 500 videos.
        profile: ``name`` or ``name@version``; None for the one of the viewer's arm in an
            experiment, which is the control if it is interleaved, or the active one.
        as_of: the reading time, with an offset; None for now.
        where: a condition of the host over `Video`, as in `for_you`; its outcome is told too.
        exclude: the keys of videos to leave out, 10,000 at most.
        allowed_only: whether to leave out the videos that do not pass every filter.
        signals: the host's own signals with their weights, -100 to 100, added to the profile's.
        settings: the numbers that shape signals; None for the environment's.
        reasons: whether the items tell the reasons for their places, as in `for_you`.
        words: the words for each format in these sentences; another format is called a video.

    Raises:
        InvalidValue: a value has the wrong form.
        UnknownProfile: the profile or version does not exist.
        UnknownVideo: one of the videos does not exist and is not excluded.
    """
    keys, own_words = _distinct_keys(videos), checked_words(words)
    request = resolve(
        session, user, profile, limit=len(keys), as_of=as_of, where=where, exclude=exclude,
        signals=signals, settings=settings,
    )  # fmt: skip
    items = _ranked_items(session, request, [key for key in keys if key not in request.exclude])
    if allowed_only:
        items = [item for item in items if all(outcome.passed for outcome in item.filters)]
    placed = (replace(item, position=place) for place, item in enumerate(items, start=1))
    page = FeedPage(replace(request, session=None), tuple(placed))
    return with_reasons(session, request, page, own_words) if reasons else page


def _ranked_items(session: Session, request: FeedRequest, keys: Sequence[str]) -> list[FeedItem]:
    """Return the given videos in order, with the outcomes of the filters: one statement."""
    candidates = read_given_candidates(session, replace(request, exclude=()), keys)
    filters = {row.video_id: outcomes_of(row) for row in candidates.rows}
    items = placed_items(session, request, candidates, in_order(candidates))
    check_videos_exist(keys, {item.video for item in items})
    return [replace(item, filters=filters[item.video_id]) for item in items]


def _distinct_keys(videos: Iterable[AnyKey]) -> list[str]:
    """Return the keys in their order, each once; `InvalidValue` unless there are 1 to 500."""
    if isinstance(videos, str):
        raise InvalidValue(f"videos: {scalars.shown(videos)} is one key, not several")
    if not isinstance(videos, Iterable):
        raise InvalidValue(f"videos: {scalars.shown(videos)} is no list of keys")
    keys = list(dict.fromkeys(map(video_key, videos)))
    if not 1 <= len(keys) <= LARGEST_LIMIT:
        raise InvalidValue(f"videos: {len(keys):,} are given, not 1 to {LARGEST_LIMIT}")
    return keys
