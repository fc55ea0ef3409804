"""The sources of people to follow: one SELECT of creators with a quota each.

A source reads a limited number of rows, so the cost of a page depends neither on the number of
users nor on the number of follows. Some creators may not be suggested, so it gives `SCAN_FACTOR`
creators per place of its quota.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Double, literal
from sqlalchemy.orm import aliased

from recommender.database import lookup
from recommender.database.expressions import Statement, fence, materialized, number
from recommender.database.session import Session
from recommender.models import Affinity, Video
from recommender.models.tables import FOLLOWS, USERS
from recommender.ranking.history import PEOPLE_LIMIT, given_rows
from recommender.ranking.request import FeedRequest
from recommender.ranking.sources import LEAST_TREND, NEIGHBOUR_SCAN_FACTOR, SCAN_FACTOR
from recommender.ranking.viewer import Viewer

FOLLOWS_OF_EACH = 100
"""The largest number of follows that are read of each person whom the viewer follows.

With `PEOPLE_LIMIT` people they are a tenth of the rows that a page may read.
"""

TASTE_QUOTA, POPULAR_QUOTA, NEWEST_QUOTA = 200, 100, 250
"""The quotas of the sources that read videos to find their creators."""

NEWEST_VIDEOS = SCAN_FACTOR * NEWEST_QUOTA
"""The number of newest videos whose creators end the list: all of these creators are looked at."""


class Circle(NamedTuple):
    """What is known of creators around a viewer, as common table expressions.

    Attributes:
        viewer: the viewer.
        friends: the people whose follows are read: whom the viewer follows and everyone may find.
        followed: creators with the number of friends who follow them.
        tastes: creators of the neighbours of recently engaged videos, with the weights' sum.
        trends: creators of trending videos, with the greatest trend; `is_spoken` is 1 if one of
            these videos is in the viewer's language.
        newest: creators of the newest videos, with the newest time.
    """

    viewer: Viewer
    friends: CTE
    followed: CTE
    tastes: CTE
    trends: CTE
    newest: CTE

    @classmethod
    def of(cls, viewer: Viewer, *, has_friends: bool = False) -> Circle:
        """Return the circle of a viewer; `has_friends` if `FeedRequest.friends` is given."""
        friends = friends_of(viewer)
        return cls(
            viewer,
            friends,
            _followed_by(friends, given_follows(viewer) if has_friends else FOLLOWS),
            _of_neighbours(viewer),
            _of_trending(viewer),
            _of_newest(viewer),
        )


@dataclass(frozen=True, slots=True)
class PeopleSource:
    """A named source of people.

    Args:
        name: its name in pages.
        quota: the largest number of creators that it gives.
        select: a function from a circle to a SELECT of creators, and of the value that orders them.
    """

    name: str
    quota: int
    select: Callable[[Circle], Statement]


def _social(circle: Circle) -> Statement:
    """Creators whom the most people follow whom the viewer follows."""
    rows = circle.followed
    people = sa.select(rows.c.creator_id, sa.cast(rows.c.people, Double).label("value"))
    return people.where(_not_followed(circle.viewer, rows.c.creator_id))


def _enjoyed(circle: Circle) -> Statement:
    """Creators to whom the viewer has most affinity."""
    columns = (Affinity.subject_id.label("creator_id"), Affinity.score.label("value"))
    is_liked = Affinity.subject == "creator", Affinity.score > 0
    is_new = _not_followed(circle.viewer, Affinity.subject_id)
    return sa.select(*columns).where(Affinity.user_id == circle.viewer.user_id, *is_liked, is_new)


def _not_followed(viewer: Viewer, creator_id: Any) -> ColumnElement[bool]:
    """Return the condition that the viewer does not follow a creator.

    Viewers follow whom they enjoy most and whom their friends follow. Left in, these creators would
    be all that the source gives.
    """
    # One set of `FOLLOWED_LIMIT` creators. A search of an index would cost one for each row.
    condition: ColumnElement[bool] = creator_id.not_in(sa.select(viewer.followed.c.creator_id))
    return condition


def _taste(circle: Circle) -> Statement:
    """Creators of videos that are near the viewer's recently engaged videos."""
    return sa.select(circle.tastes.c.creator_id, circle.tastes.c.weight.label("value"))


