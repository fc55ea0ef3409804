"""A person who was erased is nowhere, and nothing else has changed; whatever happens meanwhile."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from datetime import timedelta
from itertools import cycle
from threading import current_thread, main_thread
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, Engine, ForeignKey, MetaData, Table, event
from sqlalchemy.orm import Session

import recommender
from recommender import (
    RecommenderError,
    Settings,
    UnknownUser,
    audit,
    dismiss,
    erase_user,
    follow,
    for_you,
    mute,
    prune,
    record,
    record_page,
    refresh,
    reset_user,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.database.engine import create_engine
from recommender.database.transactions import writing
from recommender.formats import scalars
from recommender.ingest.follows import apply_follows
from recommender.ingest.videos import set_video_status
from recommender.learning.viewer_subtraction import trend_without
from recommender.models import Base, EventRow, Hashtag, Sound, User, Video
from recommender.models.tables import BLOCKS
from recommender.operations import erase
from recommender.operations.inventory import IMPERSONAL, NAMELESS, OF_OTHERS, OF_VIDEOS, PER_USER
from tests.support.erasures import (
    MARK,
    Killed,
    counted,
    dumped,
    is_gone,
    killed_after,
    marked_world,
    rows_with,
)
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.refresh_worlds import (
    check,
    expected_neighbours,
    keyed,
    neighbours,
    people,
    read,
    statistics,
    trends,
    until_done,
    watch,
)
from tests.support.worlds import NOON, at, counted_statements, names

pytestmark = slow_on_postgresql


def make_world(engine: Engine) -> None:
    """Create the marked world."""
    marked_world(engine)


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on the marked world."""
    return engine


@pytest.fixture
def owner(world: Engine) -> int:
    """The id of the person of the marked world."""
    return next(row_id for row_id, key in read(world, User.id, User.key) if key == MARK)


in_the_world = pytest.mark.usefixtures("owner")


def left(engine: Engine) -> dict[str, list[str]]:
    """Every row, with all random names alike and without when somebody was erased.

    Not what was served, which depends on chance.
    """
    with Session(engine) as session:
        return {
            table.name: sorted(
                re.sub(r"erased[:|][0-9a-f]+(:[0-9a-f]+)?|event-\d+", "random", repr(row))
                for row in session.execute(
                    sa.select(*(c for c in table.c if c.name != "erased_at"))
                )
            )
            for table in Base.metadata.sorted_tables
            if not table.name.startswith(("rec_feed", "rec_served"))
        }


def whose(column: Column[Any]) -> str | None:
    """What a column refers to: a user, or a video in a table that is no user's."""
    targets = {key.column.table.name for key in column.foreign_keys}
    if "rec_users" in targets or column.name in {"user_id", "creator_id"}:
        return "user"
    if "user_id" in column.table.c:
        return None
    is_video = "rec_videos" in targets or column.name in {"video_id", "source_id"}
    return "video" if is_video else None


def without_rule(metadata: MetaData) -> list[str]:
    """The columns and tables that erasing knows nothing of."""
    per_user = {table.c.user_id for table in PER_USER}
    known = {"user": per_user | {*OF_OTHERS, *NAMELESS}, "video": {*OF_VIDEOS}}
    treated = {column.table for columns in known.values() for column in columns}
    return [
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.c
        if (of := whose(column)) and column not in known[of]
    ] + [table.name for table in metadata.sorted_tables if table not in {*treated, *IMPERSONAL}]


def test_every_table_and_column_that_says_whose_a_row_is_has_a_rule() -> None:
    assert without_rule(Base.metadata) == []


@pytest.mark.parametrize(
    "column",
    [
        Column("user_id", sa.BigInteger, primary_key=True),
        Column("moderator", sa.BigInteger, ForeignKey("rec_users.id")),
        Column("video_id", sa.BigInteger),
        Column("anything", sa.Text),
    ],
)
def test_a_table_without_a_rule_is_found(column: Column[Any]) -> None:
    metadata = MetaData()
    Table("rec_users", metadata, Column("id", sa.BigInteger))
    Table("rec_new", metadata, column._copy())
    assert "rec_new" in without_rule(metadata)
    assert (f"rec_new.{column.name}" in without_rule(metadata)) == (column.name != "anything")


