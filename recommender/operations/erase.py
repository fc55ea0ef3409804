"""Erasing a person: what they were, did, made and were served, and what was learned of it.

The first transaction takes the person's key away, so that nobody finds them any more, and whoever
still writes for them is waited for. What follows goes in batches, each a transaction of its own
that holds the learning state: erasing and refreshing take turns, and statistics are at every point
what is left of the log. While an erasure is unfinished, its row has a hash of the key in place of
the key, by which the next run finds it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache, partial
from hashlib import blake2b
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Engine, Table
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.transactions import run_transaction
from recommender.errors import UnknownUser
from recommender.formats import scalars
from recommender.learning.affinities import decay_exponent
from recommender.learning.statistics import MAX_TREND, RefreshRun, lock_videos
from recommender.models.tables import (
    EVENTS,
    HASHTAGS,
    INTERACTIONS,
    NEIGHBOURS,
    PENDING,
    SOUNDS,
    USERS,
    VIDEOS,
)
from recommender.models.types import PREFIX, Base
from recommender.operations.inventory import OF_OTHERS, OF_VIDEOS, PER_USER
from recommender.settings import Settings

ROWS_AT_ONCE = 2_000
"""Rows that a transaction deletes; it changes at most as many others."""

LEAST_LEFT = 2.0**-40
"""Part of a trend below which what is left of it is but rounding."""

NOBODY = "erased:"
"""What the key of an erased row begins with."""

STATISTICS = frozenset({"impressions", "engaged_views", "trending", "neighbours_views", "stats_at"})
"""What a video has from its viewers, and keeps."""

Done = Mapping[str, int]
"""How many rows of each table a transaction erased; none where nothing was left."""

Engaged = tuple[int, datetime]
"""How many engaged views of a video the log has of a user, and the time of the first."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """The receipt of an erasure: rows erased of each table (named without `rec_`), and seconds.

    Those of an erasure that goes on after an interruption are of the rest.
    """

    user: str
    rows: Mapping[str, int]
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The receipt as `user erase` prints it."""
        return asdict(self)


def erase_user(engine: Engine, user: str, *, settings: Settings | None = None) -> Erasure:
    """Erase a person, in transactions of its own of at most 10,000 rows each.

    From its first transaction on there is no such user: nothing is recorded or served for them, and
    whoever writes the key again makes a new one. It can end at any point; run again, it goes on.

    Rows of theirs are deleted, as are others' follows and mutes of them. Their videos are removed
    and stay, without caption, hashtags, sound and key, for what others did with them. What they
    added to other videos' statistics is taken off again, exactly; from trends, as exactly as
    subtracting allows: where events came late, or nearly all of a trend was theirs, `refresh
    --rebuild` computes it, unless events were pruned. Of a view that was pruned no more is taken
    off than it can have added. The next refresh finds the neighbours of what they engaged with
    anew.
    Hashtags and sounds that nothing else has get random names.

    What stays: others' affinities to them, for a row that says nothing; how many captions have a
    word, until it is counted anew; hashtags that they had given up before; backups, and freed
    pages until they are overwritten (`VACUUM`).

    Args:
        engine: a prepared engine.
        user: the user's key.
        settings: those of the environment where None.

    Raises:
        InvalidValue: the key is not of its form.
        UnknownUser: there is no such user, and no unfinished erasure of one.
        RecommenderError: the database refused; the batches before are done.
    """
    started = time.monotonic()
    run = RefreshRun(engine, scalars.now(), settings or Settings.from_environment())
    key = scalars.parse_named("user", scalars.key, user)
    mark = partial(_mark, key=key, at=run.as_of)
    marked = run_transaction(engine, mark, settings=run.settings)
    if not marked:
        raise UnknownUser(f"there is no user {scalars.shown(user)}")
    rows = Counter({table.name.removeprefix(PREFIX): 0 for table in _tables()})
    for user_id in marked:
        for done in _erase(run, user_id):
            rows.update({name.removeprefix(PREFIX): count for name, count in done.items()})
    return Erasure(user, dict(rows), round(time.monotonic() - started, 3))


def _tables() -> Iterator[Table]:
    yield from (USERS, VIDEOS, SOUNDS, HASHTAGS)
    yield from (column.table for column in OF_VIDEOS)
    yield from PER_USER


