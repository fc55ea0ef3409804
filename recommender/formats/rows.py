"""The columns of interchange rows, and the parser of a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Required, TypeAlias, TypedDict

from recommender.errors import InvalidValue
from recommender.formats.scalars import (
    EVENT_KINDS,
    MUTE_KINDS,
    ORIENTATIONS,
    STATUSES,
    AnyKey,
    Orientation,
    Parser,
    VideoStatus,
    count,
    fraction,
    identifier,
    key,
    label,
    list_of,
    listed_key,
    one_of,
    publication_time,
    shown,
    time,
    truth,
    written_time,
)
from recommender.formats.text import hashtag, read_caption
from recommender.formats.vectors import AnyVector, space_name, vector
from recommender.formats.visibility import AUDIENCES, Audience


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an interchange row.

    Attributes:
        parse: the parser of a value that is not empty.
        required: whether a row must have the column.
        many: whether the value is a list.
        derived: whether a row may lack a required column, because the other columns give it.
    """

    parse: Parser
    required: bool = False
    many: bool = False
    derived: bool = False

    def value(self, written: object) -> object:
        """Return the parsed value; an empty cell is None, or the empty list.

        Raises:
            InvalidValue: the value has a wrong form, or is required and empty.
        """
        if written is None or written == "":
            if self.required:
                raise InvalidValue("is required and empty")
            return () if self.many else None
        return self.parse(written)


Columns = Mapping[str, Column]

FileKind: TypeAlias = Literal[
    "users", "videos", "follows", "mutes", "blocks", "events", "candidates", "embeddings"
]
"""The kinds of files: the kind of all their rows."""

Texts: TypeAlias = list[str] | tuple[str, ...] | set[str] | frozenset[str]


class UserRow(TypedDict, total=False):
    """A user as `upsert_users` takes it; an absent column keeps its value, and None clears it."""

    id: Required[AnyKey]
    language: str | None
    country: str | None
    device: str | None
    created_at: datetime | str | None
    interests: Texts | None
    liked_sounds: Texts | None
    discoverable: bool | None


class VideoRow(TypedDict, total=False):
    """A video as `upsert_videos` takes it; an absent column keeps its value, and None clears it.

    `creator` is the key of a user. `duration_ms` is in milliseconds. `format` is a word of the
    host's own, such as ``article``.
    """

    id: Required[AnyKey]
    creator: AnyKey | None
    caption: str | None
    hashtags: Texts | None
    sound: AnyKey | None
    language: str | None
    country: str | None
    duration_ms: int | None
    orientation: Orientation | None
    published_at: datetime | str | None
    status: VideoStatus | None
    format: str | None
    audience: Audience | None


class CandidateRow(TypedDict, total=False):
    """A candidate as `upsert_candidates` takes it; an absent column keeps its value.

    `score` is from 0 to 1. `expires_at` is the time from which the candidate is not read; None for
    never.
    """

    user: Required[AnyKey]
    video: Required[AnyKey]
    score: Required[float]
    expires_at: datetime | str | None


class EmbeddingRow(TypedDict):
    """The vector of a video as `upsert_embeddings` takes it; `id` is the video's key."""

    id: AnyKey
    vector: AnyVector


USER_COLUMNS: Columns = {
    "id": Column(key, required=True),
    "language": Column(label),
    "country": Column(label),
    "device": Column(label),
    "created_at": Column(time),
    "interests": Column(list_of(hashtag), many=True),
    "liked_sounds": Column(list_of(listed_key), many=True),
    "discoverable": Column(truth),
}

VIDEO_COLUMNS: Columns = {
    "id": Column(key, required=True),
    "creator": Column(key),
    "caption": Column(read_caption),
    "hashtags": Column(list_of(hashtag), many=True),
    "sound": Column(listed_key),
    "language": Column(label),
    "country": Column(label),
    "duration_ms": Column(count),
    "orientation": Column(one_of(ORIENTATIONS)),
    "published_at": Column(publication_time),
    "status": Column(one_of(STATUSES)),
    "format": Column(label),
    "audience": Column(one_of(AUDIENCES)),
}

FOLLOW_COLUMNS: Columns = {
    "user": Column(key, required=True),
    "creator": Column(key, required=True),
    "at": Column(time),
}

MUTE_COLUMNS: Columns = {
    "user": Column(key, required=True),
    "kind": Column(one_of(MUTE_KINDS), required=True),
    "value": Column(key, required=True),
    "at": Column(time),
}

BLOCK_COLUMNS: Columns = {
    "user": Column(key, required=True),
    "other": Column(key, required=True),
    "at": Column(time),
}

EVENT_COLUMNS: Columns = {
    "id": Column(key, required=True, derived=True),
    "user": Column(key, required=True),
    "video": Column(key, required=True),
    "kind": Column(one_of(EVENT_KINDS), required=True),
    "at": Column(time, required=True),
    "watch_ms": Column(count),
    "completion": Column(fraction),
}

CANDIDATE_COLUMNS: Columns = {
    "source": Column(identifier, required=True),
    "user": Column(key, required=True),
    "video": Column(key, required=True),
    "score": Column(fraction, required=True),
    "expires_at": Column(time),
}

EMBEDDING_COLUMNS: Columns = {
    "space": Column(space_name, required=True),
    "id": Column(key, required=True),
    "vector": Column(vector, required=True, many=True),
}


def parse_row(columns: Columns, row: Mapping[str, object]) -> dict[str, object]:
    """Return the row with all values parsed; absent columns stay absent.

    Raises:
        ColumnError: a column is unknown or missing.
        InvalidValue: a value has a wrong form. The message begins with the column's name.
    """
    if not isinstance(row, Mapping):
        raise InvalidValue(f"{shown(row)} is not a row of columns and values")
    check_names(columns, row.keys())
    parsed = {}
    name = ""
    # As `parse_named`, without a call for each value: an import parses millions.
    try:
        for name, value in row.items():
            column = columns[name]
            parsed[name] = column.parse(value) if value else column.value(value)
    except InvalidValue as error:
        raise InvalidValue(f"{name}: {error}") from None
    return parsed


class ColumnError(InvalidValue):
    """A row has an unknown column, or lacks a required one."""


def check_names(columns: Columns, names: Collection[str]) -> None:
    """Raise `ColumnError` if a column is unknown or a required column is missing."""
    if names == columns.keys():
        return
    if unknown := [name for name in names if name not in columns]:
        raise ColumnError(f"unknown column {shown(unknown[0])}: there are {', '.join(columns)}")
    if missing := missing_names(columns, names):
        raise ColumnError(f"column {missing[0]} is missing")


def missing_names(columns: Columns, names: Collection[str]) -> list[str]:
    """Return the required columns that a row with these columns lacks."""
    absent = [name for name in columns if name not in names]
    return [name for name in absent if columns[name].required and not columns[name].derived]


def event_id(event: Mapping[str, object]) -> str:
    """Return the id of an event that has none: a digest of its parsed columns.

    Equal events have the same id, so a file without ids can be imported again.
    """
    columns = {name: value for name, value in event.items() if value is not None}
    written = json.dumps(columns, sort_keys=True, default=written_time)
    return hashlib.blake2b(written.encode(), digest_size=16).hexdigest()
