"""Dismissals: creators whom a user does not want to be suggested to follow."""

from __future__ import annotations

import sqlalchemy as sa

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.ingest.users import user_id
from recommender.models.tables import SUGGESTIONS
from recommender.telemetry import traced


@traced
def dismiss(session: Session, user: AnyKey, creator: AnyKey) -> bool:
    """Keep a creator out of a user's lists of people to follow, for good.

    The creator's videos stay in the user's feeds: `mute` and `block` hide them. A second call
    changes nothing.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        creator: the creator's key; users and creators share one set of keys.

    Returns:
        True if the dismissal is new.

    Raises:
        UnknownUser: there is no such user, or no such creator.
        InvalidValue: a key is not valid, or both keys are of one user.
    """
    owner = user_id(session, user, lock=True)
    dismissed = user_id(session, creator, name="creator", key_share=True)
    if owner == dismissed:
        raise InvalidValue("creator: a user cannot dismiss themselves")
    row: bulk.Columns = {
        "user_id": [owner], "creator_id": [dismissed], "dismissed_at": [scalars.now()]
    }  # fmt: skip
    if _is_dismissed(session, owner, dismissed):
        return False
    return bool(bulk.insert_columns(session, SUGGESTIONS, row, merge={"dismissed_at": bulk.least}))


def _is_dismissed(session: Session, owner: int, creator_id: int) -> bool:
    row = SUGGESTIONS.c
    is_it = row.user_id == owner, row.creator_id == creator_id, row.dismissed_at.is_not(None)
    return lookup.run(session, sa.select(row.creator_id).where(*is_it)).first() is not None
