"""The rows that the pages of a user read.

A page reads the first rows of many orders: the newest videos by a creator, the strongest trends in
a language. A smaller database that holds these first rows, and no row that the larger one lacks,
has the same first rows. So the videos here are those that the sources look at, before most filters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.errors import UnknownUser
from recommender.feed.feeds import list_feeds
from recommender.feed.places import is_refillable
from recommender.feed.resolve import resolve
from recommender.feed.statements import read_top_candidates
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.lists import timelines
from recommender.models import Interaction, UserSound, Video
from recommender.models.tables import RECENT, SERVED, SESSIONS
from recommender.ranking.audience import with_statuses
from recommender.ranking.candidates import quota_of, served_candidates, source_candidates
from recommender.ranking.features import viewer_terms
from recommender.ranking.filters import listed
from recommender.ranking.interests import liked_creators, most_liked
from recommender.ranking.request import LARGEST_LIMIT, REFERENCE, FeedRequest, Profile
from recommender.ranking.sources import (
    BACKFILL,
    EXPLORATION,
    NEW_VIDEO_LIMIT,
    SCAN_FACTOR,
)
from recommender.ranking.viewer import Shape, Viewer
from recommender.settings import Settings

UNWEIGHED = Profile("slice", 1, {})
"""A profile for requests whose videos are not scored: candidates do not depend on weights."""

_NEWEST_FIRST = (Video.published_at.desc(), Video.id.desc())


@dataclass(slots=True)
class PageRows:
    """The rows that the pages of some users read, as sets of row ids.

    Attributes:
        users: the chosen users.
        videos: the videos.
        recent: the videos that the users enjoyed last, whose neighbours are read.
        people: the followed users whose recent engagements are read.
        terms: the words of recent captions, as stored numbers.
        sessions: the sessions that can go on.
        members: all users whose rows the slice has; filled when other rows are copied, as are
            `sounds` and `hashtags`.
    """

    users: set[int] = field(default_factory=set)
    videos: set[int] = field(default_factory=set)
    recent: set[int] = field(default_factory=set)
    people: set[int] = field(default_factory=set)
    terms: set[int] = field(default_factory=set)
    sessions: set[UUID] = field(default_factory=set)
    members: set[int] = field(default_factory=set)
    sounds: set[int] = field(default_factory=set)
    hashtags: set[int] = field(default_factory=set)


def add_pages(
    session: Session, user: AnyKey, as_of: datetime, rows: PageRows, settings: Settings | None
) -> FeedRequest:
    """Add the rows that the pages of a user read at a time, for every feed and list.

    Args:
        session: the caller's transaction, on an engine without a host's signals and filters.
        user: the user's key.
        as_of: the reading time.
        rows: the rows to add to.
        settings: the numbers that shape signals and sources; None for the environment's.

    Returns:
        The user's request for For You.

    Raises:
        UnknownUser: there is no such user.
    """
    asked: dict[str, Any] = {"limit": LARGEST_LIMIT, "as_of": as_of, "settings": settings}
    own = resolve(session, user, UNWEIGHED, **asked)
    if own.user_id is None:
        raise UnknownUser(f"there is no user {scalars.shown(user)}")
    rows.users.add(own.user_id)
    rows.members.add(own.user_id)
    _add_history(session, own, rows)
    _add_sessions(session, own, rows)
    for feed in (None, *_live_feeds(session, own)):
        request, reference = (
            resolve(session, user, profile, feed=feed, **asked)
            for profile in (UNWEIGHED, REFERENCE)
        )
        _add_candidates(session, request, rows)
        # The reference formula has no sources: its largest page holds every smaller one.
        rows.videos.update({row.video_id for row in read_top_candidates(session, reference).rows})
    _add_lists(session, own, rows)
    return own


def _live_feeds(session: Session, request: FeedRequest) -> list[str]:
    """Return the names of the feeds that begin sessions, unless they read sources of the host."""
    known = {source.name for source in request.registry.every_source}
    newest = {feed.name: feed for feed in list_feeds(session)}
    return [
        name for name, feed in newest.items() if not feed.deleted_at and known >= {*feed.sources}
    ]


def _ids(session: Session, statement: Statement) -> set[int]:
    """Return the ids in the first column of a statement, without NULL."""
    found = lookup.run(session, statement)
    return {row[0] for row in found if row[0] is not None}


def _add_history(session: Session, request: FeedRequest, rows: PageRows) -> None:
    """Add what the user enjoyed and saw last, and the people whose engagements are read."""
    viewer, state = Viewer.of(request), Interaction
    recent = _ids(session, sa.select(viewer.recent.c.video_id))
    seen = (
        sa.select(state.video_id)
        .where(state.user_id == viewer.user_id, state.last_at > viewer.learned_since)
        .order_by(state.last_at.desc(), state.video_id.desc())
        .limit(viewer.seen_lately)
    )
    # The newest engagement of each: it decides whose engagements are read.
    newest = sa.select(sa.func.max(RECENT.c.video_id)).group_by(RECENT.c.user_id)
    people = _ids(session, sa.select(viewer.people.c.user_id))
    rows.people.update(people)
    rows.recent.update(recent)
    rows.videos.update(recent | _ids(session, seen))
    rows.videos.update(_ids(session, newest.where(RECENT.c.user_id.in_(people))))
    rows.terms.update(_ids(session, sa.select(viewer_terms(viewer).c.term)))


def _add_sessions(session: Session, request: FeedRequest, rows: PageRows) -> None:
    """Add the sessions that can go on, and the videos of their places."""
    since = request.as_of - timedelta(seconds=request.settings.session_lifetime)
    own = SESSIONS.c.user_id == request.user_id, SESSIONS.c.last_at >= since
    going_on = sa.select(SESSIONS.c.session).where(*own)
    rows.sessions.update(set(lookup.run(session, going_on).scalars()))
    places = sa.select(SERVED.c.video_id).where(
        SERVED.c.user_id == request.user_id, SERVED.c.session.in_(going_on)
    )
    rows.videos.update(_ids(session, places))


def _add_candidates(session: Session, request: FeedRequest, rows: PageRows) -> None:
    """Add the videos that the sources of a feed look at."""
    shape, viewer = Shape.of(replace(request, fills=True)), Viewer.of(request)
    found = 0
    for source in shape.registry.every_source:
        if not (quota := quota_of(source, shape)):
            continue
        if source.name == BACKFILL or source.is_filtered:
            videos = _ids(session, source_candidates(source, shape, viewer))
            found += len(videos) if source.name == BACKFILL else 0
        elif source.name == EXPLORATION:
            videos = _ids(session, _new_videos(viewer))
        else:
            videos = _ids(session, source.select(viewer, quota))
        rows.videos.update(
            videos | _newest_of_each(session, viewer, source.name, SCAN_FACTOR * quota)
        )
    # With two full pages left, no page is filled up with videos that were served before.
    if found < 2 * LARGEST_LIMIT and is_refillable(request):
        rows.videos.update(_ids(session, served_candidates(shape, viewer)))


def _new_videos(viewer: Viewer) -> Statement:
    """Return the new videos among which exploration candidates are drawn: their number counts."""
    is_new = Video.published_at.between(viewer.trial_since, viewer.as_of)
    new = sa.select(Video.id).where(listed(viewer), is_new)
    return new.order_by(*_NEWEST_FIRST).limit(NEW_VIDEO_LIMIT)


def _newest_of_each(session: Session, viewer: Viewer, source: str, limit: int) -> set[int]:
    """Return the newest video of each creator or sound that a source wants, if they are too many.

    Their newest videos decide which of them the source reads.

    Args:
        session: the caller's transaction.
        viewer: the viewer of the request.
        source: the name of the source.
        limit: the largest number of creators or sounds that it reads.
    """
    if source not in WANTED:
        return set()
    column, wanted = WANTED[source]
    subjects = wanted(viewer)
    status = subjects.c.get("status", sa.literal("published", sa.Text()))
    newest = (
        sa.select(Video.id)
        .where(column == subjects.c[0], Video.status == status)
        .where(Video.published_at <= viewer.as_of)
        .order_by(*_NEWEST_FIRST)
        .limit(1)
        .scalar_subquery()
    )
    number = lookup.run(session, sa.select(sa.func.count()).select_from(subjects)).scalar_one()
    return _ids(session, sa.select(newest).select_from(subjects)) if number > limit else set()


def _followed(viewer: Viewer) -> sa.Subquery:
    return with_statuses(viewer.followed, "published", "followers")


def _liked_sounds(viewer: Viewer) -> sa.Subquery:
    declared = sa.select(UserSound.sound_id).where(UserSound.user_id == viewer.user_id)
    return sa.union(declared, most_liked(viewer, "sound")).subquery("liked_sounds")


WANTED: Mapping[str, tuple[Any, Callable[[Viewer], sa.Subquery]]] = {
    "following": (Video.creator_id, _followed),
    "creators": (Video.creator_id, liked_creators),
    "sounds": (Video.sound_id, _liked_sounds),
}
"""The creators or sounds whose newest videos a source reads, by the name of the source."""


def _add_lists(session: Session, request: FeedRequest, rows: PageRows) -> None:
    """Add the first videos of the plain lists, and a video for followers if there is any."""
    walks = (
        partial(timelines.following, session, request.user),
        partial(timelines.trending, session, request.language, request.country),
    )
    for walk in walks:
        page = walk(limit=LARGEST_LIMIT, as_of=request.as_of)
        # One video more tells whether the list goes on.
        rest = walk(limit=1, as_of=request.as_of, cursor=page.cursor) if page.cursor else None
        after = rest.items if rest else ()
        rows.videos.update({item.video_id for item in (*page.items, *after)})
    for_followers = sa.select(Video.id).where(Video.status == "followers")
    rows.videos.update(_ids(session, for_followers.order_by(*_NEWEST_FIRST).limit(1)))
