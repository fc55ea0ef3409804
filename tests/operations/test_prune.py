"""Old events and sessions go; what they taught, counted and showed stays."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Counts,
    EventTooOld,
    InvalidCursor,
    InvalidValue,
    Settings,
    audit,
    cli,
    create_engine,
    explain,
    for_you,
    mark_seen,
    prune,
    record_many,
    refresh,
    reset_user,
    run_transaction,
)
from recommender.database.transactions import writing
from recommender.files.importer import import_file
from recommender.formats import scalars
from recommender.learning.refresh import AFFINITIES_KEPT
from recommender.models import (
    Affinity,
    EventRow,
    FeedSession,
    Interaction,
    LearningState,
    OutsideCandidate,
    PendingEvent,
    RecentEngagement,
    ServedVideo,
    User,
    Video,
    VideoNeighbour,
)
from recommender.operations import prune as prune_module
from recommender.operations.prune import PruneReport
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.refresh_worlds import behave, check, everything, people, read
from tests.support.worlds import NOON, at, make_event, make_user, make_videos, names

pytestmark = slow_on_postgresql

DAY = timedelta(days=1)
NOW = NOON + 20 * DAY
SUMS = (Interaction, Affinity, Video, RecentEngagement, VideoNeighbour, PendingEvent)

Run = Callable[..., tuple[int, str, str]]


def make_world(engine: Engine) -> None:
    """Create ten users with events on two days, and refresh."""
    people(engine, 10, 12)
    for day in (1, 9):
        behave(engine, 10, 12, 200, day)
    refresh(engine, as_of=NOON)


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on the world."""
    return engine


@pytest.fixture(params=[prune_module.MAX_PRUNED_ROWS, 7])
def _batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_module, "MAX_PRUNED_ROWS", request.param)


in_batches = pytest.mark.usefixtures("_batch")


def prune_events(engine: Engine, days: float, **options: Any) -> PruneReport:
    return prune(engine, events_older_than=days * DAY, as_of=NOW, **options)


def prune_sessions(engine: Engine, days: float) -> PruneReport:
    return prune(engine, sessions_older_than=days * DAY, as_of=NOW)


def sums(engine: Engine) -> dict[str, list[Any]]:
    rows = everything(engine)
    return {table.__tablename__: rows[table.__tablename__] for table in SUMS}


def horizon(engine: Engine) -> Any:
    return read(engine, LearningState.events_horizon)[0][0]


def write(engine: Engine, *events: recommender.Event) -> Counts:
    return run_transaction(engine, lambda session: record_many(session, events))


@in_batches
def test_old_events_go_and_what_they_added_up_to_stays(world: Engine) -> None:
    before = sums(world)
    moments = [moment for (moment,) in read(world, EventRow.at)]
    report = prune_events(world, 15)
    limit = NOW - 15 * DAY
    kept = sorted(moment for moment in moments if moment > limit)
    assert [moment for (moment,) in read(world, EventRow.at)] == kept
    assert 0 < len(kept) < len(moments)
    assert report.as_dict() == {
        "events": len(moments) - len(kept), "waiting": 0, "sessions": 0, "items": 0,
        "candidates": 0, "suggestions": 0, "seconds": report.seconds,
    }  # fmt: skip
    assert sums(world) == before
    assert horizon(world) == limit
    assert prune_events(world, 15).events == 0


@in_batches
def test_expired_candidates_go(engine: Engine, deleted: list[int]) -> None:
    ends = [None, NOW - DAY, NOW, NOW + timedelta(microseconds=1)]

    def propose(session: Session) -> None:
        for user in ("u0", "u1", "u2"):
            rows = [
                {"user": user, "video": f"v{n}", "score": 0.5, "expires_at": ends[n % 4]}
                for n in range(12)
            ]
            recommender.upsert_candidates(session, f"model_{user}", rows)

    people(engine, 3, 12)
    run_transaction(engine, propose)
    report = prune(engine, as_of=NOW)
    assert (report.candidates, report.events, report.sessions) == (18, 0, 0)
    assert max(deleted) <= prune_module.MAX_PRUNED_ROWS
    kept = read(engine, OutsideCandidate.user_id, OutsideCandidate.expires_at.is_(None))
    assert len(kept) == 18
    assert sum(never for _, never in kept) == 9
    assert prune(engine, as_of=NOW).candidates == 0
    with engine.begin() as connection:
        assert prune(connection, as_of=NOW + DAY).candidates == 9


