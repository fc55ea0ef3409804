"""Read rows from CSV, JSON Lines, a JSON array or one of NumPy; the content decides which."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

from recommender.errors import BadData, InvalidValue, NotFound, NotPermitted
from recommender.files.content import SNIFFED_BYTES, wrong_content
from recommender.files.json_array import JsonArray
from recommender.files.layout import Layout
from recommender.files.numpy_array import MAGIC, array_rows
from recommender.formats import scalars

ARCHIVE_KEYS = {"kind", "row"}
"""The keys of a line of a person's archive (`archive.export_user`)."""

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
    except IsADirectoryError:
        advice = "import the files in it one by one"
        raise NotFound(f"{scalars.shown(file)} is a folder, not a file: {advice}") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):
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
        line: the number of its first line, from 1; of its entry in a JSON array.
        row: its columns and values; its text or cells if it cannot be read.
        size: its length in characters.
        error: the reason why it cannot be read, or None.
    """

    line: int
    row: Any
    size: int
    error: BadData | None = None


def read_rows(layout: Layout, binary: BinaryIO) -> Iterator[RawRow]:
    """Yield the rows of a stream.

    Raises:
        BadData: the rest of the stream cannot be read; the message names the line.
    """
    if not isinstance(binary, io.BufferedReader):
        binary = io.BufferedReader(cast("io.RawIOBase", binary))
    is_gzip = binary.peek(2)[:2] == GZIP_MAGIC
    plain: Any = _LimitedGzip(binary) if is_gzip else binary
    text = io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines = _Lines(text)
    try:
        if plain.peek(len(MAGIC))[: len(MAGIC)] == MAGIC:
            yield from _numpy_rows(layout, plain)
            return
        if wrong := wrong_content(plain.peek(SNIFFED_BYTES)[:SNIFFED_BYTES]):
            raise BadData(wrong)
        first = lines.first_character()
        if not first and _is_named_json_lines(binary):
            return  # an export without rows
        yield from _READERS[first](layout, lines)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadData(f"line {lines.number + 1}: the gzip data is broken: {error}") from error
    except csv.Error as error:
        raise BadData(f"line {lines.first}: not CSV: {error}") from error
    finally:
        if not text.closed:
            text.detach()  # the stream is the caller's to close


def _numpy_rows(layout: Layout, binary: BinaryIO) -> Iterator[RawRow]:
    for number, (row, size) in enumerate(array_rows(binary, layout.form.ids), start=1):
        yield RawRow(number, layout.renamed(row) if layout.maps_rows else row, size)


def _is_named_json_lines(binary: BinaryIO) -> bool:
    name = getattr(binary, "name", "")
    return isinstance(name, str) and name.removesuffix(".gz").endswith(".jsonl")


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
            self.error = _not_utf8()
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

    def first_character(self) -> str:
        """Return the first character that is no space, or "" without one."""
        while (line := self._text.readline(self._left + 1)).isspace():
            self.number += 1
        self._peeked = line
        self.begin_row()
        return line.lstrip()[:1]

    def peek(self) -> str:
        """Return the next line, once `first_character` was called, without moving on."""
        return self._peeked or ""

    def read(self, size: int) -> str:
        """Return the next characters, for a reader that does not go by lines."""
        text, self._peeked = self._peeked or self._text.read(size), None
        return text


def _array_rows(layout: Layout, lines: _Lines) -> Iterator[RawRow]:
    array = JsonArray(lines.read, MAX_ROW_CHARACTERS)
    try:
        for text in array:
            lines.number = array.number
            is_bad = not text.isascii() and _NOT_UTF8.search(text)
            row, error = (text, _not_utf8()) if is_bad else _json_row(layout, text)
            yield RawRow(array.number, row, len(text), error)
    except BadData as error:
        raise BadData(f"line {array.number}: {error}") from error


def _json_rows(layout: Layout, lines: _Lines) -> Iterator[RawRow]:
    for line in lines:
        if line.strip():
            yield lines.end_row(*_json_row(layout, line))
        lines.begin_row()


def _json_row(layout: Layout, text: str) -> tuple[Any, BadData | None]:
    """Return a row, or its text and the reason why it is bad."""
    try:
        row = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        # Without the position, because its line number always is 1.
        is_cut = getattr(error, "pos", 0) >= len(text.rstrip())
        advice = "; a row is one line, or an entry of a JSON array" if is_cut else ""
        return text, BadData(f"not JSON: {getattr(error, 'msg', error)}{advice}")
    if not isinstance(row, dict):
        return row, BadData("not a JSON object")
    if not layout.maps_rows or row.keys() == ARCHIVE_KEYS:
        return row, None
    try:
        return layout.renamed(row), None
    except InvalidValue as error:
        return row, BadData(str(error))


def _not_utf8() -> BadData:
    return BadData("not UTF-8: save the file in UTF-8")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return row


def _csv_rows(layout: Layout, lines: _Lines) -> Iterator[RawRow]:
    delimiter = layout.delimiter(lines.peek())
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    header = next(reader, [])
    row_of = _row_maker(layout, header, lines)
    lines.begin_row()
    for cells in reader:
        if not cells:
            lines.begin_row()
            continue
        if len(cells) != len(header):
            message = f"{len(cells)} cells under {len(header)} columns"
            in_list = delimiter == layout.form.list_separator and len(cells) > len(header)
            advice = "; quote lists, or give another --list-separator" if in_list else ""
            yield lines.end_row(cells, BadData(message + advice))
            continue
        try:
            yield lines.end_row(row_of(cells))
        except InvalidValue as error:
            yield lines.end_row(cells, BadData(str(error)))


def _row_maker(
    layout: Layout, header: list[str], lines: _Lines
) -> Callable[[list[str]], dict[str, object]]:
    """Return the function that makes a row of its cells.

    Raises:
        BadData: the header is not valid.
    """
    place = f"line {lines.first}"
    if lines.error:
        raise BadData(f"{place}: {lines.error}")
    if not header:
        raise BadData(f"{place}: there is no header")
    try:
        picks = layout.picks(header)
    except InvalidValue as error:
        raise BadData(f"{place}: {error}") from error
    lists = [name for name, _ in picks if layout.columns[name].many]

    def plain(cells: list[str]) -> dict[str, object]:
        return dict(zip(header, cells, strict=True))

    def with_lists(cells: list[str]) -> dict[str, object]:
        row: dict[str, Any] = {name: cells[index] for name, index in picks}
        return row | {name: layout.cell(name, row[name]) for name in lists}

    def mapped(cells: list[str]) -> dict[str, object]:
        return layout.completed(with_lists(cells))

    if layout.maps_rows:
        return mapped
    return with_lists if lists else plain


_READERS: defaultdict[str, Callable[[Layout, _Lines], Iterator[RawRow]]] = defaultdict(
    lambda: _csv_rows, {"{": _json_rows, "[": _array_rows}
)
"""The reader by the first character of a file: no header of CSV begins with a bracket."""
