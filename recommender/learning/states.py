"""States: the sums, maxima and times that all events of one user and one video add up to."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from recommender.learning.engagement import SWITCHES, fold_signs, positive_since
from recommender.models.tables import INTERACTIONS

STATE_COLUMNS = tuple(INTERACTIONS.c.keys())

_TIME_COLUMNS = tuple(name for name in STATE_COLUMNS if name.endswith("_at"))

EMPTY_STATE = {
    **dict.fromkeys(STATE_COLUMNS, 0),
    **dict.fromkeys(_TIME_COLUMNS),
    "completion": 0.0,
}
"""A state without events."""

_COUNT_COLUMN = {
    "impression": "impressions",
    "watch": "impressions",
    "share": "shares",
    "comment": "comments",
    "convert": "conversions",
}

SHOWN_ONLY = ("impression", "watch")
"""The kinds of events that say nothing more, unless they are an engaged view."""

State = dict[str, Any]
"""A row of interactions."""


class FoldedEvent(NamedTuple):
    """What a state depends on: `watched_ms` and `part` as `watched` returns them."""

    kind: str
    at: datetime
    engaged: bool
    watched_ms: int | None
    part: float | None


SUMS = (
    "impressions", "plays", "engaged_views", "watch_ms", "shares", "comments", "reports",
    "conversions",
)  # fmt: skip
"""The columns of a state that add up over its events; the others are maxima and minima."""


def merge_states(state: State, other: State, twice: State) -> State:
    """Return the state of the events of two states, as if all were of the first one's user.

    Args:
        state: a state.
        other: the state of another user with the same video.
        twice: the state of the events that both have; `EMPTY_STATE` if there are none.
    """
    merged = {name: max(state[name], other[name]) for name in ("completion", "last_at")}
    for name in SUMS:
        # Durations may have changed since the states were folded, and `twice` is of today.
        both = state[name] + other[name] - twice[name]
        merged[name] = max(both, state[name], other[name])
    for name in (*SWITCHES.values(), "acted_at"):
        merged[name] = max(filter(None, (state[name], other[name])), default=None)
    merged["first_at"] = min(state["first_at"], other["first_at"])
    merged["engaged_at"] = positive_since(merged)
    return {**state, **merged}


def fold_event(state: State, event: Any) -> None:
    """Fold an event into a state; the result does not depend on the order of events.

    Args:
        state: changed in place.
        event: has the fields of `FoldedEvent`.
    """
    kind, at, engaged = event.kind, event.at, event.engaged
    if column := _COUNT_COLUMN.get(kind):
        state[column] += 1
    if kind == "watch":
        state["plays"] += 1
        state["watch_ms"] += event.watched_ms or 0
        state["completion"] = max(state["completion"], event.part or 0.0)
        state["engaged_views"] += engaged
    if engaged or kind not in SHOWN_ONLY:
        fold_signs(state, kind, at, engaged=engaged)
        state["engaged_at"] = positive_since(state)
    state["first_at"] = min(state["first_at"], at)
    state["last_at"] = max(state["last_at"], at)
