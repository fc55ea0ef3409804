"""Viewers with hidden tastes who swipe through pages for days, to see what a feed is worth to them.

A viewer loves three topics and cares little for the others; a video has a quality that nobody
states. Whether a viewer enjoys a video is chance, and depends on the seed, the two of them and the
taste of the day alone: several feeds of one simulation are compared over the same luck.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, partial
from heapq import nlargest
from typing import Protocol

from sqlalchemy import Engine

from recommender.benchmark.demo_world import BEGINNING, LENGTH, NEW_FOR, TOPICS, DemoWorld, Row
from recommender.database.transactions import run_transaction
from recommender.feed.for_you import for_you
from recommender.feed.values import FeedPage
from recommender.ingest.events import record_many
from recommender.ingest.users import upsert_users
from recommender.ingest.values import Event
from recommender.ingest.videos import upsert_videos
from recommender.learning.engagement import ENGAGED_MS
from recommender.learning.refresh import refresh

LOVED, OTHER = 0.7, 0.1
"""How fond a viewer is of a loved topic, and of any other."""

AFTERWARDS = {"like": 0.25, "share": 0.06, "comment": 0.05, "save": 0.04}
"""What follows an engaged view, and how often."""

FAST_SKIPS = 0.6
"""Share of the other views that end within 3 seconds."""

NOT_INTERESTED = 0.02
"""Share of the other views after which the viewer says so."""

DAY = timedelta(days=1)
MORNING, AWAKE = timedelta(hours=7), timedelta(hours=15)
"""When in a day sessions begin at the earliest, and within how long."""

VIDEOS_OF_A_CREATOR = 20


@dataclass(frozen=True, slots=True)
class SimulatedViewer:
    """A user's key, and the topics that they love before and after the day of the drift."""

    key: str
    before: frozenset[int]
    after: frozenset[int]

    @property
    def is_drifting(self) -> bool:
        """Whether the taste changes on the day of the drift."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class SimulatedVideo:
    """A video as a row of the kind videos, its topic, and its hidden quality, 0 to 1."""

    row: Row
    topic: int
    quality: float
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Swipe:
    """What a viewer did with a video that was shown: a watch, and what it led to."""

    video: str
    is_engaged: bool
    events: tuple[Event, ...]


Page = tuple[Sequence[str], str | None]
"""The videos of a page, and the cursor of the page after it."""


class Feed(Protocol):
    """What viewers swipe through."""

    def publish(self, videos: Sequence[Row]) -> None:
        """Take new videos in."""

    def page(self, viewer: str, limit: int, at: datetime, cursor: str | None) -> Page:
        """Serve a page to a viewer."""

    def record(self, viewer: str, swipes: Sequence[Swipe]) -> None:
        """Take in what the viewer did with a page."""

    def refresh(self, at: datetime) -> None:
        """Bring statistics up to date."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many videos were shown, and how many of these views were engaged."""

    shown: int = 0
    engaged: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.shown + other.shown, self.engaged + other.engaged)

    @property
    def engaged_share(self) -> float:
        """Engaged views per video shown, 0 to 1; 0 where none was shown."""
        return self.engaged / self.shown if self.shown else 0.0


@dataclass(frozen=True, slots=True)
class Day:
    """What a day, counted from 0, was for the viewers whose taste drifts, and for the others."""

    number: int
    steady: Share
    drifting: Share

    @property
    def everybody(self) -> Share:
        """What it was for all viewers together."""
        return self.steady + self.drifting


