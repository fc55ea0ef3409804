"""The migration that makes a second version of the profile `similar`."""

from __future__ import annotations

import pytest

from tests.support.kinds import slow_on_postgresql
from tests.support.schemas import downgrade, execute, rows, upgrade

TRENDS = (
    "SELECT p.version, w.weight, p.parent_id FROM rec_ranking_profiles p"
    " JOIN rec_profile_weights w ON w.profile_id = p.id"
    " WHERE p.name = 'similar' AND w.signal = 'trending' ORDER BY p.version"
)
WEIGHTS = (
    "SELECT w.signal, w.position, w.weight FROM rec_ranking_profiles p"
    " JOIN rec_profile_weights w ON w.profile_id = p.id"
    " WHERE p.name = 'similar' AND p.version = {} AND w.signal <> 'trending' ORDER BY w.position"
)
OWN = (
    "INSERT INTO rec_ranking_profiles (name, version, created_at)"
    " SELECT name, 2, created_at FROM rec_ranking_profiles WHERE name = 'similar'"
)


@slow_on_postgresql
def test_trends_count_more_in_the_second_version(empty_database: str) -> None:
    upgrade(empty_database, "0011")
    first = rows(empty_database, TRENDS)
    assert [row[:2] for row in first] == [(1, 0.2)]
    for _ in range(2):
        upgrade(empty_database)
        later = rows(empty_database, TRENDS)
        assert [row[:2] for row in later] == [(1, 0.2), (2, 0.5)]
        assert rows(empty_database, WEIGHTS.format(2)) == rows(empty_database, WEIGHTS.format(1))
        downgrade(empty_database, "0011")
        assert rows(empty_database, TRENDS) == first


@slow_on_postgresql
@pytest.mark.parametrize("made", ["0008", "0011"])
def test_a_version_of_the_host_stays_the_newest(empty_database: str, made: str) -> None:
    upgrade(empty_database, made)
    execute(empty_database, OWN)
    upgrade(empty_database)
    versions = "SELECT max(version) FROM rec_ranking_profiles WHERE name = 'similar'"
    assert rows(empty_database, versions) == [(2,)]
    assert [row[:2] for row in rows(empty_database, TRENDS)] == [(1, 0.2)]
