"""The signals: one SQL expression per reason to show a video.

A signal is a number in its declared range, never NULL, and reads no clock but `as_of`. It reads a
`Candidate`: the video's row, the viewer's bound values and affinities, and the *facts*, sums per
video over other tables. Facts are gathered in one pass, because a subquery per signal would run
again for every video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Double, FromClause, literal
from sqlalchemy.orm import InstrumentedAttribute, aliased

from recommender.database.expressions import (
    Number,
    age_days,
    at_most,
    bounded,
    exp2,
    is_true,
    number,
    saturated,
    unless_nan,
)
from recommender.errors import InvalidValue
from recommender.formats.scalars import LIST_LENGTH, UNDATED, shown
from recommender.models import (
    Affinity,
    Follow,
    UserSound,
    Video,
)
from recommender.models.types import UtcDateTime
from recommender.ranking.features import FACTS
from recommender.ranking.viewer import Viewer

COUNT_LIMIT = 1_000_000
"""The largest number of shares or comments that counts."""

LONGEST_AGE = 1e9
"""The largest age of a video, in days."""

CREATOR_AFFINITY, SOUND_AFFINITY = aliased(Affinity), aliased(Affinity)
"""The viewer's affinities to the creator and to the sound of a video, as statements join them."""

LEAST_AFFINITY = 1e-20
"""The smallest absolute affinity at the reading time; smaller ones count as 0."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The inputs of a signal, besides the columns of `Video`.

    Attributes:
        facts: the sums per video; read them by `fact`, as a statement gathers only those it needs.
        viewer: the viewer's bound values.
        creator: the viewer's affinity to the video's creator.
        sound: the viewer's affinity to the video's sound.
    """

    facts: FromClause
    viewer: Viewer
    creator: type[Affinity] = CREATOR_AFFINITY
    sound: type[Affinity] = SOUND_AFFINITY

    def fact(self, name: str) -> Number:
        """Return a fact of this video, 0 if there is none or it was not gathered.

        Raises:
            InvalidValue: the name is not one of `FACTS`.
        """
        if name not in FACTS:
            raise InvalidValue(f"fact: {shown(name)} is not one of {', '.join(FACTS)}")
        gathered = self.facts.c.get(name)
        return number(0) if gathered is None else sa.func.coalesce(gathered, number(0))


@dataclass(frozen=True, slots=True)
class Signal:
    """A named number in a declared range.

    Args:
        name: its name in profiles; a host's own is one word of at most 63 bytes, unique without
            regard to case.
        low: the least value.
        high: the greatest value.
        expression: a function from a `Candidate` to an SQL expression.
        sentence: the reason in an explanation, after "Because", such as ``the editors chose it``;
            None to name the signal and its value.

    Raises:
        InvalidValue: the bounds are outside -1,000,000 to 1,000,000, or low is above high.
    """

    name: str
    low: float
    high: float
    expression: Callable[[Candidate], Number]
    sentence: str | None = None

    def __post_init__(self) -> None:
        are_numbers = all(isinstance(bound, int | float) for bound in (self.low, self.high))
        if not (are_numbers and -COUNT_LIMIT <= self.low <= self.high <= COUNT_LIMIT):
            raise InvalidValue(
                f"signal {shown(self.name)}: {self.low} to {self.high} is no range within"
                f" -{COUNT_LIMIT:,} to {COUNT_LIMIT:,}"
            )


def expression_of(signal: Signal, candidate: Candidate) -> ColumnElement[Any]:
    """Return the SQL expression of a host's signal for a candidate.

    Raises:
        InvalidValue: the signal gives no SQL expression.
    """
    value = signal.expression(candidate)
    if isinstance(value, ColumnElement | InstrumentedAttribute):
        return value.expression  # a column and not an attribute of a class
    raise InvalidValue(f"signals: {signal.name} gives {shown(value)}, which is no SQL expression")


