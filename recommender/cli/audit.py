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
    "--since", type=Time(), metavar="TIME", help="Only sessions that were served in since then."
)
@format_option
@database_option
def audit(since: datetime | None, form: str | None) -> None:
    """Check every page served against what was promised; writes nothing."""
    with reading(longest=settings().rollup_timeout) as session:
        found = recommender.audit(session, since=since)
    if form_of(form) == "table":
        print_table([_row(found, name, value) for name, value in asdict(found).items()])
    else:
        record = {**asdict(found), "broken": list(found.broken)}
        print_records([record], form, whole=record)
    if found.broken:
        raise RecommenderError(f"promises were broken: {', '.join(found.broken)}")


def _row(found: Audit, name: str, value: float | None) -> dict[str, object]:
    word = "broken" if name in found.broken else "kept"
    return {"name": name, "value": value, "promise": word if name in PROMISES else None}
