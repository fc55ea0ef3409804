"""Generate the SQL of three PostgreSQL roles with least privilege, to run by hand."""

from __future__ import annotations

from sqlalchemy import Identity

from recommender.models.tables import SERVED
from recommender.models.types import VERSION_TABLE, Base

_SQL = """\
-- Run this once as a superuser, in the database and after `recommender db upgrade`.
-- Then set a password for each role (in psql: \\password recommender_application), and use it in
-- the URL.

-- recommender_migrator owns the tables: `recommender db upgrade` and `db downgrade`, and `prune`,
-- which makes and drops partitions.
-- recommender_application reads and writes rows: every other command.
-- recommender_reader only reads rows: reports, and feeds without serving.
CREATE ROLE recommender_migrator LOGIN;
CREATE ROLE recommender_application LOGIN;
CREATE ROLE recommender_reader LOGIN;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO recommender_migrator;
GRANT USAGE ON SCHEMA public TO recommender_application, recommender_reader;

{owners}

GRANT SELECT ON
{all_tables}
TO recommender_application, recommender_reader;
GRANT INSERT, UPDATE, DELETE ON
{tables}
TO recommender_application;
GRANT USAGE ON SEQUENCE
{sequences}
TO recommender_application;

-- The process that fills a table also runs ANALYZE on it.
DO $$ BEGIN
IF current_setting('server_version_num')::int >= 170000 THEN
GRANT MAINTAIN ON
{tables}
TO recommender_application;
END IF;
END $$;

-- The existing spaces of vectors. Later spaces get the same rights by default.
-- Before the first one, create the extension: CREATE EXTENSION IF NOT EXISTS vector;
DO $$ DECLARE space regclass; BEGIN
FOR space IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relname ^@ 'rec_embeddings_' LOOP
EXECUTE format('ALTER TABLE %s OWNER TO recommender_migrator', space);
EXECUTE format('GRANT SELECT ON %s TO recommender_application, recommender_reader', space);
EXECUTE format('GRANT INSERT, UPDATE, DELETE ON %s TO recommender_application', space);
END LOOP;
END $$;

-- The existing partitions of the log of places. Later ones get the same rights by default.
DO $$ DECLARE part regclass; BEGIN
FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = '{log}'::regclass LOOP
EXECUTE format('ALTER TABLE %s OWNER TO recommender_migrator', part);
EXECUTE format('GRANT SELECT ON %s TO recommender_application, recommender_reader', part);
EXECUTE format('GRANT INSERT, UPDATE, DELETE ON %s TO recommender_application', part);
IF current_setting('server_version_num')::int >= 170000 THEN
EXECUTE format('GRANT MAINTAIN ON %s TO recommender_application', part);
END IF;
END LOOP;
END $$;

-- The same rights for tables that later migrations create.
ALTER DEFAULT PRIVILEGES FOR ROLE recommender_migrator IN SCHEMA public
GRANT SELECT ON TABLES TO recommender_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE recommender_migrator IN SCHEMA public
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO recommender_application;
ALTER DEFAULT PRIVILEGES FOR ROLE recommender_migrator IN SCHEMA public
GRANT USAGE ON SEQUENCES TO recommender_application;
"""


def roles_sql() -> str:
    """Return the SQL of the roles: migrator, application and reader.

    It grants rights only on this package's tables, in the schema `public`. It has no passwords.
    """
    tables = sorted(Base.metadata.tables)
    with_ids = [name for name in tables if _has_identity(name)]
    all_tables = [*tables, VERSION_TABLE]
    return _SQL.format(
        owners="\n".join(
            f"ALTER TABLE {name} OWNER TO recommender_migrator;" for name in all_tables
        ),
        all_tables=_listed(all_tables),
        tables=_listed(tables),
        log=SERVED.name,
        sequences=_listed([f"{name}_id_seq" for name in with_ids]),
    )


def _has_identity(name: str) -> bool:
    return any(isinstance(c.identity, Identity) for c in Base.metadata.tables[name].c)


def _listed(names: list[str]) -> str:
    return ",\n".join(f"    {name}" for name in names)
