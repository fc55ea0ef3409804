"""Erase a person: profile, videos, actions, served pages, and everything learned from them.

The first transaction replaces the person's key, so later lookups no longer find them. It waits for
transactions that are still writing for the person. The rest runs in batches. Each batch is one
transaction that locks the learning state, so erasures and refreshes take turns, and the statistics
match the remaining log at every point. Until an erasure is complete, the rows of the user and of
the users merged into them have a hash in place of the key. The next run finds them by any of these
keys.

A single video is erased in the transaction of the caller.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from hashlib import blake2b
from secrets import token_hex
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Engine, Table

from recommender.database import aliases, bulk, lookup
from recommender.database.engine import clear_wal
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.database.transactions import run_on, run_transaction
from recommender.errors import UnknownUser
from recommender.formats import scalars
from recommender.formats.rows import VIDEO_COLUMNS
from recommender.formats.scalars import AnyKey
from recommender.formats.visibility import PUBLIC
from recommender.ingest.upserts import read_links
from recommender.ingest.videos import apply_videos, set_video_status
from recommender.learning.engagement import POSITIVE_KINDS
from recommender.learning.statistics import RefreshRun, lock_videos
from recommender.learning.viewer_subtraction import (
    VIDEO_STATISTICS,
    counted_viewer,
    statistics_without,
)
from recommender.models.tables import (
    BLOCKS,
    EVENTS,
    HASHTAGS,
    INTERACTIONS,
    NEIGHBOURS,
    PENDING,
    SOUNDS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEOS,
)
from recommender.models.types import PREFIX
from recommender.operations.erased_names import (
    ERASED_PREFIX,
    begins,
    forget_unused,
    rename,
    unused,
)
from recommender.operations.inventory import OF_OTHERS, OF_VIDEOS, PER_USER, of_videos
from recommender.settings import Settings
from recommender.telemetry import traced

T = TypeVar("T")

MAX_ERASED_ROWS = 2_000
"""The most rows that one transaction deletes. It updates at most as many other rows."""

MAX_CHECKED_NAMES = 10_000
"""The most hashtags, sounds or users that one statement checks for rows that refer to them."""

KEPT_COLUMNS = frozenset(
    {"creator_id", "impressions", "engaged_views", "trending", "neighbours_views", "stats_at"}
)
"""The columns of a removed video that keep their values: its owner, and statistics."""

_NO_CONTENT = {
    name: () if column.many else None
    for name, column in VIDEO_COLUMNS.items()
    if not column.required and name not in {"creator", "status"}
}
"""The values of a video without content."""

ErasedRows = Mapping[str, int]
"""The number of rows that a transaction erased, by table. Empty if no rows were left."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """The receipt of an erasure: erased rows by table (named without `rec_`), and seconds.

    `blocks` counts the user's own blocks only, so that no receipt tells who blocked the user.
    After an interruption, the receipt of the next run covers only the remaining rows. `wal_cleared`
    is about SQLite: False if another connection was reading, so that the file's WAL still holds
    erased rows. It is None on PostgreSQL.
    """

    user: str
    rows: Mapping[str, int]
    seconds: float
    wal_cleared: bool | None

    def as_dict(self) -> dict[str, object]:
        """Return the receipt as `user erase` prints it."""
        return asdict(self)


@traced
def erase_user(engine: Engine, user: AnyKey, *, settings: Settings | None = None) -> Erasure:
    """Erase a person, in transactions of at most 10,000 rows.

    After the first transaction the user no longer exists, and their key is free, as are the keys of
    users merged into them. Each of these keys erases them all. An erasure can be
    interrupted at any point; call it again to continue. The user's rows are deleted, and other
    users' follows, mutes, suggestions and blocks of them. Their videos get the status `removed` and
    lose caption, hashtags, sound and key. Hashtags, sounds, and users created on sight get random
    names if nothing refers to them any more. On SQLite, the last step empties the WAL.

    The user's views are subtracted from the statistics of other videos. Trends may be imprecise if
    events arrived late or most of a trend came from this user; `refresh --rebuild` corrects them,
    unless events were pruned. The operations README lists what stays.

    Args:
        engine: a prepared engine.
        user: the user's key.
        settings: the settings; None reads the environment.

    Raises:
        InvalidValue: the key is malformed.
        UnknownUser: there is no such user, and no unfinished erasure of one.
        RecommenderError: the database failed; completed batches stay done.
    """
    started = time.monotonic()
    run = RefreshRun(engine, scalars.now(), settings or Settings.from_environment())
    key = scalars.parse_named("user", scalars.key, user)
    mark = partial(_mark, key=key, at=run.as_of)
    marked = run_transaction(engine, mark, settings=run.settings)
    if not marked:
        run_transaction(engine, check_first_rows, settings=run.settings)
        raise UnknownUser(f"there is no user {scalars.shown(user)}")
    rows = Counter({table.name.removeprefix(PREFIX): 0 for table in _tables()})
    for user_id in marked:
        for done in _erase(run, user_id):
            rows.update({name.removeprefix(PREFIX): count for name, count in done.items()})
    rows["users"] += run.locked(lambda session, _: rename(session, USERS, marked))
    wal_cleared = clear_wal(engine)
    return Erasure(key, dict(rows), round(time.monotonic() - started, 3), wal_cleared)


def _tables() -> Iterator[Table]:
    yield from (USERS, VIDEOS, SOUNDS, HASHTAGS)
    yield from (column.table for column in OF_VIDEOS)
    yield from PER_USER


def _mark(session: Session, *, key: str, at: datetime) -> Sequence[int]:
    """Clear a user's row and its aliases; return the ids of this person's unfinished erasures."""
    nothing = {column.name: None for column in USERS.c if column.nullable}
    # All rows of a person get one ending, so that each of their keys finds them all.
    ending = token_hex(16)
    for row_id, own_key in _lock_person(session, key):
        taken = {**nothing, "key": _marked(own_key) + ending, "erased_at": at, "discoverable": True}
        lookup.run(session, sa.update(USERS).where(USERS.c.id == row_id).values(taken))
    keys = _erased(session, USERS.c.key, begins(USERS.c.key, _marked(key)))
    same = (USERS.c.key.endswith(found.removeprefix(_marked(key))) for found in keys)
    is_marked = begins(USERS.c.key, ERASED_PREFIX), sa.or_(sa.false(), *same)
    return _erased(session, USERS.c.id, *is_marked) if keys else []


def _marked(key: str) -> str:
    """Return how the key of a row begins, until its erasure is complete."""
    return f"{ERASED_PREFIX}{blake2b(key.encode(), digest_size=16).hexdigest()}:"


def _erased(session: Session, column: sa.Column[T], *where: ColumnElement[bool]) -> Sequence[T]:
    erased = sa.select(column).where(*where, USERS.c.erased_at.is_not(None))
    return lookup.run(session, erased.order_by(USERS.c.id)).scalars().all()


def _lock_person(session: Session, key: str) -> Sequence[tuple[int, str]]:
    """Lock the user that a key stands for, with all users merged into them: ids and keys."""
    aliases.lock_person(session, key)
    # The strongest lock at once: waiting for a stronger one later could deadlock.
    target = sa.func.coalesce(USERS.c.merged_into, USERS.c.id)
    found = sa.select(target).where(USERS.c.key == key).with_for_update()
    if (owner := lookup.run(session, found).scalar()) is None:
        return []
    person = aliases.all_ids(owner).add_columns(USERS.c.key).order_by(USERS.c.key)
    return [(row.id, row.key) for row in lookup.run(session, person.with_for_update())]


def unfinished(session: Session) -> int:
    """Return the number of erasures that are interrupted or still running."""
    count = sa.select(sa.func.count()).select_from(USERS)
    is_marked = USERS.c.key.like(f"{ERASED_PREFIX}%:%"), USERS.c.erased_at.is_not(None)
    query = count.where(begins(USERS.c.key, ERASED_PREFIX), *is_marked)
    return lookup.run(session, query).scalar() or 0


def _erase(run: RefreshRun, user_id: int) -> Iterator[ErasedRows]:
    """Erase one marked user, and yield the result of every transaction."""
    # First the data that other users can see; last the data that a rebuild can restore.
    own_videos = sa.select(VIDEOS.c.id).where(VIDEOS.c.creator_id == user_id)
    yield from _repeated(run, partial(_disown_sounds, user_id))
    yield from _repeated(run, partial(_remove_videos, user_id))
    for column in _read(run, of_videos):
        yield from _repeated(run, partial(_delete, column.table, column.in_(own_videos)))
    logged = _first_positives(run, user_id)
    yield from _repeated(run, partial(_subtract, user_id, logged))
    own_blocks = sa.and_(BLOCKS.c.user_id == user_id, BLOCKS.c.direction == "by_me")
    yield from _repeated(run, partial(_delete, BLOCKS, own_blocks))
    for column in (EVENTS.c.user_id, *OF_OTHERS, *(table.c.user_id for table in PER_USER)):
        deleted = _repeated(run, partial(_delete, column.table, column == user_id))
        # The other rows of blocks are not counted: no one is told who blocked the user.
        yield from (done for done in deleted if column.table is not BLOCKS)
    for table in (HASHTAGS, SOUNDS, USERS):
        yield {table.name: _sweep(run, table)}


def _sweep(run: RefreshRun, table: Table) -> int:
    """Give random names to all names that nothing refers to; return the number.

    They include names that the user had given up before, which nothing connects with the user.
    """
    after: int | None = 0
    renamed = 0
    while after is not None:
        ids, after = _read(run, partial(_next_unused, table, after))
        for start in range(0, len(ids), MAX_ERASED_ROWS):
            some = ids[start : start + MAX_ERASED_ROWS]
            forget = partial(forget_unused, table=table, ids=some, erased_at=run.as_of)
            renamed += run_on(run.bind, forget, settings=run.settings)
    return renamed


def _next_unused(table: Table, after: int, session: Session) -> tuple[Sequence[int], int | None]:
    """Return the unused names of the next range, and its last id or None after the last range."""
    last = lookup.end_of_next(session, [table.c.id], (after,), MAX_CHECKED_NAMES)
    return ([], None) if last is None else (unused(session, table, after, last[0]), last[0])


def _read(run: RefreshRun, function: Callable[[Session], T]) -> T:
    """Run a function that only reads, so that it blocks no other writer."""
    assert isinstance(run.bind, Engine)  # noqa: S101 - `erase_user` takes one
    return run_transaction(run.bind, function, write=False, settings=run.settings)


def _repeated(run: RefreshRun, step: Callable[[Session, Any], ErasedRows]) -> Iterator[ErasedRows]:
    """Run a step, each time in its own transaction, until it has no rows left."""
    while done := run.locked(step):
        yield done


def _delete(table: Table, where: ColumnElement[bool], session: Session, _state: Any) -> ErasedRows:
    """Delete a batch of rows."""
    batch = sa.select(*table.primary_key).where(where).limit(MAX_ERASED_ROWS)
    keys = sorted(tuple(row) for row in lookup.run(session, batch))
    if not keys:
        return {}
    bulk.delete(session, table, keys)
    return {table.name: len(keys)}


def _remove_videos(user_id: int, session: Session, _state: Any) -> ErasedRows:
    """Remove a batch of a user's videos and clear their content."""
    is_left = VIDEOS.c.creator_id == user_id, VIDEOS.c.published_at != scalars.ERASED
    batch = sa.select(VIDEOS.c.key).where(*is_left)
    keys = lookup.run(session, batch.limit(MAX_ERASED_ROWS))
    video_keys = [tuple(row) for row in keys]
    videos = lookup.find(session, [VIDEOS.c.key], video_keys, [VIDEOS.c.id], lock=True)
    cleared = {c.name: None for c in VIDEOS.c if c.nullable and c.name not in KEPT_COLUMNS}
    ids = [video_id for (video_id,) in videos]
    removed = {"status": "removed", "visibility": PUBLIC, "published_at": scalars.ERASED}
    rename(session, VIDEOS, ids, **cleared, **removed)
    return {VIDEOS.name: len(ids)} if ids else {}


