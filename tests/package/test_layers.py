"""The wings, what each may import, and how large their parts may grow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "recommender"

GROUND = {"formats", "models", "database"}
MAY_IMPORT = {
    "formats": set(),
    "models": {"formats"},
    "database": {"formats", "models"},
    "learning": GROUND,
    "ingest": GROUND | {"learning"},
    "ranking": GROUND,
    "feed": GROUND | {"ranking", "learning"},
    "lists": GROUND | {"feed", "ranking", "learning"},
    "files": GROUND | {"ingest"},
    "operations": GROUND | {"lists", "feed", "ranking", "files", "ingest", "learning"},
    "monitoring": GROUND
    | {"operations", "lists", "feed", "ranking", "files", "ingest", "learning"},
    "slices": GROUND | {"lists", "feed", "ranking", "files"},
    "evaluation": GROUND | {"lists", "feed", "ranking", "files", "learning"},
    "experiments": GROUND | {"evaluation", "feed", "ranking", "learning"},
    "training": GROUND | {"evaluation", "ranking"},
    "reports": GROUND
    | {"experiments", "operations", "evaluation", "lists", "feed", "ranking", "learning"},
    "hosts": GROUND,
    "benchmark": GROUND | {"operations", "lists", "feed", "ranking", "ingest", "files", "learning"},
}  # fmt: skip
"""The wings that each wing may import beside itself. `cli` may import every wing."""

FOR_EVERYBODY = {"errors", "settings", "logs", "telemetry"}
"""The modules that stand beside the wings; they import one another only."""

FOR_HOSTS = "testing"
"""The module for the tests of hosts: it imports all wings but `cli`, and nothing imports it."""

LONGEST_MODULE = 400
MOST_MODULES = 20

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_migrations" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def wing_of(name: str) -> str:
    return name.partition(".")[0]


NAMES = {name_of(path): path for path in MODULES}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(path: Path, *, run: bool = False) -> Iterator[str]:
    """The package's own modules that a file imports; with `run` not those for annotations only."""
    tree = ast.parse(path.read_text())
    if run:
        tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and wing_of(node.module or "") == "recommender":
            module = str(node.module).partition(".")[2]
            for alias in node.names:
                name = f"{module}.{alias.name}".strip(".")
                yield name if name in NAMES else module


def test_every_module_is_in_a_wing_or_for_everybody() -> None:
    top = {wing_of(name) for name in NAMES} - {"", "__main__"}
    assert top == {*MAY_IMPORT, *FOR_EVERYBODY, "cli", FOR_HOSTS}


@pytest.mark.parametrize("wing", MAY_IMPORT)
def test_a_wing_imports_only_from_those_below_it(wing: str) -> None:
    allowed = MAY_IMPORT[wing] | FOR_EVERYBODY | {wing}
    against = {
        f"{name} -> {module}"
        for name, path in NAMES.items()
        if wing_of(name) == wing
        for module in imported(path)
        if wing_of(module) not in allowed
    }
    assert not against


def test_what_everybody_imports_knows_no_wing() -> None:
    known = {wing_of(module) for name in FOR_EVERYBODY for module in imported(NAMES[name])}
    assert known <= FOR_EVERYBODY


def test_nothing_imports_the_tests_of_hosts_and_they_print_nothing() -> None:
    importers = {name for name, path in NAMES.items() if FOR_HOSTS in set(imported(path))}
    assert importers == set()
    assert "cli" not in {wing_of(module) for module in imported(NAMES[FOR_HOSTS])}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: set(imported(path, run=True)) - {name} for name, path in NAMES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_command_line_imports_click_and_rich() -> None:
    importers = {
        wing_of(name)
        for name, path in NAMES.items()
        if re.search(r"^\s*(import|from) (click|rich)\b", path.read_text(), re.MULTILINE)
    }
    assert importers == {"cli"}


def test_the_ranking_builds_statements_and_only_profiles_runs_any() -> None:
    runners = {
        name
        for name, path in NAMES.items()
        if wing_of(name) == "ranking" and re.search(r"import .*\bSession\b", path.read_text())
    }
    assert runners == {"ranking.profiles"}


def test_only_settings_reads_the_environment() -> None:
    assert {name for name, path in NAMES.items() if "os.environ" in path.read_text()} == {
        "settings"
    }


def test_modules_and_wings_stay_small() -> None:
    lengths = {name: path.read_text().count("\n") for name, path in NAMES.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_MODULE} == {}
    sizes = {wing: sum(wing_of(name) == wing for name in NAMES) - 1 for wing in MAY_IMPORT}
    assert {wing: size for wing, size in sizes.items() if size > MOST_MODULES} == {}
