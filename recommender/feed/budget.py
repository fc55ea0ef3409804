"""Pages within a budget: fewer candidates where recent pages were slower, or fewer sources.

A process remembers how much of their budgets the last pages of an engine took. If they took too
long, the next pages rank half the candidates. On PostgreSQL a ranking that takes much too long is
cancelled, and the page is ranked from the sources that cost least.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from recommender.database import lookup
from recommender.database.server_settings import shorter_statements
from recommender.database.session import Session
from recommender.database.transactions import is_timeout
from recommender.errors import InvalidValue
from recommender.feed.places import ranked_places
from recommender.feed.selection import Place
from recommender.feed.statements import Candidates, times_compiled
from recommender.feed.values import Reduction
from recommender.formats import scalars
from recommender.ranking.request import Feed, FeedRequest
from recommender.ranking.sources import BACKFILL
from recommender.settings import LEAST_CANDIDATES

LEAST_BUDGET, MOST_BUDGET = 1.0, 3_600_000.0
"""The bounds of a budget, in milliseconds: up to an hour, for a host that means no limit."""

MOST_HALVINGS = 3
"""The largest number of times that candidates are halved: each time needs other statements.

An eighth of the default is the smallest value of the setting `candidates`.
"""

PAGES_BEFORE_FEWER = 5
"""The number of pages whose median is compared with the budget: two slow ones may be chance."""

PAGES_BEFORE_MORE = 20
"""The number of pages that must have been fast: more pages than for fewer candidates, because
viewers notice a slow page sooner than a page from fewer candidates."""

FAST = 0.5
"""The share of a budget below which pages are fast: twice the candidates take twice the time at
most, and so keep to the budget."""

TIMEOUT_FACTOR = 2
"""The multiple of the budget after which a ranking is cancelled: what it did until then is lost, so
a page that only just exceeds its budget is left to end."""

LEAST_TIMEOUT = 10.0
"""The shortest time after which a ranking is cancelled, in milliseconds: planning takes as long."""

CHEAP_SOURCES = {"following": 30, "trending": 30, BACKFILL: 40}
"""The sources of a page whose ranking was cancelled, with their quotas.

