"""From scored candidates to the items of a page."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from operator import itemgetter
from typing import Any

from recommender.database.lookup import ids
from recommender.database.session import Session
from recommender.errors import InvalidValue, UnknownVideo
from recommender.feed.selection import Place, ScoredCandidate
from recommender.feed.statements import Candidates, shown_rows
from recommender.feed.values import Contribution, FeedItem, FilterOutcome
from recommender.formats import scalars
from recommender.models.tables import VIDEOS
from recommender.ranking.candidates import was_exploration
from recommender.ranking.request import FeedRequest, weights_of
from recommender.ranking.scoring import score_of

CATALOGUE = ("catalogue",)
"""The source of every candidate of the reference formula: all videos are candidates."""

_FILTER = "filter_"


def placed_items(
    session: Session, request: FeedRequest, candidates: Candidates, places: Sequence[Place]
) -> tuple[FeedItem, ...]:
    """Return the items of a page in the order of its places: at most one statement.

    A video that was deleted meanwhile is left out.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        candidates: the scored candidates.
        places: the places of the page, in order.
    """
    rows = [candidates.rows[place.candidate] for place in places]
    if candidates.shown:
        shown = {row.video_id: row for row in rows}
    else:
        shown = shown_rows(session, [row.video_id for row in rows]) if rows else {}
    left = [(row, place) for row, place in zip(rows, places, strict=True) if row.video_id in shown]
    return tuple(
        item_of(
            request, position, row, row_sources(request, row), shown[row.video_id],
            explored=place.explored, crowded=place.crowded, refilled=place.refilled,
        )
        for position, (row, place) in enumerate(left, start=request.position)
    )  # fmt: skip


def scored_candidates(request: FeedRequest, rows: Sequence[Any]) -> list[ScoredCandidate]:
    """Return the values of candidates' rows that the selection needs.

    Raises:
        InvalidValue: a signal of the host is NULL.
    """
    if not rows:
        return []
    names = ["score_key", "page_creator_id", "page_sound_id", "sources"]
    names += ["page_format"] if request.limits_formats else []
    places = [rows[0]._fields.index(name) for name in names]
    values = list(map(itemgetter(*places), rows))
    if None in [each[0] for each in values]:
        for row in rows:
            checked_score_key(request, row)
    return [
        ScoredCandidate(key, creator, sound, was_exploration(sources), *formats)
        for key, creator, sound, sources, *formats in values
    ]


def checked_score_key(request: FeedRequest, row: Any) -> int:
    """Return the score key of a row.

    Raises:
        InvalidValue: a signal of the host is NULL.
    """
    if row.score_key is None:
        values = row._mapping  # noqa: SLF001 - its API
        missing = next(name for name in weights_of(request) if values[name] is None)
        raise InvalidValue(f"signals: {missing} is NULL for video {scalars.shown(row.page_video)}")
    key: int = row.score_key
    return key


def row_sources(request: FeedRequest, row: Any) -> tuple[str, ...]:
    """Return the names of the sources that found a ranked video."""
    is_reference = request.profile.is_reference
    return CATALOGUE if is_reference else request.registry.source_names(row.sources)


def item_of(
    request: FeedRequest,
    position: int,
    row: Any,
    sources: tuple[str, ...],
    shown: Any = None,
    *,
    explored: bool = False,
    crowded: bool = False,
    refilled: bool = False,
) -> FeedItem:
    """Return a ranked row as an item of a page.

    Args:
        request: the resolved request.
        position: the position in the session, from 1.
        row: a row of `page_rows` or `candidate_rows`.
        sources: the sources that found the video.
        shown: the row with the columns that a page shows; None if `row` has them.
        explored: see `FeedItem`.
        crowded: see `FeedItem`.
        refilled: see `FeedItem`.

    Raises:
        InvalidValue: a signal of the host is NULL.
    """
    weights = weights_of(request)
    values = map(row._mapping.__getitem__, weights)  # noqa: SLF001 - its API
    return FeedItem(
        position=position,
        score=score_of(checked_score_key(request, row)),
        sources=sources,
        signals=dict(zip(weights, map(Contribution, values, weights.values()), strict=True)),
        explored=explored,
        crowded=crowded,
        refilled=refilled,
        **shown_fields(row if shown is None else shown),
    )


def outcomes_of(row: Any) -> tuple[FilterOutcome, ...]:
    """Return the outcomes of the filters that a row tells."""
    return tuple(
        FilterOutcome(name.removeprefix(_FILTER), bool(passed))
        for name, passed in row._mapping.items()  # noqa: SLF001 - its API
        if name.startswith(_FILTER)
    )


def shown_fields(row: Any) -> dict[str, Any]:
    """Return the fields of a `FeedItem` that describe its video."""
    tags = row.page_hashtags
    return {
        "video": row.page_video,
        "creator": row.page_creator,
        "caption": row.page_caption,
        "hashtags": tuple(sorted(tags.split(scalars.LIST_SEPARATOR))) if tags else (),
        "sound": row.page_sound,
        "published_at": row.page_published_at,
        "format": row.page_format,
        "video_id": row.video_id,
    }


def video_ids(session: Session, keys: Sequence[str]) -> list[int]:
    """Return the row ids of videos, in the order of their keys.

    Raises:
        UnknownVideo: one of the videos does not exist.
    """
    ids_by_key = ids(session, VIDEOS, keys)
    check_videos_exist(keys, ids_by_key)
    return [ids_by_key[key] for key in keys]


def video_key(video: object) -> str:
    """Return the key of a video as text.

    Raises:
        UnknownVideo: no video can have such a key.
    """
    if (key := scalars.key_or_none(video)) is None:
        raise UnknownVideo(f"there is no video {scalars.shown(video)}")
    return key


def check_videos_exist(keys: Iterable[str], existing_keys: Container[str]) -> None:
    """Raise `UnknownVideo` if one of the keys does not exist."""
    if missing := [key for key in keys if key not in existing_keys]:
        raise UnknownVideo(f"there is no video {scalars.shown(missing[0])}")
