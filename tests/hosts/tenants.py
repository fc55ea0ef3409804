"""One schema a tenant, in one PostgreSQL database and through one pool of connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

import recommender

T = TypeVar("T")


class Tenants:
    """The tenants of a database. Each has the tables of the recommender in its own schema."""

    def __init__(self, url: str) -> None:
        self.pool = recommender.create_engine(url)
        event.listen(self.pool, "begin", enter_schema)

    def engine(self, tenant: str) -> Engine:
        """Return the engine of a tenant, for all functions of the recommender."""
        return self.pool.execution_options(tenant=tenant)

    def create(self, tenant: str) -> None:
        """Create the schema and the tables of a tenant, or upgrade them: one transaction."""
        with self.engine(tenant).begin() as connection:
            connection.execute(sa.schema.CreateSchema(tenant, if_not_exists=True))
            recommender.upgrade(connection)

    def run(self, tenant: str, function: Callable[[Session], T]) -> T:
        """Run a function in a transaction of a tenant."""
        return recommender.run_transaction(self.engine(tenant), function)

    def refresh(self, tenants: list[str]) -> None:
        """Update what is computed from the behaviour of the users of each tenant."""
        for tenant in tenants:
            recommender.refresh(self.engine(tenant))


def enter_schema(connection: Connection) -> None:
    """Let the names of a transaction mean tables of its tenant."""
    # The setting ends with the transaction. So no connection of the pool, or of PgBouncer in
    # transaction mode, keeps it for another tenant. Without a tenant no table is found.
    tenant = connection.get_execution_options().get("tenant", "pg_catalog")
    quoted = connection.dialect.identifier_preparer.quote(tenant)
    connection.execute(sa.select(sa.func.set_config("search_path", quoted, sa.true())))
