"""The table of experiments."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, CheckConstraint, Double, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from recommender.models.types import CATALOGUE, PREFIX, Base, Id, Key, KeyText, Time, key_length


class ExperimentRow(Base):
    """A comparison of profiles on the users of a feed.

    `feed` is the name of the feed, empty for For You. `arms` holds the arms in order, the control
    first: each with the label, the row and the weights of its profile, and with its share of the
    users. Which user is in which arm follows from their row and the experiment's name.
    `least_effect` is the smallest relative effect that matters. An experiment with `stopped_at`
    assigns no one. `promoted` is the profile that serves since then, NULL if none was chosen.
    """

    __tablename__ = f"{PREFIX}experiments"
    __table_args__ = (
        key_length("name"),
        UniqueConstraint("name"),
        CheckConstraint("least_effect > 0 AND least_effect <= 1", name="least_effect"),
        Index(
            None,
            "feed",
            unique=True,
            sqlite_where=text("stopped_at IS NULL"),
            postgresql_where=text("stopped_at IS NULL"),
        ),
        CATALOGUE,
    )

    id: Mapped[Id]
    name: Mapped[Key]
    feed: Mapped[Key]
    arms: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    interleaved: Mapped[bool]
    metric: Mapped[str] = mapped_column(Text)
    guardrails: Mapped[list[str]] = mapped_column(JSON)
    least_effect: Mapped[float] = mapped_column(Double)
    started_at: Mapped[Time]
    stopped_at: Mapped[Time | None]
    promoted: Mapped[str | None] = mapped_column(KeyText)
