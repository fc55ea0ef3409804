"""From scored candidates to the items that a page shows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from sqlalchemy.orm import Session

from recommender.database.lookup import ids
from recommender.errors import InvalidValue, UnknownVideo
from recommender.feed.selection import Place, ScoredCandidate
from recommender.feed.statements import Candidates, shown_rows
from recommender.feed.values import Contribution, FeedItem
from recommender.formats import scalars
from recommender.formats.scalars import is_key
from recommender.models.tables import VIDEOS
from recommender.ranking.candidates import source_names
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import score_of
from recommender.ranking.sources import was_on_trial
from recommender.ranking.viewer import weights_of

CATALOGUE = ("catalogue",)
"""The source of every candidate of the reference formula: all videos are candidates."""


def checked_key(request: FeedRequest, row: Any) -> int:
    """The score key of a row, or `InvalidValue` where a host's own signal is NULL."""
    if row.score_key is None:
        values = row._mapping  # noqa: SLF001 - its API
        missing = next(each.name for each in request.signals if values[each.name] is None)
        raise InvalidValue(f"signals: {missing} is NULL for video {scalars.shown(row.page_video)}")
    key: int = row.score_key
    return key


def placed_items(
    session: Session, request: FeedRequest, candidates: Candidates, places: Sequence[Place]
) -> tuple[FeedItem, ...]:
    """Return the items of a page in the order of its places: at most one statement.

    A video that was deleted meanwhile is left out.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        candidates: the scored candidates.
        places: which of them the page shows, in order.
    """
    rows = [candidates.rows[place.candidate] for place in places]
    if candidates.shown:
        shown = {row.video_id: row for row in rows}
    else:
        shown = shown_rows(session, [row.video_id for row in rows]) if rows else {}
    kept = [(row, place) for row, place in zip(rows, places, strict=True) if row.video_id in shown]
    return tuple(
        item_of(
            request, position, row, row_sources(request, row), shown[row.video_id],
            explored=place.explored, crowded=place.crowded,
        )
        for position, (row, place) in enumerate(kept, start=request.position)
    )  # fmt: skip


def scored_candidate(request: FeedRequest, row: Any) -> ScoredCandidate:
    """Return what the selection needs of a candidate's row.

    Raises:
        InvalidValue: a signal of the host is NULL.
    """
    return ScoredCandidate(
        score_key=checked_key(request, row),
        creator=row.page_creator_id,
        sound=row.page_sound_id,
        on_trial=was_on_trial(row.sources),
    )


def row_sources(request: FeedRequest, row: Any) -> tuple[str, ...]:
    """The sources that found a ranked video."""
    return CATALOGUE if request.profile.is_reference else source_names(row.sources)


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
        row: of `page_rows` or `candidate_rows`.
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


def shown_of(row: Any) -> dict[str, Any]:
    """What a page shows of a video, as fields of a `FeedItem`."""
    tags = row.page_hashtags
    return {
        "video": row.page_video,
        "creator": row.page_creator,
        "caption": row.page_caption,
        "hashtags": tuple(sorted(tags.split(scalars.LIST_SEPARATOR))) if tags else (),
        "sound": row.page_sound,
        "published_at": row.page_published_at,
        "video_id": row.video_id,
    }


def video_ids(session: Session, keys: Sequence[str]) -> list[int]:
    """The ids of videos' keys; `UnknownVideo` where one is not there."""
    found = ids(session, VIDEOS, [key for key in keys if is_key(key)])
    check_all_found(keys, found)
    return [found[key] for key in keys]


def check_all_found(keys: Iterable[str], found: Container[str]) -> None:
    if missing := [key for key in keys if key not in found]:
        raise UnknownVideo(f"there is no video {scalars.shown(missing[0])}")
