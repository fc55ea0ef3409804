"""Where a person's data is: the tables, and the columns that say whose their rows are.

Every table is in one of these lists, and every column that refers to a user or to a user's video:
a test compares them with the metadata, so that nobody adds one without a thought to erasing it.
"""

from __future__ import annotations

from sqlalchemy import Table

from recommender.models.tables import (
    CAPTIONS,
    FOLLOWS,
    HASHTAGS,
    LEARNING_STATE,
    MUTED_CREATORS,
    NEIGHBOURS,
    PROFILES,
    SOUNDS,
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
"""The tables of one user's data, those that refer to others first. Their rows are deleted."""

OF_OTHERS = (FOLLOWS.c.creator_id, MUTED_CREATORS.c.creator_id)
"""What other users said about a person. These rows are deleted."""

OF_VIDEOS = (
    CAPTIONS.c.video_id,
    VIDEO_HASHTAGS.c.video_id,
    VIDEO_TERMS.c.video_id,
    NEIGHBOURS.c.video_id,
    NEIGHBOURS.c.source_id,
)
"""What a person's own videos have. These rows are deleted."""

NAMELESS = (USERS.c.id, VIDEOS.c.creator_id, SOUNDS.c.creator_id)
"""What other users' rows refer to. These rows stay, under random keys and without what they said:
what others did with a person's videos is theirs."""

IMPERSONAL = (HASHTAGS, TERMS, PROFILES, WEIGHTS, LEARNING_STATE)
"""What is nobody's. A hashtag or sound that nothing else has gets a random name, too."""
