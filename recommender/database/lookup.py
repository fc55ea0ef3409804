"""Reads by a list of keys, and in ranges of keys, with one statement for any number of keys.

PostgreSQL gets the keys as arrays, SQLite as a JSON list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ARRAY, ColumnElement, Executable, FromClause, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from recommender.database import expressions
from recommender.database.expressions import Statement, unless_distributed
from recommender.database.registered import Registered, kept_registry
from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.models import User
from recommender.models.tables import (
    HASHTAGS,
)

Key = tuple[Any, ...]

Values = tuple[Any, ...]
"""All columns of a row, in the order of its table."""


B = TypeVar("B", bound=sa.Engine | sa.Connection)

_OURS: dict[str, Any] = {"mapper": User}
"""Selects the engine of these tables, for hosts that bind several engines by class."""


def run(
    session: Session, statement: Executable, values: Any = None
) -> sa.CursorResult[*tuple[Any, ...]]:
    """Execute a statement on the engine of the recommender's tables.

    Args:
        session: the transaction.
        statement: any statement.
        values: the bound values, or a list of them.
    """
    _check_options(session.get_bind(**_OURS))
    result: sa.CursorResult[*tuple[Any, ...]] = session.execute(
        statement, values, bind_arguments=_OURS
    )  # type: ignore[assignment] # rows of tables, not of entities
    return result


def connection(session: Session) -> sa.Connection:
    """Return the session's connection to the recommender's tables.

    Raises:
        InvalidValue: the connection translates the names of schemas.
    """
    return _check_options(session.connection(bind_arguments=_OURS))


def is_sqlite(session: Session) -> bool:
    """Return whether the session's database is SQLite."""
    return _check_options(session.get_bind(**_OURS)).dialect.name == "sqlite"


def is_distributed(session: Session) -> bool:
    """Return whether Citus distributes the tables of the session's database."""
    # The engine knows it from its first connection.
    return not is_sqlite(session) and expressions.is_distributed(connection(session).dialect)


def registry(session: Session) -> Registered | None:
    """Return the registry of the engine of the recommender's tables, None if it has none."""
    return kept_registry(session.get_bind(**_OURS))


def _check_options(bind: B) -> B:
    """Return an engine or connection, or raise `InvalidValue` if it translates schemas."""
    # ANALYZE, sequences and SQLite's prepared INSERTs name tables as text, which is not translated.
    if bind.get_execution_options().get("schema_translate_map"):
        raise InvalidValue(
            "schema_translate_map: not every statement of the recommender follows it: set"
            " search_path on PostgreSQL, and use another file on SQLite"
        )
    return bind


def find(
    session: Session,
    columns: Sequence[sa.Column[Any]],
    keys: Sequence[Key],
    read: Sequence[ColumnElement[Any]],
    *,
    lock: bool = False,
    key_share: bool = False,
) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    """Return the rows of a table that have one of the keys, for any number of keys.

    Args:
        session: the transaction.
        columns: integer or text columns of one table.
        keys: tuples with a value for every column.
        read: the columns to read.
        lock: lock the rows against other writers, in the order of their keys.
        key_share: lock only the keys of the rows, as a foreign key does. Only an erasure waits for
            this lock; a row whose erasure came first is not returned.
    """
    values = listed_values(session, len(columns), keys)
    statement = _find(is_sqlite(session), tuple(columns), tuple(read), lock, key_share)
    return run(session, statement, values).all()


@cache
def _find(
    on_sqlite: bool,  # noqa: FBT001 - part of what the statement is cached by
    columns: tuple[sa.Column[Any], ...],
    read: tuple[ColumnElement[Any], ...],
    lock: bool,  # noqa: FBT001
    key_share: bool,  # noqa: FBT001
) -> Statement:
    table = columns[0].table
    rows = listed(on_sqlite, columns)
    source = table.join(rows, sa.and_(*matches(on_sqlite, columns, rows)))
    statement = sa.select(*read).select_from(source)
    if lock or key_share:
        ordered = statement.order_by(*columns)
        return ordered.with_for_update(read=key_share, key_share=True, of=table)
    return statement


def listed(on_sqlite: bool, columns: tuple[sa.Column[Any], ...]) -> FromClause:  # noqa: FBT001
    """Return a FROM clause of many keys; `listed_values` gives its values on execution.

    Args:
        on_sqlite: whether the database is SQLite.
        columns: the columns that the keys belong to, which also name the columns of the clause.
    """
    if not on_sqlite:
        return unnested(columns)
    element = sa.func.json_each(sa.bindparam("listed", type_=sa.Text())).table_valued("value")
    parts = [
        sa.func.json_extract(element.c.value, f"$[{index}]", type_=column.type).label(column.name)
        for index, column in enumerate(columns)
    ]
    return sa.select(*parts).subquery("listed")


def matches(
    on_sqlite: bool,  # noqa: FBT001
    columns: Sequence[sa.Column[Any]],
    rows: FromClause,
) -> list[ColumnElement[bool]]:
    """Return the conditions that columns are those of a row of `listed`."""
    pairs = [column == rows.c[column.name] for column in columns]
    for place, column in enumerate(() if on_sqlite else columns):
        if column.name == "user_id":
            # The array tells Citus which shards have rows.
            is_listed = column == sa.any_(_array(f"listed_{place}", column.type))
            pairs[place] = unless_distributed(pairs[place], sa.and_(pairs[place], is_listed))
    return pairs


def listed_values(session: Session, width: int, keys: Sequence[Key]) -> dict[str, str]:
    """Return the bound values of a statement with `listed`.

    Args:
        session: the transaction.
        width: the number of values of a key.
        keys: the keys, none or more.
    """
    if is_sqlite(session):
        return {"listed": json.dumps(keys)}
    return arrays(list(zip(*keys, strict=True)) or [()] * width)


