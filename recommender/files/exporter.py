"""Writing users, videos, follows and events to files: CSV or JSON Lines, plain or gzip.

Rows come in the order of their ids, so that importing them into an empty database gives the same
feeds, ties included, and exporting that gives the same bytes. One statement reads one kind, in
batches, so that memory does not grow with the table and the rows are of one moment.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session, aliased

from recommender.database.expressions import Statement
from recommender.database.transactions import translate_errors
from recommender.errors import InvalidValue, NotFound, NotPermitted, StorageFailure
from recommender.formats import scalars
from recommender.formats.rows import (
    EVENT_COLUMNS,
    FOLLOW_COLUMNS,
    USER_COLUMNS,
    VIDEO_COLUMNS,
    Columns,
)
from recommender.models import (
    EventRow,
    Follow,
    Hashtag,
    Sound,
    User,
    UserHashtag,
    UserSound,
    Video,
    VideoCaption,
    VideoHashtag,
)

ROWS_AT_ONCE = 2_000

FORMATS = ("csv", "jsonl")


def _joined(name: Any, link: Any, *conditions: Any) -> Any:
    """The names on the other side of a link table, as one text, in no order."""
    joined = sa.func.aggregate_strings(name, scalars.LIST_SEPARATOR)
    return sa.select(joined).join(link, conditions[0]).where(*conditions[1:]).scalar_subquery()


def users_query() -> Statement:
    """Every user, as rows of the kind users."""
    interests = _joined(
        Hashtag.name, UserHashtag,
        UserHashtag.hashtag_id == Hashtag.id, UserHashtag.user_id == User.id,
    )  # fmt: skip
    sounds = _joined(
        Sound.key, UserSound, UserSound.sound_id == Sound.id, UserSound.user_id == User.id
    )
    columns = (User.key, User.language, User.country, User.device, User.created_at)
    return sa.select(*columns, interests, sounds).order_by(User.id)


def videos_query() -> Statement:
    """Every video, as rows of the kind videos."""
    tags = _joined(
        Hashtag.name, VideoHashtag,
        VideoHashtag.hashtag_id == Hashtag.id, VideoHashtag.video_id == Video.id,
    )  # fmt: skip
    shown = (Video.language, Video.country, Video.duration_ms, Video.orientation)
    return (
        sa.select(Video.key, User.key, VideoCaption.caption, tags, Sound.key, *shown)
        .add_columns(Video.published_at, Video.status)
        .join(User, User.id == Video.creator_id)
        .outerjoin(Sound, Sound.id == Video.sound_id)
        .outerjoin(VideoCaption, VideoCaption.video_id == Video.id)
        .order_by(Video.id)
    )


def follows_query() -> Statement:
    """Every follow, as rows of the kind follows."""
    creator = aliased(User)
    return (
        sa.select(User.key, creator.key, Follow.created_at)
        .join(Follow, Follow.user_id == User.id)
        .join(creator, creator.id == Follow.creator_id)
        .order_by(Follow.user_id, Follow.creator_id)
    )


def events_query() -> Statement:
    """Every event of the log, as rows of the kind events."""
    event = EventRow
    return (
        sa.select(event.key, User.key, Video.key, event.kind, event.at)
        .add_columns(event.watch_ms, event.completion)
        .join(User, User.id == event.user_id)
        .join(Video, Video.id == event.video_id)
        .order_by(event.user_id, event.key)
    )


QUERIES: Mapping[str, tuple[Columns, Callable[[], Statement]]] = {
    "users": (USER_COLUMNS, users_query),
    "videos": (VIDEO_COLUMNS, videos_query),
    "follows": (FOLLOW_COLUMNS, follows_query),
    "events": (EVENT_COLUMNS, events_query),
}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did: rows written, and seconds."""

    kind: str
    file: str
    written: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The report as `export` prints it."""
        return asdict(self)


def export_file(engine: Engine, kind: str, file: str, *, form: str | None = None) -> ExportReport:
    """Write every row of a kind to a file, which is there whole or, after an error, not at all.

    Args:
        engine: a prepared engine.
        kind: ``users``, ``videos``, ``follows`` or ``events``.
        file: a path, or ``-`` for standard output; compressed where it ends in ``.gz``.
        form: ``csv`` or ``jsonl``; by the file's name where None, else csv.

    Raises:
        InvalidValue: there is no such kind or format.
        NotFound: the file's folder does not exist.
        NotPermitted: the file may not be written.
        StorageFailure: the disk is full or failing.
    """
    if kind not in QUERIES:
        raise InvalidValue(f"kind: {scalars.shown(kind)} is not one of {', '.join(QUERIES)}")
    chosen = form or ("jsonl" if file.removesuffix(".gz").endswith(".jsonl") else "csv")
    if chosen not in FORMATS:
        raise InvalidValue(f"format: {scalars.shown(form)} is not one of {', '.join(FORMATS)}")
    started = time.monotonic()
    write = _write_json if chosen == "jsonl" else _write_csv
    with translate_errors(), Session(engine) as session, created(file) as text:
        written = write(text, QUERIES[kind][0], exported(session, kind))
    return ExportReport(kind, file, written, round(time.monotonic() - started, 3))


def exported(session: Session, kind: str) -> Iterator[list[Any]]:
    """The values of every row of a kind, as JSON Lines has them, in the order of its columns.

    Args:
        session: the caller's transaction.
        kind: a key of `QUERIES`.
    """
    columns, query = QUERIES[kind]
    return plain_rows(columns, session.execute(query().execution_options(yield_per=ROWS_AT_ONCE)))


def _write_csv(text: TextIO, columns: Columns, rows: Iterable[list[Any]]) -> int:
    writer = csv.writer(text)  # ends lines with CRLF, without which it would not quote a lone CR
    writer.writerow(columns)
    written = 0
    for values in rows:
        lists = (scalars.LIST_SEPARATOR.join(v) if isinstance(v, list) else v for v in values)
        writer.writerow(lists)
        written += 1
    return written


def _write_json(text: TextIO, columns: Columns, rows: Iterable[list[Any]]) -> int:
    written = 0
    for values in rows:
        row = dict(zip(columns, values, strict=True))
        text.write(json.dumps(row, ensure_ascii=False) + "\n")
        written += 1
    return written


def plain_rows(columns: Columns, rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Each row's values as the formats have them: times as text, lists sorted."""
    writers = [_plain_list if c.many else _plain_time if c.parse is scalars.time else _same
               for c in columns.values()]  # fmt: skip
    for row in rows:
        yield [write(value) for write, value in zip(writers, row, strict=True)]


