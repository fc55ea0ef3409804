"""``people``: whom a user could follow."""

from __future__ import annotations

from typing import Any

import click
from sqlalchemy.orm import Session

import recommender
from recommender.cli.options import as_of_option, database_option, format_option
from recommender.cli.output import form_of, print_records, print_table
from recommender.cli.pages import asked_page, strongest
from recommender.lists.people_values import PeoplePage, Person
from recommender.ranking.request import DEFAULT_LIMIT, LARGEST_LIMIT, PEOPLE, SMALLEST_LIMIT


@click.command()
@click.argument("user")
@click.option(
    "--profile", metavar="NAME[@VERSION]", default=PEOPLE, show_default=True,
    help="The ranking profile, or a version of it.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(SMALLEST_LIMIT, LARGEST_LIMIT), default=DEFAULT_LIMIT,
    show_default=True, help="The largest number of people.",
)  # fmt: skip
@as_of_option
@click.option(
    "--cursor", metavar="CURSOR", help="Continue after the page that printed this cursor."
)
@click.option(
    "--explain", "with_signals", is_flag=True,
    help="Show the reasons, and what each signal adds to the score.",
)  # fmt: skip
@click.option("--record", is_flag=True, help="Count that these people were shown today.")
@format_option
@database_option
def people(
    user: str,
    with_signals: bool,  # noqa: FBT001 - click passes a flag by name
    record: bool,  # noqa: FBT001
    form: str | None,
    **asked: Any,
) -> None:
    """Show creators whom a user could follow."""

    def ask(session: Session) -> PeoplePage:
        return recommender.people(session, user, record=record, reasons=with_signals, **asked)

    _print(asked_page(ask, user, record=record), form, with_signals=with_signals)


def _print(page: PeoplePage, form: str | None, *, with_signals: bool) -> None:
    if form_of(form) == "table":
        print_table([_row(item, with_signals=with_signals) for item in page.items])
        return
    whole = page.as_dict(signals=with_signals)
    example = {"position": 1, "creator": "", "score": 0.0, "sources": []}
    print_records(whole["items"], form, whole=whole, example=example)


def _row(item: Person, *, with_signals: bool) -> dict[str, Any]:
    row = {"#": item.position, "score": round(item.score, 3), "creator": item.creator}
    if not with_signals:
        return {**row, "sources": ", ".join(item.sources)}
    return {**row, "why": item.reason, "signals": strongest(item.signals)}
