"""The candidates of a request: the sources' videos, merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Double, literal
from sqlalchemy.orm import aliased

from recommender.database.expressions import Statement, json_texts
from recommender.formats.scalars import UNDATED
from recommender.models import RememberedVideo, Video
from recommender.models.tables import NEIGHBOURS
from recommender.models.types import UtcDateTime
from recommender.ranking.audience import Conditions, followed_creators, newest_of_followed
from recommender.ranking.filters import allowed, eligible, listed
from recommender.ranking.history import VideoId, keyed_videos, neighbour_weight
from recommender.ranking.interests import creators_enjoyed_last, enjoyed_last, hashtags_enjoyed_last
from recommender.ranking.sources import (
    BACKFILL,
    CANDIDATES,
    EXPLORATION,
    NEIGHBOUR_SCAN_FACTOR,
    SOURCES,
    Source,
    fresh,
    newest_of,
    newest_tagged,
)
from recommender.ranking.viewer import Shape, Viewer


def candidates(shape: Shape, viewer: Viewer) -> CTE:
    """Return all candidates of a request: `video_id`, and `sources` as a sum of powers of 2.

    The exponent of a source is its index in the registry.
    """
    return _merged([
        _rows(shape, viewer, place, source)
        for place, source in enumerate(sources_in(shape))
        if quota_of(source, shape)
    ])  # fmt: skip


def _merged(rows: Sequence[Statement]) -> CTE:
    """Return the videos of all sources, each once with the sum of its sources."""
    listed = sa.union_all(*rows).subquery("each_source")
    sources = sa.cast(sa.func.sum(listed.c.source), Double).label("sources")
    merged = sa.select(listed.c.video_id, sources).group_by(listed.c.video_id)
    # In the order of ids, the rows that later steps read lie side by side.
    return merged.order_by(listed.c.video_id).cte("candidates")


def contenders(shape: Shape, viewer: Viewer) -> CTE:
    """Return the candidates of a page that goes on with the contenders of its session.

    A part of some sources adds what swipes bring in, and videos on trial.
    """
    every = sources_in(shape)
    ids = json_texts(viewer.given).table_valued("value", name="carried")
    video_id = sa.cast(ids.c.value, BigInteger)
    power = literal(1 << len(every), BigInteger()).label("source")
    carried: Statement = sa.select(video_id.label("video_id"), power)
    carried = _with_conditions(carried, shape, viewer, video_id)
    places = {source.name: place for place, source in enumerate(every)}
    added = [
        _rows(shape, viewer, places[source.name], source)
        for source in ADDED
        if quota_of(source, shape)
    ]
    return _merged([carried, *added])


def _near_latest(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The nearest neighbours of the videos enjoyed last."""
    near, latest = NEIGHBOURS.c, enjoyed_last(viewer)
    weight = sa.func.sum(neighbour_weight(near) * latest.c.weight).label("weight")
    nearest = (
        sa.select(near.video_id, weight)
        .select_from(latest)
        .join(NEIGHBOURS, near.source_id == latest.c.video_id)
        .group_by(near.video_id)
        .order_by(weight.desc(), near.video_id.desc())
        .limit(NEIGHBOUR_SCAN_FACTOR * quota)
        .subquery("nearest")
    )
    order = (nearest.c.weight.desc(), nearest.c.video_id.desc())
    return sa.select(nearest.c.video_id).order_by(*order)


