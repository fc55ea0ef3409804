"""Every command does its work once, on both databases: the quick test of the whole command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recommender import cli
from recommender.benchmark.demo_world import LENGTH
from recommender.cli import COMMANDS
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import EXAMPLE

SINCE = (datetime.now(UTC) - LENGTH / 2).isoformat()

STEPS = (
    "db upgrade", "db check", "demo", "refresh", "import users {example}/users.csv",
    "export videos {folder}/videos.csv", "follow ana zoe.clay", "unfollow ana zoe.clay",
    "mute ana creator zoe.clay", "unmute ana creator zoe.clay", "record ana pottery-3 like",
    "feed ana --record", "rank ana pottery-3 makeup-14", "explain ana pottery-3",
    "profiles diff classic for_you --user ana", "profiles create mine --weight freshness=2",
    "profiles activate mine", "profiles list", "profiles show mine",
    "evaluate --cutoff {since} --sample 5", "fit learned --replay --since {since}",
    "replay --profile for_you --since {since}", "video status pottery-3 review",
    "video erase pottery-4", "audit",
    "refresh --rebuild", "doctor",
    "prune --sessions-older-than 30d", "user show ana", "user export ana", "user reset ana",
    "user erase ana",
)  # fmt: skip
"""One command line after another, on a world that `demo` makes."""

BENCH = "bench --videos 100 --clients 1 --pages 2 --seconds 0.1 --exact 0"


@pytest.fixture
def run(
    empty_database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Runs a command line, which must exit with 0; gives what it prints."""

    def run_one(line: str) -> str:
        words = line.format(example=EXAMPLE, folder=tmp_path, since=SINCE).split()
        code = cli.run([*words, "--database-url", empty_database])
        printed = capsys.readouterr()
        assert code == 0, f"{line}: {printed.err}"
        return printed.out

    return run_one


def test_every_command_does_its_work(run: Callable[[str], str], tmp_path: Path) -> None:
    printed = {line: run(line) for line in STEPS}
    assert (tmp_path / "videos.csv").read_text().count("\n") > 400
    assert json.loads(printed["feed ana --record"])["items"]
    assert json.loads(printed["profiles show mine"])["weights"] == {"freshness": 2.0}
    assert json.loads(printed["audit"])["broken"] == []


@slow_on_postgresql
def test_bench_makes_and_measures_a_small_world(run: Callable[[str], str]) -> None:
    found = json.loads(run(f"{BENCH} --format json"))
    assert found["videos"] == 100
    assert found["pages"][0]["profile"] == "for_you@1"


def test_no_command_is_left_out() -> None:
    assert {line.split()[0] for line in (*STEPS, BENCH)} == set(COMMANDS)
