"""Access to the database: a read-only session, or a transaction with retries."""

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

from recommender.cli.options import chosen_url, settings
from recommender.database.engine import create_engine, database_url
from recommender.database.registered import Registered
from recommender.database.schema import check_schema
from recommender.database.transactions import run_transaction, translate_errors
from recommender.errors import DatabaseUnreachable, NotPermitted, SchemaOutOfDate

T = TypeVar("T")

POLL_SECONDS = 0.2


@contextmanager
def reading(*, longest: float | None = None) -> Iterator[Session]:
    """Open a session on an up-to-date database; it creates and commits nothing.

    Args:
        longest: the timeout of a statement in seconds; the configured one if None.
    """
    with engine(longest=longest) as bind, translate_errors(), Session(bind) as session:
        check_schema(session.connection())
        yield session


@contextmanager
def readable(*, longest: float | None = None) -> Iterator[Engine]:
    """Make an engine on an existing, up-to-date database; `longest` is as in `reading`."""
    with engine(longest=longest) as bind:
        with translate_errors(), bind.connect() as connection:
            check_schema(connection)
        yield bind


@contextmanager
def writable(*, makes_tables: bool = False, registry: Registered | None = None) -> Iterator[Engine]:
    """Make an engine on an up-to-date database; a new SQLite file gets its tables.

    Args:
        makes_tables: whether an empty PostgreSQL database gets its tables too.
        registry: as in `engine`.
    """
    with engine(must_exist=False, registry=registry) as bind, translate_errors():
        if (path := sqlite_path()) and not path.exists():
            create_file(path)
        if path is not None or makes_tables:
            _fill_if_empty(bind)
        with bind.connect() as connection:
            check_schema(connection)
        yield bind


def _fill_if_empty(bind: Engine) -> None:
    """Create the tables in a database that has no table at all."""
    with bind.connect() as connection:
        is_empty = not sa.inspect(connection).get_table_names()
    if is_empty:
        from recommender.database import migrations  # noqa: PLC0415 - Alembic is slow to import

        migrations.upgrade(bind, settings=settings())


def writing(function: Callable[[Session], T]) -> T:
    """Run a function in a transaction on an up-to-date database and return its result."""
    with writable() as bind:
        return run_transaction(bind, function, settings=settings())


@contextmanager
def engine(
    *, must_exist: bool = True, longest: float | None = None, registry: Registered | None = None
) -> Iterator[Engine]:
    """Make an engine from the options and settings of this command.

    Args:
        must_exist: whether a missing SQLite file is an error.
        longest: the timeout of a statement in seconds; the configured one if None.
        registry: None for the one that the environment names.

    Raises:
        InvalidValue: the environment names no registry.
        SchemaOutOfDate: the SQLite file does not exist.
    """
    path = sqlite_path()
    if must_exist and path is not None and not path.exists():
        raise SchemaOutOfDate(f"there is no database {path}: run `recommender db upgrade`")
    chosen = settings()
    limit = chosen.statement_timeout if longest is None else longest
    limited = replace(chosen, statement_timeout=limit)
    bind = create_engine(chosen_url(), settings=limited, registry=registry)
    try:
        yield bind
    finally:
        bind.dispose()


def wait_until_reachable(bind: Engine, longest: float) -> None:
    """Wait for a database that cannot be reached yet, such as one that is starting.

    Raises:
        DatabaseUnreachable: the database cannot be reached after `longest` seconds.
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
    """Return the path of the SQLite file, or None if the database is not a plain file."""
    url = database_url(chosen_url())
    is_file = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
    if not is_file or str(url.database).startswith("file:"):
        return None
    return Path(str(url.database))


def create_file(path: Path) -> None:
    """Create an empty file that only its owner may read, unless the file exists.

    Raises:
        NotPermitted: the user may not create the file.
        DatabaseUnreachable: the file cannot be created, such as in a missing folder.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except PermissionError as error:
        raise NotPermitted(f"the database {path} cannot be created: {error.strerror}") from None
    except OSError as error:
        raise DatabaseUnreachable(
            f"the database {path} cannot be created: {error.strerror}"
        ) from None
