"""The migration that creates the table of candidates from outside, on a filled database."""

from __future__ import annotations

from tests.support.kinds import slow_on_postgresql
from tests.support.schemas import catalogue, downgrade, execute, rows, upgrade

USER = "INSERT INTO rec_users (id, key) VALUES ({0}, 'u{0}')"
CANDIDATE = (
    "INSERT INTO rec_outside_candidates (user_id, source, video_id, score)"
    " VALUES (1, 'model', 7, 0.5)"
)


@slow_on_postgresql
def test_a_downgrade_deletes_candidates_and_nothing_else(empty_database: str) -> None:
    upgrade(empty_database, "0006")
    execute(empty_database, USER.format(1))
    before = catalogue(empty_database)
    for number in (2, 3):
        upgrade(empty_database)
        execute(empty_database, USER.format(number), CANDIDATE)
        downgrade(empty_database, "0006")
        assert catalogue(empty_database) == before
    assert rows(empty_database, "SELECT key FROM rec_users ORDER BY id") == [
        ("u1",), ("u2",), ("u3",),
    ]  # fmt: skip
    upgrade(empty_database)
    assert rows(empty_database, "SELECT count(*) FROM rec_outside_candidates") == [(0,)]
