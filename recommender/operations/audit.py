"""Whether what was served kept its promises: counts over every page, read and never written.

Each statement is an aggregate that reads its tables once, or by an index, and gives one row, or one
for each number of videos or followers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Select, Subquery
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.formats import scalars
from recommender.models import (
    FeedSession,
    Follow,
    Interaction,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    ProfileVersion,
    ServedVideo,
    Sound,
    Video,
    VideoCaption,
    VideoHashtag,
)
from recommender.ranking.request import REFERENCE

PROMISES = (
    "repeats", "neighbours_creator", "neighbours_sound", "served_again", "muted", "own",
    "out_of_order",
)  # fmt: skip
"""The counts of an audit that are 0 where the recommender did what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was served, and how often a promise about it was broken.

    The reference formula promises nothing of neighbours, of what was served before, of mutes and of
    a user's own videos: its places are left out of those counts.

    Attributes:
        sessions: sessions begun.
        pages: pages with at least one video; an empty one leaves no trace.
        items: places served: one for each video of a page.
        users: users with at least one place.
        repeats: a promise: places whose video had an earlier place in the same session.
        neighbours_creator: a promise: places, not marked crowded, by the creator of the place
            before.
        neighbours_sound: a promise: the same of the sound.
        crowded: places marked so, since all else was by the creator, or with the sound, of the one
            before.
        served_again: a promise: places whose video was served to the same user in another session
            before; rewatching sessions are left out.
        seen_before: places whose video the user did something with before; the same are left out.
            No promise, since events may come late.
        muted: a promise: places whose video the user had muted by then and mutes still: by its
            creator, a hashtag, its sound, whose sound it is, or words of its caption.
        own: a promise: places of a user's own video.
        out_of_order: a promise: sessions whose positions are not 1, 2, 3 and so on up to the next.
        explored_share: places kept for videos on trial, of all, 0 to 1; None where there is none.
        short_pages: pages with fewer videos than were asked for.
        small_creators_share: places by the less followed half of all who have a published video
            (at or below the median number of followers), of all, 0 to 1; None where there is none.
        creator_gini: how unequally the places are shared by the creators who have any: 0 where all
            have the same, towards 1 where one has nearly all; None where there is none.
    """

    sessions: int
    pages: int
    items: int
    users: int
    repeats: int
    neighbours_creator: int
    neighbours_sound: int
    crowded: int
    served_again: int
    seen_before: int
    muted: int
    own: int
    out_of_order: int
    explored_share: float | None
    short_pages: int
    small_creators_share: float | None
    creator_gini: float | None

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the promises that were broken."""
        return tuple(name for name in PROMISES if getattr(self, name))


def audit(session: Session, *, since: datetime | None = None) -> Audit:
    """Check every page that was ever served against what the recommender promises.

    It reads all places several times: on many millions of them let PostgreSQL's
    `statement_timeout` be minutes.

    Args:
        session: the caller's transaction; nothing is written.
        since: with an offset: only sessions in which a page was served then or later, each as a
            whole; all where None.

    Raises:
        InvalidValue: the time is not of its form.
    """
    since = None if since is None else scalars.time(since)
    totals = _one(session, _totals(since))
    explored, items = totals.pop("explored"), totals.pop("places")
    return Audit(
        **totals,
        items=items,
        **_one(session, _repeats(since)),
        **_one(session, _neighbours(since)),
        served_again=_count(session, _served_again(since)),
        seen_before=_count(session, _seen_before(since)),
        muted=_count(session, _muted(since)),
        own=_count(session, _own(since)),
        explored_share=explored / items if items else None,
        small_creators_share=_small_creators_share(_all(session, _by_followers(since))),
        creator_gini=_gini(_all(session, _by_places(since))),
    )


def _one(session: Session, totals: Statement) -> dict[str, int]:
    """The one row of a statement of sums; a sum of nothing is 0."""
    (row,) = _all(session, totals)
    return {name: int(value or 0) for name, value in row._mapping.items()}  # noqa: SLF001 - its API


def _count(session: Session, rows: Select[Any] | sa.CompoundSelect[Any]) -> int:
    """How many rows there are."""
    counted = sa.select(sa.func.count()).select_from(rows.subquery("places"))
    return int(_all(session, counted)[0][0])


def _all(session: Session, statement: Statement) -> Sequence[Any]:
    named = statement.prefix_with("/* recommender.audit */")
    return lookup.run(session, named).all()


def _places(since: datetime | None, *columns: Any) -> Statement:
    """Columns of every place of the sessions that are looked at."""
    places = sa.select(*columns).select_from(ServedVideo)
    if since is None:
        return places
    lately = sa.select(FeedSession.user_id, FeedSession.session).where(FeedSession.last_at >= since)
    return places.where(sa.tuple_(ServedVideo.user_id, ServedVideo.session).in_(lately))


