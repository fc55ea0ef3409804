"""The README tells the truth: its commands and code are run, and what they print is compared."""

from __future__ import annotations

import re
from dataclasses import fields as fields_of
from pathlib import Path

import recommender
from recommender import FILTERS, SIGNALS, SOURCES, Settings
from recommender.cli import COMMANDS
from recommender.formats import scalars
from recommender.formats.rows import EVENT_COLUMNS, FOLLOW_COLUMNS, USER_COLUMNS, VIDEO_COLUMNS
from recommender.ingest.mutes import KINDS as MUTED
from tests.support.readme import (
    BLOCKS,
    README,
    prepare,
    python_blocks,
    readable,
    run,
    run_python,
    steps,
)


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    command, printed = steps()[0]
    assert command == "recommender demo"
    assert readable(run(command, tmp_path)) == readable(printed)


def test_every_other_command_prints_what_the_readme_shows(tmp_path: Path) -> None:
    prepare(tmp_path)
    assert len(steps()) >= 15
    for command, printed in steps()[1:]:
        assert readable(run(command, tmp_path)) == readable(printed), command


def test_every_python_block_prints_what_the_readme_shows(tmp_path: Path) -> None:
    prepare(tmp_path)
    assert len(python_blocks()) >= 6
    assert run_python(tmp_path) == [text for _, text in python_blocks()]


def test_what_is_no_output_of_a_python_block_is_no_text_block() -> None:
    shown = [text for language, text in BLOCKS if language == "text"]
    assert shown == [text for _, text in python_blocks() if text]


def test_the_readme_names_every_signal_filter_source_command_column_and_kind() -> None:
    for name in (*(each.name for each in (*SIGNALS, *FILTERS, *SOURCES)), *COMMANDS):
        assert f"`{name}" in README, name
    for columns in (USER_COLUMNS, VIDEO_COLUMNS, FOLLOW_COLUMNS,
                    EVENT_COLUMNS):  # fmt: skip
        listed = ", ".join(f"{name}{'*' * column.required}" for name, column in columns.items())
        assert f"| {listed} |" in README
    assert ", ".join(scalars.KINDS) in README.replace("\n  ", " ")
    assert "|".join(MUTED) in README.replace("\\|", "|")


def test_the_readme_names_everything_public() -> None:
    for name in recommender.__all__:
        assert re.search(rf"\b{name}\b", README), name


def test_the_readme_gives_the_weights_of_classic(session: recommender.engine.Session) -> None:
    shown = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", README, re.MULTILINE)
    classic = recommender.get_profile(session, "classic")
    assert {name: float(weight) for name, weight in shown} == classic.weights


def test_the_readme_gives_the_range_of_every_signal() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [\d.]* ?\| (\S+) (?:to|or) (\S+) \|", README, re.MULTILINE)
    ranges = {name: (float(low), float(high.replace(",", ""))) for name, low, high in rows}
    assert ranges == {each.name: (each.low, each.high) for each in SIGNALS}


def test_the_readme_gives_the_quota_of_every_source() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\d+) \|$", README, re.MULTILINE)
    assert {(each.name, str(each.quota)) for each in SOURCES} <= set(rows)


def test_the_readme_gives_every_setting_that_shapes_a_ranking() -> None:
    every = fields_of(Settings)
    names = [setting.name for setting in every]
    shaping = every[names.index("recent_engagements") : names.index("common_term") + 1]
    for each in shaping:
        doc = each.metadata["doc"].rstrip(".")
        assert f"| `{each.name}` | {doc} | {each.default:g} |" in README, each.name
        assert each.metadata["names"] == (f"RECOMMENDER_{each.name.upper()}",)


def test_the_readme_gives_every_exit_code() -> None:
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE)
             for code in row.split(",")}  # fmt: skip
    errors = {getattr(recommender, name) for name in recommender.__all__}
    raised = {each.exit_code for each in errors if hasattr(each, "exit_code")}
    assert codes == raised | {0, 130, 143}


def test_every_test_that_the_readme_names_is_there() -> None:
    named = re.findall(r"^\| .+ \| `(\w+)::(test_\w+)` \| .+ \|$", README, re.MULTILINE)
    assert len(named) == len(set(named)) == README.count("::test_") > 50
    for module, name in named:
        source = Path(__file__).with_name(f"test_{module}.py").read_text()
        assert f"\ndef {name}(" in source, (module, name)


def test_the_two_commands_are_single_lines() -> None:
    lines = [text for language, text in BLOCKS if language == "sh"]
    assert [text.count("\n") for text in lines] == [1, 1]
