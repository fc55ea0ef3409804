"""`prune`: old events and old sessions, deleted in batches; what they left behind stays.

The states, affinities and statistics that events added up to are rows of their own, and stay. Until
when events are gone is written first, in the learning state: older ones are refused from then on,
so that a replay of one that is gone cannot count twice. A user's events are deleted under the lock
that whoever records for that user takes before reading this (under READ COMMITTED).

What was served stays seen: a place of a session leaves an interaction, without anything done.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Engine, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.lookup import end_of_next, keys_in_range
from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue
from recommender.formats import scalars
from recommender.learning.engagement import MAX_CLOCK_SKEW
from recommender.logs import log
from recommender.models.tables import (
    EVENTS,
    INTERACTIONS,
    LEARNING_STATE,
    PENDING,
    SERVED,
    SESSIONS,
    USERS,
)
from recommender.settings import Settings

ROWS_AT_ONCE = 10_000
"""Rows that one transaction looks at, and so deletes, at most."""

YOUNGEST = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was deleted, and in how many seconds.

    `events` of the log; `waiting` are as old and stay until a refresh has counted them; `sessions`
    and their `items`, the videos served in them.
    """

    events: int
    waiting: int
    sessions: int
    items: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The report as `prune` prints it."""
        return asdict(self)


def prune(
    engine: Engine,
    *,
    events_older_than: timedelta | None = None,
    sessions_older_than: timedelta | None = None,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> PruneReport:
    """Delete old events and old sessions, in transactions of at most 10,000 rows.

    It can end at any point, and goes on when it is called again. What events added up to stays:
    states, affinities, statistics. Where there are events that old, such events are refused from
    then on, and `refresh` keeps affinities and trends when it rebuilds. Videos served in a session
    that is deleted stay seen; its cursors are no longer known.

    Args:
        engine: a prepared engine.
        events_older_than: the age from which events go, a day at least; none go where None.
        sessions_older_than: the age of their last page from which sessions go; likewise.
        as_of: the time that ages are of, with an offset; now where None.
        settings: those of the environment where None.

    Raises:
        InvalidValue: an age is less than a day, or the time is not of its form or in the future.
        RecommenderError: the database refused; the batches before are done.
    """
    started = time.monotonic()
    moment = scalars.time(scalars.now() if as_of is None else as_of)
    if moment > scalars.now() + MAX_CLOCK_SKEW:
        raise InvalidValue(f"as_of: {scalars.written_time(moment)} is in the future")
    events_until = _until(moment, "events_older_than", events_older_than)
    sessions_until = _until(moment, "sessions_older_than", sessions_older_than)
    pruning = _Pruning(engine, settings or Settings.from_environment())
    if events_until:
        pruning.events(events_until)
    if sessions_until:
        pruning.sessions(sessions_until)
    done = pruning.done
    report = PruneReport(**done, seconds=round(time.monotonic() - started, 3))
    log(logging.INFO, "prune", **done, seconds=report.seconds)
    return report


def _until(moment: datetime, name: str, age: timedelta | None) -> datetime | None:
    if age is None:
        return None
    if age < YOUNGEST:
        raise InvalidValue(f"{name}: {age} is less than a day")
    return (
        max(moment - age, scalars.EARLIEST) if age < moment - scalars.EARLIEST else scalars.EARLIEST
    )


class _Pruning:
    """One run: what it works with, and what it has done so far."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.done = {"events": 0, "waiting": 0, "sessions": 0, "items": 0}

    def events(self, until: datetime) -> None:
        """Refuse events until a time from now on, and delete them, where there are any."""
        horizon = run_transaction(self.engine, partial(_set_horizon, until), settings=self.settings)
        if horizon:
            self._batches(partial(_prune_events, horizon))

    def sessions(self, until: datetime) -> None:
        """Delete the sessions whose last page was served until a time."""
        self._batches(partial(_prune_sessions, until))

    def _batches(self, prune_next: Any) -> None:
        last: lookup.Key | None = None
        while True:
            started = time.monotonic()
            work = partial(prune_next, last)
            last, done = run_transaction(self.engine, work, settings=self.settings)
            if last is None:
                return
            for name, count in done.items():
                self.done[name] += count
            log(logging.DEBUG, "prune batch", **done, seconds=time.monotonic() - started)


Done = tuple[lookup.Key | None, dict[str, int]]
"""The last key that a batch looked at, None where there was none, and what it did."""


def _set_horizon(until: datetime, session: Session) -> datetime | None:
    """Write until when events are refused, unless they are until later.

    Returns:
        Until when; None where there is no event that old, so that nothing need be refused.
    """
    lock = sa.select(LEARNING_STATE.c.events_horizon).with_for_update()
    before = lookup.run(session, lock).scalar()
    horizon = max(until, before or until)
    if not session.scalar(sa.select(sa.exists().where(EVENTS.c.at <= horizon))):
        return None
    changed = sa.update(LEARNING_STATE).values(events_horizon=horizon)
    lookup.run(session, changed)
    return horizon


