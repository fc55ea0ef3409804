"""The table of the people who were suggested to users, and of those whom users dismissed."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from recommender.models.types import CLUSTERED, PREFIX, Base, Count, Time, not_negative


class Suggestion(Base):
    """A creator who was suggested to a user, or whom the user dismissed.

    `shown` is the number of days (UTC) on which a list showed the creator, `shown_at` the last
    time. A creator with `dismissed_at` is never suggested again.
    """

    # No foreign keys: a write has locked the rows of the user and of the creator, neither is ever
    # deleted, and a key costs as much as the rest of the row.

    __tablename__ = f"{PREFIX}suggestions"
    __table_args__ = (not_negative("shown"), Index(None, "creator_id"), CLUSTERED)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    creator_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    shown: Mapped[Count]
    shown_at: Mapped[Time | None]
    dismissed_at: Mapped[Time | None]
