"""Find what a log lacks, so that nothing or little can be learned from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import is_positive
from recommender.database.session import Session
from recommender.models.tables import EVENTS, INTERACTIONS

MAX_EVENTS = 10_000
"""The most events that are looked at, and the most interactions that are counted."""

YOUNG_LOG = 100
"""The number of interactions from which a log without a positive one is harmful."""


class Lack(NamedTuple):
    """Something that a log lacks.

    Attributes:
        found: a sentence without its full stop.
        advice: what to send instead.
        is_harmful: whether nothing can be learned without it.
    """

    found: str
    advice: str
    is_harmful: bool

    def __str__(self) -> str:
        """Return both as sentences."""
        return f"{self.found[0].upper()}{self.found[1:]}: {self.advice}."


def log_lacks(session: Session) -> list[Lack]:
    """Return what a log lacks; nothing if it is empty.

    Args:
        session: the caller's transaction; nothing is written.
    """
    return [lack for lack in (_no_length(session), _no_positive(session)) if lack]


def _no_length(session: Session) -> Lack | None:
    """Say that no watch has a length."""
    columns = EVENTS.c.kind, EVENTS.c.watch_ms, EVENTS.c.completion
    first = sa.select(*columns).limit(MAX_EVENTS).subquery("first_events")
    is_watch = first.c.kind == "watch"
    has_length = sa.or_(first.c.watch_ms.is_not(None), first.c.completion.is_not(None))
    counts = sa.select(
        sa.func.count().filter(is_watch), sa.func.count().filter(sa.and_(is_watch, has_length))
    ).select_from(first)
    watches, with_length = lookup.run(session, counts).one()
    if not watches or with_length:
        return None
    return Lack(
        "no watch has a length, so each counts as an engaged view",
        "send watch_ms or completion, and an impression in place of a watch for a mere start",
        is_harmful=False,
    )


def _no_positive(session: Session) -> Lack | None:
    """Say that no interaction is positive."""
    positive = sa.select(sa.literal(1)).select_from(INTERACTIONS)
    if lookup.run(session, positive.where(is_positive(INTERACTIONS.c)).limit(1)).first():
        return None
    some = sa.select(sa.literal(1)).select_from(INTERACTIONS).limit(MAX_EVENTS + 1).subquery("some")
    number: Any = lookup.run(session, sa.select(sa.func.count()).select_from(some)).scalar()
    if not number:
        return None
    listed = f"more than {MAX_EVENTS:,}" if number > MAX_EVENTS else f"{number:,}"
    return Lack(
        f"0 of {listed} interactions are positive, so no taste can be learned",
        "send likes, saves, shares, comments, purchases (convert), or watches with their lengths",
        is_harmful=number >= YOUNG_LOG,
    )
