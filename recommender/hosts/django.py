"""Sessions inside Django's transactions, on Django's own connections."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
import sqlalchemy as sa
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.transaction import TransactionManagementError
from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from recommender.database.engine import add_functions, create_engine
from recommender.database.transactions import translate_errors
from recommender.errors import InvalidValue

_DRIVERS = {"postgresql": "postgresql+psycopg", "sqlite": "sqlite"}


@contextmanager
def django_session(using: str = DEFAULT_DB_ALIAS) -> Iterator[Session]:
    """Open a session in Django's current transaction, on Django's own connection.

    Django commits or rolls back what the session wrote, together with everything else in the
    ``transaction.atomic()`` block. The session works in a savepoint, which an exception rolls back.
    ``commit()`` and ``rollback()`` of the session end this savepoint only. Driver errors become
    errors of this package. Django's ``connection.queries`` does not show the session's statements.

    On SQLite the database needs ``"OPTIONS": {"transaction_mode": "IMMEDIATE"}``; otherwise two
    writers can fail with "database is locked".

    Args:
        using: the alias of a database in Django's settings: PostgreSQL with psycopg 3, or SQLite.

    Raises:
        InvalidValue: the database is another one.
        TransactionManagementError: no ``transaction.atomic()`` block of this database is open, or
            an error in it was caught, so that it can only be rolled back.
        RecommenderError: a database error.
    """
    host = connections[using]
    if not host.in_atomic_block:
        raise TransactionManagementError("django_session() needs an open transaction.atomic()")
    host.validate_no_broken_transaction()
    with (
        translate_errors(),
        _engine(using, host.vendor).begin() as connection,
        Session(connection, join_transaction_mode="create_savepoint") as session,
    ):
        yield session
        session.commit()


@contextmanager
def django_engine(using: str = DEFAULT_DB_ALIAS) -> Iterator[Engine]:
    """Open an engine of this package on one of Django's databases, such as for `refresh`.

    Its connections and transactions are its own: they do not see what Django has not committed.
    The engine is closed at the end.

    Args:
        using: the alias of a database in Django's settings: PostgreSQL, or a file of SQLite.

    Raises:
        InvalidValue: the database is another one.
    """
    engine = create_engine(_url(using))
    try:
        yield engine
    finally:
        engine.dispose()


_DJANGOS_OWN = {
    "assume_role",
    "isolation_level",
    "pool",
    "prepare_threshold",
    "server_side_binding",
}
"""The options that Django's PostgreSQL backend or psycopg reads, and not libpq."""


def _url(using: str) -> URL:
    host = connections[using]
    given = host.settings_dict
    url = URL.create(_driver(using, host.vendor), database=str(given["NAME"]))
    if host.vendor == "sqlite":
        return url
    options = {
        name: str(value) for name, value in given["OPTIONS"].items() if name not in _DJANGOS_OWN
    }
    return url.set(
        username=given["USER"] or None,
        password=given["PASSWORD"] or None,
        host=given["HOST"] or None,
        port=int(given["PORT"]) if given["PORT"] else None,
        query=options,
    )


def _driver(using: str, vendor: str) -> str:
    if vendor not in _DRIVERS:
        raise InvalidValue(f"Django's database {using!r} is neither PostgreSQL nor SQLite")
    return _DRIVERS[vendor]


@cache
def _engine(using: str, vendor: str) -> Engine:
    """Return the engine that borrows Django's connections; its compiled statements are kept."""
    lend = {"postgresql": _BorrowedPostgresql, "sqlite": _BorrowedSqlite}
    options = {"use_native_hstore": False} if vendor == "postgresql" else {}
    return sa.create_engine(
        f"{_driver(using, vendor)}://",
        creator=lambda: lend[vendor](connections[using].connection),
        poolclass=NullPool,
        hide_parameters=True,
        **options,
    )


class _Borrowed:
    """A connection of Django that SQLAlchemy can neither commit, roll back, close nor change."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _leave(self, *_arguments: Any, **_options: Any) -> None:
        """Do nothing."""

    commit = rollback = close = _leave
    add_notice_handler = create_function = _leave  # SQLAlchemy's hooks of a new connection


class _Adapters:
    """A cursor with psycopg's own adapters: Django's give JSON as text and times without zone."""

    adapters = psycopg.adapters


class _Cursor(_Adapters, psycopg.Cursor[Any]):
    """A cursor that binds values on the server, unlike Django's."""


class _NamedCursor(_Adapters, psycopg.ServerCursor[Any]):
    """The same for results that are streamed."""


class _BorrowedPostgresql(_Borrowed):
    def cursor(self, name: str = "") -> psycopg.Cursor[Any]:
        """Return a new cursor; a named one lives on the server."""
        return _NamedCursor(self._connection, name) if name else _Cursor(self._connection)


class _BorrowedSqlite(_Borrowed):
    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        add_functions(connection)
