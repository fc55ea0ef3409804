"""Set-based reads and writes: the one place where the two databases want different SQL.

PostgreSQL takes a whole batch as arrays in one statement. SQLite takes a JSON list to look up, and
``executemany`` to write, some rows at a time, with the statement compiled once. Rows are written in
the order of their keys, so that two transactions never wait for each other in a circle.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain, compress
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ARRAY, ColumnElement, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.lookup import (
    Key,
    Values,
    arrays,
    find,
    is_sqlite,
    listed_values,
    unnested,
)
from recommender.models.types import UtcDateTime, microseconds

Row = Mapping[str, Any]

Columns = Mapping[str, Sequence[Any]]

Merge = Callable[[Any, Any], ColumnElement[Any]]

ROWS_AT_ONCE = 16
"""Rows of one INSERT on SQLite: beginning and ending one takes as long as writing a row.

Of a table with indexes it is one row: until an INSERT has ended, SQLite keeps a copy of each page
that it changed, and an index has another for each row.
"""


@contextmanager
def uncollected() -> Iterator[None]:
    """Leaves garbage to its reference counts for the length of a batch, or of a command.

    A batch makes some hundred thousand objects and no circles of them; looking for circles took a
    fifth of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_WRITERS: dict[type, Callable[[Any], Any]] = {
    UtcDateTime: microseconds,
    sa.Uuid: attrgetter("hex"),
    sa.JSON: json.dumps,
}
"""How SQLite is given values of a type; the others as they are."""


def insert(
    session: Session,
    table: Table,
    rows: Sequence[Row],
    *,
    conflict: Sequence[str] | None = (),
    merge: Mapping[str, Merge] | None = None,
) -> int:
    """Insert rows that all have the same columns; where one is there already, merge or keep it.

    Args:
        session: the transaction.
        table: the table.
        rows: in the order of their keys; what is no column of the table is passed over.
        conflict: the columns that a row is there already by; the primary key where empty, any
            unique columns where None.
        merge: for each column to change, a function of its old and new value; None keeps the row.

    Returns:
        How many were inserted or merged.
    """
    if not rows:
        return 0
    given = _by_column(table, rows)
    return insert_columns(session, table, given, conflict=conflict, merge=merge)


def insert_columns(
    session: Session,
    table: Table,
    columns: Columns,
    *,
    conflict: Sequence[str] | None = (),
    merge: Mapping[str, Merge] | None = None,
) -> int:
    """Insert rows given as columns, one or more, as `insert` does."""
    found_by = None if conflict is None else tuple(conflict)
    there = _Conflict(found_by, tuple((merge or {}).items()))
    return _insert(session, table, columns, there)


class _Conflict(NamedTuple):
    """By which columns a row is there already, as `insert` takes them, and what is merged then."""

    columns: tuple[str, ...] | None = ()
    merges: tuple[tuple[str, Merge], ...] = ()


def _by_column(table: Table, rows: Sequence[Row]) -> Columns:
    return {name: list(map(itemgetter(name), rows)) for name in _known_names(table, rows[0])}


def insert_new(session: Session, table: Table, columns: Columns) -> set[Key]:
    """Insert the rows that are not there by primary key; return the keys of those inserted.

    Args:
        session: the transaction.
        table: the table.
        columns: the rows' values by column; what is no column of the table is passed over.
    """
    if not columns:
        return set()
    key = list(table.primary_key)
    keys = list(zip(*(columns[column.name] for column in key), strict=True))
    if not is_sqlite(session):
        found_by = tuple(table.primary_key.columns.keys())
        rows = _insert_arrays(session, table, columns, _Conflict(), returning=found_by)
        return set(map(tuple, rows.all()))
    if len(keys) == 1:
        return set(keys) if _insert(session, table, columns, _Conflict()) else set()
    there = set(map(tuple, find(session, key, keys, key)))  # nobody else can write meanwhile
    if there:
        is_new = [each not in there for each in keys]
        columns = {name: list(compress(columns[name], is_new)) for name in columns}
    if len(there) < len(keys):
        _insert(session, table, columns, _Conflict())
    return set(keys) - there


