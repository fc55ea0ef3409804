"""The resolved request, and the profile and learning state that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args
from uuid import UUID

from sqlalchemy import ColumnElement

from recommender.errors import InvalidValue
from recommender.formats.experiments import Arm
from recommender.formats.plain import plain
from recommender.formats.scalars import EARLIEST
from recommender.models.serving import FOR_YOU_MEMORY
from recommender.settings import Settings

if TYPE_CHECKING:
    from recommender.ranking.registry import Registry

REFERENCE = "classic"
"""The name of the built-in, unchanging formula over the whole catalogue."""

PEOPLE = "people"
"""The name of the built-in profile that ranks people to follow."""

SIMILAR = "similar"
"""The name of the built-in profile that ranks videos that are like others."""

POOL = "pool"
"""The name of the source of what a session carries from page to page."""

PEOPLE_SIGNALS = ("followed_by", "enjoyed", "similar_taste", "popular", "active", "shown")
"""The signals of the profile `people`, which no other profile has; `lists` defines them."""

SMALLEST_LIMIT, DEFAULT_LIMIT, LARGEST_LIMIT = 1, 20, 500


def check_limit(limit: int, largest: int = LARGEST_LIMIT) -> int:
    """Return the limit, or raise `InvalidValue` if it is not 1 to `largest`."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidValue(f"limit: {limit!r} is not a whole number")
    if not SMALLEST_LIMIT <= limit <= largest:
        raise InvalidValue(f"limit: {limit:,} is not between {SMALLEST_LIMIT} and {largest:,}")
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
        """True for the reference formula, which keeps own, seen and muted videos."""
        return self.name == REFERENCE

    def as_dict(self) -> dict[str, Any]:
        """Return the version as `profiles show --format json` prints it."""
        return {
            "profile": self.name,
            "version": self.version,
            "active": self.active,
            "weights": dict(self.weights),
        }


LARGEST_SPAN = 50
"""The largest number of consecutive places that a limit of a feed looks at."""

FeedMemory: TypeAlias = Literal["shared", "own"]

FEED_MEMORIES: tuple[FeedMemory, ...] = get_args(FeedMemory)


@dataclass(frozen=True, slots=True)
class Feed:
    """One version of a feed with a name, as `create_feed` made it.

    Attributes:
        name: the name.
        version: the number of the version, from 1; the newest begins sessions.
        profile: ``name`` or ``name@version`` of its profile; None for the active one.
        sources: its sources, each with its quota, or None for the source's own; empty for all.
        formats: the formats of its videos; empty for all.
        memory: ``shared`` with For You, or its ``own``.
        limits: by ``creator``, ``sound`` or ``format``: the largest number of videos of one of them
            in a number of consecutive places, and that number of places.
        created_at: the time of creation, in UTC.
        deleted_at: the time from which it begins no sessions, in UTC; None if it does.
        id: the row id.
        memory_id: the number of its memory; 0 is the memory of For You.
    """

    name: str
    version: int
    profile: str | None = None
    sources: Mapping[str, int | None] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    memory: FeedMemory = "shared"
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    created_at: datetime | None = None
    deleted_at: datetime | None = None
    id: int | None = field(default=None, compare=False)
    memory_id: int = field(default=FOR_YOU_MEMORY, compare=False)

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    def reads(self, source: str) -> bool:
        """Return whether a source is one of its sources."""
        return not self.sources or self.sources.get(source, 0) != 0

    def as_dict(self) -> dict[str, Any]:
        """Return the version as `feeds show --format json` prints it."""
        return {
            "feed": self.name,
            "version": self.version,
            "profile": self.profile,
            "sources": dict(self.sources),
            "formats": list(self.formats),
            "memory": self.memory,
            "limits": {name: list(limit) for name, limit in self.limits.items()},
            "created_at": plain(self.created_at),
            "deleted_at": plain(self.deleted_at),
        }


CYCLE = 2**31 - 1
"""The length of the cycle in which exploration candidates are shuffled."""


