"""What is compared: profiles, profiles without a signal, and baselines that anybody could think of.

A ranker scores impressions, and fills the page of a viewer. Every signal of an impression or a
candidate is read once, and all rankers are arithmetic over these values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from operator import itemgetter, mul
from random import Random
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.feed.for_you import for_you
from recommender.feed.resolve import resolve
from recommender.feed.selection import ScoredCandidate, select_places
from recommender.feed.statements import candidate_rows, page_rows
from recommender.models import Follow, Interaction, LearningState, User, Video, VideoHashtag
from recommender.models.tables import VIDEOS
from recommender.ranking.request import REFERENCE, FeedRequest, Profile
from recommender.ranking.scoring import ranked_contenders, ranked_given, score_key_of
from recommender.ranking.signals import SIGNALS
from recommender.ranking.sources import was_on_trial
from recommender.settings import Settings

PAGE = 20
"""How many videos of a page are looked at."""

_NAMES = [signal.name for signal in SIGNALS]

_SIGNALS_OF = itemgetter(*_NAMES)

_EVERY_SIGNAL = Profile("every_signal", 1, dict.fromkeys(_NAMES, 1.0))
"""The profile by which all signals are read."""


@dataclass(frozen=True, slots=True)
class Impression:
    """A video that was shown to a user, and what was known before.

    Attributes:
        user, video: their keys.
        values: that of each signal, in the order of `SIGNALS`.
        published_at: of the video.
        engaged_views: how many users had engaged with the video.
    """

    user: str
    video: str
    values: tuple[float, ...]
    published_at: datetime
    engaged_views: int


@dataclass(frozen=True, slots=True)
class Ranker:
    """Something that ranks.

    Attributes:
        name: as tables name it.
        score: of an impression: the higher, the sooner it would be shown.
        page: the keys of the videos on a viewer's page, in order.
    """

    name: str
    score: Callable[[Impression], float]
    page: Callable[[Visit], list[str]]


def impressions_of(
    session: Session, user: str, videos: Sequence[str], as_of: datetime, settings: Settings
) -> list[Impression]:
    """Every signal of videos that were shown to a user, as of a time before.

    Args:
        session: on the scratch database.
        user: the viewer's key.
        videos: keys.
        as_of: the reading time.
        settings: those that shape signals.
    """
    views = dict(_engaged_views(session, videos))
    request = resolve(session, user, _EVERY_SIGNAL, as_of=as_of, settings=settings)
    return [
        Impression(user, row.page_video, _values(row), row.page_published_at, views[row.page_video])
        for row in page_rows(session, request, ranked_given, "evaluate", videos)
    ]


def _values(row: Any) -> tuple[float, ...]:
    values: tuple[float, ...] = _SIGNALS_OF(row._mapping)  # noqa: SLF001 - its API
    return values


def _engaged_views(session: Session, videos: Sequence[str]) -> Iterator[tuple[str, int]]:
    keys = [(key,) for key in videos]
    found = lookup.find(session, [VIDEOS.c.key], keys, [VIDEOS.c.key, VIDEOS.c.engaged_views])
    return ((key, views) for key, views in found)


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a video on the shelf; `tags` are its hashtags, creator and sound."""

    key: str
    creator: int
    tags: frozenset[tuple[str, int]]
    published_at: datetime
    viewers: int
    engaged_views: int


class Shelf:
    """The videos that could be shown at a time, by key, and as the baselines order them.

    Args:
        session: on the scratch database.
        as_of: the time.
        settings: those that shape the signal `quality`.
    """

    def __init__(self, session: Session, as_of: datetime, settings: Settings) -> None:
        self.cards = {card.key: card for card in _cards(session, as_of)}
        self.users = session.scalar(sa.select(sa.func.count()).select_from(User)) or 0
        share = session.scalar(sa.select(LearningState.engaged_share)) or 0.0
        prior = settings.quality_prior
        self.newest = self._ordered(lambda card: card.published_at)
        self.popular = self._ordered(lambda card: card.engaged_views)
        self.rate = self._ordered(
            lambda card: (card.engaged_views + prior * share) / (card.viewers + prior)
        )

    def _ordered(self, value: Callable[[Card], Any]) -> list[str]:
        """The best first; equals in the order of every feed, the newest first."""
        cards = reversed(self.cards.values())
        best = sorted(cards, key=lambda card: (value(card), card.published_at), reverse=True)
        return [card.key for card in best]


def _cards(session: Session, as_of: datetime) -> Iterator[Card]:
    """The published videos, in the order of their ids."""
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
    for key, creator, sound, published_at, viewers, engaged, listed in session.execute(statement):
        marks = {("hashtag", int(each)) for each in (listed.split(",") if listed else ())}
        marks |= {("creator", creator)} | ({("sound", sound)} if sound else set())
        yield Card(key, creator, frozenset(marks), published_at, viewers, engaged)


