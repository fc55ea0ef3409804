"""The definitions of an engaged view, a fast skip and a positive state.

An engaged view is a watch that reached the part `engaged_part` of the video, that lasted
`engaged_ms`, or whose length is unknown: a page view, for example. Both numbers are in the learning
state. A fast skip is a watch known to be shorter than 3 s that is not an engaged view.

A state of a user with a video is positive since the latest of: an engaged view, share, comment or
conversion; a like or save that was not taken back; an `interested`. It is not positive if the user
reported the video, or said `not_interested` later than `interested`.

The positive state is stored as `Interaction.engaged_at`. Statistics, trends, neighbours, recent
engagements, and the labels of evaluation and training follow from it. It must not be defined
anywhere else; `database.expressions` has the same in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

FAST_SKIP_MS = 3_000
"""A watch is a fast skip if it is known to be shorter than this and is not an engaged view."""

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""The longest time by which an event may lie in the future, since clients' clocks differ.

Times further ahead are refused: an unlike of today could not undo a like dated next year.
"""

ACTS = ("share", "comment", "convert")
"""The kinds of events that are positive and never taken back, as an engaged view is."""

SWITCHES = {
    "like": "liked_at",
    "unlike": "unliked_at",
    "save": "saved_at",
    "unsave": "unsaved_at",
    "not_interested": "not_interested_at",
    "interested": "interested_at",
}
"""The kinds of events that set a time of a state, with its column."""

POSITIVE_KINDS = ("like", "share", "save", "comment", "convert", "interested")
"""The kinds of events that are positive by themselves; a watch is if it is an engaged view."""

PARTS = ("acted_at", "liked_at", "saved_at", "interested_at")
"""The columns of a state that have the latest positive events."""

_TAKEN_BACK_BY = (
    ("liked_at", "unliked_at"), ("saved_at", "unsaved_at"), ("interested_at", None),
)  # fmt: skip

_positive_times = itemgetter("engaged_at", *PARTS)

_NO_TIMES: Mapping[str, Any] = {**dict.fromkeys((*SWITCHES.values(), "acted_at")), "reports": 0}


class Thresholds(NamedTuple):
    """What makes a watch an engaged view: the part from which on, or the milliseconds."""

    engaged_part: float = 0.9
    engaged_ms: int = 18_000


DEFAULT_THRESHOLDS = Thresholds()


def watched(
    watch_ms: int | None, completion: float | None, duration_ms: int | None
) -> tuple[int | None, float | None]:
    """Return watch time and completion; if only one is known, compute the other.

    Args:
        watch_ms: milliseconds watched, or None.
        completion: part of the video watched, 0 to 1, or None.
        duration_ms: the video's duration in milliseconds, or None.
    """
    if watch_ms is None and completion is not None and duration_ms is not None:
        watch_ms = round(completion * duration_ms)
    elif completion is None and watch_ms is not None and duration_ms:
        completion = min(1.0, watch_ms / duration_ms)
    return watch_ms, completion


def is_engaged(
    watch_ms: int | None,
    completion: float | None,
    duration_ms: int | None,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> bool:
    """Return True if a watch is an engaged view.

    The first arguments are the same as for `watched`; `thresholds` is from the learning state.
    """
    return is_engaging(*watched(watch_ms, completion, duration_ms), thresholds)


def is_engaging(
    watch_ms: int | None, completion: float | None, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> bool:
    """Return True if a watch with what `watched` returned is an engaged view."""
    if watch_ms is None and completion is None:
        return True
    if completion is not None and completion >= thresholds.engaged_part:
        return True
    return watch_ms is not None and watch_ms >= thresholds.engaged_ms


def no_signs() -> dict[str, Any]:
    """Return the part of an empty state that says whether it is positive."""
    return dict(_NO_TIMES)


def fold_signs(state: MutableMapping[str, Any], kind: str, at: datetime, *, engaged: bool) -> None:
    """Fold what an event says about being positive into a state.

    The order of events does not matter: all times are maxima.

    Args:
        state: has `reports`, and the times of `SWITCHES` and `acted_at`.
        kind: one of `scalars.EVENT_KINDS`.
        at: the event's time.
        engaged: True if the event is an engaged view.
    """
    if engaged or kind in ACTS:
        state["acted_at"] = max(state["acted_at"] or at, at)
    elif column := SWITCHES.get(kind):
        state[column] = max(state[column] or at, at)
    elif kind == "report":
        state["reports"] += 1


def positive_since(state: Mapping[str, Any]) -> datetime | None:
    """Return the time since which a state is positive, or None if it is not.

    Args:
        state: a row of interactions, or `no_signs` with events folded in.
    """
    if is_rejected(state):
        return None
    since: datetime | None = state["acted_at"]
    for on, off in _TAKEN_BACK_BY:
        at = state[on]
        # An import calls this for every positive event, so no list is made.
        if at is None or (since is not None and at <= since):
            continue
        if off is None or state[off] is None or at > state[off]:
            since = at
    return since


def is_rejected(state: Mapping[str, Any]) -> bool:
    """Return True if the user reported the video, or said last that it does not interest them."""
    if state["reports"]:
        return True
    refused, wanted = state["not_interested_at"], state["interested_at"]
    return refused is not None and (wanted is None or refused > wanted)


def had_positive(state: Mapping[str, Any]) -> bool:
    """Return True if a state ever had a positive event, even one that was taken back."""
    return any(_positive_times(state))


def viewed_and_positive(state: Mapping[str, Any]) -> tuple[int, int]:
    """Return what a state adds to a video's impressions and engaged views: 0 or 1 each.

    A positive state counts as an impression, so there are never more engaged views than
    impressions.
    """
    positive = state["engaged_at"] is not None
    return int(positive or state["impressions"] > 0), int(positive)
