"""Statements that compute one registered signal, source or filter alone, to check it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql import operators

from recommender.database import lookup
from recommender.database.expressions import Statement, is_true, named, number
from recommender.database.session import Session
from recommender.errors import RecommenderError
from recommender.models import User, Video
from recommender.ranking.additions import ANY_FACTS
from recommender.ranking.candidates import given_candidates, quota_of
from recommender.ranking.features import gather_facts
from recommender.ranking.filters import Filter
from recommender.ranking.history import keyed_videos
from recommender.ranking.registration import OF_NOW, VOLATILE, bounded_select, checked_select
from recommender.ranking.registry import Registry
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import with_affinities
from recommender.ranking.signals import Candidate, Signal, expression_of
from recommender.ranking.sources import Source
from recommender.ranking.viewer import Shape, Viewer, ViewerParts

SPREAD = 20
"""The number of places of a table at which a sample of its rows begins."""

_CALLED = re.compile(r"(?<![\w.\"'])(\w+)\s*\(")

_WITHOUT_TIME = re.compile(r"(?<![\w.\"'])(\w+)\s*\(\s*\)")

_KEYWORD = re.compile(r"(?<![\w.\"'])(current_date|current_time|current_timestamp|"
                      r"localtime|localtimestamp)(?![\w\"'(])", re.IGNORECASE)  # fmt: skip

_OF_TIME = {"date", "time", "datetime", "julianday", "unixepoch", "strftime"}
"""SQLite's functions of a time that may be ``now``."""


LISTS_OF_ROWS = {operators.in_op, operators.not_in_op}
"""The operators with a subquery of any number of rows on the right."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Thing:
    """A registered signal, source or filter.

    Attributes:
        kind: ``signal``, ``source`` or ``filter``.
        own: the signal, source or filter.
        registry: its registry.
    """

    kind: str
    own: Any
    registry: Registry

    @property
    def check(self) -> str:
        """The kind and the name."""
        return f"{self.kind} {self.own.name}"

    @property
    def label(self) -> str:
        """The name in sentences."""
        return f"the {self.check} of {self.registry.name}"


def registered_things(registry: Registry) -> list[Thing]:
    """Return all that a host registered: its signals, then its sources, then its filters."""
    parts = (("signal", registry.signals), ("source", registry.sources),
             ("filter", registry.filters))  # fmt: skip
    return [Thing(kind, own, registry) for kind, every in parts for own in every]


def signal_values(signal: Signal, request: FeedRequest, videos: Sequence[str]) -> Statement:
    """Return the statement of a signal's values before they are held to its range.

    Args:
        signal: the signal.
        request: the request, whose viewer counts.
        videos: the keys of the videos.
    """
    viewer = Viewer.of(request, videos)
    facts = gather_facts(viewer, given_candidates(viewer), is_small=True)
    candidate = Candidate(facts, viewer)
    value = expression_of(signal, candidate).label("value")
    statement = sa.select(Video.key, value).join(facts, facts.c.video_id == Video.id)
    return named(with_affinities(statement, candidate, viewer.user_id), f"signal_{signal.name}")


def filter_values(rule: Filter, request: FeedRequest, videos: Sequence[str]) -> Statement:
    """Return the statement of a filter's outcomes, with arguments as for `signal_values`."""
    viewer = Viewer.of(request, videos)
    statement = sa.select(Video.key, rule.predicate(viewer).label("value"))
    return named(statement.where(Video.id.in_(keyed_videos(viewer.given))), f"filter_{rule.name}")


def source_videos(source: Source, request: FeedRequest) -> Statement:
    """Return the statement of a source, as a page has it: the ids of its videos in order."""
    shape = Shape.of(request)
    (limited,) = (each for each in shape.registry.every_source if each.name == source.name)
    statement = limited.select(Viewer.of(request), quota_of(source, shape))
    return named(statement, f"source_{source.name}")


def given_rows(source: Source, request: FeedRequest) -> Statement:
    """Return the statement of all rows of a host's source that a page looks at, as they are."""
    quota = quota_of(source, Shape.of(request))
    given = bounded_select(source, Viewer.of(request), quota)
    return named(given, f"rows_of_{source.name}")


def sql_of(each: Thing) -> Any:
    """Return the SQL of a registered thing for a viewer whose values are not known yet."""
    viewer = Viewer.named(ViewerParts())
    if each.kind == "signal":
        return expression_of(each.own, Candidate(ANY_FACTS, viewer))
    if each.kind == "source":
        return checked_select(each.own, viewer, each.own.quota)
    return each.own.predicate(viewer)


