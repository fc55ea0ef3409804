"""ranking.candidates: TODO."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Double, literal

from recommender.database.expressions import Statement
from recommender.models import (
    Video,
)
from recommender.ranking.filters import allowed, eligible
from recommender.ranking.sources import BACKFILL, CANDIDATES, SOURCES, Source
from recommender.ranking.viewer import Shape, Viewer


def candidates(shape: Shape, viewer: Viewer) -> CTE:
    """All candidates of a request: `video_id`, and `sources` as a sum of powers of 2.

    The power of a source is its place in `SOURCES`. They are in the order of their ids, in which
    what is read of each lies side by side.
    """
    rows = [_rows(shape, viewer, place, source) for place, source in enumerate(SOURCES)]
    each = sa.union_all(*rows).subquery("each_source")
    sources = sa.cast(sa.func.sum(each.c.source), Double).label("sources")
    merged = sa.select(each.c.video_id, sources).group_by(each.c.video_id)
    return merged.order_by(each.c.video_id).cte("candidates")


def given_candidates(viewer: Viewer) -> CTE:
    """The given videos as candidates that no source found."""
    found: Statement = sa.select(
        Video.id.label("video_id"), literal(0.0, Double()).label("sources")
    )
    return found.where(Video.id.in_(viewer.given_videos())).cte("candidates")


def source_names(sources: float) -> tuple[str, ...]:
    """The names of the sources that the `sources` column of `feed_query` stands for.

    Args:
        sources: a sum of powers of 2, each a place in `SOURCES`; 0 for none.
    """
    return tuple(each.name for place, each in enumerate(SOURCES) if int(sources) >> place & 1)


def _rows(shape: Shape, viewer: Viewer, place: int, source: Source) -> Statement:
    found = source_candidates(source, shape, viewer).subquery(source.name)
    power = literal(1 << place, BigInteger()).label("source")
    return sa.select(found.c[0].label("video_id"), power)


def source_candidates(source: Source, shape: Shape, viewer: Viewer) -> Statement:
    """The ids of the candidates that a source finds, the best first."""
    quota = quota_of(source, shape)
    found = source.select(viewer, quota)
    if source.name == BACKFILL:
        return found.where(*allowed(shape, viewer)).limit(_of_two_pages(viewer, quota))
    (video_id,) = found.selected_columns if source.is_listed else (Video.id,)
    if source.is_listed and shape.where is not None:
        found = found.join(Video, Video.id == video_id)
    return found.where(*eligible(shape, viewer, video_id)).limit(quota)


def quota_of(source: Source, shape: Shape) -> int:
    """How many candidates a source gives at most, 1 at least: its part of all that may be."""
    return max(1, round(source.quota * shape.candidates / CANDIDATES))


def _of_two_pages(viewer: Viewer, least: int) -> ColumnElement[int]:
    """How many two pages hold, or the least where that is more."""
    two_pages = 2 * viewer.limit
    return sa.case((two_pages > least, two_pages), else_=least)
