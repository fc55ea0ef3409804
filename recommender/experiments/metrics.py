"""Metrics of experiments: what users did with what they were served.

Each metric is a SELECT of rows for `user_sums`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement
from sqlalchemy.orm import aliased

from recommender.database.expressions import Statement, age_days, is_true, number
from recommender.evaluation.labels import HAPPENED, began_between, is_shown
from recommender.experiments.user_sums import DAY, Part, UserMetric, in_experiment, moment_of
from recommender.models import EventRow, FeedSession, Interaction, ServedVideo, User, Video


def _sessions(part: Part, *columns: Any) -> Statement:
    """Return the SELECT of columns over the sessions of members, in the experiment or before."""
    scope, members = part.scope, part.members
    if part.is_before:
        which: tuple[ColumnElement[bool], ...] = began_between(
            scope.start - (scope.end - scope.start), scope.start, scope.feed
        )
    else:
        which = in_experiment(scope)  # all in one arm
    day = age_days(moment_of(scope.start), FeedSession.started_at).label("day")
    return (
        sa.select(FeedSession.user_id, day, *columns)
        .select_from(FeedSession)
        .join(members, members.c.user_id == FeedSession.user_id)
        .where(*which)
    )


def places(part: Part, *columns: Any) -> Statement:
    """Return the SELECT of columns over the places of these sessions."""
    is_of_session = sa.and_(
        ServedVideo.user_id == FeedSession.user_id, ServedVideo.session == FeedSession.session
    )
    return _sessions(part, *columns).join(ServedVideo, is_of_session)


def looked_at(found: Statement) -> Statement:
    """Leave the places that users looked at, each with the state that its events led to."""
    is_of_state = sa.and_(
        Interaction.user_id == ServedVideo.user_id, Interaction.video_id == ServedVideo.video_id
    )
    return found.join(Interaction, is_of_state).where(is_shown())


def _places(part: Part, *columns: Any) -> Statement:
    """Return `places`; in the experiment only those that the profile of the arm ranked."""
    found = places(part, *columns)
    if part.is_before:
        return found
    profile = sa.case(dict(enumerate(part.scope.profile_ids)), value=part.members.c.arm)
    return found.where(ServedVideo.profile_id == profile)


def _shown(part: Part, happened: ColumnElement[bool], bottom: float) -> Statement:
    """Return the rows of the places that users looked at: 1 if something happened there, else 0."""
    columns = is_true(happened).label("top"), number(bottom).label("bottom")
    return looked_at(_places(part, *columns))


def _share_of_shown(happened: ColumnElement[bool]) -> UserMetric:
    """Return the share of the places that a user looked at which led to something."""
    return UserMetric(lambda part: _shown(part, happened, 1))


def _positives(part: Part) -> Statement:
    shown = _shown(part, HAPPENED["engaged"], 0)
    return sa.select(sa.union_all(shown, _one_per_session(part)).subquery())


def _length(part: Part) -> Statement:
    columns = number(1).label("top"), number(0).label("bottom")
    own = _places(part, *columns)
    return sa.select(sa.union_all(own, _one_per_session(part)).subquery())


def _one_per_session(part: Part) -> Statement:
    columns = number(0).label("top"), number(1).label("bottom")
    return _sessions(part, *columns)


def _session_count(part: Part) -> Statement:
    columns = number(1).label("top"), number(0).label("bottom")
    return _sessions(part, *columns)


def _per_page(counted: Any) -> UserMetric:
    """Return a counter of sessions, per page."""

    def rows(part: Part) -> Statement:
        top, bottom = (sa.cast(column, sa.Double) for column in (counted, FeedSession.pages))
        return _sessions(part, top.label("top"), bottom.label("bottom"))

    return UserMetric(rows)


def _diversity(part: Part) -> Statement:
    columns = FeedSession.session, Video.creator_id
    place = _places(part, *columns).join(Video, Video.id == ServedVideo.video_id).subquery("place")
    creator = place.c.creator_id
    creators, of = sa.func.count(creator.distinct()), sa.func.count(creator)
    return sa.select(
        place.c.user_id, place.c.day, sa.cast(creators, sa.Double).label("top"),
        sa.cast(of, sa.Double).label("bottom"),
    ).group_by(place.c.user_id, place.c.session, place.c.day)  # fmt: skip


def _small_creators(part: Part) -> Statement:
    small = _small()
    top = is_true(small.c.creator_id.is_not(None)).label("top")
    return (
        _places(part, top, number(1).label("bottom"))
        .join(Video, Video.id == ServedVideo.video_id)
        .outerjoin(small, small.c.creator_id == Video.creator_id)
    )


@cache
def _small() -> CTE:
    """Return the creators whose videos together have at most the median of impressions."""
    # Built once: both parts of a statement read one CTE.
    total = sa.func.sum(Video.impressions)
    each = (
        sa.select(
            Video.creator_id, total.label("total"),
            sa.func.row_number().over(order_by=(total, Video.creator_id)).label("place"),
            sa.func.count().over().label("creators"),
        )
        .where(Video.creator_id.is_not(None))
        .group_by(Video.creator_id)
        .cte("creators")
    )  # fmt: skip
    middle = sa.select(each.c.total).where(each.c.place == (each.c.creators + 1) // 2)
    is_small = each.c.total <= middle.scalar_subquery()
    return sa.select(each.c.creator_id).where(is_small).cte("small_creators")


def _events(part: Part, *columns: Any, days: float) -> Statement:
    """Return the SELECT of columns over events of members, since their first session or before.

    Args:
        part: the part.
        columns: the columns.
        days: the length of the time before the start.
    """
    scope, members = part.scope, part.members
    if part.is_before:
        which = EventRow.at >= scope.start - days * DAY, EventRow.at < scope.start
    else:
        which = EventRow.at >= members.c.first_at, EventRow.at < scope.end
    return (
        sa.select(EventRow.user_id, *columns)
        .select_from(EventRow)
        .join(members, members.c.user_id == EventRow.user_id)
        .where(*which)
    )


def _watch_time(part: Part) -> Statement:
    day = age_days(moment_of(part.scope.start), EventRow.at).label("day")
    computed = sa.cast(EventRow.completion, sa.Double) * Video.duration_ms
    watched = sa.func.coalesce(sa.cast(EventRow.watch_ms, sa.Double), computed, number(0))
    columns = day, watched.label("top"), number(0).label("bottom")
    found = _events(part, *columns, days=part.scope.days)
    return found.join(Video, Video.id == EventRow.video_id).where(EventRow.kind == "watch")


def _return(until: int) -> UserMetric:
    """Return whether a user has an event from 1 to `until` days after their first session.

    The past is an event in as many days before the start. A user counts when that time is over.
    """

    def rows(part: Part) -> Statement:
        first_at = part.members.c.first_at
        first = age_days(moment_of(part.scope.start), first_at)
        columns = (first + number(until)).label("day"), number(1).label("top")
        found = _events(part, *columns, number(0).label("bottom"), days=until - 1).distinct()
        if part.is_before:
            return found
        age, is_over = age_days(first_at, EventRow.at), first + number(until) <= part.scope.days
        return found.where(age >= number(1), age < number(until), is_over)

    return UserMetric(rows, is_ratio=False, after=until)


def own_metric(values: Statement) -> UserMetric:
    """Return a metric of the host: the value of each user; a user without a row has 0.

    Args:
        values: the SELECT of two columns: the user's key, and a number.
    """
    own = values.subquery("own")
    key, value = own.c

    def rows(part: Part) -> Statement:
        members, named = part.members, aliased(User)
        columns = number(part.scope.days).label("day"), sa.cast(value, sa.Double).label("top")
        return (
            sa.select(members.c.user_id, *columns, number(0).label("bottom"))
            .select_from(own)
            .join(named, named.key == sa.cast(key, sa.Text))
            .join(members, members.c.user_id == sa.func.coalesce(named.merged_into, named.id))
            .where(value.is_not(None))
        )

    return UserMetric(rows, is_ratio=False, has_past=False, at_end=True)


USER_METRICS: Mapping[str, UserMetric] = {
    "engaged": _share_of_shown(HAPPENED["engaged"]),
    "positives": UserMetric(_positives),
    "watch_time": UserMetric(_watch_time, is_ratio=False),
    "like": _share_of_shown(HAPPENED["like"]),
    "share": _share_of_shown(HAPPENED["share"]),
    "save": _share_of_shown(HAPPENED["save"]),
    "return_1d": _return(2),
    "return_7d": _return(8),
    "sessions": UserMetric(_session_count, is_ratio=False),
    "length": UserMetric(_length),
    "reports": _share_of_shown(Interaction.reports > 0),
    "not_interested": _share_of_shown(Interaction.not_interested_at.is_not(None)),
    "small_creators": UserMetric(_small_creators),
    "diversity": UserMetric(_diversity),
    "exhausted": _per_page(FeedSession.exhausted),
    "page_time": _per_page(FeedSession.milliseconds),
}
"""The metrics and guardrails by name."""
