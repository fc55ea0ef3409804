"""The figures of a report: equal to the figures of the rows, computed in Python."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from statistics import fmean

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, run_transaction
from recommender.evaluation.metrics import gini
from recommender.formats.scalars import LIST_SEPARATOR
from recommender.models import ExperimentRow, FeedSession, Video, VideoHashtag
from recommender.reports import sample
from recommender.reports.collect import report
from recommender.reports.places import POSITIONS
from recommender.reports.report import Report
from recommender.reports.values import Exposure, Outcomes
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.report_worlds import (
    BEFORE,
    SINCE,
    UNTIL,
    Place,
    every_place,
    grouped,
    interval,
    outcomes,
    weights,
    write_world,
)
from tests.support.worlds import counted_statements

pytestmark = slow_on_postgresql


def make_world(engine: Engine) -> None:
    write_world(engine)


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on a copy of the world."""
    return engine


@pytest.fixture
def found(world: Engine) -> Report:
    return report(world, since=SINCE, as_of=UNTIL)


@pytest.fixture
def places(world: Engine) -> list[Place]:
    with Session(world) as session:
        return [one for one in every_place(session) if BEFORE <= one.row.served_at < UNTIL]


def now(places: list[Place]) -> list[Place]:
    return [place for place in places if place.row.served_at >= SINCE]


def test_places_are_served_at_the_edges_of_the_times(world: Engine) -> None:
    with Session(world) as session:
        moments = {place.row.served_at for place in every_place(session)}
    assert moments >= {BEFORE, SINCE, UNTIL}


def assert_outcomes(found: Outcomes, expected: list[Place]) -> None:
    assert replace(found, share=None) == outcomes(expected)
    share = interval(expected)
    if share is None:
        assert found.share is None
    else:
        assert found.share == pytest.approx(share, abs=1e-9)


def test_periods_days_profiles_and_trials(
    found: Report, places: list[Place], world: Engine
) -> None:
    current = now(places)
    assert min(len(current), len(places) - len(current)) > 100
    assert sum(one.enjoyed for one in current) > 10
    assert_outcomes(found.now, current)
    assert_outcomes(found.then, [place for place in places if place.row.served_at < SINCE])
    days = grouped(places, lambda one: one.row.served_at.date())
    assert [day.day for day in found.days] == [
        datetime(day.year, day.month, day.day, tzinfo=UTC) for day in sorted(days)
    ]
    for day in found.days:
        assert_outcomes(day.outcomes, days[day.day.date()])
    assert_outcomes(found.trials, [one for one in current if one.row.explored])
    assert_outcomes(found.others, [one for one in current if not one.row.explored])
    with Session(world) as session:
        names = {one.id: one.label for one in recommender.list_profiles(session)}
    profiles = grouped(
        current,
        lambda one: (names[one.row.profile_id], "reels" if one.session.feed_id else None),
    )
    assert {(one.profile, one.feed) for one in found.profiles} == set(profiles)
    for one in found.profiles:
        assert_outcomes(one.outcomes, profiles[one.profile, one.feed])


def test_sources_and_positions(found: Report, places: list[Place]) -> None:
    current = now(places)
    expected = {}
    for place in current:
        names = [name for name in place.row.sources.split(LIST_SEPARATOR) if name]
        for name in names:
            sums = expected.setdefault(name, [0, 0, 0, 0])
            alone = place.enjoyed and len(names) == 1
            for column, value in enumerate((1, place.looked, place.enjoyed, alone)):
                sums[column] += value
    assert {
        one.source: [one.places, one.looked, one.enjoyed, one.alone] for one in found.sources
    } == expected
    groups = grouped(
        current, lambda one: max(first for first in POSITIONS if first <= one.row.position)
    )
    assert [one.first for one in found.positions] == sorted(groups)
    for one in found.positions:
        assert replace(one.outcomes, users=0) == replace(outcomes(groups[one.first]), users=0)


def test_times_of_pages(found: Report, world: Engine) -> None:
    with Session(world) as session:
        sessions = session.scalars(sa.select(FeedSession)).all()
    counted = [one for one in sessions if one.pages and SINCE <= one.started_at < UNTIL]
    assert len(counted) > 5
    expected: dict[object, list[int]] = {}
    for one in counted:
        sums = expected.setdefault(one.started_at.date(), [0, 0, 0])
        for column, value in enumerate((one.pages, one.exhausted, one.milliseconds)):
            sums[column] += value
    assert {
        one.day.date(): [one.pages, one.exhausted, one.milliseconds] for one in found.times
    } == expected
    assert [one.day for one in found.times] == sorted(one.day for one in found.times)


def test_experiments(world: Engine) -> None:
    with Session(world) as session:
        expected = recommender.experiment_report(session, "warmer", as_of=UNTIL)
    found = report(world, since=SINCE, as_of=UNTIL)
    assert found.experiments == (expected,)
    day = timedelta(days=1)
    assert report(world, since=SINCE - day, as_of=SINCE).experiments == ()

    def stop(session: Session) -> None:
        values = {"stopped_at": UNTIL - day}
        session.execute(sa.update(ExperimentRow).values(values))

    run_transaction(world, stop)
    assert len(report(world, since=UNTIL - 2 * day, as_of=UNTIL).experiments) == 1
    assert report(world, since=UNTIL - day, as_of=UNTIL).experiments == ()


