"""The Django application, tested by Django's test runner in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.prose import ROOT

pytestmark = pytest.mark.slow
pytest.importorskip("django", reason="needs the extra hosts")

CASES = 16


def test_the_cases_pass(empty_database: str) -> None:
    variables = {
        "DATABASE_URL": empty_database,
        "DJANGO_SETTINGS_MODULE": "tests.hosts.test_django.settings",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "error", "-m", "django", "test", "--noinput",
               "--pattern", "cases.py", "tests.hosts.test_django"]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, f"Ran {CASES} tests" in done.stderr) == (0, True), done.stderr
