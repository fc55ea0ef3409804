"""Set-based writes: insert, merge, delete and synchronise many rows.

PostgreSQL gets a whole batch as arrays in one statement. SQLite gets ``executemany``, some rows per
INSERT, with the statement compiled once. Rows are written in the order of their keys, so that two
transactions do not deadlock.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from itertools import compress
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Table

from recommender.database import lookup
from recommender.database.inserts import (
    ROWS_AT_ONCE,
    Conflict,
    groups,
    postgresql_insert,
    postgresql_inserts,
    sqlite_insert,
    values_insert,
    written,
)
from recommender.database.inserts import Columns as Columns  # noqa: PLC0414 - passed on
from recommender.database.inserts import Merge as Merge  # noqa: PLC0414 - passed on
from recommender.database.lookup import (
    Key,
    Values,
    arrays,
    is_distributed,
    is_sqlite,
    listed_values,
    unnested,
)
from recommender.database.session import Session
from recommender.models.types import stored

Row = Mapping[str, Any]


def insert(
    session: Session,
    table: Table,
    rows: Sequence[Row],
    *,
    conflict: Sequence[str] | None = (),
    merge: Mapping[str, Merge] | None = None,
) -> int:
    """Insert rows with the same columns; merge or keep existing rows.

    Args:
        session: the transaction.
        table: the table.
        rows: in the order of their keys; names that are not columns of the table are ignored.
        conflict: the columns that identify an existing row; empty for the primary key, None for any
            unique columns.
        merge: a function of the old and the new value for every column to change; None keeps the
            existing row.

    Returns:
        The number of rows inserted or merged.
    """
    if not rows:
        return 0
    columns = _by_column(table, rows)
    return insert_columns(session, table, columns, conflict=conflict, merge=merge)


def insert_columns(
    session: Session,
    table: Table,
    columns: Columns,
    *,
    conflict: Sequence[str] | None = (),
    merge: Mapping[str, Merge] | None = None,
) -> int:
    """Insert one or more rows, given as columns, as `insert` does."""
    identifying = None if conflict is None else tuple(conflict)
    conflicts = Conflict(identifying, tuple((merge or {}).items()))
    return _insert(session, table, columns, conflicts)


def insert_counted(
    session: Session,
    table: Table,
    columns: Columns,
    merge: Mapping[str, Merge],
    counted: tuple[str, str],
) -> dict[Any, Any]:
    """Insert or merge rows as `insert_columns` does on PostgreSQL.

    Returns:
        One column of the rows as they are now, by another one; `counted` names the key first.
    """
    conflict = Conflict((), tuple(merge.items()))
    rows = _insert_arrays(session, table, columns, conflict, returning=counted)
    return dict(map(tuple, rows))


class Insert(NamedTuple):
    """Rows for `insert_together`: their values by column, and the merges as in `insert`.

    Names that are not columns of the table are ignored. Without merges all rows must be new.
    """

    table: Table
    columns: Columns
    merge: Mapping[str, Merge] | None = None


def insert_together(session: Session, inserts: Sequence[Insert]) -> None:
    """Insert rows into different tables: in one statement on PostgreSQL.

    Args:
        session: the transaction.
        inserts: each has one or more rows, in the order of their keys.
    """
    if not inserts:
        return
    conflicts = [
        None if insert.merge is None else Conflict((), tuple(insert.merge.items()))
        for insert in inserts
    ]
    # On Citus each table has its own statement: it takes no INSERT in a common table expression.
    if is_sqlite(session) or is_distributed(session):
        for insert, conflict in zip(inserts, conflicts, strict=True):
            _insert(session, insert.table, insert.columns, conflict)
        return
    names = [_known_names(insert.table, insert.columns) for insert in inserts]
    tables = [insert.table for insert in inserts]
    statement = postgresql_inserts(tuple(zip(tables, names, conflicts, strict=True)))
    values: dict[str, str] = {}
    for place, (table, columns, _) in enumerate(inserts):
        stored_columns = [stored(table.c[name].type, columns[name]) for name in names[place]]
        values |= arrays(stored_columns, f"rows_{place}")
    lookup.connection(session).execute(statement, values)


def _by_column(table: Table, rows: Sequence[Row]) -> Columns:
    return {name: list(map(itemgetter(name), rows)) for name in _known_names(table, rows[0])}


def insert_new(session: Session, table: Table, columns: Columns) -> set[Key]:
    """Insert the rows whose primary key is new; return the keys of the inserted rows.

    Args:
        session: the transaction.
        table: the table.
        columns: the values of the rows by column; names that are not columns of the table are
            ignored.
    """
    if not columns:
        return set()
    key = list(table.primary_key)
    keys = list(zip(*(columns[column.name] for column in key), strict=True))
    if not is_sqlite(session):
        names = tuple(table.primary_key.columns.keys())
        rows = _insert_arrays(session, table, columns, Conflict(), returning=names)
        return set(map(tuple, rows.all()))
    if len(keys) == 1:
        return set(keys) if _insert(session, table, columns, Conflict()) else set()
    # SQLite has one writer, so no one else can insert after this read.
    existing = set(map(tuple, lookup.find(session, key, keys, key)))
    if existing:
        is_new = [row_key not in existing for row_key in keys]
        columns = {name: list(compress(columns[name], is_new)) for name in columns}
    if len(existing) < len(keys):
        _insert(session, table, columns, Conflict())
    return set(keys) - existing


def _insert(session: Session, table: Table, columns: Columns, conflict: Conflict | None) -> int:
    """Insert rows given as columns; without `conflict` all rows must be new.

    Returns:
        The number of rows inserted or merged.
    """
    if not is_sqlite(session):
        return _insert_arrays(session, table, columns, conflict).rowcount
    names = _known_names(table, columns)
    connection = lookup.connection(session)
    values_of = (written(table.c[name], columns[name]) for name in names)
    rows, size_limit = list(zip(*values_of, strict=True)), 1 if table.indexes else ROWS_AT_ONCE
    count = 0
    for size, values in groups(rows, size_limit):
        sql = sqlite_insert(table, names, conflict, size)
        count += connection.exec_driver_sql(sql, values).rowcount
    return count


def _insert_arrays(
    session: Session,
    table: Table,
    columns: Columns,
    conflict: Conflict | None,
    returning: tuple[str, ...] = (),
) -> sa.CursorResult[Any]:
    names = _known_names(table, columns)
    if not table.info.get("is_reference") and is_distributed(session):
        count = len(columns[names[0]])
        statement = values_insert(table, names, conflict, returning, count)
        values = {f"{name}_{row}": columns[name][row] for name in names for row in range(count)}
    else:
        statement = postgresql_insert(table, names, conflict, returning)
        values = arrays([stored(table.c[name].type, columns[name]) for name in names])
    options: Any = {"preserve_rowcount": True}
    return lookup.connection(session).execute(statement, values, execution_options=options)


def _known_names(table: Table, names: Container[str]) -> tuple[str, ...]:
    """Return the names that are columns of the table, in the order of the table."""
    return tuple(column.name for column in table.c if column.name in names)


def delete(session: Session, table: Table, keys: Sequence[Key]) -> None:
    """Delete rows by primary key."""
    if not keys:
        return
    columns = list(table.primary_key)
    if is_sqlite(session):
        matches = [column == sa.bindparam(f"gone_{column.name}") for column in columns]
        values = [
            {f"gone_{c.name}": part for c, part in zip(columns, key, strict=True)} for key in keys
        ]
        lookup.connection(session).execute(sa.delete(table).where(*matches), values)
        return
    lookup.connection(session).execute(
        _postgresql_delete(table), listed_values(session, len(columns), keys)
    )


@cache
def _postgresql_delete(table: Table) -> sa.Delete:
    rows, key = unnested(list(table.primary_key)), list(table.primary_key)
    return sa.delete(table).where(*lookup.matches(False, key, rows))  # noqa: FBT003


def update_listed(
    session: Session,
    columns: Sequence[sa.Column[Any]],
    rows: Sequence[Key],
    changes: Mapping[str, Merge],
    constants: Mapping[str, object] | None = None,
) -> None:
    """Update the rows of a list, in one statement.

    Args:
        session: the transaction.
        columns: the table's key column, then the columns whose new values are listed.
        rows: for each row its key and new values, in the order of `columns`.
        changes: for each column to change, a function of its old and new value.
        constants: further columns, each with one value for all rows.
    """
    constants = constants or {}
    statement = _update_listed(
        is_sqlite(session), tuple(columns), tuple(changes.items()), tuple(constants)
    )
    values = {f"new_{name}": value for name, value in constants.items()}
    lookup.run(session, statement, {**listed_values(session, len(columns), rows), **values})


@cache
def _update_listed(
    on_sqlite: bool,  # noqa: FBT001 - part of what the statement is cached by
    columns: tuple[sa.Column[Any], ...],
    changes: tuple[tuple[str, Merge], ...],
    constants: tuple[str, ...],
) -> sa.Update:
    key, table = columns[0], columns[0].table
    rows = lookup.listed(on_sqlite, columns)
    values = {name: change(table.c[name], rows.c[name]) for name, change in changes}
    values |= {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in constants}
    return sa.update(table).where(key == rows.c[key.name]).values(values)


def replace(old: Any, new: Any) -> ColumnElement[Any]:  # noqa: ARG001 - a Merge takes both
    """Return the new value."""
    return sa.type_coerce(new, new.type)


def added(old: Any, new: Any) -> ColumnElement[Any]:
    """Return the sum."""
    return sa.type_coerce(old + new, old.type)


def greatest(old: Any, new: Any) -> ColumnElement[Any]:
    """Return the greater value, ignoring NULL."""
    return sa.case((sa.or_(old.is_(None), old < new), new), else_=old)


def least(old: Any, new: Any) -> ColumnElement[Any]:
    """Return the smaller value, ignoring NULL."""
    return sa.case((sa.or_(old.is_(None), old > new), new), else_=old)


def synchronise(
    session: Session,
    table: Table,
    current: Iterable[Values],
    wanted: Iterable[Values],
    *,
    new: Container[Any] = (),
) -> set[Any]:
    """Change a table's rows to the wanted rows; only differences are written.

    Args:
        session: the transaction.
        table: the table. Its first columns are its primary key; the first column is the owner.
        current: the existing rows.
        wanted: the rows after the call.
        new: owners without rows that no other transaction knows. PostgreSQL need not search for
            their rows, which saves a third to a half of the time of an insert.

    Returns:
        The owners of the changed rows.
    """
    width, ordered, existing = len(table.primary_key.columns), sorted(wanted), set(current)
    added = [row for row in ordered if row[0] in new]
    kept = [row for row in ordered if row[0] not in new]
    changed = [row for row in kept if row not in existing]
    deleted = sorted({row[:width] for row in existing} - {row[:width] for row in kept})
    delete(session, table, deleted)
    if changed:
        merge = {column.name: replace for column in table.c if not column.primary_key}
        insert_columns(session, table, columns_of(table.c.keys(), changed), merge=merge)
    if added:
        _insert(session, table, columns_of(table.c.keys(), added), None)
    return {row[0] for row in (*added, *changed, *deleted)}


def columns_of(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Columns:
    """Return rows as columns by name; no columns without rows."""
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
