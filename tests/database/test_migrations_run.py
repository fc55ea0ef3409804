"""The migrations: what they make, in every way to run them, on both databases."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import Engine

from recommender.database import migrations
from recommender.database.engine import create_engine
from recommender.database.schema import check_schema
from recommender.database.transactions import writing
from recommender.errors import DatabaseBusy, InvalidValue, RecommenderError, SchemaOutOfDate
from recommender.models.types import PREFIX, SCHEMA_REVISION, VERSION_TABLE, Base
from recommender.settings import Settings
from tests.support.schemas import (
    ROOT,
    UPGRADE_LOCK,
    add_migration,
    alembic,
    catalogue,
    downgrade,
    environment,
    execute,
    rows,
    scripts,
    tables,
    upgrade,
)

CLASSIC = [
    ("completion", 0.4), ("likes", 0.3), ("shares", 0.25), ("follows", 0.35), ("hashtags", 0.2),
    ("sound", 0.15), ("language", 0.05), ("country", 0.02),
]  # fmt: skip


def test_a_migrated_database_is_what_the_models_say(
    kind: str, database: str, new_database: Callable[..., str]
) -> None:
    created = new_database(kind, migrated=False)
    bind = create_engine(created)
    Base.metadata.create_all(bind)
    bind.dispose()
    migrated = catalogue(database)
    assert migrated == catalogue(created)
    assert {row[0] for row in migrated["columns"]} >= set(Base.metadata.tables)


def test_a_difference_of_one_check_shows_in_the_catalogue(
    kind: str, database: str, new_database: Callable[..., str]
) -> None:
    other = new_database(kind)
    if kind == "sqlite":
        execute(
            other,
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_master SET sql = replace(sql, '-1e+06', '-1e+07')",
        )
    else:
        execute(
            other,
            "ALTER TABLE rec_videos DROP CONSTRAINT rec_videos_trending_ck",
            "ALTER TABLE rec_videos ADD CONSTRAINT rec_videos_trending_ck"
            " CHECK (trending BETWEEN 0 AND 1e16)",
        )
    assert catalogue(other) != catalogue(database)


def test_down_to_base_leaves_only_the_version_table_and_up_makes_all_again(database: str) -> None:
    execute(
        database,
        "CREATE TABLE users (name text)",
        "INSERT INTO users VALUES ('host')",
        "INSERT INTO rec_users (key) VALUES ('somebody')",
    )
    before = catalogue(database)
    downgrade(database)
    left = tables(database)
    assert {name for name in left if name.startswith(PREFIX)} == {VERSION_TABLE}
    assert rows(database, "SELECT * FROM rec_alembic_version") == []
    assert rows(database, "SELECT * FROM users") == [("host",)]
    upgrade(database)
    assert catalogue(database) == before
    assert rows(database, "SELECT * FROM users") == [("host",)]


def test_upgrading_twice_changes_nothing(database: str) -> None:
    execute(database, "INSERT INTO rec_users (key) VALUES ('somebody')")
    before = catalogue(database)
    upgrade(database)
    assert catalogue(database) == before
    assert rows(database, "SELECT key FROM rec_users") == [("somebody",)]


def test_an_upgraded_database_has_its_profiles_and_a_learning_state(empty_database: str) -> None:
    upgrade(empty_database)
    query = (
        "SELECT signal, weight FROM rec_profile_weights"
        " JOIN rec_ranking_profiles ON id = profile_id WHERE name = 'classic' ORDER BY position"
    )
    assert rows(empty_database, query) == CLASSIC
    profiles = "SELECT name, version FROM rec_ranking_profiles ORDER BY id"
    assert rows(empty_database, profiles) == [
        ("classic", 1), ("for_you", 1), ("similar", 1), ("people", 1),
        ("similar", 2),
    ]  # fmt: skip
    state = "SELECT id, hashtag_half_life_days, hashtag_rule FROM rec_learning_state"
    assert rows(empty_database, state) == [(1, 30.0, 1)]


def script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


@pytest.mark.slow
def test_ten_upgrades_at_once_all_succeed(empty_database: str, database: str) -> None:
    started = [
        subprocess.Popen(
            [script("recommender"), "db", "upgrade"], env=environment(empty_database),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(10)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in started]
    codes = [process.returncode for process in started]
    assert [each for each in zip(codes, said, strict=True) if each[0]] == []
    assert catalogue(empty_database) == catalogue(database)
    assert rows(empty_database, "SELECT * FROM rec_alembic_version") == [(SCHEMA_REVISION,)]
    assert rows(empty_database, "SELECT count(*) FROM rec_ranking_profiles") == [(5,)]


FAILING = '''"""A migration that fails midway."""

import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "{head}"


def upgrade():
    op.create_table("rec_half", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO rec_half VALUES (1)")
    op.execute("DELETE FROM rec_learning_state")
    op.execute("INSERT INTO rec_half VALUES (1)")
'''


@pytest.fixture
def failing_migration(migrations_copy: Path) -> Path:
    """One more migration, which fails after its first statements."""
    added = migrations_copy / "versions" / "9000_fails.py"
    added.write_text(FAILING.replace("{head}", SCHEMA_REVISION))
    return added


@pytest.mark.usefixtures("failing_migration")
def test_a_migration_that_fails_midway_leaves_nothing_behind(database: str) -> None:
    before = catalogue(database)
    with pytest.raises(RecommenderError):
        upgrade(database)
    assert catalogue(database) == before
    assert rows(database, "SELECT count(*) FROM rec_learning_state") == [(1,)]
    assert rows(database, "SELECT * FROM rec_alembic_version") == [(SCHEMA_REVISION,)]


def test_an_upgrade_is_one_transaction_of_all_its_migrations(
    empty_database: str, failing_migration: Path
) -> None:
    with pytest.raises(RecommenderError):
        upgrade(empty_database)
    assert {name for name in tables(empty_database) if name.startswith(PREFIX)} == set()
    # Of another length, because Python's cache knows a file by its length and the second it is of.
    text = failing_migration.read_text()
    failing_migration.write_text(text.replace("VALUES (1)", "VALUES (1 + 1)", 1))
    upgrade(empty_database)
    assert rows(empty_database, "SELECT id FROM rec_half ORDER BY id") == [(1,), (2,)]


@pytest.mark.slow
def test_a_hosts_own_tables_of_the_same_names_are_left_alone(empty_database: str) -> None:
    execute(
        empty_database,
        "CREATE TABLE users (id integer PRIMARY KEY, key text)",
        "CREATE INDEX users_key ON users (key)",
        "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('host7')",
    )
    before = catalogue(empty_database)
    upgrade(empty_database)
    bind = create_engine(empty_database)
    migrations.check(bind)
    bind.dispose()
    assert alembic(empty_database, "check") == "No new upgrade operations detected.\n"
    downgrade(empty_database)
    assert rows(empty_database, "SELECT * FROM alembic_version") == [("host7",)]
    assert hosts(catalogue(empty_database)) == hosts(before)


def hosts(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    return {
        part: [row for row in of_part if row[0] in {"users", "alembic_version"}]
        for part, of_part in found.items()
    }


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE rec_users ADD COLUMN nickname text"],
        ["ALTER TABLE rec_users DROP COLUMN device"],
        ["DROP INDEX rec_follows_creator_id_ix"],
        ["DROP TABLE rec_events_pending"],
    ],
)
def test_check_finds_what_differs_from_the_models(engine: Engine, statements: list[str]) -> None:
    migrations.check(engine)
    with writing(engine).begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    with pytest.raises(SchemaOutOfDate, match="differs from this package's in 1 places"):
        migrations.check(engine)


def test_a_table_of_the_hosts_with_our_prefix_is_no_difference(engine: Engine) -> None:
    with writing(engine).begin() as connection:
        connection.execute(sa.text("CREATE TABLE rec_center (id integer)"))
    migrations.check(engine)


def test_the_code_needs_the_only_head_of_the_migrations() -> None:
    assert scripts().get_heads() == [SCHEMA_REVISION]


def test_migrations_run_in_the_order_of_their_file_names() -> None:
    in_order = [Path(each.path).name for each in scripts().walk_revisions()][::-1]
    assert in_order == sorted(in_order)
    folder = migrations.migrations_folder() / "versions"
    assert in_order == sorted(path.name for path in folder.glob("*.py"))
    revisions = [each.revision for each in scripts().walk_revisions()]
    assert sorted(revisions, reverse=True) == revisions


def at_revision(engine: Engine, revision: str) -> None:
    with writing(engine).begin() as connection:
        connection.execute(
            sa.text("UPDATE rec_alembic_version SET version_num = :revision"),
            {"revision": revision},
        )


def test_the_schema_that_the_code_needs_passes(engine: Engine) -> None:
    with engine.connect() as connection:
        check_schema(connection)


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("0000", "the database is at migration 0000, .* run `recommender db upgrade`$"),
        ("9999", "the database is at migration 9999, newer than .* upgrade the package$"),
    ],
)
def test_another_schema_is_refused_with_what_to_do(
    engine: Engine, revision: str, message: str
) -> None:
    at_revision(engine, revision)
    with engine.connect() as connection, pytest.raises(SchemaOutOfDate, match=message):
        check_schema(connection)
    with pytest.raises(SchemaOutOfDate, match=message):
        migrations.check(engine)


def test_a_database_without_schema_is_refused_with_the_command_to_run(empty_database: str) -> None:
    bind = create_engine(empty_database)
    with bind.connect() as connection, pytest.raises(SchemaOutOfDate, match="run `recommender db"):
        check_schema(connection)
    bind.dispose()


def test_a_database_taken_down_to_base_is_refused_with_the_command_to_run(database: str) -> None:
    downgrade(database)
    bind = create_engine(database)
    with bind.connect() as connection, pytest.raises(SchemaOutOfDate, match="run `recommender db"):
        check_schema(connection)
    bind.dispose()


def test_a_database_of_a_newer_package_is_neither_upgraded_nor_listed(
    engine: Engine, database: str
) -> None:
    at_revision(engine, "9999")
    for act in (
        lambda: upgrade(database),
        lambda: downgrade(database),
        lambda: migrations.history(engine),
    ):
        with pytest.raises(SchemaOutOfDate, match=r"at migration 9999.* upgrade the package$"):
            act()


@pytest.mark.parametrize("revision", ["zzz", "9999", "", "base+4", "head@head", "head:base"])
def test_an_unknown_migration_is_refused(database: str, revision: str) -> None:
    for move in (upgrade, downgrade):
        with pytest.raises(InvalidValue, match=r"^there is no migration .* db history`$"):
            move(database, revision)


def test_history_says_what_is_applied(engine: Engine, database: str) -> None:
    (newest, *_) = migrations.history(engine)
    assert (newest.revision, newest.applied) == (SCHEMA_REVISION, True)
    downgrade(database)
    assert {each.applied for each in migrations.history(engine)} == {False}


@pytest.mark.slow
def test_alembic_upgrades_and_checks_in_a_checkout(empty_database: str, database: str) -> None:
    assert alembic(empty_database, "upgrade", "head") == ""
    assert catalogue(empty_database) == catalogue(database)
    assert alembic(empty_database, "check") == "No new upgrade operations detected.\n"
    assert alembic(empty_database, "current").startswith(f"{SCHEMA_REVISION} (head)")


@pytest.mark.slow
def test_the_printed_sql_makes_the_same_schema(empty_database: str, database: str) -> None:
    printed = alembic(empty_database, "upgrade", "head", "--sql")
    if empty_database.startswith("sqlite"):
        connection = sqlite3.connect(empty_database.removeprefix("sqlite:///"))
        connection.executescript(printed)
        connection.close()
    else:
        # One by one, as psql does: text sent at once is one transaction between COMMIT and BEGIN,
        # in which no index is made concurrently.
        with psycopg.connect(empty_database, autocommit=True) as server:
            for statement in printed.split(";\n\n"):
                server.execute(statement.encode())
    assert catalogue(empty_database) == catalogue(database)
    for table in ("alembic_version", "ranking_profiles", "profile_weights", "learning_state"):
        query = f"SELECT * FROM rec_{table}"  # noqa: S608 - a name of this test
        assert sorted(rows(empty_database, query)) == sorted(rows(database, query))
    bind = create_engine(empty_database)
    migrations.check(bind)
    bind.dispose()


def host_config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations.migrations_folder()))
    config.attributes["connection"] = connection
    return config


def test_a_connection_that_the_host_gives_is_used(empty_database: str, database: str) -> None:
    bind = create_engine(empty_database)
    with writing(bind).connect() as connection:
        transaction = connection.begin()
        command.upgrade(host_config(connection), "head")
        check_schema(connection)
        transaction.rollback()
    assert tables(empty_database) == set()
    with writing(bind).connect() as connection:
        command.upgrade(host_config(connection), "head")
    bind.dispose()
    assert catalogue(empty_database) == catalogue(database)


def test_a_database_in_memory_is_migrated_on_its_own_connection() -> None:
    bind = create_engine("sqlite://")
    with bind.begin() as connection:
        command.upgrade(host_config(connection), "head")
    migrations.check(bind)
    bind.dispose()


@pytest.fixture
def awkward_database(
    kind: str, new_database: Callable[..., str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of an empty database with a percent sign in its path or password."""
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path}/100%25 %s.db"
        return
    url = sa.make_url(new_database(kind, migrated=False))
    server = request.getfixturevalue("postgres_server")
    role, password = sql.Identifier("awkward"), "1%2%25s@:/'"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(role, password))
        mine = url.set(username="awkward", password=password)
        yield mine.render_as_string(hide_password=False)
        name = sql.Identifier(str(url.database))
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.slow
def test_a_percent_sign_in_the_password_or_the_path_works(awkward_database: str) -> None:
    upgrade(awkward_database)
    bind = create_engine(awkward_database)
    migrations.check(bind)
    if bind.dialect.name == "postgresql":
        with bind.connect() as connection:
            info = connection.connection.dbapi_connection.info  # type: ignore[union-attr]
            assert (info.user, info.password) == ("awkward", "1%2%25s@:/'")
    else:
        assert Path(str(bind.url.database)).exists()
    bind.dispose()
    assert alembic(awkward_database, "current").startswith(SCHEMA_REVISION)


