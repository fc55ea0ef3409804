"""A log cut in two: what was known at a time is in a scratch database, what came later is kept.

The later part is folded in slice by slice. Nothing of it is in the database before its turn, but
for the rows of users and videos that the earlier part, or the next slice, names.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Engine

from recommender.database.scratch import scratch_database
from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue
from recommender.evaluation.log_files import Line, LogFiles, read_log
from recommender.files.batches import KINDS
from recommender.formats import scalars
from recommender.learning.engagement import POSITIVE, is_engaged
from recommender.learning.refresh import refresh
from recommender.settings import Settings

ENGAGED = "engaged"

TARGETS = (ENGAGED, *POSITIVE)
"""What an impression can be hoped to lead to: an engaged view or any of the others, or one."""

TIMES = {"users": "created_at", "videos": "published_at", "follows": "at", "events": "at"}
"""The column that says when a row came to be; where it is empty, it always was."""

DAY = timedelta(days=1)

SHORTEST_SLICE = timedelta(minutes=1)

SHOWN = ("watch", "impression")
"""The kinds of events that say that a video was shown."""

Row: TypeAlias = Mapping[str, Any]

Progress: TypeAlias = Callable[[str, int, int], None]


def check_length(every: timedelta) -> None:
    """Raise `InvalidValue` where slices would be shorter than a minute."""
    if every < SHORTEST_SLICE:
        raise InvalidValue(f"every: {every} is shorter than a minute")


def is_positive(target: str, event: Row, duration_ms: int | None) -> bool:
    """Whether an event is what is hoped for.

    Args:
        target: one of `TARGETS`.
        event: a row of the kind events.
        duration_ms: of its video, None where unknown.
    """
    kind = event["kind"]
    if target != ENGAGED:
        return bool(kind == target)
    watch = event.get("watch_ms"), event.get("completion"), duration_ms
    return kind in POSITIVE or (kind == "watch" and is_engaged(*watch))


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a log is cut in two.

    Attributes:
        at: when, for all rows but those of `of_user`.
        of_user: when for the events and follows of each of these users.
        until: what comes then or later is left out.
    """

    at: datetime
    of_user: Mapping[str, datetime] = field(default_factory=dict)
    until: datetime = scalars.LATEST

    def time_of(self, kind: str, row: Row) -> datetime:
        """When a row came to be."""
        return row.get(TIMES[kind]) or scalars.EARLIEST

    def is_later(self, kind: str, row: Row) -> bool:
        """Whether a row belongs to the later part."""
        at = self.of_user.get(row["user"], self.at) if "user" in row else self.at
        return self.time_of(kind, row) >= at


def cut_per_user(
    source: Engine | LogFiles, target: str, part: float, settings: Settings
) -> tuple[Cut, datetime]:
    """A cut of each user's log before the last of their positive videos, and the log's end.

    Of a user's videos with a positive event, in the order of the first such event, the last are
    held out: that part of them, and at least one; none of a user with fewer than two.

    Args:
        source: the log.
        target: one of `TARGETS`.
        part: above 0, below 1.
        settings: how many rows are read at once.
    """
    durations: dict[str, int | None] = {}
    firsts: dict[str, dict[str, datetime]] = {}
    end = scalars.EARLIEST
    for kind, lines, _, _ in read_log(source, settings, ("videos", "events")):
        if kind == "videos":
            durations.update((line.row["id"], line.row.get("duration_ms")) for line in lines)
            continue
        for row, _, _ in lines:
            end = max(end, row["at"])
            if is_positive(target, row, durations.get(row["video"])):
                found = firsts.setdefault(row["user"], {})
                found[row["video"]] = min(found.get(row["video"], row["at"]), row["at"])
    of_user = {
        user: sorted(found.values())[-max(1, round(part * len(found)))]
        for user, found in firsts.items()
        if len(found) > 1
    }
    return Cut(scalars.LATEST, of_user), end


@dataclass(frozen=True, slots=True)
class Slice:
    """The events that came between two times, in the order of time."""

    start: datetime
    end: datetime
    events: Sequence[Line]


class Shown(NamedTuple):
    """A video that was shown to a user: when first, and which of the targets it led to."""

    at: datetime
    led_to: set[str]


