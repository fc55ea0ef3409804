"""What ``experiments report`` prints of its results."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace
from typing import Any

import pytest

from recommender.cli.experiments import _print_results
from recommender.experiments.report import VariantResult
from recommender.experiments.verdict import Effect, Range, Verdict

SOME = Range(-0.1, 0.3)


def result(metric: str, sequence: Range | None, kind: Any) -> VariantResult:
    effect = Effect(0.4, 0.5, 0.1, sequence, sequence, 0.25, sequence, sequence)
    return VariantResult("old@1", metric, metric != "engaged", (9, 8), effect, Verdict(kind, 1), ())


def test_csv_has_a_row_for_each_result_whether_or_not_there_is_an_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = result("engaged", SOME, "go on"), result("reports", None, "not harmed")
    report: Any = SimpleNamespace(results=results, as_dict=dict)
    _print_results(report, "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows == [
        {
            "profile": "old@1", "metric": metric, "guardrail": guardrail, "control": "0.4",
            "variant": "0.5", "difference": "0.1", "low": low, "high": high, "verdict": verdict,
        }
        for metric, guardrail, low, high, verdict in (
            ("engaged", "False", "-0.1", "0.3", "go on"),
            ("reports", "True", "", "", "not harmed"),
        )
    ]  # fmt: skip
