"""The tables: columns, constraints, indexes and names. No behaviour.

Every name begins with the prefix, since the tables live beside a host's own. The catalogue's
tables have an `id`; a table of one user's data has `user_id` first in its primary key and in every
unique constraint, and no identity column, so that it can be distributed by user.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Select,
    Text,
    UniqueConstraint,
)
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator, TypeEngine

from recommender.errors import InvalidValue
from recommender.fields import KINDS, ORIENTATIONS, STATUSES

Statement: TypeAlias = Select[*tuple[Any, ...]]
"""A SELECT of any columns."""

PREFIX = "rec_"
VERSION_TABLE = f"{PREFIX}alembic_version"
SCHEMA_REVISION = "0001"
"""The migration that this code needs, the head of `migrations/versions`."""

LARGEST_WEIGHT = 100.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(value: datetime | None) -> int | None:
    """A time as SQLite keeps it: since 1970, exactly."""
    return None if value is None else (value - _EPOCH) // _MICROSECOND


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC: `timestamptz` on PostgreSQL, integer microseconds since 1970 on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of this database."""
        is_sqlite = dialect.name == "sqlite"
        return dialect.type_descriptor(BigInteger() if is_sqlite else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """What the driver is given."""
        if value is not None and value.tzinfo is None:
            raise InvalidValue(f"the time {value} has no offset from UTC")
        return microseconds(value) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """The time in UTC that the driver's value stands for."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            value = _EPOCH + value * _MICROSECOND
        moment: datetime = value.astimezone(UTC)
        return moment


BigId = BigInteger().with_variant(Integer, "sqlite")
KeyText = Text().with_variant(Text(collation="C"), "postgresql")

Id = Annotated[int, mapped_column(BigId, Identity(), primary_key=True)]
Key = Annotated[str, mapped_column(KeyText)]
Time = Annotated[datetime, mapped_column(UtcDateTime)]
Count = Annotated[int, mapped_column(BigInteger, server_default="0")]
Fraction = Annotated[float, mapped_column(Double, server_default="0")]
UserKey = Annotated[
    int, mapped_column(BigInteger, ForeignKey(f"{PREFIX}users.id"), primary_key=True)
]

CATALOGUE: dict[str, Any] = {"sqlite_autoincrement": True}
CLUSTERED: dict[str, Any] = {"sqlite_with_rowid": False}


class Base(DeclarativeBase):
    """The declarative base, with the naming convention."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pk",
            "fk": "%(table_name)s_%(column_0_N_name)s_fk",
            "uq": "%(table_name)s_%(column_0_N_name)s_uq",
            "ix": "%(table_name)s_%(column_0_N_name)s_ix",
            "ck": "%(table_name)s_%(constraint_name)s_ck",
        }
    )


def _key_length(column: str, longest: int = 255) -> CheckConstraint:
    return CheckConstraint(f"length({column}) BETWEEN 1 AND {longest}", name=f"{column}_length")


def _one_of(column: str, words: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _not_negative(*columns: str) -> CheckConstraint:
    return CheckConstraint(" AND ".join(f"{c} >= 0" for c in columns), name="not_negative")


def _is_fraction(column: str) -> CheckConstraint:
    return CheckConstraint(f"{column} BETWEEN 0 AND 1", name=column)


class User(Base):
    """Somebody who views, creates or both; `key` is the host's own id."""

    __tablename__ = f"{PREFIX}users"
    __table_args__ = (_key_length("key"), UniqueConstraint("key"), CATALOGUE)

    id: Mapped[Id]
    key: Mapped[Key]
    language: Mapped[str | None] = mapped_column(Text)
    country: Mapped[str | None] = mapped_column(Text)
    device: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Time | None]
    erased_at: Mapped[Time | None]

    videos: Mapped[list[Video]] = relationship(back_populates="creator")
    follows: Mapped[list[Follow]] = relationship(
        back_populates="user", foreign_keys="Follow.user_id"
    )
    interactions: Mapped[list[Interaction]] = relationship(back_populates="user")
    hashtags: Mapped[list[Hashtag]] = relationship(
        secondary=f"{PREFIX}user_hashtags", viewonly=True
    )
    sounds: Mapped[list[Sound]] = relationship(secondary=f"{PREFIX}user_sounds", viewonly=True)


