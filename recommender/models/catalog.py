"""The tables of the catalogue and of ranking profiles.

Every name begins with the prefix, because the tables share a database with the host's tables. The
tables of the catalogue have an `id`. A table of one user's data has `user_id` first in its primary
key and in every unique constraint, and no identity column, so that it can be distributed by user.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from recommender.formats.scalars import ORIENTATIONS
from recommender.formats.visibility import MAX_VISIBILITY, STORED_STATUSES
from recommender.models.types import (
    CATALOGUE,
    CLUSTERED_REFERENCE,
    LARGEST_WEIGHT,
    PREFIX,
    REFERENCE,
    Base,
    BigId,
    Count,
    Id,
    Key,
    KeyText,
    PublicationTime,
    Time,
    between,
    key_length,
    not_negative,
    one_of,
)

PROFILE_SOURCES = ("hand", "fit")
"""The origins of the weights of a profile's version."""


if TYPE_CHECKING:
    from recommender.models.activity import Follow, Interaction


class User(Base):
    """A person who views, creates or both; `key` is the host's id.

    Learning only counts events after `learned_since`. `on_sight` is true if the import of a follow,
    mute or block created the row, and since then neither the host nor the user used it.
    The videos of a user who is not `discoverable` are only in the list of followed creators.
    If the user was merged into another user, `merged_into` is the id of that user, and the key is
    an alias: a look-up by this key finds the other user, see `database.aliases`. The other user is
    never merged itself. `merged_at` is the time when all rows had moved; None before.
    """

    __tablename__ = f"{PREFIX}users"
    __table_args__ = (
        key_length("key"),
        UniqueConstraint("key"),
        Index(
            None,
            "merged_into",
            postgresql_where=text("merged_into IS NOT NULL"),
            sqlite_where=text("merged_into IS NOT NULL"),
        ),
        CATALOGUE,
    )

    id: Mapped[Id]
    key: Mapped[Key]
    language: Mapped[str | None] = mapped_column(Text)
    country: Mapped[str | None] = mapped_column(Text)
    device: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Time | None]
    erased_at: Mapped[Time | None]
    learned_since: Mapped[Time | None]
    on_sight: Mapped[bool] = mapped_column(server_default=false())
    discoverable: Mapped[bool] = mapped_column(server_default=true())
    merged_into: Mapped[int | None] = mapped_column(BigInteger, ForeignKey(f"{PREFIX}users.id"))
    merged_at: Mapped[Time | None]

    videos: Mapped[list[Video]] = relationship(back_populates="creator")
    follows: Mapped[list[Follow]] = relationship(
        back_populates="user", foreign_keys="Follow.user_id"
    )
    interactions: Mapped[list[Interaction]] = relationship(
        back_populates="user",
        primaryjoin="User.id == foreign(Interaction.user_id)",
    )
    hashtags: Mapped[list[Hashtag]] = relationship(
        secondary=f"{PREFIX}user_hashtags", viewonly=True
    )
    sounds: Mapped[list[Sound]] = relationship(secondary=f"{PREFIX}user_sounds", viewonly=True)


class Sound(Base):
    """A sound that videos use; `creator` is its owner, if any."""

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
    """A hashtag in its canonical form (`text.hashtag`)."""

    __tablename__ = f"{PREFIX}hashtags"
    __table_args__ = (key_length("name", 100), UniqueConstraint("name"), CATALOGUE)

    id: Mapped[Id]
    name: Mapped[Key]


class Video(Base):
    """A video: the narrow row that scoring reads once per candidate.

    `format` is the host's word for what it is, such as `article`; None if the host has only one.
    An unknown `published_at` is None in Python, and below every time in SQL. `visibility` holds who
    may see it once it is published. `status` is `published` only if everyone may, see
    `formats.visibility`.

    The statistics are rollups as of `stats_at`. `impressions` and `engaged_views` count viewers.
    `trending` is the base-2 logarithm of the forward-decayed number of engaged viewers, comparable
    at any time. `neighbours_views` is the value of `engaged_views` when the neighbours were
    computed.
    """

    __tablename__ = f"{PREFIX}videos"
    __table_args__ = (
        key_length("key"),
        UniqueConstraint("key"),
        one_of("status", STORED_STATUSES),
        one_of("orientation", ORIENTATIONS),
        not_negative("duration_ms", "impressions", "engaged_views", "neighbours_views"),
        between("trending", -1e6, 1e6),
        between("visibility", 0, MAX_VISIBILITY),
        Index(None, "creator_id", "status", "published_at", "id"),
        Index(None, "sound_id", "status", "published_at", "id"),
        Index(None, "status", "published_at", "id"),
        Index(None, "status", "language", "trending", "id"),
        Index(None, "status", "country", "trending", "id"),
        Index(None, "status", "trending", "id"),
        Index(
            None,
            "format",
            "status",
            "published_at",
            "id",
            postgresql_where=text("format IS NOT NULL"),
            sqlite_where=text("format IS NOT NULL"),
        ),
        CATALOGUE,
    )

    id: Mapped[Id]
    key: Mapped[Key]
    creator_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey(User.id))
    sound_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey(Sound.id))
    language: Mapped[str | None] = mapped_column(Text)
    country: Mapped[str | None] = mapped_column(Text)
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    orientation: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default="published")
    published_at: Mapped[datetime | None] = mapped_column(PublicationTime, nullable=False)
    impressions: Mapped[Count]
    engaged_views: Mapped[Count]
    trending: Mapped[float | None] = mapped_column(Double)
    neighbours_views: Mapped[Count]
    stats_at: Mapped[Time | None]
    format: Mapped[str | None] = mapped_column(Text)
    visibility: Mapped[int] = mapped_column(SmallInteger, server_default="0")

    creator: Mapped[User | None] = relationship(back_populates="videos")
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
    """A video's caption and its words (`text.words`), outside the row that scoring reads."""

    __tablename__ = f"{PREFIX}video_captions"
    __table_args__ = (key_length("caption", 10_000), REFERENCE)

    video_id: Mapped[int] = mapped_column(BigId, ForeignKey(Video.id), primary_key=True)
    caption: Mapped[str] = mapped_column(Text)
    words: Mapped[str] = mapped_column(Text, server_default="")

    video: Mapped[Video] = relationship(back_populates="caption_row")


class VideoTerm(Base):
    """A term of a video's caption, as a number (`text.terms`); derived, so no foreign key."""

    __tablename__ = f"{PREFIX}video_terms"
    __table_args__ = (CLUSTERED_REFERENCE,)

    video_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    term: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class VideoHashtag(Base):
    """A hashtag of a video; `listed_at` is `published_at` while it is published, else NULL."""

    # No foreign keys: the writer has both rows, neither is ever deleted, and the keys would cost
    # more than the row.

    __tablename__ = f"{PREFIX}video_hashtags"
    __table_args__ = (Index(None, "hashtag_id", "listed_at", "video_id"), CLUSTERED_REFERENCE)

    video_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    hashtag_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    listed_at: Mapped[Time | None]


class ProfileVersion(Base):
    """An immutable version of a ranking profile; the version activated last is the default.

    `author` and `note` say who made it and why. `parent_id` is the version that it was made from.
    `metrics` are the metrics of a fit.
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
        CLUSTERED_REFERENCE,
    )

    profile_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey(ProfileVersion.id), primary_key=True
    )
    signal: Mapped[str] = mapped_column(KeyText, primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    weight: Mapped[float] = mapped_column(Double)
