"""Merge a guest into a user: one person who was known by two keys.

The first transaction makes the guest's key an alias of the user's. From then on, every lookup of
the guest finds the user, so nothing more is written under the guest's id. The rest moves in
batches. After each batch the states of both match their logs, so a merge can end anywhere and go on
later.

Rows move by INSERT and DELETE, because `user_id` decides where a distributed database keeps a row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, Table

from recommender.database import aliases, bulk, lookup
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import InvalidValue, UnknownUser
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.ingest.mutes import KINDS
from recommender.ingest.upserts import PROFILE
from recommender.ingest.visibility import show_videos
from recommender.learning.statistics import RefreshRun, lock_videos
from recommender.logs import log
from recommender.models.tables import (
    AFFINITIES,
    BLOCKS,
    EVENTS,
    FOLLOWS,
    PENDING,
    SESSIONS,
    SOUNDS,
    SUGGESTIONS,
    USER_HASHTAGS,
    USER_SOUNDS,
    USERS,
    VIDEOS,
)
from recommender.models.types import PREFIX
from recommender.operations.inventory import OF_OTHERS, PER_USER
from recommender.operations.merge_history import (
    ADDED,
    MAX_MOVED_ROWS,
    RENAMED,
    SAME,
    Guest,
    Moved,
    Row,
    finish,
    lock_target,
    move_history,
    move_rest,
    rows_of,
)
from recommender.operations.merge_sessions import (
    move_candidates,
    move_remembered,
    move_sessions,
    take_sessions,
)
from recommender.settings import Settings
from recommender.telemetry import traced

USERS_AT_ONCE = 5_000
"""The number of ids per range of users in which one statement looks for affinities to a guest."""

OTHERS_AT_ONCE = 500
"""The most users whose follows, mutes or blocks of a guest one transaction moves."""

DECLARED: Mapping[Table, Mapping[str, bulk.Merge]] = {
    FOLLOWS: {"created_at": bulk.least},
    BLOCKS: {"blocked_at": bulk.least},
    **{table: {"muted_at": bulk.least} for table, _, _ in KINDS.values()},
    SUGGESTIONS: {
        "shown": bulk.added,
        "shown_at": bulk.greatest,
        "dismissed_at": bulk.least,
    },
    USER_HASHTAGS: {},
    USER_SOUNDS: {},
}
"""The tables of what users declared, with the columns to merge if both declared the same."""

Step = Callable[[Session, Any], Moved]


@dataclass(frozen=True, slots=True)
class Merge:
    """The result of a merge. After an interruption, it covers only what was left to move.

    Args:
        guest, user: the keys; the guest's is an alias of the user's now.
        rows: the guest's moved rows by table (named without `rec_`), without those by which others
            blocked the guest.
        same: events that both had, under one key and with one body: each is one event now.
        renamed: events that got a derived key, because the user had another event with their key.
        added: videos with which both had a state and for which events are pruned. Their counts were
            added up: the merge cannot know if pruned events were the same.
        seconds: how long the merge took.
    """

    guest: str
    user: str
    rows: Mapping[str, int]
    same: int
    renamed: int
    added: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Return the result as `user merge` prints it."""
        return asdict(self)


