"""PgBouncer between a test and PostgreSQL, with its defaults in transaction mode."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from tests.support.postgres import _account, _die_with_parent, _folder, _free_port

INI = """
[databases]
* = host=127.0.0.1 port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
{more}
"""


@contextmanager
def pgbouncer(url: str, more: str = "") -> Iterator[str]:
    """Start PgBouncer in front of a database, and yield the database's URL through it.

    Args:
        url: the database.
        more: further lines of the configuration.
    """
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        raise RuntimeError("no PgBouncer: run `apt-get install pgbouncer`")
    server, port = sa.make_url(url), _free_port()
    with _folder() as folder:
        account = _account(folder)
        (folder / "users").write_text(f'"{server.username}" ""\n')
        ini = INI.format(server_port=server.port, port=port, folder=folder, more=more)
        (folder / "pgbouncer.ini").write_text(ini)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [program, "-q", folder / "pgbouncer.ini"], user=account, stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509
            )  # fmt: skip
        try:
            _wait_until_up(port, folder / "log")
            yield server.set(port=port).render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()


def _wait_until_up(port: int, log: Path) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"PgBouncer did not start: {log.read_text()}")
