"""Move a guest's sessions with their places, served videos, and candidates to the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Table

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.models.tables import OUTSIDE_CANDIDATES, REMEMBERED, SERVED, SESSIONS
from recommender.operations.merge_history import (
    MAX_MOVED_ROWS,
    Guest,
    Moved,
    Row,
    lock_target,
    rows_of,
)


def move_remembered(guest: Guest, session: Session, _state: Any) -> Moved:
    """Move a batch of what is known of served videos."""
    user = lock_target(session, guest)
    own = sa.select(REMEMBERED).where(REMEMBERED.c.user_id == guest.id)
    return _remember(session, rows_of(session, own.limit(MAX_MOVED_ROWS)), user.id)


def _remember(session: Session, rows: Sequence[Row], target: int) -> Moved:
    """Move rows of served videos: attempts add up, the later session counts."""
    return _move_rows(session, REMEMBERED, rows, target, _served_to_both)


def _move_rows(
    session: Session,
    table: Table,
    rows: Sequence[Row],
    target: int,
    unite: Callable[[Row, Row], Row],
) -> Moved:
    """Move rows to the user; `unite` returns one row for two that both have of one thing."""
    if not rows:
        return Moved()
    key, names = list(table.primary_key), table.primary_key.columns.keys()[1:]
    things = [tuple(row[name] for name in names) for row in rows]
    found = lookup.find(session, key, [(target, *thing) for thing in things], list(table.c))
    existing = {tuple(row[1 : len(key)]): dict(row._mapping) for row in found}  # noqa: SLF001
    united = [
        unite(row, existing[thing]) if thing in existing else row
        for row, thing in zip(rows, things, strict=True)
    ]
    changes = {column.name: bulk.replace for column in table.c if not column.primary_key}
    moved = [{**row, "user_id": target} for row in united]
    bulk.insert(session, table, moved, merge=changes)
    bulk.delete(session, table, [tuple(row[column.name] for column in key) for row in rows])
    return Moved({table.name: len(rows)})


def _served_to_both(row: Row, other: Row) -> Row:
    latest = max(row, other, key=lambda served: served["last_at"])
    attempts = row["attempts"] + other["attempts"]
    return {**latest, "attempts": attempts, "seen": row["seen"] or other["seen"]}


def move_candidates(guest: Guest, session: Session, _state: Any) -> Moved:
    """Move a batch of the guest's candidates from outside."""
    user = lock_target(session, guest)
    own = sa.select(OUTSIDE_CANDIDATES).where(OUTSIDE_CANDIDATES.c.user_id == guest.id)
    ordered = own.order_by(*OUTSIDE_CANDIDATES.primary_key).limit(MAX_MOVED_ROWS)
    rows = rows_of(session, ordered)
    return _move_rows(session, OUTSIDE_CANDIDATES, rows, user.id, _expires_last)


def _expires_last(row: Row, own: Row) -> Row:
    """Return the candidate that expires last, the user's own if both expire together."""
    ends, own_ends = row["expires_at"], own["expires_at"]
    if own_ends is None:
        return own
    return row if ends is None or ends > own_ends else own


def move_sessions(guest: Guest, session: Session, _state: Any) -> Moved:
    """Move the guest's next sessions, as many as have few places together, but one at least."""
    user = lock_target(session, guest)
    own = sa.select(SESSIONS).where(SESSIONS.c.user_id == guest.id).order_by(SESSIONS.c.session)
    rows = lookup.run(session, own.limit(MAX_MOVED_ROWS // 10)).all()
    batch: list[UUID] = []
    left = MAX_MOVED_ROWS
    for row in rows:
        left -= row.next_position
        if batch and left < 0:
            break
        batch.append(row.session)
    return take_sessions(session, guest, user.id, own.where(SESSIONS.c.session.in_(batch)))


def take_sessions(session: Session, guest: Any, target: int, sessions: Any) -> Moved:
    """Move sessions with their places and with what is known of the videos served in them."""
    rows = rows_of(session, sessions)
    if not rows:
        return Moved()
    ids = _new_ids(session, guest, target, [row["session"] for row in rows])
    moved = Moved({SESSIONS.name: len(rows)})
    of_guest = {table: table.c.user_id == guest.id for table in (SERVED, REMEMBERED)}
    taken: dict[Table, list[Row]] = {SESSIONS: rows}
    for table, is_guests in of_guest.items():
        found = sa.select(table).where(is_guests, table.c.session.in_(list(ids)))
        taken[table] = rows_of(session, found.order_by(*table.primary_key))
    for table in (SESSIONS, SERVED):
        changed = [{**r, "user_id": target, "session": ids[r["session"]]} for r in taken[table]]
        key = table.primary_key.columns.keys()
        ordered = sorted(changed, key=lambda r: tuple(r[name] for name in key))
        bulk.insert(session, table, ordered, conflict=None)
    for table in (SERVED, SESSIONS):
        key = table.primary_key.columns.keys()
        is_taken = table.c.user_id == guest.id, table.c.session.in_(list(ids))
        lookup.run(session, sa.delete(table).where(*is_taken))
    moved[SERVED.name] = len(taken[SERVED])
    remembered = [{**row, "session": ids[row["session"]]} for row in taken[REMEMBERED]]
    return moved + _remember(session, remembered, target)


def _new_ids(session: Session, guest: Any, target: int, own: Sequence[UUID]) -> dict[UUID, UUID]:
    """Return the ids of sessions after the move: other ones if the user has the same."""
    is_used = SESSIONS.c.user_id == target, SESSIONS.c.session.in_(own)
    used = set(lookup.run(session, sa.select(SESSIONS.c.session).where(*is_used)).scalars())
    return {old: _derived_id(old, guest.key) if old in used else old for old in own}


def _derived_id(session: UUID, guest: str) -> UUID:
    return UUID(bytes=blake2b(session.bytes + guest.encode(), digest_size=16).digest())
