from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "recommender"

LAYERS = (
    "errors", "logs", "fields", "columns", "settings", "values", "models", "learned", "served",
    "engine", "bulk", "planner", "constants", "arithmetic", "learning", "viewer", "filters",
    "signals", "sources", "scoring", "reference", "profiles", "catalog", "mutes",
    "interactions", "relearning", "counting", "rollups", "reasons", "pages", "memory", "resolving",
    "diversity", "feed", "timelines", "auditing", "pruning", "users",
    "personal", "erasing", "plans", "health",
    "synthetic", "simulation", "report",
    "reading", "ahead", "batches", "interchange", "export", "archive", "schema", "roles",
    "metrics", "quality", "replay", "scratch", "rankers", "evaluation",
    "regression", "samples", "levels", "outcomes", "fitting", "choices", "choosing", "comparing",
    "counterfactual", "hindsight", "tryout",
    "volume", "loading", "vectors", "benchmark",
    "cli",
)  # fmt: skip
"""Each module imports only from those before it."""


def imported(path: Path) -> set[str]:
    """The package's own modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "recommender":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recommender."):
            found.add(str(node.module).split(".")[1])
    return found


def test_every_module_has_its_layer() -> None:
    modules = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert modules - {"__init__", "__main__", "__pycache__", "py.typed", "_migrations"} == set(
        LAYERS
    )


def test_a_module_imports_only_from_the_layers_before_it() -> None:
    for path in PACKAGE.glob("*.py"):
        if not path.stem.startswith("__"):
            allowed = LAYERS[: LAYERS.index(path.stem)]
            assert imported(path) <= set(allowed), path.name


def test_only_the_command_line_imports_click_and_rich() -> None:
    importers = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(import|from) (click|rich)\b", path.read_text(), re.MULTILINE)
    }
    assert importers == {"cli"}


def test_only_settings_reads_the_environment() -> None:
    readers = {path.stem for path in PACKAGE.rglob("*.py") if "os.environ" in path.read_text()}
    assert readers == {"settings"}
