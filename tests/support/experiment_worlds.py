"""Random experiments: sessions, places, states and events, written by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import Experiment
from recommender.models import (
    EventRow,
    FeedSession,
    Interaction,
    ServedVideo,
    User,
    Video,
)
from recommender.models.tables import EXPERIMENTS

START = datetime(2026, 3, 1, 7, 30, tzinfo=UTC)

OTHER_FEED = "shorts"


def start(
    session: Session, variants: int = 1, *, began: datetime = START, **options: Any
) -> Experiment:
    """Start an experiment of `for_you` against variants of it, at a time of one's choice."""
    names = [f"variant{number}" for number in range(1, variants + 1)]
    for name in names:
        recommender.create_profile(session, name, {"freshness": 1.0})
    experiment = recommender.start_experiment(session, "tried", names, control="for_you", **options)
    stored = sa.update(EXPERIMENTS).where(EXPERIMENTS.c.id == experiment.id)
    session.execute(stored.values(started_at=began))
    return recommender.get_experiment(session, "tried")


def arm_profiles(session: Session, experiment: Experiment) -> list[int]:
    found = (recommender.get_profile(session, arm.profile).id for arm in experiment.arms)
    return [each for each in found if each is not None]


class World:
    """Rows of a random experiment.

    Some users are in two arms or were merged, and some sessions are from before it, of another
    feed, or in another experiment. Some places are of another profile than the arm's.
    """

    def __init__(
        self, session: Session, experiment: Experiment, seed: int, *, users: int, days: float
    ) -> None:
        self.chance = Random(seed)  # noqa: S311 - not for secrets
        self.session, self.experiment, self.days = session, experiment, days
        self.profiles = arm_profiles(session, experiment)
        recommender.create_feed(session, OTHER_FEED)
        self.other_feed = recommender.get_feed(session, OTHER_FEED).id
        self.videos = self._videos()
        names = [{"id": f"user{number}"} for number in range(users)]
        recommender.upsert_users(session, names)
        keys = [name["id"] for name in names]
        self.users = list(session.scalars(sa.select(User.id).where(User.key.in_(keys))))
        self._merge()
        for number, user in enumerate(self.users):
            self._activity(user, number)
        session.flush()

    def _videos(self) -> list[int]:
        rows: list[Any] = [{"id": f"video{n}", "creator": f"creator{n % 5}"} for n in range(12)]
        rows[5]["duration_ms"] = 20_000
        rows[6]["creator"] = None
        recommender.upsert_videos(self.session, rows)
        videos = self.session.scalars(sa.select(Video).order_by(Video.id)).all()
        for video in videos:
            video.impressions = self.chance.randrange(6)
        return [video.id for video in videos]

    def _merge(self) -> None:
        times = [START - timedelta(days=1), START + timedelta(days=1), None]
        for number, merged_at in enumerate(times):
            guest = User(
                key=f"guest{number}", merged_into=self.users[number], merged_at=merged_at,
                on_sight=False, discoverable=True,
            )  # fmt: skip
            self.session.add(guest)

    def moment(self, low: float, high: float) -> datetime:
        return START + timedelta(days=self.chance.uniform(low, high))

    def _activity(self, user: int, number: int) -> None:
        arm = self.chance.randrange(len(self.profiles))
        served: dict[int, list[datetime]] = {}
        for _ in range(self.chance.randrange(1, 8)):
            own = arm if self.chance.random() < 0.95 else (arm + 1) % len(self.profiles)
            self._session(user, own, served)
        for video in self.videos:
            if self.chance.random() < 0.7:
                self.session.add(self._state(user, video, served.get(video, [])))
        for event in range(self.chance.randrange(12)):
            self._event(user, f"e{number}-{event}")

    def _session(self, user: int, arm: int, served: dict[int, list[datetime]]) -> None:
        began = self.moment(-1.2 * self.days, 1.1 * self.days)
        is_in = self.chance.random() < (0.85 if began >= START else 0.03)
        other = self.chance.random()
        row = FeedSession(
            user_id=user, session=UUID(int=self.chance.getrandbits(128)), next_position=1,
            rewatch=self.chance.random() < 0.2, started_at=began, last_at=began, seen_until=0,
            feed_id=self.other_feed if not is_in and other < 0.3 else None,
            experiment_id=self.experiment.id if is_in else 999 if other > 0.8 else None,
            arm=arm if is_in else 1 if other > 0.8 else None,
            pages=self.chance.randrange(4), asked=20, exhausted=self.chance.randrange(2),
            milliseconds=self.chance.randrange(90),
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        videos = self.chance.sample(self.videos, self.chance.randrange(6))
        for position, video in enumerate(videos, start=1):
            moment = began + timedelta(seconds=self.chance.uniform(0, 20_000))
            served.setdefault(video, []).append(moment)
            number = arm if self.chance.random() < 0.9 else (arm + 1) % len(self.profiles)
            self.session.add(
                ServedVideo(
                    user_id=user, session=row.session, position=position, video_id=video,
                    page=1, asked=20, served_at=moment, profile_id=self.profiles[number],
                    score_key=0, sources="", explored=False, crowded=False, signals={},
                    attempt=1, refilled=False,
                )
            )  # fmt: skip

    def _state(self, user: int, video: int, served: list[datetime]) -> Interaction:
        # Clocks differ: an event may be up to 5 minutes before its place.
        first = self.moment(-self.days, 1.1 * self.days)
        if served and self.chance.random() < 0.8:
            first = self.chance.choice(served) + timedelta(minutes=self.chance.uniform(-10, 60))
        maybe = lambda share: first if self.chance.random() < share else None  # noqa: E731
        return Interaction(
            user_id=user, video_id=video, impressions=self.chance.randrange(3), plays=0,
            engaged_views=0, completion=0.0, watch_ms=0, shares=self.chance.randrange(2),
            comments=0, reports=int(self.chance.random() < 0.2), conversions=0,
            liked_at=maybe(0.3), saved_at=maybe(0.2), not_interested_at=maybe(0.2),
            engaged_at=maybe(0.4), first_at=first, last_at=first,
        )  # fmt: skip

    def _event(self, user: int, key: str) -> None:
        kind = self.chance.choice(["watch", "watch", "like", "impression"])
        self.session.add(
            EventRow(
                user_id=user, key=key, video_id=self.chance.choice(self.videos), kind=kind,
                at=self.moment(-1.1 * self.days, 1.1 * self.days),
                watch_ms=self.chance.choice([None, 500, 7_000]),
                completion=self.chance.choice([None, 0.3, 1.0]),
                engaged=False,
            )
        )  # fmt: skip
