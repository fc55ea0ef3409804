"""Settings of PostgreSQL for one connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from recommender.settings import Settings

LONGEST_MIGRATION = 86_400.0


def milliseconds(seconds: float) -> str:
    """Return a time limit as PostgreSQL reads it."""
    return f"{seconds * 1000:.0f}"


def migration_limits(settings: Settings) -> dict[str, str]:
    """Return the limits of a migration: a short wait for locks, long statements."""
    return {
        "lock_timeout": milliseconds(settings.migration_lock_timeout),
        "statement_timeout": milliseconds(LONGEST_MIGRATION),
        "idle_in_transaction_session_timeout": milliseconds(LONGEST_MIGRATION),
    }


def set_for_connection(connection: Connection, values: Mapping[str, str]) -> None:
    """Set settings for as long as a connection lasts, or the transaction if a pooler is between.

    A pooler gives the server's connection to other clients after the transaction, with all that was
    set for longer.
    """
    driver_connection: Any = connection.connection.driver_connection
    # A pooler gives its clients process ids of its own.
    is_pooled = sa.func.pg_backend_pid() != driver_connection.info.backend_pid
    connection.execute(
        sa.select(*(sa.func.set_config(*pair, is_pooled) for pair in values.items()))
    )
