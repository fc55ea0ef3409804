"""Findings of checks, as `doctor` and `evaluate --checks` print them."""

from __future__ import annotations

from collections.abc import Sequence

from recommender.cli.output import print_table
from recommender.errors import RecommenderError
from recommender.formats.findings import Finding


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a table with a row for each check."""
    rows = [finding.as_dict() for finding in findings]
    print_table([{**row, "ok": "well" if row["ok"] else "not well"} for row in rows])


def fail_if_not_well(findings: Sequence[Finding]) -> None:
    """Raise `RecommenderError`, which exits with 1, if a check failed."""
    if failed := [finding.check for finding in findings if not finding.ok]:
        raise RecommenderError(f"not well: {', '.join(failed)}")
