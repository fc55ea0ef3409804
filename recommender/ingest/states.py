"""Fold new events into states, pending counts and affinities, and write all of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.ingest.event_context import EventContext, EventUser, EventVideo, read_states
from recommender.learning.affinities import AffinityChanges
from recommender.learning.engagement import (
    SWITCHES,
    had_positive,
    viewed_and_positive,
)
from recommender.learning.states import EMPTY_STATE, SHOWN_ONLY, STATE_COLUMNS, State, fold_event
from recommender.models.tables import EVENTS, INTERACTIONS, PENDING


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


def write_events(session: Session, events: Sequence[ResolvedEvent], context: EventContext) -> None:
    """Write new events, their states, pending counts and affinities: one statement on PostgreSQL.

    Args:
        session: the caller's transaction, which has locked the users.
        events: one or more events that are not in the log yet, with distinct keys.
        context: their users and videos.
    """
    affinities = AffinityChanges(context.rules)
    before = read_states(session, context, (event[0:3:2] for event in events))
    states: dict[lookup.Key, State] = {}
    pending = []
    for event in events:
        pair = event.user_id, event.video_id
        if (state := states.get(pair)) is None:
            known = before.get(pair)
            state = states[pair] = _new_state(event) if known is None else dict(known)
        pending.append((event.user_id, event.key, event.video_id, event.at, *_fold(state, event)))
        _learn_event(affinities, event)
    switched = {event[0:3:2]: event for event in events if event.kind in SWITCHES}
    for pair, event in switched.items():
        _learn_switches(affinities, event, before.get(pair, EMPTY_STATE), states[pair])
    log = bulk.columns_of(ResolvedEvent._fields, sorted(events, key=itemgetter(0, 1)))
    inserts = [
        bulk.Insert(EVENTS, log),
        bulk.Insert(PENDING, bulk.columns_of(_PENDING_COLUMNS, sorted(pending))),
        _state_rows([states[pair] for pair in sorted(states)]),
        *affinities.rows(),
    ]
    bulk.insert_together(session, inserts)


_PENDING_COLUMNS = tuple(PENDING.c.keys())


def _fold(state: State, event: ResolvedEvent) -> tuple[int, int, bool]:
    """Fold an event into a state; return its changes of the video's statistics and `again`."""
    # Statistics of a video count each user once.
    if event.kind in SHOWN_ONLY and not event.engaged:
        is_new = state["engaged_at"] is None and not state["impressions"]
        fold_event(state, event)
        return int(is_new), 0, False
    viewed, positive = viewed_and_positive(state)
    again = had_positive(state)
    fold_event(state, event)
    now_viewed, now_positive = viewed_and_positive(state)
    return now_viewed - viewed, now_positive - positive, again


def _new_state(event: ResolvedEvent) -> State:
    """Return the empty state of an event's user and video."""
    state = EMPTY_STATE.copy()
    state["user_id"], state["video_id"] = event.user_id, event.video_id
    state["first_at"] = state["last_at"] = event.at
    return state


_SIGN_COLUMNS = (
    "shares", "comments", "reports", "conversions", "liked_at", "unliked_at", "saved_at",
    "unsaved_at", "not_interested_at", "interested_at",
)  # fmt: skip
"""The columns of a state that impressions and watches leave as they are."""

_SHOWN_COLUMNS = tuple(name for name in STATE_COLUMNS if name not in _SIGN_COLUMNS)

_signs_of = itemgetter(*_SIGN_COLUMNS)


def _state_rows(states: Sequence[State]) -> bulk.Insert:
    """Return states to insert or replace; the columns of signs are left out if all are empty."""
    # Not every empty column: PostgreSQL prepares each shape of the statement on each connection.
    names = STATE_COLUMNS if any(any(_signs_of(state)) for state in states) else _SHOWN_COLUMNS
    columns = bulk.columns_of(names, list(map(itemgetter(*names), states)))
    merge = {name: bulk.replace for name in names if not INTERACTIONS.c[name].primary_key}
    return bulk.Insert(INTERACTIONS, columns, merge)


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
