"""Whether the database answers a page by short walks of indexes: its plans, read on its own data.

A page may cost what its candidates cost, and no more where the catalogue, a viewer's history or a
creator grows. What would break that is seen in a plan: a large table read as a whole, more rows
read than the sources' quotas lead to, or rows joined only to be thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Executable
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler

from recommender.database import lookup
from recommender.database.expressions import named
from recommender.feed.resolve import resolve
from recommender.feed.statements import cached_statement, page_query
from recommender.models import User
from recommender.models.types import Base
from recommender.ranking.classic import ranked_reference
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import top_candidates
from recommender.ranking.sources import CANDIDATES
from recommender.ranking.viewer import Shape, values_of
from recommender.settings import Settings

BIG = 200_000
"""A table of fewer rows may be read as a whole: for a thousand rows of it, that can be quicker."""

ROWS_OF_A_PAGE = 50
"""How many rows of a table stand on a page of it, at the least."""

MOST_READ = 50_000
"""Rows that the statement of a page may read: `CANDIDATES`, or fewer, and what each leads to."""

MOST_DISCARDED = 100_000
"""Rows that its joins may bring together for nothing."""

SAMPLE = 3

_SCANNED = re.compile(r"^SCAN (rec_[a-z_]*[a-z])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the database answered one statement.

    Attributes:
        read: rows that were read from tables and indexes, those that a filter took away included,
            those of a small table that was read as a whole, once, not; None where the database does
            not say.
        discarded: rows that joins brought together for nothing.
        buffers: pages of tables and indexes that were looked at, in memory or not.
        scanned: the tables that were read as a whole.
    """

    read: int | None
    discarded: int | None
    buffers: int | None
    scanned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """What the plans of some viewers' pages are like, and what is wrong: a sentence each."""

    plans: Mapping[str, Plan]
    findings: tuple[str, ...]


class explained(Executable, sa.ClauseElement):  # noqa: N801 - it reads as the SQL that it is
    """A statement to be explained; on PostgreSQL it is run, on SQLite only planned."""

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


def check_plans(
    session: Session,
    users: Sequence[str] | None = None,
    *,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> PlanCheck:
    """Read the plans of some viewers' pages, and name what makes them slow.

    A missing index, or statistics that are far off, are mostly why: `diagnose` names these. That
    the reference formula reads as many rows as its lists have is no fault. Each page is ranked
    once, and nothing is written.

    Args:
        session: the caller's transaction.
        users: the viewers' keys; three of those in the database where None.
        as_of: the reading time, with an offset; now where None.
        settings: the numbers that shape sources; those of the environment where None.

    Raises:
        InvalidValue: a user's key or the reading time is not of its form.
    """
    viewers = _sample(session) if users is None else users
    plans: dict[str, Plan] = {}
    findings: list[str] = []
    for user in viewers:
        request = resolve(session, user, as_of=as_of, settings=settings)
        plans[user] = page_plan(session, request)
        findings += _faults(user, plans[user], _most_read(request))
    return PlanCheck(plans, tuple(findings))


def page_plan(session: Session, request: FeedRequest) -> Plan:
    """The plan of the one statement that ranks a page.

    Args:
        session: the caller's transaction.
        request: as `resolve` gives it.
    """
    is_reference = request.profile.is_reference
    ranking, finish = (ranked_reference, page_query) if is_reference else (top_candidates, named)
    statement = cached_statement(ranking, finish, "for_you", Shape.of(request))
    return plan_of(session, statement, values_of(request))


def plan_of(session: Session, statement: Executable, values: Mapping[str, Any]) -> Plan:
    """How the database answers a statement.

    Args:
        session: the caller's transaction.
        statement: a SELECT.
        values: what it is executed with.
    """
    rows = lookup.run(session, explained(statement), dict(values))
    if lookup.is_sqlite(session):
        steps = "\n".join(row[-1] for row in rows)
        return Plan(None, None, None, tuple(sorted(set(_SCANNED.findall(steps)))))
    top = rows.scalar_one()[0]["Plan"]
    found = Plan(0, 0, top["Shared Hit Blocks"] + top["Shared Read Blocks"], ())
    big = _big_tables(session)
    for node in _nodes(top):
        found = _counted(found, node, big)
    return found


def _counted(plan: Plan, node: Mapping[str, Any], big: frozenset[str]) -> Plan:
    """A plan with what one of its nodes did; a table that is small may be read as a whole, once."""
    loops, relation = node["Actual Loops"], node.get("Relation Name")
    thrown = node.get("Rows Removed by Join Filter", 0) * loops
    is_whole = node["Node Type"].endswith("Seq Scan") and loops
    times = loops - 1 if is_whole and relation not in big else loops
    looked_at = 0.0
    if relation:
        parts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        looked_at = sum(node.get(part, 0) for part in parts) * times
    scanned = {*plan.scanned, str(relation)} if is_whole and relation in big else plan.scanned
    return replace(
        plan,
        read=(plan.read or 0) + round(looked_at),
        discarded=(plan.discarded or 0) + round(thrown),
        scanned=tuple(sorted(scanned)),
    )


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _most_read(request: FeedRequest) -> int | None:
    """How many rows a page may read; None for any number."""
    if request.profile.is_reference:
        return None
    return round(MOST_READ * max(1, request.settings.candidates / CANDIDATES))


def _faults(user: str, plan: Plan, most_read: int | None) -> Iterator[str]:
    for table in plan.scanned:
        yield f"the page of {user} read the whole of {table}"
    if most_read is None:
        return
    if (plan.read or 0) > most_read:
        yield f"the page of {user} read {plan.read:,} rows, more than {most_read:,}"
    if (plan.discarded or 0) > MOST_DISCARDED:
        yield f"the page of {user} joined {plan.discarded:,} rows for nothing"


def _sample(session: Session) -> list[str]:
    """The keys of users from all over the table."""
    last = session.scalar(sa.select(sa.func.max(User.id))) or 0
    found: list[str] = []
    for number in range(SAMPLE):
        after = sa.select(User.key).where(User.id > last * number // SAMPLE)
        found += session.scalars(after.order_by(User.id).limit(1)).all()
    return list(dict.fromkeys(found))


def _big_tables(session: Session) -> frozenset[str]:
    """The tables that have many rows, by their size; it may never have been counted."""
    tables = sa.table("pg_class", sa.column("relname"), sa.column("oid"))
    pages = sa.func.pg_relation_size(tables.c.oid) / sa.func.current_setting("block_size").cast(
        sa.BigInteger
    )
    statement = sa.select(tables.c.relname).where(
        tables.c.relname.in_(list(Base.metadata.tables)), pages * ROWS_OF_A_PAGE > BIG
    )
    return frozenset(lookup.run(session, statement).scalars())
