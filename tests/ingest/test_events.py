"""Events recorded exactly once, and folded into a state that does not depend on their order."""

from __future__ import annotations

import ast
import asyncio
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Counts,
    Event,
    EventConflict,
    EventTooOld,
    InvalidValue,
    RecommenderError,
    Settings,
    UnknownUser,
    UnknownVideo,
    models,
    record,
    record_many,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.formats import scalars
from recommender.learning.engagement import is_engaged, watched
from recommender.models import Base
from recommender.models.tables import EVENTS, INTERACTIONS, LEARNING_STATE, PENDING
from tests.support.catalog_rows import just_before
from tests.support.positives import Deed, is_engaged_view, positive_times
from tests.support.worlds import NOON, at, counted_statements, make_event, make_user, make_video

COUNTS = (
    "impressions", "plays", "engaged_views", "watch_ms", "shares", "comments", "reports",
    "conversions",
)  # fmt: skip
TIMES = (
    "liked_at", "unliked_at", "saved_at", "unsaved_at", "not_interested_at", "interested_at",
    "acted_at",
)  # fmt: skip
BLANK: dict[str, Any] = {
    **dict.fromkeys(COUNTS, 0),
    "completion": 0.0,
    **dict.fromkeys(TIMES),
    "engaged_at": None,
    "first_at": NOON,
    "last_at": NOON,
}
ONCE = Settings(tries=1)

Pair = tuple[str, str]
Rows = dict[tuple[Any, ...], dict[str, Any]]


@pytest.fixture
def world(session: Session) -> Session:
    """A viewer and a video of ten seconds."""
    make_user(session, "viewer")
    make_video(session, "v", duration_ms=10_000)
    return session


def named(session: Session, table: sa.Table, key: str) -> Rows:
    """A table's rows with users and videos by their keys, by the user's and another key."""
    users, videos = models.User, models.Video
    query = sa.select(users.key.label("user"), table).join(users, users.id == table.c.user_id)
    if "video_id" in table.c:
        query = query.add_columns(videos.key.label("video"))
        query = query.join(videos, videos.id == table.c.video_id)
    rows = [dict(row._mapping) for row in session.execute(query)]
    left_out = {"user", "user_id", "video_id", key}
    return {
        (row["user"], row[key]): {n: v for n, v in row.items() if n not in left_out} for row in rows
    }


def states(session: Session) -> Rows:
    return named(session, INTERACTIONS, "video")


def log(session: Session) -> Rows:
    return named(session, EVENTS, "key")


def pending(session: Session) -> set[tuple[Any, ...]]:
    return set(named(session, PENDING, "key"))


def writes(sent: list[str]) -> list[str]:
    return [statement for statement in sent if not statement.startswith("SELECT")]


@pytest.mark.parametrize(
    ("deed", "body", "change"),
    [
        ("impression", {}, {"impressions": 1}),
        (
            "watch",
            {},
            {
                "impressions": 1, "plays": 1, "engaged_views": 1, "acted_at": NOON,
                "engaged_at": NOON,
            },
        ),
        ("watch", {"watch_ms": 0}, {"impressions": 1, "plays": 1}),
        (
            "watch",
            {"watch_ms": 2500},
            {"impressions": 1, "plays": 1, "watch_ms": 2500, "completion": 0.25},
        ),
        (
            "watch",
            {"completion": 0.5},
            {"impressions": 1, "plays": 1, "watch_ms": 5000, "completion": 0.5},
        ),
        (
            "watch",
            {"watch_ms": 2500, "completion": 0.5},
            {"impressions": 1, "plays": 1, "watch_ms": 2500, "completion": 0.5},
        ),
        (
            "watch",
            {"watch_ms": 25_000},
            {
                "impressions": 1, "plays": 1, "watch_ms": 25_000, "completion": 1.0,
                "engaged_views": 1, "acted_at": NOON, "engaged_at": NOON,
            },
        ),
        ("like", {}, {"liked_at": NOON, "engaged_at": NOON}),
        ("unlike", {}, {"unliked_at": NOON}),
        ("save", {}, {"saved_at": NOON, "engaged_at": NOON}),
        ("unsave", {}, {"unsaved_at": NOON}),
        ("not_interested", {}, {"not_interested_at": NOON}),
        ("interested", {}, {"interested_at": NOON, "engaged_at": NOON}),
        ("share", {}, {"shares": 1, "acted_at": NOON, "engaged_at": NOON}),
        ("comment", {}, {"comments": 1, "acted_at": NOON, "engaged_at": NOON}),
        ("convert", {}, {"conversions": 1, "acted_at": NOON, "engaged_at": NOON}),
        ("report", {}, {"reports": 1}),
        (
            "like",
            {"watch_ms": 10_000, "completion": 1},
            {"liked_at": NOON, "engaged_at": NOON},
        ),
    ],
)  # fmt: skip
def test_what_each_kind_adds_to_the_state(
    world: Session, deed: str, body: dict[str, Any], change: dict[str, Any]
) -> None:
    record(world, "viewer", "v", deed, at=NOON, **body)
    assert states(world) == {("viewer", "v"): {**BLANK, **change}}


