"""Move a guest's history to the user: the states, with the events that they add up to.

A batch moves the events of some videos together with the states that they add up to. It also takes
out of the videos' statistics what two viewers counted for more than one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, chain, islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Table

from recommender.database import aliases, bulk, lookup
from recommender.database.session import Session
from recommender.errors import UnknownUser
from recommender.formats import scalars
from recommender.ingest.merged_events import (
    BODY_COLUMNS,
    derived_bodies,
    derived_key,
    derived_prefix,
    is_derived,
)
from recommender.learning.merged_pairs import (
    correct_affinities,
    correct_statistics,
    is_pruned,
    merged_pair,
)
from recommender.learning.rebuild import rebuild_affinities
from recommender.learning.recent import forget_recent, renew_recent
from recommender.learning.states import STATE_COLUMNS, State
from recommender.learning.statistics import RefreshRun, count_pairs, lock_videos
from recommender.models.tables import EVENTS, INTERACTIONS, RECENT, USERS, VIDEOS
from recommender.operations.inventory import OF_OTHERS, OWNERS, PER_USER

MAX_MOVED_ROWS = 1_000
"""The most rows that one transaction moves. One video's events, or one session, may be more."""

MAX_MOVED_STATES = 500
"""The most states that one transaction moves."""

SAME, RENAMED, ADDED = "same", "renamed", "added"
"""What is counted besides rows of tables, see `Merge`."""

Moved = Counter[str]
"""The number of rows that a transaction moved, by table. Empty if no rows were left."""


Row = Mapping[str, Any]
"""A row of any table by column."""


class Guest(NamedTuple):
    """The row of users that is an alias now."""

    id: int
    key: str


def lock_target(session: Session, guest: Guest) -> Any:
    """Lock the user into whom a guest is merged; return the row of users.

    Raises:
        UnknownUser: they were erased meanwhile.
    """
    target = sa.select(USERS.c.merged_into).where(USERS.c.id == guest.id).scalar_subquery()
    if lookup.is_distributed(session):
        own = sa.select(USERS.c.id).where(USERS.c.id == target)
        aliases.lock_users(session, lookup.run(session, own).scalars().all())
    locked = sa.select(USERS).where(USERS.c.id == target, USERS.c.erased_at.is_(None))
    row = lookup.run(session, locked.with_for_update(key_share=True)).one_or_none()
    if row is None:
        raise UnknownUser(f"{scalars.shown(guest.key)} was erased during the merge")
    # The target may have been merged itself while this transaction waited for the lock.
    return row if row.merged_into is None else lock_target(session, guest)


def unfinished_merges(session: Session) -> int:
    """Return the number of merges that are interrupted or running: they may have rows left."""
    referring = (*(table.c.user_id for table in PER_USER), *OF_OTHERS, *OWNERS)
    if lookup.is_distributed(session):
        return _unfinished_apart(session, referring)
    is_left = sa.or_(*(sa.exists().where(column == USERS.c.id) for column in referring))
    is_open = sa.or_(USERS.c.merged_at.is_(None), is_left)
    merged = sa.select(sa.func.count()).where(USERS.c.merged_into.is_not(None), is_open)
    return lookup.run(session, merged).scalar() or 0


def _unfinished_apart(session: Session, referring: Iterable[sa.Column[Any]]) -> int:
    """Count them on Citus, by a statement for each column that refers to users."""
    merged = sa.select(USERS.c.id, USERS.c.merged_at).where(USERS.c.merged_into.is_not(None))
    ended = {row.id: row.merged_at for row in lookup.run(session, merged)}
    is_open = {user for user, at in ended.items() if at is None}
    for column in referring:
        left = sa.select(column).where(column.in_(sorted(ended))).distinct()
        is_open |= set(lookup.run(session, left).scalars())
    return len(is_open)


def rows_of(session: Session, statement: Any) -> list[Row]:
    """Return the rows of a statement by column."""
    return [dict(row._mapping) for row in lookup.run(session, statement)]  # noqa: SLF001 - its API


