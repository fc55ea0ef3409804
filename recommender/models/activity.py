"""The tables of what users do: follows, declared interests, events, states, mutes, blocks."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    Text,
    false,
    text,
)
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from recommender.formats.scalars import BLOCK_DIRECTIONS, EVENT_KINDS
from recommender.models.catalog import Hashtag, Sound, User, Video
from recommender.models.types import (
    CLUSTERED,
    PREFIX,
    Base,
    Count,
    Fraction,
    KeyText,
    Time,
    UserKey,
    between,
    is_fraction,
    key_length,
    not_negative,
    one_of,
)


class Follow(Base):
    """A user follows a creator; `created_at` is NULL if the time is unknown."""

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
    """The state of a user with a video: their events, folded into one row.

    Counts are numbers of events. `completion` is the largest fraction watched, `watch_ms` the sum.
    The user likes the video if `liked_at` is later than `unliked_at`; saves work alike.
    `acted_at` is the time of the last engaged view, share, comment or conversion. `engaged_at` is
    the time since which the state is positive, or NULL if it is not: see `learning/engagement`.
    """

    # The tables that recording writes have no foreign keys. Recording has found the video and has
    # locked the user's row, neither is ever deleted, and a key costs as much as the rest of a row.

    __tablename__ = f"{PREFIX}interactions"
    __table_args__ = (
        is_fraction("completion"),
        not_negative(
            "impressions",
            "plays",
            "engaged_views",
            "watch_ms",
            "shares",
            "comments",
            "reports",
            "conversions",
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
    acted_at: Mapped[Time | None]
    interested_at: Mapped[Time | None]
    conversions: Mapped[Count]

    user: Mapped[User] = relationship(
        back_populates="interactions",
        primaryjoin=lambda: User.id == foreign(Interaction.user_id),
    )
    video: Mapped[Video] = relationship(
        primaryjoin=lambda: Video.id == foreign(Interaction.video_id)
    )


class EventRow(Base):
    """An event of the append-only log; recording its key again is a no-op."""

    __tablename__ = f"{PREFIX}events"
    __table_args__ = (
        key_length("key"),
        one_of("kind", EVENT_KINDS),
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
    """The changes of a video's statistics by an event that no refresh has counted yet.

    `impressions` is 1 if the event made the user a viewer of the video, and `engaged_views` is 1
    if it made their state positive. They are -1 if it took that back, else 0. `again` is true if
    the state had a positive event before: a trend counts each user once.
    """

    __tablename__ = f"{PREFIX}events_pending"
    __table_args__ = (between("impressions", -1, 1), between("engaged_views", -1, 1), CLUSTERED)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    key: Mapped[str] = mapped_column(KeyText, primary_key=True)
    video_id: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[Time]
    impressions: Mapped[int] = mapped_column(Integer)
    engaged_views: Mapped[int] = mapped_column(Integer)
    again: Mapped[bool] = mapped_column(server_default=false())


class MutedCreator(Base):
    """A creator whose videos and sounds a user does not want to see."""

    __tablename__ = f"{PREFIX}muted_creators"
    __table_args__ = (Index(None, "creator_id"), CLUSTERED)

    user_id: Mapped[UserKey]
    creator_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(User.id), primary_key=True)
    muted_at: Mapped[Time]


class MutedHashtag(Base):
    """A hashtag whose videos a user does not want to see."""

    __tablename__ = f"{PREFIX}muted_hashtags"
    __table_args__ = (Index(None, "hashtag_id"), CLUSTERED)

    user_id: Mapped[UserKey]
    hashtag_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Hashtag.id), primary_key=True)
    muted_at: Mapped[Time]


class MutedSound(Base):
    """A sound whose videos a user does not want to see."""

    __tablename__ = f"{PREFIX}muted_sounds"
    __table_args__ = (Index(None, "sound_id"), CLUSTERED)

    user_id: Mapped[UserKey]
    sound_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Sound.id), primary_key=True)
    muted_at: Mapped[Time]


class MutedKeyword(Base):
    """A phrase whose videos a user does not want to see, as `text.words` writes it."""

    __tablename__ = f"{PREFIX}muted_keywords"
    __table_args__ = (key_length("keyword"), CLUSTERED)

    user_id: Mapped[UserKey]
    keyword: Mapped[str] = mapped_column(KeyText, primary_key=True)
    muted_at: Mapped[Time]


class Block(Base):
    """A block between a user and another one; each block has a row of both users.

    `direction` is `by_me` if the user blocked the other one, else `of_me`. A row `of_me` is for
    filters only: the user is never told who blocked them.
    """

    __tablename__ = f"{PREFIX}blocks"
    __table_args__ = (one_of("direction", BLOCK_DIRECTIONS), Index(None, "other_id"), CLUSTERED)

    user_id: Mapped[UserKey]
    direction: Mapped[str] = mapped_column(Text, primary_key=True)
    other_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(User.id), primary_key=True)
    blocked_at: Mapped[Time]
