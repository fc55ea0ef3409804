"""ingest.states: TODO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.bulk import columns_of
from recommender.learning.affinities import AffinityChanges, Rules, Subjects
from recommender.learning.engagement import POSITIVE_KINDS
from recommender.models.tables import INTERACTIONS, PENDING


class Viewer(NamedTuple):
    """The row of a user who did something, locked."""

    id: int
    learned_since: datetime | None


class Target(NamedTuple):
    """A video that somebody did something with."""

    id: int
    duration_ms: int | None
    subjects: Subjects


class Known(NamedTuple):
    """Users and videos by their keys, and by which rules to learn, where there is any video.

    `horizon` is until when events are pruned, read after the users' rows were locked: whoever
    prunes sets it first, and deletes a user's events select_columns with that lock. `states` are those of the
    user with the videos, where there is one user.
    """

    viewers: Mapping[str, Viewer]
    targets: Mapping[str, Target]
    horizon: datetime | None = None
    rules: Rules | None = None
    states: Mapping[lookup.Key, State] | None = None


class Logged(NamedTuple):
    """An event: its row of the log, how much was watched as far as known, its user and video."""

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
    viewer: Viewer
    target: Target

    @property
    def body(self) -> tuple[Any, ...]:
        """What an event of the same key has in common with it, or is in conflict."""
        return self[2:7]


_STATE = tuple(INTERACTIONS.c.keys())

_TIMES = tuple(name for name in _STATE if name.endswith("_at"))

_NOTHING = {**dict.fromkeys(_STATE, 0), **dict.fromkeys(_TIMES), "completion": 0.0}

_COUNTED = {
    "impression": "impressions",
    "watch": "impressions",
    "share": "shares",
    "comment": "comments",
    "report": "reports",
}

_TIMED = {
    "like": "liked_at",
    "unlike": "unliked_at",
    "save": "saved_at",
    "unsave": "unsaved_at",
    "not_interested": "not_interested_at",
}

State = dict[str, Any]


def fold(session: Session, events: Sequence[Logged], known: Known) -> None:
    """Fold new events into their states, and learn from them."""
    assert known.rules  # noqa: S101 - they were read with the events' videos
    learned = AffinityChanges(known.rules)
    before = _states(session, events) if known.states is None else known.states
    states: dict[lookup.Key, State] = {}
    pending = []
    for event in events:
        pair = event.user_id, event.video_id
        if (state := states.get(pair)) is None:
            state = states[pair] = dict(before.get(pair) or _new_state(event))
        was_seen, was_engaged = state["impressions"] > 0, state["engaged_views"] > 0
        _fold_one(state, event)
        # A pair of user and video counts once in the statistics of its video.
        is_first_view = state["impressions"] > 0 and not was_seen
        is_first_engaged = state["engaged_views"] > 0 and not was_engaged
        counts = int(is_first_view), int(is_first_engaged)
        pending.append((event.user_id, event.key, event.video_id, event.at, *counts))
        _learn_event(learned, event)
    switched = {event[0:3:2]: event for event in events if event.kind in _TIMED}
    for pair, event in switched.items():
        _learn_state(learned, event, before.get(pair, _NOTHING), states[pair])
    bulk.insert_columns(session, PENDING, columns_of(_PENDING, sorted(pending)))
    _save(session, [states[pair] for pair in sorted(states)])
    learned.write(session)


_PENDING = ("user_id", "key", "video_id", "at", "impressions", "engaged_views")


def _states(session: Session, events: Sequence[Logged]) -> dict[lookup.Key, State]:
    """The states before of the users and videos of events, where there are any."""
    pairs = list(dict.fromkeys(event[0:3:2] for event in events))
    columns = [INTERACTIONS.c.user_id, INTERACTIONS.c.video_id]
    return states_of(lookup.find(session, columns, pairs, tuple(INTERACTIONS.c)))


def states_of(rows: Iterable[Sequence[Any]]) -> dict[lookup.Key, State]:
    """Rows of the table, or of NULLs for none, by user and video."""
    return {(row[0], row[1]): dict(zip(_STATE, row, strict=True)) for row in rows if row[0]}


def _new_state(event: Logged) -> State:
    pair = {"user_id": event.user_id, "video_id": event.video_id}
    return {**_NOTHING, **pair, "first_at": event.at, "last_at": event.at}


def _save(session: Session, states: Sequence[State]) -> None:
    used = [name for name in _STATE if any(map(itemgetter(name), states))]
    columns = columns_of(used, list(map(itemgetter(*used), states)))
    merge = {name: bulk.replace for name in used if not INTERACTIONS.c[name].primary_key}
    bulk.insert_columns(session, INTERACTIONS, columns, merge=merge)


def _fold_one(state: State, event: Logged) -> None:
    """Fold an event into a state."""
    kind, at = event.kind, event.at
    if column := _COUNTED.get(kind):
        state[column] += 1
    elif column := _TIMED.get(kind):
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


def _learn_event(learned: AffinityChanges, event: Logged) -> None:
    since = event.viewer.learned_since
    if since is None or event.at > since:
        weight = learned.rules.event_weight(
            event.kind, event.part, event.watch_ms, event.target.duration_ms, engaged=event.engaged
        )
        learned.add(event.user_id, event.target.subjects, weight, event.at)


def _learn_state(learned: AffinityChanges, event: Logged, before: State, after: State) -> None:
    """Learn what a like, save or lack of interest changed; a hundred likes are one."""
    since = event.viewer.learned_since
    was = learned.rules.state_weights(before, since)
    now = learned.rules.state_weights(after, since)
    for _, weight, at in now - was:
        learned.add(event.user_id, event.target.subjects, weight, at)
    for _, weight, at in was - now:
        learned.add(event.user_id, event.target.subjects, -weight, at)
