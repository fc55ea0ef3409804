"""Engines, transactions, driver errors and settings, on both databases."""

from __future__ import annotations

import asyncio
import math
import socket
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from recommender import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseUnreachable,
    InvalidValue,
    NotPermitted,
    PoolTimeout,
    QueryTimeout,
    RecommenderError,
    SchemaOutOfDate,
    StorageFailure,
    for_you,
    upgrade,
)
from recommender.database import migrations
from recommender.database.engine import (
    create_engine,
    database_url,
    prepare_engine,
)
from recommender.database.transactions import WRITE, run_transaction, translate_errors, writing
from recommender.database.written_out import AS_POSITIONAL
from recommender.settings import Settings, configured_url, variable_of

SECRET = "hunter" + "2"
NEW_USER = sa.text("INSERT INTO rec_users (key) VALUES (:key)")
CLASHES = ("40001", "40P01", "55P03")


def keys(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT key FROM rec_users ORDER BY key")))


def scalar(engine: Engine, statement: str) -> Any:
    with engine.connect() as connection:
        return connection.scalar(sa.text(statement))


def file_of(engine: Engine) -> str:
    return str(engine.url.database)


@pytest.fixture
def new_engine(database: str) -> Iterator[Callable[..., Engine]]:
    """Makes an engine with other settings on the test's database."""
    made = []

    def new(**given: Any) -> Engine:
        made.append(create_engine(database, settings=Settings(**given)))
        return made[-1]

    yield new
    for engine in made:
        engine.dispose()


@pytest.fixture
def sqlite_engine(new_database: Callable[..., str]) -> Iterator[Engine]:
    engine = create_engine(new_database("sqlite"), settings=Settings(busy_timeout=0))
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_engine(new_database: Callable[..., str]) -> Iterator[Engine]:
    engine = create_engine(new_database("postgresql"))
    yield engine
    engine.dispose()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that retries would have waited."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("name", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_name_of_postgresql_means_psycopg(name: str) -> None:
    url = f"{name}://somebody@host:5433/base?sslmode=require"
    expected = "postgresql+psycopg://somebody@host:5433/base?sslmode=require"
    assert str(database_url(url)) == expected
    assert create_engine(url).dialect.driver == "psycopg"


@pytest.mark.parametrize("url", ["sqlite:///a.db", "sqlite+pysqlite:////a/b.db", "sqlite://"])
def test_a_url_of_sqlite_is_kept(url: str) -> None:
    assert str(database_url(url)) == url


@pytest.mark.parametrize(
    "url",
    [
        "", "garbage", "recommender.db", "postgresql", "postgresql//u:{}@host/base",
        "mysql://u:{}@host/base", "oracle://u:{}@host", "none://u:{}@host",
        "postgresql+psycopg2://u:{}@host/base", "postgresql+asyncpg://u:{}@host/base",
        "postgresql+psycopg_async://u:{}@host/base", "postgresql+none://u:{}@host/base",
        "sqlite+aiosqlite:///a.db", "sqlite+none:///a.db", "sqlite://u:{}@host/a.db",
        "postgresql://u:{}@host:port/base", "postgresql://u:{}@host/base?port=x",
    ],
)  # fmt: skip
def test_another_database_driver_or_form_is_refused(url: str) -> None:
    secret_url = url.replace("{}", SECRET)
    for make in (
        lambda: create_engine(secret_url),
        lambda: migrations.upgrade(secret_url),
    ):
        with pytest.raises(InvalidValue, match=r"^database URL: ") as caught:
            make()
        assert SECRET not in everything_said(caught.value)


def everything_said(error: BaseException) -> str:
    return "".join((repr(error), *traceback.format_exception(error)))


def test_no_error_and_no_repr_holds_the_password(closed_port: int) -> None:
    url = f"postgresql://somebody:{SECRET}@127.0.0.1:{closed_port}/base"
    engine = create_engine(url)
    with pytest.raises(DatabaseUnreachable) as caught, translate_errors():
        engine.connect()
    said = (everything_said(caught.value), repr(engine), str(engine.url))
    assert [text for text in said if SECRET in text] == []
    assert engine.url.password == SECRET


def test_no_error_holds_the_values_of_a_statement(engine: Engine) -> None:
    def twice(session: Session) -> None:
        for _ in range(2):
            add_user(session, SECRET)

    with pytest.raises(RecommenderError) as caught:
        run_transaction(engine, twice)
    assert SECRET not in str(caught.value)
    unknown = sa.text("SELECT :value FROM nowhere").bindparams(value=SECRET)
    with pytest.raises(RecommenderError) as caught:
        run_transaction(engine, lambda session: session.execute(unknown))
    assert SECRET not in everything_said(caught.value)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


PRAGMAS = {
    "journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 1_500, "synchronous": 1,
    "wal_autocheckpoint": 16_000,
}  # fmt: skip


def test_sqlite_connects_with_wal_foreign_keys_and_a_busy_timeout(tmp_path: Path) -> None:
    settings = Settings(busy_timeout=1.5)
    engine = create_engine(f"sqlite:///{tmp_path}/new.db", settings=settings)
    assert {name: scalar(engine, f"PRAGMA {name}") for name in PRAGMAS} == PRAGMAS
    with engine.connect(), engine.connect() as second:
        assert second.scalar(sa.text("PRAGMA foreign_keys")) == 1
    engine.dispose()


def test_a_hosts_own_sqlite_engine_is_prepared_in_place(tmp_path: Path) -> None:
    mine = sa.create_engine(f"sqlite:///{tmp_path}/new.db")
    assert prepare_engine(mine, settings=Settings(busy_timeout=1.5)) is mine
    assert {name: scalar(mine, f"PRAGMA {name}") for name in PRAGMAS} == PRAGMAS
    mine.dispose()


def test_an_engine_may_be_prepared_twice(sqlite_engine: Engine) -> None:
    prepare_engine(sqlite_engine, settings=Settings(busy_timeout=7))
    assert scalar(sqlite_engine, "PRAGMA busy_timeout") == 7_000


def can_write(path: str) -> bool:
    """Whether another connection could begin to write now."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        other.execute("ROLLBACK")
        return True


def test_a_unit_that_writes_takes_the_lock_before_its_first_statement(
    sqlite_engine: Engine,
) -> None:
    path = file_of(sqlite_engine)
    with writing(sqlite_engine).begin():
        assert not can_write(path)
    with sqlite_engine.begin() as reading:
        reading.execute(sa.text("SELECT count(*) FROM rec_users"))
        assert can_write(path)
    assert run_transaction(sqlite_engine, can_write_while_open, write=True) is False
    assert run_transaction(sqlite_engine, can_write_while_open, write=False) is True


def can_write_while_open(session: Session) -> bool:
    return can_write(str(session.connection().engine.url.database))


def test_a_reader_sees_one_state_while_another_writes(sqlite_engine: Engine) -> None:
    count = sa.text("SELECT count(*) FROM rec_users")
    with sqlite_engine.begin() as reader:
        assert reader.scalar(count) == 0
        run_transaction(sqlite_engine, add_user)
        assert reader.scalar(count) == 0
    assert keys(sqlite_engine) == ["somebody"]


def add_user(session: Session, key: str = "somebody") -> str:
    session.execute(NEW_USER, {"key": key})
    return key


@pytest.mark.parametrize("prepared", ["engine", "own engine"])
def test_a_hosts_session_writes_where_its_engine_says_so(
    sqlite_engine: Engine, prepared: str
) -> None:
    own = prepared == "own engine"
    host = prepare_engine(sa.create_engine(sqlite_engine.url)) if own else sqlite_engine
    with Session(host.execution_options(**{WRITE: True})) as session, session.begin():
        session.connection()
        assert not can_write(file_of(host))
    with Session(host) as session, session.begin():
        session.connection()
        assert can_write(file_of(host))
    host.dispose()


@pytest.mark.parametrize("write", [True, False])
def test_tables_made_in_a_transaction_go_with_it(new_database: Any, kind: str, write: Any) -> None:
    engine = create_engine(new_database(kind, migrated=False))
    unit = writing(engine) if write else engine
    with unit.connect() as connection:
        connection.execute(sa.text("CREATE TABLE made (id integer)"))
        connection.execute(sa.text("INSERT INTO made VALUES (1)"))
        connection.rollback()
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_connection_that_is_closed_lets_others_write(sqlite_engine: Engine) -> None:
    """Whoever still holds a cursor, as the traceback of a cancelled task does."""
    held = sqlite_engine.raw_connection()
    driver: Any = held.driver_connection
    driver.execute("BEGIN IMMEDIATE")
    driver.execute("INSERT INTO rec_users (key) VALUES ('a'), ('b')")
    cursor = driver.execute("SELECT key FROM rec_users")
    assert (cursor.fetchone(), can_write(file_of(sqlite_engine))) == (("a",), False)
    held.invalidate()
    assert can_write(file_of(sqlite_engine))
    assert keys(sqlite_engine) == []


def test_an_async_engine_is_prepared_alike(sqlite_engine: Engine) -> None:
    path = file_of(sqlite_engine)

    async def check() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        assert prepare_engine(engine, settings=Settings(busy_timeout=1.5)) is engine
        async with engine.connect() as connection:
            found = {name: await connection.scalar(sa.text(f"PRAGMA {name}")) for name in PRAGMAS}
            assert found == PRAGMAS
            assert can_write(path)
        async with AsyncSession(engine.execution_options(**{WRITE: True})) as session:
            await session.connection()
            assert not can_write(path)
            await session.run_sync(add_user)
            await session.rollback()
            await session.run_sync(add_user, "kept")
            await session.commit()
        await engine.dispose()

    asyncio.run(check())
    assert keys(sqlite_engine) == ["kept"]


def test_postgresql_connects_with_its_time_limits_in_utc_and_plans_once(
    new_database: Callable[..., str],
) -> None:
    settings = Settings(statement_timeout=1.5, lock_timeout=2, idle_timeout=3)
    url = f"{new_database('postgresql')}?options=-c%20work_mem%3D8MB"
    engine = create_engine(url, settings=settings)
    expected = {
        "statement_timeout": "1500ms",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "3s",
        "TimeZone": "UTC",
        "jit": "off",
        "plan_cache_mode": "force_generic_plan",
        "application_name": "recommender",
        "work_mem": "8MB",
    }
    with engine.connect() as connection:
        shown = {n: connection.scalar(sa.select(sa.func.current_setting(n))) for n in expected}
    assert shown == expected
    engine.dispose()


def test_the_pool_is_as_the_settings_say(new_engine: Callable[..., Engine]) -> None:
    engine = new_engine(pool_size=2, max_overflow=1, pool_timeout=0.1)
    held = [engine.connect() for _ in range(3)]
    with pytest.raises(PoolTimeout, match="pool_size"), translate_errors():
        engine.connect()
    with pytest.raises(PoolTimeout):
        run_transaction(engine, add_user)
    for connection in held:
        connection.close()
    assert run_transaction(engine, add_user) == "somebody"


def test_a_database_in_memory_is_one_for_all_connections() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE made (id integer)"))
    assert sa.inspect(engine).get_table_names() == ["made"]
    engine.dispose()


def test_a_transaction_commits_and_gives_what_its_function_returned(engine: Engine) -> None:
    assert run_transaction(engine, lambda session: add_user(session, "kept")) == "kept"
    assert keys(engine) == ["kept"]


def test_a_transaction_is_rolled_back_where_its_function_fails(engine: Engine) -> None:
    tried = []

    def fail(session: Session) -> None:
        tried.append(add_user(session))
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run_transaction(engine, fail)
    assert (tried, keys(engine), engine.pool.checkedout()) == (["somebody"], [], 0)


def raise_state(session: Session, state: str) -> None:
    """Let PostgreSQL fail with a SQLSTATE."""
    session.execute(sa.select(sa.func.set_config("test.state", state, True)))  # noqa: FBT003
    session.execute(
        sa.text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = current_setting('test.state'); END $$")
    )


def disconnect(session: Session) -> None:
    session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))


class Unit:
    """A function that adds a user and fails so many times first."""

    def __init__(self, fail: Callable[[Session], object] = disconnect, times: float = 0) -> None:
        self.fail = fail
        self.times = times
        self.calls = 0

    def __call__(self, session: Session) -> str:
        self.calls += 1
        add_user(session)
        if self.calls <= self.times:
            self.fail(session)
        return f"call {self.calls}"


@pytest.mark.parametrize("clash", [*CLASHES, "disconnect"])
def test_a_clash_runs_the_whole_function_again(
    postgres_engine: Engine, waits: list[float], clash: str
) -> None:
    lost = clash == "disconnect"
    unit = Unit(disconnect if lost else lambda session: raise_state(session, clash), times=4)
    assert run_transaction(postgres_engine, unit, settings=Settings(tries=5)) == "call 5"
    assert (unit.calls, len(waits), keys(postgres_engine)) == (5, 4, ["somebody"])


def test_a_busy_sqlite_runs_the_whole_function_again(
    sqlite_engine: Engine, waits: list[float]
) -> None:
    calls = []

    def read_then_write(session: Session) -> None:
        calls.append(session.scalar(sa.text("SELECT count(*) FROM rec_users")))
        if len(calls) < 3:
            run_transaction(sqlite_engine, lambda other: add_user(other, f"other {len(calls)}"))
        add_user(session)

    run_transaction(sqlite_engine, read_then_write, write=False, settings=Settings(tries=3))
    assert (calls, len(waits)) == ([0, 1, 2], 2)
    assert keys(sqlite_engine) == ["other 1", "other 2", "somebody"]


def test_a_unit_that_cannot_begin_to_write_begins_again(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(file_of(sqlite_engine), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(time, "sleep", lambda _: other.execute("ROLLBACK"))
        unit = Unit()
        assert run_transaction(sqlite_engine, unit) == "call 2"
    assert keys(sqlite_engine) == ["somebody"]


def test_a_row_that_does_not_come_free_is_waited_for_again(
    new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(new_database("postgresql"), settings=Settings(lock_timeout=0.05))
    with engine.connect() as other:
        other.execute(NEW_USER, {"key": "somebody"})
        monkeypatch.setattr(time, "sleep", lambda _: other.rollback())
        unit = Unit()
        assert run_transaction(engine, unit) == "call 2"
    engine.dispose()


@pytest.mark.parametrize("tries", [1, 3])
@pytest.mark.parametrize(
    ("clash", "error"),
    [
        *((state, DatabaseBusy) for state in CLASHES),
        ("57P01", DatabaseUnreachable),
        ("08006", DatabaseUnreachable),
    ],
)
def test_a_clash_on_every_try_ends_with_the_drivers_error_as_its_cause(
    postgres_engine: Engine,
    waits: list[float],
    clash: str,
    error: type[RecommenderError],
    tries: int,
) -> None:
    unit = Unit(lambda session: raise_state(session, clash), times=math.inf)
    with pytest.raises(error) as caught:
        run_transaction(postgres_engine, unit, settings=Settings(tries=tries))
    cause: Any = caught.value.__cause__
    assert cause.orig.sqlstate == clash
    assert (unit.calls, len(waits), keys(postgres_engine)) == (tries, tries - 1, [])
    assert postgres_engine.pool.checkedout() == 0


def test_a_sqlite_that_stays_busy_ends_with_the_drivers_error_as_its_cause(
    sqlite_engine: Engine, waits: list[float]
) -> None:
    unit = Unit()
    with writing(sqlite_engine).begin(), pytest.raises(DatabaseBusy) as caught:
        run_transaction(sqlite_engine, unit, settings=Settings(tries=3))
    cause: Any = caught.value.__cause__
    assert cause.orig.sqlite_errorname == "SQLITE_BUSY"
    assert (unit.calls, len(waits), caught.value.exit_code) == (3, 2, 1)


def test_a_write_after_a_read_on_sqlite_says_how_to_begin(sqlite_engine: Engine) -> None:
    with Session(sqlite_engine) as session:
        session.execute(sa.text("SELECT key FROM rec_users")).all()
        with writing(sqlite_engine).begin() as other:
            other.execute(NEW_USER, {"key": "other"})
        with pytest.raises(DatabaseBusy, match=r"recommender_write=True"), translate_errors():
            session.execute(NEW_USER, {"key": "own"})


def test_waits_grow_and_stay_below_ten_seconds(postgres_engine: Engine, waits: list[float]) -> None:
    unit = Unit(lambda session: raise_state(session, "40001"), times=9)
    run_transaction(postgres_engine, unit, settings=Settings(tries=10))
    growing = [0.1, 0.4, 1.6, 6.4, 10, 10, 10, 10, 10]
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, growing, strict=True))
    assert len(set(waits)) == len(waits)


@pytest.mark.parametrize("state", ["23514", "22003", "42601", "23505", "22P02", "57014"])
def test_what_would_fail_again_is_not_tried_again(
    postgres_engine: Engine, waits: list[float], state: str
) -> None:
    unit = Unit(lambda session: raise_state(session, state), times=math.inf)
    with pytest.raises(RecommenderError) as caught:
        run_transaction(postgres_engine, unit)
    cause: Any = caught.value.__cause__
    assert (cause.orig.sqlstate, unit.calls, waits) == (state, 1, [])


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO rec_users (key) VALUES ('')",
        "INSERT INTO rec_users (key) VALUES (NULL)",
        "SELEC 1",
        "SELECT 1 FROM nowhere",
        "INSERT INTO rec_follows (user_id, creator_id) VALUES (998, 999)",
    ],
)
def test_a_statement_that_the_database_refuses_is_sent_once(
    engine: Engine, waits: list[float], statement: str
) -> None:
    unit = Unit(lambda session: session.execute(sa.text(statement)), times=math.inf)
    with pytest.raises(RecommenderError) as caught:
        run_transaction(engine, unit)
    assert isinstance(caught.value.__cause__, sa.exc.DBAPIError)
    assert (unit.calls, waits, keys(engine)) == (1, [], [])


def at_once(*acts: Callable[[], object]) -> None:
    with ThreadPoolExecutor(len(acts)) as pool:
        for future in [pool.submit(act) for act in acts]:
            future.result(timeout=60)


@pytest.fixture
def counters(engine: Engine) -> Engine:
    """Two rows to count in."""
    with writing(engine).begin() as connection:
        connection.execute(sa.text("CREATE TABLE counters (id integer PRIMARY KEY, x integer)"))
        connection.execute(sa.text("INSERT INTO counters VALUES (1, 0), (2, 0)"))
    return engine


def counts(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT x FROM counters ORDER BY id")))


def increase(session: Session, row: int, by: int = 1) -> None:
    statement = sa.text("UPDATE counters SET x = x + :by WHERE id = :row")
    session.execute(statement, {"row": row, "by": by})


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_two_that_cannot_be_put_in_an_order_both_commit(counters: Engine) -> None:
    serializable = counters.execution_options(isolation_level="SERIALIZABLE")
    met = threading.Barrier(2, timeout=30)
    calls: list[int] = []

    def unit(me: int) -> Callable[[Session], None]:
        def read_then_write(session: Session) -> None:
            total = session.scalar(sa.text("SELECT sum(x) FROM counters"))
            calls.append(me)
            if calls.count(me) == 1:
                met.wait()
            increase(session, me, by=total + 1)

        return read_then_write

    at_once(*(partial(run_transaction, serializable, unit(me)) for me in (1, 2)))
    assert sorted(counts(counters)) == [1, 2]  # one after the other; together it were 1 and 1
    assert len(calls) > 2


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_two_that_wait_for_each_other_both_commit(counters: Engine) -> None:
    met = threading.Barrier(2, timeout=30)
    calls: list[int] = []

    def unit(me: int, other: int) -> Callable[[Session], None]:
        def one_then_the_other(session: Session) -> None:
            session.execute(sa.text("SET LOCAL deadlock_timeout = '50ms'"))
            increase(session, me)
            calls.append(me)
            if calls.count(me) == 1:
                met.wait()
            increase(session, other)

        return one_then_the_other

    at_once(*(partial(run_transaction, counters, unit(*pair)) for pair in ((1, 2), (2, 1))))
    assert counts(counters) == [2, 2]
    assert len(calls) > 2


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_writers_on_sqlite_wait_for_each_other_and_lose_nothing(counters: Engine) -> None:
    start = threading.Barrier(8, timeout=30)

    def read_then_write(session: Session) -> None:
        session.scalar(sa.text("SELECT x FROM counters WHERE id = 1"))
        increase(session, 1)

    def write_25_times() -> None:
        start.wait()
        for _ in range(25):
            run_transaction(counters, read_then_write, settings=Settings(tries=1))

    at_once(*[write_25_times] * 8)
    assert counts(counters) == [200, 0]


def code_of(act: Callable[[], object], error: type[RecommenderError]) -> int:
    """What the command line would exit with."""
    with pytest.raises(error) as caught, translate_errors():
        act()
    assert type(caught.value) is error
    assert isinstance(caught.value.__cause__, sa.exc.SQLAlchemyError)
    return caught.value.exit_code


def connecting(url: str) -> Callable[[], object]:
    def connect() -> None:
        engine = create_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()

    return connect


def test_a_server_that_does_not_answer_is_unreachable(closed_port: int) -> None:
    url = f"postgresql://somebody@127.0.0.1:{closed_port}/base"
    assert code_of(connecting(url), DatabaseUnreachable) == 69


def test_a_database_that_does_not_exist_is_unreachable(
    postgres_server: str, tmp_path: Path
) -> None:
    assert code_of(connecting(f"{postgres_server}/nowhere"), DatabaseUnreachable) == 69
    no_folder = f"sqlite:///{tmp_path}/nowhere/new.db"
    assert code_of(connecting(no_folder), DatabaseUnreachable) == 69


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database " * 100)
    assert code_of(connecting(f"sqlite:///{tmp_path}/text.db"), DatabaseDamaged) == 69


@pytest.mark.parametrize(
    "statement",
    ["SELECT 1 FROM rec_nothing", "SELECT other FROM rec_users", "DELETE FROM rec_nothing",
     "INSERT INTO rec_users (other) VALUES (1)", "UPDATE rec_users SET other = 1"],
)  # fmt: skip
def test_a_missing_table_or_column_means_another_schema(engine: Engine, statement: str) -> None:
    assert code_of(lambda: scalar(engine, statement), SchemaOutOfDate) == 78


def test_a_missing_table_of_the_application_is_no_missing_migration(engine: Engine) -> None:
    for statement in ("SELECT 1 FROM shop_clips", "DELETE FROM shop_rec_clips"):
        expected = pytest.raises(SchemaOutOfDate, match=r"^The database lacks a table of the app")
        with expected, translate_errors():
            scalar(engine, statement)


def test_an_engine_that_was_not_prepared_is_one_clear_error(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path}/a.db")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(RecommenderError, match=r"call recommender\.prepare_engine"):
        run_transaction(engine, lambda session: for_you(session, "a", record=False))
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_another_error_in_a_statement_does_not(engine: Engine) -> None:
    assert code_of(lambda: scalar(engine, "SELECT 'no such table: x' FROM"), RecommenderError) == 1


@pytest.mark.parametrize("state", ["42501", "25006"])
def test_what_a_role_may_not_do_is_not_permitted(postgres_engine: Engine, state: str) -> None:
    unit = Unit(lambda session: raise_state(session, state), times=1)
    assert code_of(lambda: unit_once(postgres_engine, unit), NotPermitted) == 77


def unit_once(engine: Engine, unit: Callable[[Session], object]) -> object:
    with Session(engine) as session:
        return unit(session)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_file_that_is_read_only_is_read_and_not_written(
    sqlite_engine: Engine, journal: str
) -> None:
    run_transaction(sqlite_engine, add_user)
    sqlite_engine.dispose()
    path = file_of(sqlite_engine)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(f"PRAGMA journal_mode = {journal}").fetchone() == (journal,)
    read_only = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert keys(read_only) == ["somebody"]
    assert code_of(lambda: unit_once(read_only, add_user), NotPermitted) == 77
    with pytest.raises(NotPermitted):
        run_transaction(read_only, add_user)
    assert keys(read_only) == ["somebody"]
    read_only.dispose()


def test_a_full_disk_is_a_storage_failure_and_leaves_nothing_half_written(
    sqlite_engine: Engine, waits: list[float]
) -> None:
    def fill(session: Session) -> None:
        session.execute(sa.text("PRAGMA max_page_count = 1"))  # no more than there are
        for number in range(100):
            add_user(session, f"{number:0>250}")

    with pytest.raises(StorageFailure) as caught:
        run_transaction(sqlite_engine, fill)
    assert (caught.value.exit_code, waits, keys(sqlite_engine)) == (74, [], [])
    assert scalar(sqlite_engine, "PRAGMA integrity_check") == "ok"
    sqlite_engine.dispose()  # the cap is the connection's
    assert run_transaction(sqlite_engine, add_user) == "somebody"


def test_a_statement_that_takes_too_long_is_given_up_and_the_connection_stays(
    new_database: Callable[..., str],
) -> None:
    engine = create_engine(new_database("postgresql"), settings=Settings(statement_timeout=0.05))
    pid = sa.text("SELECT pg_backend_pid()")
    with engine.connect() as connection:
        before = connection.scalar(pid)
        with pytest.raises(QueryTimeout) as caught, translate_errors():
            connection.execute(sa.text("SELECT pg_sleep(60)"))
        connection.rollback()
        assert connection.scalar(pid) == before
    assert caught.value.exit_code == 1
    engine.dispose()


def test_another_error_of_the_database_is_told_by_its_code(engine: Engine) -> None:
    code = {"sqlite": "SQLITE_CONSTRAINT_CHECK", "postgresql": "23514"}[engine.dialect.name]
    with pytest.raises(RecommenderError, match=f"refused a statement \\({code}\\)$") as caught:
        run_transaction(engine, lambda session: add_user(session, ""))
    assert type(caught.value) is RecommenderError


def test_other_errors_pass_untranslated() -> None:
    with pytest.raises(KeyError), translate_errors():
        raise KeyError


DEFAULTS = {
    "pool_size": 5,
    "max_overflow": 10,
    "pool_timeout": 30.0,
    "pool_recycle": 1_800,
    "prepare_threshold": 1,
    "durable": 0,
    "connect_timeout": 5,
    "statement_timeout": 15.0,
    "lock_timeout": 10.0,
    "idle_timeout": 60.0,
    "busy_timeout": 20.0,
    "migration_lock_timeout": 4.0,
    "migration_wait": 300.0,
    "batch_size": 10_000,
    "rollup_batch": 10_000,
    "rollup_timeout": 300.0,
    "recent_engagements": 100,
    "neighbours": 100,
    "neighbour_shrinkage": 5.0,
    "neighbour_ridge": 100.0,
    "neighbour_least_weight": 0.005,
    "neighbour_viewers": 5_000,
    "neighbour_growth": 1.2,
    "terms_growth": 1.05,
    "share_prior": 0.3,
    "share_prior_impressions": 100.0,
    "quality_prior": 20.0,
    "affinity_scale": 3.0,
    "collaborative_scale": 0.1,
    "trend_scale": 10.0,
    "trend_peak_share": 0.25,
    "freshness_half_life": 3.0,
    "trial_viewers": 100,
    "trial_days": 7.0,
    "exploration_share": 0.1,
    "creator_damping": 0.9,
    "session_lifetime": 86_400.0,
    "served_again_after": 86_400.0,
    "served_attempts": 3,
    "next_page_means_seen": 1,
    "history": 100,
    "history_scale": 10.0,
    "taste_videos": 50,
    "taste_rejection": 0.3,
    "seen_lately": 50,
    "lately_prior": 30.0,
    "interests": 20,
    "candidates": 720,
    "whole_every": 5,
    "scan_limit": 10_000,
    "suggestion_days": 5,
    "suggestion_memory": 90,
    "common_term": 0.02,
    "fit_ridge": 0.1,
    "fit_least_deviation": 0.001,
    "fit_user_prior": 5.0,
    "fit_held_out": 0.2,
    "fit_candidates": 100,
    "tries": 5,
}


def variable(name: str) -> str:
    return f"RECOMMENDER_{name.upper()}"


def test_the_defaults() -> None:
    assert {each.name: getattr(Settings(), each.name) for each in fields(Settings)} == DEFAULTS
    assert Settings.from_environment({}) == Settings()


def test_every_setting_has_a_sentence_bounds_and_a_variable() -> None:
    for setting in fields(Settings):
        assert setting.metadata["doc"].endswith("."), setting.name
        assert variable_of(setting.name) == variable(setting.name)
        assert setting.metadata["low"] < setting.metadata["high"], setting.name


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_is_read_from_its_variable(name: str) -> None:
    (setting,) = (each for each in fields(Settings) if each.name == name)
    low, high = setting.metadata["low"], setting.metadata["high"]
    written = str(high if isinstance(DEFAULTS[name], int) else float(high))
    read = getattr(Settings.from_environment({variable(name): written}), name)
    assert (read, type(read)) == (high, type(DEFAULTS[name]))
    assert getattr(Settings(**{name: low}), name) == low


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_out_of_its_bounds_is_refused_by_name(name: str) -> None:
    (setting,) = (each for each in fields(Settings) if each.name == name)
    low, high = setting.metadata["low"], setting.metadata["high"]
    for value in (low - 0.001, high + 1, -math.inf, math.inf, math.nan):
        with pytest.raises(InvalidValue, match=f"^{name}: {value} is not between"):
            Settings(**{name: value})
    with pytest.raises(InvalidValue, match=f"^{name}: "):
        Settings.from_environment({variable(name): str(-1)})


@pytest.mark.parametrize("name", [name for name, value in DEFAULTS.items() if type(value) is int])
def test_a_setting_that_counts_is_a_whole_number(name: str) -> None:
    (setting,) = (each for each in fields(Settings) if each.name == name)
    with pytest.raises(InvalidValue, match=f"^{name}: .*5 is not a whole number$"):
        Settings(**{name: setting.metadata["high"] - 0.5})


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("written", ["five", "1,5", "0x10", " "])
def test_what_is_not_a_number_is_refused_by_its_variable(name: str, written: str) -> None:
    kind = "whole number" if type(DEFAULTS[name]) is int else "number"
    with pytest.raises(InvalidValue, match=f"^{variable(name)}: is not a {kind}$"):
        Settings.from_environment({variable(name): written})
    with pytest.raises(InvalidValue, match=f"^{name}: is not a number$"):
        Settings(**{name: written})


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "sqlite:///recommender.db"),
        ({"DATABASE_URL": "b"}, "b"),
        ({"DATABASE_URL": "b", "RECOMMENDER_DATABASE_URL": "a"}, "a"),
        ({"DATABASE_URL": "b", "RECOMMENDER_DATABASE_URL": ""}, "b"),
        ({"DATABASE_URL": "", "RECOMMENDER_DATABASE_URL": ""}, "sqlite:///recommender.db"),
    ],
)
def test_the_database_of_the_environment_is_ours_else_the_hosts(
    environment: dict[str, str], url: str
) -> None:
    assert configured_url(environment) == url


def test_what_is_given_wins_over_the_environment() -> None:
    environment = {"RECOMMENDER_POOL_SIZE": "7", "RECOMMENDER_TRIES": "not read"}
    settings = Settings.from_environment(environment, tries=2, pool_size=None)
    assert (settings.tries, settings.pool_size) == (2, 7)


def test_an_engine_takes_its_settings_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/mine.db")
    monkeypatch.setenv("RECOMMENDER_BUSY_TIMEOUT", "2.5")
    engine = create_engine()
    assert scalar(engine, "PRAGMA busy_timeout") == 2_500
    assert (tmp_path / "mine.db").exists()
    engine.dispose()


@pytest.mark.parametrize(("durable", "synchronous"), [(0, 1), (1, 2)])
def test_commits_on_sqlite_survive_a_power_failure_where_asked(
    tmp_path: Path, durable: int, synchronous: int
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", settings=Settings(durable=durable))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == synchronous
    engine.dispose()


@pytest.mark.parametrize(("threshold", "prepared"), [(0, None), (3, 3)])
def test_statements_are_prepared_or_never(
    new_database: Callable[..., str], threshold: int, prepared: int | None
) -> None:
    settings = Settings(prepare_threshold=threshold)
    engine = create_engine(new_database("postgresql"), settings=settings)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.prepare_threshold == prepared
    engine.dispose()


def test_what_a_url_says_of_its_connection_stands(new_database: Callable[..., str]) -> None:
    engine = create_engine(f"{new_database('postgresql')}?application_name=mine")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW application_name")) == "mine"
        assert connection.scalar(sa.text("SHOW client_encoding")) == "UTF8"
    engine.dispose()


def test_parameters_by_number_are_those_by_name(engine: Engine) -> None:
    values = [sa.bindparam(name, value) for name, value in (("a-b", 5), ("a b", "100%"), ("é", 7))]
    again = sa.bindparam("é", 7)
    statement = sa.select(*values, sa.literal_column("'5%'"), again + sa.bindparam("a-b", 5))
    with engine.connect() as connection:
        rows = [
            tuple(connection.execute(statement, execution_options=options).one())
            for options in ({}, AS_POSITIONAL)
        ]
    assert rows == [(5, "100%", 7, "5%", 12)] * 2
