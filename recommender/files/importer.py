"""Importing users, videos, follows and events from files.

Rows are read one after another and written in batches, each in a transaction of its own, so that
memory does not grow with the file.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.bulk import uncollected
from recommender.database.planner_statistics import analyze
from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue, NotPermitted, RecommenderError
from recommender.files.batches import (
    KINDS,
    Batch,
    Entry,
    Kind,
    Refused,
    Share,
    batches_ahead,
    line_of,
    raise_first,
    read_batches,
    take,
)
from recommender.files.reader import opened
from recommender.files.workers import can_fork, made_apart
from recommender.formats import scalars
from recommender.ingest.values import Applied, Counts
from recommender.logs import LOGGER, log
from recommender.settings import Settings

MANY = 1_000
"""New rows of an import after which PostgreSQL's statistics are looked at."""

MOST_JOBS = 16


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


class Part(NamedTuple):
    """What was written of a stretch of a file, or of one share of it.

    Attributes:
        last: the line that the stretch's last row begins at.
        position: how many bytes of the file were read by then.
        read: how many rows it had.
        counts: what they did.
        refused: those that were left out, or for which nothing was written, with the reason.
        seconds: how long it took.
    """

    last: int
    position: int
    read: int
    counts: Counts
    refused: list[Refused]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Import:
    """What is imported, and how."""

    engine: Engine
    kind: Kind
    file: str
    settings: Settings
    skip: bool
    dry_run: bool
    jobs: int

    def apart(self) -> None:
        """Let a fork leave this process's connections alone, and what is garbage to its counts."""
        gc.disable()
        self.engine.dispose(close=False)