class PlacedVideo(NamedTuple):
    """What the rules of diversity know of a video before the page: row ids, and its format."""

    creator: int | None
    sound: int | None
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Learning:
    """The learning state at a reading time.

    Attributes:
        creator, hashtag, sound: the factors from stored affinities to the reading time.
        trend: the number of half-lives by which stored trends have faded.
        peak: the recent engaged viewers of the most trending video, at the last refresh.
        engaged_share: engaged viewers by viewers, over all videos, 0 to 1.
        captions: the number of captions in which the words were counted.
        videos: the number of published videos at the last refresh, at most `VIDEOS_COUNTED`; None
            before the first.
    """

    creator: float
    hashtag: float
    sound: float
    trend: float
    peak: float
    engaged_share: float
    captions: int
    videos: int | None


class ScanPosition(NamedTuple):
    """The last of the newest videos that were scanned for a host's condition."""

    published_at: datetime
    video_id: int


NOTHING_LEARNED = Learning(
    creator=1.0, hashtag=1.0, sound=1.0, trend=0.0, peak=0.0,
    engaged_share=0.0, captions=0, videos=None,
)  # fmt: skip
"""The learning state of a request that filters videos and ranks none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSummary:
    """The part of a request that a page and an explanation carry: values only.

    Attributes:
        user: the viewer's key as asked for.
        user_id: the viewer's row, None if not in the database.
        language: the viewer's language, None if unknown.
        country: the viewer's country, None if unknown.
        device: the viewer's device, None if unknown.
        profile: the version of the profile that scores.
        as_of: the reading time, in UTC.
        limit: the largest number of videos, 1 to 500.
        session: the session that the page continues, None for a new one.
        position: the position of the page's first video in the session, from 1.
        rewatch: whether videos seen before the session may be shown again.
        scan_after: the position after which the newest videos are scanned for `where`, if an
            earlier page of the session reached `Settings.scan_limit`; None to begin.
        feed: the version of the feed, None for For You.
        arm: the arm of the experiment whose profile it is, None if it is in none.
    """

    user: str
    user_id: int | None
    language: str | None
    country: str | None
    profile: Profile
    as_of: datetime
    limit: int = DEFAULT_LIMIT
    session: UUID | None = None
    position: int = 1
    rewatch: bool = False
    device: str | None = None
    scan_after: ScanPosition | None = None
    feed: Feed | None = None
    arm: Arm | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)

    @property
    def known(self) -> bool:
        """True if the viewer is in the database."""
        return self.user_id is not None

    @property
    def memory(self) -> int:
        """The memory number of the feed."""
        return FOR_YOU_MEMORY if self.feed is None else self.feed.memory_id

    def reads(self, source: str) -> bool:
        """Return whether the candidates of a source are read."""
        return self.feed is None or self.feed.reads(source)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that begin every answer about a viewer, as the commands print them."""
        named = {} if self.feed is None else {"feed": self.feed.name}
        if self.arm is not None:
            named["experiment"] = self.arm.experiment
        return {
            "user": self.user,
            "known": self.known,
            **named,
            "profile": self.profile.name,
            "profile_version": self.profile.version,
        }


MOST_TRIALS = 5
"""The largest number of places for trials on a page whose session carries candidates."""


