"""Locks on PostgreSQL: writes for different viewers never wait for each other in a circle."""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import cycle, islice

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Settings,
    create_engine,
    create_feed,
    digest,
    erase_user,
    follow,
    for_you,
    mute,
    record,
    record_many,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.database.transactions import writing
from recommender.models import Interaction, User, Video
from tests.support.interleaving import Interleaving
from tests.support.kinds import only_postgresql
from tests.support.viewer_writes import OTHERS, READS, WRITES, Viewer
from tests.support.worlds import at, make_event, make_user, make_video, make_videos, names

FAST = "?options=-c%20deadlock_timeout%3D20ms"
"""PostgreSQL looks for deadlocks at once, and not after a second."""

VIDEOS = ["v0", "v1", "v2"]


@pytest.fixture
def world(database: str) -> Iterator[Engine]:
    bind = create_engine(database + FAST)
    yield bind
    bind.dispose()


def make_world(engine: Engine) -> None:
    def write(session: Session) -> None:
        for key in ("ada", "ben"):
            make_user(session, key)
        make_videos(session, *VIDEOS, hashtags=["old"], sound="old")

    run_transaction(engine, write)


def viewer(key: str, other: str, seed: int) -> Viewer:
    """Return a viewer; in every fourth pair some hashtags, sounds and creators are new."""
    of_pair = seed if seed % 4 == 0 else ""
    new = [f"new-{of_pair}-{number}" for number in range(2)]
    return Viewer(key, [other, *new], ["old", *new], VIDEOS, random.Random(f"{key} {seed}"))  # noqa: S311


@pytest.fixture
def impatient(world: Engine) -> Iterator[Session]:
    """A session that waits for a lock for no longer than 50 ms."""
    with Session(writing(world)) as session:
        session.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
        yield session


def test_every_public_function_is_one_of_the_writes_or_known_not_to_be() -> None:
    """A new public function fails here until it is in one of the three lists."""
    public = {
        name for name in recommender.__all__ if inspect.isfunction(getattr(recommender, name))
    }
    assert public == {*WRITES, *OTHERS, *READS}


@only_postgresql
def test_who_writes_can_be_followed_and_muted_meanwhile(world: Engine, impatient: Session) -> None:
    for name in WRITES:
        with Session(writing(world)) as session, impatient.begin_nested() as savepoint:
            WRITES[name](session, viewer("ada", "ben", 0))
            assert follow(impatient, "ben", "ada"), name
            assert mute(impatient, "ben", "creator", "ada"), name
            savepoint.rollback()


@only_postgresql
def test_two_who_follow_each_other_after_a_page_do_not_wait(
    world: Engine, impatient: Session
) -> None:
    with Session(writing(world)) as session:
        assert names(for_you(session, "ada"))
        assert names(for_you(impatient, "ben"))
        assert follow(session, "ada", "ben")
        assert follow(impatient, "ben", "ada")
        session.commit()
        impatient.commit()


def lockstep(engine: Engine, *steps: Sequence[Callable[[Session], object]]) -> list[object]:
    """Run two transactions, both at the same step until one waits; return their errors."""
    step = threading.Barrier(2, timeout=0.03)

    def run(functions: Sequence[Callable[[Session], object]]) -> None:
        def write(session: Session) -> None:
            for function in functions:
                with suppress(threading.BrokenBarrierError):
                    step.wait()
                function(session)

        run_transaction(engine, write, settings=Settings(tries=1))

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(run, functions) for functions in steps]
        return [error for future in running if (error := future.exception())]


def random_writes(key: str, other: str, seed: int) -> list[Callable[[Session], object]]:
    me = viewer(key, other, seed)
    return [partial(WRITES[name], me=me) for name in me.chance.choices(list(WRITES), k=5)]


@only_postgresql
@pytest.mark.parametrize("seeds", [range(24), pytest.param(range(24, 300), marks=pytest.mark.slow)])
def test_writes_of_two_viewers_in_any_order_do_not_deadlock(world: Engine, seeds: range) -> None:
    failed = {}
    for seed in seeds:
        pair = random_writes("ada", "ben", seed), random_writes("ben", "ada", seed)
        if errors := lockstep(world, *pair):
            failed[seed] = errors
    assert failed == {}


CREATE: dict[str, Callable[[Session, str, str], object]] = {
    "mute": lambda s, user, name: mute(s, user, "hashtag", name),
    "like": lambda s, user, name: upsert_users(s, [{"id": user, "liked_sounds": [name]}]),
    "publish": lambda s, user, name: make_video(s, f"{user}-{name}", creator=user, sound=name),
}


@only_postgresql
@pytest.mark.parametrize("write", CREATE.values(), ids=CREATE)
def test_two_who_create_the_same_names_do_not_deadlock(
    world: Engine, write: Callable[[Session, str, str], object]
) -> None:
    def writes(user: str, new: Sequence[str]) -> list[Callable[[Session], object]]:
        return [partial(write, user=user, name=name) for name in new]

    pair = writes("ada", ["x", "y"]), writes("ben", ["y", "x"])
    assert lockstep(world, *pair) == []


