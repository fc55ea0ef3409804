"""The places of a page: candidates of all sources, or what the session carries, or a refill.

A session may carry the best candidates that a page left over. The next pages then rank these, with
the signals of the moment, and what swipes bring in. Every few pages all sources are read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from recommender.database.session import Session
from recommender.feed.items import scored_candidates
from recommender.feed.selection import (
    Place,
    ScoredCandidate,
    Spread,
    arrange,
    limits_of,
    select_places,
)
from recommender.feed.statements import (
    Candidates,
    read_all_candidates,
    read_contenders,
    read_served,
    read_top_candidates,
)
from recommender.models.serving import FOR_YOU_MEMORY
from recommender.ranking.request import Contenders, FeedRequest, PlacedVideo
from recommender.ranking.sources import BACKFILL

MOST_CARRIED = 1_000
"""The largest number of candidates that a session carries."""

LEAST_CARRIED = 2
"""The number of candidates for each place of a page without which it reads all sources."""


def ranked_places(session: Session, request: FeedRequest) -> tuple[Candidates, list[Place]]:
    """Return the candidates of a page and the places that they take: one or two statements.

    A page that would be short takes one more if there are videos for followers only. A page that
    the session's contenders do not fill takes one more, too.
    """
    carried = request.contenders
    # The page before may have been a shorter one.
    if carried is not None and len(carried.videos) >= LEAST_CARRIED * request.limit:
        candidates = read_contenders(session, request, carried)
        places = select(request, candidates)
        if places and len(places) == request.limit and not any(each.crowded for each in places):
            return candidates, places
        request = replace(request, contenders=None)
    candidates = read_top_candidates(session, request)
    places = select(request, candidates)
    if places is None:  # a candidate below the best could take a place
        candidates = read_all_candidates(session, request)
        places = select(request, candidates)
    may_be_filled = is_fillable(request) and not request.fills
    if may_be_filled and len(places or ()) < request.limit:
        return ranked_places(session, replace(request, fills=True))
    return candidates, places or []


def is_fillable(request: FeedRequest) -> bool:
    """Return whether a short page is filled with videos for followers, which `BACKFILL` finds."""
    may_be = request.has_for_followers and request.known and request.reads(BACKFILL)
    return may_be and not request.profile.is_reference


def select(request: FeedRequest, candidates: Candidates) -> list[Place] | None:
    """Select the places of a page; the reference profile keeps the order of scores.

    Returns:
        None if candidates that were not read could take a place.
    """
    if request.profile.is_reference:
        return in_order(candidates)
    scored = scored_candidates(request, candidates.rows)
    return select_places(request, scored, candidates.pool)


def in_order(candidates: Candidates) -> list[Place]:
    """Return a place for every candidate, in the order of scores."""
    return [Place(index) for index in range(len(candidates.rows))]


def left_over(
    request: FeedRequest, candidates: Candidates, places: Sequence[Place]
) -> Contenders | None:
    """Return what the session carries to its next page; None if that page reads all sources.

    Args:
        request: as `resolve` returns it.
        candidates: the candidates of the page.
        places: the places of the page.
    """
    # The swipes on its first page tell more than any other, so the second reads all sources too.
    is_whole_next = request.position == 1 or candidates.pages >= request.settings.whole_every
    are_scarce = any(place.refilled or place.crowded for place in places)
    if is_whole_next or are_scarce or not request.may_carry:
        return None
    taken = {place.candidate for place in places}
    left = [row.video_id for index, row in enumerate(candidates.rows) if index not in taken]
    ids = tuple(dict.fromkeys([*left, *candidates.unread]))[:MOST_CARRIED]
    if len(ids) < LEAST_CARRIED * request.limit:
        return None
    return Contenders(candidates.pages, ids)


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
