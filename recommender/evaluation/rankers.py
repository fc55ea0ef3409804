"""The rankers to compare: profiles, profiles without a signal (ablations), and simple baselines.

A ranker scores impressions, and fills a viewer's page. Each signal of an impression or a candidate
is read once, and every ranker is arithmetic over these values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import islice
from operator import itemgetter, mul
from random import Random
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database import aliases
from recommender.database.transactions import translate_errors
from recommender.evaluation.labels import Impression, every_signal
from recommender.feed.for_you import for_you
from recommender.feed.resolve import resolve
from recommender.feed.selection import ScoredCandidate, select_places
from recommender.feed.statements import candidate_rows
from recommender.formats.scalars import UNDATED
from recommender.models import Follow, Interaction, LearningState, User, Video, VideoHashtag
from recommender.ranking.candidates import was_exploration
from recommender.ranking.profiles import get_profile
from recommender.ranking.registry import OURS, Registry
from recommender.ranking.request import REFERENCE, Feed, FeedRequest, Profile
from recommender.ranking.scoring import ranked_candidates, score_key_of
from recommender.settings import Settings

PAGE = 20
"""The number of videos on a page."""


@dataclass(frozen=True, slots=True)
class Ranker:
    """A way to rank.

    Attributes:
        name: its name in tables.
        score: returns the score of an impression; higher scores are shown earlier.
        page: returns the keys of the videos on a viewer's page, in order.
    """

    name: str
    score: Callable[[Impression], float]
    page: Callable[[PageRequest], list[str]]


@dataclass(frozen=True, slots=True)
class CatalogueVideo:
    """A published video. `tags` are its hashtags, creator and sound."""

    key: str
    creator: int | None
    tags: frozenset[tuple[str, int]]
    published_at: datetime
    viewers: int
    engaged_views: int


class Catalogue:
    """The videos that are published at `as_of`, by key, and in the orders of the baselines.

    Args:
        session: on the scratch database.
        as_of: the time.
        settings: the settings of the signal `quality`.
        feed: the feed whose pages are made, with the videos of its formats; None for For You.
    """

    def __init__(
        self, session: Session, as_of: datetime, settings: Settings, feed: Feed | None = None
    ) -> None:
        self.feed = feed
        published = _published_videos(session, as_of, feed.formats if feed else ())
        self.videos = {video.key: video for video in published}
        self.users = session.scalar(sa.select(sa.func.count()).select_from(User)) or 0
        share = session.scalar(sa.select(LearningState.engaged_share)) or 0.0
        prior = settings.quality_prior
        self.newest = self._ordered(lambda video: video.published_at)
        self.popular = self._ordered(lambda video: video.engaged_views)
        self.rate = self._ordered(
            lambda video: (video.engaged_views + prior * share) / (video.viewers + prior)
        )

    def _ordered(self, value: Callable[[CatalogueVideo], Any]) -> list[str]:
        """Return the keys, the highest value first, ties with the newest first."""
        videos = reversed(self.videos.values())
        best = sorted(videos, key=lambda video: (value(video), video.published_at), reverse=True)
        return [video.key for video in best]


def _published_videos(
    session: Session, as_of: datetime, formats: Sequence[str]
) -> Iterator[CatalogueVideo]:
    """Yield the published videos of some formats, or of all, in the order of their ids."""
    tags = (
        sa.select(sa.func.aggregate_strings(sa.cast(VideoHashtag.hashtag_id, sa.Text), ","))
        .where(VideoHashtag.video_id == Video.id)
        .scalar_subquery()
    )
    about = (Video.key, Video.creator_id, Video.sound_id, Video.published_at)
    statement = (
        sa.select(*about, Video.impressions, Video.engaged_views, tags)
        .where(Video.status == "published", Video.published_at <= as_of)
        .order_by(Video.id)
    )
    if formats:
        statement = statement.where(Video.format.in_(formats))
    for key, creator, sound, published_at, viewers, engaged, listed in session.execute(statement):
        marks = {("hashtag", int(hashtag)) for hashtag in (listed.split(",") if listed else ())}
        marks |= {
            (name, row_id) for name, row_id in (("creator", creator), ("sound", sound)) if row_id
        }
        at = published_at or UNDATED
        yield CatalogueVideo(key, creator, frozenset(marks), at, viewers, engaged)


@dataclass
class PageRequest:
    """A user's request for a page at `as_of`.

    Attributes:
        session: on the scratch database.
        user: the viewer's key.
        as_of: the reading time.
        settings: the settings of the feed.
        catalogue: the published videos.
        seen: the keys of the videos that the viewer has a state with.
    """

    session: Session
    user: str
    as_of: datetime
    settings: Settings
    catalogue: Catalogue
    seen: frozenset[str]

    @cached_property
    def feed_request(self) -> FeedRequest:
        """The request as the feed resolves it."""
        feed = self.catalogue.feed
        request = resolve(
            self.session, self.user, every_signal(self.session), limit=PAGE, as_of=self.as_of,
            formats=feed.formats if feed else (), settings=self.settings,
        )  # fmt: skip
        return replace(request, feed=feed)  # the scratch database does not have it

    @cached_property
    def _rows(self) -> Sequence[Any]:
        request = self.feed_request
        return candidate_rows(self.session, request, ranked_candidates, "evaluate").all()

    @cached_property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The names of the sources that found each candidate, by the candidate's key."""
        names_of = self.feed_request.registry.source_names
        return {row.page_video: names_of(row.sources) for row in self._rows}

    def found(self, videos: Collection[str]) -> list[tuple[str, ...]]:
        """Return the names of the sources that found each of some videos, if any did."""
        return [names for key, names in self.sources.items() if key in videos]

    @cached_property
    def candidates(self) -> list[tuple[tuple[float, ...], datetime, int, str, ScoredCandidate]]:
        """The unranked candidates: signals, publishing time, row id, key, and selection facts."""
        candidates, values_of = [], itemgetter(*self.feed_request.profile.weights)
        for row in self._rows:
            on_trial = was_exploration(row.sources)
            own_format = row.page_format if self.feed_request.limits_formats else None
            facts = ScoredCandidate(0, row.page_creator_id, row.page_sound_id, on_trial, own_format)
            published_at = row.page_published_at or UNDATED
            about = (published_at, row.video_id, row.page_video, facts)
            candidates.append((values_of(row._mapping), *about))  # noqa: SLF001 - its API
        return candidates

    @cached_property
    def own(self) -> int | None:
        """The row id of the viewer."""
        return self.feed_request.user_id

    @cached_property
    def followed(self) -> frozenset[int]:
        """The row ids of the creators whom the viewer follows."""
        rows = sa.select(Follow.creator_id).where(Follow.user_id == self.own)
        return frozenset(self.session.scalars(rows))

    def first_new(
        self, keys: Iterable[str], condition: Callable[[CatalogueVideo], bool] | None = None
    ) -> list[str]:
        """Return the first videos that the viewer has not seen and did not publish."""
        videos = (self.catalogue.videos[key] for key in keys if key not in self.seen)
        new = (
            video.key
            for video in videos
            if (video.creator is None or video.creator != self.own) and _passes(condition, video)
        )
        return list(islice(new, PAGE))

    def shuffled(self) -> Iterator[str]:
        """Yield the catalogue in a random order, the same for the same user."""
        chance = Random(f"page {self.user}")  # noqa: S311 - not for secrets
        keys = self.catalogue.newest
        return (keys[place] for place in chance.sample(range(len(keys)), len(keys)))