def alternately(database: str, *functions: Callable[[Session], object]) -> list[object]:
    """Run two transactions statement by statement, in turns; each has one try."""
    settings = Settings(tries=1)

    def operation(function: Callable[[Session], object]) -> Callable[[Engine], object]:
        return lambda engine: run_transaction(engine, function, settings=settings)

    with Interleaving(database + FAST) as both:
        return both.run([operation(each) for each in functions], islice(cycle((0, 1)), 100))


@only_postgresql
def test_two_calls_that_swap_the_creators_of_videos_do_not_deadlock(
    world: Engine, database: str
) -> None:
    run_transaction(world, lambda s: [make_video(s, f"of-{k}", creator=k) for k in ("ada", "ben")])

    def give(video: str, creator: str) -> Callable[[Session], object]:
        row = {"id": video, "creator": creator, "published_at": at()}
        return lambda session: upsert_videos(session, [row])

    alternately(database, give("of-ada", "ben"), give("of-ben", "ada"))
    with Session(world) as session:
        owners = sa.select(User.key).join(Video.creator).where(Video.key.like("of-%"))
        assert session.scalars(owners.order_by(Video.key)).all() == ["ben", "ada"]


@only_postgresql
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("lead", range(1, 4))
def test_an_upload_and_an_erasure_of_its_creator_do_not_deadlock(database: str, lead: int) -> None:
    """The erasure waits for the upload, or the upload makes a new creator."""
    row = {"id": "mine", "creator": "ada", "published_at": at()}
    upload = partial(
        run_transaction, function=lambda s: upsert_videos(s, [row]), settings=Settings(tries=1)
    )
    erase = partial(erase_user, user="ada", settings=Settings(tries=1))
    with Interleaving(database + FAST) as both:
        both.run([upload, erase], [*[0] * lead, *islice(cycle((1, 0)), 200)])


@only_postgresql
def test_a_digest_and_events_of_its_users_do_not_deadlock(world: Engine, database: str) -> None:
    """Both lock the users in the order of their keys, which is not the order of their ids."""

    def write(session: Session) -> None:
        for key in ("zoe", "amy"):
            make_user(session, key)
        make_video(session, "v0", creator=None)
        create_feed(session, "mail", memory="own")

    run_transaction(world, write)
    one = Settings(tries=1)
    likes = [make_event("like", "v0", key) for key in ("amy", "zoe")]
    send = partial(digest, users=["zoe", "amy"], feed="mail", run="one", as_of=at(), settings=one)
    like = partial(run_transaction, function=lambda s: record_many(s, likes), settings=one)
    with Interleaving(database + FAST) as both:
        # The digest has locked its first user when the events begin.
        order = [*[0] * 8, *islice(cycle((1, 0)), 100)]
        found, counts = both.run([lambda engine: list(send(engine)), like], order)
    assert ([each.user for each in found], counts.inserted) == (["zoe", "amy"], 2)


def in_opposite_orders(engine: Engine, write: Callable[[Session, str, str], object]) -> int:
    """Run two transactions that write for ada and ben in opposite orders; return the calls."""
    met = threading.Barrier(2, timeout=30)
    calls: list[str] = []

    def run(writer: str, keys: Sequence[str]) -> None:
        def function(session: Session) -> None:
            calls.append(writer)
            write(session, keys[0], writer)
            if calls.count(writer) == 1:
                met.wait()
            write(session, keys[1], writer)

        run_transaction(engine, function)

    with ThreadPoolExecutor(2) as threads:
        running = [
            threads.submit(run, "1", ["ada", "ben"]),
            threads.submit(run, "2", ["ben", "ada"]),
        ]
        for future in running:
            future.result()
    return len(calls)


@only_postgresql
def test_events_of_several_users_in_opposite_orders_are_tried_again(world: Engine) -> None:
    calls = in_opposite_orders(
        world, lambda s, user, writer: record(s, user, "v0", "share", at=at(), key=writer)
    )
    assert calls == 3
    with Session(world) as session:
        assert session.scalars(sa.select(Interaction.shares)).all() == [2, 2]


@only_postgresql
def test_users_in_opposite_orders_are_tried_again(world: Engine) -> None:
    calls = in_opposite_orders(
        world, lambda s, user, writer: upsert_users(s, [{"id": user, "language": writer}])
    )
    assert calls == 3
    with Session(world) as session:
        languages = session.scalars(sa.select(User.language).where(User.key.in_(["ada", "ben"])))
        assert len(set(languages)) == 1


@only_postgresql
def test_videos_in_opposite_orders_are_tried_again(world: Engine) -> None:
    calls = in_opposite_orders(
        world,
        lambda s, user, writer: make_video(s, f"of-{user}", creator=user, language=writer),
    )
    assert calls == 3
    with Session(world) as session:
        languages = session.scalars(sa.select(Video.language).where(Video.key.like("of-%")))
        assert len(set(languages)) == 1
