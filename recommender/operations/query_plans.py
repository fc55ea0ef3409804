"""Check that the database answers a page with short index scans: read plans on the real data.

The cost of a page must depend only on the number of candidates, not on the size of the catalogue,
the viewer's history or a creator's output. A plan shows three faults: a full scan of a large table,
more rows read than the sources' quotas explain, and many joined rows that are discarded.
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
from sqlalchemy.sql.compiler import SQLCompiler

from recommender.database import lookup
from recommender.database.expressions import named
from recommender.database.session import Session
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

LARGE_TABLE_ROWS = 200_000
"""A full scan is allowed for tables with fewer rows: it can be faster than an index."""

ROWS_PER_BLOCK = 50
"""The least number of rows on one disk page of a table."""

MAX_READ = 50_000
"""Limit for rows read by the statement of a page with up to `CANDIDATES` candidates."""

MAX_DISCARDED = 100_000
"""Limit for joined rows that a join filter discards."""

SAMPLED_USERS = 3

_SCANNED = re.compile(r"^SCAN (rec_[a-z_]*[a-z])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """Figures about the plan of one statement.

    Attributes:
        read: rows read from tables and indexes, including rows that a filter removed. One full scan
            of a small table is not counted. None if the database does not report it.
        discarded: joined rows that a join filter removed; None if the database does not report it.
        buffers: pages of tables and indexes read, from memory or disk; None if the database does
            not report it.
        scanned: the tables with a full scan.
    """

    read: int | None
    discarded: int | None
    buffers: int | None
    scanned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """The plans of the pages by user key, and one sentence per fault."""

    plans: Mapping[str, Plan]
    findings: tuple[str, ...]


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


def check_plans(
    session: Session,
    users: Sequence[str] | None = None,
    *,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> PlanCheck:
    """Check the query plans of pages for some users, and name the causes of slow pages.

    The usual cause is a missing index or outdated planner statistics, which `diagnose` reports. The
    reference formula may read any number of rows. Each page is ranked once; nothing is written.

    Args:
        session: the caller's transaction.
        users: the users' keys; None takes three users of the database.
        as_of: the reading time, with an offset; None is now.
        settings: the settings of the sources; None reads them from the environment.

    Raises:
        InvalidValue: a user's key or the reading time is malformed.
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
    """Return the plan of the statement that ranks a page.

    Args:
        session: the caller's transaction.
        request: the request, from `resolve`.
    """
    is_reference = request.profile.is_reference
    ranking, finish = (ranked_reference, page_query) if is_reference else (top_candidates, named)
    statement = cached_statement(ranking, finish, "for_you", Shape.of(request))
    return plan_of(session, statement, values_of(request))


def plan_of(session: Session, statement: Executable, values: Mapping[str, Any]) -> Plan:
    """Return the plan of a statement.

    Args:
        session: the caller's transaction.
        statement: a SELECT.
        values: the parameters of the statement.
    """
    rows = lookup.run(session, explained(statement), dict(values))
    if lookup.is_sqlite(session):
        steps = "\n".join(row[-1] for row in rows)
        return Plan(None, None, None, tuple(sorted(set(_SCANNED.findall(steps)))))
    top = rows.scalar_one()[0]["Plan"]
    plan = Plan(0, 0, top["Shared Hit Blocks"] + top["Shared Read Blocks"], ())
    big = _big_tables(session)
    for node in _nodes(top):
        plan = _counted(plan, node, big)
    return plan


def _counted(plan: Plan, node: Mapping[str, Any], big: frozenset[str]) -> Plan:
    """Return the plan with the rows of one node added."""
    loops, relation = node["Actual Loops"], node.get("Relation Name")
    removed = node.get("Rows Removed by Join Filter", 0) * loops
    is_whole = node["Node Type"].endswith("Seq Scan") and loops
    # One full scan of a small table is free.
    times = loops - 1 if is_whole and relation not in big else loops
    read = 0.0
    if relation:
        parts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        read = sum(node.get(part, 0) for part in parts) * times
    scanned = {*plan.scanned, str(relation)} if is_whole and relation in big else plan.scanned
    return replace(
        plan,
        read=(plan.read or 0) + round(read),
        discarded=(plan.discarded or 0) + round(removed),
        scanned=tuple(sorted(scanned)),
    )


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _most_read(request: FeedRequest) -> int | None:
    """Return the number of rows that a page may read; None for no limit."""
    if request.profile.is_reference:
        return None
    return round(MAX_READ * max(1, request.settings.candidates / CANDIDATES))


def _faults(user: str, plan: Plan, most_read: int | None) -> Iterator[str]:
    for table in plan.scanned:
        yield f"the page of {user} read the whole of {table}"
    if most_read is None:
        return
    if (plan.read or 0) > most_read:
        yield f"the page of {user} read {plan.read:,} rows, more than {most_read:,}"
    if (plan.discarded or 0) > MAX_DISCARDED:
        yield f"the page of {user} joined {plan.discarded:,} rows for nothing"


def _sample(session: Session) -> list[str]:
    """Return the keys of users spread over the whole table."""
    last = session.scalar(sa.select(sa.func.max(User.id))) or 0
    keys: list[str] = []
    for number in range(SAMPLED_USERS):
        after = sa.select(User.key).where(User.id > last * number // SAMPLED_USERS)
        keys += session.scalars(after.order_by(User.id).limit(1)).all()
    return list(dict.fromkeys(keys))


def _big_tables(session: Session) -> frozenset[str]:
    """Return the names of the tables with many rows, judged by size on disk."""
    # The size is always known; the planner's row counts may be missing.
    tables = sa.table("pg_class", sa.column("relname"), sa.column("oid"))
    pages = sa.func.pg_relation_size(tables.c.oid) / sa.func.current_setting("block_size").cast(
        sa.BigInteger
    )
    statement = sa.select(tables.c.relname).where(
        tables.c.relname.in_(list(Base.metadata.tables)), pages * ROWS_PER_BLOCK > LARGE_TABLE_ROWS
    )
    return frozenset(lookup.run(session, statement).scalars())
