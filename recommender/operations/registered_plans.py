"""The cost of registered signals, sources and filters, each by itself.

PostgreSQL counts the rows that a plan reads. On SQLite a plan only tells which tables are read as a
whole, so the sizes of these tables count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.sql import visitors

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.operations.explained import (
    analysed_plan,
    explained,
    is_full_scan,
    nodes,
    rows_read,
)
from recommender.operations.probes import (
    Thing,
    attempt,
    nothing_like,
    registered_things,
    statement_of,
)
from recommender.ranking.candidates import quota_of
from recommender.ranking.request import FeedRequest
from recommender.ranking.sources import SCAN_FACTOR, Source
from recommender.ranking.viewer import Shape

READS_PER_VIDEO = 50
"""Limit for rows that a registered signal or filter reads for each video."""

READS_PER_ROW = 4
"""Limit for rows that a registered source reads for each row that it may give."""

MAX_SCANNED = 10_000
"""Limit for rows of one table that a registered thing reads in one scan."""

INDEX_ADVICE = (
    "index the columns that it compares or orders by; on PostgreSQL, an index for comparisons with"
    ' Video.key is on (column COLLATE "C")'
)
"""The advice about a registered thing that reads too much: our keys have the collation C there."""

_STEP = re.compile(r"(?P<way>SCAN|SEARCH) (?P<name>\S+)(?P<index>.*)")


class Scan(NamedTuple):
    """A way in which a plan reads a table.

    Attributes:
        table: the name of the table.
        is_whole: whether it reads all rows of the table.
        repeats: whether it runs more than once.
    """

    table: str
    is_whole: bool
    repeats: bool


class PlanFault(NamedTuple):
    """A registered thing that reads too much, or cannot run."""

    thing: Thing
    sentence: str
    can_run: bool = True


def allowed_reads(request: FeedRequest) -> int:
    """Return the number of rows that all registered things may read for a page."""
    registry = request.registry
    per_video = (len(registry.signals) + len(registry.filters)) * READS_PER_VIDEO
    of_sources = sum(_reads_of_source(source, request) for source in registry.sources)
    if registry.space:
        per_video, of_sources = per_video + 1, of_sources + READS_PER_ROW * registry.near
    return per_video * request.settings.candidates + of_sources


def _reads_of_source(source: Source, request: FeedRequest) -> int:
    return READS_PER_ROW * (source.rows or SCAN_FACTOR * quota_of(source, Shape.of(request)))


def check_registered(
    session: Session, requests: Sequence[FeedRequest], videos: Sequence[str]
) -> list[PlanFault]:
    """Return the registered things that read too much or cannot run, each with one sentence.

    Args:
        session: the caller's transaction.
        requests: requests of some viewers, with one registry.
        videos: the keys of the videos that signals and filters are computed for.
    """
    things = registered_things(requests[0].registry) if requests and videos else []
    faults = (plan_fault(session, each, requests, videos) for each in things)
    return [fault for fault in faults if fault is not None]


def plan_fault(
    session: Session, each: Thing, requests: Sequence[FeedRequest], videos: Sequence[str]
) -> PlanFault | None:
    """Return the fault of one registered thing, None if it has none; as `check_registered`."""
    for request in requests:
        found, cause = attempt(session, partial(slowness_of, session, each, request, videos))
        if cause is not None:
            return PlanFault(each, f"{each.label} cannot run: {cause}", can_run=False)
        if found is not None:
            return PlanFault(each, found)
    return None


def slowness_of(
    session: Session, each: Thing, request: FeedRequest, videos: Sequence[str]
) -> str | None:
    """Return a sentence about a registered thing that reads too much, None if it does not.

    Args:
        session: the caller's transaction.
        each: the thing.
        request: a request with its registry.
        videos: the keys of the videos that a signal or filter is computed for, 1 or more.
    """
    is_source = each.kind == "source"
    limit = _reads_of_source(each.own, request) if is_source else READS_PER_VIDEO * len(videos)
    reads = _reads(session, statement_of(each, request, videos), limit, is_source=is_source)
    if not is_source:
        reads -= _reads(session, nothing_like(each, request, videos), limit, is_source=False)
    found = next(_excesses(reads, limit, is_source=is_source), None)
    return f"{each.label} reads {found}" if found else None


def _excesses(reads: Counter[Scan], limit: int, *, is_source: bool) -> Iterator[str]:
    """Return what is too much, the worst first."""
    single = {scan for scan in reads if not scan.repeats and (scan.is_whole or not is_source)}
    others = {scan: rows for scan, rows in reads.items() if scan not in single}
    times = "row" if is_source else "video"
    if (total := sum(others.values())) > limit:
        worst = max(others, key=others.__getitem__)
        is_scan = worst.is_whole and others[worst] > limit / 2
        yield (
            f"the whole of {worst.table} for each {times}"
            if is_scan
            else f"{total:,} rows, more than {limit:,}"
        )
    for scan in sorted(single):
        if reads[scan] > MAX_SCANNED:
            yield f"the whole of {scan.table}"


def _reads(session: Session, statement: Statement, limit: int, *, is_source: bool) -> Counter[Scan]:
    """Return the rows that a statement reads, by tables; on SQLite by whole tables only."""
    if lookup.is_sqlite(session):
        return _rows_of_whole_tables(session, statement, limit, is_source=is_source)
    if not is_source:
        # PostgreSQL may scan a small table for each video although an index would do.
        no_scans = sa.func.set_config("enable_seqscan", "off", True)  # noqa: FBT003 - SQL's
        lookup.run(session, sa.select(no_scans))
    reads: Counter[Scan] = Counter()
    for node in nodes(analysed_plan(session, statement, {})):
        if (table := node.get("Relation Name")) is not None:
            loops = node["Actual Loops"]
            reads[Scan(table, is_full_scan(node), loops > 1)] += round(rows_read(node) * loops)
    return reads


def _rows_of_whole_tables(
    session: Session, statement: Statement, limit: int, *, is_source: bool
) -> Counter[Scan]:
    steps = list(lookup.run(session, explained(statement)))
    times = limit // READS_PER_VIDEO
    reads: Counter[Scan] = Counter()
    for table, repeats in _whole_scans(steps, _tables_in(statement), is_source=is_source):
        rows = _size(session, table)
        reads[Scan(table.name, is_whole=True, repeats=repeats)] += rows * (times if repeats else 1)
    return reads


def _whole_scans(
    steps: Sequence[Any], tables: Mapping[str, sa.TableClause], *, is_source: bool
) -> Iterator[tuple[sa.TableClause, bool]]:
    """Return the tables that SQLite's plan reads as a whole, and whether more than once."""
    details = {step[0]: (step[1], step[3]) for step in steps}
    for number, (parent, detail) in details.items():
        match = _STEP.match(detail)
        table = _table_named(match["name"], tables) if match else None
        if match is None or table is None:
            continue
        beside = {each: text for each, (above, text) in details.items() if above == parent}
        if match["way"] == "SEARCH":
            if "AUTOMATIC" in match["index"]:  # an index that is made once, of all rows
                yield table, False
        elif not is_source or "INDEX" not in match["index"] or _is_sorted(beside.values()):
            is_inner = any(_STEP.match(text) for each, text in beside.items() if each < number)
            yield table, is_inner or _is_correlated(parent, details)


