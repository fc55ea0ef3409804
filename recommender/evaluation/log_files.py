"""Read a log, batch by batch, from a database or from interchange files.

Its events have outcomes: what the events of one user and one video led to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.schema import first_state
from recommender.database.transactions import run_transaction, translate_errors
from recommender.errors import BadData, InvalidValue
from recommender.files.batches import ROW_KINDS, read_file
from recommender.files.exporter import exported
from recommender.formats import scalars
from recommender.formats.rows import parse_row
from recommender.learning.engagement import (
    DEFAULT_THRESHOLDS,
    POSITIVE_KINDS,
    Thresholds,
    fold_signs,
    is_engaged,
    no_signs,
    positive_since,
)
from recommender.models import Follow
from recommender.models.tables import EVENTS, LEARNING_STATE, USERS, VIDEOS
from recommender.settings import Settings

ENGAGED = "engaged"

TARGETS = (ENGAGED, *POSITIVE_KINDS)
"""The outcomes to hope for. ``engaged`` is a positive state."""

SHOWN = ("watch", "impression")
"""The kinds of events that prove that a video was shown; a positive state proves it too."""

LOG_KINDS = ("users", "videos", "follows", "events")
"""The kinds of rows that a log has; a replay needs neither mutes nor blocks."""

LogRow: TypeAlias = Mapping[str, Any]

Moment: TypeAlias = tuple[datetime, int]
"""The time of an event, and its number in the order of the log."""


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The interchange files of a log.

    Args:
        users, videos, follows, events: paths; several if a kind is split into parts.
    """

    users: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    events: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in ("users", "videos", "events"):
            if not getattr(self, kind):
                raise InvalidValue(f"{kind}: no file is given")
        if "-" in (*self.users, *self.videos, *self.follows, *self.events):
            raise InvalidValue("a log is read from files, not from standard input")


class Line(NamedTuple):
    """A parsed row and its place in a file.

    Attributes:
        row: its fields.
        line: the line number, 0 for a row of a database.
        file: the path, empty for a row of a database.
    """

    row: dict[str, Any]
    line: int
    file: str

    def error(self, message: object) -> BadData:
        """Return an error that names the place of the row."""
        return BadData(f"{self.file}: line {self.line}: {message}" if self.file else str(message))


@dataclass(slots=True)
class LogSpan:
    """The times of a log's events.

    Attributes:
        first, last: the times of the first and the last event; None without events.
        earlier: the number of events before the cut.
    """

    first: datetime | None = None
    last: datetime | None = None
    earlier: int = 0

    def extend(self, times: Iterable[datetime], later: Sequence[bool]) -> None:
        """Add events, with their times and whether they come after the cut."""
        every = [time for time in (self.first, self.last, *times) if time]
        self.first, self.last = min(every), max(every)
        self.earlier += len(later) - sum(later)

    def check_past(self) -> None:
        """Raise `InvalidValue` if no event comes before the cut: all figures would be chance."""
        if not self.earlier:
            raise InvalidValue(
                "nothing in the log comes before the cut, so there is nothing to learn from;"
                f" {self.remedy('a later')}"
            )

    def remedy(self, other: str) -> str:
        """Return what to do if a cut separates no events, for a message.

        Args:
            other: the time to give instead: ``a later`` or ``an earlier``.
        """
        if not (self.first and self.last):
            return "it has no events"
        first, last = scalars.written_time(self.first), scalars.written_time(self.last)
        if first == last:
            return (
                f"all its events have the time {first}, which only `evaluate` can split, by a"
                " holdout such as per-user:0.2"
            )
        return f"its events are from {first} to {last}, so give {other} time"


def read_log(
    source: Engine | LogFiles, settings: Settings, kinds: Iterable[str] = LOG_KINDS
) -> Iterator[tuple[str, list[Line], int, int]]:
    """Yield the rows of a log in batches, kind by kind.

    Args:
        source: a database, which is read in one transaction, or files.
        settings: the batch size.
        kinds: the kinds to read, always in the order of `LOG_KINDS`.

    Yields:
        The kind, its rows, the amount read, and the total amount: rows of a database, bytes of
        files.
    """
    ordered = [kind for kind in LOG_KINDS if kind in set(kinds)]
    read = _read_files if isinstance(source, LogFiles) else _read_database
    yield from read(source, ordered, settings)  # type: ignore[arg-type] # the source's own reader


def read_thresholds(source: Engine | LogFiles) -> Thresholds:
    """Return what makes a watch an engaged view: as in the source database, or the defaults."""
    if isinstance(source, LogFiles):
        return DEFAULT_THRESHOLDS
    columns = (LEARNING_STATE.c[name] for name in Thresholds._fields)
    with translate_errors(), Session(source) as session:
        return Thresholds(*first_state(session.execute(sa.select(*columns))))


def write_thresholds(engine: Engine, thresholds: Thresholds) -> None:
    """Write what makes a watch an engaged view to a scratch database."""
    changed = sa.update(LEARNING_STATE).values(thresholds._asdict())
    run_transaction(engine, lambda session: session.execute(changed))


