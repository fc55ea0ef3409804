"""What `fit` says about a new version."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from recommender.cli.fit import _print_verdict
from recommender.evaluation.bootstrap import Interval


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Interval(0.02, 0.01, 0.03), ". It serves after: recommender profiles activate mine@2"),
        (Interval(0.02, 0.0, 0.04), ": it is not known to be better."),
        (None, ": it takes 30. Learn from a longer time."),
    ],
)
def test_only_a_version_that_is_better_by_its_interval_is_recommended(
    gain: Interval | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result: Any = SimpleNamespace(gain=gain, profile="mine@2", parent="for_you@1")
    _print_verdict(result, "GAUC", "12 users")
    assert capsys.readouterr().out.rpartition("for_you@1")[2] == f"{said}\n"