def move_history(run: RefreshRun, guest: Guest, session: Session, state: Any) -> Moved:
    """Move the states of the guest's next videos, with their events.

    Args:
        run: the refresh run.
        guest: the guest.
        session: the transaction, which has locked the learning state.
        state: the row of the learning state.
    """
    user = lock_target(session, guest)
    if not (states := _next_states(session, guest)):
        return Moved()
    both, ids = (user.id, guest.id), list(states)
    recent = _recent(session, both)
    tuple(lock_videos(session, {*ids, *recent}))
    count_pairs(run, session, state, both, ids)
    own = _states_of(session, user.id, ids)
    events = _events(session, guest.id, EVENTS.c.video_id.between(ids[0], ids[-1]))
    own_events = _events(session, user.id, _is_one_of(EVENTS.c.video_id, own)) if own else {}
    moved, twice = move_events(session, guest, user.id, list(chain(*events.values())))
    durations = _durations(session, twice)
    pairs = [
        merged_pair(states[i], own[i], events.get(i, ()), own_events.get(i, ()), twice.get(i, ()),
                    durations.get(i), state)
        for i in own
    ]  # fmt: skip
    merged = {pair.video_id: pair.merged for pair in pairs}
    _write_states(session, user.id, guest, {**states, **merged})
    correct_statistics(session, pairs, state)
    if not correct_affinities(session, user, pairs):
        _learn_at_the_end(session, guest, user)
    _renew_recent(run, session, both, recent)
    added = sum(is_pruned(pair, state) for pair in pairs)
    return moved + Moved({INTERACTIONS.name: len(states), ADDED: added})


def _next_states(session: Session, guest: Guest) -> dict[int, State]:
    """Return the guest's next states by video, as many as have few events together."""
    read = sa.select(INTERACTIONS).where(INTERACTIONS.c.user_id == guest.id)
    rows = lookup.run(session, read.order_by(INTERACTIONS.c.video_id).limit(MAX_MOVED_STATES))
    states = {row.video_id: dict(zip(STATE_COLUMNS, row, strict=True)) for row in rows}
    events = _numbers_of_events(session, guest.id, list(states))
    sums = accumulate(1 + events.get(video_id, 0) for video_id in states)
    number = bisect_right(list(sums), MAX_MOVED_ROWS)
    return dict(islice(states.items(), max(1, number)))


def _numbers_of_events(session: Session, user_id: int, videos: Sequence[int]) -> dict[int, int]:
    """Return the numbers of logged events of a user with consecutive videos, by video."""
    if not videos:
        return {}
    of_videos = EVENTS.c.user_id == user_id, EVENTS.c.video_id.between(videos[0], videos[-1])
    read = sa.select(EVENTS.c.video_id, sa.func.count()).where(*of_videos)
    rows = lookup.run(session, read.group_by(EVENTS.c.video_id))
    return {video_id: number for video_id, number in rows}  # noqa: C416 - a Row is not a pair


def _states_of(session: Session, user_id: int, videos: Iterable[int]) -> dict[int, State]:
    """Return a user's states by video."""
    key = [INTERACTIONS.c.user_id, INTERACTIONS.c.video_id]
    pairs = [(user_id, video_id) for video_id in videos]
    rows = lookup.find(session, key, pairs, list(INTERACTIONS.c))
    return {row.video_id: dict(zip(STATE_COLUMNS, row, strict=True)) for row in rows}


def _is_one_of(column: sa.Column[int], ids: Iterable[int]) -> sa.ColumnElement[bool]:
    # Written out: PostgreSQL looks up constants in a hash table, and bound values one by one.
    return column.in_(sa.bindparam("ids", sorted(ids), expanding=True, literal_execute=True))


def _events(
    session: Session, user_id: int, is_wanted: sa.ColumnElement[bool]
) -> dict[int, list[Any]]:
    """Return the logged events of a user that fulfil a condition, by video."""
    events: dict[int, list[Any]] = {}
    for row in lookup.run(session, sa.select(EVENTS).where(EVENTS.c.user_id == user_id, is_wanted)):
        events.setdefault(row.video_id, []).append(row)
    return events


