"""The migration that creates the table of suggestions, on a filled database."""

from __future__ import annotations

from tests.support.kinds import slow_on_postgresql
from tests.support.schemas import catalogue, downgrade, execute, rows, upgrade

USER = "INSERT INTO rec_users (id, key) VALUES ({0}, 'u{0}')"
DISMISSAL = "INSERT INTO rec_suggestions (user_id, creator_id) VALUES (1, 7)"


@slow_on_postgresql
def test_a_downgrade_deletes_suggestions_and_nothing_else(empty_database: str) -> None:
    upgrade(empty_database, "0009")
    execute(empty_database, USER.format(1))
    before = catalogue(empty_database)
    for number in (2, 3):
        upgrade(empty_database)
        execute(empty_database, USER.format(number), DISMISSAL)
        downgrade(empty_database, "0009")
        assert catalogue(empty_database) == before
    assert rows(empty_database, "SELECT key FROM rec_users ORDER BY id") == [
        ("u1",), ("u2",), ("u3",),
    ]  # fmt: skip
    upgrade(empty_database)
    assert rows(empty_database, "SELECT count(*) FROM rec_suggestions") == [(0,)]
