"""`refresh`: everything that is derived in batches, brought up to date.

Each transaction first locks the learning state, so that two refreshes take turns.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Engine, Table
from sqlalchemy.orm import Session

from recommender import bulk, fields
from recommender.arithmetic import square_root
from recommender.catalog import CAPTIONS, USERS, VIDEOS
from recommender.counting import RECENT, Run, count_pending, lock_videos, recount, renew_recent
from recommender.interactions import LEARNING_STATE
from recommender.learned import Term, VideoNeighbour
from recommender.logs import LOGGER, log
from recommender.models import VideoTerm
from recommender.planner import analyze
from recommender.relearning import relearn
from recommender.settings import Settings

NEIGHBOURS: Table = VideoNeighbour.__table__  # type: ignore[assignment] # SQLAlchemy types it
TERMS: Table = Term.__table__  # type: ignore[assignment] # as FromClause
VIDEO_TERMS: Table = VideoTerm.__table__  # type: ignore[assignment]

MOST_TARGETS = 500
MOST_VIEWERS = 5_000
"""Videos, and their viewers, of one batch of neighbours: it must not hold up others for long."""

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
    moment = fields.time(fields.now() if as_of is None else as_of)
    run = Run(engine, moment, settings or Settings.from_environment())
    count_pending(run)
    if rebuild:
        _rebuild(run)
    targets = _find_neighbours(run)
    terms = run.locked(partial(_count_terms, run, rebuild))
    run.locked(partial(_finish, run))
    analyze(engine, run.settings)
    seconds = round(time.monotonic() - started, 3)
    report = RefreshReport(run.events, len(run.videos), len(run.users), targets, terms, seconds)
    log(logging.INFO, "refresh", **asdict(report))
    return report


def _find_neighbours(run: Run) -> int:
    """Find the neighbours of every video whose viewers have grown enough; return how many."""
    last, count = 0, 0
    engaged = run.locked(_all_engaged)
    while targets := run.locked(partial(_find_batch, run, last, engaged)):
        last, count = targets[-1], count + len(targets)
    return count


def _all_engaged(session: Session, _state: Any) -> int:
    """The engaged views of all videos together."""
    total = sa.select(sa.func.sum(VIDEOS.c.engaged_views))
    return int(session.scalar(total, bind_arguments=bulk.OURS) or 0)


def _find_batch(run: Run, after: int, engaged: int, session: Session, _state: Any) -> list[int]:
    """Find the neighbours of the next videos; return their ids."""
    stale = _stale(session, after, run.settings.neighbour_growth)
    if not stale:
        return []
    values = sorted(lock_videos(session, stale, VIDEOS.c.engaged_views))
    found = {
        "shrinkage": run.settings.neighbour_shrinkage,
        "engaged": float(max(1, engaged)),
        "most": run.settings.neighbours,
        **bulk.listed_values(session, 1, [(video_id,) for video_id in stale]),
    }
    delete, insert, update = _replacing(bulk.is_sqlite(session))
    session.execute(delete, found, bind_arguments=bulk.OURS)
    session.execute(insert, found, bind_arguments=bulk.OURS)
    session.execute(update, bulk.listed_values(session, 2, values), bind_arguments=bulk.OURS)
    return stale


def _stale(session: Session, after: int, growth: float) -> list[int]:
    """The ids of the next videos whose viewers have grown by so much, as many as a batch takes."""
    views, before = VIDEOS.c.engaged_views, VIDEOS.c.neighbours_views
    statement = (
        sa.select(VIDEOS.c.id, views)
        .where(VIDEOS.c.id > after, views > before, views >= before * sa.literal(growth, sa.Double))
        .order_by(VIDEOS.c.id)
        .limit(MOST_TARGETS)
    )
    chosen: list[int] = []
    viewers = 0
    for video_id, engaged_views in session.execute(statement, bind_arguments=bulk.OURS):
        viewers += engaged_views
        if chosen and viewers > MOST_VIEWERS:
            break
        chosen.append(video_id)
    return chosen


@cache
def _replacing(on_sqlite: bool) -> tuple[sa.Delete, sa.Insert, sa.Update]:  # noqa: FBT001
    """The statements that replace videos' neighbours."""
    targets = sa.select(bulk.listed(on_sqlite, (NEIGHBOURS.c.video_id,)).c.video_id)
    delete = sa.delete(NEIGHBOURS).where(NEIGHBOURS.c.video_id.in_(targets))
    names = ["source_id", "video_id", "similarity"]
    insert = sa.insert(NEIGHBOURS).from_select(names, _nearest(on_sqlite))
    views = bulk.listed(on_sqlite, (VIDEOS.c.id, VIDEOS.c.engaged_views))
    update = sa.update(VIDEOS).where(VIDEOS.c.id == views.c.id)
    return delete, insert, update.values(neighbours_views=views.c.engaged_views)