@slow_on_postgresql
def test_the_event_at_the_horizon_goes_and_the_next_one_stays(engine: Engine) -> None:
    people(engine, 1, 1)
    edge = NOW - 5 * DAY
    moments = [edge - timedelta(microseconds=1), edge, edge + timedelta(microseconds=1)]
    write(engine, *(make_event("watch", "v0", "u0", at=moment) for moment in moments))
    refresh(engine)
    assert prune_events(engine, 5).events == 2
    assert read(engine, EventRow.at) == [(moments[2],)]
    for moment in moments[:2]:
        with pytest.raises(EventTooOld, match="is too old: events until 2026-01-16T12:00:00Z"):
            write(engine, make_event("watch", "v0", "u0", at=moment))
    assert write(engine, make_event("watch", "v0", "u0", at=moments[2])).inserted == 1


@slow_on_postgresql
@in_batches
def test_an_event_that_no_refresh_has_counted_stays_until_one_has(engine: Engine) -> None:
    people(engine, 10, 12)
    behave(engine, 10, 12, 200, 1)
    first = prune_events(engine, 15)
    assert (first.events, first.waiting) == (0, 200)
    assert len(read(engine, EventRow.key)) == 200
    refresh(engine)
    check(engine)
    second = prune_events(engine, 15)
    assert (second.events, second.waiting) == (200, 0)


@slow_on_postgresql
def test_of_one_user_what_is_counted_goes_and_what_waits_stays(engine: Engine) -> None:
    people(engine, 1, 2)
    write(engine, make_event("watch", "v0", "u0", at=at(), key="counted"))
    refresh(engine)
    write(engine, make_event("watch", "v1", "u0", at=at(), key="waits"))
    report = prune_events(engine, 15)
    assert (report.events, report.waiting) == (1, 1)
    assert read(engine, EventRow.key) == read(engine, PendingEvent.key) == [("waits",)]


def test_a_replayed_event_counts_once_whether_pruned_or_not(engine: Engine) -> None:
    people(engine, 2, 2)
    old = [make_event("share", "v0", "u0", at=at(n), key=f"old{n}") for n in range(3)]
    new = make_event("share", "v0", "u0", at=NOW - DAY, key="new")
    write(engine, *old, new)
    refresh(engine)
    prune_events(engine, 15)
    before = everything(engine)
    for event in old:
        with pytest.raises(EventTooOld):
            write(engine, event)
        with pytest.raises(EventTooOld):
            write(engine, new, event)
    assert write(engine, new) == Counts(unchanged=1)
    assert everything(engine) == before
    assert read(engine, Interaction.shares) == [(4,)]