def _passes(condition: Callable[[CatalogueVideo], bool] | None, video: CatalogueVideo) -> bool:
    return condition is None or condition(video)


def page_requests(
    session: Session,
    catalogue: Catalogue,
    positives: Mapping[str, Iterable[str]],
    as_of: datetime,
    settings: Settings,
    seed: int,
) -> Iterator[tuple[PageRequest, frozenset[str]]]:
    """Yield page requests of users in random order, with their later positives not seen before.

    Args:
        session: on the scratch database.
        catalogue: the published videos.
        positives: per user, the keys of their later positives. Users without a new one are
            left out.
        as_of: the time of the requests.
        settings: the settings of the feed.
        seed: the random seed for the order of the users.
    """
    users = sorted(positives)
    Random(seed).shuffle(users)  # noqa: S311 - not for secrets
    for user in users:
        seen = seen_videos(session, user)
        new = frozenset(
            key for key in positives[user] if key in catalogue.videos and key not in seen
        )
        if new:
            yield PageRequest(session, user, as_of, settings, catalogue, seen), new


def seen_videos(session: Session, user: str) -> frozenset[str]:
    """Return the keys of the videos that a user has a state with."""
    statement = (
        sa.select(Video.key)
        .join(Interaction, Interaction.video_id == Video.id)
        .where(Interaction.user_id == aliases.id_of(user))
    )
    return frozenset(session.scalars(statement))


def _chance(impression: Impression) -> float:
    return Random(f"{impression.user} {impression.video}").random()  # noqa: S311 - not for secrets


