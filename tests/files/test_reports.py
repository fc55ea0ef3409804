"""A report counts every row once, the same for every batch size, also in a dry run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import Counts, Event, Settings, create_space, import_file, record_many
from recommender.database.transactions import run_transaction
from recommender.files.batches import ROW_KINDS
from recommender.files.importer import ImportReport
from recommender.formats import scalars
from recommender.models.tables import LEARNING_STATE
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import at, make_user, make_video

Row = dict[str, Any]

NAMES = ("id", "user", "creator", "video", "other")
"""The columns with keys, which get a prefix: every import has keys of its own."""

COUNTED = ("inserted", "updated", "unchanged", "too_old", "rejected")

SIZES = (1, 3, 1_000)

_runs = count()


def times(*minutes: float) -> list[str]:
    return [scalars.written_time(at(minute)) for minute in minutes]


PRUNED, EARLY, LATE = times(-60, 1, 2)

VIDEO = {"id": "a", "creator": "c", "published_at": EARLY}
LIKE = {"id": "e1", "user": "u", "video": "v", "kind": "like", "at": EARLY}

PROPOSED = {"source": "m", "user": "u", "video": "v", "score": 0.5}

VECTOR = {"space": "s", "id": "v", "vector": [1, 2]}

MUTE = {"user": "u", "kind": "hashtag", "value": "x"}

CASES: Mapping[str, Sequence[Row]] = {
    "users": [
        {"id": "a", "language": "en", "interests": ["x"]}, {"id": "b"}, {"id": "a"},
        {"id": "a", "language": "en", "interests": ["x"]}, {"id": "a", "language": "es"},
        {"id": "a", "language": "en"}, {"id": "b", "interests": []}, {"id": ""}, {"id": "a"},
    ],
    "videos": [
        {"id": "a", "status": "removed"}, VIDEO, {**VIDEO, "caption": "#x"}, {**VIDEO, "id": "b"},
        {"id": "a", "status": "removed"}, {"id": "a", "status": "removed"}, VIDEO,
        {"id": "a", "caption": "#y"}, {"id": "a", "hashtags": ["x", "y"]},
        {"id": "a", "hashtags": ["y"], "creator": "d"}, {"id": "b", "duration_ms": -1},
    ],
    "follows": [
        {"user": "u", "creator": "a", "at": EARLY}, {"user": "u", "creator": "a", "at": LATE},
        {"user": "u", "creator": "a"}, {"user": "nobody", "creator": "a"},
        {"user": "u", "creator": "b"}, {"user": "u", "creator": "b", "at": None},
        {"user": "u", "creator": "a", "at": EARLY}, {"user": "u"},
        {"user": "b", "creator": "nobody"}, {"user": "nobody", "creator": "u", "at": EARLY},
    ],
    "mutes": [
        {**MUTE, "at": EARLY}, {**MUTE, "value": "#X"}, {**MUTE, "at": LATE},
        {**MUTE, "kind": "keyword", "value": "so well"}, {**MUTE, "kind": "keyword", "value": "!"},
        {**MUTE, "user": "nobody"}, {**MUTE, "kind": "creator"}, {**MUTE, "kind": "food"},
    ],
    "blocks": [
        {"user": "u", "other": "a", "at": EARLY}, {"user": "u", "other": "a"},
        {"user": "u", "other": "a", "at": LATE}, {"user": "u", "other": "u"},
        {"user": "nobody", "other": "a"}, {"user": "u", "other": "b", "at": None},
        {"user": "b", "other": "nobody"}, {"user": "nobody", "other": "u", "at": EARLY},
    ],
    "events": [
        LIKE, LIKE, {**LIKE, "id": "e2"}, {**LIKE, "kind": "share"}, {**LIKE, "at": PRUNED},
        {**LIKE, "id": "e3", "user": "nobody"}, {**LIKE, "id": "e3"}, LIKE,
        {**LIKE, "id": "e4", "completion": 1.5}, {**LIKE, "id": "e5", "at": PRUNED},
    ],
    "embeddings": [
        VECTOR, {**VECTOR, "vector": [2, 4]}, {**VECTOR, "vector": [2, 1]}, VECTOR,
        {**VECTOR, "id": "nothing"}, {**VECTOR, "vector": [1]}, {**VECTOR, "space": "t"},
    ],
    "candidates": [
        PROPOSED, {**PROPOSED, "expires_at": LATE}, PROPOSED, {**PROPOSED, "expires_at": None},
        {**PROPOSED, "score": 0}, {**PROPOSED, "source": "M"}, {**PROPOSED, "source": "a b"},
        {**PROPOSED, "user": "nobody"}, {**PROPOSED, "video": "nothing"}, {**PROPOSED, "score": 2},
    ],
}  # fmt: skip

OUTCOMES = {
    "users": (2, 2, 4, 0, 1),
    "videos": (2, 5, 3, 0, 1),
    "follows": (4, 2, 2, 0, 2),
    "mutes": (3, 1, 1, 0, 3),
    "blocks": (4, 1, 1, 0, 2),
    "events": (3, 0, 2, 2, 3),
    "candidates": (2, 3, 1, 0, 4),
    "embeddings": (1, 2, 1, 0, 3),
}
"""The numbers of rows by outcome, as in `COUNTED`."""


@pytest.fixture
def pruned(engine: Engine) -> Engine:
    """A database whose events until an hour before noon were pruned."""
    horizon = sa.update(LEARNING_STATE).values(events_horizon=at(-60))
    run_transaction(engine, lambda session: session.execute(horizon))
    create_space(engine, "s", dim=2)
    return engine


def begin(engine: Engine) -> str:
    """Write a user and a video under a new prefix, and return the prefix."""
    prefix = f"{next(_runs)}-"

    def write(session: Session) -> None:
        make_user(session, f"{prefix}u")
        make_video(session, f"{prefix}v", creator=f"{prefix}u")

    run_transaction(engine, write)
    return prefix


def prefixed(prefix: str, rows: Sequence[Row]) -> list[Row]:
    return [
        {name: prefix + value if name in NAMES and value else value for name, value in row.items()}
        for row in rows
    ]


def imported(
    engine: Engine, kind: str, rows: Sequence[Row], folder: Path, size: int
) -> list[tuple[ImportReport, list[int]]]:
    """Return the reports of a dry run and of an import, with the lines of the bad rows."""
    prefix = begin(engine)
    file = folder / f"{prefix}rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in prefixed(prefix, rows)))
    results = []
    for dry_run in (True, False):
        errors = folder / f"{prefix}{dry_run}.jsonl"
        report = import_file(
            engine, kind, str(file), on_error="skip", errors=str(errors), dry_run=dry_run,
            settings=Settings(batch_size=size),
        )  # fmt: skip
        lines = [json.loads(line)["line"] for line in errors.read_text().splitlines()]
        results.append((replace(report, file="", seconds=0), lines))
    return results


def check_reports(
    engine: Engine, kind: str, rows: Sequence[Row], folder: Path, sizes: Sequence[int] = SIZES
) -> ImportReport:
    """Compare the reports of all batch sizes, with and without a dry run; return the report."""
    results = [each for size in sizes for each in imported(engine, kind, rows, folder, size)]
    assert results == [results[0]] * len(results)
    report, lines = results[0]
    assert report.read == len(rows) == sum(getattr(report, name) for name in COUNTED)
    assert report.rejected == len(lines)
    return report


def recorded(engine: Engine, rows: Sequence[Row], size: int) -> Counts:
    """Record the well-formed rows by `record_many`, in groups of a size."""
    events = [
        Event(key=row.pop("id"), **{**row, "at": scalars.time(row["at"])})
        for row in prefixed(begin(engine), rows)
        if "completion" not in row
    ]

    def write(session: Session) -> Counts:
        groups = (events[first : first + size] for first in range(0, len(events), size))
        found = [record_many(session, group, on_error="skip") for group in groups]
        total = sum(found, Counts())
        left_out = sum(len(each.rejected) for each in found)
        assert total.inserted + total.unchanged + left_out == len(events)
        return total

    return run_transaction(engine, write)


@slow_on_postgresql
def test_every_row_is_counted_once_for_every_batch_size(pruned: Engine, tmp_path: Path) -> None:
    for kind, rows in CASES.items():
        report = check_reports(pruned, kind, rows, tmp_path, (1, 1_000))
        assert (kind, tuple(getattr(report, name) for name in COUNTED)) == (kind, OUTCOMES[kind])
    assert recorded(pruned, CASES["events"], 1) == recorded(pruned, CASES["events"], 100)


@pytest.mark.slow
@pytest.mark.parametrize("kind_of_row", ROW_KINDS)
def test_every_row_of_random_files_is_counted_once(
    pruned: Engine, tmp_path: Path, kind_of_row: str
) -> None:
    columns = sorted({name for row in CASES[kind_of_row] for name in row})
    values = {name: [row[name] for row in CASES[kind_of_row] if name in row] for name in columns}
    row = st.fixed_dictionaries({}, optional={n: st.sampled_from(v) for n, v in values.items()})

    @settings(max_examples=12)
    @given(
        rows=st.lists(st.one_of(st.sampled_from(CASES[kind_of_row]), row), min_size=1, max_size=8)
    )
    def compare(rows: list[Row]) -> None:
        check_reports(pruned, kind_of_row, rows, tmp_path)

    compare()
