"""The score key, in Python and in SQL: one arithmetic, one order."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from recommender import SIGNALS
from recommender.database.expressions import half_away, number
from recommender.evaluation import rankers
from recommender.ranking.scoring import KEY_SCALE, score_key_of, score_of

HALVES = [(n + 0.5) / KEY_SCALE for n in range(-40, 40)]
SCORES = [*HALVES, 0.0, 0.1 + 0.2, -1.45, 1.45, 2 / 3, 123.456789, 1e6 / 7]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def keys_in_sql(session: Session, scores: list[float]) -> list[int]:
    keys = [
        sa.cast(half_away(number(score) * number(KEY_SCALE)), sa.BigInteger) for score in scores
    ]
    return list(
        session.execute(sa.select(*[key.label(f"k{n}") for n, key in enumerate(keys)])).one()
    )


def test_python_and_the_database_give_the_same_key(session: Session) -> None:
    assert [score_key_of(score) for score in SCORES] == keys_in_sql(session, SCORES)


@pytest.mark.parametrize(("score", "key"), [(0.5e-9, 1), (-0.5e-9, -1), (2.5e-9, 3), (0.0, 0)])
def test_halves_are_rounded_away_from_zero(score: float, key: int) -> None:
    assert score_key_of(score) == key


@given(st.integers(-(10**15), 10**15))
@example(1_450_000_000)
def test_a_score_that_is_shown_has_the_key_that_it_was_made_from(key: int) -> None:
    assert score_key_of(score_of(key)) == key


@pytest.mark.parametrize("halves", [0.5, 2.5, 4.5, -0.5, -2.5])
def test_an_evaluation_orders_by_the_key_of_the_feed(halves: float) -> None:
    """`round` would give 0, 2, 4, 0 and -2, and so ties that the feed does not have."""
    values = [0.0] * len(SIGNALS)
    values[0] = 1.0
    weight = halves / KEY_SCALE
    score = rankers._weighted([weight, *values[1:]])
    impression: Any = SimpleNamespace(values=values)
    assert score(impression) == math.copysign(abs(halves) + 0.5, halves)
