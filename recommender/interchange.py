"""Importing users, videos, follows and events from files.

Rows are read one after another and written in batches, each in a transaction of its own, so that
memory does not grow with the file.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Literal, NamedTuple

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import fields
from recommender.ahead import made_ahead
from recommender.bulk import uncollected
from recommender.catalog import Applied, apply_follows, apply_users, apply_videos
from recommender.engine import run_transaction
from recommender.errors import BadData, InvalidValue, NotPermitted, RecommenderError
from recommender.interactions import apply_events
from recommender.logs import log
from recommender.planner import analyze
from recommender.reading import opened, read_rows
from recommender.settings import Settings
from recommender.values import Counts

IN_ARCHIVE = {"kind", "row"}
"""What a line of a person's archive has (`archive.export_user`)."""

LONGEST_BATCH = 4_000_000
"""Characters of a batch at most, but for its last row, so that long rows do not fill the memory."""

MANY = 1_000
"""New rows of an import after which PostgreSQL's statistics are looked at."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row: its name, its columns, and how many are written."""

    name: str
    columns: fields.Columns
    apply: Callable[[Session, Sequence[Any]], Applied]

    def parse(self, row: Mapping[str, object]) -> dict[str, Any]:
        """A row of a file with every value parsed."""
        return fields.parse_row(self.columns, row)


KINDS: Mapping[str, Kind] = {
    "users": Kind("users", fields.USER_COLUMNS, apply_users),
    "videos": Kind("videos", fields.VIDEO_COLUMNS, apply_videos),
    "follows": Kind("follows", fields.FOLLOW_COLUMNS, apply_follows),
    "events": Kind("events", fields.EVENT_COLUMNS, apply_events),
}


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did: rows read, inserted, updated, unchanged, rejected, and seconds.

    `too_old` counts events of a time that was pruned, which are left out and are no error.
    """

    kind: str
    file: str
    read: int
    inserted: int
    updated: int
    unchanged: int
    too_old: int
    rejected: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The report as `import` prints it."""
        return asdict(self)


class Entry(NamedTuple):
    """A row of a file: where it begins, as it stands there, and parsed or what is wrong."""

    line: int
    row: object
    size: int
    parsed: dict[str, Any] | None
    error: RecommenderError | None


Batch = tuple[list[Entry], int]
"""What one transaction takes of a file, and how many of its bytes were read by then."""


def import_file(
    engine: Engine,
    kind: str,
    file: str,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    errors: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
    settings: Settings | None = None,
) -> ImportReport:
    """Import a file in batches, each in a transaction of its own.

    Importing the same file again changes nothing that is in.

    Args:
        engine: a prepared engine.
        kind: ``users``, ``videos``, ``follows`` or ``events``.
        file: a path, or ``-`` for standard input. Of a person's archive (`export_user`), the rows
            of this kind.
        on_error: ``stop`` at the first bad row, or ``skip`` each and count it.
        errors: a new file for the skipped rows, as JSON Lines with line, error and row.
        dry_run: try each batch by itself and keep nothing, so that what clashes only across
            batches is not seen.
        progress: called after each batch with the rows read in it and the bytes read so far.
        settings: those of the environment where None.

    Raises:
        InvalidValue: there is no such kind.
        NotFound: there is no such file.
        NotPermitted: the file may not be read, or that of the errors not be made, as where it is
            there already.
        BadData: a line is not in the format; its batch is not written, those before it are, and
            the message names the line and says how far the import came.
    """
    if kind not in KINDS:
        raise InvalidValue(f"kind: {fields.shown(kind)} is not one of {', '.join(KINDS)}")
    if on_error not in {"stop", "skip"}:
        raise InvalidValue(f"on_error: {fields.shown(on_error)} is neither stop nor skip")
    settings = settings or Settings.from_environment()
    started = time.monotonic()
    counts, read, rejected, last_in = Counts(), 0, 0, 0
    with (
        opened(file) as binary,
        _rejects(errors) as reject,
        closing(_batches(KINDS[kind], binary, settings.batch_size)) as batches,
    ):
        try:
            for batch, position in batches:
                begun = time.monotonic()
                written, refused = _write(
                    engine, KINDS[kind], batch, settings, skip=on_error == "skip", dry_run=dry_run
                )
                for entry, error in refused:
                    reject(entry, error)
                counts, read = counts + written, read + len(batch)
                rejected, last_in = rejected + len(refused), batch[-1].line
                took = time.monotonic() - begun
                log(logging.DEBUG, f"import {kind} batch", rows=len(batch), seconds=took)
                if progress:
                    progress(len(batch), position)
        except RecommenderError as error:
            raise type(error)(f"{file}: {error}; {_how_far(0 if dry_run else last_in)}") from error
    if counts.inserted >= MANY and not dry_run:
        analyze(engine, settings)
    done = {**asdict(counts), "rejected": rejected, "seconds": round(time.monotonic() - started, 3)}
    log(logging.INFO, f"import {kind}", read=read, **done)
    return ImportReport(kind, file, read, **done)


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
    with opened(file) as binary, closing(_batches(KINDS[kind], binary, most)) as batches:
        try:
            for batch, position in batches:
                _raise_first([(entry, entry.error) for entry in batch if entry.error])
                yield batch, position
        except BadData as error:
            raise BadData(f"{file}: {error}") from error


