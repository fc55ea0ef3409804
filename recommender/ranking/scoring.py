"""The one statement: candidates, filters, the weighted sum of signals, the order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, ColumnElement, FromClause, Label, Subquery

from recommender.database.expressions import (
    Number,
    Statement,
    fence,
    half_away,
    number,
    opaque,
)
from recommender.models import Video
from recommender.ranking.candidates import (
    candidates,
    contenders,
    given_candidates,
    is_exploration,
    quota_of,
    served_candidates,
)
from recommender.ranking.features import gather_facts
from recommender.ranking.filters import allowed, keyword_not_muted, outcomes, remaining
from recommender.ranking.history import keyed_videos
from recommender.ranking.request import FeedRequest
from recommender.ranking.signals import Candidate, within_range
from recommender.ranking.sources import EXPLORATION, SOURCES
from recommender.ranking.viewer import Shape, Viewer

KEY_SCALE = 1_000_000_000
"""The number of score-key units per unit of score.

Rounding to billionths makes sums tie if they differ only by floating-point error.
"""

PAGE_COLUMNS = (
    Video.key.label("page_video"),
    Video.creator_id.label("page_creator_id"),
    Video.sound_id.label("page_sound_id"),
    Video.published_at.label("page_published_at"),
)
"""The columns that a page needs besides score, sources and signals."""

FORMAT_COLUMN = Video.format.label("page_format")

CANDIDATES_PER_PLACE = 3
"""The number of candidates per place of a page."""

EXTRA_CANDIDATES = 40
"""The number of further candidates of any page: the best few are often by one creator."""


def score_of(key: int) -> float:
    """Return the score of a score key."""
    return key / KEY_SCALE


def score_key_of(score: float) -> int:
    """Return the score key of a score: whole billionths, halves rounded away from zero.

    Args:
        score: a weighted sum; its key is exact up to 4.5 million either way.
    """
    # The arithmetic of `half_away`: Python's `round` would round halves to even.
    billionths = score * KEY_SCALE
    return math.trunc(billionths + math.copysign(0.5, billionths))


def feed_query(request: FeedRequest) -> Statement:
    """Return the ordered feed of a request, as a statement to run or to compose.

    Its columns are `video_id`, `score_key` (billionths of the score), `sources` (see
    `Registry.source_names`) and one per signal of the profile. It selects from `Video`, so
    ``where`` and ``join`` can add a host's own tables. It is ordered by score key, `published_at`
    and id, all descending, and limited. Videos that ``where`` removes are not replaced by further
    candidates: a selective predicate belongs in the request.

    Args:
        request: as `resolve` gives it.

    Raises:
        UnknownSignal: the profile names a signal that the registry does not have.
    """
    return ranked(Shape.of(request), Viewer.of(request))


def ranked(shape: Shape, viewer: Viewer) -> Statement:
    """Return the ordered feed of a viewer, limited to a page."""
    statement = ordered(unordered_feed(shape, viewer)).limit(viewer.limit)
    return statement.prefix_with("/* recommender.feed_query */")


def pool_size(limit: Any) -> Any:
    """Return the number of candidates for a page, without the exploration candidates.

    Args:
        limit: the number of videos on the page, or an expression of it.
    """
    return CANDIDATES_PER_PLACE * limit + EXTRA_CANDIDATES


def top_candidates(shape: Shape, viewer: Viewer) -> Statement:
    """Return the top `pool_size` candidates of a feed and all exploration candidates, in order."""
    return _best_among(candidates(shape, viewer), shape, viewer)


def top_contenders(shape: Shape, viewer: Viewer) -> Statement:
    """Return contenders of the session, and what is added to them, in order."""
    return _best_among(contenders(shape, viewer), shape, viewer)


def _best_among(among: FromClause, shape: Shape, viewer: Viewer) -> Statement:
    explored = next(quota_of(source, shape) for source in SOURCES if source.name == EXPLORATION)
    scores = scored(shape, viewer, among, unseen=not shape.rewatch, is_keyed=False)
    # The first fence lets every signal be computed once, although the score reads it again.
    valued = fence(scores.add_columns(*_columns_of_places(shape)).where(*remaining(shape, viewer)))
    rows = valued.subquery("valued")
    key = score_key({name: rows.c[name] for name in shape.names}, viewer)
    every = sa.select(*rows.c, key)
    # The second lets captions be searched for muted keywords in this order, until the limit.
    keyed = fence(
        every.order_by(is_exploration(rows.c.sources).desc(), *_in_order(every.selected_columns))
    ).subquery("keyed")
    best = (
        sa.select(*keyed.c)
        .where(keyword_not_muted(viewer, keyed.c.video_id))
        .limit(pool_size(viewer.limit) + explored)
        .subquery("pool")
    )
    # Without the time, which the driver would convert for every row.
    read = [column for column in best.c if column.name != "page_published_at"]
    return sa.select(*read).order_by(*_in_order(best.c))


def _columns_of_places(shape: Shape) -> tuple[Label[Any], ...]:
    """Return the columns of candidates that the selection of places reads."""
    return (*PAGE_COLUMNS, *([FORMAT_COLUMN] if shape.has_format else []))


def _in_order(columns: Any) -> tuple[ColumnElement[Any], ...]:
    """Return the one order of every feed, for the columns of candidates."""
    return columns.score_key.desc(), columns.page_published_at.desc(), columns.video_id.desc()


def ranked_candidates(shape: Shape, viewer: Viewer) -> Statement:
    """Return all candidates of a feed, in order."""
    return ordered(unordered_feed(shape, viewer).add_columns(*_columns_of_places(shape)))


def top_served(shape: Shape, viewer: Viewer) -> Statement:
    """Return as many unseen videos that were served before as candidates, the oldest first."""
    served = served_candidates(shape, viewer).limit(pool_size(viewer.limit))
    return _scored_again(shape, viewer, served)


def every_served(shape: Shape, viewer: Viewer) -> Statement:
    """Return all unseen videos that were served before as candidates, the oldest first."""
    return _scored_again(shape, viewer, served_candidates(shape, viewer))


def _scored_again(shape: Shape, viewer: Viewer, served: Statement) -> Statement:
    among = served.cte("served_again")
    scores = scored(shape, viewer, among, unseen=True)
    scores = scores.add_columns(*_columns_of_places(shape))
    return scores.join(among, among.c.video_id == Video.id).order_by(among.c.last_at, Video.id)


def unordered_feed(shape: Shape, viewer: Viewer) -> Statement:
    """Return a feed with its score keys, without order or limit."""
    if shape.is_reference:
        return scored(shape, viewer, None).where(*allowed(shape, viewer))
    statement = scored(shape, viewer, candidates(shape, viewer), unseen=not shape.rewatch)
    return statement.where(*remaining(shape, viewer), keyword_not_muted(viewer))


def ranked_given(shape: Shape, viewer: Viewer) -> Statement:
    """Return the given videos in the viewer's order, without filters."""
    statement = ordered(_scored_given(shape, viewer))
    return statement.prefix_with("/* recommender.rank_query */")