def import_file(
    engine: Engine,
    kind: str,
    file: str,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    errors: str | None = None,
    dry_run: bool = False,
    jobs: int = 1,
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
        jobs: how many processes import, 1 to 16, each the events of its share of the users: on
            PostgreSQL only, and from a file, which each of them reads. They are forks with
            connections of their own; beside other threads, or where there is no fork, one process
            does it all, and says so in the log.
        progress: called after each batch with the rows read in it and the bytes read so far.
        settings: those of the environment where None.

    Raises:
        InvalidValue: there is no such kind, or it cannot be imported by so many processes.
        NotFound: there is no such file.
        NotPermitted: the file may not be read, or that of the errors not be made, as where it is
            there already.
        BadData: a line is not in the format; its batch is not written, those before it are, and
            the message names the line and says how far the import came.
        RecommenderError: a process was ended; the message says how far the import came.
    """
    if kind not in KINDS:
        raise InvalidValue(f"kind: {scalars.shown(kind)} is not one of {', '.join(KINDS)}")
    if on_error not in {"stop", "skip"}:
        raise InvalidValue(f"on_error: {scalars.shown(on_error)} is neither stop nor skip")
    settings = settings or Settings.from_environment()
    jobs = _possible_jobs(jobs, engine, kind, file)
    how = _Import(engine, KINDS[kind], file, settings, on_error == "skip", dry_run, jobs)
    started = time.monotonic()
    counts, read, rejected, last_in = Counts(), 0, 0, 0
    with _rejects(errors) as reject, _parts(how) as parts:
        try:
            for part in parts:
                raise_first([] if how.skip else part.refused)
                for refused in part.refused:
                    reject(*refused)
                counts, read = counts + part.counts, read + part.read
                rejected, last_in = rejected + len(part.refused), part.last
                log(logging.DEBUG, f"import {kind} batch", rows=part.read, seconds=part.seconds)
                if progress:
                    progress(part.read, part.position)
        except RecommenderError as error:
            raise type(error)(f"{file}: {error}; {_how_far(how, last_in)}") from error
    if counts.inserted >= MANY and not dry_run:
        analyze(engine, settings)
    done = {**asdict(counts), "rejected": rejected, "seconds": round(time.monotonic() - started, 3)}
    log(logging.INFO, f"import {kind}", read=read, **done)
    return ImportReport(kind, file, read, **done)


def _possible_jobs(jobs: int, engine: Engine, kind: str, file: str) -> int:
    """As many as asked for, or one where this process cannot be forked."""
    if isinstance(jobs, bool) or not isinstance(jobs, int):
        raise InvalidValue(f"jobs: {scalars.shown(jobs)} is not a whole number")
    if not 1 <= jobs <= MOST_JOBS:
        raise InvalidValue(f"jobs: {jobs} is not between 1 and {MOST_JOBS}")
    if jobs == 1:
        return 1
    if kind != "events":
        raise InvalidValue("jobs: only events are imported by more processes than one")
    if engine.dialect.name == "sqlite":
        raise InvalidValue("jobs: SQLite has one writer at a time: only PostgreSQL takes more")
    if file == "-" or Path(file).is_fifo():
        raise InvalidValue("jobs: each process reads the file itself, and a pipe can be read once")
    if not can_fork():
        LOGGER.warning("import %s by one process: this one has other threads, or no fork", kind)
        return 1
    with opened(file):
        return jobs


def _how_far(how: _Import, last_in: int) -> str:
    if how.jobs == 1 or how.dry_run:
        is_in = last_in and not how.dry_run
        return f"lines 1 to {last_in} are in" if is_in else "nothing was imported"
    known = f"lines 1 to {last_in} are in, later ones may be" if last_in else "some may be in"
    return f"{known}, and importing them again is safe"


@contextmanager
def _parts(how: _Import) -> Iterator[Iterator[Part]]:
    """The file, written part by part: here, or each by as many processes as there are shares."""
    with ExitStack() as stack:
        if how.jobs == 1:
            binary = stack.enter_context(opened(how.file))
            batches = batches_ahead(how.kind, binary, how.settings.batch_size)
            yield _written(how, stack.enter_context(closing(batches)))
            return
        shares = [
            stack.enter_context(made_apart(_share_written(how, Share(n, how.jobs)), how.apart))
            for n in range(how.jobs)
        ]
        yield map(_together, zip_longest(*shares))


def _share_written(how: _Import, share: Share) -> Iterator[Part]:
    most = how.settings.batch_size * share.of
    with opened(how.file) as binary:
        yield from _written(how, read_batches(how.kind, binary, most, share))


def _together(shares: Iterable[Part | None]) -> Part:
    """One part of the shares of a stretch; one is missing where the file grew meanwhile."""
    parts = [part for part in shares if part]
    return Part(
        last=min(part.last for part in parts),
        position=min(part.position for part in parts),
        read=sum(part.read for part in parts),
        counts=sum((part.counts for part in parts), Counts()),
        refused=sorted(chain(*(part.refused for part in parts)), key=line_of),
        seconds=max(part.seconds for part in parts),
    )


def _written(how: _Import, stretches: Iterable[Batch]) -> Iterator[Part]:
    """Write one stretch of a file after another; the last is that which stops the import."""
    for entries, position in stretches:
        begun = time.monotonic()
        own = [entry for entry in entries if entry.parsed is not None or entry.error]
        counts, refused, rows = Counts(), list[Refused](), iter(own)
        while batch := take(rows, how.settings.batch_size):
            written, left_out = _write(how, batch)
            counts, refused = counts + written, refused + left_out
            if refused and not how.skip:
                break
        took = time.monotonic() - begun
        yield Part(entries[-1].line, position, len(own), counts, refused, took)
        if refused and not how.skip:
            return


def _write(how: _Import, batch: Sequence[Entry]) -> tuple[Counts, list[Refused]]:
    """Write the good rows of a batch, and give back the bad ones in the order of their lines.

    Nothing is written where there is one and they are not to be skipped.
    """
    bad = [(entry, entry.error) for entry in batch if entry.error]
    if bad and not how.skip:
        return Counts(), bad
    good = [entry for entry in batch if not entry.error]

    def write(session: Session) -> Applied:
        applied = how.kind.apply(session, [entry.parsed for entry in good])
        if how.dry_run or (applied.rejected and not how.skip):
            session.rollback()
        return applied

    with uncollected():
        applied = run_transaction(how.engine, write, settings=how.settings)
    bad += [(good[index], error) for index, error in applied.rejected.items()]
    return applied.counts, sorted(bad, key=line_of)


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
            f"the file {scalars.shown(path)} may not be written: {error.strerror}"
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as text:

        def reject(entry: Entry, error: RecommenderError) -> None:
            kept = {"line": entry.line, "error": str(error), "row": entry.row}
            text.write(json.dumps(kept, ensure_ascii=False, default=str) + "\n")

        yield reject
