"""The INSERTs of many rows: of listed rows on SQLite and Citus, of arrays on PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Table
from sqlalchemy.dialects import postgresql, sqlite

from recommender.database.lookup import Key, unnested
from recommender.database.written_out import identified
from recommender.formats.scalars import UNDATED
from recommender.models.types import PublicationTime, UtcDateTime, microseconds

Columns = Mapping[str, Sequence[Any]]

Merge = Callable[[Any, Any], ColumnElement[Any]]

ROWS_AT_ONCE = 16
"""The rows of an INSERT on SQLite, whose fixed cost equals writing one row.

A table with indexes gets one row per INSERT. Until an INSERT ends, SQLite keeps a copy of every
page that it changed, and an index changes another page for every row.
"""


_WRITERS: dict[type, Callable[[Any], Any]] = {
    UtcDateTime: microseconds,
    PublicationTime: lambda moment: microseconds(moment or UNDATED),
    sa.Uuid: attrgetter("hex"),
    sa.JSON: json.dumps,
}
"""The conversions of values for SQLite, by column type; other values stay as they are."""


MAX_STATEMENTS = 500
"""The number of cached INSERTs of `values_insert`: one for each table and number of rows."""


class Conflict(NamedTuple):
    """The columns that identify an existing row, and the merges, as in `insert`."""

    columns: tuple[str, ...] | None = ()
    merges: tuple[tuple[str, Merge], ...] = ()


@cache
def postgresql_insert(
    table: Table,
    names: tuple[str, ...],
    conflict: Conflict | None,
    returning: tuple[str, ...] = (),
    listed: str = "listed",
) -> Any:
    """Return the INSERT of the rows of arrays, which `arrays` gives on execution."""
    rows = unnested([table.c[name] for name in names], listed, joined=False)
    # The driver converts a text of more than 4,096 bytes again at each execution.
    source: Any = sa.select(sa.literal_column("*")).select_from(rows)
    statement: Any = postgresql.insert(table).from_select(list(names), source)
    statement = on_conflict(statement, table, conflict)
    return statement.returning(*(table.c[name] for name in returning)) if returning else statement


@cache
def postgresql_inserts(
    inserts: tuple[tuple[Table, tuple[str, ...], Conflict | None], ...],
) -> Any:
    """Build the last INSERT, with the others as its common table expressions."""
    *others, last = (
        postgresql_insert(*insert, listed=f"rows_{place}") for place, insert in enumerate(inserts)
    )
    return last.add_cte(*(insert.cte(f"insert_{place}") for place, insert in enumerate(others)))


def written(column: sa.Column[Any], values: Sequence[Any]) -> Iterable[Any]:
    """Return the values of a column in the form that SQLite takes."""
    write = _WRITERS.get(type(column.type))
    return map(write, values) if write else values


def groups(rows: Sequence[Key], size_limit: int) -> Iterator[tuple[int, list[Key]]]:
    """Yield the rows per statement and their values: full groups first, then single rows."""
    whole = len(rows) - len(rows) % size_limit
    for size, group in ((size_limit, rows[:whole]), (1, rows[whole:])):
        if group:
            values = chain.from_iterable(group)
            yield size, list(zip(*[values] * (size * len(group[0])), strict=True))


@lru_cache(MAX_STATEMENTS)
def values_insert(
    table: Table,
    names: tuple[str, ...],
    conflict: Conflict | None,
    returning: tuple[str, ...],
    rows: int,
) -> sa.StatementLambdaElement:
    """Return the INSERT of a number of rows on Citus: it sends values to the nodes of their users.

    Rows of arrays would first be collected by the coordinator.
    """
    places = [
        {name: sa.bindparam(f"{name}_{row}", type_=table.c[name].type) for name in names}
        for row in range(rows)
    ]
    statement = on_conflict(postgresql.insert(table).values(places), table, conflict)
    if returning:
        statement = statement.returning(*(table.c[name] for name in returning))
    return identified(statement, values_insert, table, names, conflict, returning, rows)


@cache
def sqlite_insert(
    table: Table,
    names: tuple[str, ...],
    conflict: Conflict | None,
    rows: int,
) -> str:
    """Return the SQL that inserts a number of rows, with a placeholder for every value."""
    dialect = sqlite.dialect(paramstyle="qmark")
    places: list[dict[str, Any]] = [
        {name: sa.bindparam(f"{name}_{row}") for name in names} for row in range(rows)
    ]
    statement = on_conflict(sqlite.insert(table).values(places), table, conflict)
    return str(statement.compile(dialect=dialect))


def on_conflict(statement: Any, table: Table, conflict: Conflict | None) -> Any:
    """Return an INSERT that merges or keeps existing rows; without `conflict` it stays."""
    if conflict is None:
        return statement
    if conflict.columns is None:
        return statement.on_conflict_do_nothing()
    target = [table.c[name] for name in conflict.columns or table.primary_key.columns.keys()]
    if not conflict.merges:
        return statement.on_conflict_do_nothing(index_elements=target)
    changed = {
        name: merge(table.c[name], statement.excluded[name]) for name, merge in conflict.merges
    }
    return statement.on_conflict_do_update(index_elements=target, set_=changed)
