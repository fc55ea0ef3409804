"""The definitions of an engaged view and of a positive event.

An engaged view is a watch that reached the end of the video, or lasted min(duration, 18 s). If the
duration is unknown, it is a watch of 18 s. A positive event is a like, share, save or comment. A
user is said to have engaged with a video after an engaged view or a positive event.

`Interaction.engaged_at`, the recent engagements and the neighbours follow from these definitions.
So do the labels of evaluation and training. They must not be defined anywhere else.
"""

from __future__ import annotations

from datetime import timedelta

FAST_SKIP_MS = 3_000
"""A watch is a fast skip if it is known to be shorter than this and is not an engaged view."""

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""The longest time by which an event may lie in the future, since clients' clocks differ.

Times further ahead are refused: an unlike of today could not undo a like dated next year.
"""

ENGAGED_MS = 18_000
"""The watch time that makes an engaged view of any video, as KuaiRand's `long_view` does."""

POSITIVE_KINDS = ("like", "share", "save", "comment")
"""The kinds of events that count as positive. A watch is positive if it is an engaged view."""


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


def is_engaged(watch_ms: int | None, completion: float | None, duration_ms: int | None) -> bool:
    """Return True if a watch is an engaged view: to the end, or min(duration, 18 s) long.

    The arguments are the same as for `watched`.
    """
    watch_ms, completion = watched(watch_ms, completion, duration_ms)
    if completion is not None and completion >= 1:
        return True
    enough = min(duration_ms, ENGAGED_MS) if duration_ms else ENGAGED_MS
    return watch_ms is not None and watch_ms >= enough