def ranked_with_outcomes(shape: Shape, viewer: Viewer) -> Statement:
    """Return the given videos in the viewer's order, with a boolean column per filter."""
    return ranked_given(shape, viewer).add_columns(*outcomes("rank", shape, viewer))


def explain_query(request: FeedRequest, video: str) -> Statement:
    """Return a video's score and signals, and a boolean column per filter."""
    shape, viewer = Shape.of(request), Viewer.of(request, [video])
    given = _scored_given(shape, viewer)
    statement = given.add_columns(*outcomes("explain", shape, viewer))
    return statement.prefix_with("/* recommender.explain_query */")


def ahead_query(request: FeedRequest, video: Any) -> Statement:
    """Return the videos ranked above a video in the unlimited feed, nearest first.

    Each row has the key of a video and the number of all these videos.

    Args:
        request: as `resolve` gives it.
        video: the row of the video, with its id and score key.
    """
    feed = feed_query(request).limit(None).order_by(None)
    shown_at, key = Video.published_at.label("page_published_at"), Video.key.label("page_video")
    ranked = feed.add_columns(shown_at, key).subquery("each")
    place = sa.tuple_(ranked.c.score_key, ranked.c.page_published_at, ranked.c.video_id)
    published_at = sa.select(Video.published_at).where(Video.id == video.video_id)
    own = sa.tuple_(
        sa.literal(video.score_key, BigInteger()),
        published_at.scalar_subquery(),
        sa.literal(video.video_id, BigInteger()),
    )
    return (
        sa.select(ranked.c.page_video.label("key"), sa.func.count().over().label("ahead"))
        .where(place > own)
        .order_by(ranked.c.score_key, ranked.c.page_published_at, ranked.c.video_id)
        .prefix_with("/* recommender.ahead_query */")
    )


