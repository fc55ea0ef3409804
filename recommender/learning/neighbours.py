"""Neighbours: videos with which the same users engage (item-based collaborative filtering).

The similarity of two videos is a cosine of their viewers, less the co-occurrence expected by chance
(the null model of modularity; Newman, 2006), shrunk if it rests on few viewers (Bell and Koren,
2007). Each video keeps its most similar neighbours. Their weights come from a regression.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from recommender.database import bulk, lookup
from recommender.database.expressions import square_root
from recommender.database.schema import first_state
from recommender.database.session import Session
from recommender.learning.recent import CYCLE, HASH_END, hash_end, is_chosen
from recommender.learning.statistics import RefreshRun, lock_videos
from recommender.models.tables import LEARNING_STATE, NEIGHBOURS, RECENT, VIDEOS
from recommender.settings import Settings

if TYPE_CHECKING:
    from recommender.learning.regression import Neighbour

TARGETS_PER_BATCH = 500
"""The largest number of videos per batch; a long transaction would block other writers."""

VIEWERS_PER_BATCH = 5_000
"""The largest number of counted viewers per batch, unless one video has more."""


class _Counts(NamedTuple):
    """What a refresh has counted so far.

    Attributes:
        engaged: the engaged views of all videos.
        before: the same when the neighbours of all videos were last found.
        batches: the number of batches that were ever counted.
    """

    engaged: int
    before: int
    batches: int

    def have_changed(self, growth: float) -> bool:
        """Return whether the engaged views of all videos have changed by a factor, up or down."""
        low, high = sorted((self.engaged, self.before))
        return high > low and high >= low * growth


class _Batch(NamedTuple):
    """The targets of a batch, and their sources.

    Attributes:
        targets: the ids of the targets, ascending.
        views: the engaged views of the targets and their sources, by id.
        near: by target, the sources with their similarity, in the order of ids; targets without
            sources are left out.
    """

    targets: list[int]
    views: dict[int, int]
    near: dict[int, list[tuple[int, float]]]


def find_neighbours(run: RefreshRun) -> int:
    """Find the neighbours of all videos whose number of viewers has grown enough.

    If the engaged views of all videos have changed by the same factor, all neighbours are found
    again. Reading and solving hold no lock. The learning state is locked to replace the neighbours
    of a batch. If another refresh has counted events meanwhile, the batch is read again.

    Returns:
        The number of videos whose neighbours were replaced.
    """
    from recommender.learning.regression import Regression  # noqa: PLC0415 - it imports numpy

    counts, regression = run.reading(_read_counts), Regression(run)
    engaged, is_whole = counts.engaged, counts.have_changed(run.settings.neighbour_growth)
    last, replaced, tries = 0, 0, run.settings.tries
    while batch := run.reading(partial(_read_batch, run, last, counts, is_whole)):
        rows = list(regression.neighbours(batch.near, batch.views))
        if run.locked(partial(_replace_batch, batch, rows, counts)):
            last, replaced = batch.targets[-1], replaced + len(batch.targets)
            tries = run.settings.tries
        elif tries > 1:
            counts, regression, tries = run.reading(_read_counts), Regression(run), tries - 1
        else:
            return replaced  # refreshes that count so often find the others
    if is_whole:
        run.locked(partial(_keep_total, engaged))
    return replaced


def _read_counts(session: Session) -> _Counts:
    total = sa.select(sa.func.sum(VIDEOS.c.engaged_views)).scalar_subquery()
    state = LEARNING_STATE.c
    read = sa.select(total, state.neighbours_engaged, state.counted_batches)
    engaged, before, batches = first_state(lookup.run(session, read))
    return _Counts(int(engaged or 0), before, batches)


def _keep_total(engaged: int, session: Session, _state: Any) -> None:
    lookup.run(session, sa.update(LEARNING_STATE).values(neighbours_engaged=engaged))


def _read_batch(
    run: RefreshRun,
    after: int,
    counts: _Counts,
    is_whole: bool,  # noqa: FBT001
    session: Session,
) -> _Batch | None:
    """Return the next targets with their most similar videos; None if no target is left."""
    views = _stale_videos(session, after, run.settings, is_whole=is_whole)
    if not views:
        return None
    cap = run.settings.neighbour_viewers
    samples = [(video_id, hash_end(viewers, cap)) for video_id, viewers in views.items()]
    values = {
        "shrinkage": run.settings.neighbour_shrinkage,
        "engaged": float(max(1, counts.engaged)),
        "limit": run.settings.neighbours,
        **lookup.listed_values(session, 2, samples),
    }
    batch = _Batch(list(views), views, defaultdict(list))
    similar = lookup.run(session, _most_similar(lookup.is_sqlite(session)), values)
    for source_id, video_id, similarity, source_views in sorted(map(tuple, similar)):
        batch.near[video_id].append((source_id, similarity))
        batch.views.setdefault(source_id, source_views)
    return batch


def _stale_videos(
    session: Session, after: int, settings: Settings, *, is_whole: bool
) -> dict[int, int]:
    """Return the engaged views of one batch of videos by id: all, or those that have grown."""
    views, before = VIDEOS.c.engaged_views, VIDEOS.c.neighbours_views
    growth = sa.literal(settings.neighbour_growth, sa.Double)
    has_grown = [] if is_whole else [views > before, views >= before * growth]
    statement = (
        sa.select(VIDEOS.c.id, views)
        .where(VIDEOS.c.id > after, views > 0, *has_grown)
        .order_by(VIDEOS.c.id)
        .limit(TARGETS_PER_BATCH)
    )
    batch: dict[int, int] = {}
    counted = 0
    for video_id, engaged_views in lookup.run(session, statement):
        counted += min(engaged_views, settings.neighbour_viewers)
        if batch and counted > VIEWERS_PER_BATCH:
            break
        batch[video_id] = engaged_views
    return batch


def _replace_batch(
    batch: _Batch, rows: Sequence[Neighbour], counts: _Counts, session: Session, state: Any
) -> bool:
    """Replace the neighbours of a batch; return False if something was counted since its read."""
    if state.counted_batches != counts.batches:
        return False
    views = [(target, batch.views[target]) for target in batch.targets]
    lock_videos(session, batch.targets)
    targets = lookup.listed_values(session, 1, [(target,) for target in batch.targets])
    lookup.run(session, _delete_neighbours(lookup.is_sqlite(session)), targets)
    if rows:
        values = zip(*sorted(rows), strict=True)
        names = ("source_id", "video_id", "similarity", "weight")
        bulk.insert_columns(session, NEIGHBOURS, dict(zip(names, values, strict=True)))
    columns = (VIDEOS.c.id, VIDEOS.c.neighbours_views)
    bulk.update_listed(session, columns, views, {"neighbours_views": bulk.replace})
    return True


@cache
def _delete_neighbours(on_sqlite: bool) -> sa.Delete:  # noqa: FBT001
    """Build the DELETE of the neighbours of listed videos."""
    targets = sa.select(lookup.listed(on_sqlite, (NEIGHBOURS.c.video_id,)).c.video_id)
    return sa.delete(NEIGHBOURS).where(NEIGHBOURS.c.video_id.in_(targets))


@cache
def _most_similar(on_sqlite: bool) -> Any:  # noqa: FBT001
    """Build the SELECT of the most similar videos, called sources, per listed target."""
    pairs = _excesses(on_sqlite)
    similarity = _similarity(pairs.c.excess, pairs.c.mean_viewers)
    similar = (
        sa.select(
            pairs.c.source_id,
            pairs.c.video_id,
            similarity.label("similarity"),
            pairs.c.source_views,
        )
        .where(pairs.c.excess > sa.literal(0.0, sa.Double))
        .subquery()
    )
    rank = sa.func.row_number().over(
        partition_by=similar.c.video_id, order_by=(similar.c.similarity.desc(), similar.c.source_id)
    )
    ranked = sa.select(similar, rank.label("rank")).subquery()
    read = [ranked.c[name] for name in ("source_id", "video_id", "similarity", "source_views")]
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
    common = pairs.c.together
    among = sa.func.sum(common).over(partition_by=pairs.c.video_id)
    share = sa.cast(source.c.engaged_views, sa.Double) / sa.bindparam("engaged", type_=sa.Double)
    viewers = [
        sa.case((views > common, views), else_=common)
        for views in (
            sa.cast(source.c.engaged_views, sa.Double),
            sa.cast(target.c.engaged_views, sa.Double),
        )
    ]
    return (
        sa.select(
            pairs.c.source_id,
            pairs.c.video_id,
            (common - among * share).label("excess"),
            square_root(viewers[0] * viewers[1]).label("mean_viewers"),
            source.c.engaged_views.label("source_views"),
        )
        .join(source, source.c.id == pairs.c.source_id)
        .join(target, target.c.id == pairs.c.video_id)
        .subquery()
    )


def _pairs(on_sqlite: bool) -> sa.Subquery:  # noqa: FBT001
    """Build the SELECT of the number of users who recently engaged with both videos of a pair.

    It is estimated from the target's chosen viewers, if not all of them are.
    """
    targets = lookup.listed(on_sqlite, (RECENT.c.video_id, HASH_END))
    part = sa.cast(sa.func.max(targets.c.hash_end), sa.Double) / sa.literal(CYCLE, sa.Double)
    together = (sa.cast(sa.func.count(), sa.Double) / part).label("together")
    viewed, others = RECENT.alias("viewed"), RECENT.alias("others")
    return (
        sa.select(others.c.video_id.label("source_id"), viewed.c.video_id, together)
        .select_from(targets)
        .join(
            viewed,
            sa.and_(
                viewed.c.video_id == targets.c.video_id,
                is_chosen(viewed.c.user_id, targets.c.hash_end),
            ),
        )
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
