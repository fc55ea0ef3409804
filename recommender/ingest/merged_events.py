"""Events of merged users whose keys the user had for other events.

If a guest and a user both have an event with one key, and the events differ, a merge keeps the
guest's event under a derived key. When the guest's event is sent again, it is found there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from hashlib import blake2b

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.models.tables import EVENTS

BODY_COLUMNS = ("video_id", "kind", "at", "watch_ms", "completion")
"""The columns that must be equal in two events of one user and key."""

Body = tuple[object, ...]
"""The values of `BODY_COLUMNS`."""


def derived_key(event: str, guest: str, number: int = 0) -> str:
    """Return a key under which a merge keeps an event, from its key and the guest's.

    Args:
        event: the event's key; it may be a derived one.
        guest: the guest's key.
        number: the number of keys that are taken already. A key of a guest can be used again, after
            the guest was renamed.
    """
    return derived_prefix(event) + _digest(f"{guest}\0{number}" if number else guest)


def derived_prefix(event: str) -> str:
    """Return how the keys begin that are derived from an event's key."""
    return event[:_PREFIX_LENGTH] if is_derived(event) else f"merged:{_digest(event)}:"


def is_derived(event: str) -> bool:
    """Return whether an event's key is a derived one."""
    return _DERIVED.fullmatch(event) is not None


_DERIVED = re.compile(r"merged:[0-9a-f]{32}:[0-9a-f]{32}")

_PREFIX_LENGTH = len("merged:") + 32 + len(":")


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def derived_bodies(session: Session, keys: Collection[lookup.Key]) -> dict[lookup.Key, list[Body]]:
    """Return the events that are kept under derived keys: one statement.

    Args:
        session: the transaction.
        keys: pairs of a user's id and an event's key.

    Returns:
        The bodies of the events by these pairs; pairs without such events are left out.
    """
    of_prefix = {(user_id, derived_prefix(key)): (user_id, key) for user_id, key in keys}
    statement = _find_derived(lookup.is_sqlite(session))
    values = lookup.listed_values(session, 2, list(of_prefix))
    bodies: dict[lookup.Key, list[Body]] = {}
    for user_id, prefix, *body in lookup.run(session, statement, values):
        bodies.setdefault(of_prefix[user_id, prefix], []).append(tuple(body))
    return bodies


@cache
def _find_derived(on_sqlite: bool) -> Statement:  # noqa: FBT001 - cached by it
    """Build the SELECT of the events whose keys begin with listed texts."""
    listed = lookup.listed(on_sqlite, (EVENTS.c.user_id, EVENTS.c.key))
    end = listed.c.key + "g"  # the rest of a derived key has only hexadecimal digits
    begins = sa.and_(
        EVENTS.c.user_id == listed.c.user_id, EVENTS.c.key > listed.c.key, EVENTS.c.key < end
    )
    read = [listed.c.user_id, listed.c.key, *(EVENTS.c[name] for name in BODY_COLUMNS)]
    return sa.select(*read).select_from(sa.join(listed, EVENTS, begins))
