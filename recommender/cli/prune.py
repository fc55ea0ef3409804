"""``prune``."""

from __future__ import annotations

from datetime import timedelta

import click

import recommender
from recommender.cli.database import readable
from recommender.cli.options import Length, database_option, format_option, settings
from recommender.cli.output import print_records


@click.command()
@click.option(
    "--events-older-than",
    type=Length(),
    metavar="LENGTH",
    help="Delete events older than this, such as 180d. Later imports refuse older events.",
)
@click.option(
    "--sessions-older-than",
    type=Length(),
    metavar="LENGTH",
    help="Delete sessions whose last page is older than this, such as 30d.",
)
@click.option("--force", is_flag=True, help="Delete also what a running experiment reads.")
@format_option
@database_option
def prune(
    events_older_than: timedelta | None,
    sessions_older_than: timedelta | None,
    force: bool,  # noqa: FBT001 - click passes by name
    form: str | None,
) -> None:
    """Delete what has expired, and old events and sessions.

    What was learned stays. Without options, only expired candidates from outside and old
    suggestions of people are deleted.
    """
    with readable() as bind:
        report = recommender.prune(
            bind,
            events_older_than=events_older_than,
            sessions_older_than=sessions_older_than,
            force=force,
            settings=settings(),
        )
    if report.waiting:
        waiting = (
            f"{report.waiting:,} events stay until they are counted: run `recommender refresh`"
        )
        click.echo(waiting, err=True)
    print_records([report.as_dict()], form, whole=report.as_dict())