def move_events(
    session: Session, guest: Guest, user_id: int, rows: Sequence[Any]
) -> tuple[Moved, dict[int, list[Any]]]:
    """Move rows of the log; the user's own event with a key and the same body stays the only one.

    Returns:
        The numbers of rows, and the events that both had, by video.
    """
    events = {row.key: {**row._mapping, "user_id": user_id} for row in rows}  # noqa: SLF001
    same = _known_otherwise(session, user_id, events)
    known = _insert_events(session, _without(events, same))
    bodies = _bodies(session, user_id, known)
    same |= {key for key in known if bodies[key] == _body(events[key])}
    same |= _kept_before(session, user_id, {key: events[key] for key in known - same})
    _insert_derived(session, guest, {key: events[key] for key in known - same})
    bulk.delete(session, EVENTS, sorted((guest.id, key) for key in events))
    twice: dict[int, list[Any]] = {}
    for row in rows:
        if row.key in same:
            twice.setdefault(row.video_id, []).append(row)
    numbers = {EVENTS.name: len(events), SAME: len(same), RENAMED: len(known - same)}
    return Moved(numbers), twice


def _without(events: Mapping[str, Row], keys: Collection[str]) -> dict[str, Row]:
    return {key: event for key, event in events.items() if key not in keys}


def _known_otherwise(session: Session, user_id: int, events: Mapping[str, Row]) -> set[str]:
    """Return the derived keys of events that the user has under another key of the same origin."""
    derived = {key: event for key, event in events.items() if is_derived(key)}
    if not derived:
        return set()
    is_wanted = _is_one_of(EVENTS.c.video_id, {event["video_id"] for event in derived.values()})
    own = chain(*_events(session, user_id, is_wanted).values())
    known = {(derived_prefix(row.key), _body(row._mapping)) for row in own}  # noqa: SLF001 - its API
    return {key for key in derived if (derived_prefix(key), _body(derived[key])) in known}


def move_rest(guest: Guest, table: Table, session: Session, _state: Any) -> Moved:
    """Move events that no state has, and what of them is pending."""
    user = lock_target(session, guest)
    own = sa.select(table).where(table.c.user_id == guest.id).limit(MAX_MOVED_ROWS)
    rows = lookup.run(session, own).all()
    if table is EVENTS:
        return move_events(session, guest, user.id, rows)[0] if rows else Moved()
    changed = [{**row._mapping, "user_id": user.id} for row in rows]  # noqa: SLF001 - its API
    bulk.insert(session, table, sorted(changed, key=lambda row: row["key"]))
    bulk.delete(session, table, sorted((guest.id, row.key) for row in rows))
    return Moved({table.name: len(rows)} if rows else {})


def _insert_events(session: Session, events: Mapping[str, Row]) -> set[str]:
    """Insert events by key; return the keys that the user has already."""
    if not events:
        return set()
    rows = [events[key] for key in sorted(events)]
    columns = {column.name: [row[column.name] for row in rows] for column in EVENTS.c}
    return events.keys() - {key for _, key in bulk.insert_new(session, EVENTS, columns)}


def _kept_before(session: Session, user_id: int, events: Mapping[str, Row]) -> set[str]:
    """Return the keys of events that the user has under derived keys."""
    kept = derived_bodies(session, [(user_id, key) for key in events]) if events else {}
    return {key for key in events if _body(events[key]) in kept.get((user_id, key), ())}


def _insert_derived(session: Session, guest: Guest, events: Mapping[str, Row]) -> None:
    """Insert events under derived keys that are free."""
    number = 0
    while events:
        # An event under a derived key, and the one that had the original key, derive the same.
        keys = {derived_key(key, guest.key, number): key for key in sorted(events)}
        kept = {derived: {**events[key], "key": derived} for derived, key in keys.items()}
        done = {keys[derived] for derived in keys.keys() - _insert_events(session, kept)}
        events = _without(events, done)
        number += 1


