"""Users by the host's keys. The key of a merged user finds the user into whom it was merged.

`users.merged_into` is one step deep: a merge of a user moves their aliases too. So one join
resolves a key, in the statement that finds the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.models.tables import USERS

NAMED = USERS.alias("named")
"""The row that has a key: the user's own, or the alias of a merged user."""


def is_meant(user: Any = USERS.c, named: Any = NAMED.c) -> ColumnElement[bool]:
    """Return the condition that a row of users is the one that the row with a key stands for."""
    target: ColumnElement[bool] = user.id == sa.func.coalesce(named.merged_into, named.id)
    return target


def find_users(
    session: Session,
    keys: Iterable[str],
    read: Sequence[ColumnElement[Any]],
    *,
    lock: bool = False,
    key_share: bool = False,
) -> list[tuple[Any, ...]]:
    """Return the users that keys stand for, also several times: each key with what was read.

    Args:
        session: the transaction.
        keys: keys of users; unknown ones are left out.
        read: the columns of `USERS` to read.
        lock: lock the users against other writers, in the order of their own keys.
        key_share: make only an erasure or a merge of the users wait.
    """
    listed = [(key,) for key in dict.fromkeys(keys)]
    if not listed:
        return []
    values = lookup.listed_values(session, 1, listed)
    if lock and lookup.is_distributed(session):
        return _find_apart(session, values, tuple(read))
    statement = _find_users(lookup.is_sqlite(session), tuple(read), lock, key_share)
    connection = lookup.connection(session)  # the session's handling of its objects costs more
    while True:
        rows = connection.execute(statement, values).all()
        # If a user was merged while this transaction waited for the lock, a new statement finds
        # the user into whom it was merged.
        if all(row.merged_into is None for row in rows):
            return [tuple(row[:-1]) for row in rows]


def _find_apart(
    session: Session, values: dict[str, str], read: tuple[ColumnElement[Any], ...]
) -> list[tuple[Any, ...]]:
    """Lock users on Citus, where a lock of a row of users would make all other writers wait."""
    statement = _find_users(False, (USERS.c.id, USERS.c.erased_at, *read), False, False)  # noqa: FBT003
    rows: list[Any] = []
    locked: set[int] | None = None
    while locked is None or locked != {row.id for row in rows}:
        locked = {row.id for row in rows}
        lock_users(session, locked)
        # Read again: an erasure or a merge may have come first.
        found = lookup.connection(session).execute(statement, values)
        rows = [row for row in found if row.erased_at is None]
    return [(row[0], *row[3:-1]) for row in rows]


@cache
def _find_users(
    on_sqlite: bool,  # noqa: FBT001 - part of what the statement is cached by
    read: tuple[ColumnElement[Any], ...],
    lock: bool,  # noqa: FBT001
    key_share: bool,  # noqa: FBT001
) -> Statement:
    listed = lookup.listed(on_sqlite, (USERS.c.key,))
    source = sa.join(listed, NAMED, NAMED.c.key == listed.c.key).join(USERS, is_meant())
    given = NAMED.c.key.label("given")
    statement = sa.select(given, *read, USERS.c.merged_into).select_from(source)
    if not (lock or key_share):
        return statement
    # An erasure changes the key. PostgreSQL checks only the locked row again after a wait.
    ordered = statement.where(USERS.c.erased_at.is_(None)).order_by(USERS.c.key)
    return ordered.with_for_update(read=key_share, key_share=True, of=USERS)


def user_ids(session: Session, keys: Iterable[str], *, key_share: bool = False) -> dict[str, int]:
    """Return the ids of the users that keys stand for, by key; `key_share` as in `find_users`."""
    rows = find_users(session, keys, [USERS.c.id], key_share=key_share)
    return {key: row_id for key, row_id in rows}  # noqa: C416 - a tuple of any length to mypy


def locked_targets(session: Session, keys: Iterable[str]) -> dict[str, str]:
    """Lock users as `find_users` does; return their own keys, by the aliases among the keys."""
    if not lookup.is_sqlite(session):
        rows = find_users(session, keys, [USERS.c.key], lock=True)
        return {given: key for given, key in rows if given != key}
    if not (listed := [(key,) for key in dict.fromkeys(keys)]):
        return {}
    values = lookup.listed_values(session, 1, listed)
    found = lookup.run(session, _find_targets(), values)
    return {given: key for given, key in found}  # noqa: C416 - a Row is not a pair to mypy


