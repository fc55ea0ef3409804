"""The signals of the list of people to follow: one SQL expression per reason to suggest someone.

They are about creators, and the signals of For You are about videos. So no profile has both: the
profile `people` weighs these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import case, literal

from recommender.database.expressions import (
    Number,
    age_days,
    at_most,
    bounded,
    exp2,
    number,
    saturated,
)
from recommender.formats.scalars import UNDATED
from recommender.models.types import UtcDateTime
from recommender.ranking.signals import LONGEST_AGE, faded
from recommender.ranking.viewer import Viewer


class Facts(NamedTuple):
    """What is known of a creator, as SQL expressions.

    Attributes:
        people: the number of people whom the viewer follows and who follow the creator.
        affinity: the viewer's stored affinity to the creator, NULL for none.
        taste: the weights of the creator's videos near the viewer's recently engaged videos.
        trend: the greatest stored trend of the creator's videos, NULL for none.
        newest_at: the publication time of the creator's newest video.
        days: the number of days on which the creator was suggested, before the reading day.
        most_days: the setting `suggestion_days`.
    """

    people: Any
    affinity: Any
    taste: Any
    trend: Any
    newest_at: Any
    days: Any
    most_days: Any


@dataclass(frozen=True, slots=True)
class PersonSignal:
    """A named number in a declared range, never NULL.

    Args:
        name: its name in the profile `people`.
        low: the least value.
        high: the greatest value.
        expression: a function from a viewer and the facts about a creator to an SQL expression.
    """

    name: str
    low: float
    high: float
    expression: Callable[[Viewer, Facts], Number]


def followed_by(_viewer: Viewer, facts: Facts) -> Number:
    """People whom the viewer follows follow the creator.

    Range: 0 to 1. Reads: follows.
    """
    return saturated(facts.people, number(1))


def enjoyed(viewer: Viewer, facts: Facts) -> Number:
    """The viewer's affinity to the creator, learned from engagements and rejections.

    Range: -1 to 1. Reads: affinities.
    """
    return faded(facts.affinity, viewer.creator_half)


def similar_taste(viewer: Viewer, facts: Facts) -> Number:
    """Viewers of recently engaged videos engaged with the creator's videos, beyond chance.

    Range: 0 to 1. Reads: interactions, video_neighbours.
    """
    # The square as in `signals.collaborative`.
    half = viewer.collaborative_scale
    return saturated(facts.taste * facts.taste, half * half)


def popular(viewer: Viewer, facts: Facts) -> Number:
    """The trend of the creator's most trending video, in the viewer's language if it is known.

    Range: 0 to 1. Reads: videos, learning_state.
    """
    now = saturated(exp2(facts.trend - viewer.trend), viewer.trend_scale)
    return case((facts.trend.is_not(None), now), else_=number(0))


def active(viewer: Viewer, facts: Facts) -> Number:
    """The creator published lately: 1 at that time, halved after each half-life.

    Range: 0 to 1. Reads: videos.
    """
    age = bounded(age_days(facts.newest_at, viewer.as_of), 0, LONGEST_AGE)
    is_dated = facts.newest_at > literal(UNDATED, UtcDateTime())
    return case((is_dated, exp2(-age / viewer.freshness_half_life)), else_=number(0))


def shown(_viewer: Viewer, facts: Facts) -> Number:
    """The part of `suggestion_days` on which the creator was suggested, before the reading day.

    Range: 0 to 1. Reads: suggestions.
    """
    return at_most(facts.days / facts.most_days, 1)


PEOPLE_SIGNALS = (
    PersonSignal("followed_by", 0, 1, followed_by),
    PersonSignal("enjoyed", -1, 1, enjoyed),
    PersonSignal("similar_taste", 0, 1, similar_taste),
    PersonSignal("popular", 0, 1, popular),
    PersonSignal("active", 0, 1, active),
    PersonSignal("shown", 0, 1, shown),
)
"""The signals of the profile `people`; `ranking.request` has their names too."""
