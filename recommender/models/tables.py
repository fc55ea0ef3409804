"""The `Table` objects of the models, for statements written with SQLAlchemy Core."""

from __future__ import annotations

from typing import cast

from sqlalchemy import Table

from recommender.models import (
    Affinity,
    Block,
    EventRow,
    ExperimentRow,
    FeedSession,
    FeedVersion,
    Follow,
    Hashtag,
    Interaction,
    LearningState,
    MutedCreator,
    OutsideCandidate,
    PendingEvent,
    ProfileVersion,
    ProfileWeight,
    RecentEngagement,
    RememberedVideo,
    ServedVideo,
    Sound,
    Suggestion,
    Term,
    User,
    UserHashtag,
    UserSound,
    Video,
    VideoCaption,
    VideoHashtag,
    VideoNeighbour,
    VideoTerm,
)

# SQLAlchemy types `__table__` as FromClause.
USERS = cast(Table, User.__table__)
SOUNDS = cast(Table, Sound.__table__)
HASHTAGS = cast(Table, Hashtag.__table__)
VIDEOS = cast(Table, Video.__table__)
CAPTIONS = cast(Table, VideoCaption.__table__)
VIDEO_TERMS = cast(Table, VideoTerm.__table__)
VIDEO_HASHTAGS = cast(Table, VideoHashtag.__table__)
USER_HASHTAGS = cast(Table, UserHashtag.__table__)
USER_SOUNDS = cast(Table, UserSound.__table__)
FOLLOWS = cast(Table, Follow.__table__)
EVENTS = cast(Table, EventRow.__table__)
PENDING = cast(Table, PendingEvent.__table__)
INTERACTIONS = cast(Table, Interaction.__table__)
LEARNING_STATE = cast(Table, LearningState.__table__)
AFFINITIES = cast(Table, Affinity.__table__)
RECENT = cast(Table, RecentEngagement.__table__)
NEIGHBOURS = cast(Table, VideoNeighbour.__table__)
TERMS = cast(Table, Term.__table__)
FEEDS = cast(Table, FeedVersion.__table__)
SESSIONS = cast(Table, FeedSession.__table__)
REMEMBERED = cast(Table, RememberedVideo.__table__)
SERVED = cast(Table, ServedVideo.__table__)
OUTSIDE_CANDIDATES = cast(Table, OutsideCandidate.__table__)
SUGGESTIONS = cast(Table, Suggestion.__table__)
BLOCKS = cast(Table, Block.__table__)
MUTED_CREATORS = cast(Table, MutedCreator.__table__)
EXPERIMENTS = cast(Table, ExperimentRow.__table__)
PROFILES = cast(Table, ProfileVersion.__table__)
WEIGHTS = cast(Table, ProfileWeight.__table__)