def _popular(circle: Circle) -> Statement:
    """Creators of trending videos in the viewer's language; in any if it is unknown."""
    return sa.select(circle.trends.c.creator_id, circle.trends.c.trend.label("value"))


def _newest(circle: Circle) -> Statement:
    """Creators of the newest videos of all."""
    # By their place: a number, as the other sources have.
    place = sa.func.row_number().over(
        order_by=(circle.newest.c.published_at, circle.newest.c.creator_id)
    )
    return sa.select(circle.newest.c.creator_id, sa.cast(place, Double).label("value"))


PEOPLE_SOURCES = (
    PeopleSource("social", 200, _social),
    PeopleSource("creators", 100, _enjoyed),
    PeopleSource("taste", TASTE_QUOTA, _taste),
    PeopleSource("popular", POPULAR_QUOTA, _popular),
    PeopleSource("newest", NEWEST_QUOTA, _newest),
)
"""The sources of the list; the list ends with what they find."""


def friends_of(viewer: Viewer) -> CTE:
    """Return the people whose follows are read, as `user_id`.

    The follows of a person who is not discoverable tell no one anything.
    """
    people = viewer.people
    is_shown = USERS.c.discoverable, USERS.c.erased_at.is_(None), USERS.c.merged_into.is_(None)
    shown = sa.select(people.c.user_id).join(USERS, USERS.c.id == people.c.user_id)
    # The limit cuts nothing off: it tells PostgreSQL how few people there are.
    return materialized(shown.where(*is_shown).limit(PEOPLE_LIMIT).cte("friends"))


def given_follows(viewer: Viewer) -> CTE:
    """Return the follows of friends that come with the request, see `with_follows`."""
    columns = (FOLLOWS.c.user_id, FOLLOWS.c.creator_id)
    rows = given_rows(viewer.friends, columns, "given_follows")
    return sa.select(rows).where(rows.c.creator_id.is_not(None)).cte("follows_of_friends")


def with_follows(session: Session, request: FeedRequest) -> FeedRequest:
    """Return a request with the follows of the viewer's friends, who are on other nodes on Citus.

    It reads them by one statement, of each friend the latest ones by the ids of creators.
    """
    if request.friends is None:
        return request
    given = json.loads(request.friends)
    own = FOLLOWS.c.user_id.in_({row["user_id"] for row in given})
    place = sa.func.row_number().over(
        partition_by=FOLLOWS.c.user_id, order_by=FOLLOWS.c.creator_id.desc()
    )
    rows = sa.select(FOLLOWS.c.user_id, FOLLOWS.c.creator_id, place.label("place")).where(own)
    each = rows.subquery("follows_of_each")
    latest = sa.select(each.c.user_id, each.c.creator_id).where(each.c.place <= FOLLOWS_OF_EACH)
    follows = [dict(row._mapping) for row in lookup.run(session, latest)]  # noqa: SLF001 - its API
    return replace(request, friends=json.dumps([*given, *follows]))


def _followed_by(friends: CTE, follows: Any) -> CTE:
    """Return the creators whom friends follow: of each the latest creators, by their ids."""
    of_friend = follows.c.user_id == friends.c.user_id
    nth = (
        sa.select(follows.c.creator_id)
        .where(of_friend)
        .order_by(follows.c.creator_id.desc())
        .offset(FOLLOWS_OF_EACH - 1)
        .limit(1)
        .scalar_subquery()
    )
    since = sa.func.coalesce(nth, literal(0, BigInteger())).label("since")
    rows = materialized(
        sa.select(friends.c.user_id, since).limit(PEOPLE_LIMIT).cte("friends_since")
    )
    is_read = sa.and_(follows.c.user_id == rows.c.user_id, follows.c.creator_id >= rows.c.since)
    # An outer join, so that no database starts at all follows.
    followed = sa.select(follows.c.creator_id, sa.func.count().label("people"))
    joined = followed.select_from(rows).outerjoin(follows, is_read)
    return materialized(joined.group_by(follows.c.creator_id).cte("followed_by_friends"))