def test_every_kind_has_a_row_in_the_table_above() -> None:
    (mark,) = [
        mark
        for mark in test_what_each_kind_adds_to_the_state.pytestmark
        if mark.name == "parametrize"
    ]
    assert {deed for deed, *_ in mark.args[1]} == set(scalars.EVENT_KINDS)


def test_counts_add_and_times_and_parts_are_the_greatest(world: Session) -> None:
    for minutes, completion in [(2, 0.25), (3, 0.75), (1, 0.5)]:
        record(world, "viewer", "v", "watch", at=at(minutes), completion=completion)
        record(world, "viewer", "v", "like", at=at(minutes))
        record(world, "viewer", "v", "share", at=at(minutes))
    assert states(world)["viewer", "v"] == {
        **BLANK, "impressions": 3, "plays": 3, "watch_ms": 15_000, "completion": 0.75,
        "shares": 3, "liked_at": at(3), "acted_at": at(3), "engaged_at": at(3),
        "first_at": at(1), "last_at": at(3),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("watch_ms", "completion", "duration_ms", "expected"),
    [
        (None, None, None, (None, None)),
        (None, None, 10_000, (None, None)),
        (5000, None, None, (5000, None)),
        (None, 0.5, None, (None, 0.5)),
        (5000, None, 10_000, (5000, 0.5)),
        (20_000, None, 10_000, (20_000, 1.0)),
        (0, None, 10_000, (0, 0.0)),
        (None, 0.5, 10_000, (5000, 0.5)),
        (None, 0.0, 10_000, (0, 0.0)),
        (None, 1 / 3, 10_000, (3333, 1 / 3)),
        (2000, 0.5, 10_000, (2000, 0.5)),
        (5000, None, 0, (5000, None)),
        (None, 0.5, 0, (0, 0.5)),
    ],
)
def test_watched_time_and_part_are_each_known_from_the_other(
    watch_ms: int | None, completion: float | None, duration_ms: int | None, expected: Any
) -> None:
    assert watched(watch_ms, completion, duration_ms) == expected


@pytest.mark.parametrize(
    ("watch_ms", "completion", "duration_ms", "expected"),
    [
        (18_000, None, 60_000, True),
        (17_999, None, 60_000, False),
        (18_000, None, 18_000, True),
        (17_999, None, 18_000, True),
        (16_200, None, 18_000, True),
        (16_199, None, 18_000, False),
        (5000, None, 5000, True),
        (4499, None, 5000, False),
        (0, None, 5000, False),
        (18_000, None, None, True),
        (17_999, None, None, False),
        (17_999, None, 0, False),
        (18_000, None, 0, True),
        (None, 1.0, None, True),
        (None, 1.0, 60_000, True),
        (0, 1.0, 60_000, True),
        (None, 0.9, None, True),
        (None, 0.899, None, False),
        (None, 0.3, 60_000, True),
        (None, 0.29, 60_000, False),
        (None, 0.899, 5000, False),
        (1000, 0.9, 60_000, True),
        (5000, 0.5, 5000, False),
        (18_000, 0.5, 60_000, True),
        (18_000, 0.0, 60_000, True),
        (None, None, 60_000, True),
        (None, None, None, True),
    ],
)
def test_an_engaged_view_is_near_the_end_or_18_seconds_long_or_of_any_length(
    watch_ms: int | None, completion: float | None, duration_ms: int | None, *, expected: bool
) -> None:
    assert is_engaged(watch_ms, completion, duration_ms) is expected