def is_positive(
    target: str,
    event: LogRow,
    duration_ms: int | None,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> bool:
    """Return whether an event by itself is the target outcome.

    Args:
        target: one of `TARGETS`.
        event: a row of the kind events.
        duration_ms: the duration of its video, None if unknown.
        thresholds: what makes a watch an engaged view.
    """
    kind = event["kind"]
    if target != ENGAGED:
        return bool(kind == target)
    return kind in POSITIVE_KINDS or is_engaged_view(event, duration_ms, thresholds)


def is_engaged_view(event: LogRow, duration_ms: int | None, thresholds: Thresholds) -> bool:
    """Return whether an event is an engaged view."""
    watch = event.get("watch_ms"), event.get("completion"), duration_ms
    return event["kind"] == "watch" and is_engaged(*watch, thresholds)


def outcomes_of(
    events: Iterable[LogRow], duration_ms: int | None, thresholds: Thresholds
) -> set[str]:
    """Return the targets that the events of one user and video led to.

    ``engaged`` is a positive state: what was taken back does not count.
    """
    signs, happened = no_signs(), set()
    for event in events:
        happened.add(event["kind"])
        engaged = is_engaged_view(event, duration_ms, thresholds)
        fold_signs(signs, event["kind"], event["at"], engaged=engaged)
    if positive_since(signs) is not None:
        happened.add(ENGAGED)
    return happened.intersection(TARGETS)


def by_pair(events: Iterable[Line]) -> dict[tuple[str, str], list[LogRow]]:
    """Return the rows of events by user and video."""
    rows: dict[tuple[str, str], list[LogRow]] = {}
    for row, _, _ in events:
        rows.setdefault((row["user"], row["video"]), []).append(row)
    return rows


def first_positives(
    source: Engine | LogFiles, target: str, settings: Settings
) -> tuple[dict[str, dict[str, Moment]], datetime]:
    """Return the first positive event of every user's videos, and the log's end.

    Args:
        source: the log.
        target: one of `TARGETS`.
        settings: the batch size.
    """
    durations: dict[str, int | None] = {}
    firsts: dict[str, dict[str, Moment]] = {}
    signs: defaultdict[tuple[str, str], dict[str, Any]] = defaultdict(no_signs)
    end, numbers, limits = scalars.EARLIEST, count(), read_thresholds(source)
    for kind, lines, _, _ in read_log(source, settings, ("videos", "events")):
        if kind == "videos":
            durations.update((line.row["id"], line.row.get("duration_ms")) for line in lines)
            continue
        for (row, _, _), number in zip(lines, numbers, strict=False):
            end = max(end, row["at"])
            user, video, duration = row["user"], row["video"], durations.get(row["video"])
            engaged = is_engaged_view(row, duration, limits)
            if engaged or row["kind"] not in SHOWN:
                fold_signs(signs[user, video], row["kind"], row["at"], engaged=engaged)
            if is_positive(target, row, duration, limits):
                moments = firsts.setdefault(user, {})
                moments[video] = min(moments.get(video, (row["at"], number)), (row["at"], number))
    return (_not_taken_back(firsts, signs) if target == ENGAGED else firsts), end


def _not_taken_back(
    firsts: Mapping[str, Mapping[str, Moment]], signs: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, dict[str, Moment]]:
    """Return the videos of every user that are still positive at the end of the log."""
    left = {
        user: {v: moment for v, moment in moments.items() if positive_since(signs[user, v])}
        for user, moments in firsts.items()
    }
    return {user: moments for user, moments in left.items() if moments}


def _read_files(
    files: LogFiles, kinds: Sequence[str], settings: Settings
) -> Iterator[tuple[str, list[Line], int, int]]:
    named = [(kind, file) for kind in kinds for file in getattr(files, kind)]
    sizes = [Path(file).stat().st_size if Path(file).is_file() else 0 for _, file in named]
    for place, (kind, file) in enumerate(named):
        for batch, position, _ in read_file(kind, file, settings.batch_size):
            lines = [Line(entry.parsed or {}, entry.line, file) for entry in batch]
            yield kind, lines, sum(sizes[:place]) + position, sum(sizes)


def _read_database(
    engine: Engine, kinds: Sequence[str], settings: Settings
) -> Iterator[tuple[str, list[Line], int, int]]:
    with translate_errors(), Session(_at_one_moment(engine)) as session:
        total, done = _count_rows(session, kinds), 0
        for kind in kinds:
            columns = ROW_KINDS[kind].columns
            rows = (dict(zip(columns, values, strict=True)) for values in exported(session, kind))
            while lines := [
                Line(parse_row(columns, row), 0, "") for row in islice(rows, settings.batch_size)
            ]:
                done += len(lines)
                yield kind, lines, done, total


def _at_one_moment(engine: Engine) -> Engine:
    """Return the engine with transactions that read from one snapshot."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def _count_rows(session: Session, kinds: Iterable[str]) -> int:
    tables = {"users": USERS, "videos": VIDEOS, "follows": Follow.__table__, "events": EVENTS}
    return sum(
        session.scalar(sa.select(sa.func.count()).select_from(tables[kind])) or 0 for kind in kinds
    )
