"""Seeded synthetic worlds in the interchange format, for the demo and for tests.

The same seed and sizes give the same rows on every machine. Popularity is Zipf-shaped: the creator
of rank r is followed, and the video of rank r is watched, in proportion to 1 / r. A viewer likes
three topics, and the events follow them. The last videos of every topic are new and unwatched.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import accumulate

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.lookup import ids
from recommender.database.transactions import run_transaction
from recommender.errors import RecommenderError
from recommender.formats.rows import UserRow, VideoRow
from recommender.formats.scalars import EventKind
from recommender.ingest.events import record_many
from recommender.ingest.follows import apply_follows
from recommender.ingest.users import upsert_users
from recommender.ingest.values import Event
from recommender.ingest.videos import upsert_videos
from recommender.models import User
from recommender.models.tables import USERS

Row = Mapping[str, object]

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

LENGTH = timedelta(days=30)
"""The time in which videos are published, and then the time in which they are watched."""

NEW_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of videos: its hashtags, captions, and the suffix of its creators' names."""

    name: str
    hashtags: tuple[str, ...]
    captions: tuple[str, ...]
    suffix: str


def _topic(name: str, suffix: str, hashtags: str, *captions: str) -> Topic:
    return Topic(name, (name, *hashtags.split()), captions, suffix)


TOPICS = (
    _topic("pottery", "clay", "ceramics wheelthrown glaze studio",
           "Centering clay on day {n} of learning", "Opening the kiln, please be kind",
           "This glaze took {n} tests", "Trimming is the best part"),
    _topic("baking", "bakes", "sourdough bread pastry ovenspring",
           "{n} hours of proofing for this crumb", "My starter finally woke up",
           "Croissants, attempt {n}", "Listen to that crust"),
    _topic("climbing", "sends", "bouldering beta crux gym",
           "Attempt {n} and the crux finally went", "Beta that nobody asked for",
           "New set, new projects", "Falling off the last hold again"),
    _topic("cats", "paws", "catsoftiktok kitten tabby zoomies",
           "He does this at 4 in the morning", "Day {n} of being ignored by my own cat",
           "She found the box", "The zoomies, slowed down"),
    _topic("guitar", "strings", "fingerstyle riff cover practice",
           "A riff I cannot get out of my head", "Day {n} of fingerstyle",
           "Learned this by ear last night", "Three chords and a rainy window"),
    _topic("football", "fc", "skills freekick training goals",
           "Top corner on try {n}", "Ten minutes a day, every day",
           "The nutmeg at the end", "Keeper had no chance"),
    _topic("makeup", "glow", "grwm eyeliner tutorial skincare",
           "Get ready with me in {n} minutes", "Eyeliner for hooded eyes",
           "The cheap one won", "Trying the look everybody does"),
    _topic("gardening", "grows", "tomatoes balcony seedlings compost",
           "{n} tomatoes from one balcony pot", "Seedlings, week {n}",
           "What the slugs left me", "Compost is not complicated"),
    _topic("dance", "moves", "choreo hiphop dancechallenge rehearsal",
           "Choreo for the whole chorus", "We only had {n} takes",
           "Wait for the drop", "Slow version for everybody who asked"),
    _topic("comedy", "jokes", "skit relatable prank office",
           "When the meeting could be an email", "My mother on the phone, part {n}",
           "Nobody told me about the dress code", "That one colleague"),
    _topic("travel", "roams", "hiddenplaces citytrip backpacking sunrise",
           "{n} hours in Lisbon", "The train ride was the destination",
           "Up at four for this sunrise", "Places that maps do not show"),
    _topic("coding", "dev", "python debugging sideproject terminal",
           "It was a missing comma for {n} hours", "Side project, day {n}",
           "My terminal, since you asked", "Reading the docs so you need not"),
)  # fmt: skip

NAMES = (
    "ana", "kai", "mila", "theo", "noor", "jun", "sofia", "emre", "lena", "tariq", "yuki", "ines",
    "oscar", "priya", "bruno", "zoe", "amir", "carla", "finn", "maya", "diego", "elif", "hugo",
    "nadia",
)  # fmt: skip

