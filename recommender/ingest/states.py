"""States: the sums, maxima and times that all events of one user and one video add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.learning.affinities import AffinityChanges, Rules, Subjects
from recommender.learning.engagement import POSITIVE_KINDS
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


_STATE_COLUMNS = tuple(INTERACTIONS.c.keys())

_TIME_COLUMNS = tuple(name for name in _STATE_COLUMNS if name.endswith("_at"))

_EMPTY_STATE = {
    **dict.fromkeys(_STATE_COLUMNS, 0),
    **dict.fromkeys(_TIME_COLUMNS),
    "completion": 0.0,
}

_COUNT_COLUMN = {
    "impression": "impressions",
    "watch": "impressions",
    "share": "shares",
    "comment": "comments",
    "report": "reports",
}

_SWITCH_COLUMN = {
    "like": "liked_at",
    "unlike": "unliked_at",
    "save": "saved_at",
    "unsave": "unsaved_at",
    "not_interested": "not_interested_at",
}

State = dict[str, Any]
"""A row of interactions."""


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
            state = states[pair] = dict(before.get(pair) or _new_state(event))
        was_seen, was_engaged = state["impressions"] > 0, state["engaged_views"] > 0
        _fold_event(state, event)
        # Statistics of a video count each user once.
        is_first_view = state["impressions"] > 0 and not was_seen
        is_first_engaged = state["engaged_views"] > 0 and not was_engaged
        counts = int(is_first_view), int(is_first_engaged)
        pending.append((event.user_id, event.key, event.video_id, event.at, *counts))
        _learn_event(affinities, event)
    switched = {event[0:3:2]: event for event in events if event.kind in _SWITCH_COLUMN}
    for pair, event in switched.items():
        _learn_switches(affinities, event, before.get(pair, _EMPTY_STATE), states[pair])
    bulk.insert_columns(session, PENDING, bulk.columns_of(_PENDING_COLUMNS, sorted(pending)))
    _save_states(session, [states[pair] for pair in sorted(states)])
    affinities.write(session)


_PENDING_COLUMNS = ("user_id", "key", "video_id", "at", "impressions", "engaged_views")


def _read_states(session: Session, events: Sequence[ResolvedEvent]) -> dict[lookup.Key, State]:
    """Return the existing states of the users and videos of events."""
    pairs = list(dict.fromkeys(event[0:3:2] for event in events))
    columns = [INTERACTIONS.c.user_id, INTERACTIONS.c.video_id]
    return states_by_pair(lookup.find(session, columns, pairs, tuple(INTERACTIONS.c)))


def states_by_pair(rows: Iterable[Sequence[Any]]) -> dict[lookup.Key, State]:
    """Return states by user and video id; rows of NULLs are left out."""
    return {(row[0], row[1]): dict(zip(_STATE_COLUMNS, row, strict=True)) for row in rows if row[0]}


def _new_state(event: ResolvedEvent) -> State:
    """Return the empty state of an event's user and video."""
    pair = {"user_id": event.user_id, "video_id": event.video_id}
    return {**_EMPTY_STATE, **pair, "first_at": event.at, "last_at": event.at}


def _save_states(session: Session, states: Sequence[State]) -> None:
    """Insert or replace states; columns that are empty in all of them are left out."""
    used = [name for name in _STATE_COLUMNS if any(map(itemgetter(name), states))]
    columns = bulk.columns_of(used, list(map(itemgetter(*used), states)))
    merge = {name: bulk.replace for name in used if not INTERACTIONS.c[name].primary_key}
    bulk.insert_columns(session, INTERACTIONS, columns, merge=merge)


def _fold_event(state: State, event: ResolvedEvent) -> None:
    """Fold an event into a state; the result does not depend on the order of events."""
    kind, at = event.kind, event.at
    if column := _COUNT_COLUMN.get(kind):
        state[column] += 1
    elif column := _SWITCH_COLUMN.get(kind):
        state[column] = max(state[column] or at, at)
    if kind == "watch":
        state["plays"] += 1
        state["watch_ms"] += event.watched_ms or 0
        state["completion"] = max(state["completion"], event.part or 0.0)
        state["engaged_views"] += event.engaged
    if event.engaged or kind in POSITIVE_KINDS:
        state["engaged_at"] = max(state["engaged_at"] or at, at)
    state["first_at"] = min(state["first_at"], at)
    state["last_at"] = max(state["last_at"], at)


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