def test_the_world_has_rows_of_the_person_in_every_table(engine: Engine, owner: int) -> None:
    with Session(engine) as session:
        own = session.scalars(sa.select(Video.id).where(Video.creator_id == owner)).all()
        for column in (*(table.c.user_id for table in PER_USER), *OF_OTHERS, *NAMELESS):
            assert rows_with(session, column, [owner]), column
        for column in OF_VIDEOS:
            assert rows_with(session, column, own), column
        row = session.get_one(User, owner)
        given = {column.name for column in User.__table__.c if getattr(row, column.name)}
        assert given == {*User.__table__.c.keys()} - {
            "erased_at", "on_sight", "merged_into", "merged_at"
        }  # fmt: skip
    assert dumped(engine).lower().count(MARK) > 50


def test_nothing_of_an_erased_person_is_left(engine: Engine, owner: int) -> None:
    receipt = erase_user(engine, MARK)
    with Session(engine) as session:
        own = session.scalars(sa.select(Video.id).where(Video.creator_id == owner)).all()
        for column in (*(table.c.user_id for table in PER_USER), *OF_OTHERS, Sound.creator_id):
            assert rows_with(session, column, [owner]) == 0, column
        for column in OF_VIDEOS:
            assert rows_with(session, column, own) == 0, column
        row = session.get_one(User, owner)
        given = {c.name for c in User.__table__.c if getattr(row, c.name) not in {None, False}}
        assert given == {"id", "key", "erased_at", "discoverable"}
        assert re.fullmatch("erased:[0-9a-f]{32}", row.key)
        videos = session.scalars(sa.select(Video).where(Video.creator_id == owner)).all()
        assert {(v.status, v.published_at) for v in videos} == {("removed", scalars.ERASED)}
    assert receipt.rows["videos"] == len(own) == 5
    assert receipt.rows["users"] == 2  # with an alias
    assert MARK not in dumped(engine).lower()


def test_the_receipt_is_of_the_rows_that_were_there(engine: Engine, owner: int) -> None:
    with Session(engine) as session:
        there = {
            table.name.removeprefix("rec_"): rows_with(session, table.c.user_id, [owner])
            for table in PER_USER
        }
        own = sa.select(BLOCKS).where(BLOCKS.c.user_id == owner, BLOCKS.c.direction == "by_me")
        there["blocks"] = len(session.execute(own).all())  # who blocked them is not told
    there["follows"] += 2
    there["muted_creators"] += 1
    there["suggestions"] += 1
    rows = erase_user(engine, MARK).rows
    assert {name: rows[name] for name in there} == there
    assert rows["hashtags"] == 8  # five of videos, one of captions, one declared, one muted
    assert rows["sounds"] == 4


@in_the_world
def test_statistics_are_those_of_what_is_left(engine: Engine) -> None:
    before = trends(engine)
    erase_user(engine, MARK)
    assert statistics(engine) == counted(engine)
    assert trends(engine) != before
    refresh(engine, as_of=at(99))
    check(engine)
    once = statistics(engine), trends(engine)
    refresh(engine, rebuild=True)
    assert (statistics(engine), trends(engine)) == (once[0], pytest.approx(once[1], abs=1e-9))


@slow_on_postgresql
def test_what_no_refresh_had_counted_changes_no_statistics(engine: Engine) -> None:
    people(engine, 3, 3)
    watch(engine, ("u0", "v0"), ("u1", "v0"), ("u1", "v1"))
    refresh(engine, as_of=at(9))
    run_transaction(engine, lambda s: upsert_users(s, [{"id": "new"}]))
    before = statistics(engine), trends(engine)
    watch(engine, ("new", "v0"), ("new", "v1"), ("new", "v2"))
    erase_user(engine, "new")
    assert (statistics(engine), trends(engine)) == before
    assert refresh(engine, as_of=at(9)).events == 0


