"""The source `social` and its signal: what people whom the viewer follows enjoyed lately."""

from __future__ import annotations

import random
from collections import Counter
from typing import TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender.models.tables import USERS, VIDEOS
from recommender.ranking import history, sources
from recommender.ranking.features import followed_facts
from recommender.ranking.viewer import Viewer
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import ids, put
from tests.support.worlds import (
    NOON,
    at,
    follow,
    follow_oneself,
    make_user,
    make_videos,
    mute,
    preview,
    record,
)

pytestmark = slow_on_postgresql

Engagements: TypeAlias = dict[tuple[str, str], int]
"""Minutes from noon by person and video."""


def engage(session: Session, engagements: Engagements) -> None:
    users, videos = ids(session, USERS), ids(session, VIDEOS)
    put(session, "recent_engagements", [
        {"user_id": users[person], "video_id": videos[video], "at": at(minutes)}
        for (person, video), minutes in engagements.items()
    ])  # fmt: skip


def found(session: Session, quota: int = 100) -> list[str]:
    """What the source finds, in its order."""
    request = recommender.resolve(session, "viewer", as_of=NOON)
    statement = sources.social(Viewer.of(request), quota)
    keys = {row_id: key for key, row_id in ids(session, VIDEOS).items()}
    return [keys[row_id] for row_id in session.scalars(statement)]


def people_of(session: Session) -> Counter[str]:
    """How many followed people the signal counts, by video."""
    viewer = Viewer.of(recommender.resolve(session, "viewer", as_of=NOON))
    videos = sa.select(VIDEOS.c.id.label("video_id")).subquery()
    keys = {row_id: key for key, row_id in ids(session, VIDEOS).items()}
    return Counter(keys[row_id] for row_id, _ in session.execute(followed_facts(viewer, videos)))


def test_most_people_come_first_then_the_latest_and_none_who_is_muted_or_blocked(
    session: Session,
) -> None:
    make_user(session)
    for person in ("ann", "bob", "muted", "blocked", "blocker", "former"):
        follow(session, "viewer", person)
    make_user(session, "stranger")
    mute(session, "viewer", "creator", "muted")
    recommender.block(session, "viewer", "blocked")
    recommender.block(session, "blocker", "viewer")
    recommender.unfollow(session, "viewer", "former")
    follow_oneself(session, "viewer")
    others = ("muted", "blocked", "blocker", "former", "stranger", "viewer")
    make_videos(session, "two", "late", "early", "tie", "future", "seen", *others)
    engage(session, {
        ("ann", "two"): -50, ("bob", "two"): -60, ("ann", "late"): 0, ("bob", "early"): -9,
        ("ann", "tie"): -9, ("bob", "future"): 1, ("bob", "seen"): -1,
        **{(other, video): -1 for other in others for video in (other, "late", "early")},
    })  # fmt: skip
    assert found(session) == ["two", "late", "seen", "tie", "early"]
    assert people_of(session) == {
        "two": 2, "late": 1, "early": 1, "tie": 1, "future": 1, "seen": 1,
    }  # fmt: skip
    record(session, "impression", "seen", at=at(-1))
    sources_of = {item.video: item.sources for item in preview(session, as_of=NOON).items}
    assert {video for video, names in sources_of.items() if "social" in names} == {
        "two", "late", "tie", "early",
    }  # fmt: skip


def reference(
    engagements: Engagements, followed: list[str], videos: list[str], people: int, rows: int
) -> tuple[list[str], Counter[str]]:
    """What the source finds, and how many people the signal counts, in plain Python."""
    place = {video: number for number, video in enumerate(videos)}
    newest = {
        person: max((place[v] for p, v in engagements if p == person), default=-1)
        for person in followed
    }
    read = sorted(followed, key=lambda person: -newest[person])[:people]
    of_people = [(m, place[v], v) for (p, v), m in engagements.items() if p in read]
    latest = sorted((each for each in of_people if each[0] <= 0), reverse=True)[:rows]
    number = Counter(video for *_, video in latest)
    last = {video: (minutes, place) for minutes, place, video in reversed(latest)}
    order = sorted(number, key=lambda video: (number[video], last[video]), reverse=True)
    return order, Counter(video for *_, video in of_people)


def test_the_source_and_the_signal_equal_plain_python_within_their_limits(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More people are followed than are read, and more engagements than the source looks at."""
    people, rows = 4, 20
    monkeypatch.setattr(history, "PEOPLE_LIMIT", people)
    monkeypatch.setattr(sources, "SCAN_FACTOR", 2)
    make_user(session)
    followed, videos = [f"u{n}" for n in range(7)], [f"v{n}" for n in range(15)]
    for person in followed:
        follow(session, "viewer", person)
    make_videos(session, *videos)
    for seed in range(8):
        chance = random.Random(seed)  # noqa: S311 - not for secrets
        pairs = [(chance.choice(followed[seed % 5 :]), chance.choice(videos)) for _ in range(60)]
        engagements = {pair: chance.randint(-30, 3) for pair in pairs}
        with session.begin_nested() as savepoint:
            engage(session, engagements)
            order, number = reference(engagements, followed, videos, people, rows)
            assert (found(session, rows // 2), people_of(session)) == (order, number), seed
            savepoint.rollback()


def test_a_page_has_what_a_person_enjoyed_until_they_are_erased(engine: Engine) -> None:
    """And a person who was a guest before counts once."""

    def make(session: Session) -> None:
        make_user(session)
        make_videos(session, "a", "b", "of no one")
        for person in ("ann", "guest", "bob"):
            follow(session, "viewer", person)
        for person, video in (("ann", "a"), ("guest", "a"), ("bob", "a"), ("bob", "b")):
            record(session, "like", video, person, at=at(-9))

    def shown() -> dict[str, float]:
        recommender.refresh(engine, as_of=NOON)
        with Session(engine) as session:
            items = preview(session, as_of=NOON).items
        assert len(items) == 3
        for item in items:
            assert ("social" in item.sources) == (item.signals["social"].value > 0)
        return {item.video: round(item.signals["social"].value, 3) for item in items}

    recommender.run_transaction(engine, make)
    assert shown() == {"a": 0.75, "b": 0.5, "of no one": 0}
    recommender.merge_users(engine, "guest", "ann")
    assert shown() == {"a": 0.667, "b": 0.5, "of no one": 0}
    recommender.erase_user(engine, "bob")
    assert shown() == {"a": 0.5, "b": 0, "of no one": 0}
