"""Values as JSON has them, and days in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from recommender.formats.scalars import written_time

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def plain_fields(result: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, as `json.dumps` takes them."""
    fields: dict[str, Any] = plain(asdict(result))
    return fields


def plain(value: object) -> Any:
    """Return a value as `json.dumps` takes it, at any depth.

    Times become text, tuples become lists, and tuples with names become mappings.
    """
    if isinstance(value, datetime):
        return written_time(value)
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def day_of(moment: datetime) -> str:
    """Return the day of a time in words, such as "1 January 2026"."""
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year}"
