"""The checks of a registry when it is made, before any database is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BindParameter, ColumnElement, FromClause, Select
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, Grouping
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from recommender.database.host_times import check_times
from recommender.errors import InvalidValue
from recommender.formats.scalars import shown
from recommender.models import RecentEngagement
from recommender.models.tables import VIDEOS
from recommender.models.types import Base
from recommender.ranking.additions import ANY_FACTS, JOINED, check_froms
from recommender.ranking.filters import FILTERS, HOST_FILTERS, Filter
from recommender.ranking.request import POOL
from recommender.ranking.signals import SIGNALS, Candidate, Signal, expression_of
from recommender.ranking.similar import SIMILAR_SIGNALS
from recommender.ranking.sources import SCAN_FACTOR, SOURCES, Source
from recommender.ranking.viewer import Viewer, ViewerParts

MAX_NAME_BYTES = 63
"""The maximum length of a name: PostgreSQL cuts longer names of columns."""

MAX_FILTER_BYTES = MAX_NAME_BYTES - len("filter_")

MAX_SOURCES = 50
"""The maximum number of sources in all: each is a bit of a double."""

MAX_QUOTA, MAX_ROWS = 1_000, 100_000

MAX_SENTENCE = 200
"""The maximum length of a sentence in explanations."""

COLUMNS = frozenset({"video_id", "score_key", "sources"})
"""The columns of a feed besides the signals."""

OF_SPACE = frozenset({"taste", "near", "alike"})
"""The signals and sources of a space."""

TAKEN_PREFIXES = ("page_", "filter_")
"""The beginnings of the names of a page's own columns."""

VOLATILE = frozenset({
    "random", "now", "localtime", "localtimestamp", "current_date", "current_time",
    "current_timestamp", "clock_timestamp", "statement_timestamp", "transaction_timestamp",
    "timeofday", "sysdate", "randomblob", "gen_random_uuid", "uuid_generate_v4", "nextval",
    "next_value",
})  # fmt: skip
"""The functions that read a clock or chance, or count."""

OF_NOW = {**dict.fromkeys(("date", "time", "datetime", "julianday", "unixepoch"), 0),
          "strftime": 1, "age": 1}  # fmt: skip
"""The functions that read the clock if they have so few arguments."""

ID = f"{VIDEOS.name}.id"

NUMBERS = (sa.Numeric, sa.Float, sa.Integer, sa.types.NullType)


def checked_name(kind: str, name: object, taken: Iterable[str], longest: int) -> str:
    """Return the name of something of the host's in lower case.

    Names are compared without regard to case, because SQLite does not tell columns apart by it.

    Raises:
        InvalidValue: it is not one word, is too long, or there is one of that name already.
    """
    if not isinstance(name, str) or not name.isidentifier() or len(name.encode()) > longest:
        raise InvalidValue(
            f"{kind}: {shown(name)} is not one word of letters, digits and _, of {longest} bytes at"
            " most"
        )
    if name.lower() in taken or name.lower().startswith(TAKEN_PREFIXES):
        raise InvalidValue(f"{kind}: the name {shown(name)} is taken")
    return name.lower()


def check_signal_names(signals: Sequence[Signal], known: Iterable[str] = ()) -> None:
    """Raise `InvalidValue` if a host's signal has a malformed name, or one that is taken.

    Args:
        signals: the host's signals.
        known: the names of other signals.
    """
    ours = (signal.name for signal in (*SIGNALS, *SIMILAR_SIGNALS))
    taken = {*COLUMNS, *ours, *OF_SPACE, *map(str.lower, known)}
    _check_names("signals", signals, taken, MAX_NAME_BYTES)


def check_source_names(sources: Sequence[Source], *, has_space: bool = False) -> None:
    """Raise `InvalidValue` if a host's source has a bad or taken name, or there are too many.

    Args:
        sources: the host's sources.
        has_space: whether the registry has a space, which brings one more source.
    """
    taken = {*(source.name for source in SOURCES), *OF_SPACE, POOL}
    _check_names("sources", sources, taken, MAX_NAME_BYTES)
    if (count := len(SOURCES) + has_space + len(sources)) > MAX_SOURCES:
        raise InvalidValue(f"sources: {count} with ours are more than {MAX_SOURCES}")


