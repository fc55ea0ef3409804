"""Neighbours: videos with which the same users engage (item-based collaborative filtering).

The similarity of two videos is a cosine of their viewers, less the co-occurrence expected by chance
(the null model of modularity; Newman, 2006), shrunk if it rests on few viewers (Bell and Koren,
2007). Each video keeps its most similar neighbours.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from recommender.database import bulk, lookup
from recommender.database.expressions import square_root
from recommender.database.session import Session
from recommender.learning.statistics import RefreshRun, lock_videos
from recommender.models.tables import NEIGHBOURS, RECENT, VIDEOS

TARGETS_PER_BATCH = 500
"""The largest number of videos per batch; a long transaction would block other writers."""

VIEWERS_PER_BATCH = 5_000
"""The largest number of viewers per batch, unless one video has more."""


def find_neighbours(run: RefreshRun) -> int:
    """Find the neighbours of all videos whose number of viewers has grown enough.

    Returns:
        The number of videos whose neighbours were replaced.
    """
    last, count = 0, 0
    engaged = run.locked(_total_engaged)
    while targets := run.locked(partial(_find_batch, run, last, engaged)):
        last, count = targets[-1], count + len(targets)
    return count


def _total_engaged(session: Session, _state: Any) -> int:
    """Return the number of engaged views of all videos."""
    total = sa.select(sa.func.sum(VIDEOS.c.engaged_views))
    return int(lookup.run(session, total).scalar() or 0)


def _find_batch(
    run: RefreshRun, after: int, engaged: int, session: Session, _state: Any
) -> list[int]:
    """Replace the neighbours of the next videos; return their ids."""
    stale = _stale_videos(session, after, run.settings.neighbour_growth)
    if not stale:
        return []
    views = sorted(lock_videos(session, stale, VIDEOS.c.engaged_views))
    values = {
        "shrinkage": run.settings.neighbour_shrinkage,
        "engaged": float(max(1, engaged)),
        "limit": run.settings.neighbours,
        **lookup.listed_values(session, 1, [(video_id,) for video_id in stale]),
    }
    for statement in _replace_neighbours(lookup.is_sqlite(session)):
        lookup.run(session, statement, values)
    columns = (VIDEOS.c.id, VIDEOS.c.neighbours_views)
    bulk.update_listed(session, columns, views, {"neighbours_views": bulk.replace})
    return stale


def _stale_videos(session: Session, after: int, growth: float) -> list[int]:
    """Return the ids of one batch of videos whose engaged views have grown by a factor."""
    views, before = VIDEOS.c.engaged_views, VIDEOS.c.neighbours_views
    statement = (
        sa.select(VIDEOS.c.id, views)
        .where(VIDEOS.c.id > after, views > before, views >= before * sa.literal(growth, sa.Double))
        .order_by(VIDEOS.c.id)
        .limit(TARGETS_PER_BATCH)
    )
    batch: list[int] = []
    viewers = 0
    for video_id, engaged_views in lookup.run(session, statement):
        viewers += engaged_views
        if batch and viewers > VIEWERS_PER_BATCH:
            break
        batch.append(video_id)
    return batch


@cache
def _replace_neighbours(on_sqlite: bool) -> tuple[sa.Delete, sa.Insert]:  # noqa: FBT001
    """Build the statements that replace the neighbours of listed videos, called targets."""
    targets = sa.select(lookup.listed(on_sqlite, (NEIGHBOURS.c.video_id,)).c.video_id)
    delete = sa.delete(NEIGHBOURS).where(NEIGHBOURS.c.video_id.in_(targets))
    names = ["source_id", "video_id", "similarity"]
    insert = sa.insert(NEIGHBOURS).from_select(names, _most_similar(on_sqlite))
    return delete, insert


def _most_similar(on_sqlite: bool) -> Any:  # noqa: FBT001
    """Build the SELECT of the most similar videos, called sources, per target."""
    pairs = _excesses(on_sqlite)
    similarity = _similarity(pairs.c.excess, pairs.c.mean_viewers)
    similar = (
        sa.select(pairs.c.source_id, pairs.c.video_id, similarity.label("similarity"))
        .where(pairs.c.excess > sa.literal(0.0, sa.Double))
        .subquery()
    )
    rank = sa.func.row_number().over(
        partition_by=similar.c.video_id, order_by=(similar.c.similarity.desc(), similar.c.source_id)
    )
    ranked = sa.select(similar, rank.label("rank")).subquery()
    read = [ranked.c.source_id, ranked.c.video_id, ranked.c.similarity]
    return sa.select(*read).where(ranked.c.rank <= sa.bindparam("limit", type_=sa.Integer))


def _excesses(on_sqlite: bool) -> sa.Subquery:  # noqa: FBT001
    """Build the SELECT of common viewers beyond chance, and mean viewers, per source and target.

    The number expected by chance is the null model of modularity (Newman, 2006). It is the source's
    share of all engaged views, times all pairs of the target with other videos. The mean is the
    geometric mean of the two videos' viewers, the denominator of a cosine.
    """
    # Without the null model any two videos look similar if a few users engage with many videos.
    pairs = _pairs(on_sqlite)
    source, target = VIDEOS.alias("source"), VIDEOS.alias("target")
    common = sa.cast(pairs.c.together, sa.Double)
    among = sa.cast(sa.func.sum(pairs.c.together).over(partition_by=pairs.c.video_id), sa.Double)
    share = sa.cast(source.c.engaged_views, sa.Double) / sa.bindparam("engaged", type_=sa.Double)
    viewers = [
        sa.case((views > pairs.c.together, sa.cast(views, sa.Double)), else_=common)
        for views in (source.c.engaged_views, target.c.engaged_views)
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
    """Build the SELECT of the number of users who recently engaged with both videos of a pair."""
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
    """Return the cosine, shrunk towards 0 if the pair has few common viewers beyond chance.

    The factor n / (n + shrinkage) is from Bell and Koren (2007).
    """
    shrinkage = sa.bindparam("shrinkage", type_=sa.Double)
    return sa.type_coerce(excess / mean_viewers * (excess / (excess + shrinkage)), sa.Double)


def delete_leftover_neighbours(session: Session) -> None:
    """Delete the neighbours of videos without engaged views; a refresh replaces all others."""
    without_views = sa.select(VIDEOS.c.id).where(VIDEOS.c.engaged_views == 0)
    lookup.run(session, sa.delete(NEIGHBOURS).where(NEIGHBOURS.c.video_id.in_(without_views)))
