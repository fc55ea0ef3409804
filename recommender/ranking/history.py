"""The history of a viewer and of those followed: engagements, and the videos that were served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import CTE, BindParameter, ColumnElement, Double, Subquery
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute

from recommender.database.expressions import (
    Statement,
    constant,
    is_positive,
    is_rejected,
    json_texts,
    number,
)
from recommender.database.spaces import space_table
from recommender.database.vectors import mean_direction
from recommender.models import Interaction, RememberedVideo, ServedVideo, Video
from recommender.models.tables import (
    BLOCKS,
    FOLLOWS,
    INTERACTIONS,
    MUTED_CREATORS,
    NEIGHBOURS,
    RECENT,
    VIDEO_HASHTAGS,
    VIDEOS,
)

if TYPE_CHECKING:
    from recommender.ranking.viewer import Viewer

VideoId: TypeAlias = ColumnElement[int] | InstrumentedAttribute[int]
"""A column of video ids."""

FOLLOWED_LIMIT = 5_000
"""The largest number of followed users that are read.

The limit also keeps SQLite from starting at all videos.
"""

PEOPLE_LIMIT = 50
"""The largest number of followed users whose recent engagements are read.

A page reads these twice. With 100 per user, they are a fifth of the rows that a page may read.
"""

_STATE = INTERACTIONS.c  # core: compiling a SELECT of ORM columns changes its cache key


def recent_engagements(values: Mapping[str, BindParameter[Any]]) -> CTE:
    """Return the videos engaged with last, with weights: the latest counts most."""
    newest = sa.func.row_number().over(order_by=(_STATE.engaged_at.desc(), _STATE.video_id.desc()))
    scale = values["history_scale"]
    weight = scale / (scale - constant(1.0, Double()) + sa.cast(newest, Double))
    return (
        sa.select(_STATE.video_id, weight.label("weight"))
        .where(
            _STATE.user_id == values["user_id"],
            is_positive(_STATE),
            _STATE.engaged_at > values["learned_since"],
        )
        .order_by(_STATE.engaged_at.desc(), _STATE.video_id.desc())
        .limit(values["history"])
        .cte("recent")
    )


def current_tastes(values: Mapping[str, BindParameter[Any]]) -> CTE:
    """Return engagement above average per hashtag, smoothed by videos of average interest."""
    seen = _seen(values)
    number = sa.cast(sa.func.count(), Double)
    surplus = sa.func.sum(seen.c.engaged) - values["engaged_share"] * number
    surplus /= values["lately_prior"] + number
    return (
        sa.select(VIDEO_HASHTAGS.c.hashtag_id, surplus.label("surplus"))
        .select_from(seen)
        .join(VIDEO_HASHTAGS, VIDEO_HASHTAGS.c.video_id == seen.c.video_id)
        .group_by(VIDEO_HASHTAGS.c.hashtag_id)
        .cte("lately")
    )


def _seen(values: Mapping[str, BindParameter[Any]]) -> Subquery:
    """Return the videos seen last; `engaged` is 1 if engaged, -1 if rejected, else 0."""
    outcome = sa.case(
        (is_rejected(_STATE), constant(-1.0, Double())),
        (_STATE.engaged_at > values["learned_since"], constant(1.0, Double())),
        else_=constant(0.0, Double()),
    )
    return (
        sa.select(_STATE.video_id, outcome.label("engaged"))
        .where(
            _STATE.user_id == values["user_id"],
            _STATE.last_at > values["learned_since"],
        )
        .order_by(_STATE.last_at.desc(), _STATE.video_id.desc())
        .limit(values["seen_lately"])
        .subquery("seen")
    )


def taste(space: str, recent: CTE, values: Mapping[str, BindParameter[Any]]) -> CTE:
    """Return the direction of the viewer's taste: one row, NULL if they enjoyed no vector.

    It is the mean of the vectors of recently enjoyed videos, the latest counting most, less the
    vectors of rejected videos (Rocchio, 1971). It is computed when it is read, so that a late or a
    replaced vector counts at once.

    Args:
        space: the name of the space.
        recent: as `recent_engagements` returns it.
        values: the viewer's bound values.
    """
    vectors, seen = space_table(space).c, _seen(values)
    enjoyed = (
        sa.select(recent.c.video_id, recent.c.weight)
        .order_by(recent.c.weight.desc())
        .limit(values["taste_videos"])
        .subquery("enjoyed")
    )
    rejected = sa.select(seen.c.video_id, -values["taste_rejection"]).where(seen.c.engaged < 0)
    rated = sa.union_all(sa.select(enjoyed), rejected).subquery("rated")
    mean = mean_direction(vectors.vector, rated.c.weight)
    # Rejections alone say what the viewer does not want, and not what they want.
    has_enjoyed = sa.func.max(rated.c.weight) > number(0)
    return (
        sa.select(sa.case((has_enjoyed, mean)).label("vector"))
        .select_from(rated)
        .join(space_table(space), vectors.video_id == rated.c.video_id)
        .cte("taste")
    )


def near_recent(recent: CTE) -> CTE:
    """Return the neighbours of recent videos with the sums of their weights."""
    # An outer join, so that no database starts at all neighbours.
    weight = sa.func.sum(neighbour_weight(NEIGHBOURS.c) * recent.c.weight)
    return (
        sa.select(NEIGHBOURS.c.video_id, weight.label("weight"))
        .select_from(recent)
        .outerjoin(NEIGHBOURS, NEIGHBOURS.c.source_id == recent.c.video_id)
        .group_by(NEIGHBOURS.c.video_id)
        .cte("near")
    )


def neighbour_weight(neighbour: Any) -> ColumnElement[float]:
    """Return the weight of a neighbour; its similarity until a refresh has computed the weight."""
    return sa.func.coalesce(neighbour.weight, neighbour.similarity)


def followed_users(values: Mapping[str, BindParameter[Any]]) -> CTE:
    """Return the other users whom the viewer follows, without muted and blocked ones."""
    user_id = values["user_id"]
    muted = sa.select(MUTED_CREATORS.c.creator_id).where(MUTED_CREATORS.c.user_id == user_id)
    blocked = sa.select(BLOCKS.c.other_id).where(BLOCKS.c.user_id == user_id)
    creator = FOLLOWS.c.creator_id
    wanted = creator != user_id, creator.not_in(muted), creator.not_in(blocked)
    followed = sa.select(creator).where(FOLLOWS.c.user_id == user_id, *wanted)
    return followed.order_by(creator).limit(FOLLOWED_LIMIT).cte("followed")


def active_people(followed: CTE) -> CTE:
    """Return the followed users whose recent engagements are read.

    Of more than `PEOPLE_LIMIT`, they are the users who engaged with the newest videos: one search
    of an index for each user, as no index has the times of their engagements.
    """
    newest = (
        sa.select(RECENT.c.video_id)
        .where(RECENT.c.user_id == followed.c.creator_id)
        .order_by(RECENT.c.video_id.desc())
        .limit(1)
        .scalar_subquery()
    )
    are_more = sa.select(sa.func.count()).select_from(followed).scalar_subquery() > PEOPLE_LIMIT
    place = sa.case((are_more, newest)).desc().nulls_last()
    people = sa.select(followed.c.creator_id.label("user_id"))
    return people.order_by(place, followed.c.creator_id).limit(PEOPLE_LIMIT).cte("people")


def given_people(values: Mapping[str, BindParameter[Any]]) -> CTE:
    """Return the people whose recent engagements come with the request, as `active_people` does.

    `engagements_of` then reads these rows, in place of the table that they are named after.
    """
    rows = given_rows(values["friends"], tuple(RECENT.c), RECENT.name)
    return sa.select(rows.c.user_id).distinct().cte("people")


def given_rows(friends: BindParameter[str], columns: Sequence[sa.Column[Any]], name: str) -> CTE:
    """Return the rows of `FeedRequest.friends`; columns that a row lacks are NULL.

    Args:
        friends: the bound value of the field.
        columns: the columns of the table whose rows they are.
        name: the name of the CTE.
    """
    listed = sa.func.jsonb_to_recordset(sa.cast(friends, JSONB))
    named = [sa.column(column.name, column.type) for column in columns]
    rows = listed.table_valued(*named).render_derived(name=f"given_{name}", with_types=True)
    return sa.select(rows).cte(name)


def engagements_of(people: CTE, *columns: ColumnElement[Any]) -> Statement:
    """Return columns of the recent engagements of people."""
    rows = sa.select(*columns).select_from(people)
    return rows.join(RECENT, RECENT.c.user_id == people.c.user_id)


def keyed_videos(keys: BindParameter[str]) -> sa.Select[int]:
    """Return the ids of the videos in a JSON list of keys, which is one bound value."""
    element = json_texts(keys).table_valued("value", name="listed")
    return sa.select(VIDEOS.c.id).where(VIDEOS.c.key.in_(sa.select(element.c.value)))


def none(rows: sa.Select[int]) -> ColumnElement[bool]:
    """Return the condition that a SELECT has no row."""
    # PostgreSQL would turn NOT EXISTS into a join, and sort the catalogue instead of reading the
    # first rows of an index. With `!=` it expects that nearly all rows pass.
    return _first(rows) != 1


def some(rows: sa.Select[int]) -> ColumnElement[bool]:
    """Return the condition that a SELECT has a row."""
    return _first(rows) == 1


def _first(rows: sa.Select[int]) -> ColumnElement[int]:
    first = rows.with_only_columns(sa.literal(1)).limit(1).scalar_subquery()
    return sa.func.coalesce(first, 0)


def not_seen(viewer: Viewer, video_id: VideoId = Video.id) -> ColumnElement[bool]:
    """The viewer has neither seen the video, nor was it served too recently or too often."""
    served = RememberedVideo
    is_kept_out = sa.or_(
        served.last_at > viewer.served_until,
        served.attempts >= viewer.served_attempts,
        served.seen,
    )
    remembered = _remembered(viewer, video_id).where(is_kept_out)
    return sa.and_(none(interaction_of(viewer, video_id)), none(remembered))


def unseen(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer has not seen the video, and it was not served in this session."""
    is_kept_out = sa.or_(RememberedVideo.seen, is_in_session(viewer))
    remembered = _remembered(viewer, Video.id).where(is_kept_out)
    return sa.and_(none(interaction_of(viewer)), none(remembered))


