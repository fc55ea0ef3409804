"""Every command does its work once, on both databases: the quick test of the whole command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import cli, run_transaction
from recommender.benchmark.demo_world import LENGTH
from recommender.cli import COMMANDS
from recommender.cli.experiments import TOO_EARLY
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import EXAMPLE, make_user, make_video

pytestmark = slow_on_postgresql

SINCE = (datetime.now(UTC) - LENGTH / 2).isoformat()

STEPS = (
    "db upgrade", "db check", "db history {table}", "demo", "refresh {table} --as-of {now}",
    "import users {example}/users.csv {table}",
    "export videos {folder}/videos.csv", "follow ana zoe.clay", "unfollow ana zoe.clay",
    "mute ana creator zoe.clay", "unmute ana creator zoe.clay",
    "block ana zoe.clay", "unblock ana zoe.clay", "dismiss ana zoe.clay",
    "record ana pottery-3 like",
    "feed ana --record", "feed ana --explain {table}",
    "feed ana --html {folder}/feed.html --against classic",
    "rank ana pottery-3 makeup-14 --explain {table}",
    "similar pottery-3 --user ana --explain {table}", "reach pottery-3 {table}",
    "people ana {table}", "people ana --record --explain {table}", "explain ana pottery-3 {table}",
    "profiles diff classic for_you --user ana {table}",
    "profiles create mine --weight freshness=2 {table}", "profiles activate mine {table}",
    "profiles list {table}", "profiles show for_you {table}", "profiles show mine",
    "feeds create reels --source newest --memory own --limit creator=2/10 {table}",
    "feeds list {table}", "feeds show reels {table}", "feed ana --feed reels",
    "digest --feed reels --run today --since 30d --limit 2 {table}",
    "replay --feed reels --profile for_you --since {since} --sample 2 {table}",
    "evaluate --feed reels --cutoff {since} --sample 5 --every 5d {table}",
    "experiments start tried --variant for_you {table}", "experiments list {table}",
    "experiments show tried {table}", "experiments report tried --html {folder}/tried.html {table}",
    "experiments stop tried {table}",
    "feeds delete reels {table}",
    "embeddings create captions --dim 3 {table}", "embeddings list {table}",
    "embeddings drop captions",
    "evaluate --cutoff {since} --sample 5 --every 5d --html {folder}/evaluation.html {table}",
    "fit learned --replay --since {since} --every 5d {table}",
    "replay --profile for_you --since {since} {table}", "video status pottery-3 review",
    "video erase pottery-4", "audit", "audit {table}", "report {folder}/report.html --since 5d",
    "metrics",
    "refresh --rebuild", "doctor {table}",
    "prune --sessions-older-than 30d {table}", "user show ana {table}", "user export ana",
    "slice ana zoe.clay {folder}/one.db --map {folder}/map.json",
    "slice ana {folder}/two.db {table}",
    "user reset ana", "user rename ana anna", "user merge anna zoe.clay {table}",
    "user erase anna {table}",
)  # fmt: skip
"""One command line after another, on a world that `demo` makes."""

TABLE = "--format table"

BENCH = "bench --videos 100 --clients 1 --pages 2 --seconds 0.1 --exact 0 --dim 8"


@pytest.fixture
def run(
    empty_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], str]:
    """Runs a command line, which must exit with 0; gives what it prints."""
    monkeypatch.setenv("COLUMNS", "80")
    places = {"example": EXAMPLE, "folder": tmp_path, "table": TABLE}

    def run_one(line: str) -> str:
        words = line.format(**places, since=SINCE, now=datetime.now(UTC).isoformat()).split()
        code = cli.run([*words, "--database-url", empty_database])
        printed = capsys.readouterr()
        wanted = TOO_EARLY if line.startswith("experiments report") else 0
        assert code == wanted, f"{line}: {printed.err}"
        return printed.out

    return run_one


def test_every_command_does_its_work(run: Callable[[str], str], tmp_path: Path) -> None:
    printed = {line: run(line) for line in STEPS}
    for name in ("report", "feed", "evaluation", "tried"):
        assert "<h2>" in (tmp_path / f"{name}.html").read_text()
    assert (tmp_path / "videos.csv").read_text().count("\n") > 400
    assert json.loads(printed["feed ana --record"])["items"]
    assert json.loads(printed["profiles show mine"])["weights"] == {"freshness": 2.0}
    assert json.loads(printed["audit"])["broken"] == []
    (sliced,) = (out for line, out in printed.items() if line.startswith("slice ana zoe.clay"))
    names = json.loads((tmp_path / "map.json").read_text())["users"]
    assert [names[name] for name in json.loads(sliced)["users"].values()] == ["ana", "zoe.clay"]
    (replayed,) = (out for line, out in printed.items() if line.startswith("replay --feed"))
    assert " pages of reels, in the order of for_you@1" in " ".join(replayed.split())
    for line in STEPS:
        if "{table}" in line:
            assert "…" not in printed[line], line


@slow_on_postgresql
def test_bench_makes_and_measures_a_small_world(
    run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RECOMMENDER_REGISTRY", "no_such_module:registry")  # the world is its own
    found = run(f"{BENCH} --html {{folder}}/bench.html {TABLE}")
    assert "100 videos in" in found
    assert "100 videos in" in (tmp_path / "bench.html").read_text()
    assert "for_you@1" in found
    assert "…" not in found


def test_no_command_is_left_out() -> None:
    assert {line.split()[0] for line in (*STEPS, BENCH)} == set(COMMANDS)
    with_tables = {name for name, command in commands() if prints_tables(command)}
    tables = [line for line in (*STEPS, f"{BENCH} {{table}}") if "{table}" in line]
    shown = {name for name in with_tables for line in tables if line.startswith(f"{name} ")}
    assert shown == with_tables


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command and its name, such as `user show`."""
    context = click.Context(cli.cli)
    for name in COMMANDS:
        command = cli.cli.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {own}", each) for own, each in command.commands.items())
        elif command:
            yield name, command


