"""formats.rows: TODO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recommender.errors import InvalidValue
from recommender.formats.scalars import (
    KINDS,
    ORIENTATIONS,
    STATUSES,
    Parser,
    count,
    each,
    fraction,
    key,
    listed_key,
    one_of,
    parse_named,
    shown,
    time,
)
from recommender.formats.text import hashtag, read_caption


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an interchange row: how it is parsed, and whether a row must have it."""

    parse: Parser
    required: bool = False
    many: bool = False

    def value(self, given: object) -> object:
        """The parsed value; an empty cell is None, or the empty list.

        Raises:
            InvalidValue: the value is not of this column's form, or is required and empty.
        """
        if given is None or given == "":
            if self.required:
                raise InvalidValue("is required and empty")
            return () if self.many else None
        return self.parse(given)


Columns = Mapping[str, Column]

USER_COLUMNS: Columns = {
    "id": Column(key, required=True),
    "language": Column(key),
    "country": Column(key),
    "device": Column(key),
    "created_at": Column(time),
    "interests": Column(each(hashtag), many=True),
    "liked_sounds": Column(each(listed_key), many=True),
}

VIDEO_COLUMNS: Columns = {
    "id": Column(key, required=True),
    "creator": Column(key, required=True),
    "caption": Column(read_caption),
    "hashtags": Column(each(hashtag), many=True),
    "sound": Column(listed_key),
    "language": Column(key),
    "country": Column(key),
    "duration_ms": Column(count),
    "orientation": Column(one_of(ORIENTATIONS)),
    "published_at": Column(time, required=True),
    "status": Column(one_of(STATUSES)),
}

FOLLOW_COLUMNS: Columns = {
    "user": Column(key, required=True),
    "creator": Column(key, required=True),
    "at": Column(time),
}

EVENT_COLUMNS: Columns = {
    "id": Column(key, required=True),
    "user": Column(key, required=True),
    "video": Column(key, required=True),
    "kind": Column(one_of(KINDS), required=True),
    "at": Column(time, required=True),
    "watch_ms": Column(count),
    "completion": Column(fraction),
}


def parse_row(columns: Columns, row: Mapping[str, object]) -> dict[str, object]:
    """The row with every value parsed; columns that the row has not stay absent.

    Raises:
        InvalidValue: a column is unknown or missing, or a value not of its form; the message
            begins with the column's name.
    """
    if not isinstance(row, Mapping):
        raise InvalidValue(f"{shown(row)} is not a row of columns and values")
    check_names(columns, row.keys())
    parsed = {}
    for name, given in row.items():
        column = columns[name]
        parsed[name] = parse_named(name, column.parse if given else column.value, given)
    return parsed


def check_names(columns: Columns, names: Iterable[str]) -> None:
    """Raise `InvalidValue` where a name is unknown or a required one is missing."""
    if names == columns.keys():
        return
    given = list(names)
    if unknown := [name for name in given if name not in columns]:
        raise InvalidValue(f"unknown column {shown(unknown[0])}: there are {', '.join(columns)}")
    if missing := [name for name in columns if columns[name].required and name not in given]:
        raise InvalidValue(f"column {missing[0]} is missing")
