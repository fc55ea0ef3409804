"""The three roles of PostgreSQL: each can do its work, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    NotPermitted,
    cli,
    create_engine,
    diagnose,
    for_you,
    import_file,
    prune,
    refresh,
    run_transaction,
)
from recommender.database import migrations
from recommender.database.partitions import log_partitions
from recommender.files.importer import ANALYZED_ROWS
from recommender.formats import scalars
from recommender.models import Base, LearningState, User
from recommender.models.serving import DEFAULT_PARTITION
from recommender.models.types import VERSION_TABLE
from tests.support.worlds import EXAMPLE, names

ROLES = ("migrator", "application", "reader")
TABLES = [*Base.metadata.tables, VERSION_TABLE]
ON_EACH = ("DROP TABLE {}", "ALTER TABLE {} ADD mine int", "TRUNCATE {} CASCADE")
FORBIDDEN = (
    "CREATE TABLE mine (id int)", "CREATE TABLE rec_mine (id int)", "CREATE SCHEMA mine",
    "CREATE ROLE mine", "SELECT * FROM secret.diary", "SELECT * FROM hosts",
    "DELETE FROM rec_alembic_version",
    *(statement.format(table) for table in TABLES for statement in ON_EACH),
)  # fmt: skip


@pytest.fixture(scope="module")
def admin(new_database: Callable[..., str]) -> Iterator[str]:
    """The URL of a database with the roles, and with tables of the host's."""
    url = new_database("postgresql")
    bind = create_engine(url)
    import_example(bind)
    recommender.create_space(bind, "before", dim=2)
    bind.dispose()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA secret; CREATE TABLE secret.diary (id int)")
        connection.execute("CREATE TABLE hosts (id int)")
        connection.execute(printed().encode())
    yield url
    with psycopg.connect(url, autocommit=True) as connection:
        for role in ROLES:
            connection.execute(f"DROP OWNED BY recommender_{role}".encode())
            connection.execute(f"DROP ROLE recommender_{role}".encode())


def import_example(bind: Engine) -> None:
    for kind in ("users", "videos", "follows", "events"):
        import_file(bind, kind, str(EXAMPLE / f"{kind}.csv"))


def printed() -> str:
    from recommender.operations.roles import roles_sql  # noqa: PLC0415 - not public

    return roles_sql()


def url_of(admin: str, role: str) -> str:
    url = sa.make_url(admin).set(username=f"recommender_{role}")
    return url.render_as_string(hide_password=False)


@pytest.fixture
def role_engine(admin: str) -> Iterator[Callable[[str], Engine]]:
    engines: list[Engine] = []

    def new(role: str) -> Engine:
        engines.append(create_engine(url_of(admin, role)))
        return engines[-1]

    yield new
    for bind in engines:
        bind.dispose()


Engines = Callable[[str], Engine]


def may(bind: Engine, statement: str) -> bool:
    """Whether the role may run a statement, which is rolled back."""
    with bind.connect() as connection:
        try:
            connection.execute(sa.text(statement))
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != "42501":
                raise
            return False
        return True


@pytest.mark.parametrize("space", ["before", "after"])
def test_each_role_does_its_part_with_a_space(role_engine: Engines, space: str) -> None:
    owner, application, reader = map(role_engine, ROLES)
    recommender.create_space(owner, space, dim=2)
    recommender.index_space(owner, space)

    def write(session: Session) -> int:
        rows = [{"id": "v1", "vector": [1.0, 2.0]}]
        return recommender.upsert_embeddings(session, space, rows).unchanged

    assert run_transaction(application, lambda session: (write(session), write(session))) == (0, 1)
    assert {one.name: one.vectors for one in recommender.list_spaces(reader)}[space] == 1
    for call in (
        lambda: recommender.drop_space(application, space),
        lambda: recommender.create_space(application, "mine", dim=2),
        lambda: run_transaction(reader, write),
    ):
        with pytest.raises(NotPermitted):
            call()
    recommender.drop_space(owner, space)


def test_the_command_prints_the_sql(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["db", "roles"]) == 0
    assert capsys.readouterr() == (printed(), "")
    assert "PASSWORD '" not in printed()