def _nearest(on_sqlite: bool) -> Any:  # noqa: FBT001
    """The sources of each target that are most like it."""
    counted = _excesses(on_sqlite)
    similarity = _similarity(counted.c.excess, counted.c.mean_viewers)
    alike = (
        sa.select(counted.c.source_id, counted.c.video_id, similarity.label("similarity"))
        .where(counted.c.excess > sa.literal(0.0, sa.Double))
        .subquery()
    )
    rank = sa.func.row_number().over(
        partition_by=alike.c.video_id, order_by=(alike.c.similarity.desc(), alike.c.source_id)
    )
    ranked = sa.select(alike, rank.label("rank")).subquery()
    read = [ranked.c.source_id, ranked.c.video_id, ranked.c.similarity]
    return sa.select(*read).where(ranked.c.rank <= sa.bindparam("most", type_=sa.Integer))


def _excesses(on_sqlite: bool) -> sa.Subquery:  # noqa: FBT001
    """By how much each two have more common viewers than by chance, and the mean of their own.

    By chance a source would have its share of all engaged views among all that the viewers of a
    target engaged with, as in the null model of modularity (Newman, 2006). Where few users engage
    with much, any two videos have viewers in common.
    """
    pairs = _pairs(on_sqlite)
    source, target = VIDEOS.alias("source"), VIDEOS.alias("target")
    common = sa.cast(pairs.c.together, sa.Double)
    among = sa.cast(sa.func.sum(pairs.c.together).over(partition_by=pairs.c.video_id), sa.Double)
    share = sa.cast(source.c.engaged_views, sa.Double) / sa.bindparam("engaged", type_=sa.Double)
    viewers = [
        sa.case((each > pairs.c.together, sa.cast(each, sa.Double)), else_=common)
        for each in (source.c.engaged_views, target.c.engaged_views)
    ]
    return (
        sa.select(
            pairs.c.source_id,
            pairs.c.video_id,
            (common - among * share).label("excess"),
            square_root(viewers[0] * viewers[1]).label("mean_viewers"),
        )
        .join(source, source.c.id == pairs.c.source_id)
        .join(target, target.c.id == pairs.c.video_id)
        .subquery()
    )


def _pairs(on_sqlite: bool) -> sa.Subquery:  # noqa: FBT001
    """How many users engaged lately with both a target and a source, for each two."""
    targets = bulk.listed(on_sqlite, (RECENT.c.video_id,))
    together = sa.func.count().label("together")
    viewed, others = RECENT.alias("viewed"), RECENT.alias("others")
    return (
        sa.select(others.c.video_id.label("source_id"), viewed.c.video_id, together)
        .select_from(targets)
        .join(viewed, viewed.c.video_id == targets.c.video_id)
        .join(
            others,
            sa.and_(others.c.user_id == viewed.c.user_id, others.c.video_id != viewed.c.video_id),
        )
        .group_by(viewed.c.video_id, others.c.video_id)
        .subquery()
    )  # fmt: skip