def _promises_more() -> ColumnElement[bool]:
    """The place is not of the reference formula, which promises an order and nothing else."""
    reference = sa.select(ProfileVersion.id).where(ProfileVersion.name == REFERENCE)
    return ServedVideo.profile_id.not_in(reference)


def _totals(since: datetime | None) -> Statement:
    """What there is, from the sessions and what each served."""
    served = _sessions(since)
    last = FeedSession.next_position - 1
    is_in_order = sa.and_(
        sa.func.coalesce(served.c.places, 0) == last,
        sa.func.coalesce(served.c.first, 1) == 1,
        sa.func.coalesce(served.c.last, 0) == last,
    )
    is_its = sa.and_(
        served.c.user_id == FeedSession.user_id, served.c.session == FeedSession.session
    )
    sums = ("pages", "places", "explored", "short_pages")
    totals = sa.select(
        sa.func.count().label("sessions"),
        sa.func.count(served.c.user_id.distinct()).label("users"),
        *(sa.func.sum(served.c[name]).label(name) for name in sums),
        sa.func.count().filter(~is_in_order).label("out_of_order"),
    )
    totals = totals.select_from(FeedSession).outerjoin(served, is_its)
    return totals if since is None else totals.where(FeedSession.last_at >= since)


def _sessions(since: datetime | None) -> Subquery:
    """Of each session what its pages are together; its positions are distinct by their key."""
    page = _pages(since)
    return (
        sa.select(
            page.c.user_id,
            page.c.session,
            sa.func.count().label("pages"),
            sa.func.sum(page.c.places).label("places"),
            sa.func.min(page.c.first).label("first"),
            sa.func.max(page.c.last).label("last"),
            sa.func.sum(page.c.explored).label("explored"),
            sa.func.count().filter(page.c.places < page.c.asked).label("short_pages"),
        )
        .group_by(page.c.user_id, page.c.session)
        .subquery("served_sessions")
    )


def _pages(since: datetime | None) -> Subquery:
    key = (ServedVideo.user_id, ServedVideo.session, ServedVideo.page)
    return (
        _places(
            since,
            *key,
            sa.func.count().label("places"),
            sa.func.max(ServedVideo.asked).label("asked"),
            sa.func.min(ServedVideo.position).label("first"),
            sa.func.max(ServedVideo.position).label("last"),
            sa.func.count().filter(ServedVideo.explored).label("explored"),
        )
        .group_by(*key)
        .subquery("pages")
    )


def _repeats(since: datetime | None) -> Statement:
    """How often a video was served in a session after the first time."""
    key = (ServedVideo.user_id, ServedVideo.session, ServedVideo.video_id)
    times = sa.func.count()
    served = (
        _places(since, times.label("times")).group_by(*key).having(times > 1).subquery("served")
    )
    return sa.select(sa.func.sum(served.c.times - 1).label("repeats"))


def _neighbours(since: datetime | None) -> Statement:
    """How many places are like the one before them, by what they promise."""
    places = (
        _places(
            since,
            ServedVideo.crowded,
            sa.and_(~ServedVideo.crowded, _promises_more()).label("is_promise"),
            (Video.creator_id == _of_the_place_before(Video.creator_id)).label("creator"),
            (Video.sound_id == _of_the_place_before(Video.sound_id)).label("sound"),
        )
        .join(Video, Video.id == ServedVideo.video_id)
        .subquery("places")
    )
    is_broken = places.c.is_promise
    return sa.select(
        sa.func.count().filter(is_broken, places.c.creator).label("neighbours_creator"),
        sa.func.count().filter(is_broken, places.c.sound).label("neighbours_sound"),
        sa.func.count().filter(places.c.crowded).label("crowded"),
    )


def _of_the_place_before(column: Any) -> ColumnElement[Any]:
    session = (ServedVideo.user_id, ServedVideo.session)
    return sa.func.lag(column).over(partition_by=session, order_by=ServedVideo.position)


def _is_new(since: datetime | None) -> ColumnElement[bool]:
    """The place, of a session that is looked at, promises a video that is new to its user."""
    is_looked_at = sa.true() if since is None else FeedSession.last_at >= since
    return sa.and_(~FeedSession.rewatch, _promises_more(), is_looked_at)


def _served_again(since: datetime | None) -> Statement:
    """Each place whose video its user got first in another session, looked at or not.

    Of the few videos that a user got twice, which an index alone tells; SQLite would look for an
    earlier place of every place among all of its user's.
    """
    video = (ServedVideo.user_id, ServedVideo.video_id)
    twice = sa.select(*video).group_by(*video).having(sa.func.count() > 1)
    order = (ServedVideo.served_at, ServedVideo.session)
    first = sa.func.first_value(ServedVideo.session).over(partition_by=video, order_by=order)
    places = (
        sa.select(ServedVideo.session, first.label("first"), _is_new(since).label("is_new"))
        .join(FeedSession)
        .where(sa.tuple_(*video).in_(twice))
        .subquery("places")
    )
    return sa.select(places.c.session).where(places.c.is_new, places.c.first != places.c.session)


