"""What the feed is worth: simulated viewers, the trials of new videos, and those whom nobody knows.

The same seed gives the same days: For You names its sessions by chance, which is seeded here.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import islice, pairwise
from math import sqrt
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Event,
    FeedItem,
    RecommenderError,
    ServedVideo,
    Settings,
    Video,
    create_engine,
    refresh,
    report,
    run_transaction,
    synthetic,
)
from recommender.engine import writing
from recommender.interchange import KINDS
from recommender.reading import read_rows
from recommender.simulation import (
    ForYou,
    Share,
    Simulation,
    popular_feed,
    random_feed,
    simulate,
)
from tests.conftest import DATABASES
from tests.simulation import Days, curves, main, run, seeded_sessions
from tests.worlds import names, preview

DATA = Path(__file__).parents[2] / "shared" / "data"

SMALL = Simulation(viewer_count=20, video_count=1_200, new_each_day=40, days=6, drift=3)
PLACES = SMALL.viewer_count * SMALL.pages * SMALL.limit


@pytest.fixture(scope="module", params=DATABASES)
def simulated(
    request: pytest.FixtureRequest, new_database: Callable[..., str]
) -> Iterator[tuple[Days, Engine]]:
    url = new_database(request.param)
    days = run(SMALL, url)
    engine = create_engine(url)
    yield days, engine
    engine.dispose()


@pytest.fixture
def days(simulated: tuple[Days, Engine]) -> Days:
    return simulated[0]


def surely_more(one: Share, other: Share) -> bool:
    """By more than four times what two shares of so many views differ by chance."""
    both = one + other
    variance = both.engaged_share * (1 - both.engaged_share)
    error = sqrt(variance * (1 / one.shown + 1 / other.shown))
    return one.engaged_share - other.engaged_share > 4 * error


def test_for_you_is_worth_more_than_chance_and_popularity(days: Days) -> None:
    for number in range(1, SMALL.days):
        for other in ("random", "popular"):
            assert surely_more(days["for_you"][number].steady, days[other][number].steady), number
    assert {day.everybody.shown for each in days.values() for day in each} == {PLACES}


def test_a_taste_that_drifts_is_followed_within_two_days(days: Days) -> None:
    drift = SMALL.drift or 0
    before, fallen, *_, after = days["for_you"][drift - 1 : drift + 3]
    assert surely_more(before.drifting, fallen.drifting)
    assert surely_more(after.drifting, fallen.drifting)
    assert after.drifting.engaged_share > 0.9 * before.drifting.engaged_share
    assert not surely_more(before.steady, fallen.steady)


def test_every_promise_holds_over_everything_that_was_served(
    simulated: tuple[Days, Engine],
) -> None:
    with Session(simulated[1]) as session:
        rows = session.execute(_served()).all()
    assert len(rows) == SMALL.days * PLACES
    assert max(Counter((row.user_id, row.video_id) for row in rows).values()) == 1
    for one, next_one in pairwise(rows):
        if one.session == next_one.session:
            assert next_one.position == one.position + 1
            is_alike = one.creator_id == next_one.creator_id or one.sound_id == next_one.sound_id
            assert next_one.crowded or not is_alike
    explored = Counter(row.session for row in rows if row.explored)
    places = Counter(row.session for row in rows)
    share = Settings().exploration_share
    assert all(abs(explored[each] - share * places[each]) <= 1 for each in places)
    trial = timedelta(days=Settings().trial_days)
    assert all(row.served_at - row.published_at <= trial for row in rows if row.explored)


def _served() -> sa.Select[*tuple[object, ...]]:
    """All places in order, each with its video."""
    about = (Video.creator_id, Video.sound_id, Video.published_at)
    return (
        sa.select(*ServedVideo.__table__.c, *about)
        .join(Video, Video.id == ServedVideo.video_id)
        .order_by(ServedVideo.user_id, ServedVideo.session, ServedVideo.position)
    )
