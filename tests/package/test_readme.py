"""The READMEs tell the truth: their commands and code are run, and what they print is compared."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields as fields_of
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

import recommender
from recommender import FILTERS, SIGNALS, SOURCES, Settings
from recommender.cli import COMMANDS
from recommender.formats import scalars
from recommender.formats.rows import EVENT_COLUMNS, FOLLOW_COLUMNS, USER_COLUMNS, VIDEO_COLUMNS
from recommender.ingest.mutes import KINDS as MUTED
from tests.support.prose import ROOT
from tests.support.readme import (
    EVERYTHING,
    READMES,
    TOP,
    Readme,
    is_excerpt,
    is_shown,
    prepare,
    readable,
    run,
    run_python,
)

RANKING = (ROOT / "recommender/ranking/README.md").read_text()
CLI = (ROOT / "recommender/cli/README.md").read_text()
PACKAGE = (ROOT / "recommender/README.md").read_text()

MARKED = [
    pytest.param(readme, id=readme.name, marks=[] if readme is TOP else [pytest.mark.slow])
    for readme in READMES
]
"""The READMEs; those of the wings are run with the slow tests."""


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    command, shown = TOP.steps()[0]
    assert command == "recommender demo"
    printed = run(command, tmp_path)
    assert is_shown(printed, shown), printed


@pytest.mark.parametrize("readme", MARKED)
def test_every_command_prints_what_its_readme_shows(readme: Readme, tmp_path: Path) -> None:
    prepare(tmp_path)
    for command, shown in readme.steps():
        if command != "recommender demo":
            printed = run(command, tmp_path)
            assert is_shown(printed, shown), f"$ {command}\n{printed}"


@pytest.mark.parametrize("readme", MARKED)
def test_every_python_block_prints_what_its_readme_shows(readme: Readme, tmp_path: Path) -> None:
    prepare(tmp_path)
    assert run_python(readme, tmp_path) == [shown for _, shown in readme.python_blocks()]


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_a_text_block_is_the_output_of_the_python_block_before_it(readme: Readme) -> None:
    shown = [text for language, text in readme.blocks if language == "text"]
    assert shown == [text for _, text in readme.python_blocks() if text]


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_a_block_that_names_a_file_shows_its_text(readme: Readme) -> None:
    changed = [
        name
        for name, shown in readme.file_blocks()
        if not is_excerpt((ROOT / name).read_text(), shown)
    ]
    assert changed == []


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_every_link_leads_to_a_file(readme: Readme) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme.text)
    assert [link for link in links if not (readme.path.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [("a\nb\n\nc \n", "a\nb\nc\n", True), ("a\nb\nc\n", "a\n…\nc\n", True),
     ("a\nc\n", "a\n…\nc\n", True), ("a\nb\nc\n", "a\n…\nd\n", False), ("a\nb\n", "a\n", False)],
)  # fmt: skip
def test_an_output_is_compared_but_for_what_is_left_out(
    printed: str,
    shown: str,
    same: bool,  # noqa: FBT001 - a parameter of the cases
) -> None:
    assert is_shown(printed, shown) is same
    assert readable(" \n") == ""


@pytest.mark.parametrize(
    ("shown", "same"),
    [("a\n\nb\nc\n", True), ("a\n…\nc\n", True), ("…\nc\n", True), ("a\n…\n", True),
     ("a\nb\nc\n", False), ("a\n\nb\n", False), ("a\n…\nd\n", False), ("a\n…\n…\nd\n", False)],
)  # fmt: skip
def test_a_file_is_compared_but_for_what_is_left_out(
    shown: str,
    same: bool,  # noqa: FBT001 - a parameter of the cases
) -> None:
    assert is_excerpt("a\n\nb\nc\n", shown) is same


def test_every_wing_has_a_readme() -> None:
    wings = {path.parent.name for path in (ROOT / "recommender").glob("*/__init__.py")}
    with_readme = {path.parent.name for path in (ROOT / "recommender").glob("*/README.md")}
    assert wings - with_readme == set()


def test_the_readmes_name_every_signal_filter_source_command_column_and_kind() -> None:
    for name in (*(named.name for named in (*SIGNALS, *FILTERS, *SOURCES)), *COMMANDS):
        assert f"`{name}" in RANKING + CLI, name
    for columns in (USER_COLUMNS, VIDEO_COLUMNS, FOLLOW_COLUMNS, EVENT_COLUMNS):
        listed = ", ".join(f"{name}{'*' * column.required}" for name, column in columns.items())
        assert f"| {listed} |" in EVERYTHING
    assert ", ".join(scalars.EVENT_KINDS) in EVERYTHING.replace("\n  ", " ").replace("\n", " ")
    assert "|".join(MUTED) in EVERYTHING.replace("\\|", "|")


def test_the_package_readme_names_everything_public() -> None:
    for name in recommender.__all__:
        assert re.search(rf"\b{name}\b", PACKAGE), name


def test_the_readme_gives_the_lowest_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    bounds = dict(re.findall(r"([\w\[\]]+)>=([\d.]+)", " ".join(project["dependencies"])))
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in TOP.text
    assert f"SQLAlchemy {bounds['sqlalchemy']} or newer" in TOP.text
    assert f"sqlalchemy[asyncio]>={bounds['sqlalchemy']}" in [
        name for extra in extras for name in extra
    ]


def test_the_readme_gives_the_weights_of_classic(session: Session) -> None:
    shown = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", RANKING, re.MULTILINE)
    classic = recommender.get_profile(session, "classic")
    assert {name: float(weight) for name, weight in shown} == classic.weights


def test_the_readme_gives_the_range_of_every_signal() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [\d.]* ?\| (\S+) (?:to|or) (\S+) \|", RANKING, re.MULTILINE)
    ranges = {name: (float(low), float(high.replace(",", ""))) for name, low, high in rows}
    assert ranges == {signal.name: (signal.low, signal.high) for signal in SIGNALS}


def test_the_readme_gives_the_quota_of_every_source() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\d+) \|$", RANKING, re.MULTILINE)
    assert {(source.name, str(source.quota)) for source in SOURCES} <= set(rows)


def test_the_readme_gives_every_setting_that_shapes_a_ranking() -> None:
    every = fields_of(Settings)
    names = [setting.name for setting in every]
    shaping = every[names.index("recent_engagements") : names.index("candidates") + 1]
    for setting in shaping:
        doc = setting.metadata["doc"].rstrip(".")
        assert f"| `{setting.name}` | {doc} | {setting.default:g} |" in RANKING, setting.name


def test_the_readme_gives_every_exit_code() -> None:
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", CLI, re.MULTILINE)
             for code in row.split(",")}  # fmt: skip
    errors = {getattr(recommender, name) for name in recommender.__all__}
    raised = {error.exit_code for error in errors if hasattr(error, "exit_code")}
    assert codes == raised | {0, 130, 143}


def test_the_two_commands_are_single_lines_on_the_first_screen() -> None:
    lines = [text for language, text in TOP.blocks if language == "sh"]
    assert [text.count("\n") for text in lines] == [1, 1]
    assert all(line in "\n".join(TOP.text.splitlines()[:30]) for line in map(str.strip, lines))
