"""``refresh``."""

from __future__ import annotations

import time
from datetime import datetime

import click
from sqlalchemy import Engine

import recommender
from recommender.cli.database import engine
from recommender.cli.lacks import say_lacks
from recommender.cli.options import as_of_option, database_option, format_option, settings
from recommender.cli.output import print_records
from recommender.database.schema import check_schema
from recommender.database.transactions import translate_errors
from recommender.errors import DatabaseBusy, DatabaseUnreachable
from recommender.learning.refresh import RefreshReport

LONGEST_WAIT = 86_400


@click.command()
@click.option("--rebuild", is_flag=True, help="Compute everything again from the log.")
@click.option(
    "--every",
    type=click.IntRange(1, LONGEST_WAIT),
    metavar="SECONDS",
    help="Repeat with a pause of this many seconds; Ctrl-C ends it.",
)
@as_of_option
@format_option
@database_option
def refresh(*, rebuild: bool, every: int | None, as_of: datetime | None, form: str | None) -> None:
    """Bring statistics and similar videos up to date with new events."""
    if every is not None and as_of is not None:
        raise click.UsageError("--as-of is one time, and --every repeats: give one of them")
    with engine() as bind:
        if every is None:
            _print(_refresh(bind, rebuild=rebuild, as_of=as_of), form)
            say_lacks(bind)
            return
        while True:
            try:
                _print(_refresh(bind, rebuild=rebuild), form)
                rebuild = False
            except (DatabaseBusy, DatabaseUnreachable) as error:
                click.echo(f"Error: {error} Trying again.", err=True)
            time.sleep(every)


def _refresh(bind: Engine, *, rebuild: bool, as_of: datetime | None = None) -> RefreshReport:
    with translate_errors(), bind.connect() as connection:
        check_schema(connection)
    return recommender.refresh(bind, as_of=as_of, settings=settings(), rebuild=rebuild)


def _print(report: RefreshReport, form: str | None) -> None:
    print_records([report.as_dict()], form, whole=report.as_dict())
