"""The schema's migrations, run with Alembic: upgrade, downgrade, current, history, check."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Engine

from recommender.database.engine import check_schema, schema_revision
from recommender.database.transactions import is_busy, retried, translate_errors
from recommender.errors import InvalidValue, RecommenderError, SchemaOutOfDate
from recommender.models.types import VERSION_TABLE, Base
from recommender.settings import Settings


@dataclass(frozen=True, slots=True)
class Revision:
    """One migration: its id, what it does, and whether it is in the database."""

    revision: str
    summary: str
    applied: bool


def migrations_folder() -> Path:
    """Where the migrations are: in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


def upgrade(settings: Settings, revision: str = "head") -> None:
    """Bring the database to a migration; upgrades at the same time wait for each other.

    It waits for a table that others hold no longer than `Settings.migration_lock_timeout`, since
    whoever comes later waits behind it; then it lets them, and tries again, `Settings.tries` times
    at most.

    Raises:
        DatabaseBusy: others held a table on every try, or another upgrade did not finish.
        InvalidValue: there is no such migration.
        SchemaOutOfDate: the database is at a migration that this package does not know.
        RecommenderError: the database refused.
    """
    _run(settings, command.upgrade, revision)


def downgrade(settings: Settings, revision: str) -> None:
    """Take the database back to a migration, or to before the first (``base``); waits alike.

    What the tables and columns hold that it takes away is lost.

    Raises:
        DatabaseBusy: others held a table on every try, or another upgrade did not finish.
        InvalidValue: there is no such migration.
        SchemaOutOfDate: the database is at a migration that this package does not know.
        RecommenderError: the database refused.
    """
    _run(settings, command.downgrade, revision)


def history(engine: Engine) -> tuple[Revision, ...]:
    """Every migration, the newest first.

    Raises:
        SchemaOutOfDate: the database is at a migration that this package does not know.
        RecommenderError: the database refused.
    """
    script = ScriptDirectory.from_config(_config())
    with _alembic_errors(), engine.connect() as connection:
        current = schema_revision(connection) or "base"
        applied = {each.revision for each in script.walk_revisions(head=current)}
    return tuple(
        Revision(each.revision, each.doc.rstrip("."), each.revision in applied)
        for each in script.walk_revisions()
    )


def check(engine: Engine) -> None:
    """Raise `SchemaOutOfDate` unless the database is at head and has just the models' tables."""
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


def _run(settings: Settings, move: Callable[[Config, str], None], revision: str) -> None:
    target = _known(revision)
    with _alembic_errors():
        retried(lambda: move(_config(settings), target), settings.tries, is_busy)


def _config(settings: Settings | None = None) -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["settings"] = settings
    return config


def _known(revision: str) -> str:
    """The revision, where it is one: Alembic's own relative forms fail with tracebacks."""
    script = ScriptDirectory.from_config(_config())
    if revision in {"head", "base", *(each.revision for each in script.walk_revisions())}:
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
