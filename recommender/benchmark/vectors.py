"""Vectors for the videos of a synthetic world, and what they cost: pages, recall, the index."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.benchmark.distributions import END
from recommender.database.engine import create_engine
from recommender.database.spaces import create_space, index_name, index_space, space_table
from recommender.database.transactions import run_transaction
from recommender.feed.for_you import for_you
from recommender.ingest.embeddings import upsert_embeddings
from recommender.models import Video
from recommender.operations.vector_recall import recall_of
from recommender.ranking.profiles import create_profile, get_profile
from recommender.ranking.registry import Registry

SPACE = "bench"

PROFILE = "bench_vectors"
"""The profile of pages with vectors: `for_you`, and the signal `taste`."""

LATENT = 24
"""The number of latent dimensions. Vectors of models have few, however many numbers they have.

Ansuini and others, "Intrinsic dimension of data representations in deep neural networks" (2019).
"""

NOISE = 0.2
"""The length of the random part of a vector, compared with 1 for the latent part."""

ROWS_AT_ONCE = 2_000

FOR_YOU = "for_you@1"

WARM_UP = 3


def measure_vectors(
    engine: Engine, dim: int, viewers: Sequence[str], progress: Callable[[str], None]
) -> dict[str, float]:
    """Give every video a vector, unless they have one, and measure what pages then cost.

    Args:
        engine: a prepared engine on a database that holds a world.
        dim: the number of dimensions.
        viewers: the keys of the viewers.
        progress: told the name of the next step.

    Returns:
        Rows written in a second, seconds and bytes of the index on PostgreSQL, the recall of the
        source `near`, and the medians of page times in milliseconds, with and without vectors.
    """
    figures: dict[str, float] = {}
    if not create_space(engine, SPACE, dim=dim).vectors:
        progress("vectors")
        started, written = time.perf_counter(), _fill(engine, dim)
        figures["rows a second"] = round(written / (time.perf_counter() - started))
    if engine.dialect.name != "sqlite":
        progress("the index of vectors")
        started = time.perf_counter()
        index_space(engine, SPACE)
        figures["index seconds"] = round(time.perf_counter() - started, 1)
        figures["index bytes"] = _index_bytes(engine)
    registry = Registry(space=SPACE)
    url = engine.url.render_as_string(hide_password=False)
    with_vectors = create_engine(url, registry=registry)
    try:
        figures |= _pages(engine, with_vectors, viewers)
        with Session(with_vectors) as session:
            recall = recall_of(session, viewers)
    finally:
        with_vectors.dispose()
    return figures if recall is None else {**figures, "recall": round(recall, 4)}


def _fill(engine: Engine, dim: int) -> int:
    """Write a vector for each video; return their number."""
    chance = np.random.default_rng(26)
    directions = chance.normal(size=(LATENT, dim)) / np.sqrt(LATENT * dim)
    written, after = 0, 0
    while rows := _next(engine, after):
        own = chance.normal(size=(len(rows), LATENT)) @ directions
        own += NOISE * chance.normal(size=own.shape) / np.sqrt(dim)
        vectors: Any = [{"id": row.key, "vector": one} for row, one in zip(rows, own, strict=True)]
        run_transaction(engine, partial(upsert_embeddings, space=SPACE, rows=vectors))
        written, after = written + len(rows), rows[-1].id
    return written


def _next(engine: Engine, after: int) -> Sequence[Any]:
    read = sa.select(Video.id, Video.key).where(Video.id > after).order_by(Video.id)
    with Session(engine) as session:
        return session.execute(read.limit(ROWS_AT_ONCE)).all()


def _index_bytes(engine: Engine) -> int:
    name = index_name(space_table(SPACE))
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.pg_relation_size(name))) or 0)


def _pages(plain: Engine, with_vectors: Engine, viewers: Sequence[str]) -> dict[str, float]:
    """Measure pages of the same viewers with and without vectors, which take turns."""

    def make(session: Session) -> None:
        weights = get_profile(session, FOR_YOU).weights
        create_profile(session, PROFILE, {**weights, "taste": 0.3})

    run_transaction(with_vectors, make)
    ways = {"page": (plain, FOR_YOU), "page with vectors": (with_vectors, PROFILE)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for viewer in [*viewers[:WARM_UP], *viewers, *viewers]:
        for name, (engine, profile) in ways.items():
            with Session(engine) as session:
                started = time.perf_counter()
                for_you(session, viewer, profile=profile, as_of=END, record=False)
                times[name].append(time.perf_counter() - started)
    return {name: round(median(some[WARM_UP:]) * 1_000, 3) for name, some in times.items()}
