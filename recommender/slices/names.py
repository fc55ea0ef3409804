"""Stand-ins for the application's keys, and for the words of its users.

Equal texts get equal stand-ins, and stand-ins keep the order of the texts: rows with equal scores
and reasons are ordered by them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import count
from uuid import UUID

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.session import Session
from recommender.feed.resolve import preview_seed, seed_of

CHUNK = 1_000
"""The number of rows that a statement looks up."""

NO_SESSION = UUID(int=0)
"""The stand-in of sessions that are not in the slice."""


@dataclass(slots=True)
class Names:
    """Stand-ins by what they stand for.

    Attributes:
        users, videos, sounds, hashtags: the stand-ins of keys, by row id.
        keywords: the stand-ins of muted keywords, as stored.
        terms: the stand-ins of words of captions, as numbers.
        sessions: the stand-ins of sessions.
        keys: the keys of the application by stand-in, for each kind.
    """

    users: dict[int, str] = field(default_factory=dict)
    videos: dict[int, str] = field(default_factory=dict)
    sounds: dict[int, str] = field(default_factory=dict)
    hashtags: dict[int, str] = field(default_factory=dict)
    keywords: dict[str, str] = field(default_factory=dict)
    terms: dict[int, int] = field(default_factory=dict)
    sessions: dict[UUID, UUID] = field(default_factory=dict)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)


def stand_ins(
    session: Session, table: sa.Table, row_ids: Collection[int], word: str
) -> tuple[dict[int, str], dict[str, str]]:
    """Return the stand-ins of the keys of some rows by row id, and the keys by stand-in.

    Args:
        session: the caller's transaction.
        table: a table of the catalogue.
        row_ids: the ids of its rows.
        word: the beginning of the stand-ins; a number follows.
    """
    keys: dict[int, str] = {}
    ids, column = sorted(row_ids), table.c[lookup.key_column(table)]
    for first in range(0, len(ids), CHUNK):
        some = [(row_id,) for row_id in ids[first : first + CHUNK]]
        keys.update(map(tuple, lookup.find(session, [table.c.id], some, [table.c.id, column])))
    # The databases compare keys by code points, as Python does.
    names = dict(zip(sorted(keys, key=keys.__getitem__), numbered(word, len(keys)), strict=True))
    return names, {names[row_id]: key for row_id, key in keys.items()}


def numbered(word: str, number: int) -> list[str]:
    """Return names that are in the order of their numbers, such as `tag01` to `tag12`."""
    width = len(str(number))
    return [f"{word}{place:0{width}}" for place in range(1, number + 1)]


def keyword_stand_ins(keywords: Collection[str]) -> dict[str, str]:
    """Return the stand-ins of muted keywords: one word each, with the spaces that delimit it."""
    words = numbered("word", len(keywords))
    return {keyword: f" {word} " for keyword, word in zip(sorted(keywords), words, strict=True)}


def words_of(caption: str, keywords: Mapping[str, str]) -> str:
    """Return the stand-ins of the muted keywords that a caption has: all that a page reads of it.

    Args:
        caption: the words of the caption, as stored.
        keywords: the stand-ins of the muted keywords.
    """
    return "".join(word for keyword, word in keywords.items() if keyword in caption)


def with_seed(name: str, key: str, day: date) -> str:
    """Return a name with an ending, which has the random seed of a user's key on a day."""
    seed = preview_seed(key, day)
    return _first(f"{name}-{{}}", lambda text: preview_seed(text, day) == seed)


def session_stand_ins(sessions: Collection[UUID]) -> dict[UUID, UUID]:
    """Return the stand-ins of sessions, which have the same random seeds."""
    return {
        session: _with_seed_of(session, f"{place:08x}-0000-4000-8000-{{:012x}}")
        for place, session in enumerate(sorted(sessions), start=1)
    }


def _with_seed_of(session: UUID, form: str) -> UUID:
    seed = seed_of(str(session))
    return UUID(_first(form, lambda text: seed_of(text) == seed))


def _first(form: str, is_it: Callable[[str], bool]) -> str:
    texts = (form.format(number) for number in count(1))
    return next(text for text in texts if is_it(text))
