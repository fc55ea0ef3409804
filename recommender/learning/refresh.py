"""Refresh: the batch job that updates everything computed from the behaviour of all users.

Each of its transactions that write locks the learning state first, so that refreshes take turns.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from recommender.database import lookup
from recommender.database.planner_statistics import analyze
from recommender.database.session import Session
from recommender.formats import scalars
from recommender.learning.neighbours import delete_leftover_neighbours, find_neighbours
from recommender.learning.rebuild import rebuild_affinities
from recommender.learning.recent import renew_recent
from recommender.learning.refold import refold_states
from recommender.learning.statistics import (
    RefreshRun,
    count_pending,
    recount,
)
from recommender.logs import LOGGER, log
from recommender.models.tables import (
    CAPTIONS,
    LEARNING_STATE,
    TERMS,
    USERS,
    VIDEO_TERMS,
    VIDEOS,
)
from recommender.settings import MOST_CANDIDATES, Settings
from recommender.telemetry import traced

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
        kept: states that a rebuild kept as they were, because some of their events are pruned.
    """

    events: int
    videos: int
    users: int
    neighbours: int
    terms: int
    seconds: float
    kept: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return the report as `recommender refresh` prints it."""
        return asdict(self)


@traced
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
        rebuild: also compute states, affinities, statistics, neighbours and terms again from the
            log, by the current learning state and durations. If events were pruned, affinities,
            trends and the states of that time are kept as they are, and a warning is logged.

    Raises:
        InvalidValue: the time is not valid.
        RecommenderError: the database failed; earlier batches stay committed.
    """
    started = time.monotonic()
    time_of_refresh = scalars.time(scalars.now() if as_of is None else as_of)
    run = RefreshRun(bind, time_of_refresh, settings or Settings.from_environment())
    kept = _rebuild_all_users(run) if rebuild else 0
    count_pending(run)
    if rebuild:
        _rebuild_statistics(run)
    targets = find_neighbours(run)
    terms = run.locked(partial(_count_terms, run, rebuild))
    run.locked(partial(_finish, run))
    analyze(bind, run.settings)
    seconds = round(time.monotonic() - started, 3)
    done = run.events, len(run.videos), len(run.users), targets, terms, seconds, kept
    report = RefreshReport(*done)
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
    changed["published_videos"] = _published_videos()
    changed["engaged_share"] = _smoothed_share(run.settings, int(viewed or 0), int(engaged or 0))
    lookup.run(session, sa.update(LEARNING_STATE).values(changed))


def _published_videos() -> sa.ScalarSelect[int]:
    """Count the published videos, but not those beyond the most candidates that a page can have."""
    published = sa.select(VIDEOS.c.id).where(VIDEOS.c.status == "published")
    some = published.limit(MOST_CANDIDATES + 1).subquery("published")
    return sa.select(sa.func.count()).select_from(some).scalar_subquery()


def _smoothed_share(settings: Settings, viewed: int, engaged: int) -> float:
    """Return the share of engaged views, smoothed towards its prior."""
    prior = settings.share_prior_impressions
    if viewed + prior == 0:
        return settings.share_prior
    return min(1.0, (engaged + prior * settings.share_prior) / (viewed + prior))


def _rebuild_all_users(run: RefreshRun) -> int:
    """Compute states, affinities and recent engagements again; return how many states were kept.

    What this changes for statistics becomes pending.
    """
    last, kept = 0, 0
    while users := run.locked(partial(_rebuild_users, run, last)):
        last, kept = users.last, kept + users.kept
    return kept


def _rebuild_statistics(run: RefreshRun) -> None:
    """Compute statistics again from states and log.

    The caller then replaces neighbours and terms, which this marks as outdated.
    """
    run.locked(partial(recount, run))
    if horizon := run.locked(partial(_finish_rebuild, run)):
        LOGGER.warning(AFFINITIES_KEPT, scalars.written_time(horizon))


def _finish_rebuild(run: RefreshRun, session: Session, state: Any) -> datetime | None:
    """Delete leftover neighbours; return the time until which events are pruned, or None."""
    delete_leftover_neighbours(session)
    horizon: datetime | None = state.events_horizon
    if horizon is None:
        lookup.run(session, sa.update(LEARNING_STATE).values(rebuilt_at=run.as_of))
    return horizon


class _RebuiltUsers(NamedTuple):
    """The last id of a batch of users, and the number of their states that were kept."""

    last: int
    kept: int


def _rebuild_users(
    run: RefreshRun, after: int, session: Session, state: Any
) -> _RebuiltUsers | None:
    """Rebuild states, affinities and recent engagements of the next users; None if none is left."""
    read = sa.select(USERS.c.id, USERS.c.key).where(USERS.c.id > after)
    batch = read.order_by(USERS.c.id).limit(USERS_PER_BATCH)
    users = lookup.run(session, batch).all()
    if not users:
        return None
    keys = [user.key for user in users]
    kept = refold_states(session, keys, state.events_horizon)
    # Pruned events cannot be learned again, so affinities are kept after a prune.
    if not state.events_horizon:
        rebuild_affinities(session, keys)
    renew_recent(run, session, [user.id for user in users])
    return _RebuiltUsers(users[-1].id, kept)
