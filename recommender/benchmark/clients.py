"""Measure pages per second for several clients, each of which is a process.

The clients use processor time of the machine too. A client counts its own, and on Linux that of the
server's process that answers it, if PostgreSQL runs on the same machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, count, islice
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import sqlalchemy as sa
from sqlalchemy import Engine

from recommender.benchmark.large_world import LargeWorld
from recommender.benchmark.pages import FOR_YOU, WARM_UP, timed_page
from recommender.benchmark.results import Pages, Times
from recommender.benchmark.sessions import session_pages
from recommender.database.engine import create_engine
from recommender.database.transactions import run_transaction
from recommender.ranking.registry import OURS
from recommender.settings import Settings

FIRST_USUAL = 2
"""The id of the first usual user: user 1 has seen very many videos and is measured alone."""

SERVER = "postgres"
"""The name of a process of PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Client:
    """One of several clients: which database it asks, for whom, and how long.

    Attributes:
        url: the database, with its password.
        settings: the settings of its engine.
        world: the world in the database.
        number: its number, from 0.
        clients: the number of clients.
        seconds: how long it asks for pages.
    """

    url: str
    settings: Settings
    world: LargeWorld
    number: int
    clients: int
    seconds: float

    def viewers(self) -> Iterator[str]:
        """Yield keys of usual users without end, first those that no other client asks for."""
        usual = self.world.users - FIRST_USUAL + 1
        for turn in count():
            yield self.world.user_key(FIRST_USUAL + (self.number + self.clients * turn) % usual)


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one client while all clients asked for pages.

    Attributes:
        times: seconds per page.
        seconds: the whole time, with the swipes.
        client_cpu: processor seconds of the client.
        server_cpu: processor seconds of its server process; None if they are not known.
    """

    times: Sequence[float]
    seconds: float
    client_cpu: float
    server_cpu: float | None


def measure_clients(
    engine: Engine, world: LargeWorld, settings: Settings, clients: int, seconds: float
) -> Pages:
    """Measure pages that several clients ask for at the same time.

    On PostgreSQL each client asks for sessions, and records its pages and swipes. On SQLite it asks
    for previews, because SQLite has one writer at a time.

    Args:
        engine: a prepared engine on a database that holds the world.
        world: the world in the database.
        settings: the settings of the clients' engines.
        clients: the number of clients.
        seconds: how long they ask for pages.

    Raises:
        RecommenderError: a client cannot use the database, such as for want of connections.
    """
    url = engine.url.render_as_string(hide_password=False)
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(clients, mp_context=context) as pool:
        start = manager.Barrier(clients)
        work = _results([
            pool.submit(_run, Client(url, settings, world, number, clients, seconds), start)
            for number in range(clients)
        ])  # fmt: skip
    return Pages(
        FOR_YOU,
        "previews" if engine.dialect.name == "sqlite" else "sessions",
        clients,
        Times.of([page for each in work for page in each.times]),
        round(sum(len(each.times) / each.seconds for each in work), 1),
        client_share(work),
    )


def client_share(work: Sequence[Work]) -> float | None:
    """Return the part of the processor time that the clients used themselves, 0 to 1.

    The rest is the time of the server's processes. None if that time is not known.
    """
    clients, server = 0.0, 0.0
    for each in work:
        if each.server_cpu is None:
            return None
        clients, server = clients + each.client_cpu, server + each.server_cpu
    return round(clients / (clients + server), 3)


def _results(futures: Sequence[Future[Work]]) -> list[Work]:
    """Return the work of all clients; raise the error of the client that failed first."""
    errors = [error for future in futures if (error := future.exception())]
    # The others only report that the start was given up.
    for error in sorted(errors, key=lambda each: isinstance(each, BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def _run(client: Client, start: Barrier) -> Work:
    """Ask for pages, in a process of its own, from the time at which all clients are ready."""
    engine = create_engine(client.url, settings=client.settings, registry=OURS)
    pages = asked_pages(engine, client.viewers())
    try:
        for _ in islice(pages, WARM_UP):
            pass
        process = server_process(engine)
        start.wait()
    except BaseException:
        start.abort()  # or the other clients would wait for this one
        raise
    work = work_on(pages, process, client.seconds)
    engine.dispose()
    return work


def asked_pages(engine: Engine, viewers: Iterator[str]) -> Iterator[float]:
    """Ask for pages for one viewer after another; yield the seconds of each page."""
    if engine.dialect.name == "sqlite":
        return (timed_page(engine, viewer, record=False)[0] for viewer in viewers)
    return chain.from_iterable(session_pages(engine, viewer) for viewer in viewers)


def work_on(pages: Iterator[float], process: int | None, seconds: float) -> Work:
    """Ask for at least one page, and for more until the time is up.

    Args:
        pages: what to ask for.
        process: the id of the server's process; None if there is none.
        seconds: the time.
    """
    client_cpu, server_cpu = time.process_time(), server_seconds(process)
    times, started, elapsed = list[float](), time.perf_counter(), 0.0
    while elapsed < seconds or not times:
        times.append(next(pages))
        elapsed = time.perf_counter() - started
    client_cpu, ended = time.process_time() - client_cpu, server_seconds(process)
    used = None if server_cpu is None or ended is None else ended - server_cpu
    return Work(times, elapsed, client_cpu, used)


def server_process(engine: Engine) -> int | None:
    """Return the id of the process that answers the engine's only connection; None on SQLite."""
    if engine.dialect.name == "sqlite":
        return None
    read = sa.select(sa.func.pg_backend_pid())
    return run_transaction(engine, lambda session: session.scalar(read), write=False)


def server_seconds(process: int | None) -> float | None:
    """Return the processor seconds of a process of PostgreSQL on this machine, as /proc tells them.

    Returns:
        None if there is no such process here: the server runs elsewhere, or this is not Linux.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    name, _, fields = text.partition("(")[2].rpartition(")")  # proc_pid_stat(5)
    if name != SERVER:
        return None
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
