"""PostgreSQL behind PgBouncer with its defaults in transaction mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    DatabaseBusy,
    InvalidValue,
    QueryTimeout,
    RecommenderError,
    Settings,
    create_engine,
    run_transaction,
    upgrade,
)
from recommender.database import migrations
from recommender.database.transactions import translate_errors
from recommender.models.types import SCHEMA_REVISION
from tests.support.kinds import only_postgresql
from tests.support.pgbouncer import pgbouncer
from tests.support.schemas import UPGRADE_LOCK, add_migration, catalogue

NAMES = (
    "TimeZone", "idle_in_transaction_session_timeout", "jit", "lock_timeout", "plan_cache_mode",
    "statement_timeout",
)  # fmt: skip
EXPECTED = ["UTC", "60000", "off", "10000", "force_generic_plan", "15000"]
SHOWN = sa.text(
    'SELECT setting FROM pg_settings WHERE name = ANY (:names) ORDER BY name COLLATE "C"'
).bindparams(names=list(NAMES))
SETTINGS = "SELECT name, setting FROM pg_settings WHERE name <> 'application_name'"
INDEX = """
from recommender.database.migrations import index_options


def upgrade() -> None:
    with index_options(op.get_context()) as options:
        op.create_index("rec_events_video_id_ix", "rec_events", ["video_id"], **options)


def downgrade() -> None:
    op.drop_index("rec_events_video_id_ix")
"""
ADVISORY = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")


@pytest.fixture
def pooled(database: str) -> Iterator[str]:
    """The URL of a migrated database through PgBouncer."""
    with pgbouncer(database) as url:
        yield url


@contextmanager
def statements(bind: Engine) -> Iterator[list[str]]:
    """List the statements that an engine sends meanwhile."""
    sent: list[str] = []

    def look(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    sa.event.listen(bind, "before_cursor_execute", look)
    yield sent
    sa.event.remove(bind, "before_cursor_execute", look)


def serve(bind: Engine) -> int:
    """Serve a page twice, and return the number of statements that the second took."""
    for _ in range(2):
        with statements(bind) as sent:
            run_transaction(bind, lambda session: recommender.for_you(session, "ana"))
    return len(sent)


def add_ana(session: Session) -> None:
    recommender.upsert_users(session, [{"id": "ana"}])


@pytest.mark.slow
@only_postgresql
def test_every_transaction_has_its_settings_for_one_statement_and_leaves_none(
    pooled: str, database: str
) -> None:
    with psycopg.connect(pooled) as other:
        before = other.execute(SETTINGS).fetchall()
    through, direct = create_engine(pooled), create_engine(database)
    run_transaction(direct, add_ana)
    for bind in (direct, through):
        for level in ("READ COMMITTED", "SERIALIZABLE"):
            with bind.execution_options(isolation_level=level).connect() as connection:
                assert list(connection.scalars(SHOWN)) == EXPECTED
                connection.commit()
                assert list(connection.scalars(SHOWN)) == EXPECTED
    assert serve(through) == serve(direct) + 1
    with psycopg.connect(pooled) as other:
        assert other.execute(SETTINGS).fetchall() == before
    through.dispose()
    direct.dispose()


@pytest.mark.slow
@only_postgresql
def test_a_time_limit_holds_through_a_pooler(pooled: str) -> None:
    bind = create_engine(pooled, settings=Settings(statement_timeout=0.05))
    with translate_errors(), pytest.raises(QueryTimeout):
        run_transaction(bind, lambda session: session.execute(sa.text("SELECT pg_sleep(5)")))
    bind.dispose()


@pytest.mark.slow
@only_postgresql
def test_many_clients_share_one_connection_to_the_server(database: str) -> None:
    with pgbouncer(database, "default_pool_size = 1") as url:
        binds = [create_engine(url) for _ in range(4)]
        run_transaction(binds[0], add_ana)
        with ThreadPoolExecutor(4) as threads:
            pages = list(threads.map(serve, binds * 5))
        assert len(pages) == 20
        for bind in binds:
            bind.dispose()


@pytest.mark.slow
@only_postgresql
def test_an_upgrade_through_a_pooler_leaves_no_lock(
    new_database: Callable[..., str], database: str, migrations_copy: Path
) -> None:
    add_migration(migrations_copy, "9001", SCHEMA_REVISION, INDEX)
    upgrade(database)
    empty = new_database("postgresql", migrated=False)
    with pgbouncer(empty) as url:
        for _ in range(2):
            upgrade(url, settings=Settings(migration_wait=0))
            with psycopg.connect(url) as other:
                assert other.execute(str(ADVISORY)).fetchone() == (0,)
        with psycopg.connect(empty) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", [UPGRADE_LOCK])
            with pytest.raises(DatabaseBusy, match="another upgrade"):
                upgrade(url, settings=Settings(migration_wait=0))
        migrations.downgrade(url, "base")
        host_engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        upgrade(host_engine)
        with host_engine.connect() as connection:
            assert connection.scalar(sa.text("SHOW lock_timeout")) == "0"
        host_engine.dispose()
    assert catalogue(empty) == catalogue(database)


@pytest.mark.slow
@only_postgresql
def test_prepared_statements_through_a_pooler_are_explained(database: str) -> None:
    """Two hosts whose engines prepare statements, on one connection to the server."""
    with pgbouncer(database, "default_pool_size = 1") as pooled:
        url = pooled.replace("postgresql:", "postgresql+psycopg:")
        first, second = (
            sa.create_engine(url, connect_args={"prepare_threshold": 0}) for _ in range(2)
        )
        for bind in (first, second):
            bind.connect().close()
        assert ask(first) == 1
        with pytest.raises(RecommenderError, match="prepare_threshold to 0"):  # it is there already
            ask(second)
        with psycopg.connect(pooled, autocommit=True) as other:
            other.execute("DEALLOCATE ALL")
        with pytest.raises(RecommenderError, match="prepare_threshold to 0"):  # it is missing
            ask(first)
        first.dispose()
        second.dispose()


def ask(bind: Engine) -> int:
    with translate_errors(), bind.begin() as connection:  # psycopg forgets after a rollback
        return int(connection.scalar(sa.text("SELECT 1")) or 0)


@pytest.mark.slow
@only_postgresql
def test_a_url_that_asks_for_prepared_statements_gets_them(pooled: str, database: str) -> None:
    count = sa.text("SELECT count(*) FROM pg_prepared_statements")
    for url, threshold, expected in (
        (database, "", 1), (pooled, "", 0), (pooled, "?prepare_threshold=1", 1),
        (database, "?prepare_threshold=0", 0),
    ):  # fmt: skip
        bind = create_engine(f"{url}{threshold}")
        with bind.connect() as connection:
            for _ in range(3):
                connection.execute(sa.text("SELECT 7"))
            assert (connection.scalar(count) > 0) == expected, (url, threshold)
            connection.exec_driver_sql("DEALLOCATE ALL")
        bind.dispose()


def test_a_threshold_in_the_url_is_a_number() -> None:
    for wrong in ("x", "-1", "1.5"):
        with pytest.raises(InvalidValue, match=r"^database URL: prepare_threshold is not a number"):
            create_engine(f"postgresql://host/database?prepare_threshold={wrong}")
