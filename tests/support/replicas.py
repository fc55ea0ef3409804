"""Replicas that lag: each stands still until it is told to catch up."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Protocol

import psycopg

from tests.support.postgres import Server, own_server


class Replica(Protocol):
    """A copy of a database that can be read.

    Attributes:
        url: the URL of the copy.
    """

    url: str

    def catch_up(self) -> None:
        """Copy everything that was committed on the primary until now."""


class CopiedFile:
    """A copy of an SQLite database, as tools make it that ship its log to another machine."""

    def __init__(self, primary_url: str) -> None:
        self._primary = primary_url.removeprefix("sqlite:///")
        self._copy = f"{self._primary}.replica"
        self.url = f"sqlite:///{self._copy}"
        self.catch_up()

    def catch_up(self) -> None:
        """Copy the whole database."""
        source, target = sqlite3.connect(self._primary), sqlite3.connect(self._copy)
        with closing(source), closing(target):
            source.backup(target)


class Standby:
    """A streaming standby of a PostgreSQL server whose replay is paused."""

    def __init__(self, primary_url: str, url: str) -> None:
        self._primary, self.url = primary_url, url
        self.catch_up()

    def catch_up(self) -> None:
        """Replay everything that the primary has written, and pause again."""
        with psycopg.connect(self._primary, autocommit=True) as primary:
            (written,) = primary.execute("SELECT pg_current_wal_lsn()").fetchone() or ()
        server = self.url.rpartition("/")[0]  # the database may be there only after the replay
        with psycopg.connect(f"{server}/postgres", autocommit=True) as standby:
            standby.execute("SELECT pg_wal_replay_resume()")
            _wait(standby, f"SELECT pg_last_wal_replay_lsn() >= '{written}'")
            standby.execute("SELECT pg_wal_replay_pause()")
            _wait(standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'")


def _wait(standby: psycopg.Connection, question: str) -> None:
    wait_for(lambda: standby.execute(question).fetchone() == (True,))


def wait_for(is_done: Callable[[], bool]) -> None:
    """Wait until something is done, ten seconds at most."""
    for _ in range(1_000):
        if is_done():
            return
        time.sleep(0.01)
    raise RuntimeError("it is not done after ten seconds")


@contextmanager
def primary_and_standby() -> Iterator[tuple[str, str]]:
    """Start a server and a streaming standby of it, and yield their URLs without a database."""
    with replicated_servers() as (primary, standby):
        yield primary.url, standby.url


@contextmanager
def replicated_servers(*, is_synchronous: bool = False) -> Iterator[tuple[Server, Server]]:
    """Start a server and a streaming standby of it.

    Args:
        is_synchronous: whether a commit waits until the standby has applied it.
    """
    commit = "remote_apply"  # without a synchronous standby as `on`
    with (
        own_server(synchronous_commit=commit) as primary,
        own_server(primary=primary, synchronous_commit=commit) as standby,
    ):
        if is_synchronous:
            _configure(primary, "synchronous_standby_names", "*")
            _ask(primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
        yield primary, standby


def cut_off(primary: Server, standby: Server) -> None:
    """Give a standby everything that the primary has written, and nothing from now on."""
    with psycopg.connect(f"{primary.url}/postgres") as connection:
        (written,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or ()
    _ask(standby, f"SELECT pg_last_wal_replay_lsn() >= '{written}'")
    _configure(standby, "primary_conninfo", "")
    _ask(standby, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")


def promote(standby: Server) -> None:
    """Make a standby the primary, and wait until it takes writes."""
    _ask(standby, "SELECT pg_promote()")


def _configure(server: Server, name: str, value: str) -> None:
    with psycopg.connect(f"{server.url}/postgres", autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        connection.execute("SELECT pg_reload_conf()")


def _ask(server: Server, question: str) -> None:
    """Wait until the answer of a server is yes."""
    with psycopg.connect(f"{server.url}/postgres", autocommit=True) as connection:
        _wait(connection, question)
