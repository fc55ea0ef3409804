"""Read the rows of interchange files in parsed batches: all rows, or one share of the users."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, repeat, takewhile
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from sqlalchemy.orm import Session

from recommender.errors import BadData, InvalidValue, RecommenderError
from recommender.files.file_format import FileFormat
from recommender.files.layout import Layout
from recommender.files.reader import ARCHIVE_KEYS, opened, read_rows
from recommender.files.workers import made_ahead
from recommender.formats import rows, scalars
from recommender.ingest.blocks import apply_blocks
from recommender.ingest.candidates import apply_candidates
from recommender.ingest.embeddings import apply_embeddings
from recommender.ingest.events import apply_events
from recommender.ingest.follows import apply_follows
from recommender.ingest.mutes import apply_mutes
from recommender.ingest.users import apply_users
from recommender.ingest.values import Counts
from recommender.ingest.videos import apply_videos

FIRST_BATCH_ROWS = 1_000
"""The number of rows of the first batch; each later batch has twice as many, up to the limit."""

MAX_BATCH_CHARACTERS = 4_000_000
"""The number of characters after which a batch ends, to bound the memory for long rows."""


@dataclass(frozen=True, slots=True)
class RowKind:
    """A kind of row: its name, its columns, and the function that writes a batch.

    `muted_prefix` is a prefix before the keys of muted creators. `keeps_rows` says whether good
    rows are also kept unparsed. Otherwise the process that reads ahead need not send them.
    """

    name: str
    columns: rows.Columns
    apply: Callable[[Session, Sequence[Any]], Counts]
    muted_prefix: str = ""
    keeps_rows: bool = False

    def parse(self, row: Mapping[str, object]) -> dict[str, Any]:
        """Return a row of a file with all values parsed, and with an id."""
        parsed = rows.parse_row(self.columns, row)
        if "id" not in parsed and "id" in self.columns:
            parsed["id"] = rows.event_id(parsed)
        if self.muted_prefix and parsed["kind"] == "creator":
            prefixed = partial(_prefixed_key, self.muted_prefix)
            parsed["value"] = scalars.parse_named("value", prefixed, parsed["value"])
        return parsed

    def with_creator_prefix(self, prefix: str) -> RowKind:
        """Return the kind with a prefix before the key of every creator.

        Raises:
            InvalidValue: rows of this kind name no creator, or the prefix is empty or too long.
        """
        scalars.parse_named("creator_prefix", scalars.label, prefix)
        if self.name == "mutes":
            return replace(self, muted_prefix=prefix)
        if "creator" not in self.columns:
            raise InvalidValue("creator_prefix: only videos, follows and mutes name creators")
        creator = replace(self.columns["creator"], parse=partial(_prefixed_key, prefix))
        return replace(self, columns={**self.columns, "creator": creator})


def _prefixed_key(prefix: str, value: object) -> str:
    return scalars.key(prefix + scalars.key(value))


ROW_KINDS: Mapping[str, RowKind] = {
    "users": RowKind("users", rows.USER_COLUMNS, apply_users),
    "videos": RowKind("videos", rows.VIDEO_COLUMNS, apply_videos),
    "follows": RowKind("follows", rows.FOLLOW_COLUMNS, apply_follows),
    "mutes": RowKind("mutes", rows.MUTE_COLUMNS, apply_mutes),
    "blocks": RowKind("blocks", rows.BLOCK_COLUMNS, apply_blocks),
    "events": RowKind("events", rows.EVENT_COLUMNS, apply_events),
    "candidates": RowKind("candidates", rows.CANDIDATE_COLUMNS, apply_candidates),
    "embeddings": RowKind("embeddings", rows.EMBEDDING_COLUMNS, apply_embeddings),
}


class FileRow(NamedTuple):
    """A row of a file.

    Attributes:
        line: the number of its first line, from 1; of its entry in a JSON array.
        row: the row before it was parsed; None if it is not kept or belongs to another share.
        size: its length in characters.
        parsed: the parsed row; None if it is bad or belongs to another share.
        error: the reason why it is bad, or None.
    """

    line: int
    row: object
    size: int
    parsed: dict[str, Any] | None
    error: RecommenderError | None


class Batch(NamedTuple):
    """The rows of one transaction.

    Attributes:
        rows: the rows, good and bad.
        position: the number of bytes of the file read by then.
        cut_times: the number of times in the rows that were finer than a microsecond.
    """

    rows: list[FileRow]
    position: int
    cut_times: int


RejectedRow = tuple[FileRow, RecommenderError]
"""A bad row and the reason."""


class UserShare(NamedTuple):
    """One of `of` shares of the users, about equally large; `number` says which, from 0."""

    number: int
    of: int

    def has(self, row: object) -> bool:
        """Return whether a row belongs to the share; a row without a user belongs to one, too."""
        user = row.get("user") if isinstance(row, dict) else None
        written = str(user) if isinstance(user, str | int) else ""
        return crc32(written.encode(errors="surrogatepass")) % self.of == self.number


ALL_USERS = UserShare(0, 1)


def read_file(kind: str, file: str, limit: int) -> Generator[Batch, None, None]:
    """Yield the batches of a file.

    Args:
        kind: a key of `ROW_KINDS`.
        file: a path.
        limit: the number of rows per batch at most.

    Raises:
        NotFound: there is no such file.
        NotPermitted: the file may not be read.
        BadData: a row is not in the format; the message names the file and the line.
    """
    with opened(file) as binary, closing(batches_ahead(ROW_KINDS[kind], binary, limit)) as batches:
        try:
            for batch in batches:
                raise_first([(row, row.error) for row in batch.rows if row.error])
                yield batch
        except BadData as error:
            raise BadData(f"{file}: {error}") from error


def batches_ahead(
    kind: RowKind, binary: BinaryIO, limit: int, form: FileFormat | None = None
) -> Generator[Batch, None, None]:
    """Yield the batches of a file; another process reads ahead if the file is long."""
    # The first batches are small, so that the writer need not wait for a full batch at the start.
    growing = takewhile(limit.__gt__, (FIRST_BATCH_ROWS << doubled for doubled in count()))
    batches = _read(kind, binary, chain(growing, repeat(limit)), form)
    if not (first := next(batches, None)):
        return
    is_long = len(first.rows) == min(FIRST_BATCH_ROWS, limit)
    with made_ahead(batches) if is_long else nullcontext(batches) as later_batches:
        yield first
        yield from later_batches


def read_batches(
    kind: RowKind, binary: BinaryIO, limit: int, share: UserShare, form: FileFormat | None = None
) -> Iterator[Batch]:
    """Yield the batches of a file, read by this process; rows of other shares stay unparsed."""
    return _read(kind, binary, repeat(limit), form, share)


def _read(
    kind: RowKind,
    binary: BinaryIO,
    limits: Iterable[int],
    form: FileFormat | None,
    share: UserShare = ALL_USERS,
) -> Iterator[Batch]:
    layout = Layout(kind.columns, form)
    file_rows = parsed_rows(kind, binary, share, layout)
    for limit in limits:
        cut_before = layout.times.cut
        if not (batch := take(file_rows, limit)):
            return
        position = binary.tell() if binary.seekable() else 0
        yield Batch(batch, position, layout.times.cut - cut_before)


def take(file_rows: Iterator[FileRow], limit: int) -> list[FileRow]:
    """Return the next rows: at most `limit`, fewer if they are long."""
    batch: list[FileRow] = []
    characters_left = MAX_BATCH_CHARACTERS
    while len(batch) < limit and characters_left > 0 and (row := next(file_rows, None)):
        batch.append(row)
        characters_left -= row.size
    return batch


def parsed_rows(
    kind: RowKind,
    binary: BinaryIO,
    share: UserShare = ALL_USERS,
    layout: Layout | None = None,
) -> Iterator[FileRow]:
    """Yield the rows of one kind that a file has."""
    layout = layout or Layout(kind.columns)
    kind = replace(kind, columns=layout.columns)
    for line, row, size, unreadable in read_rows(layout, binary):
        if not unreadable and row.keys() == ARCHIVE_KEYS:
            if row["kind"] != kind.name:
                continue
            row = row["row"]  # noqa: PLW2901 - from here on like a row outside an archive
        if share.of > 1 and not share.has(row):
            yield FileRow(line, None, size, None, None)
        elif unreadable:
            yield FileRow(line, row, size, None, unreadable)
        else:
            yield _parsed(kind, layout, line, row, size)


def _parsed(kind: RowKind, layout: Layout, line: int, row: Any, size: int) -> FileRow:
    try:
        return FileRow(line, row if kind.keeps_rows else None, size, kind.parse(row), None)
    except rows.ColumnError as error:
        return FileRow(line, row, size, None, InvalidValue(f"{error}{layout.advice(row)}"))
    except InvalidValue as error:
        advice = layout.advice_on_word(row, str(error))
        return FileRow(line, row, size, None, InvalidValue(f"{error}{advice}"))


def line_of(rejected: RejectedRow) -> int:
    """Return the number of a bad row's first line."""
    return rejected[0].line


def raise_first(rejected: Sequence[RejectedRow]) -> None:
    """Raise the error of the bad row with the lowest line, if there are bad rows."""
    if rejected:
        row, error = min(rejected, key=line_of)
        raise BadData(f"line {row.line}: {error}") from error
