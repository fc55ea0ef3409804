"""The reasons for videos that are like others: what they have in common with the seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement, Double
from sqlalchemy.orm import aliased

from recommender.database import lookup
from recommender.database.expressions import Statement, constant, materialized, named, number
from recommender.database.session import Session
from recommender.database.spaces import space_table
from recommender.database.vectors import cosine
from recommender.feed.reasons import Causes, may_be_named, read_causes, reasons_of, telling
from recommender.feed.statements import MAX_STATEMENTS
from recommender.feed.values import FeedPage, Reason, WordsByFormat
from recommender.models import Hashtag, Video, VideoHashtag
from recommender.models.tables import VIDEOS
from recommender.ranking.registry import Registry
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
    """Read what videos have in common with the seeds, as far as a reason may tell it."""
    if not ids:
        return {}
    listed = lookup.listed_values(session, 1, [(video_id,) for video_id in ids])
    query = likeness_query(lookup.is_sqlite(session), request.registry)
    rows = lookup.connection(session).execute(query, {**values_of(request), **listed})
    return {(row.video_id, row.signal): Reason(row.signal, row.subject) for row in rows}


@lru_cache(MAX_STATEMENTS)
def likeness_query(on_sqlite: bool, registry: Registry) -> Statement:  # noqa: FBT001 - the cache key
    """Return the statement that reads the strongest likeness per video and signal.

    Only seeds that a reason may name count: one may be removed, or for others only. Execute it with
    `values_of` a request and `lookup.listed_values` of the videos' row ids.
    """
    viewer = Viewer.named(ViewerParts(space=registry.space))
    listed = lookup.listed(on_sqlite, (VIDEOS.c.id,))
    page = sa.select(listed.c.id.label("video_id")).cte("page")
    seeds = _seeds_to_name(viewer, registry)
    parts = [_near(viewer, seeds, page), _tagged(viewer, seeds, page), *_same(seeds, page)]
    if registry.space:
        parts.append(_alike(registry.space, seeds, page))
    rows = sa.union_all(*parts).subquery("rows")
    place = sa.func.row_number().over(
        partition_by=(rows.c.video_id, rows.c.signal),
        order_by=(rows.c.strength.desc(), rows.c.subject),
    )
    ranked = sa.select(*rows.c, place.label("place")).subquery("ranked")
    return named(sa.select(ranked).where(ranked.c.place == 1), "similar_reasons")


def _seeds_to_name(viewer: Viewer, registry: Registry) -> CTE:
    seeds = viewer.seeds.videos
    columns = sa.select(Video.id, Video.key, Video.creator_id, Video.sound_id)
    rows = columns.join(seeds, seeds.c.id == Video.id).where(*may_be_named(viewer, registry))
    return materialized(rows.cte("seeds_to_name"))


def _near(viewer: Viewer, seeds: CTE, page: CTE) -> Statement:
    """Return the seeds that the videos are near to."""
    pairs = viewer.seeds.pairs
    return (
        sa.select(*_likeness(pairs.c.video_id, "similarity", seeds.c.key, pairs.c.similarity))
        .join_from(pairs, seeds, seeds.c.id == pairs.c.seed_id)
        .where(pairs.c.video_id.in_(sa.select(page.c.video_id)))
    )


def _alike(space: str, seeds: CTE, page: CTE) -> Statement:
    """Return the seeds whose vectors point the same way as a video's vector."""
    own, other = (space_table(space).alias(name) for name in ("own", "other"))
    strength = cosine(own.c.vector, other.c.vector)
    return (
        sa.select(*_likeness(page.c.video_id, "alike", seeds.c.key, strength))
        .join_from(page, own, own.c.video_id == page.c.video_id)
        .join(seeds, sa.true())
        .join(other, other.c.video_id == seeds.c.id)
        .where(strength > number(0))
    )


def _tagged(viewer: Viewer, seeds: CTE, page: CTE) -> Statement:
    """Return the hashtags that the videos share with the seeds."""
    tags, tag, its = viewer.seeds.tags, VideoHashtag, aliased(VideoHashtag)
    # Materialized: PostgreSQL would read all videos of the seeds' hashtags, sounds and creators.
    shown = sa.select(page.c.video_id, tag.hashtag_id).join(page, page.c.video_id == tag.video_id)
    own = materialized(shown.cte("page_tags"))
    name = sa.select(Hashtag.name).where(Hashtag.id == tags.c.hashtag_id).scalar_subquery()
    named_tags = sa.select(its.hashtag_id).join(seeds, seeds.c.id == its.video_id)
    of_seeds = sa.select(materialized(named_tags.cte("tags_to_name")).c.hashtag_id)
    likeness = _likeness(own.c.video_id, "shared_hashtags", name, tags.c.rarity)
    return (
        sa.select(*likeness)
        .select_from(own)
        .join(tags, tags.c.hashtag_id == own.c.hashtag_id)
        .where(tags.c.hashtag_id.in_(of_seeds))
    )


def _same(seeds: CTE, page: CTE) -> Iterator[Statement]:
    """Return the videos with the sound of a seed, and the ones by its creator."""
    nothing = sa.cast(sa.null(), sa.Text())
    shown = sa.select(VIDEOS.c.id, VIDEOS.c.sound_id, VIDEOS.c.creator_id)
    own = materialized(shown.join(page, page.c.video_id == VIDEOS.c.id).cte("page_videos"))
    for signal, column in (("same_sound", "sound_id"), ("same_creator", "creator_id")):
        rows = sa.select(*_likeness(own.c.id, signal, nothing, number(1)))
        yield rows.join_from(own, seeds, seeds.c[column] == own.c[column])


def _likeness(video_id: Any, signal: str, subject: Any, strength: Any) -> list[ColumnElement[Any]]:
    """Return the columns of a likeness."""
    return [
        video_id.label("video_id"),
        constant(signal, sa.Text()).label("signal"),
        subject.label("subject"),
        sa.cast(strength, Double).label("strength"),
    ]