def not_served(viewer: Viewer, video_id: VideoId = Video.id) -> ColumnElement[bool]:
    """The video was not served in this session."""
    return none(_remembered(viewer, video_id).where(is_in_session(viewer)))


def is_in_session(viewer: Viewer) -> ColumnElement[bool]:
    """Return the condition that a remembered video was served in the session of the page."""
    served, place = RememberedVideo, ServedVideo
    # Another session that served it later has taken its place in the memory. Then the log tells,
    # which has all places of a session that can go on.
    logged = sa.select(place.video_id).where(
        place.user_id == viewer.user_id,
        place.session == viewer.session,
        place.video_id == served.video_id,
        place.served_at.between(viewer.session_start, served.last_at),
    )
    is_overwritten = sa.and_(served.last_at >= viewer.session_start, ~none(logged))
    return sa.or_(served.session == viewer.session, is_overwritten)


def _remembered(viewer: Viewer, video_id: VideoId) -> sa.Select[int]:
    """Return the memory of a video that was served to the viewer."""
    served = RememberedVideo
    return sa.select(served.video_id).where(
        served.user_id == viewer.user_id,
        served.memory == viewer.memory,
        served.video_id == video_id,
    )


def interaction_of(viewer: Viewer, video_id: VideoId = Video.id) -> sa.Select[int]:
    """Return the viewer's interaction with a video."""
    return sa.select(Interaction.video_id).where(
        Interaction.user_id == viewer.user_id, Interaction.video_id == video_id
    )
