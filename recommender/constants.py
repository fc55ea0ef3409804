"""Numbers and words of the code's own, written into the text of a statement.

A page's statement has some hundred of them. Bound, each would be converted and sent for each page,
and hidden from the database when it plans once for all pages.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import BindParameter, ColumnElement
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql import visitors
from sqlalchemy.types import TypeEngine

from recommender.columns import Statement

_DIALECT = DefaultDialect()


def constant(value: float | str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """A value that is written into a statement; never one that a user gave.

    Args:
        value: a number or a text.
        type_: of the value.
    """
    write = type_.literal_processor(_DIALECT)
    assert write is not None  # noqa: S101 - there is one for numbers and texts
    written = sa.literal_column(write(value), type_)
    return written if isinstance(value, str) else sa.cast(written, type_)


def written_out(statement: Statement) -> Statement:
    """The same statement with the numbers and texts that it was built of written into it.

    What is to be given on execution stays a bound value, and so does a time.
    """
    written: Statement = visitors.replacement_traverse(statement, {}, _constant_of)  # type: ignore[assignment]
    return written


def _constant_of(element: Any, **_: Any) -> ColumnElement[Any] | None:
    is_built_in = isinstance(element, BindParameter) and not element.required
    if not is_built_in or not isinstance(element.value, int | float | str):
        return None
    return constant(element.value, element.type)
