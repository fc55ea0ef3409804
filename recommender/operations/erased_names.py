"""Random names in place of the names that an erased person or video had."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Table

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.models.tables import HASHTAGS
from recommender.models.types import Base

ERASED_PREFIX = "erased:"
"""The prefix of the key of an erased row."""


def begins(column: sa.Column[Any], prefix: str) -> ColumnElement[bool]:
    """Return the condition that a key starts with a prefix. The prefix must end in a colon."""
    # A range, because SQLite does not use the index for LIKE. The character after ":" is ";".
    return sa.and_(column >= prefix, column < f"{prefix[:-1]};")


def forget_unused(
    session: Session,
    named: Table,
    ids: Iterable[int],
    table: Table | None = None,
    stays: ColumnElement[bool] | None = None,
) -> int:
    """Give random names to hashtags or sounds that no remaining row uses.

    They are not deleted, because a concurrent transaction may be about to refer to one.

    Args:
        session: the transaction.
        named: the table of hashtags or sounds.
        ids: the ids to check.
        table: the table that refers to them and is about to lose rows, if any.
        stays: the condition for rows of `table` that stay.

    Returns:
        The number of renamed rows.
    """
    listed = lookup.listed(lookup.is_sqlite(session), (named.c.id,))
    name = "hashtag_id" if named is HASHTAGS else "sound_id"
    tables = Base.metadata.sorted_tables
    uses = [other.c[name] == named.c.id for other in tables if name in other.c]
    used = [
        sa.exists().where(use, sa.true() if stays is None or use.left.table is not table else stays)
        for use in uses
    ]
    is_unused = sa.and_(~sa.or_(*used), ~begins(_key(named), ERASED_PREFIX))
    unused = sa.select(named.c.id).join(listed, listed.c.id == named.c.id).where(is_unused)
    # A name that a concurrent transaction has locked is about to be used.
    unused = unused.with_for_update(skip_locked=True, of=named)
    parameters = lookup.listed_values(session, 1, [(row_id,) for row_id in sorted(ids)])
    unused_ids = lookup.run(session, unused, parameters).scalars()
    return rename(session, named, unused_ids.all())


def _key(table: Table) -> sa.Column[Any]:
    return table.c.name if table is HASHTAGS else table.c.key


def rename(session: Session, table: Table, ids: Sequence[int], **changed: Any) -> int:
    """Give rows random keys (hashtags: random names), and set other columns too."""
    if ids:
        column = _key(table)
        values = [(row_id, ERASED_PREFIX + token_hex(16)) for row_id in ids]
        changes = {column.name: bulk.replace}
        bulk.update_listed(session, (table.c.id, column), values, changes, changed)
    return len(ids)
