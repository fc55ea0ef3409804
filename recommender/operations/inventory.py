"""The tables and columns with personal data.

Every table is in one of these lists, and every column that refers to a user or to a user's video.
A test compares the lists with the metadata, so a new column fails the test until it has a rule.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table

from recommender.database import lookup
from recommender.database.session import Session
from recommender.database.spaces import space_tables
from recommender.models.tables import (
    BLOCKS,
    CAPTIONS,
    EXPERIMENTS,
    FEEDS,
    FOLLOWS,
    HASHTAGS,
    LEARNING_STATE,
    MUTED_CREATORS,
    NEIGHBOURS,
    PROFILES,
    SOUNDS,
    SUGGESTIONS,
    TERMS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEO_TERMS,
    VIDEOS,
    WEIGHTS,
)
from recommender.models.types import Base

PER_USER: tuple[Table, ...] = tuple(
    table
    for table in reversed(Base.metadata.sorted_tables)
    if "user_id" in table.primary_key.columns
)
"""The tables of a user's own data, referring tables first. Their rows are deleted."""

OF_OTHERS = (
    FOLLOWS.c.creator_id,
    MUTED_CREATORS.c.creator_id,
    SUGGESTIONS.c.creator_id,
    BLOCKS.c.other_id,
)
"""Columns for other users' follows, mutes, suggestions and blocks of a person. These rows are
deleted."""

OF_VIDEOS = (
    CAPTIONS.c.video_id,
    VIDEO_HASHTAGS.c.video_id,
    VIDEO_TERMS.c.video_id,
    NEIGHBOURS.c.video_id,
    NEIGHBOURS.c.source_id,
)
"""Columns for data derived from a person's own videos. These rows are deleted."""


def of_videos(session: Session) -> list[sa.Column[Any]]:
    """Return `OF_VIDEOS`, and the same columns of all spaces of vectors."""
    tables = space_tables(lookup.connection(session))
    return [*OF_VIDEOS, *(table.c.video_id for table in tables)]


OWNERS = (VIDEOS.c.creator_id, SOUNDS.c.creator_id)
"""Columns for the owner of a video or sound."""

NAMELESS = (USERS.c.id, USERS.c.merged_into, *OWNERS)
"""Columns of rows that other users' rows refer to. These rows stay with random keys and without
content, because other users' actions on a person's videos belong to those other users."""

IMPERSONAL = (HASHTAGS, TERMS, PROFILES, WEIGHTS, FEEDS, EXPERIMENTS, LEARNING_STATE)
"""Tables without an owner. A hashtag that nothing else uses gets a random name."""
