"""EXPLAIN: the plan by which a database answers a statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Executable
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from recommender.database import lookup
from recommender.database.session import Session


class explained(Executable, sa.ClauseElement):  # noqa: N801 - it reads as the SQL that it is
    """A statement to explain: PostgreSQL runs it, SQLite only plans it."""

    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(explained, "postgresql")
def _analysed(element: explained, compiler: SQLCompiler, **options: Any) -> str:
    statement = compiler.process(element.statement, **options)
    return f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"


@compiles(explained, "sqlite")
def _planned(element: explained, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN QUERY PLAN {compiler.process(element.statement, **options)}"


def analysed_plan(
    session: Session, statement: Executable, values: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the topmost node of PostgreSQL's plan, with the rows that were read; it runs.

    Args:
        session: the caller's transaction.
        statement: a SELECT.
        values: the parameters of the statement.
    """
    rows = lookup.run(session, explained(statement), dict(values))
    top: Mapping[str, Any] = rows.scalar_one()[0]["Plan"]
    return top


def nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return a node of PostgreSQL's plan and all nodes below it."""
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


def rows_read(node: Mapping[str, Any]) -> float:
    """Return the rows that a node of PostgreSQL's plan reads in one loop, kept or removed."""
    parts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    read: float = sum(node.get(part, 0) for part in parts)
    return read


def is_full_scan(node: Mapping[str, Any]) -> bool:
    """Return whether a node of PostgreSQL's plan read a table as a whole."""
    return bool(node["Node Type"].endswith("Seq Scan") and node["Actual Loops"])
