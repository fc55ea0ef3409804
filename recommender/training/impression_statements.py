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
"""The comment of every statement, which names it in the logs of the database."""


def judged_impressions(
    sample: ImpressionSample, names: Sequence[str], condition: ColumnElement[bool]
) -> Subquery:
    """Select impressions with the named features, logit, probability and loss."""
    centred = sample.centred(names, condition)
    logit = (centred.c.own + _weighted(list(centred.c)[3:])).label("logit")
    logits = fence(sa.select(*centred.c, logit)).subquery("logits")
    # exp(-|logit|) cannot overflow, whatever the sign of the logit.
    power = exp2(-sa.func.abs(logits.c.logit) * number(BITS)).label("power")
    powers = fence(sa.select(*logits.c, power)).subquery("powers")
    row = powers.c
    is_likely = row.logit > number(0)
    probability = sa.case((is_likely, number(1)), else_=row.power) / (number(1) + row.power)
    above = sa.case((is_likely, row.logit), else_=number(0))
    loss = above + logarithm(number(1) + row.power) - row.label * row.logit
    columns = [column for column in row if column.key != "power"]
    judged = sa.select(*columns, probability.label("probability"), loss.label("loss"))
    return fence(judged).subquery("judged")


def share_logit(labels: Any, count: Any, mean: float, prior: float) -> Number:
    """Return the logit of a user's share of labels, smoothed by `prior` impressions of the mean."""
    share = (labels + number(prior * mean)) / (count + number(prior))
    return logarithm(share / (number(1) - share))


def bound(coefficients: Vector, prefix: str = "b") -> dict[str, float]:
    """Return coefficients as the parameters `b0`, `b1` and so on of a statement."""
    return {f"{prefix}{place}": value for place, value in enumerate(coefficients)}


def symmetric(upper: Sequence[float], size: int) -> list[list[float]]:
    """Return the symmetric matrix with an upper triangle, given row by row."""
    matrix = [[0.0] * size for _ in range(size)]
    places = combinations_with_replacement(range(size), 2)
    for (row, column), value in zip(places, upper, strict=True):
        matrix[row][column] = matrix[column][row] = value
    return matrix


def _weighted(features: Sequence[ColumnElement[float]], prefix: str = "b") -> Number:
    """Return the intercept plus the weighted sum of features."""
    total: Any = sa.bindparam(f"{prefix}0", type_=Double())
    for place, feature in enumerate(features, start=1):
        total += sa.bindparam(f"{prefix}{place}", type_=Double()) * feature
    return total  # type: ignore[no-any-return] # a sum of doubles


def sums_query(sample: ImpressionSample, names: Sequence[str]) -> Statement:
    """Select one row: the loss, the gradient, and the upper triangle of the information."""
    judged = judged_impressions(
        sample, names, sample.table.c.at < sa.bindparam("until", type_=UtcDateTime())
    )
    features = [judged.c[f"x_{name}"] for name in names]
    weight = judged.c.probability * (number(1) - judged.c.probability)
    residual = (judged.c.label - judged.c.probability).label("residual")
    products = [
        (weight * feature).label(f"w{place}") for place, feature in enumerate(features, start=1)
    ]
    rows = sa.select(judged.c.loss, residual, weight.label("w0"), *features, *products)
    weighted = fence(rows).subquery("weighted")
    values: list[Any] = [number(1), *(weighted.c[f"x_{name}"] for name in names)]
    weights = [weighted.c[f"w{place}"] for place in range(len(values))]
    pairs = combinations_with_replacement(range(len(values)), 2)
    return sa.select(
        sa.func.sum(weighted.c.loss),
        *(sa.func.sum(weighted.c.residual * value) for value in values),
        *(sa.func.sum(weights[j] * values[i]) for i, j in pairs),
    ).prefix_with(COMMENT)


def scores_query(sample: ImpressionSample, names: Sequence[str]) -> Statement:
    """Select one row: the upper triangle of Σ g · gᵀ over users, g being their gradient."""
    judged = judged_impressions(
        sample, names, sample.table.c.at < sa.bindparam("until", type_=UtcDateTime())
    )
    residual = judged.c.label - judged.c.probability
    values: list[Any] = [number(1), *(judged.c[f"x_{name}"] for name in names)]
    own = [sa.func.sum(residual * value).label(f"g{place}") for place, value in enumerate(values)]
    users = fence(sa.select(*own).group_by(judged.c.user_id)).subquery("users")
    pairs = combinations_with_replacement(users.c, 2)
    sums = (sa.func.sum(one * other) for one, other in pairs)
    return sa.select(*sums).prefix_with(COMMENT)


