"""Large statements: numbers written into their SQL, and a short key for SQLAlchemy's cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import BindParameter, ClauseElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from recommender.database.expressions import constant

S = TypeVar("S", bound=ClauseElement)


class _WrittenOut(BindParameter[Any]):
    """A built-in number or text that is written into the SQL."""

    inherit_cache = True

    def _gen_cache_key(self, *_: Any) -> tuple[Any, ...]:
        return type(self), type(self.type), self.value


@compiles(_WrittenOut)
def _write_out(element: _WrittenOut, compiler: SQLCompiler, **options: Any) -> str:
    value: Any = element.value
    return compiler.process(constant(value, element.type), **options)


POSITIONAL = "recommender_positional"

AS_POSITIONAL = {POSITIONAL: True}
"""The execution options of a long statement, whose parameters psycopg is to get by number."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What identifies a statement; not a tuple, of which SQLAlchemy expects expressions."""

    parts: tuple[Any, ...]


def identified(statement: sa.Select[Any] | sa.Insert, *key: Any) -> sa.StatementLambdaElement:
    """Return a statement that SQLAlchemy's cache identifies by a key, and not by its many parts.

    Args:
        statement: a statement that is built once; its values are given on execution.
        key: what decides its text, such as the function that builds it and its arguments.
    """
    return sa.lambda_stmt(
        lambda: statement, track_on=[_Key(key)], track_closure_variables=False, lambda_cache={}
    )


def written_out(statement: S) -> S:
    """Return the statement after its built-in numbers and texts became part of the SQL.

    Times, infinity and values that are passed on execution stay bound parameters.
    """
    # In place: a statement of this size takes five times as long to copy as to build.
    for element in _parts(statement):
        if _is_built_in(element):
            element.__class__ = _WrittenOut
    return statement


def _parts(statement: ClauseElement) -> Iterator[Any]:
    """Return all parts of a statement, each once."""
    stack: list[Any] = [statement]
    seen = set()
    while stack:
        element = stack.pop()
        if id(element) not in seen:
            seen.add(id(element))
            yield element
            stack.extend(element.get_children())


def _is_built_in(element: Any) -> bool:
    if not isinstance(element, BindParameter) or element.required:
        return False
    if not isinstance(element.value, int | float | str) or element.value == math.inf:
        return False
    return "%(" not in str(element.value)  # a parameter's name to SQLAlchemy before 2.0.56