def _value(signal: str) -> Callable[[Impression], float]:
    place = list(OURS.every_signal).index(signal)  # a registry has the host's after ours
    return lambda impression: impression.values[place]


def _following(request: PageRequest) -> list[str]:
    followed = request.followed
    return (
        request.first_new(request.catalogue.newest, lambda video: video.creator in followed)
        if followed
        else []
    )


BASELINES = (
    Ranker("random", _chance, lambda request: request.first_new(request.shuffled())),
    Ranker(
        "newest",
        lambda impression: impression.published_at.timestamp(),
        lambda request: request.first_new(request.catalogue.newest),
    ),
    Ranker(
        "popular",
        lambda impression: float(impression.engaged_views),
        lambda request: request.first_new(request.catalogue.popular),
    ),
    Ranker("rate", _value("quality"), lambda request: request.first_new(request.catalogue.rate)),
    Ranker("following", _value("follows"), _following),
)
"""Random, newest, most engaged views, highest smoothed rate of engaged views, followed only."""


def profile_ranker(profile: Profile, name: str, registry: Registry) -> Ranker:
    """Return the ranker of a profile. The reference formula also shows seen videos.

    Args:
        profile: the profile, whose signals the registry has.
        name: the name of the ranker.
        registry: the signals that there are.
    """
    weights = [profile.weights.get(signal, 0.0) for signal in registry.every_signal]
    if profile.name == REFERENCE:
        return Ranker(name, _weighted(weights), _reference_page)
    return Ranker(name, _weighted(weights), lambda request: _page(weights, request))


def ablations(profile: Profile, registry: Registry) -> list[Ranker]:
    """Return one ranker per signal of a profile, with the weight of that signal set to 0."""
    without = {
        signal: Profile("ablated", 1, {**profile.weights, signal: 0.0})
        for signal, weight in profile.weights.items()
        if weight
    }
    return [profile_ranker(one, f"without {name}", registry) for name, one in without.items()]


def asked_profiles(
    engine: Engine, asked: Sequence[str], feed: Feed | None = None
) -> dict[str, Profile]:
    """Return the profiles to evaluate by name: those asked for, then the reference formula.

    Args:
        engine: of the database that has them.
        asked: ``name`` or ``name@version``; empty for the profile that serves.
        feed: the feed that is evaluated; None for For You.
    """
    with translate_errors(), Session(engine) as session:
        profiles = {name: get_profile(session, name) for name in asked}
        if not profiles:
            own = get_profile(session, feed.profile if feed else None)
            profiles = {own.name: own}
        reference = profiles.get(REFERENCE) or get_profile(session, REFERENCE)
    named = {_label(name, profile): profile for name, profile in profiles.items()}
    return {**named, REFERENCE: reference}


def _label(name: str, profile: Profile) -> str:
    """Return the name that a profile was asked for by, with the version if a baseline has it."""
    is_taken = any(name == baseline.name for baseline in BASELINES)
    return f"{name}@{profile.version}" if is_taken else name


def every_ranker(
    profiles: Mapping[str, Profile], registry: Registry, *, ablate: bool
) -> list[Ranker]:
    """Return all rankers, beginning with the first profile asked for.

    Raises:
        UnknownSignal: a profile weighs a signal that the registry does not have.
    """
    for profile in profiles.values():
        registry.check(profile)
    first = next(iter(profiles.values()))
    return [
        *(profile_ranker(profile, name, registry) for name, profile in profiles.items()),
        *BASELINES,
        *(ablations(first, registry) if ablate else ()),
    ]


def _weighted(weights: Sequence[float]) -> Callable[[Impression], float]:
    """Return a function from an impression to its score key, the order of every feed."""
    return lambda impression: float(score_key_of(sum(map(mul, weights, impression.values))))


def _page(weights: Sequence[float], request: PageRequest) -> list[str]:
    """Return the page that the feed would serve with these weights, as a preview."""
    keyed = [
        (score_key_of(sum(map(mul, weights, values))), published_at, row, key, facts)
        for values, published_at, row, key, facts in request.candidates
    ]
    keyed.sort(key=itemgetter(0, 1, 2), reverse=True)
    candidates = [row[4]._replace(score_key=row[0]) for row in keyed]
    places = select_places(request.feed_request, candidates) or []
    return [keyed[place.candidate][3] for place in places]


def _reference_page(request: PageRequest) -> list[str]:
    page = for_you(
        request.session, request.user, profile=REFERENCE,
        limit=PAGE, as_of=request.as_of, formats=request.feed_request.formats, record=False,
        settings=request.settings,
    )  # fmt: skip
    return [item.video for item in page.items]
