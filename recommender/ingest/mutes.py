"""Mutes: creators, hashtags, sounds and words of captions that a user does not want to see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table

from recommender.database import aliases, bulk, lookup
from recommender.database.session import Session
from recommender.errors import InvalidValue, NotFound
from recommender.formats import scalars, text
from recommender.formats.scalars import AnyKey, MuteKind
from recommender.ingest.upserts import Row, get_or_create_ids
from recommender.ingest.users import accepted, locked_ids, of_two, user_id
from recommender.ingest.values import Counts
from recommender.models import MutedCreator, MutedHashtag, MutedKeyword, MutedSound
from recommender.models.tables import HASHTAGS, SOUNDS, USERS
from recommender.telemetry import traced

_OF_ONESELF = "{}: a user cannot mute themselves"

KEYWORD_LENGTH = 253
"""The largest number of characters of a muted keyword."""


def keyword(value: object) -> str:
    """Return a muted keyword as `text.words` writes it; a caption must have its words in sequence.

    Raises:
        InvalidValue: the keyword has fewer than two letters or digits, or is too long.
    """
    normalized = text.words(scalars.text(value, text.CAPTION_LENGTH))
    if not normalized:
        raise InvalidValue(f"{scalars.shown(value)} has no letter and no digit")
    if text.letter_count(normalized) < 2:
        raise InvalidValue(f"{scalars.shown(value)} has fewer than two letters or digits")
    if len(normalized.strip()) > KEYWORD_LENGTH:
        raise InvalidValue(f"{scalars.shown(value)} is longer than {KEYWORD_LENGTH} characters")
    return normalized


KINDS: dict[MuteKind, tuple[Any, Table | None, Callable[[object], str]]] = {
    "creator": (MutedCreator.__table__, USERS, scalars.key),
    "hashtag": (MutedHashtag.__table__, HASHTAGS, text.hashtag),
    "sound": (MutedSound.__table__, SOUNDS, scalars.listed_key),
    "keyword": (MutedKeyword.__table__, None, keyword),
}
"""The kinds of mutes: the table, the table of the muted rows, and the parser of a value.

Keywords have no rows of their own, so their second table is None.
"""


@traced
def mute(
    session: Session, user: AnyKey, kind: MuteKind, value: AnyKey, *, at: datetime | None = None
) -> bool:
    """Mute a creator, a hashtag, a sound or words of captions for a user.

    Muting a creator also mutes the sounds that the host assigned to them (`Sound.creator`). A
    hashtag or keyword may be new: later videos may have it. Keywords match whole words in sequence,
    in any case.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        kind: ``creator``, ``hashtag``, ``sound`` or ``keyword``.
        value: the creator's or sound's key, the hashtag, or the words: at least two letters or
            digits, at most 253 characters.
        at: when the mute began, with an offset; now if None. Only audits use it: pages that were
            served earlier do not break a promise.

    Returns:
        True if the mute is new.

    Raises:
        InvalidValue: the kind or the value is not valid, or is the user themselves.
        UnknownUser: there is no such user, or no such creator.
        NotFound: there is no such sound.
    """
    table, catalogue, member = _parsed(kind, value)
    muter = user_id(session, user, lock=True)
    muted = member if catalogue is None else _id_to_mute(session, catalogue, member)
    if kind == "creator" and muted == muter:
        raise InvalidValue(_OF_ONESELF.format("creator"))
    muted_at = scalars.now() if at is None else scalars.time(at)
    names = [*table.primary_key.columns.keys(), "muted_at"]
    row = dict(zip(names, zip((muter, muted, muted_at)), strict=True))
    columns = list(table.primary_key)
    if lookup.find(session, columns, [(muter, muted)], columns):
        return False
    return bool(bulk.insert_new(session, table, row))


def _id_to_mute(session: Session, catalogue: Table, member: str) -> int:
    """Return the id of what a user mutes; a hashtag is created if it is new."""
    if catalogue is USERS:
        return user_id(session, member, name="creator", key_share=True)
    if catalogue is HASHTAGS:
        return get_or_create_ids(session, catalogue, [member])[member]
    if (sound := lookup.ids(session, catalogue, [member]).get(member)) is None:
        raise NotFound(f"there is no sound {scalars.shown(member)}")
    return sound


@traced
def unmute(session: Session, user: AnyKey, kind: MuteKind, value: AnyKey) -> bool:
    """Remove a mute.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        kind: ``creator``, ``hashtag``, ``sound`` or ``keyword``.
        value: what was muted; other spellings that `mute` treats as equal work too.

    Returns:
        True if it was muted.

    Raises:
        InvalidValue: the kind or the value is not valid.
        UnknownUser: there is no such user.
    """
    table, catalogue, member = _parsed(kind, value)
    muter = user_id(session, user, lock=True)
    owner, subject = table.primary_key
    delete = sa.delete(table).where(owner == muter, _is_muted(subject, catalogue, member))
    return bool(lookup.run(session, delete).rowcount)


def _is_muted(
    subject: sa.Column[Any], catalogue: Table | None, member: str
) -> sa.ColumnElement[bool]:
    """Return the condition that a mute is of a member, by any of a creator's ids."""
    if catalogue is None:
        return subject == member
    if catalogue is USERS:
        return subject.in_(aliases.all_ids(aliases.id_of(member)))
    key = catalogue.c[lookup.key_column(catalogue)]
    return subject.in_(sa.select(catalogue.c.id).where(key == member))


