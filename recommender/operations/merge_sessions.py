"""Move a guest's sessions, their places, and what is known of served videos to the user."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Table

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.models.tables import REMEMBERED, SERVED, SESSIONS
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
    if not rows:
        return Moved()
    key = list(REMEMBERED.primary_key)
    wanted = [(target, row["memory"], row["video_id"]) for row in rows]
    found = lookup.find(session, key, wanted, list(REMEMBERED.c))
    existing = {tuple(row[1:3]): dict(row._mapping) for row in found}  # noqa: SLF001 - its API
    merged = [_served_to_both(row, existing.get((row["memory"], row["video_id"]))) for row in rows]
    written = [{**row, "user_id": target} for row in merged]
    changes = dict.fromkeys(("session", "last_at", "attempts", "seen"), bulk.replace)
    bulk.insert(session, REMEMBERED, written, merge=changes)
    bulk.delete(session, REMEMBERED, [tuple(row[c.name] for c in key) for row in rows])
    return Moved({REMEMBERED.name: len(rows)})


def _served_to_both(row: Row, other: Row | None) -> Row:
    if other is None:
        return row
    latest = max(row, other, key=lambda served: served["last_at"])
    attempts = row["attempts"] + other["attempts"]
    return {**latest, "attempts": attempts, "seen": row["seen"] or other["seen"]}


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
        bulk.insert(session, table, sorted(changed, key=lambda r: tuple(r[name] for name in key)))
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