@dataclass(frozen=True)
class Simulation:
    """Who swipes through what, and for how long; the same values give the same luck.

    Args:
        seed: what chance depends on.
        viewer_count: how many viewers there are.
        video_count: how many videos there are at first, all more than a week old; 12 at least.
        new_each_day: how many are published at the beginning of each day.
        days: how many days it goes on.
        sittings: how many sessions a viewer has each day.
        pages: how many pages a session has.
        limit: how many videos a page has, 1 to 500.
        drift: the day from which every second viewer loves three other topics; None for never.
        refresh_every: time from one refresh to the next.
    """

    seed: int = 26
    viewer_count: int = 40
    video_count: int = 2_000
    new_each_day: int = 60
    days: int = 30
    sittings: int = 1
    pages: int = 2
    limit: int = 20
    drift: int | None = None
    refresh_every: timedelta = timedelta(hours=4)

    @cached_property
    def viewers(self) -> Sequence[SimulatedViewer]:
        """All viewers."""
        return [self._viewer(index) for index in range(self.viewer_count)]

    @cached_property
    def videos(self) -> Mapping[str, SimulatedVideo]:
        """All videos by their keys, in the order of their publishing."""
        rows = enumerate(self._world.videos())
        return {str(row["id"]): self._video(index, row) for index, row in rows}

    def users(self) -> list[Row]:
        """Viewers and creators as rows of the kind users, of whom nothing is known."""
        return [{"id": row["id"]} for row in self._world.users()]

    def published(self, day: int) -> list[Row]:
        """The rows of the videos that are new on a day; on the first one also those of before."""
        rows = [video.row for video in self.videos.values()]
        end = self.video_count + (day + 1) * self.new_each_day
        return rows[end - self.new_each_day if day else 0 : end]

    def sessions(self, day: int) -> list[tuple[datetime, int]]:
        """When sessions begin on a day, in order, and the number of the viewer of each."""
        morning = self.beginning(day) + MORNING
        return sorted(
            (morning + AWAKE * self._chance("session", day, index, sitting).random(), index)
            for index in range(self.viewer_count)
            for sitting in range(self.sittings)
        )

    def beginning(self, day: int) -> datetime:
        """When a day begins."""
        return BEGINNING + day * DAY

    def enjoyment(self, viewer: SimulatedViewer, video: SimulatedVideo, day: int) -> float:
        """How probable an engaged view is, where a viewer is shown a video on a day.

        The fondness for the video's topic, 0.7 where it is loved and else 0.1, times 0.5 to 1.5 by
        the video's quality; 1 at most.
        """
        has_drifted = self.drift is not None and day >= self.drift
        loved = viewer.after if has_drifted else viewer.before
        fondness = LOVED if video.topic in loved else OTHER
        return min(1.0, fondness * (0.5 + video.quality))

    def swipe(self, viewer: SimulatedViewer, video: str, at: datetime) -> Swipe:
        """What a viewer does with a video that is shown at a time."""
        chance, shown = self._chance("swipe", viewer.key, video), self.videos[video]
        day = (at - BEGINNING) // DAY
        is_engaged = chance.random() < self.enjoyment(viewer, shown, day)
        enough = min(shown.duration_ms, ENGAGED_MS)
        if is_engaged:
            watch_ms = chance.randint(enough, shown.duration_ms)
            kinds = [kind for kind, share in AFTERWARDS.items() if chance.random() < share]
        else:
            is_fast = chance.random() < FAST_SKIPS
            watch_ms = chance.randint(300, 2_999) if is_fast else chance.randint(3_000, enough - 1)
            kinds = ["not_interested"] if chance.random() < NOT_INTERESTED else []
        end = at + timedelta(milliseconds=watch_ms)
        watch = Event(f"{video} watch", viewer.key, video, "watch", end, watch_ms)
        more = (Event(f"{video} {kind}", viewer.key, video, kind, end) for kind in kinds)
        return Swipe(video, is_engaged, (watch, *more))

    @cached_property
    def _world(self) -> DemoWorld:
        videos = self.video_count + self.days * self.new_each_day
        creators = max(len(TOPICS), videos // VIDEOS_OF_A_CREATOR)
        return DemoWorld(self.seed, self.viewer_count, creators, videos, watches_each=0)

    def _viewer(self, index: int) -> SimulatedViewer:
        before = self._world.taste(index)
        after = before
        if self.drift is not None and index % 2:
            others = sorted(set(range(len(TOPICS))) - set(before))
            after = self._chance("drift", index).sample(others, len(before))
        return SimulatedViewer(self._world.viewer(index), frozenset(before), frozenset(after))

    def _video(self, index: int, row: Row) -> SimulatedVideo:
        if index < self.video_count:
            at = BEGINNING - NEW_FOR - LENGTH * ((self.video_count - index) / self.video_count)
        else:
            at = self.beginning((index - self.video_count) // self.new_each_day)
        return SimulatedVideo(
            row={**row, "published_at": at},
            topic=index % len(TOPICS),
            quality=self._chance("quality", index).random(),
            duration_ms=int(str(row["duration_ms"])),
        )

    def _chance(self, *parts: object) -> random.Random:
        return random.Random(f"{self.seed} {parts}")  # noqa: S311 - a simulation, not a secret


def simulate(simulation: Simulation, feed: Feed) -> Iterator[Day]:
    """Let the viewers swipe through a new feed; say after each day what it was worth to them."""
    refreshed = simulation.beginning(0)
    for day in range(simulation.days):
        feed.publish(simulation.published(day))
        shares = {True: Share(), False: Share()}
        for at, index in simulation.sessions(day):
            viewer = simulation.viewers[index]
            due = at - (at - BEGINNING) % simulation.refresh_every
            if due > refreshed:
                feed.refresh(due)
                refreshed = due
            shares[viewer.is_drifting] += _session(simulation, feed, viewer, at)
        yield Day(day, steady=shares[False], drifting=shares[True])


def _session(simulation: Simulation, feed: Feed, viewer: SimulatedViewer, at: datetime) -> Share:
    """A viewer's session, page by page, one video after the other."""
    share, cursor = Share(), None
    for _ in range(simulation.pages):
        videos, cursor = feed.page(viewer.key, simulation.limit, at, cursor)
        swipes = []
        for video in videos:
            swipes.append(simulation.swipe(viewer, video, at))
            at = swipes[-1].events[0].at
        feed.record(viewer.key, swipes)
        share += Share(len(swipes), sum(swipe.is_engaged for swipe in swipes))
    return share


class ForYou:
    """The For You feed of a database that holds nothing else."""

    def __init__(self, engine: Engine, users: Sequence[Row]) -> None:
        self._engine = engine
        run_transaction(engine, lambda session: upsert_users(session, users))

    def publish(self, videos: Sequence[Row]) -> None:
        """Take new videos in."""
        run_transaction(self._engine, lambda session: upsert_videos(session, videos))

    def page(self, viewer: str, limit: int, at: datetime, cursor: str | None) -> Page:
        """Serve a page to a viewer."""
        ask = partial(for_you, user=viewer, limit=limit, as_of=at, cursor=cursor)
        page: FeedPage = run_transaction(self._engine, ask)
        return [item.video for item in page.items], page.cursor

    def record(self, viewer: str, swipes: Sequence[Swipe]) -> None:  # noqa: ARG002 - each event names the viewer
        """Take in what the viewer did with a page."""
        events = [event for swipe in swipes for event in swipe.events]
        run_transaction(self._engine, lambda session: record_many(session, events))

    def refresh(self, at: datetime) -> None:
        """Bring statistics up to date."""
        refresh(self._engine, as_of=at)


@dataclass
class Unseen:
    """A feed of what its viewer has not seen, chosen without knowing the viewer; in memory.

    Args:
        choose: at most so many of the videos that are given, by how many viewers enjoyed each.
    """

    choose: Callable[[Sequence[str], Counter[str], int], Sequence[str]]
    _videos: list[str] = field(default_factory=list)
    _seen: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _enjoyed: Counter[str] = field(default_factory=Counter)

    def publish(self, videos: Sequence[Row]) -> None:
        """Take new videos in."""
        self._videos += (str(row["id"]) for row in videos)

    def page(self, viewer: str, limit: int, at: datetime, cursor: str | None) -> Page:  # noqa: ARG002
        """Serve a page to a viewer."""
        unseen = [video for video in self._videos if video not in self._seen[viewer]]
        return self.choose(unseen, self._enjoyed, limit), None

    def record(self, viewer: str, swipes: Sequence[Swipe]) -> None:
        """Take in what the viewer did with a page."""
        self._seen[viewer].update(swipe.video for swipe in swipes)
        self._enjoyed.update(swipe.video for swipe in swipes if swipe.is_engaged)

    def refresh(self, at: datetime) -> None:
        """Do nothing: every swipe is counted at once."""


def random_feed(seed: int) -> Unseen:
    """Pages at random, the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - a simulation, not a secret
    return Unseen(lambda videos, _, limit: chance.sample(videos, min(limit, len(videos))))


def popular_feed() -> Unseen:
    """Pages of what most viewers enjoyed so far."""
    return Unseen(lambda videos, enjoyed, limit: nlargest(limit, videos, key=enjoyed.__getitem__))
