"""The tree of tests: it mirrors the package, and its modules do not depend on each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.support.prose import ROOT
from tests.support.readme import READMES
from tests.support.time_limit import SECONDS, fail_if_too_long

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "recommender"
MODULES = sorted(TESTS.rglob("*.py"))
OTHER_FOLDERS = {"scenarios", "hosts", "package", "support", "peers", "example"}
README = (TESTS / "README.md").read_text()

LONGEST_APPLICATION = 80
"""The lines of an example application: a reader takes it in at a glance."""


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the full names of the modules and attributes that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_module_imports_a_test_module() -> None:
    imports = {
        f"{path.relative_to(TESTS)} imports {name}"
        for path in MODULES
        for name in imported_modules(path)
        if re.match(r"tests\.(\w+\.)*test_", name)
    }
    assert imports == set()


def test_every_folder_mirrors_a_wing_or_has_a_known_purpose() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir()} - {"__pycache__"}
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == wings | OTHER_FOLDERS


def applications() -> dict[str, list[Path]]:
    """The files of each application in `tests/hosts`, which is a module or a folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted((TESTS / "hosts").rglob("*.py")):
        name = path.relative_to(TESTS / "hosts").parts[0].removesuffix(".py")
        if not name.startswith(("test_", "conftest", "__")):
            found.setdefault(name, []).append(path)
    return found


def test_an_application_is_short() -> None:
    lines = {
        name: sum(path.read_text().count("\n") for path in paths)
        for name, paths in applications().items()
    }
    assert {name: count for name, count in lines.items() if count > LONGEST_APPLICATION} == {}


def test_an_application_is_shown_and_tested() -> None:
    shown = {name for readme in READMES for name, _ in readme.file_blocks()}
    missing = {
        name
        for name, paths in applications().items()
        if not shown & {str(path.relative_to(ROOT)) for path in paths}
        or not (TESTS / "hosts" / f"test_{name}.py").exists()
    }
    assert missing == set()


def test_every_wing_has_tests() -> None:
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {wing for wing in wings if not list((TESTS / wing).glob("test_*.py"))} == set()


@pytest.mark.parametrize(
    ("seconds", "is_slow", "outcome"),
    [(SECONDS, False, "passed"), (SECONDS + 1, True, "passed"), (SECONDS + 1, False, "failed")],
)
def test_a_long_test_fails_unless_it_is_marked_slow(
    seconds: float, *, is_slow: bool, outcome: str
) -> None:
    report = report_of("call")
    fail_if_too_long(report, seconds, is_slow=is_slow)
    assert report.outcome == outcome
    assert report.passed or "mark it with @pytest.mark.slow" in str(report.longrepr)


def test_a_long_setup_is_no_failure() -> None:
    report = report_of("setup")
    fail_if_too_long(report, SECONDS + 1, is_slow=False)
    assert report.passed


def report_of(phase: Literal["setup", "call"]) -> pytest.TestReport:
    """Return the report of a phase that passed."""
    return pytest.TestReport("a_test", ("a_test.py", 1, "a_test"), {}, "passed", None, phase)


def test_the_readme_names_existing_files() -> None:
    paths = re.findall(r"`tests/([\w/.]+)`", README)
    assert [path for path in paths if not (TESTS / path).exists()] == []


def test_every_promise_names_an_existing_test() -> None:
    named = re.findall(r"`(\w+/test_\w+)::(test_\w+)`", README)
    assert len(named) > 60
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (TESTS / f"{path}.py").exists()
        or f"def {name}(" not in (TESTS / f"{path}.py").read_text()
    ]
    assert missing == []