def _similarity(
    excess: ColumnElement[float], mean_viewers: ColumnElement[float]
) -> ColumnElement[float]:
    """The cosine of two videos' viewers beyond chance, less where these are few."""
    shrinkage = sa.bindparam("shrinkage", type_=sa.Double)
    return sa.type_coerce(excess / mean_viewers * (excess / (excess + shrinkage)), sa.Double)


def _count_terms(run: Run, anew: bool, session: Session, state: Any) -> int:  # noqa: FBT001
    """Count in how many captions each term stands, where there are enough more captions."""
    count = sa.select(sa.func.count()).select_from(CAPTIONS)
    captions = session.scalar(count, bind_arguments=bulk.OURS) or 0
    has_grown = captions > state.captions and captions >= state.captions * run.settings.terms_growth
    if not (anew or has_grown):
        return 0
    session.execute(sa.delete(TERMS), bind_arguments=bulk.OURS)
    in_captions = sa.func.count()
    counted = (
        sa.select(VIDEO_TERMS.c.term, in_captions)
        .group_by(VIDEO_TERMS.c.term)
        .having(in_captions >= FEWEST_CAPTIONS)
    )
    insert = sa.insert(TERMS).from_select(["term", "captions"], counted)
    session.execute(insert, bind_arguments=bulk.OURS)
    session.execute(sa.update(LEARNING_STATE).values(captions=captions), bind_arguments=bulk.OURS)
    return (
        session.scalar(sa.select(sa.func.count()).select_from(TERMS), bind_arguments=bulk.OURS) or 0
    )


def _finish(run: Run, session: Session, _state: Any) -> None:
    """Write the share of engaged views of all, the greatest trend, and that all is done."""
    sums = sa.select(sa.func.sum(VIDEOS.c.impressions), sa.func.sum(VIDEOS.c.engaged_views))
    viewed, engaged = session.execute(sums, bind_arguments=bulk.OURS).one()
    greatest = sa.select(sa.func.max(VIDEOS.c.trending)).where(VIDEOS.c.status == "published")
    changed: dict[str, Any] = {"refreshed_at": run.as_of, "trend_peak": greatest.scalar_subquery()}
    if viewed:
        prior = run.settings.share_prior_impressions
        share = (int(engaged) + prior * run.settings.share_prior) / (int(viewed) + prior)
        changed["engaged_share"] = min(1.0, share)
    session.execute(sa.update(LEARNING_STATE).values(changed), bind_arguments=bulk.OURS)


def _rebuild(run: Run) -> None:
    """Compute anew what events added up to; neighbours and terms follow, since they are stale.

    What pruned events taught cannot be learned anew, so that affinities and trends are kept then.
    """
    last = 0
    while users := run.locked(partial(_rebuild_users, run, last)):
        last = users[-1]
    run.locked(partial(recount, run))
    if horizon := run.locked(_forget_neighbours):
        LOGGER.warning(KEPT, fields.written_time(horizon))


def _rebuild_users(run: Run, after: int, session: Session, state: Any) -> list[int]:
    """Learn anew what the next users' behaviour says; return their ids."""
    read = sa.select(USERS.c.id, USERS.c.key).where(USERS.c.id > after)
    some = read.order_by(USERS.c.id).limit(USERS_AT_ONCE)
    users = session.execute(some, bind_arguments=bulk.OURS).all()
    if users and not state.events_horizon:
        relearn(session, [user.key for user in users])
    if users:
        renew_recent(run, session, [user.id for user in users])
    return [user.id for user in users]


def _forget_neighbours(session: Session, state: Any) -> datetime | None:
    """Leave no neighbours of videos that nobody engaged with; those of others are replaced.

    Returns:
        Until when events are pruned.
    """
    without = sa.select(VIDEOS.c.id).where(VIDEOS.c.engaged_views == 0)
    gone = sa.delete(NEIGHBOURS).where(NEIGHBOURS.c.video_id.in_(without))
    session.execute(gone, bind_arguments=bulk.OURS)
    horizon: datetime | None = state.events_horizon
    return horizon
