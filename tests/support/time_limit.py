"""The processor time that a test may take."""

from __future__ import annotations

import os

import pytest

SECONDS = 20
"""The most processor time of a test without the marker `slow`, with the processes it starts.

Not the time on the clock: a test must not fail because the machine does something else meanwhile.
"""


def used_seconds() -> float:
    """Return the processor time of this process and of the ended processes that it started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def fail_if_too_long(report: pytest.TestReport, used: float, *, is_slow: bool) -> None:
    """Turn the report of a passed test that took too long into a failure.

    Args:
        report: the report of the test.
        used: the processor time of the test in seconds.
        is_slow: whether the test has the marker `slow`.
    """
    if is_slow or report.when != "call" or not report.passed or used <= SECONDS:
        return
    report.outcome = "failed"
    report.longrepr = (
        f"The test took {used:.1f} s of processor time, more than {SECONDS} s:"
        " make it shorter, or mark it with @pytest.mark.slow."
    )