class Contenders(NamedTuple):
    """The best candidates that a session has not served, for its next page.

    Attributes:
        pages: the number of pages since candidates of all sources were ranked.
        videos: the row ids of the videos, the best first.
    """

    pages: int
    videos: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRequest(RequestSummary):
    """A resolved and validated request for ranked videos, the argument of `feed_query`.

    It holds SQL expressions and the host's signals, which cannot be serialized. Pages carry its
    `summary`.

    Attributes:
        learning: the learning state at the reading time.
        registry: the signals, sources and filters that there are.
        learned_since: the time of the last reset: earlier behaviour is ignored; None for never.
        has_for_followers: whether there are videos for followers only.
        fills: whether to read all of these that the viewer may see, and not only the newest.
        where: the caller's own predicate over `Video`.
        formats: the formats of the videos; empty for all videos.
        exclude: the keys of videos to leave out.
        signals: the host's own signals (`Signal`), each with its weight.
        seeds: the keys of the videos that the list `similar` is about; empty for For You.
        settings: the numbers that shape signals and sources.
        started_at: the time at which the session began, None if it begins with this page.
        next_position: the session's next position; if later, the page was already served.
        seen_until: the position up to which the viewer looked at the session.
        places_before: the last videos before the page, in order: as many as a limit of the feed
            may look at, or one.
        contenders: what the session carries for this page; None if all sources are to be read.
        friends: on Citus, the recent engagements of the people whom the viewer follows, who are on
            other nodes, as a JSON list; None to read them with the page.
        rival: the profile whose videos take turns with the profile's, None for none.
        seed: the random seed, 0 to 65,535; the same seed gives the same page.
    """

    learning: Learning
    registry: Registry
    learned_since: datetime | None = None
    has_for_followers: bool = False
    fills: bool = False
    where: ColumnElement[bool] | None = None
    formats: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    signals: Mapping[Any, float] = field(default_factory=dict)
    seeds: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    started_at: datetime | None = None
    next_position: int = 1
    seen_until: int = 0
    places_before: tuple[PlacedVideo, ...] = ()
    contenders: Contenders | None = None
    friends: str | None = None
    rival: Profile | None = None
    seed: int = 0

    @property
    def is_served(self) -> bool:
        """True if the page was already served."""
        return self.position < self.next_position

    @property
    def whole(self) -> int:
        """The number of candidates if the whole catalogue can be candidates, else 0."""
        videos, candidates = self.learning.videos, self.settings.candidates
        return candidates if videos is not None and videos <= candidates else 0

    @property
    def may_carry(self) -> bool:
        """True if its session may carry candidates to the next page, or from the page before.

        A condition or a signal of the host may be another one on each page. For a page with many
        places for trials, too few videos on trial are added.
        """
        is_plain = self.where is None and not self.signals and self.rival is None
        trials = self.limit * self.settings.exploration_share
        return is_plain and not self.profile.is_reference and trials <= MOST_TRIALS

    @property
    def served_until(self) -> datetime:
        """The time until which a video must have been served to come again unseen.

        It is before the session began, because nothing comes twice in a session.
        """
        seconds = self.settings.served_again_after
        # Nothing was served at the earliest time, so 0 lets nothing come again.
        is_never = not seconds or self.as_of - EARLIEST < timedelta(seconds=seconds)
        if is_never:
            return EARLIEST
        before_session = (self.started_at or self.as_of) - timedelta(microseconds=1)
        return max(EARLIEST, min(before_session, self.as_of - timedelta(seconds=seconds)))

    @property
    def limits_formats(self) -> bool:
        """True if the feed limits the videos of one format."""
        return self.feed is not None and "format" in self.feed.limits

    @property
    def has_conditions(self) -> bool:
        """True if the host has conditions on videos, of this request or registered."""
        return self.where is not None or bool(self.registry.filters)

    @property
    def sentences(self) -> Mapping[str, str | None]:
        """The host's sentences about its own signals, by their names."""
        return {each.name: each.sentence for each in (*self.registry.signals, *self.signals)}

    def summary(self) -> RequestSummary:
        """Return the part that pages carry."""
        return RequestSummary(**shared_fields(self))

    def chance(self) -> Random:
        """Return the random generator of the page, determined by seed and position."""
        return Random(f"{self.seed} {self.position}")  # noqa: S311 - not for secrets


def shared_fields(request: RequestSummary) -> dict[str, Any]:
    """Return the fields that a request and its summary have in common, by name."""
    return {one.name: getattr(request, one.name) for one in fields(RequestSummary)}


def weights_of(request: FeedRequest) -> dict[str, float]:
    """Return the weights of the profile's signals and of the host's own, by name."""
    own = {signal.name: weight for signal, weight in request.signals.items()}
    return {**request.profile.weights, **own}
