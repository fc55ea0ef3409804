"""Worker processes that tests start, and what they do to the rows of a refresh."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from recommender import record, upsert_users, upsert_videos
from recommender.models.tables import LEARNING_STATE, PENDING
from tests.support.prose import ROOT

SECONDS = 60
"""The longest wait for something to happen."""

WAITING = sa.text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND query LIKE '%rec_learning_state%'
""")


@contextlib.contextmanager
def worker(arguments: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python process whose output goes to a file; kill it in the end."""
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(is_true: Callable[[], bool], log: Path) -> None:
    """Wait until a condition holds; fail with the workers' log if it does not in a minute."""
    end = time.monotonic() + SECONDS
    while not is_true():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def record_pending(engine: Engine) -> None:
    """Record an event that no refresh has counted."""
    published_at = datetime.now(UTC) - timedelta(days=1)
    with Session(engine) as session, session.begin():
        upsert_users(session, [{"id": "ana"}])
        upsert_videos(session, [{"id": "v1", "creator": "ben", "published_at": published_at}])
        record(session, "ana", "v1", "watch", completion=1.0)


def count_pending(engine: Engine) -> int:
    """Return the number of events that no refresh has counted."""
    return count(engine, sa.select(sa.func.count()).select_from(PENDING))


def count(engine: Engine, statement: sa.Executable) -> int:
    """Return the number that a statement reads."""
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


@contextlib.contextmanager
def refresh_halted(engine: Engine) -> Iterator[Connection]:
    """Lock the learning state, so that every refresh stops in its first transaction."""
    with engine.begin() as connection:
        connection.execute(sa.select(LEARNING_STATE.c.id).with_for_update())
        yield connection


def count_at_work(engine: Engine) -> int:
    """Return the number of refreshes that wait for the learning state."""
    return count(engine, WAITING)
