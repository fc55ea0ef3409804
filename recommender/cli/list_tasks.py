"""Printing what ``evaluate --task next`` found."""

from __future__ import annotations

import click

from recommender.cli.figures import page_row, print_legend, quality_rows, recall_rows
from recommender.cli.output import form_of, print_records, print_table, print_text
from recommender.evaluation.lists import ListEvaluation


def print_next(result: ListEvaluation, form: str | None) -> None:
    """Print the lists and what their sources found."""
    if form_of(form) == "table":
        _print_table(result)
        return
    whole = result.as_dict()
    rows = [*quality_rows("lists", whole["lists"]), *recall_rows("found", whole["found"])]
    print_records(rows, form, whole=whole)


def _print_table(result: ListEvaluation) -> None:
    print_text(
        f"Lists out of {result.choices:,} videos for one video of each of {result.users:,} users,"
        f" which led to: {result.target}; wanted are the next ones that did."
    )
    rows = enumerate(result.lists)
    print_table([page_row(row, is_first=not place, title="list") for place, row in rows])
    shares = {name: share.value for name, share in result.found.sources.items() if share}
    by_source = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    if result.found.share:
        click.echo()
        print_text(
            f"{result.found.share.value:.1%} of what they wanted next was among the first 20 of"
            f" {result.lists[0].ranker}: {by_source}."
        )
    print_legend(result.users)
