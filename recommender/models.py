"""The tables of the catalogue, of what users did, and of profiles. No behaviour.

Every name begins with the prefix, since the tables live beside a host's own. The catalogue's
tables have an `id`; a table of one user's data has `user_id` first in its primary key and in every
unique constraint, and no identity column, so that it can be distributed by user. The tables that
are derived from these are in `learned`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from recommender.columns import (
    CATALOGUE,
    CLUSTERED,
    LARGEST_WEIGHT,
    PREFIX,
    Base,
    BigId,
    Count,
    Fraction,
    Id,
    Key,
    KeyText,
    Time,
    UserKey,
    between,
    is_fraction,
    key_length,
    not_negative,
    one_of,
)
from recommender.fields import KINDS, ORIENTATIONS, STATUSES

PROFILE_SOURCES = ("hand", "fit")
"""How the weights of a profile's version came about."""


class User(Base):
    """Somebody who views, creates or both; `key` is the host's own id.

    What was learned about them counts only what they did after `learned_since`.
    """

    __tablename__ = f"{PREFIX}users"
    __table_args__ = (key_length("key"), UniqueConstraint("key"), CATALOGUE)

    id: Mapped[Id]
    key: Mapped[Key]
    language: Mapped[str | None] = mapped_column(Text)
    country: Mapped[str | None] = mapped_column(Text)
    device: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Time | None]
    erased_at: Mapped[Time | None]
    learned_since: Mapped[Time | None]

    videos: Mapped[list[Video]] = relationship(back_populates="creator")
    follows: Mapped[list[Follow]] = relationship(
        back_populates="user", foreign_keys="Follow.user_id"
    )
    interactions: Mapped[list[Interaction]] = relationship(
        back_populates="user",
        primaryjoin=lambda: User.id == foreign(Interaction.user_id),
    )
    hashtags: Mapped[list[Hashtag]] = relationship(
        secondary=f"{PREFIX}user_hashtags", viewonly=True
    )
    sounds: Mapped[list[Sound]] = relationship(secondary=f"{PREFIX}user_sounds", viewonly=True)


class Sound(Base):
    """A sound that videos use; `creator` is its owner where it has one."""

    __tablename__ = f"{PREFIX}sounds"
    __table_args__ = (
        key_length("key"),
        UniqueConstraint("key"),
        Index(None, "creator_id"),
        CATALOGUE,
    )

    id: Mapped[Id]
    key: Mapped[Key]
    creator_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey(User.id))

    creator: Mapped[User | None] = relationship()


class Hashtag(Base):
    """A hashtag in its canonical form (`fields.hashtag`)."""

    __tablename__ = f"{PREFIX}hashtags"
    __table_args__ = (key_length("name", 100), UniqueConstraint("name"), CATALOGUE)

    id: Mapped[Id]
    name: Mapped[Key]


class Video(Base):
    """A video: the narrow row that scoring probes once per candidate.

    The statistics are rollups as of `stats_at`: `impressions` and `engaged_views` count viewers;
    `trending` is the logarithm to base 2 of their forward-decayed number, comparable at any time;
    `neighbours_views` is what `engaged_views` was when the video's neighbours were found.
    """

    __tablename__ = f"{PREFIX}videos"
    __table_args__ = (
        key_length("key"),
        UniqueConstraint("key"),
        one_of("status", STATUSES),
        one_of("orientation", ORIENTATIONS),
        not_negative("duration_ms", "impressions", "engaged_views", "neighbours_views"),
        between("trending", -1e6, 1e6),
        Index(None, "creator_id", "status", "published_at", "id"),
        Index(None, "sound_id", "status", "published_at", "id"),
        Index(None, "status", "published_at", "id"),
        Index(None, "status", "language", "trending", "id"),
        Index(None, "status", "country", "trending", "id"),
        Index(None, "status", "trending", "id"),
        CATALOGUE,
    )

    id: Mapped[Id]
    key: Mapped[Key]
    creator_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(User.id))
    sound_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey(Sound.id))
    language: Mapped[str | None] = mapped_column(Text)
    country: Mapped[str | None] = mapped_column(Text)
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    orientation: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default="published")
    published_at: Mapped[Time]
    impressions: Mapped[Count]
    engaged_views: Mapped[Count]
    trending: Mapped[float | None] = mapped_column(Double)
    neighbours_views: Mapped[Count]
    stats_at: Mapped[Time | None]

    creator: Mapped[User] = relationship(back_populates="videos")
    sound: Mapped[Sound | None] = relationship()
    caption_row: Mapped[VideoCaption | None] = relationship(back_populates="video")
    caption: AssociationProxy[str | None] = association_proxy("caption_row", "caption")
    hashtags: Mapped[list[Hashtag]] = relationship(
        secondary=f"{PREFIX}video_hashtags",
        primaryjoin=lambda: Video.id == foreign(VideoHashtag.video_id),
        secondaryjoin=lambda: Hashtag.id == foreign(VideoHashtag.hashtag_id),
        viewonly=True,
    )


