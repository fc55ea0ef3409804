"""``doctor``."""

from __future__ import annotations

import click

from recommender.cli.database import engine
from recommender.cli.options import database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table
from recommender.errors import RecommenderError
from recommender.operations.doctor import diagnose


@click.command()
@click.option(
    "--plans", is_flag=True, help="Also rank some users' pages and check the query plans."
)
@format_option
@database_option
def doctor(form: str | None, *, plans: bool) -> None:
    """Check the database and suggest fixes. Read-only."""
    with engine(longest=settings().rollup_timeout) as bind:
        findings = diagnose(bind, plans=plans)
    failed = [finding for finding in findings if not finding.ok]
    records = [finding.as_dict() for finding in findings]
    if form_of(form) == "table":
        print_table([{**row, "ok": "well" if row["ok"] else "not well"} for row in records])
    else:
        print_records(records, form)
    if failed:
        raise RecommenderError(f"not well: {', '.join(finding.check for finding in failed)}")
