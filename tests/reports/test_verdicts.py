"""The page of an experiment shows its verdicts, and the interval of each day."""

from __future__ import annotations

from datetime import timedelta
from html import unescape

from recommender.experiments.experiments import Experiment, ExperimentArm
from recommender.experiments.report import (
    DailyEffect,
    ExperimentReport,
    SampleRatio,
    VariantResult,
)
from recommender.experiments.verdict import Effect, Range, Verdict
from recommender.reports.verdicts import experiment_document
from tests.support.worlds import NOON

NONE = Effect(None, None, None, None, None, None, None, None)


def effect(relative: float, margin: float) -> Effect:
    ends = Range(relative - margin, relative + margin)
    return Effect(0.2, 0.2 * (1 + relative), 0.2 * relative, ends, ends, relative, ends, ends)


def made(*effects: Effect, p_value: float = 1.0) -> ExperimentReport:
    experiment = Experiment(
        name="warmer",
        feed=None,
        arms=(ExperimentArm("for_you@1", 0.5), ExperimentArm("<b>@2", 0.5)),
        interleaved=False,
        metric="engaged",
        guardrails=("reports",),
        least_effect=0.02,
        started_at=NOON,
        stopped_at=None,
        promoted=None,
        id=1,
    )
    days = tuple(
        DailyEffect(NOON + timedelta(days=day), (50 * day, 50 * day), each)
        for day, each in enumerate(effects, start=1)
    )
    users = (100, 101)
    results = (
        VariantResult("<b>@2", "engaged", False, users, effects[-1], Verdict("better", 0.02), days),  # noqa: FBT003
        VariantResult("<b>@2", "reports", True, users, NONE, Verdict("harmed", 0.02), ()),  # noqa: FBT003
    )
    ratio = SampleRatio(users, (0.5, 0.5), p_value)
    at = NOON + timedelta(days=len(effects))
    return ExperimentReport(experiment, at, len(effects), 0.05, "engaged", 201, 3, ratio, results)


def test_verdicts_and_intervals_are_shown() -> None:
    html = experiment_document(made(NONE, effect(0.05, 0.1), effect(0.04, 0.03))).html()
    text = unescape(html)
    assert "Experiment warmer: <b>@2: better; <b>@2 harms reports" in text
    assert "201 users over 3 days, by the metric engaged." in text
    assert "+1.0% to +7.0%" in text
    assert "at the end +4.0%, from +1.0% to +7.0%" in text
    assert html.count("<svg") == 1
    assert html.count('class="dot reactive') == 2
    assert "<b>" not in html


def test_too_few_users_and_a_wrong_ratio_are_said() -> None:
    html = experiment_document(made(NONE, p_value=0.0001)).html()
    assert "There are too few users for an interval yet." in html
    assert "The numbers of users do not fit the planned shares" in html
    assert "<svg" not in html