def check_filter_names(filters: Sequence[Filter]) -> None:
    """Raise `InvalidValue` if a host's filter has a malformed name, or one that is taken."""
    taken = {*HOST_FILTERS, *(rule.name for rule in FILTERS)}
    _check_names("filters", filters, taken, MAX_FILTER_BYTES)


def _check_names(kind: str, things: Sequence[Any], taken: set[str], longest: int) -> None:
    for thing in things:
        taken.add(checked_name(kind, thing.name, taken, longest))


def check_signal(signal: Signal) -> ColumnElement[Any]:
    """Return the expression of a host's signal for any candidate.

    Raises:
        InvalidValue: it gives no number, or reads what it may not.
    """
    name = f"signal {signal.name}"
    if signal.sentence is not None:
        _check_sentence(name, signal.sentence)
    value = expression_of(signal, Candidate(ANY_FACTS, _any_viewer()))
    check_froms(name, value, JOINED)
    if not isinstance(stored_type(value), NUMBERS):
        raise InvalidValue(
            f"{name}: gives {type(value.type).__name__}, not a number: for a condition write"
            " sa.case((condition, 1.0), else_=0.0)"
        )
    _check_reads(name, value)
    return value


def check_source(source: Source) -> Select[Any]:
    """Return the SELECT of a host's source for any viewer.

    Raises:
        InvalidValue: it is no SELECT of videos with sensible bounds, or reads what it may not.
    """
    name, quota = f"source {source.name}", source.quota
    check_count(f"{name}: quota", quota, 1, MAX_QUOTA)
    if source.rows is not None:
        check_count(f"{name}: rows", source.rows, quota, MAX_ROWS)
    statement = checked_select(source, _any_viewer(), quota)
    _check_ids(name, statement.selected_columns[0])
    _check_reads(name, statement)
    return statement


def checked_select(source: Source, viewer: Viewer, quota: int) -> Select[Any]:
    """Return the SELECT of a host's source.

    Raises:
        InvalidValue: it is no SELECT of one column of ids or keys in an order.
    """
    name, statement = f"source {source.name}", source.select(viewer, quota)
    if not isinstance(statement, Select):
        raise InvalidValue(f"{name}: gives {shown(statement)}, which is no SELECT")
    columns = list(statement.selected_columns)
    if len(columns) != 1:
        raise InvalidValue(f"{name}: selects {len(columns)} columns, not one: the ids or keys")
    if not isinstance(stored_type(columns[0]), sa.Integer | sa.String):
        kind = type(columns[0].type).__name__
        raise InvalidValue(f"{name}: selects {kind}: select ids of videos, or their keys as text")
    if not statement._order_by_clauses:  # noqa: SLF001 - there is no other way to read it
        raise InvalidValue(f"{name}: has no order: order it by what makes a video worth showing")
    return statement


def bounded_select(source: Source, viewer: Viewer, quota: int) -> Select[Any]:
    """Return the SELECT of a host's source with a limited number of rows.

    Raises:
        InvalidValue: as for `checked_select`.
    """
    chosen = checked_select(source, viewer, quota)
    if chosen._limit_clause is not None:  # noqa: SLF001 - there is no other way to read it
        chosen = sa.select(chosen.subquery("chosen"))  # a limit of the host's stays
    return chosen.limit(source.rows or SCAN_FACTOR * quota)


def _check_ids(name: str, video: ColumnElement[Any]) -> None:
    """Raise `InvalidValue` if whole numbers of the host's stand for ids of `Video`."""
    if not isinstance(stored_type(video), sa.Integer):
        return
    for column in _base_columns(video):
        is_ours = getattr(column.table, "metadata", None) is Base.metadata
        refers = any(key.target_fullname == ID for key in getattr(column, "foreign_keys", ()))
        if not (is_ours or refers):
            raise InvalidValue(
                f"{name}: selects the numbers {column}, which are no ids of Video: if they are your"
                " own ids, and so keys here, select sa.cast(…, sa.Text) of them"
            )


