"""The README's first command in a fresh checkout, and the wheel that it installs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from recommender.models.types import SCHEMA_REVISION
from tests.support.readme import TOP, is_shown

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
PARTS = ("recommender", "migrations", "alembic.ini", "pyproject.toml", "README.md")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the checkout in which the README's first command was run, and what it printed."""
    copy = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        if (CHECKOUT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "_migrations")
            shutil.copytree(CHECKOUT / part, copy / part, ignore=ignored)
        else:
            shutil.copy(CHECKOUT / part, copy / part)
    (command,) = [text for language, text in TOP.blocks if language == "sh" and " demo" in text]
    return copy, shell(command, copy)


def shell(command: str, folder: Path) -> str:
    hidden = ("RECOMMENDER_", "DATABASE_URL", "VIRTUAL_ENV", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"COLUMNS": "100", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(  # noqa: S602 - as a shell user
        command, shell=True, check=True, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return done.stdout


def test_the_readmes_first_command_prints_the_demo(installed: tuple[Path, str]) -> None:
    assert is_shown(installed[1], TOP.steps()[0][1])


def test_the_wheel_works_in_an_empty_folder(installed: tuple[Path, str], tmp_path: Path) -> None:
    program = installed[0] / ".venv" / "bin" / "recommender"
    shell(f"{program} db upgrade && {program} db check", tmp_path)
    assert shell(f"{program} db current", tmp_path) == f"{SCHEMA_REVISION}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["recommender.db"]
    assert (tmp_path / "recommender.db").stat().st_mode & 0o777 == 0o600


def test_an_installed_registry_is_found_from_the_command_line(
    installed: tuple[Path, str], tmp_path: Path
) -> None:
    scripts = installed[0] / ".venv" / "bin"
    shell(f"{scripts}/pip install --quiet {CHECKOUT}/tests/hosts/shop", tmp_path)
    shell(f"{scripts}/recommender demo", tmp_path)
    shop = "RECOMMENDER_DATABASE_URL=sqlite:///demo.db RECOMMENDER_REGISTRY=shop.feed:registry"
    shell(f"{shop} {scripts}/python -m shop", tmp_path)
    command = f"{shop} {scripts}/recommender"
    shell(f"{command} profiles create local --weight local=1 --weight freshness=.2", tmp_path)
    page = json.loads(shell(f"{command} feed ana --profile local --explain --limit 3", tmp_path))
    assert {item["reason"] for item in page["items"]} == {
        "Because it was made in your town and it is new."
    }


def test_the_wheel_carries_the_migrations_and_types_and_nothing_else(
    installed: tuple[Path, str],
) -> None:
    (site,) = (installed[0] / ".venv" / "lib").glob("python*/site-packages")
    carried = {
        str(path.relative_to(site / "recommender"))
        for path in (site / "recommender").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    package = CHECKOUT / "recommender"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    migrations = {
        str(Path("_migrations") / path.relative_to(CHECKOUT / "migrations"))
        for path in (CHECKOUT / "migrations").rglob("*.py")
    }
    assert carried == modules | migrations | {
        "_migrations/script.py.mako",
        "__init__.pyi",
        "py.typed",
        "reports/templates/page.html",
        "reports/templates/style.css",
    }
    assert {
        path.name for path in site.iterdir() if path.name.startswith(("tests", "migr"))
    } == set()
