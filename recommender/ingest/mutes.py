"""What a user does not want to see: creators, hashtags, sounds, and words of captions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.lookup import ids
from recommender.errors import InvalidValue
from recommender.formats import scalars, text
from recommender.ingest.upserts import get_or_create_ids
from recommender.ingest.users import user_id
from recommender.models import MutedCreator, MutedHashtag, MutedKeyword, MutedSound
from recommender.models.tables import HASHTAGS, SOUNDS, USERS

KEYWORD_LENGTH = 253


def keyword(value: object) -> str:
    """The words that a caption must have one after another, as `text.words` writes them."""
    kept = text.words(scalars.text(value, text.CAPTION_LENGTH))
    if not kept:
        raise InvalidValue(f"{scalars.shown(value)} has no letter and no digit")
    if text.letter_count(kept) < 2:
        raise InvalidValue(f"{scalars.shown(value)} has fewer than two letters or digits")
    if len(kept.strip()) > KEYWORD_LENGTH:
        raise InvalidValue(f"{scalars.shown(value)} is longer than {KEYWORD_LENGTH} characters")
    return kept


KINDS: dict[str, tuple[Any, Table | None, Callable[[object], str]]] = {
    "creator": (MutedCreator.__table__, USERS, scalars.key),
    "hashtag": (MutedHashtag.__table__, HASHTAGS, text.hashtag),
    "sound": (MutedSound.__table__, SOUNDS, scalars.listed_key),
    "keyword": (MutedKeyword.__table__, None, keyword),
}
"""Of each kind the table, the table of what is muted where it is a row, and how it is read."""


def mute(session: Session, user: str, kind: str, value: str, *, at: datetime | None = None) -> bool:
    """Keep a creator, a hashtag, a sound or words of captions out of a user's feeds.

    A creator, hashtag or sound that is not known yet is created on sight. A creator's sounds are
    muted with them, where the host says whose they are (`Sound.creator`). Words match in any case,
    and select_columns whole, one after another.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        kind: ``creator``, ``hashtag``, ``sound`` or ``keyword``.
        value: the creator's or sound's key, the hashtag, or the words: at least two letters or
            digits, at most 253 characters.
        at: since when, with an offset; now where None. It changes no feed, select_columns what an audit
            holds against a page that was served before.

    Returns:
        Whether it was not muted before.

    Raises:
        InvalidValue: the kind or the value is not of its form, or the user themselves.
        UnknownUser: there is no such user.
    """
    table, catalogue, member = _parsed(kind, value)
    muter = user_id(session, user, hold=True)
    if kind == "creator" and member == user:
        raise InvalidValue("creator: a user cannot mute themselves")
    muted = member if catalogue is None else get_or_create_ids(session, catalogue, [member])[member]
    muted_at = scalars.now() if at is None else scalars.time(at)
    names = [*table.primary_key.columns.keys(), "muted_at"]
    row = dict(zip(names, zip((muter, muted, muted_at)), strict=True))
    columns = list(table.primary_key)
    if lookup.find(session, columns, [(muter, muted)], columns):
        return False
    return bool(bulk.insert_new(session, table, row))


def unmute(session: Session, user: str, kind: str, value: str) -> bool:
    """Let a user see again what `mute` kept out.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        kind: ``creator``, ``hashtag``, ``sound`` or ``keyword``.
        value: as it was muted, in any spelling that `mute` reads as the same.

    Returns:
        Whether it was muted before.

    Raises:
        InvalidValue: the kind or the value is not of its form.
        UnknownUser: there is no such user.
    """
    table, catalogue, member = _parsed(kind, value)
    muter = user_id(session, user)
    muted = member if catalogue is None else ids(session, catalogue, [member]).get(member)
    owner, what = table.primary_key
    gone = sa.delete(table).where(owner == muter, what == muted)
    result: Any = lookup.run(session, gone)
    return bool(result.rowcount)


def _parsed(kind: str, value: object) -> tuple[Table, Table | None, str]:
    if kind not in KINDS:
        raise InvalidValue(f"kind: {scalars.shown(kind)} is not one of {', '.join(KINDS)}")
    table, catalogue, parse = KINDS[kind]
    return table, catalogue, scalars.parse_named(kind, parse, value)
