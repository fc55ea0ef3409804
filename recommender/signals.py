"""The signals: what speaks for a video to a viewer, one SQL expression each.

A signal is a number in its declared range, never NULL, and depends on no clock but `as_of`. It
reads a `Candidate`: the row of the video, the viewer's bound values, and the *facts*, the sums by
video over what the viewer's own rows say. Facts are gathered in one pass, since a subquery for each
signal costs a walk for each video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Double, Subquery, literal
from sqlalchemy.orm import InstrumentedAttribute

from recommender.columns import Statement
from recommender.fields import LIST_LENGTH
from recommender.filters import Viewer
from recommender.models import Follow, Interaction, UserHashtag, UserSound, Video, VideoHashtag

MOST_SHARES = 1_000_000

FACTS = ("completion", "likes", "shares", "hashtags")
"""The columns of the facts, each a sum over the rows of `fact_rows`; 0 where no row is."""

Number = ColumnElement[float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a signal may read: `Video`'s columns, the facts by name, the viewer's bound values."""

    facts: Subquery
    viewer: Viewer

    def fact(self, name: str) -> Number:
        """A fact of this video, 0 where the viewer has none."""
        return sa.func.coalesce(self.facts.c[name], number(0))


@dataclass(frozen=True, slots=True)
class Signal:
    """A named number in a declared range.

    Args:
        name: as profiles name it.
        low: the least value.
        high: the greatest value.
        expression: gives the SQL expression for a `Candidate`.
    """

    name: str
    low: float
    high: float
    expression: Callable[[Candidate], Number]


def number(value: float) -> Number:
    """A literal in double precision, never a decimal."""
    return literal(float(value), Double())


def is_true(condition: ColumnElement[bool]) -> Number:
    """1 where the condition holds, 0 where it does not or is unknown."""
    return sa.case((condition, number(1)), else_=number(0))


def is_now(since: InstrumentedAttribute[object], until: InstrumentedAttribute[object]) -> Number:
    """1 where a switch was last turned on, such as `liked_at` later than `unliked_at`."""
    return is_true(sa.and_(since.is_not(None), sa.or_(until.is_(None), since > until)))


def gather_facts(viewer: Viewer) -> Subquery:
    """One row for each video that the viewer's rows say something about.

    Every source of facts is rows of one UNION ALL with one GROUP BY: joining them would let the
    database multiply rows that it underestimates.
    """
    rows = sa.union_all(interaction_facts(viewer), hashtag_facts(viewer)).subquery("fact_rows")
    sums = [sa.func.sum(rows.c[name]).label(name) for name in FACTS]
    return sa.select(rows.c.video_id, *sums).group_by(rows.c.video_id).subquery("facts")


def fact_row(video_id: InstrumentedAttribute[int], **values: Number) -> Statement:
    """A row of facts of a video, 0 in those that are not given."""
    facts = [values.get(name, number(0)).label(name) for name in FACTS]
    return sa.select(video_id.label("video_id"), *facts)


def interaction_facts(viewer: Viewer) -> Statement:
    """What the viewer did with each video."""
    return fact_row(
        Interaction.video_id,
        completion=Interaction.completion.expression,
        likes=is_now(Interaction.liked_at, Interaction.unliked_at),
        shares=sa.cast(Interaction.shares, Double),
    ).where(Interaction.user_id == viewer.user_id)


def hashtag_facts(viewer: Viewer) -> Statement:
    """A row for each hashtag of a video that the viewer declared."""
    return (
        fact_row(VideoHashtag.video_id, hashtags=number(1))
        .join(UserHashtag, UserHashtag.hashtag_id == VideoHashtag.hashtag_id)
        .where(UserHashtag.user_id == viewer.user_id)
    )


def completion(candidate: Candidate) -> Number:
    """The best part of this video that the viewer watched: who watched it to the end wanted it.

    Range: 0 to 1. Reads: interactions.
    """
    return candidate.fact("completion")


def likes(candidate: Candidate) -> Number:
    """The viewer likes the video now: the plainest praise.

    Range: 0 or 1. Reads: interactions.
    """
    return candidate.fact("likes")


def shares(candidate: Candidate) -> Number:
    """How often the viewer shared the video: each time it was worth somebody else's time.

    Range: 0 to 1,000,000. Reads: interactions.
    """
    times = candidate.fact("shares")
    return sa.case((times > number(MOST_SHARES), number(MOST_SHARES)), else_=times)


def follows(candidate: Candidate) -> Number:
    """The viewer follows the video's creator: a standing wish to see more.

    Range: 0 or 1. Reads: follows.
    """
    followed = sa.select(Follow.creator_id).where(Follow.user_id == candidate.viewer.user_id)
    return is_true(Video.creator_id.in_(followed))


def hashtags(candidate: Candidate) -> Number:
    """How many of the video's hashtags are among the viewer's declared interests.

    Range: 0 to 300, the most hashtags that a video has. Reads: user_hashtags, video_hashtags.
    """
    return candidate.fact("hashtags")


def sound(candidate: Candidate) -> Number:
    """The video's sound is among the viewer's declared sounds.

    Range: 0 or 1. Reads: user_sounds.
    """
    declared = sa.select(UserSound.sound_id).where(UserSound.user_id == candidate.viewer.user_id)
    return is_true(Video.sound_id.in_(declared))


def language(candidate: Candidate) -> Number:
    """The video is in the viewer's language, compared as written.

    Range: 0 or 1. Reads: users, videos.
    """
    return is_true(Video.language == candidate.viewer.language)


def country(candidate: Candidate) -> Number:
    """The video is from the viewer's country, compared as written: the weakest of interests.

    Range: 0 or 1. Reads: users, videos.
    """
    return is_true(Video.country == candidate.viewer.country)


SIGNALS = (
    Signal("completion", 0, 1, completion),
    Signal("likes", 0, 1, likes),
    Signal("shares", 0, MOST_SHARES, shares),
    Signal("follows", 0, 1, follows),
    Signal("hashtags", 0, LIST_LENGTH, hashtags),
    Signal("sound", 0, 1, sound),
    Signal("language", 0, 1, language),
    Signal("country", 0, 1, country),
)
