"""`refresh`: everything that is derived in batches, brought up to date.

Each transaction first locks the learning state, so that two refreshes take turns.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.expressions import square_root
from recommender.learning.statistics import Run, lock_videos
from recommender.models.tables import NEIGHBOURS, RECENT, VIDEOS

MOST_TARGETS = 500

MOST_VIEWERS = 5_000
"""Videos, and their viewers, of one batch of neighbours: it must not hold up others for long."""


def find_neighbours(run: Run) -> int:
    """Find the neighbours of every video whose viewers have grown enough; return how many."""
    last, count = 0, 0
    engaged = run.locked(_all_engaged)
    while targets := run.locked(partial(_find_batch, run, last, engaged)):
        last, count = targets[-1], count + len(targets)
    return count


def _all_engaged(session: Session, _state: Any) -> int:
    """The engaged views of all videos together."""
    total = sa.select(sa.func.sum(VIDEOS.c.engaged_views))
    return int(lookup.run(session, total).scalar() or 0)


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
        **lookup.listed_values(session, 1, [(video_id,) for video_id in stale]),
    }
    delete, insert, update = _replacing(lookup.is_sqlite(session))
    lookup.run(session, delete, found)
    lookup.run(session, insert, found)
    lookup.run(session, update, lookup.listed_values(session, 2, values))
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
    for video_id, engaged_views in lookup.run(session, statement):
        viewers += engaged_views
        if chosen and viewers > MOST_VIEWERS:
            break
        chosen.append(video_id)
    return chosen


@cache
def _replacing(on_sqlite: bool) -> tuple[sa.Delete, sa.Insert, sa.Update]:  # noqa: FBT001
    """The statements that replace videos' neighbours."""
    targets = sa.select(lookup.listed(on_sqlite, (NEIGHBOURS.c.video_id,)).c.video_id)
    delete = sa.delete(NEIGHBOURS).where(NEIGHBOURS.c.video_id.in_(targets))
    names = ["source_id", "video_id", "similarity"]
    insert = sa.insert(NEIGHBOURS).from_select(names, _nearest(on_sqlite))
    views = lookup.listed(on_sqlite, (VIDEOS.c.id, VIDEOS.c.engaged_views))
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
    targets = lookup.listed(on_sqlite, (RECENT.c.video_id,))
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


def forget_neighbours(session: Session, state: Any) -> datetime | None:
    """Leave no neighbours of videos that nobody engaged with; those of others are replaced.

    Returns:
        Until when events are pruned.
    """
    without = sa.select(VIDEOS.c.id).where(VIDEOS.c.engaged_views == 0)
    gone = sa.delete(NEIGHBOURS).where(NEIGHBOURS.c.video_id.in_(without))
    lookup.run(session, gone)
    horizon: datetime | None = state.events_horizon
    return horizon
