"""SQL that the host adds to a statement, identified by its structure and not by its values.

Hosts write predicates and signals anew for each request, with other values in them. SQLAlchemy's
cache key tells whether two of them differ only in their values. The values become parameters of
the cached statement.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import BindParameter, ColumnElement
from sqlalchemy.sql import visitors

from recommender.errors import InvalidValue
from recommender.formats.scalars import shown
from recommender.ranking.features import FACTS
from recommender.ranking.signals import Candidate, Signal, expression_of
from recommender.ranking.viewer import Shape

_ANY_FACTS = sa.table("any_facts", *(sa.column(name, sa.Double()) for name in FACTS))
"""Stands for the facts of a statement that is not built yet."""

_NO_PARAMETERS: frozenset[str] = frozenset()


class Addition(NamedTuple):
    """An expression of the host.

    Attributes:
        structure: equal for two expressions that differ only in their values.
        clause: the expression, with a named parameter in place of each value.
        values: the values by the names of these parameters.
        origin: the expression as the host wrote it. SQLAlchemy names anonymous parts after its
            address, so it must exist until the statement is built.
    """

    structure: Hashable
    clause: ColumnElement[Any]
    values: dict[str, Any]
    origin: ColumnElement[Any]


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
    if None in additions:
        return None
    kept = [one for one in additions if one is not None]
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
            expression = expression_of(signal, Candidate(_ANY_FACTS, viewer))
            yield addition(f"signal_{signal.name}", expression, viewer.parameters)


def addition(
    name: str, clause: ColumnElement[Any], given: frozenset[str] = _NO_PARAMETERS
) -> Addition | None:
    """Return an expression with named parameters; None if SQLAlchemy cannot identify it.

    Args:
        name: the beginning of the parameters' names.
        clause: the expression.
        given: the names of parameters that get their values from the request.

    Raises:
        InvalidValue: another parameter has no value.
    """
    structure = clause._generate_cache_key()  # noqa: SLF001 - the key of SQLAlchemy's own cache
    if structure is None:
        return None
    binds = [bind for bind in structure.bindparams if bind.key not in given]
    if missing := [bind.key for bind in binds if bind.required]:
        raise InvalidValue(f"{name}: the parameter {shown(missing[0])} has no value")
    names = {bind.key: f"{name}_{number}" for number, bind in enumerate(binds)}
    values = {names[bind.key]: bind.effective_value for bind in binds}
    named, renamed = _renamed(clause, names)
    return Addition(structure.key, named, values, clause) if renamed == values.keys() else None


def _renamed(
    clause: ColumnElement[Any], names: Mapping[str, str]
) -> tuple[ColumnElement[Any], set[str]]:
    """Return a copy of an expression with its parameters renamed, and the names that it has."""
    renamed: set[str] = set()

    def rename(copy: BindParameter[Any]) -> None:
        if (name := names.get(copy.key)) is not None:
            vars(copy).update(key=name, unique=False, value=None, callable=None, required=True)
            renamed.add(name)

    # Not `replacement_traverse`, which leaves out the criteria of relationships.
    named: Any = visitors.cloned_traverse(clause, {"maintain_key": True}, {"bindparam": rename})
    return named, renamed


def _kept_signal(signal: Signal, added: Addition) -> Signal:
    """Return a signal with the named expression, which reads the facts of its candidate."""

    def expression(candidate: Candidate) -> ColumnElement[Any]:
        def fact(part: Any, **_: Any) -> Any:
            is_fact = isinstance(part, sa.ColumnClause) and part.table is _ANY_FACTS
            return candidate.facts.c.get(part.name, sa.null()) if is_fact else None

        replaced: Any = visitors.replacement_traverse(added.clause, {}, fact)  # type: ignore[call-overload]
        return replaced  # type: ignore[no-any-return]

    return replace(signal, expression=expression)
