"""Spaces: tables of vectors that no migration makes."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.orm import Session

from recommender import (
    InvalidValue,
    NotFound,
    RecommenderError,
    Registry,
    create_space,
    drop_space,
    for_you,
    index_space,
    list_spaces,
    run_transaction,
    translate_errors,
    upsert_embeddings,
)
from recommender.database import migrations, spaces, vectors
from recommender.database.transactions import writing
from recommender.formats.vectors import LONGEST_SPACE
from tests.support.kinds import only_postgresql
from tests.support.worlds import make_videos, register


def names(engine: Engine) -> list[tuple[str, int, int]]:
    return [(space.name, space.dim, space.vectors) for space in list_spaces(engine)]


def test_a_space_is_made_once_listed_and_dropped(engine: Engine, kind: str) -> None:
    assert names(engine) == []
    first = create_space(engine, "captions", dim=3)
    indexed = None if kind == "sqlite" else False
    assert first.as_dict() == {
        "name": "captions", "dim": 3, "metric": "cosine", "vectors": 0, "indexed": indexed,
    }  # fmt: skip
    create_space(engine, "Audio", dim=4_000)

    def write(session: Session) -> None:
        make_videos(session, "v1")
        upsert_embeddings(session, "captions", [{"id": "v1", "vector": [0, 0, 3]}])

    run_transaction(engine, write)
    assert create_space(engine, "CAPTIONS", dim=3).vectors == 1
    with engine.connect() as connection:
        _, statement = spaces.embeddings(connection)
        ((name, key, vector),) = connection.execute(statement)
    assert (name, key, vector.tolist()) == ("captions", "v1", [0, 0, 1])
    assert names(engine) == [("audio", 4_000, 0), ("captions", 3, 1)]
    drop_space(engine, "captions")
    assert names(engine) == [("audio", 4_000, 0)]


def test_a_space_can_be_made_in_the_callers_transaction(engine: Engine) -> None:
    with writing(engine).connect() as connection:
        create_space(connection, "captions", dim=3)
        assert [space.name for space in list_spaces(connection)] == ["captions"]
        connection.rollback()
    assert names(engine) == []


@only_postgresql
def test_a_space_is_dropped_again_after_a_deadlock(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropping a table locks the videos that it refers to, which a page may have locked."""
    create_space(engine, "captions", dim=3)
    failures, found = ["40P01"], spaces.found_space

    def deadlocked(connection: Connection, name: object) -> Table:
        if failures:
            raises = f"DO $$ BEGIN RAISE SQLSTATE '{failures.pop()}'; END $$"
            connection.exec_driver_sql(raises)
        return found(connection, name)

    monkeypatch.setattr(spaces, "found_space", deadlocked)
    drop_space(engine, "captions")
    assert names(engine) == []
    assert failures == []


def test_spaces_are_listed_while_another_transaction_writes(engine: Engine) -> None:
    create_space(engine, "captions", dim=3)
    with writing(engine).begin():
        assert names(engine) == [("captions", 3, 0)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("two words", {"dim": 3}, "space: 'two words' is not one word"),
        ("", {"dim": 3}, "space: '' is not one word"),
        ("x" * 37, {"dim": 3}, "is longer than 36 bytes"),
        ("captions", {"dim": 0}, "dim: 0 is not a whole number from 1 to 4,000"),
        ("captions", {"dim": 4_001}, "dim: 4001 is not a whole number from 1 to 4,000"),
        ("captions", {"dim": True}, "dim: True is not a whole number from 1 to 4,000"),
        ("captions", {"dim": 3, "metric": "l2"}, "metric: 'l2' is not one of cosine"),
    ],
)
def test_malformed_spaces_are_refused(
    session: Session, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        create_space(session.connection(), name, **options)


def test_a_space_keeps_its_dimensions(session: Session) -> None:
    create_space(session.connection(), "captions", dim=3)
    with pytest.raises(InvalidValue, match="dim: the space captions has 3 dimensions, not 4"):
        create_space(session.connection(), "captions", dim=4)


def test_a_space_that_there_is_not_is_not_found(session: Session, engine: Engine) -> None:
    for call in (
        lambda: drop_space(session.connection(), "captions"),
        lambda: upsert_embeddings(session, "captions", [{"id": "v", "vector": [1]}]),
        lambda: index_space(engine, "captions"),
    ):
        with pytest.raises(NotFound, match="there is no space captions: make it by `recommender"):
            call()


def test_a_schema_with_spaces_is_still_the_one_of_the_package(engine: Engine) -> None:
    create_space(engine, "captions", dim=3)
    migrations.check(engine)
    with pytest.raises(RecommenderError, match="run `recommender embeddings drop captions` first"):
        migrations.downgrade(engine, "base")
    migrations.downgrade(engine, "0011")
    migrations.upgrade(engine)
    assert names(engine) == [("captions", 3, 0)]
    drop_space(engine, "captions")
    migrations.downgrade(engine, "base")


def test_an_index_is_built_once(engine: Engine, kind: str) -> None:
    create_space(engine, "captions", dim=3)
    if kind == "sqlite":
        with pytest.raises(InvalidValue, match="SQLite has no index of vectors: it reads them all"):
            index_space(engine, "captions")
        return
    index_space(engine, "captions")
    before = index_number(engine)
    index_space(engine, "captions")
    assert index_number(engine) == before
    assert [space.indexed for space in list_spaces(engine)] == [True]


@only_postgresql
def test_an_index_that_was_interrupted_is_built_again(engine: Engine) -> None:
    create_space(engine, "captions", dim=3)
    index_space(engine, "captions")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE pg_index SET indisvalid = false"
            " WHERE indexrelid = 'rec_embeddings_captions_vector_ix'::regclass"
        )
    assert [space.indexed for space in list_spaces(engine)] == [False]
    index_space(engine, "captions")
    assert [space.indexed for space in list_spaces(engine)] == [True]