def unnested(
    columns: Sequence[sa.Column[Any]], name: str = "listed", *, joined: bool = True
) -> FromClause:
    """Return a FROM clause of arrays, one per column; `arrays` gives their values on execution.

    Args:
        columns: the columns that the values belong to, which also name the columns of the clause.
        name: the name of the clause, and the beginning of the names of its values.
        joined: whether the rows are joined with a table.
    """
    types = [sa.Text() if isinstance(c.type, sa.Text) else c.type for c in columns]
    arrays: list[Any] = [_array(f"{name}_{index}", kind) for index, kind in enumerate(types)]
    if joined:
        # Scalar subqueries hide the number of rows from PostgreSQL: it then plans for few rows and
        # probes indexes, instead of reading the whole table.
        # Citus plans no subquery there.
        arrays = [unless_distributed(sa.select(a).scalar_subquery(), a) for a in arrays]
    names = [sa.column(column.name, kind) for column, kind in zip(columns, types, strict=True)]
    return together(*arrays).table_valued(*names).render_derived(name=name)


def _array(name: str, kind: Any) -> ColumnElement[Any]:
    return sa.cast(sa.bindparam(name, type_=sa.Text()), ARRAY(kind))


class together(FunctionElement[Any]):  # noqa: N801
    """The rows of arrays, side by side."""

    inherit_cache = True


@compiles(together)
def _unnest(element: together, compiler: SQLCompiler, **options: Any) -> str:
    if expressions.is_distributed(compiler.dialect):
        # Citus takes no function of several arrays that are bound values.
        rows = sa.select(*(sa.func.unnest(array) for array in element.clauses))
        return f"({compiler.process(rows, **options)})"
    return compiler.process(sa.func.unnest(*element.clauses), **options)


def arrays(columns: Sequence[Sequence[Any]], name: str = "listed") -> dict[str, str]:
    """Return the bound values of `unnested`, from the values of the columns."""
    return {f"{name}_{index}": _array_literal(values) for index, values in enumerate(columns)}


def _array_literal(values: Sequence[Any]) -> str:
    """Return an array in PostgreSQL's own notation."""
    # A driver that converts the elements one by one takes longer.
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
    """Return an element whose type is a subclass of a known type."""
    return next(write for known, write in _PARTS.items() if isinstance(value, known))(value)


def _text_part(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_time_part = lru_cache(maxsize=10_000)(datetime.isoformat)
"""Cached, because one time is written to the log, the state and the pending counts."""

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
    session: Session, key: Sequence[sa.Column[Any]], after: Key | None, limit: int
) -> Key | None:
    """Return the last key of the next rows in the order of their keys, None if no row is left.

    Args:
        session: the transaction.
        key: the columns of the table's primary key.
        after: the key before the rows; None to begin.
        limit: the number of rows, at most.
    """
    batch = sa.select(*key).where(*keys_in_range(key, after)).order_by(*key).limit(limit).subquery()
    ends = sa.select(batch).order_by(*(column.desc() for column in batch.c)).limit(1)
    last = run(session, ends).one_or_none()
    return None if last is None else tuple(last)


def keys_in_range(
    key: Sequence[sa.Column[Any]], after: Key | None, last: Key | None = None
) -> list[ColumnElement[bool]]:
    """Return the conditions of a range of keys: after `after`, up to `last`; None is no bound."""
    begun = [sa.tuple_(*key) > _bound(key, after)] if after else []
    return [*begun, sa.tuple_(*key) <= _bound(key, last)] if last else begun


def _bound(key: Sequence[sa.Column[Any]], values: Iterable[Any]) -> sa.Tuple:
    return sa.tuple_(*(sa.literal(v, c.type) for v, c in zip(values, key, strict=True)))


def ids(
    session: Session, table: Table, names: Iterable[str], *, key_share: bool = False
) -> dict[str, int]:
    """Return the ids of existing rows by key, hashtags by name; `key_share` as in `find`."""
    column = table.c[key_column(table)]
    keys = [(name,) for name in dict.fromkeys(names)]
    if not keys:
        return {}
    rows = find(session, [column], keys, [column, table.c.id], key_share=key_share)
    return {name: row_id for name, row_id in rows}  # noqa: C416 - a Row is not a pair to mypy


def reserve_ids(session: Session, table: Table, count: int) -> list[int]:
    """Return new ids of a catalogue table, ascending, that no other transaction gets.

    Args:
        session: the transaction.
        table: the table.
        count: the number of ids, 1 or more.
    """
    # Reserved before the insert: rows get ids in the order of the file, although they are written
    # in the order of their keys.
    if is_sqlite(session):
        sequence = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq", sa.Integer))
        last = sa.select(sequence.c.seq).where(sequence.c.name == table.name)
        start = (run(session, last).scalar() or 0) + 1
        return list(range(start, start + count))
    name = sa.cast(sa.func.pg_get_serial_sequence(table.name, "id"), postgresql.REGCLASS)
    looked_up_once = sa.select(name).scalar_subquery()
    numbers = sa.func.generate_series(1, count).table_valued("number")
    reserved = sa.func.array_agg(sa.func.nextval(looked_up_once), type_=ARRAY(sa.BigInteger))
    statement = sa.select(reserved).select_from(numbers)
    return sorted(run(session, statement).scalars().one())


def key_column(table: Table) -> str:
    """Return the name of the column that holds a catalogue table's keys."""
    return "name" if table is HASHTAGS else "key"
