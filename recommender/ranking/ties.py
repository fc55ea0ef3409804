"""Cuts among equal values, which are the same after an export and an import.

An import gives rows other ids. It keeps the order of the ids of users and videos only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Subquery

from recommender.database.expressions import materialized

Order = Callable[[ColumnElement[int]], ColumnElement[Any]]
"""A function from the id of a subject to its place."""


def largest(
    rows: sa.Select[*tuple[Any, ...]],
    limit: Any,
    order: Order | None,
    name: str,
) -> Subquery:
    """Return the rows with the largest values.

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
    known, value = top.c.value.is_not(None), sa.select(top.c.value).order_by(top.c.value.desc())
    last, cut = (
        value.where(known).offset(place).limit(1).subquery() for place in (limit - 1, limit)
    )
    equal = sa.select(last.c.value).join(cut, cut.c.value == last.c.value)
    tie = materialized(equal.cte(f"tie_{name}"))
    others = sa.select(top.c.subject, top.c.value, sa.null().label("place")).where(
        known, top.c.value.not_in(sa.select(tie.c.value))
    )
    both = sa.union_all(others, _tied(rows, tie, order)).subquery()
    first = sa.select(both.c.subject, both.c.value).order_by(both.c.value.desc(), both.c.place)
    return first.limit(limit).subquery(name)


def _tied(
    rows: sa.Select[*tuple[Any, ...]],
    tie: sa.CTE,
    order: Order,
) -> sa.Select[*tuple[Any, ...]]:
    """Return the rows whose value is that of a tie, with their place."""
    # The outer join keeps both databases from reading the rows if there is no tie.
    every = rows.subquery()
    place = order(every.c.subject).label("place")
    tied = sa.select(every.c.subject, every.c.value, place).select_from(tie)
    return tied.outerjoin(every, every.c.value == tie.c.value)
