"""A process may end at any point: finished work is whole, and the next run goes on from there."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from recommender import (
    Settings,
    block,
    cli,
    export_file,
    import_file,
    mute,
    refresh,
    run_transaction,
    upsert_candidates,
)
from recommender.benchmark.demo_world import DemoWorld, load
from recommender.database import migrations
from recommender.database.engine import create_engine
from recommender.files.batches import ROW_KINDS
from recommender.models import Affinity, PendingEvent, User, Video
from tests.support.erasures import Killed, counted, killed_after
from tests.support.kinds import slow_on_postgresql
from tests.support.refresh_worlds import (
    behave,
    check,
    expected_statistics,
    people,
    read,
    statistics,
)
from tests.support.worlds import NOON

SMALL = Settings(batch_size=5, rollup_batch=5)

STEP = 9
"""The number of statements between two points at which a migration ends."""

Files = dict[str, Path]


def written(folder: Path, engine: Engine) -> Files:
    """Export a database to one file per kind."""
    folder.mkdir()
    files = {kind: folder / f"{kind}.csv" for kind in ROW_KINDS}
    for kind, file in files.items():
        export_file(engine, kind, str(file))
    return files


def texts(files: Files) -> dict[str, str]:
    return {kind: file.read_text() for kind, file in files.items()}


def world_of(folder: Path, database: str, world: DemoWorld) -> Files:
    """Return the exported files of a world."""
    engine = create_engine(database)
    load(engine, world)
    run_transaction(engine, hide)
    files = written(folder, engine)
    engine.dispose()
    return files


def hide(session: Session) -> None:
    """Mute a hashtag, block the next one, and keep a candidate, for each of some users."""
    video = session.scalars(sa.select(Video.key).order_by(Video.id)).first()
    users = session.scalars(sa.select(User.key).order_by(User.id).limit(8)).all()
    for user, other in pairwise(users):
        mute(session, user, "hashtag", f"not for {user}", at=NOON)
        block(session, user, other, at=NOON)
        upsert_candidates(session, "model", [{"user": user, "video": video, "score": 0.5}])


@pytest.fixture(scope="module")
def small(new_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Files:
    world = DemoWorld(viewer_count=4, creator_count=12, video_count=12, watches_each=3)
    return world_of(tmp_path_factory.mktemp("small") / "files", new_database("sqlite"), world)


@pytest.fixture(scope="module")
def medium(new_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Files:
    world = DemoWorld(viewer_count=16, creator_count=24, video_count=48, watches_each=12)
    return world_of(tmp_path_factory.mktemp("medium") / "files", new_database("sqlite"), world)


def beginnings(file: Path) -> list[str]:
    """Return the text of a file after 0, 1, 2, … whole batches."""
    header, *rows = file.read_text().splitlines(keepends=True)
    ends = [*range(0, len(rows), SMALL.batch_size), len(rows)]
    return ["".join([header, *rows[:end]]) for end in ends]


def affinities(engine: Engine) -> dict[tuple[int, str, int], float]:
    columns = (Affinity.user_id, Affinity.subject, Affinity.subject_id, Affinity.score)
    return {tuple(key): score for *key, score in read(engine, *columns)}  # type: ignore[misc]


@slow_on_postgresql
@pytest.mark.parametrize(
    "kind_of_row",
    [
        pytest.param(kind, marks=[] if kind == "events" else [pytest.mark.slow])
        for kind in ROW_KINDS
        if kind != "embeddings"  # for which this world has no space
    ],
)
def test_an_import_that_ends_after_any_statement_is_of_whole_batches(
    engine: Engine, small: Files, tmp_path: Path, kind_of_row: str
) -> None:
    """Each run ends one statement later than the previous run."""
    whole = beginnings(small[kind_of_row])
    for kind in list(ROW_KINDS)[: list(ROW_KINDS).index(kind_of_row)]:
        import_file(engine, kind, str(small[kind]))
    now = tmp_path / "now.csv"
    found = set()
    for runs in count(1):
        try:
            with killed_after(engine, runs):
                import_file(engine, kind_of_row, str(small[kind_of_row]), settings=SMALL)
            break
        except Killed:
            export_file(engine, kind_of_row, str(now))
            found.add(whole.index(now.read_text()))
    assert {0, 1} <= found
    sums_are_those_of_the_log(engine)


def sums_are_those_of_the_log(engine: Engine) -> None:
    """Compare incremental sums with a rebuild, except trends, which depend on the order."""
    learned = affinities(engine)
    assert statistics(engine) == counted(engine)
    refresh(engine)
    assert statistics(engine) == expected_statistics(engine)
    refresh(engine, rebuild=True)
    assert affinities(engine) == pytest.approx(learned)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, database: str) -> Callable[..., int]:
    """A function that runs a command in this process, with batches of five rows."""
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", database)
    monkeypatch.setenv("RECOMMENDER_BATCH_SIZE", str(SMALL.batch_size))
    return lambda *arguments: cli.run(list(arguments))


def ready(command: Callable[..., int], files: Files) -> None:
    """Import users, videos and follows."""
    for kind in ("users", "videos", "follows"):
        assert command("import", kind, str(files[kind])) == 0


@pytest.mark.parametrize("kind", ["sqlite"])
def test_an_import_on_a_full_disk_goes_on_when_there_is_space(
    engine: Engine,
    medium: Files,
    tmp_path: Path,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready(command, medium)
    with engine.connect() as connection:
        pages = connection.scalar(sa.text("PRAGMA page_count"))

    def cap(driver: Any, _record: Any) -> None:
        driver.execute(f"PRAGMA max_page_count = {pages + 6}").close()

    event.listen(Engine, "connect", cap)
    try:
        assert command("import", "events", str(medium["events"])) == 74
    finally:
        event.remove(Engine, "connect", cap)
    said = re.search(r"lines 1 to (\d+) are in\n$", capsys.readouterr().err)
    assert said
    assert whole_batches(engine, medium, tmp_path) == int(said[1]) - 1 > 0
    assert command("import", "events", str(medium["events"])) == 0
    is_as_uninterrupted(engine, medium, tmp_path / "again")


def whole_batches(engine: Engine, files: Files, folder: Path) -> int:
    """Return the number of stored events, which must be whole batches of the file."""
    now = folder / "now.csv"
    export_file(engine, "events", str(now))
    assert now.read_text() in beginnings(files["events"])
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            assert connection.scalar(sa.text("PRAGMA integrity_check")) == "ok"
    return now.read_text().count("\n") - 1


SIGNALLED = """
import signal, sys
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session
from recommender.cli import main

