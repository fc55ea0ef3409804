"""Two workers under procrastinate: its lock lets one of them be at work."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from tests.support.kinds import only_postgresql
from tests.support.workers import (
    count,
    count_at_work,
    count_pending,
    record_pending,
    refresh_halted,
    wait_until,
    worker,
)

pytestmark = [pytest.mark.slow, only_postgresql]
pytest.importorskip("procrastinate", reason="needs the extra hosts")

PROGRAM = ["-m", "procrastinate", "--app=tests.hosts.procrastinate_jobs.app"]
RUN = [*PROGRAM, "worker"]
DONE = sa.text("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")
QUEUED = sa.text("""
    SELECT count(*) FROM procrastinate_jobs WHERE queueing_lock = 'refresh' AND status = 'todo'
""")
WORKERS = sa.text("SELECT count(*) FROM procrastinate_workers")
FORGET = sa.text("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")


@pytest.fixture
def variables(database: str, tmp_path: Path) -> dict[str, str]:
    """The environment of the workers: a refresh every second."""
    found = {"DATABASE_URL": database, "REFRESH_CRON": "* * * * * *"}
    with worker([*PROGRAM, "schema", "--apply"], tmp_path / "schema.log", **found) as process:
        assert process.wait() == 0, (tmp_path / "schema.log").read_text()
    return found


def test_one_of_two_workers_is_at_work(
    engine: Engine, variables: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "workers.log"
    record_pending(engine)
    with contextlib.ExitStack() as workers:
        workers.enter_context(worker(RUN, log, **variables))
        with refresh_halted(engine):
            wait_until(lambda: count_at_work(engine) == 1, log)
            workers.enter_context(worker(RUN, log, **variables))
            wait_until(lambda: count(engine, WORKERS) == 2, log)
            wait_until(lambda: count(engine, QUEUED) == 1, log)
            at_work = {count_at_work(engine) for _ in range(500)}
        wait_until(lambda: count_pending(engine) == 0, log)
        wait_until(lambda: count(engine, DONE) > 2, log)
    assert max(at_work) == 1


def test_a_killed_worker_leaves_the_work_to_another(
    engine: Engine, variables: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "workers.log"
    record_pending(engine)
    with worker(RUN, log, **variables) as first, refresh_halted(engine):
        wait_until(lambda: count_at_work(engine) == 1, log)
        wait_until(lambda: count(engine, QUEUED) == 1, log)
        first.kill()
    with engine.begin() as connection:
        connection.execute(FORGET)
    with worker(RUN, log, **variables):
        wait_until(lambda: count_pending(engine) == 0, log)
