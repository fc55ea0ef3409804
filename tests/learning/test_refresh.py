"""Statistics, recent engagements, neighbours and terms, against computing them from the log."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    DatabaseBusy,
    InvalidValue,
    Settings,
    cli,
    create_engine,
    models,
    record_many,
    refresh,
    run_transaction,
)
from recommender.database.transactions import writing
from recommender.learning.refresh import RefreshReport
from recommender.learning.statistics import count_pending, trend_of
from recommender.models import (
    Affinity,
    EventRow,
    LearningState,
    PendingEvent,
    RecentEngagement,
    Term,
    User,
    Video,
    VideoNeighbour,
)
from tests.support.refresh_worlds import (
    GIVING,
    behave,
    check,
    everything,
    expected_neighbours,
    expected_recent,
    expected_statistics,
    expected_trends,
    keyed,
    neighbours,
    people,
    read,
    recent,
    statistics,
    trends,
    until_done,
    watch,
)
from tests.support.worlds import NOON, at, make_event

DERIVED = (RecentEngagement, VideoNeighbour, Term, PendingEvent)
LEARNED = tuple(
    c for c in LearningState.__table__.c if c.name not in {"rebuilt_at", "counted_batches"}
)
SMALL = Settings(rollup_batch=7)
DAYS = timedelta(days=2)


def test_an_empty_database(engine: Engine) -> None:
    report = refresh(engine, as_of=NOON)
    assert report.as_dict() == {
        "events": 0, "videos": 0, "users": 0, "neighbours": 0, "terms": 0,
        "seconds": report.seconds, "kept": 0,
    }  # fmt: skip
    assert read(engine, LearningState.refreshed_at, LearningState.engaged_share) == [(NOON, 0.3)]
    assert refresh(engine, rebuild=True).events == 0


@pytest.mark.parametrize("settings", [Settings(), SMALL])
def test_statistics_are_those_of_the_states(engine: Engine, settings: Settings) -> None:
    people(engine, 10, 12)
    for seed in (1, 2):
        behave(engine, 10, 12, 300, seed)
        report = refresh(engine, as_of=at(seed), settings=settings)
        assert report.events == 300
        check(engine)
    counted = {i for i, (viewed, _) in statistics(engine).items() if viewed}
    assert {i for i, when in read(engine, Video.id, Video.stats_at) if when} == counted
    assert len(expected_statistics(engine)) > 6


def test_a_second_refresh_changes_nothing(engine: Engine) -> None:
    people(engine, 10, 12)
    behave(engine, 10, 12, 300)
    refresh(engine, as_of=NOON)
    before = everything(engine)
    assert refresh(engine, as_of=NOON) == RefreshReport(0, 0, 0, 0, 0, pytest.approx(0, abs=5))
    assert everything(engine) == before


def test_the_share_of_engaged_views_begins_and_ends_with_the_prior(engine: Engine) -> None:
    people(engine, 3, 2)
    watch(engine, ("u0", "v0"), ("u1", "v0"))
    watch(engine, ("u2", "v0"), watch_ms=0)
    settings = Settings(share_prior=0.5, share_prior_impressions=2)
    refresh(engine, settings=settings)
    assert read(engine, LearningState.engaged_share) == [(pytest.approx((2 + 1) / (3 + 2)),)]
    for user in ("u0", "u1", "u2"):
        recommender.erase_user(engine, user)
    refresh(engine, settings=Settings(share_prior=0.5, share_prior_impressions=0))
    assert read(engine, LearningState.engaged_share) == [(0.5,)]


@pytest.mark.parametrize("exponents", [[0.0], [1.0, 1.0], [5e4, 5e4 - 1], [-5e5, -5e5], [3, 900.5]])
def test_a_trend_is_the_logarithm_of_the_sum(exponents: list[float]) -> None:
    most = max(exponents)
    assert trend_of(exponents) == most + math.log2(sum(2.0 ** (each - most) for each in exponents))
    assert trend_of([]) is None
    assert (trend_of([2e6]), trend_of([-2e6])) == (1e6, -1e6)


def test_trends_of_the_first_and_last_day_there_can_be(engine: Engine) -> None:
    people(engine, 2, 2)
    run_transaction(
        engine, lambda s: s.execute(sa.update(LearningState).values(trend_half_life_days=0.1))
    )
    watch(engine, ("u0", "v0"), ("u1", "v0"), at=NOON - timedelta(days=365 * 55))
    refresh(engine)
    (trend,) = trends(engine).values()
    assert trend == pytest.approx((0.5 - 365 * 55) * 10 + 1)


def test_recent_engagements_are_the_newest(engine: Engine) -> None:
    people(engine, 2, 9)
    for minute, video in enumerate([3, 1, 4, 2, 5, 6, 0, 3]):
        watch(engine, ("u0", f"v{video}"), at=at(minute))
    watch(engine, ("u1", "v1"), ("u1", "v2"), ("u1", "v7"), at=at(1))
    settings = Settings(recent_engagements=3)
    assert refresh(engine, settings=settings).users == 2
    assert recent(engine) == expected_recent(engine, 3)
    assert {len(each) for each in recent(engine).values()} == {3}
    watch(engine, ("u0", "v8"), at=at(-9))
    assert refresh(engine, settings=settings).users == 0


def test_what_does_not_interest_or_is_forgotten_is_not_recent(engine: Engine) -> None:
    people(engine, 1, 4)
    for minute in range(4):
        watch(engine, ("u0", f"v{minute}"), at=at(minute))
    refresh(engine)
    names = keyed(engine)

    def write(session: Session) -> None:
        record_many(session, [make_event("not_interested", "v3", "u0", at=at(9))])
        session.execute(sa.update(User).values(learned_since=at(1)))

    run_transaction(engine, write)
    refresh(engine)
    assert [names[v] for v, _ in recent(engine)[min(recent(engine))]] == ["v2"]


@pytest.mark.slow
def test_two_refreshes_and_four_writers_lose_and_double_nothing(engine: Engine) -> None:
    people(engine, 8, 6)
    settings = Settings(rollup_batch=20, tries=20)

    def write(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - not for secrets
        for turn in range(25):
            users = [f"u{number * 2 + chance.randrange(2)}" for _ in range(4)]
            events = [
                make_event(
                    "watch", f"v{chance.randrange(6)}", user, at=at(turn), watch_ms=9_999 + m
                )
                for m, user in enumerate(users)
            ]
            run_transaction(engine, lambda s, b=events: record_many(s, b), settings=settings)

    def work() -> RefreshReport:
        return refresh(engine, settings=settings)

    with ThreadPoolExecutor(6) as threads, until_done(work, threads), until_done(work, threads):
        list(threads.map(write, range(4)))
    refresh(engine)
    check(engine)
    assert len(read(engine, EventRow.key)) == 400


def command(database: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recommender", "refresh", "--database-url", database, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_a_refresh_that_is_killed_loses_and_doubles_nothing(engine: Engine, database: str) -> None:
    people(engine, 10, 12)
    behave(engine, 10, 12, 2000)
    lefts = [2000]
    for _ in range(3):
        with command(database, RECOMMENDER_ROLLUP_BATCH="2") as process:
            while (left := len(read(engine, PendingEvent.key))) == lefts[-1]:
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.kill()
        lefts.append(len(read(engine, PendingEvent.key)))
        assert left >= lefts[-1] > 0
    assert refresh(engine).events == lefts[-1]
    check(engine)
    assert neighbours(engine) == pytest.approx(expected_neighbours(engine), abs=1e-12)


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(neighbours=3, neighbour_shrinkage=0, recent_engagements=6)]
)
def test_neighbours_are_those_whose_viewers_are_common(engine: Engine, settings: Settings) -> None:
    people(engine, 30, 40)
    behave(engine, 30, 40, 1500)
    report = refresh(engine, settings=settings)
    expected = expected_neighbours(
        engine, shrinkage=settings.neighbour_shrinkage, most=settings.neighbours
    )
    assert neighbours(engine) == pytest.approx(expected, abs=1e-12)
    assert len(expected) > 100
    assert report.neighbours == sum(engaged > 0 for _, engaged in statistics(engine).values())
    of_each = Counter(j for _, j in neighbours(engine))
    assert max(of_each.values()) <= settings.neighbours


def test_targets_are_found_in_batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommender.learning.neighbours.TARGETS_PER_BATCH", 4)
    monkeypatch.setattr("recommender.learning.neighbours.VIEWERS_PER_BATCH", 20)
    people(engine, 30, 20)
    behave(engine, 30, 20, 600)
    refresh(engine)
    assert neighbours(engine) == pytest.approx(expected_neighbours(engine), abs=1e-12)


def test_a_refresh_finds_only_what_has_grown(engine: Engine) -> None:
    people(engine, 14, 3)
    watch(engine, *[(f"u{n}", f"v{v}") for n in range(10) for v in (0, 1)], ("u0", "v2"))
    assert refresh(engine).neighbours == 3
    found = neighbours(engine)
    watch(engine, ("u10", "v0"), ("u10", "v1"))
    assert refresh(engine).neighbours == 0
    assert neighbours(engine) == found
    watch(engine, ("u11", "v1"))
    assert refresh(engine).neighbours == 1
    views = dict(read(engine, Video.key, Video.neighbours_views))
    assert views == {"v0": 10, "v1": 12, "v2": 1}
    changed = {pair for pair, each in neighbours(engine).items() if each != found[pair]}
    assert {keyed(engine)[j] for _, j in changed} == {"v1"}
    watch(engine, ("u0", "v2"), ("u1", "v2"))
    assert refresh(engine).neighbours == 1
    assert refresh(engine).neighbours == 0


def terms(engine: Engine) -> dict[int, int]:
    return dict(read(engine, Term.term, Term.captions))


def put_terms(engine: Engine, *captions: list[int]) -> None:
    """Captions with these terms, one for each video from the first on."""
    ids = sorted(keyed(engine))

    def write(session: Session) -> None:
        for table in (models.VideoCaption, models.VideoTerm):
            session.execute(sa.delete(table))
        for video_id, numbers in zip(ids, captions, strict=False):
            session.add(models.VideoCaption(video_id=video_id, caption="caption", words=""))
            session.add_all(models.VideoTerm(video_id=video_id, term=n) for n in numbers)

    run_transaction(engine, write)


def test_terms_are_counted_where_captions_have_grown(engine: Engine) -> None:
    people(engine, 1, 30)
    put_terms(engine, *[[1, 2, 100 + n] for n in range(20)], [2, 3], [3])
    assert refresh(engine).terms == 3
    assert terms(engine) == {1: 20, 2: 21, 3: 2}
    put_terms(engine, *[[1]] * 23)
    assert refresh(engine).terms == 0
    put_terms(engine, *[[1]] * 24)
    assert refresh(engine).terms == 1
    assert terms(engine) == {1: 24}
    assert read(engine, LearningState.captions) == [(24,)]


def affinities(engine: Engine) -> dict[tuple[Any, ...], float]:
    return {tuple(key): score for *key, score in read(engine, *Affinity.__table__.c)}


def test_a_rebuild_gives_what_recording_gave(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recommender.learning.refresh.USERS_PER_BATCH", 3)
    monkeypatch.setattr("recommender.learning.statistics.USERS_PER_BATCH", 3)
    monkeypatch.setattr("recommender.learning.statistics.VIDEOS_PER_BATCH", 5)
    people(engine, 10, 13)
    since = sa.update(User).where(User.key.in_(["u5", "u8"])).values(learned_since=NOON + DAYS)
    run_transaction(engine, lambda session: session.execute(since))
    for seed in (1, 3):
        behave(engine, 10, 12, 300, seed, kinds=GIVING)
    refresh(engine, as_of=NOON)
    before, views = affinities(engine), statistics(engine)
    derived = {table: read(engine, *table.__table__.c) for table in DERIVED}
    learned = read(engine, *LEARNED)
    spoil(engine)
    refresh(engine, as_of=NOON, rebuild=True)
    after = affinities(engine)
    scale = max(map(abs, before.values()))
    kept = {key: score for key, score in before.items() if key in after or abs(score) > scale / 1e9}
    assert after == pytest.approx(kept, abs=scale * 1e-9)
    assert {table: read(engine, *table.__table__.c) for table in DERIVED} == derived
    assert read(engine, *LEARNED) == learned
    assert statistics(engine) == views
    assert trends(engine) == pytest.approx(expected_trends(engine), abs=1e-9)


def spoil(engine: Engine) -> None:
    """Everything that is derived, wrong."""

    def write(session: Session) -> None:
        session.execute(sa.update(Affinity).values(score=7))
        session.execute(sa.update(VideoNeighbour).values(similarity=1))
        alone = session.scalar(sa.select(Video.id).where(Video.engaged_views == 0).limit(1))
        session.add(VideoNeighbour(source_id=1, video_id=alone, similarity=0.5))
        session.execute(sa.delete(RecentEngagement))
        session.execute(sa.update(Video).values(impressions=9, engaged_views=9, trending=9))

    run_transaction(engine, write)


def test_events_that_come_during_a_rebuild_are_counted_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(engine, 8, 6)
    behave(engine, 8, 6, 100, kinds=GIVING)

    def count_and_go_on(run: Run) -> None:
        count_pending(run)
        behave(engine, 8, 6, 100, seed=2, kinds=GIVING)

    monkeypatch.setattr("recommender.learning.refresh.count_pending", count_and_go_on)
    assert refresh(engine, rebuild=True).events == 100
    assert len(read(engine, PendingEvent.key)) == 100
    monkeypatch.undo()
    assert refresh(engine).events == 100
    check(engine)


@pytest.mark.slow
def test_two_rebuilds_and_four_writers_learn_all(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(engine, 8, 6)
    monkeypatch.setattr("recommender.learning.statistics.USERS_PER_BATCH", 2)
    settings = Settings(rollup_batch=20, tries=20)

    def write(number: int) -> None:
        for turn in range(12):
            events = [
                make_event("watch", f"v{turn % 6}", f"u{number}", at=at(turn), watch_ms=9_998 + n)
                for n in range(3)
            ]
            run_transaction(engine, lambda s, b=events: record_many(s, b), settings=settings)

    def work() -> RefreshReport:
        return refresh(engine, settings=settings, rebuild=True)

    with ThreadPoolExecutor(6) as threads, until_done(work, threads), until_done(work, threads):
        list(threads.map(write, range(4)))
    refresh(engine)
    check(engine)
    before = affinities(engine)
    refresh(engine, rebuild=True)
    assert affinities(engine) == pytest.approx(before, rel=1e-9)


IMPATIENT = Settings(lock_timeout=0.05, busy_timeout=0.05, tries=1)


@contextmanager
def held(engine: Engine, statement: Any) -> Iterator[None]:
    """The rows that a statement locks are locked; on SQLite the database."""
    with writing(engine).connect() as connection:
        connection.execute(statement)
        yield
        connection.rollback()


def test_refreshes_take_turns(engine: Engine, database: str) -> None:
    people(engine, 1, 1)
    watch(engine, ("u0", "v0"))
    impatient = create_engine(database, settings=IMPATIENT)
    with held(engine, sa.select(LearningState.id).with_for_update()):
        with pytest.raises(DatabaseBusy):
            refresh(impatient, settings=IMPATIENT)
        assert statistics(engine) == {}
    assert refresh(impatient, settings=IMPATIENT).events == 1
    impatient.dispose()


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_rebuild_waits_for_who_records(engine: Engine, database: str) -> None:
    people(engine, 2, 1)
    impatient = create_engine(database, settings=IMPATIENT)
    users = sa.select(User.id).with_for_update(key_share=True)
    with held(engine, users):
        refresh(impatient, settings=IMPATIENT)
        with pytest.raises(DatabaseBusy):
            refresh(impatient, settings=IMPATIENT, rebuild=True)
    impatient.dispose()


def test_the_time_of_a_refresh_has_an_offset(engine: Engine) -> None:
    with pytest.raises(InvalidValue, match="offset"):
        refresh(engine, as_of=NOON.replace(tzinfo=None))


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], database: str) -> Run:
    """Runs `refresh` in this process; gives its exit code, stdout and stderr."""

    def run_one(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["refresh", "--database-url", database, *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_one


def test_the_command_prints_the_report(engine: Engine, run: Run) -> None:
    people(engine, 3, 2)
    watch(engine, ("u0", "v0"), ("u1", "v0"), ("u1", "v1"))
    code, out, err = run()
    report = json.loads(out)
    assert report.pop("seconds") < 60
    assert report.pop("kept") == 0
    assert report == {"events": 3, "videos": 2, "users": 2, "neighbours": 2, "terms": 0}
    assert (code, err) == (0, "")
    code, out, _ = run("--rebuild", "--format", "table")
    assert (code, out.split()[:5]) == (0, ["events", "videos", "users", "neighbours", "terms"])


@pytest.mark.parametrize("every", ["0", "-1", "nan", "86401", "often"])
def test_a_pause_is_a_second_at_least(run: Run, every: str) -> None:
    assert run("--every", every)[0] == 2


def test_a_database_that_is_not_there_is_not_made(
    empty_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["refresh", "--database-url", empty_database]) == 78
    assert "db upgrade" in capsys.readouterr().err


def test_every_goes_on_after_what_waiting_helps_and_rebuilds_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    waited: list[int] = []

    def answer(_engine: Engine, *, rebuild: bool, **_: Any) -> RefreshReport:
        asked.append(rebuild)
        if len(asked) == 1:
            raise DatabaseBusy
        if len(asked) == 4:
            raise KeyboardInterrupt
        return RefreshReport(len(asked), 0, 0, 0, 0, 0.0)

    monkeypatch.setattr(recommender, "refresh", answer)
    monkeypatch.setattr(time, "sleep", waited.append)
    code, out, err = run("--rebuild", "--every", "9", "--format", "jsonl")
    assert [json.loads(line)["events"] for line in out.splitlines()] == [2, 3]
    assert asked == [True, True, False, False]
    assert (code, waited) == (130, [9, 9, 9])
    assert err.startswith("Error: Other transactions held the rows")


@pytest.mark.slow
def test_control_c_ends_every_cleanly(engine: Engine, database: str) -> None:
    people(engine, 1, 1)
    watch(engine, ("u0", "v0"))
    with command(database, "--every", "60", "--format", "jsonl") as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["events"] == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.strip()) == (130, "", "Interrupted.")


def test_on_a_connection_a_refresh_stays_in_the_callers_transaction(engine: Engine) -> None:
    people(engine, 6, 12)
    behave(engine, 6, 12, 120, kinds=GIVING)
    before = everything(engine)
    with writing(engine).connect() as connection:
        limit = connection.scalar(TIME_LIMIT) if engine.dialect.name == "postgresql" else None
        refresh(connection, as_of=NOON, settings=Settings(rollup_batch=50), rebuild=True)
        if limit:
            assert connection.scalar(TIME_LIMIT) == limit
        connection.rollback()
        assert everything(engine) == before
        refresh(connection, as_of=NOON, settings=Settings(rollup_batch=50))
        connection.commit()
    check(engine)


TIME_LIMIT = sa.text("SELECT current_setting('statement_timeout')")
