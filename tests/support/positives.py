"""The definitions of an engaged view and of a positive pair in plain Python, from all events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

POSITIVE = ("like", "save", "share", "comment", "convert", "interested")

DESIGN = (0.9, 18_000)
"""The part, and the milliseconds, from which a watch is an engaged view."""


class Deed(NamedTuple):
    """An event of one user and one video."""

    kind: str
    at: datetime
    watch_ms: int | None = None
    completion: float | None = None


def is_engaged_view(
    deed: Deed, duration_ms: int | None, limits: tuple[float, int] = DESIGN
) -> bool:
    """Return whether an event is a watch that shows interest."""
    watch_ms, part = deed.watch_ms, deed.completion
    if deed.kind != "watch":
        return False
    if watch_ms is None and part is None:
        return True
    if part is None and duration_ms:
        part = min(1, (watch_ms or 0) / duration_ms)
    if watch_ms is None and duration_ms is not None:
        watch_ms = round((part or 0) * duration_ms)
    return (part or 0) >= limits[0] or (watch_ms or 0) >= limits[1]


def positive_times(
    deeds: Iterable[Deed], duration_ms: int | None, limits: tuple[float, int] = DESIGN
) -> list[datetime]:
    """Return the times of what makes a pair positive, sorted; none if it is not."""
    times: dict[str, list[datetime]] = defaultdict(list)
    for deed in deeds:
        kind = "engaged" if is_engaged_view(deed, duration_ms, limits) else deed.kind
        times[kind].append(deed.at)
    if times["report"]:
        return []
    if times["not_interested"] and not (
        times["interested"] and max(times["interested"]) >= max(times["not_interested"])
    ):
        return []
    kept = [*times["engaged"], *times["share"], *times["comment"], *times["convert"]]
    kept += times["interested"]
    for on, off in (("like", "unlike"), ("save", "unsave")):
        kept += [at for at in times[on] if not times[off] or at > max(times[off])]
    return sorted(kept)


def is_rejected_by(deeds: Iterable[Deed]) -> bool:
    """Return whether the last word is that the video is not wanted."""
    listed = list(deeds)
    last = {deed.kind: deed.at for deed in sorted(listed, key=lambda deed: deed.at)}
    if "report" in last:
        return True
    refused = last.get("not_interested")
    return refused is not None and ("interested" not in last or refused > last["interested"])
