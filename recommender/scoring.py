"""The one statement: candidates, filters, the weighted sum of signals, the order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, ColumnElement, Double, Label
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from recommender.columns import Statement
from recommender.errors import UnknownSignal
from recommender.fields import shown
from recommender.filters import FILTERS, Viewer
from recommender.models import Video
from recommender.signals import SIGNALS, Candidate, Number, Signal, gather_facts, number
from recommender.values import FeedRequest

KEY_SCALE = 1_000_000_000
"""The order is by whole billionths of a score: sums of doubles that are equal on paper tie."""


def signal_of(name: str) -> Signal:
    """The signal of that name.

    Raises:
        UnknownSignal: there is none.
    """
    for signal in SIGNALS:
        if signal.name == name:
            return signal
    raise UnknownSignal(
        f"there is no signal {shown(name)}: there are {', '.join(each.name for each in SIGNALS)}"
    )


def score_of(key: int) -> float:
    """The score that a score key stands for."""
    return key / KEY_SCALE


def feed_query(request: FeedRequest) -> Statement:
    """The ordered feed of a request, as a statement to run or to compose.

    Its columns are `video_id`, `score_key` (billionths of the score) and one for each signal of the
    profile. It selects from `Video`, so that ``where`` and ``join`` can add a host's own tables;
    it is ordered by score key, then `published_at`, then id, all descending, and limited.

    Args:
        request: as `resolve` gives it.

    Raises:
        UnknownSignal: the profile names a signal that this package does not have.
    """
    allowed = [each.predicate(Viewer.of(request)) for each in FILTERS]
    statement = ordered(scored(request).where(*allowed)).limit(request.limit)
    return statement.prefix_with("/* recommender.feed_query */")


def rank_query(request: FeedRequest, video_ids: Sequence[int]) -> Statement:
    """The given videos in the order of the request's profile; no filter applies."""
    statement = ordered(scored(request).where(Video.id.in_(video_ids)))
    return statement.prefix_with("/* recommender.rank_query */")


def explain_query(request: FeedRequest, video_id: int) -> Statement:
    """One video's score and signals, and a column for each filter: whether it passes."""
    viewer = Viewer.of(request)
    outcomes = [each.predicate(viewer).label(f"filter_{each.name}") for each in FILTERS]
    statement = scored(request).add_columns(*outcomes).where(Video.id == video_id)
    return statement.prefix_with("/* recommender.explain_query */")


def ahead_query(request: FeedRequest, video_id: int, score_key: int) -> Statement:
    """How many videos of the whole filtered order stand before this one."""
    feed = feed_query(request).limit(None).order_by(None)
    each = feed.add_columns(Video.published_at).subquery("each")
    published_at = sa.select(Video.published_at).where(Video.id == video_id).scalar_subquery()
    place = sa.tuple_(each.c.score_key, each.c.published_at, each.c.video_id)
    own = sa.tuple_(sa.literal(score_key, BigInteger()), published_at, sa.literal(video_id))
    statement = sa.select(sa.func.count()).select_from(each).where(place > own)
    return statement.prefix_with("/* recommender.ahead_query */")


def scored(request: FeedRequest) -> Statement:
    """Every video with its score key and signals, in no order."""
    viewer = Viewer.of(request)
    facts = gather_facts(viewer)
    candidate = Candidate(facts, viewer)
    values = {name: signal_of(name).expression(candidate) for name in request.profile.weights}
    labels = [value.label(name) for name, value in values.items()]
    source = sa.outerjoin(Video, facts, facts.c.video_id == Video.id)
    key = score_key(request, values)
    return sa.select(Video.id.label("video_id"), key, *labels).select_from(source)


def score_key(request: FeedRequest, values: dict[str, Number]) -> Label[int]:
    """Σ weight · signal in whole billionths."""
    terms = [number(request.profile.weights[name]) * value for name, value in values.items()]
    total: ColumnElement[Any] = sum(terms[1:], start=terms[0])
    return sa.cast(half_away(total * number(KEY_SCALE)), BigInteger).label("score_key")


class half_away(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function that it is
    """A number rounded to a whole one, halves away from zero, on every database alike."""

    type = Double()
    inherit_cache = True


@compiles(half_away, "sqlite")
def _round(element: half_away, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(sa.func.round(*element.clauses), **options)


@compiles(half_away, "postgresql")
def _truncate(element: half_away, compiler: SQLCompiler, **options: Any) -> str:
    """PostgreSQL rounds halves of a double to even; this is SQLite's arithmetic."""
    (value,) = element.clauses
    half = sa.case((value < number(0), number(-0.5)), else_=number(0.5))
    return compiler.process(sa.func.trunc(value + half), **options)


def ordered(statement: Statement) -> Statement:
    """The statement in the one order of every feed."""
    key = statement.selected_columns.score_key
    return statement.order_by(key.desc(), Video.published_at.desc(), Video.id.desc())
