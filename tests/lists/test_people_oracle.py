"""The list of people to follow against plain Python, on random worlds."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

import recommender
from recommender import people
from recommender.lists.people_sources import PEOPLE_SOURCES
from recommender.models.tables import USERS
from recommender.ranking.scoring import score_key_of
from tests.support.oracle import (
    CREATORS,
    VIEWERS,
    Oracle,
    World,
    dated,
    ids,
    load,
    put,
    random_world,
    saturated,
)
from tests.support.worlds import NOON, at


class Around:
    """What a random world has around its viewers, beside videos."""

    def __init__(self, world: World, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - not for secrets
        everyone = sorted({*CREATORS, *VIEWERS})
        pairs = [(one, other) for one in everyone for other in everyone if one != other]
        world.follows |= {pair for pair in pairs if self.chance.random() < 0.25}
        self.blocks = {pair for pair in pairs if self.chance.random() < 0.04}
        self.dismissed = {pair for pair in pairs if self.chance.random() < 0.06}
        self.hidden = {key for key in CREATORS if self.chance.random() < 0.15}
        self.shown = {
            pair: (self.chance.randrange(1, 7), NOON - self.chance.choice([0, 1, 89, 90]) * DAY)
            for pair in pairs
            if self.chance.random() < 0.3
        }

    def load(self, session: Session) -> None:
        known = ids(session, USERS)
        for one, other in sorted(self.blocks):
            recommender.block(session, one, other)
        hidden = [{"id": key, "discoverable": False} for key in self.hidden]
        recommender.upsert_users(session, hidden)  # type: ignore[arg-type]
        put(session, "suggestions", [
            {"user_id": known[one], "creator_id": known[other], "shown": days, "shown_at": last}
            for (one, other), (days, last) in self.shown.items()
        ])  # fmt: skip
        for one, other in sorted(self.dismissed):
            recommender.dismiss(session, one, other)


DAY = timedelta(days=1)


class PeopleOracle(Oracle):
    """The list for one viewer, worked out one creator at a time."""

    def __init__(self, world: World, user: str, around: Around) -> None:
        super().__init__(world, user)
        self.around = around
        self.blocked = {b for a, b in around.blocks if a == user} | {
            a for a, b in around.blocks if b == user
        }
        self.friends = self.wanted - self.blocked - around.hidden - {user}

    def found(self, creator: str) -> list[str]:
        """The videos of a creator that everyone may find."""
        return [
            key
            for key, video in self.world.videos.items()
            if video["creator"] == creator
            and video["status"] == "published"
            and dated(video) <= NOON
            and creator not in self.around.hidden
        ]

    def may_be_suggested(self, creator: str) -> bool:
        out = self.followed | self.blocked | self.muted("creator") | {self.user}
        is_dismissed = (self.user, creator) in self.around.dismissed
        return bool(self.found(creator)) and creator not in out and not is_dismissed

    def followers(self, creator: str) -> list[str]:
        return sorted(key for key in self.friends if (key, creator) in self.world.follows)

    def trends(self, creator: str) -> list[float]:
        language = self.viewer.get("language")
        videos = [self.world.videos[key] for key in self.found(creator)]
        return [
            video["trending"]
            for video in videos
            if video["trending"] is not None
            and (language is None or video["language"] in {language, None})
        ]

    def days(self, creator: str) -> int:
        days, last = self.around.shown.get((self.user, creator), (0, NOON - 900 * DAY))
        if last <= NOON - self.settings.suggestion_memory * DAY:
            return 0
        return days - (last.date() == NOON.date())

    def values_of(self, creator: str) -> dict[str, float]:
        taste = math.fsum(self.near.get(key, 0.0) for key in self.found(creator))
        trend = max(self.trends(creator), default=None)
        newest = max(dated(self.world.videos[key]) for key in self.found(creator))
        age = max(0.0, (NOON - newest) / DAY)
        is_dated = any(self.world.videos[key]["published_at"] for key in self.found(creator))
        return {
            "followed_by": saturated(len(self.followers(creator))),
            "enjoyed": self.affinity("creator", creator),
            "similar_taste": saturated(taste**2, self.settings.collaborative_scale**2),
            "popular": 0.0 if trend is None else saturated(
                2 ** max(-500, min(500, trend - self.half_lives("trend"))), self.trend_scale()
            ),
            "active": 2 ** -min(1000, age / self.settings.freshness_half_life) * is_dated,
            "shown": min(1.0, self.days(creator) / self.settings.suggestion_days),
        }  # fmt: skip

    def sources_of(self, creator: str) -> tuple[str, ...]:
        found = {
            "social": bool(self.followers(creator)),
            "creators": self.world.affinities.get((self.user, "creator", creator), 0) > 0,
            "taste": any(key in self.near for key in self.found(creator)),
            "popular": bool(self.trends(creator)),
            "newest": True,
        }
        assert list(found) == [source.name for source in PEOPLE_SOURCES]
        return tuple(name for name, is_found in found.items() if is_found)


@pytest.mark.parametrize("worlds", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_the_list_equals_plain_python_on_random_worlds(session: Session, worlds: int) -> None:
    listed = 0
    for seed in range(60, 60 + worlds):
        with session.begin_nested() as savepoint:
            world = random_world(seed, videos=30)
            around = Around(world, seed)
            load(session, world)
            around.load(session)
            for user in (*VIEWERS, "stranger"):
                listed += checked(session, PeopleOracle(world, user, around))
            savepoint.rollback()
    assert listed > 5 * worlds


def checked(session: Session, oracle: PeopleOracle) -> int:
    """Compare a viewer's list with the expected one; return its length."""
    weights = recommender.get_profile(session, "people").weights
    rows, found = ids(session, USERS), walk(session, oracle.user, limit=2)

    def place(key: str) -> Any:
        score = math.fsum(weights[n] * value for n, value in oracle.values_of(key).items())
        is_worn = oracle.days(key) >= oracle.settings.suggestion_days
        return is_worn, -score_key_of(score), -rows[key]

    expected = [key for key in {*CREATORS, *VIEWERS} if oracle.may_be_suggested(key)]
    assert [person.creator for person in found] == sorted(expected, key=place)
    for person in found:
        values = {name: part.value for name, part in person.signals.items()}
        assert values == pytest.approx(oracle.values_of(person.creator), rel=1e-9, abs=1e-9)
        assert person.sources == oracle.sources_of(person.creator)
        check_reasons(person, oracle)
    return len(found)


def check_reasons(person: Any, oracle: PeopleOracle) -> None:
    """Check that reasons name the first of those who follow, and count what there is."""
    told = {reason.kind: reason for reason in person.reasons}
    followers = oracle.followers(person.creator)
    if "followed_by" in told:
        reason = told["followed_by"]
        assert (reason.subject, reason.count) == (followers[0], len(followers))
    assert ("followed_by" in told) == bool(followers)
    videos = [oracle.world.videos[key]["creator"] for key in oracle.recent]
    if "enjoyed" in told:
        assert (told["enjoyed"].count or 0) == videos.count(person.creator)


def walk(session: Session, user: str, **options: Any) -> list[Any]:
    items, cursor = [], None
    while True:
        page = people(session, user, as_of=at(), reasons=True, cursor=cursor, **options)
        items += page.items
        if (cursor := page.cursor) is None:
            return items
