"""The migration of merged users, on a filled database of the revision before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from recommender.database import migrations
from recommender.database.engine import create_engine
from recommender.database.transactions import writing
from tests.support.schemas import catalogue, downgrade, execute, rows, upgrade

USER = "INSERT INTO rec_users (id, key) VALUES ({0}, 'u{0}')"
STORED = "SELECT id, key, merged_into FROM rec_users ORDER BY id"


@contextlib.contextmanager
def own_transaction(bind: Engine) -> Iterator[Engine]:
    yield bind


@contextlib.contextmanager
def callers_transaction(bind: Engine) -> Iterator[Connection]:
    with writing(bind).begin() as connection:
        yield connection


@pytest.mark.parametrize("transaction", [own_transaction, callers_transaction])
def test_a_filled_database_goes_up_and_down(
    empty_database: str, new_database: Callable[..., str], kind: str, transaction: Any
) -> None:
    upgrade(empty_database, "0004")
    before = catalogue(empty_database)
    execute(empty_database, USER.format(1), USER.format(2))
    bind = create_engine(empty_database)
    with transaction(bind) as target:
        migrations.upgrade(target, "0005")
    # Old code goes on writing rows that name none of the new columns.
    execute(empty_database, USER.format(3), "UPDATE rec_users SET merged_into = 2 WHERE id = 1")
    assert rows(empty_database, STORED) == [(1, "u1", 2), (2, "u2", None), (3, "u3", None)]
    upgrade(empty_database)
    assert catalogue(empty_database) == catalogue(new_database(kind))
    migrations.check(bind)
    migrations.downgrade(bind, "0005")
    with transaction(bind) as target:
        migrations.downgrade(target, "0004")
    assert catalogue(empty_database) == before
    assert rows(empty_database, "SELECT count(*) FROM rec_users") == [(3,)]
    bind.dispose()


@pytest.mark.slow
def test_a_half_done_upgrade_can_be_repeated(empty_database: str, kind: str) -> None:
    upgrade(empty_database, "0004")
    execute(empty_database, USER.format(1))
    upgrade(empty_database, "0005")
    after = catalogue(empty_database)
    if kind == "postgresql":  # on SQLite it is one transaction
        execute(empty_database, "UPDATE rec_alembic_version SET version_num = '0004'")
        upgrade(empty_database, "0005")
    downgrade(empty_database, "0004")
    upgrade(empty_database, "0005")
    assert catalogue(empty_database) == after
