"""The facts: sums per video over other tables, which signals read."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Double, FromClause, Subquery

from recommender.database.expressions import (
    Number,
    Statement,
    is_now,
    is_true,
    number,
)
from recommender.models import (
    Affinity,
    Interaction,
    Term,
    UserHashtag,
    VideoHashtag,
    VideoNeighbour,
    VideoTerm,
)
from recommender.models.tables import RECENT
from recommender.ranking.history import engagements_of, neighbour_weight
from recommender.ranking.viewer import Viewer

MOST_TERMS = 200
"""The largest number of the viewer's caption words that are compared, most frequent first."""

FACTS = (
    "sources", "completion", "likes", "shares", "comments", "saves", "hashtags",
    "hashtag_affinity", "lately", "neighbours", "followed", "terms",
    "similarity", "shared_hashtags", "shared_words",
)  # fmt: skip
"""The columns that facts may have: sums over the rows of `fact_rows`."""


def gather_facts(
    viewer: Viewer,
    candidates: FromClause | None = None,
    *,
    is_small: bool = False,
    unseen: bool = False,
    seeded: bool = False,
) -> Subquery:
    """Return one row of facts per candidate, or per video that the viewer's rows name.

    All facts are rows of one UNION ALL with one GROUP BY. Joins would multiply rows if the
    planner's estimates are too low.

    Args:
        viewer: the viewer.
        candidates: the videos with their `sources`; None for the reference formula, which reads
            the whole catalogue.
        is_small: whether so few candidates are given that looking up each one is cheaper.
        unseen: whether the viewer has no interaction with any candidate.
        seeded: whether the list is about given videos.
    """
    if candidates is None:
        return summed(interaction_facts(viewer), hashtag_facts(viewer))
    parts = [
        fact_row(candidates.c.video_id, sources=candidates.c.sources),
        candidate_hashtags(viewer, candidates),
        candidate_terms(viewer, candidates),
        candidate_neighbours(viewer, candidates)
        if is_small
        else neighbour_facts(viewer, candidates),
        followed_facts(viewer, candidates),
    ]
    if seeded:
        parts += seed_facts(viewer, candidates)
    return summed(*parts, *([] if unseen else [candidate_interactions(viewer, candidates)]))


def summed(*parts: Statement) -> Subquery:
    """Return the sums of rows of facts per video."""
    names = [name for name in FACTS if any(name in part.selected_columns for part in parts)]
    rows = sa.union_all(*(_padded(part, names) for part in parts)).subquery("fact_rows")
    sums = [sa.func.sum(rows.c[name]).label(name) for name in names]
    return sa.select(rows.c.video_id, *sums).group_by(rows.c.video_id).subquery("facts")


def fact_row(video_id: ColumnElement[int], **values: ColumnElement[float]) -> Statement:
    """Return a row of facts of a video."""
    facts = [value.label(name) for name, value in values.items()]
    return sa.select(video_id.label("video_id"), *facts)


def _padded(rows: Statement, names: Sequence[str]) -> Statement:
    """Return the rows with all facts, 0 for missing ones."""
    columns = rows.selected_columns
    facts = [columns[name] if name in columns else number(0).label(name) for name in names]
    return rows.with_only_columns(columns.video_id, *facts)


def interaction_row(video_id: ColumnElement[int]) -> Statement:
    """Return the facts of one interaction."""
    return fact_row(
        video_id,
        completion=Interaction.completion.expression,
        likes=is_now(Interaction.liked_at, Interaction.unliked_at),
        shares=sa.cast(Interaction.shares, Double),
        comments=sa.cast(Interaction.comments, Double),
        saves=is_now(Interaction.saved_at, Interaction.unsaved_at),
    )


def interaction_facts(viewer: Viewer) -> Statement:
    """Return the facts of all interactions of the viewer."""
    facts = interaction_row(Interaction.video_id.expression)
    return facts.where(Interaction.user_id == viewer.user_id)