def _mark(session: Session, *, key: str, at: datetime) -> Sequence[int]:
    """Take a user's key and whatever else their row says; the ids of all that it was the key of."""
    unfinished = f"{NOBODY}{blake2b(key.encode(), digest_size=16).hexdigest()}:"
    locked = lookup.find(session, [USERS.c.key], [(key,)], [USERS.c.id], lock=True)
    found = [row.id for row in locked]
    nothing = {column.name: None for column in USERS.c if column.nullable}
    taken = {**nothing, "key": unfinished + token_hex(16), "erased_at": at}
    changed = sa.update(USERS).where(USERS.c.id.in_(found)).values(taken)
    lookup.run(session, changed)
    marked = sa.select(USERS.c.id).where(
        _begins(USERS.c.key, unfinished), USERS.c.erased_at.is_not(None)
    )
    return lookup.run(session, marked.order_by(USERS.c.id)).scalars().all()


def _begins(column: sa.Column[Any], prefix: str) -> ColumnElement[bool]:
    """Whether a key begins with a prefix that ends in a colon; SQLite has no index for LIKE."""
    return sa.and_(column >= prefix, column < f"{prefix[:-1]};")


def unfinished(session: Session) -> int:
    """How many erasures have begun and not ended: interrupted, or under way."""
    count = sa.select(sa.func.count()).select_from(USERS)
    is_marked = USERS.c.key.like(f"{NOBODY}%:%"), USERS.c.erased_at.is_not(None)
    found = count.where(_begins(USERS.c.key, NOBODY), *is_marked)
    return lookup.run(session, found).scalar() or 0


def _erase(run: RefreshRun, user_id: int) -> Iterator[Done]:
    """Erase one marked user, a transaction at a time.

    What others see goes first, what a rebuild could derive anew last.
    """
    own_videos = sa.select(VIDEOS.c.id).where(VIDEOS.c.creator_id == user_id)
    yield from _repeated(run, partial(_disown_sounds, user_id))
    yield from _repeated(run, partial(_remove_videos, user_id))
    for column in OF_VIDEOS:
        yield from _repeated(run, partial(_delete, column.table, column.in_(own_videos)))
    yield from _repeated(run, partial(_forget_pending, user_id))
    logged = _engaged(run, user_id)
    yield from _repeated(run, partial(_subtract, user_id, logged))
    for column in (EVENTS.c.user_id, *OF_OTHERS, *(table.c.user_id for table in PER_USER)):
        yield from _repeated(run, partial(_delete, column.table, column == user_id))
    yield run.locked(partial(_finish, user_id))


def _repeated(run: RefreshRun, step: Callable[[Session, Any], Done]) -> Iterator[Done]:
    """Take a step in a transaction of its own until nothing is left to do."""
    while done := run.locked(step):
        yield done


def _delete(table: Table, where: ColumnElement[bool], session: Session, _state: Any) -> Done:
    """Delete some rows; before, since the catalogue is written first, forget what only they had."""
    some = sa.select(*table.primary_key).where(where).limit(ROWS_AT_ONCE)
    keys = sorted(tuple(row) for row in lookup.run(session, some))
    if not keys:
        return {}
    done = {table.name: len(keys)}
    for named, column in ((HASHTAGS, "hashtag_id"), (SOUNDS, "sound_id")):
        if column in (names := table.primary_key.columns.keys()):
            ids = {key[names.index(column)] for key in keys}
            done[named.name] = _forget_unused(session, named, ids, table, ~where)
    bulk.delete(session, table, keys)
    return done


def _forget_unused(
    session: Session, named: Table, ids: Iterable[int], table: Table, stays: ColumnElement[bool]
) -> int:
    """Give random names to those hashtags or sounds that nothing will have any more.

    They are not deleted: somebody may just be about to refer to one.

    Args:
        session: the transaction.
        named: the table of hashtags or sounds.
        ids: which of them.
        table: a table that refers to them, and of which rows go.
        stays: whether a row of it stays.
    """
    listed = lookup.listed(lookup.is_sqlite(session), (named.c.id,))
    name = "hashtag_id" if named is HASHTAGS else "sound_id"
    uses = [each.c[name] == named.c.id for each in Base.metadata.sorted_tables if name in each.c]
    used = [sa.exists().where(use, stays if use.left.table is table else sa.true()) for use in uses]
    is_unused = sa.and_(~sa.or_(*used), ~_begins(_key(named), NOBODY))
    unused = sa.select(named.c.id).join(listed, listed.c.id == named.c.id).where(is_unused)
    given = lookup.listed_values(session, 1, [(row_id,) for row_id in sorted(ids)])
    found = lookup.run(session, unused, given).scalars()
    return _rename(session, named, found.all())


