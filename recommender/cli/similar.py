"""``similar``: more like this."""

from __future__ import annotations

from typing import Any

import click

import recommender
from recommender.cli.database import reading
from recommender.cli.feed import limit_option
from recommender.cli.options import as_of_option, database_option, format_option
from recommender.cli.pages import print_page
from recommender.ranking.request import SIMILAR


@click.command()
@click.argument("videos", metavar="VIDEO...", nargs=-1, required=True)
@click.option("--user", metavar="USER", help="Lean to this user's taste, and apply their filters.")
@click.option(
    "--profile", metavar="NAME[@VERSION]", default=SIMILAR, show_default=True,
    help="The ranking profile.",
)  # fmt: skip
@limit_option
@as_of_option
@click.option(
    "--cursor", metavar="CURSOR", help="Continue after the page that printed this cursor."
)
@click.option(
    "--explain", "with_signals", is_flag=True,
    help="Show the reasons, and what each signal adds to the score.",
)  # fmt: skip
@format_option
@database_option
def similar(
    videos: tuple[str, ...],
    with_signals: bool,  # noqa: FBT001 - click passes a flag by name
    form: str | None,
    **asked: Any,
) -> None:
    """Show the videos that are most like one, or like several together."""
    with reading() as session:
        page = recommender.similar(session, videos, reasons=with_signals, **asked)
    print_page(page, form, with_signals=with_signals)
