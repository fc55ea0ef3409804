"""Digests: each user once in a run, the same again, and nothing of those left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

import recommender
from recommender import Digest, InvalidValue, UnknownFeed, digest, run_transaction
from recommender.lists import digest as digests
from recommender.models.tables import REMEMBERED, SERVED, SESSIONS
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_video,
    record,
    rows_of,
    writes_of_a_page,
)

pytestmark = slow_on_postgresql

AT_ONCE = 3

USERS = [f"u{number}" for number in range(AT_ONCE + 3)]

VIDEOS = 8

PAUSE = digests.PAUSE_SECONDS


@pytest.fixture
def world(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """More users than a batch has, some videos without creators, and the feed `mail`."""
    monkeypatch.setattr(digests, "USERS_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(digests, "USERS_READ", AT_ONCE + 1)
    monkeypatch.setattr(digests, "PAUSE_SECONDS", 0)

    def write(session: Session) -> None:
        recommender.upsert_users(session, [{"id": user} for user in USERS])
        for number in range(VIDEOS):
            make_video(session, f"v{number}", creator=None, hashtags=[f"tag{number}"])
        recommender.create_feed(session, "mail", memory="own")

    run_transaction(engine, write)
    return engine


def send(engine: Engine, *users: str, run: str = "one", **options: Any) -> Iterator[Digest]:
    own = {"feed": "mail", "run": run, "limit": 3, "as_of": NOON}
    return digest(engine, users or None, **{**own, **options})


def videos_of(digests: Iterator[Digest]) -> dict[str, list[str]]:
    found = list(digests)
    videos = {each.user: [item.video for item in each.items] for each in found}
    assert len(videos) == len(found)
    return videos


def write(engine: Engine, function: Any) -> None:
    run_transaction(engine, function)


def test_every_user_is_served_once_in_a_run_and_the_same_again(world: Engine) -> None:
    first = videos_of(send(world))
    assert set(first) == set(USERS)
    assert {len(videos) for videos in first.values()} == {3}
    with Session(world) as session:
        places = rows_of(session, SERVED)
        assert {memory for (memory,) in rows_of(session, REMEMBERED, "memory")} == {1}
    assert videos_of(send(world)) == first
    assert videos_of(send(world, as_of=at(60 * 24 * 300))) == first
    with Session(world) as session:
        assert rows_of(session, SERVED) == places
    second = videos_of(send(world, run="two"))
    assert all(set(second[user]).isdisjoint(first[user]) for user in first)
    page = run_transaction(world, lambda s: recommender.for_you(s, "u1", limit=20, as_of=at(1)))
    assert (len(page.items), page.request.feed) == (VIDEOS, None)


def test_nothing_is_repeated_to_fill_a_digest(world: Engine) -> None:
    counts = [
        len(videos_of(send(world, "u1", run=run)).get("u1", [])) for run in ("a", "b", "c", "d")
    ]
    assert counts == [3, 3, 2, 0]
    with Session(world) as session:
        assert recommender.audit(session).short_pages == 1  # no other video was left


def test_what_may_no_longer_be_shown_is_left_out_of_a_repeated_run(world: Engine) -> None:
    (before,) = videos_of(send(world, "u1")).values()
    write(world, lambda session: recommender.set_video_status(session, before[0], "removed"))
    assert videos_of(send(world, "u1")) == {"u1": before[1:]}


def test_only_users_who_were_active(world: Engine) -> None:
    def act(session: Session) -> None:
        record(session, "watch", "v1", "u1", at=at(-10), completion=1.0)
        record(session, "watch", "v1", "u2", at=at(-100), completion=1.0)

    write(world, act)
    assert set(videos_of(send(world, since=at(-10)))) == {"u1"}
    assert set(videos_of(send(world, "u2", "u1", "u3", since=at(-100)))) == {"u1", "u2"}


def test_nothing_is_recorded_for_users_below_the_least_score(world: Engine) -> None:
    def add(session: Session) -> None:
        recommender.upsert_users(session, [{"id": "u1", "interests": ["tag5"]}])
        recommender.create_feed(session, "other", memory="own")

    write(world, add)
    scores = {each.user: max(item.score for item in each.items) for each in send(world)}
    least = scores.pop("u1")
    assert least > max(scores.values())
    with Session(world) as session:
        before = len(rows_of(session, SESSIONS))
    assert set(videos_of(send(world, feed="other", least=least))) == {"u1"}
    assert videos_of(send(world, feed="other", run="two", least=1e6)) == {}
    with Session(world) as session:
        assert len(rows_of(session, SESSIONS)) == before + 1
    assert set(videos_of(send(world, feed="other", least=1e6))) == {"u1"}


def test_given_users_are_served_by_any_of_their_keys(world: Engine) -> None:
    write(world, lambda session: recommender.upsert_users(session, [{"id": "guest"}]))
    recommender.merge_users(world, "guest", "u1")
    recommender.erase_user(world, "u2")
    found = videos_of(send(world, "u3", "guest", "nobody", "u2", "u1", "u3"))
    assert list(found) == ["u1", "u3"]
    everyone = set(videos_of(send(world, run="two")))
    assert everyone == set(USERS) - {"u2"}


def test_no_transaction_is_open_while_a_message_is_sent(world: Engine) -> None:
    for number, _ in enumerate(send(world), start=1):
        assert world.pool.checkedout() == 0
        with Session(world) as session:
            assert len(rows_of(session, SESSIONS)) >= number
        write(world, lambda session: record(session, "like", "v7", "u1"))


@only_sqlite
def test_other_writers_have_a_turn_after_each_transaction(
    world: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own wait for a lock sleeps for 0.1 s at most before it looks again."""
    pauses: list[float] = []

    def write_meanwhile(seconds: float) -> None:
        pauses.append(seconds)
        write(world, lambda session: record(session, "like", "v7", "u1"))

    monkeypatch.setattr(digests, "PAUSE_SECONDS", PAUSE)
    monkeypatch.setattr(digests.time, "sleep", write_meanwhile)
    assert len(videos_of(send(world))) == 2 * AT_ONCE
    assert pauses == [PAUSE, PAUSE]
    assert PAUSE > 0.1


