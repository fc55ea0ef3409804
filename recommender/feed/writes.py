"""The writes of a served page: its session goes on, its videos are remembered and logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Integer, SmallInteger
from sqlalchemy.dialects import postgresql, sqlite

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.database.written_out import AS_POSITIONAL, identified
from recommender.feed.memory import Looked, remember, remember_at_once
from recommender.feed.values import FeedItem, FeedPage
from recommender.formats.scalars import LIST_SEPARATOR
from recommender.models.tables import SERVED, SESSIONS
from recommender.models.types import UtcDateTime
from recommender.ranking.request import Profile, RequestSummary
from recommender.ranking.scoring import score_key_of


def write_page(
    session: Session,
    page: FeedPage,
    asked: int,
    looked_at: Looked,
    contenders: Mapping[str, Any] | None,
) -> bool:
    """Write a page that is served: one statement on PostgreSQL, three on SQLite.

    Args:
        session: the caller's transaction, in which the user's row is locked.
        page: the page, with one item at least.
        asked: the number of videos that were asked for.
        looked_at: the positions of the session that the request for the page marks as seen.
        contenders: what the session carries to its next page, as it is stored.

    Returns:
        False if another page advanced the session before; then nothing is written.
    """
    values = _values(page, asked, looked_at, contenders)
    rows = [{**_served_row(page.request, item), "asked": asked} for item in page.items]
    in_turn = lookup.is_sqlite(session) or lookup.is_distributed(session)
    write = _write_in_turn if in_turn else _write_at_once
    return write(session, values, rows, is_first=page.request.position == 1)


def _values(
    page: FeedPage, asked: int, looked_at: Looked, contenders: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the values with which a page goes on with its session, and is remembered.

    A page that names a profile takes the session out of its experiment: it has no arm any more.
    """
    request, arm = page.request, page.request.arm
    return {
        "owner": request.user_id,
        "memory": request.memory,
        "own": request.session,
        "before": request.position,
        "after": request.position + len(page.items),
        "again": request.rewatch,
        "moment": request.as_of,
        "marked": looked_at.after,
        "looked": looked_at.until,
        "feed": request.feed and request.feed.id,
        "experiment": arm and arm.experiment_id,
        "number": arm and arm.number,
        "wanted": asked,
        "is_last": int(page.exhausted),
        "took": page.milliseconds,
        "carried": contenders,
    }


Rows = Sequence[Mapping[str, Any]]


def _write_in_turn(
    session: Session, values: Mapping[str, Any], rows: Rows, *, is_first: bool
) -> bool:
    """Write a page by three statements, on SQLite; by four on Citus."""
    dialect = sqlite if lookup.is_sqlite(session) else postgresql
    statement = _begin_statement(dialect) if is_first else _advance_statement()
    started_at = lookup.run(session, statement, values).scalar()
    if started_at is None:
        return False
    attempts = remember(session, values, [row["video_id"] for row in rows], started_at)
    # A host's clock may go back, but nothing in a session is older than the session.
    served_at = max(values["moment"], started_at)
    logged = [{**row, "served_at": served_at, "attempt": attempts[row["video_id"]]} for row in rows]
    bulk.insert(session, SERVED, logged, conflict=None)
    return True


def _write_at_once(
    session: Session, values: Mapping[str, Any], rows: Rows, *, is_first: bool
) -> bool:
    """Write a page by one statement, on PostgreSQL."""
    columns = [[row[column.name] for row in rows] for column in _LOGGED]
    every = {**values, **lookup.arrays(columns, "page")}
    statement = _write_statement(is_first=is_first)
    connection = lookup.connection(session)
    written = connection.execute(statement, every, execution_options=AS_POSITIONAL)
    return written.first() is not None


_LOGGED = tuple(column for column in SERVED.c if column.name != "attempt")


