"""ingest.users: TODO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.errors import UnknownUser
from recommender.formats.rows import USER_COLUMNS, parse_row
from recommender.formats.scalars import key, parse_named, shown
from recommender.ingest.upserts import (
    USER_SCALARS,
    Row,
    ensure,
    members,
    merged,
    only,
    replace_links,
    save,
)
from recommender.ingest.values import Applied, Counts
from recommender.models import (
    User,
)
from recommender.models.tables import HASHTAGS, SOUNDS, USER_HASHTAGS, USER_SOUNDS, USERS


def upsert_users(session: Session, rows: Iterable[Row]) -> Counts:
    """Create or update users; their interests and liked sounds are created on sight.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `id` (required), `language`, `country`, `device`, `created_at`,
            `interests`, `liked_sounds`. Of two rows of one id the later counts, column by column.

    Returns:
        How many users were inserted, updated, unchanged.

    Raises:
        InvalidValue: a row is not of that form; nothing is written.
    """
    return apply_users(session, [parse_row(USER_COLUMNS, row) for row in rows]).counts


def apply_users(session: Session, rows: Sequence[Row]) -> Applied:
    """Write user rows as `rows.parse_row` gives them; see `upsert_users`."""
    given = merged(rows)
    scalars = {key: only(row, USER_SCALARS) for key, row in given.items()}
    saved = save(session, USERS, scalars, {})
    sounds = ensure(session, SOUNDS, members(given, "liked_sounds"))
    hashtags = ensure(session, HASHTAGS, members(given, "interests"))
    changed = replace_links(session, USER_HASHTAGS, saved, given, "interests", hashtags)
    changed |= replace_links(session, USER_SOUNDS, saved, given, "liked_sounds", sounds)
    return Applied(saved.counts(changed))


def user_id(session: Session, user: str, *, hold: bool = False) -> int:
    """The id of a user's row.

    Args:
        session: the caller's transaction.
        user: the user's key.
        hold: whether an erasure of the user waits until the transaction has ended.

    Raises:
        UnknownUser: there is no such user.
    """
    statement = sa.select(User.id).where(User.key == parse_named("user", key, user))
    if hold:
        statement = statement.with_for_update(read=True, key_share=True)
    found = session.scalar(statement)
    if found is None:
        raise UnknownUser(f"there is no user {shown(user)}")
    return found
