"""The statements of a page: built once for each shape of request, and run.

Building a statement takes longer than the database takes to answer it. Each statement is therefore
built once for each shape of request, cached, and executed with the values of the request.
SQLAlchemy keeps the cache key with the statement, and the compiled text under that key in a cache
of this module. A host's predicate or signal is found by its structure, so that it may be written
again for each request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.util import LRUCache

from recommender.database import lookup
from recommender.database.expressions import Statement, named
from recommender.database.session import Session
from recommender.database.written_out import AS_POSITIONAL, identified, written_out
from recommender.formats import scalars
from recommender.models import Hashtag, Sound, User, Video, VideoCaption, VideoHashtag
from recommender.models.tables import RECENT, VIDEOS
from recommender.ranking.additions import check_sql_of, kept_shape
from recommender.ranking.candidates import scan_end
from recommender.ranking.classic import ranked_reference
from recommender.ranking.history import PEOPLE_LIMIT
from recommender.ranking.request import Contenders, FeedRequest, ScanPosition
from recommender.ranking.scoring import (
    FORMAT_COLUMN,
    PAGE_COLUMNS,
    every_served,
    pool_size,
    ranked_candidates,
    ranked_with_outcomes,
    top_candidates,
    top_contenders,
    top_served,
)
from recommender.ranking.viewer import Shape, Viewer, ViewerParts, values_of

MAX_STATEMENTS = 100
"""The number of cached statements; the least recently used is dropped first.

A profile with other signals is another shape of request, and so another statement.
"""


class _Compiled(LRUCache[Any, Any]):
    """The compiled statements of a pool, and how often one was compiled."""

    compiled = 0

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep a statement that was compiled."""
        self.compiled += 1
        super().__setitem__(key, value)


_compiled_by_pool: WeakKeyDictionary[sa.Pool, _Compiled] = WeakKeyDictionary()

RankedQuery: TypeAlias = Callable[[Shape, Viewer], Statement]
"""A module-level function that builds the statement of the ranked videos."""

Wrapper: TypeAlias = Callable[[Statement, str], Statement]
"""A module-level function that wraps that statement: it adds its name, or columns and its name."""


class Candidates(NamedTuple):
    """The scored candidates of a page, the best first.

    Attributes:
        rows: one row for each candidate, with its score key and signals.
        pool: the maximum number of candidates read, exploration candidates not counted; None if
            all were read.
        shown: whether the rows also hold the columns that a page shows.
        pages: the number of pages of the session since all sources were read, with this one.
        unread: the row ids of contenders that were ranked below all others before.
    """

    rows: Sequence[Any]
    pool: int | None = None
    shown: bool = False
    pages: int = 1
    unread: Sequence[int] = ()


def read_top_candidates(session: Session, request: FeedRequest) -> Candidates:
    """Read the best candidates of a page and all exploration candidates: one statement.

    The reference profile reads the videos of the page themselves.
    """
    if request.profile.is_reference:
        return Candidates(
            page_rows(session, request, ranked_reference, "for_you").all(), shown=True
        )
    rows = candidate_rows(session, request, top_candidates, "for_you").all()
    return Candidates(rows, pool=pool_size(request.limit))


def read_contenders(session: Session, request: FeedRequest, contenders: Contenders) -> Candidates:
    """Read the best contenders as candidates, and what is added to them: one statement."""
    best = pool_size(request.limit)
    rows = candidate_rows(session, request, top_contenders, "for_you", contenders.videos[:best])
    return Candidates(rows.all(), pages=contenders.pages + 1, unread=contenders.videos[best:])


def read_all_candidates(session: Session, request: FeedRequest) -> Candidates:
    """Read all candidates of a page: one statement."""
    return Candidates(candidate_rows(session, request, ranked_candidates, "for_you").all())


def read_served(session: Session, request: FeedRequest, *, every: bool = False) -> Candidates:
    """Read unseen videos that were served before, the oldest first: one statement.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        every: whether to read all of them, not only `pool_size`.
    """
    if every:
        return Candidates(candidate_rows(session, request, every_served, "refill").all())
    rows = candidate_rows(session, request, top_served, "refill").all()
    return Candidates(rows, pool=pool_size(request.limit))


