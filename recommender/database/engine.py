"""Engines with this package's timeouts, pools and transactions."""

from __future__ import annotations

import math
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy import URL, Connection, Dialect, Engine, event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

from recommender.database.registered import Registered, keep_registry, kept_registry
from recommender.database.server_settings import keep_settings, milliseconds, note_distribution
from recommender.database.transactions import WRITE, E
from recommender.database.vectors import add_vector_functions, load_sqlite_vec
from recommender.database.written_out import POSITIONAL
from recommender.errors import InvalidValue
from recommender.settings import Settings, configured_url

SQLITE_NAMES = ("sqlite", "sqlite+pysqlite")

POSTGRESQL_NAMES = ("postgres", "postgresql", "postgresql+psycopg")

WAL_PAGES = 16_000
"""The pages of SQLite's WAL, about 64 MB, after which it is copied into the file.

A batch of an import changes thousands of pages. Copying them after every batch wrote 50 % more.
"""

CACHE_KIB = 32_000
"""The largest page cache of an SQLite connection.

With SQLite's default, 2,000, an import of 170,000 events read 430,000 pages again; with 32,000 it
read a quarter of that.
"""

_NOT_A_URL = "database URL: not of the form sqlite:///file.db or postgresql://user@host/database"

_LEAVES_NAMES_ENCODED = sa.make_url("sqlite:///%25").database != "%"
"""SQLAlchemy 2.0 decodes user and password, and since 2.1 also the name of the database."""


def database_url(url: str | URL) -> URL:
    """Return a database URL with its driver.

    Raises:
        InvalidValue: this is no URL, or its database or driver is not supported.
    """
    try:
        parsed = _parsed_url(url)
    except (ArgumentError, ValueError):
        raise InvalidValue(_NOT_A_URL) from None
    if parsed.drivername in POSTGRESQL_NAMES:
        return _without_shown_password(parsed).set(drivername="postgresql+psycopg")
    if parsed.drivername not in SQLITE_NAMES:
        raise InvalidValue(
            f"database URL: {parsed.drivername} is neither SQLite nor PostgreSQL with psycopg"
        )
    return parsed


def _without_shown_password(url: URL) -> URL:
    """Move a password in the query to its own place, where no repr of the URL shows it."""
    password = url.query.get("password")
    if not isinstance(password, str):
        return url
    return url.set(password=password).difference_update_query(["password"])


def _parsed_url(url: str | URL) -> URL:
    """Parse a URL. In a text, the name of the database is percent-encoded."""
    parsed = sa.make_url(url)
    if isinstance(url, str) and parsed.database and _LEAVES_NAMES_ENCODED:
        return parsed.set(database=unquote(parsed.database))
    return parsed


def create_engine(
    url: str | URL | None = None,
    *,
    settings: Settings | None = None,
    registry: Registered | None = None,
) -> Engine:
    """Return an engine with the timeouts, pool and transactions that this package needs.

    It notices a pooler such as PgBouncer. Then it sets the timeouts in every transaction, by one
    statement, and prepares no statements unless the URL has a `prepare_threshold` above 0.

    Args:
        url: the database; None for the database of the environment.
        settings: None for the settings of the environment.
        registry: the host's signals, sources and filters; None for the `Registry` that the
            environment variable ``RECOMMENDER_REGISTRY`` names, if it is set.

    Raises:
        InvalidValue: the URL does not name an SQLite or PostgreSQL database, or there is no such
            registry.
    """
    settings = settings or Settings.from_environment()
    parsed = database_url(configured_url() if url is None else url)
    if parsed.get_backend_name() == "postgresql":
        engine = _postgresql_engine(parsed, settings)
        return prepare_engine(engine, settings=settings, registry=registry)
    options: dict[str, Any] = _pool_options(settings)
    if _is_in_memory(parsed):
        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    return prepare_engine(_new_engine(parsed, options), settings=settings, registry=registry)


def _pool_options(settings: Settings) -> dict[str, Any]:
    return {
        "pool_size": settings.pool_size,
        "max_overflow": settings.max_overflow,
        "pool_timeout": settings.pool_timeout,
    }


