"""Subtract one viewer from the statistics of videos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from recommender.learning.affinities import decay_exponent
from recommender.learning.engagement import had_positive, viewed_and_positive
from recommender.learning.statistics import MAX_TREND
from recommender.models.tables import VIDEOS

MIN_TREND_FRACTION = 2.0**-40
"""The fraction of a trend below which the remainder is only rounding error."""

VIDEO_STATISTICS = (
    VIDEOS.c.id,
    *(VIDEOS.c[name] for name in ("impressions", "engaged_views", "trending", "neighbours_views")),
)
"""The id of a video, and the statistics that one viewer changes."""


class CountedViewer(NamedTuple):
    """What a refresh has counted of one user and video.

    Attributes:
        impressions, engaged_views: 0 or 1.
        trend_at: the time that is part of the trend, or None.
        had_positive: whether the state ever had a positive event.
    """

    impressions: int
    engaged_views: int
    trend_at: datetime | None
    had_positive: bool


def counted_viewer(
    values: Mapping[str, Any],
    pending: Sequence[Any],
    first_logged: datetime | None,
    state: Any,
) -> CountedViewer:
    """Return what a refresh has counted of a user and a video.

    Args:
        values: the state, a row of interactions by column.
        pending: the uncounted events.
        first_logged: the time of the first positive event in the log, or None.
        state: the row of the learning state.
    """
    impressions, engaged_views = viewed_and_positive(values)
    impressions -= sum(event.impressions for event in pending)
    engaged_views -= sum(event.engaged_views for event in pending)
    had = had_positive(values)
    # A trend keeps what was taken back, until a rebuild.
    is_pending = any(e.engaged_views > 0 and not e.again for e in pending)
    is_counted = had and not is_pending and not _is_left_out(values, state)
    # Events that were pruned may have been earlier than those in the log.
    is_pruned = state.events_horizon is not None and values["first_at"] <= state.events_horizon
    first = values["first_at"] if is_pruned or first_logged is None else first_logged
    return CountedViewer(impressions, engaged_views, first if is_counted else None, had)


def _is_left_out(values: Mapping[str, Any], state: Any) -> bool:
    """Return True if a rebuild left the state out of the trend, because it was taken back."""
    if values["engaged_at"] is not None or state.rebuilt_at is None:
        return False
    offs = [values[name] for name in ("unliked_at", "unsaved_at", "not_interested_at")]
    # A report has no time of its own.
    taken_back_at: datetime = max((at for at in offs if at is not None), default=values["first_at"])
    return bool(taken_back_at <= state.rebuilt_at)


def statistics_without(
    viewer: CountedViewer, values: Sequence[Any], state: Any
) -> tuple[int, int, float | None, int]:
    """Return a video's statistics without one user's views.

    `neighbours_views` becomes 0 after an engagement, so that the next refresh updates neighbours.
    """
    impressions, engaged_views, trending, neighbours_views = values
    impressions = max(0, impressions - viewer.impressions)
    engaged_views = max(0, engaged_views - viewer.engaged_views)
    if viewer.trend_at:
        trending = trend_without(trending, viewer.trend_at, state) if engaged_views else None
    return impressions, engaged_views, trending, 0 if viewer.had_positive else neighbours_views


def trend_without(trend: float | None, at: datetime, state: Any) -> float | None:
    """Subtract one view from a trend, the log2 of a sum. Return None if nothing is left."""
    if trend is None:
        return None
    difference = decay_exponent(state.landmark, state.trend_half_life_days, at) - trend
    left = -math.expm1(min(difference, 0.0) * math.log(2))
    return max(-MAX_TREND, trend + math.log2(left)) if left > MIN_TREND_FRACTION else None
