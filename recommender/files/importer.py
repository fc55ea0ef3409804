"""Import users, videos, follows, mutes, blocks, events, candidates and embeddings from files.

Rows are written in batches, one transaction per batch, so memory does not grow with the file.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeAlias

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.planner_statistics import analyze
from recommender.database.transactions import (
    run_transaction,
    translate_errors,
    uncollected,
    writing,
)
from recommender.errors import (
    EventTooOld,
    InvalidValue,
    NotPermitted,
    RecommenderError,
    UnknownUser,
    UnknownVideo,
)
from recommender.files.batches import (
    ROW_KINDS,
    Batch,
    FileRow,
    RejectedRow,
    RowKind,
    UserShare,
    batches_ahead,
    line_of,
    raise_first,
    read_batches,
    take,
)
from recommender.files.file_format import FileFormat
from recommender.files.layout import Layout
from recommender.files.reader import opened
from recommender.files.workers import can_fork, made_apart
from recommender.formats import scalars
from recommender.formats.rows import FileKind
from recommender.formats.scalars import OnError
from recommender.ingest.values import Counts
from recommender.logs import LOGGER, log
from recommender.settings import Settings
from recommender.telemetry import traced

ANALYZED_ROWS = 1_000
"""The number of new rows from which an import checks PostgreSQL's planner statistics."""

MAX_JOBS = 16


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import: the numbers of rows, and the seconds it took.

    Every row read is counted once: inserted, updated, unchanged (stored already, or repeated),
    too old or rejected. The numbers do not depend on the size of a batch.

    `too_old` counts events before the horizon of `prune`. They are left out and are no error.
    `cut_times` counts times finer than a microsecond, whose further digits were cut off.
    """

    kind: str
    file: str
    read: int
    inserted: int
    updated: int
    unchanged: int
    too_old: int
    rejected: int
    cut_times: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Return the report as `import` prints it."""
        return asdict(self)


class Section(NamedTuple):
    """The result for a section of a file, or for one share of its rows.

    Attributes:
        last: the first line of the section's last row.
        position: the number of bytes of the file read by the end of the section.
        read: the number of rows.
        counts: the numbers of rows inserted, updated and so on.
        rejected: the bad rows and the reasons.
        cut_times: the number of times finer than a microsecond.
        seconds: the duration.
    """

    last: int
    position: int
    read: int
    counts: Counts
    rejected: list[RejectedRow]
    cut_times: int
    seconds: float


_Transact: TypeAlias = Callable[[Callable[[Session], Counts]], Counts]
"""Runs a function that writes a batch."""


@dataclass(frozen=True, slots=True)
class _Import:
    """The parameters of an import."""

    engine: Engine
    kind: RowKind
    file: str
    form: FileFormat | None
    settings: Settings
    skip: bool
    dry_run: bool
    jobs: int

    def begin_fork(self) -> None:
        """Disable the cyclic garbage collector, and let go of this process's connections."""
        gc.disable()
        self.engine.dispose(close=False)


