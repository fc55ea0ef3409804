"""Schemas of databases: migrated, listed from the catalogue, and compared."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from recommender.database import migrations
from recommender.database.engine import create_engine
from recommender.database.transactions import writing
from recommender.models.types import VERSION_TABLE
from recommender.settings import Settings

ROOT = Path(__file__).parents[2]

UPGRADE_LOCK = 7_260_734_851_093_115


POSTGRES_CATALOGUE = {
    "columns": """
        SELECT c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum),
               a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attidentity::text, l.collname, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": """
        SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid)
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace = 'public'::regnamespace""",
    "sequences": """
        SELECT sequencename, 1, data_type::text, start_value, increment_by, cycle
        FROM pg_sequences WHERE schemaname = 'public'""",
    "types": """
        SELECT typname, typtype::text FROM pg_type
        WHERE typtype IN ('e', 'd') AND typnamespace = 'public'::regnamespace""",
    "functions": """
        SELECT proname, pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace""",
    "triggers": """
        SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger
        WHERE NOT tgisinternal""",
}


def catalogue(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the catalogue of a database, without the version table."""
    parts = sqlite_catalogue(url) if url.startswith("sqlite") else postgres_catalogue(url)
    return {
        part: sorted((row for row in rows if not str(row[0]).startswith(VERSION_TABLE)), key=repr)
        for part, rows in parts.items()
    }


def sqlite_catalogue(url: str) -> dict[str, list[tuple[Any, ...]]]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    listed = "SELECT tbl_name, type, name, sql FROM sqlite_master"
    master = [(*row[:3], as_written(row[3])) for row in connection.execute(listed)]
    columns = "SELECT m.name, c.* FROM sqlite_master m, pragma_table_xinfo(m.name) c"
    found = {"master": master, "columns": connection.execute(columns).fetchall()}
    connection.close()
    return found


def as_written(statement: str | None) -> list[str]:
    """Return the sorted parts of a CREATE: order, lines and quotes have no meaning."""
    # A comma in parentheses separates no parts. SQLite writes an added column behind another one.
    parts = re.split(r"\n|,(?![^()]*\))", (statement or "").replace('"', ""))
    lines = (part.strip(" \t,") for part in parts)
    return sorted(line for line in lines if line)


def postgres_catalogue(url: str) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(url) as connection:
        return {
            part: connection.execute(query).fetchall() for part, query in POSTGRES_CATALOGUE.items()
        }


def tables(url: str) -> set[str]:
    bind = create_engine(url)
    found = set(sa.inspect(bind).get_table_names())
    bind.dispose()
    return found


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    bind = create_engine(url)
    with bind.connect() as connection:
        found = [tuple(row) for row in connection.execute(sa.text(query))]
    bind.dispose()
    return found


def execute(url: str, *statements: str) -> None:
    bind = create_engine(url)
    with writing(bind).begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    bind.dispose()


def upgrade(url: str, revision: str = "head", **settings: Any) -> None:
    migrations.upgrade(url, revision, settings=Settings(**settings))


def downgrade(url: str, revision: str = "base", **settings: Any) -> None:
    migrations.downgrade(url, revision, settings=Settings(**settings))


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "RECOMMENDER_DATABASE_URL": url}


def alembic(url: str, *arguments: str) -> str:
    """Run `alembic` in the checkout and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT, env=environment(url), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def scripts() -> ScriptDirectory:
    return ScriptDirectory(str(migrations.migrations_folder()))


def add_migration(folder: Path, revision: str, after: str, body: str) -> None:
    """Write one more migration."""
    head = f'"""{revision}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
    named = f'revision = "{revision}"\ndown_revision = "{after}"\n'
    (folder / "versions" / f"{revision}_later.py").write_text(head + named + body)
