"""``audit``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

import recommender
from recommender.cli.database import reading
from recommender.cli.options import Time, database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table
from recommender.errors import RecommenderError
from recommender.operations.audit import PROMISES, Audit


@click.command()
@click.option(
    "--since", type=Time(), metavar="TIME", help="Check only sessions served at this time or later."
)
@click.option("--feed", metavar="NAME", help="Check only sessions of this feed.")
@format_option
@database_option
def audit(since: datetime | None, feed: str | None, form: str | None) -> None:
    """Check that every page served kept its promises. Read-only."""
    own = settings()
    with reading(longest=own.rollup_timeout) as session:
        result = recommender.audit(session, since=since, feed=feed, settings=own)
    if form_of(form) == "table":
        print_table([_row(result, name, value) for name, value in asdict(result).items()])
    else:
        record = result.as_dict()
        print_records([record], form, whole=record)
    if result.broken:
        raise RecommenderError(f"promises were broken: {', '.join(result.broken)}")


def _row(result: Audit, name: str, value: float | None) -> dict[str, object]:
    word = "broken" if name in result.broken else "kept"
    return {"name": name, "value": value, "promise": word if name in PROMISES else None}