def apply_mutes(session: Session, rows: Sequence[Row]) -> Counts:
    """Write mute rows, and create missing creators, hashtags and sounds.

    Rows with an unknown user or with a wrong value are left out and reported.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `user`, `kind`, `value` and optionally `at`, as `rows.parse_row` returns.
    """
    muters = locked_ids(session, rows)
    known, rejected = accepted(rows, muters, _muted_creator)
    by_kind: dict[MuteKind, dict[int, str]] = {kind: {} for kind in KINDS}
    for place, row in known.items():
        kind, member = _member(row)
        by_kind[kind][place] = member
    named = {kind: _created(session, kind, muted.values()) for kind, muted in by_kind.items()}
    muters |= locked_ids(session, known.values(), muters)
    counts = Counts()
    for kind, muted in by_kind.items():
        pairs: dict[int, Any] = {
            place: (muters[str(known[place]["user"])], named[kind].get(member, member))
            for place, member in muted.items()
        }
        if kind == "creator":
            pairs = of_two(pairs, rejected, _OF_ONESELF.format("value"))
        keyed: list[Any] = [(pair, known[place].get("at")) for place, pair in pairs.items()]
        counts += _write_mutes(session, KINDS[kind][0], keyed)
    return replace(counts, rejected=rejected)


def _muted_creator(row: Row) -> str | None:
    kind, member = _member(row)
    return member if kind == "creator" else None


def _member(row: Row) -> tuple[MuteKind, str]:
    """Return the kind of a mute, and what it mutes.

    Raises:
        InvalidValue: the value is not valid.
    """
    kind: Any = row["kind"]
    member = scalars.parse_named("value", KINDS[kind][2], row["value"])
    return kind, member


def _created(session: Session, kind: MuteKind, muted: Iterable[str]) -> Any:
    """Return the ids of what is muted, which is created if missing; none for keywords."""
    catalogue = KINDS[kind][1]
    if catalogue is None or not muted:
        return {}
    columns = {"on_sight": True} if catalogue is USERS else None
    return get_or_create_ids(session, catalogue, muted, columns)


def _write_mutes(
    session: Session, table: Table, mutes: Sequence[tuple[lookup.Key, datetime | None]]
) -> Counts:
    """Write the mutes of one kind; a mute without a time keeps its own, or begins now."""
    if not mutes:
        return Counts()
    key = list(table.primary_key)
    existing = lookup.find(session, key, list(dict(mutes)), list(table.c))
    current = {tuple(row[:2]): row[2] for row in existing}
    after: dict[lookup.Key, Any] = dict(current)
    inserted = updated = 0
    for pair, at in mutes:
        moment = at or after.get(pair) or scalars.now()
        inserted += pair not in after
        updated += pair in after and after[pair] != moment
        after[pair] = moment
    before, wanted = ([(*pair, at) for pair, at in rows.items()] for rows in (current, after))
    bulk.synchronise(session, table, before, wanted)
    return Counts(inserted, updated, len(mutes) - inserted - updated)


def _parsed(kind: MuteKind, value: object) -> tuple[Table, Table | None, str]:
    """Return the tables of a kind, and the parsed value."""
    if kind not in KINDS:
        raise InvalidValue(f"kind: {scalars.shown(kind)} is not one of {', '.join(KINDS)}")
    table, catalogue, parse = KINDS[kind]
    return table, catalogue, scalars.parse_named(kind, parse, value)