def within_range(signal: Signal, candidate: Candidate) -> Number:
    """Return the expression of a host's signal, clamped to its declared range."""
    # Each part reads the expression once, because it may be a subquery.
    held = sa.cast(expression_of(signal, candidate), Double)
    return bounded(unless_nan(held), signal.low, signal.high)


def completion(candidate: Candidate) -> Number:
    """The largest part of the video that the viewer watched in one view.

    Range: 0 to 1. Reads: interactions.
    """
    return candidate.fact("completion")


def likes(candidate: Candidate) -> Number:
    """The viewer likes the video and has not taken the like back.

    Range: 0 or 1. Reads: interactions.
    """
    return candidate.fact("likes")


def shares(candidate: Candidate) -> Number:
    """The number of times that the viewer shared the video.

    Range: 0 to 1,000,000. Reads: interactions.
    """
    return at_most(candidate.fact("shares"), COUNT_LIMIT)


def follows(candidate: Candidate) -> Number:
    """The viewer follows the video's creator.

    Range: 0 or 1. Reads: follows.
    """
    followed = sa.select(Follow.creator_id).where(Follow.user_id == candidate.viewer.user_id)
    return is_true(Video.creator_id.in_(followed))


def hashtags(candidate: Candidate) -> Number:
    """The number of the video's hashtags among the viewer's declared interests.

    Range: 0 to 300, the most that a video has. Reads: user_hashtags, video_hashtags.
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
    """The video is from the viewer's country, compared as written.

    Range: 0 or 1. Reads: users, videos.
    """
    return is_true(Video.country == candidate.viewer.country)


def comments(candidate: Candidate) -> Number:
    """The number of times that the viewer commented on the video.

    Range: 0 to 1,000,000. Reads: interactions.
    """
    return at_most(candidate.fact("comments"), COUNT_LIMIT)


def saves(candidate: Candidate) -> Number:
    """The viewer has saved the video and not removed it again.

    Range: 0 or 1. Reads: interactions.
    """
    return candidate.fact("saves")


def device(candidate: Candidate) -> Number:
    """The video's orientation suits the viewer's device: portrait on handheld devices.

    Range: 0 or 1; a square video suits every known device. Reads: users, videos.
    """
    viewer = candidate.viewer
    return sa.case(
        (Video.orientation == "square", viewer.suits_square),
        (Video.orientation == "portrait", viewer.suits_portrait),
        (Video.orientation == "landscape", viewer.suits_landscape),
        else_=number(0),
    )


def creator_affinity(candidate: Candidate) -> Number:
    """The viewer's affinity to the creator, learned from engagements and rejections.

    Range: -1 to 1. Reads: affinities.
    """
    return faded(candidate.creator.score, candidate.viewer.creator_half)


def hashtag_affinity(candidate: Candidate) -> Number:
    """The viewer's affinity to the video's hashtags together, its topics.

    Range: -1 to 1. Reads: affinities, video_hashtags.
    """
    return faded(candidate.fact("hashtag_affinity"), candidate.viewer.hashtag_half)


def lately(candidate: Candidate) -> Number:
    """The viewer's recent engagement with the video's hashtags, compared with the average.

    It reads the videos seen last. It is a share, so it follows changes of taste at once; rejected
    videos count against their hashtags.

    Range: -1 to 1. Reads: interactions, video_hashtags, learning_state.
    """
    return bounded(candidate.fact("lately"), -1, 1)


def sound_affinity(candidate: Candidate) -> Number:
    """The viewer's affinity to the video's sound, learned from behaviour.

    Range: -1 to 1. Reads: affinities.
    """
    return faded(candidate.sound.score, candidate.viewer.sound_half)


def faded(score: Any, half: Number) -> Number:
    """Return an affinity at the reading time, mapped to -1 to 1; 0 if there is none."""
    # The score is not multiplied: PostgreSQL raises an error if the product is not a double.
    is_some = sa.func.abs(score) > half * number(LEAST_AFFINITY)
    return sa.case((is_some, saturated(score, half)), else_=number(0))


def caption(candidate: Candidate) -> Number:
    """Rare words that the caption shares with captions of recently engaged videos.

    Range: 0 to 1. Reads: interactions, video_terms, terms.
    """
    return saturated(candidate.fact("terms"), number(1))


def collaborative(candidate: Candidate) -> Number:
    """Viewers of recently engaged videos engaged with this one too, more often than by chance.

    Item-based collaborative filtering (Sarwar and others, 2001). The latest engagements weigh most,
    which carries the session's context.

    Range: 0 to 1. Reads: interactions, video_neighbours.
    """
    # The square (Hill, 1910) lets a few strong neighbours count more than many weak ones, which
    # popular videos have.
    weights, half = candidate.fact("neighbours"), candidate.viewer.collaborative_scale
    return saturated(weights * weights, half * half)


def social(candidate: Candidate) -> Number:
    """People whom the viewer follows engaged with the video recently.

    Range: 0 to 1. Reads: follows, recent_engagements.
    """
    return saturated(candidate.fact("followed"), number(1))


def quality(candidate: Candidate) -> Number:
    """The share of the video's viewers who engaged, smoothed by viewers of average interest.

    Range: 0 to 1. Reads: videos, learning_state.
    """
    prior = candidate.viewer.quality_prior
    engaged = sa.cast(Video.engaged_views, Double) + prior * candidate.viewer.engaged_share
    viewers = sa.cast(Video.impressions, Double) + prior
    return at_most(sa.type_coerce(engaged / viewers, Double), 1.0)


def trending(candidate: Candidate) -> Number:
    """Many users engaged recently (forward decay), compared with the most trending video.

    Range: 0 to 1. Reads: videos, learning_state.
    """
    return trend(candidate.viewer)


def trend(viewer: Viewer) -> Number:
    """Return a video's trend at the reading time, mapped to 0 to 1; 0 if there is none."""
    now = saturated(exp2(Video.trending - viewer.trend), viewer.trend_scale)
    return sa.case((Video.trending.is_not(None), now), else_=number(0))