def _key(table: Table) -> sa.Column[Any]:
    return table.c.name if table is HASHTAGS else table.c.key


def _rename(session: Session, table: Table, ids: Sequence[int], **changed: Any) -> int:
    """Give random keys (to hashtags: names) to rows, and change other columns of them as well."""
    if ids:
        column = _key(table)
        values = [(row_id, NOBODY + token_hex(16)) for row_id in ids]
        changes = {column.name: bulk.replace}
        bulk.update_listed(session, (table.c.id, column), values, changes, changed)
    return len(ids)


def _remove_videos(user_id: int, session: Session, _state: Any) -> Done:
    """Remove some of a user's videos, and whatever they say."""
    is_done = sa.and_(
        _begins(VIDEOS.c.key, NOBODY),
        VIDEOS.c.status == "removed",
        VIDEOS.c.published_at == scalars.EARLIEST,
    )
    some = sa.select(VIDEOS.c.key).where(VIDEOS.c.creator_id == user_id, ~is_done)
    keys = lookup.run(session, some.limit(ROWS_AT_ONCE))
    wanted = [tuple(row) for row in keys]
    read = [VIDEOS.c.id, VIDEOS.c.sound_id]
    found = lookup.find(session, [VIDEOS.c.key], wanted, read, lock=True)
    said = {c.name: None for c in VIDEOS.c if c.nullable and c.name not in STATISTICS}
    ids = [video_id for video_id, _ in found]
    sounds = {sound for _, sound in found if sound is not None}
    forgotten = _forget_unused(session, SOUNDS, sounds, VIDEOS, VIDEOS.c.creator_id != user_id)
    _rename(session, VIDEOS, ids, **said, status="removed", published_at=scalars.EARLIEST)
    return {VIDEOS.name: len(ids), SOUNDS.name: forgotten} if ids else {}


def _disown_sounds(user_id: int, session: Session, _state: Any) -> Done:
    """Let some of a user's sounds be nobody's; others' videos keep them."""
    some = sa.select(SOUNDS.c.id).where(SOUNDS.c.creator_id == user_id).limit(ROWS_AT_ONCE)
    ids = lookup.run(session, some).scalars().all()
    return {SOUNDS.name: _rename(session, SOUNDS, ids, creator_id=None)} if ids else {}


def _forget_pending(user_id: int, session: Session, _state: Any) -> Done:
    """Let some of what no refresh has counted never have been: their states no longer count it."""
    some = sa.select(PENDING).where(PENDING.c.user_id == user_id).limit(ROWS_AT_ONCE)
    rows = lookup.run(session, some).all()
    if not rows:
        return {}
    bulk.delete(session, PENDING, sorted((row.user_id, row.key) for row in rows))
    counts: dict[int, list[int]] = {}
    for row in rows:
        pair = counts.setdefault(row.video_id, [0, 0])
        pair[0] += row.impressions
        pair[1] += row.engaged_views
    values = sorted((video_id, *pair) for video_id, pair in counts.items() if any(pair))
    given = {**lookup.listed_values(session, 3, values), "user": user_id}
    lookup.run(session, _uncount(lookup.is_sqlite(session)), given)
    return {PENDING.name: len(rows)}


@cache
def _uncount(on_sqlite: bool) -> sa.Update:  # noqa: FBT001
    names = ("impressions", "engaged_views")
    rows = lookup.listed(on_sqlite, (INTERACTIONS.c.video_id, *(INTERACTIONS.c[n] for n in names)))
    is_state = (
        INTERACTIONS.c.user_id == sa.bindparam("user", type_=sa.BigInteger),
        INTERACTIONS.c.video_id == rows.c.video_id,
    )
    left = {n: sa.case((rows.c[n] > 0, 0), else_=INTERACTIONS.c[n]) for n in names}
    return sa.update(INTERACTIONS).where(*is_state).values(left)


