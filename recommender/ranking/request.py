"""The value objects that pass between the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement

from recommender.errors import InvalidValue
from recommender.settings import Settings

REFERENCE = "classic"
"""The built-in formula over the whole catalogue, without filters or memory, for ever the same."""

SMALLEST_LIMIT, DEFAULT_LIMIT, LARGEST_LIMIT = 1, 20, 500


def check_limit(limit: int) -> int:
    """The limit itself where it is 1 to 500, else `InvalidValue`."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidValue(f"limit: {limit!r} is not a whole number")
    if not SMALLEST_LIMIT <= limit <= LARGEST_LIMIT:
        raise InvalidValue(f"limit: {limit:,} is not between {SMALLEST_LIMIT} and {LARGEST_LIMIT}")
    return limit


@dataclass(frozen=True, slots=True)
class Profile:
    """One version of a ranking profile: signal names and their weights; `id` is its row's."""

    name: str
    version: int
    weights: Mapping[str, float]
    active: bool = False
    id: int | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def is_reference(self) -> bool:
        """Whether it is the reference formula, which keeps own, seen and muted videos."""
        return self.name == REFERENCE


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """Where one version of a ranking profile comes from.

    Attributes:
        profile: its name.
        version: its number.
        created_at: when it was made, in UTC.
        activated_at: when it was activated last, None where never.
        source: ``hand`` or ``fit``: who chose its weights.
        author: who made it, None where nobody said.
        note: why, None where nobody said.
        parent: ``name@version`` of what it was made from, None where from nothing.
        metrics: what a fit found, as `Fit.as_dict` gives it; None where made by hand.
    """

    profile: str
    version: int
    created_at: datetime
    activated_at: datetime | None = None
    source: str = "hand"
    author: str | None = None
    note: str | None = None
    parent: str | None = None
    metrics: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Learning:
    """What the learning state says at a reading time.

    Attributes:
        creator, hashtag, sound: what brings a stored affinity to the reading time.
        trend: the half-lives that a trend has faded by since the landmark.
        peak: the engaged viewers of late of the most trending video of all, as last refreshed.
        engaged_share: engaged viewers by viewers, over all videos, 0 to 1.
        captions: how many captions the words were counted in.
    """

    creator: float
    hashtag: float
    sound: float
    trend: float
    peak: float
    engaged_share: float
    captions: int


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """All that the scoring statement needs, resolved and validated once.

    Attributes:
        user: the viewer's key as asked for.
        user_id: the viewer's row, None for a stranger.
        language: the viewer's language, None where unknown.
        country: the viewer's country, None where unknown.
        profile: the profile's version that scores.
        as_of: the reading time, in UTC.
        learning: the learning state at the reading time.
        device: the viewer's device, None where unknown.
        learned_since: what the viewer did up to then counts no more, None where all counts.
        limit: how many videos at most, 1 to 500.
        where: the caller's own predicate over `Video`.
        exclude: keys of videos that shall not come.
        signals: the host's own signals (`Signal`), each with its weight.
        settings: the numbers that shape signals and sources.
        session: the session that the page goes on with, None where it begins one.
        position: the place of the page's first video in the session, from 1.
        next_position: where the session goes on; the page was served where that is later.
        last_creator, last_sound: the rows of the creator and sound of the video before the page.
        rewatch: whether videos that were seen before the session may come again.
        seed: what chance depends on, 0 to 2,147,483,646: the same seed gives the same page.
    """

    user: str
    user_id: int | None
    language: str | None
    country: str | None
    profile: Profile
    as_of: datetime
    learning: Learning
    device: str | None = None
    learned_since: datetime | None = None
    limit: int = DEFAULT_LIMIT
    where: ColumnElement[bool] | None = None
    exclude: tuple[str, ...] = ()
    signals: Mapping[Any, float] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    session: UUID | None = None
    position: int = 1
    next_position: int = 1
    last_creator: int | None = None
    last_sound: int | None = None
    rewatch: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_limit(self.limit)

    @property
    def known(self) -> bool:
        """Whether the viewer is in the database."""
        return self.user_id is not None

    @property
    def is_served(self) -> bool:
        """Whether the page was served already."""
        return self.position < self.next_position

    def chance(self) -> Random:
        """What the page leaves to chance, the same for the same seed and place."""
        return Random(f"{self.seed} {self.position}")  # noqa: S311 - not for secrets
