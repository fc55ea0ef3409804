"""The signals and sources of the list of videos that are like some given ones, the seeds."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, aliased

from recommender.database.expressions import Number, is_true, number, saturated
from recommender.models import Video
from recommender.ranking.audience import with_statuses
from recommender.ranking.signals import Candidate, Signal
from recommender.ranking.sources import (
    NEIGHBOUR_SCAN_FACTOR,
    VIDEOS_PER_SUBJECT,
    Source,
    newest_of,
    newest_tagged,
    trending,
)
from recommender.ranking.viewer import Viewer


def similarity(candidate: Candidate) -> Number:
    """The mean cosine of the viewers of the video and of a seed, less what is chance.

    Range: 0 to 1. Reads: video_neighbours.
    """
    return candidate.fact("similarity")


def shared_hashtags(candidate: Candidate) -> Number:
    """Hashtags that the video shares with the seeds; rare ones count more.

    Range: 0 to 1. Reads: video_hashtags.
    """
    return saturated(candidate.fact("shared_hashtags"), number(1))


def shared_words(candidate: Candidate) -> Number:
    """Rare words that the captions share.

    Range: 0 to 1. Reads: video_terms, terms.
    """
    return saturated(candidate.fact("shared_words"), number(1))


def same_sound(candidate: Candidate) -> Number:
    """The video has the sound of a seed.

    Range: 0 or 1. Reads: videos.
    """
    return is_true(Video.sound_id.in_(_of_seeds(candidate.viewer, Video.sound_id)))


def same_creator(candidate: Candidate) -> Number:
    """The video is by the creator of a seed.

    Range: 0 or 1. Reads: videos.
    """
    return is_true(Video.creator_id.in_(_of_seeds(candidate.viewer, Video.creator_id)))


def _of_seeds(viewer: Viewer, column: InstrumentedAttribute[Any]) -> sa.Select[Any]:
    """Return the creators or sounds of the seeds."""
    seed = aliased(Video)
    value = getattr(seed, column.key)
    seeds = sa.select(value).join(viewer.seeds.videos, viewer.seeds.videos.c.id == seed.id)
    return seeds.where(value.is_not(None)).distinct().limit(50)


SIMILAR_SIGNALS = (
    Signal("similarity", 0, 1, similarity),
    Signal("shared_hashtags", 0, 1, shared_hashtags),
    Signal("shared_words", 0, 1, shared_words),
    Signal("same_sound", 0, 1, same_sound),
    Signal("same_creator", 0, 1, same_creator),
)
"""The signals that compare a video with the seeds; they are 0 in For You, which has none."""


def near(viewer: Viewer, quota: int) -> sa.Select[int]:
    """Videos whose viewers also engaged with the seeds."""
    near = viewer.seeds.near
    nearest = (
        sa.select(near)
        .order_by(near.c.similarity.desc(), near.c.video_id.desc())
        .limit(NEIGHBOUR_SCAN_FACTOR * quota)
        .subquery("nearest")
    )
    order = (nearest.c.similarity.desc(), nearest.c.video_id.desc())
    return sa.select(nearest.c.video_id).order_by(*order)


def tagged(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos with hashtags of the seeds."""
    return newest_tagged(viewer, viewer.seeds.tags, quota, VIDEOS_PER_SUBJECT)


def sounding(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos with a sound of the seeds."""
    wanted = _of_seeds(viewer, Video.sound_id).subquery("wanted_sounds")
    return newest_of(viewer, Video.sound_id, wanted, quota, "seed_sounds_since")


def by_creator(viewer: Viewer, quota: int) -> sa.Select[int]:
    """The newest videos by creators of the seeds, also those for followers."""
    creators = _of_seeds(viewer, Video.creator_id).subquery("wanted_creators")
    wanted = with_statuses(creators, "published", "followers")
    return newest_of(viewer, Video.creator_id, wanted, quota, "seed_creators_since")


SIMILAR_SOURCES = (
    Source("neighbours", 300, near),
    Source("hashtags", 200, tagged),
    Source("sounds", 60, sounding),
    Source("creators", 100, by_creator),
    Source("trending", 60, trending),
)
"""The sources of the list; what none of them finds follows, the newest first."""

NEWEST = "newest"
"""The name of the source of what follows."""
