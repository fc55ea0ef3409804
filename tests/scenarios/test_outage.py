"""Servers that stop, networks that fail, pools that are empty: nothing is lost or stuck."""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from recommender import (
    DatabaseUnreachable,
    Settings,
    cli,
    prepare_engine,
    record,
    refresh,
    run_transaction,
)
from recommender.database import migrations
from recommender.database.engine import create_engine
from recommender.database.transactions import translate_errors
from recommender.models import EventRow, Interaction
from tests.conftest import create_database
from tests.support.kinds import slow_on_postgresql
from tests.support.postgres import Server, own_server
from tests.support.refresh_worlds import check, people, read
from tests.support.worlds import at

WATCHES = 30
"""The smallest number of acknowledged events between two restarts."""


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that tests stop; acknowledged commits survive its crash."""
    with own_server(synchronous_commit="on") as server:
        yield server


@pytest.fixture
def stoppable(own: Server) -> str:
    """The URL of a new, migrated database on that server."""
    if not own.is_running:
        own.start()
    create_database(own.url, "stoppable", "template0")
    url = f"{own.url}/stoppable"
    migrations.upgrade(url)
    return url


@contextmanager
def engine_of(url: str, **settings: Any) -> Iterator[Engine]:
    engine = create_engine(url, settings=Settings(**settings))
    yield engine
    engine.dispose()


def watch(session: Session, number: int, turn: int, minute: int | None = None) -> None:
    user, video, key = f"u{number}", f"v{turn % 6}", f"{number}-{turn}"
    moment = at(turn if minute is None else minute)
    record(session, user, video, "watch", key=key, at=moment, watch_ms=9_999)


@pytest.mark.slow
def test_what_was_acknowledged_across_restarts_is_there_once(own: Server, stoppable: str) -> None:
    acknowledged: list[str] = []
    is_done = False

    def write(engine: Engine, number: int) -> None:
        for turn in count():
            if is_done:
                return
            unit = partial(watch, number=number, turn=turn)
            run_transaction(engine, unit, settings=Settings(tries=20))
            acknowledged.append(f"{number}-{turn}")

    def wait_for_more(writers: list[Future[None]]) -> None:
        enough = len(acknowledged) + WATCHES
        while len(acknowledged) < enough:
            assert not [writer.exception() for writer in writers if writer.done()]
            time.sleep(0.005)

    with engine_of(stoppable) as engine, ThreadPoolExecutor(8) as threads:
        people(engine, 8, 6)
        writers = [threads.submit(write, engine, number) for number in range(8)]
        try:
            for mode in ("fast", "immediate", "immediate"):
                wait_for_more(writers)
                own.stop(mode)
                own.start()
            wait_for_more(writers)
        finally:
            is_done = True
        assert [writer.result() for writer in writers] == [None] * 8
        assert sorted(key for (key,) in read(engine, EventRow.key)) == sorted(acknowledged)
        assert sum(plays for (plays,) in read(engine, Interaction.plays)) == len(acknowledged)
        refresh(engine)
        check(engine)


def test_an_idle_pool_survives_a_restart(own: Server, stoppable: str) -> None:
    with engine_of(stoppable) as engine:
        held = [engine.connect() for _ in range(5)]
        for connection in held:
            connection.close()
        own.stop("fast")
        own.start()
        assert engine.pool.checkedin() == 5  # type: ignore[attr-defined]
        for _ in range(20):
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1


@pytest.mark.slow
def test_check_waits_for_a_server_that_is_starting(
    own: Server, stoppable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own.stop("fast")
    url = stoppable.replace("postgres@", "postgres:s3cret@")
    command = ["db", "check", "--database-url", url, "--wait"]
    assert cli.run([*command, "0.3"]) == 69
    out, said = capsys.readouterr()
    assert (out, said.count("\n")) == ("", 1)
    assert "127.0.0.1" in said
    assert str(own.port) in said
    assert "s3cret" not in said
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(cli.run, [*command, "60"])
        own.start()
        assert waiting.result() == 0
    assert capsys.readouterr().err == "The schema is up to date.\n"


class Proxy:
    """A proxy between clients and a server that can cut or silence connections."""

    def __init__(self, port: int) -> None:
        self.left: float = math.inf
        """The number of bytes from the server after which the connection is cut."""
        self.is_silent = False
        """True to accept clients and send them nothing."""
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [self._start(self._accept)]

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Cut all connections and accept no more."""
        for each in self._sockets:
            _cut(each)
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[..., None], *given: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=given)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                if not self.is_silent:
                    server = socket.create_connection(self._server)
                    self._sockets.append(server)
                    self._threads.append(self._start(self._pass_on, client, server, 0))
                    self._threads.append(self._start(self._pass_on, server, client, 1))

    def _pass_on(self, source: socket.socket, target: socket.socket, counted: int) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self.left -= counted * len(data)
                if self.left < 0:
                    break
                target.sendall(data)
        _cut(source)
        _cut(target)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@pytest.fixture
def proxy(postgres_server: str) -> Iterator[Proxy]:
    made = Proxy(sa.make_url(postgres_server).port or 5432)
    yield made
    made.close()


def through(proxy: Proxy, database: str) -> str:
    url = sa.make_url(database).set(host="127.0.0.1", port=proxy.port)
    return url.render_as_string(hide_password=False)


