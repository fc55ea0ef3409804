"""Migrations to come: with data, with writers, with readers in the way, and killed midway.

There is one migration; what only later ones can show is shown with two that the tests write.
"""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import diagnose, models
from recommender.benchmark.demo_world import DemoWorld, load
from recommender.database import migrations, schema, transactions
from recommender.database.engine import create_engine
from recommender.database.schema import check_schema
from recommender.database.transactions import run_transaction, writing
from recommender.errors import DatabaseBusy, RecommenderError, SchemaOutOfDate, UnknownUser
from recommender.models.types import PREFIX, SCHEMA_REVISION, VERSION_TABLE, Base
from recommender.settings import Settings
from tests.support.refresh_worlds import people, read
from tests.support.schemas import (
    ROOT,
    add_migration,
    alembic,
    catalogue,
    downgrade,
    execute,
    rows,
    scripts,
    tables,
    upgrade,
)
from tests.support.worlds import NOON

COLUMNS = """
def upgrade() -> None:
    op.add_column("rec_events", sa.Column("place", sa.Integer(), nullable=True))
    op.add_column(
        "rec_videos", sa.Column("pinned", sa.Integer(), server_default="0", nullable=False)
    )


def downgrade() -> None:
    op.drop_column("rec_videos", "pinned")
    op.drop_column("rec_events", "place")
"""
INDEX = """
from recommender.database.migrations import index_options

NAME = "rec_events_video_id_ix"


def upgrade() -> None:
    with index_options(op.get_context()) as options:
        op.drop_index(NAME, if_exists=True, **options)
        op.create_index(NAME, "rec_events", ["video_id"], **options)


def downgrade() -> None:
    with index_options(op.get_context()) as options:
        op.drop_index(NAME, if_exists=True, **options)
"""
SMALL = DemoWorld(viewer_count=24, creator_count=24, video_count=60, watches_each=10)


@pytest.fixture
def later(migrations_copy: Path) -> Path:
    """Two later migrations: of columns, and of an index that is made while others write."""
    add_migration(migrations_copy, "9001", SCHEMA_REVISION, COLUMNS)
    add_migration(migrations_copy, "9002", "9001", INDEX)
    return migrations_copy


OF_ROWS = {"sqlite": {"0008", "0009", "0012", "0015"}, "postgresql": {"0008", "0012"}}
"""The migrations that change rows and no table, on each kind of database."""


@pytest.mark.slow
@pytest.mark.usefixtures("later")
def test_every_migration_goes_down_and_up_and_leaves_no_trace(empty_database: str) -> None:
    before, last = catalogue_of_new(empty_database), "base"
    revisions = [each.revision for each in scripts().walk_revisions()][::-1]
    numbered = [f"{number:04}" for number in range(1, int(SCHEMA_REVISION) + 1)]
    assert revisions == [*numbered, "9001", "9002"]
    of_rows = OF_ROWS[sa.make_url(empty_database).get_backend_name()]
    for revision in revisions:
        upgrade(empty_database, revision)
        after = catalogue(empty_database)
        assert (after == before) == (revision in of_rows)
        downgrade(empty_database, last)
        assert catalogue(empty_database) == before
        upgrade(empty_database, revision)
        assert catalogue(empty_database) == after
        assert violations(empty_database) == []
        before, last = after, revision


