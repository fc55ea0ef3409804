"""The table of candidates that a host computes outside the database, for single users."""

from __future__ import annotations

from sqlalchemy import BigInteger, Double, Index
from sqlalchemy.orm import Mapped, mapped_column

from recommender.formats.scalars import IDENTIFIER_BYTES
from recommender.models.types import (
    CLUSTERED,
    PREFIX,
    Base,
    KeyText,
    Time,
    is_fraction,
    key_length,
)


class OutsideCandidate(Base):
    """A video that a host's model or editor proposes for a user, with a score from 0 to 1.

    `source` is the name of the model. A candidate with `expires_at` is not read from that time on;
    NULL never expires.
    """

    # No foreign keys: a write has locked the user's row and has found the video, neither is ever
    # deleted, and a key costs as much as the rest of the row. Pages read the best candidates of a
    # source from the index, so the cost does not depend on how many there are.

    __tablename__ = f"{PREFIX}outside_candidates"
    __table_args__ = (
        key_length("source", IDENTIFIER_BYTES),
        is_fraction("score"),
        Index(None, "user_id", "source", "score", "video_id"),
        CLUSTERED,
    )

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    source: Mapped[str] = mapped_column(KeyText, primary_key=True)
    video_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    score: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[Time | None]
