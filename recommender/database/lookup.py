"""database.lookup: TODO."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ARRAY, ColumnElement, Executable, FromClause, Table
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.models import User
from recommender.models.tables import (
    HASHTAGS,
)

Key = tuple[Any, ...]

Values = tuple[Any, ...]
"""All columns of a row, in the order of its table."""


_OURS: dict[str, Any] = {"mapper": User}
"""Tells a session which of its engines holds the tables, if a host binds engines by class."""


def run(
    session: Session, statement: Executable, values: Any = None
) -> sa.CursorResult[*tuple[Any, ...]]:
    """Execute a statement on the engine of the recommender's tables.

    Args:
        session: the transaction.
        statement: any statement.
        values: the bound values, or a list of them.
    """
    result: sa.CursorResult[*tuple[Any, ...]] = session.execute(
        statement, values, bind_arguments=_OURS
    )  # type: ignore[assignment] # rows of tables, not of entities
    return result


def connection(session: Session) -> sa.Connection:
    """Return the session's connection to the recommender's tables."""
    return session.connection(bind_arguments=_OURS)


def is_sqlite(session: Session) -> bool:
    """Whether the session's database is SQLite."""
    return session.get_bind(**_OURS).dialect.name == "sqlite"


def find(
    session: Session,
    columns: Sequence[sa.Column[Any]],
    keys: Sequence[Key],
    read: Sequence[ColumnElement[Any]],
    *,
    lock: bool = False,
    hold: bool = False,
    beside: Table | None = None,
) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    """The rows of a table whose columns are one of many keys, whatever their number.

    Args:
        session: the transaction.
        columns: integer or text columns of one table.
        keys: one tuple of values for each key, one value for each of the columns.
        read: the columns to read.
        lock: whether to lock the rows against other writers, in the order of their keys.
        hold: whether to keep only their keys as they are, as a reference to them does: nobody waits
            for that but an erasure, and one that came first has taken its row from here.
        beside: a table of one row whose columns may be read as well.
    """
    statement = _find(is_sqlite(session), tuple(columns), tuple(read), lock, hold, beside)
    values = listed_values(session, len(columns), keys)
    return run(session, statement, values).all()


@cache
def _find(
    on_sqlite: bool,  # noqa: FBT001 - part of what the statement is cached by
    columns: tuple[sa.Column[Any], ...],
    read: tuple[ColumnElement[Any], ...],
    lock: bool,  # noqa: FBT001
    hold: bool,  # noqa: FBT001
    beside: Table | None,
) -> Statement:
    table = columns[0].table
    rows = listed(on_sqlite, columns)
    matches = [column == rows.c[column.name] for column in columns]
    source = table.join(rows, sa.and_(*matches))
    source = source if beside is None else source.join(beside, sa.true())
    statement = sa.select(*read).select_from(source)
    if lock or hold:
        ordered = statement.order_by(*columns)
        return ordered.with_for_update(read=hold, key_share=True, of=table)
    return statement


def listed(on_sqlite: bool, columns: tuple[sa.Column[Any], ...]) -> FromClause:  # noqa: FBT001
    """Many keys as a FROM clause with the columns' names; its values are given on execution."""
    if not on_sqlite:
        return unnested(columns)
    each = sa.func.json_each(sa.bindparam("listed", type_=sa.Text())).table_valued("value")
    parts = [
        sa.func.json_extract(each.c.value, f"$[{index}]", type_=column.type).label(column.name)
        for index, column in enumerate(columns)
    ]
    return sa.select(*parts).subquery("listed")


def listed_values(session: Session, width: int, keys: Sequence[Key]) -> dict[str, str]:
    """The values that a statement with `listed` is executed with."""
    if is_sqlite(session):
        return {"listed": json.dumps(keys)}
    return arrays(list(zip(*keys, strict=True)) or [()] * width)


