"""What pending events add to the statistics of videos and to recent engagements.

What an event adds is deleted from the pending ones in the transaction that counts it, so that
nothing is lost or counted twice wherever a refresh ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.expressions import Statement
from recommender.database.lookup import end_of_next, keys_in_range
from recommender.database.transactions import run_transaction
from recommender.learning.affinities import DAY
from recommender.models.tables import (
    EVENTS,
    INTERACTIONS,
    LEARNING_STATE,
    PENDING,
    RECENT,
    USERS,
    VIDEOS,
)
from recommender.settings import Settings

MOST_TRENDING = 1e6
"""Trends are kept within this either way, as the table's check wants it."""

USERS_AT_ONCE = 5_000

VIDEOS_AT_ONCE = 5_000
"""How many users are read and how many videos are written by one statement of a recount."""

T = TypeVar("T")


@dataclass(slots=True)
class Run:
    """One refresh: what it works with, and what it has done so far."""

    engine: Engine
    as_of: datetime
    settings: Settings
    events: int = 0
    videos: set[int] = field(default_factory=set)
    users: set[int] = field(default_factory=set)

    def locked(self, work: Callable[[Session, Any], T]) -> T:
        """Run a function in a transaction, with the learning state's row, which it alone holds."""
        return run_transaction(
            self.engine, lambda s: work(s, self._lock(s)), settings=self.settings
        )

    def count(
        self, *, events: int = 0, videos: Iterable[int] = (), users: Iterable[int] = ()
    ) -> None:
        """Note what was done."""
        self.events += events
        self.videos.update(videos)
        self.users.update(users)

    def _lock(self, session: Session) -> Any:
        if not lookup.is_sqlite(session):
            longest = f"{self.settings.rollup_timeout * 1000:.0f}"
            limit = sa.func.set_config("statement_timeout", longest, True)  # noqa: FBT003 - SQL's
            lookup.run(session, sa.select(limit))
        lock = sa.select(LEARNING_STATE).with_for_update()
        return lookup.run(session, lock).one()


@dataclass(slots=True)
class _Sums:
    """What is added to one video's statistics; the exponents are those of its trend."""

    impressions: int = 0
    engaged_views: int = 0
    exponents: list[float] = field(default_factory=list)

    def add(self, impressions: int, engaged_views: int) -> None:
        """Add viewers, and of these the engaged ones."""
        self.impressions += impressions
        self.engaged_views += engaged_views


def count_pending(run: Run) -> None:
    """Count every pending event that was there, batch by batch in the order of their keys."""
    last: lookup.Key | None = None
    while True:
        rows, last = run.locked(partial(_count_batch, run, last))
        if last is None:
            return
        run.count(events=len(rows))


def _count_batch(
    run: Run, after: lookup.Key | None, session: Session, state: Any
) -> tuple[Sequence[Any], lookup.Key | None]:
    """Count the next pending events; return them and the last of their keys."""
    rows, last = _take(session, after, run.settings.rollup_batch)
    sums: dict[int, _Sums] = {}
    for row in rows:
        if row.impressions or row.engaged_views:
            video = sums.setdefault(row.video_id, _Sums())
            video.add(row.impressions, row.engaged_views)
            if row.engaged_views:
                video.exponents.append(_exponent(state, row.at))
    _add(run, session, sums)
    renew_recent(run, session, {row.user_id for row in rows})
    return rows, last


def _take(
    session: Session, after: lookup.Key | None, most: int
) -> tuple[Sequence[Any], lookup.Key | None]:
    """Delete the next pending events and return them, with the key that they end at.

    A range of keys is deleted, and counted what the deletion says was in it: others may have
    recorded within the range since its end was read.
    """
    key = list(PENDING.primary_key)
    last = end_of_next(session, key, after, most)
    if last is None:
        return [], None
    gone = sa.delete(PENDING).where(*keys_in_range(key, after, last))
    taken = lookup.run(session, gone.returning(*PENDING.c)).all()
    return taken, last


def _exponent(state: Any, at: datetime) -> float:
    """How many of a trend's half-lives after the landmark a time is."""
    days: float = (at - state.landmark).total_seconds() / DAY
    return days / float(state.trend_half_life_days)


