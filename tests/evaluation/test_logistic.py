"""The regression's arithmetic beside scikit-learn's, and what it does where a fit is hard."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from recommender import RecommenderError
from recommender.evaluation.logistic import (
    Matrix,
    Scale,
    Sums,
    Vector,
    _penalised,
    _take_step,
    fit_logistic,
    logistic,
    solve,
)
from tests.support.plain_regression import Rows, plain_scores, plain_sums, scale_of


def fitted(rows: Rows, ridge: float = 1.0) -> tuple[Vector, Vector]:
    found = fit_logistic(
        lambda b: plain_sums(rows, b),
        lambda b: plain_scores(rows, range(len(rows)), b),
        scale_of(rows),
        [ridge] * len(rows[0][0]),
    )
    return found.coefficients, found.errors


def drawn(seed: int, count: int, weights: Vector, *, tail: float = 0.0) -> Rows:
    """Rows of a logistic model; features of unequal means and spreads, or with a heavy tail."""
    chance = Random(seed)  # noqa: S311 - not for secrets
    rows = []
    for _ in range(count):
        x = [chance.gauss(3 * i, 0.1 + i) for i in range(len(weights) - 1)]
        x[0] += tail and chance.paretovariate(0.7) * tail
        logit = weights[0] + sum(
            w * (v - 3 * i) for i, (w, v) in enumerate(zip(weights[1:], x, strict=True))
        )
        rows.append((x, float(chance.random() < logistic(max(-500, min(500, logit))))))
    return rows


def scikit(rows: Rows, ridge: float) -> list[float]:
    """The same by scikit-learn: coefficients of standardised features, in their own units."""
    x, y = np.array([values for values, _ in rows]), [label for _, label in rows]
    mean, spread = x.mean(axis=0), x.std(axis=0)
    model = LogisticRegression(C=1 / ridge, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    model.fit((x - mean) / spread, y)
    own = model.coef_[0] / spread
    return [float(model.intercept_[0] - own @ mean), *map(float, own)]


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_those_of_scikit_learn(seed: int, ridge: float) -> None:
    rows = drawn(seed, 300, [-1.0, 3.0, -0.5, 0.2])
    assert fitted(rows, ridge)[0] == pytest.approx(scikit(rows, ridge), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    "rows",
    [
        [([float(n)], float(n >= 20)) for n in range(40)],
        [([float(n % 7), n / 10], float(n == 3)) for n in range(200)],
        drawn(5, 400, [-2.0, 0.4, 0.1], tail=1.0),
    ],
    ids=["separable", "one positive", "heavy tail"],
)
def test_a_hard_fit_converges_to_the_same(rows: Rows) -> None:
    assert fitted(rows, 0.01)[0] == pytest.approx(scikit(rows, 0.01), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("start", [[-5.0, 20.0], [8.0, 0.0], [-30.0, 3.0]])
def test_a_step_that_goes_too_far_is_taken_in_part(start: Vector) -> None:
    rows = [([float(n)], float(n >= 20)) for n in range(40)]
    scale = scale_of(rows)

    def penalised(standard: Vector) -> Sums:
        return _penalised(
            lambda b: plain_sums(rows, b), scale, standard, [0.01] * (len(standard) - 1)
        )

    before = penalised(start)
    step = solve(before.information, before.gradient)
    whole = penalised([value + change for value, change in zip(start, step, strict=True)])
    assert whole.loss > 10 * before.loss
    _, after = _take_step(
        lambda b: plain_sums(rows, b), scale, [0.01] * (len(start) - 1), start, before, step
    )
    assert after.loss < before.loss


def test_coefficients_in_own_units_give_the_same_logits() -> None:
    rows = drawn(2, 20, [0.0, 1.0, 1.0])
    scale, standard = scale_of(rows), [0.5, -2.0, 3.0]
    for values, _ in rows:
        pairs = zip(values, scale.means[1:], scale.deviations[1:], strict=True)
        centred = [(value - mean) / deviation for value, mean, deviation in pairs]
        wanted = sum(b * x for b, x in zip(standard, [1.0, *centred], strict=True))
        found = sum(b * x for b, x in zip(scale.raw(standard), [1.0, *values], strict=True))
        assert found == pytest.approx(wanted)


def test_a_fit_takes_few_passes() -> None:
    rows, passes = drawn(1, 300, [-1.0, 3.0, -0.5, 0.2]), []

    def sums_at(b: Vector) -> Sums:
        passes.append(b)
        return plain_sums(rows, b)

    scores = plain_scores(rows, range(len(rows)), [0.0] * 4)
    fit_logistic(sums_at, lambda _: scores, scale_of(rows), [1.0] * 3)
    assert len(passes) <= 8


def test_the_ridge_alone_holds_back_features_that_say_the_same() -> None:
    rows = [([x[0], x[0] * 2], y) for x, y in drawn(7, 200, [0.0, 1.5])]
    (_, one, other), _ = fitted(rows)
    assert one == pytest.approx(2 * other, rel=1e-6)


def test_labels_may_be_shares() -> None:
    """Of a sample with each row twice, once with either label, the share is what is fitted."""
    shares = [([float(n)], share) for n, share in enumerate([0.2, 0.1, 0.5, 0.9, 0.7])]
    whole = [(x, float(place < share * 10)) for x, share in shares for place in range(10)]
    part, _ = fitted(shares, 0.1)
    assert part == pytest.approx(fitted(whole, 1.0)[0], rel=1e-6)


@pytest.mark.slow
def test_errors_say_how_far_weights_are_from_the_truth() -> None:
    truth = [-0.5, 1.0, -0.3]
    distances = []
    for seed in range(40):
        coefficients, errors = fitted(drawn(100 + seed, 250, truth), 1e-6)
        pairs = zip(coefficients[1:], truth[1:], errors, strict=True)
        distances += [(found - true) / error for found, true, error in pairs]
    mean_square = sum(each**2 for each in distances) / len(distances)
    assert 0.7 < mean_square < 1.4
    assert 0.88 < sum(abs(each) < 2 for each in distances) / len(distances) < 0.995


def test_errors_grow_where_rows_are_no_news() -> None:
    """Each row four times, in one group: as uncertain as once."""
    rows = drawn(3, 120, [0.0, 1.0, 0.5])
    four = [row for row in rows for _ in range(4)]
    scale, groups = scale_of(rows), [n // 4 for n in range(len(four))]
    found = fit_logistic(
        lambda b: plain_sums(four, b), lambda b: plain_scores(four, groups, b), scale, [4.0] * 2
    )
    assert found.errors == pytest.approx(fitted(rows)[1], rel=1e-6)


def test_equations_are_solved() -> None:
    chance = Random(1)  # noqa: S311
    root = [[chance.gauss(0, 1) for _ in range(6)] for _ in range(6)]
    matrix = [[sum(a * b for a, b in zip(one, two, strict=True)) for two in root] for one in root]
    wanted = [chance.gauss(0, 1) for _ in range(6)]
    vector = [sum(a * b for a, b in zip(row, wanted, strict=True)) for row in matrix]
    assert solve(matrix, vector) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("matrix", [[[0.0]], [[1.0, 2.0], [2.0, 1.0]], [[math.nan]]])
def test_what_has_no_solution_is_refused(matrix: Matrix) -> None:
    with pytest.raises(RecommenderError, match="not definite"):
        solve(matrix, [1.0] * len(matrix))


def test_a_fit_that_does_not_converge_says_so() -> None:
    with pytest.raises(RecommenderError, match="did not converge in 100 steps"):
        fit_logistic(
            lambda b: Sums(-b[0], [1.0], [[1.0]]), lambda _: [[1.0]], Scale([0.0], [1.0]), []
        )
