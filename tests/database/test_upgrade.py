"""`upgrade` as a host calls it: on engines and connections, in transactions of the host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    DatabaseBusy,
    InvalidValue,
    RecommenderError,
    SchemaOutOfDate,
    Settings,
    create_engine,
    upgrade,
)
from recommender.database import migrations
from recommender.database.transactions import writing
from recommender.models.types import PREFIX, SCHEMA_REVISION, Base
from tests.support.kinds import only_postgresql, only_sqlite
from tests.support.schemas import UPGRADE_LOCK, add_migration, catalogue, execute, rows, tables

INDEX = """
from recommender.database.migrations import index_options

NAME = "rec_events_video_id_ix"


def upgrade() -> None:
    with index_options(op.get_context()) as options:
        op.drop_index(NAME, if_exists=True, **options)
        op.create_index(NAME, "rec_events", ["video_id"], **options)
"""

HOST_MIGRATION = '''"""A migration of the host that brings the tables of the recommender."""

import recommender
from alembic import context, op

revision = "host1"
down_revision = None


def upgrade():
    op.execute("CREATE TABLE clips (id integer PRIMARY KEY)")
    recommender.upgrade(op.get_bind())
    op.execute("CREATE TABLE comments (id integer PRIMARY KEY)")
    assert context.get_revision_argument() == "host1"
'''

HOST_ENV = """
from alembic import context

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.fixture
def host_engine(empty_database: str) -> Any:
    """An engine of the host on an empty database, made without this package."""
    bind = sa.create_engine(empty_database.replace("postgresql:", "postgresql+psycopg:"))
    yield bind
    bind.dispose()


def test_an_engine_of_the_host_is_upgraded(
    host_engine: Engine, empty_database: str, database: str
) -> None:
    upgrade(host_engine)
    upgrade(host_engine)
    assert catalogue(empty_database) == catalogue(database)
    assert host_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@only_sqlite
def test_foreign_keys_are_left_as_the_host_has_them(host_engine: Engine) -> None:
    for are_on in (1, 0):
        with host_engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA foreign_keys = {are_on}")
        upgrade(host_engine)
        with host_engine.connect() as connection:
            assert connection.scalar(sa.text("PRAGMA foreign_keys")) == are_on


@pytest.mark.parametrize("prepared", [True, False])
def test_a_database_in_memory_is_upgraded(prepared: bool) -> None:  # noqa: FBT001
    bind = create_engine("sqlite://") if prepared else sa.create_engine("sqlite://")
    upgrade(bind)
    migrations.check(bind)
    bind.dispose()


@pytest.mark.parametrize("is_begun", [True, False])
def test_on_a_connection_all_stays_in_the_callers_transaction(
    host_engine: Engine, empty_database: str, database: str, *, is_begun: bool
) -> None:
    with host_engine.connect() as connection:
        if is_begun:
            connection.execute(sa.text("SELECT 1"))
        upgrade(connection)
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            recommender.upsert_users(session, [{"id": "ana"}])
            session.commit()
        connection.rollback()
    assert tables(empty_database) == set()
    with host_engine.begin() as connection:
        upgrade(connection)
    assert catalogue(empty_database) == catalogue(database)


def test_a_hosts_own_migration_brings_the_tables(
    host_engine: Engine, empty_database: str, database: str, tmp_path: Path
) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "host1.py").write_text(HOST_MIGRATION)
    (tmp_path / "env.py").write_text(HOST_ENV)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = writing(recommender.prepare_engine(host_engine))
    command.upgrade(config, "head")
    assert rows(empty_database, "SELECT version_num FROM alembic_version") == [("host1",)]
    made = tables(empty_database)
    assert {"clips", "comments"} <= made
    assert {name for name in made if name.startswith(PREFIX)} == tables(database)


def test_later_indexes_are_plain_in_the_callers_transaction(
    database: str, migrations_copy: Path, new_database: Callable[..., str], kind: str
) -> None:
    add_migration(migrations_copy, "9001", SCHEMA_REVISION, INDEX)
    bind = create_engine(database)
    before = catalogue(database)
    with writing(bind).connect() as connection:
        upgrade(connection)
        connection.rollback()
        assert catalogue(database) == before
        upgrade(connection)
        connection.commit()
    other = new_database(kind)
    upgrade(bind_to_other := create_engine(other))
    assert catalogue(database) == catalogue(other) != before
    bind_to_other.dispose()
    bind.dispose()


@only_sqlite
def test_sqlite_rebuilds_no_table_whose_rows_a_host_deletes_with_it(
    database: str, migrations_copy: Path
) -> None:
    add_migration(migrations_copy, "9001", SCHEMA_REVISION, INDEX)
    execute(database, "CREATE TABLE host (id REFERENCES rec_videos ON DELETE CASCADE)")
    bind = create_engine(database)
    before = catalogue(database)
    message = r"^SQLite cannot rebuild tables .* because host refers to one with ON DELETE: pass "
    with writing(bind).begin() as connection, pytest.raises(RecommenderError, match=message):
        upgrade(connection)
    assert catalogue(database) == before
    upgrade(bind)
    assert catalogue(database) != before
    with writing(bind).begin() as connection:
        upgrade(connection)
    bind.dispose()


