"""Learn the viewer bias: how much a viewer likes videos in general.

Weights from differences within a viewer order their pages, but their sum does not compare viewers.
So a second regression takes that sum as an offset and learns the viewer bias. Its features are the
viewer's earlier share of labels, and the mean of every signal so far, this page included (Mundlak,
"On the pooling of time series and cross section data", 1978). All of it is known when a page is
served. It is the same for the whole page, so it does not change the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import sqlalchemy as sa

from recommender.database.expressions import Number, Statement, is_true, number
from recommender.evaluation.logistic import fit_logistic
from recommender.training.impression_statements import COMMENT, share_logit
from recommender.training.impressions import ImpressionSample

INTERCEPT = "intercept"

OWN_SHARE = "own_share"
"""The name of a feature: the logit of the viewer's earlier share of labels, smoothed."""

SCORE = "score"
"""The name of a feature: the weighted sum of the signals."""

RIDGE_FACTOR = 100.0
"""The ridge penalty for the viewer bias, as a multiple of the penalty for signal weights. It is
larger because there are far fewer users than impressions. Of the factors from 1 to 300 it had the
least loss of AUC and log loss, with strong viewer bias and without any."""


@dataclass(frozen=True, slots=True)
class ViewerBias:
    """The coefficients of the viewer bias, and the quality of the probabilities with it.

    Attributes:
        coefficients: for the intercept, the viewer's share of labels, and the means of signals.
        held_out: the number of held-out impressions.
        auc: of their probabilities, all viewers together, 0 to 1; None if all labels are alike.
        log_loss: the mean loss of the same, in nats; None without any.
    """

    coefficients: Mapping[str, float]
    held_out: int
    auc: float | None
    log_loss: float | None


def fit_viewer_bias(
    sample: ImpressionSample, effects: Mapping[str, float], signals: Sequence[str], until: datetime
) -> ViewerBias:
    """Learn the viewer bias from the impressions before a time; the others are held out.

    Args:
        sample: with impressions before the time.
        effects: the coefficients of the weighted sum, positions included; they stay as they are.
        signals: the signals whose means are features.
        until: the time; labels at this time or later are not known.
    """
    totals = sample.totals(until)
    query = viewer_bias_query(sample, effects, signals, until, totals.labels / totals.impressions)
    features = (SCORE, OWN_SHARE, *signals)
    with ImpressionSample(
        sample.connection, features, sample.settings, "levels", SCORE
    ).opened() as levels:
        levels.add_from(query)
        names, scale = levels.scale(until)
        regression = fit_logistic(
            partial(levels.sums, names, until=until),
            partial(levels.scores, names, until=until),
            scale,
            [RIDGE_FACTOR * sample.settings.fit_ridge] * len(names),
        )
        coefficients = dict(zip((INTERCEPT, *names), regression.coefficients, strict=True))
        held_out, log_loss = levels.loss(names, regression.coefficients, until)
        weights = {name: coefficients[name] for name in names}
        quality = levels.quality({SCORE: 1.0, **weights}, until)
    return ViewerBias(coefficients, held_out, quality.auc, log_loss)


def viewer_bias_query(
    sample: ImpressionSample,
    effects: Mapping[str, float],
    signals: Sequence[str],
    until: datetime,
    mean: float,
) -> Statement:
    """Select impressions: user, time, label, score, earlier share of labels, means of signals.

    Args:
        sample: as for `fit_viewer_bias`.
        effects: the same.
        signals: the same.
        until: the same.
        mean: the mean label before the time, which smooths the shares of viewers.
    """
    table, prior = sample.table, sample.settings.fit_user_prior
    weighted = (number(effect) * sample.value(name) for name, effect in effects.items())
    score = sum(weighted, start=number(0))
    is_known = is_true(table.c.at < until)
    share = share_logit(
        _before(table, is_known * table.c.label), _before(table, is_known), mean, prior
    )
    means = (_until_then(table, sa.func.avg(sample.value(name))) for name in signals)
    columns = (table.c.user_id, table.c.at, table.c.label, score, share, *means)
    return sa.select(*columns).prefix_with(COMMENT)


def _before(table: sa.Table, value: Number) -> Number:
    """Return the sum over the viewer's impressions before the time of the row."""
    total = sa.func.sum(value)
    return _until_then(table, total) - total.over(partition_by=[table.c.user_id, table.c.at])


def _until_then(table: sa.Table, aggregate: sa.Function[float]) -> Number:
    """Return the aggregate over the viewer's impressions up to the time of the row, inclusive."""
    return aggregate.over(partition_by=table.c.user_id, order_by=table.c.at)
