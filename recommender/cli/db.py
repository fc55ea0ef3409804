"""``db upgrade|downgrade|current|history|check|distribute|roles``."""

from __future__ import annotations

import click

from recommender.cli.database import create_file, engine, sqlite_path, wait_until_reachable
from recommender.cli.options import NumberRange, database_option, format_option, settings
from recommender.cli.output import print_records
from recommender.database import distributed, migrations
from recommender.database.schema import schema_revision
from recommender.database.transactions import translate_errors
from recommender.operations.roles import roles_sql


@click.group()
def db() -> None:
    """Create, upgrade and check the database tables."""


@db.command()
@click.argument("revision", default="head")
@database_option
def upgrade(revision: str) -> None:
    """Upgrade the database to a migration, by default the newest."""
    with engine(must_exist=False) as bind:
        if (path := sqlite_path()) and not path.exists():
            create_file(path)
        migrations.upgrade(bind, revision, settings=settings())
    _say_current()


@db.command()
@click.argument("revision")
@database_option
def downgrade(revision: str) -> None:
    """Take the database back to a migration; `base` drops all tables and their data."""
    with engine(must_exist=False) as bind:
        migrations.downgrade(bind, revision, settings=settings())
    _say_current()


@db.command()
@database_option
def current() -> None:
    """Print the migration that the database is at."""
    click.echo(_current() or "none")


@db.command()
@format_option
@database_option
def history(form: str | None) -> None:
    """List every migration, the newest first."""
    with engine() as bind:
        revisions = migrations.history(bind)
    rows = [
        {"revision": one.revision, "summary": one.summary, "applied": one.applied}
        for one in revisions
    ]
    print_records(rows, form)


@db.command()
@click.option(
    "--wait",
    type=NumberRange(0, 3600),
    default=0,
    metavar="SECONDS",
    help="The time to wait for a database that cannot be reached yet.",
)
@database_option
def check(wait: float) -> None:
    """Exit with 0 if the schema is what this version needs, else with 78."""
    with engine() as bind:
        wait_until_reachable(bind, wait)
        migrations.check(bind)
    click.echo("The schema is up to date.", err=True)


@db.command()
@click.option("--with-data", is_flag=True, help="Move existing rows. Writers wait meanwhile.")
@database_option
def distribute(*, with_data: bool) -> None:
    """Distribute the tables over the nodes of a Citus cluster; all but the list `reach` works."""
    with engine() as bind:
        made = distributed.distribute(bind, with_data=with_data, settings=settings())
    click.echo(f"{len(made)} tables were distributed.", err=True)


@db.command()
def roles() -> None:
    """Print the SQL of three PostgreSQL roles with least privilege."""
    click.echo(roles_sql(), nl=False)


def _current() -> str | None:
    with engine() as bind, translate_errors(), bind.connect() as connection:
        return schema_revision(connection)


def _say_current() -> None:
    click.echo(f"The database is at migration {_current() or 'none'}.", err=True)
