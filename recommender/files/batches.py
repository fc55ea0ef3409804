"""The rows of interchange files, parsed and in batches, all of them or one share of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain, count, repeat, takewhile
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from sqlalchemy.orm import Session

from recommender.errors import BadData, InvalidValue, RecommenderError
from recommender.files.reader import opened, read_rows
from recommender.files.workers import made_ahead
from recommender.formats import rows
from recommender.ingest.events import apply_events
from recommender.ingest.follows import apply_follows
from recommender.ingest.users import apply_users
from recommender.ingest.values import Applied
from recommender.ingest.videos import apply_videos

IN_ARCHIVE = {"kind", "row"}
"""What a line of a person's archive has (`archive.export_user`)."""

FIRST_BATCH = 1_000
"""Rows of the first batch that others are read ahead of; each has twice as many as the last."""

LONGEST_BATCH = 4_000_000
"""Characters of a batch at most, but for its last row, so that long rows do not fill the memory."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row: its name, its columns, and how many are written."""

    name: str
    columns: rows.Columns
    apply: Callable[[Session, Sequence[Any]], Applied]

    def parse(self, row: Mapping[str, object]) -> dict[str, Any]:
        """A row of a file with every value parsed."""
        return rows.parse_row(self.columns, row)


KINDS: Mapping[str, Kind] = {
    "users": Kind("users", rows.USER_COLUMNS, apply_users),
    "videos": Kind("videos", rows.VIDEO_COLUMNS, apply_videos),
    "follows": Kind("follows", rows.FOLLOW_COLUMNS, apply_follows),
    "events": Kind("events", rows.EVENT_COLUMNS, apply_events),
}


class Entry(NamedTuple):
    """A row of a file: where it begins, as it stands there, and parsed or what is wrong.

    One of another share is neither parsed nor wrong.
    """

    line: int
    row: object
    size: int
    parsed: dict[str, Any] | None
    error: RecommenderError | None


Batch = tuple[list[Entry], int]
"""What one transaction takes of a file, and how many of its bytes were read by then."""

Refused = tuple[Entry, RecommenderError]
"""A bad row and what is wrong with it."""


class Share(NamedTuple):
    """The rows of some users: which part of how many that are about alike."""

    number: int
    of: int

    def has(self, row: object) -> bool:
        """Whether a row is in it; one of no user is in some share as well."""
        user = row.get("user") if isinstance(row, dict) else None
        written = user if isinstance(user, str) else ""
        return crc32(written.encode(errors="surrogatepass")) % self.of == self.number


WHOLE = Share(0, 1)


def read_file(kind: str, file: str, most: int) -> Generator[Batch, None, None]:
    """The rows of a file, batch by batch, and how many of its bytes were read by then.

    Args:
        kind: a key of `KINDS`.
        file: a path.
        most: how many rows a batch has at most.

    Raises:
        NotFound: there is no such file.
        NotPermitted: the file may not be read.
        BadData: a row is not in the format; the message names the file and the line.
    """
    with opened(file) as binary, closing(batches_ahead(KINDS[kind], binary, most)) as batches:
        try:
            for batch, position in batches:
                raise_first([(entry, entry.error) for entry in batch if entry.error])
                yield batch, position
        except BadData as error:
            raise BadData(f"{file}: {error}") from error


def batches_ahead(kind: Kind, binary: BinaryIO, most: int) -> Generator[Batch, None, None]:
    """The batches of a file; those of a long one are read ahead from the second on.

    They grow from a small one, which is soon read, so that each is ready when it is wanted.
    """
    growing = takewhile(most.__gt__, (FIRST_BATCH << doubled for doubled in count()))
    batches = _read(kind, binary, chain(growing, repeat(most)))
    if not (first := next(batches, None)):
        return
    is_long = len(first[0]) == min(FIRST_BATCH, most)
    with made_ahead(batches) if is_long else nullcontext(batches) as others:
        yield first
        yield from others


def read_batches(kind: Kind, binary: BinaryIO, most: int, share: Share) -> Iterator[Batch]:
    """The batches of a file, made here and with the rows of other shares unparsed."""
    return _read(kind, binary, repeat(most), share)


def _read(
    kind: Kind, binary: BinaryIO, sizes: Iterable[int], share: Share = WHOLE
) -> Iterator[Batch]:
    entries = read_entries(kind, binary, share)
    for most in sizes:
        if not (batch := take(entries, most)):
            return
        yield batch, binary.tell() if binary.seekable() else 0


def take(entries: Iterator[Entry], most: int) -> list[Entry]:
    """The next entries, as many as one transaction takes: neither too many nor too long."""
    batch: list[Entry] = []
    left = LONGEST_BATCH
    while len(batch) < most and left > 0 and (entry := next(entries, None)):
        batch.append(entry)
        left -= entry.size
    return batch


def read_entries(kind: Kind, binary: BinaryIO, share: Share = WHOLE) -> Iterator[Entry]:
    """The rows of a kind that a file has, one after another."""
    for line, row, size, unreadable in read_rows(kind.columns, binary):
        if not unreadable and row.keys() == IN_ARCHIVE:
            if row["kind"] != kind.name:
                continue
            row = row["row"]  # noqa: PLW2901 - from here on as if it stood alone
        if share.of > 1 and not share.has(row):
            yield Entry(line, None, size, None, None)
        elif unreadable:
            yield Entry(line, row, size, None, unreadable)
        else:
            yield _entry(kind, line, row, size)


def _entry(kind: Kind, line: int, row: Any, size: int) -> Entry:
    try:
        return Entry(line, row, size, kind.parse(row), None)
    except InvalidValue as error:
        return Entry(line, row, size, None, error)


def line_of(refused: Refused) -> int:
    """The line that a bad row begins at."""
    return refused[0].line


def raise_first(bad: Sequence[Refused]) -> None:
    """Raise what is wrong with the first of some bad rows, if there are any."""
    if bad:
        entry, error = min(bad, key=line_of)
        raise BadData(f"line {entry.line}: {error}") from error