def test_videos_and_creators(found: Report, places: list[Place], world: Engine) -> None:
    with Session(world) as session:
        videos = {video.id: video for video in session.scalars(sa.select(Video))}
    current = now(places)
    by_video = grouped(current, lambda one: one.row.video_id)
    creators = grouped(current, lambda one: videos[one.row.video_id].creator_id)
    counts = sorted(len(rows) for creator, rows in creators.items() if creator is not None)
    exposure = found.exposure
    assert replace(exposure, gini=None, lorenz=()) == Exposure(
        published=len(videos),
        served=len(by_video),
        new=sum(video.published_at >= SINCE for video in videos.values()),
        new_served=sum(videos[video].published_at >= SINCE for video in by_video),
        tried=sum(any(one.row.explored for one in rows) for rows in by_video.values()),
        creators=len(counts),
    )
    assert exposure.gini == pytest.approx(gini(counts))
    expected = [(n / len(counts), sum(counts[:n]) / sum(counts)) for n in range(len(counts) + 1)]
    for point in exposure.lorenz:
        assert any(point == pytest.approx(one) for one in expected)
    assert (exposure.lorenz[0], exposure.lorenz[-1]) == ((0, 0), (1, 1))


def test_the_sample(world: Engine, places: list[Place], found: Report) -> None:
    current = now(places)
    assert (found.sample.every, found.sample.places) == (1, len(current))
    assert_sample(world, found, current)


def test_a_sample_has_every_nth_user(
    world: Engine, places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    current = now(places)
    monkeypatch.setattr(sample, "SAMPLED_PLACES", len(current) // 3 + 1)
    found = report(world, since=SINCE, as_of=UNTIL)
    assert found.sample.every == 3
    assert_sample(world, found, [one for one in current if one.row.user_id % 3 == 0])


def assert_sample(world: Engine, found: Report, expected: list[Place]) -> None:
    pages = grouped(expected, lambda one: (one.row.user_id, one.row.session, one.row.page))
    assert (found.sample.places, found.sample.pages) == (len(expected), len(pages))
    with Session(world) as session:
        of_profile = weights(session)
        creators = {video.id: video.creator_id for video in session.scalars(sa.select(Video))}
        tags: dict[int, set[int]] = {}
        for row in session.scalars(sa.select(VideoHashtag)):
            tags.setdefault(row.video_id, set()).add(row.hashtag_id)
    for one in found.sample.signals:
        for is_enjoyed, mean in ((True, one.enjoyed), (False, one.others)):
            added = [
                value[0] * value[1] if isinstance(value, list)
                else value * of_profile[place.row.profile_id].get(one.signal, 0.0)
                for place in expected
                if place.looked and place.enjoyed == is_enjoyed
                for value in [place.row.signals[one.signal]]
            ]  # fmt: skip
            assert mean == pytest.approx(fmean(added))
    assert {one.signal for one in found.sample.signals} == {"freshness", "own"}
    made = [[creators[one.row.video_id] for one in rows] for rows in pages.values()]
    known = [[creator for creator in page if creator is not None] for page in made]
    different = sum(len(set(page)) for page in known)
    assert found.sample.creators == pytest.approx(different / sum(map(len, known)))
    shares = [
        fmean(_unlike(one, other) for one, other in combinations(found, 2))
        for rows in pages.values()
        if len(rows) > 1
        for found in [[tags.get(one.row.video_id, set()) for one in rows]]
    ]
    assert found.sample.diversity == pytest.approx(fmean(shares))


def _unlike(one: set[int], other: set[int]) -> float:
    return 1 - len(one & other) / len(one | other) if one | other else 1.0


def test_the_audit_counts_the_same(world: Engine) -> None:
    everything = report(world, since=BEFORE - timedelta(days=5), as_of=UNTIL + timedelta(days=5))
    assert everything.audit.items == everything.now.places
    assert everything.audit.users == everything.now.users
    assert everything.audit.pages == everything.now.pages
    assert everything.audit.creator_gini == pytest.approx(everything.exposure.gini)


def test_the_log_is_read_twice_whatever_its_size(world: Engine) -> None:
    with counted_statements(world) as sent:
        report(world, since=SINCE, as_of=UNTIL, pages=0)
    own = [one for one in sent if "/* recommender.report */" in one]
    assert (len(own), sum("rec_feed_items" in one for one in own)) == (7, 2)


def test_pages_are_the_latest_of_different_users(world: Engine, places: list[Place]) -> None:
    found = report(world, since=SINCE, as_of=UNTIL, pages=3)
    assert len({page.request.user for page in found.pages}) == len(found.pages) == 3
    latest = max(place.session.started_at for place in now(places))
    assert found.pages[0].request.as_of == latest
    for page in found.pages:
        rows = [one.row for one in places if str(one.row.session) == page.session]
        served = {row.position: row.video_id for row in rows if row.page == 1}
        shown = {item.position: item.video_id for item in page.items}
        assert shown.items() <= served.items()
        assert all(item.reason for item in page.items)


@only_sqlite
def test_a_report_can_be_sent(found: Report) -> None:
    whole = json.loads(json.dumps(found.as_dict()))
    assert whole["now"]["places"] == found.now.places
    assert whole["audit"]["broken"] == list(found.audit.broken)
    assert len(whole["pages"]) == len(found.pages)


@only_sqlite
@pytest.mark.parametrize("since", [UNTIL, UNTIL + timedelta(1), UNTIL - timedelta(367), "x"])
def test_a_wrong_time_is_refused(engine: Engine, since: datetime) -> None:
    with pytest.raises(InvalidValue):
        report(engine, since=since, as_of=UNTIL)
