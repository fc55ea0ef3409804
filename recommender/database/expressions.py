"""SQL functions that the databases write differently, and named tricks for the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import (
    ColumnElement,
    Dialect,
    Double,
    Select,
    Text,
    literal,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

if TYPE_CHECKING:
    Statement: TypeAlias = Select[*tuple[Any, ...]]
    """A SELECT of any columns."""
else:
    Statement = Select  # SQLAlchemy 2.0 has another number of parameters

_DIALECT = DefaultDialect()


def constant(value: float | str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """Return a value that is written into a statement; never use it for user input.

    Args:
        value: a number or a text.
        type_: the type of the value.
    """
    write = type_.literal_processor(_DIALECT)
    assert write is not None  # noqa: S101 - there is one for numbers and texts
    written = sa.literal_column(write(value), type_)
    return written if isinstance(value, str) else sa.cast(written, type_)


LARGEST_EXPONENT = 500
"""The largest exponent of 2 in SQL, either sign.

The databases differ beyond it: on underflow PostgreSQL raises an error and SQLite returns 0. The
smallest power also leaves room for a product with the smallest weight.
"""

_DAY_US = 86_400_000_000.0

_DAY_S = 86_400.0

_EPOCH = constant("epoch", sa.Text())


def _number(value: float) -> sa.ColumnElement[float]:
    return constant(float(value), Double())


class within(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function that it is
    """A double limited to a lower and an upper bound; NULL stays NULL."""

    type = Double()
    inherit_cache = True


def bounded(value: Any, low: float, high: float) -> sa.ColumnElement[float]:
    """Return a value limited to two bounds; NULL stays NULL."""
    return within(value, _number(low), _number(high))


@compiles(within, "sqlite")
def _scalar(element: within, compiler: SQLCompiler, **options: Any) -> str:
    value, low, high = element.clauses
    return compiler.process(sa.func.min(sa.func.max(value, low), high), **options)


@compiles(within, "postgresql")
def _smaller(element: within, compiler: SQLCompiler, **options: Any) -> str:
    # Not `least` and `greatest`, which ignore NULL. The value is computed once.
    value, low, high = element.clauses
    limited = sa.func.float8smaller(sa.func.float8larger(value, low), high)
    return compiler.process(limited, **options)


class unless_nan(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function that it is
    """A double, or NULL if it is NaN, as on SQLite. PostgreSQL orders NaN above infinity."""

    type = Double()
    inherit_cache = True


@compiles(unless_nan, "sqlite")
def _as_it_is(element: unless_nan, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(unless_nan, "postgresql")
def _null_if(element: unless_nan, compiler: SQLCompiler, **options: Any) -> str:
    nan: ColumnElement[float] = sa.cast(constant("NaN", sa.Text()), Double())
    return compiler.process(sa.func.nullif(*element.clauses, nan), **options)


class half_away(FunctionElement[float]):  # noqa: N801
    """A number rounded to an integer, halves away from zero, on every database."""

    type = Double()
    inherit_cache = True


@compiles(half_away, "sqlite")
def _round(element: half_away, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(sa.func.round(*element.clauses), **options)


@compiles(half_away, "postgresql")
def _truncate(element: half_away, compiler: SQLCompiler, **options: Any) -> str:
    (value,) = element.clauses
    # PostgreSQL's round() takes halves of a double to even; this is SQLite's arithmetic.
    half = sa.case((value < _number(0), _number(-0.5)), else_=_number(0.5))
    return compiler.process(sa.func.trunc(value + half), **options)


class exp2(FunctionElement[float]):  # noqa: N801
    """2 to the power of a number, which is limited to ±500 and must not be NULL."""

    type = Double()
    inherit_cache = True


@compiles(exp2, "sqlite")
def _registered(element: exp2, compiler: SQLCompiler, **options: Any) -> str:
    (value,) = element.clauses
    # `prepare_engine` registers the function, because not every SQLite has one.
    exponent = bounded(value, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    return compiler.process(sa.func.rec_exp2(exponent), **options)


@compiles(exp2, "postgresql")
def _power(element: exp2, compiler: SQLCompiler, **options: Any) -> str:
    (value,) = element.clauses
    exponent = bounded(value, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    return compiler.process(sa.func.power(_number(2), exponent), **options)


class square_root(FunctionElement[float]):  # noqa: N801
    """The square root of a number of at least 0, as a double."""

    type = Double()
    inherit_cache = True


@compiles(square_root, "sqlite")
def _registered_root(element: square_root, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(sa.func.rec_sqrt(*element.clauses), **options)


@compiles(square_root, "postgresql")
def _root(element: square_root, compiler: SQLCompiler, **options: Any) -> str:
    (value,) = element.clauses
    return compiler.process(sa.func.sqrt(sa.cast(value, Double())), **options)


class logarithm(FunctionElement[float]):  # noqa: N801
    """The natural logarithm of a double above 0."""

    type = Double()
    inherit_cache = True


@compiles(logarithm, "sqlite")
def _registered_logarithm(element: logarithm, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(sa.func.rec_ln(*element.clauses), **options)


@compiles(logarithm, "postgresql")
def _logarithm(element: logarithm, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(sa.func.ln(*element.clauses), **options)


class age_days(FunctionElement[float]):  # noqa: N801
    """The days from a time to the reading time; negative if the time is later."""

    type = Double()
    inherit_cache = True


@compiles(age_days, "sqlite")
def _microseconds(element: age_days, compiler: SQLCompiler, **options: Any) -> str:
    moment, as_of = element.clauses
    age = (sa.cast(as_of, sa.BigInteger) - sa.cast(moment, sa.BigInteger)) / _number(_DAY_US)
    return compiler.process(age, **options)


@compiles(age_days, "postgresql")
def _interval(element: age_days, compiler: SQLCompiler, **options: Any) -> str:
    moment, as_of = element.clauses
    # EXTRACT computes in decimals and would take longer than all signals together.
    seconds: sa.ColumnElement[float] = sa.func.date_part(_EPOCH, as_of - moment, type_=Double())
    return compiler.process(seconds / _number(_DAY_S), **options)


class json_texts(FunctionElement[str]):  # noqa: N801
    """The texts of a JSON list as rows; use ``table_valued("value")`` in a FROM clause."""

    inherit_cache = True


@compiles(json_texts, "sqlite")
def _each(element: json_texts, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(sa.func.json_each(*element.clauses), **options)


@compiles(json_texts, "postgresql")
def _elements(element: json_texts, compiler: SQLCompiler, **options: Any) -> str:
    (texts,) = element.clauses
    elements = sa.func.jsonb_array_elements_text(sa.cast(texts, JSONB()))
    return compiler.process(elements, **options)


class json_rows(FunctionElement[str]):  # noqa: N801
    """The rows of a group as a JSON list of lists, in any order; NULL or empty without rows."""

    type = Text()
    inherit_cache = True


@compiles(json_rows, "sqlite")
def _grouped(element: json_rows, compiler: SQLCompiler, **options: Any) -> str:
    rows = sa.func.json_group_array(sa.func.json_array(*element.clauses))
    return compiler.process(rows, **options)


@compiles(json_rows, "postgresql")
def _aggregated(element: json_rows, compiler: SQLCompiler, **options: Any) -> str:
    rows = sa.func.json_agg(sa.func.json_build_array(*element.clauses))
    return compiler.process(sa.cast(rows, Text()), **options)


Number = ColumnElement[float]


def number(value: float) -> Number:
    """Return a literal in double precision, never a decimal."""
    return literal(float(value), Double())


def is_true(condition: ColumnElement[bool]) -> Number:
    """Return 1 if the condition holds, 0 if it is false or NULL."""
    return sa.case((condition, number(1)), else_=number(0))


def is_now(since: InstrumentedAttribute[object], until: InstrumentedAttribute[object]) -> Number:
    """Return 1 if a state is on, such as a `liked_at` later than `unliked_at`."""
    return is_true(sa.and_(since.is_not(None), sa.or_(until.is_(None), since > until)))


def is_positive(state: Any) -> ColumnElement[bool]:
    """Return the condition that a state of a user and a video is positive.

    `learning/engagement` defines it, and recording stores it as `engaged_at`.

    Args:
        state: `Interaction`, an alias of it, or the columns of its table.
    """
    positive: ColumnElement[bool] = state.engaged_at.is_not(None)
    return positive


def is_rejected(state: Any) -> ColumnElement[bool]:
    """Return the condition that the user reported the video, or said last that it bores them.

    A `not_interested` holds unless an `interested` is as late. The argument is as for
    `is_positive`.
    """
    refused, wanted = state.not_interested_at, state.interested_at
    is_refused = sa.and_(refused.is_not(None), sa.or_(wanted.is_(None), refused > wanted))
    return sa.or_(is_refused, state.reports > 0)


def is_viewed(state: Any) -> ColumnElement[bool]:
    """Return the condition that the user viewed the video, as statistics count it.

    The argument is as for `is_positive`.
    """
    return sa.or_(is_positive(state), state.impressions > 0)


def viewed_and_positive(state: Any) -> tuple[ColumnElement[int], ColumnElement[int]]:
    """Return what a state adds to a video's impressions and engaged views: 0 or 1 each.

    The argument is as for `is_positive`.
    """
    return sa.case((is_viewed(state), 1), else_=0), sa.case((is_positive(state), 1), else_=0)


def at_most(value: Number, limit: float) -> Number:
    """Return the value, limited from above."""
    return sa.case((value > number(limit), number(limit)), else_=value)


def saturated(value: Number, half: Number) -> Number:
    """Return value / (half + |value|): between -1 and 1, and one half at `half`."""
    return value / (half + sa.func.abs(value))


def named(statement: Statement, name: str) -> Statement:
    """Return a statement that begins with a comment naming its purpose."""
    return statement.prefix_with(f"/* recommender.{name} */")


def fence(select: sa.Select[Any]) -> sa.Select[Any]:
    """Return a select that PostgreSQL does not merge into the outer statement."""
    # OFFSET 0 is PostgreSQL's documented optimisation fence; SQLite ignores it.
    return select.offset(0)


class unless_distributed(FunctionElement[Any]):  # noqa: N801
    """One expression, or another one if Citus distributes the tables."""

    inherit_cache = True

    def __init__(self, plain: ColumnElement[Any], on_citus: ColumnElement[Any]) -> None:
        self.type = plain.type
        super().__init__(plain, on_citus)


@compiles(unless_distributed)
def _one_of_two(element: unless_distributed, compiler: SQLCompiler, **options: Any) -> str:
    plain, on_citus = element.clauses
    chosen = on_citus if is_distributed(compiler.dialect) else plain
    return compiler.process(chosen, **options)


def opaque(value: ColumnElement[int], column: sa.SQLColumnExpression[int]) -> ColumnElement[int]:
    """Return a value that the planner cannot know before it reads the column's row."""
    # Adding 0 times the column makes the join a lookup for each row instead of one scan. Citus
    # must know the value, because it names the node.
    return unless_distributed(value + 0 * column, value)


DISTRIBUTED = "recommender_is_distributed"
"""The attribute of an engine's dialect: whether Citus distributes the tables."""


def is_distributed(dialect: Dialect) -> bool:
    """Return whether Citus distributes the tables of an engine, as its first connection found."""
    return bool(getattr(dialect, DISTRIBUTED, False))


def materialized(statement: sa.CTE) -> sa.CTE:
    """Return a CTE with a name that PostgreSQL evaluates once, even if it is read several times.

    An anonymous one would be named after an object that no longer exists, and so, perhaps, after
    the same address as another one.
    """
    return statement.prefix_with("MATERIALIZED", dialect="postgresql")