LONG = sa.text("SELECT repeat('x', 1000) FROM generate_series(1, 1000)")


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize("tries", [1, 2])
def test_a_result_that_is_cut_is_an_error_or_asked_for_again(
    database: str, proxy: Proxy, tries: int
) -> None:
    """A result of a megabyte is cut; its connection does not go back to the pool."""
    calls = 0

    def unit(session: Session) -> int:
        nonlocal calls
        calls += 1
        proxy.left = 500_000 if calls == 1 else math.inf
        return len(session.scalars(LONG).all())

    with engine_of(through(proxy, database)) as engine:
        if tries == 1:
            with pytest.raises(DatabaseUnreachable):
                run_transaction(engine, unit, settings=Settings(tries=1))
        else:
            assert run_transaction(engine, unit, settings=Settings(tries=tries)) == 1000
        assert (calls, checked_out(engine)) == (tries, 0)
        assert run_transaction(engine, unit) == 1000


def checked_out(engine: Engine) -> int:
    """Return the number of connections in use."""
    held: int = engine.pool.checkedout()  # type: ignore[attr-defined]
    return held


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_server_that_says_nothing_is_given_up(database: str, proxy: Proxy) -> None:
    proxy.is_silent = True
    with engine_of(through(proxy, database), connect_timeout=1) as engine:
        with pytest.raises(DatabaseUnreachable), translate_errors():
            engine.connect()
        assert checked_out(engine) == 0
        proxy.is_silent = False
        assert run_transaction(engine, lambda s: s.scalar(sa.text("SELECT 1"))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the names of the options are Linux's")
def test_a_network_that_goes_silent_is_noticed(new_database: Callable[..., str]) -> None:
    """A test cannot lose packets, so this one reads the options of the socket."""
    url = new_database("postgresql")
    told: list[tuple[int, ...]] = []
    for query in ("", "?tcp_user_timeout=7000&keepalives_idle=3"):
        with engine_of(url + query) as engine, engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            with socket.socket(fileno=os.dup(driver.fileno())) as its:
                options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL,
                           socket.TCP_KEEPCNT)  # fmt: skip
                told.append(tuple(its.getsockopt(socket.IPPROTO_TCP, each) for each in options))
    assert told == [(30_000, 15, 5, 3), (7_000, 3, 5, 3)]


@slow_on_postgresql
def test_more_tasks_than_connections_wait_for_one(engine: Engine, database: str) -> None:
    """Fifty threads use five connections."""
    people(engine, 8, 6)
    with engine_of(database, pool_size=5, max_overflow=0) as few:
        most = 0

        def work(turn: int) -> None:
            nonlocal most
            run_transaction(few, lambda session: watch(session, turn % 8, turn))
            most = max(most, few.pool.checkedin() + checked_out(few))  # type: ignore[attr-defined]

        with ThreadPoolExecutor(50) as threads:
            list(threads.map(work, range(50)))
        assert (most <= 5, checked_out(few)) == (True, 0)
    assert len(read(engine, EventRow.key)) == 50


DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg_async"}
TASKS = 100


@pytest.mark.slow  # before 2.1, SQLAlchemy leaves threads and connections of cancelled tasks behind
def test_cancelled_tasks_leave_nothing_behind(engine: Engine, database: str, kind: str) -> None:
    """A cancelled task recorded once or not at all, and holds no connection."""
    people(engine, 8, 6)
    engine.dispose()
    chance = random.Random(23)  # noqa: S311 - not for secrets
    url = sa.make_url(database).set(drivername=DRIVERS[kind])

    async def work(writing: Any, number: int, turn: int) -> str:
        async with AsyncSession(writing) as session, session.begin():
            # Tasks overtake each other, and trends take the event of a pair that arrives first. A
            # pair comes back every 24 turns, always at the same time.
            await session.run_sync(watch, number, turn, turn % 24)
        return f"{number}-{turn}"

    async def run() -> tuple[list[Any], int]:
        bind = prepare_engine(create_async_engine(url, pool_size=5, max_overflow=0))
        writing = bind.execution_options(recommender_write=True)
        tasks = []
        for turn in range(TASKS):
            tasks.append(asyncio.create_task(work(writing, turn % 8, turn)))
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            # No task is cancelled twice: aiosqlite would wait forever for its connection.
            going = [task for task in tasks if not (task.done() or task.cancelling())]
            if going and chance.random() < 0.5:
                chance.choice(going).cancel()
        said = await asyncio.gather(*tasks, return_exceptions=True)
        held = [await bind.connect() for _ in range(5)]
        for connection in held:
            await connection.close()
        stuck: int = bind.pool.checkedout() + idle_in_transaction(engine)  # type: ignore[attr-defined]
        await bind.dispose()
        return said, stuck

    said, stuck = asyncio.run(run())
    done = {each for each in said if isinstance(each, str)}
    others = [each for each in said if not isinstance(each, str)]
    assert [each for each in others if not isinstance(each, asyncio.CancelledError)] == []
    assert stuck == 0
    assert min(len(done), len(others)) > 10
    assert done <= {key for (key,) in read(engine, EventRow.key)}
    refresh(engine)
    check(engine)


def idle_in_transaction(engine: Engine) -> int:
    """Return the number of connections that are idle in a transaction; on SQLite 0."""
    if engine.dialect.name == "sqlite":
        return 0
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state LIKE 'idle in transaction%'"
    )
    with engine.connect() as connection:
        found: int = connection.scalar(query)
        return found
