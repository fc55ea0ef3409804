"""Reading rows from files: CSV or JSON Lines, plain or gzip, told by content and never by name."""

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

LONGEST_LINE = 1_000_000
"""Characters of one row at most: what a video with every list full takes, several times over."""

GZIP_MAGIC = b"\x1f\x8b"

MOST_EXPANSION = 200
"""Times that gzip data may grow, past its first 50 MB: rows grow some 10 times, a bomb 1,000."""

_FREE_EXPANSION = 50_000_000

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are not UTF-8, and no UTF-8 decodes to."""


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """The bytes of a path, or of standard input where it is ``-``.

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


class Read(NamedTuple):
    """A row as it stands in a file.

    Attributes:
        line: the number of its first line, from 1.
        row: its columns and values, unparsed; where it cannot be read, its text or cells.
        size: its length in characters.
        error: what is wrong where it cannot be read.
    """

    line: int
    row: Any
    size: int
    error: BadData | None = None


def read_rows(columns: rows.Columns, binary: BinaryIO) -> Iterator[Read]:
    """The rows of a stream, one after another.

    Raises:
        BadData: nothing can be read from here on; the message names the line.
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
    plain = _Expanded(binary) if is_gzip else binary
    return io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Expanded(gzip.GzipFile):
    """What gzip data stands for, unless that is absurdly much."""

    def __init__(self, binary: BinaryIO) -> None:
        self._compressed = _Counted(binary)
        super().__init__(fileobj=cast("BinaryIO", self._compressed))

    def read1(self, size: int = -1) -> bytes:
        """Some bytes of it.

        Raises:
            BadGzipFile: there are more than 200 times as many as were compressed.
        """
        expanded = super().read1(size)
        most = max(_FREE_EXPANSION, MOST_EXPANSION * self._compressed.size)
        if self.tell() > most:
            raise gzip.BadGzipFile(f"it expands more than {MOST_EXPANSION} times")
        return expanded


class _Counted:
    """A stream that knows how many bytes were read from it."""

    def __init__(self, binary: BinaryIO) -> None:
        self._binary = binary
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        found = self._binary.read(size)
        self.size += len(found)
        return found


class _Lines:
    """The lines of a text, counted from 1 as they are read, no row of them longer than is sane.

    Attributes:
        number: the line read last.
        first: the first line of the row that is being read.
        error: what is wrong with that row so far.
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
            raise BadData(f"line {self.first}: longer than {LONGEST_LINE:,} characters")
        if not line.isascii() and _NOT_UTF8.search(line):
            self.error = BadData("not UTF-8")
        return line

    def begin_row(self) -> None:
        """Let the next line be the first of a row."""
        self.first, self._left, self.error = self.number + 1, LONGEST_LINE, None

    def read(self, row: Any, error: BadData | None = None) -> Read:
        """The row that was read, with what was noticed on the way; the next line begins another."""
        read = Read(self.first, row, LONGEST_LINE - self._left, self.error or error)
        self.begin_row()
        return read

    def is_json(self) -> bool:
        """Whether the text is JSON Lines: no CSV header begins with a brace."""
        while (line := self._text.readline(self._left + 1)).isspace():
            self.number += 1
        self._peeked = line
        self.begin_row()
        return line.lstrip().startswith("{")


def _json_rows(lines: _Lines) -> Iterator[Read]:
    for line in lines:
        if line.strip():
            yield _json_row(lines, line)
        lines.begin_row()


def _json_row(lines: _Lines, line: str) -> Read:
    try:
        row = json.loads(line, object_pairs_hook=_without_repeats, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        said = getattr(error, "msg", error)  # without the position, which counts lines anew
        return lines.read(line, BadData(f"not JSON: {said}"))
    return lines.read(row, None if isinstance(row, dict) else BadData("not a JSON object"))


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return row


def _csv_rows(columns: rows.Columns, lines: _Lines) -> Iterator[Read]:
    reader = csv.reader(lines, strict=True)
    header = _header(columns, next(reader, []), lines)
    lists = [name for name in header if columns[name].many]
    lines.begin_row()
    for cells in reader:
        if not cells:
            lines.begin_row()
            continue
        if len(cells) != len(header):
            said = f"{len(cells)} cells under {len(header)} columns"
            yield lines.read(cells, BadData(said))
            continue
        row: dict[str, object] = dict(zip(header, cells, strict=True))
        for name in lists:
            row[name] = str(row[name]).split(scalars.LIST_SEPARATOR) if row[name] else ""
        yield lines.read(row)


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
