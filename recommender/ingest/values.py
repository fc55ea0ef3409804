"""Values of the write side: events, and the results of writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from recommender.errors import InvalidValue, RecommenderError
from recommender.formats.rows import EVENT_COLUMNS
from recommender.formats.scalars import AnyKey, EventKind


@dataclass(frozen=True, slots=True)
class Event:
    """An event: one action of one user on one video.

    Args:
        key: the event's id, unique per user; an event with the same key is the same event.
        user: the user's key.
        video: the video's key.
        kind: one of `scalars.EVENT_KINDS`.
        at: the time of the event, with an offset; kept in UTC.
        watch_ms: milliseconds watched, 0 to 2,147,483,647; None if unknown.
        completion: part of the video watched, 0 to 1; None if unknown.

    Raises:
        InvalidValue: a field is not valid.
    """

    key: AnyKey
    user: AnyKey
    video: AnyKey
    kind: EventKind
    at: datetime
    watch_ms: int | None = None
    completion: float | None = None

    def __post_init__(self) -> None:
        try:
            for name, attribute, column in _EVENT_ATTRIBUTES:  # noqa: B007 - in the refusal
                value = getattr(self, attribute)
                parsed = column.parse(value) if value else column.value(value)
                if parsed is not value:
                    object.__setattr__(self, attribute, parsed)
        except InvalidValue as error:
            raise InvalidValue(f"{name}: {error}") from None


_EVENT_ATTRIBUTES = tuple(
    (name, "key" if name == "id" else name, column) for name, column in EVENT_COLUMNS.items()
)


@dataclass(frozen=True, slots=True)
class Counts:
    """The result of a write: the numbers of rows, and the errors of the rows that were left out.

    Every row given is counted once: in `inserted`, `updated`, `unchanged` or `rejected`. Rows apply
    one after the other, so a row is compared with what the rows before it wrote.

    Args:
        inserted: rows of something new.
        updated: rows that changed something.
        unchanged: rows that changed nothing: stored already, or repeated.
        too_old: events of a time that was pruned. They are in `rejected` too.
        rejected: the errors of the rows that were left out, by their index in the batch, from 0.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    too_old: int = 0
    rejected: Mapping[int, RecommenderError] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name, and the messages of the errors in `rejected`."""
        errors = {index: str(error) for index, error in self.rejected.items()}
        return {**asdict(replace(self, rejected={})), "rejected": errors}

    def __add__(self, other: Counts) -> Counts:
        """Return the sums of the numbers, without the errors, whose indices are of one batch."""
        return Counts(
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.too_old + other.too_old,
        )


def raise_first(name: str, rejected: Mapping[int, RecommenderError], size: int) -> None:
    """Raise the error of the first row that has one.

    Args:
        name: what the caller knows the rows as, such as ``events``.
        rejected: the errors by the places of the rows.
        size: the number of rows; among several, the message names the row.
    """
    if rejected:
        error = rejected[first := min(rejected)]
        raise type(error)(f"{name}[{first}]: {error}") if size > 1 else error
