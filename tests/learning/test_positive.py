"""One definition of positive: whatever makes a pair positive, everything learns the same of it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    Event,
    Settings,
    erase_user,
    prune,
    record_many,
    refresh,
    run_transaction,
    upsert_videos,
)
from recommender.database.expressions import is_positive, is_rejected
from recommender.database.transactions import writing
from recommender.evaluation.log_files import outcomes_of
from recommender.formats.scalars import EVENT_KINDS
from recommender.learning.engagement import DEFAULT_THRESHOLDS, fold_signs, no_signs, positive_since
from recommender.models import Interaction, LearningState, Video
from recommender.models.tables import NEIGHBOURS, RECENT, VIDEOS
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.positives import Deed, is_engaged_view, is_rejected_by, positive_times
from tests.support.refresh_worlds import (
    behave,
    check,
    expected_recent,
    expected_statistics,
    expected_trends,
    keyed,
    people,
    read,
    recent,
    statistics,
    trends,
)
from tests.support.worlds import NOON, at, make_event

POSITIVES: dict[str, dict[str, Any]] = {
    "like": {}, "save": {}, "share": {}, "comment": {}, "convert": {}, "interested": {},
    "watch": {"completion": 1.0}, "near the end": {"completion": 0.9}, "long": {"watch_ms": 18_000},
    "of unknown length": {},
}  # fmt: skip
"""What makes a pair positive: kinds of events, or watches."""

USERS, VIDEOS_OF_ALL = 12, 16


def positive(name: str, pair: tuple[int, int], minute: int) -> Event:
    """Return an event that makes a pair positive."""
    kind = name if name in EVENT_KINDS else "watch"
    user, video = pair
    body = {"key": f"{user}-{video}", "at": at(minute), **POSITIVES[name]}
    return make_event(kind, f"v{video}", f"u{user}", **body)


def world_of(seed: int) -> tuple[list[tuple[int, int]], list[Event]]:
    """Return pairs to make positive, and impressions and short watches of these and others."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    pairs = [(u, v) for u in range(USERS) for v in range(VIDEOS_OF_ALL) if chance.random() < 0.5]
    chosen = [pair for pair in pairs if chance.random() < 0.6]
    others = [
        make_event(
            kind, f"v{v}", f"u{u}", key=f"other-{u}-{v}", at=at(-n),
            **({"watch_ms": 4_000} if kind == "watch" else {}),
        )
        for n, (u, v) in enumerate(pairs)
        if (kind := chance.choice(["impression", "watch", ""]))
    ]  # fmt: skip
    return chosen, others


def learned(engine: Engine, batches: Iterable[Sequence[Event]], **options: Any) -> dict[str, Any]:
    """Return all that the events teach about videos, in a transaction that is rolled back."""
    tables = (NEIGHBOURS, RECENT)
    figures = (VIDEOS.c.id, VIDEOS.c.impressions, VIDEOS.c.engaged_views, VIDEOS.c.trending)
    with writing(engine).connect() as connection:
        connection.begin()
        for batch in batches:
            with Session(connection) as session:
                record_many(session, batch)
                session.commit()
            refresh(connection, as_of=at(9_999), **options)
        found: dict[str, Any] = {
            table.name: sorted(map(tuple, connection.execute(sa.select(table)))) for table in tables
        }
        rows = connection.execute(sa.select(*figures).order_by(VIDEOS.c.id)).all()
        found["statistics"] = [tuple(row[:3]) for row in rows]
        found["trends"] = [round(row.trending or 0.0, 9) for row in rows]
        state = Interaction
        labels = sa.select(state.user_id, state.video_id).where(is_positive(state))
        found["labels"] = sorted(map(tuple, connection.execute(labels)))
        connection.rollback()
    assert all(0 <= engaged <= viewed for _, viewed, engaged in found["statistics"])
    return found


def compare(engine: Engine, seed: int) -> None:
    """Check that any positive event in place of any other teaches the same."""
    pairs, others = world_of(seed)
    expected = None
    for name in POSITIVES:
        made = [positive(name, pair, minute) for minute, pair in enumerate(pairs)]
        found = learned(engine, [[*others, *made]])
        expected = expected or found
        assert found == expected, name
        assert len(found["labels"]) == len(pairs)
        assert found[NEIGHBOURS.name]
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    mixed = [positive(chance.choice([*POSITIVES]), pair, n) for n, pair in enumerate(pairs)]
    shuffled = chance.sample([*mixed, *others], len(mixed) + len(others))
    half = len(shuffled) // 2
    assert learned(engine, [shuffled]) == expected
    assert (
        learned(engine, [shuffled[:half], shuffled[half:]])["statistics"]
        == (expected or {})["statistics"]
    )