def test_the_application_does_its_work(role_engine: Engines, tmp_path: Path) -> None:
    bind = role_engine("application")
    file = tmp_path / "users.csv"
    file.write_text("id\n" + "".join(f"many{n}\n" for n in range(ANALYZED_ROWS)))
    assert import_file(bind, "users", str(file)).inserted == ANALYZED_ROWS
    import_example(bind)
    refresh(bind)
    refresh(bind, rebuild=True)

    def use(session: Session) -> list[str]:
        recommender.record(session, "user1", "v3", "watch", completion=1.0)
        recommender.follow(session, "many1", "creator3")
        recommender.mute(session, "many1", "creator", "creator1")
        recommender.reset_user(session, "many2")
        recommender.create_profile(session, "mine", {"likes": 1.0})
        recommender.create_feed(session, "reels", memory="own")
        assert names(for_you(session, "many1", feed="reels", limit=1))
        recommender.delete_feed(session, "reels")
        page = for_you(session, "many1", limit=1)
        return names(page) + names(for_you(session, "many1", cursor=page.cursor))

    assert run_transaction(bind, use) == ["v3", "v2"]
    later = scalars.now()
    day = timedelta(days=1)
    pruned = prune(bind, events_older_than=day, sessions_older_than=day, as_of=later)
    assert pruned.events == 4
    checks = {each.check: each.ok for each in diagnose(bind)}
    assert checks.keys() >= {"dead_rows", "planner"}
    migrations.check(bind)
    with bind.connect() as connection:
        known = sa.text("SELECT reltuples FROM pg_class WHERE relname = 'rec_users'")
        version = connection.dialect.server_version_info or (0,)
        assert (connection.scalar(known) >= ANALYZED_ROWS) == (version >= (17,))


def test_the_owner_makes_partitions_and_others_use_them(role_engine: Engines) -> None:
    owner, application, reader = map(role_engine, ROLES)
    day = timedelta(days=1)
    for bind, made in ((application, 0), (owner, 8)):
        prune(bind, sessions_older_than=day)
        with Session(reader) as session:
            days = log_partitions(session)
        assert len(days) == made
    page = run_transaction(application, lambda s: for_you(s, "user1", rewatch=True))
    assert page.items
    for table in (DEFAULT_PARTITION, days[0].name):
        assert may(reader, f"SELECT * FROM {table}")  # noqa: S608
        assert may(application, f"DELETE FROM {table}")  # noqa: S608
        assert not may(application, f"DROP TABLE {table}")
        assert may(owner, f"DROP TABLE {table}")


@pytest.mark.parametrize("role", ["application", "reader"])
def test_who_uses_the_tables_cannot_change_them(role_engine: Engines, role: str) -> None:
    bind = role_engine(role)
    assert [each for each in FORBIDDEN if may(bind, each)] == []


def test_the_reader_reads_and_cannot_write(role_engine: Engines) -> None:
    bind = role_engine("reader")
    for table in TABLES:
        assert may(bind, f"SELECT * FROM {table} LIMIT 1")  # noqa: S608
        for statement in ("INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}"):
            assert not may(bind, statement.format(table))
    for table in Base.metadata.tables.values():
        change = f"UPDATE {table.name} SET {list(table.c)[-1].name} = NULL"  # noqa: S608
        assert not may(bind, change)
    assert not may(bind, "SELECT nextval('rec_users_id_seq')")
    with Session(bind) as session:
        assert names(for_you(session, "user1", record=False, rewatch=True)) != []
    with pytest.raises(NotPermitted):
        run_transaction(bind, lambda s: recommender.upsert_users(s, [{"id": "new"}]))


def test_the_migrator_migrates_and_others_get_what_it_makes(
    role_engine: Engines, admin: str
) -> None:
    bind = role_engine("migrator")
    with bind.connect() as connection:
        connection.execute(
            sa.text("CREATE TABLE rec_later (id int GENERATED BY DEFAULT AS IDENTITY)")
        )
        connection.commit()
    application, reader = role_engine("application"), role_engine("reader")
    assert may(application, "INSERT INTO rec_later DEFAULT VALUES")
    assert may(application, "SELECT nextval('rec_later_id_seq')")
    assert may(reader, "SELECT * FROM rec_later")
    assert not may(reader, "INSERT INTO rec_later DEFAULT VALUES")
    assert not may(application, "DROP TABLE rec_later")
    assert not may(bind, "SELECT * FROM hosts")
    with bind.connect() as connection:
        connection.execute(sa.text("DROP TABLE rec_later"))
        connection.commit()
    for table in Base.metadata.tables:
        assert may(bind, f"ALTER TABLE {table} ADD mine int")
    migrations.upgrade(url_of(admin, "migrator"))


def test_the_application_cannot_migrate(admin: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = url_of(admin, "application")
    assert cli.run(["db", "downgrade", "0011", "--database-url", url]) == 77
    assert "Traceback" not in capsys.readouterr().err
    bind = create_engine(url)
    with Session(bind) as session:
        assert session.scalar(sa.select(LearningState.id)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(User)) > 3
    bind.dispose()
