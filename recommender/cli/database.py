"""How commands get at the database: read-only on one session, or in a transaction with retries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.cli.options import settings
from recommender.database.engine import check_schema, create_engine, database_url
from recommender.database.transactions import run_transaction, translate_errors
from recommender.errors import DatabaseUnreachable, NotPermitted, SchemaOutOfDate

T = TypeVar("T")

POLL_SECONDS = 0.2


@contextmanager
def reading(*, longest: float | None = None) -> Iterator[Session]:
    """A session on a database that is up to date; nothing is created and nothing committed.

    A statement takes `longest` seconds at most where that is given, as long as any where not.
    """
    with engine(longest=longest) as bind, translate_errors(), Session(bind) as session:
        check_schema(session.connection())
        yield session


@contextmanager
def readable(*, longest: float | None = None) -> Iterator[Engine]:
    """An engine on a database that is there and up to date; `longest` as for `reading`."""
    with engine(longest=longest) as bind:
        with translate_errors(), bind.connect() as connection:
            check_schema(connection)
        yield bind


@contextmanager
def writable() -> Iterator[Engine]:
    """An engine on a database that is up to date; a new SQLite file is created and migrated."""
    if (path := sqlite_path()) and not path.exists():
        create_file(path)
    with engine(must_exist=False) as bind, translate_errors():
        with bind.connect() as connection:
            is_empty = path is not None and not sa.inspect(connection).get_table_names()
        if is_empty:
            from recommender.database import migrations  # noqa: PLC0415 - Alembic is slow to import

            migrations.upgrade(settings())
        with bind.connect() as connection:
            check_schema(connection)
        yield bind


def writing(function: Callable[[Session], T]) -> T:
    """Run a function in a transaction of its own on an up-to-date database."""
    with writable() as bind:
        return run_transaction(bind, function, settings=settings())


@contextmanager
def engine(*, must_exist: bool = True, longest: float | None = None) -> Iterator[Engine]:
    """An engine of this run; a SQLite file that is not there is an error unless it may be made."""
    path = sqlite_path()
    if must_exist and path is not None and not path.exists():
        raise SchemaOutOfDate(f"there is no database {path}: run `recommender db upgrade`")
    chosen = settings()
    limit = chosen.statement_timeout if longest is None else longest
    bind = create_engine(settings=replace(chosen, statement_timeout=limit))
    try:
        yield bind
    finally:
        bind.dispose()


def wait_until_reachable(bind: Engine, longest: float) -> None:
    """Wait for a database that cannot be reached yet, such as one that is starting.

    Raises:
        DatabaseUnreachable: it still cannot be reached after `longest` seconds.
    """
    deadline = time.monotonic() + longest
    while True:
        try:
            with translate_errors(), bind.connect():
                return
        except DatabaseUnreachable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)


def sqlite_path() -> Path | None:
    """The SQLite file of the settings, None where the database is no plain file."""
    url = database_url(settings().database_url)
    is_file = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
    if not is_file or str(url.database).startswith("file:"):
        return None
    return Path(str(url.database))


def create_file(path: Path) -> None:
    """Create an empty file that only its owner may read; it may be there already.

    Raises:
        NotPermitted: the file may not be made there.
        DatabaseUnreachable: it cannot be made there, such as in a folder that does not exist.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except PermissionError as error:
        raise NotPermitted(f"the database {path} may not be made: {error.strerror}") from None
    except OSError as error:
        raise DatabaseUnreachable(f"the database {path} cannot be made: {error.strerror}") from None
