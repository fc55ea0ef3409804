"""The migration that gives neighbours a weight, from a filled database and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

import recommender
from recommender.benchmark.demo_world import DemoWorld, load
from recommender.database import migrations
from tests.support.kinds import slow_on_postgresql
from tests.support.schemas import catalogue, execute, rows

SMALL = DemoWorld(viewer_count=24, creator_count=24, video_count=60, watches_each=9)
PAIRS = "SELECT source_id, video_id, similarity FROM rec_video_neighbours ORDER BY 1, 2"
WEIGHTS = "SELECT count(*), count(weight) FROM rec_video_neighbours"


def make_world(bind: Engine) -> None:
    """Make a filled database of the revision before, with neighbours."""
    load(bind, SMALL)
    recommender.refresh(bind)
    migrations.downgrade(bind, "0005")


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on a database of its own, with a small world at the revision before."""
    return engine


@slow_on_postgresql
def test_neighbours_are_kept_and_weighed_by_the_next_refresh(
    world: Engine, database: str, new_database: Callable[..., str], kind: str
) -> None:
    pairs, before = rows(database, PAIRS), catalogue(database)
    assert len(pairs) > 100
    for _ in range(2):
        migrations.upgrade(world)
        assert catalogue(database) == catalogue(new_database(kind))
        assert rows(database, PAIRS) == pairs
        assert rows(database, WEIGHTS) == [(len(pairs), 0)]
        migrations.downgrade(world, "0005")
        assert catalogue(database) == before
    migrations.upgrade(world)
    # Code of the version before goes on.
    old = "INSERT INTO rec_video_neighbours (source_id, video_id, similarity) VALUES (1, 1, 0.5)"
    execute(database, old, "DELETE FROM rec_video_neighbours WHERE source_id = video_id")
    assert recommender.refresh(world).neighbours > 10
    assert rows(database, WEIGHTS) == [(len(pairs), len(pairs))]