def hashtag_facts(viewer: Viewer) -> Statement:
    """Return a row per video and hashtag that the viewer declared."""
    return (
        fact_row(VideoHashtag.video_id.expression, hashtags=number(1))
        .join(UserHashtag, UserHashtag.hashtag_id == VideoHashtag.hashtag_id)
        .where(UserHashtag.user_id == viewer.user_id)
    )


def candidate_interactions(viewer: Viewer, candidates: FromClause) -> Statement:
    """Return the facts of the viewer's interactions with the candidates."""
    # Here and below, outer joins keep the database from starting at the viewer's whole history, or
    # at all videos of a hashtag; their empty rows add nothing to a sum.
    of_candidate = sa.and_(
        Interaction.user_id == viewer.user_id, Interaction.video_id == candidates.c.video_id
    )
    facts = interaction_row(candidates.c.video_id).select_from(candidates)
    return facts.outerjoin(Interaction, of_candidate)


def candidate_hashtags(viewer: Viewer, candidates: FromClause) -> Statement:
    """Return a row per candidate and hashtag that the viewer declared, saw or has affinity to."""
    # Affinities can be many and are looked up one by one; the rest is one small table to join.
    tastes = _hashtag_tastes(viewer)
    learned = sa.and_(
        Affinity.user_id == viewer.user_id,
        Affinity.subject == "hashtag",
        Affinity.subject_id == VideoHashtag.hashtag_id,
    )
    return (
        fact_row(
            candidates.c.video_id,
            hashtags=sa.func.coalesce(tastes.c.hashtags, number(0)),
            hashtag_affinity=sa.func.coalesce(Affinity.score, number(0)),
            lately=sa.func.coalesce(tastes.c.lately, number(0)),
        )
        .select_from(candidates)
        .outerjoin(VideoHashtag, VideoHashtag.video_id == candidates.c.video_id)
        .outerjoin(tastes, tastes.c.hashtag_id == VideoHashtag.hashtag_id)
        .outerjoin(Affinity, learned)
        .where(sa.func.coalesce(tastes.c.hashtag_id, Affinity.subject_id, 0) != 0)
    )


def _hashtag_tastes(viewer: Viewer) -> Subquery:
    """Return one row per hashtag that the viewer declared or saw recently."""
    declared = sa.select(
        UserHashtag.hashtag_id, number(1).label("hashtags"), number(0).label("lately")
    ).where(UserHashtag.user_id == viewer.user_id)
    lately = sa.select(viewer.lately.c.hashtag_id, number(0), viewer.lately.c.surplus)
    rows = sa.union_all(declared, lately).subquery("hashtag_rows")
    sums = [sa.func.sum(rows.c[name]).label(name) for name in ("hashtags", "lately")]
    return sa.select(rows.c.hashtag_id, *sums).group_by(rows.c.hashtag_id).subquery("tastes")


def candidate_declared(viewer: Viewer, candidates: FromClause) -> Statement:
    """Return a row per candidate and hashtag: 1 if the viewer declared it."""
    declared = sa.and_(
        UserHashtag.user_id == viewer.user_id, UserHashtag.hashtag_id == VideoHashtag.hashtag_id
    )
    is_declared = is_true(UserHashtag.hashtag_id.is_not(None))
    return (
        fact_row(candidates.c.video_id, hashtags=is_declared)
        .select_from(candidates)
        .outerjoin(VideoHashtag, VideoHashtag.video_id == candidates.c.video_id)
        .outerjoin(UserHashtag, declared)
    )


def neighbour_facts(viewer: Viewer, candidates: FromClause) -> Statement:
    """Return a row per candidate that is a neighbour of recently engaged videos."""
    facts = fact_row(viewer.near.c.video_id, neighbours=viewer.near.c.weight)
    return facts.where(viewer.near.c.video_id.in_(sa.select(candidates.c.video_id)))


def followed_facts(viewer: Viewer, candidates: FromClause) -> Statement:
    """Return a row per candidate and followed user who engaged with it recently."""
    video_id, followed = RECENT.c.video_id.label("video_id"), number(1).label("followed")
    facts = engagements_of(viewer.people, video_id, followed)
    # The sum keeps SQLite from looking up every candidate for every followed user.
    return facts.where((RECENT.c.video_id + 0).in_(sa.select(candidates.c.video_id)))