def _seen_before(since: datetime | None) -> Statement:
    is_before = sa.and_(
        Interaction.user_id == ServedVideo.user_id,
        Interaction.video_id == ServedVideo.video_id,
        Interaction.first_at < ServedVideo.served_at,
    )
    places = sa.select(ServedVideo.position).join(FeedSession).join(Interaction, is_before)
    return places.where(_is_new(since))


def _own(since: datetime | None) -> Statement:
    is_own = sa.and_(Video.id == ServedVideo.video_id, Video.creator_id == ServedVideo.user_id)
    return _places(since, ServedVideo.position).join(Video, is_own).where(_promises_more())


def _muted(since: datetime | None) -> sa.CompoundSelect[Any]:
    """Each place once, in however many ways its video was muted."""
    key = (ServedVideo.user_id, ServedVideo.session, ServedVideo.position)
    places = _places(since, *key).join(Video, Video.id == ServedVideo.video_id)
    places = places.where(_promises_more())
    with_sound = places.join(Sound, Sound.id == Video.sound_id)
    with_hashtag = places.join(VideoHashtag, VideoHashtag.video_id == Video.id)
    with_caption = places.join(VideoCaption, VideoCaption.video_id == Video.id)
    is_hashtag = MutedHashtag.hashtag_id == VideoHashtag.hashtag_id
    without = sa.func.replace(VideoCaption.words, MutedKeyword.keyword, "")
    return sa.union(
        _by_then(places, MutedCreator, MutedCreator.creator_id == Video.creator_id),
        _by_then(places, MutedSound, MutedSound.sound_id == Video.sound_id),
        _by_then(with_sound, MutedCreator, MutedCreator.creator_id == Sound.creator_id),
        _by_then(with_hashtag, MutedHashtag, is_hashtag),
        _by_then(with_caption, MutedKeyword, without != VideoCaption.words),
    )


def _by_then(places: Statement, mute: Any, is_muted: ColumnElement[bool]) -> Statement:
    """The places whose user had muted what they have, when they were served."""
    is_the_users = mute.user_id == ServedVideo.user_id
    return places.join(mute, sa.and_(is_the_users, is_muted)).where(
        mute.muted_at <= ServedVideo.served_at
    )


def _by_creator(since: datetime | None) -> Subquery:
    """How many places each creator has who has any."""
    places = _places(since, Video.creator_id, sa.func.count().label("places"))
    places = places.join(Video, Video.id == ServedVideo.video_id)
    return places.group_by(Video.creator_id).subquery("served_creators")


def _by_places(since: datetime | None) -> Statement:
    """How many creators have a number of places, for each such number in order."""
    served = _by_creator(since)
    creators: Statement = sa.select(served.c.places, sa.func.count().label("creators"))
    return creators.group_by(served.c.places).order_by(served.c.places)


def _gini(counts: Sequence[Any]) -> float | None:
    """The Gini coefficient of numbers of places, each given with how many creators have it."""
    creators = places = weighted = 0
    for each in counts:
        ranks = each.creators * creators + each.creators * (each.creators + 1) // 2
        weighted += each.places * ranks
        creators += each.creators
        places += each.places * each.creators
    return (2 * weighted - (creators + 1) * places) / (creators * places) if places else None


def _by_followers(since: datetime | None) -> Statement:
    """Creators with a published video, their places, and all places, by numbers of followers."""
    creator, follow = _creators(), _followed()
    served = _by_creator(since)
    followers = sa.func.coalesce(follow.c.followers, 0)
    places = sa.func.sum(served.c.places)
    return (
        sa.select(
            sa.func.count().filter(creator.c.is_listed).label("creators"),
            sa.func.coalesce(places.filter(creator.c.is_listed), 0).label("places"),
            sa.func.coalesce(places, 0).label("all_places"),
        )
        .select_from(creator)
        .outerjoin(follow, follow.c.creator_id == creator.c.creator_id)
        .outerjoin(served, served.c.creator_id == creator.c.creator_id)
        .group_by(followers)
        .order_by(followers)
    )


def _creators() -> Subquery:
    """Each creator, and whether a video of theirs is published."""
    published = sa.func.count().filter(Video.status == "published")
    creators = sa.select(Video.creator_id, (published > 0).label("is_listed"))
    return creators.group_by(Video.creator_id).subquery("creators")


def _followed() -> Subquery:
    """How many followers each creator has who has any."""
    followed = sa.select(Follow.creator_id, sa.func.count().label("followers"))
    return followed.group_by(Follow.creator_id).subquery("followed")


def _small_creators_share(groups: Sequence[Any]) -> float | None:
    """The part of all places that the less followed half of the creators has."""
    half = sum(each.creators for each in groups) / 2
    places = sum(each.all_places for each in groups)
    creators = small = 0
    for each in groups:
        if creators >= half:
            break
        creators += each.creators
        small += each.places
    return float(small / places) if places else None
