"""A report and other results, as HTML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recommender.evaluation.evaluate import Evaluation
from recommender.experiments.report import ExperimentReport
from recommender.formats.findings import Finding
from recommender.reports.parts import require_extra
from recommender.reports.values import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Figures):
    """The figures of a time, which `html` shows."""

    def html(self) -> str:
        """Return the report as one HTML file, with shortened keys of users and videos.

        Raises:
            RecommenderError: the extra `report` is not installed.
        """
        require_extra()
        from recommender.reports.overview import document  # noqa: PLC0415 - needs the extra

        return document(self).html()


def evaluation_html(result: Evaluation, findings: Sequence[Finding] = ()) -> str:
    """Return an evaluation, and the findings of its checks, as one HTML file.

    Raises:
        RecommenderError: the extra `report` is not installed.
    """
    require_extra()
    from recommender.reports.evaluations import evaluation_document  # noqa: PLC0415 - the extra

    return evaluation_document(result, findings).html()


def benchmark_html(result: Mapping[str, Any]) -> str:
    """Return a benchmark as one HTML file; `result` is what `bench --format json` prints.

    Raises:
        RecommenderError: the extra `report` is not installed.
    """
    require_extra()
    from recommender.reports.benchmarks import benchmark_document  # noqa: PLC0415 - the extra

    return benchmark_document(result).html()


def experiment_html(result: ExperimentReport) -> str:
    """Return the report of an experiment as one HTML file.

    Raises:
        RecommenderError: the extra `report` is not installed.
    """
    require_extra()
    from recommender.reports.verdicts import experiment_document  # noqa: PLC0415 - the extra

    return experiment_document(result).html()
