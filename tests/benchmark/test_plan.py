"""The plan of a deployment, on numbers that are worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from recommender import InvalidValue, Settings
from recommender.benchmark import plan
from recommender.benchmark.fan_out import FanOut, fan_out
from recommender.benchmark.plan import Deployment, Plan, Server, plan_of
from recommender.models.types import PREFIX, Base

SMALL = Deployment(
    users=1_000, daily_users=432, videos=10_000, videos_a_day=10, pages_a_day=200, events_a_page=10,
    days_kept=2, days_remembered=3, peak=2, copies=2,
)  # fmt: skip
SERVER = Server(cores=2, terabytes=1, price=50)

TOO_LARGE = (
    "terabytes: the catalogue takes 21.9 TB on every server, and 70% of 1 TB may be full: choose"
    " larger disks or fewer neighbours"
)


def tables(made: Plan) -> dict[str, tuple[int, int, bool]]:
    return {
        each.name.removeprefix(PREFIX): (each.rows, each.bytes, each.on_every_server)
        for each in made.tables
    }


def test_rows_and_bytes_of_each_table() -> None:
    """432 users open 86,400 pages a day: 1,728,000 places and 864,000 events."""
    assert tables(plan_of(SMALL, SERVER)) == {
        "users": (1_000, 314_000, True),
        "user_hashtags": (3_000, 258_000, False),
        "user_sounds": (2_000, 180_000, False),
        "follows": (50_000, 4_150_000, False),
        "affinities": (100_000, 10_200_000, False),
        "recent_engagements": (50_000, 5_300_000, False),
        "videos": (10_000, 5_630_000, True),
        "video_captions": (10_000, 1_570_000, True),
        "video_terms": (49_000, 3_724_000, True),
        "video_hashtags": (39_000, 4_836_000, True),
        "hashtags": (1_000, 136_000, True),
        "sounds": (500, 80_000, True),
        "video_neighbours": (1_000_000, 203_000_000, True),
        "interactions": (2_592_000, 572_832_000, False),
        "served": (5_184_000, 787_968_000, False),
        "events": (1_728_000, 419_904_000, False),
        "feed_items": (3_456_000, 2_277_504_000, False),
    }


def test_the_largest_table_is_first_and_the_bytes_add_up() -> None:
    made = plan_of(SMALL, SERVER)
    sizes = [table.bytes for table in made.tables]
    assert sizes == sorted(sizes, reverse=True)
    assert (made.catalogue_bytes, made.user_bytes) == (219_290_000, 4_078_296_000)


def test_pages_events_and_cores_of_the_busiest_second() -> None:
    """Of 2 pages and 20 events: 2 · (24.4 + 0.8) + 20 · 0.17 ms, and 2 · 13.7 + 20 · 0.19 ms."""
    made = plan_of(SMALL, SERVER)
    assert (made.pages_a_second, made.peak_pages_a_second, made.peak_events_a_second) == (1, 2, 20)
    assert made.database_cores == pytest.approx(0.0538)
    assert made.application_cores == pytest.approx(0.0312)


def test_a_refresh_finds_neighbours_each_time_that_viewers_grow() -> None:
    """With 1.44 viewers a new video's neighbours are found 1 + 2 times, for 1.44 · 6 viewers."""
    few = replace(SMALL, videos_a_day=round(864_000 * 0.21 / 1.44))
    made = plan_of(few, SERVER)
    finds = 126_000 * 3
    milliseconds = 864_000 * 0.048 + finds * 5 + 126_000 * 1.44 * 6 * 0.1
    assert made.refresh_cores == pytest.approx(milliseconds / 86_400_000)
    assert made.neighbours_a_second == pytest.approx(finds * 100 / 86_400)


def test_beyond_5000_viewers_each_find_counts_5000() -> None:
    """17,280,000 · 0.21 / 504 = 7,200 viewers are 5,000 · 1.2²: two finds more, of 5,000 each."""
    day = Deployment(users=10**6, daily_users=86_400, videos=100, videos_a_day=504, pages_a_day=10)
    finds, viewers = plan._found_neighbours(day)
    assert finds == pytest.approx(504 * (1 + math.log(7_200) / math.log(1.2)))
    assert viewers == pytest.approx(504 * (5_000 * 6 + 2 * 5_000))