@slow_on_postgresql
def test_the_only_viewer_leaves_a_video_as_it_was(engine: Engine) -> None:
    people(engine, 2, 4)
    watch(engine, ("u1", "v0"), ("u1", "v3"))
    refresh(engine, as_of=at(9))
    assert len(neighbours(engine)) == 2
    erase_user(engine, "u1")
    assert (statistics(engine), trends(engine), neighbours(engine)) == ({}, {}, {})


@slow_on_postgresql
def test_neighbours_of_what_they_engaged_with_are_found_anew(engine: Engine) -> None:
    people(engine, 8, 6)
    videos = [f"v{n}" for n in range(6)]
    for n in range(7):
        watch(engine, *((f"u{n}", video) for video in videos[: 3 + n % 3]))
    watch(engine, ("u7", "v0"), ("u7", "v5"))
    refresh(engine, as_of=at(9))
    named = {key: row_id for row_id, key in keyed(engine).items()}
    assert (named["v5"], named["v0"]) in neighbours(engine)
    erase_user(engine, "u7")
    refresh(engine, as_of=at(9))
    now, expected = neighbours(engine), expected_neighbours(engine)
    assert {k: v for k, v in now.items() if k[1] == named["v0"]} == pytest.approx(
        {k: v for k, v in expected.items() if k[1] == named["v0"]}
    )
    assert not [pair for pair in now if named["v5"] in pair]


@pytest.mark.parametrize(
    ("trend", "days", "expected"),
    [
        (None, 0, None),
        (1.0, 0, 0.0),
        (0.0, 0, None),
        (-1.0, 0, None),
        (50.0, 0, 50.0),
        (2.0, 2, 1.0),
        (3.0, 2, 2.584962500721156),
    ],
)
def test_a_trend_without_one_of_its_views(
    trend: float | None, days: int, expected: float | None
) -> None:
    state = type("State", (), {"landmark": NOON, "trend_half_life_days": 2.0})
    found = trend_without(trend, NOON + timedelta(days=days), state)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-12))


@slow_on_postgresql
def test_of_pruned_views_no_more_is_taken_off_a_trend_than_they_added(engine: Engine) -> None:
    people(engine, 5, 3)
    later = NOON + timedelta(days=8)
    watch(engine, *(("u3", video) for video in ("v0", "v1", "v2")), at=NOON)
    watch(engine, ("u3", "v0"), at=later + timedelta(days=1))
    watch(engine, ("u4", "v0"), ("u4", "v2"), at=later)
    watch(engine, ("u4", "v1"), at=NOON)
    run_transaction(
        engine, lambda s: record(s, "u3", "v2", "impression", at=NOON - timedelta(days=4))
    )
    refresh(engine)
    prune(engine, events_older_than=timedelta(days=7), as_of=later + timedelta(days=2))
    assert len(read(engine, EventRow.key)) == 3
    erase_user(engine, "u3")
    named = keyed(engine)
    assert {named[video_id]: trend for video_id, trend in trends(engine).items()} == pytest.approx(
        {"v0": 4.25, "v1": 0.25, "v2": math.log2(2**4.25 + 2**0.25 - 2**-1.75)}, abs=1e-9
    )


@slow_on_postgresql
def test_what_others_have_stays(engine: Engine, owner: int) -> None:

    def others() -> dict[str, list[Any]]:
        with Session(engine) as session:
            return {
                table.name: sorted(
                    map(repr, session.execute(sa.select(table).where(mine != owner)))
                )
                for table in PER_USER
                if (mine := table.c.user_id) is not None
            }

    before = others()
    erase_user(engine, MARK)
    after = others()
    gone = {name: [row for row in before[name] if row not in after[name]] for name in before}
    assert {name: len(rows) for name, rows in gone.items() if rows} == {
        "rec_blocks": 2, "rec_follows": 2, "rec_muted_creators": 1, "rec_suggestions": 1,
    }  # fmt: skip
    assert all(row in before[name] for name in after for row in after[name])
    with Session(engine) as session:
        assert session.scalars(sa.select(Sound.key).where(Sound.key == "s1")).all() == ["s1"]
        assert audit(session).broken == ()
        seen = set(names(for_you(session, "u4", limit=50, record=False)))
    assert not {video for video in seen if "erased" in video}


