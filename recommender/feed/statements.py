"""The statements of a page: built once for each shape of request, and run.

A statement is built once for each shape of request and executed with the request's values, because
building it takes longer than the database takes to answer it. SQLAlchemy keeps the cache key with
the statement, and the compiled text under that key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.expressions import Statement, named, written_out
from recommender.formats import scalars
from recommender.models import Hashtag, Sound, User, Video, VideoCaption, VideoHashtag
from recommender.models.tables import VIDEOS
from recommender.ranking.classic import ranked_reference
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import (
    PLACED,
    pool_of,
    ranked_contenders,
    ranked_given,
    ranked_pool,
)
from recommender.ranking.viewer import Shape, Viewer, values_of

MOST_KEPT = 100
"""How many statements are kept, those used last: a profile with other signals is another shape."""

Ranking: TypeAlias = Callable[[Shape, Viewer], Statement]
"""A function of a module that gives the ranked videos."""

Finish: TypeAlias = Callable[[Statement, str], Statement]
"""A function of a module that makes ranked videos a statement of a name."""


class Candidates(NamedTuple):
    """The scored candidates of a page, the best first.

    Attributes:
        rows: one row for each candidate, with its score key and signals.
        pool: how many candidates that are not on trial were read at most; None if all were.
        shown: whether the rows also have what a page shows of a video.
    """

    rows: Sequence[Any]
    pool: int | None = None
    shown: bool = False


def top_candidates(session: Session, request: FeedRequest) -> Candidates:
    """Read the best candidates of a page and all on trial: one statement.

    The reference profile gives the videos of the page themselves.
    """
    if request.profile.is_reference:
        return Candidates(
            page_rows(session, request, ranked_reference, "for_you").all(), shown=True
        )
    rows = candidate_rows(session, request, ranked_pool, "for_you").all()
    return Candidates(rows, pool=pool_of(request.limit))


def all_candidates(session: Session, request: FeedRequest) -> Candidates:
    """Read all candidates of a page: one statement."""
    return Candidates(candidate_rows(session, request, ranked_contenders, "for_you").all())


def given_candidates(session: Session, request: FeedRequest, keys: Sequence[str]) -> Candidates:
    """Read the given videos as candidates, with no filter applied: one statement."""
    return Candidates(page_rows(session, request, ranked_given, "rank", keys).all(), shown=True)


def page_rows(
    session: Session, request: FeedRequest, ranking: Ranking, name: str, given: Sequence[str] = ()
) -> sa.Result[*tuple[Any, ...]]:
    """The rows of a page with what it shows: one statement.

    Args:
        session: the caller's transaction.
        request: as `resolve` gives it.
        ranking: which videos, and in which order.
        name: what the statement says that it is for.
        given: the keys of the videos to rank.
    """
    return _rows(session, request, ranking, page_query, name, given)


def candidate_rows(
    session: Session, request: FeedRequest, ranking: Ranking, name: str
) -> sa.Result[*tuple[Any, ...]]:
    """The contenders for the places of a page, without what it shows of them: one statement.

    Args:
        session: the caller's transaction.
        request: as `resolve` gives it.
        ranking: one that gives contenders.
        name: what the statement says that it is for.
    """
    return _rows(session, request, ranking, named, name, ())


def _rows(
    session: Session,
    request: FeedRequest,
    ranking: Ranking,
    finish: Finish,
    name: str,
    given: Sequence[str],
) -> sa.Result[*tuple[Any, ...]]:
    """A statement is built anew where the host has a part in it.

    The session's own way with what are no objects of it takes longer than SQLAlchemy's Core.
    """
    shape = Shape.of(request)
    if shape.is_ours:
        connection = lookup.connection(session)
        return connection.execute(kept(ranking, finish, name, shape), values_of(request, given))
    return session.execute(finish(ranking(shape, Viewer.of(request, given)), name))


@lru_cache(MOST_KEPT)
def kept(ranking: Ranking, finish: Finish, name: str, shape: Shape) -> sa.StatementLambdaElement:
    """The statement of any request of a shape, which is executed with the values of one.

    SQLAlchemy finds it in its cache by what it is of, and not by its twenty thousand parts: one
    that is built again is found there too.
    """
    statement = written_out(finish(ranking(shape, Viewer.named(shape)), name))
    return sa.lambda_stmt(
        lambda: statement,
        track_on=[ranking, finish, name, shape],
        track_closure_variables=False,
        lambda_cache={},
    )


_SEPARATOR: Any = sa.literal_column(repr(scalars.LIST_SEPARATOR))
"""A string would be written into the text of a statement anew on each execution."""


def shown_rows(session: Session, video_ids: Sequence[int]) -> dict[int, Any]:
    """What a page shows of videos, by their rows' ids: one statement.

    Args:
        session: the caller's transaction.
        video_ids: of videos; one that is gone has no row.
    """
    found = _shown_query(lookup.is_sqlite(session))
    values = lookup.listed_values(session, 1, [(each,) for each in video_ids])
    rows = lookup.connection(session).execute(found, values)
    return {row.video_id: row for row in rows}


@cache
def _shown_query(on_sqlite: bool) -> Statement:  # noqa: FBT001 - what it is cached by
    listed = lookup.listed(on_sqlite, (VIDEOS.c.id,))
    return named(_with_shown(sa.select(listed.c.id.label("video_id")), listed.c.id), "shown")


def page_query(ranked: Statement, name: str) -> Statement:
    """The ranked videos with what a page shows of them, read for these few rows only."""
    top = ranked.subquery("ranked")
    statement = _with_shown(sa.select(top), top.c.video_id)
    order = (top.c.score_key.desc(), Video.published_at.desc(), Video.id.desc())
    return named(statement.order_by(*order), name)


def _with_shown(statement: Statement, video_id: ColumnElement[int]) -> Statement:
    """A statement with what a page shows of its videos.

    Each hashtag is looked up by itself: PostgreSQL would read a small table of them as a whole, for
    each video.
    """
    tag = sa.select(Hashtag.name).where(Hashtag.id == VideoHashtag.hashtag_id).scalar_subquery()
    tags = (
        sa.select(sa.func.aggregate_strings(tag, _SEPARATOR))
        .where(VideoHashtag.video_id == Video.id)
        .scalar_subquery()
    )
    return (
        statement.add_columns(
            *PLACED,
            User.key.label("page_creator"),
            Sound.key.label("page_sound"),
            VideoCaption.caption.label("page_caption"),
            tags.label("page_hashtags"),
        )
        .join(Video, Video.id == video_id)
        .join(User, User.id == Video.creator_id)
        .outerjoin(Sound, Sound.id == Video.sound_id)
        .outerjoin(VideoCaption, VideoCaption.video_id == Video.id)
    )
