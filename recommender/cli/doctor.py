"""``doctor``."""

from __future__ import annotations

import click

from recommender.cli.database import engine
from recommender.cli.findings import fail_if_not_well, print_findings
from recommender.cli.options import database_option, format_option, settings
from recommender.cli.output import form_of, print_records
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
    if form_of(form) == "table":
        print_findings(findings)
    else:
        print_records([finding.as_dict() for finding in findings], form)
    fail_if_not_well(findings)
