"""Check that the database answers a page with short index scans: read plans on the real data.

The cost of a page must depend only on the number of candidates, not on the size of the catalogue,
the viewer's history or a creator's output. A plan shows three faults: a full scan of a large table,
more rows read than the sources' quotas explain, and many joined rows that are discarded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Executable

from recommender.database import lookup
from recommender.database.expressions import named
from recommender.database.session import Session
from recommender.feed.resolve import resolve
from recommender.feed.statements import cached_statement, page_query
from recommender.lists.people import PeoplePosition
from recommender.lists.people_ranking import people_values, ranked_people
from recommender.lists.similar import ranked_similar, shown_similar, top_position
from recommender.models import User, Video
from recommender.models.types import SPACE_PREFIX, Base
from recommender.operations.explained import (
    analysed_plan,
    explained,
    is_full_scan,
    nodes,
    rows_read,
)
from recommender.operations.probes import registered_things, spread_keys
from recommender.operations.registered_plans import PlanFault, allowed_reads, check_registered
from recommender.ranking.classic import ranked_reference
from recommender.ranking.request import PEOPLE, SIMILAR, FeedRequest
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

SAMPLED_USERS, SAMPLED_VIDEOS = 3, 100

SAMPLED_SEEDS = 3

_SCANNED = re.compile(rf"^SCAN (?!{SPACE_PREFIX})(rec_[a-z_]*[a-z])", re.MULTILINE)
"""A full scan on SQLite, but not of vectors, for which SQLite has no index."""


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
    """The plans of pages and lists, and one sentence per fault.

    Attributes:
        plans: the plans of the pages by user key.
        findings: the sentences.
        is_registered: whether the fault is in what the host registered.
        lists: the plans of lists of similar videos by video key.
        people: the plans of lists of people to follow by user key.
    """

    plans: Mapping[str, Plan]
    findings: tuple[str, ...]
    is_registered: bool = False
    lists: Mapping[str, Plan] = field(default_factory=dict)
    people: Mapping[str, Plan] = field(default_factory=dict)


def check_plans(
    session: Session,
    users: Sequence[str] | None = None,
    *,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> PlanCheck:
    """Check the query plans of pages and lists for some users.

    The usual cause is a missing index or outdated planner statistics, which `diagnose` reports. The
    reference formula may read any number of rows. Each page is ranked once; nothing is written.
    What the host registered is also run by itself, so that a sentence names what is slow.

    Args:
        session: the caller's transaction.
        users: the users' keys; None takes three users of the database.
        as_of: the reading time, with an offset; None is now.
        settings: the settings of the sources; None reads them from the environment.

    Raises:
        InvalidValue: a user's key or the reading time is malformed.
    """
    viewers = spread_keys(session, User, SAMPLED_USERS) if users is None else users
    requests = {user: resolve(session, user, as_of=as_of, settings=settings) for user in viewers}
    faults = _registered_faults(session, list(requests.values()))
    sentences = [fault.sentence for fault in faults]
    if not all(fault.can_run for fault in faults):
        return PlanCheck({}, tuple(sentences), is_registered=True)
    plans = {user: page_plan(session, request) for user, request in requests.items()}
    for user, request in requests.items():
        sentences += _faults(f"the page of {user}", plans[user], _most_read(request))
    about = resolve(session, None, SIMILAR, as_of=as_of, settings=settings)
    seeds = spread_keys(session, Video, SAMPLED_SEEDS)
    lists = {seed: similar_plan(session, replace(about, seeds=(seed,))) for seed in seeds}
    for seed, plan in lists.items():
        sentences += _faults(f"the list of videos like {seed}", plan, _most_read(about))
    people = {}
    for user in viewers:
        asked = resolve(session, user, PEOPLE, as_of=as_of, settings=settings)
        people[user] = people_plan(session, asked)
        sentences += _faults(f"the list of people for {user}", people[user], _most_read(asked))
    is_registered = bool(faults)
    return PlanCheck(plans, tuple(sentences), is_registered, lists=lists, people=people)


def _registered_faults(session: Session, requests: Sequence[FeedRequest]) -> list[PlanFault]:
    """Return what the registered things do wrong; it costs nothing without a host's registry."""
    if not requests or not registered_things(requests[0].registry):
        return []
    return check_registered(session, requests, spread_keys(session, Video, SAMPLED_VIDEOS))


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