@slow_on_postgresql
def test_any_positive_event_teaches_the_same_as_any_other(engine: Engine) -> None:
    people(engine, USERS, VIDEOS_OF_ALL)
    compare(engine, 1)


@pytest.mark.slow
def test_any_positive_event_teaches_the_same_in_any_world(engine: Engine) -> None:
    people(engine, USERS, VIDEOS_OF_ALL)

    @settings(max_examples=12)
    @given(st.integers(2, 10**6))
    def any_world(seed: int) -> None:
        compare(engine, seed)

    any_world()


TAKEN_BACK = (
    ("like", "unlike"), ("save", "unsave"), *((name, "report") for name in POSITIVES),
    *((name, "not_interested") for name in POSITIVES),
)  # fmt: skip


@slow_on_postgresql
@pytest.mark.parametrize("is_late", [False, True])
def test_what_is_taken_back_never_happened(engine: Engine, *, is_late: bool) -> None:
    """Whether a refresh came in between or not; trends follow with a rebuild."""
    people(engine, USERS, VIDEOS_OF_ALL + len(TAKEN_BACK))
    pairs, others = world_of(3)
    kept = [*others, *(positive("like", pair, n) for n, pair in enumerate(pairs))]
    given, taken, seen = [], [], []
    for number, (name, back) in enumerate(TAKEN_BACK, start=VIDEOS_OF_ALL):
        for user in range(3):
            event = positive(name, (user, number), 1)
            given.append(event)
            taken.append(make_event(back, event.video, event.user, at=at(2)))
            seen.append(make_event("impression", event.video, event.user, at=at(1)))
    first = [*kept, *seen, *given]
    without = learned(engine, [[*kept, *seen]], rebuild=True)
    assert learned(engine, [first], rebuild=True)["statistics"] != without["statistics"]
    batches = [first, taken] if is_late else [[*first, *taken]]
    assert learned(engine, batches)["statistics"] == without["statistics"]
    assert learned(engine, batches, rebuild=True) == without


@only_sqlite
def test_without_an_impression_a_take_back_takes_the_impression_too(engine: Engine) -> None:
    people(engine, 2, 2)
    only = [make_event("like", "v1", "u1", at=at(1))]
    back = [make_event("unlike", "v1", "u1", at=at(2))]
    nothing = learned(engine, [[]])
    assert learned(engine, [only])["statistics"] != nothing["statistics"]
    assert learned(engine, [only, back])["statistics"] == nothing["statistics"]
    assert learned(engine, [only, back, only])["statistics"] == nothing["statistics"]
    shown = [make_event("impression", "v1", "u1", at=at(3))]
    counted = learned(engine, [only, back, shown])["statistics"]
    assert sum(viewed for _, viewed, _ in counted) == 1


@slow_on_postgresql
def test_what_takes_back_is_counted_with_what_it_takes_back(engine: Engine) -> None:
    """Batches are in the order of keys, which is not the order of time."""
    people(engine, 3, 3)
    seen = make_event("like", "v1", "u2", key="m", at=at(0))
    events = [make_event("like", "v1", "u1", key="z", at=at(1)),
              make_event("unlike", "v1", "u1", key="a", at=at(2)), seen]  # fmt: skip
    run_transaction(engine, lambda session: record_many(session, events))
    assert refresh(engine, settings=Settings(rollup_batch=1)).events == 3
    assert list(statistics(engine).values()) == [(1, 1)]


DEEDS = st.lists(
    st.builds(
        Deed,
        st.sampled_from(EVENT_KINDS),
        st.integers(0, 4).map(at),
        st.sampled_from([None, 0, 2_999, 9_000, 18_000]),
        st.sampled_from([None, 0.0, 0.89, 0.9]),
    ),
    max_size=9,
)


@settings(max_examples=150)
@given(DEEDS, st.sampled_from([None, 0, 10_000, 60_000]))
def test_a_state_is_positive_since_what_the_design_says(
    deeds: list[Deed], duration_ms: int | None
) -> None:
    state = no_signs()
    for deed in deeds:
        engaged = is_engaged_view(deed, duration_ms)
        fold_signs(state, deed.kind, deed.at, engaged=engaged)
    times = positive_times(deeds, duration_ms)
    assert positive_since(state) == (times[-1] if times else None)
    rows = [{"kind": d.kind, "at": d.at, "watch_ms": d.watch_ms, "completion": d.completion}
            for d in deeds]  # fmt: skip
    outcomes = outcomes_of(rows, duration_ms, DEFAULT_THRESHOLDS)
    assert ("engaged" in outcomes) == bool(times)


