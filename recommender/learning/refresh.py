"""learning.refresh: TODO."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.planner_statistics import analyze
from recommender.formats import scalars
from recommender.learning.neighbours import find_neighbours, forget_neighbours
from recommender.learning.rebuild import relearn
from recommender.learning.statistics import Run, count_pending, recount, renew_recent
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

USERS_AT_ONCE = 200
"""Users of one batch of a rebuild, with all that they ever did in memory."""

FEWEST_CAPTIONS = 2
"""A term of fewer captions brings no two videos together."""

KEPT = "Affinities and trends are kept: events until %s are pruned, and cannot be learned anew."


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What a refresh did, and in how many seconds.

    `events` were counted; `videos` got new statistics; the recent engagements of `users` changed;
    `neighbours` is for how many videos neighbours were found anew, `terms` how many terms of
    captions were counted anew.
    """

    events: int
    videos: int
    users: int
    neighbours: int
    terms: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The report as `refresh` prints it."""
        return asdict(self)


def refresh(
    engine: Engine,
    *,
    as_of: datetime | None = None,
    settings: Settings | None = None,
    rebuild: bool = False,
) -> RefreshReport:
    """Bring what is derived in batches up to date, in transactions of its own.

    It can end at any point and be run by several at once: nothing is lost or counted twice. Events
    that are recorded meanwhile may be left to the next refresh.

    Args:
        engine: a prepared engine.
        as_of: the time that the statistics are of, with an offset; now where None.
        settings: those of the environment where None.
        rebuild: also compute affinities, statistics, neighbours and terms anew from the log, as
            after a change of the learning state. Where events were pruned, affinities and trends
            are kept as they are, and a warning says so.

    Raises:
        InvalidValue: the time is not of its form.
        RecommenderError: the database refused; the batches before are in.
    """
    started = time.monotonic()
    moment = scalars.time(scalars.now() if as_of is None else as_of)
    run = Run(engine, moment, settings or Settings.from_environment())
    count_pending(run)
    if rebuild:
        _rebuild(run)
    targets = find_neighbours(run)
    terms = run.locked(partial(_count_terms, run, rebuild))
    run.locked(partial(_finish, run))
    analyze(engine, run.settings)
    seconds = round(time.monotonic() - started, 3)
    report = RefreshReport(run.events, len(run.videos), len(run.users), targets, terms, seconds)
    log(logging.INFO, "refresh", **asdict(report))
    return report


def _count_terms(run: Run, anew: bool, session: Session, state: Any) -> int:  # noqa: FBT001
    """Count in how many captions each term stands, where there are enough more captions."""
    count = sa.select(sa.func.count()).select_from(CAPTIONS)
    captions = lookup.run(session, count).scalar() or 0
    has_grown = captions > state.captions and captions >= state.captions * run.settings.terms_growth
    if not (anew or has_grown):
        return 0
    lookup.run(session, sa.delete(TERMS))
    in_captions = sa.func.count()
    counted = (
        sa.select(VIDEO_TERMS.c.term, in_captions)
        .group_by(VIDEO_TERMS.c.term)
        .having(in_captions >= FEWEST_CAPTIONS)
    )
    insert = sa.insert(TERMS).from_select(["term", "captions"], counted)
    lookup.run(session, insert)
    lookup.run(session, sa.update(LEARNING_STATE).values(captions=captions))
    return lookup.run(session, sa.select(sa.func.count()).select_from(TERMS)).scalar() or 0


def _finish(run: Run, session: Session, _state: Any) -> None:
    """Write the share of engaged views of all, the greatest trend, and that all is done."""
    sums = sa.select(sa.func.sum(VIDEOS.c.impressions), sa.func.sum(VIDEOS.c.engaged_views))
    viewed, engaged = lookup.run(session, sums).one()
    greatest = sa.select(sa.func.max(VIDEOS.c.trending)).where(VIDEOS.c.status == "published")
    changed: dict[str, Any] = {"refreshed_at": run.as_of, "trend_peak": greatest.scalar_subquery()}
    if viewed:
        prior = run.settings.share_prior_impressions
        share = (int(engaged) + prior * run.settings.share_prior) / (int(viewed) + prior)
        changed["engaged_share"] = min(1.0, share)
    lookup.run(session, sa.update(LEARNING_STATE).values(changed))


def _rebuild(run: Run) -> None:
    """Compute anew what events added up to; neighbours and terms follow, since they are stale.

    What pruned events taught cannot be learned anew, so that affinities and trends are kept then.
    """
    last = 0
    while users := run.locked(partial(_rebuild_users, run, last)):
        last = users[-1]
    run.locked(partial(recount, run))
    if horizon := run.locked(forget_neighbours):
        LOGGER.warning(KEPT, scalars.written_time(horizon))


def _rebuild_users(run: Run, after: int, session: Session, state: Any) -> list[int]:
    """Learn anew what the next users' behaviour says; return their ids."""
    read = sa.select(USERS.c.id, USERS.c.key).where(USERS.c.id > after)
    some = read.order_by(USERS.c.id).limit(USERS_AT_ONCE)
    users = lookup.run(session, some).all()
    if users and not state.events_horizon:
        relearn(session, [user.key for user in users])
    if users:
        renew_recent(run, session, [user.id for user in users])
    return [user.id for user in users]
