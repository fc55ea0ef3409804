"""The viewer of one statement: bound values, and what they engaged with lately.

A statement's text depends on a request's `Shape` alone, so that it is built and compiled once for
each; all else is one of `values_of`, bound by name in a statement that is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, BindParameter, ColumnElement, Double, Subquery, Text, Uuid
from sqlalchemy.types import TypeEngine

from recommender.database.expressions import json_texts
from recommender.formats.scalars import EARLIEST
from recommender.models import Interaction, Video, VideoHashtag, VideoNeighbour
from recommender.models.types import UtcDateTime
from recommender.ranking.request import FeedRequest

CYCLE = 2**31 - 1
"""The places of the circle that videos on trial stand in."""

HANDHELD = ("phone", "mobile", "ios", "android")
"""Devices that are held upright."""

LEAST_WEIGHT = 1e-15
"""A weight nearer to 0 is 0: no signal of this package is large enough to show it."""

_DOUBLES = (
    "history_scale", "lately_prior", "trial_viewers", "quality_prior", "freshness_half_life",
    "trend_scale", "engaged_share", "trend", "creator_half", "hashtag_half", "sound_half",
    "common_captions", "suits_square", "suits_portrait", "suits_landscape",
)  # fmt: skip

_TYPES: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(
        ("user_id", "limit", "history", "seen_lately", "interests", "trial_start"), BigInteger()
    ),
    **dict.fromkeys(("language", "country", "device", "given", "excluded_keys"), Text()),
    **dict.fromkeys(("as_of", "learned_since", "trial_since"), UtcDateTime()),
    "session": Uuid(),
    **dict.fromkeys(_DOUBLES, Double()),
}
"""The values of a request but its weights, which are doubles too."""

_NOT_REJECTED = (Interaction.not_interested_at.is_(None), Interaction.reports == 0)

Bind = Callable[[str], BindParameter[Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a statement's text depends on.

    Attributes:
        signals: names of the profile's signals.
        is_reference: whether it is the reference formula.
        has_language: whether the viewer's language is known.
        has_excluded: whether the caller left videos out.
        rewatch: whether videos that were seen before the session may come again.
        goes_on: whether the page goes on with a session.
        candidates: how many there are at most.
        where: the caller's own predicate over `Video`.
        own: the host's own signals.
    """

    signals: tuple[str, ...]
    is_reference: bool
    has_language: bool
    has_excluded: bool
    rewatch: bool
    goes_on: bool
    candidates: int
    where: ColumnElement[bool] | None = None
    own: tuple[Any, ...] = ()

    @classmethod
    def of(cls, request: FeedRequest) -> Shape:
        """The shape of a resolved request."""
        return cls(
            signals=tuple(request.profile.weights),
            is_reference=request.profile.is_reference,
            has_language=request.language is not None,
            has_excluded=bool(request.exclude),
            rewatch=request.rewatch,
            goes_on=request.position > 1,
            candidates=request.settings.candidates,
            where=request.where,
            own=tuple(request.signals),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the profile's signals, and of the host's own."""
        return (*self.signals, *(signal.name for signal in self.own))

    @property
    def is_ours(self) -> bool:
        """Whether nothing in it is of the host's own making, so that it comes again."""
        return self.where is None and not self.own


@dataclass(frozen=True, slots=True)
class Viewer:
    """The viewer, and the request's numbers, as bound values of one statement.

    Those of the viewer are NULL where unknown.

    Attributes:
        has_language: whether the language is known.
        suits_square, suits_portrait, suits_landscape: 1 where a video so shaped suits the viewer's
            device, 0 where it does not or the device is unknown.
        limit: how many videos the page has at most.
        given, excluded_keys: the keys of the videos to rank, or left out, a JSON list each.
        weights: the weight of each signal by its name.
        history, history_scale, seen_lately, lately_prior, interests, trial_viewers, quality_prior,
            freshness_half_life: the settings of these names.
        trend_scale: the engaged viewers of late at which a trend counts half: the setting of this
            name, or a part of those of the most trending video where that is more.
        engaged_share, trend: what the learning state says of these at the reading time.
        creator_half, hashtag_half, sound_half: stored affinities of which their signal is half.
        common_captions: in how many captions a word is common, 1 at least.
        trial_since: when a video must have been published at the earliest to be on trial.
        trial_start: where in the circle of videos on trial the page begins.
        session: the session that the page is in, NULL where it is in none.
        recent: the videos engaged with last, with the weight of each: the newest counts most.
        near: the neighbours of these, with their similarity to all of them together.
        lately: the hashtags of the videos seen last, with how much more than the average of all
            users the viewer engaged with what has them.
        excluded: the videos that the caller left out, None where none.
    """

    user_id: BindParameter[int]
    language: BindParameter[str | None]
    country: BindParameter[str | None]
    device: BindParameter[str | None]
    suits_square: BindParameter[float]
    suits_portrait: BindParameter[float]
    suits_landscape: BindParameter[float]
    as_of: BindParameter[datetime]
    learned_since: BindParameter[datetime]
    limit: BindParameter[int]
    given: BindParameter[str]
    excluded_keys: BindParameter[str]
    weights: Mapping[str, BindParameter[float]]
    history: BindParameter[int]
    history_scale: BindParameter[float]
    seen_lately: BindParameter[int]
    lately_prior: BindParameter[float]
    interests: BindParameter[int]
    trial_viewers: BindParameter[float]
    quality_prior: BindParameter[float]
    freshness_half_life: BindParameter[float]
    trend_scale: BindParameter[float]
    engaged_share: BindParameter[float]
    trend: BindParameter[float]
    creator_half: BindParameter[float]
    hashtag_half: BindParameter[float]
    sound_half: BindParameter[float]
    common_captions: BindParameter[float]
    trial_since: BindParameter[datetime]
    trial_start: BindParameter[int]
    session: BindParameter[UUID | None]
    has_language: bool
    recent: CTE
    near: CTE
    lately: CTE
    excluded: CTE | None

    @classmethod
    def of(cls, request: FeedRequest, given: Sequence[str] = ()) -> Viewer:
        """The viewer of a resolved request, each value bound.

        Args:
            request: as `resolve` gives it.
            given: the keys of the videos to rank.
        """
        values = values_of(request, given)
        return cls._of(Shape.of(request), lambda name: sa.literal(values[name], _type(name)))

    @classmethod
    def named(cls, shape: Shape) -> Viewer:
        """Any viewer: `values_of` a request of this shape are given on execution."""
        return cls._of(shape, lambda name: sa.bindparam(name, type_=_type(name)))

    @classmethod
    def _of(cls, shape: Shape, bind: Bind) -> Viewer:
        values = {name: bind(name) for name in _TYPES}
        recent = _recent(values)
        return cls(
            **values,
            weights={name: bind(_weight(name)) for name in shape.names},
            has_language=shape.has_language,
            recent=recent,
            near=_near(recent),
            lately=_lately(values),
            excluded=_excluded(values["excluded_keys"]) if shape.has_excluded else None,
        )

    def given_videos(self) -> sa.Select[int]:
        """The ids of the videos to rank."""
        return _keyed(self.given)


def values_of(request: FeedRequest, given: Sequence[str] = ()) -> dict[str, Any]:
    """What a statement of the request's shape is executed with.

    Args:
        request: as `resolve` gives it.
        given: the keys of the videos to rank.
    """
    settings, learning = request.settings, request.learning
    return {
        "user_id": request.user_id,
        "language": request.language,
        "country": request.country,
        "device": request.device,
        "suits_square": float(request.device is not None),
        "suits_portrait": float(request.device in HANDHELD),
        "suits_landscape": float(request.device not in {None, *HANDHELD}),
        "as_of": request.as_of,
        "learned_since": request.learned_since or EARLIEST,
        "limit": request.limit,
        "given": json.dumps(given),
        "excluded_keys": json.dumps(request.exclude),
        "history": settings.history,
        "history_scale": float(settings.history_scale),
        "seen_lately": settings.seen_lately,
        "lately_prior": float(settings.lately_prior),
        "interests": settings.interests,
        "trial_viewers": float(settings.trial_viewers),
        "quality_prior": float(settings.quality_prior),
        "freshness_half_life": float(settings.freshness_half_life),
        "trend_scale": max(float(settings.trend_scale), settings.trend_peak_share * learning.peak),
        "engaged_share": float(learning.engaged_share),
        "trend": float(learning.trend),
        "creator_half": settings.affinity_scale / learning.creator,
        "hashtag_half": settings.affinity_scale / learning.hashtag,
        "sound_half": settings.affinity_scale / learning.sound,
        "common_captions": max(1.0, learning.captions * settings.common_term),
        "trial_since": max(EARLIEST, request.as_of - timedelta(days=settings.trial_days)),
        "trial_start": request.chance().randrange(CYCLE),
        "session": request.session,
        **{_weight(name): _felt(weight) for name, weight in weights_of(request).items()},
    }


def weights_of(request: FeedRequest) -> dict[str, float]:
    """The weights of the profile's signals and of those that the host adds, by name."""
    own = {signal.name: weight for signal, weight in request.signals.items()}
    return {**request.profile.weights, **own}


def _weight(signal: str) -> str:
    return f"weight_of_{signal}"


def _felt(weight: float) -> float:
    return float(weight) if abs(weight) >= LEAST_WEIGHT else 0.0


def _type(name: str) -> TypeEngine[Any]:
    return _TYPES.get(name, Double())


def _recent(values: Mapping[str, BindParameter[Any]]) -> CTE:
    newest = sa.func.row_number().over(
        order_by=(Interaction.engaged_at.desc(), Interaction.video_id.desc())
    )
    scale = values["history_scale"]
    weight = scale / (scale - sa.literal(1.0, Double()) + sa.cast(newest, Double))
    return (
        sa.select(Interaction.video_id, weight.label("weight"))
        .where(
            Interaction.user_id == values["user_id"],
            Interaction.engaged_at.is_not(None),
            Interaction.engaged_at > values["learned_since"],
            *_NOT_REJECTED,
        )
        .order_by(Interaction.engaged_at.desc(), Interaction.video_id.desc())
        .limit(values["history"])
        .cte("recent")
    )


def _lately(values: Mapping[str, BindParameter[Any]]) -> CTE:
    """Smoothed as if some more videos of each hashtag were seen, of average interest."""
    seen = _seen(values)
    number = sa.cast(sa.func.count(), Double)
    surplus = sa.func.sum(seen.c.engaged) - values["engaged_share"] * number
    return (
        sa.select(
            VideoHashtag.hashtag_id, (surplus / (values["lately_prior"] + number)).label("surplus")
        )
        .select_from(seen)
        .join(VideoHashtag, VideoHashtag.video_id == seen.c.video_id)
        .group_by(VideoHashtag.hashtag_id)
        .cte("lately")
    )


def _seen(values: Mapping[str, BindParameter[Any]]) -> Subquery:
    """The videos seen last: in `engaged` 1 where the viewer did, -1 where they rejected it."""
    outcome = sa.case(
        (~sa.and_(*_NOT_REJECTED), sa.literal(-1.0, Double())),
        (Interaction.engaged_at > values["learned_since"], sa.literal(1.0, Double())),
        else_=sa.literal(0.0, Double()),
    )
    return (
        sa.select(Interaction.video_id, outcome.label("engaged"))
        .where(
            Interaction.user_id == values["user_id"],
            Interaction.last_at > values["learned_since"],
        )
        .order_by(Interaction.last_at.desc(), Interaction.video_id.desc())
        .limit(values["seen_lately"])
        .subquery("seen")
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


def _excluded(keys: BindParameter[str]) -> CTE:
    """One list for all sources."""
    return _keyed(keys).cte("excluded")


def _keyed(keys: BindParameter[str]) -> sa.Select[int]:
    """The ids of the videos of a JSON list of keys: one value, however many they are."""
    each = json_texts(keys).table_valued("value", name="listed")
    return sa.select(Video.id).where(Video.key.in_(sa.select(each.c.value)))
