"""A scratch database has the registry, and what it reads of the host's own tables."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, create_engine, inspect, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

import recommender
from recommender import Candidate, Filter, InvalidValue, Registry, SchemaOutOfDate, Settings, Signal
from recommender.database.engine import database_url
from recommender.database.registered import kept_registry
from recommender.database.scratch import scratch_database
from recommender.models import Video
from recommender.ranking.viewer import Viewer
from tests.support.kinds import only_postgresql, slow_on_postgresql
from tests.support.worlds import counted_statements

SETTINGS = Settings(batch_size=2)


class Base(DeclarativeBase):
    pass


class Colour(Enum):
    RED = "red"


class Person(Base):
    __tablename__ = "people"
    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(index=True)
    clips: Mapped[list[Clip]] = relationship(back_populates="owner")


class Clip(Base):
    __tablename__ = "clips"
    clip: Mapped[str] = mapped_column("id", primary_key=True)
    owner_id: Mapped[str] = mapped_column(sa.ForeignKey("people.id"), index=True)
    secret: Mapped[str] = mapped_column(default="secret")
    colour: Mapped[Colour] = mapped_column(default=Colour.RED)
    amount: Mapped[float] = mapped_column(default=0.5)
    is_new: Mapped[bool] = mapped_column(default=True)
    day: Mapped[date] = mapped_column(default=date(2026, 1, 1))
    at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), default=datetime(2026, 1, 1, tzinfo=UTC)
    )
    number: Mapped[uuid.UUID] = mapped_column(default=uuid.UUID(int=7))
    more: Mapped[Any] = mapped_column(sa.JSON, default={"a": [1]})
    note: Mapped[str] = mapped_column(sa.Text, default="x" * 9_000)
    raw: Mapped[bytes] = mapped_column(default=b"\0")
    owner: Mapped[Person] = relationship(back_populates="clips")


READ = (
    "id",
    "owner_id",
    "colour",
    "amount",
    "is_new",
    "day",
    "at",
    "number",
    "more",
    "note",
    "raw",
)


def known(_candidate: Candidate) -> sa.ColumnElement[float]:
    """1 for a video of a person, all of whose columns but secret ones are known."""
    columns = Clip.__table__.c
    read = (columns[name].is_not(None) for name in READ)
    known_of = select(sa.literal(1.0)).select_from(Clip).join(Clip.owner)
    value = known_of.where(Clip.clip == Video.key, *read).scalar_subquery()
    return sa.func.coalesce(value, 0.0)


REGISTRY = Registry([Signal("known", 0, 1, known)], name="shop")


def reading(*columns: Any, schema: str | None = None) -> Registry:
    """A registry that reads a table `host_table` with these columns."""
    table = sa.Table("host_table", sa.MetaData(), *columns, schema=schema)
    is_there = sa.exists().where(*(column.is_not(None) for column in table.c))
    return Registry(filters=[Filter("mine", lambda _: is_there, "no")])


@pytest.fixture
def host(engine: Engine) -> Iterator[Engine]:
    """An application with 5 people and their videos."""
    prepared = recommender.create_engine(engine.url, registry=REGISTRY)
    Base.metadata.create_all(prepared)
    with Session(prepared) as session, session.begin():
        for number in range(5):
            person = Person(id=f"p{number}", email=f"p{number}@example.org")
            session.add_all([person, Clip(clip=f"v{number}", owner=person)])
    yield prepared
    prepared.dispose()


def copied_rows(session: Session) -> list[list[Any]]:
    """The rows of the columns that are read; SQLite keeps no time zone."""
    columns = [Clip.__table__.c[name] for name in READ]
    rows = session.execute(select(*columns).order_by(Clip.clip)).all()
    return [[v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in row] for row in rows]


def tables(url: str) -> set[str]:
    engine = create_engine(database_url(url))
    names = inspect(engine).get_table_names()
    engine.dispose()
    return set(names)


@pytest.mark.parametrize("is_named", [False, True])
def test_the_registry_is_there_and_the_columns_that_it_names_are_copied_in_batches(
    host: Engine, empty_database: str, *, is_named: bool
) -> None:
    url = empty_database if is_named else None
    with Session(host) as session:
        rows = copied_rows(session)
    with (
        counted_statements(host) as sent,
        scratch_database(url, SETTINGS, host) as scratch,
        Session(scratch) as session,
    ):
        assert kept_registry(scratch) is REGISTRY
        found = inspect(scratch)
        assert {each["name"] for each in found.get_columns("clips")} == set(READ)
        assert [each["name"] for each in found.get_columns("people")] == ["id"]
        indexed = [each["column_names"] for each in found.get_indexes("clips")]
        assert sorted(indexed) == [["id"], ["owner_id"]]
        assert copied_rows(session) == rows
    assert len([statement for statement in sent if "clips" in statement]) == 1
    assert tables(empty_database) == set()


@slow_on_postgresql
def test_a_table_that_the_scratch_database_has_is_left_alone(
    host: Engine, empty_database: str
) -> None:
    theirs = create_engine(database_url(empty_database))
    Person.__table__.create(theirs)
    with theirs.begin() as connection:
        connection.execute(sa.insert(Person).values(id="mine", email="mine"))
    with scratch_database(empty_database, SETTINGS, host) as scratch, Session(scratch) as session:
        assert session.scalars(select(Person.id)).all() == ["mine"]
        assert len(session.scalars(select(Clip.clip)).all()) == 5
    with Session(theirs) as session:
        assert session.scalars(select(Person.email)).all() == ["mine"]
    theirs.dispose()
    assert tables(empty_database) == {"people"}


@slow_on_postgresql
def test_without_an_application_the_tables_are_empty(
    monkeypatch: pytest.MonkeyPatch, empty_database: str
) -> None:
    monkeypatch.setenv("RECOMMENDER_REGISTRY", f"{__name__}:REGISTRY")
    with scratch_database(empty_database, SETTINGS) as scratch, Session(scratch) as session:
        assert kept_registry(scratch) is REGISTRY
        assert session.scalars(select(Clip.clip)).all() == []


def test_a_failure_in_the_middle_leaves_no_table(
    host: Engine, empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host lacks its second table; then a table is of a type that no database has."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with host.begin() as connection:
        Clip.__table__.drop(connection)
    with (
        pytest.raises(SchemaOutOfDate, match=r"^The database lacks a table of the app.*clips"),
        scratch_database(empty_database, SETTINGS, host),
    ):
        pass
    other = recommender.create_engine(host.url, registry=reading(sa.Column("video")))
    with (
        pytest.raises(InvalidValue, match=r"^scratch: host_table, which .*; give the URL of"),
        scratch_database(None, SETTINGS, other),
    ):
        pass
    other.dispose()
    assert tables(empty_database) == set()
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_written_twice_is_copied_once() -> None:
    """Django's tables are usually written with `sqlalchemy.table`."""

    def named(*columns: str) -> sa.TableClause:
        return sa.table("app_clip", *(sa.column(name, sa.Text) for name in columns))

    def known_clip(_viewer: Viewer) -> sa.ColumnElement[bool]:
        one, other = named("id", "title"), named("id", "owner")
        return sa.and_(sa.exists().where(one.c.id == Video.key, one.c.title != ""),
                       sa.exists().where(other.c.id == Video.key, other.c.owner != ""))  # fmt: skip

    registry = Registry(filters=[Filter("mine", known_clip, "no")])
    (columns,) = registry.columns_read.values()
    assert [column.name for column in columns] == ["id", "title", "owner"]


