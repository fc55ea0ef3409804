"""Simulate viewers with hidden tastes, to measure how good a feed is for them.

A viewer loves three topics and cares little for all others. A video has a hidden quality. Chance
decides if a viewer enjoys a video. It depends only on the seed, the viewer, the video and the taste
of the day, so that several feeds are compared with the same luck.
"""

from __future__ import annotations

import math
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
from recommender.learning.engagement import DEFAULT_THRESHOLDS
from recommender.learning.refresh import refresh

LOVED, OTHER = 0.7, 0.1
"""The probability of an engaged view for a loved topic and for any other topic."""

AFTERWARDS = {"like": 0.25, "share": 0.06, "comment": 0.05, "save": 0.04}
"""The events that follow an engaged view, with their probabilities."""

FAST_SKIPS = 0.6
"""The share of views without engagement that end within 3 seconds."""

NOT_INTERESTED = 0.02
"""The share of views without engagement that the viewer marks as not interesting."""

DAY = timedelta(days=1)
MORNING, AWAKE = timedelta(hours=7), timedelta(hours=15)
"""The time of the first session of a day, and the span in which sessions begin."""

VIDEOS_OF_A_CREATOR = 20


@dataclass(frozen=True, slots=True)
class SimulatedViewer:
    """The key of a user, and the loved topics before and after the day of the drift."""

    key: str
    before: frozenset[int]
    after: frozenset[int]

    @property
    def is_drifting(self) -> bool:
        """True if the taste changes on the day of the drift."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class SimulatedVideo:
    """A row of the kind videos, with a topic and a hidden quality from 0 to 1."""

    row: Row
    topic: int
    quality: float
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Swipe:
    """The reaction of a viewer to a shown video: a watch and the events after it."""

    video: str
    is_engaged: bool
    events: tuple[Event, ...]


Page = tuple[Sequence[str], str | None]
"""The videos of a page, and the cursor of the next page."""


class Feed(Protocol):
    """A feed that serves pages to viewers."""

    def publish(self, videos: Sequence[Row]) -> None:
        """Add new videos."""

    def page(self, viewer: str, limit: int, at: datetime, cursor: str | None) -> Page:
        """Serve a page to a viewer."""

    def record(self, viewer: str, swipes: Sequence[Swipe]) -> None:
        """Record the reaction of a viewer to a page."""

    def refresh(self, at: datetime) -> None:
        """Refresh the statistics."""


@dataclass(frozen=True, slots=True)
class Share:
    """The numbers of shown videos and of engaged views."""

    shown: int = 0
    engaged: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.shown + other.shown, self.engaged + other.engaged)

    @property
    def engaged_share(self) -> float:
        """Engaged views per shown video, 0 to 1; 0 if no video was shown."""
        return self.engaged / self.shown if self.shown else 0.0


@dataclass(frozen=True, slots=True)
class Day:
    """The result of one day, for viewers with a drifting and with a steady taste."""

    number: int
    steady: Share
    drifting: Share

    @property
    def everybody(self) -> Share:
        """The result of all viewers."""
        return self.steady + self.drifting


@dataclass(frozen=True)
class Simulation:
    """The parameters of a simulation. The same values give the same luck.

    Args:
        seed: the seed of all chance.
        viewer_count: the number of viewers.
        video_count: the number of videos at the start, 12 or more, all older than a week.
        new_each_day: the number of videos that are published at the beginning of a day.
        days: the number of days.
        sessions_per_day: the number of sessions of a viewer per day.
        pages: the number of pages per session.
        limit: the number of videos per page, 1 to 500.
        drift: the day on which every second viewer changes to three other topics; None for never.
        refresh_every: the time between two refreshes.
    """

    seed: int = 26
    viewer_count: int = 40
    video_count: int = 2_000
    new_each_day: int = 60
    days: int = 30
    sessions_per_day: int = 1
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
        """Return viewers and creators as rows of the kind users, with nothing but a key."""
        return [{"id": row["id"]} for row in self._world.users()]

    def published(self, day: int) -> list[Row]:
        """Return the new videos of a day; for day 0 also all older videos."""
        rows = [video.row for video in self.videos.values()]
        end = self.video_count + (day + 1) * self.new_each_day
        return rows[end - self.new_each_day if day else 0 : end]

    def sessions(self, day: int) -> list[tuple[datetime, int]]:
        """Return the sessions of a day in order: start time and index of the viewer."""
        morning = self.beginning(day) + MORNING
        return sorted(
            (morning + AWAKE * self._chance("session", day, index, number).random(), index)
            for index in range(self.viewer_count)
            for number in range(self.sessions_per_day)
        )

    def beginning(self, day: int) -> datetime:
        """Return the start of a day."""
        return BEGINNING + day * DAY

    def enjoyment(self, viewer: SimulatedViewer, video: SimulatedVideo, day: int) -> float:
        """Return the probability of an engaged view.

        It is 0.7 for a loved topic and 0.1 for others, times 0.5 plus the quality; 1 at most.
        """
        has_drifted = self.drift is not None and day >= self.drift
        loved = viewer.after if has_drifted else viewer.before
        fondness = LOVED if video.topic in loved else OTHER
        return min(1.0, fondness * (0.5 + video.quality))

    def swipe(self, viewer: SimulatedViewer, video: str, at: datetime) -> Swipe:
        """Return the reaction of a viewer to a video that is shown at `at`."""
        chance, shown = self._chance("swipe", viewer.key, video), self.videos[video]
        day = (at - BEGINNING) // DAY
        is_engaged = chance.random() < self.enjoyment(viewer, shown, day)
        limits = DEFAULT_THRESHOLDS
        enough = min(math.ceil(shown.duration_ms * limits.engaged_part), limits.engaged_ms)
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
    """Let all viewers swipe through a new feed, and yield the daily results."""
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
    """Run one session of a viewer."""
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
    """The For You feed of a database without other content."""

    def __init__(self, engine: Engine, users: Sequence[Row]) -> None:
        self._engine = engine
        run_transaction(engine, lambda session: upsert_users(session, users))

    def publish(self, videos: Sequence[Row]) -> None:
        """Add new videos."""
        run_transaction(self._engine, lambda session: upsert_videos(session, videos))

    def page(self, viewer: str, limit: int, at: datetime, cursor: str | None) -> Page:
        """Serve a page to a viewer."""
        ask = partial(for_you, user=viewer, limit=limit, as_of=at, cursor=cursor)
        page: FeedPage = run_transaction(self._engine, ask)
        return [item.video for item in page.items], page.cursor

    def record(self, viewer: str, swipes: Sequence[Swipe]) -> None:  # noqa: ARG002 - each event names the viewer
        """Record the reaction of a viewer to a page."""
        events = [event for swipe in swipes for event in swipe.events]
        run_transaction(self._engine, lambda session: record_many(session, events))

    def refresh(self, at: datetime) -> None:
        """Refresh the statistics."""
        refresh(self._engine, as_of=at)


@dataclass
class Unseen:
    """A feed in memory of unseen videos, chosen without knowledge of the viewer.

    Args:
        choose: takes unseen videos, the number of viewers that enjoyed each video, and a limit.
            It returns at most `limit` of the videos.
    """

    choose: Callable[[Sequence[str], Counter[str], int], Sequence[str]]
    _videos: list[str] = field(default_factory=list)
    _seen: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _enjoyed: Counter[str] = field(default_factory=Counter)

    def publish(self, videos: Sequence[Row]) -> None:
        """Add new videos."""
        self._videos += (str(row["id"]) for row in videos)

    def page(self, viewer: str, limit: int, at: datetime, cursor: str | None) -> Page:  # noqa: ARG002
        """Serve a page to a viewer."""
        unseen = [video for video in self._videos if video not in self._seen[viewer]]
        return self.choose(unseen, self._enjoyed, limit), None

    def record(self, viewer: str, swipes: Sequence[Swipe]) -> None:
        """Record the reaction of a viewer to a page."""
        self._seen[viewer].update(swipe.video for swipe in swipes)
        self._enjoyed.update(swipe.video for swipe in swipes if swipe.is_engaged)

    def refresh(self, at: datetime) -> None:
        """Do nothing: swipes are counted immediately."""


def random_feed(seed: int) -> Unseen:
    """Return a feed of random pages, which depend on the seed only."""
    chance = random.Random(seed)  # noqa: S311 - a simulation, not a secret
    return Unseen(lambda videos, _, limit: chance.sample(videos, min(limit, len(videos))))


def popular_feed() -> Unseen:
    """Return a feed of the videos that most viewers enjoyed so far."""
    return Unseen(lambda videos, enjoyed, limit: nlargest(limit, videos, key=enjoyed.__getitem__))
