"""SQL that the host adds to a statement, identified by its structure and not by its values.

Hosts write predicates and signals again for each request, with other values in them. SQLAlchemy's
cache key tells whether two of them differ only in their values. The values become parameters of
the cached statement.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import BindParameter, ColumnElement, FromClause
from sqlalchemy.sql import visitors

from recommender.database.host_times import check_times
from recommender.errors import InvalidValue
from recommender.formats.scalars import shown
from recommender.models.tables import VIDEOS
from recommender.ranking.features import FACTS
from recommender.ranking.signals import (
    CREATOR_AFFINITY,
    SOUND_AFFINITY,
    Candidate,
    Signal,
    expression_of,
)
from recommender.ranking.viewer import Shape, Viewer

_NAMES_OF_FACTS: dict[Any, str] = {sa.column(name, sa.Double()): name for name in FACTS}

# Each in a `type_coerce`: a visitor can change its column, but can replace no column itself.
ANY_FACTS: Any = SimpleNamespace(
    c={name: sa.type_coerce(column, sa.Double()) for column, name in _NAMES_OF_FACTS.items()}
)
"""Stands for the facts of a statement that is not built yet."""


_AFFINITIES: tuple[Any, ...] = (CREATOR_AFFINITY, SOUND_AFFINITY)

JOINED = frozenset(sa.inspect(each).selectable.name for each in _AFFINITIES)
"""The names of the viewer's affinities to the creator and the sound, which statements join."""


class Addition(NamedTuple):
    """An expression of the host.

    Attributes:
        structure: equal for two expressions that differ only in their values.
        clause: the expression, with a named parameter in place of each value.
        values: the values by the names of these parameters.
        origin: the expression as the host wrote it. SQLAlchemy names anonymous parts after its
            address, so it must exist until the statement is built.
        ctes: the names of the host's common table expressions.
    """

    structure: Hashable
    clause: ColumnElement[Any]
    values: dict[str, Any]
    origin: ColumnElement[Any]
    ctes: set[str]


