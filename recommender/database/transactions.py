"""Transactions that are retried after conflicts, and the translation of driver errors."""

from __future__ import annotations

import gc
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import (
    Connection,
    Engine,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session

from recommender.errors import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseUnreachable,
    NotFound,
    NotPermitted,
    PoolTimeout,
    QueryTimeout,
    RecommenderError,
    SchemaOutOfDate,
    StorageFailure,
)
from recommender.models.types import PREFIX, SPACE_PREFIX
from recommender.settings import Settings
from recommender.telemetry import count_retry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

WRITE = "recommender_write"
"""The execution option of transactions that write: BEGIN IMMEDIATE on SQLite."""

LONGEST_DELAY = 10.0

UNDEFINED_TABLE = "42P01"
"""PostgreSQL's SQLSTATE of a missing table."""

CANCELLED = "57014"
"""PostgreSQL's SQLSTATE of a statement that took too long, or that someone cancelled."""

_ERROR_OF_SQLSTATE: tuple[tuple[str, type[RecommenderError]], ...] = (
    (CANCELLED, QueryTimeout),
    ("55P03", DatabaseBusy),
    ("40", DatabaseBusy),
    ("53100", StorageFailure),
    ("58", StorageFailure),
    ("42501", NotPermitted),
    ("25006", NotPermitted),
    (UNDEFINED_TABLE, SchemaOutOfDate),
    ("42703", SchemaOutOfDate),
    ("08", DatabaseUnreachable),
    ("28", DatabaseUnreachable),
    ("3D000", DatabaseUnreachable),
    ("53300", DatabaseUnreachable),
    ("57P", DatabaseUnreachable),
)

_ERROR_OF_SQLITE: tuple[tuple[str, type[RecommenderError]], ...] = (
    ("SQLITE_BUSY", DatabaseBusy),
    ("SQLITE_LOCKED", DatabaseBusy),
    ("SQLITE_FULL", StorageFailure),
    ("SQLITE_IOERR", StorageFailure),
    ("SQLITE_READONLY", NotPermitted),
    ("SQLITE_PERM", NotPermitted),
    ("SQLITE_AUTH", NotPermitted),
    ("SQLITE_CANTOPEN", DatabaseUnreachable),
    ("SQLITE_NOTADB", DatabaseDamaged),
    ("SQLITE_CORRUPT", DatabaseDamaged),
)

# SQLite has one code for all errors in a statement, so only the text tells a missing table.
_UNPREPARED = re.compile(r"no such function: rec_")

_MISSING_ON_SQLITE = re.compile(r"no such (table|column): |table \S+ has no column named ")

_MISSING_TABLE = re.compile(rf'(no such table: |relation ")(?!\S*\b{PREFIX})')
"""The message of a missing table that is not of this package."""

_MISSING_SPACE = re.compile(rf"\b{SPACE_PREFIX}(\w+)")

NO_SPACE = "there is no space {0}: make it by `recommender embeddings create {0} --dim N`"

_BUSY = ("40001", "40P01", "55P03", "SQLITE_BUSY", "SQLITE_LOCKED")

_LOST = ("08", "57P")

_PREPARED = ("26000", "42P05")
"""A prepared statement is missing, or there already."""

POOLED_STATEMENT = (
    "a connection pooler keeps no prepared statements: set prepare_threshold to 0, and on your own"
    ' engine connect_args={"prepare_threshold": None}'
)

READ_BEFORE_WRITE = (
    "another transaction wrote after this one began to read: on SQLite, begin transactions that"
    " write with engine.execution_options(recommender_write=True)"
)

_ADVICE: Mapping[str, tuple[type[RecommenderError], str]] = {
    **dict.fromkeys(_PREPARED, (RecommenderError, POOLED_STATEMENT)),
    "SQLITE_BUSY_SNAPSHOT": (DatabaseBusy, READ_BEFORE_WRITE),
}
"""What to do after errors that have a single cause, by their codes."""

T = TypeVar("T")

E = TypeVar("E", bound="Engine | AsyncEngine")


def writing(engine: Engine) -> Engine:
    """Return the same engine, for transactions that write."""
    return engine.execution_options(**{WRITE: True})


def run_transaction(
    engine: Engine,
    function: Callable[[Session], T],
    *,
    write: bool = True,
    settings: Settings | None = None,
) -> T:
    """Run a function in its own transaction; retry after conflicts.

    The whole function runs again after a deadlock, a serialization failure, a lock timeout or a
    lost connection, `Settings.tries` times in total. The waits grow fourfold, with jitter, to at
    most 10 seconds. The function must be safe to repeat: if a connection is lost during the commit,
    no one knows if the commit happened. Events are safe to repeat because of their keys.

    Args:
        engine: a prepared engine.
        function: called with an open `Session`; it neither commits nor catches database errors.
        write: whether the function writes.
        settings: None for the settings of the environment.

    Returns:
        The result of the function.

    Raises:
        RecommenderError: a database error; the driver's error is its ``__cause__``.
    """
    settings = settings or Settings.from_environment()
    unit_engine = writing(engine) if write else engine

    def unit() -> T:
        with Session(unit_engine) as session, session.begin():
            return function(session)

    with translate_errors():
        return retried(unit, settings.tries)