def sources_query(request: FeedRequest, video_id: int) -> Statement:
    """Return the sources that found a video, as in `candidates`; no row if none did."""
    rows = candidates(Shape.of(request), Viewer.of(request))
    statement = sa.select(rows.c.sources).where(rows.c.video_id == video_id)
    return statement.prefix_with("/* recommender.sources_query */")


def _scored_given(shape: Shape, viewer: Viewer) -> Statement:
    if shape.is_reference:
        return scored(shape, viewer, None).where(Video.id.in_(keyed_videos(viewer.given)))
    return scored(shape, viewer, given_candidates(viewer), is_small=True)


def scored(
    shape: Shape,
    viewer: Viewer,
    among: FromClause | None,
    *,
    is_small: bool = False,
    unseen: bool = False,
    facts: Subquery | None = None,
    is_keyed: bool = True,
) -> Statement:
    """Return the candidates with score key, sources and signals, without order.

    Args:
        shape: the shape of the request.
        viewer: the viewer of the request.
        among: the candidates; None for every video.
        is_small: as for `gather_facts`.
        unseen: as for `gather_facts`.
        facts: the facts that the signals read; None to gather all.
        is_keyed: whether to add the score key.
    """
    if facts is None:
        facts = gather_facts(
            viewer, among, is_small=is_small, unseen=unseen, seeded=shape.has_seeds
        )
    candidate = Candidate(facts, viewer)
    known = [(name, shape.registry.value_of(name, candidate)) for name in shape.signals]
    own = [(signal.name, within_range(signal, candidate)) for signal in shape.own]
    signals = dict([*known, *own])
    labels = [value.label(name) for name, value in signals.items()]
    sources = candidate.fact("sources").label("sources")
    keys = [score_key(signals, viewer)] if is_keyed else []
    statement = sa.select(Video.id.label("video_id"), *keys, sources, *labels).select_from(Video)
    if among is None:
        statement = statement.outerjoin(facts, facts.c.video_id == Video.id)
        return with_affinities(statement, candidate, viewer.user_id) if shape.own else statement
    statement = statement.join(facts, facts.c.video_id == Video.id)
    owner = opaque(viewer.user_id, Video.id)
    return statement if shape.is_reference else with_affinities(statement, candidate, owner)


def with_affinities(
    statement: Statement, candidate: Candidate, owner: ColumnElement[int]
) -> Statement:
    """Return a statement with the viewer's affinities to the creator and sound of videos.

    Args:
        statement: a SELECT from `Video`.
        candidate: the candidate whose signals read the affinities.
        owner: the viewer's id; opaque if every affinity must be looked up by its own key.
    """
    for affinity, subject, subject_id in (
        (candidate.creator, "creator", Video.creator_id),
        (candidate.sound, "sound", Video.sound_id),
    ):
        of_viewer = sa.and_(
            affinity.user_id == owner,
            affinity.subject == subject,
            affinity.subject_id == subject_id,
        )
        statement = statement.outerjoin(affinity, of_viewer)
    return statement


def score_key(signals: Mapping[str, Number], viewer: Viewer) -> Label[int]:
    """Return Σ weight · signal in whole billionths."""
    products = [viewer.weights[name] * value for name, value in signals.items()]
    total: ColumnElement[Any] = sum(products[1:], start=products[0])
    return sa.cast(half_away(total * number(KEY_SCALE)), BigInteger).label("score_key")


def ordered(statement: Statement) -> Statement:
    """Return a statement in the one order of every feed."""
    key = statement.selected_columns.score_key
    return statement.order_by(key.desc(), Video.published_at.desc(), Video.id.desc())
