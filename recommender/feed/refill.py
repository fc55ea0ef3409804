"""Refill a short page with videos that were served before and not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recommender.database.session import Session
from recommender.feed.selection import Place, ScoredCandidate, Spread, arrange
from recommender.feed.statements import Candidates, read_served
from recommender.ranking.request import FeedRequest


def is_refillable(request: FeedRequest) -> bool:
    """Return whether there may be videos that the page leaves out only because they were served."""
    return request.known and not request.rewatch and not request.profile.is_reference


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
    last, taken = rows[-1] if rows else None, {row.video_id for row in rows}
    spread = Spread(
        limit=request.limit - len(rows),
        position=request.position + len(rows),
        creator=last.page_creator_id if last else request.last_creator,
        sound=last.page_sound_id if last else request.last_sound,
    )
    left = [index for index, row in enumerate(served.rows) if row.video_id not in taken]
    # The order of the rows takes the place of a score.
    alike = [_in_order(-index, served.rows[index]) for index in left]
    is_cut = served.pool is not None and len(served.rows) >= served.pool
    places = arrange(alike, spread, unseen=-len(served.rows) if is_cut else None)
    return places and [place._replace(candidate=left[place.candidate]) for place in places]


def _in_order(score_key: int, row: Any) -> ScoredCandidate:
    return ScoredCandidate(score_key, row.page_creator_id, row.page_sound_id)
