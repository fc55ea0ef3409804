"""ingest.values: TODO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from recommender.errors import RecommenderError
from recommender.formats.rows import EVENT_COLUMNS
from recommender.formats.scalars import parse_named


@dataclass(frozen=True, slots=True)
class Applied:
    """What a write of many rows did, and which rows, by their place, it had to leave out."""

    counts: Counts
    rejected: Mapping[int, RecommenderError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that one user did with one video.

    Args:
        key: the event's own id, unique for the user; the same key again is the same event.
        user: the user's key.
        video: the video's key.
        kind: one of `scalars.EVENT_KINDS`.
        at: when, with an offset; kept in UTC.
        watch_ms: milliseconds watched, 0 to 2,147,483,647; None where unknown.
        completion: part of the video watched, 0 to 1; None where unknown.

    Raises:
        InvalidValue: a field is not of its form.
    """

    key: str
    user: str
    video: str
    kind: str
    at: datetime
    watch_ms: int | None = None
    completion: float | None = None

    def __post_init__(self) -> None:
        for name, attribute, column in _EVENT_ATTRIBUTES:
            given = getattr(self, attribute)
            parsed = parse_named(name, column.parse if given else column.value, given)
            if parsed is not given:
                object.__setattr__(self, attribute, parsed)


_EVENT_ATTRIBUTES = tuple(
    (name, "key" if name == "id" else name, column) for name, column in EVENT_COLUMNS.items()
)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows a write inserted, updated, found as they were, and left out as too old."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    too_old: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.too_old + other.too_old,
        )