def _insert(session: Session, table: Table, columns: Columns, conflict: _Conflict | None) -> int:
    """Insert rows given as columns, of which none can be there already where `conflict` is None.

    Returns:
        How many were inserted or merged.
    """
    if not is_sqlite(session):
        return _insert_arrays(session, table, columns, conflict).rowcount
    names = _known_names(table, columns)
    connection = lookup.connection(session)
    given = (_written(table.c[name], columns[name]) for name in names)
    rows, most = list(zip(*given, strict=True)), 1 if table.indexes else ROWS_AT_ONCE
    count = 0
    for size, values in _groups(rows, most):
        sql = _sqlite_insert(table, names, conflict, size)
        count += connection.exec_driver_sql(sql, values).rowcount
    return count


def _insert_arrays(
    session: Session,
    table: Table,
    columns: Columns,
    conflict: _Conflict | None,
    returning: tuple[str, ...] = (),
) -> sa.CursorResult[Any]:
    names = _known_names(table, columns)
    statement = _postgresql_insert(table, names, conflict, returning)
    return lookup.connection(session).execute(
        statement,
        arrays([columns[name] for name in names]),
        execution_options={"preserve_rowcount": True},
    )


def _known_names(table: Table, given: Container[str]) -> tuple[str, ...]:
    """The names of a table's columns that are given, in its order."""
    return tuple(column.name for column in table.c if column.name in given)


@cache
def _postgresql_insert(
    table: Table,
    names: tuple[str, ...],
    conflict: _Conflict | None,
    returning: tuple[str, ...],
) -> Any:
    source = sa.select(unnested([table.c[name] for name in names]))
    statement: Any = postgresql.insert(table).from_select(list(names), source)
    statement = _on_conflict(statement, table, conflict)
    return statement.returning(*(table.c[name] for name in returning)) if returning else statement


def _written(column: sa.Column[Any], values: Sequence[Any]) -> Iterable[Any]:
    """The values of a column as SQLite is given them."""
    write = _WRITERS.get(type(column.type))
    return map(write, values) if write else values


def _groups(rows: Sequence[Key], most: int) -> Iterator[tuple[int, list[Key]]]:
    """Parameters of statements for so many rows each: most at a time, then the rest one by one."""
    whole = len(rows) - len(rows) % most
    for size, some in ((most, rows[:whole]), (1, rows[whole:])):
        if some:
            values = chain.from_iterable(some)
            yield size, list(zip(*[values] * (size * len(some[0])), strict=True))


@cache
def _sqlite_insert(
    table: Table,
    names: tuple[str, ...],
    conflict: _Conflict | None,
    rows: int,
) -> str:
    """The SQL to insert so many rows, with a place for each column of each."""
    dialect = sqlite.dialect(paramstyle="qmark")
    places: list[dict[str, Any]] = [
        {name: sa.bindparam(f"{name}_{row}") for name in names} for row in range(rows)
    ]
    statement = _on_conflict(sqlite.insert(table).values(places), table, conflict)
    return str(statement.compile(dialect=dialect))


def _on_conflict(statement: Any, table: Table, conflict: _Conflict | None) -> Any:
    if conflict is None:
        return statement
    if conflict.columns is None:
        return statement.on_conflict_do_nothing()
    target = [table.c[name] for name in conflict.columns or table.primary_key.columns.keys()]
    if not conflict.merges:
        return statement.on_conflict_do_nothing(index_elements=target)
    changed = {name: how(table.c[name], statement.excluded[name]) for name, how in conflict.merges}
    return statement.on_conflict_do_update(index_elements=target, set_=changed)