def stored_type(expression: ColumnElement[Any]) -> TypeEngine[Any]:
    """Return the type that the database knows of an expression."""
    kind = expression.type
    return kind.impl_instance if isinstance(kind, sa.TypeDecorator) else kind


def check_filter(rule: Filter) -> ColumnElement[bool]:
    """Return the condition of a host's filter for any viewer.

    Raises:
        InvalidValue: it is no condition over `Video`, or reads what it may not.
    """
    name = f"filter {rule.name}"
    _check_sentence(name, rule.otherwise)
    condition: Any = rule.predicate(_any_viewer())
    if not isinstance(condition, ColumnElement):
        raise InvalidValue(f"{name}: {shown(condition)} is no SQL expression")
    if not isinstance(stored_type(condition), sa.Boolean | sa.types.NullType):
        raise InvalidValue(f"{name}: gives {type(condition.type).__name__}, not a condition")
    check_froms(name, condition)
    _check_reads(name, condition)
    return condition


def _check_sentence(name: str, sentence: object) -> None:
    if not isinstance(sentence, str) or not 1 <= len(sentence) <= MAX_SENTENCE:
        raise InvalidValue(f"{name}: its sentence is no text of 1 to {MAX_SENTENCE} characters")


def check_count(name: str, value: object, low: int, high: int) -> None:
    """Raise `InvalidValue` unless a value is a whole number within bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValue(f"{name} is {shown(value)}, not a whole number from {low} to {high:,}")


def _any_viewer() -> Viewer:
    return Viewer.named(ViewerParts())


def _check_reads(name: str, clause: Any) -> None:
    """Raise `InvalidValue` if SQL reads a clock or chance, or the rows of other users."""
    check_times(name, clause)
    parts = list(visitors.iterate(clause))
    _check_types(name, parts)
    for part in parts:
        if isinstance(part, FunctionElement) and _is_volatile(part):
            called = part.name
            raise InvalidValue(
                f"{name}: {called}() gives another value each time: read viewer.as_of for the time"
            )
    for table in _of_all_users(clause, frozenset()):
        raise InvalidValue(
            f"{name}: reads {_table_of(table).name} of all users: compare its user_id with"
            " viewer.user_id, in every SELECT from it"
        )


def _is_volatile(called: FunctionElement[Any]) -> bool:
    """Return whether a function gives another value each time, with these arguments."""
    name = str(getattr(called, "name", "")).lower()
    return name in VOLATILE or len(list(called.clauses)) <= OF_NOW.get(name, -1)


def _check_types(name: str, parts: Iterable[Any]) -> None:
    """Raise `InvalidValue` if text, such as our keys, is compared with a number or a UUID."""
    for part in parts:
        if isinstance(part, BinaryExpression) and operators.is_comparison(part.operator):
            kinds = {kind for side in (part.left, part.right) if (kind := _kind_of(side))}
            if "text" in kinds and len(kinds) > 1:
                raise InvalidValue(
                    f"{name}: compares text with {min(kinds)}, which PostgreSQL refuses:"
                    f" {' '.join(str(part).split())}; keys of the recommender are text, so cast one"
                    " of the two"
                )


def _kind_of(side: Any) -> str | None:
    """Return whether an expression is text, a number or a UUID, None if it is anything else."""
    columns = getattr(getattr(side, "element", side), "selected_columns", [side])
    kind = stored_type(columns[0]) if hasattr(columns[0], "type") else None
    named = {sa.String: "text", sa.Numeric: "a number", sa.Integer: "a number", sa.Uuid: "a UUID"}
    return next((name for base, name in named.items() if isinstance(kind, base)), None)


def _of_all_users(part: Any, owned: frozenset[str]) -> Iterator[Any]:
    """Return the tables that some SQL reads of all users, though they hold users' own data.

    Args:
        part: the SQL.
        owned: the names of the tables whose rows enclosing SELECTs bind to the viewer.
    """
    if isinstance(part, Select):
        tables = list(_tables_of(part))
        outer = {table.name for table in tables if _is_outer(part, table, len(tables))}
        own = frozenset(_owned_by_viewer(part))
        yield from (t for t in tables if _is_per_user(t) and t.name not in own | owned & outer)
        owned |= own
    for child in part.get_children():
        yield from _of_all_users(child, frozenset() if isinstance(child, FromClause) else owned)


def _tables_of(select: Select[Any]) -> Iterator[Any]:
    """Return the tables and subqueries in the FROM of a SELECT and of the SELECTs around it."""
    return (named for from_ in select.get_final_froms() for named in _joined(from_))


def _is_outer(select: Select[Any], table: Any, tables: int) -> bool:
    """Return whether a table that an enclosing SELECT reads is the same in a subquery."""
    if select._correlate:  # noqa: SLF001 - there is no other way to read it
        every: Iterable[Any] = select._correlate  # noqa: SLF001
        return any(table.name == each.name for each in every)
    return tables > 1  # SQLAlchemy leaves at least one table in each FROM


def _is_per_user(named: Any) -> bool:
    """Return whether a table, or the table of an alias, holds users' own data."""
    table = _table_of(named)
    is_ours = isinstance(table, sa.Table) and table.metadata is Base.metadata
    is_open = table is RecentEngagement.__table__  # what other users' feeds may read
    is_joined = named.name in JOINED
    return is_ours and not is_open and not is_joined and "user_id" in table.primary_key.columns