@traced
def merge_users(
    engine: Engine, guest: AnyKey, user: AnyKey, *, settings: Settings | None = None
) -> Merge:
    """Merge a guest into a user: what is stored about the guest becomes the user's.

    The first transaction locks both. It moves the guest's follows, mutes, blocks, dismissals,
    declared interests and running sessions, and makes the guest's key an alias of the user's:
    wherever the user's key works, the guest's does, also for late events and for cursors. Further
    transactions move, at most some thousand rows each: other users' follows, mutes and blocks of
    the guest, the guest's videos and sounds, interests, states with their events, served videos,
    old sessions.

    A merge can be interrupted at any point; call it again to continue. Meanwhile pages, events and
    refreshes work with the rows that have moved.

    The user keeps their profile; only empty columns are filled from the guest. Follows, mutes and
    blocks between the two end. If either was reset, the later reset counts for both.

    Args:
        engine: a prepared engine.
        guest: the key of the user to merge; aliases of the guest become aliases of the user.
        user: the key of the user who stays.
        settings: the settings; None reads the environment.

    Raises:
        InvalidValue: a key is malformed, both keys stand for one user, or the guest was merged into
            another user before.
        UnknownUser: there is no such guest or no such user, or they were erased meanwhile.
        RecommenderError: the database failed; completed batches stay done.
    """
    started = time.monotonic()
    run = RefreshRun(engine, scalars.now(), settings or Settings.from_environment())
    guest_key = scalars.parse_named("guest", scalars.key, guest)
    user_key = scalars.parse_named("user", scalars.key, user)
    alias, moved = run.locked(partial(_begin, run, guest_key, user_key))
    for step in _steps(run, alias):
        while done := run.locked(step):
            moved += done
    seconds = round(time.monotonic() - started, 3)
    rows = {table.name.removeprefix(PREFIX): moved[table.name] for table in _tables()}
    log(logging.INFO, "merge", rows=sum(rows.values()), seconds=seconds)
    events = moved[SAME], moved[RENAMED], moved[ADDED]
    return Merge(guest_key, user_key, rows, *events, seconds)


def _tables() -> tuple[Table, ...]:
    return (VIDEOS, SOUNDS, *PER_USER)


def _steps(run: RefreshRun, guest: Guest) -> Iterator[Step]:
    """Yield the steps of a merge; each is to be repeated until it moves nothing."""
    for move in (move_remembered, move_candidates):
        yield partial(move, guest)
    # First the rows that hide videos, then the videos.
    for column in OF_OTHERS:
        yield partial(_move_others, guest, column)
    owned, last = run.locked(partial(_scope, guest))
    teaching = [partial(_turn_affinities, guest, low) for low in range(0, last + 1, USERS_AT_ONCE)]
    yield from teaching if owned else ()
    for table in (VIDEOS, SOUNDS):
        yield partial(_give, guest, table)
    # Others learned to like the guest until the videos were the user's.
    yield from teaching if owned else ()
    yield partial(_move_affinities, guest)
    yield partial(move_history, run, guest)
    yield partial(move_sessions, guest)
    for table in (EVENTS, PENDING):
        yield partial(move_rest, guest, table)
    # A rebuild that ran since then has taught the guest again.
    yield partial(_move_affinities, guest)
    yield partial(finish, guest)


# The first transaction


def _begin(
    run: RefreshRun, guest: str, user: str, session: Session, _state: Any
) -> tuple[Guest, Moved]:
    """Make the guest an alias of the user, and move what pages depend on first."""
    alias, target = _ends(session, guest, user)
    moved = Moved()
    for table in DECLARED:
        rows = rows_of(session, sa.select(table).where(table.c.user_id == alias.id))
        moved += _move(session, table, rows, alias.id, target.id)
    # A block holds on both sides.
    sides = rows_of(session, sa.select(BLOCKS).where(BLOCKS.c.other_id == alias.id))
    _move(session, BLOCKS, sides, alias.id, target.id)
    if alias.merged_into == target.id:  # an earlier run has begun
        return Guest(alias.id, alias.key), moved
    oldest = run.as_of - timedelta(seconds=run.settings.session_lifetime)
    running = SESSIONS.c.user_id == alias.id, SESSIONS.c.last_at >= oldest
    moved += take_sessions(session, alias, target.id, sa.select(SESSIONS).where(*running))
    _unite(session, alias, target)
    return Guest(alias.id, alias.key), moved


