"""The reasons for videos that are like others: what they have in common with the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement, Double

from recommender.database import lookup
from recommender.database.expressions import Statement, constant, named
from recommender.database.session import Session
from recommender.feed.reasons import Causes, read_causes, reasons_of, telling
from recommender.feed.values import FeedPage, Reason, WordsByFormat
from recommender.models import Hashtag, Video, VideoHashtag, VideoNeighbour
from recommender.models.tables import VIDEOS
from recommender.ranking.request import FeedRequest
from recommender.ranking.viewer import Viewer, ViewerParts, values_of


def with_reasons(
    session: Session, request: FeedRequest, page: FeedPage, words: WordsByFormat
) -> FeedPage:
    """Return a page of the list whose items tell their reasons: one or two statements.

    Args:
        session: the caller's transaction.
        request: the request of the page, with its seeds.
        page: the page.
        words: the words for each format.
    """
    ids = [item.video_id for item in page.items]
    causes = {**read_causes(session, request, ids), **_read_likenesses(session, request, ids)}
    own = request.sentences
    items = tuple(telling(item, reasons_of(item, causes, own), words) for item in page.items)
    return replace(page, items=items)


def _read_likenesses(session: Session, request: FeedRequest, ids: Sequence[int]) -> Causes:
    """Read the seeds that videos are near to, and the rarest hashtags that they share."""
    if not ids:
        return {}
    listed = lookup.listed_values(session, 1, [(video_id,) for video_id in ids])
    query = likeness_query(lookup.is_sqlite(session))
    rows = lookup.connection(session).execute(query, {**values_of(request), **listed})
    return {(row.video_id, row.signal): Reason(row.signal, row.subject) for row in rows}


@cache
def likeness_query(on_sqlite: bool) -> Statement:  # noqa: FBT001 - the cache key
    """Return the statement that reads the strongest likeness per video and signal.

    Execute it with `values_of` a request and `lookup.listed_values` of the videos' row ids.
    """
    viewer = Viewer.named(ViewerParts())
    listed = lookup.listed(on_sqlite, (VIDEOS.c.id,))
    page = sa.select(listed.c.id.label("video_id")).cte("page")
    rows = sa.union_all(*_near(viewer, page), _tagged(viewer, page)).subquery("rows")
    place = sa.func.row_number().over(
        partition_by=(rows.c.video_id, rows.c.signal),
        order_by=(rows.c.strength.desc(), rows.c.subject),
    )
    ranked = sa.select(*rows.c, place.label("place")).subquery("ranked")
    return named(sa.select(ranked).where(ranked.c.place == 1), "similar_reasons")


def _near(viewer: Viewer, page: CTE) -> list[Statement]:
    """Return the seeds that the videos are near to, in both directions."""
    near, seeds = VideoNeighbour, viewer.seeds.videos
    pairs = ((near.source_id, near.video_id), (near.video_id, near.source_id))
    return [
        sa.select(*_likeness(video, "similarity", _key_of(seeds.c.id), near.similarity))
        .join_from(seeds, near, seed == seeds.c.id)
        .where(video.in_(sa.select(page.c.video_id)))
        for seed, video in pairs
    ]


def _tagged(viewer: Viewer, page: CTE) -> Statement:
    """Return the hashtags that the videos share with the seeds."""
    tags, tag = viewer.seeds.tags, VideoHashtag
    name = sa.select(Hashtag.name).where(Hashtag.id == tags.c.hashtag_id).scalar_subquery()
    likeness = _likeness(page.c.video_id, "shared_hashtags", name, tags.c.rarity)
    return (
        sa.select(*likeness)
        .select_from(page)
        .join(tag, tag.video_id == page.c.video_id)
        .join(tags, tags.c.hashtag_id == tag.hashtag_id)
    )


def _key_of(video_id: ColumnElement[int]) -> ColumnElement[str]:
    return sa.select(Video.key).where(Video.id == video_id).scalar_subquery()


def _likeness(video_id: Any, signal: str, subject: Any, strength: Any) -> list[ColumnElement[Any]]:
    """Return the columns of a likeness."""
    return [
        video_id.label("video_id"),
        constant(signal, sa.Text()).label("signal"),
        subject.label("subject"),
        sa.cast(strength, Double).label("strength"),
    ]