def _engaged(run: RefreshRun, user_id: int) -> dict[int, Engaged]:
    """A user's engaged views of each video, by the log."""
    found: dict[int, Engaged] = {}
    after = ""
    while rows := run_transaction(
        run.engine, partial(_next_events, user_id, after), write=False, settings=run.settings
    ):
        after = rows[-1].key
        for row in rows:
            if row.engaged:
                views, at = found.get(row.video_id, (0, row.at))
                found[row.video_id] = views + 1, min(at, row.at)
    return found


def _next_events(user_id: int, after: str, session: Session) -> Sequence[Any]:
    """The next of a user's log, by a range of its key: this is planned well without statistics."""
    key = (EVENTS.c.user_id, EVENTS.c.key)
    begins = sa.tuple_(*key) > sa.tuple_(sa.literal(user_id), sa.literal(after))
    read = (
        sa.select(EVENTS.c.key, EVENTS.c.video_id, EVENTS.c.at, EVENTS.c.engaged)
        .where(begins, EVENTS.c.user_id <= user_id)
        .order_by(*key)
        .limit(ROWS_AT_ONCE)
    )
    return lookup.run(session, read).all()


def _subtract(user_id: int, logged: Mapping[int, Engaged], session: Session, state: Any) -> Done:
    """Delete some of a user's states, and take what they counted off the videos' statistics.

    Where a video has no engaged view left, its neighbours go first, in transactions of their own.
    """
    mine = INTERACTIONS.c.user_id == user_id
    some = sa.select(INTERACTIONS).where(mine).order_by(INTERACTIONS.c.video_id)
    rows = lookup.run(session, some.limit(ROWS_AT_ONCE)).all()
    if not rows:
        return {}
    of_video = {row.video_id: row for row in rows}
    read = [VIDEOS.c[name] for name in ("impressions", "engaged_views", "trending")]
    before = list(lock_videos(session, of_video, *read, VIDEOS.c.neighbours_views))
    after = {
        video_id: _without(of_video[video_id], values, logged.get(video_id), state)
        for video_id, *values in before
    }
    gone = [i for i, (_, views, *_) in after.items() if of_video[i].engaged_at and not views]
    if done := _delete(NEIGHBOURS, NEIGHBOURS.c.video_id.in_(gone), session, state):
        return done
    changed = sorted((i, *after[i]) for i, *values in before if tuple(values) != after[i])
    changes = {column.name: bulk.replace for column in _STATISTICS[1:]}
    bulk.update_listed(session, _STATISTICS, changed, changes)
    bulk.delete(session, INTERACTIONS, [(user_id, row.video_id) for row in rows])
    return {INTERACTIONS.name: len(rows)}


_STATISTICS = (
    VIDEOS.c.id,
    *(VIDEOS.c[name] for name in ("impressions", "engaged_views", "trending", "neighbours_views")),
)


def _without(
    row: Any, values: Sequence[Any], logged: Engaged | None, state: Any
) -> tuple[int, int, float | None, int]:
    """A video's statistics without one user's; those of its neighbours are out of date then."""
    impressions, engaged_views, trending, neighbours_views = values
    if row.impressions:
        impressions = max(0, impressions - 1)
    if row.engaged_views:
        engaged_views = max(0, engaged_views - 1)
        at = _first_engaged(row, logged)
        trending = _trend_without(trending, at, state) if engaged_views else None
    return impressions, engaged_views, trending, 0 if row.engaged_at else neighbours_views


def _first_engaged(row: Any, logged: Engaged | None) -> datetime:
    """When a user first had an engaged view; where it was pruned, no later than they had."""
    views, at = logged or (0, row.first_at)
    return at if views == row.engaged_views else row.first_at


def _trend_without(trend: float | None, at: datetime, state: Any) -> float | None:
    """The logarithm to base 2 of what is left of a sum of powers of 2; None where it is nothing."""
    if trend is None:
        return None
    gone = decay_exponent(state.landmark, state.trend_half_life_days, at) - trend
    left = -math.expm1(min(gone, 0.0) * math.log(2))
    return max(-MAX_TREND, trend + math.log2(left)) if left > LEAST_LEFT else None


def _finish(user_id: int, session: Session, _state: Any) -> Done:
    """Take the last trace of a user's key."""
    return {USERS.name: _rename(session, USERS, [user_id])}