def quality_query(sample: ImpressionSample, names: Sequence[str]) -> Statement:
    """Select one row: impressions, positives, ordered pairs, weighted AUCs and weights of users."""
    users = _ranked_users(sample, names, "b")
    pairs, weighed = _pairs(users), _weight(users)
    total = sa.func.sum(users.c.positives)
    return sa.select(
        sa.func.coalesce(sa.func.sum(users.c.impressions), number(0)),
        total,
        sa.func.sum(users.c.of_all) - _own_ranks(total),
        sa.func.sum(weighed * _above(users) / sa.func.nullif(pairs, number(0))),
        sa.func.sum(weighed),
    ).prefix_with(COMMENT)


def gain_query(sample: ImpressionSample, names: Sequence[str]) -> Statement:
    """Select one row of sums over users with both outcomes, for the gain of one sum over another.

    A user's gain d is the AUC by the parameters `b0`, `b1` and so on, less the AUC by `c0`, `c1`
    and so on. Its weight w is the number of impressions. The sums are of 1, w, w · d, w², w² · d
    and w² · d².
    """
    new, old = _ranked_users(sample, names, "b"), _ranked_users(sample, names, "c")
    gain = ((_above(new) - _above(old)) / _pairs(new)).label("gain")
    rows = (
        sa.select(gain, new.c.impressions.label("weight"))
        .join(old, old.c.user_id == new.c.user_id)
        .where(_pairs(new) > number(0))
    )
    users = fence(rows).subquery("gains")
    gain, weight = users.c.gain, users.c.weight
    squared = weight * weight
    terms = (weight, weight * gain, squared, squared * gain, squared * gain * gain)
    sums = (sa.func.coalesce(sa.func.sum(term), number(0)) for term in terms)
    return sa.select(sa.func.count(), *sums).prefix_with(COMMENT)


def _ranked_users(sample: ImpressionSample, names: Sequence[str], prefix: str) -> Subquery:
    """Select users with impressions, positives, and the sums of the positives' ranks.

    The number of pairs with the positive above the negative is the rank sum of the positives, less
    their ranks among themselves (Mann and Whitney, 1947). Equal scores share their mean rank.
    Scores are compared in whole billionths, as in every feed.
    """
    table = sample.table
    is_positive = sa.case((table.c.label > number(0), number(1)), else_=number(0))
    weighted = _weighted([sample.value(name) for name in names], prefix)
    score = half_away(weighted * number(KEY_SCALE)).label("score")
    scored = (
        sa.select(table.c.user_id, is_positive.label("positive"), score)
        .where(table.c.at >= sa.bindparam("since", type_=UtcDateTime()))
        .subquery(f"scored_{prefix}")
    )
    of_all, own = _rank(scored.c.score), _rank(scored.c.score, scored.c.user_id)
    ranked = sa.select(
        scored.c.user_id, scored.c.positive, of_all.label("of_all"), own.label("own")
    ).subquery(f"ranked_{prefix}")
    sums = (
        sa.func.sum(ranked.c.positive * ranked.c[name]).label(name) for name in ("of_all", "own")
    )
    return (
        sa.select(
            ranked.c.user_id,
            sa.cast(sa.func.count(), Double).label("impressions"),
            sa.func.sum(ranked.c.positive).label("positives"),
            *sums,
        )
        .group_by(ranked.c.user_id)
        .subquery(f"users_{prefix}")
    )


def _pairs(users: Subquery) -> Any:
    """Return the number of pairs of a positive and a negative."""
    return users.c.positives * (users.c.impressions - users.c.positives)


def _above(users: Subquery) -> Any:
    """Return the number of pairs with the positive above the negative."""
    return users.c.own - _own_ranks(users.c.positives)


def _weight(users: Subquery) -> Any:
    """Return the weight of a user's AUC: the impressions, 0 without both outcomes."""
    return sa.case((_pairs(users) > number(0), users.c.impressions), else_=number(0))


def _own_ranks(count: Any) -> Any:
    """Return the sum of the ranks 1 to `count`."""
    return count * (count + number(1)) / number(2)


def _rank(value: Any, *among: Any) -> Any:
    """Return the ascending rank of a value, from 1; equal values have their mean rank."""
    first = sa.func.rank().over(partition_by=among or None, order_by=value)
    equals = sa.func.count().over(partition_by=[*among, value])
    return sa.cast(first, Double) + (sa.cast(equals, Double) - number(1)) / number(2)