def freshness(candidate: Candidate) -> Number:
    """The video is new: 1 when published, halved after each half-life, 0 without a date.

    Range: 0 to 1. Reads: videos.
    """
    age = age_days(Video.published_at, candidate.viewer.as_of)
    fresh = exp2(-bounded(age, 0, LONGEST_AGE) / candidate.viewer.freshness_half_life)
    is_dated = Video.published_at > literal(UNDATED, UtcDateTime())
    return sa.case((is_dated, fresh), else_=number(0))


def exploration(candidate: Candidate) -> Number:
    """The video has few impressions, so its quality is not yet known.

    Range: 0 to 1. Reads: videos.
    """
    trial = candidate.viewer.trial_viewers
    return trial / (trial + sa.cast(Video.impressions, Double))


SIGNALS = (
    Signal("completion", 0, 1, completion),
    Signal("likes", 0, 1, likes),
    Signal("shares", 0, COUNT_LIMIT, shares),
    Signal("follows", 0, 1, follows),
    Signal("hashtags", 0, LIST_LENGTH, hashtags),
    Signal("sound", 0, 1, sound),
    Signal("language", 0, 1, language),
    Signal("country", 0, 1, country),
    Signal("comments", 0, COUNT_LIMIT, comments),
    Signal("saves", 0, 1, saves),
    Signal("device", 0, 1, device),
    Signal("creator_affinity", -1, 1, creator_affinity),
    Signal("hashtag_affinity", -1, 1, hashtag_affinity),
    Signal("lately", -1, 1, lately),
    Signal("sound_affinity", -1, 1, sound_affinity),
    Signal("caption", 0, 1, caption),
    Signal("collaborative", 0, 1, collaborative),
    Signal("social", 0, 1, social),
    Signal("quality", 0, 1, quality),
    Signal("trending", 0, 1, trending),
    Signal("freshness", 0, 1, freshness),
    Signal("exploration", 0, 1, exploration),
)
