"""ingest.upserts: TODO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.lookup import ids, key_column
from recommender.ingest.values import Counts
from recommender.models.tables import USERS

Row = Mapping[str, object]

USER_SCALARS = ("language", "country", "device", "created_at")

VIDEO_SCALARS = (
    "creator_id", "sound_id", "language", "country", "duration_ms", "orientation", "status",
    "published_at",
)  # fmt: skip


def ensure(session: Session, table: Table, names: Iterable[str]) -> dict[str, int]:
    """The ids of keys (of hashtags: names), created on sight in the order given.

    The erasure of a user among them waits until the transaction has ended.
    """
    wanted = list(dict.fromkeys(names))
    hold = table is USERS
    found = ids(session, table, wanted, hold=hold)
    found |= _insert_new(session, table, {name: {} for name in wanted if name not in found})
    return found | ids(session, table, [name for name in wanted if name not in found], hold=hold)


def merged(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for row in rows:
        merged.setdefault(str(row["id"]), {}).update(row)
    return merged


def only(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def members(given: Mapping[str, Mapping[str, Any]], column: str) -> Iterator[str]:
    return (member for row in given.values() for member in row.get(column, ()))


def learned_since_of(
    session: Session, column: sa.Column[Any], users: Iterable[object]
) -> dict[int, datetime | None]:
    """Since when what users do counts, by their ids; their rows are locked, so that a reset waits.

    Before everything else, since users are the first to be written in every transaction.
    """
    wanted = [(user,) for user in users]
    if not wanted:
        return {}
    read = [USERS.c.id, USERS.c.learned_since]
    return {
        row.id: row.learned_since for row in lookup.find(session, [column], wanted, read, lock=True)
    }


@dataclass(frozen=True, slots=True)
class Saved:
    """Rows after `save`: their ids, their scalars before and after, and what changed.

    No other transaction knows yet of the ids of those that are new.
    """

    ids: Mapping[str, int]
    new: frozenset[int]
    before: Mapping[str, Mapping[str, Any]]
    after: Mapping[str, Mapping[str, Any]]

    def counts(self, owners: set[int]) -> Counts:
        """The counts, where these rows also changed in other tables."""
        changed = {key for key in self.before if self.before[key] != self.after[key]}
        changed |= {key for key in self.before if self.ids[key] in owners}
        inserted = len(self.after) - len(self.before)
        return Counts(inserted, len(changed), len(self.before) - len(changed))


def save(session: Session, table: Table, rows: Mapping[str, Row], defaults: Row) -> Saved:
    """Insert or update rows of a catalogue table by key; only the columns given change."""
    names = USER_SCALARS if table is USERS else VIDEO_SCALARS
    empty = {**dict.fromkeys(names), **defaults}
    found = _locked(session, table, list(rows), names)
    new = {key: {**empty, **row} for key, row in rows.items() if key not in found}
    inserted = _insert_new(session, table, new)
    found |= _locked(session, table, [key for key in new if key not in inserted], names)
    row_ids = inserted | {key: row_id for key, (row_id, _) in found.items()}
    before = {key: row for key, (_, row) in found.items()}
    after = {key: {**before.get(key, empty), **row} for key, row in rows.items()}
    for given in dict.fromkeys(tuple(row) for row in rows.values()):
        changed = sorted(k for k in before if tuple(rows[k]) == given and before[k] != after[k])
        written = [{"id": row_ids[k], "key": k, **after[k]} for k in changed]
        merge = dict.fromkeys(given, bulk.replace)
        bulk.insert(session, table, written, conflict=["key"], merge=merge)
    return Saved(row_ids, frozenset(inserted.values()), before, after)


def _insert_new(session: Session, table: Table, rows: Mapping[str, Row]) -> dict[str, int]:
    """Insert rows by key; the ids of those that no other transaction inserted meanwhile."""
    if not rows:
        return {}
    column = key_column(table)
    reserved = dict(zip(rows, bulk.reserve_ids(session, table, len(rows)), strict=True))
    written = [{"id": reserved[key], column: key, **rows[key]} for key in sorted(rows)]
    if bulk.insert(session, table, written, conflict=[column]) == len(rows):
        return reserved
    there = ids(session, table, rows)
    return {key: row_id for key, row_id in there.items() if row_id == reserved[key]}


def _locked(
    session: Session, table: Table, keys: Sequence[str], names: Sequence[str]
) -> dict[str, tuple[int, dict[str, Any]]]:
    if not keys:
        return {}
    columns = [table.c[name] for name in names]
    wanted = [(key,) for key in keys]
    read = [table.c.key, table.c.id, *columns]
    return {
        row.key: (row.id, {name: getattr(row, name) for name in names})
        for row in lookup.find(session, [table.c.key], wanted, read, lock=True)
    }


def replace_links(
    session: Session,
    table: Table,
    saved: Saved,
    given: Mapping[str, Mapping[str, Any]],
    column: str,
    member_ids: Mapping[str, int],
) -> set[int]:
    owners = {saved.ids[key]: row[column] for key, row in given.items() if column in row}
    wanted = [(owner, member_ids[each]) for owner, members in owners.items() for each in members]
    return bulk.synchronise(session, table, links_of(session, table, owners), wanted)


def links_of(session: Session, table: Table, owners: Iterable[int]) -> list[lookup.Values]:
    """The rows of a table whose first column, their owner, is one of the owners."""
    wanted = [(owner,) for owner in owners]
    if not wanted:
        return []
    columns = list(table.c)
    return [tuple(row) for row in lookup.find(session, columns[:1], wanted, columns)]
