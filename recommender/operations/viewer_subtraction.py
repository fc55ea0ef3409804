"""Subtract one viewer from the statistics of videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from recommender.database import lookup
from recommender.learning.affinities import decay_exponent
from recommender.learning.statistics import MAX_TREND
from recommender.models.tables import INTERACTIONS, VIDEOS

MIN_TREND_FRACTION = 2.0**-40
"""The fraction of a trend below which the remainder is only rounding error."""

LoggedViews = tuple[int, datetime]
"""The number of engaged views of one video by one user in the log, and the time of the first."""

VIDEO_STATISTICS = (
    VIDEOS.c.id,
    *(VIDEOS.c[name] for name in ("impressions", "engaged_views", "trending", "neighbours_views")),
)
"""The id of a video, and the statistics that one viewer changes."""


@cache
def uncounted(on_sqlite: bool) -> sa.Update:  # noqa: FBT001
    """Return the UPDATE that resets the counts of a user's listed interactions."""
    names = ("impressions", "engaged_views")
    rows = lookup.listed(on_sqlite, (INTERACTIONS.c.video_id, *(INTERACTIONS.c[n] for n in names)))
    is_state = (
        INTERACTIONS.c.user_id == sa.bindparam("user", type_=sa.BigInteger),
        INTERACTIONS.c.video_id == rows.c.video_id,
    )
    left = {n: sa.case((rows.c[n] > 0, 0), else_=INTERACTIONS.c[n]) for n in names}
    return sa.update(INTERACTIONS).where(*is_state).values(left)


def statistics_without(
    row: Any, values: Sequence[Any], logged: LoggedViews | None, state: Any
) -> tuple[int, int, float | None, int]:
    """Return a video's statistics without one user's views.

    `neighbours_views` becomes 0 after an engagement, so that the next refresh updates neighbours.
    """
    impressions, engaged_views, trending, neighbours_views = values
    if row.impressions:
        impressions = max(0, impressions - 1)
    if row.engaged_views:
        engaged_views = max(0, engaged_views - 1)
        at = _first_engaged(row, logged)
        trending = trend_without(trending, at, state) if engaged_views else None
    return impressions, engaged_views, trending, 0 if row.engaged_at else neighbours_views


def _first_engaged(row: Any, logged: LoggedViews | None) -> datetime:
    """Return the time of a user's first engaged view, or a lower bound if events were pruned."""
    views, at = logged or (0, row.first_at)
    return at if views == row.engaged_views else row.first_at


def trend_without(trend: float | None, at: datetime, state: Any) -> float | None:
    """Subtract one view from a trend, the log2 of a sum. Return None if nothing is left."""
    if trend is None:
        return None
    difference = decay_exponent(state.landmark, state.trend_half_life_days, at) - trend
    left = -math.expm1(min(difference, 0.0) * math.log(2))
    return max(-MAX_TREND, trend + math.log2(left)) if left > MIN_TREND_FRACTION else None
