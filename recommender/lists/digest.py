"""`digest`: the first videos of a feed for many users, for a message to each of them.

Users come in batches, in the order of their row ids. Each batch is ranked and recorded in one
transaction, and handed out after its commit. The session of a user is derived from the feed, the
run and the user, so that the same run again gives the videos that were recorded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database import aliases, lookup
from recommender.database.expressions import Statement, named
from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue
from recommender.feed.feeds import get_feed
from recommender.feed.for_you import make_page
from recommender.feed.resolve import reading_time, resolve
from recommender.feed.sessions import serve
from recommender.feed.values import FeedItem
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey, key_or_none
from recommender.models.tables import INTERACTIONS, USERS
from recommender.ranking.request import FeedRequest, check_limit
from recommender.settings import Settings
from recommender.telemetry import traced

DIGEST_LIMIT = 5
"""The default number of videos."""

USERS_READ = 1_000
"""The number of users that one statement looks up, so that a few active users are found fast."""

USERS_AT_ONCE = 20
"""The number of users of a transaction: it holds their rows for about half a second."""

PAUSE_SECONDS = 0.12
"""The pause after each transaction on SQLite, so that other writers have a turn.

A writer that waits there looks for the lock every 0.1 s. It would miss the moment between two
transactions, again and again until its `Settings.busy_timeout`.
"""

_NAMESPACE = UUID("b1a0a6f3-6d6d-5a38-9c0e-6f0d3f6f3c11")
"""The namespace of the sessions of digests; any other would do, but it must not change."""

_LARGEST_SCORE = 1e9


@dataclass(frozen=True, slots=True)
class Digest:
    """The videos for one user.

    Attributes:
        user: the user's key.
        items: the videos in order, one at least.
    """

    user: str
    items: tuple[FeedItem, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the digest as `digest --format jsonl` prints it."""
        return {"user": self.user, "items": [item.as_dict() for item in self.items]}


@dataclass(frozen=True, slots=True)
class _Run:
    """What is the same for all users of a digest; see `digest`."""

    feed: str
    run: str
    limit: int
    least: float | None
    as_of: datetime | None
    settings: Settings

    def session_of(self, user_id: int) -> UUID:
        return uuid5(_NAMESPACE, json.dumps([self.feed, self.run, user_id]))


