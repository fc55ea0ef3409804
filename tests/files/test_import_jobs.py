"""Events imported by several processes, which do what one does."""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from recommender import (
    BadData,
    DatabaseBusy,
    InvalidValue,
    NotFound,
    RecommenderError,
    Settings,
    export_file,
    import_file,
    refresh,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.cli import run
from recommender.database.engine import create_engine
from recommender.files.batches import UserShare
from recommender.files.importer import MAX_JOBS, ImportReport
from recommender.models import Affinity, EventRow, Interaction, PendingEvent, User
from tests.support.erasures import counted
from tests.support.refresh_worlds import read, statistics
from tests.support.worlds import at

USERS = [f"u{number}" for number in range(9)]
VIDEOS = [f"v{number}" for number in range(7)]
HEADER = "id,user,video,kind,at,watch_ms,completion"

postgresql = pytest.mark.parametrize("kind", ["postgresql"])


def event(number: int, chance: random.Random) -> str:
    user, video = chance.choice(USERS), chance.choice(VIDEOS)
    kind = chance.choice(["watch", "watch", "like", "unlike", "share", "not_interested"])
    watched = chance.randint(0, 20_000) if kind == "watch" else ""
    return f"e{number},{user},{video},{kind},{at(chance.randint(0, 9_999)).isoformat()},{watched},"


def good_lines(number: int = 120) -> list[str]:
    """Events of some users in a random order, a few of them twice."""
    chance = random.Random(3)  # noqa: S311 - not for secrets
    lines = [event(each, chance) for each in range(number)]
    lines += chance.sample(lines, number // 10)
    chance.shuffle(lines)
    return lines


def bad_lines() -> list[str]:
    """The same with bad rows of every kind among them."""
    lines = good_lines()
    later = f"v1,share,{at().isoformat()},,"
    for place, bad in enumerate([
        f"x1,nobody,{later}", f"x2,,{later}", "x3,u1", f"x4,u1,v1,watch,{at().isoformat()},-1,",
        f"x5,u2,v9,like,{at().isoformat()},,", f"x6,u3,{later}", f"x6,u3,{later.replace('1', '2')}",
        f"\udcff,u4,{later}", f"x7,u\udcff,{later}", f"x8,u5,{later.replace('2026', '2099')}",
    ]):  # fmt: skip
        lines.insert(11 * place + 5, bad)
    return lines


def json_lines() -> list[str]:
    """The same as JSON Lines, with some of a person's archive, some of no user, and no object."""
    names = HEADER.split(",")[:5]
    rows = [dict(zip(names, line.split(","), strict=False)) for line in good_lines()]
    odd: list[Any] = [{"kind": "events", "row": row} for row in rows[:20]]
    odd += [{"kind": "users", "row": {"id": "u1"}}, {**rows[0], "user": [[1]]}, {"id": "x"}, 7]
    return [json.dumps(row) for row in [*rows[20:70], *odd, *rows[70:]]]


@pytest.fixture
def people(engine: Engine) -> Engine:
    """A database with the users and the videos of the files."""
    upsert(engine)
    return engine


def upsert(engine: Engine) -> None:
    def write(session: Any) -> None:
        upsert_users(session, [{"id": user} for user in USERS])
        upsert_videos(session, [
            {"id": video, "creator": f"c{video}", "published_at": at(), "duration_ms": 9_000,
             "hashtags": ["a", video]} for video in VIDEOS
        ])  # fmt: skip

    run_transaction(engine, write)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Makes a file of lines and gives its path."""

    def make(lines: list[str], *, pack: bool = False) -> str:
        path = tmp_path / "events"
        data = "\n".join(lines).encode(errors="surrogateescape")
        path.write_bytes(gzip.compress(data) if pack else data)
        return str(path)

    return make


class Done(NamedTuple):
    """What an import leaves behind."""

    report: ImportReport
    rejects: str
    export: str
    rows: list[Any]
    affinities: dict[Any, Any]


def state(engine: Engine) -> tuple[list[Any], dict[Any, Any]]:
    """The rows that events are folded into, without the times of their making; and what is learned.

    Sums of floats depend in their last digits on where batches end.
    """
    tables = (EventRow, Interaction, PendingEvent)
    rows = [sorted(map(repr, read(engine, *table.__table__.c))) for table in tables]
    learned = read(engine, Affinity.user_id, Affinity.subject, Affinity.subject_id, Affinity.score)
    return rows, {tuple(key): pytest.approx(score) for *key, score in learned}


def done(engine: Engine, path: str, folder: Path, **how: Any) -> Done:
    folder.mkdir()
    rejects, export = folder / "rejects", folder / "export.csv"
    report = import_file(
        engine, "events", path, on_error="skip", errors=str(rejects), **how
    )  # fmt: skip
    export_file(engine, "events", str(export))
    kept = replace(report, seconds=0)
    return Done(kept, rejects.read_text(), export.read_text(), *state(engine))


@postgresql
@pytest.mark.parametrize(
    ("jobs", "batch_size"),
    [
        (2, 50),
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(3, 4, marks=pytest.mark.slow),
        pytest.param(8, 1_000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("lines", [[HEADER, *bad_lines()], json_lines()], ids=["csv", "json"])
def test_more_processes_do_what_one_does(
    people: Engine,
    new_database: Callable[[str], str],
    file: Callable[..., str],
    tmp_path: Path,
    jobs: int,
    batch_size: int,
    lines: list[str],
) -> None:
    path, small = file(lines, pack=jobs == 3), Settings(batch_size=batch_size)
    more = done(people, path, tmp_path / "more", jobs=jobs, settings=small)
    alone = create_engine(new_database("postgresql"))
    upsert(alone)
    assert more == done(alone, path, tmp_path / "one", settings=small)
    assert more.report.inserted > 100
    assert more.report.rejected > 2
    alone.dispose()
    again = done(people, path, tmp_path / "again", jobs=jobs, settings=small).report
    assert (again.inserted, again.unchanged) == (0, more.report.read - more.report.rejected)
    refresh(people, as_of=at(99_999))
    assert statistics(people) == counted(people)


def numbers_in(engine: Engine) -> set[str]:
    return {key for (key,) in read(engine, EventRow.key)}


def keys_of(lines: list[str]) -> set[str]:
    return {line.partition(",")[0] for line in lines}


@postgresql
@pytest.mark.parametrize(
    "place", [60, *(pytest.param(place, marks=pytest.mark.slow) for place in (0, 4, 100))]
)
@pytest.mark.parametrize("bad", ["x,u1,v1", f"x,u0,v9,like,{at().isoformat()},,"])
def test_a_bad_row_stops_all(
    people: Engine, file: Callable[..., str], place: int, bad: str
) -> None:
    """There are two, and the first is told, whichever share it is in."""
    good, small = good_lines(), Settings(batch_size=5)
    lines = [*good[:place], bad, bad.replace("u0", "u1"), *good[place:]]
    path = file([HEADER, *lines])
    with pytest.raises(BadData) as caught:
        import_file(people, "events", path, jobs=2, settings=small)
    whole = place // 10 * 10
    known = f"lines 1 to {whole + 1} are in, later ones may be" if whole else "some may be in"
    said = re.escape(f"; {known}, and importing them again is safe")
    assert re.fullmatch(rf"{path}: line {place + 2}: .*{said}", str(caught.value))
    assert keys_of(lines[:whole]) <= numbers_in(people) <= keys_of(good)
    mended = import_file(people, "events", file([HEADER, *good]), jobs=2, settings=small)
    assert mended.rejected == 0
    assert numbers_in(people) == keys_of(good)


@postgresql
def test_one_user_s_rows_are_written_in_batches_too(
    people: Engine, file: Callable[..., str]
) -> None:
    """A stretch of two batches that one share has all of; the second has a bad row."""
    lines = [f"e{number},u0,v1,share,{at(number).isoformat()},," for number in range(10)]
    path = file([HEADER, *lines[:8], "x,u0,v9", *lines[8:]])
    with pytest.raises(BadData, match=r"line 10: .*; some may be in, and"):
        import_file(people, "events", path, jobs=2, settings=Settings(batch_size=5))
    assert numbers_in(people) == keys_of(lines[:5])


@postgresql
def test_a_share_that_met_a_bad_row_writes_nothing_more(
    people: Engine, database: str, file: Callable[..., str]
) -> None:
    """The other share waits meanwhile for a user's row."""
    one, other = (next(u for u in USERS if UserShare(n, 2).has({"user": u})) for n in (0, 1))
    lines = [f"e{number},{one},v1,share,{at(number).isoformat()},," for number in range(20)]
    path = file([HEADER, f"e,{other},v1,share,{at().isoformat()},,", f"x,{one},v9,,,,", *lines])
    impatient = create_engine(database, settings=Settings(lock_timeout=1.0))
    with people.connect() as held:
        held.execute(sa.select(User.id).where(User.key == other).with_for_update())
        with pytest.raises(DatabaseBusy, match="; some may be in, and importing them again"):
            import_file(impatient, "events", path, jobs=2, settings=Settings(batch_size=1, tries=1))
    impatient.dispose()
    assert numbers_in(people) == set()


@postgresql
@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_stops_all(
    people: Engine, file: Callable[..., str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    forked: list[int] = []
    fork = os.fork

    def noted() -> int:
        forked.append(fork())
        return forked[-1]

    monkeypatch.setattr(os, "fork", noted)
    lines, small = good_lines(), Settings(batch_size=1)
    path = file([HEADER, *lines])

    def kill(_rows: int, _position: int) -> None:
        os.kill(forked[number], signal.SIGKILL)

    with pytest.raises(RecommenderError) as caught:
        import_file(people, "events", path, jobs=2, settings=small, progress=kill)
    said = re.search(r"needs was ended; lines 1 to (\d+) are in, later ones may", str(caught.value))
    assert said is not None
    assert keys_of(lines[: int(said[1]) - 1]) <= numbers_in(people)
    for child in forked:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    import_file(people, "events", path, jobs=2, settings=small)
    assert numbers_in(people) == keys_of(lines)
    refresh(people, as_of=at(99_999))
    assert statistics(people) == counted(people)


SIGNALLED = """
import os, signal, sys
from recommender.cli import main
from recommender.files import importer

together, number, parts = importer._together, int(sys.argv[1]), 0

def told(shares):
    global parts
    parts += 1
    if parts == 4:
        os.kill(os.getpid(), number)
    return together(shares)

importer._together = told
sys.argv[1:] = sys.argv[2:]
main()
"""


@postgresql
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_stops_all_and_says_how_far_it_came(
    people: Engine, database: str, file: Callable[..., str], number: int, code: int
) -> None:
    lines = good_lines()
    command = ["import", "events", file([HEADER, *lines]), "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number)), *command],
        capture_output=True, text=True, check=False,
        env={**os.environ, "RECOMMENDER_DATABASE_URL": database, "RECOMMENDER_BATCH_SIZE": "5"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
    told = "30 rows or more are in: import the file again to go on.\n" in done.stderr
    assert told == (number != signal.SIGKILL)
    assert keys_of(lines[:30]) <= numbers_in(people)
    import_file(people, "events", file([HEADER, *lines]), jobs=2)
    assert numbers_in(people) == keys_of(lines)
    refresh(people, as_of=at(99_999))
    assert statistics(people) == counted(people)


@postgresql
def test_a_dry_run_tells_the_same_and_keeps_nothing(
    people: Engine, file: Callable[..., str]
) -> None:
    path = file([HEADER, *bad_lines()])
    dry, real = (
        import_file(people, "events", path, on_error="skip", dry_run=dry_run, jobs=2)
        for dry_run in (True, False)
    )
    assert replace(dry, seconds=0) == replace(real, seconds=0)
    assert real.inserted == len(numbers_in(people)) > 100
    path = file([HEADER, "x,u1,v1"])
    with pytest.raises(BadData, match=r"columns; nothing was imported$"):
        import_file(people, "events", path, dry_run=True, jobs=2)


@postgresql
def test_progress_is_told_and_the_engine_keeps_its_connections(
    people: Engine, file: Callable[..., str]
) -> None:
    process = sa.select(sa.func.pg_backend_pid())
    with people.connect() as held, people.connect() as idle:
        before = [connection.scalar(process) for connection in (held, idle)]
        idle.close()
        lines, told = good_lines(), list[int]()
        path = file([HEADER, *lines])
        import_file(
            people, "events", path, jobs=2, progress=lambda rows, _: told.append(rows),
            settings=Settings(batch_size=25),
        )  # fmt: skip
        with people.connect() as again:
            assert [held.scalar(process), again.scalar(process)] == before
    assert told == [50, 50, len(lines) - 100]


@postgresql
def test_beside_other_threads_one_process_does_it(
    people: Engine, file: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        with caplog.at_level(logging.WARNING, "recommender"):
            report = import_file(people, "events", file([HEADER, *good_lines()]), jobs=2)
    finally:
        ended.set()
        thread.join()
    assert (report.read, len(numbers_in(people))) == (132, 120)
    assert "by one process" in caplog.text


@pytest.mark.parametrize(
    ("kind_of_row", "jobs", "message"),
    [
        ("events", 0, "jobs: 0 is not between 1 and 16"),
        ("events", MAX_JOBS + 1, "jobs: 17 is not between 1 and 16"),
        ("events", "2", "jobs: '2' is not a whole number"),
        ("events", 2.0, "jobs: 2.0 is not a whole number"),
        ("events", None, "jobs: None is not a whole number"),
        ("events", True, "jobs: True is not a whole number"),
        ("users", 2, "jobs: only events are imported by more processes than one"),
        ("videos", 2, "jobs: only events are imported by more processes than one"),
        ("follows", 2, "jobs: only events are imported by more processes than one"),
    ],
)
def test_what_more_processes_cannot_import_is_refused(
    file: Callable[..., str], kind_of_row: str, jobs: Any, message: str
) -> None:
    unconnected = create_engine("postgresql://127.0.0.1/none")
    with pytest.raises(InvalidValue, match=f"^{message}$"):
        import_file(unconnected, kind_of_row, file([]), jobs=jobs)


@postgresql
def test_what_can_be_read_only_once_is_refused(people: Engine, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name in ("-", str(pipe)):
        with pytest.raises(InvalidValue, match="jobs: each process reads the file itself"):
            import_file(people, "events", name, jobs=2)
    with pytest.raises(NotFound, match=r"^there is no file '"):
        import_file(people, "events", str(tmp_path / "none"), jobs=2)


@pytest.mark.parametrize("kind", ["sqlite"])
def test_sqlite_has_one_writer(
    people: Engine, database: str, file: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = file([HEADER, *good_lines()])
    url = ["--database-url", database]
    assert run(["import", "events", path, "--jobs", "2", *url]) == 2
    assert "Error: jobs: SQLite has one writer at a time" in capsys.readouterr().err
    assert numbers_in(people) == set()
    assert run(["import", "events", path, "--jobs", "1", *url]) == 0
