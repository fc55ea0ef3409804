"""The seeds of the list `similar`: given videos, what is near them, and their hashtags."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import CTE, BindParameter, Double

from recommender.database.expressions import constant, logarithm, materialized
from recommender.models.tables import NEIGHBOURS, VIDEO_HASHTAGS
from recommender.ranking.history import keyed_videos


class Seeds(NamedTuple):
    """The videos that a list is about, as common table expressions.

    Attributes:
        videos: their ids.
        near: the videos near them, with their mean similarity.
        tags: their hashtags, with their rarity.
    """

    videos: CTE
    near: CTE
    tags: CTE

    @classmethod
    def of(cls, keys: BindParameter[Any]) -> Seeds:
        """Return the seeds of a JSON list of keys."""
        videos = materialized(keyed_videos(keys).cte("seeds"))
        return cls(videos, near_seeds(videos), tags_of_seeds(videos))


def near_seeds(seeds: CTE) -> CTE:
    """Return the videos near some seeds, in either direction, with their mean similarity."""
    forward = sa.select(
        NEIGHBOURS.c.source_id.label("seed_id"), NEIGHBOURS.c.video_id, NEIGHBOURS.c.similarity
    ).join_from(seeds, NEIGHBOURS, NEIGHBOURS.c.source_id == seeds.c.id)
    backward = sa.select(
        NEIGHBOURS.c.video_id.label("seed_id"), NEIGHBOURS.c.source_id, NEIGHBOURS.c.similarity
    ).join_from(seeds, NEIGHBOURS, NEIGHBOURS.c.video_id == seeds.c.id)
    both = sa.union_all(forward, backward).subquery("seed_pairs")
    # A pair may be stored in both directions.
    pairs = (
        sa.select(both.c.video_id, sa.func.max(both.c.similarity).label("similarity"))
        .group_by(both.c.seed_id, both.c.video_id)
        .subquery("seed_neighbours")
    )
    number_of_seeds = sa.select(sa.func.count()).select_from(seeds).scalar_subquery()
    mean = sa.func.sum(pairs.c.similarity) / sa.cast(number_of_seeds, Double)
    return (
        sa.select(pairs.c.video_id, mean.label("similarity"))
        .group_by(pairs.c.video_id)
        .cte("near_seeds")
    )


MOST_SEED_TAGS = 50
"""The largest number of hashtags of the seeds that are compared."""

MOST_TAGGED = 1_000
"""The largest number of videos that are counted to find out how rare a hashtag is."""


def tags_of_seeds(seeds: CTE) -> CTE:
    """Return the hashtags of some seeds with their rarity: the inverse logarithm of their videos.

    Adamic and Adar, "Friends and Neighbors on the Web" (2003).
    """
    tags = (
        sa.select(VIDEO_HASHTAGS.c.hashtag_id)
        .join(seeds, seeds.c.id == VIDEO_HASHTAGS.c.video_id)
        .distinct()
        .order_by(VIDEO_HASHTAGS.c.hashtag_id)
        .limit(MOST_SEED_TAGS)
        .subquery("distinct_tags")
    )
    tagged = VIDEO_HASHTAGS.alias("tagged")
    counted = (
        sa.select(sa.literal(1))
        .where(tagged.c.hashtag_id == tags.c.hashtag_id, tagged.c.listed_at.is_not(None))
        .limit(MOST_TAGGED)
        .correlate(tags)
        .subquery("counted")
    )
    videos = sa.select(sa.func.count()).select_from(counted).scalar_subquery()
    rarity = constant(1.0, Double()) / logarithm(
        constant(math.e, Double()) + sa.cast(videos, Double)
    )
    return materialized(sa.select(tags.c.hashtag_id, rarity.label("rarity")).cte("seed_tags"))
