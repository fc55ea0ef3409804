"""ingest.follows: TODO."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.lookup import ids
from recommender.errors import UnknownUser
from recommender.formats import scalars
from recommender.ingest.upserts import Row, ensure
from recommender.ingest.users import user_id
from recommender.ingest.values import Applied, Counts
from recommender.models import (
    Follow,
    User,
)
from recommender.models.tables import FOLLOWS, USERS


def apply_follows(session: Session, rows: Sequence[Row]) -> Applied:
    """Write parsed follow rows; those of unknown users are left out and reported.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `user`, `creator` and, where known, `at`, as `rows.parse_row` gives.
    """
    users = ids(session, USERS, (str(row["user"]) for row in rows), hold=True)
    known = [row for row in rows if row["user"] in users]
    creators = ensure(session, USERS, (str(row["creator"]) for row in known))
    wanted: dict[lookup.Key, Row] = {}
    for row in known:
        pair = (users[str(row["user"])], creators[str(row["creator"])])
        wanted[pair] = {**wanted.get(pair, {}), **row}
    current = _follows(session, list(wanted))
    there = [(*pair, at) for pair, at in current.items()]
    written = [(*pair, row.get("at", current.get(pair))) for pair, row in wanted.items()]
    changed = set(written) - set(there)
    bulk.synchronise(session, FOLLOWS, there, written)
    inserted = len(wanted.keys() - current.keys())
    counts = Counts(inserted, len(changed) - inserted, len(known) - len(changed))
    rejected = {
        index: UnknownUser(f"user: there is no user {scalars.shown(row['user'])}")
        for index, row in enumerate(rows)
        if row["user"] not in users
    }
    return Applied(counts, rejected)


def _follows(session: Session, pairs: Sequence[lookup.Key]) -> dict[lookup.Key, datetime | None]:
    """Since when those of the pairs of user and creator are that are there."""
    if not pairs:
        return {}
    columns = [FOLLOWS.c.user_id, FOLLOWS.c.creator_id]
    rows = lookup.find(session, columns, pairs, [*columns, FOLLOWS.c.created_at])
    return {(user, creator): at for user, creator, at in rows}


def follow(session: Session, user: str, creator: str, *, at: datetime | None = None) -> bool:
    """Let a user follow a creator, who is created on sight; following again changes nothing.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the follower's key.
        creator: the creator's key.
        at: since when, with an offset; now where None.

    Returns:
        Whether the user did not follow the creator before.

    Raises:
        UnknownUser: there is no such follower.
        InvalidValue: a key or the time is not of its form.
    """
    since = scalars.time(scalars.now() if at is None else at)
    follower = user_id(session, user, hold=True)
    creator_key = scalars.parse_named("creator", scalars.key, creator)
    creator_id = ensure(session, USERS, [creator_key])[creator_key]
    row: bulk.Columns = {"user_id": [follower], "creator_id": [creator_id], "created_at": [since]}
    if _follows(session, [(follower, creator_id)]):
        return False
    return bool(bulk.insert_new(session, FOLLOWS, row))


def unfollow(session: Session, user: str, creator: str) -> bool:
    """Let a user no longer follow a creator.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the follower's key.
        creator: the creator's key, known or not.

    Returns:
        Whether the user followed the creator before.

    Raises:
        UnknownUser: there is no such follower.
        InvalidValue: a key is not of its form.
    """
    follower = user_id(session, user)
    creator_key = scalars.parse_named("creator", scalars.key, creator)
    followed = sa.select(User.id).where(User.key == creator_key).scalar_subquery()
    statement = sa.delete(Follow).where(Follow.user_id == follower, Follow.creator_id == followed)
    return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined] # a CursorResult
