"""The tables of served pages: sessions, the videos of their pages, and what was served to whom."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    event,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from recommender.models.types import (
    CATALOGUE,
    CLUSTERED,
    ON_SQLITE,
    PREFIX,
    Count,
    Id,
    Key,
    KeyText,
    Time,
    UserKey,
    key_length,
    not_negative,
)
from recommender.models.types import Base as Base  # noqa: PLC0414 - here it knows every table

FOR_YOU_MEMORY = 0
"""The memory of For You, which all its profiles and sessions share, and feeds without their own."""


class FeedVersion(Base):
    """An immutable version of a feed with a name; the newest one begins sessions.

    `profile` and `profile_version` name its profile; NULL for the active one and for the newest
    version. `sources` holds quotas by source, null for the default quota; it is empty for all
    sources. `limits` holds pairs: at most n videos in m places. A version with
    `deleted_at` begins no sessions.
    """

    __tablename__ = f"{PREFIX}feeds"
    __table_args__ = (
        key_length("name"),
        CheckConstraint("version >= 1", name="version"),
        not_negative("memory"),
        UniqueConstraint("name", "version"),
        CATALOGUE,
    )

    id: Mapped[Id]
    name: Mapped[Key]
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[Time]
    deleted_at: Mapped[Time | None]
    profile: Mapped[str | None] = mapped_column(KeyText)
    profile_version: Mapped[int | None] = mapped_column(Integer)
    memory: Mapped[int] = mapped_column(SmallInteger)
    sources: Mapped[dict[str, Any]] = mapped_column(JSON)
    formats: Mapped[list[str]] = mapped_column(JSON)
    limits: Mapped[dict[str, Any]] = mapped_column(JSON)


class FeedSession(Base):
    """A session of a user: pages that follow one another by cursors.

    `next_position` is the first position of the next page. The first request to advance it serves
    that page. `seen_until` is the last position that the user looked at, 0 if none. `feed_id` is
    the version of the feed that began it, NULL for For You. `arm` is the arm of an experiment that
    the session is in, 0 for the control; both are NULL if it never was in one. A session that left
    its experiment, because a page named a profile, has no `arm` any more. The last columns add up
    over its pages: their number, the videos that were asked for, the pages that were exhausted, and
    the milliseconds from the resolved request to the ranked page. Before migration 0013 they are 0.
    `contenders` holds the best candidates that the session has not served, for its next page, and
    what they were ranked for; NULL if the next page ranks candidates from all sources.
    """

    # No foreign keys to feed and experiment: neither is ever deleted, and each would cost an index.

    __tablename__ = f"{PREFIX}feed_sessions"
    __table_args__ = (not_negative("next_position"), CLUSTERED)

    user_id: Mapped[UserKey]
    session: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    next_position: Mapped[int] = mapped_column(Integer)
    rewatch: Mapped[bool]
    started_at: Mapped[Time]
    last_at: Mapped[Time]
    seen_until: Mapped[int] = mapped_column(Integer, server_default="0")
    feed_id: Mapped[int | None] = mapped_column(BigInteger)
    experiment_id: Mapped[int | None] = mapped_column(BigInteger)
    arm: Mapped[int | None] = mapped_column(SmallInteger)
    pages: Mapped[Count]
    asked: Mapped[Count]
    exhausted: Mapped[Count]
    milliseconds: Mapped[Count]
    contenders: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class RememberedVideo(Base):
    """A video that was served to a user, in one of the memories: what a feed knows of its pages.

    `session` and `last_at` are of the last time that it was served, `attempts` is the number of
    times. `seen` is true if the user looked at it. An event of the user makes a video seen too; the
    state of the user and the video tells that.
    """

    __tablename__ = f"{PREFIX}served"
    __table_args__ = (not_negative("attempts"), CLUSTERED)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    memory: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    video_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    session: Mapped[uuid.UUID] = mapped_column(Uuid)
    last_at: Mapped[Time]
    attempts: Mapped[int] = mapped_column(Integer)
    seen: Mapped[bool]


class ServedVideo(Base):
    """A place: a served video, and the reasons for it. Feeds do not read this log.

    `page` is the position of the page's first video, `asked` the requested number of videos.
    `explored` is true if the place was kept for an exploration candidate. `crowded` is true if all
    remaining candidates had the creator or the sound of the previous video, or were beyond a limit
    of the feed, or if `record_page` left out the videos between them. `attempt` is 1 if the video
    had not been served to the user before, 2 if once, and so on; NULL for places of older versions.
    `served_at` is between `started_at` and `last_at` of the session.
    `refilled` is true if it came again because no other video was left. `signals` holds the values
    of the signals that were not 0, and the weights of a host's own signals. `profile_id` is the
    profile that holds the other weights.
    """

    # No foreign key to the video: it would cost an index, and videos are never deleted.
    # PostgreSQL has a key of all partitions only with `served_at`. There each partition has both
    # keys (`partition_of_log`), and the update of the session's row decides who serves a page. A
    # reference to sessions would lock them whenever a partition is made or dropped.

    __tablename__ = f"{PREFIX}feed_items"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "session", "position", info=ON_SQLITE).ddl_if("sqlite"),
        UniqueConstraint("user_id", "session", "video_id", info=ON_SQLITE).ddl_if("sqlite"),
        ForeignKeyConstraint(
            ["user_id", "session"],
            [f"{PREFIX}feed_sessions.user_id", f"{PREFIX}feed_sessions.session"],
            info=ON_SQLITE,
        ).ddl_if("sqlite"),
        not_negative("position", "page", "asked"),
        Index(None, "user_id", "video_id"),
        {**CLUSTERED, "postgresql_partition_by": "RANGE (served_at)"},
    )

    user_id: Mapped[int] = mapped_column(BigInteger)
    session: Mapped[uuid.UUID] = mapped_column(Uuid)
    position: Mapped[int] = mapped_column(Integer)
    video_id: Mapped[int] = mapped_column(BigInteger)
    page: Mapped[int] = mapped_column(Integer)
    asked: Mapped[int] = mapped_column(Integer)
    served_at: Mapped[Time]
    profile_id: Mapped[int] = mapped_column(BigInteger)
    score_key: Mapped[int] = mapped_column(BigInteger)
    sources: Mapped[str] = mapped_column(Text)
    explored: Mapped[bool]
    crowded: Mapped[bool]
    signals: Mapped[dict[str, Any]] = mapped_column(JSON)
    attempt: Mapped[int | None] = mapped_column(Integer)
    refilled: Mapped[bool] = mapped_column(server_default=false())


DEFAULT_PARTITION = f"{ServedVideo.__tablename__}_default"
"""The partition of the log on PostgreSQL for the places of all days without a partition."""


def partition_of_log(name: str, bounds: str) -> tuple[DDL, ...]:
    """Return the statements that make a partition of the log of places on PostgreSQL.

    Args:
        name: the name of its table.
        bounds: ``DEFAULT``, or ``FOR VALUES`` with its first time and the time after it.
    """
    names = {"name": name, "table": ServedVideo.__tablename__, "bounds": bounds}
    statements = (_CREATE_PARTITION, _ADD_KEYS)
    return tuple(DDL(text, context=names) for text in statements)  # type: ignore[no-untyped-call]


_CREATE_PARTITION = "CREATE TABLE %(name)s PARTITION OF %(table)s %(bounds)s"

_ADD_KEYS = (
    "ALTER TABLE %(name)s ADD CONSTRAINT %(name)s_pk PRIMARY KEY (user_id, session, position),"
    " ADD CONSTRAINT %(name)s_uq UNIQUE (user_id, session, video_id)"
)

for _statement in partition_of_log(DEFAULT_PARTITION, "DEFAULT"):
    event.listen(ServedVideo.__table__, "after_create", _statement.execute_if("postgresql"))
