"""The README's commands and code, run as a reader would.

``python -m tests.support.readme`` writes what they print into the README anew; the tests compare it.
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
from functools import cache
from pathlib import Path

from recommender import Settings, create_engine
from recommender.benchmark.demo_world import World, load
from recommender.database import migrations
from tests.scenarios.simulation import seeded_sessions
from tests.support.simulated_viewers import ForYou, Simulation, simulate
from tests.support.worlds import EXAMPLE

FILE = Path(__file__).parents[2] / "README.md"
README = FILE.read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)
LATE = (
    '{"id": "a", "user": "user1", "video": "v1", "kind": "like", "at": "2026-01-01T00:00:00Z"}\n'
    '{"id": "b", "user": "user1", "video": "v1", "kind": "watch", "at": "2026-01-01T00:00:00Z",'
    ' "completion": 1.5}\n'
)
SIMULATION = Simulation(viewer_count=24, video_count=200, new_each_day=40, days=2)
PROMPT = re.compile(r"^\$ ", re.MULTILINE)


def prepare(folder: Path) -> None:
    """Make the example's files, and databases: of these, of a world, and of one that was served."""
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    (folder / "late.jsonl").write_text(LATE)
    for kind in ("users", "videos", "follows", "events"):
        run(f"recommender import {kind} {kind}.csv", folder)
    url = f"sqlite:///{folder / 'world.db'}"
    migrations.upgrade(Settings(database_url=url))
    engine = create_engine(url)
    load(engine, World())
    engine.dispose()
    (folder / "live.db").write_bytes(live())


@cache
def live() -> bytes:
    """A database that served simulated viewers for two days."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "live.db")
        url = f"sqlite:///{path}"
        migrations.upgrade(Settings(database_url=url))
        engine = create_engine(url)
        with seeded_sessions():
            for _ in simulate(SIMULATION, ForYou(engine, SIMULATION.users())):
                pass
        engine.dispose()
        return path.read_bytes()


def run(command: str, folder: Path) -> str:
    """What a command prints, on both streams."""
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
    """What a reader sees of it: no ends of lines, no empty lines."""
    lines = (line.rstrip() for line in printed.splitlines())
    return "\n".join(line for line in lines if line)


def commands(session: str) -> list[tuple[str, str]]:
    """Each command of a console block, and what it shows that the command prints."""
    parts = PROMPT.split(session)[1:]
    return [(command, printed) for command, _, printed in (part.partition("\n") for part in parts)]


def steps() -> list[tuple[str, str]]:
    """The commands of all console blocks."""
    return [step for language, text in BLOCKS if language == "console" for step in commands(text)]


def python_blocks() -> list[tuple[str, str]]:
    """Each Python block, and what the text block right after it shows that it prints."""
    following = [*BLOCKS[1:], ("", "")]
    return [
        (code, text if after == "text" else "")
        for (language, code), (after, text) in zip(BLOCKS, following, strict=True)
        if language == "python"
    ]


def run_python(folder: Path) -> list[str]:
    """What each Python block prints, one after another, in a folder of the example."""
    names: dict[str, object] = {"__name__": "readme"}
    outputs = []
    with contextlib.chdir(folder):
        for code, _ in python_blocks():
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec", dont_inherit=True), names)  # noqa: S102
            outputs.append(printed.getvalue())
    for bind in ("engine", "host_engine"):
        names[bind].dispose()  # type: ignore[attr-defined]
    return outputs


def rewritten() -> str:
    """The README with what its commands and code print now."""
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, name) for name in ("demo", "console", "python")]
        for folder in folders:
            folder.mkdir()
        for folder in folders[1:]:
            prepare(folder)
        outputs = zip(python_blocks(), run_python(folders[2]), strict=True)
        texts = iter([output for (_, shown), output in outputs if shown])
        return BLOCK.sub(lambda block: _block(block, folders, texts), README)


def _block(block: re.Match[str], folders: list[Path], texts: Iterator[str]) -> str:
    language, text = block.groups()
    if language == "text":
        text = next(texts)
    if language == "console":
        done = []
        for command, _ in commands(text):
            folder = folders[0] if command == "recommender demo" else folders[1]
            lines = (line.rstrip() for line in run(command, folder).splitlines())
            done.append("\n".join([f"$ {command}", *lines, ""]))
        text = "".join(done)
    return f"```{language}\n{text}```"


def main() -> None:
    FILE.write_text(rewritten())