def candidate_neighbours(viewer: Viewer, candidates: FromClause) -> Statement:
    """Return a row per candidate and recently engaged video whose neighbour it is."""
    lately, near = viewer.recent, VideoNeighbour
    is_near = sa.and_(near.source_id == lately.c.video_id, near.video_id == candidates.c.video_id)
    return (
        fact_row(candidates.c.video_id, neighbours=neighbour_weight(near) * lately.c.weight)
        .select_from(candidates)
        .join(lately, sa.true())
        .outerjoin(near, is_near)
    )


def viewer_terms(viewer: Viewer) -> Subquery:
    """Return the words of recently engaged captions with their rarity: 1 if rare, 0 if common."""
    lately = viewer.recent
    rarity = _rarity(viewer)
    return (
        sa.select(VideoTerm.term, sa.func.max(rarity).label("rarity"))
        .select_from(lately)
        .join(VideoTerm, VideoTerm.video_id == lately.c.video_id)
        .join(Term, Term.term == VideoTerm.term)
        .where(rarity > number(0))
        .group_by(VideoTerm.term)
        .order_by(sa.func.sum(lately.c.weight).desc(), VideoTerm.term)
        .limit(MOST_TERMS)
        .subquery("viewer_terms")
    )


def candidate_terms(viewer: Viewer, candidates: FromClause) -> Statement:
    """Return a row per candidate and word of its caption that the viewer's words contain."""
    return _shared_terms("terms", viewer_terms(viewer), candidates)


def _shared_terms(fact: str, words: Subquery, candidates: FromClause) -> Statement:
    # The join repeats the video's id, so that PostgreSQL does not compute the words per candidate.
    is_said = sa.and_(words.c.term == VideoTerm.term, VideoTerm.video_id == candidates.c.video_id)
    return (
        fact_row(candidates.c.video_id, **{fact: words.c.rarity})
        .select_from(candidates)
        .outerjoin(VideoTerm, VideoTerm.video_id == candidates.c.video_id)
        .outerjoin(words, is_said)
        .where(sa.func.coalesce(words.c.rarity, number(0)) > number(0))
    )


def seed_facts(viewer: Viewer, candidates: FromClause) -> list[Statement]:
    """Return the facts of candidates that compare them with the seeds of the list."""
    among = sa.select(candidates.c.video_id)
    near, tags, tag = viewer.seeds.near, viewer.seeds.tags, VideoHashtag
    similar = fact_row(near.c.video_id, similarity=near.c.similarity)
    tagged = (
        fact_row(candidates.c.video_id, shared_hashtags=sa.func.coalesce(tags.c.rarity, number(0)))
        .select_from(candidates)
        .outerjoin(tag, tag.video_id == candidates.c.video_id)
        .outerjoin(tags, tags.c.hashtag_id == tag.hashtag_id)
    )
    worded = _shared_terms("shared_words", seed_terms(viewer), candidates)
    return [similar.where(near.c.video_id.in_(among)), tagged, worded]


def seed_terms(viewer: Viewer) -> Subquery:
    """Return the words of the seeds' captions with their rarity: 1 if rare, 0 if common."""
    rarity = _rarity(viewer)
    return (
        sa.select(VideoTerm.term, sa.func.max(rarity).label("rarity"))
        .select_from(viewer.seeds.videos)
        .join(VideoTerm, VideoTerm.video_id == viewer.seeds.videos.c.id)
        .join(Term, Term.term == VideoTerm.term)
        .where(rarity > number(0))
        .group_by(VideoTerm.term)
        .order_by(sa.func.max(rarity).desc(), VideoTerm.term)
        .limit(MOST_TERMS)
        .subquery("seed_terms")
    )


def _rarity(viewer: Viewer) -> Number:
    return number(1) - sa.cast(Term.captions, Double) / viewer.common_captions