SOUND_NAMES = (
    "rain-on-tin", "slow-morning", "night-drive", "tiny-piano", "market-day", "old-radio",
    "paper-planes", "low-tide", "last-bus", "sunday-loop",
)  # fmt: skip

DEVICES = ("phone", "phone", "phone", "phone", "desktop")

LOCALES = (("en", "US"), ("en", "GB"), ("es", "MX"), ("de", "DE"), ("pt", "BR"), ("tr", "TR"))


@dataclass(frozen=True)
class DemoWorld:
    """The sizes and the seed of a world.

    Args:
        seed: the same seed and sizes give the same world.
        viewer_count: users that watch.
        creator_count: users that publish, at least one for each of the 12 topics.
        video_count: the number of videos, at least one for each topic.
        watches_each: the videos that each viewer watches; likes, shares and comments are extra.
        beginning: the earliest time of a video.
    """

    seed: int = 26
    viewer_count: int = 60
    creator_count: int = 48
    video_count: int = 420
    watches_each: int = 25
    beginning: datetime = BEGINNING

    @property
    def end(self) -> datetime:
        """The time after the last event."""
        return self.beginning + 2 * LENGTH

    def users(self) -> Iterator[UserRow]:
        """Yield the viewers and then the creators, as rows of the kind users."""
        for index in range(self.viewer_count):
            language, country = self._random("locale", index).choice(LOCALES)
            tags = [TOPICS[topic].name for topic in self.taste(index)[:2]]
            yield {
                "id": self.viewer(index),
                "language": language,
                "country": country,
                "device": self._random("device", index).choice(DEVICES),
                "created_at": self.beginning,
                "interests": tags,
                "liked_sounds": [self._sound(self._random("liked", index))],
            }
        for index in range(self.creator_count):
            language, country = self._random("creator", index).choice(LOCALES)
            yield {"id": self.creator(index), "language": language, "country": country}

    def videos(self) -> Iterator[VideoRow]:
        """Yield the videos as rows of the kind videos, the most watched per topic first."""
        for index in range(self.video_count):
            yield self._video(index)

    def follows(self) -> Iterator[Row]:
        """Yield three follows per viewer, of creators of their topics."""
        for index in range(self.viewer_count):
            chance = self._random("follows", index)
            for topic in self.taste(index):
                creator = topic + len(TOPICS) * self._zipf(chance, self._creators_of_a_topic)
                yield {
                    "user": self.viewer(index),
                    "creator": self.creator(creator),
                    "at": self.beginning + LENGTH * chance.random(),
                }

    def events(self) -> Iterator[Event]:
        """Yield the events, viewer by viewer."""
        for index in range(self.viewer_count):
            yield from self._events_of(index)

    def viewer(self, index: int) -> str:
        """Return a viewer's key."""
        name = NAMES[index % len(NAMES)]
        return name if index < len(NAMES) else f"{name}{index // len(NAMES)}"

    def creator(self, index: int) -> str:
        """Return a creator's key; creator n publishes on topic n modulo the number of topics."""
        name = NAMES[(index * 7 + 3) % len(NAMES)]
        number = index // (len(TOPICS) * 2)
        return f"{name}.{TOPICS[index % len(TOPICS)].suffix}{number or ''}"

    def taste(self, index: int) -> list[int]:
        """Return the three topics of a viewer, the favourite first."""
        return self._random("taste", index).sample(range(len(TOPICS)), 3)

    def _random(self, part: str, index: int) -> random.Random:
        return random.Random(f"{self.seed}/{part}/{index}")  # noqa: S311 - a world, not a secret

    @cached_property
    def _creators_of_a_topic(self) -> Sequence[float]:
        return _harmonic(self.creator_count // len(TOPICS))

    @cached_property
    def _watched_of_a_topic(self) -> Sequence[float]:
        return _harmonic(max(1, self.video_count // len(TOPICS) * 4 // 5))

    def _zipf(self, chance: random.Random, cumulated: Sequence[float]) -> int:
        return chance.choices(range(len(cumulated)), cum_weights=cumulated)[0]

    def _sound(self, chance: random.Random) -> str:
        name = SOUND_NAMES[min(int(chance.expovariate(0.4)), len(SOUND_NAMES) - 1)]
        return f"{name}-{chance.randint(1, max(1, self.video_count // 100))}"

    def _video(self, index: int) -> VideoRow:
        chance = self._random("video", index)
        topic = TOPICS[index % len(TOPICS)]
        creators = self.creator_count // len(TOPICS)
        creator = index % len(TOPICS) + len(TOPICS) * chance.randrange(creators)
        tags = [topic.name, *chance.sample(topic.hashtags[1:], 2)]
        caption = chance.choice(topic.captions).format(n=chance.randint(3, 40))
        language, country = self._random("creator", creator).choice(LOCALES)
        is_new = index // len(TOPICS) >= len(self._watched_of_a_topic)
        since, span = (self.end - NEW_FOR, NEW_FOR) if is_new else (self.beginning, LENGTH)
        return {
            "id": f"{topic.name}-{index // len(TOPICS) + 1}",
            "creator": self.creator(creator),
            "caption": f"{caption} {' '.join(f'#{tag}' for tag in tags)}",
            "hashtags": tags,
            "sound": self._sound(chance),
            "language": language,
            "country": country,
            "duration_ms": chance.randrange(6_000, 90_000, 500),
            "orientation": "portrait",
            "published_at": since + span * chance.random(),
        }

    def _events_of(self, index: int) -> Iterator[Event]:
        chance = self._random("events", index)
        taste = self.taste(index)
        for number in range(self.watches_each):
            is_liked_topic = chance.random() < 0.7
            topic = chance.choice(taste) if is_liked_topic else chance.randrange(len(TOPICS))
            rank = self._zipf(chance, self._watched_of_a_topic)
            at = self.beginning + LENGTH * (1 + number / self.watches_each)
            video = f"{TOPICS[topic].name}-{rank + 1}"
            yield from self._watch(chance, index, number, video, at, fond=topic in taste)

    def _watch(
        self,
        chance: random.Random,
        index: int,
        number: int,
        video: str,
        at: datetime,
        *,
        fond: bool,
    ) -> Iterator[Event]:
        user = self.viewer(index)
        completion = round(chance.betavariate(5, 1.5) if fond else chance.betavariate(1, 3), 2)
        yield Event(f"{number}-watch", user, video, "watch", at, completion=completion)
        likelihoods: dict[EventKind, float] = {"like": 0.25, "share": 0.06, "comment": 0.05}
        for kind, likelihood in likelihoods.items():
            if completion > 0.5 and chance.random() < likelihood:
                yield Event(f"{number}-{kind}", user, video, kind, at + timedelta(seconds=20))


def load(engine: Engine, world: DemoWorld) -> dict[str, int]:
    """Write a small world in one transaction; a second time changes nothing.

    Args:
        engine: a prepared engine on a database that holds nothing else.
        world: the world to write.

    Returns:
        The numbers of users, videos, follows and events.

    Raises:
        RecommenderError: the database holds users of its own.
    """
    users, videos = list(world.users()), list(world.videos())
    follows, events = list(world.follows()), list(world.events())

    def write(session: Session) -> None:
        _check_only(session, [str(row["id"]) for row in users])
        upsert_users(session, users)
        upsert_videos(session, videos)
        apply_follows(session, follows)
        record_many(session, events)

    run_transaction(engine, write)
    return {
        "users": len(users),
        "videos": len(videos),
        "follows": len(follows),
        "events": len(events),
    }


def _check_only(session: Session, keys: Sequence[str]) -> None:
    """Raise an error unless the database holds this whole world or no user."""
    count = session.scalar(sa.select(sa.func.count()).select_from(User)) or 0
    if count and (count, len(ids(session, USERS, keys))) != (len(keys), len(keys)):
        raise RecommenderError(
            "this database holds users of its own: give the synthetic world another one, such as"
            " --database-url sqlite:///demo-2.db"
        )


def _harmonic(size: int) -> Sequence[float]:
    """Return the cumulative weights 1, 1/2, 1/3, … of a Zipf distribution."""
    return list(accumulate(1 / rank for rank in range(1, size + 1)))
