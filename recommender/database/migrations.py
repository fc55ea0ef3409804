"""The migrations of the schema, run with Alembic: upgrade, downgrade, history, check."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import alembic.context
import alembic.op
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, exists, select

from recommender.database.engine import create_engine
from recommender.database.schema import check_schema, schema_revision
from recommender.database.transactions import is_busy, retried, translate_errors
from recommender.errors import InvalidValue, RecommenderError, SchemaOutOfDate
from recommender.models.types import PREFIX, VERSION_TABLE, Base
from recommender.settings import Settings
from recommender.telemetry import traced


@dataclass(frozen=True, slots=True)
class Revision:
    """A migration: its id, a summary, and whether it is applied."""

    revision: str
    summary: str
    applied: bool


def migrations_folder() -> Path:
    """Return the folder of the migrations: in the package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


Bind = str | URL | Engine | Connection


@traced
def upgrade(bind: Bind, revision: str = "head", *, settings: Settings | None = None) -> None:
    """Upgrade the tables of the recommender to a migration; concurrent upgrades wait.

    With an engine, an upgrade is one transaction of its own, retried while a table is locked. On
    PostgreSQL it waits for a locked table for at most `Settings.migration_lock_timeout`, because
    later queries queue behind it. It uses two connections of the engine.

    With a connection, everything stays in the caller's transaction, which the caller commits or
    rolls back. There the caller's time limits apply. Indexes are built without CONCURRENTLY, so
    they block writers of their table until the transaction ends. Other upgrades wait until then.

    Args:
        bind: an engine, a connection, or a database URL.
        revision: a migration, by default the newest.
        settings: None for the settings of the environment.

    Raises:
        DatabaseBusy: a table was locked on every try, or another upgrade did not finish.
        InvalidValue: there is no such migration, or `bind` is none of the three.
        SchemaOutOfDate: the database is at a migration that this package does not know, or has
            tables with its names that no migration made.
        RecommenderError: a database error; or SQLite would have to rebuild tables in the caller's
            transaction while foreign keys are on.
    """
    _run(command.upgrade, bind, revision, settings)


def downgrade(bind: Bind, revision: str, *, settings: Settings | None = None) -> None:
    """Downgrade the database to a migration, or to none (``base``); it works as `upgrade` does.

    The data in the tables and columns that it removes is lost.

    Raises:
        RecommenderError: the same errors as of `upgrade`.
    """
    _run(command.downgrade, bind, revision, settings)


@contextmanager
def index_options(context: MigrationContext) -> Iterator[dict[str, bool]]:
    """Provide the options with which a migration adds or drops an index of an existing table.

    On PostgreSQL the index is built CONCURRENTLY and outside a transaction, unless the migration
    runs in the caller's transaction.
    """
    if context.opts.get("is_callers"):
        yield {}
        return
    with context.autocommit_block():
        yield {"postgresql_concurrently": True}


@contextmanager
def committing(context: MigrationContext) -> Iterator[bool]:
    """Commit what a migration did so far on PostgreSQL, and then each statement by itself.

    It yields False, and changes nothing, on SQLite, in the caller's transaction, and in a database
    without users. So the migrations of a new database are one transaction.
    """
    is_postgresql = context.dialect.name == "postgresql"
    if not is_postgresql or context.opts.get("is_callers") or not _has_users(context):
        yield False
        return
    with context.autocommit_block():
        yield True


def _has_users(context: MigrationContext) -> bool:
    """Return whether there are users; True if the migration only prints SQL."""
    users = Base.metadata.tables[f"{PREFIX}users"]
    any_user = select(exists().select_from(users))
    return context.as_sql or bool(context.connection and context.connection.scalar(any_user))


@contextmanager
def kept_rows(name: str, columns: Sequence[str]) -> Iterator[None]:
    """Keep the rows of a table on SQLite while a migration makes it again, in one transaction.

    Other tables may refer to the table, with foreign keys on or off. The table is dropped first.

    Args:
        name: the table, which has an AUTOINCREMENT key.
        columns: the columns that the old and the new table have.
    """
    names = {"table": name, "kept": f"{name}_kept", "numbers": f"{name}_numbers"}

    def execute(*statements: str) -> None:
        for statement in statements:
            alembic.op.execute(sa.DDL(statement, context=names))  # type: ignore[no-untyped-call]

    # A reference is checked at the end of the transaction. A renamed table would not satisfy it,
    # but rows that are inserted do.
    execute(
        "PRAGMA defer_foreign_keys = ON",
        "CREATE TEMPORARY TABLE %(kept)s AS SELECT * FROM %(table)s",
        "CREATE TEMPORARY TABLE %(numbers)s AS SELECT * FROM sqlite_sequence"
        " WHERE name = '%(table)s'",
        "DROP TABLE %(table)s",
    )
    yield
    old, new = (sa.table(one, *map(sa.column, columns)) for one in (names["kept"], name))
    alembic.op.execute(sa.insert(new).from_select(columns, sa.select(old)))
    execute(
        "DELETE FROM sqlite_sequence WHERE name = '%(table)s'",
        "INSERT INTO sqlite_sequence SELECT * FROM %(numbers)s",
        "DROP TABLE %(kept)s",
        "DROP TABLE %(numbers)s",
    )