@in_the_world
def test_an_erased_person_is_not_found_and_the_key_is_free(engine: Engine) -> None:
    with Session(engine) as session:
        preview = for_you(session, MARK, record=False, limit=2)
    erase_user(engine, MARK)
    attempts: list[Callable[[Session], Any]] = [
        lambda s: record(s, MARK, "v1", "like"),
        lambda s: follow(s, MARK, "u1"),
        lambda s: mute(s, MARK, "sound", "s1"),
        lambda s: reset_user(s, MARK),
        lambda s: record_page(s, preview),
    ]
    for attempt in attempts:
        with pytest.raises(UnknownUser, match=f"there is no user '{MARK}'"):
            run_transaction(engine, attempt)
    with pytest.raises(UnknownUser, match=f"there is no user '{MARK}'"):
        erase_user(engine, MARK)
    assert run_transaction(engine, lambda s: for_you(s, MARK)).session is None
    assert run_transaction(engine, lambda s: upsert_users(s, [{"id": MARK}])).inserted == 1
    assert run_transaction(engine, lambda s: record(s, MARK, "v1", "like"))
    assert erase_user(engine, MARK).rows["events"] == 1
    assert MARK not in dumped(engine).lower()


@slow_on_postgresql
def test_a_host_may_have_keys_like_those_of_the_erased(engine: Engine) -> None:
    taken, removed = f"erased:{MARK}", f"erased:{'0' * 32}"
    old = {"creator": taken, "published_at": scalars.EARLIEST, "status": "removed"}
    named = {"hashtags": [taken, removed], "sound": taken, "published_at": NOON}
    upsert: list[Callable[[Session], Any]] = [
        lambda s: upsert_users(s, [{"id": taken, "liked_sounds": [removed]}, {"id": "erased:"}]),
        lambda s: upsert_videos(
            s, [{"id": taken, "creator": taken, **named}, {"id": removed, **old}]
        ),
    ]
    for write in upsert:
        run_transaction(engine, write)
    rows = erase_user(engine, taken).rows
    assert [rows[name] for name in ("users", "videos", "hashtags", "sounds")] == [1, 2, 2, 2]
    assert [status for (status,) in read(engine, Video.status)] == ["removed"] * 2
    keys = [read(engine, c) for c in (Video.key, User.key, Hashtag.name, Sound.key)]
    assert not {taken, removed} & {key for listed in keys for (key,) in listed}
    assert erase_user(engine, "erased:").rows["users"] == 1


@only_sqlite
@pytest.mark.parametrize("key", ["", "a" * 256, "a\0"])
def test_a_key_that_is_none_is_said(engine: Engine, key: str) -> None:
    with pytest.raises(recommender.InvalidValue, match="user: "):
        erase_user(engine, key)


