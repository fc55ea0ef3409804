"""Set-based reads and writes: the one place where the two databases want different SQL.

PostgreSQL takes a whole batch as arrays in one statement; SQLite takes a JSON list to look up and
``executemany`` to write. Rows are written in the order of their keys, so that two transactions
never wait for each other in a circle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ARRAY, ColumnElement, FromClause, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from recommender.models import Statement

Row = Mapping[str, Any]
Key = tuple[Any, ...]
Merge = Callable[[Any, Any], ColumnElement[Any]]


def is_sqlite(session: Session) -> bool:
    """Whether the session's database is SQLite."""
    return session.get_bind().dialect.name == "sqlite"


def listed(session: Session, columns: Sequence[sa.Column[Any]], keys: Sequence[Key]) -> FromClause:
    """Many keys as a FROM clause with the columns' names, whatever their number.

    Args:
        session: says which database it is for.
        columns: integer or text columns that the keys are of.
        keys: one tuple of values for each row.
    """
    if is_sqlite(session):
        each = sa.func.json_each(json.dumps(keys)).table_valued("value")
        parts = [
            sa.func.json_extract(each.c.value, f"$[{index}]", type_=column.type).label(column.name)
            for index, column in enumerate(columns)
        ]
        return sa.select(*parts).subquery("listed")
    return _unnested(columns, list(zip(*keys, strict=True)) or [()] * len(columns))


def _unnested(columns: Sequence[sa.Column[Any]], values: Sequence[Sequence[Any]]) -> FromClause:
    arrays = [
        sa.literal(list(given), ARRAY(_element(column)))
        for column, given in zip(columns, values, strict=True)
    ]
    names = [sa.column(column.name, _element(column)) for column in columns]
    return sa.func.unnest(*arrays).table_valued(*names).render_derived(name="listed")


def _element(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    return sa.Text() if isinstance(column.type, sa.Text) else column.type


def lookup(
    session: Session, columns: Sequence[sa.Column[Any]], keys: Sequence[Key], *read: Any
) -> Statement:
    """A SELECT of `read` from the columns' table, for the rows whose columns are a listed key."""
    table = columns[0].table
    rows = listed(session, columns, keys)
    matches = [column == rows.c[column.name] for column in columns]
    return sa.select(*read).select_from(table.join(rows, sa.and_(*matches)))


def insert(
    session: Session,
    table: Table,
    rows: Sequence[Row],
    *,
    conflict: Sequence[str] | None = None,
    merge: Mapping[str, Merge] | None = None,
) -> None:
    """Insert rows that all have the same columns; where one is there already, merge or keep it.

    Args:
        session: the transaction.
        table: the table.
        rows: in the order of their keys.
        conflict: the columns that a row is there already by; the primary key where None.
        merge: for each column to change, a function of its old and new value; None keeps the row.
    """
    if not rows:
        return
    statement = _insert(session, table, rows, conflict=conflict, merge=merge)
    session.execute(statement, rows if is_sqlite(session) else None)


def insert_new(session: Session, table: Table, rows: Sequence[Row]) -> set[Key]:
    """Insert the rows that are not there by primary key; return the keys of those inserted.

    On SQLite the caller leaves out what is there: within its transaction nobody else can write.
    """
    key = [column.name for column in table.primary_key]
    if not rows or is_sqlite(session):
        insert(session, table, rows)
        return {tuple(row[name] for name in key) for row in rows}
    statement = _insert(session, table, rows).returning(*(table.c[name] for name in key))
    return {tuple(row) for row in session.execute(statement)}


def _insert(
    session: Session,
    table: Table,
    rows: Sequence[Row],
    *,
    conflict: Sequence[str] | None = None,
    merge: Mapping[str, Merge] | None = None,
) -> Any:
    columns = [table.c[name] for name in rows[0]]
    statement: Any
    if is_sqlite(session):
        statement = sqlite.insert(table).values({c.name: sa.bindparam(c.name) for c in columns})
    else:
        values = [[row[column.name] for row in rows] for column in columns]
        source = _unnested(columns, values)
        names = [column.name for column in columns]
        statement = postgresql.insert(table).from_select(names, sa.select(source))
    target = [table.c[name] for name in conflict or table.primary_key.columns.keys()]
    if merge is None:
        return statement.on_conflict_do_nothing(index_elements=target)
    changed = {name: how(table.c[name], statement.excluded[name]) for name, how in merge.items()}
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
        session.connection().execute(sa.delete(table).where(*matches), gone)
        return
    rows = listed(session, columns, keys)
    matches = [column == rows.c[column.name] for column in columns]
    session.execute(sa.delete(table).where(*matches))


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
    session: Session, table: Table, current: Mapping[Key, Row], wanted: Mapping[Key, Row]
) -> set[Any]:
    """Make a table's rows be the wanted ones, writing only what differs.

    Args:
        session: the transaction.
        table: the table.
        current: the rows' other columns by primary key, as they are.
        wanted: the same, as they shall be.

    Returns:
        The first part of the keys of the rows that changed: their owners.
    """
    names = table.primary_key.columns.keys()
    changed = sorted(key for key in wanted if current.get(key) != wanted[key])
    gone = sorted(key for key in current if key not in wanted)
    delete(session, table, gone)
    rows = [{**dict(zip(names, key, strict=True)), **wanted[key]} for key in changed]
    others = {name: replace for name in rows[0] if name not in names} if rows else {}
    insert(session, table, rows, merge=others or None)
    return {key[0] for key in (*changed, *gone)}


def reserve_ids(session: Session, table: Table, count: int) -> list[int]:
    """New ids of a catalogue table, ascending, that no other transaction gets.

    Reserved before the insert, so that rows get ids in the order of the file although they are
    written in the order of their keys.
    """
    if is_sqlite(session):
        sequence = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq", sa.Integer))
        last = sa.select(sequence.c.seq).where(sequence.c.name == table.name)
        start = (session.scalar(last) or 0) + 1
        return list(range(start, start + count))
    name = sa.func.pg_get_serial_sequence(table.name, "id")
    numbers = sa.func.generate_series(1, count).table_valued("number")
    return sorted(session.scalars(sa.select(sa.func.nextval(name)).select_from(numbers)))
