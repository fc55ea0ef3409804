"""The tables of served pages: sessions and the videos of their pages."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.orm import Mapped, mapped_column

from recommender.models.types import CLUSTERED, PREFIX, Time, UserKey, not_negative
from recommender.models.types import Base as Base  # noqa: PLC0414 - here it knows every table


class FeedSession(Base):
    """A session of a user: pages that follow one another by cursors.

    `next_position` is the first position of the next page. The first request to advance it serves
    that page.
    """

    __tablename__ = f"{PREFIX}feed_sessions"
    __table_args__ = (not_negative("next_position"), CLUSTERED)

    user_id: Mapped[UserKey]
    session: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    next_position: Mapped[int] = mapped_column(Integer)
    rewatch: Mapped[bool]
    started_at: Mapped[Time]
    last_at: Mapped[Time]


class ServedVideo(Base):
    """A served video, and the reasons for its place.

    `page` is the position of the page's first video, `asked` the requested number of videos.
    `explored` is true if the place was kept for an exploration candidate. `crowded` is true if all
    remaining candidates had the creator or the sound of the previous video, or if `record_page`
    left out the videos between them. `signals` holds the values of the signals that were not 0,
    and the weights of a host's own signals. `profile_id` is the profile that holds the other
    weights.
    """

    # No foreign key to the video: it would cost an index, and videos are never deleted.

    __tablename__ = f"{PREFIX}feed_items"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "session", "position"),
        UniqueConstraint("user_id", "session", "video_id"),
        ForeignKeyConstraint(
            ["user_id", "session"],
            [f"{PREFIX}feed_sessions.user_id", f"{PREFIX}feed_sessions.session"],
        ),
        not_negative("position", "page", "asked"),
        Index(None, "user_id", "video_id"),
        CLUSTERED,
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