def _disown_sounds(user_id: int, session: Session, _state: Any) -> ErasedRows:
    """Clear the creator of one of a user's sounds. Other users' videos keep the sounds."""
    # One per transaction: a new key waits for all who refer to the sound, in whatever order they
    # refer to several.
    first = sa.select(SOUNDS.c.id).where(SOUNDS.c.creator_id == user_id).limit(1)
    ids = lookup.run(session, first).scalars().all()
    return {SOUNDS.name: rename(session, SOUNDS, ids, creator_id=None)} if ids else {}


def _first_positives(run: RefreshRun, user_id: int) -> dict[int, datetime]:
    """Return the time of a user's first counted positive event by video, read from the log."""
    first: dict[int, datetime] = {}
    after = ""
    while rows := run_on(run.bind, partial(_next_events, user_id, after), settings=run.settings):
        after = rows[-1].key
        for row in rows:
            if not row.is_pending and (row.engaged or row.kind in POSITIVE_KINDS):
                first[row.video_id] = min(first.get(row.video_id, row.at), row.at)
    return first


def _next_events(user_id: int, after: str, session: Session) -> Sequence[Any]:
    """Return the next batch of a user's events."""
    # A range of the primary key, which both databases plan well without statistics.
    key = (EVENTS.c.user_id, EVENTS.c.key)
    begins = sa.tuple_(*key) > sa.tuple_(sa.literal(user_id), sa.literal(after))
    is_same = PENDING.c.user_id == EVENTS.c.user_id, PENDING.c.key == EVENTS.c.key
    is_pending = sa.exists().where(*is_same).label("is_pending")
    names = ("key", "video_id", "at", "kind", "engaged")
    read = (
        sa.select(*(EVENTS.c[name] for name in names), is_pending)
        .where(begins, EVENTS.c.user_id <= user_id)
        .order_by(*key)
        .limit(MAX_ERASED_ROWS)
    )
    return lookup.run(session, read).all()