@cache
def _write_statement(*, is_first: bool) -> Any:
    """Return the statement that advances a session, remembers its page and logs it."""
    advanced = _begin_statement(postgresql) if is_first else _advance_statement()
    own = advanced.cte("own")
    page = sa.select(lookup.unnested(_LOGGED, "page", joined=False)).cte("page")
    remembered = remember_at_once(page, own).cte("remembered")
    # The same on PostgreSQL: no place is older than its session.
    logged = {**page.c, "served_at": bulk.greatest(own.c.started_at, page.c.served_at)}
    rows = (
        sa.select(*logged.values(), remembered.c.attempts)
        .join_from(page, remembered, remembered.c.video_id == page.c.video_id)
        .join(own, sa.true())
    )
    insert = postgresql.insert(SERVED).from_select([*logged, "attempt"], rows)
    statement = insert.on_conflict_do_nothing().returning(SERVED.c.user_id)
    # SQLAlchemy 2.0 would compile ON CONFLICT on each execution.
    return identified(statement, _write_statement, is_first)


_ADDED: dict[str, Any] = {
    "asked": sa.bindparam("wanted", type_=BigInteger()),
    "exhausted": sa.bindparam("is_last", type_=BigInteger()),
    "milliseconds": sa.bindparam("took", type_=BigInteger()),
}
"""What a page adds to its session."""


_CARRIED = sa.bindparam("carried", type_=SESSIONS.c.contenders.type)


@cache
def _begin_statement(dialect: Any) -> Any:
    insert = dialect.insert(SESSIONS)
    row: dict[str, Any] = {
        "user_id": sa.bindparam("owner", type_=BigInteger()),
        "session": sa.bindparam("own"),
        "next_position": sa.bindparam("after"),
        "rewatch": sa.bindparam("again"),
        "started_at": sa.bindparam("moment"),
        "last_at": sa.bindparam("moment"),
        "seen_until": sa.bindparam("looked"),
        "feed_id": sa.bindparam("feed"),
        "experiment_id": sa.bindparam("experiment"),
        "arm": sa.bindparam("number"),
        "pages": 1,
        "contenders": _CARRIED,
        **_ADDED,
    }
    return (
        insert.values(row)
        .on_conflict_do_nothing()
        .returning(SESSIONS.c.started_at, SESSIONS.c.last_at)
    )


@cache
def _advance_statement() -> Any:
    latest = sa.bindparam("moment", type_=UtcDateTime())
    looked = sa.bindparam("looked", type_=Integer())
    return (
        sa.update(SESSIONS)
        .where(
            SESSIONS.c.user_id == sa.bindparam("owner", type_=BigInteger()),
            SESSIONS.c.session == sa.bindparam("own"),
            SESSIONS.c.next_position == sa.bindparam("before"),
        )
        .values(
            next_position=sa.bindparam("after"),
            last_at=bulk.greatest(SESSIONS.c.last_at, latest),
            seen_until=bulk.greatest(SESSIONS.c.seen_until, looked),
            arm=sa.bindparam("number", type_=SmallInteger()),
            pages=SESSIONS.c.pages + 1,
            contenders=_CARRIED,
            **{name: SESSIONS.c[name] + value for name, value in _ADDED.items()},
        )
        .returning(SESSIONS.c.started_at, SESSIONS.c.last_at)
    )


def _served_row(request: RequestSummary, item: FeedItem) -> Mapping[str, Any]:
    profile = item.profile or request.profile
    return {
        "user_id": request.user_id,
        "session": request.session,
        "position": item.position,
        "video_id": item.video_id,
        "page": request.position,
        "served_at": request.as_of,
        "profile_id": profile.id,
        "score_key": score_key_of(item.score),
        "sources": LIST_SEPARATOR.join(item.sources),
        "explored": item.explored,
        "crowded": item.crowded,
        "refilled": item.refilled,
        "signals": _recorded_signals(profile, item),
    }


def _recorded_signals(profile: Profile, item: FeedItem) -> dict[str, float | list[float]]:
    """Return the values of the signals that are not 0.

    A signal of the host has its value and its weight, because no profile holds that weight.
    """
    weights = profile.weights
    return {
        name: part.value if name in weights else [part.value, part.weight]
        for name, part in item.signals.items()
        if part.value or name not in weights
    }
