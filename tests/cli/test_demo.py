"""The synthetic world and the demo that shows it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import Event, RecommenderError, cli, record_many, run_transaction, upsert_users
from recommender.benchmark import demo_world
from recommender.benchmark import load as benchmark_load
from recommender.benchmark.demo_world import NEW_FOR, TOPICS, DemoWorld, load
from recommender.formats.rows import FOLLOW_COLUMNS, USER_COLUMNS, VIDEO_COLUMNS, parse_row
from recommender.models import EventRow, Video
from recommender.models.types import Base
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import NOON, rows_of

Demo = Callable[[str], str]


@pytest.fixture
def demo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Demo:
    """Runs the demo on a database; gives what it prints."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("RECOMMENDER_REGISTRY", "no_such_module:registry")  # the world is its own

    def run(database: str) -> str:
        assert cli.run(["demo", "--database-url", database]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


def contents(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    tables = [table for name, table in Base.metadata.tables.items() if "profile" not in name]
    with Session(engine) as session:
        return {table.name: rows_of(session, table) for table in tables}


def test_the_same_seed_gives_the_same_world() -> None:
    one, same, other = DemoWorld(), DemoWorld(), DemoWorld(seed=2)
    for part in ("users", "videos", "follows", "events"):
        rows = list(getattr(one, part)())
        assert rows == list(getattr(same, part)())
        assert rows != list(getattr(other, part)())


def test_every_row_is_in_the_interchange_format() -> None:
    world = DemoWorld()
    for columns, rows in (
        (USER_COLUMNS, world.users()),
        (VIDEO_COLUMNS, world.videos()),
        (FOLLOW_COLUMNS, world.follows()),
    ):
        for row in rows:
            assert parse_row(columns, row).keys() == row.keys()


def test_keys_are_unique_and_what_is_named_is_there() -> None:
    world = DemoWorld(viewer_count=200, creator_count=120, video_count=1000)
    users = [row["id"] for row in world.users()]
    videos = [row["id"] for row in world.videos()]
    assert len(set(users)) == len(users) == 320
    assert len(set(videos)) == len(videos) == 1000
    assert {row["creator"] for row in world.videos()} <= set(users)
    assert {row["creator"] for row in world.follows()} <= set(users)
    assert {event.video for event in world.events()} <= set(videos)
    assert {event.user for event in world.events()} <= set(users)


def test_popularity_is_zipf_shaped() -> None:
    world = DemoWorld(viewer_count=400, video_count=1200)
    watched = Counter(event.video for event in world.events() if event.kind == "watch")
    by_rank = Counter[int]()
    for video, count in watched.items():
        by_rank[int(video.rpartition("-")[2])] += count
    assert 1.6 < by_rank[1] / by_rank[2] < 2.5
    assert 7 < by_rank[1] / by_rank[10] < 14


def test_viewers_watch_more_of_what_they_like_and_further() -> None:
    world = DemoWorld()
    names = [topic.name for topic in TOPICS]
    tastes = {
        world.viewer(n): {names[t] for t in world.taste(n)} for n in range(world.viewer_count)
    }
    watched: dict[bool, list[float]] = {True: [], False: []}
    for event in world.events():
        if event.kind == "watch":
            is_liked = event.video.rpartition("-")[0] in tastes[event.user]
            watched[is_liked].append(event.completion or 0)
    liked, others = watched[True], watched[False]
    assert len(liked) > 2 * len(others)
    assert sum(liked) / len(liked) > sum(others) / len(others) + 0.4


def test_the_last_videos_of_a_topic_are_new_and_unwatched() -> None:
    world = DemoWorld()
    watched = {event.video for event in world.events()}
    new = [row for row in world.videos() if world.end - row["published_at"] < NEW_FOR]
    assert len(new) == 84
    assert not {row["id"] for row in new} & watched
    assert max(event.at for event in world.events()) < world.end


def test_a_video_is_watched_once_it_is_published() -> None:
    world = DemoWorld(beginning=NOON)
    published = {row["id"]: row["published_at"] for row in world.videos()}
    assert min(published.values()) > NOON
    assert all(event.at > published[event.video] for event in world.events())


def test_a_large_world_is_made_row_by_row() -> None:
    world = DemoWorld(viewer_count=10**7, creator_count=10**6, video_count=10**7)
    assert [row["id"] for row in islice(world.users(), 2)] == ["ana", "kai"]
    assert len(list(islice(world.events(), 100))) == 100


@slow_on_postgresql
def test_loading_a_world_twice_changes_nothing(engine: Engine) -> None:
    world = DemoWorld(viewer_count=10, creator_count=12, video_count=60)
    sizes = load(engine, world)
    before = contents(engine)
    assert load(engine, world) == sizes
    assert contents(engine) == before
    counted = {name: len(before[f"rec_{name}"]) for name in ("users", "videos", "events")}
    assert counted == {name: sizes[name] for name in counted}


@slow_on_postgresql
def test_a_database_with_users_of_its_own_is_left_alone(engine: Engine) -> None:
    run_transaction(engine, lambda session: upsert_users(session, [{"id": "mine"}]))
    before = contents(engine)
    with pytest.raises(RecommenderError, match="holds users of its own"):
        load(engine, DemoWorld())
    assert contents(engine) == before


@pytest.mark.slow
def test_two_swipes_change_the_next_feed_also_the_second_time(database: str, demo: Demo) -> None:
    for _ in range(2):
        printed = demo(database)
        lines = [line for line in printed.splitlines() if "://" not in line]
        assert max(map(len, lines)) <= 80
        said = " ".join(printed.split())
        swipes = re.search(r"watches (\S+) \(place .* says of (\S+) \(place", said)
        assert swipes
        liked, rejected = swipes.groups()
        _, first, second = re.split(r"^#  ", printed, flags=re.MULTILINE)
        assert rejected in first
        shown = re.findall(r"^\d+ +(?:\d+ +)?\d+\.\d+ +(\S+) ", second, re.MULTILINE)
        assert len(shown) == 7
        assert not {liked, rejected} & set(shown)
        (up, *rise), (down, *fall) = re.findall(
            r"^(\S+): from place (\d+) to (\d+)\n  \w+ [+-]\d", printed, re.MULTILINE
        )
        assert int(rise[1]) < int(rise[0])
        assert int(fall[1]) > int(fall[0])
        assert [each.rpartition("-")[0] for each in (up, down)] == [
            each.rpartition("-")[0] for each in (liked, rejected)
        ]


@pytest.mark.slow
def test_a_demo_in_which_all_is_seen_asks_for_another_database(
    engine: Engine, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = DemoWorld()
    load(engine, world)
    seen = [Event(f"seen-{row['id']}", "ana", str(row["id"]), "impression", NOON)
            for row in world.videos()]  # fmt: skip
    run_transaction(engine, lambda session: record_many(session, seen))
    assert cli.run(["demo", "--database-url", database]) == 1
    assert "give the demo another database" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_begins_where_its_world_began(database: str, engine: Engine, demo: Demo) -> None:
    load(engine, DemoWorld(beginning=NOON))
    assert "108 users, 420 videos, 180 follows, 1,911 events" in demo(database)
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.min(Video.published_at))) > NOON
        assert len(rows_of(session, EventRow.__table__)) == 1_911 + 3


@pytest.mark.slow
def test_the_first_demo_prints_the_same_on_both_databases(
    new_database: Callable[..., str], demo: Demo
) -> None:
    printed = {demo(new_database(kind)).partition("\n")[2] for kind in ("sqlite", "postgresql")}
    assert len({re.sub(r"DATABASE_URL=\S+", "", text) for text in printed}) == 1


@slow_on_postgresql
def test_the_demo_says_nothing_of_the_password(database: str, demo: Demo) -> None:
    with_password = database.replace("postgres@", "postgres:s3cret@")
    assert "s3cret" not in demo(with_password)


@slow_on_postgresql
def test_a_user_of_the_host_who_has_a_name_of_the_demo_stays_as_they_are(engine: Engine) -> None:
    mine = {"id": DemoWorld().viewer(0), "language": "pl", "interests": ["chess"]}
    run_transaction(engine, lambda session: upsert_users(session, [mine]))
    before = contents(engine)
    with pytest.raises(RecommenderError, match="holds users of its own"):
        load(engine, DemoWorld())
    assert contents(engine) == before


@pytest.mark.parametrize(
    ("command", "load_of"), [("demo", demo_world), ("bench", benchmark_load)], ids=["demo", "bench"]
)
def test_a_synthetic_world_is_never_written_into_the_database_of_an_application(
    command: str,
    load_of: ModuleType,
    new_database: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[str] = []

    def choose(engine: Engine, *_: object) -> None:
        chosen.append(str(engine.url))
        raise RecommenderError("chosen")

    monkeypatch.setattr(load_of, "load", choose)
    monkeypatch.chdir(tmp_path)
    application, own, given = (new_database("sqlite") for _ in range(3))
    monkeypatch.setenv("DATABASE_URL", application)
    assert cli.run([command]) == 1
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", own)
    assert cli.run([command]) == 1
    assert cli.run([command, "--database-url", given]) == 1
    assert cli.run(["--database-url", given, command]) == 1
    assert chosen == [f"sqlite:///{command}.db", own, given, given]
