"""From a ranking to the videos of a page.

The statement of a page is built once for each shape of request and executed with its values, since
building it takes longer than the database takes to answer it. SQLAlchemy keeps the cache key with
the statement, and the compiled text under that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from recommender import bulk, fields
from recommender.catalog import VIDEOS
from recommender.columns import Statement
from recommender.constants import written_out
from recommender.errors import InvalidValue
from recommender.models import Hashtag, Sound, User, Video, VideoCaption, VideoHashtag
from recommender.scoring import PLACED, score_of
from recommender.sources import source_names
from recommender.values import Contribution, FeedItem, FeedRequest
from recommender.viewer import Shape, Viewer, values_of, weights_of

CATALOGUE = ("catalogue",)
"""The source of every candidate of the reference formula: all videos are candidates."""

MOST_KEPT = 100
"""How many statements are kept, those used last: a profile with other signals is another shape."""

Ranking: TypeAlias = Callable[[Shape, Viewer], Statement]
"""A function of a module that gives the ranked videos."""

Finish: TypeAlias = Callable[[Statement, str], Statement]
"""A function of a module that makes ranked videos a statement of a name."""

_SEPARATOR: Any = sa.literal_column(repr(fields.LIST_SEPARATOR))
"""A string would be written into the text of a statement anew on each execution."""


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


def contender_rows(
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
        connection = session.connection(bind_arguments=bulk.OURS)
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


def shown_rows(session: Session, video_ids: Sequence[int]) -> dict[int, Any]:
    """What a page shows of videos, by their rows' ids: one statement.

    Args:
        session: the caller's transaction.
        video_ids: of videos; one that is gone has no row.
    """
    found = _shown_query(bulk.is_sqlite(session))
    values = bulk.listed_values(session, 1, [(each,) for each in video_ids])
    rows = session.connection(bind_arguments=bulk.OURS).execute(found, values)
    return {row.video_id: row for row in rows}


@cache
def _shown_query(on_sqlite: bool) -> Statement:  # noqa: FBT001 - what it is cached by
    listed = bulk.listed(on_sqlite, (VIDEOS.c.id,))
    return named(_with_shown(sa.select(listed.c.id.label("video_id")), listed.c.id), "shown")


def items_of(request: FeedRequest, rows: Iterable[Any]) -> tuple[FeedItem, ...]:
    """The videos of a page, in the order of its rows."""
    return tuple(
        item_of(request, position, row, row_sources(request, row))
        for position, row in enumerate(rows, start=request.position)
    )


def row_sources(request: FeedRequest, row: Any) -> tuple[str, ...]:
    """The sources that found a ranked video."""
    return CATALOGUE if request.profile.is_reference else source_names(row.sources)


def page_query(ranked: Statement, name: str) -> Statement:
    """The ranked videos with what a page shows of them, read for these few rows only."""
    top = ranked.subquery("ranked")
    statement = _with_shown(sa.select(top), top.c.video_id)
    order = (top.c.score_key.desc(), Video.published_at.desc(), Video.id.desc())
    return named(statement.order_by(*order), name)


def named(statement: Statement, name: str) -> Statement:
    """A statement that says what it is for."""
    return statement.prefix_with(f"/* recommender.{name} */")


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


def item_of(
    request: FeedRequest,
    position: int,
    row: Any,
    sources: tuple[str, ...],
    shown: Any = None,
    *,
    explored: bool = False,
    crowded: bool = False,
) -> FeedItem:
    """A ranked row as a video of a page.

    Args:
        request: what was asked.
        position: the place in the session, from 1.
        row: of `page_rows` or `contender_rows`.
        sources: that found the video.
        shown: what is shown of it; in the row itself where None.
        explored: as of a `FeedItem`.
        crowded: as of a `FeedItem`.

    Raises:
        InvalidValue: a host's own signal is NULL.
    """
    values = row._mapping  # noqa: SLF001 - its API
    return FeedItem(
        position=position,
        score=score_of(checked_key(request, row)),
        sources=sources,
        signals={
            name: Contribution(values[name], weight) for name, weight in weights_of(request).items()
        },
        explored=explored,
        crowded=crowded,
        **shown_of(row if shown is None else shown),
    )


def checked_key(request: FeedRequest, row: Any) -> int:
    """The score key of a row, or `InvalidValue` where a host's own signal is NULL."""
    if row.score_key is None:
        values = row._mapping  # noqa: SLF001 - its API
        missing = next(each.name for each in request.signals if values[each.name] is None)
        raise InvalidValue(f"signals: {missing} is NULL for video {fields.shown(row.page_video)}")
    key: int = row.score_key
    return key


def shown_of(row: Any) -> dict[str, Any]:
    """What a page shows of a video, as fields of a `FeedItem`."""
    tags = row.page_hashtags
    return {
        "video": row.page_video,
        "creator": row.page_creator,
        "caption": row.page_caption,
        "hashtags": tuple(sorted(tags.split(fields.LIST_SEPARATOR))) if tags else (),
        "sound": row.page_sound,
        "published_at": row.page_published_at,
        "video_id": row.video_id,
    }
