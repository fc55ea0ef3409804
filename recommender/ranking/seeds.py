"""The seeds of the list `similar`: given videos, what is near them, and their hashtags."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import CTE, BindParameter, Double

from recommender.database.expressions import constant, logarithm, materialized, number
from recommender.database.spaces import space_table
from recommender.database.vectors import mean_direction
from recommender.models.tables import NEIGHBOURS, VIDEO_HASHTAGS
from recommender.ranking.history import keyed_videos

MAX_SEEDS = 50
"""The largest number of videos that a list is about."""

MOST_NEIGHBOURS = 5_000
"""The largest number of videos that are read because a seed is among their neighbours.

The seeds have equal shares of it. A video has few neighbours, but a popular one is a neighbour of
very many; the newest of these are read.
"""

MOST_SEED_TAGS = 50
"""The largest number of hashtags of the seeds that are compared; shared hashtags come first."""

MOST_TAGGED = 1_000
"""The largest number of videos that are counted to find out how rare a hashtag is."""

MOST_COUNTED = 10_000
"""The same for all hashtags of the seeds, which have equal shares of it."""


class Seeds(NamedTuple):
    """The videos that a list is about, as common table expressions.

    Attributes:
        videos: their ids.
        pairs: each of them with the videos near it, and their similarity.
        near: the videos near them, with their mean similarity.
        tags: their hashtags, with their rarity.
        direction: the mean of their vectors; None without a space.
    """

    videos: CTE
    pairs: CTE
    near: CTE
    tags: CTE
    direction: CTE | None

    @classmethod
    def of(cls, keys: BindParameter[Any], space: str | None) -> Seeds:
        """Return the seeds of a JSON list of keys, with their vectors in a space."""
        # Without the limit PostgreSQL expects more seeds, and reads the whole of small tables.
        videos = materialized(keyed_videos(keys).limit(MAX_SEEDS).cte("seeds"))
        pairs = pairs_of_seeds(videos)
        direction = direction_of_seeds(videos, space) if space else None
        return cls(videos, pairs, near_seeds(videos, pairs), tags_of_seeds(videos), direction)


def direction_of_seeds(seeds: CTE, space: str) -> CTE:
    """Return the direction of the mean of the seeds' vectors: one row, NULL if they have none."""
    vectors = space_table(space)
    mean = mean_direction(vectors.c.vector, number(1)).label("vector")
    return (
        sa.select(mean)
        .join_from(seeds, vectors, vectors.c.video_id == seeds.c.id)
        .cte("seed_direction")
    )


def pairs_of_seeds(seeds: CTE) -> CTE:
    """Return the videos near each seed, in either direction."""
    near, since = NEIGHBOURS.c, _with_oldest_near(seeds)
    is_new = sa.and_(near.source_id == since.c.id, near.video_id >= since.c.since)
    forward = sa.select(near.source_id.label("seed_id"), near.video_id, near.similarity).join_from(
        since, NEIGHBOURS, is_new
    )
    backward = sa.select(near.video_id.label("seed_id"), near.source_id, near.similarity).join_from(
        seeds, NEIGHBOURS, near.video_id == seeds.c.id
    )
    both = sa.union_all(forward, backward).subquery("both_directions")
    # A pair may be stored in both directions.
    return (
        sa.select(
            both.c.seed_id, both.c.video_id, sa.func.max(both.c.similarity).label("similarity")
        )
        .group_by(both.c.seed_id, both.c.video_id)
        .cte("seed_pairs")
    )


def _with_oldest_near(seeds: CTE) -> CTE:
    """Return the seeds, each with the oldest video to read that has it among its neighbours."""
    share = MOST_NEIGHBOURS // sa.func.coalesce(sa.func.nullif(_number_of(seeds), 0), 1)
    oldest = (
        sa.select(NEIGHBOURS.c.video_id)
        .where(NEIGHBOURS.c.source_id == seeds.c.id)
        .order_by(NEIGHBOURS.c.video_id.desc())
        .offset(share - 1)
        .limit(1)
        .scalar_subquery()
    )
    since = sa.func.coalesce(oldest, 0).label("since")
    return materialized(sa.select(seeds.c.id, since).limit(MAX_SEEDS).cte("seeds_since"))


def _number_of(rows: CTE) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).select_from(rows).scalar_subquery()


def near_seeds(seeds: CTE, pairs: CTE) -> CTE:
    """Return the videos near some seeds with their mean similarity."""
    mean = sa.func.sum(pairs.c.similarity) / sa.cast(_number_of(seeds), Double)
    return (
        sa.select(pairs.c.video_id, mean.label("similarity"))
        .group_by(pairs.c.video_id)
        .cte("near_seeds")
    )


def tags_of_seeds(seeds: CTE) -> CTE:
    """Return the hashtags of some seeds with their rarity: the inverse logarithm of their videos.

    Adamic and Adar, "Friends and Neighbors on the Web" (2003).
    """
    tag = VIDEO_HASHTAGS.c.hashtag_id
    tags = materialized(
        sa.select(tag)
        .select_from(seeds)
        .outerjoin(VIDEO_HASHTAGS, VIDEO_HASHTAGS.c.video_id == seeds.c.id)
        .group_by(tag)
        .having(tag.is_not(None))
        .order_by(sa.func.count().desc(), tag)
        .limit(MOST_SEED_TAGS)
        .cte("distinct_tags")
    )
    tagged, number = VIDEO_HASHTAGS.alias("tagged"), _number_of(tags)
    are_many = number * MOST_TAGGED > MOST_COUNTED
    counted = (
        sa.select(sa.literal(1))
        .where(tagged.c.hashtag_id == tags.c.hashtag_id, tagged.c.listed_at.is_not(None))
        .limit(sa.case((are_many, MOST_COUNTED // number), else_=MOST_TAGGED))
        .correlate(tags)
        .subquery("counted")
    )
    videos = sa.select(sa.func.count()).select_from(counted).scalar_subquery()
    rarity = constant(1.0, Double()) / logarithm(
        constant(math.e, Double()) + sa.cast(videos, Double)
    )
    return materialized(sa.select(tags.c.hashtag_id, rarity.label("rarity")).cte("seed_tags"))