def _ends(session: Session, guest: str, user: str) -> tuple[Any, Any]:
    """Lock a guest and the user that a key stands for; return their rows."""
    named = {row.key: row for row in _users(session, USERS.c.key, (guest, user))}
    for name, key in (("guest", guest), ("user", user)):
        if key not in named:
            check_first_rows(session)
            raise UnknownUser(f"{name}: there is no user {scalars.shown(key)}")
    target = named[user].merged_into or named[user].id
    if named[guest].id == target:
        raise InvalidValue(f"guest: {scalars.shown(guest)} is the same user: nothing to merge")
    # The strongest lock: a writer may hold the key of a user whom it refers to.
    ids = named[guest].id, target
    rows = {row.id: row for row in _users(session, USERS.c.id, ids, key_share=False)}
    if len(rows) < 2 or rows[target].merged_into is not None:
        return _ends(session, guest, user)  # changed since they were read
    alias = rows[named[guest].id]
    if alias.merged_into not in {None, target}:
        raise InvalidValue(f"guest: {scalars.shown(guest)} was merged into another user before")
    return alias, rows[target]


def _users(
    session: Session,
    column: sa.Column[Any],
    values: Sequence[Any],
    key_share: bool | None = None,  # noqa: FBT001 - as SQLAlchemy's
) -> Sequence[Any]:
    """Return users in the order of their keys; `key_share` is the option of FOR UPDATE, if any."""
    found = sa.select(USERS).where(column.in_(values), USERS.c.erased_at.is_(None))
    found = found.order_by(USERS.c.key)
    if key_share is not None:
        if lookup.is_distributed(session):
            # Writers for the users hold no lock of a row.
            aliases.lock_users(session, [row.id for row in lookup.run(session, found)])
        found = found.with_for_update(key_share=key_share)
    return lookup.run(session, found).all()


def _lock_with(session: Session, guest: Guest, others: Sequence[int]) -> Any:
    """Lock the user and others in the order of their keys; return the row of the user."""
    target = sa.select(USERS.c.merged_into).where(USERS.c.id == guest.id)
    ids = [*others, lookup.run(session, target).scalar()]
    rows = {row.id: row for row in _users(session, USERS.c.id, ids, key_share=True)}
    user = rows.get(ids[-1])
    # Merged or erased meanwhile; in the second case this raises an error.
    return user if user and user.merged_into is None else lock_target(session, guest)


def _unite(session: Session, alias: Any, target: Any) -> None:
    """Write the rows of both users."""
    reset = sorted((alias.learned_since, target.learned_since), key=lambda at: (at is not None, at))
    profile = {name: getattr(target, name) or getattr(alias, name) for name in PROFILE}
    own = {**profile, "learned_since": reset[1], "on_sight": False}
    # Who was hidden under one of the keys stays hidden.
    if not alias.discoverable:
        own["discoverable"] = False
        show_videos(session, {target.id: False})
    # The earlier reset of the two stays with the alias, until the last step.
    empty = {**dict.fromkeys(PROFILE), "learned_since": reset[0], "on_sight": False}
    merged = {**empty, "merged_into": target.id, "merged_at": None}
    is_alias = sa.or_(USERS.c.id == alias.id, USERS.c.merged_into == alias.id)
    lookup.run(session, sa.update(USERS).where(is_alias).values(merged_into=target.id))
    for row_id, values in ((alias.id, merged), (target.id, own)):
        lookup.run(session, sa.update(USERS).where(USERS.c.id == row_id).values(values))


# Rows of any table


def _move(session: Session, table: Table, rows: Sequence[Row], guest: int, target: int) -> Moved:
    """Replace the guest by the user in rows of what users declared; both may be in one row."""
    if not rows:
        return Moved()
    changed = [
        {name: target if name in REFERENCES and value == guest else value
         for name, value in row.items()}
        for row in rows
    ]  # fmt: skip
    # No one follows, mutes or blocks themselves.
    kept = [row for row in changed if row["user_id"] not in (row.get(n) for n in REFERENCES[1:])]
    key = table.primary_key.columns.keys()
    kept.sort(key=lambda row: tuple(row[name] for name in key))
    bulk.insert(session, table, kept, merge=DECLARED[table])
    bulk.delete(session, table, sorted(tuple(row[name] for name in key) for row in rows))
    # What others declared is not told, nor that they blocked the guest.
    own = [row for row in rows if row["user_id"] == guest and row.get("direction") != "of_me"]
    return Moved({table.name: len(own)})


REFERENCES = ("user_id", "creator_id", "other_id")
"""The columns of declared rows that refer to users."""