@dataclass
class Visit:
    """A user who asks for a page at a time.

    Attributes:
        session: on the scratch database.
        user: the viewer's key.
        as_of: the reading time.
        settings: those of the feed.
        shelf: what there is.
        seen: the keys of what the viewer did anything with.
    """

    session: Session
    user: str
    as_of: datetime
    settings: Settings
    shelf: Shelf
    seen: frozenset[str]

    @cached_property
    def request(self) -> FeedRequest:
        """What the feed is asked for."""
        return resolve(
            self.session, self.user, _EVERY_SIGNAL,
            limit=PAGE, as_of=self.as_of, settings=self.settings,
        )  # fmt: skip

    @cached_property
    def candidates(self) -> list[tuple[tuple[float, ...], datetime, int, str, ScoredCandidate]]:
        """Every candidate of the feed: signals, time of publishing, row, key; not ranked yet."""
        found = []
        for row in candidate_rows(self.session, self.request, ranked_contenders, "evaluate"):
            on_trial = was_on_trial(row.sources)
            contender = ScoredCandidate(0, row.page_creator_id, row.page_sound_id, on_trial)
            about = (row.page_published_at, row.video_id, row.page_video, contender)
            found.append((_values(row), *about))
        return found

    @cached_property
    def own(self) -> int | None:
        """The viewer's row."""
        return self.request.user_id

    @cached_property
    def followed(self) -> frozenset[int]:
        """The rows of the creators whom the viewer follows."""
        rows = sa.select(Follow.creator_id).where(Follow.user_id == self.own)
        return frozenset(self.session.scalars(rows))

    def first(self, keys: Iterable[str], wanted: Callable[[Card], bool] | None = None) -> list[str]:
        """The first of the shelf's videos that the viewer has not seen and did not publish."""
        cards = (self.shelf.cards[key] for key in keys if key not in self.seen)
        new = (card.key for card in cards if card.creator != self.own and _is(wanted, card))
        return list(islice(new, PAGE))

    def shuffled(self) -> Iterator[str]:
        """The shelf in an order by chance, the same for the same user."""
        chance = Random(f"page {self.user}")  # noqa: S311 - not for secrets
        keys = self.shelf.newest
        return (keys[place] for place in chance.sample(range(len(keys)), len(keys)))


def _is(wanted: Callable[[Card], bool] | None, card: Card) -> bool:
    return wanted is None or wanted(card)


def visits(
    session: Session,
    shelf: Shelf,
    wanted: Mapping[str, Iterable[str]],
    as_of: datetime,
    settings: Settings,
    seed: int,
) -> Iterator[tuple[Visit, frozenset[str]]]:
    """Users by chance, with what each of them wanted later and had not seen before.

    Args:
        session: on the scratch database.
        shelf: the videos that there are.
        wanted: of each user the keys of what they wanted later; who wanted nothing new is left out.
        as_of: when they ask.
        settings: those of the feed.
        seed: what the order of the users depends on.
    """
    users = sorted(wanted)
    Random(seed).shuffle(users)  # noqa: S311 - not for secrets
    for user in users:
        seen = seen_by(session, user)
        new = frozenset(key for key in wanted[user] if key in shelf.cards and key not in seen)
        if new:
            yield Visit(session, user, as_of, settings, shelf, seen), new


def seen_by(session: Session, user: str) -> frozenset[str]:
    """The keys of what a user did anything with."""
    statement = (
        sa.select(Video.key)
        .join(Interaction, Interaction.video_id == Video.id)
        .join(User, User.id == Interaction.user_id)
        .where(User.key == user)
    )
    return frozenset(session.scalars(statement))


def _chance(impression: Impression) -> float:
    return Random(f"{impression.user} {impression.video}").random()  # noqa: S311 - not for secrets


def _value(signal: str) -> Callable[[Impression], float]:
    place = _NAMES.index(signal)
    return lambda impression: impression.values[place]


def _following(visit: Visit) -> list[str]:
    followed = visit.followed
    return (
        visit.first(visit.shelf.newest, lambda card: card.creator in followed) if followed else []
    )


BASELINES = (
    Ranker("random", _chance, lambda visit: visit.first(visit.shuffled())),
    Ranker(
        "newest",
        lambda impression: impression.published_at.timestamp(),
        lambda visit: visit.first(visit.shelf.newest),
    ),
    Ranker(
        "popular",
        lambda impression: float(impression.engaged_views),
        lambda visit: visit.first(visit.shelf.popular),
    ),
    Ranker("rate", _value("quality"), lambda visit: visit.first(visit.shelf.rate)),
    Ranker("following", _value("follows"), _following),
)
"""By chance, the newest, most engaged views, the highest rate of them, only whom one follows."""


def of_profile(profile: Profile, name: str) -> Ranker:
    """A profile, as its feed ranks; the reference formula also shows what was seen."""
    if profile.name == REFERENCE:
        return Ranker(name, _weighted(profile.weights), _reference_page)
    return Ranker(name, _weighted(profile.weights), lambda visit: _page(profile.weights, visit))


def without(profile: Profile) -> list[Ranker]:
    """A profile with the weight of each of its signals, in turn, 0; the others stay as they are."""
    return [
        of_profile(Profile("ablated", 1, {**profile.weights, signal: 0.0}), f"without {signal}")
        for signal, weight in profile.weights.items()
        if weight
    ]


def _weights(named: Mapping[str, float]) -> list[float]:
    return [named.get(name, 0.0) for name in _NAMES]


def _weighted(named: Mapping[str, float]) -> Callable[[Impression], float]:
    """The weighted sum, in whole billionths as every feed is ordered by."""
    weights = _weights(named)
    return lambda impression: float(score_key_of(sum(map(mul, weights, impression.values))))


def _page(named: Mapping[str, float], visit: Visit) -> list[str]:
    """The page that the feed would serve by these weights, as a preview."""
    weights = _weights(named)
    keyed = [
        (score_key_of(sum(map(mul, weights, values))), published_at, row, key, contender)
        for values, published_at, row, key, contender in visit.candidates
    ]
    keyed.sort(key=itemgetter(0, 1, 2), reverse=True)
    contenders = [each[4]._replace(score_key=each[0]) for each in keyed]
    places = select_places(visit.request, contenders) or []
    return [keyed[place.candidate][3] for place in places]


def _reference_page(visit: Visit) -> list[str]:
    page = for_you(
        visit.session, visit.user, profile=REFERENCE,
        limit=PAGE, as_of=visit.as_of, record=False, settings=visit.settings,
    )  # fmt: skip
    return [item.video for item in page.items]