class VideoCaption(Base):
    """A video's caption, apart from the row that scoring probes, and its words (`fields.words`)."""

    __tablename__ = f"{PREFIX}video_captions"
    __table_args__ = (key_length("caption", 10_000),)

    video_id: Mapped[int] = mapped_column(BigId, ForeignKey(Video.id), primary_key=True)
    caption: Mapped[str] = mapped_column(Text)
    words: Mapped[str] = mapped_column(Text, server_default="")

    video: Mapped[Video] = relationship(back_populates="caption_row")


class VideoTerm(Base):
    """A word of a video's caption, as a number (`fields.terms`); derived, so no foreign key."""

    __tablename__ = f"{PREFIX}video_terms"
    __table_args__ = (CLUSTERED,)

    video_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    term: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class VideoHashtag(Base):
    """A hashtag of a video; `listed_at` is its `published_at` while it is published, else NULL.

    No foreign keys: who writes it has both rows, neither is ever deleted, and the keys cost more
    than the row.
    """

    __tablename__ = f"{PREFIX}video_hashtags"
    __table_args__ = (Index(None, "hashtag_id", "listed_at", "video_id"), CLUSTERED)

    video_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    hashtag_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    listed_at: Mapped[Time | None]


class Follow(Base):
    """A user follows a creator; `created_at` is NULL where nobody knows since when."""

    __tablename__ = f"{PREFIX}follows"
    __table_args__ = (Index(None, "creator_id"), CLUSTERED)

    user_id: Mapped[UserKey]
    creator_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(User.id), primary_key=True)
    created_at: Mapped[Time | None]

    user: Mapped[User] = relationship(back_populates="follows", foreign_keys="Follow.user_id")
    creator: Mapped[User] = relationship(foreign_keys="Follow.creator_id")


class UserHashtag(Base):
    """A hashtag that a user declared an interest in."""

    __tablename__ = f"{PREFIX}user_hashtags"
    __table_args__ = (Index(None, "hashtag_id"), CLUSTERED)

    user_id: Mapped[UserKey]
    hashtag_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Hashtag.id), primary_key=True)


class UserSound(Base):
    """A sound that a user declared a liking for."""

    __tablename__ = f"{PREFIX}user_sounds"
    __table_args__ = (Index(None, "sound_id"), CLUSTERED)

    user_id: Mapped[UserKey]
    sound_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Sound.id), primary_key=True)


