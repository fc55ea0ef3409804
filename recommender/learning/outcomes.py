"""The place that an outcome belongs to: one rule for audits, fits and evaluations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import aliased

from recommender.database.expressions import age_days, number
from recommender.learning.engagement import MAX_CLOCK_SKEW
from recommender.models import FeedSession, Interaction, ServedVideo


def has_outcome() -> ColumnElement[bool]:
    """Return the condition that the events of a state belong to a place, for their join.

    They belong to the last place of the user and the video that was served at or before the first
    event. At earlier places the user had not looked at the video.
    """
    later = aliased(ServedVideo)
    is_same = (later.user_id == ServedVideo.user_id, later.video_id == ServedVideo.video_id)
    # The first condition follows from the second one; for it PostgreSQL leaves partitions out.
    order = (
        later.served_at >= ServedVideo.served_at,
        _order(later) > _order(ServedVideo),
        _is_before_events(later),
    )
    is_superseded = sa.select(later.position).where(*is_same, *order).exists()
    return sa.and_(_is_before_events(ServedVideo), ~is_superseded)


def was_looked_at() -> ColumnElement[bool]:
    """Return the condition that the user looked at a place: it has an outcome, or was marked seen.

    The statement joins `FeedSession`, and outer joins `Interaction` by the user and the video.
    """
    is_seen = ServedVideo.position <= FeedSession.seen_until
    return sa.or_(is_seen, sa.and_(Interaction.user_id.is_not(None), has_outcome()))


def _order(place: Any) -> sa.Tuple:
    return sa.tuple_(place.served_at, place.session)


def _is_before_events(place: Any) -> ColumnElement[bool]:
    # A client's clock may be 5 minutes behind.
    age = age_days(Interaction.first_at, place.served_at)
    return age <= number(MAX_CLOCK_SKEW / timedelta(days=1))
