"""The sums of every metric, computed again in plain Python from every row."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from statistics import median_low
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender.experiments.metrics import USER_METRICS
from recommender.experiments.statistics import Sums
from recommender.experiments.user_sums import Scope, UserMetric, population, sums
from recommender.formats.experiments import GUARDRAILS, METRICS
from recommender.models import EventRow, FeedSession, Interaction, ServedVideo, User, Video
from tests.support.experiment_worlds import OTHER_FEED, START, World, arm_profiles, start

DAY = timedelta(days=1)

Row = tuple[int, float, float, float]
"""A user, a day since the start, and what is added to the numerator and the denominator."""


class Plain:
    """What the statements compute, in plain Python."""

    def __init__(self, session: Session, scope: Scope) -> None:
        self.scope = scope
        self.feed = scope.feed and recommender.get_feed(session, scope.feed).id
        self.sessions = session.scalars(sa.select(FeedSession)).all()
        self.places = session.scalars(sa.select(ServedVideo)).all()
        self.of_state = defaultdict(list)
        for place in self.places:
            self.of_state[place.user_id, place.video_id].append(place)
        self.states = {
            (state.user_id, state.video_id): state
            for state in session.scalars(sa.select(Interaction))
        }
        self.events = session.scalars(sa.select(EventRow)).all()
        self.users = session.scalars(sa.select(User)).all()
        self.videos = {video.id: video for video in session.scalars(sa.select(Video))}
        self.members = dict(self._members())
        self.before = scope.start - (scope.end - scope.start)

    def _own_sessions(self) -> dict[int, list[FeedSession]]:
        own = defaultdict(list)
        for each in self.sessions:
            if each.experiment_id == self.scope.experiment_id and each.started_at < self.scope.end:
                own[each.user_id].append(each)
        return own

    def _members(self) -> Iterator[tuple[int, tuple[int, datetime]]]:
        for user, own in self._own_sessions().items():
            arms = {each.arm for each in own}
            merged = any(
                other.merged_into == user
                and (other.merged_at is None or other.merged_at >= self.scope.start)
                for other in self.users
            )
            first = min(each.started_at for each in own)
            if len(arms) == 1 and first >= self.scope.start and not merged:
                yield user, (arms.pop(), first)

    def day(self, moment: datetime) -> float:
        return (moment - self.scope.start) / DAY

    def _counts(self, each: FeedSession, *, is_before: bool) -> bool:
        if each.user_id not in self.members:
            return False
        if is_before:
            is_before = self.before <= each.started_at < self.scope.start
            return is_before and each.feed_id == self.feed
        return each.experiment_id == self.scope.experiment_id and each.started_at < self.scope.end

    def counted(self, *, is_before: bool) -> list[FeedSession]:
        return [each for each in self.sessions if self._counts(each, is_before=is_before)]

    def counted_places(self, *, is_before: bool) -> Iterator[tuple[FeedSession, ServedVideo]]:
        for own in self.counted(is_before=is_before):
            for place in self.places:
                profile = self.scope.profile_ids[self.members[own.user_id][0]]
                if (place.user_id, place.session) == (own.user_id, own.session) and (
                    is_before or place.profile_id == profile
                ):
                    yield own, place

    def state_of(self, own: FeedSession, place: ServedVideo) -> Interaction | None:
        """The state that belongs to the place, if the user looked at it."""
        state = self.states.get((place.user_id, place.video_id))
        if state is None or not (state.impressions or state.engaged_at):
            return None
        if own.rewatch and state.first_at < place.served_at:
            return None
        before = [
            (other.served_at, other.session)
            for other in self.of_state[place.user_id, place.video_id]
            if other.served_at <= state.first_at + timedelta(minutes=5)
        ]
        return state if before and max(before) == (place.served_at, place.session) else None

    def shown(self, happened: Callable[[Interaction], bool], *, is_before: bool) -> Iterator[Row]:
        for own, place in self.counted_places(is_before=is_before):
            if state := self.state_of(own, place):
                yield own.user_id, self.day(own.started_at), float(happened(state)), 1.0

    def per_session(
        self, value: Callable[[FeedSession], tuple[float, float]], *, is_before: bool
    ) -> Iterator[Row]:
        for own in self.counted(is_before=is_before):
            yield own.user_id, self.day(own.started_at), *value(own)

    def per_place(self, *, is_before: bool) -> Iterator[Row]:
        for own, _ in self.counted_places(is_before=is_before):
            yield own.user_id, self.day(own.started_at), 1.0, 0.0

    def positives(self, *, is_before: bool) -> Iterator[Row]:
        for user, day, top, _ in self.shown(_is_engaged, is_before=is_before):
            yield user, day, top, 0.0
        yield from self.per_session(lambda _: (0.0, 1.0), is_before=is_before)

    def length(self, *, is_before: bool) -> Iterator[Row]:
        yield from self.per_place(is_before=is_before)
        yield from self.per_session(lambda _: (0.0, 1.0), is_before=is_before)

    def diversity(self, *, is_before: bool) -> Iterator[Row]:
        creators = defaultdict(list)
        for own, place in self.counted_places(is_before=is_before):
            creator = self.videos[place.video_id].creator_id
            if creator is not None:
                creators[own.user_id, own.session, own.started_at].append(creator)
        for (user, _, started_at), found in creators.items():
            yield user, self.day(started_at), float(len(set(found))), float(len(found))

    def small_creators(self, *, is_before: bool) -> Iterator[Row]:
        totals: dict[int, int] = defaultdict(int)
        for video in self.videos.values():
            if video.creator_id is not None:
                totals[video.creator_id] += video.impressions
        small = {creator for creator, n in totals.items() if n <= median_low(totals.values())}
        for own, place in self.counted_places(is_before=is_before):
            is_small = self.videos[place.video_id].creator_id in small
            yield own.user_id, self.day(own.started_at), float(is_small), 1.0

    def watch_time(self, *, is_before: bool) -> Iterator[Row]:
        for event in self.events:
            if event.user_id not in self.members or event.kind != "watch":
                continue
            first = self.members[event.user_id][1]
            low, high = (self.before, START) if is_before else (first, self.scope.end)
            if low <= event.at < high:
                duration = self.videos[event.video_id].duration_ms
                watched = event.watch_ms
                if watched is None and event.completion is not None and duration is not None:
                    watched = event.completion * duration
                yield event.user_id, self.day(event.at), float(watched or 0), 0.0

    def returned(self, until: int, *, is_before: bool) -> Iterator[Row]:
        for user, (_, first) in self.members.items():
            low, high = first + DAY, first + until * DAY
            if is_before:
                low, high = START - (until - 1) * DAY, START
            elif high > self.scope.end:
                continue
            came = any(event.user_id == user and low <= event.at < high for event in self.events)
            yield user, self.day(first) + until, float(came), 0.0

    def rows(self, metric: str, *, is_before: bool) -> Iterable[Row]:
        if metric in SHOWN:
            return self.shown(SHOWN[metric], is_before=is_before)
        if metric in PER_SESSION:
            return self.per_session(PER_SESSION[metric], is_before=is_before)
        if metric in RETURNS:
            return self.returned(RETURNS[metric], is_before=is_before)
        found: Iterable[Row] = getattr(self, metric)(is_before=is_before)
        return found

    def outcomes(
        self, rows: Iterable[Row], metric: UserMetric, until: int | None
    ) -> dict[int, float]:
        top: dict[int, float] = defaultdict(float)
        bottom: dict[int, float] = defaultdict(float)
        for user, day, above, below in rows:
            if until is None or self.point(day) <= until:
                top[user] += above
                bottom[user] += below
        if not metric.is_ratio:
            return dict(top)
        return {user: top[user] / bottom[user] if bottom[user] else 0.0 for user in top}

    def point(self, day: float) -> int:
        return min(int(day / self.scope.width), self.scope.points - 1)

    def sums(self, name: str, metric: UserMetric) -> list[list[Sums]]:
        """Return the sums by arm and by point, over all users who count until then."""
        rows = list(self.rows(name, is_before=False))
        past = self.outcomes(self.rows(name, is_before=True), metric, None)
        found: list[list[Sums]] = [[] for _ in self.scope.profile_ids]
        for point in range(self.scope.points):
            y = self.outcomes(rows, metric, point)
            for number, sums_of_arm in enumerate(found):
                who = [
                    user
                    for user, (arm, first) in self.members.items()
                    if arm == number and self._has_begun(first, metric.after, point)
                ]
                pairs = [(y.get(user, 0.0), past.get(user, 0.0)) for user in who]
                sums_of_arm.append(_sums(pairs))
        return found

    def _has_begun(self, first: datetime, after: float, point: int) -> bool:
        day = self.day(first) + after
        return day <= self.scope.days and self.point(day) <= point


def _sums(pairs: list[tuple[float, float]]) -> Sums:
    return Sums(
        len(pairs),
        math.fsum(y for y, _ in pairs),
        math.fsum(y * y for y, _ in pairs),
        math.fsum(x for _, x in pairs),
        math.fsum(x * x for _, x in pairs),
        math.fsum(x * y for y, x in pairs),
    )


def _is_engaged(state: Interaction) -> bool:
    return state.engaged_at is not None


SHOWN: dict[str, Callable[[Interaction], bool]] = {
    "engaged": _is_engaged,
    "like": lambda state: state.liked_at is not None,
    "share": lambda state: state.shares > 0,
    "save": lambda state: state.saved_at is not None,
    "reports": lambda state: state.reports > 0,
    "not_interested": lambda state: state.not_interested_at is not None,
}

PER_SESSION: dict[str, Callable[[FeedSession], tuple[float, float]]] = {
    "sessions": lambda _: (1.0, 0.0),
    "exhausted": lambda own: (float(own.exhausted), float(own.pages)),
    "page_time": lambda own: (float(own.milliseconds), float(own.pages)),
}

RETURNS = {"return_1d": 2, "return_7d": 8}


def scope_of(
    session: Session, days: float, users: int, seed: int, variants: int, feed: str | None
) -> Scope:
    experiment = start(session, variants)
    World(session, experiment, seed, users=users, days=days)
    profiles = tuple(arm_profiles(session, experiment))
    return Scope(experiment.id, profiles, feed, START, START + days * DAY)


def found_sums(session: Session, scope: Scope, metric: UserMetric) -> np.ndarray[Any, Any]:
    added = np.zeros((len(scope.profile_ids), scope.points, len(Sums._fields)))
    for row in session.execute(sums(scope, metric)):
        added[row.arm, row.point] = [getattr(row, name) for name in Sums._fields]
    return added.cumsum(axis=1)


def assert_equal(found: np.ndarray[Any, Any], expected: list[list[Sums]]) -> None:
    wanted = np.array(expected, dtype=float)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-6)


def test_every_metric_and_guardrail_has_a_statement() -> None:
    assert tuple(USER_METRICS) == (*METRICS, *GUARDRAILS)


@pytest.mark.parametrize(
    ("days", "seed", "variants", "feed"), [(9.7, 1, 2, None), (100.0, 2, 1, OTHER_FEED)]
)
def test_the_sums_are_those_over_every_row(
    session: Session, days: float, seed: int, variants: int, feed: str | None
) -> None:
    scope = scope_of(session, days, users=40, seed=seed, variants=variants, feed=feed)
    plain = Plain(session, scope)
    assert 20 < len(plain.members) < 40
    for name, metric in USER_METRICS.items():
        expected = plain.sums(name, metric)
        assert_equal(found_sums(session, scope, metric), expected)
        if days < 10:
            assert sum(arm[-1].y for arm in expected) > 0, name
            assert sum(arm[-1].x for arm in expected) > 0, name
    counts = {row.arm: row.users for row in session.execute(population(scope))}
    for arm in range(len(scope.profile_ids)):
        assert counts[arm] == sum(own == arm for own, _ in plain.members.values())


@pytest.mark.parametrize(
    ("days", "points", "last_but_one"),
    [
        (0.0, 1, None),
        (0.4, 1, None),
        (1.0, 1, None),
        (2.5, 3, 2.0),
        (60.0, 60, 59.0),
        (90.0, 60, 88.5),
    ],
)
def test_the_times_of_a_report(days: float, points: int, last_but_one: float | None) -> None:
    scope = Scope(1, (1, 2), None, START, START + days * DAY)
    times = scope.times()
    assert len(times) == scope.points == points
    assert times[-1] == scope.end
    if last_but_one is not None:
        assert times[-2] == START + last_but_one * DAY
