"""The statements of the list `trending`; the ones of `following` are in `audience`.

Each is an index walk. The conditions on a video and its place in the list come from the caller. A
statement `last_…` returns the position where a page stops to look for a host's condition: `value`
and `video_id` of the last of the next `Settings.scan_limit` videos, and no row if fewer are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Double, literal

from recommender.database.expressions import Number, Statement, number
from recommender.models import Video
from recommender.ranking.audience import Conditions
from recommender.ranking.filters import listed
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import score_key
from recommender.ranking.signals import trend
from recommender.ranking.viewer import Viewer

_NEWEST_FIRST = (Video.published_at.desc(), Video.id.desc())

_STRONGEST_FIRST = (Video.trending.desc(), Video.id.desc())


def most_trending(
    request: FeedRequest, viewer: Viewer, shown: Conditions, limit: int, least: float
) -> Statement:
    """Return the videos with the strongest trends, from `least` on, that fulfil some conditions."""
    value = trend(viewer)
    videos = _scored(viewer, value, Video.trending)
    videos = videos.where(listed(viewer), Video.trending >= _trend(least), *shown)
    walks = [
        videos.where(*place).order_by(*_STRONGEST_FIRST).limit(limit)
        for place in _places(request, viewer)
    ]
    return _merged(walks, "stored_trend").limit(limit)


def last_trending(request: FeedRequest, is_left: ColumnElement[bool], least: float) -> Statement:
    """Return the last trending video to look at."""
    viewer, limit = Viewer.of(request), request.settings.scan_limit
    walks = [
        sa.select(Video.trending.label("value"), Video.id.label("video_id"))
        .where(listed(viewer), *place, Video.trending >= _trend(least), is_left)
        .order_by(*_STRONGEST_FIRST)
        .limit(limit)
        for place in _places(request, viewer)
    ]
    looked_at = _merged(walks, "value").limit(limit).subquery("looked_at")
    order = (looked_at.c.value.desc(), looked_at.c.video_id.desc())
    return sa.select(looked_at).order_by(*order).offset(limit - 1).limit(1)


def newest_without_trend(
    request: FeedRequest, viewer: Viewer, shown: Conditions, limit: int, least: float
) -> Statement:
    """Return the newest videos without a trend, or below `least`, that fulfil some conditions."""
    has_none = sa.or_(Video.trending.is_(None), Video.trending < _trend(least))
    videos = _scored(viewer, number(0), sa.cast(sa.null(), Double))
    videos = videos.where(listed(viewer), has_none, *shown)
    walks = [
        videos.where(*place).order_by(*_NEWEST_FIRST).limit(limit)
        for place in _places(request, viewer)
    ]
    return _merged(walks, "published_at").limit(limit)


def last_of_newest(request: FeedRequest, is_left: ColumnElement[bool]) -> Statement:
    """Return the last of the newest videos to look at, with a trend or without."""
    viewer = Viewer.of(request)
    return (
        sa.select(Video.published_at.label("value"), Video.id.label("video_id"))
        .where(listed(viewer), is_left)
        .order_by(*_NEWEST_FIRST)
        .offset(request.settings.scan_limit - 1)
        .limit(1)
    )


def _trend(stored: float) -> ColumnElement[float]:
    return literal(stored, Double())


def _scored(viewer: Viewer, value: Number, stored: sa.SQLColumnExpression[Any]) -> Statement:
    """Return the videos with the score of a trending list, and their stored trends."""
    return sa.select(
        Video.id.label("video_id"),
        score_key({"trending": value}, viewer),
        value.label("trending"),
        stored.label("stored_trend"),
        Video.published_at,
    )


def _places(request: FeedRequest, viewer: Viewer) -> list[list[ColumnElement[bool]]]:
    """Return the conditions of the request's language and country, for each walk of an index.

    An unknown language counts as any: it is a walk of its own through the same index.
    """
    country = [] if request.country is None else [Video.country == viewer.country]
    if request.language is None:
        return [country]
    return [[Video.language == viewer.language, *country], [Video.language.is_(None), *country]]


def _merged(walks: Sequence[Statement], order: str) -> Statement:
    """Return the videos of several walks of an index in one order, by a column and the id."""
    if len(walks) == 1:
        return walks[0]
    rows = sa.union_all(*(sa.select(walk.subquery()) for walk in walks)).subquery("walks")
    return sa.select(rows).order_by(rows.c[order].desc(), rows.c.video_id.desc())
