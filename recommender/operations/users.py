"""What is stored of one user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.errors import InvalidValue, UnknownUser
from recommender.formats import scalars
from recommender.ingest.users import user_id
from recommender.learning.engagement import MAX_CLOCK_SKEW
from recommender.learning.rebuild import rebuild_affinities
from recommender.models import (
    Follow,
    Hashtag,
    Interaction,
    LearningState,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    RecentEngagement,
    Sound,
    User,
    Video,
)
from recommender.models.tables import USERS


@dataclass(frozen=True, slots=True)
class UserSummary:
    """A user's own row, what they declared, whom they follow, what they muted and what they did.

    Counts are numbers of events, but `seen` and `liked`: videos seen, and liked now. What they
    did until `learned_since` is no longer learned from.
    """

    user: str
    language: str | None
    country: str | None
    device: str | None
    created_at: datetime | None
    learned_since: datetime | None
    interests: tuple[str, ...]
    liked_sounds: tuple[str, ...]
    follows: tuple[str, ...]
    muted_creators: tuple[str, ...]
    muted_hashtags: tuple[str, ...]
    muted_sounds: tuple[str, ...]
    muted_keywords: tuple[str, ...]
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
        learned_since=row.learned_since,
        interests=tuple(sorted(each.name for each in row.hashtags)),
        liked_sounds=tuple(sorted(each.key for each in row.sounds)),
        follows=tuple(sorted(session.scalars(creators))),
        **_muted(session, row.id),
        videos=session.scalar(videos) or 0,
        **_totals(session, row.id),
    )


def _muted(session: Session, row_id: int) -> dict[str, Any]:
    queries = {
        "muted_creators": sa.select(User.key)
        .join(MutedCreator, MutedCreator.creator_id == User.id)
        .where(MutedCreator.user_id == row_id),
        "muted_hashtags": sa.select(Hashtag.name)
        .join(MutedHashtag, MutedHashtag.hashtag_id == Hashtag.id)
        .where(MutedHashtag.user_id == row_id),
        "muted_sounds": sa.select(Sound.key)
        .join(MutedSound, MutedSound.sound_id == Sound.id)
        .where(MutedSound.user_id == row_id),
        "muted_keywords": sa.select(sa.func.trim(MutedKeyword.keyword)).where(
            MutedKeyword.user_id == row_id
        ),
    }
    return {name: tuple(sorted(session.scalars(query))) for name, query in queries.items()}


def _totals(session: Session, row_id: int) -> dict[str, Any]:
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


def reset_user(session: Session, user: str, *, at: datetime | None = None) -> None:
    """Forget what was learned of a user: what they did until now never counts again.

    What they did stays, as do their follows, mutes and declared interests; what they saw stays
    seen.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        at: until when, with an offset; now where None. An earlier time than that of a reset before
            changes nothing about what counts.

    Raises:
        InvalidValue: the key or the time is not of its form, or events after it are pruned.
        UnknownUser: there is no such user.
    """
    since = scalars.time(scalars.now() if at is None else at)
    if since > scalars.now() + MAX_CLOCK_SKEW:
        raise InvalidValue(f"at: {scalars.written_time(since)} is in the future")
    row_id, before = _locked(session, user)
    horizon = session.scalar(sa.select(LearningState.events_horizon))
    if horizon and max(since, before or since) < horizon:
        raise InvalidValue(
            f"at: events until {scalars.written_time(horizon)} are pruned, and cannot be learned"
            " anew: reset to no earlier time"
        )
    if before is None or before < since:
        session.execute(sa.update(User).where(User.id == row_id).values(learned_since=since))
    rebuild_affinities(session, [user])
    is_forgotten = sa.and_(RecentEngagement.user_id == row_id, RecentEngagement.at <= since)
    session.execute(sa.delete(RecentEngagement).where(is_forgotten))


def _locked(session: Session, user: str) -> tuple[int, datetime | None]:
    """A user's id and since when they are learned from; others who learn of them wait."""
    key = scalars.parse_named("user", scalars.key, user)
    read = [USERS.c.id, USERS.c.learned_since]
    if not (found := lookup.find(session, [USERS.c.key], [(key,)], read, lock=True)):
        raise UnknownUser(f"there is no user {scalars.shown(user)}")
    return found[0][0], found[0][1]