def _move_others(guest: Guest, column: sa.Column[int], session: Session, _state: Any) -> Moved:
    """Move a batch of what other users declared about the guest."""
    table = column.table
    found = sa.select(table.c.user_id).where(column == guest.id).distinct()
    ids = lookup.run(session, found.order_by(table.c.user_id).limit(OTHERS_AT_ONCE)).scalars().all()
    if not ids:
        return Moved()
    user = _lock_with(session, guest, ids)
    about = sa.select(table).where(column == guest.id, table.c.user_id.in_(ids))
    return _move(session, table, rows_of(session, about), guest.id, user.id)


# Affinities, videos and sounds


def _scope(guest: Guest, session: Session, _state: Any) -> tuple[bool, int]:
    """Return whether the guest owns videos, and the last id of users."""
    owns, last = sa.exists().where(VIDEOS.c.creator_id == guest.id), sa.func.max(USERS.c.id)
    return tuple(lookup.run(session, sa.select(owns, sa.select(last).scalar_subquery())).one())


def _turn_affinities(guest: Guest, low: int, session: Session, _state: Any) -> Moved:
    """Turn affinities of a range of users from the guest to the user, as creators."""
    row = AFFINITIES.c
    about = sa.and_(
        row.user_id.between(low, low + USERS_AT_ONCE - 1),
        row.subject == "creator",
        row.subject_id == guest.id,
    )
    found = sa.select(row.user_id).where(about).order_by(row.user_id).limit(OTHERS_AT_ONCE)
    ids = lookup.run(session, found).scalars().all()
    if not ids:
        return Moved()
    user = _lock_with(session, guest, ids)
    rows = rows_of(session, sa.select(AFFINITIES).where(about, row.user_id.in_(ids)))
    return _add_affinities(session, rows, guest, user)


def _add_affinities(session: Session, rows: Sequence[Row], guest: Guest, user: Any) -> Moved:
    """Move affinities of the guest or to the guest, and add them to existing ones."""
    sums: dict[lookup.Key, float] = {}
    for row in rows:
        owner = user.id if row["user_id"] == guest.id else row["user_id"]
        is_guest = row["subject"] == "creator" and row["subject_id"] == guest.id
        key = owner, row["subject"], user.id if is_guest else row["subject_id"]
        sums[key] = sums.get(key, 0.0) + row["score"]
    old = [(row["user_id"], row["subject"], row["subject_id"]) for row in rows]
    bulk.delete(session, AFFINITIES, sorted(old))
    columns = bulk.columns_of(AFFINITIES.c.keys(), [(*key, sums[key]) for key in sorted(sums)])
    if columns:
        bulk.insert_columns(session, AFFINITIES, columns, merge={"score": bulk.added})
    own = sum(row["user_id"] == guest.id for row in rows)
    return Moved({AFFINITIES.name: own} if rows else {})


def _move_affinities(guest: Guest, session: Session, _state: Any) -> Moved:
    """Move a batch of the guest's affinities."""
    user = lock_target(session, guest)
    own = sa.select(AFFINITIES).where(AFFINITIES.c.user_id == guest.id).limit(MAX_MOVED_ROWS)
    return _add_affinities(session, rows_of(session, own), guest, user)


def _give(guest: Guest, table: Table, session: Session, _state: Any) -> Moved:
    """Give the user a batch of the guest's videos or sounds."""
    user = lock_target(session, guest)
    own = sa.select(table.c.id).where(table.c.creator_id == guest.id).order_by(table.c.id)
    ids = lookup.run(session, own.limit(MAX_MOVED_ROWS)).scalars().all()
    if not ids:
        return Moved()
    if table is VIDEOS:
        tuple(lock_videos(session, ids))
    columns, values = (table.c.id, table.c.creator_id), [(row_id, user.id) for row_id in ids]
    bulk.update_listed(session, columns, values, {"creator_id": bulk.replace})
    show_videos(session, {user.id: bool(user.discoverable)})
    return Moved({table.name: len(ids)})


# The end
