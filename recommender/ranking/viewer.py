"""The viewer of a statement: bound values and recent engagements.

A statement's text depends only on the `Shape` of a request, so it is built and compiled once per
shape. All else is bound by name when a kept statement runs; `values_of` gives the values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, BindParameter, ColumnElement, Double, Text, Uuid
from sqlalchemy.types import TypeEngine

from recommender.database.written_out import written_out
from recommender.formats.scalars import EARLIEST, HANDHELD, LARGEST_ID
from recommender.models.types import LEAST_WEIGHT, UtcDateTime
from recommender.ranking.history import (
    active_people,
    current_tastes,
    followed_users,
    given_people,
    keyed_videos,
    near_recent,
    recent_engagements,
    taste,
)
from recommender.ranking.request import CYCLE, FeedRequest, ScanPosition, weights_of
from recommender.ranking.seeds import Seeds

if TYPE_CHECKING:
    from recommender.ranking.registry import Registry

MAX_VIEWERS = 100
"""The number of cached viewers without values."""

_INTEGERS = (
    "user_id", "limit", "history", "taste_videos", "seen_lately", "interests", "trial_start",
    "scan_limit", "scan_after_id", "served_attempts", "whole",
)  # fmt: skip

_TIMES = (
    "as_of", "learned_since", "trial_since", "scan_after", "served_until", "session_start",
)  # fmt: skip

_TEXTS = ("key", "language", "country", "device", "given", "seed_keys", "excluded_keys", "friends")

_DOUBLES = (
    "history_scale", "lately_prior", "trial_viewers", "quality_prior", "freshness_half_life",
    "trend_scale", "engaged_share", "trend", "creator_half", "hashtag_half", "sound_half",
    "common_captions", "collaborative_scale", "suits_square", "suits_portrait", "suits_landscape",
    "taste_rejection",
)  # fmt: skip

_TYPES: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(_INTEGERS, BigInteger()),
    **dict.fromkeys(_TEXTS, Text()),
    **dict.fromkeys(_TIMES, UtcDateTime()),
    "memory": sa.SmallInteger(),
    "session": Uuid(),
    **dict.fromkeys(_DOUBLES, Double()),
}
"""The types of a request's bound values; weights are doubles too."""

Bind = Callable[[str], BindParameter[Any]]


