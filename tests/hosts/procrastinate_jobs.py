"""`refresh` and `prune` under procrastinate: its lock lets one of all workers be at work.

procrastinate --app=tests.hosts.procrastinate_jobs.app schema --apply
procrastinate --app=tests.hosts.procrastinate_jobs.app worker
"""

from __future__ import annotations

import os
from datetime import timedelta

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status

import recommender

URL = os.environ["DATABASE_URL"]
SCHEDULE = os.environ.get("REFRESH_CRON", "*/5 * * * *")

app = App(connector=PsycopgConnector(conninfo=URL))
engine = recommender.create_engine(URL)


# `lock`: no two of these jobs run at once. `queueing_lock`: at most one waits to run.
@app.periodic(cron=SCHEDULE)
@app.task(lock="recommender", queueing_lock="refresh")
def refresh(timestamp: int) -> None:  # noqa: ARG001 - the time for which the job was planned
    """Update what is computed from the behaviour of all users."""
    recommender.refresh(engine)


@app.periodic(cron="0 4 * * *")
@app.task(lock="recommender", queueing_lock="prune")
def prune(timestamp: int) -> None:  # noqa: ARG001 - the same
    """Delete old events and sessions."""
    old, older = timedelta(days=30), timedelta(days=180)
    recommender.prune(engine, events_older_than=older, sessions_older_than=old)


# The job of a worker that was killed keeps its lock until it is marked as failed.
@app.periodic(cron=SCHEDULE)
@app.task(queueing_lock="fail_stalled")
async def fail_stalled(timestamp: int) -> None:  # noqa: ARG001 - the same
    """Mark the jobs of dead workers as failed; the next job of the schedule does their work."""
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.finish_job(job, status=Status.FAILED, delete_job=False)
