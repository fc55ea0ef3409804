"""The migration that stores since when states are positive, on a filled database."""

from __future__ import annotations

from typing import Any

import pytest
from alembic import op

from recommender import refresh
from recommender.database.engine import create_engine
from tests.support.kinds import slow_on_postgresql
from tests.support.schemas import catalogue, downgrade, execute, rows, upgrade

FILLED = (
    "INSERT INTO rec_users (id, key) VALUES (1, 'u'), (2001, 'w')",
    (
        "INSERT INTO rec_videos (id, key, creator_id, published_at)"
        " SELECT n, 'v' || n, 1, {0} FROM {numbers}"
    ),
    (
        "INSERT INTO rec_events (user_id, key, video_id, kind, at, engaged)"
        " VALUES (1, 'a', 1, 'like', {3}, {false}), (2001, 'b', 1, 'share', {5}, {false})"
    ),
    (
        "INSERT INTO rec_events_pending (user_id, key, video_id, at, impressions, engaged_views)"
        " VALUES (1, 'a', 1, {3}, 1, 0)"
    ),
)
NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 12)"
    " SELECT n FROM s) numbers",
    "postgresql": "(SELECT generate_series(1, 12) AS n) numbers",
}
Times = dict[str, int]
STATES: list[tuple[dict[str, int], Times, tuple[int | None, int | None]]] = [
    ({"engaged_views": 1}, {"engaged_at": 5}, (5, 5)),
    ({"shares": 1}, {"engaged_at": 5, "liked_at": 3}, (5, 5)),
    ({"comments": 1}, {"engaged_at": 5, "liked_at": 5}, (1, 5)),
    ({"comments": 1}, {"engaged_at": 5, "saved_at": 5, "unsaved_at": 6}, (1, 1)),
    ({}, {"engaged_at": 5, "liked_at": 5}, (None, 5)),
    ({}, {"engaged_at": 5, "liked_at": 5, "unliked_at": 5}, (None, None)),
    ({}, {"engaged_at": 5, "liked_at": 5, "unliked_at": 6, "saved_at": 4}, (None, 4)),
    ({"shares": 1, "reports": 1}, {"engaged_at": 5}, (5, None)),
    ({"shares": 1}, {"engaged_at": 5, "not_interested_at": 2}, (5, None)),
    ({"impressions": 1}, {}, (None, None)),
]
"""Counts and times of a state, and its `acted_at` and `engaged_at` after the migration."""


def time(kind: str, hour: int) -> str:
    """Return a time as SQL: the hours after the beginning of 1970."""
    return str(hour * 3_600_000_000) if kind == "sqlite" else f"'1970-01-01 {hour:02}:00:00Z'"


def fill(url: str, kind: str) -> None:
    """Write a world as it was at the migration before."""
    written: dict[str, Any] = {"false": "0" if kind == "sqlite" else "false"}
    times = [time(kind, hour) for hour in range(10)]
    for statement in FILLED:
        execute(url, statement.format(*times, numbers=NUMBERS[kind], **written))
    for user in (1, 2001):
        for video, (counts, moments, _) in enumerate(STATES, start=1):
            at = {name: times[hour] for name, hour in moments.items()}
            values = {"user_id": user, "video_id": video, **counts, **at,
                      "first_at": times[1], "last_at": times[9]}  # fmt: skip
            execute(
                url,
                f"INSERT INTO rec_interactions ({', '.join(values)})"  # noqa: S608 - of this test
                f" VALUES ({', '.join(map(str, values.values()))})",
            )


@slow_on_postgresql
def test_states_become_positive_since_what_they_hold(empty_database: str, kind: str) -> None:
    upgrade(empty_database, "0001")
    before = catalogue(empty_database)
    fill(empty_database, kind)
    query = "SELECT video_id, acted_at, engaged_at FROM rec_interactions ORDER BY user_id, video_id"
    hour = "{0} / 3600000000" if kind == "sqlite" else "extract(hour FROM {0} AT TIME ZONE 'UTC')"
    for name in ("acted_at", "engaged_at"):
        query = query.replace(name, hour.format(name))
    upgrade(empty_database)
    expected = [(video, *after) for video, (_, _, after) in enumerate(STATES, start=1)]
    assert rows(empty_database, query) == expected * 2
    pending = "SELECT key, impressions, engaged_views FROM rec_events_pending WHERE NOT again"
    assert rows(empty_database, pending) == [("a", 1, 0)]
    execute(
        empty_database,
        "UPDATE rec_events SET kind = 'convert' WHERE key = 'b'",
        "UPDATE rec_events_pending SET engaged_views = -1",
        "UPDATE rec_learning_state SET engaged_part = 0.5",
    )
    downgrade(empty_database, "0001")
    assert catalogue(empty_database) == before
    assert rows(empty_database, "SELECT key FROM rec_events") == [("a",)]
    upgrade(empty_database)
    assert rows(empty_database, "SELECT engaged_part FROM rec_learning_state") == [(0.9,)]


@slow_on_postgresql
def test_a_rebuild_after_the_migration_counts_everything(empty_database: str, kind: str) -> None:
    upgrade(empty_database, "0001")
    fill(empty_database, kind)
    upgrade(empty_database)
    bind = create_engine(empty_database)
    refresh(bind, rebuild=True)
    bind.dispose()
    counted = "SELECT id, engaged_views FROM rec_videos WHERE impressions > 0 ORDER BY id"
    positive = [2 if since else 0 for _, _, (_, since) in STATES]
    assert rows(empty_database, counted) == [
        (video, number) for video, number in enumerate(positive, start=1) if number or video == 10
    ]


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.slow
def test_an_upgrade_of_many_users_locks_few_rows_at_once(empty_database: str, kind: str) -> None:
    upgrade(empty_database, "0001")
    fill(empty_database, kind)
    with pytest.MonkeyPatch.context() as patched:
        updated: list[str] = []
        patched.setattr("alembic.op.execute", _counting(updated))
        upgrade(empty_database)
    assert len(updated) == 3


def _counting(updated: list[str]) -> Any:
    execute_one = op.execute

    def execute_and_count(statement: Any) -> None:
        if "engaged_at=" in str(statement):
            updated.append(str(statement))
        execute_one(statement)

    return execute_and_count