@only_postgresql
def test_upgrades_in_transactions_wait_for_each_other(
    host_engine: Engine, empty_database: str
) -> None:
    none = Settings(migration_wait=0)
    with host_engine.begin() as connection:
        upgrade(connection)
        for bind in (empty_database, host_engine):
            with pytest.raises(DatabaseBusy, match="another upgrade"):
                upgrade(bind, settings=none)
        with host_engine.begin() as other, pytest.raises(DatabaseBusy, match="another upgrade"):
            upgrade(other, settings=none)
    upgrade(host_engine, settings=none)
    assert rows(empty_database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [
        (0,)
    ]


@only_postgresql
def test_the_lock_of_an_upgrade_is_held_while_a_migration_commits(
    database: str, migrations_copy: Path
) -> None:
    add_migration(migrations_copy, "9001", SCHEMA_REVISION, INDEX)
    add_migration(migrations_copy, "9002", "9001", INDEX.replace("video_id_ix", "again_ix"))
    held = []

    def look(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "CONCURRENTLY" in statement:
            with psycopg.connect(database) as other:
                lock = other.execute("SELECT pg_try_advisory_xact_lock(%s)", [UPGRADE_LOCK])
                held.append(lock.fetchone() == (False,))

    bind = create_engine(database)
    sa.event.listen(bind, "before_cursor_execute", look)
    upgrade(bind)
    assert held == [True] * 4
    bind.dispose()


def test_an_async_connection_is_upgraded_in_its_transaction(
    kind: str, empty_database: str, database: str
) -> None:
    drivers = {"sqlite:": "sqlite+aiosqlite:", "postgresql:": "postgresql+psycopg_async:"}
    scheme = f"{kind}:"

    async def migrate() -> None:
        bind = create_async_engine(empty_database.replace(scheme, drivers[scheme]))
        async with bind.connect() as connection:
            await connection.run_sync(upgrade)
            await connection.rollback()
        assert tables(empty_database) == set()
        async with bind.begin() as connection:
            await connection.run_sync(upgrade)
        with pytest.raises(InvalidValue, match=r"AsyncEngine is no .*`await connection.run_sync"):
            upgrade(bind)  # type: ignore[arg-type]
        await bind.dispose()

    asyncio.run(migrate())
    assert catalogue(empty_database) == catalogue(database)


def create_all(url: str) -> None:
    bind = create_engine(url)
    Base.metadata.create_all(bind)
    bind.dispose()


def create_users_table(url: str) -> None:
    execute(url, "CREATE TABLE rec_users (name text)")


def create_users_view(url: str) -> None:
    execute(url, "CREATE VIEW rec_users AS SELECT 1 AS name")


@pytest.mark.parametrize(
    ("make", "named"),
    [(create_all, f"rec_affinities and {len(Base.metadata.tables) - 1} more"),
     (create_users_table, "rec_users"), (create_users_view, "rec_users")],
)  # fmt: skip
@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_table_in_the_way_is_named_and_nothing_is_written(
    empty_database: str,
    kind: str,
    make: Callable[[str], None],
    named: str,
    *,
    in_transaction: bool,
) -> None:
    make(empty_database)
    before = catalogue(empty_database), tables(empty_database)
    bind = create_engine(empty_database)
    schema = {"sqlite": "main", "postgresql": "public"}[kind]
    message = rf"^no migration made the table {named} in the schema {schema}: .* db upgrade`$"
    with pytest.raises(SchemaOutOfDate, match=message):
        _upgrade(bind, in_transaction=in_transaction)
    with pytest.raises(SchemaOutOfDate, match=message):
        migrations.check(bind)
    bind.dispose()
    assert (catalogue(empty_database), tables(empty_database)) == before


def _upgrade(bind: Engine, *, in_transaction: bool) -> None:
    if not in_transaction:
        upgrade(bind)
        return
    with writing(bind).begin() as connection:
        upgrade(connection)


def test_what_is_no_bind_is_refused() -> None:
    for bind in (None, 1, Session()):
        with pytest.raises(InvalidValue, match=r"^bind: a \w+ is no Engine, Connection or URL"):
            upgrade(bind)  # type: ignore[arg-type]


def test_a_connection_is_left_open_after_an_error(empty_database: str) -> None:
    create_users_table(empty_database)
    bind = create_engine(empty_database)

    def refused(connection: Connection) -> None:
        with pytest.raises(SchemaOutOfDate):
            upgrade(connection)
        connection.execute(sa.text("CREATE TABLE clips (id integer)"))

    with writing(bind).begin() as connection:
        refused(connection)
    assert tables(empty_database) == {"rec_users", "clips"}
    bind.dispose()
