"""An application with its own engine, on PostgreSQL behind PgBouncer in transaction mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender

ROLE_SETTINGS = {
    "statement_timeout": "15s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    "jit": "off",
}


_ALTER = "ALTER ROLE CURRENT_USER SET %(name)s = '%(value)s'"


def prepare_role(direct: Engine) -> None:
    """Give the application's role its settings once, without PgBouncer, with the tables.

    PgBouncer refuses settings at the start of a connection, and `SET` would reach other clients.
    """
    with direct.begin() as connection:
        for name, value in ROLE_SETTINGS.items():
            alter = sa.DDL(_ALTER, context={"name": name, "value": value})
            connection.execute(alter)
    recommender.upgrade(direct)


def make_engine(url: str) -> Engine:
    """Return an engine through PgBouncer, which keeps no prepared statements by default."""
    return sa.create_engine(
        url, pool_pre_ping=True, connect_args={"prepare_threshold": None}, hide_parameters=True
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """Open a session, and commit it; errors of the driver become those of the recommender."""
    with recommender.translate_errors(), Session(engine) as session, session.begin():
        yield session


def watch(engine: Engine, user: str, video: str) -> list[str]:
    """Record a watch, and return the videos of the next page."""
    with transaction(engine) as session:
        recommender.record(session, user, video, "watch", completion=1.0)
        return [item.video for item in recommender.for_you(session, user).items]