def _joined(from_: FromClause) -> Iterator[Any]:
    """Return the tables and subqueries of a part of a FROM."""
    if isinstance(from_, sa.Join):
        yield from _joined(from_.left)
        yield from _joined(from_.right)
    else:
        yield from_


def _table_of(named: Any) -> Any:
    """Return the table of an alias, or the table itself."""
    return getattr(named, "element", named)


def _owned_by_viewer(select: Select[Any]) -> Iterator[str]:
    """Return the names of the tables whose `user_id` a SELECT requires to be the viewer's."""
    joins = (join for from_ in select.get_final_froms() for join in _joins(from_))
    for part in (select.whereclause, *(join.onclause for join in joins)):
        for condition in _required(part):
            if isinstance(condition, BinaryExpression) and condition.operator is operators.eq:
                sides = (condition.left, condition.right)
                for column, other in (sides, sides[::-1]):
                    is_viewer = isinstance(other, BindParameter) and other.key == "user_id"
                    if is_viewer and getattr(column, "name", None) == "user_id":
                        yield column.table.name


def _joins(from_: FromClause) -> Iterator[sa.Join]:
    if isinstance(from_, sa.Join):
        yield from_
        yield from _joins(from_.left)
        yield from _joins(from_.right)


def _required(condition: Any) -> Iterator[Any]:
    """Return the conditions that must all hold for a condition to hold."""
    if isinstance(condition, Grouping):
        yield from _required(condition.element)
    elif isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for each in condition.clauses:
            yield from _required(each)
    elif condition is not None:
        yield condition


def columns_read(clauses: Iterable[Any]) -> dict[sa.TableClause, list[sa.ColumnClause[Any]]]:
    """Return the host's tables that some SQL reads, each with the columns that it names."""
    found: dict[str, dict[str, sa.ColumnClause[Any]]] = {}
    for clause in clauses:
        for column in _base_columns(clause):
            table = column.table
            is_ours = getattr(table, "metadata", None) is Base.metadata
            if isinstance(table, sa.TableClause) and not is_ours:
                found.setdefault(table.fullname, {}).setdefault(column.name, column)
    every: Iterable[list[Any]] = (list(columns.values()) for columns in found.values())
    return {columns[0].table: columns for columns in every}


def _base_columns(clause: Any) -> Iterator[Any]:
    """Yield the columns of tables in some SQL, also of joins along relationships."""
    for part in visitors.iterate(clause):
        if isinstance(part, ColumnElement):
            yield from (root for root in part.base_columns if hasattr(root, "table"))
        elif isinstance(part, Select):
            for joined in (each for each in part.get_final_froms() if isinstance(each, sa.Join)):
                yield from _base_columns(joined.onclause)