def similar_plan(session: Session, request: FeedRequest) -> Plan:
    """Return the plan of the statement that ranks the videos that are like some given ones.

    Args:
        session: the caller's transaction.
        request: the request, from `resolve`, with its seeds.
    """
    shape, top = Shape.of(request), top_position(request)
    statement = cached_statement(ranked_similar, shown_similar, SIMILAR, shape)
    return plan_of(session, statement, {**values_of(request), **top.values()})


def people_plan(session: Session, request: FeedRequest) -> Plan:
    """Return the plan of the statement that ranks people to follow.

    Args:
        session: the caller's transaction.
        request: the request, from `resolve`.
    """
    statement = cached_statement(ranked_people, named, PEOPLE, Shape.of(request))
    values = {**people_values(request), **PeoplePosition(request.as_of).values()}
    return plan_of(session, statement, values)


def plan_of(session: Session, statement: Executable, values: Mapping[str, Any]) -> Plan:
    """Return the plan of a statement.

    Args:
        session: the caller's transaction.
        statement: a SELECT.
        values: the parameters of the statement.
    """
    if lookup.is_sqlite(session):
        rows = lookup.run(session, explained(statement), dict(values))
        steps = "\n".join(row[-1] for row in rows)
        return Plan(None, None, None, tuple(sorted(set(_SCANNED.findall(steps)))))
    top = analysed_plan(session, statement, values)
    plan = Plan(0, 0, top["Shared Hit Blocks"] + top["Shared Read Blocks"], ())
    big = _big_tables(session)
    for node in nodes(top):
        plan = _counted(plan, node, big)
    return plan


def _counted(plan: Plan, node: Mapping[str, Any], big: frozenset[str]) -> Plan:
    """Return the plan with the rows of one node added."""
    loops, relation = node["Actual Loops"], node.get("Relation Name")
    removed = node.get("Rows Removed by Join Filter", 0) * loops
    is_whole = is_full_scan(node)
    # One full scan of a small table is free.
    times = loops - 1 if is_whole and relation not in big else loops
    read = rows_read(node) * times if relation else 0
    scanned = {*plan.scanned, str(relation)} if is_whole and relation in big else plan.scanned
    return replace(
        plan,
        read=(plan.read or 0) + round(read),
        discarded=(plan.discarded or 0) + round(removed),
        scanned=tuple(sorted(scanned)),
    )


def _most_read(request: FeedRequest) -> int | None:
    """Return the number of rows that a page may read; None for no limit."""
    if request.profile.is_reference:
        return None
    candidates = request.settings.candidates
    ours = round(MAX_READ * max(1, candidates / CANDIDATES))
    return ours + allowed_reads(request)


def _faults(subject: str, plan: Plan, most_read: int | None) -> Iterator[str]:
    for table in plan.scanned:
        yield f"{subject} read the whole of {table}"
    if most_read is None:
        return
    if (plan.read or 0) > most_read:
        yield f"{subject} read {plan.read:,} rows, more than {most_read:,}"
    if (plan.discarded or 0) > MAX_DISCARDED:
        yield f"{subject} joined {plan.discarded:,} rows for nothing"


def _big_tables(session: Session) -> frozenset[str]:
    """Return the names of our and the host's tables with many rows, judged by size on disk."""
    # The size is always known; the planner's row counts may be missing.
    tables = sa.table("pg_class", sa.column("relname"), sa.column("oid"))
    pages = sa.func.pg_relation_size(tables.c.oid) / sa.func.current_setting("block_size").cast(
        sa.BigInteger
    )
    registry = lookup.registry(session)
    hosts = [table.name for table in registry.columns_read] if registry else []
    if registry and registry.space:
        hosts.append(f"{SPACE_PREFIX}{registry.space}")
    statement = sa.select(tables.c.relname).where(
        tables.c.relname.in_([*Base.metadata.tables, *hosts]),
        pages * ROWS_PER_BLOCK > LARGE_TABLE_ROWS,
    )
    return frozenset(lookup.run(session, statement).scalars())
