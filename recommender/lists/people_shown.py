"""The record of who was suggested to a user, and on how many days."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, literal
from sqlalchemy.dialects import postgresql, sqlite

from recommender.database import lookup
from recommender.database.session import Session
from recommender.lists.people_ranking import counted_since, day_of
from recommender.models.tables import SUGGESTIONS, USERS
from recommender.models.types import UtcDateTime
from recommender.ranking.request import FeedRequest


def record_shown(session: Session, request: FeedRequest, creators: Sequence[int]) -> None:
    """Count that creators were shown to a user, whose row is locked: one statement.

    A creator counts once a day. The count begins again if the last time is forgotten, see
    `Settings.suggestion_memory`.

    Args:
        session: the caller's transaction.
        request: the request of the page.
        creators: the row ids of the creators.
    """
    if not creators:
        return
    values = {
        "user_id": request.user_id,
        "shown_at": request.as_of,
        "day": day_of(request.as_of),
        "counted_since": counted_since(request),
    }
    keys = [(creator,) for creator in creators]
    if lookup.is_distributed(session):
        # Citus takes no INSERT of locked rows.
        found = lookup.find(session, [USERS.c.id], keys, list(USERS.c), key_share=True)
        kept = (row.id for row in found if row.erased_at is None and row.merged_into is None)
        rows = [{**values, "creator_id": creator} for creator in sorted(kept)]
        if rows:
            lookup.connection(session).execute(_record_listed(), rows)
        return
    listed = lookup.listed_values(session, 1, keys)
    lookup.run(session, _record(lookup.is_sqlite(session)), {**values, **listed})


@cache
def _record(on_sqlite: bool) -> Any:  # noqa: FBT001 - the cache key
    """Build the INSERT of the listed creators who still exist."""
    shown_at = sa.bindparam("shown_at", type_=UtcDateTime())
    owner = sa.bindparam("user_id", type_=BigInteger())
    listed = lookup.listed(on_sqlite, (USERS.c.id,))
    is_there = USERS.c.erased_at.is_(None), USERS.c.merged_into.is_(None)
    creators = (
        sa.select(owner, USERS.c.id, literal(1, BigInteger()), shown_at)
        .join(listed, listed.c.id == USERS.c.id)
        .where(*is_there)
        .order_by(USERS.c.key)
        # An erasure or a merge of a creator waits; one that came first leaves nothing to record.
        .with_for_update(read=True, key_share=True, of=USERS)
    )
    insert = (sqlite.insert if on_sqlite else postgresql.insert)(SUGGESTIONS)
    return _counted(insert.from_select(["user_id", "creator_id", "shown", "shown_at"], creators))


@cache
def _record_listed() -> Any:
    """Build the INSERT of one creator on Citus."""
    names = ("user_id", "creator_id", "shown_at")
    row = {name: sa.bindparam(name, type_=SUGGESTIONS.c[name].type) for name in names}
    return _counted(postgresql.insert(SUGGESTIONS).values({**row, "shown": 1}))


def _counted(new: Any) -> Any:
    """Return an INSERT that counts a creator who was shown before, at most once a day."""
    day, since = (sa.bindparam(name, type_=UtcDateTime()) for name in ("day", "counted_since"))
    row = SUGGESTIONS.c
    days = sa.case((row.shown_at > since, row.shown + 1), else_=1)
    return new.on_conflict_do_update(
        index_elements=[row.user_id, row.creator_id],
        set_={"shown": days, "shown_at": new.excluded.shown_at},
        where=row.shown_at < day,
    )
