"""Inserts and updates by key, which users and videos share.

Rows are mappings with the columns of the interchange format. An absent column keeps its value, None
clears it, and a list replaces the stored list. Transactions write tables in one order, so they
cannot deadlock: users, sounds, hashtags, videos, then the tables of one user.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table

from recommender.database import aliases, bulk, lookup
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import UnknownVideo
from recommender.formats import scalars
from recommender.ingest.values import Counts
from recommender.models.tables import LEARNING_STATE, USERS

Row = Mapping[str, object]

RowsByKey = Mapping[str, Mapping[str, Any]]
"""Parsed rows by the key of their user or video."""

PROFILE = ("language", "country", "device", "created_at")
"""The columns of users that a merge fills, if they are empty."""

USER_SCALARS = (*PROFILE, "on_sight", "discoverable")
"""The columns of users that an upsert writes; lists are in tables of their own."""

CREATION_LOCK = 7_260_734_900_000_000
"""The number of PostgreSQL's advisory lock, to which the number of a table is added.

So every schema has a lock of its own.
"""

VIDEO_SCALARS = (
    "creator_id", "sound_id", "language", "country", "duration_ms", "orientation", "status",
    "published_at", "format", "visibility",
)  # fmt: skip
"""The columns of videos that an upsert writes; lists are in tables of their own."""


def get_or_create_ids(
    session: Session, table: Table, keys: Iterable[str], columns: Row | None = None
) -> dict[str, int]:
    """Return the ids of keys, and create the missing rows in the order given.

    The erasure of these users waits until the transaction has ended.

    Args:
        session: the caller's transaction.
        table: users, sounds or hashtags.
        keys: keys of users or sounds, or names of hashtags.
        columns: the values of further columns in new rows.
    """
    unique = list(dict.fromkeys(keys))
    hold = table is USERS
    ids = _ids(session, table, unique)
    missing = [key for key in unique if key not in ids]
    if not missing:
        return ids
    if not hold:
        _lock_creation(session)
    ids |= _insert_missing(session, table, dict.fromkeys(missing, columns or {}))
    # Another transaction may have inserted the others meanwhile.
    return ids | _ids(session, table, [key for key in missing if key not in ids])


def _ids(session: Session, table: Table, keys: Sequence[str]) -> dict[str, int]:
    """Return the ids of existing rows by key; an erasure of users waits."""
    if table is USERS:
        return aliases.user_ids(session, keys, key_share=True)
    return lookup.ids(session, table, keys)


def _lock_creation(session: Session) -> None:
    """Let other transactions that create hashtags or sounds wait until this one has ended."""
    # A transaction that inserts a name waits for another one that has inserted it. Two that create
    # the same names in different orders would wait for each other.
    if not lookup.is_sqlite(session):
        schema = sa.cast(sa.literal_column("tableoid"), sa.BigInteger)
        lock = sa.func.pg_advisory_xact_lock(CREATION_LOCK + schema)
        lookup.run(session, sa.select(lock).select_from(LEARNING_STATE))


def split_rounds(rows: Iterable[Row]) -> tuple[list[dict[str, Row]], int]:
    """Split rows into rounds, in each of which an id stands once.

    Written round by round, rows of one id have the same effect, and the same counts, as in separate
    calls. A row that equals the row of its id before it changes nothing and is in no round.

    Returns:
        The rows by id in every round, in the order given, and the number of rows in no round.
    """
    rounds: list[dict[str, Row]] = []
    latest: dict[str, int] = {}
    left_out = 0
    for row in rows:
        key = str(row["id"])
        number = latest.get(key, -1)
        if number >= 0 and rounds[number][key] == row:
            left_out += 1
            continue
        if number + 1 == len(rounds):
            rounds.append({})
        latest[key] = number + 1
        rounds[number + 1][key] = row
    return rounds, left_out


def select_columns(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """Return the named columns that a row has."""
    return {name: row[name] for name in names if name in row}


def list_members(rows: RowsByKey, column: str) -> Iterator[str]:
    """Return the members of a list column in all rows."""
    return (member for row in rows.values() for member in row.get(column, ()))


@dataclass(frozen=True, slots=True)
class SavedRows:
    """Rows of users or videos after `save_rows`, by key.

    `new` are the ids of inserted rows, which no other transaction can see yet. `before` and `after`
    are the scalar columns; inserted rows are not in `before`.
    """

    ids: Mapping[str, int]
    new: frozenset[int]
    before: Mapping[str, Mapping[str, Any]]
    after: Mapping[str, Mapping[str, Any]]

    def counts(self, changed_elsewhere: set[int]) -> Counts:
        """Return the counts of a write.

        Args:
            changed_elsewhere: the ids of rows whose lists or captions changed.
        """
        changed = {key for key in self.before if self.before[key] != self.after[key]}
        changed |= {key for key in self.before if self.ids[key] in changed_elsewhere}
        inserted = len(self.after) - len(self.before)
        return Counts(inserted, len(changed), len(self.before) - len(changed))


def _as_given(_stored: Row, given: Row) -> Row:
    return given


def save_rows(
    session: Session,
    table: Table,
    rows: Mapping[str, Row],
    defaults: Row,
    *,
    must_exist: Container[str] = (),
    complete: Callable[[Row, Row], Row] = _as_given,
) -> SavedRows:
    """Insert or update users or videos by key; only the columns in `rows` change.

    Args:
        session: the caller's transaction.
        table: users or videos.
        rows: scalar columns by key.
        defaults: values of absent columns in new rows; None for others.
        must_exist: the keys of rows that may not be new.
        complete: returns the columns to write, from the stored columns and the given ones.

    Raises:
        UnknownVideo: a video that must exist was erased since it was looked up.
    """
    names = USER_SCALARS if table is USERS else VIDEO_SCALARS
    empty = {**dict.fromkeys(names), **defaults}
    existing = _lock_rows(session, table, list(rows), names)
    new = {
        key: {**empty, **complete(empty, row)} for key, row in rows.items() if key not in existing
    }
    if new and not existing:
        check_first_rows(session)
    if erased := [key for key in new if key in must_exist]:
        raise UnknownVideo(f"there is no video {scalars.shown(erased[0])}")
    inserted = _insert_missing(session, table, new)
    existing |= _lock_rows(session, table, [key for key in new if key not in inserted], names)
    row_ids = inserted | {key: row_id for key, (row_id, _) in existing.items()}
    before = {key: row for key, (_, row) in existing.items()}
    rows = {key: complete(before.get(key, empty), row) for key, row in rows.items()}
    after = {key: {**before.get(key, empty), **row} for key, row in rows.items()}
    # Rows with the same columns are written together, since an UPDATE names its columns.
    for columns in dict.fromkeys(tuple(row) for row in rows.values()):
        changed = sorted(k for k in before if tuple(rows[k]) == columns and before[k] != after[k])
        written = [{"id": row_ids[k], "key": k, **after[k]} for k in changed]
        merge = dict.fromkeys(columns, bulk.replace)
        bulk.insert(session, table, written, conflict=["key"], merge=merge)
    return SavedRows(row_ids, frozenset(inserted.values()), before, after)


def _insert_missing(session: Session, table: Table, rows: Mapping[str, Row]) -> dict[str, int]:
    """Insert rows by key; return the ids of rows that no other transaction inserted first."""
    if not rows:
        return {}
    column = lookup.key_column(table)
    reserved = dict(zip(rows, lookup.reserve_ids(session, table, len(rows)), strict=True))
    written = [{"id": reserved[key], column: key, **rows[key]} for key in sorted(rows)]
    if bulk.insert(session, table, written, conflict=[column]) == len(rows):
        return reserved
    current = lookup.ids(session, table, rows)
    return {key: row_id for key, row_id in current.items() if row_id == reserved[key]}


def _lock_rows(
    session: Session, table: Table, keys: Sequence[str], names: Sequence[str]
) -> dict[str, tuple[int, dict[str, Any]]]:
    """Lock existing rows; return their ids and the named columns, by key."""
    if not keys:
        return {}
    read = [table.c.key, table.c.id, *(table.c[name] for name in names)]
    return {
        row.key: (row.id, {name: getattr(row, name) for name in names})
        for row in lookup.find(session, [table.c.key], [(key,) for key in keys], read, lock=True)
    }


def replace_links(
    session: Session,
    table: Table,
    saved: SavedRows,
    rows: RowsByKey,
    column: str,
    member_ids: Mapping[str, int],
) -> set[int]:
    """Replace the stored lists of one column; return the ids of the owners that changed.

    Args:
        session: the caller's transaction.
        table: the table of pairs of an owner and a member.
        saved: the owners.
        rows: the rows; those without the column keep their list.
        column: the name of the list column.
        member_ids: the ids of all members.
    """
    lists = {saved.ids[key]: row[column] for key, row in rows.items() if column in row}
    links = [(owner, member_ids[member]) for owner, members in lists.items() for member in members]
    return bulk.synchronise(session, table, read_links(session, table, lists), links)


def read_links(session: Session, table: Table, owners: Iterable[int]) -> list[lookup.Values]:
    """Return the rows of a table whose first column is one of the owners' ids."""
    keys = [(owner,) for owner in owners]
    if not keys:
        return []
    columns = list(table.c)
    return [tuple(row) for row in lookup.find(session, columns[:1], keys, columns)]