Each walks one index, and none reads the viewer's history. Together they find several pages.
"""


class Ranked(NamedTuple):
    """The candidates of a page, the places that they take, and how the ranking was reduced."""

    candidates: Candidates
    places: list[Place]
    reduced: Reduction | None = None


class Pace(NamedTuple):
    """How fast the last pages of an engine were.

    Attributes:
        halvings: the number of times that the candidates of its next page are halved.
        shares: the ranking times of the last pages with so many candidates, the latest last, each
            as a share of its budget.
    """

    halvings: int = 0
    shares: tuple[float, ...] = ()


_pace_by_pool: WeakKeyDictionary[sa.Pool, Pace] = WeakKeyDictionary()


def checked_budget(budget_ms: object) -> float | None:
    """Return a budget in milliseconds, None for none.

    Raises:
        InvalidValue: it is not a number from 1 to 3,600,000.
    """
    if budget_ms is None:
        return None
    if isinstance(budget_ms, bool) or not isinstance(budget_ms, int | float):
        raise InvalidValue(f"budget_ms: {scalars.shown(budget_ms)} is not a number")
    if not LEAST_BUDGET <= budget_ms <= MOST_BUDGET:
        raise InvalidValue(
            f"budget_ms: {budget_ms:,} is not between {LEAST_BUDGET:,.0f} and {MOST_BUDGET:,.0f}"
        )
    return float(budget_ms)


def ranked_within(session: Session, request: FeedRequest, budget_ms: float | None) -> Ranked:
    """Rank a page within a budget: on PostgreSQL four short statements more.

    The reference profile has no cheaper page, so a budget changes nothing for it.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        budget_ms: the time that the ranking may take, in milliseconds; None for any time.
    """
    if budget_ms is None or request.profile.is_reference:
        return Ranked(*ranked_places(session, request))
    connection = lookup.connection(session)
    pool = connection.engine.pool
    halvings = pace_of(pool).halvings
    fewer = with_fewer_candidates(request, halvings)
    compiled, started = times_compiled(connection), time.monotonic()
    ranked = _ranked_in_time(session, fewer, budget_ms)
    share = 1000 * (time.monotonic() - started) / budget_ms
    # Compiling a statement takes longer than a page, but only once. What a session carries is
    # ranked fast, however many candidates the sources give.
    is_kept = times_compiled(connection) == compiled
    if is_kept and (ranked is None or ranked.candidates.pages == 1):
        note(pool, halvings, share)
    if ranked is None:
        return Ranked(*ranked_places(session, _with_cheap_sources(request)), "sources")
    return ranked if fewer is request else ranked._replace(reduced="candidates")


def _ranked_in_time(session: Session, request: FeedRequest, budget_ms: float) -> Ranked | None:
    """Rank a page; None if it took much longer than the budget, and a cheaper page can be had."""
    # Without the newest videos, few sources would end the feed too early.
    if lookup.is_sqlite(session) or not request.reads(BACKFILL):
        return Ranked(*ranked_places(session, request))
    longest = max(LEAST_TIMEOUT, TIMEOUT_FACTOR * budget_ms)
    try:
        with shorter_statements(lookup.connection(session), longest / 1000):
            return Ranked(*ranked_places(session, request))
    except DBAPIError as error:
        if not is_timeout(error):
            raise
        return None


def more_reduced(one: Reduction | None, other: Reduction | None) -> Reduction | None:
    """Return how a page was reduced that is made of two rankings."""
    return "sources" if "sources" in {one, other} else one or other


def with_fewer_candidates(request: FeedRequest, halvings: int) -> FeedRequest:
    """Return a request whose candidates are halved some times; itself if that changes nothing."""
    candidates = max(LEAST_CANDIDATES, request.settings.candidates >> halvings)
    if candidates == request.settings.candidates:
        return request
    return replace(request, settings=replace(request.settings, candidates=candidates))


def _with_cheap_sources(request: FeedRequest) -> FeedRequest:
    """Return a request that reads, of the sources of its feed, only those that cost least."""
    feed = request.feed or Feed(name="", version=0)
    sources = {
        name: min(quota, feed.sources.get(name) or quota)
        for name, quota in CHEAP_SOURCES.items()
        if feed.reads(name)
    }
    fewest = with_fewer_candidates(request, MOST_HALVINGS)
    return replace(fewest, feed=replace(feed, sources=sources), contenders=None)


def pace_of(pool: sa.Pool) -> Pace:
    """Return how fast the last pages of an engine's pool were."""
    return _pace_by_pool.get(pool, Pace())


def note(pool: sa.Pool, halvings: int, share: float) -> None:
    """Remember how long the ranking of a page took.

    Args:
        pool: the pool of the engine.
        halvings: the number of times that its candidates were halved.
        share: its time as a share of its budget.
    """
    # Two threads at the same moment may lose one of two times, which does no harm.
    _pace_by_pool[pool] = _paced(pace_of(pool), halvings, share)


def _paced(pace: Pace, halvings: int, share: float) -> Pace:
    """Return the pace after a page; a page that began before the last change does not count."""
    if halvings != pace.halvings:
        return pace
    shares = (*pace.shares, share)[-PAGES_BEFORE_MORE:]
    if halvings < MOST_HALVINGS and _median(shares, PAGES_BEFORE_FEWER, 1.0) > 1.0:
        return Pace(halvings + 1)
    if halvings and _median(shares, PAGES_BEFORE_MORE, 1.0) < FAST:
        return Pace(halvings - 1)
    return Pace(halvings, shares)


def _median(shares: tuple[float, ...], pages: int, otherwise: float) -> float:
    """Return the median of the latest shares, the higher one of two; otherwise if too few."""
    latest = sorted(shares[-pages:])
    return latest[pages // 2] if len(latest) == pages else otherwise
