"""What a guest and a user both recorded, after a merge: counted once, in small batches."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    EventConflict,
    prune,
    record,
    record_many,
    refresh,
    rename_user,
    reset_user,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.formats.scalars import EVENT_KINDS
from recommender.ingest.merged_events import derived_key
from recommender.models import EventRow, Interaction, RecentEngagement, User
from recommender.operations import merge, merge_history
from recommender.operations.merge import merge_users
from recommender.operations.merge_history import move_history
from tests.support.kinds import slow_on_postgresql
from tests.support.refresh_worlds import expected_trends, read, statistics, trends
from tests.support.twin_databases import LEARNED
from tests.support.worlds import at, make_event

pytestmark = slow_on_postgresql

BOTH = ("guest", "ann")

UNKNOWN, LATER, BETWEEN, KEYS = "unknown", "later", "between", "keys"
"""Videos by when their durations change."""


def lasts(session: Session, duration_ms: int | None, *videos: str) -> None:
    rows: list[Any] = [
        {"id": video, "creator": "bob", "published_at": at(-1), "duration_ms": duration_ms,
         "hashtags": ["h"]}
        for video in videos
    ]  # fmt: skip
    upsert_videos(session, rows)


def changed_durations(engine: Engine) -> None:
    """A guest and a user with the same watches, of videos that got other durations since."""

    def write(session: Session) -> None:
        upsert_users(session, [{"id": key} for key in ("bob", *BOTH)])
        lasts(session, None, UNKNOWN)
        lasts(session, 10_000, LATER, BETWEEN, KEYS)
        for user in BOTH:
            for video, part in ((UNKNOWN, 0.8), (LATER, 0.95)):
                watched = make_event("watch", video, user, key=video, at=at(1), completion=part)
                record_many(session, [watched])
        first = make_event("watch", BETWEEN, "guest", key="b", at=at(1), completion=0.95)
        # Under one key, both shared another time.
        shares = [make_event("share", KEYS, user, key="k", at=at(n)) for n, user in enumerate(BOTH)]
        record_many(session, [first, *shares])
        lasts(session, 20_000, UNKNOWN, LATER, BETWEEN)
        second = make_event("watch", BETWEEN, "ann", key="b", at=at(1), completion=0.95)
        record_many(session, [second])

    run_transaction(engine, write)
    refresh(engine, as_of=at(99))


def learned(engine: Engine) -> dict[str, Any]:
    with Session(engine) as session:
        return {name: LEARNED[name](session) for name in ("affinities", "statistics")}


def test_what_both_watched_is_folded_again_by_the_log(engine: Engine) -> None:
    changed_durations(engine)
    found = merge_users(engine, *BOTH)
    assert (found.same, found.renamed) == (3, 1)
    columns = (Interaction.plays, Interaction.watch_ms, Interaction.shares)
    assert read(engine, *columns) == [(0, 0, 2), (1, 16_000, 0), (1, 19_000, 0), (1, 19_000, 0)]
    assert trends(engine) == pytest.approx(expected_trends(engine))
    before = learned(engine)
    refresh(engine, as_of=at(99), rebuild=True)
    after = learned(engine)
    assert after["affinities"] == pytest.approx(before["affinities"])
    assert [row[:3] for row in after["statistics"]] == [row[:3] for row in before["statistics"]]


def test_what_both_watched_of_pruned_pairs_is_worth_one_of_them_at_least(engine: Engine) -> None:
    changed_durations(engine)
    prune(engine, events_older_than=timedelta(days=1), as_of=at(0.5) + timedelta(days=1))
    with Session(engine) as session, session.begin():
        for row in session.query(Interaction):
            row.first_at = at(0)  # as if they had begun before the prune
    merge_users(engine, *BOTH)
    assert {row[1] for row in read(engine, Interaction.plays, Interaction.watch_ms) if row[0]} == {
        0, 9_500, 19_000,
    }  # fmt: skip
    assert all(viewed >= positive for viewed, positive in statistics(engine).values())


# One key for several events


def sent(kind: str, user: str, hours: float = 1, key: str = "k") -> Any:
    return make_event(kind, "v", user, key=key, at=at(hours))


def record_each(engine: Engine, *events: Any) -> list[int]:
    """Record events, one per transaction; return the number of new ones of each."""
    return [
        run_transaction(engine, lambda s, event=event: record_many(s, [event])).inserted
        for event in events
    ]


def people_of(engine: Engine, *keys: str) -> None:
    def write(session: Session) -> None:
        upsert_users(session, [{"id": key} for key in ("bob", *keys)])
        lasts(session, 10_000, "v")

    run_transaction(engine, write)


def logged(engine: Engine) -> list[str]:
    return sorted(kind for (kind,) in read(engine, EventRow.kind))


def test_no_event_is_lost_or_doubled_if_many_guests_use_one_key(engine: Engine) -> None:
    people_of(engine, *BOTH, "tv", "eve")
    guests = sent("share", "guest")
    assert record_each(engine, sent("like", "ann"), guests, replace(guests, user="tv")) == [1] * 3
    merges = [merge_users(engine, key, "ann") for key in ("guest", "tv")]
    assert [(found.renamed, found.same) for found in merges] == [(1, 0), (0, 1)]
    rename_user(engine, "guest", "old guest")
    people_of(engine, "guest")
    again = sent("comment", "guest")
    assert record_each(engine, again, sent("save", "eve")) == [1, 1]
    assert merge_users(engine, *BOTH).renamed == 1
    assert merge_users(engine, "ann", "eve").renamed == 1
    assert logged(engine) == ["comment", "like", "save", "share"]
    columns = (Interaction.shares, Interaction.comments)
    assert read(engine, *columns) == [(1, 1)]
    everyone = (*BOTH, "tv", "eve", "old guest")
    retried = [replace(event, user=user) for user in everyone for event in (guests, again)]
    assert {*record_each(engine, *retried)} == {0}


def test_an_event_under_a_derived_key_is_one_with_the_original(engine: Engine) -> None:
    people_of(engine, *BOTH, "eve")
    share, like = sent("share", "guest"), sent("like", "ann")
    assert record_each(engine, share, like, replace(share, user="eve")) == [1, 1, 1]
    assert merge_users(engine, *BOTH).renamed == 1
    found = merge_users(engine, "ann", "eve")
    assert (found.same, found.renamed) == (1, 1)
    assert logged(engine) == ["like", "share"]
    assert read(engine, Interaction.shares) == [(1,)]
    retried = [replace(event, user=user) for user in (*BOTH, "eve") for event in (share, like)]
    assert {*record_each(engine, *retried)} == {0}


def test_late_events_of_a_guest_are_kept_under_keys_of_their_own(engine: Engine) -> None:
    people_of(engine, *BOTH)
    assert record_each(engine, sent("like", "ann"), sent("share", "guest", key="l")) == [1, 1]
    merge_users(engine, *BOTH)
    late = [sent("comment", "guest", 2), sent("save", "guest", 2, "free"), sent("like", "guest")]
    counts = run_transaction(engine, lambda s: record_many(s, [*late, *late]))
    assert (counts.inserted, counts.unchanged) == (2, 4)
    retried = [replace(event, user=user) for event in late for user in BOTH]
    assert {*record_each(engine, *retried)} == {0}
    without = {"video": "v", "kind": "comment", "key": "k"}
    assert not run_transaction(engine, lambda s: record(s, "guest", **without))
    for other in (sent("convert", "guest", 2), sent("convert", "ann", 2)):
        with pytest.raises(EventConflict, match="event 'k' of user"):
            run_transaction(engine, lambda s, other=other: record_many(s, [other]))
        counts = run_transaction(
            engine, lambda s, other=other: record_many(s, [other], on_error="skip")
        )
        assert [*counts.rejected] == [0]
    assert logged(engine) == ["comment", "like", "save", "share"]
    assert read(engine, Interaction.shares, Interaction.comments) == [(1, 1)]


def test_two_late_events_with_one_key_are_a_conflict(engine: Engine) -> None:
    people_of(engine, *BOTH)
    record_each(engine, sent("like", "ann"))
    merge_users(engine, *BOTH)
    late = [sent("comment", "guest"), sent("share", "guest")]
    with pytest.raises(EventConflict, match=r"events\[1\]: event 'k' of user 'guest'"):
        run_transaction(engine, lambda s: record_many(s, late))
    assert logged(engine) == ["like"]


def test_a_late_event_and_its_copy_under_the_derived_key_are_one(engine: Engine) -> None:
    people_of(engine, *BOTH)
    record_each(engine, sent("like", "ann"))
    merge_users(engine, *BOTH)
    late = sent("comment", "guest")
    copy = replace(late, user="ann", key=derived_key("k", "guest"))
    counts = run_transaction(engine, lambda s: record_many(s, [copy, late]))
    assert (counts.inserted, counts.unchanged) == (1, 1)
    assert logged(engine) == ["comment", "like"]


# Batches and resets


def test_a_transaction_moves_few_rows_whatever_their_kind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    people_of(engine, *BOTH)
    videos = [f"w{n}" for n in range(6)]
    run_transaction(engine, lambda s: lasts(s, 10_000, *videos))
    log = [
        make_event(kind, video, "guest", key=f"{video} {kind}", at=at(1))
        for video in videos
        for kind in EVENT_KINDS
    ]
    run_transaction(engine, lambda s: record_many(s, log))
    moved: list[int] = []

    def counted(*args: Any) -> Any:
        rows = move_history(*args)
        moved.append(rows["rec_events"] + rows["rec_interactions"])
        return rows

    monkeypatch.setattr(merge, "move_history", counted)
    most = 2 * (len(EVENT_KINDS) + 1)
    monkeypatch.setattr(merge_history, "MAX_MOVED_ROWS", most)
    merge_users(engine, *BOTH)
    assert moved == [most] * 3 + [0]
    assert len(logged(engine)) == len(log)


@pytest.mark.parametrize("reset", BOTH)
def test_the_later_reset_of_either_forgets_the_engagements_of_both(
    engine: Engine, reset: str
) -> None:
    people_of(engine, *BOTH)
    (other,) = {*BOTH} - {reset}
    record_each(engine, sent("like", other, 1), sent("like", "bob", 1))
    refresh(engine, as_of=at(99))
    run_transaction(engine, lambda s: reset_user(s, reset, at=at(2)))
    merge_users(engine, *BOTH)
    ids = {key: row_id for row_id, key in read(engine, User.id, User.key)}
    assert [row[0] for row in read(engine, RecentEngagement.user_id)] == [ids["bob"]]
    with Session(engine) as session:
        assert {key[0] for key in LEARNED["affinities"](session)} == {"bob"}