def digest(
    engine: Engine,
    users: Iterable[AnyKey] | None = None,
    *,
    feed: str,
    run: str,
    limit: int = DIGEST_LIMIT,
    since: datetime | None = None,
    least: float | None = None,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> Iterator[Digest]:
    """Yield the first videos of a feed for many users, and record them as served.

    Every user is served once in a run. The same run again yields the same videos, less what may no
    longer be shown, also after a process was killed: so each message is sent at least once. Give
    the feed its own memory, so that a message uses up nothing of what For You shows. A page is not
    refilled with videos that were served before. Users without any video are left out, and those
    who were erased or merged into another user.

    Each batch of 20 users is one transaction, which is committed before its first user is yielded:
    no lock is held while the caller sends a message.

    Args:
        engine: a prepared engine.
        users: the users' keys, in any number; keys without a user are skipped. None for all users.
        feed: the name of a feed of `create_feed`.
        run: the name of the run, 1 to 255 characters, such as its date.
        limit: the largest number of videos of a user, 1 to 500.
        since: a time with an offset: only users with an event with a video since then; None for
            all.
        least: the least score: users for whom no video reaches it are left out, and nothing is
            recorded for them. None for any score.
        as_of: the reading time, with an offset; None for the time of each batch.
        settings: the numbers that shape signals and sources; None for the environment's.

    Raises:
        InvalidValue: a value has the wrong form.
        UnknownFeed: there is no such feed, or it was deleted.
        RecommenderError: a database error; what was yielded is recorded, and the run can go on.
    """
    if isinstance(users, str) or not isinstance(users, Iterable | None):
        raise InvalidValue(f"users: {scalars.shown(users)} is no list of keys")
    since = None if since is None else scalars.parse_named("since", scalars.time, since)
    settings = settings or Settings.from_environment()
    own = _Run(
        feed=feed,
        run=scalars.parse_named("run", scalars.label, run),
        limit=check_limit(limit),
        least=None if least is None else _checked_score(least),
        as_of=None if as_of is None else reading_time(as_of),
        settings=replace(settings, session_lifetime=_longest_lifetime()),
    )
    run_transaction(engine, partial(get_feed, name=feed), write=False, settings=settings)
    return _digests(engine, own, _users(engine, users, since, settings))


def _checked_score(least: float) -> float:
    return scalars.parse_named("least", scalars.number, least, -_LARGEST_SCORE, _LARGEST_SCORE)


def _longest_lifetime() -> float:
    """Return the longest lifetime of a session: a run may be repeated after a day."""
    (lifetime,) = (each for each in fields(Settings) if each.name == "session_lifetime")
    return float(lifetime.metadata["high"])


_UserRow = tuple[int, str]
"""A user's row id and key."""


def _digests(engine: Engine, own: _Run, users: Iterator[_UserRow]) -> Iterator[Digest]:
    while batch := sorted(islice(users, USERS_AT_ONCE)):
        found = digest_batch(engine, own, batch)
        if engine.dialect.name == "sqlite":
            time.sleep(PAUSE_SECONDS)
        yield from found


@traced
def digest_batch(engine: Engine, own: _Run, batch: Sequence[_UserRow]) -> list[Digest]:
    """Serve the users of a batch in a transaction."""
    # The span is of a batch: one of the whole iterator would also last while the caller works.
    return run_transaction(engine, partial(_serve, own, batch), settings=own.settings)


def _serve(own: _Run, batch: Sequence[_UserRow], session: Session) -> list[Digest]:
    """Serve the users of a batch, whose rows are locked in the order of their keys."""
    in_order = sorted(batch, key=itemgetter(1))
    found = {user_id: _digest_of(session, own, user_id, key) for user_id, key in in_order}
    return [each for user_id, _ in batch if (each := found[user_id]) is not None]


def _digest_of(session: Session, own: _Run, user_id: int, key: str) -> Digest | None:
    """Return the videos of a user, who is served unless the run has served them: six statements."""
    request = resolve(
        session, key, feed=own.feed, limit=own.limit, as_of=own.as_of, settings=own.settings,
        session_id=own.session_of(user_id), lock=True,
    )  # fmt: skip
    if request.user_id != user_id:  # erased or merged meanwhile
        return None
    items = _served_items(session, own, request)
    return Digest(request.user, items) if items else None


def _served_items(session: Session, own: _Run, request: FeedRequest) -> tuple[FeedItem, ...]:
    page = make_page(session, request, record=False)
    if request.is_served:
        return page.items
    items = tuple(item for item in page.items if not item.refilled)
    if not items or (own.least is not None and all(item.score < own.least for item in items)):
        return ()
    page = replace(page, items=items, exhausted=len(items) < own.limit)
    return serve(session, page, own.settings, request.seen_until).items


def _users(
    engine: Engine, keys: Iterable[AnyKey] | None, since: datetime | None, settings: Settings
) -> Iterator[_UserRow]:
    """Yield the users to serve, each once; each part is read in a transaction of its own."""
    given, last, known = None if keys is None else iter(keys), 0, set[int]()
    while True:
        if given is None:
            read = partial(_next_users, after=last)
        elif part := list(islice(given, USERS_READ)):
            read = partial(_given_users, keys=part)
        else:
            return
        rows = run_transaction(engine, read, write=False, settings=settings)
        if given is None and not rows:
            return
        last = rows[-1][0] if rows else last
        ids = [row_id for row_id, _ in rows if row_id not in known]
        is_active = partial(_active_ids, ids=ids, since=since)
        active = run_transaction(engine, is_active, write=False, settings=settings)
        yield from (row for row in rows if row[0] in active)
        if given is not None:  # two keys of one user may be far apart
            known.update(active)


def _next_users(session: Session, after: int) -> list[_UserRow]:
    """Return the users after a row id, in the order of their ids."""
    is_left = USERS.c.id > after, USERS.c.erased_at.is_(None), USERS.c.merged_into.is_(None)
    query = sa.select(USERS.c.id, USERS.c.key).where(*is_left).order_by(USERS.c.id)
    return [tuple(row) for row in _rows(session, query.limit(USERS_READ))]


def _given_users(session: Session, keys: Sequence[AnyKey]) -> list[_UserRow]:
    """Return the users of keys, each once."""
    known = [key for key in map(key_or_none, keys) if key is not None]
    rows = aliases.find_users(session, known, [USERS.c.id, USERS.c.key])
    return list(dict.fromkeys((row_id, key) for _, row_id, key in rows))


def _active_ids(session: Session, ids: Sequence[int], since: datetime | None) -> set[int]:
    """Return the users with an event with a video since a time; all of them without one."""
    if since is None or not ids:
        return set(ids)
    was_active = sa.exists().where(
        INTERACTIONS.c.user_id == USERS.c.id, INTERACTIONS.c.last_at >= since
    )
    query = sa.select(USERS.c.id).where(USERS.c.id.in_(ids), was_active)
    return {row.id for row in _rows(session, query)}


def _rows(session: Session, query: Statement) -> Sequence[Any]:
    return lookup.run(session, named(query, "digest")).all()