@pytest.mark.parametrize(
    ("deed", "watch_ms", "engaged"),
    [("watch", 9_000, True), ("watch", 8_999, False), ("like", 10_000, False)],
)
def test_the_log_keeps_an_event_as_it_was_and_whether_it_was_engaged(
    world: Session, deed: str, watch_ms: int, *, engaged: bool
) -> None:
    record(world, "viewer", "v", deed, at=NOON, key="k", watch_ms=watch_ms)
    assert log(world) == {
        ("viewer", "k"): {
            "video": "v", "kind": deed, "at": NOON, "watch_ms": watch_ms, "completion": None,
            "engaged": engaged,
        }
    }  # fmt: skip


def test_times_are_kept_in_utc(world: Session) -> None:
    there = datetime(2026, 1, 2, 2, 0, 0, 1, tzinfo=timezone(timedelta(hours=14)))
    record(world, "viewer", "v", "like", at=there, key="k")
    kept = log(world)["viewer", "k"]["at"]
    assert kept == datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
    assert kept.utcoffset() == states(world)["viewer", "v"]["liked_at"].utcoffset() == timedelta()


def test_an_event_is_of_now_with_a_new_key_by_default(
    world: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalars, "now", lambda: at(7))
    assert [record(world, "viewer", "v", "share") for _ in range(3)] == [True] * 3
    assert states(world)["viewer", "v"]["shares"] == 3
    assert len(log(world)) == 3
    assert {row["at"] for row in log(world).values()} == {at(7)}


@pytest.mark.parametrize(
    ("column", "body"),
    [
        ("id", {"key": ""}),
        ("id", {"key": "a\0b"}),
        ("kind", {"kind": "Like"}),
        ("at", {"at": datetime(2026, 1, 1)}),  # noqa: DTZ001
        ("at", {"at": datetime(2100, 1, 1, tzinfo=UTC)}),
        ("watch_ms", {"watch_ms": -1}),
        ("watch_ms", {"watch_ms": 2**31}),
        ("completion", {"completion": 1.0000001}),
        ("completion", {"completion": float("nan")}),
        ("user", {"user": "\ud800"}),
        ("video", {"video": ""}),
    ],
)
def test_an_event_that_is_not_of_its_form_is_refused(
    world: Session, column: str, body: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValue, match=f"^{column}: "):
        record(world, **{"user": "viewer", "video": "v", "kind": "like", **body})
    assert log(world) == {}


def test_the_same_event_again_is_ignored(world: Session) -> None:
    body: dict[str, Any] = {"at": NOON, "key": "k", "watch_ms": 5000, "completion": 0.1}
    assert record(world, "viewer", "v", "watch", **body) is True
    before = states(world), log(world), pending(world)
    body["at"] = NOON.astimezone(timezone(timedelta(hours=-8)))
    assert record(world, "viewer", "v", "watch", **body) is False
    assert (states(world), log(world), pending(world)) == before


FIRST = make_event("watch", key="k", watch_ms=5000, completion=0.5)