@cache
def _find_targets() -> Statement:
    """Build SQLite's SELECT of listed aliases, with the own keys of their users."""
    listed = lookup.listed(True, (USERS.c.key,))  # noqa: FBT003 - on SQLite
    source = sa.join(listed, NAMED, NAMED.c.key == listed.c.key).join(USERS, is_meant())
    # Not `merged_into IS NOT NULL`, whose index SQLite would read for all aliases.
    is_alias = USERS.c.id != NAMED.c.id
    return sa.select(NAMED.c.key, USERS.c.key).select_from(source).where(is_alias)


def find_locked(
    session: Session,
    column: sa.Column[Any],
    keys: Sequence[lookup.Key],
    read: Sequence[ColumnElement[Any]],
) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    """Return the rows of users that have one of the keys, locked against other writers.

    Args:
        session: the transaction.
        column: the column of `USERS` that the keys belong to.
        keys: tuples with one value.
        read: the columns of `USERS` to read.
    """
    locks = not lookup.is_distributed(session)
    if not locks:
        lock_users(
            session, [user for (user,) in lookup.find(session, [column], keys, [USERS.c.id])]
        )
    return lookup.find(session, [column], keys, read, lock=locks)


def lock_person(session: Session, key: str) -> None:
    """Lock a user and all users merged into them on Citus, where writers lock no row of users."""
    if lookup.is_distributed(session) and (own := user_ids(session, [key])):
        lock_users(session, lookup.run(session, all_ids(own[key])).scalars())


USER_LOCK = 1 << 60
"""The first advisory lock of users; a user's row id is added."""


def lock_users(session: Session, user_ids: Iterable[int]) -> None:
    """Lock users on Citus against other writers: a statement for each shard of theirs.

    A row of a reference table would be locked for the whole table. So the node of a user's rows
    keeps an advisory lock for the transaction.

    Args:
        session: the caller's transaction.
        user_ids: the row ids of the users.
    """
    ids = sorted(user_ids)
    if not ids:
        return
    shards: dict[int, list[int]] = {}
    if len(ids) == 1:
        shards[0] = ids
    else:
        rows = lookup.unnested((USERS.c.id,), joined=False)
        shard = sa.func.get_shard_id_for_distribution_column("rec_events", rows.c.id)
        found = lookup.run(
            session, sa.select(shard, rows.c.id).select_from(rows), lookup.arrays([ids])
        )
        for number, row_id in sorted(map(tuple, found)):
            shards.setdefault(number, []).append(row_id)
    for _, row_ids in sorted(shards.items()):
        lookup.run(session, _lock_users(), {"owner": row_ids[0], **lookup.arrays([row_ids])})


@cache
def _lock_users() -> Statement:
    """Build the statement that runs on the node of one user, and locks users of its shard."""
    events = sa.table("rec_events", sa.column("user_id", sa.BigInteger), sa.column("key", sa.Text))
    of_owner = events.c.user_id == sa.bindparam("owner", type_=sa.BigInteger())
    node = sa.select(sa.func.count().label("events")).select_from(events)
    node_rows = node.where(of_owner, events.c.key == "").subquery("node")
    rows = lookup.unnested((USERS.c.id,), joined=False)
    lock = sa.func.pg_advisory_xact_lock(rows.c.id + USER_LOCK)
    return sa.select(sa.func.count(lock)).select_from(node_rows.join(rows, sa.true()))


def id_of(key: str) -> sa.ScalarSelect[Any]:
    """Return the subquery of the id of the user that a key stands for."""
    target = sa.func.coalesce(USERS.c.merged_into, USERS.c.id)
    return sa.select(target).where(USERS.c.key == key).scalar_subquery()


def all_ids(user_id: Any) -> sa.Select[Any]:
    """Return the SELECT of the ids of a user and of all users merged into them.

    Until a merge is complete, rows are left under the id of a merged user.
    """
    return sa.select(USERS.c.id).where(
        sa.or_(USERS.c.id == user_id, USERS.c.merged_into == user_id)
    )