def _prune_events(horizon: datetime, after: lookup.Key | None, session: Session) -> Done:
    """Delete what is old and counted of the next events of the log."""
    key = list(EVENTS.primary_key)
    last = end_of_next(session, key, after, ROWS_AT_ONCE)
    if last is None:
        return None, {}
    is_old = [*keys_in_range(key, after, last), EVENTS.c.at <= horizon]
    owner = EVENTS.c.user_id
    waits = sa.exists().where(PENDING.c.user_id == owner, PENDING.c.key == EVENTS.c.key)
    counts = (sa.func.count().filter(waits), sa.func.count().filter(~waits))
    found = sa.select(owner, *counts).where(*is_old).group_by(owner)
    rows = lookup.run(session, found).all()
    gone = 0
    if users := [user_id for user_id, _, counted in rows if counted]:
        _lock(session, users)
        gone = _delete(session, EVENTS, [*is_old, ~waits])
    return last, {"events": gone, "waiting": sum(waiting for _, waiting, _ in rows)}


def _prune_sessions(until: datetime, after: lookup.Key | None, session: Session) -> Done:
    """Delete what is old of the next sessions, each with all that was served in it."""
    key = list(SESSIONS.primary_key)
    last = end_of_next(session, key, after, ROWS_AT_ONCE)
    if last is None:
        return None, {}
    is_old = [*keys_in_range(key, after, last), SESSIONS.c.last_at <= until]
    found = sa.select(*key, SESSIONS.c.next_position).where(*is_old).order_by(*key)
    rows = lookup.run(session, found).all()
    some = _as_many_as_fit(rows)
    if not some:
        return last, {}
    if len(some) < len(rows):
        last = (some[-1].user_id, some[-1].session)
    users = sorted({row.user_id for row in some})
    _lock(session, users)
    return last, _forget(session, users, until, after, last)


def _as_many_as_fit(rows: Sequence[Any]) -> Sequence[Any]:
    """The first sessions whose rows, and those that they leave behind, one transaction takes."""
    left = ROWS_AT_ONCE
    for taken, row in enumerate(rows):
        left -= 2 * row.next_position - 1
        if left < 0:
            return rows[: max(1, taken)]
    return rows


def _forget(
    session: Session,
    users: Sequence[int],
    until: datetime,
    after: lookup.Key | None,
    last: lookup.Key,
) -> dict[str, int]:
    """Delete some users' old sessions of a range of keys with their places, which stay seen.

    Of others, whose rows are not locked, a page may just be served as of an old time.
    """
    key = list(SESSIONS.primary_key)
    locked = sa.select(lookup.listed(lookup.is_sqlite(session), (USERS.c.id,)).c.id)
    given = lookup.listed_values(session, 1, [(user_id,) for user_id in users])
    is_old = [SESSIONS.c.user_id.in_(locked), SESSIONS.c.last_at <= until]
    place = [SERVED.c.user_id, SERVED.c.session]
    of_old = sa.exists().where(*map(operator.eq, key, place), *is_old)
    is_gone = [*keys_in_range(place, after, last), of_old]
    _keep_seen(session, is_gone, given)
    items = _delete(session, SERVED, is_gone, given)
    sessions = _delete(session, SESSIONS, [*keys_in_range(key, after, last), *is_old], given)
    return {"sessions": sessions, "items": items}


def _keep_seen(
    session: Session, is_gone: Sequence[ColumnElement[bool]], given: Mapping[str, str]
) -> None:
    """Leave a state, of a user who did nothing yet, for each video of some places."""
    pair, at = [SERVED.c.user_id, SERVED.c.video_id], SERVED.c.served_at
    seen = sa.select(*pair, sa.func.min(at), sa.func.max(at)).where(*is_gone).group_by(*pair)
    insert = (sqlite if lookup.is_sqlite(session) else postgresql).insert(INTERACTIONS)
    names = ["user_id", "video_id", "first_at", "last_at"]
    statement = insert.from_select(names, seen.order_by(*pair)).on_conflict_do_nothing()
    lookup.run(session, statement, given)


def _lock(session: Session, user_ids: Iterable[int]) -> None:
    """Lock users in the order of their keys, as whoever records does."""
    wanted = [(user_id,) for user_id in sorted(set(user_ids))]
    keys = [tuple(row) for row in lookup.find(session, [USERS.c.id], wanted, [USERS.c.key])]
    lookup.find(session, [USERS.c.key], keys, [USERS.c.id], lock=True)


def _delete(
    session: Session,
    table: Table,
    is_gone: Sequence[ColumnElement[bool]],
    given: Mapping[str, str] | None = None,
) -> int:
    deleted = sa.delete(table).where(*is_gone)
    gone: Any = lookup.run(session, deleted, given or {})
    return int(gone.rowcount)