class ViewerParts(NamedTuple):
    """The names of signals, and which values a viewer has, as in `Shape`."""

    signals: tuple[str, ...] = ()
    has_language: bool = False
    has_excluded: bool = False
    formats: int = 0
    space: str | None = None
    has_friends: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """The properties of a request that determine the text of its statements.

    Attributes:
        signals: the names of the profile's signals.
        is_reference: whether it is the reference formula.
        has_language: whether the viewer's language is known.
        has_excluded: whether the caller left videos out.
        rewatch: whether videos seen before the session may be shown again.
        goes_on: whether the page continues a session.
        fills: as in `FeedRequest`.
        candidates: the largest number of candidates.
        registry: the signals, sources and filters that there are.
        formats: the number of formats that the caller asks for.
        has_seeds: whether the list is about given videos, and not For You.
        sources: the sources of the feed, each with its quota; empty for all.
        has_format: whether the places of a page depend on the formats of its videos.
        has_friends: whether `FeedRequest.friends` is given.
        added: the structure of the host's SQL, if the statement is to be cached.
        where: the host's predicate over `Video`.
        own: the host's signals.
    """

    signals: tuple[str, ...]
    is_reference: bool
    has_language: bool
    has_excluded: bool
    rewatch: bool
    goes_on: bool
    candidates: int
    registry: Registry
    formats: int = 0
    fills: bool = False
    has_seeds: bool = False
    sources: tuple[tuple[str, int | None], ...] = ()
    has_format: bool = False
    has_friends: bool = False
    added: Hashable = None
    where: ColumnElement[bool] | None = field(default=None, compare=False)
    own: tuple[Any, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, request: FeedRequest) -> Shape:
        """Return the shape of a resolved request."""
        return cls(
            signals=tuple(request.profile.weights),
            is_reference=request.profile.is_reference,
            has_language=request.language is not None,
            has_excluded=bool(request.exclude),
            rewatch=request.rewatch,
            goes_on=request.position > 1,
            fills=request.fills,
            candidates=request.settings.candidates,
            registry=request.registry,
            formats=len(request.formats),
            has_seeds=bool(request.seeds),
            sources=tuple(request.feed.sources.items()) if request.feed else (),
            has_format=request.limits_formats,
            has_friends=request.friends is not None,
            where=request.where,
            own=tuple(request.signals),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the profile's signals, then of the host's own."""
        return (*self.signals, *(signal.name for signal in self.own))

    @property
    def is_ours(self) -> bool:
        """True if the host adds no SQL of its own."""
        return self.where is None and not self.own

    @property
    def has_conditions(self) -> bool:
        """True if the host has conditions on videos, of the request or registered."""
        return self.where is not None or bool(self.registry.filters)

    @property
    def parts(self) -> ViewerParts:
        """The parts of `Viewer`."""
        return ViewerParts(
            self.names, self.has_language, self.has_excluded, self.formats, self.registry.space,
            self.has_friends,
        )  # fmt: skip

    def any_viewer(self) -> Viewer:
        """Return the viewer of a statement whose values, from `values_of`, are given later."""
        return Viewer.named(self.parts)


@dataclass(frozen=True, slots=True)
class Viewer:
    """The viewer and the request as bound values of one statement; unknown values are NULL.

    Attributes:
        has_language: whether the language is known.
        key: the viewer's key, the host's own id of them; NULL in lists without a viewer.
        suits_square, suits_portrait, suits_landscape: 1 if it suits the viewer's device, else 0.
        limit: the largest number of videos on the page.
        given: the keys of the videos to rank, or the contenders of a session, as a JSON list.
        seed_keys, excluded_keys: the keys of `seeds` and of videos to leave out, as JSON lists.
        weights: the weights by signal name.
        formats: the formats that the caller asks for; empty for any.
        history, history_scale, seen_lately, lately_prior, interests, trial_viewers, quality_prior,
            freshness_half_life, taste_videos, taste_rejection: the settings of these names.
        trend_scale: the recent engaged viewers at which a trend counts half: the setting, or a
            share of the greatest trend if that is more.
        engaged_share, trend: the learning state's values at the reading time.
        creator_half, hashtag_half, sound_half: the stored affinities at which signals are half.
        common_captions: the number of captions from which a word is common, at least 1.
        collaborative_scale: the weights of neighbours that make the signal one half.
        trial_since: the earliest publication time of exploration candidates.
        trial_start: the position in the shuffled cycle where the page begins.
        scan_after, scan_after_id: the publication time and id after which `where` is scanned for.
        scan_limit: the number of videos to scan.
        memory: the memory number of the feed.
        session, session_start: the session of the page, and when it began; NULL if none.
        served_until: the time until which a video must have been served to come again unseen.
        served_attempts: the number of times that a video is served before it is seen.
        friends, whole: as in `FeedRequest`.
        recent: the videos engaged with last, with weights: the latest counts most.
        near: the neighbours of `recent`, with the sums of their weights.
        lately: the hashtags of the videos seen last, with the viewer's engagement above average.
        followed: the users whom the viewer follows, without muted and blocked ones.
        people: the followed users whose recent engagements are read.
        excluded: the videos that the caller left out, None if none.
        seeds: the videos that the list `similar` is about.
        taste: the direction of what they enjoyed in the registry's space, None without a space.
    """

    user_id: BindParameter[int]
    key: BindParameter[str | None]
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
    seed_keys: BindParameter[str]
    excluded_keys: BindParameter[str]
    friends: BindParameter[str]
    weights: Mapping[str, BindParameter[float]]
    formats: tuple[BindParameter[str], ...]
    history: BindParameter[int]
    history_scale: BindParameter[float]
    taste_videos: BindParameter[int]
    taste_rejection: BindParameter[float]
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
    collaborative_scale: BindParameter[float]
    trial_since: BindParameter[datetime]
    trial_start: BindParameter[int]
    scan_after: BindParameter[datetime]
    scan_after_id: BindParameter[int]
    scan_limit: BindParameter[int]
    memory: BindParameter[int]
    session: BindParameter[UUID | None]
    session_start: BindParameter[datetime]
    served_until: BindParameter[datetime]
    served_attempts: BindParameter[int]
    whole: BindParameter[int]
    has_language: bool
    recent: CTE
    near: CTE
    lately: CTE
    followed: CTE
    people: CTE
    excluded: CTE | None
    seeds: Seeds
    taste: CTE | None

    @classmethod
    def of(cls, request: FeedRequest, given: Sequence[str | int] = ()) -> Viewer:
        """Return the viewer of a resolved request, with its values bound, as `values_of` says."""
        values = values_of(request, given)
        parts = Shape.of(request).parts
        return cls._of(parts, lambda name: sa.literal(values[name], _type(name)))

    @classmethod
    @lru_cache(MAX_VIEWERS)
    def named(cls, parts: ViewerParts) -> Viewer:
        """Return any viewer: the values, from `values_of`, are given on execution."""
        viewer = cls._of(parts, lambda name: sa.bindparam(name, type_=_type(name)))
        for cte in viewer.ctes:
            written_out(cte)
        return viewer

    @classmethod
    def _of(cls, parts: ViewerParts, bind: Bind) -> Viewer:
        values = {name: bind(name) for name in _TYPES}
        recent = recent_engagements(values)
        followed = followed_users(values)
        people = given_people(values) if parts.has_friends else active_people(followed)
        excluded = keyed_videos(values["excluded_keys"]).cte("excluded")
        return cls(
            **values,
            weights={name: bind(_weight(name)) for name in parts.signals},
            formats=tuple(bind(_format(number)) for number in range(parts.formats)),
            has_language=parts.has_language,
            recent=recent,
            near=near_recent(recent),
            lately=current_tastes(values),
            followed=followed,
            people=people,
            excluded=excluded if parts.has_excluded else None,
            seeds=Seeds.of(values["seed_keys"], parts.space),
            taste=taste(parts.space, recent, values) if parts.space else None,
        )

    @property
    def ctes(self) -> list[CTE]:
        """The common table expressions."""
        history = (self.recent, self.near, self.lately, self.followed, self.people)
        ctes = (*history, self.excluded, *self.seeds, self.taste)
        return [cte for cte in ctes if cte is not None]

    @property
    def parameters(self) -> frozenset[str]:
        """The names of the values."""
        formats = map(_format, range(len(self.formats)))
        return frozenset([*_TYPES, *map(_weight, self.weights), *formats])


def values_of(request: FeedRequest, given: Sequence[str | int] = ()) -> dict[str, Any]:
    """Return the values for a statement of the request's shape, by name.

    Args:
        request: as `resolve` gives it.
        given: the keys of the videos to rank, or row ids.
    """
    settings, learning = request.settings, request.learning
    newest = ScanPosition(request.as_of, LARGEST_ID)
    scan = min(request.scan_after or newest, newest)
    return {
        "user_id": request.user_id or 0,  # no row has 0, and Citus finds no node for NULL
        "key": request.user or None,
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
        "seed_keys": json.dumps(request.seeds),
        "excluded_keys": json.dumps(request.exclude),
        "friends": request.friends,
        "history": settings.history,
        "history_scale": float(settings.history_scale),
        "taste_videos": settings.taste_videos,
        "taste_rejection": float(settings.taste_rejection),
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
        "collaborative_scale": float(settings.collaborative_scale),
        "common_captions": max(1.0, learning.captions * settings.common_term),
        "trial_since": max(EARLIEST, request.as_of - timedelta(days=settings.trial_days)),
        "trial_start": request.chance().randrange(CYCLE),
        "scan_after": scan.published_at,
        "scan_after_id": scan.video_id,
        "scan_limit": settings.scan_limit,
        "memory": request.memory,
        "session": request.session,
        "session_start": request.started_at or request.as_of,
        "served_until": request.served_until,
        "served_attempts": settings.served_attempts,
        "whole": request.whole,
        **{_weight(name): _felt(weight) for name, weight in weights_of(request).items()},
        **{_format(number): name for number, name in enumerate(request.formats)},
    }


def _weight(signal: str) -> str:
    return f"weight_of_{signal}"


def _format(number: int) -> str:
    return f"format_{number}"


def _felt(weight: float) -> float:
    return float(weight) if abs(weight) >= LEAST_WEIGHT else 0.0


def _type(name: str) -> TypeEngine[Any]:
    return _TYPES.get(name) or (Text() if name.startswith("format_") else Double())
