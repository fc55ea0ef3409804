"""Show, reset or rename a user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from recommender.database import aliases, lookup
from recommender.database.schema import check_first_rows, first_state
from recommender.database.session import Session
from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue, RecommenderError, UnknownUser
from recommender.formats import scalars
from recommender.formats.plain import plain_fields
from recommender.formats.scalars import AnyKey
from recommender.ingest.users import user_id
from recommender.learning.engagement import MAX_CLOCK_SKEW
from recommender.learning.rebuild import rebuild_affinities
from recommender.learning.recent import forget_recent
from recommender.models import (
    Block,
    Follow,
    Hashtag,
    Interaction,
    LearningState,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    Sound,
    User,
    Video,
)
from recommender.models.tables import OUTSIDE_CANDIDATES, SUGGESTIONS, USERS
from recommender.settings import Settings
from recommender.telemetry import traced


@dataclass(frozen=True, slots=True)
class UserSummary:
    """A user's profile, declared interests, follows, mutes, blocks, and counts of their actions.

    `blocked` are the users whom they blocked. `videos` counts the user's own videos, `seen` the
    videos they saw, and `liked` the videos they like now. The other counts are numbers of events.
    Actions up to `learned_since` are ignored when learning.
    """

    user: str
    language: str | None
    country: str | None
    device: str | None
    created_at: datetime | None
    discoverable: bool
    learned_since: datetime | None
    interests: tuple[str, ...]
    liked_sounds: tuple[str, ...]
    follows: tuple[str, ...]
    muted_creators: tuple[str, ...]
    muted_hashtags: tuple[str, ...]
    muted_sounds: tuple[str, ...]
    muted_keywords: tuple[str, ...]
    blocked: tuple[str, ...]
    videos: int
    seen: int
    liked: int
    plays: int
    shares: int
    comments: int

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as `user show` prints it."""
        return plain_fields(self)


