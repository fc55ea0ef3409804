"""Refresh: the batch job that updates everything computed from the behaviour of all users.

Each of its transactions locks the learning state first, so that refreshes take turns.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from recommender.database import lookup
from recommender.database.planner_statistics import analyze
from recommender.database.session import Session
from recommender.formats import scalars
from recommender.learning.neighbours import delete_leftover_neighbours, find_neighbours
from recommender.learning.rebuild import rebuild_affinities
from recommender.learning.statistics import RefreshRun, count_pending, recount, renew_recent
from recommender.logs import LOGGER, log
from recommender.models.tables import (
    CAPTIONS,
    LEARNING_STATE,
    TERMS,
    USERS,
    VIDEO_TERMS,
    VIDEOS,
)
from recommender.settings import Settings

USERS_PER_BATCH = 200
"""The number of users per batch of a rebuild; all their events are in memory."""

MIN_CAPTIONS = 2
"""The number of captions from which a term is kept; a rarer term connects no videos."""

AFFINITIES_KEPT = (
    "Affinities and trends were kept, because events until %s are pruned and cannot be read again."
)
"""The warning of a rebuild after a prune."""


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """The report of a refresh, in numbers of rows and in seconds.

    Args:
        events: pending events that were counted.
        videos: videos whose statistics changed.
        users: users whose recent engagements changed.
        neighbours: videos whose neighbours were replaced.
        terms: terms of captions that were counted.
        seconds: how long the refresh took.
    """

    events: int
    videos: int
    users: int
    neighbours: int
    terms: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Return the report as `recommender refresh` prints it."""
        return asdict(self)


def refresh(
    bind: Engine | Connection,
    *,
    as_of: datetime | None = None,
    settings: Settings | None = None,
    rebuild: bool = False,
) -> RefreshReport:
    """Update statistics, recent engagements, neighbours and terms, in transactions of its own.

    A refresh can be interrupted at any point, and several can run at once: no event is lost or
    counted twice. Events that are recorded meanwhile may be left to the next refresh.

    With a connection, all batches are in the caller's transaction, and nothing is committed. Other
    refreshes wait until it ends, and the caller's time limits apply.

    Args:
        bind: a prepared engine, or a connection.
        as_of: the time of the statistics, with an offset; now if None.
        settings: timeouts, sizes and parameters; read from the environment if None.
        rebuild: also compute affinities, statistics, neighbours and terms again from the log, for
            example after a change of the learning state. If events were pruned, affinities and
            trends are kept as they are, and a warning is logged.

    Raises:
        InvalidValue: the time is not valid.
        RecommenderError: the database failed; earlier batches stay committed.
    """
    started = time.monotonic()
    time_of_refresh = scalars.time(scalars.now() if as_of is None else as_of)
    run = RefreshRun(bind, time_of_refresh, settings or Settings.from_environment())
    count_pending(run)
    if rebuild:
        _rebuild(run)
    targets = find_neighbours(run)
    terms = run.locked(partial(_count_terms, run, rebuild))
    run.locked(partial(_finish, run))
    analyze(bind, run.settings)
    seconds = round(time.monotonic() - started, 3)
    report = RefreshReport(run.events, len(run.videos), len(run.users), targets, terms, seconds)
    log(logging.INFO, "refresh", **asdict(report))
    return report


def _count_terms(run: RefreshRun, force: bool, session: Session, state: Any) -> int:  # noqa: FBT001
    """Count the captions per term, if their number has grown enough or `force` is set."""
    count = sa.select(sa.func.count()).select_from(CAPTIONS)
    captions = lookup.run(session, count).scalar() or 0
    has_grown = captions > state.captions and captions >= state.captions * run.settings.terms_growth
    if not (force or has_grown):
        return 0
    lookup.run(session, sa.delete(TERMS))
    in_captions = sa.func.count()
    counted = (
        sa.select(VIDEO_TERMS.c.term, in_captions)
        .group_by(VIDEO_TERMS.c.term)
        .having(in_captions >= MIN_CAPTIONS)
    )
    insert = sa.insert(TERMS).from_select(["term", "captions"], counted)
    lookup.run(session, insert)
    lookup.run(session, sa.update(LEARNING_STATE).values(captions=captions))
    return lookup.run(session, sa.select(sa.func.count()).select_from(TERMS)).scalar() or 0


def _finish(run: RefreshRun, session: Session, _state: Any) -> None:
    """Write the average share of engaged views, the greatest trend and the time of the refresh."""
    sums = sa.select(sa.func.sum(VIDEOS.c.impressions), sa.func.sum(VIDEOS.c.engaged_views))
    viewed, engaged = lookup.run(session, sums).one()
    greatest = sa.select(sa.func.max(VIDEOS.c.trending)).where(VIDEOS.c.status == "published")
    changed: dict[str, Any] = {"refreshed_at": run.as_of, "trend_peak": greatest.scalar_subquery()}
    if viewed:
        prior = run.settings.share_prior_impressions
        share = (int(engaged) + prior * run.settings.share_prior) / (int(viewed) + prior)
        changed["engaged_share"] = min(1.0, share)
    lookup.run(session, sa.update(LEARNING_STATE).values(changed))


def _rebuild(run: RefreshRun) -> None:
    """Compute affinities, recent engagements and statistics again from the log.

    The caller then replaces neighbours and terms, which this marks as outdated.
    """
    last = 0
    while users := run.locked(partial(_rebuild_users, run, last)):
        last = users[-1]
    run.locked(partial(recount, run))
    if horizon := run.locked(_finish_rebuild):
        LOGGER.warning(AFFINITIES_KEPT, scalars.written_time(horizon))


def _finish_rebuild(session: Session, state: Any) -> datetime | None:
    """Delete leftover neighbours; return the time until which events are pruned, or None."""
    delete_leftover_neighbours(session)
    horizon: datetime | None = state.events_horizon
    return horizon


def _rebuild_users(run: RefreshRun, after: int, session: Session, state: Any) -> list[int]:
    """Rebuild affinities and recent engagements of the next users; return their ids."""
    read = sa.select(USERS.c.id, USERS.c.key).where(USERS.c.id > after)
    batch = read.order_by(USERS.c.id).limit(USERS_PER_BATCH)
    users = lookup.run(session, batch).all()
    # Pruned events cannot be learned again, so affinities are kept after a prune.
    if users and not state.events_horizon:
        rebuild_affinities(session, [user.key for user in users])
    if users:
        renew_recent(run, session, [user.id for user in users])
    return [user.id for user in users]
