"""The migration that tells users created on sight from those of the host, on a filled database."""

from __future__ import annotations

from tests.support.kinds import slow_on_postgresql
from tests.support.schemas import catalogue, downgrade, execute, rows, upgrade

INSERT = "INSERT INTO rec_users (id, key) VALUES ({0}, 'u{0}')"


@slow_on_postgresql
def test_users_from_before_and_of_old_code_are_the_hosts(empty_database: str) -> None:
    upgrade(empty_database, "0001")
    execute(empty_database, INSERT.format(1))
    upgrade(empty_database, "0002")
    before = catalogue(empty_database)
    upgrade(empty_database)
    execute(empty_database, INSERT.format(2))
    query = "SELECT key FROM rec_users WHERE NOT on_sight ORDER BY id"
    assert rows(empty_database, query) == [("u1",), ("u2",)]
    downgrade(empty_database, "0002")
    assert catalogue(empty_database) == before
    assert rows(empty_database, "SELECT count(*) FROM rec_users") == [(2,)]