def unnested(columns: Sequence[sa.Column[Any]]) -> FromClause:
    """Arrays, one for each column and given on execution, as a FROM clause of that many columns.

    Each is selected, so that PostgreSQL plans for few rows and probes indexes. Knowing how many
    there are it would rather read the whole of a table, and the more the table grows.
    """
    types = [sa.Text() if isinstance(c.type, sa.Text) else c.type for c in columns]
    arrays = [
        sa.select(
            sa.cast(sa.bindparam(f"listed_{index}", type_=sa.Text()), ARRAY(each))
        ).scalar_subquery()
        for index, each in enumerate(types)
    ]
    names = [sa.column(column.name, each) for column, each in zip(columns, types, strict=True)]
    return sa.func.unnest(*arrays).table_valued(*names).render_derived(name="listed")


def arrays(columns: Sequence[Sequence[Any]]) -> dict[str, str]:
    return {f"listed_{index}": _array_literal(each) for index, each in enumerate(columns)}


def _array_literal(values: Sequence[Any]) -> str:
    """PostgreSQL's own notation of an array; a driver that converts each element takes longer."""
    types = set(map(type, values))
    if types <= _NUMBERS:
        parts = repr(list(values))[1:-1].replace("None", "NULL")
    elif types == {str}:
        parts = _text_parts(values)
    elif types == {datetime}:
        parts = ",".join(map(_time_part, values))
    else:
        parts = ",".join([_PARTS.get(type(value), _part)(value) for value in values])
    return f"{{{parts}}}"


def _text_parts(values: Sequence[str]) -> str:
    joined = '","'.join(values)
    if "\\" in joined or joined.count('"') > 2 * (len(values) - 1):
        return ",".join(map(_text_part, values))
    return f'"{joined}"'


def _part(value: Any) -> str:
    """An element of any other type that is one of the known ones."""
    return next(write for known, write in _PARTS.items() if isinstance(value, known))(value)


def _text_part(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_time_part = lru_cache(maxsize=10_000)(datetime.isoformat)
"""Remembered, since one time is written to the log, the state and the pending counts."""

_NUMBERS = {int, float, bool, type(None)}

_PARTS: dict[type, Callable[[Any], str]] = {
    str: _text_part,
    bool: str,
    int: int.__repr__,
    float: float.__repr__,
    datetime: _time_part,
    UUID: str,
    dict: lambda value: _text_part(json.dumps(value)),
    type(None): lambda _: "NULL",
}


def end_of_next(
    session: Session, key: Sequence[sa.Column[Any]], after: lookup.Key | None, most: int
) -> lookup.Key | None:
    """The last key of a table's next rows in the order of their keys, None where none is left.

    Args:
        session: the transaction.
        key: the columns of the table's primary key.
        after: the key that they come after; None to begin.
        most: how many rows at most.
    """
    some = sa.select(*key).where(*keys_in_range(key, after)).order_by(*key).limit(most).subquery()
    ends = sa.select(some).order_by(*(column.desc() for column in some.c)).limit(1)
    last = run(session, ends).one_or_none()
    return None if last is None else tuple(last)


def keys_in_range(
    key: Sequence[sa.Column[Any]], after: lookup.Key | None, last: lookup.Key | None = None
) -> list[ColumnElement[bool]]:
    """The rows whose keys come after one, and not after another; None is no bound."""
    begun = [sa.tuple_(*key) > _bound(key, after)] if after else []
    return [*begun, sa.tuple_(*key) <= _bound(key, last)] if last else begun


def _bound(key: Sequence[sa.Column[Any]], values: Iterable[Any]) -> sa.Tuple:
    return sa.tuple_(*(sa.literal(v, c.type) for v, c in zip(values, key, strict=True)))


def ids(
    session: Session, table: Table, names: Iterable[str], *, hold: bool = False
) -> dict[str, int]:
    """The ids of those keys (of hashtags: names) that are there; `hold` as in `lookup.find`."""
    column = table.c[key_column(table)]
    wanted = [(name,) for name in dict.fromkeys(names)]
    if not wanted:
        return {}
    found = lookup.find(session, [column], wanted, [column, table.c.id], hold=hold)
    return {name: row_id for name, row_id in found}  # noqa: C416 - a Row is not a pair to mypy


def key_column(table: Table) -> str:
    return "name" if table is HASHTAGS else "key"
