"""Blocks: two users of whom neither sees the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import product
from typing import Any

import sqlalchemy as sa

from recommender.database import aliases, bulk, lookup
from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.ingest.upserts import Row, get_or_create_ids
from recommender.ingest.users import Pair, accepted, locked_ids, of_two, user_id
from recommender.ingest.values import Counts
from recommender.models.tables import BLOCKS, USERS
from recommender.telemetry import traced

_OF_ONESELF = "other: a user cannot block themselves"


@traced
def block(session: Session, user: AnyKey, other: AnyKey, *, at: datetime | None = None) -> bool:
    """Block a user: neither sees the other in lists of theirs, from the next statement on.

    The list `trending` has no viewer: it shows the videos of both. Neither is a reason for, or
    counts in a signal of, a video of the other's pages. The blocked user is not told: `explain`
    says that a video is not available. Follows stay and have no effect until `unblock`. Only the
    row of `user` is locked.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the key of the user who blocks.
        other: the key of the user to block.
        at: when the block began, with an offset; now if None. Only audits use it: pages that were
            served earlier do not break a promise.

    Returns:
        True if the block is new.

    Raises:
        InvalidValue: a key or the time is not valid, or both keys are the same.
        UnknownUser: there is no such user, or no such other user.
    """
    since = scalars.time(scalars.now() if at is None else at)
    blocker = user_id(session, user, lock=True)
    pair = blocker, user_id(session, other, key_share=True)
    if pair[0] == pair[1]:
        raise InvalidValue(_OF_ONESELF)
    if _read_blocks(session, [pair]):
        return False
    rows = bulk.columns_of(BLOCKS.c.keys(), _as_rows({pair: since}))
    return bool(bulk.insert_new(session, BLOCKS, rows))


@traced
def unblock(session: Session, user: AnyKey, other: AnyKey) -> bool:
    """Remove a block. A block by the other user stays.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the key of the user who blocked.
        other: the key of the blocked user; it may be unknown.

    Returns:
        True if the user had blocked the other one.

    Raises:
        InvalidValue: a key is not valid.
        UnknownUser: there is no such user.
    """
    blocker = user_id(session, user, lock=True)
    key = scalars.parse_named("other", scalars.key, other)
    # Until a merge is complete, either row of a block can have the id of an alias.
    mine, others = (
        lookup.run(session, aliases.all_ids(own)).scalars().all()
        for own in (blocker, aliases.id_of(key))
    )
    pairs = list(product(mine, others))
    rows = [(own, "by_me", other) for own, other in pairs]
    rows += [(other, "of_me", own) for own, other in pairs]
    is_it = sa.tuple_(*BLOCKS.primary_key).in_(rows)
    return bool(lookup.run(session, sa.delete(BLOCKS).where(is_it)).rowcount) if rows else False


def apply_blocks(session: Session, rows: Sequence[Row]) -> Counts:
    """Write block rows; leave out and report rows with an unknown user, or of oneself.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `user`, `other` and optionally `at`, as `rows.parse_row` returns.
    """
    users = locked_ids(session, rows)
    known, rejected = accepted(rows, users, _other)
    others = get_or_create_ids(session, USERS, map(_other, known.values()), {"on_sight": True})
    users |= locked_ids(session, known.values(), users)
    named = {place: (users[str(row["user"])], others[_other(row)]) for place, row in known.items()}
    pairs = of_two(named, rejected, _OF_ONESELF)
    current = _read_blocks(session, list(dict.fromkeys(pairs.values())))
    after, counts = _after(current, [*pairs.values()], [known[place] for place in pairs])
    bulk.synchronise(session, BLOCKS, _as_rows(current), _as_rows(after))
    return Counts(*counts, rejected=rejected)


def _other(row: Row) -> str:
    return str(row["other"])


def _after(
    current: Mapping[Pair, datetime], pairs: Sequence[Pair], rows: Sequence[Row]
) -> tuple[dict[Pair, datetime], tuple[int, int, int]]:
    """Return the blocks after some rows, and the numbers of new, changed and unchanged rows."""
    after: dict[Pair, Any] = dict(current)
    inserted = updated = 0
    for pair, row in zip(pairs, rows, strict=True):
        at = row.get("at") or after.get(pair) or scalars.now()
        inserted += pair not in after
        updated += pair in after and after[pair] != at
        after[pair] = at
    return after, (inserted, updated, len(rows) - inserted - updated)


def _as_rows(blocks: Mapping[Pair, datetime]) -> list[lookup.Values]:
    """Return two rows per block, in the order of their keys."""
    rows = []
    for (user, other), at in blocks.items():
        rows += [(user, "by_me", other, at), (other, "of_me", user, at)]
    return sorted(rows)


def _read_blocks(session: Session, pairs: Sequence[Pair]) -> dict[Pair, datetime]:
    """Return the times of the existing blocks among pairs of users."""
    if not pairs:
        return {}
    columns = [BLOCKS.c.user_id, BLOCKS.c.direction, BLOCKS.c.other_id]
    keys = [(user, "by_me", other) for user, other in pairs]
    rows = lookup.find(session, columns, keys, [*columns, BLOCKS.c.blocked_at])
    return {(row.user_id, row.other_id): row.blocked_at for row in rows}
