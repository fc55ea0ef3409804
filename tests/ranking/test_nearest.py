"""The index of vectors on PostgreSQL: it is used, filters do not starve it, and it finds enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Profile,
    Registry,
    create_engine,
    create_space,
    index_space,
    run_transaction,
    upsert_embeddings,
)
from recommender.feed.resolve import resolve
from recommender.operations import doctor
from recommender.operations.doctor import diagnose
from recommender.operations.query_plans import check_plans
from recommender.operations.vector_recall import recall_of
from recommender.ranking.candidates import source_candidates
from recommender.ranking.viewer import Shape, Viewer
from tests.support.kinds import only_postgresql
from tests.support.worlds import at, make_user, mute, record

DIM, COUNT, QUOTA = 16, 4_000, 20
TASTE = Profile("taste", 1, {"taste": 1.0})
KEYS = [f"v{number:04}" for number in range(COUNT)]
LOUD = 1_980
"""Of this number of nearest videos, all but each hundredth are by one creator."""


def vectors() -> Any:
    rows = np.random.default_rng(1).normal(size=(COUNT, DIM))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_nearness() -> list[int]:
    """The videos by their distance from the first one, the nearest first."""
    own = vectors()
    return [int(place) for place in np.argsort(-(own @ own[0]))]


def make_world(engine: Engine) -> None:
    """Four thousand videos with vectors, and a viewer who likes the first one."""
    order = by_nearness()
    loud = {order[place] for place in range(1, LOUD + 1) if place % 100}

    def write(session: Session) -> None:
        make_user(session)
        creators = ("loud" if place in loud else f"c{place}" for place in range(COUNT))
        videos = [
            {"id": key, "creator": creator, "published_at": at(-60)}
            for key, creator in zip(KEYS, creators, strict=True)
        ]
        recommender.upsert_videos(session, videos)
        create_space(session.connection(), "captions", dim=DIM)
        rows: Any = [{"id": k, "vector": v} for k, v in zip(KEYS, vectors(), strict=True)]
        upsert_embeddings(session, "captions", rows)
        record(session, "like", KEYS[0])

    run_transaction(engine, write)
    if engine.dialect.name == "postgresql":
        index_space(engine, "captions")
        with engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")


@pytest.fixture
def world(database: str) -> Any:
    """The world, on an engine whose registry has the space."""
    bind = create_engine(database, registry=Registry(space="captions", near=QUOTA))
    yield bind
    bind.dispose()


def near(session: Session) -> list[str]:
    """Return the keys of the candidates of the source, on PostgreSQL as the index finds them."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.text("SET LOCAL enable_sort = off"))  # else so few vectors are sorted
    request = resolve(session, "viewer", TASTE, as_of=at(1))
    shape = Shape.of(request)
    source = next(each for each in request.registry.every_source if each.name == "near")
    found = session.scalars(source_candidates(source, shape, Viewer.of(request))).all()
    keys = dict(
        session.execute(sa.select(recommender.models.Video.id, recommender.models.Video.key)).all()
    )
    return [keys[video_id] for video_id in found]


def test_muting_99_of_100_leaves_the_quota_full(world: Engine) -> None:
    order = by_nearness()[1:]
    with Session(world.execution_options(recommender_write=True)) as session:
        before = near(session)
        assert len(before) == QUOTA
        assert len({*before} & {KEYS[place] for place in order[:QUOTA]}) >= 0.95 * QUOTA
        mute(session, "viewer", "creator", "loud")
        after = near(session)
        quiet = [KEYS[p] for n, p in enumerate(order, start=1) if n > LOUD or n % 100 == 0]
        assert len(after) == QUOTA
        assert len({*after} & {*quiet[:QUOTA]}) >= 0.95 * QUOTA
        page = recommender.for_you(
            session, "viewer", profile=TASTE, record=False, limit=40, as_of=at(1)
        )
        assert {item.video for item in page.items if "near" in item.sources} == {*after}


def test_the_plan_of_a_page_finds_no_fault(world: Engine) -> None:
    with Session(world) as session:
        assert check_plans(session, ["viewer"], as_of=at(1)).findings == ()


@only_postgresql
def test_the_index_finds_nearly_all(world: Engine) -> None:
    with Session(world) as session:
        recall = recall_of(session, ["viewer"])
        assert recall is not None
        assert recall >= 0.95
        assert recall_of(session, ["stranger"]) is None
    found = {one.check: one for one in diagnose(world, plans=True)}
    assert found["recall"].ok
    assert found["recall"].found.endswith("of the nearest vectors are found")
    assert found["spaces"].found == "captions with 4,000 vectors"


def test_a_space_without_an_index_is_read_as_a_whole(world: Engine, kind: str) -> None:
    with Session(world) as session:
        if kind == "postgresql":
            session.execute(sa.text("DROP INDEX rec_embeddings_captions_vector_ix"))
        assert near(session) == [KEYS[place] for place in by_nearness()[1 : QUOTA + 1]]


@only_postgresql
def test_doctor_says_if_the_index_finds_too_few(
    world: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "recall_of", lambda _session: 0.9)
    found = {one.check: one for one in diagnose(world, plans=True)}["recall"]
    assert (found.ok, found.found) == (False, "90.0% of the nearest vectors are found")
    assert found.advice is not None
    assert "a larger `near`" in found.advice