class KeptShape(NamedTuple):
    """The shape of a statement to cache, and the host's SQL in it."""

    shape: Shape
    additions: tuple[Addition, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """The values of the host's SQL, by name."""
        return {name: value for one in self.additions for name, value in one.values.items()}


def kept_shape(shape: Shape) -> KeptShape | None:
    """Return the shape of the statement to cache for a request.

    Args:
        shape: the shape of the request.

    Returns:
        None if SQLAlchemy cannot identify the host's SQL, so that no statement can be cached.

    Raises:
        InvalidValue: the host's SQL has a parameter without a value, or a signal is no expression.
    """
    if shape.is_ours:
        return KeptShape(shape)
    additions = list(_additions(shape))
    kept = [one for one in additions if one is not None]
    if len(kept) < len(additions) or _share_a_cte(kept):
        return None
    predicate, signals = (kept[:1], kept[1:]) if shape.where is not None else ([], kept)
    named = replace(
        shape,
        added=(bool(predicate), *((one.name, one.low, one.high) for one in shape.own),
               *(one.structure for one in kept)),
        where=predicate[0].clause if predicate else None,
        own=tuple(map(_kept_signal, shape.own, signals)),
    )  # fmt: skip
    return KeptShape(named, tuple(kept))


def _additions(shape: Shape) -> Iterator[Addition | None]:
    """Return the additions of the host's predicate, if there is one, and of its signals."""
    if shape.where is not None:
        yield addition("where", shape.where)
    if shape.own:
        viewer = shape.any_viewer()
        for signal in shape.own:
            expression = expression_of(signal, Candidate(ANY_FACTS, viewer))
            yield addition(f"signal_{signal.name}", expression, viewer)


def _share_a_cte(additions: Sequence[Addition]) -> bool:
    """Return whether two additions read one CTE, whose copies would be two of the same name."""
    ctes = [cte for one in additions for cte in one.ctes]
    return len(ctes) > len(set(ctes))


def addition(
    name: str, clause: ColumnElement[Any], viewer: Viewer | None = None
) -> Addition | None:
    """Return an expression with named parameters; None if SQLAlchemy cannot identify it.

    Args:
        name: the beginning of the parameters' names.
        clause: the expression.
        viewer: the viewer whose values the expression may read; they stay as they are.

    Raises:
        InvalidValue: a parameter has no value.
    """
    structure = clause._generate_cache_key()  # noqa: SLF001 - the key of SQLAlchemy's own cache
    if structure is None:
        return None
    given = viewer.parameters if viewer else ()
    binds = [bind for bind in structure.bindparams if not (bind.required and bind.key in given)]
    _check_values(name, binds)
    names = {bind.key: f"{name}_{number}" for number, bind in enumerate(binds)}
    values = {names[bind.key]: bind.effective_value for bind in binds}
    named, renamed, ctes = _renamed(clause, names, viewer)
    is_whole = renamed == values.keys()
    return Addition(structure.key, named, values, clause, ctes) if is_whole else None


def check_sql_of(shape: Shape) -> None:
    """Raise `InvalidValue` if SQL of the request joins, or compares the host's times and ours."""
    if shape.where is not None:
        check_times("where", shape.where)
    for signal in shape.own:
        value = expression_of(signal, Candidate(ANY_FACTS, shape.any_viewer()))
        check_froms(f"signal {signal.name}", value, JOINED)
        check_times(f"signal {signal.name}", value)


def check_froms(
    name: str,
    clause: ColumnElement[Any],
    joined: Collection[str] = (),
    own: FromClause = VIDEOS,
) -> None:
    """Raise `InvalidValue` if an expression reads another table than its own without a subquery.

    Args:
        name: what has this expression, for the message.
        clause: the expression.
        joined: the names of other tables that the statement joins.
        own: the table of the rows that the expression is about.
    """
    for table in clause._from_objects:  # noqa: SLF001 - what the expression would add to FROM
        if table is not own and getattr(table, "name", None) not in joined:
            raise InvalidValue(
                f"{name}: it joins {table.description}: use EXISTS, IN or a subquery for one value"
            )


def check_where(where: ColumnElement[bool] | None) -> None:
    """Raise `InvalidValue` if a parameter of the host's predicate has no value."""
    if where is not None and (structure := where._generate_cache_key()):  # noqa: SLF001 - as above
        _check_values("where", structure.bindparams)


def _check_values(name: str, binds: Sequence[BindParameter[Any]]) -> None:
    if missing := [bind.key for bind in binds if bind.required]:
        raise InvalidValue(f"{name}: the parameter {shown(missing[0])} has no value")


def _renamed(
    clause: ColumnElement[Any], names: Mapping[str, str], viewer: Viewer | None
) -> tuple[ColumnElement[Any], set[str], set[str]]:
    """Return a copy of an expression with its parameters renamed, their names, and its CTEs'."""
    renamed: set[str] = set()
    ctes: set[str] = set()

    def rename(copy: BindParameter[Any]) -> None:
        # The request gives a required one its value, even if its key is the host's too.
        if not copy.required and (name := names.get(copy.key)) is not None:
            copy.__class__ = BindParameter  # a statement of the registry may have written it out
            vars(copy).update(key=name, unique=False, value=None, callable=None, required=True)
            renamed.add(name)

    # Not `replacement_traverse`, which leaves out the criteria of relationships.
    visits: Any = {"bindparam": rename, "cte": lambda copy: ctes.add(copy.name)}
    named: Any = visitors.cloned_traverse(clause, _copying(viewer), visits)
    return named, renamed, ctes


def _copying(viewer: Viewer | None) -> dict[str, Any]:
    """Return options to copy an expression with the names and the CTEs of its viewer."""
    return {"maintain_key": True, "stop_on": viewer.ctes if viewer else []}


def _kept_signal(signal: Signal, added: Addition) -> Signal:
    """Return a signal with the named expression, which reads the facts of its candidate."""

    def expression(candidate: Candidate) -> ColumnElement[Any]:
        def read(copy: Any) -> None:
            if (name := _NAMES_OF_FACTS.get(copy.clause)) is not None:
                copy.clause = candidate.facts.c.get(name, sa.null())

        visits: Any = {"type_coerce": read}
        read_facts: Any = visitors.cloned_traverse(added.clause, _copying(candidate.viewer), visits)
        return read_facts  # type: ignore[no-any-return]

    return replace(signal, expression=expression)
