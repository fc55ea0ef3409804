"""The migration of audiences and blocks, on a filled database of the revision before."""

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

VIDEO = (
    "INSERT INTO rec_videos (id, key, creator_id, status, published_at)"
    " VALUES ({0}, 'v{0}', 1, '{1}', {2})"
)
BLOCK = (
    "INSERT INTO rec_blocks (user_id, direction, other_id, blocked_at)"
    " VALUES (1, 'by_me', 2, {0}), (2, 'of_me', 1, {0})"
)
STATUS = "UPDATE rec_videos SET status = '{1}' WHERE id = {0}"
STORED = "SELECT id, status, visibility FROM rec_videos ORDER BY id"


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
    at = "0" if kind == "sqlite" else "'1970-01-01Z'"
    upgrade(empty_database, "0003")
    before = catalogue(empty_database)
    execute(
        empty_database,
        "INSERT INTO rec_users (id, key) VALUES (1, 'a'), (2, 'b')",
        VIDEO.format(1, "published", at),
        VIDEO.format(2, "removed", at),
        "INSERT INTO rec_video_captions (video_id, caption) VALUES (1, 'x')",
    )
    bind = create_engine(empty_database)
    with transaction(bind) as target:
        migrations.upgrade(target)
    assert catalogue(empty_database) == catalogue(new_database(kind))
    migrations.check(bind)
    # Old code goes on writing rows that name none of the new columns.
    execute(empty_database, VIDEO.format(3, "published", at))
    stored = [(1, "published", 0), (2, "removed", 0), (3, "published", 0)]
    assert rows(empty_database, STORED) == stored
    assert rows(empty_database, "SELECT count(*) FROM rec_users WHERE discoverable") == [(2,)]
    execute(
        empty_database,
        *(STATUS.format(n, word) for n, word in enumerate(("followers", "unlisted"), start=1)),
        BLOCK.format(at),
    )
    with transaction(bind) as target:
        migrations.downgrade(target, "0003")
    assert catalogue(empty_database) == before
    kept = "SELECT id, status FROM rec_videos ORDER BY id"
    assert rows(empty_database, kept) == [(1, "review"), (2, "review"), (3, "published")]
    bind.dispose()


@pytest.mark.slow
def test_a_half_done_upgrade_can_be_repeated(empty_database: str, kind: str) -> None:
    upgrade(empty_database, "0003")
    execute(empty_database, "INSERT INTO rec_users (id, key) VALUES (1, 'a')")
    upgrade(empty_database, "0004")
    after = catalogue(empty_database)
    if kind == "postgresql":  # on SQLite it is one transaction
        execute(empty_database, "UPDATE rec_alembic_version SET version_num = '0003'")
        upgrade(empty_database, "0004")
    downgrade(empty_database, "0003")
    upgrade(empty_database, "0004")
    assert catalogue(empty_database) == after