def read_given_candidates(
    session: Session, request: FeedRequest, keys: Sequence[str]
) -> Candidates:
    """Read the given videos as candidates, with the outcomes of all filters: one statement."""
    return Candidates(
        page_rows(session, request, ranked_with_outcomes, "rank", keys).all(), shown=True
    )


def read_friends(session: Session, request: FeedRequest) -> str:
    """Read the recent engagements of the people whom the viewer follows: two or three statements.

    On Citus they are on other nodes than the viewer, so that the page cannot read them itself.

    Returns:
        A JSON list, as in `FeedRequest.friends`.
    """
    values = values_of(request)
    creators = lookup.run(session, _followed_query(), values).scalars().all()
    if len(creators) > PEOPLE_LIMIT:
        latest = sa.select(RECENT.c.user_id, sa.func.max(RECENT.c.video_id).label("newest"))
        latest = latest.where(RECENT.c.user_id.in_(creators)).group_by(RECENT.c.user_id)
        newest = dict(map(tuple, lookup.run(session, latest)))
        creators = sorted(creators, key=lambda creator: (-newest.get(creator, 0), creator))
    people = creators[:PEOPLE_LIMIT]
    if not people:
        return "[]"
    rows = lookup.run(session, sa.select(RECENT).where(RECENT.c.user_id.in_(people)))
    given: list[dict[str, Any]] = [
        {"user_id": row.user_id, "video_id": row.video_id, "at": row.at.isoformat()} for row in rows
    ]
    return json.dumps([*({"user_id": person} for person in people), *given])


@cache
def _followed_query() -> Statement:
    followed = Viewer.named(ViewerParts()).followed
    return named(sa.select(followed.c.creator_id), "followed")


def read_scan_end(session: Session, request: FeedRequest) -> ScanPosition | None:
    """Read where the scan for the host's condition stopped: one statement.

    Returns:
        None if it reached the oldest video.
    """
    rows = lookup.run(session, _scan_end_query(), values_of(request))
    published_at, video_id = rows.one()
    return ScanPosition(published_at or scalars.UNDATED, video_id) if video_id else None


@cache
def _scan_end_query() -> Statement:
    return named(scan_end(Viewer.named(ViewerParts())), "scan_end")


def page_rows(
    session: Session,
    request: FeedRequest,
    ranked: RankedQuery,
    name: str,
    given: Sequence[str] = (),
) -> sa.Result[*tuple[Any, ...]]:
    """Read ranked videos with the columns that a page shows: one statement.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        ranked: the function that builds the ranking.
        name: the name of the statement, for its SQL comment.
        given: the keys of the videos to rank.
    """
    return _rows(session, request, ranked, page_query, name, given)


def candidate_rows(
    session: Session,
    request: FeedRequest,
    ranked: RankedQuery,
    name: str,
    given: Sequence[int] = (),
) -> sa.Result[*tuple[Any, ...]]:
    """Read the candidates of a page, without the columns that a page shows: one statement.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        ranked: the function that builds the ranking.
        name: the name of the statement, for its SQL comment.
        given: the row ids of the session's contenders.
    """
    return _rows(session, request, ranked, named, name, given)


def _rows(
    session: Session,
    request: FeedRequest,
    ranked: RankedQuery,
    wrap: Wrapper,
    name: str,
    given: Sequence[str | int],
) -> sa.Result[*tuple[Any, ...]]:
    """Run the cached statement, or a new one if SQLAlchemy cannot identify the host's SQL."""
    # Without the session: its handling of rows that are not its objects costs more.
    connection = lookup.connection(session)
    shape = Shape.of(request)
    kept = kept_shape(shape)
    if kept is None:
        return connection.execute(wrap(ranked(shape, Viewer.of(request, given)), name))
    statement = cached_statement(ranked, wrap, name, kept.shape)
    return run_cached(connection, statement, {**values_of(request, given), **kept.values})


