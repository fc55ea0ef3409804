"""What others write of a guest during a merge goes to the user, or moves there."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import current_thread, main_thread
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Settings,
    audit,
    block,
    dismiss,
    follow,
    for_you,
    mute,
    record,
    record_page,
    refresh,
    run_transaction,
    set_video_status,
    unfollow,
    upsert_candidates,
    upsert_users,
    upsert_videos,
)
from recommender.database.transactions import writing
from recommender.files.batches import ROW_KINDS
from recommender.formats import scalars
from recommender.ingest.follows import apply_follows
from recommender.learning.statistics import RefreshRun
from recommender.models import EventRow, Follow, OutsideCandidate, User
from recommender.models.tables import BLOCKS, FOLLOWS, MUTED_CREATORS
from recommender.operations import merge
from recommender.operations.inventory import OF_OTHERS, OWNERS, PER_USER
from recommender.operations.merge import merge_users
from tests.support.erasures import counted, rows_with
from tests.support.refresh_worlds import check, people, read, statistics, until_done
from tests.support.worlds import NOON, at

GUEST, USER = "guest", "ann"

WRITES: dict[str, Callable[[Session], Any]] = {
    "record": lambda s: record(s, GUEST, "v1", "like"),
    "follow": lambda s: follow(s, GUEST, "u0"),
    "unfollow": lambda s: unfollow(s, GUEST, "u1"),
    "mute": lambda s: mute(s, GUEST, "hashtag", "h0"),
    "block": lambda s: block(s, GUEST, "u2"),
    "serve": lambda s: for_you(s, GUEST),
    "upsert": lambda s: upsert_users(s, [{"id": GUEST, "device": "tv", "interests": ["h1"]}]),
    "be followed": lambda s: follow(s, "u5", GUEST),
    "be unfollowed": lambda s: unfollow(s, "u1", GUEST),
    "be muted": lambda s: mute(s, "u5", "creator", GUEST),
    "dismiss": lambda s: dismiss(s, GUEST, "u0"),
    "be dismissed": lambda s: dismiss(s, "u5", GUEST),
    "suggest": lambda s: recommender.people(s, GUEST, record=True),
    "be suggested": lambda s: recommender.people(s, "u5", record=True),
    "be blocked": lambda s: block(s, "u5", GUEST),
    "import a follow": lambda s: apply_follows(s, [{"user": "u5", "creator": GUEST}]),
    "publish": lambda s: upsert_videos(
        s, [{"id": "late", "creator": GUEST, "published_at": NOON, "hashtags": ["h2"]}]
    ),
    "propose": lambda s: upsert_candidates(
        s, "model", [{"user": GUEST, "video": "v1", "score": 0.5}]
    ),
    "republish": lambda s: set_video_status(s, "own", "review"),
}
"""What is written of a guest, by them or by others."""

QUICK = {"record", "upsert"}

BOTH_ENDS = (*(table.c.user_id for table in PER_USER), *OF_OTHERS, *OWNERS)

every_write = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in WRITES]
)


def begun(engine: Engine) -> int:
    """Create a guest with a video, an event and follows both ways; return the id."""
    people(engine, 6, 3)

    def write(session: Session) -> None:
        upsert_users(session, [{"id": GUEST}, {"id": USER}])
        upsert_videos(session, [{"id": "own", "creator": GUEST, "published_at": NOON}])
        record(session, GUEST, "v0", "like", at=NOON)
        follow(session, GUEST, "u1")
        follow(session, "u1", GUEST)

    run_transaction(engine, write)
    return next(row_id for row_id, key in read(engine, User.id, User.key) if key == GUEST)


def check_done(engine: Engine, guest: int, name: str) -> None:
    """Check that nothing is left with the guest, and that a write was not lost."""
    with Session(engine) as session:
        referring = [str(c) for c in BOTH_ENDS if rows_with(session, c, [guest])]
        own = session.scalars(sa.select(User).where(User.key == USER)).one()
        follows = {*map(tuple, session.execute(sa.select(Follow.user_id, Follow.creator_id)))}
        (u1,) = session.scalars(sa.select(User.id).where(User.key == "u1"))
    assert referring == []
    assert len(read(engine, EventRow.key)) == 1 + (name == "record")
    assert read(engine, OutsideCandidate.user_id) == [(own.id,)] * (name == "propose")
    assert ((own.id, u1) in follows) == (name != "unfollow")
    assert ((u1, own.id) in follows) == (name != "be unfollowed")
    assert len(follows) == 2 + (name in {"follow", "be followed", "import a follow"}) - (
        name in {"unfollow", "be unfollowed"}
    )
    if name == "upsert":
        assert own.device == "tv"
    assert statistics(engine) == counted(engine)


def is_waiting(engine: Engine) -> bool:
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        return bool(connection.scalar(waiting))


@every_write
@pytest.mark.parametrize("kind", ["postgresql"])
def test_who_comes_after_a_merge_began_writes_for_the_user(engine: Engine, name: str) -> None:
    guest = begun(engine)
    run = RefreshRun(engine, NOON, Settings())
    with ThreadPoolExecutor(1) as threads, Session(writing(engine)) as session:
        merge._begin(run, GUEST, USER, session, None)
        writer = threads.submit(run_transaction, engine, WRITES[name])
        while not is_waiting(engine) and not writer.done():
            time.sleep(0.005)
        session.commit()
        writer.result()
    merge_users(engine, GUEST, USER)
    check_done(engine, guest, name)


@every_write
@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize(
    "statement", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))]
)
def test_a_merge_that_begins_amid_a_write_moves_it(
    engine: Engine, name: str, statement: int
) -> None:
    guest = begun(engine)
    merge_amid(engine, WRITES[name], statement)
    merge_users(engine, GUEST, USER)
    check_done(engine, guest, name)


def merge_amid(engine: Engine, write: Callable[[Session], Any], statement: int) -> Any:
    """Merge the two before a statement of a write, or after it; return the result of the write."""
    sent, running = 0, []

    def begin(_c: Any, *_: Any) -> None:
        nonlocal sent
        if current_thread() is main_thread():
            sent += 1
            if sent == statement:
                running.append(threads.submit(merge_users, engine, GUEST, USER))
                while not running[0].done() and not is_waiting(engine):
                    time.sleep(0.005)

    with ThreadPoolExecutor(1) as threads, Session(writing(engine)) as session:
        session.execute(sa.text("SET LOCAL deadlock_timeout = '10s'"))
        event.listen(engine, "before_cursor_execute", begin)
        found = write(session)
        event.remove(engine, "before_cursor_execute", begin)
        session.commit()
        for each in running or [threads.submit(merge_users, engine, GUEST, USER)]:
            each.result()
    return found


OF_ONESELF = {
    "follows": {"creator": GUEST},
    "blocks": {"other": GUEST},
    "mutes": {"kind": "creator", "value": GUEST},
}


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize("name", OF_ONESELF)
@pytest.mark.parametrize(
    "statement", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 4))]
)
def test_no_file_lets_a_user_follow_mute_or_block_themselves(
    engine: Engine, name: str, statement: int
) -> None:
    begun(engine)
    rows = [{"user": USER, **OF_ONESELF[name]}]
    apply = ROW_KINDS[name].apply
    merge_amid(engine, lambda session: apply(session, rows), statement)
    for table in (FOLLOWS, BLOCKS, MUTED_CREATORS):
        assert [row for row in read(engine, *table.c) if row[0] in row[1:]] == []
    counts = run_transaction(engine, lambda session: apply(session, rows))
    assert [str(error).endswith("themselves") for error in counts.rejected.values()] == [True]


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_page_ranked_for_the_guest_is_recorded_for_the_user(engine: Engine) -> None:
    begun(engine)
    with Session(engine) as session:
        page = for_you(session, GUEST, record=False, limit=2)
    run = RefreshRun(engine, NOON, Settings())
    with ThreadPoolExecutor(1) as threads, Session(writing(engine)) as session:
        merge._begin(run, GUEST, USER, session, None)
        running = threads.submit(run_transaction, engine, lambda s: record_page(s, page))
        while not is_waiting(engine):
            time.sleep(0.005)
        session.commit()
        served = running.result()
    with Session(engine) as session:
        again = for_you(session, USER, record=False, session_id=served.session)
    assert [item.video for item in again.items] == [item.video for item in served.items]


@pytest.mark.slow
def test_a_merge_under_load_loses_nothing(engine: Engine) -> None:
    """Four writers go on recording for the guest and the user, and asking for their pages."""
    people(engine, 4, 12)
    run_transaction(engine, lambda s: upsert_users(s, [{"id": GUEST}, {"id": USER}]))
    settings, is_over = Settings(tries=20), False

    def write(number: int) -> int:
        acknowledged = 0
        while not is_over:

            def unit(session: Session, n: int = acknowledged) -> None:
                user, moment = (GUEST, USER)[n % 2], at(n % 12)
                key = f"{number}-{n}"
                record(session, user, f"v{n % 12}", "watch", at=moment, watch_ms=20_000, key=key)
                for_you(session, user, limit=1, rewatch=True)

            run_transaction(engine, unit, settings=settings)
            acknowledged += 1
        return acknowledged

    with ThreadPoolExecutor(6) as threads:
        writers = [threads.submit(write, number) for number in range(4)]
        with until_done(partial(refresh, engine, settings=settings), threads):
            while len(read(engine, EventRow.key)) < 100:
                time.sleep(0.01)
            merge_users(engine, GUEST, USER, settings=settings)
            reached = len(read(engine, EventRow.key))
            while len(read(engine, EventRow.key)) < reached + 50:
                time.sleep(0.01)
            is_over = True
            acknowledged = sum(writer.result() for writer in writers)
    (guest,) = (row_id for row_id, key in read(engine, User.id, User.key) if key == GUEST)
    with Session(engine) as session:
        assert [str(c) for c in BOTH_ENDS if rows_with(session, c, [guest])] == []
    assert len(read(engine, EventRow.key)) == acknowledged
    refresh(engine)
    check(engine)


def test_pages_that_are_served_during_a_merge_break_no_promise(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of its transactions: for the user, and for who muted the guest."""
    people(engine, 3, 4)

    def write(session: Session) -> None:
        upsert_users(session, [{"id": GUEST}, {"id": USER}])
        videos = [{"id": f"{key}'s", "creator": key, "published_at": NOON} for key in (GUEST, USER)]
        upsert_videos(session, videos)
        mute(session, "u1", "creator", GUEST)
        mute(session, "u2", "sound", "s0")
        record(session, GUEST, "v0", "like", at=NOON)
        for_you(session, GUEST, limit=2, as_of=scalars.now() - timedelta(hours=5))

    def serve(session: Session) -> None:
        for user in (USER, "u1"):
            for_you(session, user, limit=3)

    def locked(run: RefreshRun, work: Any) -> Any:
        result = before(run, work)
        run_transaction(engine, serve)
        with Session(engine) as session:
            broken.append(audit(session).broken)
        return result

    run_transaction(engine, write)
    broken: list[Any] = []
    before = RefreshRun.locked
    monkeypatch.setattr(RefreshRun, "locked", locked)
    merge_users(engine, GUEST, USER)
    assert {*broken} == {()}
    ended = read(engine, User.key, User.merged_at)
    merge_users(engine, GUEST, USER)
    assert read(engine, User.key, User.merged_at) == ended