@dataclass(slots=True)
class Timeline:
    """A scratch database, and what is yet to come into it.

    Attributes:
        engine: on an empty, migrated database.
        cut: what comes later.
        settings: how many rows are written at once.
        durations: of every video of the log, in milliseconds.
        events, follows: the later ones; in the order of time once all is read. Follows that are
            written are no longer there.
        waiting: users and videos that nobody knows yet, by key.
    """

    engine: Engine
    cut: Cut
    settings: Settings
    durations: dict[str, int | None] = field(default_factory=dict)
    events: list[Line] = field(default_factory=list)
    follows: list[Line] = field(default_factory=list)
    waiting: dict[str, dict[str, Line]] = field(default_factory=lambda: {"users": {}, "videos": {}})

    def read(self, source: Engine | LogFiles, progress: Progress) -> None:
        """Write what was known at the cut, and keep what came later.

        Raises:
            BadData: a row is not in the format, or names what is not there.
        """
        for kind, lines, done, total in read_log(source, self.settings):
            if kind == "videos":
                self.durations.update((e.row["id"], e.row.get("duration_ms")) for e in lines)
            later = [self.cut.is_later(kind, line.row) for line in lines]
            self._keep(kind, [line for line, late in zip(lines, later, strict=True) if late])
            self.write(kind, [line for line, late in zip(lines, later, strict=True) if not late])
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
        """Write rows to the database, and before them the users and videos that they name."""
        self.bring("users", (line.row["user"] for line in lines if "user" in line.row))
        self.bring("videos", (line.row["video"] for line in lines if "video" in line.row))
        for begun in range(0, len(lines), self.settings.batch_size):
            self._write_batch(kind, lines[begun : begun + self.settings.batch_size])

    def _write_batch(self, kind: str, lines: Sequence[Line]) -> None:
        rows = [line.row for line in lines]
        applied = run_transaction(
            self.engine, lambda session: KINDS[kind].apply(session, rows), settings=self.settings
        )
        if applied.rejected:
            first = min(applied.rejected)
            raise lines[first].error(applied.rejected[first])

    def bring(self, kind: str, keys: Iterable[str], **changed: Any) -> list[Line]:
        """Write the users or videos of these keys that are waiting; return them as they were."""
        waiting = self.waiting[kind]
        lines = [waiting.pop(key) for key in dict.fromkeys(keys) if key in waiting]
        if lines:
            self.write(kind, [line._replace(row={**line.row, **changed}) for line in lines])
        return lines

    def slices(self, start: datetime, length: timedelta | None) -> Iterator[Slice]:
        """The later events in slices that have one; one of all where no length is given."""

        def number(line: Line) -> int:
            return math.floor((line.row["at"] - start) / length) if length else 0

        for place, events in groupby(self.events, number):
            first = start + place * length if length else start
            end = first + length if length else scalars.LATEST
            yield Slice(first, end, list(events))

    def catch_up(self, end: datetime) -> None:
        """Write the users, videos and follows that came to be before a time."""
        for kind, lines in self.waiting.items():
            due = [key for key, line in lines.items() if self.cut.time_of(kind, line.row) < end]
            self.bring(kind, due)
        ended = bisect_left(self.follows, end, key=lambda line: line.row["at"])
        self.write("follows", self.follows[:ended])
        del self.follows[:ended]

    def walk(self, start: datetime, length: timedelta | None) -> Iterator[Slice]:
        """The slices, each when all before it is known; what it names is there to be ranked."""
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

    def shown(self, part: Slice, targets: Iterable[str]) -> dict[str, dict[str, Shown]]:
        """Of each user the videos that were shown in a slice, and what each led to in it."""
        shown: dict[str, dict[str, Shown]] = {}
        for row, _, _ in part.events:
            if row["kind"] in SHOWN:
                videos = shown.setdefault(row["user"], {})
                videos.setdefault(row["video"], Shown(row["at"], set()))
        for row, _, _ in part.events:
            video = row["video"]
            if found := shown.get(row["user"], {}).get(video):
                duration = self.durations[video]
                found.led_to.update(each for each in targets if is_positive(each, row, duration))
        return shown

    def wanted(
        self, events: Iterable[Line], targets: Sequence[str]
    ) -> dict[str, dict[str, set[str]]]:
        """Of each user the videos that led to any of the targets, and to which of them."""
        wanted: dict[str, dict[str, set[str]]] = {}
        for row, _, _ in events:
            duration = self.durations[row["video"]]
            if led_to := {each for each in targets if is_positive(each, row, duration)}:
                wanted.setdefault(row["user"], {}).setdefault(row["video"], set()).update(led_to)
        return wanted

    def prepare(self, part: Slice) -> list[Line]:
        """Write the users and videos that a slice names, for they are to be ranked.

        Returns:
            The videos: nobody learns of their publishing before the slice is folded in.
        """
        self.bring("users", (line.row["user"] for line in part.events))
        return self.bring("videos", (line.row["video"] for line in part.events), status="review")

    def fold(self, part: Slice, hidden: Sequence[Line]) -> None:
        """Write what came in a slice.

        Args:
            part: the slice.
            hidden: what `prepare` gave of it.
        """
        for line in hidden:
            line.row.setdefault("status", "published")
        self.write("videos", hidden)
        self.catch_up(part.end)
        self.write("events", part.events)


@contextmanager
def replayed(
    log: Engine | LogFiles,
    cut: Cut,
    scratch: str | None,
    settings: Settings,
    report: Progress,
) -> Iterator[Timeline]:
    """A log in a scratch database: what came before a cut is known, what came later is waiting.

    Raises:
        InvalidValue: nothing comes after the cut.
    """
    with scratch_database(scratch, settings) as engine:
        timeline = Timeline(engine, cut, settings)
        timeline.read(log, report)
        if not timeline.events:
            raise InvalidValue("nothing in the log comes after the cut")
        refresh(engine, as_of=cut.at, settings=settings)
        yield timeline
