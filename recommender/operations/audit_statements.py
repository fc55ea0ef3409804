"""The SELECT statements of an audit.

Each statement is an aggregate that reads its tables once or uses an index. `audited` is a condition
on the sessions; None includes all sessions.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Subquery
from sqlalchemy.orm import aliased

from recommender.database.expressions import Statement, age_days, number
from recommender.learning.outcomes import was_looked_at
from recommender.models import (
    Block,
    FeedSession,
    FeedVersion,
    Follow,
    Interaction,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    ProfileVersion,
    ServedVideo,
    Sound,
    User,
    Video,
    VideoCaption,
    VideoHashtag,
)
from recommender.models.serving import FOR_YOU_MEMORY
from recommender.ranking.request import REFERENCE

Audited: TypeAlias = ColumnElement[bool] | None
"""The condition on `FeedSession` that a session is audited; None for all sessions."""


def _places(audited: Audited, *columns: Any) -> Statement:
    """Return a SELECT of columns over the places of the audited sessions."""
    places = sa.select(*columns).select_from(ServedVideo)
    if audited is None:
        return places
    sessions = sa.select(FeedSession.user_id, FeedSession.session).where(audited)
    return places.where(sa.tuple_(ServedVideo.user_id, ServedVideo.session).in_(sessions))


def _promises_more() -> ColumnElement[bool]:
    """Match places outside the reference formula, which only promises an order."""
    reference = sa.select(ProfileVersion.id).where(ProfileVersion.name == REFERENCE)
    return ServedVideo.profile_id.not_in(reference)


def _is_of_today(*users: Any) -> ColumnElement[bool]:
    """Match places that were served after the last merge into any of some users was complete.

    What was served before promised nothing about users who are one person only since then.
    """
    merged = aliased(User)
    is_later = sa.or_(merged.merged_at.is_(None), merged.merged_at >= ServedVideo.served_at)
    return sa.and_(*(~sa.exists().where(merged.merged_into == user, is_later) for user in users))


def totals(audited: Audited) -> Statement:
    """Return the totals of the audited sessions."""
    served = _sessions(audited)
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
    return totals if audited is None else totals.where(audited)


def _sessions(audited: Audited) -> Subquery:
    """Return one row per session: the totals over its pages."""
    # Positions are distinct by their key, so first, last and count are enough to find a gap.
    page = _pages(audited)
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


def _pages(audited: Audited) -> Subquery:
    key = (ServedVideo.user_id, ServedVideo.session, ServedVideo.page)
    return (
        _places(
            audited,
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


def repeats(audited: Audited) -> Statement:
    """Count the places of a video after its first place in a session."""
    key = (ServedVideo.user_id, ServedVideo.session, ServedVideo.video_id)
    times = sa.func.count()
    served = (
        _places(audited, times.label("times")).group_by(*key).having(times > 1).subquery("served")
    )
    return sa.select(sa.func.sum(served.c.times - 1).label("repeats"))


def neighbours(audited: Audited) -> Statement:
    """Count the places with the creator or the sound of the previous place."""
    places = (
        _places(
            audited,
            ServedVideo.crowded,
            sa.and_(~ServedVideo.crowded, _promises_more(), _is_of_today(Video.creator_id)).label(
                "is_promise"
            ),
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


_SUBJECTS = {"creator": Video.creator_id, "sound": Video.sound_id, "format": Video.format}


def beyond_limit(
    audited: Audited, feed_id: int | None, subject: str, most: int, places: int
) -> Statement:
    """Return the places of a feed that come after too many videos of the same subject.

    Args:
        audited: see above.
        feed_id: the row id of the version of the feed.
        subject: `creator`, `sound` or `format`.
        most: the largest number of videos of one of them.
        places: the number of consecutive places.
    """
    of_feed = FeedSession.feed_id == feed_id
    column, position = _SUBJECTS[subject], ServedVideo.position
    session = (ServedVideo.user_id, ServedVideo.session, column)
    before = sa.func.lag(position, most).over(partition_by=session, order_by=position)
    is_promise = sa.and_(~ServedVideo.crowded, _promises_more(), _is_of_today(Video.creator_id))
    rows = (
        _places(
            of_feed if audited is None else sa.and_(of_feed, audited),
            (position - before).label("distance"),
            is_promise.label("is_promise"),
        )
        .join(Video, Video.id == ServedVideo.video_id)
        .where(column.is_not(None))
        .subquery("placed")
    )
    return sa.select(rows.c.distance).where(rows.c.is_promise, rows.c.distance < places)


def _of_the_place_before(column: Any) -> ColumnElement[Any]:
    session = (ServedVideo.user_id, ServedVideo.session)
    return sa.func.lag(column).over(partition_by=session, order_by=ServedVideo.position)


def _is_new(audited: Audited) -> ColumnElement[bool]:
    """Match audited places that promise a video new to the user."""
    is_audited = sa.true() if audited is None else audited
    is_of_today = _is_of_today(ServedVideo.user_id)
    return sa.and_(~FeedSession.rewatch, _promises_more(), is_audited, is_of_today)


def served_again(audited: Audited, days: float) -> Statement:
    """Return the places whose video was served to the user in another session shortly before.

    The other session has the same memory. It counts even if it is not audited. Refilled places
    promise nothing. Rewatch sessions do not count: one of their pages may be recorded long after it
    was ranked, when another session has served its videos.

    Args:
        audited: see above.
        days: the least time between two places.
    """
    # Few videos are served twice to a user, and an index alone finds them. With a join to earlier
    # places, SQLite would search all of the user's places for every place.
    video = (ServedVideo.user_id, ServedVideo.video_id)
    twice = sa.select(*video).group_by(*video).having(sa.func.count() > 1)
    order = (ServedVideo.served_at, ServedVideo.session)
    memory = sa.func.coalesce(FeedVersion.memory, FOR_YOU_MEMORY)

    def before(column: Any) -> ColumnElement[Any]:
        return sa.func.lag(column).over(partition_by=(*video, memory), order_by=order)

    age = age_days(before(ServedVideo.served_at), ServedVideo.served_at)
    is_other = before(ServedVideo.session) != ServedVideo.session
    is_new = sa.and_(_is_new(audited), ~ServedVideo.refilled)
    places = (
        sa.select(age.label("age"), is_other.label("is_other"), is_new.label("is_new"))
        .join(FeedSession)
        .outerjoin(FeedVersion, FeedVersion.id == FeedSession.feed_id)
        .where(sa.tuple_(*video).in_(twice), ~FeedSession.rewatch)
        .subquery("places")
    )
    return sa.select(places.c.age).where(
        places.c.is_new, places.c.is_other, places.c.age < number(days)
    )


def served_too_often(audited: Audited, attempts: int) -> Statement:
    """Return the places whose video had been served to the user as often as it may be."""
    places = sa.select(ServedVideo.position).join(FeedSession)
    return places.where(_is_new(audited), ~ServedVideo.refilled, ServedVideo.attempt > attempts)


def unseen(audited: Audited) -> Statement:
    """Return the places that promise a new video and that the user did not look at."""
    is_same = sa.and_(
        Interaction.user_id == ServedVideo.user_id, Interaction.video_id == ServedVideo.video_id
    )
    places = sa.select(ServedVideo.position).join(FeedSession).outerjoin(Interaction, is_same)
    return places.where(_is_new(audited), ~was_looked_at())


def seen_before(audited: Audited) -> Statement:
    """Return the places whose video had an earlier event by the user."""
    is_before = sa.and_(
        Interaction.user_id == ServedVideo.user_id,
        Interaction.video_id == ServedVideo.video_id,
        Interaction.first_at < ServedVideo.served_at,
    )
    places = sa.select(ServedVideo.position).join(FeedSession).join(Interaction, is_before)
    return places.where(_is_new(audited))


def own_videos(audited: Audited) -> Statement:
    """Return the places with a video by the user."""
    is_own = sa.and_(Video.id == ServedVideo.video_id, Video.creator_id == ServedVideo.user_id)
    places = _places(audited, ServedVideo.position).join(Video, is_own)
    return places.where(_promises_more(), _is_of_today(ServedVideo.user_id))


def blocked_videos(audited: Audited) -> Statement:
    """Return the places with a video by a creator on the other side of a block made before."""
    is_between = sa.exists().where(
        Block.user_id == ServedVideo.user_id,
        Block.other_id == Video.creator_id,
        Block.blocked_at < ServedVideo.served_at,
    )
    places = _places(audited, ServedVideo.position).join(Video, Video.id == ServedVideo.video_id)
    return places.where(is_between, _is_of_today(ServedVideo.user_id, Video.creator_id))


def muted_videos(audited: Audited) -> sa.CompoundSelect[Any]:
    """Return the places with a muted video, once even if several mutes apply."""
    key = (ServedVideo.user_id, ServedVideo.session, ServedVideo.position)
    places = _places(audited, *key).join(Video, Video.id == ServedVideo.video_id)
    is_of_today = _is_of_today(ServedVideo.user_id, Video.creator_id)
    places = places.where(_promises_more(), is_of_today)
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
    """Return the places to which a mute applied when they were served.

    Of a mute at the same time as the page, nothing says which was first.
    """
    is_the_users = mute.user_id == ServedVideo.user_id
    return places.join(mute, sa.and_(is_the_users, is_muted)).where(
        mute.muted_at < ServedVideo.served_at
    )


def _by_creator(audited: Audited) -> Subquery:
    """Return the number of places per creator with a place."""
    places = _places(audited, Video.creator_id, sa.func.count().label("places"))
    has_creator = sa.and_(Video.id == ServedVideo.video_id, Video.creator_id.is_not(None))
    return places.join(Video, has_creator).group_by(Video.creator_id).subquery("served_creators")


def creators_by_places(audited: Audited) -> Statement:
    """Return the number of creators per number of places, in ascending order of places."""
    served = _by_creator(audited)
    creators: Statement = sa.select(served.c.places, sa.func.count().label("creators"))
    return creators.group_by(served.c.places).order_by(served.c.places)


def creators_by_followers(audited: Audited) -> Statement:
    """Count listed creators, their places and all places, grouped by number of followers."""
    creator, follow = _creators(), _followed()
    served = _by_creator(audited)
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
    """Return each creator with a flag: listed, if a video of the creator is published."""
    published = sa.func.count().filter(Video.status == "published")
    creators = sa.select(Video.creator_id, (published > 0).label("is_listed"))
    creators = creators.where(Video.creator_id.is_not(None))
    return creators.group_by(Video.creator_id).subquery("creators")


def _followed() -> Subquery:
    """Return the number of followers per creator with a follower."""
    followed = sa.select(Follow.creator_id, sa.func.count().label("followers"))
    return followed.group_by(Follow.creator_id).subquery("followed")
