"""Viewers' levels: what is known of a viewer before an impression, and what probabilities say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine

from recommender import fit
from recommender.evaluation import metrics
from recommender.evaluation.labels import PLACES
from recommender.evaluation.logistic import fit_logistic
from recommender.training.fit import Fit
from recommender.training.impressions import ImpressionSample
from recommender.training.viewer_bias import (
    INTERCEPT,
    OWN_SHARE,
    RIDGE_FACTOR,
    SCORE,
    fit_viewer_bias,
    viewer_bias_query,
)
from tests.support.kinds import slow_on_postgresql
from tests.support.plain_regression import Rows, plain_scores, plain_sums, scale_of
from tests.support.served_logs import PAGE, SETTINGS, candidate, opened, write_log
from tests.support.worlds import at

pytestmark = slow_on_postgresql

CUT = 50
"""The minute from which impressions are held out."""

EFFECTS = {"a": 0.5, "b": -1.0}
SIGNALS = ("a", "c")

Row = tuple[int, int, float, float, float, float]
"""Whose, the minute, the label, and the features a, b and c."""


def drawn(seed: int = 5) -> list[Row]:
    """Impressions of 17 users, some at once with others; c is the user's own throughout."""
    chance = Random(seed)  # noqa: S311 - not for secrets
    found = []
    for _ in range(300):
        user = chance.randrange(17)
        label = chance.choice([0.0, 0.0, 0.25, 1.0])
        values = (chance.gauss(3, 1), float(chance.random() < 0.3), user / 8)
        found.append((user, chance.randrange(70), label, *values))
    return found


@pytest.fixture
def sample(shared_engine: Engine) -> Iterator[ImpressionSample]:
    with opened(shared_engine, "abc") as sample:
        fill(sample, drawn())
        yield sample


def fill(sample: ImpressionSample, rows: Sequence[Row]) -> None:
    sample.add((user, at(minute), *rest) for user, minute, *rest in rows)


def mean_label(rows: Sequence[Row]) -> float:
    early = [row[2] for row in rows if row[1] < CUT]
    return math.fsum(early) / len(early)


def plain_levels(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Of each impression user, minute, label, score, the own share's logit, means until then."""
    mean, prior = mean_label(rows), SETTINGS.fit_user_prior
    found = []
    for user, minute, label, a, b, c in rows:
        own = [row for row in rows if row[0] == user and row[1] <= minute]
        known = [row[2] for row in own if row[1] < min(minute, CUT)]
        share = (math.fsum(known) + prior * mean) / (len(known) + prior)
        mean_a = math.fsum(row[3] for row in own) / len(own)
        score = 0.5 * a - b
        found.append((user, minute, label, score, math.log(share / (1 - share)), mean_a, c))
    return found


def test_a_level_is_what_was_known_of_the_viewer(sample: ImpressionSample) -> None:
    with sample.connection.begin():
        query = viewer_bias_query(sample, EFFECTS, SIGNALS, at(CUT), mean_label(drawn()))
        found = sample.connection.execute(query).all()
    wanted = [(user, at(minute), *rest) for user, minute, *rest in plain_levels(drawn())]
    for row, expected in zip(sorted(map(tuple, found)), sorted(wanted), strict=True):
        assert row[:2] == expected[:2]
        assert row[2:] == pytest.approx(expected[2:], abs=1e-9)


def test_levels_in_sql_are_those_of_python(sample: ImpressionSample) -> None:
    found = fit_viewer_bias(sample, EFFECTS, SIGNALS, at(CUT))
    levels = plain_levels(drawn())
    early: Rows = [(list(row[3:]), row[2]) for row in levels if row[1] < CUT]
    owners = [row[0] for row in levels if row[1] < CUT]
    rest: Rows = [(values[1:], label) for values, label in early]
    wanted = fit_logistic(
        lambda b: less_score(plain_sums(early, [b[0], 1.0, *b[1:]])),
        lambda b: [less(row) for row in less(plain_scores(early, owners, [b[0], 1.0, *b[1:]]))],
        scale_of(rest),
        [RIDGE_FACTOR * SETTINGS.fit_ridge] * (1 + len(SIGNALS)),
    ).coefficients
    assert list(found.coefficients) == [INTERCEPT, OWN_SHARE, *SIGNALS]
    assert list(found.coefficients.values()) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    late = [row for row in levels if row[1] >= CUT]
    logits = [wanted[0] + row[3] + sum(map(float.__mul__, wanted[1:], row[4:])) for row in late]
    assert found.held_out == len(late)
    assert found.auc == pytest.approx(metrics.auc(logits, [row[2] > 0 for row in late]))
    loss = plain_sums([([logit], row[2]) for logit, row in zip(logits, late, strict=True)], [0, 1])
    assert found.log_loss == pytest.approx(loss.loss / len(late), rel=1e-6)


def less(values: Sequence[Any]) -> list[Any]:
    """What is not of the score, whose coefficient is 1."""
    return [values[0], *values[2:]]


def less_score(sums: Any) -> Any:
    information = [less(row) for row in less(sums.information)]
    return sums._replace(gradient=less(sums.gradient), information=information)


def test_a_mean_that_differs_by_a_rounding_error_has_no_coefficient(
    shared_engine: Engine,
) -> None:
    with opened(shared_engine, "abc") as sample:
        fill(sample, [(*row[:5], 0.1) for row in drawn()])
        assert list(fit_viewer_bias(sample, EFFECTS, SIGNALS, at(CUT)).coefficients) == [
            INTERCEPT, OWN_SHARE, "a",
        ]  # fmt: skip


def test_a_level_of_signals_that_nobody_differs_in_is_the_share(sample: ImpressionSample) -> None:
    assert list(fit_viewer_bias(sample, EFFECTS, (), at(CUT)).coefficients) == [
        INTERCEPT,
        OWN_SHARE,
    ]


@pytest.mark.slow
def test_probabilities_tell_viewers_apart_and_the_ranking_stays(engine: Engine) -> None:
    """Every second user likes all videos by far more, which no order within a user tells."""
    write_log(engine, lambda chance: [candidate(chance) for _ in range(PAGE)], eager=4.0)
    found = fit(engine, "mine", settings=SETTINGS)
    assert isinstance(found, Fit)
    assert found.auc is not None
    assert found.quality.auc is not None
    assert found.auc > found.quality.auc + 0.05
    assert found.level[OWN_SHARE] > 0
    assert found.metrics()["level"] == found.level
    assert not {SCORE, *PLACES} & found.level.keys()
