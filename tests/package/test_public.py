"""What the package promises to those who import it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import recommender

PACKAGE = Path(recommender.__file__).parent
FUNCTIONS = [name for name in recommender.__all__ if inspect.isfunction(getattr(recommender, name))]
CANNOT_FAIL: set[str] = set()
CLASSES = [name for name in recommender.__all__ if inspect.isclass(getattr(recommender, name))]


def for_type_checkers() -> set[str]:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or "" for node in imports for alias in node.names}


def test_type_checkers_and_callers_see_the_same_names() -> None:
    assert for_type_checkers() == set(recommender.__all__) == set(dir(recommender))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="attribute nothing"):
        recommender.nothing  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_documents_its_parameters_results_and_errors(name: str) -> None:
    function = getattr(recommender, name)
    said = inspect.getdoc(function) or ""
    parameters = inspect.signature(function).parameters
    for parameter in parameters:
        assert f"{parameter}: " in said, parameter
    assert "Raises:" in said or name in CANNOT_FAIL


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_documented(name: str) -> None:
    assert len((inspect.getdoc(getattr(recommender, name)) or "").split()) >= 4


@pytest.mark.parametrize("name", [n for n in CLASSES if n.startswith("Unknown") or "Error" in n])
def test_an_error_has_a_message_of_its_own(name: str) -> None:
    error = getattr(recommender, name)
    assert str(error()) == (error.__doc__ or "").strip()


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_the_command_line_imports_nothing_slow() -> None:
    slow = "{'sqlalchemy', 'alembic', 'rich', 'psycopg'}"
    code = f"import sys, recommender.cli; print(sorted({slow} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_importing_the_package_makes_no_engine_and_needs_no_environment() -> None:
    names = " and ".join(f"recommender.{name}" for name in recommender.__all__)
    code = f"import recommender, gc, sqlalchemy; {names};"
    code += "print(sum(isinstance(o, sqlalchemy.Engine) for o in gc.get_objects()))"
    assert run_python(code) == "0"
