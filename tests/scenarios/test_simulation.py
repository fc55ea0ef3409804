"""The quality of the feed: simulated viewers, exploration of new videos, unknown viewers.

The same seed gives the same days, because the random names of sessions are seeded here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice, pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Event,
    FeedItem,
    RecommenderError,
    Settings,
    create_engine,
    refresh,
    run_transaction,
)
from recommender.benchmark import chart, demo_world
from recommender.database.transactions import writing
from recommender.files.batches import ROW_KINDS
from recommender.files.layout import Layout
from recommender.files.reader import read_rows
from recommender.models import ServedVideo, Video
from recommender.operations.audit import audit
from tests.scenarios.simulation import SERIES, Days, main, run, seeded_sessions
from tests.support.kinds import slow_on_postgresql
from tests.support.simulated_viewers import ForYou, Share, Simulation, simulate
from tests.support.worlds import preview

DATA = Path(__file__).parents[3] / "shared" / "data"

SMALL = Simulation(viewer_count=16, video_count=3_000, new_each_day=60, days=10, drift=6)
PLACES = SMALL.viewer_count * SMALL.pages * SMALL.limit


@pytest.fixture(scope="module")
def simulated(new_database: Callable[..., str]) -> Iterator[tuple[Days, Engine]]:
    url = new_database("sqlite")
    days = run(SMALL, url)
    engine = create_engine(url)
    yield days, engine
    engine.dispose()


@pytest.fixture
def days(simulated: tuple[Days, Engine]) -> Days:
    return simulated[0]


def surely_more(one: Share, other: Share) -> bool:
    """Return whether two shares differ by more than four standard errors."""
    both = one + other
    variance = both.engaged_share * (1 - both.engaged_share)
    error = sqrt(variance * (1 / one.shown + 1 / other.shown))
    return one.engaged_share - other.engaged_share > 4 * error


@pytest.mark.slow
def test_for_you_is_worth_more_than_chance_and_popularity(days: Days) -> None:
    assert {day.everybody.shown for each in days.values() for day in each} == {PLACES}
    later = {name: [day.everybody for day in each[1:]] for name, each in days.items()}
    for other in ("random", "popular"):
        assert surely_more(sum(later["for_you"], Share()), sum(later[other], Share()))
        shares = zip(later["for_you"], later[other], strict=True)
        assert all(ours.engaged_share > theirs.engaged_share for ours, theirs in shares)


@pytest.mark.slow
def test_tastes_that_drift_are_followed_within_two_days(
    days: Days, new_database: Callable[..., str]
) -> None:
    """From the second day on, engaged views reach at least nine tenths of their earlier number.

    One seed says little: the topics that eight viewers change to make it 79 % to 129 %. So three
    seeds are added up.
    """
    worlds = [days, *(run(replace(SMALL, seed=n), new_database("sqlite")) for n in range(1, 3))]
    drift = SMALL.drift or 0
    drifting, steady = (
        [sum(shares, Share()) for shares in zip(*some, strict=True)]
        for some in (
            [[day.drifting for day in each["for_you"]] for each in worlds],
            [[day.steady for day in each["for_you"]] for each in worlds],
        )
    )
    before, after = (sum(drifting[at : at + 2], Share()) for at in (drift - 2, drift + 2))
    assert surely_more(before, drifting[drift])
    assert not surely_more(sum(steady[drift - 2 : drift], Share()), steady[drift])
    assert before.shown == after.shown
    assert 10 * after.engaged >= 9 * before.engaged


@pytest.mark.slow
def test_every_promise_holds_over_everything_that_was_served(
    simulated: tuple[Days, Engine],
) -> None:
    assert check_promises(simulated[1]) == SMALL.days * PLACES


@slow_on_postgresql
def test_promises_hold_where_little_is_left(engine: Engine) -> None:
    scarce = Simulation(viewer_count=3, video_count=84, new_each_day=12, days=2, pages=3)
    with seeded_sessions():
        days = list(simulate(scarce, ForYou(engine, scarce.users())))
    shown = sum(day.everybody.shown for day in days)
    assert check_promises(engine) == shown == scarce.viewer_count * len(scarce.videos)


def check_promises(engine: Engine) -> int:
    """Check everything that a database has served, and return the number of places."""
    with Session(engine) as session:
        rows = session.execute(_served()).all()
        audited = audit(session)
    assert (audited.broken, audited.seen_before, audited.items) == ((), 0, len(rows))
    assert max(Counter((row.user_id, row.video_id) for row in rows).values()) == 1
    for one, next_one in pairwise(rows):
        if one.session == next_one.session:
            assert next_one.position == one.position + 1
            is_alike = one.creator_id == next_one.creator_id or one.sound_id == next_one.sound_id
            assert next_one.crowded or not is_alike
    explored = Counter(row.session for row in rows if row.explored)
    places = Counter(row.session for row in rows)
    share, trial = Settings().exploration_share, timedelta(days=Settings().trial_days)
    assert sum(explored.values()) > 0
    assert all(explored[each] <= share * places[each] + 1 for each in places)
    assert all(row.served_at - row.published_at <= trial for row in rows if row.explored)
    return len(rows)


def _served() -> sa.Select[*tuple[object, ...]]:
    """Return a query of all served places in order, with their videos."""
    about = (Video.creator_id, Video.sound_id, Video.published_at)
    return (
        sa.select(*ServedVideo.__table__.c, *about)
        .join(Video, Video.id == ServedVideo.video_id)
        .order_by(ServedVideo.user_id, ServedVideo.session, ServedVideo.position)
    )


TRIAL = Simulation(viewer_count=40, video_count=600, new_each_day=24, days=1, pages=5)
EVENING = TRIAL.beginning(0) + timedelta(hours=17)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite"])
def test_every_new_video_gets_its_trial_and_good_ones_get_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial_viewers = 10
    monkeypatch.setenv("RECOMMENDER_TRIAL_VIEWERS", str(trial_viewers))
    with seeded_sessions():
        (_,) = simulate(TRIAL, ForYou(engine, TRIAL.users()))
    with Session(engine) as session:
        rows = session.execute(_served().add_columns(Video.key)).all()
    new = [
        key
        for key, video in TRIAL.videos.items()
        if video.row["published_at"] == TRIAL.beginning(0)
    ]
    shown = Counter(row.key for row in rows)
    assert min(shown[key] for key in new) >= trial_viewers
    explored = Counter(row.session for row in rows if row.explored)
    places = TRIAL.pages * TRIAL.limit
    assert len(rows) == TRIAL.viewer_count * places
    assert 0 < max(explored.values()) <= Settings().exploration_share * places + 1
    new.sort(key=lambda key: TRIAL.videos[key].quality)
    half = len(new) // 2
    evening = Counter(row.key for row in rows if row.served_at >= EVENING)
    good, bad = (sum(evening[key] for key in some) for some in (new[half:], new[:half]))
    assert good > 1.5 * bad > 0


WORLD = demo_world.DemoWorld(viewer_count=80)
INTERESTS = ("pottery", "climbing", "travel")


@pytest.fixture(scope="module")
def world_urls() -> dict[str, str]:
    return {}


@pytest.fixture
def world(
    kind: str, new_database: Callable[..., str], world_urls: dict[str, str]
) -> Iterator[Session]:
    """A session on a synthetic world with current statistics, rolled back after the test."""
    if kind not in world_urls:
        world_urls[kind] = new_database(kind)
        engine = create_engine(world_urls[kind])
        demo_world.load(engine, WORLD)
        refresh(engine, as_of=WORLD.end)
        engine.dispose()
    engine = create_engine(world_urls[kind])
    with Session(writing(engine)) as session:
        yield session
        session.rollback()
    engine.dispose()


def first_page(session: Session, user: str) -> Sequence[FeedItem]:
    """Return a full page of 20 videos at the end of the world."""
    items = preview(session, user, as_of=WORLD.end).items
    assert len({item.video for item in items}) == 20
    return items


def with_tag(items: Sequence[FeedItem], *tags: str) -> list[FeedItem]:
    return [item for item in items if {*item.hashtags} & {*tags}]


def hashtags_of(items: Iterable[FeedItem]) -> set[str]:
    return {tag for item in items for tag in item.hashtags}


@slow_on_postgresql
def test_a_strangers_first_page_is_popular_and_of_many_topics(world: Session) -> None:
    page = first_page(world, "nobody")
    popular = [item for item in page if "trending" in item.sources]
    assert 2 * len(popular) >= len([item for item in page if not item.explored])
    assert len(hashtags_of(popular)) >= 8
    assert max(len(with_tag(page, topic.name)) for topic in demo_world.TOPICS) <= 5


@slow_on_postgresql
def test_of_a_viewer_with_only_a_language_most_is_in_it(world: Session) -> None:
    recommender.upsert_users(world, [{"id": "viewer", "language": "de"}])
    spoken = {
        user: world.scalar(
            sa.select(sa.func.count()).where(
                Video.id.in_([item.video_id for item in first_page(world, user)]),
                Video.language == "de",
            )
        )
        for user in ("viewer", "nobody")
    }
    assert spoken["viewer"] >= 12
    assert spoken["nobody"] <= 6


@slow_on_postgresql
def test_three_interests_share_the_first_page_with_what_is_popular(world: Session) -> None:
    recommender.upsert_users(world, [{"id": "viewer", "interests": INTERESTS}])
    page = first_page(world, "viewer")
    assert all(len(with_tag(page, tag)) >= 3 for tag in INTERESTS)
    assert 10 <= len(with_tag(page, *INTERESTS)) <= 16
    assert len(with_tag(first_page(world, "nobody"), *INTERESTS)) < 8


@slow_on_postgresql
def test_ten_swipes_are_enough_to_tell(world: Session) -> None:
    recommender.upsert_users(world, [{"id": "viewer"}])
    at = WORLD.end - timedelta(minutes=9)
    enjoyed = [Event(f"e{n}", "viewer", f"baking-{n}", "watch", at, completion=1) for n in FIVE]
    skipped = [Event(f"s{n}", "viewer", f"comedy-{n}", "watch", at, watch_ms=900) for n in FIVE]
    recommender.record_many(world, enjoyed + skipped)
    before, after = first_page(world, "nobody"), first_page(world, "viewer")
    assert len(with_tag(after, "baking")) >= 3 + len(with_tag(before, "baking"))
    assert with_tag(before, "comedy")
    assert not with_tag(after, "comedy")
    assert len(hashtags_of(after) & TOPIC_NAMES) >= 6


FIVE = range(1, 6)
TOPIC_NAMES = {topic.name for topic in demo_world.TOPICS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite"])
def test_strangers_to_real_data_are_shown_popular_videos_of_many_topics(engine: Engine) -> None:
    if not (DATA / "kuairand").exists():
        pytest.skip("the real data is not beside this checkout")
    events = list(islice(real_rows("events"), 20_000))
    users = [{"id": event["user"]} for event in events]
    until = max(event["at"] for event in events)

    def write(session: Session) -> None:
        recommender.upsert_users(session, [*users, {"id": "speaker", "language": "zh"}])
        recommender.upsert_users(session, [{"id": "interested", "interests": REAL_INTERESTS}])
        assert not ROW_KINDS["videos"].apply(session, list(real_rows("videos"))).rejected
        assert not ROW_KINDS["events"].apply(session, events).rejected

    run_transaction(engine, write)
    refresh(engine, as_of=until)
    with Session(engine) as session:
        for user in ("nobody", "speaker", "interested"):
            page = preview(session, user, as_of=until).items
            assert len(page) == 20
            popular = [item for item in page if "trending" in item.sources]
            assert len(popular) >= 8
            assert len(hashtags_of(popular)) >= 8
        assert len(with_tag(page, *REAL_INTERESTS)) >= 5


def real_rows(kind: str) -> Iterator[Any]:
    """Yield the parsed rows of a file of real data."""
    spec = ROW_KINDS[kind]
    with (DATA / "kuairand" / f"{kind}.csv.gz").open("rb") as binary:
        for each in read_rows(Layout(spec.columns), binary):
            yield spec.parse(each.row)


REAL_INTERESTS = ["topic1", "topic2", "topic3"]


@pytest.mark.slow
def test_the_report_is_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    png, table = tmp_path / "days.png", tmp_path / "days.csv"
    main(f"--days 2 --viewers 2 --videos 24 --new-each-day 12 --png {png} --csv {table}".split())
    heading, *rows = [line.split(",") for line in table.read_text().splitlines()]
    assert heading == ["day", *SERIES]
    assert [row[0] for row in rows] == ["0", "1"]
    assert png.read_bytes().startswith(b"\x89PNG")
    printed = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert printed == rows


def test_a_picture_without_the_extra_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RecommenderError, match=r"pip install 'recommender\[plot\]'"):
        chart.plot(tmp_path / "x.png", "x", {}, horizontal="x", vertical="y")