@traced
def import_file(
    engine: Engine,
    kind: FileKind,
    file: str,
    *,
    form: FileFormat | None = None,
    on_error: OnError = "stop",
    errors: str | None = None,
    dry_run: bool = False,
    jobs: int = 1,
    creator_prefix: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    settings: Settings | None = None,
) -> ImportReport:
    """Import a file in batches, each in a transaction of its own.

    Importing a file again changes nothing.

    Args:
        engine: a prepared engine.
        kind: ``users``, ``videos``, ``follows``, ``mutes``, ``blocks``, ``events``,
            ``candidates`` or ``embeddings``.
        file: a path, or ``-`` for standard input. From a person's archive (`export_user`), only
            the rows of this kind are imported.
        form: the format options of a file that another program wrote; None is the plain format.
        on_error: ``stop`` at the first bad row, or ``skip`` and count bad rows.
        errors: a new file for the skipped rows, as JSON Lines with line, error and row.
        dry_run: write the whole file in one transaction and roll it back. Until then other writers
            of the same users wait; on SQLite, all writers.
        jobs: the number of importing processes, 1 to 16. More than one import events from a file
            into PostgreSQL only. Each process reads the file and writes the events of its share of
            the users. If this process cannot be forked, it imports alone and logs a warning.
        creator_prefix: a text before the key of every creator, for videos, follows and mutes.
            Creators are users. If users and creators are numbered separately, user 1 is not
            creator 1, but both would have the key ``1``. None for no prefix.
        progress: called after each batch with the rows read in it and the bytes read so far.
        settings: the settings; None reads them from the environment.

    Raises:
        InvalidValue: there is no such kind, the format names an unknown column, or several
            processes cannot import the file.
        NotFound: there is no such file.
        NotPermitted: the file may not be read, or the file of errors exists or may not be created.
        BadData: a row is not in the format. Its batch is not written, earlier batches are. The
            message names the line and the last imported line.
        RecommenderError: a process was killed; the message names the last imported line.
    """
    scalars.parse_named("kind", scalars.one_of(tuple(ROW_KINDS)), kind)
    scalars.parse_named("on_error", scalars.one_of(scalars.ON_ERROR), on_error)
    settings = settings or Settings.from_environment()
    row_kind = replace(ROW_KINDS[kind], keeps_rows=errors is not None)
    if creator_prefix is not None:
        row_kind = row_kind.with_creator_prefix(creator_prefix)
    jobs = _possible_jobs(jobs, engine, kind, file)
    if form is not None and not isinstance(form, FileFormat):
        raise InvalidValue(f"form: {scalars.shown(form)} is no FileFormat")
    Layout(row_kind.columns, form)  # checks the names of columns
    job = _Import(engine, row_kind, file, form, settings, on_error == "skip", dry_run, jobs)
    started = time.monotonic()
    counts, read, rejected, cut_times, last_line = Counts(), 0, 0, 0, 0
    with _error_file(errors) as write_error, _sections(job) as sections:
        try:
            for section in sections:
                raise_first([] if job.skip else section.rejected)
                for bad_row in section.rejected:
                    write_error(*bad_row)
                counts, read = counts + section.counts, read + section.read
                rejected, last_line = rejected + len(section.rejected), section.last
                seconds, cut_times = section.seconds, cut_times + section.cut_times
                log(logging.DEBUG, f"import {kind} batch", rows=section.read, seconds=seconds)
                if progress:
                    progress(section.read, section.position)
        except RecommenderError as error:
            raise type(error)(f"{file}: {error}; {_progress_text(job, last_line)}") from error
    if counts.inserted >= ANALYZED_ROWS and not dry_run:
        analyze(engine, settings)
    seconds = round(time.monotonic() - started, 3)
    totals = {**asdict(counts), "rejected": rejected, "cut_times": cut_times, "seconds": seconds}
    log(logging.INFO, f"import {kind}", read=read, **totals)
    return ImportReport(kind, file, read, **totals)


def _possible_jobs(jobs: int, engine: Engine, kind: str, file: str) -> int:
    """Return the checked number of jobs, or 1 if this process cannot be forked."""
    if isinstance(jobs, bool) or not isinstance(jobs, int):
        raise InvalidValue(f"jobs: {scalars.shown(jobs)} is not a whole number")
    if not 1 <= jobs <= MAX_JOBS:
        raise InvalidValue(f"jobs: {jobs} is not between 1 and {MAX_JOBS}")
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


def _progress_text(job: _Import, last_line: int) -> str:
    if job.jobs == 1 or job.dry_run:
        is_kept = last_line and not job.dry_run
        return f"lines 1 to {last_line} are in" if is_kept else "nothing was imported"
    known = f"lines 1 to {last_line} are in, later ones may be" if last_line else "some may be in"
    return f"{known}, and importing them again is safe"


@contextmanager
def _sections(job: _Import) -> Iterator[Iterator[Section]]:
    """Give the sections of the file, written by this process or by one process per share."""
    with ExitStack() as stack:
        if job.jobs == 1:
            binary = stack.enter_context(opened(job.file))
            batches = batches_ahead(job.kind, binary, job.settings.batch_size, job.form)
            stack.enter_context(closing(batches))
            yield stack.enter_context(closing(_write_all(job, batches)))
            return
        written_shares = [
            stack.enter_context(
                made_apart(_write_share(job, UserShare(number, job.jobs)), job.begin_fork)
            )
            for number in range(job.jobs)
        ]
        yield map(_together, zip_longest(*written_shares))


