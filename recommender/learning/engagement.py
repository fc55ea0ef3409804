"""learning.engagement: TODO."""

from __future__ import annotations

from datetime import timedelta

FAST_SKIP_MS = 3_000
"""A watch that was known to be shorter and is not engaged is a fast skip."""

MOST_AHEAD = timedelta(minutes=5)
"""How far a client's clock may be ahead: an unlike could not undo a like of next year."""

ENGAGED_MS = 18_000
"""A view this long is engaged however long the video; KuaiRand's `long_view` is the same rule."""

POSITIVE = ("like", "share", "save", "comment")
"""The kinds of events that say, as an engaged view does, that the user wanted the video."""


def watched(
    watch_ms: int | None, completion: float | None, duration_ms: int | None
) -> tuple[int | None, float | None]:
    """Watched milliseconds and the part watched, each from the other where only one is known."""
    if watch_ms is None and completion is not None and duration_ms is not None:
        watch_ms = round(completion * duration_ms)
    elif completion is None and watch_ms is not None and duration_ms:
        completion = min(1.0, watch_ms / duration_ms)
    return watch_ms, completion


def is_engaged(watch_ms: int | None, completion: float | None, duration_ms: int | None) -> bool:
    """Whether a watch is an engaged view: to the end, or min(duration, 18 s) long."""
    watch_ms, completion = watched(watch_ms, completion, duration_ms)
    if completion is not None and completion >= 1:
        return True
    enough = min(duration_ms, ENGAGED_MS) if duration_ms else ENGAGED_MS
    return watch_ms is not None and watch_ms >= enough