def _same(value: Any) -> Any:
    return value


def _plain_list(value: str | None) -> list[str]:
    return sorted(value.split(scalars.LIST_SEPARATOR)) if value else []


def _plain_time(value: Any) -> str | None:
    return scalars.written_time(value) if value else None


@contextmanager
def created(file: str) -> Iterator[TextIO]:
    """The file to write, under another name until it is whole, readable by its owner only."""
    if file == "-":
        if sys.stdout is None:
            raise NotPermitted("there is no standard output")
        with _encoded(sys.stdout.buffer, compressed=False) as text:
            yield text
        return
    path = Path(os.path.realpath(file))
    if path.is_dir():
        raise NotPermitted(f"the file {scalars.shown(file)} is a folder")
    if path.exists() and not path.is_file():
        with _device(path) as binary, _encoded(binary, compressed=file.endswith(".gz")) as text:
            yield text
        return
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with _opened(unfinished) as binary, _encoded(binary, file.endswith(".gz")) as text:
            yield text
        unfinished.replace(path)
    except FileNotFoundError:
        raise NotFound(f"there is no folder {scalars.shown(str(path.parent))}") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError):
        raise NotPermitted(f"the file {scalars.shown(file)} may not be written") from None
    except OSError as error:
        raise StorageFailure(f"the file {scalars.shown(file)}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _device(path: Path) -> BinaryIO:
    """What is no regular file, such as a pipe, to be written as it is."""
    try:
        return path.open("wb")
    except OSError as error:
        raise NotPermitted(
            f"the file {scalars.shown(str(path))} may not be written: {error.strerror}"
        ) from None


def _opened(path: Path) -> BinaryIO:
    """A new file: one that is there is not ours, and may lead elsewhere."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


@contextmanager
def _encoded(binary: BinaryIO, compressed: bool) -> Iterator[TextIO]:  # noqa: FBT001
    """Text over bytes; compressed without a name and a time, so that equal rows are equal bytes."""
    plain: Any = gzip.GzipFile("", "wb", 6, binary, mtime=0) if compressed else binary
    text = io.TextIOWrapper(plain, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()
        if compressed:
            cast("gzip.GzipFile", plain).close()
