"""Replay a log in a scratch database: the earlier part is known, the later part follows in slices.

Nothing of the later part is in the database before its turn. The only exception: the rows of users
and videos that the earlier part, or the next slice, names.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count, groupby
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.registered import kept_registry
from recommender.database.scratch import copy_vectors, scratch_database
from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue
from recommender.evaluation.log_files import (
    ENGAGED,
    SHOWN,
    Line,
    LogFiles,
    LogRow,
    LogSpan,
    by_pair,
    first_positives,
    outcomes_of,
    read_log,
    read_thresholds,
    write_thresholds,
)
from recommender.files.batches import ROW_KINDS
from recommender.formats import scalars
from recommender.learning.engagement import (
    DEFAULT_THRESHOLDS,
    Thresholds,
)
from recommender.learning.refresh import refresh
from recommender.models import Interaction
from recommender.ranking.registry import Registry, known_registry
from recommender.settings import Settings

TIMES = {"users": "created_at", "videos": "published_at", "follows": "at", "events": "at"}
"""The column with the time of a row. A row without a time belongs to the earlier part."""

DAY = timedelta(days=1)

MIN_SLICE = timedelta(minutes=1)

Progress: TypeAlias = Callable[[str, int, int], None]


def no_progress(_stage: str, _done: int, _total: int) -> None:
    """Report no progress."""


def check_length(every: timedelta) -> None:
    """Raise `InvalidValue` if slices are shorter than a minute."""
    if every < MIN_SLICE:
        raise InvalidValue(f"every: {every} is shorter than a minute")


@dataclass(frozen=True, slots=True)
class Cut:
    """The time or times at which a log is cut in two.

    Attributes:
        at: the time for all rows, except the rows of users in `of_user`.
        of_user: the times for the events and follows of these users.
        numbers: the number of the first later event of these users, in the order of the log. It
            separates events of the same time.
        until: rows at this time or later are left out.
    """

    at: datetime
    of_user: Mapping[str, datetime] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    until: datetime = scalars.LATEST

    def time_of(self, kind: str, row: LogRow) -> datetime:
        """Return the time of a row, the earliest possible time if it has none."""
        return row.get(TIMES[kind]) or scalars.EARLIEST

    def is_later(self, kind: str, row: LogRow, number: float = math.inf) -> bool:
        """Return whether a row belongs to the later part.

        Args:
            kind: the kind of the row.
            row: the row.
            number: the number of an event in the order of the log.
        """
        at, user = self.time_of(kind, row), row.get("user", "")
        cut, first = self.of_user.get(user, self.at), self.numbers.get(user, 0)
        return at > cut or (at == cut and number >= first)


def cut_per_user(
    source: Engine | LogFiles, target: str, part: float, settings: Settings
) -> tuple[Cut, datetime]:
    """Return a cut of every user's log before their last positives, and the log's end.

    A user's positive videos are ordered by their first positive event. Events of the same time keep
    the order of the log. The last share of the videos is held out: at least one, and never all. A
    user with fewer than two is not cut.

    Args:
        source: the log.
        target: one of `TARGETS`.
        part: the share, above 0 and below 1.
        settings: the batch size.

    Raises:
        InvalidValue: no user has two positive videos.
    """
    firsts, end = first_positives(source, target, settings)
    cuts = {
        user: sorted(moments.values())[-min(len(moments) - 1, max(1, round(part * len(moments))))]
        for user, moments in firsts.items()
        if len(moments) > 1
    }
    if not cuts:
        raise InvalidValue(
            f"holdout: no user has two videos that led to {target}, so none can be held out;"
            " choose another target, or give a cutoff"
        )
    of_user = {user: at for user, (at, _) in cuts.items()}
    numbers = {user: number for user, (_, number) in cuts.items()}
    return Cut(scalars.LATEST, of_user, numbers), end


@dataclass(frozen=True, slots=True)
class Slice:
    """The events between two times, in the order of time."""

    start: datetime
    end: datetime
    events: Sequence[Line]


class ShownVideo(NamedTuple):
    """A video that was shown to a user in a slice.

    Attributes:
        at: when it was first shown.
        outcomes: the targets that it led to within the slice.
    """

    at: datetime
    outcomes: set[str]


@dataclass(slots=True)
class Timeline:
    """A scratch database, and the part of a log that is not in it yet.

    Attributes:
        engine: of an empty, migrated database.
        cut: separates the later part.
        settings: the batch size, and the settings of learning.
        durations: of every video of the log, in milliseconds.
        thresholds: what makes a watch an engaged view in the log.
        events, follows: the later rows, in the order of time once all is read. Follows leave the
            list when they are written.
        waiting: later users and videos that are not in the database yet, by key.
        span: the times of the log's events.
        host: the application's database, whose vectors the registry may read.
    """

    engine: Engine
    cut: Cut
    settings: Settings
    durations: dict[str, int | None] = field(default_factory=dict)
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    events: list[Line] = field(default_factory=list)
    follows: list[Line] = field(default_factory=list)
    waiting: dict[str, dict[str, Line]] = field(default_factory=lambda: {"users": {}, "videos": {}})
    span: LogSpan = field(default_factory=LogSpan)
    host: Engine | None = None

    @property
    def registry(self) -> Registry:
        """The signals, sources and filters that there are."""
        return known_registry(kept_registry(self.engine))

    def begin(self, source: Engine | LogFiles, start: datetime, progress: Progress) -> None:
        """Read a log, and refresh what is learned from its earlier part.

        Args:
            source: the log.
            start: the time to refresh as of.
            progress: told of the rows that are read.

        Raises:
            BadData: a row is not in the format, or names an unknown user or video.
            InvalidValue: nothing comes after the cut.
        """
        self.read(source, progress)
        if not self.events:
            raise InvalidValue(
                f"nothing in the log comes after the cut; {self.span.remedy('an earlier')}"
            )
        refresh(self.engine, as_of=start, settings=self.settings)

    def check_past(self) -> None:
        """Raise `InvalidValue` if nothing is learned before the cut: all figures would be chance.

        Features are learned from positives, so events alone are not enough.
        """
        self.span.check_past()
        is_positive = Interaction.engaged_at.is_not(None)
        is_holdout = bool(self.cut.of_user)
        remedy = "hold out a smaller part" if is_holdout else self.span.remedy("a later")
        with Session(self.engine) as session:
            if session.scalar(sa.select(Interaction.user_id).where(is_positive).limit(1)) is None:
                raise InvalidValue(
                    "no event before the cut is positive, so there is nothing to learn from;"
                    f" {remedy}"
                )

    def read(self, source: Engine | LogFiles, progress: Progress) -> None:
        """Write the earlier part of a log to the database, and keep the later part.

        Raises:
            BadData: a row is not in the format, or names an unknown user or video.
        """
        numbers, self.thresholds = count(), read_thresholds(source)
        write_thresholds(self.engine, self.thresholds)
        for kind, lines, done, total in read_log(source, self.settings):
            if kind == "videos":
                self.durations.update((e.row["id"], e.row.get("duration_ms")) for e in lines)
            later = [
                self.cut.is_later(kind, line.row, next(numbers) if kind == "events" else math.inf)
                for line in lines
            ]
            self._keep(kind, [line for line, late in zip(lines, later, strict=True) if late])
            self.write(kind, [line for line, late in zip(lines, later, strict=True) if not late])
            if kind == "events":
                self.span.extend((line.row["at"] for line in lines), later)
            progress("reading", done, total)
        for rows in (self.events, self.follows):
            rows.sort(key=lambda line: (line.row["at"], line.row["user"]))

    def _keep(self, kind: str, lines: Iterable[Line]) -> None:
        if kind in self.waiting:
            self.waiting[kind].update((line.row["id"], line) for line in lines)
            return
        kept = self.events if kind == "events" else self.follows
        for line in lines:
            if kind == "events" and line.row["video"] not in self.durations:
                raise line.error(f"there is no video {scalars.shown(line.row['video'])}")
            if line.row["at"] < self.cut.until:
                kept.append(line)

    def write(self, kind: str, lines: Sequence[Line]) -> None:
        """Write rows to the database, after the users and videos that they name."""
        self.write_waiting("users", (line.row["user"] for line in lines if "user" in line.row))
        self.write_waiting("videos", (line.row["video"] for line in lines if "video" in line.row))
        for first in range(0, len(lines), self.settings.batch_size):
            self._write_batch(kind, lines[first : first + self.settings.batch_size])

    def _write_batch(self, kind: str, lines: Sequence[Line]) -> None:
        rows = [line.row for line in lines]

        def apply(session: Session) -> Any:
            applied, space = ROW_KINDS[kind].apply(session, rows), self.registry.space
            if kind == "videos" and self.host and space:
                copy_vectors(self.host, session, space, [row["id"] for row in rows])
            return applied

        applied = run_transaction(self.engine, apply, settings=self.settings)
        if applied.rejected:
            first = min(applied.rejected)
            raise lines[first].error(applied.rejected[first])

    def write_waiting(self, kind: str, keys: Iterable[str], **changed: Any) -> list[Line]:
        """Write the waiting users or videos with these keys.

        Args:
            kind: ``users`` or ``videos``.
            keys: keys that are not waiting are ignored.
            **changed: values to write in place of the log's.

        Returns:
            The rows written, as they are in the log.
        """
        waiting = self.waiting[kind]
        lines = [waiting.pop(key) for key in dict.fromkeys(keys) if key in waiting]
        if lines:
            self.write(kind, [line._replace(row={**line.row, **changed}) for line in lines])
        return lines

    def slices(self, start: datetime, length: timedelta | None) -> Iterator[Slice]:
        """Yield the later events in slices that are not empty; in one slice if length is None."""

        def number(line: Line) -> int:
            return math.floor((line.row["at"] - start) / length) if length else 0

        for place, events in groupby(self.events, number):
            first = start + place * length if length else start
            end = first + length if length else scalars.LATEST
            yield Slice(first, end, list(events))

    def catch_up(self, end: datetime) -> None:
        """Write the users, videos and follows from before a time."""
        for kind, lines in self.waiting.items():
            due = [key for key, line in lines.items() if self.cut.time_of(kind, line.row) < end]
            self.write_waiting(kind, due)
        ended = bisect_left(self.follows, end, key=lambda line: line.row["at"])
        self.write("follows", self.follows[:ended])
        del self.follows[:ended]

    def walk(self, start: datetime, length: timedelta | None) -> Iterator[Slice]:
        """Yield the slices; the database then knows everything before the slice.

        The users and videos that the slice names are in the database too, to be ranked.
        """
        done = 0
        for part in self.slices(start, length):
            if part.start > start:
                self.catch_up(part.start)
                refresh(self.engine, as_of=part.start, settings=self.settings)
            hidden = self.prepare(part)
            yield part
            done += len(part.events)
            if done < len(self.events):
                self.fold(part, hidden)

    def shown(self, part: Slice, targets: Iterable[str]) -> dict[str, dict[str, ShownVideo]]:
        """Return, per user, the videos shown in a slice with their outcomes in it."""
        shown: dict[str, dict[str, ShownVideo]] = {}
        for (user, video), rows in by_pair(part.events).items():
            outcomes = outcomes_of(rows, self.durations[video], self.thresholds)
            proofs = [row for row in rows if row["kind"] in SHOWN]
            if ENGAGED in outcomes:
                proofs += rows[:1]
            if proofs:
                videos = shown.setdefault(user, {})
                videos[video] = ShownVideo(proofs[0]["at"], outcomes.intersection(targets))
        return shown

    def positives(
        self, events: Iterable[Line], targets: Sequence[str]
    ) -> dict[str, dict[str, set[str]]]:
        """Return, per user, the videos that led to any of the targets, and which targets."""
        positives: dict[str, dict[str, set[str]]] = {}
        for (user, video), rows in by_pair(events).items():
            outcomes = outcomes_of(rows, self.durations[video], self.thresholds)
            if wanted := outcomes.intersection(targets):
                positives.setdefault(user, {})[video] = wanted
        return positives

    def prepare(self, part: Slice) -> list[Line]:
        """Write the users and videos that a slice names, so that they can be ranked.

        Returns:
            The videos. They stay unpublished until the slice is folded in.
        """
        self.write_waiting("users", (line.row["user"] for line in part.events))
        videos = (line.row["video"] for line in part.events)
        return self.write_waiting("videos", videos, status="review")

    def fold(self, part: Slice, hidden: Sequence[Line]) -> None:
        """Write the rows of a slice.

        Args:
            part: the slice.
            hidden: the videos that `prepare` returned for it.
        """
        for line in hidden:
            line.row.setdefault("status", "published")
        self.write("videos", hidden)
        self.catch_up(part.end)
        self.write("events", part.events)


@contextmanager
def scratch_timeline(
    cut: Cut, scratch: str | None, settings: Settings, host: Engine | None
) -> Iterator[Timeline]:
    """Yield a timeline whose scratch database exists for the length of the block.

    Args:
        cut: where the log is cut.
        scratch: the URL of a database without this package's tables; None for a temporary file.
        settings: as for `Timeline`.
        host: as for `scratch_database`.
    """
    with scratch_database(scratch, settings, host) as engine:
        yield Timeline(engine, cut, settings, host=host)
