"""Two workers under APScheduler: one of them runs a job, and the other lets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.kinds import only_postgresql
from tests.support.workers import (
    count_at_work,
    count_pending,
    record_pending,
    refresh_halted,
    wait_until,
    worker,
)

pytestmark = [pytest.mark.slow, only_postgresql]
pytest.importorskip("apscheduler", reason="needs the extra hosts")

WORKER = ["-m", "tests.hosts.apscheduler_jobs"]


def test_one_of_two_workers_is_at_work(engine: Engine, database: str, tmp_path: Path) -> None:
    log = tmp_path / "workers.log"
    variables = {"DATABASE_URL": database, "REFRESH_SECONDS": "0.3"}
    record_pending(engine)
    at_work = set()

    def has_let_it() -> bool:
        at_work.add(count_at_work(engine))
        return log.read_text().count("another worker is at work") > 5

    with worker(WORKER, log, **variables), worker(WORKER, log, **variables):
        with refresh_halted(engine):
            wait_until(has_let_it, log)
        wait_until(lambda: count_pending(engine) == 0, log)
    assert max(at_work) == 1


def test_a_killed_worker_leaves_the_work_to_the_other(
    engine: Engine, database: str, tmp_path: Path
) -> None:
    log = tmp_path / "workers.log"
    variables = {"DATABASE_URL": database, "REFRESH_SECONDS": "0.3"}
    with worker(WORKER, log, **variables) as first:
        with refresh_halted(engine):
            wait_until(lambda: count_at_work(engine) == 1, log)
            first.kill()
        record_pending(engine)
        with worker(WORKER, log, **variables):
            wait_until(lambda: count_pending(engine) == 0, log)


def test_a_long_job_keeps_its_lock(engine: Engine, database: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    limits = {"RECOMMENDER_IDLE_TIMEOUT": "1", "REFRESH_SECONDS": "0.3"}
    record_pending(engine)
    with worker(WORKER, log, DATABASE_URL=database, **limits):
        with refresh_halted(engine):
            wait_until(lambda: count_at_work(engine) == 1, log)
            with engine.connect() as connection:
                connection.exec_driver_sql("SELECT pg_sleep(3)")
        wait_until(lambda: "refresh: 1 events" in log.read_text(), log)
    assert "Traceback" not in log.read_text()