class Sound(Base):
    """A sound that videos use; `creator` is its owner where it has one."""

    __tablename__ = f"{PREFIX}sounds"
    __table_args__ = (
        _key_length("key"),
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
    __table_args__ = (_key_length("name", 100), UniqueConstraint("name"), CATALOGUE)

    id: Mapped[Id]
    name: Mapped[Key]


class Video(Base):
    """A video: the narrow row that scoring probes once per candidate."""

    __tablename__ = f"{PREFIX}videos"
    __table_args__ = (
        _key_length("key"),
        UniqueConstraint("key"),
        _one_of("status", STATUSES),
        _one_of("orientation", ORIENTATIONS),
        _not_negative("duration_ms", "impressions", "engaged_views"),
        CheckConstraint("trending BETWEEN 0 AND 1e15", name="trending"),
        Index(None, "creator_id", "published_at"),
        Index(None, "sound_id", "published_at"),
        Index(None, "status", "published_at"),
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
    trending: Mapped[Fraction]
    stats_at: Mapped[Time | None]

    creator: Mapped[User] = relationship(back_populates="videos")
    sound: Mapped[Sound | None] = relationship()
    caption_row: Mapped[VideoCaption | None] = relationship(back_populates="video")
    caption: AssociationProxy[str | None] = association_proxy("caption_row", "caption")
    hashtags: Mapped[list[Hashtag]] = relationship(
        secondary=f"{PREFIX}video_hashtags", viewonly=True
    )


class VideoCaption(Base):
    """A video's caption, apart from the row that scoring probes."""

    __tablename__ = f"{PREFIX}video_captions"
    __table_args__ = (_key_length("caption", 10_000),)

    video_id: Mapped[int] = mapped_column(BigId, ForeignKey(Video.id), primary_key=True)
    caption: Mapped[str] = mapped_column(Text)

    video: Mapped[Video] = relationship(back_populates="caption_row")


class VideoHashtag(Base):
    """A hashtag of a video; `listed_at` is its `published_at` while it is published, else NULL."""

    __tablename__ = f"{PREFIX}video_hashtags"
    __table_args__ = (Index(None, "hashtag_id", "listed_at", "video_id"), CLUSTERED)

    video_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Video.id), primary_key=True)
    hashtag_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Hashtag.id), primary_key=True)
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
    likes the video now where `liked_at` is later than `unliked_at`; the same for saves.
    """

    __tablename__ = f"{PREFIX}interactions"
    __table_args__ = (
        _is_fraction("completion"),
        _not_negative(
            "impressions", "plays", "engaged_views", "watch_ms", "shares", "comments", "reports"
        ),
        Index(None, "video_id"),
        CLUSTERED,
    )

    user_id: Mapped[UserKey]
    video_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Video.id), primary_key=True)
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
    first_at: Mapped[Time]
    last_at: Mapped[Time]

    user: Mapped[User] = relationship(back_populates="interactions")
    video: Mapped[Video] = relationship()


class EventRow(Base):
    """One event of the append-only log; the key makes recording it again a no-op.

    No foreign keys: each costs as much as the rest of the row, and the interaction that the event
    is folded into, in the same transaction, has them.
    """

    __tablename__ = f"{PREFIX}events"
    __table_args__ = (
        _key_length("key"),
        _one_of("kind", KINDS),
        _is_fraction("completion"),
        _not_negative("watch_ms"),
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
    """An event that no rollup has counted yet; no foreign keys, since its event has them."""

    __tablename__ = f"{PREFIX}events_pending"
    __table_args__ = (CLUSTERED,)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    key: Mapped[str] = mapped_column(KeyText, primary_key=True)


class ProfileVersion(Base):
    """An immutable version of a ranking profile; the one activated last serves by default."""

    __tablename__ = f"{PREFIX}ranking_profiles"
    __table_args__ = (
        _key_length("name"),
        CheckConstraint("version >= 1", name="version"),
        UniqueConstraint("name", "version"),
        CATALOGUE,
    )

    id: Mapped[Id]
    name: Mapped[Key]
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[Time]
    activated_at: Mapped[Time | None]

    weights: Mapped[list[ProfileWeight]] = relationship(order_by="ProfileWeight.position")


class ProfileWeight(Base):
    """The weight of one signal in a profile's version, in the order of the formula."""

    __tablename__ = f"{PREFIX}profile_weights"
    __table_args__ = (
        _key_length("signal"),
        CheckConstraint(
            f"weight BETWEEN -{LARGEST_WEIGHT:g} AND {LARGEST_WEIGHT:g}", name="weight"
        ),
        CLUSTERED,
    )

    profile_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey(ProfileVersion.id), primary_key=True
    )
    signal: Mapped[str] = mapped_column(KeyText, primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    weight: Mapped[float] = mapped_column(Double)


class LearningState(Base):
    """The one row of facts that learned interests depend on; changing one means a rebuild."""

    __tablename__ = f"{PREFIX}learning_state"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint(
            "creator_half_life_days BETWEEN 14 AND 36500"
            " AND hashtag_half_life_days BETWEEN 14 AND 36500"
            " AND sound_half_life_days BETWEEN 14 AND 36500",
            name="half_lives",
        ),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    landmark: Mapped[Time]
    creator_half_life_days: Mapped[float] = mapped_column(Double)
    hashtag_half_life_days: Mapped[float] = mapped_column(Double)
    sound_half_life_days: Mapped[float] = mapped_column(Double)
    hashtag_rule: Mapped[int] = mapped_column(Integer)
    events_horizon: Mapped[Time | None]
