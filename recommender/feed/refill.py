"""Refill a short page with videos that were served before and not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recommender.database.session import Session
from recommender.feed.selection import Place, ScoredCandidate, Spread, arrange, limits_of
from recommender.feed.statements import Candidates, read_served
from recommender.models.serving import FOR_YOU_MEMORY
from recommender.ranking.request import FeedRequest, PlacedVideo
from recommender.ranking.sources import BACKFILL


def is_refillable(request: FeedRequest) -> bool:
    """Return whether there may be videos that the page leaves out only because they were served."""
    if not request.known or request.rewatch or request.profile.is_reference:
        return False
    # What For You served may not be from the sources of a feed that shares its memory.
    return request.reads(BACKFILL) or request.memory != FOR_YOU_MEMORY


def refilled(
    session: Session, request: FeedRequest, candidates: Candidates, places: Sequence[Place]
) -> tuple[Candidates, list[Place]]:
    """Return the candidates and places of a short page with refilled places at its end.

    The videos that were served the longest time ago come first. One statement, or two if all of
    the videos that it read share creator or sound.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        candidates: the candidates of the page.
        places: the places of the page, fewer than the limit.
    """
    rows = [candidates.rows[place.candidate] for place in places]
    served = read_served(session, request)
    added = _spread(request, rows, served)
    if added is None:
        served = read_served(session, request, every=True)
        added = _spread(request, rows, served) or []
    first = len(candidates.rows)
    more = [place._replace(candidate=first + place.candidate, refilled=True) for place in added]
    return Candidates([*candidates.rows, *served.rows]), [*places, *more]


def _spread(request: FeedRequest, rows: Sequence[Any], served: Candidates) -> list[Place] | None:
    """Select the refilled places; None if a video that was not read could take one.

    Args:
        request: as `resolve` returns it.
        rows: the rows of the page so far.
        served: the videos that were served before.
    """
    taken = {row.video_id for row in rows}
    spread = Spread(
        limit=request.limit - len(rows),
        position=request.position + len(rows),
        before=[*request.places_before, *(_placed(request, row) for row in rows)],
        limits=limits_of(request.feed),
    )
    left = [index for index, row in enumerate(served.rows) if row.video_id not in taken]
    # The order of the rows takes the place of a score.
    alike = [_in_order(-index, _placed(request, served.rows[index])) for index in left]
    is_cut = served.pool is not None and len(served.rows) >= served.pool
    places = arrange(alike, spread, unseen=-len(served.rows) if is_cut else None)
    return places and [place._replace(candidate=left[place.candidate]) for place in places]


def _placed(request: FeedRequest, row: Any) -> PlacedVideo:
    name = row.page_format if request.limits_formats else None
    return PlacedVideo(row.page_creator_id, row.page_sound_id, name)


def _in_order(score_key: int, video: PlacedVideo) -> ScoredCandidate:
    return ScoredCandidate(score_key, video.creator, video.sound, format=video.format)