def _bodies(session: Session, user_id: int, keys: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    columns = [EVENTS.c.user_id, EVENTS.c.key]
    read = [EVENTS.c.key, *(EVENTS.c[name] for name in BODY_COLUMNS)]
    rows = lookup.find(session, columns, [(user_id, key) for key in keys], read)
    return {row.key: tuple(row[1:]) for row in rows}


def _body(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(event[name] for name in BODY_COLUMNS)


def _durations(session: Session, videos: Iterable[int]) -> dict[int, int | None]:
    """Return the durations of videos in milliseconds by id; None if unknown."""
    keys = [(video_id,) for video_id in sorted(videos)]
    read = (VIDEOS.c.id, VIDEOS.c.duration_ms)
    rows = lookup.find(session, [VIDEOS.c.id], keys, read) if keys else ()
    return {video_id: duration_ms for video_id, duration_ms in rows}  # noqa: C416 - a Row


def _learn_at_the_end(session: Session, guest: Guest, user: Any) -> None:
    """Let the last step learn the user's interests again, as after a reset of one of the two."""
    is_equal = USERS.c.learned_since.is_not_distinct_from(user.learned_since)
    marked = sa.update(USERS).where(USERS.c.id == guest.id, is_equal)
    lookup.run(session, marked.values(learned_since=scalars.EARLIEST))


def _write_states(
    session: Session, user_id: int, guest: Guest, states: Mapping[int, State]
) -> None:
    """Write states of the user in place of the guest's states."""
    rows = [tuple({**states[i], "user_id": user_id}.values()) for i in sorted(states)]
    columns = bulk.columns_of(STATE_COLUMNS, rows)
    merge = dict.fromkeys(STATE_COLUMNS[2:], bulk.replace)
    bulk.insert_columns(session, INTERACTIONS, columns, merge=merge)
    bulk.delete(session, INTERACTIONS, [(guest.id, video_id) for video_id in sorted(states)])


def _recent(session: Session, users: Sequence[int]) -> set[int]:
    """Return the ids of the videos among the recent engagements of users."""
    read = sa.select(RECENT.c.video_id).where(RECENT.c.user_id.in_(users))
    return set(lookup.run(session, read).scalars())


def _renew_recent(
    run: RefreshRun, session: Session, users: Sequence[int], before: set[int]
) -> None:
    """Replace the recent engagements of both; the next refresh finds neighbours of changed ones."""
    renew_recent(run, session, users)
    changed = sorted((video_id, 0) for video_id in before | _recent(session, users))
    if changed:
        columns = (VIDEOS.c.id, VIDEOS.c.neighbours_views)
        bulk.update_listed(session, columns, changed, {"neighbours_views": bulk.replace})


def finish(guest: Guest, session: Session, state: Any) -> Moved:
    """Learn the user's interests again if need be, and note that the merge is complete."""
    user = lock_target(session, guest)
    lookup.run(session, sa.delete(RECENT).where(RECENT.c.user_id == guest.id))
    is_alias = USERS.c.id == guest.id
    since = lookup.run(session, sa.select(USERS.c.learned_since).where(is_alias)).scalar()
    if since != user.learned_since:
        _learn_again(session, user, state)
    now = sa.literal(scalars.now(), USERS.c.merged_at.type)
    complete = {
        "discoverable": True,
        "learned_since": user.learned_since,
        "merged_at": sa.func.coalesce(USERS.c.merged_at, now),
    }
    lookup.run(session, sa.update(USERS).where(is_alias).values(complete))
    return Moved()


def _learn_again(session: Session, user: Any, state: Any) -> None:
    """Learn a user's interests after only one of the two was reset, or if sums were not exact."""
    since, horizon = user.learned_since, state.events_horizon
    if horizon is None or (since is not None and since >= horizon):
        rebuild_affinities(session, [user.key])
    if since is not None:
        forget_recent(session, user.id, since)
