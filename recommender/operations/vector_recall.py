"""The recall of an index of vectors: the share of the nearest vectors that it finds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import Statement, named
from recommender.database.session import Session
from recommender.feed.resolve import resolve
from recommender.models import User
from recommender.operations.probes import spread_keys
from recommender.ranking.request import FeedRequest
from recommender.ranking.viewer import Shape, values_of

LEAST_RECALL = 0.95

SAMPLED_VIEWERS = 20


def recall_of(session: Session, users: Sequence[str] | None = None) -> float | None:
    """Return the share of the vectors nearest to viewers' tastes that the index finds.

    The quota of the source `near` is compared with the answer of a full scan, without filters. It
    takes one full scan for each viewer, and writes nothing.

    Args:
        session: the caller's transaction.
        users: the viewers' keys; None takes 20 users of the database.

    Returns:
        0 to 1; None without a space, on SQLite, which reads all vectors, and if none of the viewers
        has a taste.
    """
    registry = lookup.registry(session)
    if lookup.is_sqlite(session) or registry is None or registry.space is None:
        return None
    viewers = spread_keys(session, User, SAMPLED_VIEWERS) if users is None else users
    requests = [resolve(session, user) for user in viewers]
    pairs = [(_nearest(session, each), _nearest(session, each, exact=True)) for each in requests]
    shares = [len(found & wanted) / len(wanted) for found, wanted in pairs if wanted]
    return fmean(shares) if shares else None


def _nearest(session: Session, request: FeedRequest, *, exact: bool = False) -> set[int]:
    """Return the nearest videos by the index, or by a full scan."""
    _scan_indexes(session, "off" if exact else "on")
    found = lookup.run(session, _query(Shape.of(request), exact=exact), values_of(request))
    ids = set(found.scalars())
    _scan_indexes(session, "on")
    return ids


def _scan_indexes(session: Session, value: str) -> None:
    setting = sa.func.set_config("enable_indexscan", value, sa.true())
    lookup.run(session, sa.select(setting))


def _query(shape: Shape, *, exact: bool) -> Statement:
    near = next(source for source in shape.registry.every_source if source.name == "near")
    nearest = near.select(shape.any_viewer(), near.quota).limit(near.quota)
    # Two texts, since a prepared statement keeps its plan.
    return named(nearest, "nearest_exact" if exact else "nearest")
