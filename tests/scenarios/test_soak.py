"""A short soak, and that what a long one looks for would be found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

import recommender
from recommender import create_engine, refresh, run_transaction
from tests.conftest import drop_database
from tests.scenarios import soak
from tests.support.refresh_worlds import people
from tests.support.schemas import execute
from tests.support.worlds import make_event

DURATIONS = {f"v{number}": 10_000 for number in range(12)}


@pytest.mark.slow
def test_a_short_soak_breaks_no_promise() -> None:
    said: list[str] = []
    assert soak.soak(0.1, said.append) == 0
    assert any("AdminShutdown" in line or "OperationalError" in line for line in said)
    assert [line for line in said if line.startswith("     0  ")] == said[-22:]


@pytest.fixture(scope="module")
def template(
    new_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The URL of a database after a soak without faults, and the folder of what clients heard."""
    url, folder = new_database("postgresql"), tmp_path_factory.mktemp("soaked")
    engine = create_engine(url)
    people(engine, 7, 12)
    kinds = ("watch", "share", "comment", "impression", "like")
    events = [
        make_event(kinds[n % 5], f"v{n % 4}", f"u{3 + n % 3}", watch_ms=n * 300, completion=n / 60)
        for n in range(60)
    ]
    run_transaction(engine, lambda session: recommender.record_many(session, events))
    page = run_transaction(engine, lambda session: recommender.for_you(session, "u6", limit=3))
    refresh(engine)
    engine.dispose()
    tell(folder, "events-0", *map(soak.as_told, events))
    tell(folder, "pages-0", {"user": "u6", "videos": [item.video for item in page.items]})
    return url, folder


@pytest.fixture
def soaked(
    template: tuple[str, Path], new_database: Callable[..., str], tmp_path: Path
) -> Iterator[Engine]:
    """An engine on a copy of the template; `tmp_path` holds what clients were told."""
    url, folder = template
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    copy = new_database("postgresql", like=url)
    engine = create_engine(copy)
    yield engine
    engine.dispose()
    drop_database(copy)


def tell(folder: Path, what: str, *lines: object) -> None:
    with (folder / f"{what}.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def broken(engine: Engine, folder: Path) -> set[str]:
    counts = soak.broken(engine, folder, DURATIONS)
    return {promise for promise, count in counts.items() if count}


def test_where_all_went_well_nothing_is_broken(soaked: Engine, tmp_path: Path) -> None:
    assert broken(soaked, tmp_path) == set()


LOST = "acknowledged events that are not there"
GHOST = "events that nobody was told of"
STATES = "states other than the events"
STATISTICS = "statistics other than the events"
WAITS = "events that no refresh counted"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "promises"),
    [
        ("DELETE FROM rec_events WHERE key = (SELECT min(key) FROM rec_events)", {LOST}),
        ("UPDATE rec_events SET key = 'other' WHERE user_id = 4 AND video_id = 1 AND kind = 'like'",
         {LOST, GHOST}),
        ("UPDATE rec_interactions SET shares = shares + 1 WHERE video_id = 1", {STATES}),
        ("UPDATE rec_interactions SET completion = 0 WHERE completion > 0", {STATES}),
        ("UPDATE rec_videos SET impressions = impressions + 1 WHERE id = 1",
         {STATISTICS, "doctor: statistics"}),
        ("UPDATE rec_videos SET engaged_views = 0 WHERE id = 1",
         {STATISTICS, "doctor: statistics"}),
        ("DROP INDEX rec_follows_creator_id_ix", {"doctor: indexes"}),
        ("UPDATE rec_feed_items SET position = 9 WHERE position = 2",
         {"audit: out_of_order"}),
    ],
)  # fmt: skip
def test_what_the_database_holds_otherwise_is_found(
    soaked: Engine, tmp_path: Path, statement: str, promises: set[str]
) -> None:
    execute(soaked.url.render_as_string(hide_password=False), statement)
    assert broken(soaked, tmp_path) == promises


def test_an_event_that_waits_is_found(soaked: Engine, tmp_path: Path) -> None:
    late = make_event("share", "v5", "u4")
    run_transaction(soaked, lambda session: recommender.record_many(session, [late]))
    assert broken(soaked, tmp_path) == {GHOST, STATES, WAITS}
    tell(tmp_path, "events-1", soak.as_told(late))
    assert broken(soaked, tmp_path) == {STATISTICS, WAITS}


def test_an_event_of_the_erased_is_not_missed_and_a_pruned_one_neither(
    soaked: Engine, tmp_path: Path
) -> None:
    recommender.erase_user(soaked, "u4")
    assert broken(soaked, tmp_path) == {LOST, STATES, STATISTICS}
    tell(tmp_path, "erased", "u4")
    assert broken(soaked, tmp_path) == set()
    url = soaked.url.render_as_string(hide_password=False)
    execute(url, "UPDATE rec_learning_state SET events_horizon = now()", "DELETE FROM rec_events")
    assert broken(soaked, tmp_path) == set()


def test_what_was_shown_twice_is_found(soaked: Engine, tmp_path: Path) -> None:
    ((page,),) = ([each] for each in soak.told(tmp_path, "pages"))
    tell(tmp_path, "pages-1", page)
    assert broken(soaked, tmp_path) == {"videos shown twice to one person"}


def test_a_transaction_that_was_left_open_is_found(soaked: Engine, tmp_path: Path) -> None:
    with soaked.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        assert broken(soaked, tmp_path) == {"transactions left open"}
