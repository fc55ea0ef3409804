"""The largest values of subjects, the same ones wherever several are equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Subquery

from recommender.database.expressions import Statement, materialized
from recommender.formats.scalars import LARGEST_COUNT

Order = Callable[[ColumnElement[int]], ColumnElement[Any]]
"""A function from the id of a subject to its place."""


def largest(rows: Statement, limit: Any, order: Order | None, name: str) -> Subquery:
    """Return the rows with the largest values, the same ones after an export and an import.

    An import gives rows other ids. It keeps the order of the ids of users and videos only.

    Args:
        rows: a SELECT of a `subject`, which is an id, and its `value`. Rows without a value come
            last, or are left out.
        limit: the number of rows.
        order: the order of subjects with the same value, which is only computed if these are cut;
            None for the order of their ids.
        name: the name of the subquery and of its CTEs.
    """
    ordered = rows.order_by(sa.desc("value").nulls_last())
    if order is None:
        return ordered.order_by(sa.asc("subject")).limit(limit).subquery(name)
    # One row more than the limit shows whether equal rows are cut. Only then all are read again.
    top = materialized(ordered.limit(limit + 1).cte(f"top_{name}"))
    known = top.c.value.is_not(None)
    last = sa.select(top.c.value).where(known).order_by(top.c.value.desc()).offset(limit - 1)
    two = last.limit(2).subquery()
    least = sa.func.min(two.c.value)
    equal = sa.select(least.label("value")).having(
        sa.func.count() == 2, least == sa.func.max(two.c.value)
    )
    tie = materialized(equal.cte(f"tie_{name}"))
    others = sa.select(top.c.subject, top.c.value, sa.null().label("place")).where(
        known, top.c.value.not_in(sa.select(tie.c.value))
    )
    both = sa.union_all(others, _tied(rows, tie, order)).subquery()
    first = sa.select(both.c.subject, both.c.value).order_by(both.c.value.desc(), both.c.place)
    return first.limit(limit).subquery(name)


def _tied(rows: Statement, tie: sa.CTE, order: Order) -> Statement:
    """Return the rows that share the value of a tie, with their place."""
    subject, value = (column.element for column in rows.selected_columns)
    cut = sa.select(tie.c.value).scalar_subquery()
    columns = (subject.label("subject"), value.label("value"), order(subject).label("place"))
    # Without a tie the limit is 0, and both databases stop before they read a row.
    most = sa.select(sa.func.count() * LARGEST_COUNT).select_from(tie).scalar_subquery()
    return sa.select(rows.with_only_columns(*columns).where(value == cut).limit(most).subquery())
