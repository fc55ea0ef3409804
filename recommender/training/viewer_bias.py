"""Learn the viewer bias: how much a viewer likes videos in general.

Weights from differences within a viewer order their pages, but their sum does not compare viewers.
So a second regression takes that sum as an offset and learns the viewer bias. Its features are the
viewer's earlier share of labels, and the mean of each signal so far, this page included (Mundlak,
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
"""The feature that is the logit of the viewer's share of labels before, smoothed."""

SCORE = "score"
"""The feature that is the weighted sum."""

RIDGE_FACTOR = 100.0
"""Of how many times the weights' ridge that of levels is: users, who tell them, are far fewer than
impressions. Of 1 to 300 it lost least AUC and log loss where levels say much, and where nothing."""


@dataclass(frozen=True, slots=True)
class ViewerBias:
    """What was learned of viewers' levels, and how good the probabilities are with them.

    Attributes:
        coefficients: of the intercept, the viewer's own share, and the means of signals.
        held_out: how many later impressions there are.
        auc: of their probabilities, all viewers together, 0 to 1; None where labels are alike.
        log_loss: their mean loss, in nats; None without any.
    """

    coefficients: Mapping[str, float]
    held_out: int
    auc: float | None
    log_loss: float | None


def fit_viewer_bias(
    sample: ImpressionSample, effects: Mapping[str, float], signals: Sequence[str], until: datetime
) -> ViewerBias:
    """Learn viewers' levels from a sample's impressions before a time; the others are held out.

    Args:
        sample: with impressions before the time.
        effects: what one unit of each feature adds to the logit, places and all; none is changed.
        signals: the features whose means are looked at.
        until: the time; labels from then on are not known.
    """
    totals = sample.totals(until)
    query = viewer_bias_query(sample, effects, signals, until, totals.labels / totals.impressions)
    features = (SCORE, OWN_SHARE, *signals)
    with ImpressionSample(
        sample.connection, features, sample.settings, "levels", SCORE
    ).opened() as levels:
        levels.add_from(query)
        names, scale = levels.scale(until)
        found = fit_logistic(
            partial(levels.sums, names, until=until),
            partial(levels.scores, names, until=until),
            scale,
            RIDGE_FACTOR * sample.settings.fit_ridge,
        )
        coefficients = dict(zip((INTERCEPT, *names), found.coefficients, strict=True))
        held_out, log_loss = levels.loss(names, found.coefficients, until)
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
    """Each impression as a row of levels: user, time, label, score, own share, means of signals.

    Args:
        sample: as for `fit_levels`.
        effects: the same.
        signals: the same.
        until: the same.
        mean: of the labels before the time, which every own share starts with.
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
    """The sum over the viewer's impressions before this one's time."""
    total = sa.func.sum(value)
    return _until_then(table, total) - total.over(partition_by=[table.c.user_id, table.c.at])


def _until_then(table: sa.Table, aggregate: sa.Function[float]) -> Number:
    """The aggregate over the viewer's impressions until this one's time, and all at that."""
    return aggregate.over(partition_by=table.c.user_id, order_by=table.c.at)