def _new_engine(url: URL, options: dict[str, Any]) -> Engine:
    try:
        engine = sa.create_engine(url, hide_parameters=True, **options)
    except ArgumentError:
        raise InvalidValue(_NOT_A_URL) from None
    if url.get_backend_name() == "sqlite" and not _is_in_memory(url):
        event.listen(engine, "do_connect", _make_file)
    return engine


def _make_file(_dialect: Any, _record: Any, arguments: list[Any], _options: Any) -> None:
    """Create a missing SQLite file that only its owner can read; its journal inherits the mode."""
    if not str(arguments[0]).startswith("file:"):
        with suppress(OSError):  # SQLite reports the error when it opens the file
            os.close(os.open(arguments[0], os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _is_in_memory(url: URL) -> bool:
    is_sqlite = url.get_backend_name() == "sqlite"
    return is_sqlite and (url.database in {None, "", ":memory:"} or "memory" in url.query.values())


_PLANNER = {"jit": "off", "plan_cache_mode": "force_generic_plan"}
"""Compiling a page's statement (JIT) would add 50 % to its time, and planning it again 33 %.

A generic plan is the same plan, because it walks indexes.
"""

_SILENCE = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""The limits after which a silent connection is closed: half a minute.

A server that works on a long statement still answers these probes.
"""


def _postgresql_engine(url: URL, settings: Settings) -> Engine:
    defaults = {
        "connect_timeout": settings.connect_timeout,
        "application_name": "recommender",
        "client_encoding": "utf8",
        **_SILENCE,
    }
    options = {
        **_pool_options(settings),
        "pool_pre_ping": True,
        "pool_recycle": settings.pool_recycle,
        "connect_args": {
            **{name: value for name, value in defaults.items() if name not in url.query},
            "prepare_threshold": None,  # until it is known whether a pooler is between
        },
    }
    threshold = _prepare_threshold(url)
    engine = _new_engine(url.difference_update_query(["prepare_threshold"]), options)
    keep_settings(
        engine,
        _server_settings(url, settings),
        direct=settings.prepare_threshold if threshold is None else threshold,
        pooled=threshold or 0,
    )
    return engine


def _prepare_threshold(url: URL) -> int | None:
    """Return the number in the URL, None if there is none."""
    text = url.query.get("prepare_threshold")
    if text is None:
        return None
    if not (isinstance(text, str) and text.isdecimal()):
        raise InvalidValue("database URL: prepare_threshold is not a number of 0 or more")
    return int(text)


def _server_settings(url: URL, settings: Settings) -> dict[str, str]:
    """Return the settings of PostgreSQL, but for those in the URL's `options`."""
    ours = {
        "statement_timeout": milliseconds(settings.statement_timeout),
        "lock_timeout": milliseconds(settings.lock_timeout),
        "idle_in_transaction_session_timeout": milliseconds(settings.idle_timeout),
        "TimeZone": "UTC",
        **_PLANNER,
    }
    given = str(url.query.get("options", "")).lower()
    return {name: value for name, value in ours.items() if f"{name.lower()}=" not in given}


def prepare_engine(
    engine: E, *, settings: Settings | None = None, registry: Registered | None = None
) -> E:
    """Prepare an engine, also one of the host, for this package's transactions; return it.

    Call it before the engine's first connection. On SQLite it sets WAL (a file of 64 MB, or more
    during a large transaction), a cache of at most 32 MB per connection, foreign keys, a busy
    timeout and real transactions. A transaction begins with BEGIN IMMEDIATE if the execution option
    ``recommender_write`` is set before its first statement. On PostgreSQL it keeps
    the registry, and long statements of this package get their parameters by number.

    Args:
        engine: an `Engine` or an `AsyncEngine`.
        settings: None for the settings of the environment.
        registry: as in `create_engine`. Every session on the engine, on a copy made by
            ``execution_options``, or on a connection of it, finds it.

    Raises:
        InvalidValue: there is no such registry.
    """
    settings = settings or Settings.from_environment()
    sync_engine = engine if isinstance(engine, Engine) else engine.sync_engine
    keep_registry(sync_engine, registry)
    if sync_engine.dialect.driver == "psycopg":
        event.listen(sync_engine, "do_execute", _run_positional)
        event.listen(sync_engine, "connect", partial(_psycopg_connect, sync_engine.dialect))
    if sync_engine.dialect.name == "sqlite":
        event.listen(sync_engine, "do_connect", _close_in_order)
        event.listen(sync_engine, "connect", _sqlite_connect(settings))
        kept = kept_registry(sync_engine)
        if kept is not None and kept.space is not None:
            event.listen(sync_engine, "connect", _with_vectors)
        event.listen(sync_engine, "begin", _sqlite_begin)
    return engine


_PARAMETER = re.compile(r"%(?:%|\(([^)]+)\)s)")


def _run_positional(cursor: Any, statement: str, values: Any, context: Any) -> bool:
    """Execute a statement with `AS_POSITIONAL` with positional parameters; return whether it was.

    Their conversion is kept. psycopg converts the parameters of a statement of more than 4,096
    bytes on each execution, which took a fifth of the client's time of a page.
    """
    from psycopg import Cursor, RawCursor  # noqa: PLC0415 - SQLite does not need it

    if not context.execution_options.get(POSITIONAL) or type(cursor) is not Cursor:
        return False
    positional, names = _positional(statement)
    context.cursor = RawCursor(cursor.connection, row_factory=cursor.row_factory)
    context.cursor.execute(positional, [values[name] for name in names])
    return True


@lru_cache(maxsize=500)
def _positional(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with numbers for its parameters, and their names in order."""
    numbers: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        name = match[1]
        return "%" if name is None else f"${numbers.setdefault(name, len(numbers) + 1)}"

    return _PARAMETER.sub(numbered, statement).encode(), tuple(numbers)


class _Connection(sqlite3.Connection):
    """An SQLite connection that ends its transaction when it is closed.

    Otherwise the file stays locked while anything refers to a cursor, such as the traceback of a
    cancelled asynchronous task.
    """

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()


def _close_in_order(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
    options.setdefault("factory", _Connection)


def _exp2(value: float | None) -> float | None:
    return None if value is None else 2.0**value


def add_functions(connection: sqlite3.Connection) -> None:
    """Create the functions of this package on an SQLite connection, unless it has them."""
    with suppress(sqlite3.OperationalError):
        connection.execute("SELECT rec_exp2(0), rec_sqrt(0), rec_ln(1)")
        return
    connection.create_function("rec_exp2", 1, _exp2, deterministic=True)
    connection.create_function("rec_sqrt", 1, math.sqrt, deterministic=True)
    connection.create_function("rec_ln", 1, math.log, deterministic=True)
    add_vector_functions(connection)


def _sqlite_connect(settings: Settings) -> Callable[[Any, Any], None]:
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        add_functions(connection)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {settings.busy_timeout * 1000:.0f}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA synchronous = {'FULL' if settings.durable else 'NORMAL'}")
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        cursor.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        cursor.execute("PRAGMA journal_mode")
        if cursor.fetchone()[0] == "delete":
            _switch_to_wal(cursor)
        cursor.close()

    return connect


def _psycopg_connect(dialect: Dialect, connection: Any, _record: Any) -> None:
    note_distribution(dialect, connection)


def _with_vectors(connection: Any, _record: Any) -> None:
    load_sqlite_vec(connection)


WAL_WAIT_MS = 1_000
"""The longest wait for readers before the WAL is emptied, in milliseconds."""


def clear_wal(engine: Engine) -> bool | None:
    """Copy the WAL of SQLite into the file, and empty it.

    Returns:
        False if another connection goes on reading or writing; None on PostgreSQL.
    """
    if engine.dialect.name != "sqlite":
        return None
    with closing(engine.raw_connection()) as connection:
        cursor: Any = connection.cursor()
        (waited,) = cursor.execute("PRAGMA busy_timeout").fetchone()
        try:
            # While it waits, it blocks writers.
            cursor.execute(f"PRAGMA busy_timeout = {WAL_WAIT_MS}")
            return not cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            return False
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {waited}")
            cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    """Switch a file to WAL, unless it is read-only."""
    try:
        cursor.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith("SQLITE_READONLY"):
            raise


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