def _is_sorted(details: Iterable[str]) -> bool:
    """Return whether a part of SQLite's plan sorts all rows; else it may stop at a limit."""
    return any(detail.startswith("USE TEMP B-TREE") for detail in details)


def _is_correlated(number: int, details: Mapping[int, tuple[int, str]]) -> bool:
    """Return whether a part of SQLite's plan is in a subquery that runs for each row."""
    while number in details:
        number, detail = details[number]
        if detail.startswith("CORRELATED"):
            return True
    return False


def _table_named(name: str, tables: Mapping[str, sa.TableClause]) -> sa.TableClause | None:
    """Return the table of a name in SQLite's plan, which may be an alias."""
    return tables.get(name, tables.get(re.sub(r"_\d+$", "", name)))


def _tables_in(statement: Statement) -> dict[str, sa.TableClause]:
    """Return the tables that a statement reads, by their names and aliases."""
    tables: dict[str, sa.TableClause] = {}
    for part in visitors.iterate(statement):
        table = part.element if isinstance(part, sa.Alias) else part
        if isinstance(table, sa.TableClause):
            tables |= {table.name: table, str(getattr(part, "name", table.name)): table}
    return tables


def _size(session: Session, table: sa.TableClause) -> int:
    """Return the number of rows of a table, counted up to a limit."""
    rows = sa.select(sa.literal(1)).select_from(table).limit(MAX_SCANNED + 1).subquery()
    count = sa.select(sa.func.count()).select_from(rows)
    return lookup.run(session, count).scalar_one()  # type: ignore[no-any-return]