def nothing_like(each: Thing, request: FeedRequest, videos: Sequence[str]) -> Statement:
    """Return the statement of a signal or filter that reads nothing of its own."""
    if each.kind == "signal":
        return signal_values(Signal("nothing", 0, 0, lambda _: number(0)), request, videos)
    return filter_values(Filter("nothing", lambda _: sa.true(), "-"), request, videos)


def statement_of(each: Thing, request: FeedRequest, videos: Sequence[str]) -> Statement:
    """Return the statement of a registered thing alone.

    Args:
        each: the signal, source or filter.
        request: a request with its registry.
        videos: the keys of the videos that a signal or filter is computed for.
    """
    if each.kind == "source":
        return source_videos(each.own, request)
    values: Callable[..., Statement] = signal_values if each.kind == "signal" else filter_values
    return values(each.own, request, videos)


def structure_of(clause: Any) -> tuple[Any, ...]:
    """Return the structure and the values of some SQL; equal for SQL that is the same."""
    key = clause._generate_cache_key()  # noqa: SLF001 - the key of SQLAlchemy's own cache
    if key is None:
        return ()
    return key.key, [bind.effective_value for bind in key.bindparams]


def volatile_in(clause: Any, dialect: sa.Dialect) -> str | None:
    """Return the function or keyword in some SQL that reads a clock or chance, None if none.

    Raises:
        CompileError: the database does not have such SQL.
    """
    compiled = clause.compile(dialect=dialect)
    text, values = str(compiled), compiled.params.values()
    called = {name.lower() for name in _CALLED.findall(text)}
    of_now = {name.lower() for name in _WITHOUT_TIME.findall(text)} & OF_NOW.keys()
    names = sorted(called & VOLATILE | of_now) + _KEYWORD.findall(text)
    is_now = re.search(r"'now'", text, re.IGNORECASE) or (called & _OF_TIME and "now" in values)
    return next(iter(names), "the time now" if is_now else None)


def with_several_rows(each: Thing) -> Thing:
    """Return a thing that is true for the videos for which a subquery gives several rows."""
    own = each.own
    if each.kind == "filter":
        rule = replace(own, predicate=lambda viewer: _gives_several(own.predicate(viewer)))
        return replace(each, own=rule)
    signal = replace(own, expression=lambda seen: is_true(_gives_several(expression_of(own, seen))))
    return replace(each, own=signal)


def _gives_several(clause: Any) -> ColumnElement[bool]:
    """Return the condition that one of the subqueries in some SQL gives a second row."""
    selects = [one.element for one in _subqueries(clause)]
    seconds = [one.offset(1) for one in selects if one._limit_clause is None]  # noqa: SLF001 - no other way
    return sa.or_(sa.false(), *map(sa.exists, seconds))


def _subqueries(clause: Any) -> Iterator[Any]:
    """Return the subqueries of an expression that stand for one value, but not their own ones."""
    if isinstance(clause, sa.ScalarSelect):
        yield clause
    elif getattr(clause, "operator", None) in LISTS_OF_ROWS:
        yield from _subqueries(clause.left)
    elif not isinstance(clause, sa.Exists | sa.SelectBase):
        for part in clause.get_children():
            yield from _subqueries(part)


def attempt(session: Session, function: Callable[[], T]) -> tuple[T | None, str | None]:
    """Call a function in a savepoint; return its result, or the cause of its failure.

    Args:
        session: the caller's transaction; it stays usable.
        function: reads the database; what it writes is undone.

    Raises:
        DBAPIError: the connection was lost.
    """
    savepoint = lookup.connection(session).begin_nested()
    try:
        return function(), None
    except (SQLAlchemyError, RecommenderError) as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        return None, _cause_of(error)
    finally:
        with suppress(SQLAlchemyError):
            savepoint.rollback()


def _cause_of(error: Exception) -> str:
    """Return the first line of an error; a database's own words if it has any."""
    own = getattr(error, "orig", None) or error
    lines = str(own.args[0] if own.args else own).strip().splitlines()
    return lines[0] if lines else type(own).__name__


def spread_keys(session: Session, table: type[User] | type[Video], count: int) -> list[str]:
    """Return the keys of rows spread over a whole table, in the order of ids.

    Args:
        session: the caller's transaction.
        table: the class of the rows.
        count: the number of rows, at most; 1 or more.
    """
    ends = sa.select(sa.func.min(table.id), sa.func.max(table.id))
    first, last = lookup.run(session, ends).one()
    if first is None:
        return []
    starts = min(count, SPREAD)
    batches = [
        sa.select(table.id, table.key)
        .where(table.id >= first + (last - first + 1) * number // starts)
        .order_by(table.id)
        .limit(count // starts)
        .subquery()
        for number in range(starts)
    ]
    rows = sa.union(*map(sa.select, batches)).subquery("spread")
    return list(lookup.run(session, sa.select(rows.c.key).order_by(rows.c.id)).scalars())
