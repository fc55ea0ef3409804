"""Passwords are never shown, files are readable by their owner only, input is never executed."""

from __future__ import annotations

import ast
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    cli,
    create_engine,
    export_file,
    import_file,
    prepare_engine,
    run_transaction,
)
from recommender.cli import COMMANDS
from recommender.database import migrations
from recommender.models import User

PACKAGE = Path(recommender.__file__).parent
PASSWORDS = {"s3%40cr%25et": "s3@cr%et", "s3%2525cr%2540et": "s3%25cr%40et", "s3cret": "s3cret"}
ARGUMENTS = (
    ["audit"], ["db", "upgrade"], ["db", "downgrade", "base"], ["db", "current"], ["db", "check"],
    ["db", "history"], ["demo"], ["doctor"], ["evaluate", "--cutoff", "2026-01-01T00:00:00Z"],
    ["explain", "u", "v"], ["export", "users", "-"], ["feed", "u"], ["feed", "u", "--record"],
    ["follow", "u", "c"], ["metrics"], ["import", "users", __file__], ["mute", "u", "creator", "c"],
    ["profiles", "list"], ["prune", "--events-older-than", "9d"], ["rank", "u", "v"],
    ["record", "u", "v", "like"], ["refresh"],
    ["replay", "--profile", "for_you", "--since", "2026-01-01T00:00:00Z"], ["unfollow", "u", "c"],
    ["unmute", "u", "creator", "c"], ["block", "u", "c"], ["unblock", "u", "c"],
    ["dismiss", "u", "c"], ["people", "u"], ["people", "u", "--record"],
    ["user", "show", "u"], ["user", "reset", "u"],
    ["video", "status", "v", "removed"], ["video", "erase", "v"],
)  # fmt: skip


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections during the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("written", PASSWORDS)
def test_no_command_shows_a_password(
    closed_port: int,
    written: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://me:{written}@127.0.0.1:{closed_port}/none?connect_timeout=2"
    assert {each[0] for each in ARGUMENTS} <= COMMANDS.keys()
    codes = {
        " ".join(each): cli.run([*each, "--database-url", url]) for each in ARGUMENTS
    }  # fmt: skip
    printed = capsys.readouterr()
    assert {name for name, code in codes.items() if code != 69} == set()
    assert printed.err.count("Error: The database cannot be reached") == len(codes)
    said = printed.out + printed.err + caplog.text
    assert [each for each in (written, PASSWORDS[written]) if each in said] == []
    assert "Traceback" not in said


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_no_password(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1/none")
    assert cli.run([name, "--help"]) == 0
    assert "s3cret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:{}@127.0.0.1:no/none", "mysql://me:{}@127.0.0.1/none",
        "postgresql+asyncpg://me:{}@127.0.0.1/none", "postgresql:/me:{}@127.0.0.1/none",
        "postgresql://me:{}@127.0.0.1:1/none?connect_timeout=never", "me:{}@127.0.0.1",
        "postgresql://127.0.0.1:1/none?password={}", "postgresql://127.0.0.1:1/none?passwd={}",
    ],
)  # fmt: skip
def test_a_url_that_is_wrong_is_not_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["feed", "u", "--database-url", url.format("s3cret")]) in {1, 2, 69}
    printed = "".join(capsys.readouterr())
    assert printed.startswith("Error: ")
    assert "s3cret" not in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("written", PASSWORDS)
def test_an_engine_has_the_password_as_it_is_meant(written: str) -> None:
    engine = create_engine(f"postgresql://me:{written}@127.0.0.1/none")
    assert engine.url.password == PASSWORDS[written]
    assert engine.dialect.create_connect_args(engine.url)[1]["password"] == PASSWORDS[written]
    assert [each for each in (written, PASSWORDS[written]) if each in repr(engine)] == []


@pytest.mark.usefixtures("_open_umask")
def test_a_new_sqlite_file_and_its_journal_are_its_owners(tmp_path: Path) -> None:
    for name in ("library.db", "100% é.db"):
        path = tmp_path / name
        migrations.upgrade(f"sqlite:///{path}".replace("%", "%25"))
        assert mode(path) == 0o600
    path = tmp_path / "engine.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE mine (id int)"))
        names = {each.name: mode(each) for each in tmp_path.iterdir() if "engine" in each.name}
    assert names == dict.fromkeys(("engine.db", "engine.db-wal", "engine.db-shm"), 0o600)
    engine.dispose()


@pytest.mark.usefixtures("_open_umask")
def test_a_file_that_is_there_or_a_hosts_own_keeps_its_mode(tmp_path: Path) -> None:
    there, host = tmp_path / "there.db", tmp_path / "host.db"
    there.touch(0o640)
    engines = (
        create_engine(f"sqlite:///{there}"),
        prepare_engine(sa.create_engine(f"sqlite:///{host}")),
    )
    for engine in engines:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE mine (id int)"))
        engine.dispose()
    assert (mode(there), mode(host)) == (0o640, 0o644)


def test_an_export_follows_no_link_that_is_in_its_way(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of the folder guessed the name of the unfinished file."""
    victim, file = tmp_path / "victim", tmp_path / "users.csv"
    victim.write_text("precious")
    monkeypatch.setattr("tempfile._get_candidate_names", lambda: iter(["guessed", "another"]))
    (tmp_path / ".users.csv.guessed").symlink_to(victim)
    export_file(engine, "users", str(file))
    assert victim.read_text() == "precious"
    assert not file.is_symlink()
    assert file.read_text().startswith("id,")


@pytest.mark.usefixtures("_open_umask")
def test_an_export_of_a_file_that_others_could_read_is_its_owners(
    engine: Engine, tmp_path: Path
) -> None:
    file = tmp_path / "users.csv.gz"
    file.touch(0o644)
    export_file(engine, "users", str(file))
    assert mode(file) == 0o600


def test_no_key_is_ever_a_path(engine: Engine, tmp_path: Path) -> None:
    keys = ["../up", "/etc/passwd", "..\\up", "~/x", "a/b", "-", "file:x"]
    rows = "".join(f'{{"id": "{key}"}}\n'.replace("\\", "\\\\") for key in keys)
    source = tmp_path / "in" / "users.jsonl"
    source.parent.mkdir()
    source.write_text(rows)
    import_file(engine, "users", str(source))
    run_transaction(engine, lambda s: recommender.mute(s, "../up", "keyword", "../word"))
    export_file(engine, "users", str(tmp_path / "in" / "again.jsonl"))
    with Session(engine) as session:
        assert sorted(session.scalars(sa.select(User.key))) == sorted(keys)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert files == ["in", "in/again.jsonl", "in/users.jsonl"]


DANGEROUS = {
    "multiprocessing",
    "pickle",
    "marshal",
    "shelve",
    "yaml",
    "subprocess",
    "ctypes",
    "code",
    "dill",
}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "input"}


def test_no_input_is_ever_run_or_unpickled() -> None:
    """Only processes of the same program send each other pickled values."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        modules = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import)
                   for alias in node.names}  # fmt: skip
        modules |= {
            str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)
        }
        calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        if used := modules & DANGEROUS | calls & CALLS:
            found[path.stem] = used
    assert found == {"workers": {"multiprocessing"}, "clients": {"multiprocessing"}}