def index_number(engine: Engine) -> int:
    with engine.connect() as connection:
        number = sa.text("SELECT 'rec_embeddings_captions_vector_ix'::regclass::oid::bigint")
        return int(connection.execute(number).scalar_one())


@only_postgresql
@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "this server does not have the extension vector: install pgvector 0.8 or newer"),
        ("0.7.4", "this server has pgvector 0.7.4: install pgvector 0.8 or newer"),
    ],
)
def test_a_server_without_the_extension_says_what_to_install(
    session: Session, version: str | None, message: str
) -> None:
    """A view of the same name stands for the server's list of extensions."""
    rows = f"SELECT 'vector' AS name, '{version}' AS default_version, NULL AS installed_version"
    view = f"CREATE TEMPORARY VIEW pg_available_extensions AS {rows}"
    session.execute(sa.text(view if version else f"{view} WHERE false"))
    session.execute(sa.text("SET LOCAL search_path = pg_temp, public, pg_catalog"))
    with pytest.raises(RecommenderError, match=message):
        create_space(session.connection(), "captions", dim=3)


@only_postgresql
def test_an_extension_in_a_schema_that_is_not_searched_is_one_sentence(session: Session) -> None:
    create_space(session.connection(), "captions", dim=3)
    session.execute(sa.text("CREATE SCHEMA apart; ALTER EXTENSION vector SET SCHEMA apart"))
    with pytest.raises(RecommenderError, match="in a schema that search_path does not name"):
        create_space(session.connection(), "audio", dim=3)


@only_postgresql
def test_without_the_package_one_sentence_says_what_to_install(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(vectors, "import_module", missing)
    with pytest.raises(RecommenderError, match=r"need the package pgvector: pip install 'recomm"):
        create_space(session.connection(), "captions", dim=3)


def test_an_extension_that_does_not_load_leaves_no_right_to_load_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing:
        may_load = False

        def enable_load_extension(self, is_on: bool) -> None:  # noqa: FBT001
            self.may_load = is_on

        def load_extension(self, path: str) -> None:
            assert self.may_load
            raise sqlite3.OperationalError(path)

    package = SimpleNamespace(loadable_path=lambda: "vec0")
    monkeypatch.setattr(vectors, "import_module", lambda _name: package)
    connection = Refusing()
    vectors.load_sqlite_vec(connection)
    assert not connection.may_load


def test_the_names_of_a_space_fit() -> None:
    table = spaces.space_table("x" * LONGEST_SPACE, 1)
    names = [table.name, *(one.name for one in table.constraints), f"{table.name}_vector_ix"]
    assert max(len(str(name)) for name in names) == 63


def test_another_table_with_such_a_name_is_one_sentence(session: Session) -> None:
    session.execute(sa.text("CREATE TABLE rec_embeddings_old (video_id int, vector text)"))
    for call in (list_spaces, lambda bind: create_space(bind, "old", dim=2)):
        with pytest.raises(RecommenderError, match="the table rec_embeddings_old is no space"):
            call(session.connection())
    create_space(session.connection(), "captions", dim=2)


def test_the_dimensions_of_a_space_are_read_from_its_table(session: Session) -> None:
    for dim in (1, 384, 4_000):
        create_space(session.connection(), f"d{dim}", dim=dim)
        found = spaces.found_space(session.connection(), f"D{dim}")
        assert spaces.dimensions_of(found) == dim


def test_a_page_without_its_space_says_how_to_make_it(session: Session) -> None:
    register(session, Registry(space="captions"))
    wanted = pytest.raises(NotFound, match=r"^there is no space captions: make it by `recommender")
    with wanted, translate_errors():
        for_you(session, "viewer", record=False)