class Interaction(Base):
    """What one user did with one video so far: the events folded into a state.

    Counts are numbers of events, `completion` the best part watched, `watch_ms` the sum. The user
    likes the video now where `liked_at` is later than `unliked_at`; the same for saves. At
    `engaged_at` they last watched it with interest, liked, shared, saved or commented on it.

    No foreign keys, nor in what else recording writes: it found the video and holds the user's
    row, neither is ever deleted, and each key costs as much as the rest of a row.
    """

    __tablename__ = f"{PREFIX}interactions"
    __table_args__ = (
        is_fraction("completion"),
        not_negative(
            "impressions", "plays", "engaged_views", "watch_ms", "shares", "comments", "reports"
        ),
        Index(
            None,
            "user_id",
            "engaged_at",
            postgresql_where=text("engaged_at IS NOT NULL"),
            sqlite_where=text("engaged_at IS NOT NULL"),
        ),
        Index(None, "user_id", "last_at"),
        CLUSTERED,
    )

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    video_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    impressions: Mapped[Count]
    plays: Mapped[Count]
    engaged_views: Mapped[Count]
    completion: Mapped[Fraction]
    watch_ms: Mapped[Count]
    shares: Mapped[Count]
    comments: Mapped[Count]
    reports: Mapped[Count]
    liked_at: Mapped[Time | None]
    unliked_at: Mapped[Time | None]
    saved_at: Mapped[Time | None]
    unsaved_at: Mapped[Time | None]
    not_interested_at: Mapped[Time | None]
    engaged_at: Mapped[Time | None]
    first_at: Mapped[Time]
    last_at: Mapped[Time]

    user: Mapped[User] = relationship(
        back_populates="interactions",
        primaryjoin=lambda: User.id == foreign(Interaction.user_id),
    )
    video: Mapped[Video] = relationship(
        primaryjoin=lambda: Video.id == foreign(Interaction.video_id)
    )


class EventRow(Base):
    """One event of the append-only log; the key makes recording it again a no-op."""

    __tablename__ = f"{PREFIX}events"
    __table_args__ = (
        key_length("key"),
        one_of("kind", KINDS),
        is_fraction("completion"),
        not_negative("watch_ms"),
        CLUSTERED,
    )

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    key: Mapped[str] = mapped_column(KeyText, primary_key=True)
    video_id: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(Text)
    at: Mapped[Time]
    watch_ms: Mapped[int | None] = mapped_column(BigInteger)
    completion: Mapped[float | None] = mapped_column(Double)
    engaged: Mapped[bool]


class PendingEvent(Base):
    """What an event adds to its video's statistics, until a rollup has counted it.

    `impressions` is 1 where it made the user a viewer of the video, `engaged_views` where it was
    their first engaged view of it.
    """

    __tablename__ = f"{PREFIX}events_pending"
    __table_args__ = (not_negative("impressions", "engaged_views"), CLUSTERED)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    key: Mapped[str] = mapped_column(KeyText, primary_key=True)
    video_id: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[Time]
    impressions: Mapped[int] = mapped_column(Integer)
    engaged_views: Mapped[int] = mapped_column(Integer)


class ProfileVersion(Base):
    """An immutable version of a ranking profile; the one activated last serves by default.

    `author` and `note` say who made it and why, `parent_id` what it was made from. `metrics` are
    those that a fit found.
    """

    __tablename__ = f"{PREFIX}ranking_profiles"
    __table_args__ = (
        key_length("name"),
        CheckConstraint("version >= 1", name="version"),
        one_of("source", PROFILE_SOURCES),
        key_length("author"),
        key_length("note", 10_000),
        UniqueConstraint("name", "version"),
        Index(None, "parent_id"),
        CATALOGUE,
    )

    id: Mapped[Id]
    name: Mapped[Key]
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[Time]
    activated_at: Mapped[Time | None]
    source: Mapped[str] = mapped_column(Text, server_default="hand")
    author: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    parent_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey(f"{PREFIX}ranking_profiles.id")
    )
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    weights: Mapped[list[ProfileWeight]] = relationship(order_by="ProfileWeight.position")


class ProfileWeight(Base):
    """The weight of one signal in a profile's version, in the order of the formula."""

    __tablename__ = f"{PREFIX}profile_weights"
    __table_args__ = (
        key_length("signal"),
        between("weight", -LARGEST_WEIGHT, LARGEST_WEIGHT),
        CLUSTERED,
    )

    profile_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey(ProfileVersion.id), primary_key=True
    )
    signal: Mapped[str] = mapped_column(KeyText, primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    weight: Mapped[float] = mapped_column(Double)