def _write_share(job: _Import, share: UserShare) -> Iterator[Section]:
    limit = job.settings.batch_size * share.of
    with opened(job.file) as binary:
        yield from _write_all(job, read_batches(job.kind, binary, limit, share, job.form))


def _together(shares: Iterable[Section | None]) -> Section:
    """Return one result for all shares of a section."""
    # A share is missing if the file grew while the processes read it.
    sections = [section for section in shares if section]
    return Section(
        last=min(section.last for section in sections),
        position=min(section.position for section in sections),
        read=sum(section.read for section in sections),
        counts=sum((section.counts for section in sections), Counts()),
        rejected=sorted(chain(*(section.rejected for section in sections)), key=line_of),
        cut_times=sum(section.cut_times for section in sections),
        seconds=max(section.seconds for section in sections),
    )


def _write_all(job: _Import, batches: Iterable[Batch]) -> Generator[Section, None, None]:
    """Write sections of a file; an error that stops the import is in the last section."""
    with _transactions(job) as transact:
        for file_rows, position, cut_times in batches:
            started = time.monotonic()
            own_rows = [row for row in file_rows if row.parsed is not None or row.error]
            counts, rejected, remaining = Counts(), list[RejectedRow](), iter(own_rows)
            while batch := take(remaining, job.settings.batch_size):
                batch_counts, batch_rejected = _write(job, batch, transact)
                counts, rejected = counts + batch_counts, rejected + batch_rejected
                if rejected and not job.skip:
                    break
            seconds = time.monotonic() - started
            yield Section(
                file_rows[-1].line, position, len(own_rows), counts, rejected, cut_times, seconds
            )
            if rejected and not job.skip:
                return


@contextmanager
def _transactions(job: _Import) -> Iterator[_Transact]:
    """Give a function that writes a batch in its own transaction.

    In a dry run all batches share one transaction, which is rolled back.
    """
    if not job.dry_run:
        yield lambda write: run_transaction(job.engine, write, settings=job.settings)
        return
    with translate_errors(), Session(writing(job.engine)) as session:
        yield lambda write: write(session)


def _write(
    job: _Import, batch: Sequence[FileRow], transact: _Transact
) -> tuple[Counts, list[RejectedRow]]:
    """Write the good rows of a batch, and return the bad rows in the order of their lines.

    If there is a bad row and bad rows are not skipped, nothing is written.
    """
    rejected = [(row, row.error) for row in batch if row.error]
    if rejected and not job.skip:
        return Counts(), rejected
    good = [row for row in batch if not row.error]

    def write(session: Session) -> Counts:
        counts = job.kind.apply(session, [row.parsed for row in good])
        if _bad_rows(good, counts) and not job.skip:
            session.rollback()
        return counts

    with uncollected():
        counts = transact(write)
    return counts, sorted(rejected + _bad_rows(good, counts), key=line_of)


def _bad_rows(batch: Sequence[FileRow], counts: Counts) -> list[RejectedRow]:
    """Return the rows that a write left out as bad. Events of a pruned time are only counted."""
    return [
        (batch[index], _with_advice(error))
        for index, error in counts.rejected.items()
        if not isinstance(error, EventTooOld)
    ]


def _with_advice(error: RecommenderError) -> RecommenderError:
    """Return the error of a row; if a user or video is unknown, with the way out."""
    for unknown, kind in ((UnknownUser, "users"), (UnknownVideo, "videos")):
        if isinstance(error, unknown):
            return unknown(f"{error}, so import the {kind} first, perhaps from the same file")
    return error


@contextmanager
def _error_file(path: str | None) -> Iterator[Callable[[FileRow, RecommenderError], None]]:
    """Give a function that writes a bad row to a new file, which only its owner may read."""
    if path is None:
        yield lambda _row, _error: None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise NotPermitted(
            f"the file {scalars.shown(path)} may not be written: {error.strerror}"
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as text:

        def write_error(row: FileRow, error: RecommenderError) -> None:
            line = {"line": row.line, "error": str(error), "row": row.row}
            text.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

        yield write_error
