"""The planner statistics of PostgreSQL; without them, a page reads whole tables.

Autovacuum updates the statistics some time after an import, so callers that load many rows run
ANALYZE here. SQLite does better without ANALYZE.
"""

from __future__ import annotations

from contextlib import nullcontext

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.partitions import is_ours
from recommender.database.transactions import run_on
from recommender.errors import RecommenderError
from recommender.logs import LOGGER
from recommender.settings import Settings

FAR_OFF = 2.0
"""The growth of a table after which its statistics are outdated."""

_TABLE = sa.table(
    "pg_class", *map(sa.column, ("oid", "relname", "relkind", "relpages", "reltuples")),
    schema="pg_catalog",
)  # fmt: skip

_STATISTICS = sa.table("pg_stats", sa.column("tablename"), schema="pg_catalog")


def unplanned_tables(session: Session) -> list[str]:
    """Return our tables whose statistics are missing or outdated, sorted; PostgreSQL only.

    Empty tables are left out, and tables that the role may not read. Only the catalogue is read.
    """
    size = sa.func.pg_relation_size(sa.cast(_TABLE.c.oid, OID), type_=sa.BigInteger)
    block = sa.cast(sa.func.current_setting("block_size"), sa.BigInteger)
    known = sa.exists().where(_STATISTICS.c.tablename == _TABLE.c.relname)
    statement = (
        sa.select(_TABLE.c.relname)
        .where(
            is_ours(_TABLE.c.relname),
            _TABLE.c.relkind == "r",
            sa.func.pg_table_is_visible(_TABLE.c.oid),
            size > 0,
            sa.or_(
                size > FAR_OFF * _TABLE.c.relpages * block,
                sa.and_(_TABLE.c.reltuples > 0, ~known),
            ),
        )
        .order_by(_TABLE.c.relname)
    )  # fmt: skip
    return list(lookup.run(session, statement).scalars())


def analyze(bind: Engine | Connection, settings: Settings) -> None:
    """Run ANALYZE on our tables whose statistics are missing or outdated.

    Tables that are locked or that the role may not analyse are skipped. Errors are only logged,
    because the rows that were loaded before are committed.
    """
    if bind.dialect.name == "sqlite":
        return
    try:
        # In the caller's transaction, the savepoint lets it go on after an error.
        with bind.begin_nested() if isinstance(bind, Connection) else nullcontext():
            run_on(bind, _analyze, settings=settings)
    except RecommenderError as error:
        LOGGER.warning("PostgreSQL's statistics are not up to date: %s", error)


def _analyze(session: Session) -> None:
    for name in unplanned_tables(session):
        names = {"name": name}
        statement = sa.DDL("ANALYZE (SKIP_LOCKED) %(name)s", context=names)  # type: ignore[no-untyped-call]
        lookup.connection(session).execute(statement)