@pytest.mark.slow
def test_a_percent_sign_in_the_folder_of_the_migrations_works(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "50% (here)s" / "migrations"
    shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "migrations_folder", lambda: folder)
    upgrade(empty_database)
    assert VERSION_TABLE in tables(empty_database)


def test_a_migration_gives_up_a_table_that_others_hold(new_database: Callable[..., str]) -> None:
    url = new_database("postgresql")
    before = catalogue(url)
    with psycopg.connect(url) as reader:
        reader.execute("SELECT FROM rec_users")
        with pytest.raises(DatabaseBusy):
            downgrade(url, migration_lock_timeout=0.05, tries=1)
        assert catalogue(url) == before
    downgrade(url, migration_lock_timeout=0.05)
    assert tables(url) == {VERSION_TABLE}


def test_an_upgrade_waits_for_another_no_longer_than_migration_wait(
    new_database: Callable[..., str],
) -> None:
    url = new_database("postgresql", migrated=False)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [UPGRADE_LOCK])
        with pytest.raises(DatabaseBusy, match="another upgrade"):
            upgrade(url, migration_wait=0)
        assert tables(url) == set()
    upgrade(url, migration_wait=0)
    assert VERSION_TABLE in tables(url)


LIMITS = """
from recommender.database.migrations import index_options

SHOWN = (
    "INSERT INTO limits SELECT name || ' ' || setting FROM pg_settings"
    " WHERE name IN ('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout')"
)


def upgrade() -> None:
    op.execute("CREATE TABLE limits (shown text)")
    op.execute(SHOWN)
    with index_options(op.get_context()) as options:
        op.execute(SHOWN)
"""


def test_a_migration_has_its_own_time_limits(
    new_database: Callable[..., str], migrations_copy: Path
) -> None:
    add_migration(migrations_copy, "9001", SCHEMA_REVISION, LIMITS)
    bind = create_engine(new_database("postgresql"))
    shown = sa.text("SELECT name || ' ' || setting FROM pg_settings WHERE name LIKE '%_timeout'")
    with bind.connect() as connection:
        before = set(connection.scalars(shown))
    migrations.upgrade(bind, settings=Settings(migration_lock_timeout=3))
    limits = sa.text("SELECT shown, count(*) FROM limits GROUP BY shown")
    with bind.connect() as connection:
        assert dict(connection.execute(limits).all()) == {
            "lock_timeout 3000": 2,
            "statement_timeout 86400000": 2,
            "idle_in_transaction_session_timeout 86400000": 2,
        }
        assert set(connection.scalars(shown)) == before
    bind.dispose()
