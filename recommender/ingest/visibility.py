"""The visibility of videos: kept by the writes of videos and of their creators."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.formats.visibility import (
    AUDIENCES,
    PUBLISHED,
    UNDISCOVERABLE,
    audience_of,
    stored_status,
    visibility_of,
)
from recommender.models.tables import VIDEO_HASHTAGS, VIDEOS

VIDEOS_PER_STATEMENT = 2_000
"""The most videos whose visibility one statement changes."""


def with_visibility(
    hidden: Container[int], stored: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the columns of a video to write, with its visibility and stored status.

    Args:
        hidden: the ids of creators who are not discoverable.
        stored: the stored columns.
        given: the columns of the row; `audience` is none of the table.
    """
    columns = {name: value for name, value in given.items() if name != "audience"}
    is_discoverable = stored["visibility"] < UNDISCOVERABLE
    if "creator_id" in given:
        is_discoverable = given["creator_id"] not in hidden
    audience = given.get("audience", audience_of(stored["visibility"]))
    visibility = visibility_of(audience, discoverable=is_discoverable)
    status = stored_status(given.get("status", stored["status"]), visibility)
    return {**columns, "visibility": visibility, "status": status}


def show_videos(session: Session, discoverable: Mapping[int, bool]) -> None:
    """Change the visibility of creators' videos, `VIDEOS_PER_STATEMENT` at most per statement.

    Args:
        session: the caller's transaction, which has locked the creators.
        discoverable: whether creators are discoverable now, by their ids.
    """
    for is_discoverable in (False, True):
        changed = [row_id for row_id, is_now in discoverable.items() if is_now == is_discoverable]
        if changed:
            _show(session, [(row_id,) for row_id in changed], is_discoverable=is_discoverable)


def _show(session: Session, creators: Sequence[lookup.Key], *, is_discoverable: bool) -> None:
    while videos := _next_videos(session, creators, is_discoverable=is_discoverable):
        listed = lookup.listed_values(session, 1, videos)
        for statement in _changes(lookup.is_sqlite(session), is_discoverable):
            lookup.run(session, statement, listed)


def _next_videos(
    session: Session, creators: Sequence[lookup.Key], *, is_discoverable: bool
) -> list[lookup.Key]:
    """Lock the next videos whose visibility does not fit their creators."""
    statement = _outdated(lookup.is_sqlite(session), is_discoverable)
    values = lookup.listed_values(session, 1, creators)
    return [(row.id,) for row in lookup.run(session, statement, values)]


@cache
def _outdated(on_sqlite: bool, is_discoverable: bool) -> Statement:  # noqa: FBT001 - cached by both
    """Build the SELECT of the first videos by listed creators that are to be changed."""
    listed = lookup.listed(on_sqlite, (VIDEOS.c.creator_id,))
    hidden = VIDEOS.c.visibility >= UNDISCOVERABLE
    return (
        sa.select(VIDEOS.c.id)
        .join(listed, listed.c.creator_id == VIDEOS.c.creator_id)
        .where(hidden if is_discoverable else ~hidden)
        .order_by(VIDEOS.c.id)
        .limit(VIDEOS_PER_STATEMENT)
        .with_for_update(key_share=True, of=VIDEOS)
    )


@cache
def _changes(
    on_sqlite: bool,  # noqa: FBT001 - cached by both
    is_discoverable: bool,  # noqa: FBT001
) -> tuple[sa.Update, sa.Update]:
    """Build the UPDATEs of listed videos, and of their copies in lists of hashtags."""
    listed = sa.select(lookup.listed(on_sqlite, (VIDEOS.c.id,)).c.id)
    step = -UNDISCOVERABLE if is_discoverable else UNDISCOVERABLE
    status = sa.case(
        *(
            (sa.and_(VIDEOS.c.status.in_(PUBLISHED), VIDEOS.c.visibility == before), word)
            for before, word in _words(is_discoverable=is_discoverable).items()
        ),
        else_=VIDEOS.c.status,
    )
    videos = sa.update(VIDEOS).where(VIDEOS.c.id.in_(listed))
    listed_at = sa.select(VIDEOS.c.published_at).where(
        VIDEOS.c.id == VIDEO_HASHTAGS.c.video_id, VIDEOS.c.status == "published"
    )
    tags = sa.update(VIDEO_HASHTAGS).where(VIDEO_HASHTAGS.c.video_id.in_(listed))
    return (
        videos.values(status=status, visibility=VIDEOS.c.visibility + step),
        tags.values(listed_at=listed_at.scalar_subquery()),
    )


def _words(*, is_discoverable: bool) -> dict[int, str]:
    """Return the stored status of published videos after the change, by their visibility before."""
    return {
        visibility_of(audience, discoverable=not is_discoverable): stored_status(
            "published", visibility_of(audience, discoverable=is_discoverable)
        )
        for audience in AUDIENCES
    }
