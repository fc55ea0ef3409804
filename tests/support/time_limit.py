"""The time that a test may take."""

from __future__ import annotations

import pytest

SECONDS = 20
"""The longest time of a test without the marker `slow`."""


def fail_if_too_long(report: pytest.TestReport, *, is_slow: bool) -> None:
    """Turn the report of a passed test that took too long into a failure."""
    if is_slow or report.when != "call" or not report.passed or report.duration <= SECONDS:
        return
    report.outcome = "failed"
    report.longrepr = (
        f"The test took {report.duration:.1f} s, more than {SECONDS} s:"
        " make it shorter, or mark it with @pytest.mark.slow."
    )
