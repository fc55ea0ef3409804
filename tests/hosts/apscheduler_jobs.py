"""`refresh` and `prune` under APScheduler. Start it on several machines: one of them works."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa
from apscheduler.schedulers.blocking import BlockingScheduler

import recommender

log = logging.getLogger("jobs")


def refresh(engine: sa.Engine) -> None:
    """Update what is computed from the behaviour of all users."""
    report = recommender.refresh(engine)
    log.info("refresh: %d events in %.1f s", report.events, report.seconds)


def prune(engine: sa.Engine) -> None:
    """Delete old events and sessions."""
    old, older = timedelta(days=30), timedelta(days=180)
    report = recommender.prune(engine, events_older_than=older, sessions_older_than=old)
    log.info("prune: %d events in %.1f s", report.events, report.seconds)


def alone(engine: sa.Engine, job: Callable[[sa.Engine], None]) -> None:
    """Run a job, unless another worker is running it. PostgreSQL releases the lock of the dead."""
    with engine.begin() as connection:
        # This transaction waits while the job works in transactions of its own.
        connection.execute(set_local("idle_in_transaction_session_timeout", "0"))
        name = sa.func.hashtext(f"recommender {job.__name__}")
        if connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(name))):
            job(engine)
        else:
            log.info("%s: another worker is at work", job.__name__)


def set_local(name: str, value: str) -> sa.Select[tuple[str]]:
    """Return the statement that changes a setting of PostgreSQL until the transaction ends."""
    return sa.select(sa.func.set_config(name, value, sa.true()))


def main() -> None:
    """Run the jobs until a signal stops the process."""
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    engine = recommender.create_engine(os.environ["DATABASE_URL"])
    # A late job runs once, when it can; without this APScheduler leaves it out.
    scheduler = BlockingScheduler(job_defaults={"coalesce": True, "misfire_grace_time": None})
    seconds = float(os.environ.get("REFRESH_SECONDS", "300"))
    scheduler.add_job(alone, "interval", [engine, refresh], seconds=seconds)
    scheduler.add_job(alone, "cron", [engine, prune], hour=4)
    scheduler.start()


if __name__ == "__main__":
    main()
