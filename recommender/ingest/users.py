"""Users: create or update, find by key."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from recommender.database import aliases, lookup
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import InvalidValue, RecommenderError, UnknownUser
from recommender.formats import scalars
from recommender.formats.rows import USER_COLUMNS, UserRow, parse_row
from recommender.formats.scalars import AnyKey
from recommender.ingest.upserts import (
    PROFILE,
    USER_SCALARS,
    Row,
    RowsByKey,
    SavedRows,
    get_or_create_ids,
    list_members,
    replace_links,
    save_rows,
    select_columns,
    split_rounds,
)
from recommender.ingest.values import Counts
from recommender.ingest.visibility import show_videos
from recommender.models.tables import HASHTAGS, SOUNDS, USER_HASHTAGS, USER_SOUNDS, USERS
from recommender.telemetry import traced


@traced
def upsert_users(session: Session, rows: Iterable[UserRow]) -> Counts:
    """Create or update users, and create missing interests and liked sounds.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `id` (required), `language`, `country`, `device`, `created_at`,
            `interests`, `liked_sounds`, `discoverable` (true if empty). Rows of the same id apply
            one after the other. A row with the key of a user who was merged into another one only
            fills that user's empty `language`, `country`, `device` and `created_at`.
            If `discoverable` changes, the rows of the user's videos change in the same transaction,
            some thousand per statement.

    Returns:
        The numbers of rows that inserted, updated and did not change a user.

    Raises:
        InvalidValue: a row is not valid; nothing is written.
    """
    return apply_users(session, [parse_row(USER_COLUMNS, row) for row in rows])


def apply_users(session: Session, rows: Sequence[Row]) -> Counts:
    """Write user rows that `rows.parse_row` returned; see `upsert_users`."""
    # Locked, so that no user is merged before the rows are written.
    own = aliases.locked_targets(session, (str(row["id"]) for row in rows))
    written = [_of_alias(row, own[str(row["id"])]) if row["id"] in own else row for row in rows]
    rounds, repeated = split_rounds(written)
    return sum((_write_users(session, users) for users in rounds), Counts(unchanged=repeated))


Pair = tuple[int, int]
"""The ids of a user and of the user whom they follow, mute or block."""

FILLS = "fills"
"""The mark of a row that only fills empty columns: it was given under the key of a merged user."""


def _of_alias(row: Row, own_key: str) -> Row:
    """Return the row to write for a row of a merged user: what was the guest's profile."""
    given = {name: row[name] for name in PROFILE if row.get(name) is not None}
    return {"id": own_key, FILLS: True, **given}


def _filled(stored: Row, given: Row) -> Row:
    """Return the columns to write; of the row of a merged user only what is empty."""
    if FILLS not in given:
        return given
    empty = [name for name in PROFILE if stored[name] is None]
    return {name: given[name] for name in empty if name in given}


def _write_users(session: Session, users: RowsByKey) -> Counts:
    columns = {key: _user_columns(row) for key, row in users.items()}
    saved = save_rows(session, USERS, columns, {"discoverable": True}, complete=_filled)
    sounds = get_or_create_ids(session, SOUNDS, list_members(users, "liked_sounds"))
    hashtags = get_or_create_ids(session, HASHTAGS, list_members(users, "interests"))
    show_videos(session, _changed_discoverable(saved))
    changed = replace_links(session, USER_HASHTAGS, saved, users, "interests", hashtags)
    changed |= replace_links(session, USER_SOUNDS, saved, users, "liked_sounds", sounds)
    return saved.counts(changed)


def _user_columns(row: Row) -> dict[str, Any]:
    if FILLS in row:
        return dict(row)
    columns = select_columns(row, USER_SCALARS) | {"on_sight": False}
    if columns.get("discoverable", True) is None:
        columns["discoverable"] = True
    return columns


def _changed_discoverable(saved: SavedRows) -> dict[int, bool]:
    """Return whether users are discoverable, by the ids of the users for whom it changed."""
    after = {key: bool(saved.after[key]["discoverable"]) for key in saved.before}
    return {
        saved.ids[key]: is_now
        for key, is_now in after.items()
        if saved.before[key]["discoverable"] != is_now
    }


def _know(session: Session, user_ids: Iterable[int]) -> None:
    """Note that users exist by more than a follow of them: an erasure keeps their keys."""
    if keys := [(row_id,) for row_id in sorted(user_ids)]:
        statement = _clear_on_sight(lookup.is_sqlite(session))
        lookup.run(session, statement, lookup.listed_values(session, 1, keys))


