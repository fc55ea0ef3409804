"""The first videos of the reference formula, exactly, without scoring every video.

Nearly all of its signals come from lists that the databases can walk: what the viewer did, and the
videos of declared hashtags, of followed creators, with declared sounds. The sum of a video's parts
from these lists is its score but for its language and country, which add little. So only those can
be on the page whose sum comes within that little of the score that so many others have for sure;
only these are scored (partial sums with a threshold: Fagin, Lotem and Naor, 2003). Where that
threshold is as low as what a language and a country are worth, the newest of each kind stand for
all videos that are in no list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Double, FromClause

from recommender.database.expressions import Number, Statement, at_most, is_now, is_true, number
from recommender.models import Follow, Interaction, UserHashtag, UserSound, Video, VideoHashtag
from recommender.ranking.features import candidate_declared, candidate_interactions, summed
from recommender.ranking.filters import allowed
from recommender.ranking.scoring import KEY_SCALE, ordered, ranked, scored
from recommender.ranking.signals import COUNT_LIMIT
from recommender.ranking.viewer import Shape, Viewer

SEEDS = 3
"""How many videos of the largest sums are scored for each place of a page, for the threshold."""

ROUNDING = 2e-9
"""Scores are compared in whole billionths; sums of doubles differ by less."""


def ranked_reference(shape: Shape, viewer: Viewer) -> Statement:
    """What `ranked` gives for the reference formula; with a host's own signals it is that."""
    if shape.own:
        return ranked(shape, viewer)
    sums = _sums(viewer)
    least = _threshold(shape, viewer, sums)
    contenders = sa.union(
        sa.select(sums.c.video_id).where(sums.c.score > least - _others(viewer)),
        *_newest_of_each_kind(shape, viewer, least),
    ).cte("contenders")
    return ordered(_among(shape, viewer, contenders)).limit(viewer.limit)


def _sums(viewer: Viewer) -> CTE:
    """The videos of all lists with the sums of their parts."""
    parts = sa.union_all(*_lists(viewer)).subquery("parts")
    score = sa.func.sum(parts.c.score).label("score")
    return sa.select(parts.c.video_id, score).group_by(parts.c.video_id).cte("sums")


def _lists(viewer: Viewer) -> Iterator[Statement]:
    """The parts of each video of each list; outer joins keep databases from beginning at all."""
    weights = viewer.weights
    mine = (
        weights["completion"] * Interaction.completion
        + weights["likes"] * is_now(Interaction.liked_at, Interaction.unliked_at)
        + weights["shares"] * at_most(sa.cast(Interaction.shares, Double), COUNT_LIMIT)
    )
    yield _part(Interaction.video_id, mine).where(Interaction.user_id == viewer.user_id)
    for signal, owner, video_id, of_subject in (
        ("hashtags", UserHashtag, VideoHashtag.video_id, (
            VideoHashtag.hashtag_id == UserHashtag.hashtag_id,
            VideoHashtag.listed_at <= viewer.as_of,
        )),
        ("follows", Follow, Video.id, (
            Video.creator_id == Follow.creator_id, *_shown(viewer),
        )),
        ("sound", UserSound, Video.id, (
            Video.sound_id == UserSound.sound_id, *_shown(viewer),
        )),
    ):  # fmt: skip
        listed = _part(video_id, weights[signal]).select_from(owner)
        yield listed.outerjoin(video_id.class_, sa.and_(*of_subject)).where(
            owner.user_id == viewer.user_id
        )


def _shown(viewer: Viewer) -> tuple[ColumnElement[bool], ...]:
    return Video.status == "published", Video.published_at <= viewer.as_of


def _part(video_id: Any, score: Number) -> Statement:
    return sa.select(video_id.label("video_id"), score.label("score"))


def _others(viewer: Viewer) -> Number:
    """What the signals that no list is walked for can add, and a little."""
    return viewer.weights["language"] + viewer.weights["country"] + number(ROUNDING)


def _threshold(shape: Shape, viewer: Viewer, sums: CTE) -> ColumnElement[float]:
    """The score of so many videos as a page has, or more; below all where there are fewer."""
    largest = (
        sa.select(sums.c.video_id)
        .order_by(sums.c.score.desc())
        .limit(SEEDS * viewer.limit)
        .cte("largest")
    )
    seeds = _among(shape, viewer, largest).subquery("seeds")
    key = (
        sa.select(sa.cast(seeds.c.score_key, Double) / number(KEY_SCALE))
        .order_by(seeds.c.score_key.desc())
        .offset(viewer.limit - 1)
        .limit(1)
        .scalar_subquery()
    )
    threshold = sa.select(sa.func.coalesce(key, number(-1)).label("score")).cte("threshold")
    return sa.select(threshold.c.score).scalar_subquery()


def _newest_of_each_kind(
    shape: Shape, viewer: Viewer, least: ColumnElement[float]
) -> Iterator[Statement]:
    """The newest in the viewer's language or not, from their country or not; none where not needed.

    Those that are in no list differ in nothing else. Who is newer and of the same kind has no less
    of a score, so that only the newest can be on the page.
    """
    needed = sa.case((least <= _others(viewer), viewer.limit), else_=sa.literal(0, BigInteger()))
    in_language, in_country = Video.language == viewer.language, Video.country == viewer.country
    for kind in ((), (in_language,), (in_country,), (in_language, in_country)):
        newest = (
            sa.select(Video.id)
            .where(*allowed(shape, viewer), *kind)
            .order_by(Video.published_at.desc(), Video.id.desc())
            .limit(needed)
            .subquery()
        )
        yield sa.select(newest.c.id)


def _among(shape: Shape, viewer: Viewer, videos: FromClause) -> Statement:
    """Some videos with their scores, by facts of these alone.

    The filters are no conditions that an index has: SQLite would begin at all videos.
    """
    facts = summed(
        candidate_interactions(viewer, videos),
        candidate_declared(viewer, videos),
    )
    is_allowed = is_true(sa.and_(*allowed(shape, viewer)))
    return scored(shape, viewer, videos, facts=facts).where(is_allowed == number(1))
