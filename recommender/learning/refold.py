"""Fold the events of users again, by today's learning rules and durations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from recommender.database import aliases, bulk, lookup
from recommender.database.session import Session
from recommender.learning.affinities import Rules, read_rules
from recommender.learning.engagement import (
    POSITIVE_KINDS,
    had_positive,
    is_engaging,
    viewed_and_positive,
    watched,
)
from recommender.learning.states import (
    EMPTY_STATE,
    STATE_COLUMNS,
    FoldedEvent,
    State,
    fold_event,
)
from recommender.models.tables import EVENTS, INTERACTIONS, PENDING, USERS, VIDEOS

_LOGGED = ("user_id", "key", "video_id", "kind", "at", "watch_ms", "completion", "engaged")

_PENDING = tuple(PENDING.c.keys())

Pair = tuple[int, int]
"""The ids of a user and a video."""


class _Refold(NamedTuple):
    """A state before and after, and its events: their rows of the log, and as they are now."""

    before: State
    after: State
    events: Sequence[tuple[Any, FoldedEvent]]


def refold_states(session: Session, user_keys: Sequence[str], horizon: datetime | None) -> int:
    """Compute the states of users again from the log, and what of them is pending.

    A state keeps its values if events of its time may have been pruned.

    Args:
        session: the caller's transaction, which has locked the learning state.
        user_keys: the users' keys. Their rows are locked, so no one can record for them meanwhile.
        horizon: the time until which events are pruned, or None.

    Returns:
        The number of states that kept their values because of a prune.
    """
    keys = [(key,) for key in user_keys]
    rows = aliases.find_locked(session, USERS.c.key, keys, [USERS.c.id])
    users = [user_id for (user_id,) in rows]
    states = _of_users(session, sa.select(INTERACTIONS), INTERACTIONS, users)
    kept = [row for row in states if horizon and row.first_at <= horizon]
    events = _events(session, users, read_rules(session))
    refolds = [
        _refolded(dict(zip(STATE_COLUMNS, row, strict=True)), found)
        for row in states
        if (found := events.get((row.user_id, row.video_id)))
        and not (horizon and row.first_at <= horizon)
    ]
    _write(session, users, [refold for refold in refolds if _has_changed(refold)])
    return len(kept)


def _of_users(
    session: Session, statement: sa.Select[Any], table: sa.Table, users: Sequence[int]
) -> Sequence[Any]:
    of_users = table.c.user_id.in_(sa.bindparam("users", expanding=True))
    return lookup.run(session, statement.where(of_users), {"users": users}).all()


def _events(
    session: Session, users: Sequence[int], rules: Rules
) -> dict[Pair, list[tuple[Any, FoldedEvent]]]:
    """Return the events of users by pair: the rows of the log, and as they are judged today."""
    source = sa.join(EVENTS, VIDEOS, VIDEOS.c.id == EVENTS.c.video_id)
    read = sa.select(*(EVENTS.c[name] for name in _LOGGED), VIDEOS.c.duration_ms)
    events: dict[Pair, list[tuple[Any, FoldedEvent]]] = {}
    for row in _of_users(session, read.select_from(source), EVENTS, users):
        pair = row.user_id, row.video_id
        events.setdefault(pair, []).append((row, _judged(row, rules)))
    return events


def _judged(row: Any, rules: Rules) -> FoldedEvent:
    """Return an event by today's rules and duration."""
    if row.kind != "watch":
        return FoldedEvent(row.kind, row.at, False, None, None)  # noqa: FBT003 - a named tuple
    watched_ms, part = watched(row.watch_ms, row.completion, row.duration_ms)
    engaged = is_engaging(watched_ms, part, rules.thresholds)
    return FoldedEvent(row.kind, row.at, engaged, watched_ms, part)


def _refolded(before: State, events: Sequence[tuple[Any, FoldedEvent]]) -> _Refold:
    """Return a state computed again; it keeps the times at which it was served."""
    names = ("user_id", "video_id", "first_at", "last_at")
    after = {**EMPTY_STATE, **{name: before[name] for name in names}}
    for _, event in events:
        fold_event(after, event)
    return _Refold(before, after, events)


def _has_changed(refold: _Refold) -> bool:
    return refold.before != refold.after or any(
        row.engaged != event.engaged for row, event in refold.events
    )


def _write(session: Session, users: Sequence[int], refolds: Sequence[_Refold]) -> None:
    """Write changed states and events, and what a refresh has to count because of them."""
    if not refolds:
        return
    pending: dict[Pair, list[Any]] = {}
    for row in _of_users(session, sa.select(PENDING), PENDING, users):
        pending.setdefault((row.user_id, row.video_id), []).append(row)
    _write_events(session, refolds)
    _write_pending(session, refolds, pending)
    states = sorted((tuple(refold.after.values()) for refold in refolds), key=lambda row: row[:2])
    merge = dict.fromkeys(STATE_COLUMNS[2:], bulk.replace)
    bulk.insert_columns(session, INTERACTIONS, bulk.columns_of(STATE_COLUMNS, states), merge=merge)


def _write_events(session: Session, refolds: Iterable[_Refold]) -> None:
    """Write whether events are engaged views, if that has changed."""
    changed = sorted(
        (*row[:-2], event.engaged)
        for refold in refolds
        for row, event in refold.events
        if row.engaged != event.engaged
    )
    if changed:
        columns = bulk.columns_of(_LOGGED, changed)
        bulk.insert_columns(session, EVENTS, columns, merge={"engaged": bulk.replace})


def _write_pending(
    session: Session, refolds: Iterable[_Refold], pending: Mapping[Pair, Sequence[Any]]
) -> None:
    """Replace the pending events of pairs by one, under the key of their last event."""
    changes, settled = [], []
    for refold in refolds:
        was, now = viewed_and_positive(refold.before), viewed_and_positive(refold.after)
        if was == now:
            continue
        pair = refold.after["user_id"], refold.after["video_id"]
        waiting = pending.get(pair, ())
        settled += [(row.user_id, row.key) for row in waiting]
        changes.append(_change(refold, was, now, waiting))
    bulk.delete(session, PENDING, sorted(settled))
    if changes:
        bulk.insert_columns(session, PENDING, bulk.columns_of(_PENDING, sorted(changes)))


def _change(refold: _Refold, was: Pair, now: Pair, waiting: Sequence[Any]) -> tuple[Any, ...]:
    """Return the pending event by which the counted statistics become those of the new state."""
    last, _ = max(refold.events, key=lambda event: event[0].at)
    first = min((e.at for _, e in refold.events if _is_positive(e)), default=last.at)
    views = now[0] - was[0] + sum(row.impressions for row in waiting)
    positives = now[1] - was[1] + sum(row.engaged_views for row in waiting)
    is_first = any(row.engaged_views > 0 and not row.again for row in waiting)
    again = had_positive(refold.before) and not is_first
    return (last.user_id, last.key, last.video_id, first, views, positives, again)


def _is_positive(event: FoldedEvent) -> bool:
    return event.engaged or event.kind in POSITIVE_KINDS
