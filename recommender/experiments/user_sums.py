"""Sums over the users of an experiment, by arm and by time: one SELECT for any metric.

Every metric is made of rows of a user, a day, a numerator and a denominator. A user's outcome at
any time is the sum of their numerators until then, divided by the sum of the denominators, if the
metric is a ratio. Sums over users add up the changes of these outcomes.
"""

# Changes, because only the users with new rows are read for each time: the statement costs the same
# for one time and for sixty.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement
from sqlalchemy.orm import aliased

from recommender.database.expressions import (
    Number,
    Statement,
    age_days,
    bounded,
    half_away,
    is_true,
    materialized,
    number,
)
from recommender.models import FeedSession, User
from recommender.models.types import UtcDateTime

DAY = timedelta(days=1)

MAX_POINTS = 60
"""The maximum number of times for which a report has sums."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is read for an experiment.

    Attributes:
        experiment_id: its row.
        profile_ids: the rows of the profiles of its arms, the control first.
        feed: the name of its feed, None for For You.
        start, end: the time from its start to the reading time, or to its end.
    """

    experiment_id: int
    profile_ids: tuple[int, ...]
    feed: str | None
    start: datetime
    end: datetime

    @property
    def days(self) -> float:
        """The length in days, above 0."""
        return max((self.end - self.start) / DAY, 1e-6)

    @property
    def width(self) -> float:
        """The distance of two times in days."""
        return max(self.days / MAX_POINTS, 1.0)

    @property
    def points(self) -> int:
        """The number of times."""
        return min(-int(-self.days // self.width), MAX_POINTS)

    def times(self) -> list[datetime]:
        """Return the times, each at the end of its part; the last one is the end."""
        ends = (self.start + (point + 1) * self.width * DAY for point in range(self.points))
        return [min(time, self.end) for time in ends]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what is read: the time of the experiment, or as long a time before it.

    Attributes:
        scope: the experiment.
        members: its users, as `_members` returns them.
        is_before: True for the time before the start.
    """

    scope: Scope
    members: CTE
    is_before: bool = False


@dataclass(frozen=True, slots=True)
class UserMetric:
    """A metric of users.

    Attributes:
        rows: the SELECT of `user_id`, `day` since the start, `top` and `bottom` of a part.
        is_ratio: whether an outcome is `top` divided by `bottom`, 0 without a `bottom`.
        has_past: whether there are rows before the experiment.
        after: the days after the first session until a user counts.
        at_end: whether the rows are known at the end only.
    """

    rows: Callable[[Part], Statement]
    is_ratio: bool = True
    has_past: bool = True
    after: float = 0.0
    at_end: bool = False


def population(scope: Scope) -> Statement:
    """Return the SELECT of the numbers of users by arm; with any session where the arm is NULL."""
    members = _members(scope)
    no_arm = sa.null().cast(sa.SmallInteger).label("arm")
    every = sa.select(no_arm, sa.func.count(FeedSession.user_id.distinct()).label("users"))
    by_arm = sa.select(members.c.arm, sa.func.count()).group_by(members.c.arm)
    return sa.select(sa.union_all(every.where(*in_experiment(scope)), by_arm).subquery())


def sums(scope: Scope, metric: UserMetric) -> Statement:
    """Return the SELECT of what each part of the time adds to the sums of each arm.

    Its columns are `point`, from 0, `arm`, and the fields of `statistics.Sums`.
    """
    members = _members(scope)
    rows = sa.union_all(_first_rows(scope, members, metric), metric.rows(Part(scope, members)))
    outcome = _outcomes(rows.subquery("both"), scope, metric)
    source: Any = outcome.join(members, members.c.user_id == outcome.c.user_id)
    x: Number = number(0)
    if metric.has_past:
        past = _past(metric.rows(Part(scope, members, is_before=True)), metric)
        source = source.outerjoin(past, past.c.user_id == outcome.c.user_id)
        x = sa.func.coalesce(past.c.x, number(0))
    return _summed(outcome, x, members.c.arm).select_from(source)


def _first_rows(scope: Scope, members: CTE, metric: UserMetric) -> Statement:
    """Return the row from which on a user counts: whoever did nothing has the outcome 0."""
    first = age_days(moment_of(scope.start), members.c.first_at) + number(metric.after)
    day = number(scope.days) if metric.at_end else first
    return sa.select(
        members.c.user_id, day.label("day"), number(0).label("top"), number(0).label("bottom")
    ).where(first <= number(scope.days))


def _summed(outcome: sa.Subquery, x: Number, arm: ColumnElement[int]) -> Statement:
    is_new, y, earlier = outcome.c.is_new, outcome.c.y, outcome.c.earlier
    change = y - earlier
    columns = {
        "users": is_new,
        "y": change,
        "yy": y * y - earlier * earlier,
        "x": is_new * x,
        "xx": is_new * x * x,
        "xy": change * x,
    }
    added = (sa.func.sum(column).label(name) for name, column in columns.items())
    return sa.select(outcome.c.point, arm, *added).group_by(outcome.c.point, arm)


def _outcomes(rows: sa.Subquery, scope: Scope, metric: UserMetric) -> sa.Subquery:
    """Return the outcomes of users after each part of the time that changed them."""
    point = _point(rows.c.day, scope)
    by_point = (
        sa.select(
            rows.c.user_id, point, sa.func.sum(rows.c.top).label("top"),
            sa.func.sum(rows.c.bottom).label("bottom"),
        )
        .group_by(rows.c.user_id, point)
        .subquery("by_point")
    )  # fmt: skip
    order: Any = {"partition_by": by_point.c.user_id, "order_by": by_point.c.point}
    top, bottom = (sa.func.sum(by_point.c[name]).over(**order) for name in ("top", "bottom"))
    running = sa.select(
        by_point.c.user_id, by_point.c.point, top.label("top"), bottom.label("bottom")
    ).subquery("running")
    y = _outcome(running.c.top, running.c.bottom, metric)
    order = {"partition_by": running.c.user_id, "order_by": running.c.point}
    number_of = sa.func.row_number().over(**order)
    return sa.select(
        running.c.user_id,
        running.c.point,
        y.label("y"),
        sa.func.coalesce(sa.func.lag(y).over(**order), number(0)).label("earlier"),
        is_true(number_of == 1).label("is_new"),
    ).subquery("outcome")


def _past(before: Statement, metric: UserMetric) -> sa.Subquery:
    rows = before.subquery("before")
    x = _outcome(sa.func.sum(rows.c.top), sa.func.sum(rows.c.bottom), metric)
    return sa.select(rows.c.user_id, x.label("x")).group_by(rows.c.user_id).subquery("past")


def _outcome(top: Any, bottom: Any, metric: UserMetric) -> Number:
    if not metric.is_ratio:
        return top  # type: ignore[no-any-return] # a column
    return sa.case((bottom > 0, top / sa.func.nullif(bottom, 0)), else_=number(0))


def _point(day: Number, scope: Scope) -> Any:
    """Return the number of the part of the time that a day belongs to, from 0."""
    # Rounding down, as both databases can.
    part = half_away(day / number(scope.width) - number(0.5))
    return sa.cast(bounded(part, 0, scope.points - 1), sa.Integer).label("point")


def moment_of(moment: datetime) -> ColumnElement[datetime]:
    """Return a time as a bound value that can stand in any expression."""
    return sa.literal(moment, UtcDateTime())


def in_experiment(scope: Scope) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a session is in the experiment, and began before the end."""
    own, is_in = FeedSession.experiment_id == scope.experiment_id, FeedSession.arm.is_not(None)
    return own, is_in, FeedSession.started_at < scope.end


def _members(scope: Scope) -> CTE:
    """Return the users who count, with their arm and the time of their first session in it.

    A user counts in one arm only, from their first session after the start, and if no other user
    was merged into them since.
    """
    arm, first_at = sa.func.min(FeedSession.arm), sa.func.min(FeedSession.started_at)
    # One value that is tested for NULL, because PostgreSQL expects 1 user of 600 to pass a HAVING
    # with these comparisons, and would read all places by nested loops.
    is_in_one = sa.and_(arm == sa.func.max(FeedSession.arm), first_at >= scope.start)
    users = (
        sa.select(
            FeedSession.user_id,
            sa.case((is_in_one, arm)).label("arm"),
            first_at.label("first_at"),
        )
        .where(*in_experiment(scope))
        .group_by(FeedSession.user_id)
        .subquery("users")
    )
    merged = aliased(User)
    is_later = sa.or_(merged.merged_at.is_(None), merged.merged_at >= scope.start)
    is_merged = sa.exists().where(merged.merged_into == users.c.user_id, is_later)
    return materialized(sa.select(users).where(users.c.arm.is_not(None), ~is_merged).cte("members"))
