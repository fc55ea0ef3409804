"""Planner statistics of PostgreSQL: made by whoever filled the tables, and never on SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import create_engine, refresh
from recommender.database import planner_statistics
from recommender.files import importer
from recommender.files.importer import import_file
from recommender.models import Base, User
from recommender.settings import Settings
from tests.support.refresh_worlds import behave, people
from tests.support.worlds import counted_statements

MANY = importer.ANALYZED_ROWS
SETTINGS = Settings()

on_postgresql = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)


def import_users(engine: Engine, folder: Path, first: int, number: int, **options: Any) -> None:
    file = folder / "users.csv"
    file.write_text("id\n" + "".join(f"u{n}\n" for n in range(first, first + number)))
    import_file(engine, "users", str(file), **options)


def rows_known(engine: Engine, table: str = "rec_users") -> float:
    """How many rows PostgreSQL plans for, -1 where it knows nothing."""
    with engine.connect() as connection:
        statement = sa.text("SELECT reltuples FROM pg_class WHERE relname = :table")
        return float(connection.execute(statement, {"table": table}).scalar_one())


def columns_known(engine: Engine, table: str = "rec_users") -> set[str]:
    with engine.connect() as connection:
        statement = sa.text("SELECT attname FROM pg_stats WHERE tablename = :table")
        return set(connection.scalars(statement, {"table": table}))


@on_postgresql
def test_an_import_of_many_rows_tells_the_planner(engine: Engine, tmp_path: Path) -> None:
    import_users(engine, tmp_path, 0, MANY - 1)
    assert (rows_known(engine), columns_known(engine)) == (-1, set())
    import_users(engine, tmp_path, MANY, MANY, dry_run=True)
    assert rows_known(engine) == -1
    import_users(engine, tmp_path, MANY, MANY)
    assert rows_known(engine) == 2 * MANY - 1
    assert {"id", "key"} <= columns_known(engine)


@on_postgresql
def test_only_what_is_far_off_is_looked_at_again(engine: Engine, tmp_path: Path) -> None:
    import_users(engine, tmp_path, 0, 4 * MANY)
    import_users(engine, tmp_path, 10_000, MANY)
    assert rows_known(engine) == 4 * MANY
    import_users(engine, tmp_path, 20_000, 5 * MANY)
    assert rows_known(engine) == 10 * MANY


@on_postgresql
def test_a_refresh_tells_the_planner_of_all_that_is_filled(engine: Engine) -> None:
    people(engine, 6, 8)
    behave(engine, 6, 8, 60)
    refresh(engine)
    filled = {
        table.name
        for table in Base.metadata.tables.values()
        if rows_known(engine, table.name) > 0 and columns_known(engine, table.name)
    }
    with Session(engine) as session:
        there = {
            table.name
            for table in Base.metadata.tables.values()
            if session.scalar(sa.select(sa.func.count()).select_from(table))
        }
    assert filled == there
    assert {"rec_interactions", "rec_recent_engagements", "rec_video_neighbours"} <= there
    with counted_statements(engine) as sent:
        refresh(engine)
    assert [statement for statement in sent if "ANALYZE" in statement] == []


@on_postgresql
def test_a_table_that_another_holds_is_skipped(engine: Engine, database: str) -> None:
    people(engine, 2, 2)
    other = create_engine(database)
    with other.connect() as connection:
        connection.execute(sa.text("LOCK TABLE rec_users IN SHARE UPDATE EXCLUSIVE MODE"))
        planner_statistics.analyze(engine, SETTINGS)
        assert rows_known(engine) == -1
        assert rows_known(engine, "rec_videos") == 2
    other.dispose()
    planner_statistics.analyze(engine, SETTINGS)
    assert rows_known(engine) == 2


@on_postgresql
def test_an_import_is_in_whatever_the_planner_is_told(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(
        planner_statistics, "unplanned_tables", lambda s: s.execute(sa.text("SELECT 1 / 0"))
    )
    import_users(engine, tmp_path, 0, MANY)
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(User)) == MANY
    (warning,) = [each for each in caplog.messages if "statistics" in each]
    assert warning.startswith("PostgreSQL's statistics are not up to date: ")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_sqlite_keeps_no_planner_statistics(engine: Engine, tmp_path: Path) -> None:
    import_users(engine, tmp_path, 0, MANY)
    refresh(engine)
    with engine.connect() as connection:
        assert not sa.inspect(connection).has_table("sqlite_stat1")