@slow_on_postgresql
def test_sql_says_the_same_of_states(engine: Engine) -> None:
    chance = random.Random(5)  # noqa: S311 - not for secrets
    people(engine, 8, 8)
    deeds: dict[tuple[str, str], list[Deed]] = {}
    for _ in range(160):
        pair = f"u{chance.randrange(8)}", f"v{chance.randrange(8)}"
        deed = Deed(chance.choice(EVENT_KINDS), at(chance.randrange(5)), chance.choice([0, 9_000]))
        deeds.setdefault(pair, []).append(deed)
    events = [
        make_event(deed.kind, video, user, at=deed.at, watch_ms=deed.watch_ms)
        for (user, video), listed in deeds.items()
        for deed in listed
    ]
    chance.shuffle(events)
    run_transaction(engine, lambda session: record_many(session, events))
    found = {
        (row[0], row[1]): row[2:]
        for row in read(
            engine, Interaction.user_id, Interaction.video_id,
            sa.case((is_positive(Interaction), 1), else_=0),
            sa.case((is_rejected(Interaction), 1), else_=0),
        )
    }  # fmt: skip
    positives = sorted(bool(positive_times(listed, 10_000)) for listed in deeds.values())
    rejected = sorted(map(is_rejected_by, deeds.values()))
    assert sorted(bool(p) for p, _ in found.values()) == positives
    assert sorted(bool(r) for _, r in found.values()) == rejected


@slow_on_postgresql
def test_an_erasure_subtracts_what_was_positive_and_what_was_taken_back(engine: Engine) -> None:
    people(engine, 8, 10)
    behave(engine, 8, 10, 250)
    refresh(engine)
    behave(engine, 8, 10, 60, seed=2)
    for user in ("u5", "u6"):
        erase_user(engine, user)
    refresh(engine)
    check(engine)


@slow_on_postgresql
def test_a_rebuild_judges_by_the_numbers_and_durations_of_today(engine: Engine) -> None:
    people(engine, 8, 10)
    unknown = [{"id": f"v{n}", "duration_ms": None} for n in range(10)]
    run_transaction(engine, lambda session: upsert_videos(session, unknown))
    behave(engine, 8, 10, 250)
    refresh(engine)
    check(engine)
    before = statistics(engine)
    known = [{"id": f"v{n}", "duration_ms": 5_200} for n in range(5)]
    run_transaction(engine, lambda session: upsert_videos(session, known))
    part = sa.update(LearningState).values(engaged_part=0.95, engaged_ms=4_000)
    run_transaction(engine, lambda session: session.execute(part))
    behave(engine, 8, 10, 40, seed=2)
    assert refresh(engine, rebuild=True).kept == 0
    assert statistics(engine) == expected_statistics(engine) != before
    assert recent(engine) == expected_recent(engine)
    again = statistics(engine), trends(engine)
    assert refresh(engine, rebuild=True).events == 0
    assert (statistics(engine), trends(engine)) == again


@slow_on_postgresql
def test_a_rebuild_keeps_the_states_of_pruned_events_and_counts_them(engine: Engine) -> None:
    people(engine, 2, 3)
    old, new = NOON - timedelta(days=40), NOON
    events = [
        make_event("watch", video, "u0", at=when, watch_ms=1_000)
        for video, when in (("v0", old), ("v1", old), ("v1", new), ("v2", new))
    ]
    run_transaction(engine, lambda session: record_many(session, events))
    refresh(engine)
    prune(engine, events_older_than=timedelta(days=20), as_of=NOON)
    part = sa.update(LearningState).values(engaged_part=0.1)
    run_transaction(engine, lambda session: session.execute(part))
    assert refresh(engine, rebuild=True).kept == 2
    names = keyed(engine)
    views = {names[v]: n for v, n in read(engine, Video.id, Video.engaged_views)}
    assert views == {"v0": 0, "v1": 0, "v2": 1}


@slow_on_postgresql
def test_a_trend_counts_once_and_keeps_what_was_taken_back_until_a_rebuild(engine: Engine) -> None:
    people(engine, 2, 2)
    steps = ["like", "unlike", "like", "unlike"]
    for minute, kind in enumerate(steps):
        event = make_event(kind, "v0", "u1", at=at(minute))
        run_transaction(engine, lambda session, event=event: record_many(session, [event]))
        refresh(engine)
        assert trends(engine) == pytest.approx(expected_trends(engine), abs=1e-9)
        assert len(trends(engine)) == 1
    assert statistics(engine) == {}
    refresh(engine, rebuild=True)
    assert trends(engine) == {}