@pytest.mark.parametrize(
    ("change", "was", "is_now"),
    [
        (
            {"video": "w"},
            "watch of 'v' 2026-01-01T12:00:00Z watch_ms 5000 completion 0.5",
            "watch of 'w' 2026-01-01T12:00:00Z watch_ms 5000 completion 0.5",
        ),
        (
            {"kind": "like", "watch_ms": None, "completion": None},
            "watch of 'v' 2026-01-01T12:00:00Z watch_ms 5000 completion 0.5",
            "like of 'v' 2026-01-01T12:00:00Z",
        ),
        ({"at": at(1)}, "12:00:00Z", "12:01:00Z watch_ms 5000 completion 0.5"),
        ({"watch_ms": 5001}, "watch_ms 5000 completion 0.5", "watch_ms 5001 completion 0.5"),
        ({"watch_ms": None}, "watch_ms 5000 completion 0.5", "12:00:00Z completion 0.5"),
        ({"completion": 0.25}, "completion 0.5", "completion 0.25"),
        ({"completion": None}, "completion 0.5", "watch_ms 5000"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_the_same_key_with_another_body_is_an_error_that_names_both(
    world: Session, change: dict[str, Any], was: str, is_now: str, *, at_once: bool
) -> None:
    make_video(world, "w")
    second = replace(FIRST, **change)
    batch = [make_event("share"), FIRST, second] if at_once else [make_event("share"), second]
    if not at_once:
        record_many(world, [FIRST])
    before = states(world), log(world), pending(world)
    with pytest.raises(EventConflict) as caught:
        record_many(world, batch)
    past, present = str(caught.value).split(", and is now ")
    assert past.startswith(
        f"events[{len(batch) - 1}]: event 'k' of user 'viewer' was recorded before as watch of 'v' "
    )
    assert was in past
    assert present.endswith(is_now)
    assert (states(world), log(world), pending(world)) == before


def test_two_users_may_use_one_key(world: Session) -> None:
    make_user(world, "other")
    record(world, "viewer", "v", "like", at=NOON, key="k")
    assert record(world, "other", "v", "share", at=at(1), key="k") is True
    assert set(log(world)) == pending(world) == {("viewer", "k"), ("other", "k")}
    assert states(world) == {
        ("viewer", "v"): {**BLANK, "liked_at": NOON, "engaged_at": NOON},
        ("other", "v"): {
            **BLANK,
            "shares": 1,
            "acted_at": at(1),
            "engaged_at": at(1),
            "first_at": at(1),
            "last_at": at(1),
        },
    }


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (make_event("like", user="nobody"), UnknownUser, "there is no user 'nobody'"),
        (make_event("like", "nothing"), UnknownVideo, "there is no video 'nothing'"),
        (make_event("like", "nothing", "nobody"), UnknownUser, "there is no user 'nobody'"),
    ],
)
def test_an_unknown_user_or_video_is_an_error_and_nothing_is_written(
    world: Session, bad: Event, error: type[RecommenderError], message: str
) -> None:
    with counted_statements(world.connection()) as sent, pytest.raises(error) as caught:
        record_many(world, [make_event("like"), bad, make_event("share")])
    assert str(caught.value) == f"events[1]: {message}"
    assert writes(sent) == []


def test_a_batch_that_skips_errors_keeps_the_good_events_and_tells_the_others_by_place(
    world: Session,
) -> None:
    record_many(world, [FIRST])
    world.execute(sa.update(LEARNING_STATE).values(events_horizon=at(-10)))
    batch = [
        make_event("like", user="nobody"),
        make_event("share"),
        FIRST,
        replace(FIRST, watch_ms=1),
        make_event("like", "nothing"),
        make_event("like", at=at(-20)),
        make_event("like", at=scalars.now() + timedelta(hours=1)),
        make_event("share"),
    ]
    result = record_many(world, batch, on_error="skip")
    assert result == Counts(2, unchanged=1, too_old=1, rejected=result.rejected)
    assert {place: type(error) for place, error in result.rejected.items()} == {
        0: UnknownUser, 3: EventConflict, 4: UnknownVideo, 5: EventTooOld, 6: InvalidValue,
    }  # fmt: skip
    assert str(result.rejected[0]) == "there is no user 'nobody'"
    assert states(world)["viewer", "v"]["shares"] == 2
    assert len(log(world)) == 3
    with pytest.raises(InvalidValue, match=r"^on_error: 'ignore' is not one of stop, skip$"):
        record_many(world, batch, on_error="ignore")  # type: ignore[arg-type] # the test


def test_a_key_without_a_time_is_the_same_event_at_any_time(world: Session) -> None:
    make_video(world, "w")
    body: dict[str, Any] = {"key": "k", "watch_ms": 5000, "completion": 0.1}
    assert record(world, "viewer", "v", "watch", **body) is True
    before = states(world), log(world), pending(world)
    assert record(world, "viewer", "v", "watch", **body) is False
    for change in (
        {"video": "w"}, {"kind": "share"}, {"watch_ms": 5001}, {"completion": None}, {"at": NOON},
    ):  # fmt: skip
        with pytest.raises(EventConflict):
            record(world, **{"user": "viewer", "video": "v", "kind": "watch", **body, **change})
    assert (states(world), log(world), pending(world)) == before


def test_no_events_are_no_statements(session: Session) -> None:
    with counted_statements(session.connection()) as sent:
        assert record_many(session, []) == Counts()
    assert sent == []


def test_pending_are_the_keys_of_the_new_events_alone(world: Session) -> None:
    make_user(world, "other")
    first = [make_event("share", key=key) for key in "abc"]
    assert record_many(world, first) == Counts(inserted=3)
    assert pending(world) == {("viewer", key) for key in "abc"}
    world.execute(sa.delete(PENDING))
    second = [make_event("share", key="d"), make_event("share", user="other", key="a")]
    assert record_many(world, [*first, *second, *second]) == Counts(inserted=2, unchanged=5)
    assert pending(world) == {("viewer", "d"), ("other", "a")}


def sent_by_one(session: Session, deed: str, key: str) -> list[str]:
    with counted_statements(session.connection()) as sent:
        record(session, "viewer", "v", deed, at=NOON, key=key)
    return sent


def test_one_event_is_two_reads_and_one_write(world: Session, kind: str) -> None:
    upsert_videos(world, [{"id": "v", "creator": "them", "sound": "s", "hashtags": ["a", "b"]}])
    for deed, tables in (("impression", 3), ("watch", 4), ("like", 4), ("like", 3)):
        sent = sent_by_one(world, deed, key=f"{deed}{tables}")
        assert len(writes(sent)) == (1 if kind == "postgresql" else tables)
        assert len(sent) - len(writes(sent)) == 2
        assert len(sent_by_one(world, deed, key=f"{deed}{tables}")) == 2


def test_events_of_all_kinds_are_written_by_few_statements(world: Session, kind: str) -> None:
    upsert_videos(world, [{"id": "v", "creator": "them"}])
    sent = [
        statement
        for turn in range(3)
        for place, deed in enumerate(random.Random(turn).sample(scalars.EVENT_KINDS, 12))  # noqa: S311
        for statement in writes(sent_by_one(world, deed, key=f"{turn}-{place}"))
    ]
    # With and without affinities, and with and without the columns of likes and so on.
    assert len(set(sent)) <= {"postgresql": 4, "sqlite": 5}[kind]
    # psycopg converts a longer text again at each execution.
    assert max(map(len, sent)) <= 4096


def test_no_statement_is_sent_per_event(world: Session) -> None:
    numbers = []
    for size in (2, 2000):
        batch = [make_event("share") for _ in range(size)]
        with counted_statements(world.connection()) as sent:
            record_many(world, batch)
        numbers.append(len(sent))
    assert numbers[0] == numbers[1]
    assert states(world)["viewer", "v"]["shares"] == 2002


DURATIONS = {"short": 10_000, "long": 60_000, "unknown": None}
BODY = st.fixed_dictionaries({
    "user": st.sampled_from(["viewer", "other"]),
    "video": st.sampled_from(sorted(DURATIONS)),
    "kind": st.sampled_from(scalars.EVENT_KINDS),
    "at": st.integers(0, 5).map(at),
    "watch_ms": st.sampled_from([None, 0, 2500, 10_000, 18_000]),
    "completion": st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
})  # fmt: skip


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]]]:
    """Some events, and the same in any order, in any batches, some of them again."""
    bodies = draw(st.lists(BODY, min_size=1, max_size=12))
    events = [Event(key=f"k{number}", **body) for number, body in enumerate(bodies)]
    repeats = draw(st.lists(st.sampled_from(events), max_size=6))
    stream = draw(st.permutations([*events, *repeats]))
    cuts = sorted(draw(st.sets(st.integers(1, len(stream)), max_size=4)))
    bounds = [0, *cuts, len(stream)]
    return events, [stream[low:high] for low, high in pairwise(bounds)]


