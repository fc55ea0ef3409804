"""The revision that makes the creator of a video optional, from a filled database and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

import recommender
from recommender import RecommenderError, run_transaction
from recommender.benchmark.demo_world import DemoWorld, load
from recommender.database import migrations
from recommender.database.transactions import writing
from tests.support.schemas import catalogue, execute, rows

SMALL = DemoWorld(viewer_count=24, creator_count=24, video_count=60, watches_each=2)
VIDEOS = (
    "SELECT id, key, creator_id, sound_id, language, country, duration_ms, status, published_at,"
    " impressions, engaged_views, trending FROM rec_videos ORDER BY id"
)


def make_world(bind: Engine) -> None:
    """Make a filled database of revision 0001, in which the newest video was deleted."""
    load(bind, SMALL)
    url = bind.url.render_as_string(hide_password=False)
    recommender.database.migrations.downgrade(url, "0001")
    execute(
        url,
        "CREATE TABLE host (id integer PRIMARY KEY, video bigint REFERENCES rec_videos)",
        "INSERT INTO host (id, video) SELECT id, id FROM rec_videos WHERE id < 9",
        "DELETE FROM rec_video_captions WHERE video_id = 60",
        "DELETE FROM rec_videos WHERE id = 60",
    )


@contextmanager
def own_transaction(bind: Engine) -> Iterator[Engine]:
    yield bind


@contextmanager
def callers_transaction(bind: Engine) -> Iterator[Connection]:
    with writing(bind).begin() as connection:
        yield connection


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on a database of its own, with a small world at revision 0001."""
    return engine


def own(url: str) -> dict[str, list[Any]]:
    """Return the catalogue of a database without the tables of the host."""
    parts = catalogue(url)
    return {part: [row for row in parts[part] if str(row[0]).startswith("rec_")] for part in parts}


@pytest.mark.parametrize("transaction", [own_transaction, callers_transaction])
def test_a_filled_database_goes_up_and_down(
    world: Engine, database: str, new_database: Callable[..., str], kind: str, transaction: Any
) -> None:
    before, schema = rows(database, VIDEOS), own(database)
    assert len(before) == 59
    for _ in range(2):
        with transaction(world) as bind:
            migrations.upgrade(bind)
        assert rows(database, VIDEOS) == before
        assert own(database) == own(new_database(kind))
        with transaction(world) as bind:
            migrations.downgrade(bind, "0001")
        assert rows(database, VIDEOS) == before
        assert own(database) == schema
    if kind == "sqlite":
        assert rows(database, "PRAGMA foreign_key_check") == []
    assert len(rows(database, "SELECT video FROM host")) == 8


def test_a_video_without_creator_keeps_the_revision(world: Engine, database: str) -> None:
    migrations.upgrade(world)
    run_transaction(world, lambda s: recommender.upsert_videos(s, [{"id": "next"}]))
    assert rows(database, "SELECT id, creator_id FROM rec_videos WHERE key = 'next'") == [
        (61, None)
    ]
    with pytest.raises(RecommenderError, match=r"^1 videos have no creator, which revision 0001"):
        migrations.downgrade(world, "0001")
    migrations.check(world)
