"""The false alarms and the power of the confidence sequence, on simulated experiments."""

from __future__ import annotations

import numpy as np
import pytest

from recommender.experiments.statistics import ConfidenceSequence
from tests.support.simulated_experiments import (
    LEAST_EFFECTS,
    METRICS,
    SEED,
    days_found,
    high_end,
    plainly_found,
    simulate,
)


@pytest.mark.slow
def test_of_a_thousand_experiments_without_an_effect_few_raise_an_alarm_on_any_day() -> None:
    alike = simulate(1_000, 1_000, 28)
    for metric in METRICS:
        plain = plainly_found(alike, metric)
        assert plain.any(axis=0).mean() > 0.2, "the plain test is misled by looking each day"
        assert 0.03 < plain[-1].mean() < 0.08, "and is right at one look"
        for least_effect in LEAST_EFFECTS:
            days = days_found(alike, metric, ConfidenceSequence(0.05, least_effect))
            assert high_end(int(np.isfinite(days).sum()), len(days)) <= 0.065, (
                metric,
                least_effect,
            )


@pytest.mark.slow
def test_an_effect_is_found_later_than_planned_if_it_is_small_and_sooner_if_it_is_large() -> None:
    planned, least_effect = 28, 0.075
    found = {}
    for factor in (1, 2):
        differ = simulate(100, 2_000, 56, effect=factor * least_effect, seed=SEED + 1)
        assert plainly_found(differ, "share")[planned - 1].mean() > 0.7
        days = days_found(differ, "share", ConfidenceSequence(0.05, least_effect))
        found[factor] = np.quantile(days, 0.8, method="inverted_cdf")
    assert found[2] < 0.7 * planned < planned < found[1] < 2 * planned


def test_the_simulation_finds_an_effect() -> None:
    differ = simulate(20, 1_000, 10, effect=0.3)
    days = days_found(differ, "share", ConfidenceSequence(0.05, 0.1))
    assert (days <= 10).all()
    assert high_end(0, 1_000) == pytest.approx(0.003682, abs=1e-6)
    assert high_end(48, 1_000) == pytest.approx(0.063135, abs=1e-4)
