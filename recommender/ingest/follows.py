"""Follows: the creators that users follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recommender.database import aliases, bulk, lookup
from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.ingest.upserts import Row, get_or_create_ids
from recommender.ingest.users import Pair, accepted, locked_ids, of_two, user_id
from recommender.ingest.values import Counts
from recommender.models.tables import FOLLOWS, USERS
from recommender.telemetry import traced

_OF_ONESELF = "creator: a user cannot follow themselves"


def apply_follows(session: Session, rows: Sequence[Row]) -> Counts:
    """Write follow rows; leave out and report rows with an unknown user, or of oneself.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `user`, `creator` and optionally `at`, as `rows.parse_row` returns.
    """
    users = locked_ids(session, rows)
    known, rejected = accepted(rows, users, lambda row: str(row["creator"]))
    followed = (str(row["creator"]) for row in known.values())
    creators = get_or_create_ids(session, USERS, followed, {"on_sight": True})
    users |= locked_ids(session, known.values(), users)
    named = {
        place: (users[str(row["user"])], creators[str(row["creator"])])
        for place, row in known.items()
    }
    pairs = of_two(named, rejected, _OF_ONESELF)
    current = _read_follows(session, list(dict.fromkeys(pairs.values())))
    after = dict(current)
    inserted = updated = 0
    for place, pair in pairs.items():
        at: Any = known[place].get("at", after.get(pair))
        inserted += pair not in after
        updated += pair in after and after[pair] != at
        after[pair] = at
    bulk.synchronise(session, FOLLOWS, _as_rows(current), _as_rows(after))
    return Counts(inserted, updated, len(pairs) - inserted - updated, rejected=rejected)


def _as_rows(follows: Mapping[Pair, datetime | None]) -> list[lookup.Values]:
    return [(*pair, at) for pair, at in follows.items()]


def _read_follows(session: Session, pairs: Sequence[Pair]) -> dict[Pair, datetime | None]:
    """Return the times of the existing follows among pairs of a user's and a creator's id."""
    if not pairs:
        return {}
    columns = [FOLLOWS.c.user_id, FOLLOWS.c.creator_id]
    rows = lookup.find(session, columns, pairs, [*columns, FOLLOWS.c.created_at])
    return {(user, creator): at for user, creator, at in rows}


@traced
def follow(session: Session, user: AnyKey, creator: AnyKey, *, at: datetime | None = None) -> bool:
    """Let a user follow a creator, any other user. A second call changes nothing.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the follower's key.
        creator: the creator's key; users and creators share one set of keys.
        at: when the follow began, with an offset; now if None.

    Returns:
        True if the follow is new.

    Raises:
        UnknownUser: there is no such follower, or no such creator.
        InvalidValue: a key or the time is not valid, or both keys are of one user.
    """
    since = scalars.time(scalars.now() if at is None else at)
    follower = user_id(session, user, lock=True)
    creator_id = user_id(session, creator, name="creator", key_share=True)
    if follower == creator_id:
        raise InvalidValue(_OF_ONESELF)
    row: bulk.Columns = {"user_id": [follower], "creator_id": [creator_id], "created_at": [since]}
    if _read_follows(session, [(follower, creator_id)]):
        return False
    return bool(bulk.insert_new(session, FOLLOWS, row))


@traced
def unfollow(session: Session, user: AnyKey, creator: AnyKey) -> bool:
    """Remove a follow.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the follower's key.
        creator: the creator's key; it may be unknown.

    Returns:
        True if the user followed the creator.

    Raises:
        UnknownUser: there is no such follower.
        InvalidValue: a key is not valid.
    """
    follower = user_id(session, user, lock=True)
    creator_key = scalars.parse_named("creator", scalars.key, creator)
    creators = aliases.all_ids(aliases.id_of(creator_key))
    is_it = FOLLOWS.c.user_id == follower, FOLLOWS.c.creator_id.in_(creators)
    return bool(lookup.run(session, sa.delete(FOLLOWS).where(*is_it)).rowcount)
