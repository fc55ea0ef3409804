"""Write columns of rows straight into the tables of an empty database.

On PostgreSQL the whole world is one transaction with COPY; indexes and foreign keys are made last,
which is faster. An interrupted load leaves nothing. On SQLite each block is a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.orm import Session

from recommender.benchmark.distributions import END, Columns
from recommender.benchmark.large_world import LargeWorld
from recommender.database.migrations import is_made_on
from recommender.database.transactions import run_transaction, writing
from recommender.errors import RecommenderError
from recommender.files.workers import made_ahead
from recommender.learning import affinities
from recommender.models import LearningState, ProfileVersion, ProfileWeight, User
from recommender.models.types import PREFIX, Base

Progress: TypeAlias = Callable[[str], None]
"""Told the name of a table when its rows are written."""

KEPT = {each.__tablename__ for each in (LearningState, ProfileVersion, ProfileWeight)}
"""The tables that the migration fills."""

CACHE_KIB = 256_000

NEVER = np.iinfo(np.int64).min
"""NaT as a number."""


def load(engine: Engine, world: LargeWorld, progress: Progress | None = None) -> bool:
    """Write a world into an empty database, unless the database holds this very world.

    Args:
        engine: a prepared engine on an up-to-date database.
        world: the world to write.
        progress: told the name of a table when its rows are written.

    Returns:
        Whether the world was written.

    Raises:
        RecommenderError: the database holds anything else.
    """
    if _is_there(engine, world):
        return False
    write = _load_sqlite if engine.dialect.name == "sqlite" else _load_postgresql
    write(engine, _tables(engine, world), progress or (lambda _name: None))
    run_transaction(engine, _finish)
    return True


def _is_there(engine: Engine, world: LargeWorld) -> bool:
    with engine.connect() as connection:
        first = connection.scalar(sa.select(User.key).where(User.id == 1))
        is_whole = connection.scalar(sa.select(LearningState.refreshed_at)) is not None
        if first == world.user_key(1) and is_whole:
            return True
        for table in _tables_of_rows():
            if connection.scalar(sa.select(sa.literal(1)).select_from(table).limit(1)):
                raise RecommenderError(
                    f"this database holds something else, such as rows of {table.name}: give the"
                    " benchmark an empty one, such as --database-url sqlite:///bench-2.db"
                )
    return False


def _tables_of_rows() -> list[Table]:
    return [table for table in Base.metadata.sorted_tables if table.name not in KEPT]


def _tables(engine: Engine, world: LargeWorld) -> Iterator[tuple[Table, Iterator[Columns]]]:
    rules = run_transaction(engine, affinities.read_rules, write=False)
    with engine.connect() as connection:
        half_life = connection.scalar(sa.select(LearningState.trend_half_life_days)) or 1.0
    trend = affinities.decay_exponent(rules.landmark, half_life, END)
    for name, blocks in world.tables(rules, trend):
        yield Base.metadata.tables[PREFIX + name], blocks


def _finish(session: Session) -> None:
    """Write the learning state of a refresh, which marks the world as complete."""
    tables = Base.metadata.tables
    videos, captions = tables[f"{PREFIX}videos"], tables[f"{PREFIX}video_captions"]
    engaged = sa.func.sum(videos.c.engaged_views) * sa.literal(1.0, sa.Double)
    share = sa.select(engaged / sa.func.sum(videos.c.impressions)).scalar_subquery()
    caption_count = sa.select(sa.func.count()).select_from(captions).scalar_subquery()
    peak = sa.select(sa.func.max(videos.c.trending)).scalar_subquery()
    session.execute(
        sa.update(LearningState).values(
            engaged_share=share, trend_peak=peak, captions=caption_count, refreshed_at=END
        )
    )


def _load_sqlite(
    engine: Engine, tables: Iterable[tuple[Table, Iterator[Columns]]], progress: Progress
) -> None:
    with writing(engine).connect() as connection:
        (cache,) = connection.exec_driver_sql("PRAGMA cache_size").one()
        connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
        for table, blocks in tables:
            for block in blocks:
                marks = ", ".join("?" * len(block))
                statement = f"INSERT INTO {table.name} ({', '.join(block)}) VALUES ({marks})"  # noqa: S608 - names of ours
                rows = zip(*map(_values, block.values()), strict=True)
                connection.exec_driver_sql(statement, list(rows))
                connection.commit()
            progress(table.name)
        connection.exec_driver_sql(f"PRAGMA cache_size = {cache}")


def _values(column: Any) -> Sequence[Any]:
    """Return values for SQLite: times are microseconds."""
    if not isinstance(column, np.ndarray):
        return list(column)
    if column.dtype.kind == "M":
        numbers = column.astype(int).tolist()
        return [None if value == NEVER else value for value in numbers]
    return _with_null(column, None)


def _load_postgresql(
    engine: Engine, tables: Iterable[tuple[Table, Iterator[Columns]]], progress: Progress
) -> None:
    with engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        with _unconstrained(connection):
            for table, blocks in tables:
                _copy(driver, table, blocks)
                progress(table.name)
        for table in _tables_of_rows():
            if "id" in table.c:
                name = sa.func.pg_get_serial_sequence(table.name, "id")
                last = sa.select(sa.func.coalesce(sa.func.max(table.c.id), 1)).scalar_subquery()
                connection.execute(sa.select(sa.func.setval(name, last)))
    with engine.begin() as connection:
        connection.execute(_for_now("statement_timeout", "0"))
        connection.exec_driver_sql("ANALYZE")


def _for_now(setting: str, value: str) -> sa.Select[str]:
    """Return a statement that sets a PostgreSQL setting until the transaction ends."""
    return sa.select(sa.func.set_config(setting, value, sa.true()))


@contextmanager
def _unconstrained(connection: Connection) -> Iterator[None]:
    """Empty the tables and drop their indexes and foreign keys, then make them again."""
    tables = _tables_of_rows()
    driver: Any = connection.connection.driver_connection
    names = sql.SQL(", ").join(sql.Identifier(table.name) for table in tables)
    for setting, value in (("statement_timeout", "0"), ("maintenance_work_mem", "256MB")):
        connection.execute(_for_now(setting, value))
    driver.execute(sql.SQL("TRUNCATE {}").format(names))
    indexes = [
        index for table in tables for index in sorted(table.indexes, key=lambda i: str(i.name))
    ]
    keys = [
        key
        for table in tables
        for key in table.foreign_key_constraints
        if is_made_on(connection.dialect, key)
    ]
    for key in keys:
        connection.execute(sa.schema.DropConstraint(key))
    for index in indexes:
        connection.execute(sa.schema.DropIndex(index))
    yield
    for index in indexes:
        connection.execute(sa.schema.CreateIndex(index))
    for key in keys:
        connection.execute(sa.schema.AddConstraint(key, isolate_from_table=False))


def _copy(driver: Any, table: Table, blocks: Iterator[Columns]) -> None:
    with made_ahead(_lines(block) for block in blocks) as ready:
        names, lines = next(ready)
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FREEZE)")
        with (
            driver.cursor() as cursor,
            cursor.copy(statement.format(sql.Identifier(table.name), columns)) as copy,
        ):
            copy.write(lines)
            for _names, more in ready:
                copy.write(more)


def _lines(block: Columns) -> tuple[list[str], str]:
    """Return the column names, and the rows in COPY's text format without escapes."""
    line = "\t".join(["%s"] * len(block)) + "\n"
    return list(block), "".join(map(line.__mod__, zip(*map(_texts, block.values()), strict=True)))


def _texts(column: Any) -> Sequence[Any]:
    if not isinstance(column, np.ndarray):
        return ["\\N" if value is None else value for value in column]
    if column.dtype.kind == "M":
        column = np.where(np.isnat(column), "\\N", np.datetime_as_string(column))
    return _with_null(column, "\\N")


def _with_null(column: Any, null: str | None) -> Sequence[Any]:
    """Return the values of an array, with `null` in place of NaN."""
    values: list[Any] = column.tolist()
    if column.dtype.kind == "f" and np.isnan(column).any():
        return [null if isnan(value) else value for value in values]
    return values