def test_a_user_takes_three_statements_and_the_writes_of_a_page(world: Engine) -> None:
    with counted_statements(world) as sent:
        found = list(send(world, *USERS))
    assert len(found) == len(USERS)
    pages = [each for each in sent if "recommender.digest" not in each]
    with Session(world) as session:
        each_user = 3 + writes_of_a_page(session)
    assert len(pages) == each_user * len(USERS) + 3  # the feed, and the keys, in two parts


@pytest.mark.parametrize("statement", [1, 3, 12, 4 * AT_ONCE + 8])
def test_a_run_that_ends_at_any_statement_goes_on(world: Engine, statement: int) -> None:
    """What had been handed out comes again as it was, and what is left is served once."""
    got: dict[str, list[str]] = {}
    left = statement

    def end(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    event.listen(world, "before_cursor_execute", end)
    with pytest.raises(KeyboardInterrupt):
        got.update((each.user, [item.video for item in each.items]) for each in send(world))
    event.remove(world, "before_cursor_execute", end)
    assert len(got) in {0, AT_ONCE}
    whole = videos_of(send(world))
    assert set(whole) == set(USERS)
    assert got.items() <= whole.items()
    with Session(world) as session:
        assert len(rows_of(session, SERVED)) == 3 * len(whole)


def test_a_user_who_is_merged_after_the_look_up_gets_one_digest(world: Engine) -> None:
    found = send(world)
    first = [next(found) for _ in range(AT_ONCE)]
    late = [user for user in USERS if user not in {each.user for each in first}]
    recommender.merge_users(world, late[0], first[0].user)
    recommender.erase_user(world, late[1])
    users = [each.user for each in (*first, *found)]
    assert sorted(users) == sorted(set(USERS) - {late[0], late[1]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": "u1"}, "^users: 'u1' is no list of keys"),
        ({"users": 5}, "^users: 5 is no list of keys"),
        ({"run": ""}, "^run: is empty"),
        ({"run": 5}, "^run: 5 is not text"),
        ({"limit": 0}, "^limit: 0 is not between 1 and 500"),
        ({"since": NOON.replace(tzinfo=None)}, "^since: "),
        ({"least": float("nan")}, "^least: "),
        ({"feed": "nothing"}, "^there is no feed 'nothing'"),
    ],
)
@only_sqlite
def test_what_cannot_be_is_refused_at_once(
    world: Engine, options: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {"users": None, "feed": "mail", "run": "one", **options}
    with pytest.raises(InvalidValue, match=message) as caught:
        digest(world, asked.pop("users"), **asked)
    assert isinstance(caught.value, UnknownFeed) == ("feed" in options)


@only_sqlite
def test_a_digest_is_a_plain_value(world: Engine) -> None:
    (each,) = send(world, "u1", limit=1)
    shown = each.as_dict()
    assert (shown["user"], [item["position"] for item in shown["items"]]) == ("u1", [1])