def delete(session: Session, table: Table, keys: Sequence[Key]) -> None:
    """Delete rows by primary key."""
    if not keys:
        return
    columns = list(table.primary_key)
    if is_sqlite(session):
        matches = [column == sa.bindparam(f"gone_{column.name}") for column in columns]
        gone = [
            {f"gone_{c.name}": part for c, part in zip(columns, key, strict=True)} for key in keys
        ]
        lookup.connection(session).execute(sa.delete(table).where(*matches), gone)
        return
    lookup.connection(session).execute(
        _postgresql_delete(table), listed_values(session, len(columns), keys)
    )


@cache
def _postgresql_delete(table: Table) -> sa.Delete:
    rows = unnested(list(table.primary_key))
    return sa.delete(table).where(*(c == rows.c[c.name] for c in table.primary_key))


def replace(old: Any, new: Any) -> ColumnElement[Any]:  # noqa: ARG001 - a Merge takes both
    """The new value."""
    return sa.type_coerce(new, new.type)


def added(old: Any, new: Any) -> ColumnElement[Any]:
    """The sum."""
    return sa.type_coerce(old + new, old.type)


def greatest(old: Any, new: Any) -> ColumnElement[Any]:
    """The greater value; one that is NULL does not count."""
    return sa.case((sa.or_(old.is_(None), old < new), new), else_=old)


def least(old: Any, new: Any) -> ColumnElement[Any]:
    """The lesser value; one that is NULL does not count."""
    return sa.case((sa.or_(old.is_(None), old > new), new), else_=old)


def synchronise(
    session: Session,
    table: Table,
    current: Iterable[Values],
    wanted: Iterable[Values],
    *,
    new: Container[Any] = (),
) -> set[Any]:
    """Make a table's rows be the wanted ones, writing only what differs.

    Args:
        session: the transaction.
        table: the table; its primary key is its first columns, and the first of them its owner.
        current: the rows as they are.
        wanted: the rows as they shall be.
        new: the owners that no other transaction knows of yet, and of whom no row is there: where
            PostgreSQL need not look for a row, inserting it takes a third to a half less time.

    Returns:
        The owners of the rows that changed.
    """
    width, ordered, there = len(table.primary_key.columns), sorted(wanted), set(current)
    added = [row for row in ordered if row[0] in new]
    kept = [row for row in ordered if row[0] not in new]
    changed = [row for row in kept if row not in there]
    gone = sorted({row[:width] for row in there} - {row[:width] for row in kept})
    delete(session, table, gone)
    if changed:
        merge = {column.name: replace for column in table.c if not column.primary_key}
        insert_columns(session, table, _columns(table, changed), merge=merge)
    if added:
        _insert(session, table, _columns(table, added), None)
    return {row[0] for row in (*added, *changed, *gone)}


def _columns(table: Table, rows: Sequence[Values]) -> Columns:
    return dict(zip(table.c.keys(), zip(*rows, strict=True), strict=True))


def reserve_ids(session: Session, table: Table, count: int) -> list[int]:
    """New ids of a catalogue table, one or more, ascending, that no other transaction gets.

    Reserved before the insert, so that rows get ids in the order of the file although they are
    written in the order of their keys.
    """
    if is_sqlite(session):
        sequence = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq", sa.Integer))
        last = sa.select(sequence.c.seq).where(sequence.c.name == table.name)
        start = (lookup.run(session, last).scalar() or 0) + 1
        return list(range(start, start + count))
    name = sa.cast(sa.func.pg_get_serial_sequence(table.name, "id"), postgresql.REGCLASS)
    looked_up_once = sa.select(name).scalar_subquery()
    numbers = sa.func.generate_series(1, count).table_valued("number")
    reserved = sa.func.array_agg(sa.func.nextval(looked_up_once), type_=ARRAY(sa.BigInteger))
    statement = sa.select(reserved).select_from(numbers)
    return sorted(lookup.run(session, statement).scalars().one())


def columns_of(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> bulk.Columns:
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