def expected_states(events: Iterable[Event]) -> Rows:
    """The states by the documented rules, each column from all events at once."""
    of_pair: dict[Pair, list[Event]] = {}
    for event in events:
        of_pair.setdefault((event.user, event.video), []).append(event)
    return {pair: expected_state(each, DURATIONS[pair[1]]) for pair, each in of_pair.items()}


def expected_state(events: Sequence[Event], duration_ms: int | None) -> dict[str, Any]:
    kinds = Counter(event.kind for event in events)
    watches = [event for event in events if event.kind == "watch"]
    parts = [watched(event.watch_ms, event.completion, duration_ms) for event in watches]
    deeds = [Deed(each.kind, each.at, each.watch_ms, each.completion) for each in events]
    latest = {
        kind: max((event.at for event in events if event.kind == kind), default=None)
        for kind in scalars.EVENT_KINDS
    }
    return {
        "impressions": kinds["impression"] + kinds["watch"],
        "plays": kinds["watch"],
        "engaged_views": sum(
            is_engaged(event.watch_ms, event.completion, duration_ms) for event in watches
        ),
        "completion": max((part or 0.0 for _, part in parts), default=0.0),
        "watch_ms": sum(watch_ms or 0 for watch_ms, _ in parts),
        "shares": kinds["share"],
        "comments": kinds["comment"],
        "reports": kinds["report"],
        "conversions": kinds["convert"],
        "liked_at": latest["like"],
        "unliked_at": latest["unlike"],
        "saved_at": latest["save"],
        "unsaved_at": latest["unsave"],
        "not_interested_at": latest["not_interested"],
        "interested_at": latest["interested"],
        "acted_at": max((deed.at for deed in deeds if is_act(deed, duration_ms)), default=None),
        "engaged_at": max(positive_times(deeds, duration_ms), default=None),
        "first_at": min(event.at for event in events),
        "last_at": max(event.at for event in events),
    }