def test_an_import_counts_what_is_too_old_and_goes_on(engine: Engine, tmp_path: Any) -> None:
    people(engine, 1, 2)
    file = tmp_path / "events.jsonl"
    moments = [at(), at(1), NOW - DAY]
    rows = [
        {"id": f"e{n}", "user": "u0", "video": "v0", "kind": "watch", "at": moment.isoformat()}
        for n, moment in enumerate(moments)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert import_file(engine, "events", str(file)).too_old == 0
    refresh(engine)
    prune_events(engine, 15)
    before = everything(engine)
    for on_error in ("stop", "skip"):
        again = import_file(engine, "events", str(file), on_error=on_error)  # type: ignore[arg-type]
        counts = (again.read, again.inserted, again.unchanged, again.too_old, again.rejected)
        assert counts == (3, 0, 1, 2, 0)
    assert everything(engine) == before


@slow_on_postgresql
def test_where_nothing_is_that_old_nothing_is_refused(world: Engine) -> None:
    oldest = min(moment for (moment,) in read(world, EventRow.at))
    there = read(world, EventRow.key)
    prune(world, events_older_than=NOW - oldest + timedelta(microseconds=1), as_of=NOW)
    assert (horizon(world), read(world, EventRow.key)) == (None, there)
    prune(world, events_older_than=NOW - oldest, as_of=NOW)
    assert horizon(world) == oldest


@slow_on_postgresql
def test_the_horizon_never_goes_back(world: Engine) -> None:
    prune_events(world, 15)
    after = horizon(world)
    prune_events(world, 18)
    assert horizon(world) == after


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each statement deleted."""
    counts: list[int] = []
    delete = prune_module._delete

    def count(*arguments: Any) -> int:
        counts.append(delete(*arguments))
        return counts[-1]

    monkeypatch.setattr(prune_module, "_delete", count)
    return counts


def test_a_transaction_deletes_so_many_events_at_most(
    world: Engine, deleted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_module, "MAX_PRUNED_ROWS", 30)
    report = prune_events(world, 15)
    assert max(deleted) <= 30
    assert sum(deleted) == report.events == 200


@slow_on_postgresql
@pytest.mark.parametrize(("most", "sessions"), [(3, [1, 1]), (9, [1, 1]), (10, [2])])
def test_a_transaction_deletes_so_many_sessions_at_most(
    served: Engine, deleted: list[int], monkeypatch: pytest.MonkeyPatch, most: int,
    sessions: list[int],
) -> None:  # fmt: skip
    """A session of four videos takes five rows: itself and its places."""
    monkeypatch.setattr(prune_module, "MAX_PRUNED_ROWS", most)
    prune_sessions(served, 15)
    assert [count for count in deleted[1::2] if count] == sessions
    assert [count for count in deleted[::2] if count] == [4 * count for count in sessions]


def test_a_prune_that_ends_midway_goes_on(world: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_module, "MAX_PRUNED_ROWS", 20)
    before, delete, calls = sums(world), prune_module._delete, iter(range(5))

    def fail_later(*arguments: Any) -> int:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return delete(*arguments)

    monkeypatch.setattr(prune_module, "_delete", fail_later)
    with pytest.raises(KeyboardInterrupt):
        prune_events(world, 15)
    assert sums(world) == before
    left = len(read(world, EventRow.key))
    assert 200 < left < 400
    with pytest.raises(EventTooOld):
        write(world, make_event("watch", "v0", "u0", at=at()))
    monkeypatch.setattr(prune_module, "_delete", delete)
    assert prune_events(world, 15).events == left - 200
    assert sums(world) == before


def test_who_records_with_an_old_horizon_finds_their_events_still_there(
    engine: Engine, database: str
) -> None:
    """A replay is under way, with its user's row locked, while the events are to be deleted."""
    people(engine, 1, 1)
    event = make_event("share", "v0", "u0", at=at(), key="once")
    write(engine, event)
    refresh(engine)
    other = create_engine(database)
    with Session(engine.execution_options(recommender_write=True)) as session:
        assert record_many(session, [event]) == Counts(unchanged=1)
        pruner = threading.Thread(target=prune_events, args=(other, 15))
        pruner.start()
        pruner.join(0.5)
        assert pruner.is_alive()
        assert record_many(session, [make_event("share", "v0", "u0", at=NOW)]).inserted == 1
        session.commit()
    pruner.join(30)
    other.dispose()
    assert not pruner.is_alive()
    assert read(engine, EventRow.at) == [(NOW,)]
    with pytest.raises(EventTooOld):
        write(engine, event)
    assert read(engine, Interaction.shares) == [(2,)]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_who_waited_for_their_row_while_events_went_sees_the_horizon(
    engine: Engine, database: str
) -> None:
    """A replay's first statement began before the horizon was set, and ended after the deletion."""
    people(engine, 2, 1)
    event = make_event("share", "v0", "u1", at=at(), key="once")
    write(engine, event)
    refresh(engine)
    errors: list[BaseException] = []
    other = create_engine(database)

    def replay() -> None:
        try:
            write(other, make_event("share", "v0", "u0", at=NOW), event)
        except EventTooOld as error:
            errors.append(error)

    with Session(engine) as session:
        session.execute(sa.select(User.id).where(User.key == "u0").with_for_update())
        replayer = threading.Thread(target=replay)
        replayer.start()
        replayer.join(0.5)
        assert replayer.is_alive()
        assert prune_events(engine, 15).events == 1
        session.rollback()
    replayer.join(30)
    other.dispose()
    assert [type(error) for error in errors] == [EventTooOld]
    assert read(engine, Interaction.shares) == [(1,)]


def test_a_rebuild_after_a_prune_keeps_what_cannot_be_learned_anew(
    world: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    before = sums(world)
    prune_events(world, 15)
    refresh(world, as_of=NOON, rebuild=True)
    assert sums(world) == before
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == [AFFINITIES_KEPT % "2026-01-06T12:00:00Z"]


@slow_on_postgresql
def test_a_rebuild_after_a_prune_mends_all_else(world: Engine) -> None:
    before = sums(world)
    prune_events(world, 15)

    def spoil(session: Session) -> None:
        session.execute(sa.delete(RecentEngagement))
        session.execute(sa.update(VideoNeighbour).values(similarity=1))
        session.execute(sa.update(Video).values(impressions=9, engaged_views=9))

    run_transaction(world, spoil)
    assert sums(world) != before
    refresh(world, as_of=NOON, rebuild=True)
    assert sums(world) == before


@slow_on_postgresql
def test_a_reset_to_a_time_before_the_horizon_is_refused(world: Engine) -> None:
    prune_events(world, 15)
    before = everything(world)
    with pytest.raises(InvalidValue, match="are pruned and cannot be learned again"):
        run_transaction(world, lambda s: reset_user(s, "u1", at=NOW - 16 * DAY))
    assert everything(world) == before
    run_transaction(world, lambda s: reset_user(s, "u1", at=NOW - 15 * DAY))
    later = read(world, EventRow.user_id)
    assert len(later) == 200
    run_transaction(world, lambda s: reset_user(s, "u1", at=NOW - 16 * DAY))
    run_transaction(world, lambda s: reset_user(s, "u1"))


@slow_on_postgresql
def test_what_comes_later_adds_to_what_pruned_events_taught(
    engine: Engine, kind: str, new_database: Callable[..., str]
) -> None:
    twin = create_engine(new_database(kind))
    for world in (engine, twin):
        people(world, 10, 12)
        behave(world, 10, 12, 200, 1)
        refresh(world, as_of=NOON)
        if world is engine:
            assert prune_events(engine, 15).events == 200
        behave(world, 10, 12, 100, 10)
        refresh(world, as_of=NOON)
    assert sums(engine) == sums(twin)
    twin.dispose()


@pytest.fixture
def served(engine: Engine) -> Iterator[Engine]:
    """Two sessions of two pages of one user, of 30 and of 10 days ago, and one of another's."""

    def serve(session: Session) -> None:
        for user in ("viewer", "other"):
            make_user(session, user)
        make_videos(session, *(f"v{n}" for n in range(12)), published_at=NOON - 90 * DAY)
        for user, days in (("viewer", 30), ("viewer", 10), ("other", 30)):
            page = for_you(session, user, limit=2, as_of=NOW - days * DAY)
            later = NOW - days * DAY + timedelta(minutes=1)
            for_you(session, user, limit=2, as_of=later, cursor=page.cursor)
            if (user, days) == ("viewer", 30):
                mark_seen(session, user, cursor=page.cursor, position=4)

    run_transaction(engine, serve)
    return engine


def shown(engine: Engine, user: str, **options: Any) -> list[str]:
    with Session(engine) as session:
        return names(for_you(session, user, limit=50, as_of=NOW, record=False, **options))


@in_batches
def test_old_sessions_go_whole_and_no_feed_changes(served: Engine) -> None:
    before = {user: shown(served, user) for user in ("viewer", "other")}
    assert [len(before[user]) for user in ("viewer", "other")] == [12 - 4 - 2, 12 - 2]
    report = prune_sessions(served, 15)
    assert (report.sessions, report.items, report.events) == (2, 8, 0)
    assert len(read(served, FeedSession.session)) == 1
    assert len(read(served, ServedVideo.position)) == 4
    assert {user: shown(served, user) for user in before} == before
    assert read(served, Interaction.impressions, Interaction.plays) == []
    assert prune_sessions(served, 15).sessions == 0
    with Session(served) as session:
        assert audit(session).broken == ()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_page_served_as_of_an_old_time_amid_a_prune_stays(
    engine: Engine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(*users: str) -> Callable[[Session], Any]:
        return lambda s: [for_you(s, user, limit=2, as_of=at(9)) for user in users]

    people(engine, 3, 12)
    run_transaction(engine, serve("u0", "u2"))
    other, delete = create_engine(database), prune_module._delete

    def delete_after_a_page(session: Session, table: sa.Table, *rest: Any) -> int:
        if table is FeedSession.__table__:
            run_transaction(other, serve("u1"))
        return delete(session, table, *rest)

    monkeypatch.setattr(prune_module, "_delete", delete_after_a_page)
    report = prune_sessions(engine, 15)
    other.dispose()
    assert (report.sessions, report.items) == (2, 4)
    assert len(read(engine, ServedVideo.position)) == 2
    monkeypatch.setattr(prune_module, "_delete", delete)
    assert prune_sessions(engine, 15).sessions == 1


@slow_on_postgresql
def test_the_last_page_says_how_old_a_session_is(served: Engine) -> None:
    assert prune(served, sessions_older_than=30 * DAY, as_of=NOW).sessions == 0
    later = NOW + timedelta(minutes=1)
    assert prune(served, sessions_older_than=30 * DAY, as_of=later).sessions == 2


@slow_on_postgresql
def test_a_state_that_is_there_stays_and_counts_go_on_from_nothing(served: Engine) -> None:
    (first, second, *_), _ = shown_items(served)
    watched = make_event("watch", first, "viewer", at=NOW - 29 * DAY, completion=1.0)
    write(served, watched)
    before = read(served, Interaction.video_id, Interaction.plays, Interaction.last_at)
    refresh(served)
    prune_sessions(served, 15)
    after = read(served, Interaction.video_id, Interaction.plays, Interaction.last_at)
    assert set(before) <= set(after)
    write(served, make_event("watch", second, "viewer", at=NOW - DAY, completion=1.0))
    refresh(served)
    check(served)
    with Session(served) as session:
        viewed = session.scalars(sa.select(Video.key).where(Video.impressions == 1)).all()
    assert sorted(viewed) == sorted([first, second])


def shown_items(engine: Engine) -> tuple[list[str], list[str]]:
    """What was on the pages of the viewer's old session, and of the newer one."""
    with Session(engine) as session:
        rows = session.execute(
            sa.select(Video.key, ServedVideo.served_at)
            .join(ServedVideo, ServedVideo.video_id == Video.id)
            .join(User, User.id == ServedVideo.user_id)
            .where(User.key == "viewer")
            .order_by(ServedVideo.served_at, ServedVideo.position)
        ).all()
    return [r.key for r in rows[:4]], [r.key for r in rows[4:]]


@slow_on_postgresql
def test_explanations_say_the_same_after_a_prune(served: Engine) -> None:
    (first, second, third, _), _ = shown_items(served)
    day = NOW - 29 * DAY
    kinds = (("watch", first), ("like", second))
    write(served, *(make_event(kind, video, "viewer", at=day) for kind, video in kinds))

    def reasons() -> list[str]:
        with Session(served) as session:
            return [explain(session, "viewer", video, as_of=NOW).reason for video in
                    (first, second, third)]  # fmt: skip

    before = reasons()
    assert before == [
        "Not shown: you watched it on 23 December 2025.",
        "Not shown: you reacted to it on 23 December 2025.",
        "Not shown: it was on a page for you on 22 December 2025.",
    ]
    refresh(served)
    prune(served, events_older_than=15 * DAY, sessions_older_than=15 * DAY, as_of=NOW)
    assert read(served, EventRow.key) == []
    assert reasons() == before


@slow_on_postgresql
def test_a_cursor_of_a_pruned_session_is_no_longer_known(served: Engine) -> None:
    settings = Settings(session_lifetime=90 * 86_400)

    def serve(session: Session, cursor: str | None = None) -> str | None:
        options: dict[str, Any] = {"cursor": cursor, "settings": settings}
        return for_you(session, "other", limit=2, as_of=NOW - 20 * DAY, **options).cursor

    cursor = run_transaction(served, serve)
    assert run_transaction(served, lambda session: serve(session, cursor))
    prune_sessions(served, 15)
    with pytest.raises(InvalidCursor):
        run_transaction(served, lambda session: serve(session, cursor))


@only_sqlite
@pytest.mark.parametrize("age", [timedelta(0), -DAY, DAY - timedelta(microseconds=1)])
@pytest.mark.parametrize("name", ["events_older_than", "sessions_older_than"])
def test_an_age_is_a_day_at_least(engine: Engine, name: str, age: timedelta) -> None:
    with pytest.raises(InvalidValue, match=f"{name}: .* is less than a day"):
        prune(engine, **{name: age})  # type: ignore[arg-type]
    assert horizon(engine) is None


@slow_on_postgresql
def test_no_time_is_before_1970_and_none_is_in_the_future(engine: Engine) -> None:
    assert prune(engine, events_older_than=timedelta(days=999_999)).events == 0
    with pytest.raises(InvalidValue, match="in the future"):
        prune(engine, events_older_than=DAY, as_of=scalars.now() + DAY)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], database: str) -> Run:
    def run_one(*arguments: str) -> tuple[int, str, str]:
        code = cli.run([*arguments, "--database-url", database])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_one


def test_the_command_prunes_and_says_what_waits(world: Engine, run: Run) -> None:
    write(world, make_event("watch", "v0", "u0", at=at()))
    pruned = run("prune", "--events-older-than", "1d", "--sessions-older-than", "30d")
    report = json.loads(pruned[1])
    assert report.pop("seconds") < 60
    assert report == {
        "events": 400,
        "waiting": 1,
        "sessions": 0,
        "items": 0,
        "candidates": 0,
        "suggestions": 0,
    }
    assert json.loads(run("prune")[1])["events"] == 0
    assert pruned[2] == "1 events stay until they are counted: run `recommender refresh`\n"
    assert pruned[0] == 0
    code, _, err = run("record", "u0", "v0", "watch", "--at", "2026-01-01T00:00:00Z", "--id", "x")
    assert code == 65
    assert "is too old: events until" in err


@only_sqlite
@pytest.mark.parametrize(
    "arguments", [["--events-older-than", "0d"], ["--sessions-older-than", "often"]]
)
def test_an_age_that_is_none_is_usage(run: Run, arguments: list[str]) -> None:
    assert run("prune", *arguments)[0] == 2


@only_sqlite
def test_an_age_below_a_day_is_usage(run: Run) -> None:
    code, _, err = run("prune", "--events-older-than", "23h")
    assert (code, err) == (2, "Error: events_older_than: 23:00:00 is less than a day\n")


@in_batches
def test_on_a_connection_a_prune_stays_in_the_callers_transaction(world: Engine) -> None:
    before = sums(world), horizon(world)
    with writing(world).connect() as connection:
        done = prune(connection, events_older_than=DAY, as_of=NOW)
        assert done.events > 0
        connection.rollback()
        assert (sums(world), horizon(world)) == before
        assert prune(connection, events_older_than=DAY, as_of=NOW).events
        connection.commit()
    assert sums(world) == before[0]
    assert horizon(world)
