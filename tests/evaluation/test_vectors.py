"""Evaluation reads the vectors of the application's database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import Registry, create_engine, create_space, evaluate, upsert_embeddings
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import at, make_user, make_video, record

CUTOFF = at(24 * 60)
USERS, VIDEOS = range(6), range(10)


@pytest.fixture
def world(database: str) -> Iterator[Engine]:
    """Two topics. Who liked old videos of one topic watches its newest video after the cut."""
    bind = create_engine(database, registry=Registry(space="topics"))
    create_space(bind, "topics", dim=2)

    def write(session: Session) -> None:
        for topic, vector in (("a", [1, 0]), ("b", [0, 1])):
            keys = [f"{topic}{number}" for number in VIDEOS]
            for number, key in enumerate(keys):
                make_video(session, key, published_at=at(number - 100))
            rows = [{"id": key, "vector": vector} for key in keys]
            upsert_embeddings(session, "topics", rows)  # type: ignore[arg-type]
        for number in USERS:
            user, topic = make_user(session, f"u{number}"), "ab"[number % 2]
            for video in (0, 1):
                record(session, "like", f"{topic}{video}", user=user, at=at(video))
            record(session, "watch", f"{topic}9", user=user, at=CUTOFF + timedelta(hours=number))
        recommender.create_profile(session, "by_taste", {"taste": 1.0})
        recommender.create_profile(session, "newest", {"freshness": 1.0})

    recommender.run_transaction(bind, write)
    yield bind
    bind.dispose()


@slow_on_postgresql
def test_a_list_tells_what_its_vectors_found(world: Engine) -> None:
    """Who liked the newest but one of their topic watched the newest: no one else did both."""

    def like(session: Session) -> None:
        for number in USERS:
            at_last = CUTOFF + timedelta(minutes=number)
            record(session, "watch", f"{'ab'[number % 2]}8", user=f"u{number}", at=at_last)
        recommender.create_profile(session, "by_vector", {"alike": 1.0})

    recommender.run_transaction(world, like)
    result = recommender.evaluate_next(world, cutoff=CUTOFF, profiles=["by_vector"])
    found = result.found.sources
    assert {"alike", "neighbours", "newest"} <= found.keys()
    assert found["alike"] is not None
    assert found["alike"].value == 1.0


@slow_on_postgresql
def test_a_profile_is_evaluated_with_its_vectors(world: Engine) -> None:
    """Half of the newest videos are of the wrong topic, and come second by taste."""
    result = evaluate(world, cutoff=CUTOFF, profiles=["by_taste", "newest"])
    gain = {each.ranker: each.accuracy["ndcg@10"] for each in result.pages}
    best = {name: value and value.value for name, value in gain.items()}
    assert best["by_taste"] == 1.0
    assert best["newest"] is not None
    assert best["newest"] < 1.0
