"""What is stored of one user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.catalog import user_id
from recommender.models import Follow, Interaction, User, Video


@dataclass(frozen=True, slots=True)
class UserSummary:
    """A user's own row, what they declared, whom they follow, and how much they did.

    Counts are numbers of events, but `seen` and `liked`: videos seen, and liked now.
    """

    user: str
    language: str | None
    country: str | None
    device: str | None
    created_at: datetime | None
    interests: tuple[str, ...]
    liked_sounds: tuple[str, ...]
    follows: tuple[str, ...]
    videos: int
    seen: int
    liked: int
    plays: int
    shares: int
    comments: int


def show_user(session: Session, user: str) -> UserSummary:
    """What is stored of a user, in short.

    Args:
        session: the caller's transaction.
        user: the user's key.

    Raises:
        InvalidValue: the key is not of its form.
        UnknownUser: there is no such user.
    """
    row = session.get_one(User, user_id(session, user), populate_existing=True)
    creators = (
        sa.select(User.key)
        .join(Follow, Follow.creator_id == User.id)
        .where(Follow.user_id == row.id)
    )
    videos = sa.select(sa.func.count()).select_from(Video).where(Video.creator_id == row.id)
    return UserSummary(
        user=row.key,
        language=row.language,
        country=row.country,
        device=row.device,
        created_at=row.created_at,
        interests=tuple(sorted(each.name for each in row.hashtags)),
        liked_sounds=tuple(sorted(each.key for each in row.sounds)),
        follows=tuple(sorted(session.scalars(creators))),
        videos=session.scalar(videos) or 0,
        **_totals(session, row.id),
    )


def _totals(session: Session, row_id: int) -> dict[str, int]:
    likes = sa.or_(Interaction.unliked_at.is_(None), Interaction.liked_at > Interaction.unliked_at)
    totals = {
        "seen": sa.func.count().filter(Interaction.impressions > 0),
        "liked": sa.func.count().filter(Interaction.liked_at.is_not(None), likes),
        "plays": sa.func.sum(Interaction.plays),
        "shares": sa.func.sum(Interaction.shares),
        "comments": sa.func.sum(Interaction.comments),
    }
    query = sa.select(*(total.label(name) for name, total in totals.items()))
    row = session.execute(query.where(Interaction.user_id == row_id)).one()
    return {name: int(value or 0) for name, value in zip(totals, row, strict=True)}
