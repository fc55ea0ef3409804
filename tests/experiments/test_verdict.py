"""Verdicts: what an interval says, in one of a few words."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from recommender.experiments.statistics import Comparison, ConfidenceSequence
from recommender.experiments.verdict import (
    Verdict,
    corrected,
    effect_of,
    guardrail_of,
    verdict_of,
)

SEQUENCE = ConfidenceSequence(0.05, 0.02)


def compared(relative: float, margin: float, control: float = 0.4) -> Comparison:
    """A comparison with a relative difference and a relative margin of the sequence."""
    variant = control + relative * abs(control)
    mean = abs(control + variant) / 2
    error = mean / math.sqrt(SEQUENCE.information_for(margin * abs(control) / mean))
    return Comparison(control, variant, error)


@pytest.mark.parametrize("control", [0.4, 9_000.0, -3.0])
@pytest.mark.parametrize(
    ("relative", "margin", "said"),
    [
        (0.05, 0.049, "better"),
        (0.05, 0.051, "go on"),
        (-0.05, 0.049, "worse"),
        (0.012, 0.011, "better"),
        (0.012, 0.013, "go on"),
        (0.005, 0.014, "no difference"),
        (-0.005, 0.014, "no difference"),
        (0.005, 0.016, "go on"),
        (-0.005, 0.016, "go on"),
        (0.0, 0.5, "go on"),
    ],
)
def test_the_interval_decides(relative: float, margin: float, said: str, control: float) -> None:
    found = compared(relative, margin, control)
    assert verdict_of(found, SEQUENCE, 1_000).kind == said
    other = {"better": "worse", "worse": "better"}.get(said, said)
    assert verdict_of(found, SEQUENCE, 1_000, fewer_is_better=True).kind == other
    for fewer in (False, True):
        is_harm = verdict_of(found, SEQUENCE, 0, fewer_is_better=fewer).kind == "worse"
        guardrail = guardrail_of(found, SEQUENCE, fewer_is_better=fewer)
        assert guardrail.kind == ("harmed" if is_harm else "not harmed")


def test_what_the_control_never_has_may_be_a_harm() -> None:
    found = Comparison(0.0, 0.06, 0.002)
    assert effect_of(found, SEQUENCE).relative_sequence is None
    assert guardrail_of(found, SEQUENCE, fewer_is_better=True).kind == "harmed"
    assert verdict_of(found, SEQUENCE, 1_000).kind == "better"
    assert verdict_of(found._replace(error=0.02), SEQUENCE, 1_000).kind == "go on"


@pytest.mark.parametrize(("relative", "margin"), [(0.03, 0.06), (0.004, 0.03), (0.011, 0.02)])
def test_with_that_many_more_users_there_is_a_verdict(relative: float, margin: float) -> None:
    found, users = compared(relative, margin), 20_000
    verdict = verdict_of(found, SEQUENCE, users)
    assert verdict.more_users is not None
    for factor, is_decided in ((0.9, False), (1.1, True)):
        later = found._replace(
            error=found.error / math.sqrt(1 + factor * verdict.more_users / users)
        )
        assert (verdict_of(later, SEQUENCE, users).kind != "go on") is is_decided


@pytest.mark.parametrize(
    "found",
    [Comparison(0.0, 0.0, 0.01), Comparison(0.4, 0.5, math.inf), Comparison(0, 0, math.inf)],
)
def test_what_cannot_be_said_yet_is_not_said(found: Comparison) -> None:
    verdict = verdict_of(found, SEQUENCE, 10)
    assert str(verdict) == "go on"
    assert guardrail_of(found, SEQUENCE, fewer_is_better=True).kind == "not harmed"
    assert json.loads(json.dumps(effect_of(found, SEQUENCE).as_dict()))["sequence"] is None


def test_an_effect_has_intervals_around_the_difference() -> None:
    effect = effect_of(compared(0.05, 0.1), SEQUENCE)
    assert effect.difference == pytest.approx(0.02)
    assert effect.relative == pytest.approx(0.05)
    assert effect.relative_sequence == pytest.approx((-0.05, 0.15))
    assert effect.sequence == pytest.approx((-0.02, 0.06))
    assert effect.plain is not None
    assert effect.relative_plain == pytest.approx([end / 0.4 for end in effect.plain])
    assert effect.sequence is not None
    assert effect.sequence.low < effect.plain.low < effect.plain.high < effect.sequence.high
    assert effect.as_dict()["plain"] == {"low": effect.plain.low, "high": effect.plain.high}


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict("better", 0.02), "better"),
        (Verdict("no difference", 0.02), "no difference beyond 2 %"),
        (Verdict("no difference", 0.015), "no difference beyond 1.5 %"),
        (Verdict("go on", 0.02, 12_000), "go on: about 12,000 more users"),
        (Verdict("go on", 0.02), "go on"),
    ],
)
def test_a_verdict_in_words(verdict: Verdict, text: str) -> None:
    assert str(verdict) == text
    assert verdict.as_dict()["text"] == text


@pytest.mark.parametrize(("tests", "alpha"), [(0, 0.05), (1, 0.05), (4, 0.0125)])
def test_several_tests_share_alpha(tests: int, alpha: float) -> None:
    assert corrected(0.05, tests) == alpha


def test_a_wider_sequence_for_several_tests() -> None:
    widths: list[Any] = []
    for tests in (1, 2, 10):
        sequence = ConfidenceSequence(corrected(0.05, tests), 0.02)
        widths.append(effect_of(compared(0.0, 0.02), sequence).sequence)
    assert widths[0].high < widths[1].high < widths[2].high