number, statement, times = map(int, sys.argv[1:4])
sent = 0

def send(_connection, _cursor, sql, *_):
    global sent
    sent += sql.startswith("INSERT")
    if sent == statement:
        signal.raise_signal(number)

def send_again(*_):
    if sent >= statement and times == 2:
        signal.raise_signal(number)

event.listen(Engine, "before_cursor_execute", send)
event.listen(Engine, "rollback", send_again)
sys.argv[1:] = sys.argv[4:]
main()
"""


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize(
    ("number", "code", "times"),
    [
        (signal.SIGTERM, 143, 1),
        pytest.param(signal.SIGINT, 130, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, 2, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_import_says_how_far_it_came(
    engine: Engine,
    medium: Files,
    tmp_path: Path,
    command: Callable[..., int],
    number: int,
    code: int,
    times: int,
) -> None:
    """A second signal during the first one ends the process immediately."""
    ready(command, medium)
    signals = [str(int(number)), "30", str(times)]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, *signals, "import", "events", str(medium["events"])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
    rows = whole_batches(engine, medium, tmp_path)
    assert rows > 0
    told = f"{rows} rows are in: import the file again to go on.\n" in done.stderr
    assert told == (times == 1)
    is_as_uninterrupted(engine, medium, tmp_path / "again")


@slow_on_postgresql
def test_a_refresh_that_ends_after_any_statement_counts_once(engine: Engine) -> None:
    """Each run has new events, and ends one statement later than the previous run."""
    people(engine, 4, 6)
    for runs in count(1):
        behave(engine, 4, 6, 6, seed=runs)
        waiting = len(read(engine, PendingEvent.key))
        try:
            with killed_after(engine, runs):
                refresh(engine, settings=SMALL)
            break
        except Killed:
            assert statistics(engine) == counted(engine), runs
            left = len(read(engine, PendingEvent.key))
            assert refresh(engine, settings=SMALL).events == left <= waiting
            check(engine)
    assert runs > 30


def tables(database: str) -> set[str]:
    engine = create_engine(database)
    found = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return found


@slow_on_postgresql
@pytest.mark.parametrize(
    ("migrate", "target"), [(migrations.upgrade, "head"), (migrations.downgrade, "base")]
)
def test_a_migration_that_ends_after_any_statement_did_nothing(
    empty_database: str, migrate: Callable[[str, str], None], target: str
) -> None:
    """Tested at some statements only: all of them take a minute."""
    if target == "base":
        migrations.upgrade(empty_database)
    before = tables(empty_database)
    for runs in count(1, STEP):
        try:
            with killed_after(Engine, runs):
                migrate(empty_database, target)
            break
        except Killed:
            assert tables(empty_database) == before
    assert runs > 3 * STEP
    assert tables(empty_database) != before


KILLED = """
import os, random, signal, sys, time
from sqlalchemy import event
from recommender import Settings, create_engine, import_file

