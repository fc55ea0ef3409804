"""The migration that fills what was served to users from the log of places."""

from __future__ import annotations

from tests.support.kinds import slow_on_postgresql
from tests.support.schemas import catalogue, downgrade, execute, rows, upgrade

SESSIONS = {"a": 1, "b": 1, "c": 2001}
"""The user of each session; the users are in two ranges of the migration."""

PLACES = (
    # session, position, video, page, minute
    ("a", 1, 11, 1, 0), ("a", 2, 12, 1, 0), ("a", 3, 13, 3, 1),
    ("b", 1, 13, 1, 2), ("b", 2, 11, 1, 2), ("b", 3, 14, 1, 2),
    ("c", 1, 11, 1, 3),
)  # fmt: skip

EXPECTED = [
    # user, video, session, minute, attempts, seen
    (1, 11, "b", 2, 2, True), (1, 12, "a", 0, 1, True), (1, 13, "b", 2, 2, False),
    (1, 14, "b", 2, 1, False), (2001, 11, "c", 3, 1, False),
]  # fmt: skip


def uuid(kind: str, name: str) -> str:
    return name * 32 if kind == "sqlite" else "-".join(name * n for n in (8, 4, 4, 4, 12))


def minute(kind: str, number: int) -> str:
    return str(number * 60_000_000) if kind == "sqlite" else f"'1970-01-01 00:{number:02}:00Z'"


def fill(url: str, kind: str) -> None:
    """Write sessions and places as they were at the migration before."""
    no = "0" if kind == "sqlite" else "false"
    for user in (1, 2001):
        execute(url, f"INSERT INTO rec_users (id, key) VALUES ({user}, 'u{user}')")  # noqa: S608
    for name, user in SESSIONS.items():
        execute(
            url,
            "INSERT INTO rec_feed_sessions (user_id, session, next_position, rewatch, started_at,"  # noqa: S608
            f" last_at) VALUES ({user}, '{uuid(kind, name)}', 9, {no}, {minute(kind, 0)},"
            f" {minute(kind, 9)})",
        )
    for name, position, video, page, at in PLACES:
        execute(
            url,
            "INSERT INTO rec_feed_items (user_id, session, position, video_id, page, asked,"  # noqa: S608
            " served_at, profile_id, score_key, sources, explored, crowded, signals) VALUES"
            f" ({SESSIONS[name]}, '{uuid(kind, name)}', {position}, {video}, {page}, 9,"
            f" {minute(kind, at)}, 1, 0, '', {no}, {no}, '{{}}')",
        )


@slow_on_postgresql
def test_what_was_served_is_remembered(empty_database: str, kind: str) -> None:
    upgrade(empty_database, "0003")
    before = catalogue(empty_database)
    fill(empty_database, kind)
    upgrade(empty_database)
    at = "last_at / 60000000" if kind == "sqlite" else "extract(minute FROM last_at)::int"
    query = (
        "SELECT user_id, video_id, CAST(session AS text),"  # noqa: S608
        f" {at}, attempts, seen FROM rec_served ORDER BY user_id, memory, video_id"
    )
    found = [(*row[:2], row[2][0], *row[3:5], bool(row[5])) for row in rows(empty_database, query)]
    assert found == EXPECTED
    places = "SELECT DISTINCT attempt, refilled FROM rec_feed_items"
    assert [(attempt, bool(refilled)) for attempt, refilled in rows(empty_database, places)] == [
        (None, False)
    ]
    # Code of the version before goes on.
    execute(empty_database, "DELETE FROM rec_feed_items", "DELETE FROM rec_feed_sessions",
            "DELETE FROM rec_users")  # fmt: skip
    fill(empty_database, kind)
    downgrade(empty_database, "0003")
    assert catalogue(empty_database) == before
    upgrade(empty_database)
    assert len(rows(empty_database, query)) == len(EXPECTED)
