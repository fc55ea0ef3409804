"""The READMEs' commands and code, run as a reader would.

``python -m tests.readme`` writes what they print into the READMEs; the tests compare it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

from sqlalchemy import Engine

from recommender import create_engine
from recommender.benchmark import demo_world
from recommender.database import migrations
from tests.scenarios.simulation import seeded_sessions
from tests.support.prose import ROOT, readmes
from tests.support.public_files import write_public_files
from tests.support.simulated_viewers import ForYou, Simulation, simulate
from tests.support.worlds import EXAMPLE

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_BLOCK = re.compile(r"^```python (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^\$ ", re.MULTILINE)
LATE = (
    '{"id": "a", "user": "user1", "video": "v1", "kind": "like", "at": "2026-01-01T00:00:00Z"}\n'
    '{"id": "b", "user": "user1", "video": "v1", "kind": "watch", "at": "2026-01-01T00:00:00Z",'
    ' "completion": 1.5}\n'
)
SIMULATION = Simulation(viewer_count=24, video_count=200, new_each_day=40, days=2)


@dataclass(frozen=True)
class Readme:
    """One README and its blocks."""

    path: Path

    @property
    def name(self) -> str:
        """The path from the checkout, such as `recommender/feed/README.md`."""
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        """The whole file."""
        return self.path.read_text()

    @cached_property
    def blocks(self) -> list[tuple[str, str]]:
        """The fenced blocks: language and text."""
        return BLOCK.findall(self.text)

    def steps(self) -> list[tuple[str, str]]:
        """The commands of the console blocks, each with the output that is shown."""
        return [step for language, text in self.blocks if language == "console"
                for step in commands(text)]  # fmt: skip

    def python_blocks(self) -> list[tuple[str, str]]:
        """The Python blocks, each with the text block right after it, which is its output."""
        pairs = pairwise([*self.blocks, ("", "")])
        return [
            (code, text if after == "text" else "")
            for (language, code), (after, text) in pairs
            if language == "python"
        ]

    def file_blocks(self) -> list[tuple[str, str]]:
        """The blocks that show a file: its path from the checkout, and what is shown of it."""
        return FILE_BLOCK.findall(self.text)


READMES = [Readme(path) for path in readmes()]
TOP = READMES[0]
EVERYTHING = "\n".join(readme.text for readme in READMES)


def commands(session: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown."""
    parts = PROMPT.split(session)[1:]
    return [(command, printed) for command, _, printed in (part.partition("\n") for part in parts)]


@cache
def template() -> Path:
    """A folder of the example's files, the shop's package, and three databases.

    They are the example, a world, and a served one.
    """
    folder = Path(tempfile.mkdtemp(prefix="recommender-readme-"))
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    shutil.copytree(ROOT / "tests/hosts/shop/shop", folder / "shop")
    (folder / "late.jsonl").write_text(LATE)
    write_public_files(folder)
    for kind in ("users", "videos", "follows", "events"):
        printed = run(f"recommender import {kind} {kind}.csv", folder)
        assert '"rejected": 0' in printed, printed
    with new_database(folder / "world.db") as engine:
        demo_world.load(engine, demo_world.DemoWorld())
    with new_database(folder / "live.db") as engine, seeded_sessions():
        for _ in simulate(SIMULATION, ForYou(engine, SIMULATION.users())):
            pass
    return folder


@contextlib.contextmanager
def new_database(path: Path) -> Iterator[Engine]:
    """Make a SQLite database, and give an engine on it."""
    url = f"sqlite:///{path}"
    migrations.upgrade(url)
    engine = create_engine(url)
    yield engine
    engine.dispose()


def prepare(folder: Path) -> None:
    """Copy the template into a folder."""
    shutil.copytree(template(), folder, dirs_exist_ok=True)


def run(command: str, folder: Path) -> str:
    """Return what a command prints, on both streams."""
    scripts = Path(sys.executable).parent
    hidden = ("RECOMMENDER_", "DATABASE_URL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"COLUMNS": "100", "PYTHONWARNINGS": "error"}
    done = subprocess.run(  # noqa: S602 - as a shell user
        command, shell=True, check=False, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


def readable(printed: str) -> str:
    """Return the output without the ends of lines and empty lines."""
    lines = (line.rstrip() for line in printed.splitlines())
    return "\n".join(line for line in lines if line)


def is_shown(printed: str, shown: str) -> bool:
    """Return whether a README shows an output: whole, or shortened by lines of ``…``."""
    parts = [readable(part) for part in re.split(r"^…$", shown, flags=re.MULTILINE)]
    pattern = r"(?:.*\n)?".join(re.escape(part) + r"\n?" for part in parts)
    return re.fullmatch(pattern, readable(printed) + "\n", re.DOTALL) is not None


def is_excerpt(text: str, shown: str) -> bool:
    """Return whether a README shows a file: whole, or shortened by lines of ``…``."""
    parts = re.split(r"^…\n", shown, flags=re.MULTILINE)
    pattern = r"(?:.*\n)?".join(map(re.escape, parts))
    return re.fullmatch(pattern, text, re.DOTALL) is not None


def run_python(readme: Readme, folder: Path) -> list[str]:
    """Return what a README's Python blocks print, run one after another in one namespace."""
    names: dict[str, object] = {"__name__": "readme"}
    outputs = []
    with contextlib.chdir(folder):
        for code, _ in readme.python_blocks():
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, readme.name, "exec", dont_inherit=True), names)  # noqa: S102
            outputs.append(printed.getvalue())
    for value in names.values():
        if isinstance(value, Engine):
            value.dispose()
    return outputs


def rewritten(readme: Readme) -> str:
    """Return a README with what its commands and code print now; shortened outputs stay."""
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, name) for name in ("demo", "console", "python")]
        for folder in folders:
            folder.mkdir()
        for folder in folders[1:]:
            prepare(folder)
        outputs = zip(readme.python_blocks(), run_python(readme, folders[2]), strict=True)
        texts = iter([output for (_, shown), output in outputs if shown])
        text = BLOCK.sub(lambda block: _block(block, folders, texts), readme.text)
    return FILE_BLOCK.sub(_file_block, text)


def _file_block(block: re.Match[str]) -> str:
    name, shown = block.groups()
    text = (ROOT / name).read_text()
    return f"```python {name}\n{shown if is_excerpt(text, shown) else text}```"


def _block(block: re.Match[str], folders: list[Path], texts: Iterator[str]) -> str:
    language, text = block.groups()
    if language == "text":
        text = next(texts)
    if language == "console":
        text = "".join(_step(command, shown, folders) for command, shown in commands(text))
    return f"```{language}\n{text}```"


def _step(command: str, shown: str, folders: list[Path]) -> str:
    printed = run(command, folders[0] if command == "recommender demo" else folders[1])
    lines = [line.rstrip() for line in printed.splitlines()]
    written = shown if is_shown(printed, shown) else "".join(f"{line}\n" for line in lines)
    return f"$ {command}\n{written}"


def main() -> None:
    """Write every README."""
    for readme in READMES:
        if (text := rewritten(readme)) != readme.text:
            readme.path.write_text(text)