@pytest.mark.slow
def test_an_erasure_that_ends_after_any_statement_goes_on(
    engine: Engine,
    owner: int,
    new_database: Callable[..., str],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each run ends one statement later than the run before, so that runs that go on end, too."""
    monkeypatch.setattr(erase, "MAX_ERASED_ROWS", 10)
    whole = create_engine(new_database(kind))
    marked_world(whole)
    erase_user(whole, MARK)
    runs, is_done = 0, False
    while not is_done:
        runs += 1
        try:
            with killed_after(engine, runs):
                erase_user(engine, MARK)
            is_done = True
        except Killed:
            assert statistics(engine) == counted(engine), runs
    assert runs > 80
    assert left(engine) == left(whole)
    is_gone(engine, owner)
    refresh(engine, as_of=at(99))
    check(engine)
    whole.dispose()


@pytest.mark.slow
def test_a_rebuild_amid_an_erasure_changes_nothing(
    engine: Engine, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "MAX_ERASED_ROWS", 10)
    step = 0
    while True:
        step += 9
        try:
            with killed_after(engine, step):
                erase_user(engine, MARK)
            break
        except Killed:
            refresh(engine, as_of=at(99), rebuild=True)
            assert statistics(engine) == counted(engine)
    with Session(engine) as session:
        for table in PER_USER:
            assert rows_with(session, table.c.user_id, [owner]) == 0, table
    check(engine)


@slow_on_postgresql
@in_the_world
def test_a_rebuild_between_what_was_not_counted_and_what_was(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:

    def killed(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(erase, "_subtract", killed)
        with pytest.raises(Killed):
            erase_user(engine, MARK)
    refresh(engine, as_of=at(99), rebuild=True)
    erase_user(engine, MARK)
    refresh(engine, as_of=at(99))
    check(engine)


@slow_on_postgresql
@in_the_world
def test_an_unfinished_erasure_of_a_key_that_came_back(engine: Engine) -> None:
    with pytest.raises(Killed), killed_after(engine, 9):
        erase_user(engine, MARK)
    assert MARK not in {key for (key,) in read(engine, User.key)}
    run_transaction(engine, lambda s: upsert_users(s, [{"id": MARK}]))
    assert erase_user(engine, MARK).rows["users"] == 3  # with an alias
    assert MARK not in dumped(engine).lower()


@slow_on_postgresql
@in_the_world
def test_an_unfinished_erasure_goes_on_by_each_key_of_the_person(engine: Engine) -> None:
    people = [row_id for row_id, key in read(engine, User.id, User.key) if key.startswith(MARK)]
    keys = cycle((MARK, f"{MARK}-alias"))
    for statements in (9, 40, 90, 150, 220, 300):
        with suppress(Killed), killed_after(engine, statements):
            erase_user(engine, next(keys))
            break
        with Session(engine) as session:
            assert erase.unfinished(session) == 2
    else:
        erase_user(engine, next(keys))
    for row_id in people:
        is_gone(engine, row_id)
    with Session(engine) as session:
        assert erase.unfinished(session) == 0
    for _ in range(2):
        with pytest.raises(UnknownUser):
            erase_user(engine, next(keys))


@slow_on_postgresql
def test_a_transaction_changes_few_rows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase, "MAX_ERASED_ROWS", 20)
    people(engine, 3, 90)
    for n in range(90):
        watch(engine, ("u0", f"v{n}"), ("u1", f"v{n}"), ("u0", f"v{n}"))
    refresh(engine)
    changed, most = 0, 0

    def count(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal changed
        if statement.startswith(("DELETE", "UPDATE", "INSERT")):
            changed += cursor.rowcount

    def committed(*_: Any) -> None:
        nonlocal changed, most
        changed, most = 0, max(most, changed)

    event.listen(engine, "after_cursor_execute", count)
    event.listen(engine, "commit", committed)
    rows = erase_user(engine, "u0").rows
    assert (rows["events"], rows["interactions"]) == (180, 90)
    assert 20 <= most <= 40


@pytest.mark.slow
def test_erasing_under_load_leaves_nothing(engine: Engine) -> None:
    """Four writers go on recording, following, muting and asking for pages of the person."""
    people(engine, 4, 12)
    run_transaction(engine, lambda s: upsert_users(s, [{"id": MARK}]))
    (owner,) = (i for i, key in read(engine, User.id, User.key) if key == MARK)
    settings = Settings(tries=20)

    def write(number: int) -> int:
        acknowledged = 0
        while True:
            # Writers overtake each other, and what comes late is subtracted inexactly from a trend.
            # So all views of a video are at the same time.
            def unit(session: Session, n: int = acknowledged) -> None:
                video, moment = f"v{n % 12}", at(n % 12)
                record(session, f"u{number}", video, "watch", at=moment, watch_ms=9_000)
                record(session, MARK, video, "watch", at=moment, watch_ms=20_000)
                follow(session, MARK, f"u{n % 4}")
                mute(session, MARK, "keyword", f"{MARK} {number} {n}")
                for_you(session, MARK, limit=1, rewatch=True)

            try:
                run_transaction(engine, unit, settings=settings)
            except UnknownUser:
                return acknowledged
            acknowledged += 1

    with ThreadPoolExecutor(6) as threads:
        writers = [threads.submit(write, number) for number in range(4)]
        with until_done(lambda: refresh(engine, settings=settings), threads):
            while len(read(engine, EventRow.key)) < 60:
                time.sleep(0.01)
            erase_user(engine, MARK, settings=settings)
            acknowledged = sum(writer.result() for writer in writers)
    with Session(engine) as session:
        for table in PER_USER:
            assert rows_with(session, table.c.user_id, [owner]) == 0, table
    assert len(read(engine, EventRow.key)) == acknowledged >= 30
    refresh(engine)
    check(engine)
    assert MARK not in dumped(engine).lower()


WRITES: dict[str, Callable[[Session], Any]] = {
    "record": lambda s: record(s, MARK, "v1", "like"),
    "follow": lambda s: follow(s, MARK, "u0"),
    "mute": lambda s: mute(s, MARK, "hashtag", "h0"),
    "serve": lambda s: for_you(s, MARK),
    "upsert": lambda s: upsert_users(s, [{"id": MARK, "device": "tv"}]),
    "be followed": lambda s: follow(s, "u5", MARK),
    "be muted": lambda s: mute(s, "u5", "creator", MARK),
    "dismiss": lambda s: dismiss(s, MARK, "u5"),
    "be dismissed": lambda s: dismiss(s, "u5", MARK),
    "suggest": lambda s: recommender.people(s, MARK, record=True),
    "be suggested": lambda s: recommender.people(s, "u5", record=True),
    "import a follow": lambda s: apply_follows(s, [{"user": "u5", "creator": MARK}]),
    "import their follow": lambda s: apply_follows(s, [{"user": MARK, "creator": "u5"}]),
    "publish": lambda s: upsert_videos(
        s, [{"id": "late", "creator": MARK, "published_at": NOON, "caption": MARK}]
    ),
    "republish": lambda s: set_video_status(s, f"{MARK}-v1", "review"),
}
"""What is written of a person, by them or by others."""


CREATING = ("import a follow",)
"""Writes that look for another user first, and then create the person again."""

REFUSED = ("be followed", "be muted", "be dismissed")
"""Writes that look for another user first, and then refuse a person who is erased."""


def is_waiting(engine: Engine) -> bool:
    """Whether a connection to this database waits for another."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        return bool(connection.scalar(waiting))


def wait_for_a_lock(engine: Engine) -> None:
    while not is_waiting(engine):
        time.sleep(0.005)


def small_world(engine: Engine) -> int:
    """The person with one video and one event; their id."""
    people(engine, 6, 3)
    run_transaction(
        engine,
        lambda session: [
            upsert_videos(session, [{"id": f"{MARK}-v1", "creator": MARK, "published_at": NOON}]),
            record(session, MARK, "v0", "like", at=NOON),
        ],
    )
    return next(row_id for row_id, key in read(engine, User.id, User.key) if key == MARK)


QUICK_WRITES = {"upsert", "record", "follow"}


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize(
    ("name", "statement"),
    [
        *(
            pytest.param(
                name,
                3 if name in {"publish", "upsert"} else 2,  # which look for others first
                marks=[] if name in QUICK_WRITES else pytest.mark.slow,
            )
            for name in WRITES
        ),
        pytest.param("be followed", 3, marks=pytest.mark.slow),
        pytest.param("be muted", 3, marks=pytest.mark.slow),
        pytest.param("be dismissed", 3, marks=pytest.mark.slow),
        pytest.param("be suggested", 3, marks=pytest.mark.slow),
    ],
)
def test_an_erasure_that_begins_amid_a_write(engine: Engine, name: str, statement: int) -> None:
    """It waits for who has found the person, and is done before who has not.

    Where the two wait for each other, the erasure gives way and begins again: PostgreSQL ends who
    looks for a deadlock first, which the writer here does late.
    """
    owner = small_world(engine)
    sent, running = 0, []

    def begin(_c: Any, *_: Any) -> None:
        nonlocal sent
        if current_thread() is not main_thread():
            return
        sent += 1
        if sent == statement:
            running.append(threads.submit(erase_user, engine, MARK))
            while not running[0].done() and not is_waiting(engine):
                time.sleep(0.005)

    with ThreadPoolExecutor(1) as threads, Session(writing(engine)) as session:
        session.execute(sa.text("SET LOCAL deadlock_timeout = '10s'"))
        event.listen(engine, "before_cursor_execute", begin)
        with suppress(UnknownUser) if name in REFUSED else nullcontext():
            WRITES[name](session)
        event.remove(engine, "before_cursor_execute", begin)
        session.commit()
        for each in running or [threads.submit(erase_user, engine, MARK)]:
            each.result()
    is_gone(engine, owner)
    if name not in CREATING:
        assert MARK not in dumped(engine).lower()


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK_WRITES else pytest.mark.slow) for name in WRITES],
)
def test_who_comes_after_an_erasure_began_finds_nobody(engine: Engine, name: str) -> None:
    owner = small_world(engine)

    def write() -> str:
        try:
            run_transaction(engine, WRITES[name])
        except RecommenderError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(1) as threads, Session(engine) as session:
        erase._mark(session, key=MARK, at=NOON)
        running = threads.submit(write)
        wait_for_a_lock(engine)
        session.commit()
        said = running.result()
    erase_user(engine, MARK)
    if name in {"record", "follow", "mute"}:
        assert said == f"there is no user '{MARK}'"
    is_gone(engine, owner)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_an_erasure_waits_for_a_list_that_suggests_the_person(engine: Engine) -> None:
    owner = small_world(engine)
    with ThreadPoolExecutor(1) as threads, Session(writing(engine)) as session:
        page = recommender.people(session, "u5", record=True)
        assert MARK in [person.creator for person in page.items]
        running = threads.submit(erase_user, engine, MARK)
        wait_for_a_lock(engine)
        session.commit()
        running.result()
    is_gone(engine, owner)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_page_ranked_before_is_not_recorded_after(engine: Engine) -> None:
    owner = small_world(engine)
    with Session(engine) as session:
        page = for_you(session, MARK, record=False)
    with ThreadPoolExecutor(1) as threads, Session(engine) as session:
        erase._mark(session, key=MARK, at=NOON)
        running = threads.submit(run_transaction, engine, lambda s: record_page(s, page))
        wait_for_a_lock(engine)
        session.commit()
        with pytest.raises(UnknownUser):
            running.result()
    erase_user(engine, MARK)
    is_gone(engine, owner)


