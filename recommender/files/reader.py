"""Read rows from CSV or JSON Lines, plain or gzip; the content decides, not the file name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

from recommender.errors import BadData, InvalidValue, NotFound, NotPermitted
from recommender.formats import rows, scalars

MAX_ROW_CHARACTERS = 1_000_000
"""The length limit of a row: several times the longest valid row of a video."""

GZIP_MAGIC = b"\x1f\x8b"

MAX_EXPANSION = 200
"""The limit of expanded bytes per gzip byte: rows have about 10, a gzip bomb has 1,000."""

UNCHECKED_BYTES = 50_000_000
"""The number of expanded bytes from which the expansion is limited."""

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""The characters that `surrogateescape` decodes invalid bytes to; valid UTF-8 never has them."""


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """Open a path for reading bytes; ``-`` is standard input.

    Raises:
        NotFound: there is no such file.
        NotPermitted: the file may not be read.
    """
    if file == "-":
        if sys.stdin is None:
            raise NotFound("there is no standard input")
        yield sys.stdin.buffer
        return
    try:
        binary = Path(file).open("rb")  # noqa: SIM115 - closed below
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        raise NotFound(f"there is no file {scalars.shown(file)}") from None
    except PermissionError:
        raise NotPermitted(f"the file {scalars.shown(file)} may not be read") from None
    except OSError as error:
        reason = error.strerror
        raise NotFound(f"the file {scalars.shown(file)} cannot be opened: {reason}") from None
    with binary:
        yield binary


class RawRow(NamedTuple):
    """An unparsed row of a file.

    Attributes:
        line: the number of its first line, from 1.
        row: its columns and values; its text or cells if it cannot be read.
        size: its length in characters.
        error: the reason why it cannot be read, or None.
    """

    line: int
    row: Any
    size: int
    error: BadData | None = None


def read_rows(columns: rows.Columns, binary: BinaryIO) -> Iterator[RawRow]:
    """Yield the rows of a stream.

    Raises:
        BadData: the rest of the stream cannot be read; the message names the line.
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
    plain = _LimitedGzip(binary) if is_gzip else binary
    return io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="")


class _LimitedGzip(gzip.GzipFile):
    """A gzip stream with a limited expansion."""

    def __init__(self, binary: BinaryIO) -> None:
        self._compressed = _CountingReader(binary)
        super().__init__(fileobj=cast("BinaryIO", self._compressed))

    def read1(self, size: int = -1) -> bytes:
        """Return the next expanded bytes.

        Raises:
            BadGzipFile: the data expands more than 200 times.
        """
        expanded = super().read1(size)
        limit = max(UNCHECKED_BYTES, MAX_EXPANSION * self._compressed.size)
        if self.tell() > limit:
            raise gzip.BadGzipFile(f"it expands more than {MAX_EXPANSION} times")
        return expanded


class _CountingReader:
    """A stream that counts the bytes read from it."""

    def __init__(self, binary: BinaryIO) -> None:
        self._binary = binary
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._binary.read(size)
        self.size += len(data)
        return data


class _Lines:
    """The lines of a text, with line numbers and a limit for the length of a row.

    Attributes:
        number: the number of the last line read, from 1.
        first: the number of the current row's first line.
        error: the first error of the current row, or None.
    """

    def __init__(self, text: TextIO) -> None:
        self.number = 0
        self.error: BadData | None = None
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
            raise BadData(f"line {self.first}: longer than {MAX_ROW_CHARACTERS:,} characters")
        if not line.isascii() and _NOT_UTF8.search(line):
            self.error = BadData("not UTF-8")
        return line

    def begin_row(self) -> None:
        """Start a new row with the next line."""
        self.first, self._left, self.error = self.number + 1, MAX_ROW_CHARACTERS, None

    def end_row(self, row: Any, error: BadData | None = None) -> RawRow:
        """Return the current row with its first error, and start a new row."""
        size = MAX_ROW_CHARACTERS - self._left
        raw = RawRow(self.first, row, size, self.error or error)
        self.begin_row()
        return raw

    def is_json(self) -> bool:
        """Return whether the text is JSON Lines: no CSV header begins with a brace."""
        while (line := self._text.readline(self._left + 1)).isspace():
            self.number += 1
        self._peeked = line
        self.begin_row()
        return line.lstrip().startswith("{")


def _json_rows(lines: _Lines) -> Iterator[RawRow]:
    for line in lines:
        if line.strip():
            yield _json_row(lines, line)
        lines.begin_row()


def _json_row(lines: _Lines, line: str) -> RawRow:
    try:
        row = json.loads(line, object_pairs_hook=_without_repeats, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        # Without the position, because its line number always is 1.
        message = getattr(error, "msg", error)
        return lines.end_row(line, BadData(f"not JSON: {message}"))
    return lines.end_row(row, None if isinstance(row, dict) else BadData("not a JSON object"))


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return row


def _csv_rows(columns: rows.Columns, lines: _Lines) -> Iterator[RawRow]:
    reader = csv.reader(lines, strict=True)
    header = _header(columns, next(reader, []), lines)
    lists = [name for name in header if columns[name].many]
    lines.begin_row()
    for cells in reader:
        if not cells:
            lines.begin_row()
            continue
        if len(cells) != len(header):
            message = f"{len(cells)} cells under {len(header)} columns"
            yield lines.end_row(cells, BadData(message))
            continue
        row: dict[str, object] = dict(zip(header, cells, strict=True))
        for name in lists:
            row[name] = str(row[name]).split(scalars.LIST_SEPARATOR) if row[name] else ""
        yield lines.end_row(row)


def _header(columns: rows.Columns, header: list[str], lines: _Lines) -> list[str]:
    where = f"line {lines.first}"
    if lines.error:
        raise BadData(f"{where}: {lines.error}")
    if not header:
        raise BadData(f"{where}: there is no header")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise BadData(f"{where}: column {scalars.shown(repeated[0])} stands there twice")
    try:
        rows.check_names(columns, header)
    except InvalidValue as error:
        raise BadData(f"{where}: {error}") from error
    return header