def is_act(deed: Deed, duration_ms: int | None) -> bool:
    """Whether an event is positive and never taken back."""
    return deed.kind in {"share", "comment", "convert"} or is_engaged_view(deed, duration_ms)


def expected_log(events: Iterable[Event]) -> Rows:
    return {
        (event.user, event.key): {
            "video": event.video,
            "kind": event.kind,
            "at": event.at,
            "watch_ms": event.watch_ms,
            "completion": event.completion,
            "engaged": event.kind == "watch"
            and is_engaged(event.watch_ms, event.completion, DURATIONS[event.video]),
        }
        for event in events
    }


@pytest.mark.slow
def test_any_order_any_batches_and_any_repeats_give_one_state(session: Session) -> None:
    upsert_users(session, [{"id": "viewer"}, {"id": "other"}])
    for video, duration_ms in DURATIONS.items():
        make_video(session, video, duration_ms=duration_ms)

    @settings(max_examples=150)
    @given(deliveries())
    def compare(delivery: tuple[list[Event], list[list[Event]]]) -> None:
        events, batches = delivery
        with session.begin_nested() as savepoint:
            counts = [record_many(session, batch) for batch in batches]
            assert states(session) == expected_states(events)
            assert log(session) == expected_log(events)
            assert pending(session) == {(event.user, event.key) for event in events}
            savepoint.rollback()
        assert sum(each.inserted for each in counts) == len(events)
        assert sum(each.unchanged for each in counts) == sum(map(len, batches)) - len(events)

    compare()


def prepare(engine: Engine, users: int, videos: int) -> None:
    def write(session: Session) -> None:
        upsert_users(session, [{"id": f"u{n}"} for n in range(users)])
        row = {"creator": "c", "published_at": NOON, "duration_ms": 10_000}
        upsert_videos(session, [{"id": f"v{n}", **row} for n in range(videos)])

    run_transaction(engine, write)


def in_eight_threads(work: Callable[[int], Any]) -> list[Any]:
    """What the same work gives in eight threads that begin together."""
    barrier = Barrier(8, timeout=60)

    def begin(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(begin, range(8)))


def test_no_share_of_eight_threads_is_lost(engine: Engine) -> None:
    prepare(engine, users=1, videos=1)

    def share(number: int) -> None:
        for turn in range(40):
            key = f"{number}-{turn}"
            run_transaction(
                engine,
                lambda session, k=key: record(session, "u0", "v0", "share", key=k),
                settings=ONCE,
            )

    in_eight_threads(share)
    with Session(engine) as session:
        assert states(session)["u0", "v0"]["shares"] == 320
        assert len(log(session)) == len(pending(session)) == 320


