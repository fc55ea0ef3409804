"""The viewer of one statement: bound values, and what they engaged with lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, BindParameter, Double, Text, Uuid, literal

from recommender.columns import UtcDateTime
from recommender.fields import EARLIEST
from recommender.learned import VideoNeighbour
from recommender.models import Interaction, Video
from recommender.settings import Settings
from recommender.values import FeedRequest, Learning

CYCLE = 2**31 - 1
"""The places of the circle that videos on trial stand in."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """The viewer as bound values of one statement; all but `as_of` are NULL where unknown.

    Attributes:
        learning, settings: plain numbers, which become bound values where they are used.
        has_language: whether the language is known.
        recent: the videos engaged with last, with the weight of each: the newest counts most.
        near: the neighbours of these, with their similarity to all of them together.
        trial_since: when a video must have been published at the earliest to be on trial.
        trial_start: where in the circle of videos on trial the page begins.
        session: the session that the page is in, NULL where it is in none.
        excluded: the videos that the caller left out, None where none: one list for all sources,
            since a statement has only so many bound values.
    """

    user_id: BindParameter[int]
    language: BindParameter[str | None]
    country: BindParameter[str | None]
    device: BindParameter[str | None]
    as_of: BindParameter[datetime]
    learned_since: BindParameter[datetime]
    learning: Learning
    settings: Settings
    has_language: bool
    recent: CTE
    near: CTE
    trial_since: BindParameter[datetime]
    trial_start: BindParameter[int]
    session: BindParameter[UUID | None]
    excluded: CTE | None

    @classmethod
    def of(cls, request: FeedRequest) -> Viewer:
        """The viewer of a resolved request."""
        user_id = literal(request.user_id, BigInteger())
        learned_since = literal(request.learned_since or EARLIEST, UtcDateTime())
        recent = _recent(user_id, learned_since, request.settings)
        return cls(
            user_id=user_id,
            language=literal(request.language, Text()),
            country=literal(request.country, Text()),
            device=literal(request.device, Text()),
            as_of=literal(request.as_of, UtcDateTime()),
            learned_since=learned_since,
            learning=request.learning,
            settings=request.settings,
            has_language=request.language is not None,
            recent=recent,
            near=_near(recent),
            trial_since=literal(_trial_since(request), UtcDateTime()),
            trial_start=literal(request.chance().randrange(CYCLE), BigInteger()),
            session=literal(request.session, Uuid()),
            excluded=_excluded(request.exclude) if request.exclude else None,
        )


def _trial_since(request: FeedRequest) -> datetime:
    return max(EARLIEST, request.as_of - timedelta(days=request.settings.trial_days))


def _recent(
    user_id: BindParameter[int], learned_since: BindParameter[datetime], settings: Settings
) -> CTE:
    newest = sa.func.row_number().over(
        order_by=(Interaction.engaged_at.desc(), Interaction.video_id.desc())
    )
    scale = settings.history_scale
    weight = literal(scale, Double()) / (literal(scale - 1, Double()) + sa.cast(newest, Double))
    return (
        sa.select(Interaction.video_id, weight.label("weight"))
        .where(
            Interaction.user_id == user_id,
            Interaction.engaged_at.is_not(None),
            Interaction.engaged_at > learned_since,
            Interaction.not_interested_at.is_(None),
            Interaction.reports == 0,
        )
        .order_by(Interaction.engaged_at.desc(), Interaction.video_id.desc())
        .limit(settings.history)
        .cte("recent")
    )


def _near(recent: CTE) -> CTE:
    """An outer join, so that no database begins at all neighbours; no neighbour joins no video."""
    similarity = sa.func.sum(VideoNeighbour.similarity * recent.c.weight)
    return (
        sa.select(VideoNeighbour.video_id, similarity.label("similarity"))
        .select_from(recent)
        .outerjoin(VideoNeighbour, VideoNeighbour.source_id == recent.c.video_id)
        .group_by(VideoNeighbour.video_id)
        .cte("near")
    )


def _excluded(keys: Sequence[str]) -> CTE:
    return sa.select(Video.id).where(Video.key.in_(keys)).cte("excluded")