def _trend(exponents: Sequence[float]) -> float | None:
    """The logarithm to base 2 of a sum of powers of 2, which itself may be no double."""
    if not exponents:
        return None
    most = max(exponents)
    found = most + math.log2(math.fsum(2.0 ** (each - most) for each in exponents))
    return max(-MOST_TRENDING, min(MOST_TRENDING, found))


def _add(run: Run, session: Session, sums: Mapping[int, _Sums]) -> None:
    values = []
    for video_id, old in lock_videos(session, sums, VIDEOS.c.trending):
        new = sums[video_id]
        trending = _trend(new.exponents if old is None else [old, *new.exponents])
        values.append((video_id, new.impressions, new.engaged_views, trending))
    _write(run, session, _adding(lookup.is_sqlite(session)), values)


def lock_videos(
    session: Session, video_ids: Iterable[int], *columns: sa.Column[Any]
) -> Iterator[tuple[Any, ...]]:
    """Lock videos in the order of their keys, as the catalogue's writers do.

    Returns:
        Their ids and their values of the columns.
    """
    wanted = [(video_id,) for video_id in video_ids]
    keys = [tuple(row) for row in lookup.find(session, [VIDEOS.c.id], wanted, [VIDEOS.c.key])]
    found = lookup.find(session, [VIDEOS.c.key], keys, [VIDEOS.c.id, *columns], lock=True)
    return (tuple(row) for row in found)


def _write(run: Run, session: Session, statement: sa.Update, values: Sequence[lookup.Key]) -> None:
    given = {**lookup.listed_values(session, len(_WRITTEN), sorted(values)), "as_of": run.as_of}
    lookup.run(session, statement, given)
    run.count(videos=(video_id for video_id, *_ in values))


_WRITTEN = (VIDEOS.c.id, VIDEOS.c.impressions, VIDEOS.c.engaged_views, VIDEOS.c.trending)

_AS_OF = sa.bindparam("as_of", type_=VIDEOS.c.stats_at.type)


@cache
def _adding(on_sqlite: bool) -> sa.Update:  # noqa: FBT001 - what the statement is cached by
    rows = lookup.listed(on_sqlite, _WRITTEN)
    statement = sa.update(VIDEOS).where(VIDEOS.c.id == rows.c.id)
    return statement.values(
        impressions=VIDEOS.c.impressions + rows.c.impressions,
        engaged_views=VIDEOS.c.engaged_views + rows.c.engaged_views,
        trending=rows.c.trending,
        stats_at=_AS_OF,
    )


@cache
def _replacing(on_sqlite: bool, keeps_trend: bool) -> sa.Update:  # noqa: FBT001
    rows = lookup.listed(on_sqlite, _WRITTEN)
    statement = sa.update(VIDEOS).where(VIDEOS.c.id == rows.c.id)
    columns = _WRITTEN[1:-1] if keeps_trend else _WRITTEN[1:]
    changed = {column.name: rows.c[column.name] for column in columns}
    return statement.values(**changed, neighbours_views=0, stats_at=_AS_OF)


def renew_recent(run: Run, session: Session, users: Iterable[int]) -> None:
    """Make the recent engagements of users be the newest that they still mean.

    The rows are compared here: a database whose statistics are old joins them each with each.
    """
    wanted = [(user_id,) for user_id in sorted(users)]
    most = {"most": run.settings.recent_engagements}
    given = {**lookup.listed_values(session, 1, wanted), **most}
    newest = lookup.run(session, _newest(lookup.is_sqlite(session)), given)
    there = lookup.find(session, [RECENT.c.user_id], wanted, list(RECENT.c))
    run.count(users=bulk.synchronise(session, RECENT, map(tuple, there), map(tuple, newest)))


@cache
def _newest(on_sqlite: bool) -> Statement:  # noqa: FBT001
    states = INTERACTIONS.c
    users = lookup.listed(on_sqlite, (states.user_id,))
    rank = sa.func.row_number().over(
        partition_by=states.user_id, order_by=(states.engaged_at.desc(), states.video_id.desc())
    )
    about = [states.user_id, states.video_id, states.engaged_at.label("at")]
    ranked = (
        sa.select(*about, rank.label("rank"))
        .select_from(users)
        .join(INTERACTIONS, states.user_id == users.c.user_id)
        .join(USERS, USERS.c.id == users.c.user_id)
        .where(
            states.engaged_at.is_not(None),
            states.not_interested_at.is_(None),
            states.reports == 0,
            sa.or_(USERS.c.learned_since.is_(None), states.engaged_at > USERS.c.learned_since),
        )
        .subquery()
    )
    read = [ranked.c.user_id, ranked.c.video_id, ranked.c.at]
    return sa.select(*read).where(ranked.c.rank <= sa.bindparam("most", type_=sa.Integer))


