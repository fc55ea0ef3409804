"""Replicas that lag: each stands still until it is told to catch up."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Protocol

import psycopg

from tests.support.postgres import own_server


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
    for _ in range(1_000):
        if standby.execute(question).fetchone() == (True,):
            return
        time.sleep(0.01)
    raise RuntimeError(f"the standby does not follow: {question}")


@contextmanager
def primary_and_standby() -> Iterator[tuple[str, str]]:
    """Start a server and a streaming standby of it, and yield their URLs without a database."""
    with own_server(synchronous_commit="on") as primary, own_server(primary=primary) as standby:
        yield primary.url, standby.url
