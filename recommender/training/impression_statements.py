"""The SQL for the sums over impressions that a logistic regression and its metrics need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import (
    ColumnElement,
    Double,
    Subquery,
)

from recommender.database.expressions import (
    Number,
    Statement,
    exp2,
    fence,
    half_away,
    logarithm,
    number,
)
from recommender.evaluation.logistic import Vector
from recommender.models.types import UtcDateTime
from recommender.ranking.scoring import KEY_SCALE

if TYPE_CHECKING:
    from recommender.training.impressions import ImpressionSample

BITS = 1 / math.log(2)
"""The logarithm to base 2 of e."""


COMMENT = "/* recommender.fit */"


def judged_impressions(
    sample: ImpressionSample, names: Sequence[str], wanted: ColumnElement[bool]
) -> Subquery:
    """Each impression with its logit, probability and loss, and the features named."""
    centred = sample.centred(names, wanted)
    logit = (centred.c.own + _weighted(list(centred.c)[3:])).label("logit")
    one = fence(sa.select(*centred.c, logit)).subquery("logits")
    power = exp2(-sa.func.abs(one.c.logit) * number(BITS)).label("power")
    two = fence(sa.select(*one.c, power)).subquery("powers")
    is_likely = two.c.logit > number(0)
    probability = sa.case((is_likely, number(1)), else_=two.c.power) / (number(1) + two.c.power)
    above = sa.case((is_likely, two.c.logit), else_=number(0))
    loss = above + logarithm(number(1) + two.c.power) - two.c.label * two.c.logit
    columns = [column for column in two.c if column.key != "power"]
    judged = sa.select(*columns, probability.label("probability"), loss.label("loss"))
    return fence(judged).subquery("judged")


def share_logit(labels: Any, count: Any, mean: float, prior: float) -> Number:
    """The logit of a user's share of labels, which starts with some impressions of the mean."""
    share = (labels + number(prior * mean)) / (count + number(prior))
    return logarithm(share / (number(1) - share))


def bound(coefficients: Vector) -> dict[str, float]:
    """Coefficients as the values `b0`, `b1` and so on of a statement."""
    return {f"b{place}": value for place, value in enumerate(coefficients)}


def symmetric(upper: Sequence[float], size: int) -> list[list[float]]:
    """The matrix whose upper triangle is given row by row."""
    matrix = [[0.0] * size for _ in range(size)]
    places = combinations_with_replacement(range(size), 2)
    for (row, column), value in zip(places, upper, strict=True):
        matrix[row][column] = matrix[column][row] = value
    return matrix


def _weighted(features: Sequence[ColumnElement[float]]) -> Number:
    """The intercept and the weighted sum of features."""
    total: Any = sa.bindparam("b0", type_=Double())
    for place, feature in enumerate(features, start=1):
        total += sa.bindparam(f"b{place}", type_=Double()) * feature
    return total  # type: ignore[no-any-return] # a sum of doubles


def sums_query(sample: ImpressionSample, names: Sequence[str]) -> Statement:
    """One row: the loss, the gradient, and the upper triangle of the information."""
    judged = judged_impressions(
        sample, names, sample.table.c.at < sa.bindparam("until", type_=UtcDateTime())
    )
    features = [judged.c[f"x_{name}"] for name in names]
    weight = judged.c.probability * (number(1) - judged.c.probability)
    residual = (judged.c.label - judged.c.probability).label("residual")
    weighted = [(weight * each).label(f"w{place}") for place, each in enumerate(features, start=1)]
    about = sa.select(judged.c.loss, residual, weight.label("w0"), *features, *weighted)
    each = fence(about).subquery("weighted")
    values: list[Any] = [number(1), *(each.c[f"x_{name}"] for name in names)]
    weights = [each.c[f"w{place}"] for place in range(len(values))]
    pairs = combinations_with_replacement(range(len(values)), 2)
    return sa.select(
        sa.func.sum(each.c.loss),
        *(sa.func.sum(each.c.residual * value) for value in values),
        *(sa.func.sum(weights[j] * values[i]) for i, j in pairs),
    ).prefix_with(COMMENT)


def scores_query(sample: ImpressionSample, names: Sequence[str]) -> Statement:
    """One row: the upper triangle of the sum, over users, of their gradients' products."""
    judged = judged_impressions(
        sample, names, sample.table.c.at < sa.bindparam("until", type_=UtcDateTime())
    )
    residual = judged.c.label - judged.c.probability
    values: list[Any] = [number(1), *(judged.c[f"x_{name}"] for name in names)]
    own = [sa.func.sum(residual * each).label(f"g{place}") for place, each in enumerate(values)]
    users = fence(sa.select(*own).group_by(judged.c.user_id)).subquery("users")
    pairs = combinations_with_replacement(users.c, 2)
    sums = (sa.func.sum(one * other) for one, other in pairs)
    return sa.select(*sums).prefix_with(COMMENT)


def quality_query(sample: ImpressionSample, names: Sequence[str]) -> Statement:
    """One row: impressions, positives, pairs in order, the AUCs of users, and their weights.

    How often a positive is above a negative is the sum of the positives' ranks less what they have
    among themselves (Mann and Whitney, 1947); those that tie, in whole billionths as every feed is
    ordered by, share their ranks.
    """
    table = sample.table
    is_positive = sa.case((table.c.label > number(0), number(1)), else_=number(0))
    score = half_away(_weighted([sample.value(name) for name in names]) * number(KEY_SCALE)).label(
        "score"
    )
    scored = (
        sa.select(table.c.user_id, is_positive.label("positive"), score)
        .where(table.c.at >= sa.bindparam("since", type_=UtcDateTime()))
        .subquery("scored")
    )
    of_all, own = _rank(scored.c.score), _rank(scored.c.score, scored.c.user_id)
    ranked = sa.select(
        scored.c.user_id, scored.c.positive, of_all.label("of_all"), own.label("own")
    ).subquery("ranked")
    sums = (
        sa.func.sum(ranked.c.positive * ranked.c[name]).label(name) for name in ("of_all", "own")
    )
    users = (
        sa.select(
            sa.cast(sa.func.count(), Double).label("impressions"),
            sa.func.sum(ranked.c.positive).label("positives"),
            *sums,
        )
        .group_by(ranked.c.user_id)
        .subquery("users")
    )
    pairs = users.c.positives * (users.c.impressions - users.c.positives)
    above = users.c.own - _own_ranks(users.c.positives)
    weighed = sa.case((pairs > number(0), users.c.impressions), else_=number(0))
    total = sa.func.sum(users.c.positives)
    return sa.select(
        sa.func.coalesce(sa.func.sum(users.c.impressions), number(0)),
        total,
        sa.func.sum(users.c.of_all) - _own_ranks(total),
        sa.func.sum(weighed * above / sa.func.nullif(pairs, number(0))),
        sa.func.sum(weighed),
    ).prefix_with(COMMENT)


def _own_ranks(count: Any) -> Any:
    """The sum of the ranks 1, 2, 3 and so on."""
    return count * (count + number(1)) / number(2)


def _rank(value: Any, *among: Any) -> Any:
    """The rank of a value, the least 1; equals have the mean of theirs."""
    first = sa.func.rank().over(partition_by=among or None, order_by=value)
    equals = sa.func.count().over(partition_by=[*among, value])
    return sa.cast(first, Double) + (sa.cast(equals, Double) - number(1)) / number(2)
