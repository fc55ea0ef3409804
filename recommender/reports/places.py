"""One statement that reads the log of places once, and returns all its sums.

Its first CTE has a row for each place of the report's time and of the time before it, with what
became of the place. Everything else is a sum over these rows. A place is one video at one position
of a session.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement, Double, Integer, Text
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from recommender.database.expressions import (
    Number,
    Statement,
    age_days,
    constant,
    half_away,
    is_positive,
    materialized,
    named,
)
from recommender.learning.outcomes import has_outcome, was_looked_at
from recommender.models import FeedSession, Interaction, ServedVideo, Video
from recommender.models.types import UtcDateTime

POSITIONS = (1, 2, 3, 6, 11, 21, 51)
"""The first positions of the groups of positions that are compared."""

LOOKED_AT, ENJOYED = 1, 2
"""What became of a place; 0 if no one looked at it."""

SUMS = ("places", "pages", "judged", "looked", "enjoyed")

COLUMNS = (
    "part", "name", "number", "other", "users", *SUMS, "looked_squared", "enjoyed_squared",
    "enjoyed_looked",
)  # fmt: skip
"""The columns of a row: the part that it belongs to, its key, and its sums."""


def every_sum(since: datetime, until: datetime, before: datetime) -> Statement:
    """Return the statement of all sums over the places of a time.

    The key of a row depends on its `part`:

    - `period`: `number` is 1 for the report's time, 0 for the time before.
    - `day`: `number` counts the days from the one of `before`, from 1.
    - `profile`: `number` is the profile's row id, `other` the one of the feed's version.
    - `trial`: `number` is 1 for exploration places, else 0.
    - `sources`: `name` is the list of sources that found a video.
    - `position`: `number` is the first position of a group of positions.
    - `creators`: `number` creators' worth of `users`, each with `number` places, and `pages`
      different videos together.
    - `videos`: `number` is 1 for videos on trial, 2 for videos published in the report's time, 0
      for all; `users` is how many different ones were served.

    Args:
        since: the start of the report's time.
        until: its end.
        before: the start of the time before it.
    """
    places = _places(since, until, before)
    viewers, videos = _viewers(places), _by_video(places)
    parts = [
        _clustered(viewers, "period", viewers.c.is_now),
        _clustered(viewers, "day", viewers.c.day),
        *(
            _clustered(viewers, part, *keys, only_now=True)
            for part, keys in {
                "profile": (viewers.c.profile_id, viewers.c.feed_id),
                "trial": (viewers.c.explored,),
            }.items()
        ),
        _by_sources(places),
        _by_position(places),
        _by_creator(videos),
        *_videos(videos, since),
    ]
    return named(sa.select(*sa.union_all(*parts).subquery("parts").c), "report")


_HALF_A_DAY = timedelta(hours=12)


def beginning_of(number: int, first: datetime) -> datetime:
    """Return the beginning of a day by its number; the day of `first` is 1."""
    return _anchor(first) + timedelta(days=number) - _HALF_A_DAY


def _anchor(first: datetime) -> datetime:
    """Return the noon of the day before a time, in UTC."""
    return first.replace(hour=0, minute=0, second=0, microsecond=0) - _HALF_A_DAY


def _day_of(moment: Any, first: datetime) -> ColumnElement[int]:
    """Return the number of a time's day in UTC; the day of `first` is 1."""
    # From noon to noon, a rounded age is the number of the midnight between: halves are rounded up.
    anchor = sa.literal(_anchor(first), UtcDateTime())
    return sa.cast(half_away(age_days(anchor, moment)), Integer)


def outcome_of_place() -> ColumnElement[int]:
    """Return what became of a place: `ENJOYED`, `LOOKED_AT`, or 0.

    A video of a rewatch session may have been watched before, so its places have no outcome. The
    statement joins as `joined_places` does.
    """
    # The search for later places takes longest, so only positive states need it first.
    has_state = Interaction.user_id.is_not(None)
    is_enjoyed = sa.and_(has_state, is_positive(Interaction), has_outcome())
    return sa.case(
        (FeedSession.rewatch, 0), (is_enjoyed, ENJOYED), (was_looked_at(), LOOKED_AT), else_=0
    )


def joined_places(*columns: Any) -> Statement:
    """Return a SELECT over places with their sessions, and their states if there are any."""
    is_same = sa.and_(
        Interaction.user_id == ServedVideo.user_id, Interaction.video_id == ServedVideo.video_id
    )
    places: Statement = sa.select(*columns).select_from(ServedVideo)
    return places.join(FeedSession).outerjoin(Interaction, is_same)


def page_times(since: datetime, until: datetime) -> Statement:
    """Return the counters of the sessions that began between two times, by day from the first.

    Sessions from before these were counted are left out. Its columns are `number`, as for the days
    of `every_sum` with `since` in place of `before`, and those of `values.PageTimes`.
    """
    day = _day_of(FeedSession.started_at, since)
    counters = (FeedSession.pages, FeedSession.exhausted, FeedSession.milliseconds)
    sums = (sa.func.sum(column).label(column.key) for column in counters)
    rows: Statement = sa.select(day.label("number"), *sums)
    began = (FeedSession.started_at >= since, FeedSession.started_at < until)
    return named(rows.where(*began, FeedSession.pages > 0).group_by(day), "report")