def _subtract(
    user_id: int, logged: Mapping[int, datetime], session: Session, state: Any
) -> ErasedRows:
    """Delete a batch of a user's interactions, and subtract them from the videos' statistics.

    Their pending events are deleted too; no refresh has counted these. If videos have no engaged
    view left, delete their neighbours first, in separate transactions.
    """
    mine = INTERACTIONS.c.user_id == user_id
    batch = sa.select(INTERACTIONS).where(mine).order_by(INTERACTIONS.c.video_id)
    rows = lookup.run(session, batch.limit(MAX_ERASED_ROWS)).all()
    if not rows:
        return {}
    of_video = {row.video_id: row for row in rows}
    read = [VIDEOS.c[name] for name in ("impressions", "engaged_views", "trending")]
    before = list(lock_videos(session, of_video, *read, VIDEOS.c.neighbours_views))
    pending = _pending(session, user_id, rows[0].video_id, rows[-1].video_id)
    viewers = {
        video_id: counted_viewer(
            dict(row._mapping),  # noqa: SLF001 - its API
            pending.get(video_id, ()),
            logged.get(video_id),
            state,
        )
        for video_id, row in of_video.items()
    }
    after = {
        video_id: statistics_without(viewers[video_id], values, state)
        for video_id, *values in before
    }
    unviewed = [i for i, (_, views, *_) in after.items() if viewers[i].had_positive and not views]
    if done := _delete(NEIGHBOURS, NEIGHBOURS.c.video_id.in_(unviewed), session, state):
        return done
    changed = sorted((i, *after[i]) for i, *values in before if tuple(values) != after[i])
    changes = {column.name: bulk.replace for column in VIDEO_STATISTICS[1:]}
    bulk.update_listed(session, VIDEO_STATISTICS, changed, changes)
    keys = sorted((user_id, row.key) for events in pending.values() for row in events)
    bulk.delete(session, PENDING, keys)
    bulk.delete(session, INTERACTIONS, [(user_id, row.video_id) for row in rows])
    return {INTERACTIONS.name: len(rows), PENDING.name: len(keys)}