def run_cached(
    connection: sa.Connection, statement: sa.StatementLambdaElement, values: Mapping[str, Any]
) -> sa.Result[*tuple[Any, ...]]:
    """Run a statement of `cached_statement`.

    Args:
        connection: the caller's transaction.
        statement: the statement.
        values: its values, from `values_of` a request.
    """
    options: Any = {"compiled_cache": _compiled_statements(connection), **AS_POSITIONAL}
    return connection.execute(statement, values, execution_options=options)


def times_compiled(connection: sa.Connection) -> int:
    """Return how often a statement of pages was compiled for an engine."""
    return _compiled_statements(connection).compiled


def _compiled_statements(connection: sa.Connection) -> _Compiled:
    """Return the compiled statements of a pool, the least recently used of which is dropped."""
    # SQLAlchemy's own cache keeps 500 statements of any size; each of these takes some megabytes.
    pool = connection.engine.pool
    if pool not in _compiled_by_pool:
        _compiled_by_pool[pool] = _Compiled(MAX_STATEMENTS, threshold=0)
    return _compiled_by_pool[pool]


@lru_cache(MAX_STATEMENTS)
def cached_statement(
    ranked: RankedQuery, wrap: Wrapper, name: str, shape: Shape
) -> sa.StatementLambdaElement:
    """Return the statement for all requests of a shape; execute it with `values_of` a request.

    SQLAlchemy's cache identifies it by these four arguments and not by its 20,000 parts. A
    statement that is built a second time is therefore found in that cache too.
    """
    check_sql_of(shape)
    statement = written_out(wrap(ranked(shape, shape.any_viewer()), name))
    return identified(statement, ranked, wrap, name, shape)


# A literal and not a string: SQLAlchemy would render a string again on each execution.
_SEPARATOR: Any = sa.literal_column(repr(scalars.LIST_SEPARATOR))


def shown_rows(session: Session, video_ids: Sequence[int]) -> dict[int, Any]:
    """Read the columns that a page shows of some videos, by row id: one statement.

    Args:
        session: the caller's transaction.
        video_ids: the row ids of the videos; a deleted video is left out of the result.
    """
    query = _shown_query(lookup.is_sqlite(session))
    values = lookup.listed_values(session, 1, [(video_id,) for video_id in video_ids])
    rows = lookup.connection(session).execute(query, values)
    return {row.video_id: row for row in rows}


@cache
def _shown_query(on_sqlite: bool) -> Statement:  # noqa: FBT001 - the cache key
    listed = lookup.listed(on_sqlite, (VIDEOS.c.id,))
    return named(_with_shown(sa.select(listed.c.id.label("video_id")), listed.c.id), "shown")


def page_query(ranked: Statement, name: str) -> Statement:
    """Return the ranked videos with the columns that a page shows, read for these rows only."""
    top = ranked.subquery("ranked")
    statement = _with_shown(sa.select(top), top.c.video_id)
    order = (top.c.score_key.desc(), Video.published_at.desc(), Video.id.desc())
    return named(statement.order_by(*order), name)


def _with_shown(statement: Statement, video_id: ColumnElement[int]) -> Statement:
    """Add the columns that a page shows of its videos to a statement."""
    # A subquery for each hashtag: with a join PostgreSQL reads a small table of hashtags as a
    # whole, once for each video.
    tag = sa.select(Hashtag.name).where(Hashtag.id == VideoHashtag.hashtag_id).scalar_subquery()
    tags = (
        sa.select(sa.func.aggregate_strings(tag, _SEPARATOR))
        .where(VideoHashtag.video_id == Video.id)
        .scalar_subquery()
    )
    return (
        statement.add_columns(
            *PAGE_COLUMNS,
            User.key.label("page_creator"),
            Sound.key.label("page_sound"),
            VideoCaption.caption.label("page_caption"),
            FORMAT_COLUMN,
            tags.label("page_hashtags"),
        )
        .join(Video, Video.id == video_id)
        .outerjoin(User, User.id == Video.creator_id)
        .outerjoin(Sound, Sound.id == Video.sound_id)
        .outerjoin(VideoCaption, VideoCaption.video_id == Video.id)
    )
