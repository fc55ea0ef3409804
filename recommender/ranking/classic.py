"""The exact first page of the reference formula, without scoring every video.

Most of its signals come from lists that an index gives: the viewer's interactions, and the videos
of declared hashtags, followed creators and declared sounds. A video's partial sum over these lists
lacks only language and country, which add little. A full page of scored videos gives a threshold.
Only videos whose partial sum comes that close to it can be on the page, and only these are scored
(partial sums with a threshold: Fagin, Lotem and Naor, 2003). If the threshold is no more than
language and country can add, the newest videos of every kind stand for all videos in no list.
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
"""The number of videos per place of a page that are scored for the threshold."""

ROUNDING = 2e-9
"""The tolerance of the threshold: sums of doubles that are equal on paper differ by less."""


def ranked_reference(shape: Shape, viewer: Viewer) -> Statement:
    """Return the same feed as `ranked`, or `ranked` itself if the host adds signals."""
    if shape.own:
        return ranked(shape, viewer)
    sums = _sums(viewer)
    least = _threshold(shape, viewer, sums)
    possible = sa.union(
        sa.select(sums.c.video_id).where(sums.c.score > least - _others(viewer)),
        *_newest_of_each_kind(shape, viewer, least),
    ).cte("contenders")
    return ordered(_among(shape, viewer, possible)).limit(viewer.limit)


def _sums(viewer: Viewer) -> CTE:
    """Return the videos of all lists with their partial sums."""
    parts = sa.union_all(*_lists(viewer)).subquery("parts")
    score = sa.func.sum(parts.c.score).label("score")
    return sa.select(parts.c.video_id, score).group_by(parts.c.video_id).cte("sums")


def _lists(viewer: Viewer) -> Iterator[Statement]:
    """Return the parts of the sums, one statement per list."""
    # Outer joins keep the databases from starting at all videos.
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
    """Return the most that language and country can add, plus the tolerance."""
    return viewer.weights["language"] + viewer.weights["country"] + number(ROUNDING)


def _threshold(shape: Shape, viewer: Viewer, sums: CTE) -> ColumnElement[float]:
    """Return a score that a full page of videos reaches; -1 if there are too few videos."""
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
    """Return the newest videos by language and country match; none if not needed.

    Videos in no list differ in nothing else. Of two videos of one kind, the newer ranks higher, so
    only the newest can be on the page.
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
    """Return some videos with their scores, from facts of these videos only."""
    facts = summed(
        candidate_interactions(viewer, videos),
        candidate_declared(viewer, videos),
    )
    # As a computed value, no index matches the filters: SQLite would start at all videos.
    is_allowed = is_true(sa.and_(*allowed(shape, viewer)))
    return scored(shape, viewer, videos, facts=facts).where(is_allowed == number(1))