database, events, batch_size, batches = sys.argv[1:]
settings = Settings(batch_size=int(batch_size))
chance = random.Random(15)

def work(batch, steps, tell):
    left, after = batch, steps

    def done(*_):
        nonlocal left
        left -= 1

    def step(*_):
        nonlocal after
        after -= left <= 0
        if after == 0:
            os.write(tell, b"now")

    event.listen(engine, "before_cursor_execute", step)
    event.listen(engine, "commit", step)
    import_file(engine, "events", events, progress=done, settings=settings)

engine = create_engine(database)
import_file(engine, "events", events, dry_run=True)  # statements are compiled once
engine.dispose()
for point in range(30):
    hear, tell = os.pipe()
    if not (child := os.fork()):
        work(point * (int(batches) - 5) // 30, chance.randint(1, 9), tell)
        os._exit(0)
    os.close(tell)
    os.read(hear, 3)
    time.sleep(chance.uniform(0, 0.002))  # wherever it is by then
    os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.close(hear)
"""


def killed_at_30_points(database: str, events: Path, batch_size: int) -> list[int]:
    """Import a file of events 30 times, killed a thirtieth later each time; return the exit codes.

    The kill comes up to 2 ms after a step of a batch: in a statement, between two, or in a commit.
    """
    batches = (len(events.read_text().splitlines()) - 1) // batch_size
    command = [sys.executable, "-c", KILLED, database, str(events), str(batch_size), str(batches)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [int(code) for code in done.stdout.split()]


def is_as_uninterrupted(engine: Engine, files: Files, folder: Path) -> None:
    """Import again, and compare export and sums with an uninterrupted import."""
    reports = [import_file(engine, kind, str(file)) for kind, file in files.items()]
    assert all(report.rejected == report.updated == 0 for report in reports)
    assert texts(written(folder, engine)) == texts(files)
    sums_are_those_of_the_log(engine)


@pytest.mark.slow
def test_an_import_killed_at_30_points_goes_on(
    engine: Engine, database: str, medium: Files, tmp_path: Path
) -> None:
    """Every run but the first one goes on from an earlier run."""
    for kind in ("users", "videos", "follows"):
        import_file(engine, kind, str(medium[kind]))
    engine.dispose()
    assert killed_at_30_points(database, medium["events"], 14) == [-9] * 30
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            assert connection.scalar(sa.text("PRAGMA integrity_check")) == "ok"
    is_as_uninterrupted(engine, medium, tmp_path / "again")