def _how_far(last_in: int) -> str:
    return f"lines 1 to {last_in} are in" if last_in else "nothing was imported"


def _batches(kind: Kind, binary: BinaryIO, most: int) -> Generator[Batch, None, None]:
    """The batches of a file; those of a long one are read ahead from the second on."""
    batches = _read_batches(kind, binary, most)
    if not (first := next(batches, None)):
        return
    with made_ahead(batches) if len(first[0]) == most else nullcontext(batches) as others:
        yield first
        yield from others


def _read_batches(kind: Kind, binary: BinaryIO, most: int) -> Iterator[Batch]:
    entries = _entries(kind, binary)
    while batch := _batch(entries, most):
        yield batch, binary.tell() if binary.seekable() else 0


def _batch(entries: Iterator[Entry], most: int) -> list[Entry]:
    """The next entries, as many as one transaction takes: neither too many nor too long."""
    batch: list[Entry] = []
    left = LONGEST_BATCH
    while len(batch) < most and left > 0 and (entry := next(entries, None)):
        batch.append(entry)
        left -= entry.size
    return batch


def _entries(kind: Kind, binary: BinaryIO) -> Iterator[Entry]:
    for line, row, size, unreadable in read_rows(kind.columns, binary):
        if unreadable:
            yield Entry(line, row, size, None, unreadable)
            continue
        if row.keys() == IN_ARCHIVE:
            if row["kind"] != kind.name:
                continue
            row = row["row"]  # noqa: PLW2901 - from here on as if it stood alone
        try:
            yield Entry(line, row, size, kind.parse(row), None)
        except InvalidValue as error:
            yield Entry(line, row, size, None, error)


def _write(
    engine: Engine,
    kind: Kind,
    batch: Sequence[Entry],
    settings: Settings,
    *,
    skip: bool,
    dry_run: bool,
) -> tuple[Counts, list[tuple[Entry, RecommenderError]]]:
    """Write the good rows of a batch; the bad ones come back, or the first of them is raised."""
    bad = [(entry, entry.error) for entry in batch if entry.error]
    _raise_first([] if skip else bad)
    good = [entry for entry in batch if not entry.error]

    def write(session: Session) -> Applied:
        applied = kind.apply(session, [entry.parsed for entry in good])
        _raise_first([] if skip else [(good[i], applied.rejected[i]) for i in applied.rejected])
        if dry_run:
            session.rollback()
        return applied

    with uncollected():
        applied = run_transaction(engine, write, settings=settings)
    bad += [(good[index], error) for index, error in applied.rejected.items()]
    return applied.counts, sorted(bad, key=lambda each: each[0].line)


def _raise_first(bad: Sequence[tuple[Entry, RecommenderError]]) -> None:
    if bad:
        entry, error = min(bad, key=lambda each: each[0].line)
        raise BadData(f"line {entry.line}: {error}") from error


@contextmanager
def _rejects(path: str | None) -> Iterator[Callable[[Entry, RecommenderError], None]]:
    """A function that keeps a rejected row, in a file that only its owner may read."""
    if path is None:
        yield lambda _entry, _error: None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise NotPermitted(
            f"the file {fields.shown(path)} may not be written: {error.strerror}"
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as text:

        def reject(entry: Entry, error: RecommenderError) -> None:
            kept = {"line": entry.line, "error": str(error), "row": entry.row}
            text.write(json.dumps(kept, ensure_ascii=False, default=str) + "\n")

        yield reject