def _by_latest(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos by the creators of the videos enjoyed last."""
    wanted = creators_enjoyed_last(viewer).distinct().subquery("latest_creators")
    return newest_of(viewer, Video.creator_id, wanted, quota, "latest_since")


def _tagged_like_latest(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos with the hashtags of the videos enjoyed last, few per hashtag."""
    every = hashtags_enjoyed_last(viewer).distinct().subquery("latest_hashtags")
    return newest_tagged(viewer, every, quota, NEWEST_PER_HASHTAG)


NEWEST_PER_HASHTAG = 10
"""The largest number of videos read per hashtag of the videos enjoyed last."""

ADDED = (
    Source("neighbours", 10, _near_latest),
    Source("hashtags", 60, _tagged_like_latest),
    Source("creators", 60, _by_latest),
    Source(EXPLORATION, 40, fresh),  # as many as on other pages: some take places by their scores
)
"""What is added to the contenders of a session: parts of the sources of the same names."""


def sources_in(shape: Shape) -> tuple[Source, ...]:
    """Return the sources of a list, in the order of their powers of 2."""
    registry = shape.registry
    return registry.similar_sources if shape.has_seeds else registry.every_source


def given_candidates(viewer: Viewer) -> CTE:
    """Return the given videos as candidates without sources."""
    videos: Statement = sa.select(
        Video.id.label("video_id"), literal(0.0, Double()).label("sources")
    )
    return videos.where(Video.id.in_(keyed_videos(viewer.given))).cte("candidates")


def served_candidates(shape: Shape, viewer: Viewer) -> Statement:
    """Return what was served to the viewer and not seen: without sources, the oldest first."""
    served = aliased(RememberedVideo)
    statement: Statement = sa.select(
        served.video_id, literal(0.0, Double()).label("sources"), served.last_at
    )
    return (
        statement.join(Video, Video.id == served.video_id)
        .where(
            served.user_id == viewer.user_id,
            served.memory == viewer.memory,
            *allowed(shape, viewer, again=True),
        )
        .order_by(served.last_at, served.video_id)
    )


def _rows(shape: Shape, viewer: Viewer, place: int, source: Source) -> Statement:
    candidates_of_source = source_candidates(source, shape, viewer).subquery(source.name)
    power = literal(1 << place, BigInteger()).label("source")
    return sa.select(candidates_of_source.c[0].label("video_id"), power)


def source_candidates(source: Source, shape: Shape, viewer: Viewer) -> Statement:
    """Return the ids of a source's candidates, best first."""
    quota = quota_of(source, shape)
    statement = source.select(viewer, quota)
    if source.name == BACKFILL:
        return _backfill(statement, quota, shape, viewer)
    if source.is_filtered:
        rows = statement.subquery(f"every_{source.name}")
        return passing(rows, allowed(shape, viewer)).limit(quota)
    (video_id,) = statement.selected_columns if source.is_listed else (Video.id,)
    return _with_conditions(statement, shape, viewer, video_id).limit(quota)


def _with_conditions(
    statement: Statement, shape: Shape, viewer: Viewer, video_id: VideoId
) -> Statement:
    """Return the rows of a source that are eligible."""
    is_listed = video_id is not Video.id
    if is_listed and (shape.has_conditions or shape.formats):
        statement = statement.join(Video, Video.id == video_id)
    return statement.where(*eligible(shape, viewer, video_id))


def _backfill(statement: Statement, quota: int, shape: Shape, viewer: Viewer) -> Statement:
    """Return the newest videos that pass every filter, for each of the wanted formats."""
    every = allowed(replace(shape, formats=0), viewer)
    conditions = [*(within_scan(viewer) if shape.has_conditions else []), *every]
    newest = statement.where(listed(viewer), *conditions)
    if not shape.formats:
        passing = newest_scanned(viewer, every) if shape.has_conditions else newest
        passing = passing.limit(_backfill_limit(viewer, quota))
        return _with_followed(passing, viewer, conditions) if shape.fills else passing
    # One index walk for each format: the newest of several formats would be read and sorted as a
    # whole. Other sources may find few videos of a rare format, so these may take all their places.
    limit = _backfill_limit(viewer, max(quota, shape.candidates // shape.formats))
    walks = (newest.where(Video.format == name).limit(limit) for name in viewer.formats)
    rows = [walk.subquery(f"newest_{number}") for number, walk in enumerate(walks)]
    of_formats = sa.union_all(*(sa.select(walk.c[0]) for walk in rows))
    if not shape.fills:
        return sa.select(of_formats.subquery("newest_of_formats").c[0])
    return _with_followed(of_formats, viewer, [*conditions, Video.format.in_(viewer.formats)])


def _with_followed(
    newest: Statement | sa.CompoundSelect[Any], viewer: Viewer, conditions: Conditions
) -> Statement:
    """Return the newest videos, and the newest for followers only that the viewer may see."""
    # A statement of its own, for short pages: each page would start slower by an eighth.
    limit, followed = _backfill_limit(viewer, 1), followed_creators(viewer, "followers")
    own = newest_of_followed(conditions, limit, followed).subquery("for_followers")
    theirs = sa.select(own.c.video_id).where(own.c.video_id.is_not(None))
    of_all = sa.select(newest.subquery("newest_of_all").c[0])
    both = sa.union_all(of_all, theirs).subquery("newest_of_both")
    return sa.select(both.c[0])


def newest_scanned(viewer: Viewer, conditions: Sequence[ColumnElement[bool]]) -> Statement:
    """Return the newest videos that fulfil conditions, among those to scan; without a limit.

    Args:
        viewer: the viewer of the request.
        conditions: over `Video`.
    """
    video = aliased(Video)
    newest = (
        sa.select(video.id)
        .where(video.status == "published", scanned_after(viewer, video))
        .order_by(video.published_at.desc(), video.id.desc())
        .limit(viewer.scan_limit)
        .subquery("scanned")
    )
    return passing(newest, conditions)


def passing(rows: sa.Subquery, conditions: Sequence[ColumnElement[bool]]) -> Statement:
    """Return the videos that fulfil conditions, in the order of the rows; without a limit.

    Args:
        rows: ordered rows, whose first column is the id of a video.
        conditions: over `Video`.
    """
    # As a value and without a join, so that both databases go through the videos in their order,
    # and stop at the limit.
    fulfils = sa.select(literal(1)).where(Video.id == rows.c[0], *conditions).limit(1)
    is_passing = sa.func.coalesce(fulfils.correlate(rows).scalar_subquery(), 0) == 1
    return sa.select(rows.c[0].label("video_id")).where(is_passing)


def within_scan(viewer: Viewer) -> list[ColumnElement[bool]]:
    """Return the conditions that a video is among the newest ones to scan for a host's condition.

    A host's condition that few videos fulfil would otherwise read the whole catalogue.
    """
    end = scan_end(viewer).cte("scan_end")
    last = (sa.select(column).scalar_subquery() for column in end.c)
    return [scanned_after(viewer), sa.tuple_(Video.published_at, Video.id) >= sa.tuple_(*last)]


def scan_end(viewer: Viewer) -> Statement:
    """Return the publication time and id of the last video to scan.

    They are below those of every video if fewer videos are left than a scan may look at.
    """
    video = aliased(Video)
    last = (
        sa.select(video.published_at.label("published_at"), video.id.label("video_id"))
        .where(video.status == "published", scanned_after(viewer, video))
        .order_by(video.published_at.desc(), video.id.desc())
        .offset(viewer.scan_limit - sa.literal(1, BigInteger()))
        .limit(1)
    )
    none = sa.select(literal(UNDATED, UtcDateTime()), literal(0, BigInteger()))
    both = sa.union_all(sa.select(last.subquery("last")), none).subquery("scan_ends")
    return sa.select(both).order_by(both.c.published_at.desc(), both.c.video_id.desc()).limit(1)


def scanned_after(viewer: Viewer, video: type[Video] = Video) -> ColumnElement[bool]:
    """Return the condition that a video comes after the position where a scan begins."""
    start = sa.tuple_(viewer.scan_after, viewer.scan_after_id)
    return sa.tuple_(video.published_at, video.id) < start


def quota_of(source: Source, shape: Shape) -> int:
    """Return the largest number of candidates of a source; 0 if the feed does not read it.

    A quota of the feed is as it is. The source's own is scaled by the setting, and at least 1.
    """
    # Written into the statement, and not bound: PostgreSQL plans for the number of rows.
    quotas = dict(shape.sources)
    quota = quotas.get(source.name, 0) if quotas else None
    if quota is not None:
        return quota
    return max(1, round(source.quota * shape.candidates / CANDIDATES))


def _backfill_limit(viewer: Viewer, least: int) -> ColumnElement[int]:
    """Return the number of videos on two pages, but at least `least`, or a small catalogue."""
    two_pages = 2 * viewer.limit
    least_or_whole = sa.case((viewer.whole > least, viewer.whole), else_=least)
    return sa.case((two_pages > least_or_whole, two_pages), else_=least_or_whole)


_EXPLORATION_POWER = 1 << next(
    place for place, each in enumerate(SOURCES) if each.name == EXPLORATION
)


def is_exploration(sources: ColumnElement[float]) -> ColumnElement[bool]:
    """Return the condition that a `sources` column names the exploration source."""
    return sa.cast(sources, BigInteger).bitwise_and(_EXPLORATION_POWER) != 0


def was_exploration(sources: float) -> bool:
    """Return True if a value of a `sources` column names the exploration source."""
    return bool(int(sources) & _EXPLORATION_POWER)