@cache
def _clear_on_sight(on_sqlite: bool) -> sa.Update:  # noqa: FBT001 - cached by it
    """Build the UPDATE of listed users that were created on sight."""
    listed = sa.select(lookup.listed(on_sqlite, (USERS.c.id,)).c.id)
    known = sa.update(USERS).where(USERS.c.id.in_(listed), USERS.c.on_sight)
    return known.values(on_sight=sa.false())


def user_id(
    session: Session,
    user: AnyKey,
    *,
    name: str = "user",
    lock: bool = False,
    key_share: bool = False,
) -> int:
    """Return the id of a user.

    Args:
        session: the caller's transaction.
        user: the user's key, or the key of a user who was merged into them.
        name: what errors call the user, such as ``creator``.
        lock: make other writes of the user and an erasure wait until the transaction has ended.
        key_share: make only an erasure wait.

    Raises:
        InvalidValue: the key is not valid.
        UnknownUser: there is no such user.
    """
    key = scalars.parse_named(name, scalars.key, user)
    read = [USERS.c.id, USERS.c.on_sight]
    rows = aliases.find_users(session, [key], read, lock=lock, key_share=key_share)
    if not rows:
        check_first_rows(session)
        raise UnknownUser(f"there is no {name} {scalars.shown(user)}")
    _, row_id, on_sight = rows[0]
    if lock and on_sight:
        _know(session, [row_id])
    return int(row_id)


class LockedUser(NamedTuple):
    """A locked row of users, with the key that was asked for, which may be an alias.

    Learning only counts actions after `learned_since`.
    """

    key: str
    id: int
    learned_since: datetime | None
    discoverable: bool


_LOCKED = (*(USERS.c[name] for name in LockedUser._fields[1:]), USERS.c.on_sight)


def lock_users(session: Session, users: Iterable[str]) -> list[LockedUser]:
    """Lock existing users, so that their other writes, a reset, a merge and an erasure wait.

    Every transaction must lock users before it writes anything else.

    Args:
        session: the caller's transaction.
        users: keys.
    """
    return _locked(session, aliases.find_users(session, users, _LOCKED, lock=True))


def lock_user_rows(session: Session, users: Iterable[int]) -> list[LockedUser]:
    """Lock users by their ids, as `lock_users` does; the row of an alias is locked itself."""
    if not (keys := [(user,) for user in dict.fromkeys(users)]):
        return []
    read = [USERS.c.key, *_LOCKED]
    return _locked(session, aliases.find_locked(session, USERS.c.id, keys, read))


def _locked(session: Session, rows: Iterable[Sequence[Any]]) -> list[LockedUser]:
    """Return locked rows of a key and `_LOCKED`, as users."""
    users = [(LockedUser(*row[:-1]), row[-1]) for row in rows]
    _know(session, {user.id for user, on_sight in users if on_sight})
    return [user for user, _ in users]


def locked_ids(session: Session, rows: Iterable[Row], known: Container[str] = ()) -> dict[str, int]:
    """Lock the users of rows, and return their ids by key; not of users who are known."""
    keys = (str(row["user"]) for row in rows if row["user"] not in known)
    return {user.key: user.id for user in lock_users(session, keys)}


def accepted(
    rows: Sequence[Row], users: Iterable[str], named: Callable[[Row], str | None]
) -> tuple[dict[int, Row], dict[int, RecommenderError]]:
    """Return the rows whose user exists, and the errors of the others, by their places.

    A user exists in the database, or because an earlier row named them. So the outcome does not
    depend on how rows are grouped.

    Args:
        rows: mappings with a `user`.
        users: the keys of the users in the database.
        named: returns the user whom a row names and creates, if any; or raises the row's error.
    """
    existing, good, rejected = {*users}, {}, {}
    for place, row in enumerate(rows):
        try:
            if row["user"] not in existing:
                raise UnknownUser(f"user: there is no user {scalars.shown(row['user'])}")
            if creates := named(row):
                existing.add(creates)
        except RecommenderError as error:
            rejected[place] = error
        else:
            good[place] = row
    return good, rejected


def of_two(
    pairs: Mapping[int, Pair], rejected: dict[int, RecommenderError], reason: str
) -> dict[int, Pair]:
    """Return the pairs of two users, by the places of their rows; reject a pair of one user.

    The ids are compared when the users are locked, because two keys can become one user before.

    Args:
        pairs: the ids of locked users.
        rejected: gets an error with the reason for each other pair.
        reason: the message of these errors.
    """
    rejected |= {
        place: InvalidValue(reason) for place, (one, other) in pairs.items() if one == other
    }
    return {place: pair for place, pair in pairs.items() if place not in rejected}