def show_user(session: Session, user: AnyKey) -> UserSummary:
    """Return a summary of the data stored about a user.

    Args:
        session: the caller's transaction.
        user: the user's key.

    Raises:
        InvalidValue: the key is malformed.
        UnknownUser: there is no such user.
    """
    row = session.get_one(User, user_id(session, user), populate_existing=True)
    creators = (
        sa.select(User.key)
        .join(Follow, Follow.creator_id == User.id)
        .where(Follow.user_id == row.id)
    )
    blocked = (
        sa.select(User.key)
        .join(Block, Block.other_id == User.id)
        .where(Block.user_id == row.id, Block.direction == "by_me")
    )
    videos = sa.select(sa.func.count()).select_from(Video).where(Video.creator_id == row.id)
    return UserSummary(
        user=row.key,
        language=row.language,
        country=row.country,
        device=row.device,
        created_at=row.created_at,
        discoverable=row.discoverable,
        learned_since=row.learned_since,
        interests=tuple(sorted(hashtag.name for hashtag in row.hashtags)),
        liked_sounds=tuple(sorted(sound.key for sound in row.sounds)),
        follows=tuple(sorted(session.scalars(creators))),
        **_muted(session, row.id),
        blocked=tuple(sorted(session.scalars(blocked))),
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


@traced
def reset_user(session: Session, user: AnyKey, *, at: datetime | None = None) -> None:
    """Reset a user's learned interests. Actions up to now no longer count.

    Candidates from outside are deleted, because a model computed them from these actions. It is
    forgotten which people were suggested to them. The recorded actions, follows, mutes, blocks,
    dismissals and declared interests stay. Videos they saw stay marked as seen.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        at: the time up to which actions no longer count, with an offset; None means now. A time
            before the previous reset has no effect on what counts.

    Raises:
        InvalidValue: the key or time is malformed or in the future, or later events were pruned.
        UnknownUser: there is no such user.
    """
    since = scalars.time(scalars.now() if at is None else at)
    if since > scalars.now() + MAX_CLOCK_SKEW:
        raise InvalidValue(f"at: {scalars.written_time(since)} is in the future")
    row_id, own_key, before = _locked(session, user)
    state = first_state(session.execute(sa.select(LearningState.events_horizon)))
    horizon = state.events_horizon
    if horizon and max(since, before or since) < horizon:
        raise InvalidValue(
            f"at: events until {scalars.written_time(horizon)} are pruned and cannot be learned"
            " again: choose that time or a later one"
        )
    if before is None or before < since:
        session.execute(sa.update(User).where(User.id == row_id).values(learned_since=since))
    rebuild_affinities(session, [own_key])
    forget_recent(session, row_id, since)
    # An unfinished merge has left rows under an alias.
    owner = OUTSIDE_CANDIDATES.c.user_id
    lookup.run(session, sa.delete(OUTSIDE_CANDIDATES).where(owner.in_(aliases.all_ids(row_id))))
    _forget_suggestions(session, row_id)


def _forget_suggestions(session: Session, row_id: int) -> None:
    """Forget which people were suggested to a user, but not whom they dismissed."""
    row = SUGGESTIONS.c
    own = row.user_id == row_id
    lookup.run(session, sa.delete(SUGGESTIONS).where(own, row.dismissed_at.is_(None)))
    forgotten = sa.update(SUGGESTIONS).where(own, row.shown > 0)
    lookup.run(session, forgotten.values(shown=0, shown_at=None))


@traced
def rename_user(
    engine: Engine, old: AnyKey, new: AnyKey, *, settings: Settings | None = None
) -> None:
    """Change the key of a user, in a transaction with one statement.

    Nothing stored depends on the key, so pages, cursors and events go on under the new one. Random
    choices that are made from the key change: the exploration in previews, and the samples of
    evaluations. An alias is renamed itself.

    Args:
        engine: a prepared engine.
        old: the user's key, or an alias.
        new: the new key.
        settings: the settings; None reads the environment.

    Raises:
        InvalidValue: a key is malformed, is already a key of this user, or is another user's: merge
            the two.
        UnknownUser: there is no user with the old key.
        RecommenderError: the database failed.
    """
    old_key = scalars.parse_named("old", scalars.key, old)
    new_key = scalars.parse_named("new", scalars.key, new)
    rename = partial(_rename, old=old_key, new=new_key)
    try:
        run_transaction(engine, rename, settings=settings)
    except RecommenderError as error:
        if isinstance(error.__cause__, IntegrityError):
            raise _taken(new_key) from error
        raise


def _rename(session: Session, *, old: str, new: str) -> None:
    taken = USERS.alias("taken")
    is_free = ~sa.exists().where(taken.c.key == new)
    renamed = sa.update(USERS).where(USERS.c.key == old, USERS.c.erased_at.is_(None), is_free)
    if lookup.run(session, renamed.values(key=new, on_sight=False)).rowcount:
        return
    found = aliases.user_ids(session, [old, new])
    if old not in found:
        check_first_rows(session)
        raise UnknownUser(f"there is no user {scalars.shown(old)}")
    if found[old] == found.get(new):
        raise InvalidValue(f"new: {scalars.shown(new)} is already a key of this user")
    raise _taken(new)


def _taken(key: str) -> InvalidValue:
    return InvalidValue(
        f"new: there is a user {scalars.shown(key)}: merge the two with merge_users"
    )


def _locked(session: Session, user: AnyKey) -> tuple[Any, ...]:
    """Lock a user, and return their id, own key and `learned_since`."""
    key = scalars.parse_named("user", scalars.key, user)
    read = [USERS.c.id, USERS.c.key, USERS.c.learned_since]
    if not (rows := aliases.find_users(session, [key], read, lock=True)):
        check_first_rows(session)
        raise UnknownUser(f"there is no user {scalars.shown(user)}")
    return rows[0][1:]