SLOWLY = """
import sys, time, recommender, recommender.operations.erase
from recommender.operations.erase import _delete

def slowly(table, *given):
    time.sleep(0.05 * (table.name == "rec_events"))
    return _delete(table, *given)

recommender.operations.erase.MAX_ERASED_ROWS, recommender.operations.erase._delete = 1, slowly
recommender.erase_user(recommender.create_engine(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
def test_an_erasure_that_is_killed_goes_on(engine: Engine, owner: int, database: str) -> None:

    def events() -> int:
        with Session(engine) as session:
            return rows_with(session, EventRow.user_id, [owner])

    there = events()
    for fewer in (there, there - 5):
        process = subprocess.Popen([sys.executable, "-c", SLOWLY, database, MARK])
        while events() >= fewer:
            time.sleep(0.002)
            assert process.poll() is None, "it was done before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert statistics(engine) == counted(engine)
    assert 0 < events() < there
    erase_user(engine, MARK)
    is_gone(engine, owner)
    assert MARK not in dumped(engine).lower()
    refresh(engine)
    check(engine)


@slow_on_postgresql
def test_statements_do_not_grow_with_the_rows(engine: Engine) -> None:
    people(engine, 2, 60)
    watch(engine, *(("u0", f"v{n}") for n in range(60)))
    watch(engine, ("u1", "v0"))
    with counted_statements(engine) as many:
        erase_user(engine, "u0")
    with counted_statements(engine) as few:
        erase_user(engine, "u1")
    assert abs(len(many) - len(few)) <= 8
