"""From a ranking to the videos of a page.

The statement of a page is built once for each shape of request and executed with its values, since
building it takes longer than the database takes to answer it. SQLAlchemy keeps the cache key with
the statement, and the compiled text under that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import fields
from recommender.columns import Statement
from recommender.constants import written_out
from recommender.errors import InvalidValue
from recommender.models import Hashtag, Sound, User, Video, VideoCaption, VideoHashtag
from recommender.scoring import score_of
from recommender.sources import source_names
from recommender.values import Contribution, FeedItem, FeedRequest
from recommender.viewer import Shape, Viewer, values_of, weights_of

CATALOGUE = ("catalogue",)
"""The source of every candidate of the reference formula: all videos are candidates."""

MOST_KEPT = 100
"""How many statements are kept, those used last: a profile with other signals is another shape."""

Ranking: TypeAlias = Callable[[Shape, Viewer], Statement]
"""A function of a module that gives the ranked videos."""

_SEPARATOR: Any = sa.literal_column(repr(fields.LIST_SEPARATOR))
"""A string would be written into the text of a statement anew on each execution."""


def page_rows(
    session: Session, request: FeedRequest, ranking: Ranking, name: str, given: Sequence[str] = ()
) -> sa.Result[*tuple[Any, ...]]:
    """The rows of a page: one statement, which is built anew where the host has a part in it.

    Args:
        session: the caller's transaction.
        request: as `resolve` gives it.
        ranking: which videos, and in which order.
        name: what the statement says that it is for.
        given: the keys of the videos to rank.
    """
    shape = Shape.of(request)
    if shape.is_ours:
        return session.execute(kept(ranking, name, shape), values_of(request, given))
    return session.execute(page_query(ranking(shape, Viewer.of(request, given)), name))


@lru_cache(MOST_KEPT)
def kept(ranking: Ranking, name: str, shape: Shape) -> Statement:
    """The `page_query` of any request of a shape, which is executed with the values of one."""
    return written_out(page_query(ranking(shape, Viewer.named(shape)), name))


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
    """The ranked videos with what a page shows of them, read for these few rows only.

    Each hashtag is looked up by itself: PostgreSQL would read a small table of them as a whole, for
    each video.
    """
    top = ranked.subquery("ranked")
    tag = sa.select(Hashtag.name).where(Hashtag.id == VideoHashtag.hashtag_id).scalar_subquery()
    tags = (
        sa.select(sa.func.aggregate_strings(tag, _SEPARATOR))
        .where(VideoHashtag.video_id == Video.id)
        .scalar_subquery()
    )
    return (
        sa.select(
            top,
            Video.key.label("page_video"),
            Video.creator_id.label("page_creator_id"),
            Video.sound_id.label("page_sound_id"),
            Video.published_at.label("page_published_at"),
            User.key.label("page_creator"),
            Sound.key.label("page_sound"),
            VideoCaption.caption.label("page_caption"),
            tags.label("page_hashtags"),
        )
        .join(Video, Video.id == top.c.video_id)
        .join(User, User.id == Video.creator_id)
        .outerjoin(Sound, Sound.id == Video.sound_id)
        .outerjoin(VideoCaption, VideoCaption.video_id == Video.id)
        .order_by(top.c.score_key.desc(), Video.published_at.desc(), Video.id.desc())
        .prefix_with(f"/* recommender.{name} */")
    )


def item_of(request: FeedRequest, position: int, row: Any, sources: tuple[str, ...]) -> FeedItem:
    """A row of `page_query` as a video of a page.

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
        **shown_of(row),
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