def history(engine: Engine) -> tuple[Revision, ...]:
    """Return all migrations, newest first.

    Raises:
        SchemaOutOfDate: the database is at a migration that this package does not know.
        RecommenderError: a database error.
    """
    script = ScriptDirectory.from_config(_config())
    with _alembic_errors(), engine.connect() as connection:
        current = schema_revision(connection) or "base"
        applied = {migration.revision for migration in script.walk_revisions(head=current)}
    return tuple(
        Revision(migration.revision, migration.doc.rstrip("."), migration.revision in applied)
        for migration in script.walk_revisions()
    )


def check(engine: Engine) -> None:
    """Raise `SchemaOutOfDate` unless the schema is at head and equals the models."""
    with translate_errors(), engine.connect() as connection:
        check_schema(connection)
        options = {
            "version_table": VERSION_TABLE,
            "include_name": lambda name, kind, _: kind != "table" or name in Base.metadata.tables,
            "include_object": lambda item, *_: is_made_on(connection.dialect, item),
        }
        context = MigrationContext.configure(connection, opts=options)
        if differences := compare_metadata(context, Base.metadata):
            raise SchemaOutOfDate(
                f"the schema differs from this package's in {len(differences)} places,"
                f" first: {differences[0]}"
            )


def is_made_on(dialect: sa.Dialect, item: sa.schema.SchemaItem) -> bool:
    """Return whether a database of this kind has a table, column or constraint of the models."""
    only_on: str = item.info.get("only_on", dialect.name)
    return only_on == dialect.name


def _run(
    move: Callable[[Config, str], None], bind: Bind, revision: str, settings: Settings | None
) -> None:
    target = _known(revision)
    settings = settings or Settings.from_environment()
    with _only_run(), _alembic_errors():
        if isinstance(bind, Connection):
            if not bind.in_transaction():
                bind.begin()
            move(_config(connection=bind, settings=settings), target)
            return
        with _engine_on(bind, settings) as engine:
            unit = partial(_move, move, engine, target, settings)
            retried(unit, settings.tries, is_busy)


def _move(
    move: Callable[[Config, str], None], engine: Engine, target: str, settings: Settings
) -> None:
    move(_config(engine=engine, settings=settings), target)


@contextmanager
def _engine_on(bind: Bind, settings: Settings) -> Iterator[Engine]:
    """Provide the caller's engine, or one on a database URL."""
    if isinstance(bind, Engine):
        yield bind
    elif isinstance(bind, str | URL):
        engine = create_engine(bind, settings=settings)
        try:
            yield engine
        finally:
            engine.dispose()
    else:
        raise InvalidValue(
            f"bind: a {type(bind).__name__} is no Engine, Connection or URL; with an async engine,"
            " call `await connection.run_sync(recommender.upgrade)`"
        )


@contextmanager
def _only_run() -> Iterator[None]:
    """Run Alembic once at a time, and leave a migration of the host that calls it as it was."""
    # `alembic.op` and `alembic.context` refer to one migration per process: the last one begun.
    with _ALEMBIC:
        outer = [vars(module).get("_proxy") for module in (alembic.op, alembic.context)]
        try:
            yield
        finally:
            for proxy in filter(None, outer):
                proxy._install_proxy()  # noqa: SLF001 - Alembic offers no other way


_ALEMBIC = RLock()


def _config(**attributes: Any) -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def _known(revision: str) -> str:
    """Return an existing revision, or raise `InvalidValue`."""
    # Alembic's own relative forms, such as -1, would fail with tracebacks.
    script = ScriptDirectory.from_config(_config())
    if revision in {
        "head",
        "base",
        *(script_revision.revision for script_revision in script.walk_revisions()),
    }:
        return revision
    raise InvalidValue(f"there is no migration {revision!r}: see `recommender db history`")


@contextmanager
def _alembic_errors() -> Iterator[None]:
    with translate_errors():
        try:
            yield
        except CommandError as error:
            if isinstance(error.__cause__, ResolutionError):
                raise SchemaOutOfDate(
                    f"the database is at migration {error.__cause__.argument}, which this package"
                    " does not know: upgrade the package"
                ) from error
            raise RecommenderError(f"the migration did not run: {error}") from error