def _pending(session: Session, user_id: int, first: int, last: int) -> dict[int, list[Any]]:
    """Return a user's uncounted events of a range of videos, by video."""
    is_among = PENDING.c.user_id == user_id, PENDING.c.video_id.between(first, last)
    pending: dict[int, list[Any]] = {}
    for row in lookup.run(session, sa.select(PENDING).where(*is_among)):
        pending.setdefault(row.video_id, []).append(row)
    return pending


@traced
def erase_video(session: Session, video: AnyKey) -> None:
    """Erase a video: its caption, hashtags, sound, key and everything derived from them.

    The video no longer exists afterwards, and its key is free. Its row stays with the status
    `removed` and a random key, because other users' events refer to it. Their events, states and
    affinities stay, and so do the counts of viewers. The creator's interests lose what they learned
    from it. Hashtags and sounds that nothing else uses get random names.

    Args:
        session: the caller's transaction; nothing is committed.
        video: the video's key.

    Raises:
        InvalidValue: the key is not valid.
        UnknownVideo: there is no such video.
    """
    set_video_status(session, video, "removed")  # which locks the creator and the video
    key, read = scalars.key(video), [VIDEOS.c.id, VIDEOS.c.sound_id]
    (row,) = lookup.find(session, [VIDEOS.c.key], [(key,)], read)
    hashtags = read_links(session, VIDEO_HASHTAGS, [row.id])
    apply_videos(session, [{**_NO_CONTENT, "id": key, "published_at": scalars.EARLIEST}])
    rename(session, VIDEOS, [row.id], published_at=scalars.ERASED)  # waits for vectors' writers
    for column in of_videos(session):
        lookup.run(session, sa.delete(column.table).where(column == row.id))
    forget_unused(session, HASHTAGS, (hashtag for _, hashtag, _ in hashtags))
    forget_unused(session, SOUNDS, [row.sound_id] if row.sound_id else [])
