"""The migration that partitions the log of places, on a filled database with granted rights."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg

from recommender import create_engine, for_you, prune, run_transaction
from tests.support.refresh_worlds import people
from tests.support.schemas import catalogue, downgrade, execute, rows, upgrade
from tests.support.worlds import NOON

DAY = timedelta(days=1)
ROLE = "recommender_test_of_rights"
RIGHTS = (
    "SELECT relowner::regrole::text, relacl::text FROM pg_class"
    " WHERE oid = 'rec_feed_items'::regclass"
)
PLACES = "SELECT * FROM rec_feed_items ORDER BY user_id, session, position"


def test_rows_and_rights_outlive_the_partitions_and_the_way_back(
    new_database: Callable[..., str],
) -> None:
    url = new_database("postgresql")
    downgrade(url, "0014")
    before = catalogue(url)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {ROLE}".encode())
    try:
        execute(url, f"GRANT SELECT, DELETE ON rec_feed_items TO {ROLE}")
        upgrade(url)
        ((owner, granted),) = rows(url, RIGHTS)
        assert f"{ROLE}=rd/{owner}" in granted
        engine = create_engine(url)
        people(engine, 1, 60)
        for day in (0, 8, 9):
            serve = partial(for_you, user="u0", limit=2, as_of=NOON + day * DAY)
            own: Any = {"session_id": UUID(int=day + 1)}
            run_transaction(engine, lambda s, serve=serve, own=own: serve(s, **own))
            prune(engine, sessions_older_than=30 * DAY, as_of=NOON + day * DAY)
        engine.dispose()
        parts = (
            "SELECT tableoid::regclass::text, count(*) FROM rec_feed_items GROUP BY 1 ORDER BY 1"
        )
        assert [count for _, count in rows(url, parts)] == [2, 2, 2]
        kept = rows(url, PLACES)
        downgrade(url, "0014")
        assert catalogue(url) == before
        assert (rows(url, PLACES), rows(url, RIGHTS)) == (kept, [(owner, granted)])
        upgrade(url)
        assert (rows(url, PLACES), rows(url, RIGHTS)) == (kept, [(owner, granted)])
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}".encode())