PROCESSES = """
import os, sys
from recommender import Settings, create_engine, record, run_transaction

def share(number, turns):
    engine = create_engine(sys.argv[1])
    for turn in range(turns):
        key = f"{number}-{turn}"
        unit = lambda session: record(session, "u0", "v0", "share", key=key)
        run_transaction(engine, unit, settings=Settings(tries=1))

children = []
for number in range(8):
    if not (child := os.fork()):
        try:
            share(number, int(sys.argv[2]))
            os._exit(0)
        finally:
            os._exit(1)
    children.append(child)
print(*(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.slow
def test_no_share_of_eight_processes_is_lost(engine: Engine, database: str) -> None:
    prepare(engine, users=1, videos=1)
    engine.dispose()
    command = [sys.executable, "-c", PROCESSES, database, "20"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["0"] * 8
    with Session(engine) as session:
        assert states(session)["u0", "v0"]["shares"] == 160
        assert len(log(session)) == len(pending(session)) == 160


@pytest.mark.slow
def test_no_share_of_eight_asynchronous_tasks_is_lost(
    engine: Engine, database: str, kind: str
) -> None:
    prepare(engine, users=1, videos=1)
    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg_async"}[kind]

    async def run() -> None:
        made = create_async_engine(sa.make_url(database).set(drivername=driver))
        writing = recommender.prepare_engine(made).execution_options(recommender_write=True)

        async def share(number: int) -> None:
            for turn in range(20):
                async with AsyncSession(writing) as session, session.begin():
                    key = f"{number}-{turn}"
                    await session.run_sync(record, "u0", "v0", "share", key=key)

        await asyncio.gather(*map(share, range(8)))
        await made.dispose()

    asyncio.run(run())
    with Session(engine) as session:
        assert states(session)["u0", "v0"]["shares"] == 160
        assert len(log(session)) == len(pending(session)) == 160


def test_the_same_events_from_eight_threads_count_once(engine: Engine) -> None:
    prepare(engine, users=2, videos=3)
    events = [
        make_event("watch", f"v{n % 3}", f"u{n % 2}", key=f"k{n}", watch_ms=1000) for n in range(20)
    ]

    def deliver(number: int) -> int:
        new = 0
        for turn in range(5):
            batch = random.Random(number * 5 + turn).sample(events, 20)  # noqa: S311
            counts = run_transaction(
                engine,
                lambda session, b=batch: record_many(session, b),
                settings=ONCE,
            )
            assert counts.inserted + counts.unchanged == 20
            new += counts.inserted
        return new

    assert sum(in_eight_threads(deliver)) == 20
    with Session(engine) as session:
        assert set(log(session)) == pending(session) == {(e.user, e.key) for e in events}
        plays = Counter((event.user, event.video) for event in events)
        assert {pair: row["plays"] for pair, row in states(session).items()} == plays
        assert sum(row["watch_ms"] for row in states(session).values()) == 20_000


@pytest.mark.slow
def test_batches_in_any_order_from_eight_threads_never_deadlock(engine: Engine) -> None:
    prepare(engine, users=5, videos=5)
    pairs = [(f"u{u}", f"v{v}") for u in range(5) for v in range(5)]

    def deliver(number: int) -> Counter[Pair]:
        shuffled = random.Random(number)  # noqa: S311 - not for secrets
        sent: Counter[Pair] = Counter()
        for turn in range(15):
            chosen = shuffled.sample(pairs, 20)
            batch = [
                make_event("share", video, user, key=f"{number}-{turn}-{place}")
                for place, (user, video) in enumerate(chosen)
            ]
            run_transaction(
                engine,
                lambda session, b=batch: record_many(session, b),
                settings=ONCE,
            )
            sent.update(chosen)
        return sent

    sent = sum(in_eight_threads(deliver), Counter[Pair]())
    with Session(engine) as session:
        assert {pair: row["shares"] for pair, row in states(session).items()} == sent
    assert sent.total() == 8 * 15 * 20


@pytest.mark.parametrize("kind", ["postgresql"])
def test_rows_are_written_in_the_order_of_their_keys(engine: Engine) -> None:
    prepare(engine, users=5, videos=5)
    pairs = [(f"u{u}", f"v{v}") for u in range(5) for v in range(5)]
    random.Random(1).shuffle(pairs)  # noqa: S311 - not for secrets
    events = [
        make_event("share", video, user, key=str(99 - place))
        for place, (user, video) in enumerate(pairs)
    ]
    run_transaction(engine, lambda session: record_many(session, events))
    with Session(engine) as session:
        for table in (EVENTS, PENDING, INTERACTIONS):
            written = sa.select(*table.primary_key.columns).order_by(sa.text("ctid"))
            keys = [tuple(row) for row in session.execute(written)]
            assert keys == sorted(keys)
            assert len(keys) == 25


@pytest.mark.parametrize("kind", ["postgresql"])
def test_an_event_that_another_transaction_records_meanwhile_counts_once(engine: Engine) -> None:
    prepare(engine, users=1, videos=1)
    events = [make_event("share", "v0", "u0", key=key) for key in "ab"]

    def theirs() -> None:
        run_transaction(engine, lambda session: record_many(session, events[:1]))

    with just_before(engine, "SELECT named.key", theirs):
        counts = run_transaction(engine, lambda session: record_many(session, events))
    assert counts == Counts(inserted=1, unchanged=1)
    with Session(engine) as session:
        assert states(session)["u0", "v0"]["shares"] == 2
        assert pending(session) == set(log(session)) == {("u0", "a"), ("u0", "b")}


@pytest.mark.parametrize("kind", ["postgresql"])
def test_another_body_recorded_meanwhile_is_a_conflict(engine: Engine) -> None:
    prepare(engine, users=1, videos=1)
    ours = [make_event("share", "v0", "u0", key=key) for key in "ab"]

    def theirs() -> None:
        run_transaction(engine, lambda s: record_many(s, [replace(ours[1], kind="like")]))

    with (
        just_before(engine, "SELECT named.key", theirs),
        pytest.raises(
            EventConflict, match=r"^events\[1\]: event 'b' of user 'u0' was recorded before as like"
        ),
    ):
        run_transaction(engine, lambda session: record_many(session, ours))
    with Session(engine) as session:
        assert set(log(session)) == {("u0", "b")}
        assert states(session)["u0", "v0"]["shares"] == 0


@pytest.mark.parametrize("kind", ["postgresql"])
def test_an_event_that_someone_writes_without_the_lock_is_not_counted_twice(engine: Engine) -> None:
    prepare(engine, users=1, videos=1)
    event = make_event("share", "v0", "u0", key="k")
    same = {
        "user_id": sa.select(models.User.id).where(models.User.key == "u0").scalar_subquery(),
        "video_id": sa.select(models.Video.id).scalar_subquery(),
        "key": "k",
        "kind": "share",
        "at": event.at,
        "engaged": False,
    }

    def theirs() -> None:
        with engine.begin() as connection:
            connection.execute(sa.insert(EVENTS).values(**same))

    with just_before(engine, "WITH ", theirs), pytest.raises(RecommenderError, match="23505"):
        run_transaction(engine, lambda session: record_many(session, [event]), settings=ONCE)
    with Session(engine) as session:
        assert set(log(session)) == {("u0", "k")}
        assert states(session) == {}


COLUMNS = {column.name for table in Base.metadata.tables.values() for column in table.columns}


def changes_in_python(source: str) -> Iterator[str]:
    """Where a program adds to an attribute, or sets one that is a column, on anything but self."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AugAssign) and is_foreign(node.target):
            yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if is_foreign(node) and node.attr in COLUMNS:
                yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id == "setattr":
            yield ast.unparse(node)


