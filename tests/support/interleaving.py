"""Run two operations statement by statement in a given order."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, cycle
from threading import Condition
from types import TracebackType
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import Engine, event

from recommender.database.engine import create_engine

BOTH = (0, 1)
LONGEST = 60.0
"""The number of seconds without progress after which both operations fail."""

Operation = Callable[[Engine], Any]


class Interleaving:
    """Let two operations take turns, each on its own connection.

    An operation stops before every statement and every commit. If it waits for a lock, the other
    one advances. On SQLite, which polls for locks, an operation starts a transaction only when the
    lock is free.
    """

    def __init__(self, database: str) -> None:
        self.steps: list[int] = []
        self._engines = [create_engine(database) for _ in BOTH]
        self._threads = ThreadPoolExecutor(len(BOTH))
        self._changed = Condition()
        self._stopped_at: list[str | None] = [None, None]
        self._are_free = False
        self._pids = [0, 0]
        self._running: list[Future[Any]] = []
        self._on_sqlite = self._engines[0].dialect.name == "sqlite"
        self._watch: Any = (
            sqlite3.connect(str(self._engines[0].url.database), timeout=0, isolation_level=None)
            if self._on_sqlite
            else psycopg.connect(database, autocommit=True)
        )
        for number, engine in enumerate(self._engines):
            event.listen(engine, "before_cursor_execute", partial(self._statement, number))
            event.listen(engine, "commit", partial(self._commit, number))
            event.listen(engine, "checkout", partial(self._checkout, number))

    def __enter__(self) -> Interleaving:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._are_free = True
            self._changed.notify_all()
        self._threads.shutdown()
        self._watch.close()
        for engine in self._engines:
            engine.dispose()

    def run(self, operations: Sequence[Operation], order: Iterable[int]) -> list[Any]:
        """Run both operations to the end and return their results.

        Args:
            operations: two functions that take an engine.
            order: the index of the operation per step, 0 or 1. If that operation cannot advance,
                the other one does. `steps` holds the actual order.
        """
        self.steps = []
        self._stopped_at = [None, None]
        self._running = [
            self._threads.submit(operation, engine)
            for operation, engine in zip(operations, self._engines, strict=True)
        ]
        for future in self._running:
            future.add_done_callback(self._ended)
        for number in chain(order, cycle(BOTH)):
            self._settle()
            if all(future.done() for future in self._running):
                break
            self._go(number)
        return [future.result() for future in self._running]

    def _go(self, wanted: int) -> None:
        """Advance an operation by one step, or the other one if it cannot advance."""
        for number in (wanted, 1 - wanted):
            if (statement := self._stopped_at[number]) and self._can_begin(statement):
                self.steps.append(number)
                with self._changed:
                    self._stopped_at[number] = None
                    self._changed.notify_all()
                return

    def _settle(self) -> None:
        """Wait until both operations have stopped, ended, or wait for a lock."""
        deadline = time.monotonic() + LONGEST
        while not all(self._waits(number) for number in self._going()):
            with self._changed:
                self._changed.wait_for(lambda: not self._going(), timeout=0.002)
            assert time.monotonic() < deadline, f"no operation advances after {self.steps}"

    def _going(self) -> list[int]:
        return [n for n in BOTH if self._stopped_at[n] is None and not self._running[n].done()]

    def _waits(self, number: int) -> bool:
        """Return whether a running operation waits for a lock of the other one."""
        if self._on_sqlite:
            return False
        query = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        (is_blocked,) = self._watch.execute(query, [self._pids[number]]).fetchone()
        return bool(is_blocked)

    def _can_begin(self, statement: str) -> bool:
        """Return whether a statement can run without waiting for the lock of SQLite."""
        if statement != "BEGIN IMMEDIATE":
            return True
        try:
            self._watch.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        self._watch.execute("ROLLBACK")
        return True

    def _statement(self, number: int, _c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self._stop(number, statement)

    def _commit(self, number: int, _connection: sa.Connection) -> None:
        self._stop(number, "COMMIT")

    def _checkout(self, number: int, connection: Any, _record: Any, _proxy: Any) -> None:
        if not self._on_sqlite:
            self._pids[number] = connection.info.backend_pid

    def _stop(self, number: int, statement: str) -> None:
        with self._changed:
            self._stopped_at[number] = statement
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._are_free or self._stopped_at[number] is None)

    def _ended(self, _future: Future[Any]) -> None:
        with self._changed:
            self._changed.notify_all()