@only_postgresql
def test_what_sqlite_cannot_hold_is_one_sentence_and_a_postgresql_database_holds_it(
    database: str, empty_database: str
) -> None:
    registry = reading(
        sa.Column("tags", postgresql.ARRAY(sa.Text)), sa.Column("more", postgresql.JSONB)
    )
    host = recommender.create_engine(database, registry=registry)
    (table,) = registry.columns_read
    table.metadata.create_all(host)
    with host.begin() as connection:
        connection.execute(table.insert().values(tags=["a", "b"], more={"a": 1}))
    with (
        pytest.raises(
            InvalidValue, match=r"host_table, which .* cannot be copied to sqlite: "
        ) as caught,
        scratch_database(None, SETTINGS, host),
    ):
        pass
    assert "\n" not in str(caught.value)
    with scratch_database(empty_database, SETTINGS, host) as scratch, scratch.connect() as copy:
        assert copy.execute(select(table)).all() == [(["a", "b"], {"a": 1})]
    host.dispose()


@only_postgresql
def test_a_table_in_a_schema_needs_a_database_with_this_schema(
    database: str, empty_database: str
) -> None:
    registry = reading(sa.Column("video", sa.Text, primary_key=True), schema="shop")
    host, theirs = (
        recommender.create_engine(database, registry=registry),
        create_engine(database_url(empty_database)),
    )
    (table,) = registry.columns_read
    for url in (None, empty_database):
        with (
            pytest.raises(
                InvalidValue, match=r"reads shop\.host_table, and .* no schema shop: give"
            ),
            scratch_database(url, SETTINGS, host),
        ):
            pass
    for engine in (host, theirs):
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema("shop"))
    table.metadata.create_all(host)
    with host.begin() as connection:
        connection.execute(table.insert().values(video="v"))
    with scratch_database(empty_database, SETTINGS, host) as scratch, scratch.connect() as copy:
        assert copy.scalars(select(table.c.video)).all() == ["v"]
    assert inspect(theirs).get_table_names("shop") == inspect(theirs).get_table_names() == []
    host.dispose()
    theirs.dispose()


def test_a_space_is_dropped_also_after_an_error(engine: Engine, empty_database: str) -> None:
    recommender.create_space(engine, "captions", dim=3)
    host = recommender.prepare_engine(engine, registry=Registry(space="captions"))

    def interrupted() -> None:
        with scratch_database(empty_database, SETTINGS, host) as scratch:
            assert [space.dim for space in recommender.list_spaces(scratch)] == [3]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        interrupted()
    bare = create_engine(database_url(empty_database))
    assert inspect(bare).get_table_names() == []
    bare.dispose()
