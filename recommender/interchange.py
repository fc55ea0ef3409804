"""Reading users, videos, follows and events from files: CSV or JSON Lines, plain or gzip.

The format is told by the content, never by the name. Rows are read one after another and written in
batches, so that memory does not grow with the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Generic, TextIO, TypeVar, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import fields
from recommender.catalog import Applied, apply_follows, apply_users, apply_videos
from recommender.engine import run_transaction
from recommender.errors import BadData, InvalidValue, NotFound, NotPermitted, RecommenderError
from recommender.interactions import apply_events, parse_event
from recommender.settings import Settings
from recommender.values import Counts

LONGEST_LINE = 1_000_000
"""Characters of one row at most: what a video with every list full takes, several times over."""

GZIP_MAGIC = b"\x1f\x8b"

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are not UTF-8, and no UTF-8 decodes to."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """One kind of row: its columns, how a row is parsed and how many are written."""

    columns: fields.Columns
    parse: Callable[[Mapping[str, object]], R]
    apply: Callable[[Session, Sequence[R]], Applied]


def _parser(columns: fields.Columns) -> Callable[[Mapping[str, object]], dict[str, object]]:
    return lambda row: fields.parse_row(columns, row)


KINDS: Mapping[str, Kind[Any]] = {
    "users": Kind(fields.USER_COLUMNS, _parser(fields.USER_COLUMNS), apply_users),
    "videos": Kind(fields.VIDEO_COLUMNS, _parser(fields.VIDEO_COLUMNS), apply_videos),
    "follows": Kind(fields.FOLLOW_COLUMNS, _parser(fields.FOLLOW_COLUMNS), apply_follows),
    "events": Kind(fields.EVENT_COLUMNS, parse_event, apply_events),
}


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did: rows read, inserted, updated, unchanged, rejected, and seconds."""

    kind: str
    file: str
    read: int
    inserted: int
    updated: int
    unchanged: int
    rejected: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The report as `import` prints it."""
        return asdict(self)


def import_file(
    engine: Engine, kind: str, file: str, *, settings: Settings | None = None
) -> ImportReport:
    """Import a file in batches, each in a transaction of its own.

    Importing the same file again changes nothing that is in.

    Args:
        engine: a prepared engine.
        kind: ``users``, ``videos``, ``follows`` or ``events``.
        file: a path, or ``-`` for standard input.
        settings: those of the environment where None.

    Raises:
        InvalidValue: there is no such kind.
        NotFound: there is no such file.
        NotPermitted: the file may not be read.
        BadData: a line is not in the format; its batch is not written, those before it are, and
            the message names the line and says how far the import came.
    """
    if kind not in KINDS:
        raise InvalidValue(f"kind: {fields.shown(kind)} is not one of {', '.join(KINDS)}")
    settings = settings or Settings.from_environment()
    started = time.monotonic()
    counts, read = Counts(), 0
    last_in = 0
    with _opened(file) as binary:
        rows = _parsed(KINDS[kind], binary)
        try:
            while batch := list(islice(rows, settings.batch_size)):
                counts += _write(engine, KINDS[kind], batch, settings)
                read += len(batch)
                last_in = batch[-1][0]
        except RecommenderError as error:
            raise type(error)(f"{file}: {error}; {_how_far(last_in)}") from error
    seconds = round(time.monotonic() - started, 3)
    return ImportReport(
        kind, file, read, counts.inserted, counts.updated, counts.unchanged, 0, seconds
    )


def _how_far(last_in: int) -> str:
    return f"lines 1 to {last_in} are in" if last_in else "nothing was imported"


def _write(
    engine: Engine, kind: Kind[R], batch: Sequence[tuple[int, R]], settings: Settings
) -> Counts:
    def write(session: Session) -> Counts:
        applied = kind.apply(session, [row for _, row in batch])
        if applied.rejected:
            index = min(applied.rejected)
            raise BadData(f"line {batch[index][0]}: {applied.rejected[index]}")
        return applied.counts

    return run_transaction(engine, write, settings=settings)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        binary = Path(file).open("rb")  # noqa: SIM115 - closed below
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        raise NotFound(f"there is no file {fields.shown(file)}") from None
    except PermissionError:
        raise NotPermitted(f"the file {fields.shown(file)} may not be read") from None
    except OSError as error:
        reason = error.strerror
        raise NotFound(f"the file {fields.shown(file)} cannot be opened: {reason}") from None
    with binary:
        yield binary


def _parsed(kind: Kind[R], binary: BinaryIO) -> Iterator[tuple[int, R]]:
    """Each row with the number of its first line."""
    for number, row in read_rows(kind.columns, binary):
        try:
            yield number, kind.parse(row)
        except InvalidValue as error:
            raise BadData(f"line {number}: {error}") from error


def read_rows(
    columns: fields.Columns, binary: BinaryIO
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """The rows of a stream, unparsed, each with the number of its first line.

    Raises:
        BadData: a line cannot be read; the message names it.
    """
    text = _text(binary)
    lines = _Lines(text)
    try:
        yield from _json_rows(lines) if lines.is_json() else _csv_rows(columns, lines)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadData(f"line {lines.number + 1}: the gzip data is broken: {error}") from error
    except csv.Error as error:
        raise BadData(f"line {lines.first}: not CSV: {error}") from error
    finally:
        if not text.closed:
            text.detach()  # the stream is the caller's to close


def _text(binary: BinaryIO) -> io.TextIOWrapper:
    if not isinstance(binary, io.BufferedReader):
        binary = io.BufferedReader(cast("io.RawIOBase", binary))
    is_gzip = binary.peek(2)[:2] == GZIP_MAGIC
    plain = gzip.GzipFile(fileobj=binary) if is_gzip else binary
    return io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Lines:
    """The lines of a text, counted from 1 as they are read, no row of them longer than is sane.

    Attributes:
        number: the line read last.
        first: the first line of the row that is being read.
    """

    def __init__(self, text: TextIO) -> None:
        self.number = 0
        self._text = text
        self._peeked: str | None = None
        self.begin_row()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, self._peeked = self._peeked or self._text.readline(self._left + 1), None
        if not line:
            raise StopIteration
        self.number += 1
        self._left -= len(line)
        if self._left < 0:
            raise BadData(f"line {self.first}: longer than {LONGEST_LINE:,} characters")
        if not line.isascii() and _NOT_UTF8.search(line):
            raise BadData(f"line {self.number}: not UTF-8")
        return line

    def begin_row(self) -> None:
        """Let the next line be the first of a row."""
        self.first, self._left = self.number + 1, LONGEST_LINE

    def is_json(self) -> bool:
        """Whether the text is JSON Lines: no CSV header begins with a brace."""
        self._peeked = self._text.readline(self._left + 1)
        return self._peeked.lstrip().startswith("{")


def _json_rows(lines: _Lines) -> Iterator[tuple[int, Mapping[str, object]]]:
    for line in lines:
        lines.begin_row()
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = getattr(error, "msg", error)  # without the position, which counts lines anew
            raise BadData(f"line {lines.number}: not JSON: {said}") from error
        if not isinstance(row, dict):
            raise BadData(f"line {lines.number}: not a JSON object")
        yield lines.number, row


def _csv_rows(columns: fields.Columns, lines: _Lines) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.reader(lines, strict=True)
    header = _header(columns, next(reader, []))
    lists = [name for name in header if columns[name].many]
    lines.begin_row()
    for cells in reader:
        first = lines.first
        lines.begin_row()
        if not cells:
            continue
        if len(cells) != len(header):
            raise BadData(f"line {first}: {len(cells)} cells under {len(header)} columns")
        row: dict[str, object] = dict(zip(header, cells, strict=True))
        for name in lists:
            row[name] = str(row[name]).split(fields.LIST_SEPARATOR) if row[name] else ""
        yield first, row


def _header(columns: fields.Columns, header: list[str]) -> list[str]:
    if not header:
        raise BadData("line 1: there is no header")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise BadData(f"line 1: column {fields.shown(repeated[0])} stands there twice")
    try:
        fields.check_names(columns, header)
    except InvalidValue as error:
        raise BadData(f"line 1: {error}") from error
    return header