def catalogue_of_new(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """The catalogue of a database that has no more than the version table."""
    upgrade(url)
    downgrade(url)
    return catalogue(url)


def violations(url: str) -> list[Any]:
    """The rows that refer to nothing; PostgreSQL has none."""
    return rows(url, "PRAGMA foreign_key_check") if url.startswith("sqlite") else []


@pytest.mark.slow
def test_the_migrations_know_every_table_of_the_package() -> None:
    package = ROOT / "recommender"
    paths = [path.relative_to(ROOT) for path in package.glob("[a-z]*/[a-z]*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    code = (
        f"import importlib; [importlib.import_module(m) for m in {modules!r}];"
        "from recommender.models import Base; print(*sorted(Base.metadata.tables))"
    )
    every = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert every == sorted(Base.metadata.tables)


def checksums(url: str) -> dict[str, tuple[int, str]]:
    """Of each of the models' tables how many rows it has, and a hash of all their values."""
    bind, found = create_engine(url), {}
    with bind.connect() as connection:
        for table in Base.metadata.sorted_tables:
            query = str(sa.select(table).order_by(*table.primary_key).compile(bind))
            every = connection.exec_driver_sql(query).all()
            digest = hashlib.sha256(repr(every).encode()).hexdigest()
            found[table.name] = (len(every), digest)
    bind.dispose()
    return found


MANY = """
    INSERT INTO rec_events (user_id, key, video_id, kind, at, engaged)
    SELECT u.id, 'more-' || n.number, n.number % 50 + 1, 'impression', {at}, {engaged}
    FROM (SELECT min(id) AS id FROM rec_users) u CROSS JOIN {numbers}
"""
NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM s"
    " WHERE number < 100000) SELECT number FROM s) n",
    "postgresql": "(SELECT generate_series(1, 100000) AS number) n",
}


def fill(url: str) -> None:
    """A small world, and a hundred thousand events."""
    bind = create_engine(url)
    load(bind, SMALL)
    bind.dispose()
    kind = url.partition(":")[0]
    at, engaged = ("0", "0") if kind == "sqlite" else ("'1970-01-01Z'", "false")
    execute(url, MANY.format(at=at, engaged=engaged, numbers=NUMBERS[kind]))


@pytest.mark.slow
@pytest.mark.usefixtures("later")
def test_rows_outlive_later_migrations_and_the_way_back(database: str) -> None:
    fill(database)
    before = checksums(database)
    assert before["rec_events"][0] > 100_000
    upgrade(database)
    assert checksums(database) == before
    new = "UPDATE rec_videos SET pinned = 1", "UPDATE rec_events SET place = 1 WHERE video_id = 1"
    execute(database, *new)
    downgrade(database, SCHEMA_REVISION)
    assert checksums(database) == before
    upgrade(database)
    assert rows(database, "SELECT count(place) FROM rec_events") == [(0,)]
    assert rows(database, "SELECT DISTINCT pinned FROM rec_videos") == [(0,)]


@pytest.mark.slow
@pytest.mark.usefixtures("later")
def test_an_older_database_is_refused_then_upgraded_and_used(
    engine: Engine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(engine, SMALL)
    monkeypatch.setattr(schema, "SCHEMA_REVISION", "9002")
    refused = f"at migration {SCHEMA_REVISION}, this package needs 9002: run `recommender db up"
    with engine.connect() as connection, pytest.raises(SchemaOutOfDate, match=refused):
        check_schema(connection)
    upgrade(database)
    with engine.connect() as connection:
        check_schema(connection)
    page = run_transaction(engine, lambda s: recommender.for_you(s, "ana", limit=5))
    first = page.items[0].video
    run_transaction(engine, lambda s: recommender.record(s, "ana", first, "like"))
    counted = len(read(engine, models.EventRow.key))
    assert recommender.refresh(engine).events == counted
    assert rows(database, "SELECT count(*) FROM rec_feed_items") == [(5,)]


class Writers:
    """Four people who go on recording, and what they were told."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.acknowledged: list[tuple[int, str]] = []
        self.errors: Counter[str] = Counter()
        self._stop = threading.Event()

    def write(self, number: int) -> None:
        """Record one event after another, each until it is acknowledged or refused."""
        for turn in range(1_000_000):
            if self._stop.is_set():
                return
            self._record(number, f"{number}-{turn}")
            time.sleep(0.002)

    def _record(self, number: int, key: str) -> None:
        def unit(session: Session) -> None:
            recommender.record(session, f"u{number}", f"v{number}", "share", key=key, at=NOON)

        try:
            run_transaction(self.engine, unit, settings=Settings(tries=20))
        except RecommenderError as error:
            self.errors[type(error).__name__] += 1
        else:
            self.acknowledged.append((number, key))

    def wait_for(self, many: int) -> None:
        """Wait until so many more were answered, well or not."""
        until = self.answered() + many
        while self.answered() < until:
            time.sleep(0.001)

    def answered(self) -> int:
        """How many were answered so far."""
        return len(self.acknowledged) + self.errors.total()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """All four write meanwhile."""
        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(self.write, number) for number in range(4)]
            try:
                self.wait_for(20)
                yield
                self.wait_for(20)
            finally:
                self._stop.set()
            for each in running:
                each.result()


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who clashed with others tries again soon."""
    monkeypatch.setattr(transactions, "_delay", lambda _attempt: 0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("later", "_short_waits")
def test_writers_notice_nothing_of_later_migrations(engine: Engine, database: str) -> None:
    people(engine, 4, 4)
    writers = Writers(engine)
    with writers.at_work():
        for _ in range(2):
            upgrade(database)
            writers.wait_for(20)
            downgrade(database, SCHEMA_REVISION)
    assert writers.errors == {}
    logged = [key for (key,) in read(engine, models.EventRow.key)]
    assert logged == sorted(key for _, key in writers.acknowledged)
    shared = dict(rows(database, "SELECT user_id, shares FROM rec_interactions"))
    told = Counter(number for number, _ in writers.acknowledged)
    assert sorted(shared.values()) == sorted(told.values())


@pytest.mark.slow
@pytest.mark.usefixtures("_short_waits")
def test_writers_are_told_what_it_is_while_the_tables_are_away(
    engine: Engine, database: str
) -> None:
    people(engine, 4, 4)
    writers = Writers(engine)
    with writers.at_work():
        downgrade(database)
        writers.wait_for(20)
        upgrade(database)
    assert writers.errors.keys() == {SchemaOutOfDate.__name__, UnknownUser.__name__}
    people(engine, 4, 4)
    migrations.check(engine)
    writers = Writers(engine)
    with writers.at_work():
        pass
    assert writers.errors == {}
    assert len(read(engine, models.EventRow.key)) == len(writers.acknowledged)


@pytest.mark.slow
def test_who_writes_and_who_takes_the_tables_away_do_not_wait_for_each_other(
    new_database: Callable[..., str],
) -> None:
    url = new_database("postgresql")
    bind = create_engine(url)
    people(bind, 1, 1)
    waiting = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
    with ThreadPoolExecutor(1) as threads, Session(bind) as session:
        session.execute(sa.text("SELECT id FROM rec_users WHERE key = 'u0' FOR UPDATE"))
        taken = threads.submit(downgrade, url, migration_lock_timeout=60, tries=1)
        while rows(url, waiting) != [(1,)]:
            time.sleep(0.01)
        recommender.record(session, "u0", "v0", "share")
        session.commit()
        taken.result()
    assert tables(url) == {VERSION_TABLE}
    bind.dispose()


@contextmanager
def held(url: str) -> Iterator[Callable[[], None]]:
    """A transaction that a migration must wait for; what it gives ends it."""
    bind = create_engine(url)
    with (writing(bind) if url.startswith("sqlite") else bind).connect() as connection:
        connection.execute(sa.text("SELECT 1 FROM rec_events"))
        yield connection.rollback
    bind.dispose()


@pytest.mark.usefixtures("later")
def test_a_migration_lets_others_pass_and_tries_again(
    engine: Engine, database: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(engine, 4, 4)
    waits = []
    with held(database) as release:

        def wait(attempt: int) -> float:
            if kind == "postgresql":  # who writes need not wait for who reads
                Writers(engine)._record(0, f"meanwhile-{attempt}")
            if attempt == 1:
                release()
            waits.append(attempt)
            return 0.0

        monkeypatch.setattr(transactions, "_delay", wait)
        upgrade(database, migration_lock_timeout=0.05, busy_timeout=0.05)
    assert waits == [0, 1]
    assert rows(database, "SELECT * FROM rec_alembic_version") == [("9002",)]
    meanwhile = ["meanwhile-0", "meanwhile-1"] if kind == "postgresql" else []
    assert [key for (key,) in read(engine, models.EventRow.key)] == meanwhile


@pytest.mark.slow
@pytest.mark.usefixtures("later")
def test_a_migration_gives_up_after_its_tries(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(transactions, "_delay", lambda attempt: waits.append(attempt) or 0.0)
    before = catalogue(database)
    with held(database), pytest.raises(DatabaseBusy):
        upgrade(database, migration_lock_timeout=0.05, busy_timeout=0.05, tries=3)
    assert waits == [0, 1]
    assert catalogue(database) == before


KILLED = """
import os, signal, sys
from pathlib import Path
import sqlalchemy as sa
from recommender.database import migrations as schema
from recommender.settings import Settings

schema.migrations_folder = lambda: Path(sys.argv[1])
left = 0


def count(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)


for name in ("before_cursor_execute", "commit"):
    sa.event.listen(sa.Engine, name, count)
for line in sys.stdin:
    url, _, point = line.strip().rpartition("#")
    child = os.fork()
    if not child:
        left = int(point)
        schema.upgrade(url)
        os._exit(-left)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def killer(folder: Path) -> Iterator[Callable[[str, int], int]]:
    """Upgrades a database in a process that is killed at a statement or commit, counted from 1.

    It gives -9; or, where the point is 0 and nothing is killed, how many points there were.
    """
    command = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def upgrade_until(url: str, point: int) -> int:
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{url}#{point}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield upgrade_until


@pytest.mark.slow
def test_an_upgrade_that_is_killed_at_any_statement_goes_on(database: str, later: Path) -> None:
    at = {}
    for revision in (SCHEMA_REVISION, "9001", "9002"):
        upgrade(database, revision)
        at[revision] = catalogue(database)
    seen = []
    with killer(later) as upgrade_until:
        downgrade(database, SCHEMA_REVISION)
        for point in range(1, 1 + upgrade_until(database, 0)):
            downgrade(database, SCHEMA_REVISION)
            assert upgrade_until(database, point) == -signal.SIGKILL
            ((revision,),) = rows(database, "SELECT version_num FROM rec_alembic_version")
            seen.append(revision)
            assert columns(catalogue(database)) == columns(at[revision])
            upgrade(database)
            assert catalogue(database) == at["9002"]
    assert seen == sorted(seen)
    assert set(seen) == {SCHEMA_REVISION, "9001"}


def columns(found: dict[str, list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """The columns of tables, without those of indexes that SQLite lists as well."""
    return [row for row in found["columns"] if row[0] in Base.metadata.tables]


@pytest.mark.slow
def test_a_first_upgrade_that_is_killed_leaves_nothing_behind(
    empty_database: str, migrations_copy: Path, database: str
) -> None:
    with killer(migrations_copy) as upgrade_until:
        assert upgrade_until(empty_database, 40) == -signal.SIGKILL
    assert {name for name in tables(empty_database) if name.startswith(PREFIX)} == set()
    upgrade(empty_database)
    assert catalogue(empty_database) == catalogue(database)


@pytest.mark.slow
def test_an_index_whose_making_was_interrupted_is_made_anew(
    new_database: Callable[..., str], later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database("postgresql")
    upgrade(url, "9001")
    monkeypatch.setattr(schema, "SCHEMA_REVISION", "9001")
    bind = create_engine(url)
    index = (
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('rec_events_video_id_ix')"
    )
    with psycopg.connect(url) as writer:
        writer.execute("LOCK TABLE rec_events IN ROW EXCLUSIVE MODE")
        code = f"import sys; {SECOND_UPGRADE}"
        process = subprocess.Popen([sys.executable, "-c", code, str(later), url])
        while rows(url, index) != [(False,)]:
            time.sleep(0.01)
        process.kill()
        process.wait()
        (found,) = (each for each in diagnose(bind) if each.check == "indexes")
        assert (found.ok, found.found) == (False, "rec_events_video_id_ix is invalid")
    upgrade(url)
    assert rows(url, index) == [(True,)]
    assert rows(url, "SELECT * FROM rec_alembic_version") == [("9002",)]
    bind.dispose()


SECOND_UPGRADE = """
from pathlib import Path; from recommender.database import migrations as schema
from recommender.settings import Settings
schema.migrations_folder = lambda: Path(sys.argv[1])
schema.upgrade(sys.argv[2], settings=Settings(migration_lock_timeout=600))
"""


@pytest.mark.slow
def test_the_printed_sql_goes_down_as_well(database: str) -> None:
    printed = alembic(database, "downgrade", f"{SCHEMA_REVISION}:base", "--sql")
    if database.startswith("sqlite"):
        bind = create_engine(database)
        raw = bind.raw_connection()
        raw.cursor().executescript(printed)
        raw.close()
        bind.dispose()
    else:
        with psycopg.connect(database, autocommit=True) as server:
            server.execute(printed.encode())
    assert {name for name in tables(database) if name.startswith(PREFIX)} <= {VERSION_TABLE}


@pytest.mark.slow
def test_the_printed_sql_waits_for_tables_no_longer_than_an_upgrade() -> None:
    printed = alembic("postgresql://", "upgrade", "head", "--sql")
    assert printed.index("SET lock_timeout = 4000;") < printed.index("CREATE TABLE rec_users")
    assert printed.rindex("ALTER TABLE") < printed.index("RESET lock_timeout;")


REBUILT = '''
from recommender.models import Follow, User


def rebuilt(model, table):
    """The table, made anew as the models say it is, with its rows."""
    whole = model.__table__.to_metadata(sa.MetaData())
    with op.batch_alter_table(table, recreate="always", copy_from=whole):
        pass


def upgrade() -> None:
    rebuilt(User, "rec_users")
    rebuilt(Follow, "rec_follows")


def downgrade() -> None:
    pass
'''


def test_a_table_that_is_rebuilt_on_sqlite_keeps_all_that_it_had(
    new_database: Callable[..., str], migrations_copy: Path
) -> None:
    url = new_database("sqlite")
    fill_few(url)
    add_migration(migrations_copy, "9001", SCHEMA_REVISION, REBUILT)
    schema_before, rows_before = catalogue(url), checksums(url)
    assert rows_before["rec_follows"][0] > 50
    upgrade(url)
    assert catalogue(url) == schema_before
    assert checksums(url) == rows_before
    assert violations(url) == []


def fill_few(url: str) -> None:
    """A small world."""
    bind = create_engine(url)
    load(bind, SMALL)
    bind.dispose()


LOSING = """
def upgrade() -> None:
    op.execute("DELETE FROM rec_users WHERE key = 'ana'")


def downgrade() -> None:
    pass
"""


def test_a_migration_that_leaves_references_to_nothing_is_refused(
    database: str, migrations_copy: Path
) -> None:
    fill_few(database)
    add_migration(migrations_copy, "9001", SCHEMA_REVISION, LOSING)
    before = checksums(database)
    with pytest.raises(RecommenderError):
        upgrade(database)
    assert checksums(database) == before
    assert rows(database, "SELECT * FROM rec_alembic_version") == [(SCHEMA_REVISION,)]


def test_an_upgrade_that_has_nothing_to_do_refuses_nothing(
    new_database: Callable[..., str],
) -> None:
    url = new_database("sqlite")
    other = sqlite3.connect(url.removeprefix("sqlite:///"))  # without foreign keys, as it is
    other.execute("INSERT INTO rec_follows (user_id, creator_id) VALUES (7, 8)")
    other.commit()
    other.close()
    upgrade(url)
    assert len(violations(url)) == 2


@pytest.mark.usefixtures("later")
def test_a_hosts_own_references_to_nothing_are_the_hosts(new_database: Callable[..., str]) -> None:
    url = new_database("sqlite")
    host = sqlite3.connect(url.removeprefix("sqlite:///"))  # without foreign keys, as it is
    host.execute("CREATE TABLE host (id integer PRIMARY KEY, other integer REFERENCES host)")
    host.execute("INSERT INTO host VALUES (1, 7)")
    host.execute("CREATE TABLE hosts_other (name text REFERENCES host (no_column))")
    host.commit()
    host.close()
    upgrade(url)
    assert rows(url, "SELECT * FROM rec_alembic_version") == [("9002",)]
    assert len(rows(url, "PRAGMA foreign_key_check(host)")) == 1
