"""The migrations of the schema, run with Alembic: upgrade, downgrade, history, check."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import URL, Engine

from recommender.database.engine import check_schema, schema_revision
from recommender.database.transactions import is_busy, retried, translate_errors
from recommender.errors import InvalidValue, RecommenderError, SchemaOutOfDate
from recommender.models.types import VERSION_TABLE, Base
from recommender.settings import Settings


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


def upgrade(url: str | URL, revision: str = "head", *, settings: Settings | None = None) -> None:
    """Upgrade the database to a migration; concurrent upgrades wait for each other.

    It waits for a locked table for at most `Settings.migration_lock_timeout`, because later queries
    queue behind it. Then it lets them pass and tries again, `Settings.tries` times in total.

    Raises:
        DatabaseBusy: a table was locked on every try, or another upgrade did not finish.
        InvalidValue: there is no such migration.
        SchemaOutOfDate: the database is at a migration that this package does not know.
        RecommenderError: a database error.
    """
    _run(command.upgrade, url, revision, settings)


def downgrade(url: str | URL, revision: str, *, settings: Settings | None = None) -> None:
    """Downgrade the database to a migration, or to none (``base``); it waits as `upgrade` does.

    The data in the tables and columns that it removes is lost.

    Raises:
        DatabaseBusy: a table was locked on every try, or another upgrade did not finish.
        InvalidValue: there is no such migration.
        SchemaOutOfDate: the database is at a migration that this package does not know.
        RecommenderError: a database error.
    """
    _run(command.downgrade, url, revision, settings)


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
        }
        context = MigrationContext.configure(connection, opts=options)
        if differences := compare_metadata(context, Base.metadata):
            raise SchemaOutOfDate(
                f"the schema differs from this package's in {len(differences)} places,"
                f" first: {differences[0]}"
            )


def _run(
    move: Callable[[Config, str], None],
    url: str | URL,
    revision: str,
    settings: Settings | None,
) -> None:
    target = _known(revision)
    settings = settings or Settings.from_environment()
    with _alembic_errors():
        retried(lambda: move(_config(url=url, settings=settings), target), settings.tries, is_busy)


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
