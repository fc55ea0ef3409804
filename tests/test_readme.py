"""The README tells the truth: its commands and code are run, and what they print is compared."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import recommender
from recommender import FILTERS, SIGNALS, fields
from recommender.cli import COMMANDS
from tests.worlds import EXAMPLE

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LATE = (
    '{"id": "a", "user": "user1", "video": "v1", "kind": "like", "at": "2026-01-01T00:00:00Z"}\n'
    '{"id": "b", "user": "user1", "video": "v1", "kind": "watch", "at": "2026-01-01T00:00:00Z",'
    ' "completion": 1.5}\n'
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's files, and the database that they are imported into, as the working folder."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "late.jsonl").write_text(LATE)
    monkeypatch.chdir(tmp_path)
    for kind in ("users", "videos", "follows", "events"):
        run(f"recommender import {kind} {kind}.csv")


def run(command: str) -> str:
    """What a command prints, on both streams, without what a terminal does not show."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"COLUMNS": "100", "PYTHONWARNINGS": "error"}
    done = subprocess.run(  # noqa: S602 - as a shell user
        command, shell=True, check=False, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return readable(done.stdout)


def readable(printed: str) -> str:
    lines = (line.rstrip().rstrip("─ ") for line in printed.splitlines())
    return "\n".join(line for line in lines if line)


def steps() -> list[tuple[str, str]]:
    """Each command that the README shows, and what it shows that the command prints."""
    sessions = [text for language, text in BLOCKS if language == "console"]
    parts = [part for text in sessions for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    return [(command, printed) for command, _, printed in (part.partition("\n") for part in parts)]


def test_the_demo_prints_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command, printed = steps()[0]
    assert command == "recommender demo"
    assert run(command) == readable(printed)


@pytest.mark.usefixtures("folder")
def test_every_other_command_prints_what_the_readme_shows() -> None:
    assert len(steps()) >= 10
    for command, printed in steps()[1:]:
        assert run(command) == readable(printed), command


@pytest.mark.usefixtures("folder")
def test_every_python_block_runs() -> None:
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for language, text in BLOCKS:
            if language == "python":
                exec(text, names)  # noqa: S102 - the README's own code
    for bind in ("engine", "host_engine"):
        names[bind].dispose()  # type: ignore[attr-defined]
    shown = [text for language, text in BLOCKS if language == "text"]
    lines = printed.getvalue().splitlines(keepends=True)
    assert lines[: len(shown)] == shown
    assert lines[len(shown) :] == ["[(1, 1450000000, 0.95), (2, 800000000, 0.75)]\n"]


def test_the_readme_names_every_signal_filter_command_column_and_kind() -> None:
    for name in (*(each.name for each in (*SIGNALS, *FILTERS)), *COMMANDS):
        assert f"`{name}" in README, name
    for columns in (fields.USER_COLUMNS, fields.VIDEO_COLUMNS, fields.FOLLOW_COLUMNS,
                    fields.EVENT_COLUMNS):  # fmt: skip
        listed = ", ".join(f"{name}{'*' * column.required}" for name, column in columns.items())
        assert f"| {listed} |" in README
    assert ", ".join(fields.KINDS) in README.replace("\n  ", " ")


def test_the_readme_gives_the_weights_of_classic(session: recommender.engine.Session) -> None:
    shown = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", README, re.MULTILINE)
    classic = recommender.get_profile(session, "classic")
    assert {name: float(weight) for name, weight in shown} == classic.weights


def test_the_readme_gives_every_exit_code() -> None:
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE)
             for code in row.split(",")}  # fmt: skip
    errors = {getattr(recommender, name) for name in recommender.__all__}
    raised = {each.exit_code for each in errors if hasattr(each, "exit_code")}
    assert codes == raised | {0, 130, 143}


def test_the_two_commands_are_single_lines() -> None:
    lines = [text for language, text in BLOCKS if language == "sh"]
    assert [text.count("\n") for text in lines] == [1, 1]
