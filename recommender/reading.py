"""Reading rows from files: CSV or JSON Lines, plain or gzip, told by content and never by name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from recommender import fields
from recommender.errors import BadData, InvalidValue, NotFound, NotPermitted

LONGEST_LINE = 1_000_000
"""Characters of one row at most: what a video with every list full takes, several times over."""

GZIP_MAGIC = b"\x1f\x8b"

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are not UTF-8, and no UTF-8 decodes to."""

Row = Mapping[str, object]


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """The bytes of a path, or of standard input where it is ``-``.

    Raises:
        NotFound: there is no such file.
        NotPermitted: the file may not be read.
    """
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


def read_rows(columns: fields.Columns, binary: BinaryIO) -> Iterator[tuple[int, Row | BadData]]:
    """The rows of a stream, unparsed, each with the number of its first line.

    A row that cannot be read is an error in its place, where those after it can be.

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


def _json_rows(lines: _Lines) -> Iterator[tuple[int, Row | BadData]]:
    for line in lines:
        lines.begin_row()
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = getattr(error, "msg", error)  # without the position, which counts lines anew
            yield lines.number, BadData(f"not JSON: {said}")
            continue
        yield lines.number, row if isinstance(row, dict) else BadData("not a JSON object")


def _csv_rows(columns: fields.Columns, lines: _Lines) -> Iterator[tuple[int, Row | BadData]]:
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
            yield first, BadData(f"{len(cells)} cells under {len(header)} columns")
            continue
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