def run_on(bind: Engine | Connection, function: Callable[[Session], T], *, settings: Settings) -> T:
    """Run a function that writes: as `run_transaction` does, or in a connection's transaction."""
    if isinstance(bind, Engine):
        return run_transaction(bind, function, settings=settings)
    if not bind.in_transaction():
        bind.begin()  # else the session would begin and end a transaction of its own
    with translate_errors(), Session(bind, join_transaction_mode="rollback_only") as session:
        return function(session)


def retried(
    unit: Callable[[], T], tries: int, is_passing: Callable[[DBAPIError], bool] | None = None
) -> T:
    """Return the result of a unit of work, which is repeated after transient errors.

    Args:
        unit: begins and ends its own transaction.
        tries: the maximum number of attempts.
        is_passing: tells transient errors; None for conflicts and lost connections.

    Raises:
        DBAPIError: the driver's error in the last attempt, or an error that is not transient.
    """
    is_passing = is_passing or _is_retryable
    for attempt in range(tries):
        try:
            return unit()
        except DBAPIError as error:
            if attempt + 1 == tries or not is_passing(error):
                raise
            count_retry(_state(error))
            time.sleep(_delay(attempt))
    raise AssertionError("unreachable: the last try returns or raises")


def _delay(attempt: int) -> float:
    longest: float = min(LONGEST_DELAY, 0.1 * 4**attempt)
    return longest * secrets.SystemRandom().uniform(0.5, 1)


def is_busy(error: DBAPIError) -> bool:
    """Return whether an error is a conflict with another transaction, or a lock timeout."""
    return _state(error).startswith(_BUSY)


def is_timeout(error: DBAPIError) -> bool:
    """Return whether PostgreSQL cancelled a statement, as it does after `statement_timeout`."""
    return _state(error) == CANCELLED


def _is_retryable(error: DBAPIError) -> bool:
    return error.connection_invalidated or is_busy(error) or _state(error).startswith(_LOST)


def _state(error: DBAPIError) -> str:
    """Return the SQLSTATE or SQLite's error name; 08000 if a connection failed without either."""
    original: Any = error.orig
    state = getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None)
    is_operational = isinstance(error, sa.exc.OperationalError)
    return state or ("08000" if is_operational else "")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate the errors of SQLAlchemy and the driver in a ``with`` block.

    A function that takes the host's session lets them through, since the transaction is the host's.
    The code of an error decides, and its text only on SQLite if a table or column is missing. The
    original error is the ``__cause__``. It works around ``await session.run_sync(…)`` too.

    Raises:
        DatabaseBusy: a deadlock, a serialization failure or a lock timeout; the transaction can run
            again from its beginning.
        RecommenderError: any other database error, as its most exact class.
    """
    try:
        yield
    except NoConnection as error:
        raise PoolTimeout from error
    except DBAPIError as error:
        raise _translated(error) from error


def _translated(error: DBAPIError) -> RecommenderError:
    state = _state(error)
    if state in _ADVICE:
        kind, advice = _ADVICE[state]
        return kind(advice)
    if state == "SQLITE_ERROR" and _UNPREPARED.match(str(error.orig)):
        return RecommenderError(
            "the engine has no functions of this package: call recommender.prepare_engine(engine)"
            " before its first connection"
        )
    if state == "SQLITE_ERROR" and _MISSING_ON_SQLITE.match(str(error.orig)):
        state = UNDEFINED_TABLE
    message = str(error.orig).strip().partition("\n")[0]
    if state == UNDEFINED_TABLE and (missing := _missing_table(message)):
        return missing
    for prefix, translation in (*_ERROR_OF_SQLSTATE, *_ERROR_OF_SQLITE):
        if state.startswith(prefix):
            return translation(f"{translation().args[0]} ({message})")
    if error.connection_invalidated:
        return DatabaseUnreachable()
    return RecommenderError(f"the database refused a statement ({state or type(error).__name__})")


def _missing_table(message: str) -> RecommenderError | None:
    """Return the error of a missing table that no migration makes; None for another table."""
    if space := _MISSING_SPACE.search(message):
        return NotFound(NO_SPACE.format(space[1]))
    if _MISSING_TABLE.match(message):
        return SchemaOutOfDate(f"The database lacks a table of the application's. ({message})")
    return None


@contextmanager
def long_transaction(connection: Connection, settings: Settings) -> Iterator[None]:
    """Run a transaction whose statements may take as long as the statements of a refresh."""
    with connection.begin():
        if connection.dialect.name != "sqlite":
            longest = f"{settings.rollup_timeout * 1000:.0f}"
            limit = sa.func.set_config("statement_timeout", longest, True)  # noqa: FBT003 - SQL's
            connection.execute(sa.select(limit))
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable the cyclic garbage collector while a batch or a command runs."""
    # A batch makes about 100,000 objects without cycles; searching for them took 20 % of its time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