def is_foreign(node: ast.expr) -> bool:
    of_self = (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )
    return isinstance(node, ast.Attribute) and not of_self


@pytest.mark.parametrize(
    "source",
    [
        "row.shares += 1",
        "row.shares -= 1",
        "rows[0].shares += 1",
        "find().video.impressions += n",
        "row.shares = row.shares + 1",
        "row.shares, row.plays = 1, 2",
        "row.plays: int = 5",
        "for row.plays in range(3): pass",
        "setattr(row, 'shares', 1)",
    ],
)
def test_a_change_of_a_row_in_python_is_found(source: str) -> None:
    assert list(changes_in_python(source))


@pytest.mark.parametrize("source", ["shares += 1", "state['shares'] += 1", "self.number += 1"])
def test_a_change_of_anything_else_is_not(source: str) -> None:
    assert list(changes_in_python(source)) == []


def test_no_row_is_changed_in_python_where_increments_would_be_lost() -> None:
    files = list(Path(recommender.__file__).parent.rglob("*.py"))
    found = {file.name: list(changes_in_python(file.read_text("utf-8"))) for file in files}
    assert {name: changes for name, changes in found.items() if changes} == {}
    assert len(files) > 10


def test_an_event_of_the_future_is_refused_and_nothing_written(world: Session) -> None:
    soon, later = (scalars.now() + timedelta(minutes=minutes) for minutes in (4, 6))
    assert record(world, "viewer", "v", "like", at=soon) is True
    before = states(world), log(world), pending(world)
    with pytest.raises(InvalidValue, match=r"^at: .* is in the future$"):
        record(world, "viewer", "v", "like", at=later)
    assert (states(world), log(world), pending(world)) == before
