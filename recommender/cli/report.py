"""``report``: one HTML file for people."""

from __future__ import annotations

import webbrowser
from datetime import datetime, timedelta
from pathlib import Path

import click

import recommender
from recommender.cli.database import readable
from recommender.cli.html import html_file
from recommender.cli.options import Length, as_of_option, database_option, settings
from recommender.formats import scalars
from recommender.reports.collect import DEFAULT_LENGTH, SHOWN_PAGES


@click.command()
@click.argument("file", metavar="OUT.html")
@click.option(
    "--since", type=Length(), metavar="AGE", default=f"{DEFAULT_LENGTH.days}d", show_default=True,
    help="How much time it covers, such as 30d; it is compared with as much time before.",
)  # fmt: skip
@click.option(
    "--no-pages", "without_pages", is_flag=True, help="Show no pages of viewers, only figures."
)
@click.option("--open", "opens", is_flag=True, help="Open the file in a browser.")
@as_of_option
@database_option
def report(
    file: str,
    since: timedelta,
    as_of: datetime | None,
    without_pages: bool,  # noqa: FBT001 - click passes a flag by name
    opens: bool,  # noqa: FBT001
) -> None:
    """Write a report for people: one HTML file that opens offline."""
    if opens and file == "-":
        raise click.UsageError("--open needs a file, not -")
    own, until = settings(), as_of or scalars.now()
    with html_file(file) as write, readable(longest=own.rollup_timeout) as engine:
        found = recommender.report(
            engine, since=until - since, as_of=until, pages=0 if without_pages else SHOWN_PAGES,
            settings=own,
        )  # fmt: skip
        write(found.html)
    if opens:
        webbrowser.open(Path(file).resolve().as_uri())
