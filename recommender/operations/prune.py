"""`prune`: delete old events and sessions, and expired candidates and suggestions, in batches.

Interactions, affinities and statistics are rows of their own and stay. `prune` first writes the
events horizon to the learning state. From then on, older events are refused, so replaying a deleted
event cannot count it twice. A user's events are deleted under the user's row lock. Writers take
the same lock before they read the horizon (under READ COMMITTED).

No feed changes: it reads what was served, and what was seen of it, in `rec_served`, which stays.

On PostgreSQL, old partitions of the log of places are dropped after their sessions were deleted.
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
from sqlalchemy import ColumnElement, Connection, Engine, Table, TableClause
from sqlalchemy.orm import Session

from recommender.database import aliases, lookup
from recommender.database.lookup import end_of_next, keys_in_range
from recommender.database.partitions import table_of
from recommender.database.schema import first_state
from recommender.database.transactions import run_on
from recommender.errors import ExperimentRunning, InvalidValue
from recommender.formats import scalars
from recommender.learning.engagement import MAX_CLOCK_SKEW
from recommender.logs import log
from recommender.models.tables import (
    EVENTS,
    EXPERIMENTS,
    LEARNING_STATE,
    OUTSIDE_CANDIDATES,
    PENDING,
    SERVED,
    SESSIONS,
    SUGGESTIONS,
    USERS,
)
from recommender.operations import log_partitions
from recommender.settings import Settings
from recommender.telemetry import traced

MAX_PRUNED_ROWS = 10_000
"""The most rows that one transaction reads, and so deletes."""

MIN_AGE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The numbers of deleted rows, and the seconds taken.

    `events` were deleted from the log. `waiting` events are as old, but stay until a refresh has
    counted them. `items` are the videos served in the deleted `sessions`. `candidates` are from
    outside and had expired. `suggestions` of people were last shown so long ago that they no longer
    count.
    """

    events: int
    waiting: int
    sessions: int
    items: int
    candidates: int
    suggestions: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Return the report as `prune` prints it."""
        return asdict(self)


@traced
def prune(
    bind: Engine | Connection,
    *,
    events_older_than: timedelta | None = None,
    sessions_older_than: timedelta | None = None,
    as_of: datetime | None = None,
    force: bool = False,
    settings: Settings | None = None,
) -> PruneReport:
    """Delete old events and sessions, and expired candidates and suggestions.

    A transaction deletes at most 10,000 rows. The run can be interrupted at any point; call it
    again to continue. Interactions, affinities, statistics and dismissals stay. If events that old
    exist, such events are refused from then on, and a rebuild keeps affinities and trends. No feed
    changes: which videos were served and seen stays stored.

    With a connection, all batches are in the caller's transaction, and nothing is committed. The
    users concerned stay locked until it ends.

    Args:
        bind: a prepared engine, or a connection.
        events_older_than: the least age of events to delete, at least a day; None keeps all.
        sessions_older_than: the least age of a session's last page, likewise.
        as_of: the time from which ages count, with an offset; None means now.
        force: whether to delete events and sessions that a running experiment reads.
        settings: the settings; None reads the environment.

    Raises:
        ExperimentRunning: an experiment reads what would be deleted; nothing was deleted.
        InvalidValue: an age is less than a day, or the time is malformed or in the future.
        RecommenderError: the database failed; completed batches stay done.
    """
    started = time.monotonic()
    moment = scalars.time(scalars.now() if as_of is None else as_of)
    if moment > scalars.now() + MAX_CLOCK_SKEW:
        raise InvalidValue(f"as_of: {scalars.written_time(moment)} is in the future")
    events_until = _until(moment, "events_older_than", events_older_than)
    sessions_until = _until(moment, "sessions_older_than", sessions_older_than)
    settings = settings or Settings.from_environment()
    if not force and (until := max(filter(None, (events_until, sessions_until)), default=None)):
        run_on(bind, partial(_check_experiments, until), settings=settings)
    pruning = _Pruning(bind, settings)
    if events_until:
        pruning.events(events_until)
    if sessions_until:
        pruning.sessions(sessions_until, moment)
    pruning.candidates(moment)
    pruning.suggestions(moment)
    done = pruning.done
    report = PruneReport(**done, seconds=round(time.monotonic() - started, 3))
    log(logging.INFO, "prune", **done, seconds=report.seconds)
    return report


def _until(moment: datetime, name: str, age: timedelta | None) -> datetime | None:
    if age is None:
        return None
    if age < MIN_AGE:
        raise InvalidValue(f"{name}: {age} is less than a day")
    return (
        max(moment - age, scalars.EARLIEST) if age < moment - scalars.EARLIEST else scalars.EARLIEST
    )


def _check_experiments(until: datetime, session: Session) -> None:
    """Raise `ExperimentRunning` if an experiment runs that began at or before a time."""
    row = EXPERIMENTS.c
    query = sa.select(row.name).where(row.stopped_at.is_(None), row.started_at <= until)
    if name := lookup.run(session, query.order_by(row.started_at, row.id).limit(1)).scalar():
        raise ExperimentRunning(
            f"the experiment {name} reads events and sessions that would be deleted: stop it, or"
            " delete them with --force"
        )


class _Pruning:
    """One run of `prune`: where it runs, its settings, and the numbers of deleted rows so far."""

    def __init__(self, bind: Engine | Connection, settings: Settings) -> None:
        self.bind = bind
        self.settings = settings
        names = ("events", "waiting", "sessions", "items", "candidates", "suggestions")
        self.done = dict.fromkeys(names, 0)

    def events(self, until: datetime) -> None:
        """Refuse events up to a time from now on, and delete them, if there are any."""
        horizon = run_on(self.bind, partial(_set_horizon, until), settings=self.settings)
        if horizon:
            self._batches(partial(_prune_events, horizon))

    def sessions(self, until: datetime, moment: datetime) -> None:
        """Delete the sessions whose last page was served at or before a time.

        On PostgreSQL it drops old partitions, and makes those of the days to come.
        """
        if not isinstance(self.bind, Engine) or not log_partitions.may_change(
            self.bind, self.settings
        ):
            self._batches(partial(_prune_sessions, until, None))
            return
        old = log_partitions.old_partitions(self.bind, until, self.settings)
        self._batches(partial(_prune_sessions, until, old[-1].ends if old else None))
        for partition in old:
            dropped = log_partitions.drop_partition(self.bind, partition, self.settings)
            self.done["items"] += dropped
        log_partitions.make_partitions(self.bind, moment, self.settings)

    def candidates(self, until: datetime) -> None:
        """Delete the candidates from outside that expired at or before a time."""
        is_expired = OUTSIDE_CANDIDATES.c.expires_at <= until
        self._batches(partial(_prune_expired, "candidates", OUTSIDE_CANDIDATES, is_expired))

    def suggestions(self, moment: datetime) -> None:
        """Delete the suggestions that no longer count at a time; dismissals stay."""
        memory = timedelta(days=self.settings.suggestion_memory)
        is_old = SUGGESTIONS.c.shown_at <= _until(moment, "suggestion_memory", memory)
        is_expired = sa.and_(is_old, SUGGESTIONS.c.dismissed_at.is_(None))
        self._batches(partial(_prune_expired, "suggestions", SUGGESTIONS, is_expired))

    def _batches(self, prune_next: Any) -> None:
        last: lookup.Key | None = None
        while True:
            started = time.monotonic()
            work = partial(prune_next, last)
            last, done = run_on(self.bind, work, settings=self.settings)
            if last is None:
                return
            for name, count in done.items():
                self.done[name] += count
            log(logging.DEBUG, "prune batch", **done, seconds=time.monotonic() - started)


PrunedBatch = tuple[lookup.Key | None, dict[str, int]]
"""The last key that a batch read (None if no rows were left), and the numbers of its rows."""


def _set_horizon(until: datetime, session: Session) -> datetime | None:
    """Write the events horizon, unless it is already later.

    Returns:
        The horizon, or None if there is no event that old and none need be refused.
    """
    lock = sa.select(LEARNING_STATE.c.events_horizon).with_for_update(key_share=True)
    before = first_state(lookup.run(session, lock)).events_horizon
    horizon = max(until, before or until)
    if not session.scalar(sa.select(sa.exists().where(EVENTS.c.at <= horizon))):
        return None
    changed = sa.update(LEARNING_STATE).values(events_horizon=horizon)
    lookup.run(session, changed)
    return horizon


def _prune_events(horizon: datetime, after: lookup.Key | None, session: Session) -> PrunedBatch:
    """Delete the old, counted events of the next batch of the log."""
    key = list(EVENTS.primary_key)
    last = end_of_next(session, key, after, MAX_PRUNED_ROWS)
    if last is None:
        return None, {}
    is_old = [*keys_in_range(key, after, last), EVENTS.c.at <= horizon]
    owner = EVENTS.c.user_id
    waits = sa.exists().where(PENDING.c.user_id == owner, PENDING.c.key == EVENTS.c.key)
    counts = (sa.func.count().filter(waits), sa.func.count().filter(~waits))
    query = sa.select(owner, *counts).where(*is_old).group_by(owner)
    rows = lookup.run(session, query).all()
    deleted = 0
    if users := [user_id for user_id, _, counted in rows if counted]:
        _lock(session, users)
        deleted = _delete(session, EVENTS, [*is_old, ~waits])
    return last, {"events": deleted, "waiting": sum(waiting for _, waiting, _ in rows)}


def _prune_sessions(
    until: datetime, dropped: datetime | None, after: lookup.Key | None, session: Session
) -> PrunedBatch:
    """Delete the old sessions of the next batch, with the items served in them.

    The partitions of days before `dropped` are left out: they are dropped after all batches.
    """
    key = list(SESSIONS.primary_key)
    last = end_of_next(session, key, after, MAX_PRUNED_ROWS)
    if last is None:
        return None, {}
    is_old = [*keys_in_range(key, after, last), SESSIONS.c.last_at <= until]
    query = sa.select(*key, SESSIONS.c.next_position).where(*is_old).order_by(*key)
    rows = lookup.run(session, query).all()
    batch = _as_many_as_fit(rows)
    if not batch:
        return last, {}
    if len(batch) < len(rows):
        last = (batch[-1].user_id, batch[-1].session)
    users = sorted({row.user_id for row in batch})
    _lock(session, users)
    return last, _forget(session, users, until, dropped, after, last)


def _as_many_as_fit(rows: Sequence[Any]) -> Sequence[Any]:
    """Return the first sessions whose deleted rows fit in one transaction."""
    left = MAX_PRUNED_ROWS
    for taken, row in enumerate(rows):
        left -= row.next_position
        if left < 0:
            return rows[: max(1, taken)]
    return rows


def _forget(
    session: Session,
    users: Sequence[int],
    until: datetime,
    dropped: datetime | None,
    after: lookup.Key | None,
    last: lookup.Key,
) -> dict[str, int]:
    """Delete the old sessions of locked users in a key range, with their places."""
    # Only locked users: for any other user, a page with an old time may be written concurrently.
    key = list(SESSIONS.primary_key)
    locked = sa.select(lookup.listed(lookup.is_sqlite(session), (USERS.c.id,)).c.id)
    parameters = lookup.listed_values(session, 1, [(user_id,) for user_id in users])
    is_old = [SESSIONS.c.user_id.in_(locked), SESSIONS.c.last_at <= until]
    items = 0
    for places, in_time in _places(dropped, until):
        item_key = [places.c.user_id, places.c.session]
        of_old = sa.exists().where(*map(operator.eq, key, item_key), *is_old)
        is_deleted = [*keys_in_range(item_key, after, last), of_old, *in_time]
        items += _delete(session, places, is_deleted, parameters)
    sessions = _delete(session, SESSIONS, [*keys_in_range(key, after, last), *is_old], parameters)
    return {"sessions": sessions, "items": items}


def _places(
    dropped: datetime | None, until: datetime
) -> list[tuple[Any, list[ColumnElement[bool]]]]:
    """Return the tables to delete places from, with the times of the partitions to read.

    No place is newer than its session's last page, so partitions of later days are not read.
    """
    if dropped is None:
        return [(SERVED, [])]
    return [(SERVED, [SERVED.c.served_at.between(dropped, until)]), (table_of(None), [])]


def _prune_expired(
    name: str,
    table: Table,
    condition: ColumnElement[bool],
    after: lookup.Key | None,
    session: Session,
) -> PrunedBatch:
    """Delete the rows of the next batch that fulfil a condition; `name` is theirs in the report."""
    key = list(table.primary_key)
    last = end_of_next(session, key, after, MAX_PRUNED_ROWS)
    if last is None:
        return None, {}
    is_expired = [*keys_in_range(key, after, last), condition]
    owners = sa.select(table.c.user_id).where(*is_expired).distinct()
    if not (users := lookup.run(session, owners).scalars().all()):
        return last, {}
    _lock(session, users)
    return last, {name: _delete(session, table, is_expired)}


def _lock(session: Session, user_ids: Iterable[int]) -> None:
    """Lock users in the order of their keys, the order that other writers use."""
    id_keys = [(user_id,) for user_id in sorted(set(user_ids))]
    keys = [tuple(row) for row in lookup.find(session, [USERS.c.id], id_keys, [USERS.c.key])]
    aliases.find_locked(session, USERS.c.key, keys, [USERS.c.id])


def _delete(
    session: Session,
    table: Table | TableClause,
    is_deleted: Sequence[ColumnElement[bool]],
    parameters: Mapping[str, str] | None = None,
) -> int:
    statement = sa.delete(table).where(*is_deleted)
    result: Any = lookup.run(session, statement, parameters or {})
    return int(result.rowcount)