def _places(since: datetime, until: datetime, before: datetime) -> CTE:
    """Return a row for each place between two times."""
    served: InstrumentedAttribute[datetime] = ServedVideo.served_at
    rows = joined_places(
        ServedVideo.user_id,
        ServedVideo.video_id,
        ServedVideo.profile_id,
        FeedSession.feed_id,
        ServedVideo.sources,
        _day_of(served, before).label("day"),
        _one_if(served >= since).label("is_now"),
        _one_if(ServedVideo.explored).label("explored"),
        _one_if(ServedVideo.page == ServedVideo.position).label("pages"),
        _group_of(ServedVideo.position).label("position"),
        _one_if(~FeedSession.rewatch).label("judged"),
        outcome_of_place().label("outcome"),
    ).where(served >= before, served < until)
    return materialized(rows.cte("places"))


def _one_if(condition: Any) -> ColumnElement[int]:
    return sa.case((condition, 1), else_=0)


def _group_of(position: Any) -> ColumnElement[int]:
    """Return the first position of the group that a position is in."""
    return sa.case(*((position >= first, first) for first in POSITIONS[:0:-1]), else_=POSITIONS[0])


def _sums(rows: Any) -> tuple[ColumnElement[Any], ...]:
    """Return the sums of the outcomes of places."""
    outcome = rows.c.outcome
    return (
        sa.func.count().label("places"),
        sa.func.sum(rows.c.pages).label("pages"),
        sa.func.sum(rows.c.judged).label("judged"),
        sa.func.sum(_one_if(outcome > 0)).label("looked"),
        sa.func.sum(_one_if(outcome == ENJOYED)).label("enjoyed"),
    )


def _viewers(places: CTE) -> CTE:
    """Return the sums for each user, day, profile and kind of place: few rows."""
    keys = [places.c[name] for name in ("user_id", "day", "is_now", "profile_id", "feed_id")]
    rows: Statement = sa.select(*keys, places.c.explored, *_sums(places))
    return materialized(rows.group_by(*keys, places.c.explored).cte("viewers"))


def _clustered(viewers: CTE, part: str, *keys: Any, only_now: bool = False) -> Statement:
    """Return sums by a key, with the sums of squares over users, which tell how sure a share is."""
    own = [key.label(f"key_{place}") for place, key in enumerate(keys)]
    totals = [sa.func.sum(viewers.c[name]).label(name) for name in SUMS]
    of_users: Statement = sa.select(viewers.c.user_id, *own, *totals)
    if only_now:
        of_users = of_users.where(viewers.c.is_now == 1)
    user = of_users.group_by(viewers.c.user_id, *keys).subquery()
    columns = [user.c[label.name] for label in own]
    looked: Number = sa.cast(user.c["looked"], Double())
    enjoyed: Number = sa.cast(user.c["enjoyed"], Double())
    row = _row(
        part,
        number=columns[0],
        other=columns[1] if columns[1:] else None,
        users=sa.func.count(),
        **{name: sa.func.sum(user.c[name]) for name in SUMS},
        looked_squared=sa.func.sum(looked * looked),
        enjoyed_squared=sa.func.sum(enjoyed * enjoyed),
        enjoyed_looked=sa.func.sum(enjoyed * looked),
    )
    return row.group_by(*columns)


def _by_sources(places: CTE) -> Statement:
    sums = {column.name: column for column in _sums(places)}
    row = _row("sources", name=places.c.sources, **sums)
    return row.where(places.c.is_now == 1).group_by(places.c.sources)


def _by_position(places: CTE) -> Statement:
    sums = {column.name: column for column in _sums(places)}
    row = _row("position", number=places.c.position, **sums)
    return row.where(places.c.is_now == 1).group_by(places.c.position)


def _by_video(places: CTE) -> CTE:
    """Return the videos that were served, with their creator and places."""
    explored = sa.func.max(places.c.explored).label("explored")
    served: Statement = sa.select(places.c.video_id, sa.func.count().label("places"), explored)
    row = served.where(places.c.is_now == 1).group_by(places.c.video_id).subquery("of_videos")
    columns = (row.c.places, row.c.explored, Video.creator_id, Video.published_at)
    joined = sa.select(*columns).join(Video, Video.id == row.c.video_id)
    return materialized(joined.cte("served_videos"))


def _by_creator(video: CTE) -> Statement:
    """Return how many creators have a number of places."""
    creator = (
        sa.select(sa.func.sum(video.c.places).label("places"), sa.func.count().label("videos"))
        .where(video.c.creator_id.is_not(None))
        .group_by(video.c.creator_id)
        .subquery("served_creators")
    )
    row = _row(
        "creators",
        number=creator.c.places,
        users=sa.func.count(),
        places=sa.func.sum(creator.c.places),
        pages=sa.func.sum(creator.c.videos),
    )
    return row.group_by(creator.c.places)


def _videos(video: CTE, since: datetime) -> Iterable[Statement]:
    """Yield the number of different videos: all, on trial, and new ones."""
    kinds = (sa.true(), video.c.explored == 1, video.c.published_at >= since)
    for kind, condition in enumerate(kinds):
        row = _row(
            "videos", number=sa.literal(kind), users=sa.func.count(video.c.places),
            places=sa.func.sum(video.c.places),
        )  # fmt: skip
        yield row.where(condition)


def _row(part: str, **values: Any) -> Statement:
    """Return a SELECT of all columns; those without a value are NULL."""
    given = {"part": constant(part, Text()), **values}
    columns = [
        sa.cast(given[name] if given.get(name) is not None else sa.null(), _TYPES[name]).label(name)
        for name in COLUMNS
    ]
    return sa.select(*columns)


_TYPES: dict[str, TypeEngine[Any]] = {
    name: Text() if name in {"part", "name"}
    else Double() if name.endswith(("squared", "_looked"))
    else sa.BigInteger()
    for name in COLUMNS
}  # fmt: skip
