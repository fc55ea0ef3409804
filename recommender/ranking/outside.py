"""Sources and signals of data that a host computes: candidates for users, vectors of videos."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement

from recommender.database.expressions import Number, bounded, number, unless_nan
from recommender.database.spaces import space_table
from recommender.database.vectors import cosine, cosine_distance, nearest_to
from recommender.models import OutsideCandidate, Video
from recommender.ranking.signals import Candidate, Signal
from recommender.ranking.sources import Source
from recommender.ranking.viewer import Viewer

SENTENCE = "it was picked for you"
"""The reason for candidates from outside. Their name is a word of the host's, not of its users."""

MAX_SCANNED = 2_000
"""The largest number of a viewer's candidates from one source that a page reads, best first.

Expired ones are among them, and must not keep current ones out before `prune` deletes them.
"""


def outside_source(name: str, quota: int) -> Source:
    """Return the source of the candidates that `upsert_candidates` stored under a name.

    Args:
        name: the name of the stored source, as it is written.
        quota: the largest number of its candidates.
    """

    def select(viewer: Viewer, _quota: int) -> sa.Select[int]:
        row = OutsideCandidate
        best = (
            sa.select(row.video_id, row.score, row.expires_at)
            .where(*_of_viewer(name, viewer))
            .order_by(row.score.desc(), row.video_id.desc())
            .limit(MAX_SCANNED)
            .subquery("outside")
        )
        in_order = best.c.score.desc(), best.c.video_id.desc()
        is_current = _is_current(best.c.expires_at, viewer)
        return sa.select(best.c.video_id).where(is_current).order_by(*in_order)

    return Source(name, quota, select, rows=MAX_SCANNED)


def outside_signal(name: str) -> Signal:
    """Return the signal of the scores that `upsert_candidates` stored under a name.

    It is 0 for a video that is no candidate of the viewer, or that expired.
    """

    def expression(candidate: Candidate) -> Number:
        row = OutsideCandidate
        is_it = row.video_id == Video.id, _is_current(row.expires_at, candidate.viewer)
        score = sa.select(row.score).where(*_of_viewer(name, candidate.viewer), *is_it)
        return sa.func.coalesce(score.correlate(Video).scalar_subquery(), number(0))

    return Signal(name, 0, 1, expression, SENTENCE)


MAX_NEAREST = 20_000
"""The largest number of vectors that a source looks at, nearest first, until enough may be shown.

It is also what pgvector scans of an index at most (`hnsw.max_scan_tuples`).
"""


def near_source(space: str, quota: int) -> Source:
    """Return the source of the videos that are nearest to the viewer's taste."""

    def select(viewer: Viewer, most: int) -> sa.Select[int]:
        return _nearest(space, viewer.taste, most)

    return Source("near", quota, select, is_filtered=True)


def alike_source(space: str, quota: int) -> Source:
    """Return the source of the videos that are nearest to the seeds of the list `similar`."""

    def select(viewer: Viewer, most: int) -> sa.Select[int]:
        return _nearest(space, viewer.seeds.direction, most)

    return Source("alike", quota, select, is_filtered=True)


def taste_signal(space: str) -> Signal:
    """Return the signal of the cosine of a video and the viewer's taste, 0 without either."""
    return Signal("taste", -1, 1, lambda candidate: _cosine(space, candidate.viewer.taste))


def alike_signal(space: str) -> Signal:
    """Return the signal of the cosine of a video and the seeds of the list `similar`."""
    return Signal(
        "alike", -1, 1, lambda candidate: _cosine(space, candidate.viewer.seeds.direction)
    )


def _nearest(space: str, direction: CTE | None, most: int) -> sa.Select[int]:
    """Return the videos nearest to a direction, none if it is NULL."""
    if direction is None:
        return sa.select(Video.id).where(sa.false())
    vectors, value = space_table(space).c, direction.c.vector
    wanted = sa.select(nearest_to(value, most)).scalar_subquery()
    has_direction = sa.select(value).scalar_subquery().is_not(None)
    nearest = sa.select(vectors.video_id).where(has_direction)
    return nearest.order_by(cosine_distance(vectors.vector, wanted)).limit(MAX_NEAREST)


def _cosine(space: str, direction: CTE | None) -> Number:
    """Return the cosine of a video and a direction; 0 if one of them is missing."""
    if direction is None:
        return number(0)
    vectors, value = space_table(space).c, sa.select(direction.c.vector).scalar_subquery()
    have_both = vectors.video_id == Video.id, value.is_not(None)
    own = sa.select(cosine(vectors.vector, value)).where(*have_both).correlate(Video)
    return sa.func.coalesce(bounded(unless_nan(own.scalar_subquery()), -1, 1), number(0))


def _of_viewer(name: str, viewer: Viewer) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a candidate is the viewer's, from the source of a name."""
    return OutsideCandidate.user_id == viewer.user_id, OutsideCandidate.source == name


def _is_current(expires_at: Any, viewer: Viewer) -> ColumnElement[bool]:
    """Return the condition that a candidate has not expired at the reading time."""
    return sa.or_(expires_at.is_(None), expires_at > viewer.as_of)
