"""Fixtures for every test: both databases, sessions that are rolled back, and a time limit."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from zlib import crc32

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database import migrations
from recommender.database.engine import create_engine
from recommender.database.transactions import writing
from recommender.settings import REGISTRY_VARIABLE, URL_VARIABLES
from tests.support import postgres
from tests.support.processes import heed_interrupts
from tests.support.time_limit import fail_if_too_long, used_seconds

DATABASES = ("sqlite", "postgresql")

CopyOf = Callable[[str, Callable[[Engine], object]], str]
"""A kind of database and a function that fills an empty one, to the URL of a copy."""

PREFIX = f"recommender_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
"""The prefix of this process's database names. Several processes may share one server."""

hypothesis_settings.register_profile(
    "tests",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
hypothesis_settings.register_profile(
    "programs",
    hypothesis_settings.get_profile("tests"),
    max_examples=2_000,
    stateful_step_count=30,
)
hypothesis_settings.load_profile("tests")


_collected: set[tuple[str, str]] = set()
"""The test functions that were collected, each with the kinds of its databases."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark as `slow` what a test repeats on PostgreSQL: with other values, or if it takes long.

    Each is also in one of ten parts, so that CI can run one of them on a day.
    """
    parameters = getattr(item, "callspec", None)
    kind = parameters.params.get("kind") if parameters else None
    function = item.nodeid.partition("[")[0]
    takes_long = item.get_closest_marker("slow_on_postgresql") or (function, kind) in _collected
    if kind == "postgresql" and (function, "sqlite") in _collected and takes_long:
        item.add_marker(pytest.mark.slow)
        item.add_marker(f"repeat_{crc32(item.nodeid.encode()) % 10}")
    _collected.add((function, str(kind)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: modules, and the collected tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


BEGAN = pytest.StashKey[float]()
"""The processor time that was used when a test began."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Note how much processor time was used before a test."""
    item.stash[BEGAN] = used_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Fail a test that took too long and is not marked `slow`."""
    report = yield
    used = used_seconds() - item.stash.get(BEGAN, 0.0)
    fail_if_too_long(report, used, is_slow=item.get_closest_marker("slow") is not None)
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_database_of_the_machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (*URL_VARIABLES, REGISTRY_VARIABLE):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heeded() -> None:
    heed_interrupts()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(scope="session")
def new_database(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[..., str]:
    """Return a function that creates a database and returns its URL.

    The database is migrated, empty (`migrated=False`), or a copy of a database without connections
    (`like=url`). Both kinds copy a template, so the migrations run once per process.
    """
    folder = tmp_path_factory.mktemp("databases")
    counter = itertools.count()
    template = folder / "template.db"

    def new(kind: str, *, migrated: bool = True, like: str | None = None) -> str:
        name = f"{PREFIX}_{next(counter)}"
        if kind == "sqlite":
            if not template.exists():
                migrations.upgrade(f"sqlite:///{template}")
            path = folder / f"{name}.db"
            if migrated:
                shutil.copy(like.removeprefix("sqlite:///") if like else template, path)
            return f"sqlite:///{path}"
        server = request.getfixturevalue("postgres_server")
        template_name = request.getfixturevalue("postgres_template") if migrated else "template0"
        create_database(server, name, like.rpartition("/")[2] if like else template_name)
        return f"{server}/{name}"

    return new


@pytest.fixture(scope="session")
def copy_of(new_database: Callable[..., str]) -> CopyOf:
    """Return a function that makes a world once per kind of database, and copies it."""
    originals: dict[tuple[str, Callable[[Engine], object]], str] = {}

    def copy(kind: str, make: Callable[[Engine], object]) -> str:
        if (kind, make) not in originals:
            originals[kind, make] = new_database(kind)
            bind = create_engine(originals[kind, make])
            make(bind)
            bind.dispose()
        return new_database(kind, like=originals[kind, make])

    return copy


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    name = f"{PREFIX}_template"
    create_database(postgres_server, name, "template0")
    migrations.upgrade(f"{postgres_server}/{name}")
    return name


def create_database(server: str, name: str, template: str) -> None:
    """Create a database on a PostgreSQL server, in place of one with the same name."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        named, like = sql.Identifier(name), sql.Identifier(template)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(named))
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        connection.execute(create.format(named, like))


def drop_database(url: str) -> None:
    """Drop a database on a PostgreSQL server: hundreds of them would fill the disk."""
    if url.startswith("sqlite"):
        return
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def migrations_copy(
    new_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the folder of migrations, used in place of the original during the test."""
    for name in DATABASES:
        new_database(name)  # so that the templates are made by the original migrations
    folder = tmp_path / "migrations"
    shutil.copytree(
        migrations.migrations_folder(), folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(migrations, "migrations_folder", lambda: folder)
    return folder


@pytest.fixture(params=DATABASES)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database; the test runs once for each."""
    name: str = request.param
    return name


@pytest.fixture
def database(
    kind: str, new_database: Callable[..., str], copy_of: CopyOf, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of a migrated database that no other test uses.

    If the test asks for `world`, and its module has a function `make_world`, the database is a copy
    of that world.
    """
    make = getattr(request.module, "make_world", None)
    url = copy_of(kind, make) if make and "world" in request.fixturenames else new_database(kind)
    yield url
    drop_database(url)


@pytest.fixture
def empty_database(kind: str, new_database: Callable[..., str]) -> Iterator[str]:
    """The URL of an empty database that no other test uses; on SQLite the file does not exist."""
    url = new_database(kind, migrated=False)
    yield url
    drop_database(url)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on a database that no other test uses, for tests that commit."""
    bind = create_engine(database)
    yield bind
    bind.dispose()


@pytest.fixture(scope="session")
def _shared_engines() -> Iterator[dict[str, Engine]]:
    engines: dict[str, Engine] = {}
    yield engines
    for bind in engines.values():
        bind.dispose()


@pytest.fixture
def session(
    kind: str, new_database: Callable[..., str], _shared_engines: dict[str, Engine]
) -> Iterator[Session]:
    """A session in a transaction that is rolled back after the test."""
    if kind not in _shared_engines:
        shared = _shared_engines[kind] = create_engine(new_database(kind))
        sa.event.listen(shared, "before_cursor_execute", _refuse_analyze)
    with writing(_shared_engines[kind]).connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as opened:
            yield opened
        transaction.rollback()


def _refuse_analyze(_connection: object, _cursor: object, statement: str, *_: object) -> None:
    """Keep the numbers of rows that PostgreSQL plans by from later tests."""
    is_lasting = statement.startswith("ANALYZE") and "host_" not in statement
    assert not is_lasting, "no rollback undoes ANALYZE of our tables: use own_session"


@pytest.fixture
def own_session(engine: Engine) -> Iterator[Session]:
    """A session on a database that no other test uses, for ANALYZE, which no rollback undoes."""
    with Session(writing(engine)) as opened:
        yield opened
