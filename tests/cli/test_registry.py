"""A registry that the environment names: the commands find it, or refuse it in one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recommender import cli
from recommender.cli import COMMANDS
from tests.support.kinds import only_sqlite
from tests.support.worlds import EXAMPLE

VARIABLE = "RECOMMENDER_REGISTRY"

MODULES = {
    "shop_feed": "import sqlalchemy as sa\nfrom recommender import Registry, Signal\n"
    "registry = Registry([Signal('seven', 0, 9, lambda _: sa.literal(7.0))], name='shop')\n",
    "failing_feed": "raise ValueError('two\\nlines')\n",
    "exiting_feed": "import sys\nsys.exit('bye')\n",
    "wrong_feed": "from recommender import Registry\nregistry = Registry(['x'])\n",
}

REFUSED = {
    "no_such_feed:registry": "ModuleNotFoundError: No module named 'no_such_feed'",
    "failing_feed:registry": "ValueError: two lines",
    "exiting_feed:registry": "SystemExit: bye",
    "wrong_feed:registry": "registry: signals: 'x' is no Signal",
    "shop_feed:other": "AttributeError",
    "shop_feed": "is not of the form package.module:name",
}

WRITING = (
    "import users {example}/users.csv", "record u v like", "follow u c", "unfollow u c",
    "mute u keyword x", "unmute u keyword x", "block u c", "unblock u c", "dismiss u c",
    "user rename u w",
    "user merge u w", "user erase u", "user reset u", "video status v removed", "video erase v",
    "profiles create p --weight seven=1", "profiles activate p", "fit p", "feed u --record",
    "people u --record",
    "experiments start e --variant classic", "experiments stop e",
    "feeds create f", "feeds delete f", "digest --feed f --run r",
    "embeddings create s --dim 2", "embeddings index s", "embeddings drop s",
    "db upgrade", "db downgrade base", "refresh", "prune --sessions-older-than 30d",
)  # fmt: skip

READING = (
    "people u", "feed u", "rank u v", "similar v", "reach v",
    "explain u v", "export users out.csv", "user show u", "user export u",
    "slice u out.db",
    "profiles list", "profiles show for_you", "profiles diff classic for_you", "audit", "doctor",
    "experiments list", "experiments show e", "experiments report e", "report out.html",
    "feeds list", "feeds show f", "embeddings list", "metrics",
    "evaluate --cutoff 2026-01-01T00:00:00Z", "db current", "db history", "db check",
    "replay --profile p --since 2026-01-01T00:00:00Z",
)  # fmt: skip

MAKING = ("import users {example}/users.csv", "record u v like", "fit p", "db upgrade")
"""The commands that would make a database that is not there."""

OF_THEIR_OWN = {"bench", "demo"}
"""The commands that measure and show a synthetic world, by what this package has."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with modules that no other folder has."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@only_sqlite
def test_a_registry_is_found_in_the_working_folder(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", database)
    create = ["profiles", "create", "sevens", "--weight", "seven=2", "--format", "json"]
    assert (cli.run(create), str(folder) in sys.path) == (2, False)
    capsys.readouterr()
    monkeypatch.setenv(VARIABLE, "shop_feed:registry")
    assert (cli.run(create), sys.path[-1]) == (0, str(folder))
    assert json.loads(capsys.readouterr().out)["weights"] == {"seven": 2.0}


@only_sqlite
def test_a_registry_that_cannot_be_used_is_one_sentence_for_every_command_and_writes_nothing(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(database.removeprefix("sqlite:///"))
    before = (path.read_bytes(), sorted(folder.iterdir()))
    asked = [(line, database) for line in (*WRITING, *READING)]
    asked += [(line, "sqlite:///new.db") for line in MAKING]
    for number, (line, url) in enumerate(asked):
        written, message = [*REFUSED.items()][number % len(REFUSED)]
        monkeypatch.setenv(VARIABLE, written)
        monkeypatch.setenv("RECOMMENDER_DATABASE_URL", url)
        assert cli.run(line.format(example=EXAMPLE).split()) == 2, line
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1), line
        assert printed.err.startswith(f"Error: {VARIABLE}: "), line
        assert message in printed.err, line
    assert (path.read_bytes(), sorted(folder.iterdir())) == before


def test_no_command_is_left_out() -> None:
    named = {line.split()[0] for line in (*WRITING, *READING)}
    assert set(COMMANDS) - OF_THEIR_OWN == named


@pytest.mark.usefixtures("folder")
def test_help_and_the_version_import_no_registry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "failing_feed:registry")
    lines = ("--version", "--help", "feed --help", "profiles create --help", "db roles")
    assert [cli.run(line.split()) for line in lines] == [0] * len(lines)
    assert capsys.readouterr().err == ""
    assert "failing_feed" not in sys.modules