def prints_tables(command: click.Command) -> bool:
    options = [option for option in command.params if option.name == "form"]
    return any("table" in getattr(option.type, "choices", ()) for option in options)


WITH_DASHES = (
    "follow -- -u -c", "record -- -u -v like", "feed -- -u", "rank -- -u -v",
    "similar -- -v", "reach -- -v", "people -- -u", "explain -- -u -v",
    "mute -- -u keyword -word", "unmute -- -u keyword -word", "unfollow -- -u -c",
    "block -- -u -c", "unblock -- -u -c", "dismiss -- -u -c",
    "user show -- -u", "user export -- -u", "user reset -- -u", "video status -- -v removed",
    "video erase -- -v", "user rename -- -c -d", "user merge -- -d -u", "user erase -- -u",
)  # fmt: skip
"""Every command that takes ids, with ids that begin with a dash."""


@only_sqlite
def test_an_id_that_begins_with_a_dash_stands_after_two(
    engine: Engine,
    database: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", database)

    def write(session: Session) -> None:
        make_user(session, "-u")
        make_video(session, "-v", creator="-c")

    run_transaction(engine, write)
    ids = {"user", "old", "video", "videos", "creator", "value"}
    arguments = {
        name: {each.name for each in command.params if isinstance(each, click.Argument)}
        for name, command in commands()
    }
    taking = {name for name, names in arguments.items() if ids & names}
    assert taking == {line.partition(" -- ")[0] for line in WITH_DASHES}
    for line in WITH_DASHES:
        assert cli.run(line.replace("-- ", "").split()) == 2
        hint = "If an id begins with -, write -- before it: recommender "
        assert capsys.readouterr().err.splitlines()[-1].startswith(hint + line.partition(" -- ")[0])
        assert (line, cli.run(line.split())) == (line, 0)
