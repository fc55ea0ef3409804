"""From ranked rows to the videos of a page."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import fields
from recommender.columns import Statement
from recommender.errors import InvalidValue
from recommender.models import Hashtag, Sound, User, Video, VideoCaption, VideoHashtag
from recommender.scoring import formula, score_of
from recommender.sources import source_names
from recommender.values import Contribution, FeedItem, FeedRequest

CATALOGUE = ("catalogue",)
"""The source of every candidate of the reference formula: all videos are candidates."""


def items_of(
    session: Session, request: FeedRequest, ranked: Statement, name: str
) -> tuple[FeedItem, ...]:
    """The videos of a ranking, in its order: one statement."""
    rows = session.execute(page_query(ranked, name))
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
    tags = (
        sa.select(sa.func.aggregate_strings(Hashtag.name, fields.LIST_SEPARATOR))
        .join(VideoHashtag, VideoHashtag.hashtag_id == Hashtag.id)
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
    return FeedItem(
        position=position,
        score=score_of(checked_key(request, row)),
        sources=sources,
        signals={
            signal.name: Contribution(row._mapping[signal.name], weight)  # noqa: SLF001 - its API
            for signal, weight in formula(request)
        },
        **shown_of(row),
    )


def checked_key(request: FeedRequest, row: Any) -> int:
    """The score key of a row, or `InvalidValue` where a host's own signal is NULL."""
    if row.score_key is None:
        missing = next(each.name for each in request.signals if row._mapping[each.name] is None)  # noqa: SLF001 - its API
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
