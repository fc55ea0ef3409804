"""``doctor``."""

from __future__ import annotations

from dataclasses import asdict

import click

from recommender.cli.database import engine
from recommender.cli.options import database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table
from recommender.errors import RecommenderError
from recommender.operations.doctor import diagnose


@click.command()
@click.option("--plans", is_flag=True, help="Also rank some users' pages, and look at the plans.")
@format_option
@database_option
def doctor(form: str | None, *, plans: bool) -> None:
    """Say what is not well with the database, and what to do; writes nothing."""
    with engine(longest=settings().rollup_timeout) as bind:
        findings = diagnose(bind, plans=plans)
    wrong = [each for each in findings if not each.ok]
    records = [asdict(each) for each in findings]
    if form_of(form) == "table":
        print_table([{**row, "ok": "well" if row["ok"] else "not well"} for row in records])
    else:
        print_records(records, form)
    if wrong:
        raise RecommenderError(f"not well: {', '.join(each.check for each in wrong)}")