def recount(run: Run, session: Session, state: Any) -> None:
    """Compute the statistics of all videos anew, without what is pending.

    Trends stay as they are where the log is pruned: it says no more when all of them began.
    Users are read in ranges of ids: of each, what is not pending yet, as one statement sees it.
    While the learning state is locked, nothing else counts what is pending.
    """
    sums: dict[int, _Sums] = {}
    last = lookup.run(session, sa.select(sa.func.max(USERS.c.id))).scalar() or 0
    for low in range(0, last + 1, USERS_AT_ONCE):
        users = {"low": low, "high": low + USERS_AT_ONCE}
        for row in lookup.run(session, _COUNTS, users):
            video = sums.setdefault(row.video_id, _Sums())
            video.add(row.impressions, row.engaged_views)
        for row in lookup.run(session, _FIRST_ENGAGED, users):
            sums.setdefault(row.video_id, _Sums()).exponents.append(_exponent(state, row.at))
    after = ""
    while videos := _lock_next(session, after):
        after = videos[-1].key
        nothing = _Sums()
        each = [(row.id, sums.get(row.id, nothing)) for row in videos]
        values = [(i, s.impressions, s.engaged_views, _trend(s.exponents)) for i, s in each]
        keeps_trend = state.events_horizon is not None
        _write(run, session, _replacing(lookup.is_sqlite(session), keeps_trend), values)


def _lock_next(session: Session, after: str) -> Sequence[Any]:
    read = sa.select(VIDEOS.c.id, VIDEOS.c.key).where(VIDEOS.c.key > after)
    read = read.order_by(VIDEOS.c.key).limit(VIDEOS_AT_ONCE).with_for_update(key_share=True)
    return lookup.run(session, read).all()


def _in_range(column: sa.Column[Any]) -> sa.ColumnElement[bool]:
    low, high = (sa.bindparam(name, type_=sa.BigInteger) for name in ("low", "high"))
    return sa.and_(column >= low, column < high)


def _counts() -> Statement:
    """Viewers of each video, less those whose event is still pending."""
    viewed = sa.select(
        INTERACTIONS.c.video_id,
        sa.case((INTERACTIONS.c.impressions > 0, 1), else_=0).label("impressions"),
        sa.case((INTERACTIONS.c.engaged_views > 0, 1), else_=0).label("engaged_views"),
    ).where(_in_range(INTERACTIONS.c.user_id))
    waiting = sa.select(PENDING.c.video_id, -PENDING.c.impressions, -PENDING.c.engaged_views).where(
        _in_range(PENDING.c.user_id)
    )
    each = sa.union_all(viewed, waiting).subquery()
    sums = [
        sa.cast(sa.func.sum(each.c[name]), sa.BigInteger).label(name)
        for name in ("impressions", "engaged_views")
    ]
    return sa.select(each.c.video_id, *sums).group_by(each.c.video_id)


def _first_engaged() -> Statement:
    """When each user first had an engaged view of each video, unless that is still pending.

    Of somebody who is being erased, only what their state still has.
    """
    of_pair = (PENDING.c.user_id == EVENTS.c.user_id, PENDING.c.video_id == EVENTS.c.video_id)
    waits = sa.exists().where(*of_pair, PENDING.c.engaged_views > 0)
    is_state = sa.and_(
        INTERACTIONS.c.user_id == EVENTS.c.user_id,
        INTERACTIONS.c.video_id == EVENTS.c.video_id,
        INTERACTIONS.c.engaged_views > 0,
    )
    return (
        sa.select(EVENTS.c.video_id, sa.func.min(EVENTS.c.at).label("at"))
        .join(INTERACTIONS, is_state)
        .where(_in_range(EVENTS.c.user_id), EVENTS.c.engaged, ~waits)
        .group_by(EVENTS.c.user_id, EVENTS.c.video_id)
    )


_COUNTS = _counts()

_FIRST_ENGAGED = _first_engaged()