def _published(video: Any, viewer: Viewer) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that everyone may find a video, and that it has a creator."""
    is_past = video.published_at <= viewer.as_of
    return video.status == "published", is_past, video.creator_id.is_not(None)


def _of_neighbours(viewer: Viewer) -> CTE:
    """Return the creators of the nearest neighbours of recently engaged videos."""
    near, video = viewer.near, aliased(Video)
    nearest = (
        sa.select(near.c.video_id, near.c.weight)
        .where(near.c.video_id.is_not(None))
        .order_by(near.c.weight.desc(), near.c.video_id.desc())
        .limit(NEIGHBOUR_SCAN_FACTOR * TASTE_QUOTA)
        .subquery("nearest_of_people")
    )
    # A lookup for each video: with a join PostgreSQL would read the whole of a small catalogue.
    creator = sa.select(video.creator_id)
    creator = creator.where(video.id == nearest.c.video_id, *_published(video, viewer))
    rows = fence(sa.select(creator.scalar_subquery().label("creator_id"), nearest.c.weight))
    each = rows.subquery("creators_of_nearest")
    weights = sa.select(each.c.creator_id, sa.func.sum(each.c.weight).label("weight"))
    return materialized(weights.group_by(each.c.creator_id).cte("tastes"))


def _of_trending(viewer: Viewer) -> CTE:
    """Return the creators of the videos that the source `trending` of For You finds."""
    if viewer.has_language:
        spoken = _trending(viewer, 1, Video.language == viewer.language).subquery("spoken_trends")
        unknown = _trending(viewer, 0, Video.language.is_(None)).subquery("unknown_trends")
        either = sa.union_all(sa.select(spoken), sa.select(unknown)).subquery("either_trends")
        most = sa.select(either).order_by(either.c.trending.desc(), either.c.id.desc())
        rows = most.limit(SCAN_FACTOR * POPULAR_QUOTA).subquery("most_trending")
    else:
        rows = _trending(viewer, 0).subquery("most_trending")
    trend = sa.func.max(rows.c.trending).label("trend")
    spoken_part = sa.func.max(rows.c.is_spoken).label("is_spoken")
    trends = sa.select(rows.c.creator_id, trend, spoken_part).group_by(rows.c.creator_id)
    return materialized(trends.cte("trends"))


def _trending(viewer: Viewer, is_spoken: int, *where: ColumnElement[bool]) -> Statement:
    """Return the most trending videos that fulfil the conditions: a walk of one index."""
    columns = (Video.creator_id, Video.trending, Video.id, number(is_spoken).label("is_spoken"))
    is_trending = Video.trending >= LEAST_TREND, *_published(Video, viewer), *where
    most = sa.select(*columns).where(*is_trending)
    most = most.order_by(Video.trending.desc(), Video.id.desc())
    return most.limit(SCAN_FACTOR * POPULAR_QUOTA)


def _of_newest(viewer: Viewer) -> CTE:
    """Return the creators of the newest videos."""
    video = aliased(Video)
    newest = (
        sa.select(video.creator_id, video.published_at)
        .where(*_published(video, viewer))
        .order_by(video.published_at.desc(), video.id.desc())
        .limit(NEWEST_VIDEOS)
        .subquery("newest_videos")
    )
    published_at = sa.func.max(newest.c.published_at).label("published_at")
    rows = sa.select(newest.c.creator_id, published_at)
    return materialized(rows.group_by(newest.c.creator_id).cte("newest_creators"))
