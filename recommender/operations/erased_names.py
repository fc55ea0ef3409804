"""Random names in place of the names that an erased person or video had."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Table

from recommender.database import bulk, lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.formats.scalars import LIST_SEPARATOR
from recommender.models.tables import HASHTAGS, SOUNDS, USERS
from recommender.models.types import Base

ERASED_PREFIX = "erased:"
"""The prefix of the key of an erased user or video. A host may give such keys too."""

ERASED_NAME_PREFIX = f"erased{LIST_SEPARATOR}"
"""The prefix of an erased hashtag or sound. No host can give such a name."""

REFERENCES = {
    HASHTAGS: ("hashtag_id",),
    SOUNDS: ("sound_id",),
    USERS: ("user_id", "creator_id", "other_id"),
}
"""The names of the columns that refer to the rows of a table."""


def begins(column: sa.Column[Any], prefix: str) -> ColumnElement[bool]:
    """Return the condition that a key starts with a prefix."""
    # A range, because SQLite does not use the index for LIKE.
    return sa.and_(column >= prefix, column < prefix[:-1] + chr(ord(prefix[-1]) + 1))


def unused(session: Session, table: Table, after: int, last: int) -> Sequence[int]:
    """Return the ids of names in a range of ids that no row refers to.

    Args:
        session: the transaction.
        table: hashtags, sounds, or users: only those created on sight, by the
            import of a follow, mute or block.
        after: the id before the range.
        last: the last id of the range.
    """
    is_in_range = table.c.id > after, table.c.id <= last
    if lookup.is_distributed(session):
        candidates = sa.select(table.c.id).where(*_may_be_erased(table), *is_in_range)
        return _unused_apart(session, table, lookup.run(session, candidates).scalars().all())
    return lookup.run(session, _unused(table).where(*is_in_range)).scalars().all()


def _unused_apart(session: Session, table: Table, ids: Sequence[int]) -> Sequence[int]:
    """Return the ids that no row refers to, by a statement for each column that could."""
    left = set(ids)
    for other in Base.metadata.sorted_tables:
        for column in (other.c[name] for name in REFERENCES[table] if name in other.c):
            if left:
                used = sa.select(column).where(column.in_(sorted(left))).distinct()
                left -= set(lookup.run(session, used).scalars())
    return sorted(left)


def forget_unused(
    session: Session, table: Table, ids: Iterable[int], erased_at: datetime | None = None
) -> int:
    """Give random names to hashtags, sounds or users created on sight that no row refers to.

    They are not deleted, because a concurrent transaction may be about to refer to one.

    Args:
        session: the transaction.
        table: the table of hashtags, sounds or users.
        ids: the ids to check.
        erased_at: the time of the erasure, for users.

    Returns:
        The number of renamed rows.
    """
    checked = sorted(ids)
    if lookup.is_distributed(session):
        # The lock is of the whole table.
        found = lookup.find(session, [table.c.id], [(i,) for i in checked], [table.c.id], lock=True)
        checked = list(_unused_apart(session, table, [row_id for (row_id,) in found]))
        return _forget(session, table, checked, erased_at)
    # A name that a concurrent transaction has locked is about to be used. One that was used and
    # committed before the lock shows only in another statement.
    for is_locking in (True, False):
        if not checked:
            return 0
        statement = _unused_listed(table, lookup.is_sqlite(session), is_locking)
        listed = lookup.listed_values(session, 1, [(row_id,) for row_id in checked])
        checked = sorted(lookup.run(session, statement, listed).scalars())
    return _forget(session, table, checked, erased_at)


def _forget(session: Session, table: Table, ids: Sequence[int], erased_at: datetime | None) -> int:
    changed = {"erased_at": erased_at} if table is USERS else {}
    return rename(session, table, ids, **changed)


@cache
def _unused_listed(table: Table, on_sqlite: bool, is_locking: bool) -> Statement:  # noqa: FBT001
    """Build the SELECT of the unused names among listed ids."""
    listed = lookup.listed(on_sqlite, (table.c.id,))
    statement = _unused(table).join(listed, listed.c.id == table.c.id)
    return statement.with_for_update(skip_locked=True, of=table) if is_locking else statement


@cache
def _unused(table: Table) -> sa.Select[int]:
    """Build the SELECT of the names that no row refers to and that are not erased."""
    uses = (
        other.c[name] == table.c.id
        for other in Base.metadata.sorted_tables
        for name in REFERENCES[table]
        if name in other.c
    )
    return sa.select(table.c.id).where(
        *_may_be_erased(table), *(~sa.exists().where(u) for u in uses)
    )


def _may_be_erased(table: Table) -> list[ColumnElement[bool]]:
    if table is USERS:
        return [USERS.c.on_sight, USERS.c.erased_at.is_(None)]
    is_owned = [SOUNDS.c.creator_id.is_not(None)] if table is SOUNDS else []
    return [~sa.or_(begins(_key(table), ERASED_NAME_PREFIX), *is_owned)]


def _key(table: Table) -> sa.Column[Any]:
    return table.c[lookup.key_column(table)]


def rename(session: Session, table: Table, ids: Sequence[int], **changed: Any) -> int:
    """Give rows random keys (hashtags: random names), and set other columns too."""
    if ids:
        column = _key(table)
        prefix = ERASED_NAME_PREFIX if table in (HASHTAGS, SOUNDS) else ERASED_PREFIX
        values = [(row_id, prefix + token_hex(16)) for row_id in ids]
        changes = {column.name: bulk.replace}
        bulk.update_listed(session, (table.c.id, column), values, changes, changed)
    return len(ids)
