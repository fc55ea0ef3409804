"""Times of this package in SQL of the host, whose own times SQLite stores in another way."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, ColumnElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BinaryExpression, ExpressionClauseList
from sqlalchemy.sql.functions import FunctionElement

from recommender.errors import InvalidValue
from recommender.models.types import UtcDateTime

SECOND = 1_000_000
"""The microseconds of a second."""


class _AsDateTime(FunctionElement[datetime]):
    """A time plus a number of microseconds, as a column of the type `sa.DateTime` stores it."""

    name = "as_datetime"
    type = sa.DateTime(timezone=True)
    inherit_cache = True


def as_datetime(moment: Any, plus: timedelta = timedelta(0)) -> ColumnElement[datetime]:
    """Return a time of this package that a `DateTime` column of the application can be compared to.

    SQLite stores times of this package as numbers, and times of SQLAlchemy's `DateTime` as text.

    Args:
        moment: ``viewer.as_of``, or a column such as ``Video.published_at``.
        plus: a duration to add, such as ``-timedelta(days=7)``.

    Raises:
        InvalidValue: it is no time of this package, or no duration.
    """
    if not isinstance(getattr(moment, "type", None), UtcDateTime):
        raise InvalidValue(f"as_datetime: {moment!s} is no time of the recommender")
    if not isinstance(plus, timedelta):
        raise InvalidValue(f"as_datetime: plus: {plus!s} is no timedelta")
    microseconds = plus // timedelta(microseconds=1)
    return _AsDateTime(moment, sa.literal(microseconds, BigInteger))


@compiles(_AsDateTime, "sqlite")
def _text(element: _AsDateTime, compiler: SQLCompiler, **options: Any) -> str:
    moment, plus = element.clauses
    total = sa.cast(moment, BigInteger) + plus
    seconds, rest = total // _number(SECOND), total % _number(SECOND)
    whole = sa.func.strftime(_text_of("%Y-%m-%d %H:%M:%S"), seconds, _text_of("unixepoch"))
    fraction = sa.func.printf(_text_of(".%06d"), rest)
    return compiler.process(whole.concat(fraction).self_group(), **options)


@compiles(_AsDateTime)
def _time(element: _AsDateTime, compiler: SQLCompiler, **options: Any) -> str:
    moment, plus = element.clauses
    microsecond = sa.literal_column("INTERVAL '1 microsecond'", sa.Interval)
    return compiler.process((moment + plus * microsecond).self_group(), **options)


def _text_of(value: str) -> ColumnElement[str]:
    return sa.literal_column(f"'{value}'", sa.Text)


def _number(value: int) -> ColumnElement[int]:
    return sa.literal_column(str(value), BigInteger)


def check_times(name: str, clause: Any) -> None:
    """Raise `InvalidValue` if SQL of the host compares or adds our times and its own.

    Args:
        name: what has this SQL, for the message.
        clause: the SQL.
    """
    for part in visitors.iterate(clause):
        if isinstance(part, BinaryExpression) and _mixes_times(part):
            raise InvalidValue(
                f"{name}: has a time of yours and one of the recommender's in one expression, which"
                " SQLite stores differently: write recommender.as_datetime(viewer.as_of)"
            )


def _mixes_times(expression: BinaryExpression[Any]) -> bool:
    sides = [*_members(expression.left), *_members(expression.right)]
    has_ours = any(isinstance(side.type, UtcDateTime) for side in sides)
    return has_ours and any(map(_is_hosts_time, sides))


def _members(side: Any) -> list[Any]:
    return list(side.clauses) if isinstance(side, ExpressionClauseList) else [side]


def _is_hosts_time(side: Any) -> bool:
    if isinstance(getattr(side, "value", None), timedelta):
        return True
    kind = side.type.impl_instance if isinstance(side.type, sa.TypeDecorator) else side.type
    is_time = isinstance(kind, sa.DateTime | sa.Date | sa.Interval | sa.Numeric | sa.Integer)
    return is_time and not isinstance(side.type, UtcDateTime)
