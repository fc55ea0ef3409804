"""Recent engagements: the latest videos of every user, and the viewers of every video among them.

All viewers of a video are read, or a part that a hash chooses. The hash of a user is the same for
all videos. So the common viewers of two videos are among the chosen viewers of both if their hash
is low enough for the smaller part (coordinated sampling; Cohen and Kaplan, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from recommender.database import bulk, lookup
from recommender.database.expressions import Statement, is_positive
from recommender.database.session import Session
from recommender.models.tables import INTERACTIONS, LEARNING_STATE, RECENT, USERS

if TYPE_CHECKING:
    from recommender.learning.statistics import RefreshRun

CYCLE = 2**31 - 1
"""The number of hash values."""

HASH_STEP = 1_220_703_125
"""The distance between the hash values of two consecutive ids."""

HASH_END = sa.Column("hash_end", sa.BigInteger)
"""A column of listed videos: the hash value below which a viewer is chosen."""


def renew_recent(run: RefreshRun, session: Session, users: Iterable[int]) -> None:
    """Replace the recent engagements of users by the newest that still count."""
    user_ids = [(user_id,) for user_id in sorted(users)]
    limit = {"limit": run.settings.recent_engagements}
    values = {**lookup.listed_values(session, 1, user_ids), **limit}
    newest = lookup.run(session, _newest_engagements(lookup.is_sqlite(session)), values)
    current = lookup.find(session, [RECENT.c.user_id], user_ids, list(RECENT.c))
    # Compared in Python: with outdated statistics, a database compares every row with every other.
    changed = bulk.synchronise(session, RECENT, map(tuple, current), map(tuple, newest))
    run.add_done(users=changed)
    if changed:
        note_counted(session)


def forget_recent(session: Session, user_id: int, since: datetime) -> None:
    """Delete the recent engagements of a user up to a time."""
    forgotten = RECENT.c.user_id == user_id, RECENT.c.at <= since
    lookup.run(session, sa.delete(RECENT).where(*forgotten))


def note_counted(session: Session) -> None:
    """Note that statistics or recent engagements have changed, for refreshes that read them."""
    batches = LEARNING_STATE.c.counted_batches + 1
    lookup.run(session, sa.update(LEARNING_STATE).values(counted_batches=batches))


@cache
def _newest_engagements(on_sqlite: bool) -> Statement:  # noqa: FBT001
    """Build the SELECT of the newest engagements of listed users."""
    states = INTERACTIONS.c
    users = lookup.listed(on_sqlite, (states.user_id,))
    rank = sa.func.row_number().over(
        partition_by=states.user_id, order_by=(states.engaged_at.desc(), states.video_id.desc())
    )
    about = [states.user_id, states.video_id, states.engaged_at.label("at")]
    ranked = (
        sa.select(*about, rank.label("rank"))
        .select_from(users)
        .join(INTERACTIONS, states.user_id == users.c.user_id)
        .join(USERS, USERS.c.id == users.c.user_id)
        .where(
            is_positive(states),
            sa.or_(USERS.c.learned_since.is_(None), states.engaged_at > USERS.c.learned_since),
        )
        .subquery()
    )
    read = [ranked.c.user_id, ranked.c.video_id, ranked.c.at]
    return sa.select(*read).where(ranked.c.rank <= sa.bindparam("limit", type_=sa.Integer))


def hash_end(views: int, limit: int) -> int:
    """Return the hash value below which about `limit` viewers of a video are chosen, or all.

    Args:
        views: the number of viewers of the video.
        limit: the largest number of viewers to choose.
    """
    return CYCLE if views <= limit else math.ceil(CYCLE * limit / views)


def is_chosen(user_id: ColumnElement[int], end: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that the hash of a user is below the end."""
    return user_id % CYCLE * HASH_STEP % CYCLE < end


def read_viewers(ends: Mapping[int, int], session: Session) -> dict[int, str]:
    """Return the ids of the chosen viewers of videos, as texts with commas.

    Args:
        ends: the hash end by video id.
        session: the transaction.
    """
    statement = _viewers(lookup.is_sqlite(session))
    rows = lookup.run(session, statement, lookup.listed_values(session, 2, sorted(ends.items())))
    return {video_id: listed for video_id, listed in rows}  # noqa: C416 - a Row is not a pair


@cache
def _viewers(on_sqlite: bool) -> Statement:  # noqa: FBT001
    """Build the SELECT of the chosen viewers of listed videos, one row per video."""
    videos = lookup.listed(on_sqlite, (RECENT.c.video_id, HASH_END))
    users: Any = sa.func.aggregate_strings(sa.cast(RECENT.c.user_id, sa.Text), ",")
    return (
        sa.select(RECENT.c.video_id, users)
        .select_from(videos)
        .join(RECENT, RECENT.c.video_id == videos.c.video_id)
        .where(is_chosen(RECENT.c.user_id, videos.c.hash_end))
        .group_by(RECENT.c.video_id)
    )
