"""Fold new events into states, pending counts and affinities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.learning.affinities import AffinityChanges, Rules, Subjects
from recommender.learning.engagement import (
    SWITCHES,
    had_positive,
    viewed_and_positive,
)
from recommender.learning.states import EMPTY_STATE, SHOWN_ONLY, STATE_COLUMNS, State, fold_event
from recommender.models.tables import INTERACTIONS, PENDING


class EventUser(NamedTuple):
    """The locked row of a user who has events in a batch."""

    id: int
    learned_since: datetime | None


class EventVideo(NamedTuple):
    """A video that has events in a batch."""

    id: int
    duration_ms: int | None
    subjects: Subjects


class EventContext(NamedTuple):
    """The users and videos that the events of a batch name, by key, and what else they need.

    `horizon` is the time until which events are pruned, or None. `rules` is None if no video was
    found. `states` is None unless the batch is of one user.
    """

    # The horizon is read after the users were locked. A prune sets it first, and deletes a user's
    # events only with that lock.
    users: Mapping[str, EventUser]
    videos: Mapping[str, EventVideo]
    horizon: datetime | None = None
    rules: Rules | None = None
    states: Mapping[lookup.Key, State] | None = None


class ResolvedEvent(NamedTuple):
    """An event with ids in place of keys.

    The first fields are the row of the log. `watched_ms` and `part` are the watch time and the part
    watched; if the event has only one, the other is computed from the duration.
    """

    user_id: int
    key: str
    video_id: int
    kind: str
    at: datetime
    watch_ms: int | None
    completion: float | None
    engaged: bool
    watched_ms: int | None
    part: float | None
    user: EventUser
    video: EventVideo

    @property
    def body(self) -> tuple[Any, ...]:
        """The fields that must be equal in another event of the same user and key."""
        return self[2:7]


def fold_events(session: Session, events: Sequence[ResolvedEvent], context: EventContext) -> None:
    """Fold new events into their states, and update affinities.

    Args:
        session: the caller's transaction.
        events: events that are not in the log yet.
        context: their users and videos.
    """
    assert context.rules  # noqa: S101 - they were read with the events' videos
    affinities = AffinityChanges(context.rules)
    before = _read_states(session, events) if context.states is None else context.states
    states: dict[lookup.Key, State] = {}
    pending = []
    for event in events:
        pair = event.user_id, event.video_id
        if (state := states.get(pair)) is None:
            known = before.get(pair)
            state = states[pair] = _new_state(event) if known is None else dict(known)
        # Statistics of a video count each user once.
        if event.kind in SHOWN_ONLY and not event.engaged:
            is_new = state["engaged_at"] is None and not state["impressions"]
            fold_event(state, event)
            changes = int(is_new), 0, False
        else:
            viewed, positive = viewed_and_positive(state)
            again = had_positive(state)
            fold_event(state, event)
            now_viewed, now_positive = viewed_and_positive(state)
            changes = now_viewed - viewed, now_positive - positive, again
        pending.append((event.user_id, event.key, event.video_id, event.at, *changes))
        _learn_event(affinities, event)
    switched = {event[0:3:2]: event for event in events if event.kind in SWITCHES}
    for pair, event in switched.items():
        _learn_switches(affinities, event, before.get(pair, EMPTY_STATE), states[pair])
    _save_pending(session, sorted(pending))
    _save_states(session, [states[pair] for pair in sorted(states)])
    affinities.write(session)


_PENDING_COLUMNS = ("user_id", "key", "video_id", "at", "impressions", "engaged_views", "again")


def _read_states(session: Session, events: Sequence[ResolvedEvent]) -> dict[lookup.Key, State]:
    """Return the existing states of the users and videos of events."""
    pairs = list(dict.fromkeys(event[0:3:2] for event in events))
    columns = [INTERACTIONS.c.user_id, INTERACTIONS.c.video_id]
    return states_by_pair(lookup.find(session, columns, pairs, tuple(INTERACTIONS.c)))


def states_by_pair(rows: Iterable[Sequence[Any]]) -> dict[lookup.Key, State]:
    """Return states by user and video id; rows of NULLs are left out."""
    return {(row[0], row[1]): dict(zip(STATE_COLUMNS, row, strict=True)) for row in rows if row[0]}


def _new_state(event: ResolvedEvent) -> State:
    """Return the empty state of an event's user and video."""
    state = EMPTY_STATE.copy()
    state["user_id"], state["video_id"] = event.user_id, event.video_id
    state["first_at"] = state["last_at"] = event.at
    return state


def _save_pending(session: Session, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of pending changes; `again` is left out if it is false in all of them."""
    columns = bulk.columns_of(_PENDING_COLUMNS, rows)
    used = columns if any(columns["again"]) else {n: columns[n] for n in _PENDING_COLUMNS[:-1]}
    bulk.insert_columns(session, PENDING, used)


def _save_states(session: Session, states: Sequence[State]) -> None:
    """Insert or replace states; columns that are empty in all of them are left out."""
    # `engaged_at` alone can become empty again.
    used = [n for n in STATE_COLUMNS if n == "engaged_at" or any(map(itemgetter(n), states))]
    columns = bulk.columns_of(used, list(map(itemgetter(*used), states)))
    merge = {name: bulk.replace for name in used if not INTERACTIONS.c[name].primary_key}
    bulk.insert_columns(session, INTERACTIONS, columns, merge=merge)


def _learn_event(affinities: AffinityChanges, event: ResolvedEvent) -> None:
    """Add an event that counts every time: a watch, share, comment or report."""
    since = event.user.learned_since
    if since is None or event.at > since:
        weight = affinities.rules.event_weight(
            event.kind, event.part, event.watch_ms, event.video.duration_ms, engaged=event.engaged
        )
        affinities.add(event.user_id, event.video.subjects, weight, event.at)


def _learn_switches(
    affinities: AffinityChanges, event: ResolvedEvent, before: State, after: State
) -> None:
    """Add the changes of a like, save or lack of interest; a hundred likes count as one."""
    since = event.user.learned_since
    was = affinities.rules.state_weights(before, since)
    now = affinities.rules.state_weights(after, since)
    for _, weight, at in now - was:
        affinities.add(event.user_id, event.video.subjects, weight, at)
    for _, weight, at in was - now:
        affinities.add(event.user_id, event.video.subjects, -weight, at)
