"""Statistics of videos and recent engagements of users, counted from pending events.

The transaction that counts a pending event also deletes it. So a refresh that is interrupted at any
point loses no event and counts none twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from recommender.database import bulk, lookup
from recommender.database.expressions import Statement, is_positive, viewed_and_positive
from recommender.database.schema import first_state
from recommender.database.session import Session
from recommender.database.transactions import run_on, run_transaction
from recommender.learning.affinities import DAY_SECONDS
from recommender.learning.engagement import POSITIVE_KINDS
from recommender.learning.recent import note_counted, renew_recent
from recommender.models.tables import (
    EVENTS,
    INTERACTIONS,
    LEARNING_STATE,
    PENDING,
    USERS,
    VIDEOS,
)
from recommender.settings import Settings

MAX_TREND = 1e6
"""The largest absolute value of a trend; the table has a check constraint for it."""

USERS_PER_BATCH = 5_000
"""The number of ids per range of users that a recount reads."""

VIDEOS_PER_BATCH = 5_000
"""The number of videos that one statement of a recount updates."""

T = TypeVar("T")


@dataclass(slots=True)
class RefreshRun:
    """A running refresh: its engine or connection, time and settings, and the work done so far.

    `events` is the number of counted events. `videos` and `users` are the ids of changed rows.
    """

    bind: Engine | Connection
    as_of: datetime
    settings: Settings
    events: int = 0
    videos: set[int] = field(default_factory=set)
    users: set[int] = field(default_factory=set)

    def locked(self, work: Callable[[Session, Any], T]) -> T:
        """Run a function in a transaction that locks the learning state.

        Args:
            work: the function; it takes the session and the row of the learning state.

        Returns:
            The function's result.
        """
        return run_on(self.bind, lambda s: work(s, self._lock(s)), settings=self.settings)

    def reading(self, work: Callable[[Session], T]) -> T:
        """Run a function that only reads, in a transaction without a lock."""
        if not isinstance(self.bind, Engine):
            return run_on(self.bind, work, settings=self.settings)
        unit = partial(self._read, work)
        return run_transaction(self.bind, unit, write=False, settings=self.settings)

    def _read(self, work: Callable[[Session], T], session: Session) -> T:
        self._allow_long_statements(session)
        return work(session)

    def add_done(
        self, *, events: int = 0, videos: Iterable[int] = (), users: Iterable[int] = ()
    ) -> None:
        """Add to the work done: a number of events, and the ids of changed videos and users."""
        self.events += events
        self.videos.update(videos)
        self.users.update(users)

    def _lock(self, session: Session) -> Any:
        self._allow_long_statements(session)
        lock = sa.select(LEARNING_STATE).with_for_update(key_share=True)
        return first_state(lookup.run(session, lock))

    def _allow_long_statements(self, session: Session) -> None:
        if isinstance(self.bind, Engine) and not lookup.is_sqlite(session):
            timeout_ms = f"{self.settings.rollup_timeout * 1000:.0f}"
            setting = sa.func.set_config("statement_timeout", timeout_ms, True)  # noqa: FBT003 - SQL's
            lookup.run(session, sa.select(setting))


@dataclass(slots=True)
class _VideoCounts:
    """Numbers to add to one video's statistics.

    `exponents` are the decay exponents of the first positive events, which make up the trend.
    """

    impressions: int = 0
    engaged_views: int = 0
    exponents: list[float] = field(default_factory=list)

    def add(self, impressions: int, engaged_views: int) -> None:
        """Add numbers of viewers and of positive viewers; a number below 0 takes back."""
        self.impressions += impressions
        self.engaged_views += engaged_views


def count_pending(run: RefreshRun) -> None:
    """Count the pending events in batches, in the order of their keys.

    Events that are recorded meanwhile may be left to the next refresh.
    """
    last: lookup.Key | None = None
    while True:
        rows, last = run.locked(partial(_count_batch, run, last))
        if last is None:
            return
        run.add_done(events=len(rows))


def _count_batch(
    run: RefreshRun, after: lookup.Key | None, session: Session, state: Any
) -> tuple[Sequence[Any], lookup.Key | None]:
    """Count the next pending events; return them and the last key of their range."""
    rows, last = _take_pending(session, after, run.settings.rollup_batch)
    _count(run, session, state, rows)
    renew_recent(run, session, {row.user_id for row in rows})
    return rows, last


def count_pairs(
    run: RefreshRun, session: Session, state: Any, users: Sequence[int], videos: Sequence[int]
) -> None:
    """Count the pending events of some users with some videos, which the caller has locked."""
    are_of = PENDING.c.user_id.in_(users), PENDING.c.video_id.in_(videos)
    taken = lookup.run(session, sa.delete(PENDING).where(*are_of).returning(*PENDING.c))
    _count(run, session, state, taken.all())


def _count(run: RefreshRun, session: Session, state: Any, rows: Sequence[Any]) -> None:
    """Add pending events to the statistics of their videos."""
    counts: dict[int, _VideoCounts] = {}
    for row in rows:
        if row.impressions or row.engaged_views:
            video = counts.setdefault(row.video_id, _VideoCounts())
            video.add(row.impressions, row.engaged_views)
            if row.engaged_views > 0 and not row.again:
                video.exponents.append(_trend_exponent(state, row.at))
    _add_counts(run, session, counts)
    if rows:
        note_counted(session)


def _take_pending(
    session: Session, after: lookup.Key | None, limit: int
) -> tuple[Sequence[Any], lookup.Key | None]:
    """Delete the next pending events; return them and the last key of their range."""
    key = list(PENDING.primary_key)
    last = lookup.end_of_next(session, key, after, limit)
    if last is None:
        return [], None
    # Others may have recorded within the range since its end was read, so RETURNING says what
    # there was to count.
    delete = sa.delete(PENDING).where(*lookup.keys_in_range(key, after, last))
    rows = lookup.run(session, delete.returning(*PENDING.c)).all()
    return [*rows, *_take_rest(session, rows, last[0])], last


def _take_rest(session: Session, rows: Sequence[Any], user_id: int) -> Sequence[Any]:
    """Delete and return what is left of the videos from which a range of a user's rows takes back.

    Keys are in no order of time. Without the row that gave, a number of viewers could be below 0.
    """
    videos = {row.video_id for row in rows if row.user_id == user_id and _takes_back(row)}
    if not videos:
        return []
    rest = PENDING.c.user_id == user_id, PENDING.c.video_id.in_(sorted(videos))
    return lookup.run(session, sa.delete(PENDING).where(*rest).returning(*PENDING.c)).all()


def _takes_back(row: Any) -> bool:
    return bool(row.impressions < 0 or row.engaged_views < 0)


def _trend_exponent(state: Any, at: datetime) -> float:
    """Return the number of half-lives of trends from the landmark to a time."""
    days: float = (at - state.landmark).total_seconds() / DAY_SECONDS
    return days / float(state.trend_half_life_days)


def trend_of(exponents: Sequence[float]) -> float | None:
    """Return log2 of the sum of 2 ** exponent, or None without exponents.

    The largest exponent is taken out of the sum, because a double could not hold the sum itself.
    """
    if not exponents:
        return None
    largest = max(exponents)
    trend = largest + math.log2(math.fsum(2.0 ** (exponent - largest) for exponent in exponents))
    return max(-MAX_TREND, min(MAX_TREND, trend))


def _add_counts(run: RefreshRun, session: Session, counts: Mapping[int, _VideoCounts]) -> None:
    """Add counts to the statistics of videos."""
    rows = []
    for video_id, trend in lock_videos(session, counts, VIDEOS.c.trending):
        new = counts[video_id]
        trending = trend_of(new.exponents if trend is None else [trend, *new.exponents])
        rows.append((video_id, new.impressions, new.engaged_views, trending))
    changes = {"impressions": _counted, "engaged_views": _counted, "trending": bulk.replace}
    _update_videos(run, session, rows, changes)


def _counted(old: Any, new: Any) -> sa.ColumnElement[Any]:
    """Return the sum, at least 0."""
    # States from before migration 0002 may be positive without having been counted so far.
    total = bulk.added(old, new)
    return sa.case((total < 0, 0), else_=total)


def lock_videos(
    session: Session, video_ids: Iterable[int], *columns: sa.Column[Any]
) -> Iterator[tuple[Any, ...]]:
    """Lock videos in the order of their keys, as the writers of the catalogue do.

    Args:
        session: the transaction.
        video_ids: the ids of the videos.
        columns: the columns to read.

    Returns:
        The videos' ids, each with its values of the columns.
    """
    ids = [(video_id,) for video_id in video_ids]
    keys = [tuple(row) for row in lookup.find(session, [VIDEOS.c.id], ids, [VIDEOS.c.key])]
    rows = lookup.find(session, [VIDEOS.c.key], keys, [VIDEOS.c.id, *columns], lock=True)
    return (tuple(row) for row in rows)


_STATISTICS = (VIDEOS.c.id, VIDEOS.c.impressions, VIDEOS.c.engaged_views, VIDEOS.c.trending)


def _update_videos(
    run: RefreshRun,
    session: Session,
    rows: Sequence[lookup.Key],
    changes: Mapping[str, bulk.Merge],
    **constants: object,
) -> None:
    """Update the statistics of videos from rows of `_STATISTICS`."""
    constants = {**constants, "stats_at": run.as_of}
    bulk.update_listed(session, _STATISTICS, sorted(rows), changes, constants)
    run.add_done(videos=(video_id for video_id, *_ in rows))


def recount(run: RefreshRun, session: Session, state: Any) -> None:
    """Compute the statistics of all videos again from states and log, without pending events.

    If events were pruned, trends are kept: the log no longer has the time of every first positive
    event.
    """
    # Users are read in ranges of ids. One statement reads both the states and the pending events
    # of a range. Nothing else counts pending events while the learning state is locked.
    counts: dict[int, _VideoCounts] = {}
    last = lookup.run(session, sa.select(sa.func.max(USERS.c.id))).scalar() or 0
    for low in range(0, last + 1, USERS_PER_BATCH):
        users = {"low": low, "high": low + USERS_PER_BATCH}
        for row in lookup.run(session, _COUNTS, users):
            video = counts.setdefault(row.video_id, _VideoCounts())
            video.add(row.impressions, row.engaged_views)
        for row in lookup.run(session, _FIRST_POSITIVE, users):
            video = counts.setdefault(row.video_id, _VideoCounts())
            video.exponents.append(_trend_exponent(state, row.at))
    _replace_statistics(run, session, counts, keeps_trend=state.events_horizon is not None)
    note_counted(session)


def _replace_statistics(
    run: RefreshRun, session: Session, counts: Mapping[int, _VideoCounts], *, keeps_trend: bool
) -> None:
    """Replace the statistics of all videos, and mark their neighbours as outdated."""
    replaced = _STATISTICS[1:-1] if keeps_trend else _STATISTICS[1:]
    changes = {column.name: bulk.replace for column in replaced}
    after, zero = "", _VideoCounts()
    while videos := _lock_next_videos(session, after):
        after = videos[-1].key
        rows = []
        for video in videos:
            new = counts.get(video.id, zero)
            rows.append((video.id, new.impressions, new.engaged_views, trend_of(new.exponents)))
        _update_videos(run, session, rows, changes, neighbours_views=0)


def _lock_next_videos(session: Session, after: str) -> Sequence[Any]:
    """Lock the next videos in the order of their keys; return their ids and keys."""
    read = sa.select(VIDEOS.c.id, VIDEOS.c.key).where(VIDEOS.c.key > after)
    read = read.order_by(VIDEOS.c.key).limit(VIDEOS_PER_BATCH).with_for_update(key_share=True)
    return lookup.run(session, read).all()


def _in_range(column: sa.Column[Any]) -> sa.ColumnElement[bool]:
    low, high = (sa.bindparam(name, type_=sa.BigInteger) for name in ("low", "high"))
    return sa.and_(column >= low, column < high)


def _counts() -> Statement:
    """Build the SELECT of viewers and positive viewers per video, less the pending changes."""
    impressions, positives = viewed_and_positive(INTERACTIONS.c)
    viewed = sa.select(
        INTERACTIONS.c.video_id,
        impressions.label("impressions"),
        positives.label("engaged_views"),
    ).where(_in_range(INTERACTIONS.c.user_id))
    pending = sa.select(PENDING.c.video_id, -PENDING.c.impressions, -PENDING.c.engaged_views).where(
        _in_range(PENDING.c.user_id)
    )
    rows = sa.union_all(viewed, pending).subquery()
    sums = [
        sa.cast(sa.func.sum(rows.c[name]), sa.BigInteger).label(name)
        for name in ("impressions", "engaged_views")
    ]
    return sa.select(rows.c.video_id, *sums).group_by(rows.c.video_id)


def _first_positive() -> Statement:
    """Build the SELECT of the time of the first positive event per positive state.

    It leaves out states whose first positive event is still pending. The erasure of a user deletes
    states before the log, so an event without a state does not count.
    """
    of_pair = (PENDING.c.user_id == EVENTS.c.user_id, PENDING.c.video_id == EVENTS.c.video_id)
    is_pending = sa.exists().where(*of_pair, PENDING.c.engaged_views > 0, ~PENDING.c.again)
    is_state = sa.and_(
        INTERACTIONS.c.user_id == EVENTS.c.user_id,
        INTERACTIONS.c.video_id == EVENTS.c.video_id,
        is_positive(INTERACTIONS.c),
    )
    is_event = sa.or_(EVENTS.c.engaged, EVENTS.c.kind.in_(POSITIVE_KINDS))
    return (
        sa.select(EVENTS.c.video_id, sa.func.min(EVENTS.c.at).label("at"))
        .join(INTERACTIONS, is_state)
        .where(_in_range(EVENTS.c.user_id), is_event, ~is_pending)
        .group_by(EVENTS.c.user_id, EVENTS.c.video_id)
    )


_COUNTS = _counts()

_FIRST_POSITIVE = _first_positive()