@pytest.mark.parametrize(
    ("changes", "server", "servers"),
    [
        ({}, Server(cores=2, terabytes=1, price=50), (2, 1, 2, 1)),
        ({}, Server(cores=2, terabytes=0.003, price=50), (6, 1, 6, 1)),  # 4.08 of 1.88 GB each
        ({"copies": 1}, Server(cores=2, terabytes=0.003, price=50), (3, 1, 3, 1)),
        (
            {"peak": 100},
            Server(cores=1, terabytes=1, price=50),
            (2, 6, 6, 4),
        ),  # 2.69 and 1.56 cores, half busy
    ],
)
def test_servers_hold_the_bytes_and_do_the_work(
    changes: dict[str, Any], server: Server, servers: tuple[int, int, int, int]
) -> None:
    made = plan_of(replace(SMALL, **changes), server)
    needed = made.servers_for_bytes, made.servers_for_cores, made.servers, made.application_servers
    assert needed == servers
    assert made.price == (made.servers + made.application_servers) * 50


def test_no_user_has_more_states_than_there_are_videos() -> None:
    made = tables(plan_of(replace(SMALL, days_remembered=10_000), SERVER))
    assert (made["interactions"][0], made["served"][0]) == (10_000_000, 10_000_000)


def test_a_video_has_no_more_neighbours_than_there_are_others() -> None:
    assert tables(plan_of(replace(SMALL, videos=3), SERVER))["video_neighbours"][0] == 6


def test_every_table_is_planned_or_left_out_on_purpose() -> None:
    names = {name.removeprefix(PREFIX) for name in Base.metadata.tables}
    assert SMALL.rows().keys() == plan.BYTES_A_ROW.keys() == names - plan.NEGLIGIBLE
    assert names >= plan.NEGLIGIBLE


@pytest.mark.parametrize(
    ("deployment", "server", "sentence"),
    [
        ({"daily_users": 2_000}, {}, "daily_users: 2,000 are more than the 1,000 users"),
        ({"videos": 0}, {}, "videos: 0 is not a number above 0"),
        ({"peak": float("nan")}, {}, "peak: nan is not a number above 0"),
        ({"days_kept": float("inf")}, {}, "days_kept: inf is not a number above 0"),
        ({}, {"cores": -1}, "cores: -1 is not a number above 0"),
        ({}, {"price": "much"}, "price: much is not a number above 0"),
        (
            {"videos": 10**9}, {},
            TOO_LARGE,
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_one_sentence(
    deployment: dict[str, Any], server: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        plan_of(replace(SMALL, **deployment), replace(SERVER, **server))
    assert str(caught.value) == sentence


def test_a_plan_and_a_fan_out_are_plain_values() -> None:
    for made in (plan_of(SMALL, SERVER), fan_out(2, pages=2)):
        assert json.loads(json.dumps(made.as_dict())).keys() == set(made.__slots__)


def test_one_part_is_one_server() -> None:
    assert fan_out(1, pages=3) == FanOut(1, 0.0, 1.0, 1.0, 1 - 0.99)


def test_each_part_is_asked_once_and_looks_up_the_whole_history() -> None:
    made = fan_out(4, pages=200, settings=Settings(history=50))
    assert made.added_ms == pytest.approx(4 * (0.2 + 50 * 0.0026))
    assert made.slow_share == pytest.approx(1 - 0.99**4)
    assert 1 < made.busiest < made.fullest < 4


def test_eight_parts_are_as_the_readme_says() -> None:
    made = {name: round(value, 2) for name, value in fan_out(8).as_dict().items()}
    assert made == {
        "parts": 8, "added_ms": 3.68, "fullest": 1.17, "busiest": 1.06, "slow_share": 0.08
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "pages", "sentence"),
    [
        (0, 1, "parts: 0 is not between 1 and 1,000"),
        (1_001, 1, "parts: 1001 is not between 1 and 1,000"),
        (2, 0, "pages: 0 is not between 1 and 10,000"),
    ],
)
def test_a_fan_out_has_bounds(parts: int, pages: int, sentence: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        fan_out(parts, pages=pages)
    assert str(caught.value) == sentence
