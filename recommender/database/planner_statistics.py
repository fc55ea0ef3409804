"""What PostgreSQL knows of our tables when it plans: without it, a page reads tables for indexes.

Autovacuum writes it some time after an import, so whoever filled a table sees to it here. SQLite
plans well without, and worse with.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.transactions import run_transaction
from recommender.errors import RecommenderError
from recommender.logs import LOGGER
from recommender.models.types import Base
from recommender.settings import Settings

FAR_OFF = 2.0
"""Growth of a table after which PostgreSQL's statistics of it are made anew."""

_TABLE = sa.table(
    "pg_class", *map(sa.column, ("oid", "relname", "relkind", "relpages", "reltuples")),
    schema="pg_catalog",
)  # fmt: skip

_STATISTICS = sa.table("pg_stats", sa.column("tablename"), schema="pg_catalog")


def unplanned_tables(session: Session) -> list[str]:
    """Our tables, with rows, whose statistics are missing or far off, sorted: on PostgreSQL only.

    It reads the catalogue and no table. Of a table that a role may not read nothing is known to it.
    """
    size = sa.func.pg_relation_size(sa.cast(_TABLE.c.oid, OID), type_=sa.BigInteger)
    block = sa.cast(sa.func.current_setting("block_size"), sa.BigInteger)
    known = sa.exists().where(_STATISTICS.c.tablename == _TABLE.c.relname)
    statement = (
        sa.select(_TABLE.c.relname)
        .where(
            _TABLE.c.relname.in_(list(Base.metadata.tables)),
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


def analyze(engine: Engine, settings: Settings) -> None:
    """Let PostgreSQL look at our tables whose statistics are missing or far off.

    A table that another looks at is skipped, and so is one that the role may not; nothing is
    raised, since what was written before is in.
    """
    if engine.dialect.name == "sqlite":
        return
    try:
        run_transaction(engine, _analyze, settings=settings)
    except RecommenderError as error:
        LOGGER.warning("PostgreSQL's statistics are not up to date: %s", error)


def _analyze(session: Session) -> None:
    for name in unplanned_tables(session):
        statement = sa.DDL("ANALYZE (SKIP_LOCKED) %(fullname)s")  # type: ignore[no-untyped-call]
        lookup.connection(session).execute(statement.against(Base.metadata.tables[name]))
