"""Printing what ``evaluate --task next`` and ``--task follow`` found."""

from __future__ import annotations

import click

from recommender.cli.figures import page_row, print_legend, quality_rows, recall_rows
from recommender.cli.output import form_of, print_records, print_table, print_text
from recommender.evaluation.lists import ListEvaluation

ABOVE = {
    "next": "{users:,} users, one given video per user; its list is chosen from {choices:,} videos"
    " and should hold the next videos of the user that led to: {target}.",
    "follow": "{users:,} users who later followed someone; their lists are chosen from {choices:,}"
    " creators.",
}
"""The sentence above the table, by task."""

WANTED = {"next": "what they wanted next", "follow": "the creators that they followed"}
"""What the lists should hold, by task."""


def print_lists(result: ListEvaluation, form: str | None, task: str) -> None:
    """Print the lists and what their sources found.

    Args:
        result: the evaluation.
        form: table, json, jsonl or csv; `form_of` decides if None.
        task: ``next`` or ``follow``.
    """
    if form_of(form) == "table":
        _print_table(result, task)
        return
    whole = result.as_dict()
    rows = [*quality_rows("lists", whole["lists"]), *recall_rows("found", whole["found"])]
    print_records(rows, form, whole=whole)


def _print_table(result: ListEvaluation, task: str) -> None:
    values = {"choices": result.choices, "users": result.users, "target": result.target}
    print_text(ABOVE[task].format(**values))
    lists = enumerate(result.lists)
    rows = [page_row(row, is_first=not place, title="list") for place, row in lists]
    if task == "follow":
        # Two creators have nothing in common, so that their diversity says nothing.
        rows = [{name: cell for name, cell in row.items() if name != "diverse"} for row in rows]
    print_table(rows)
    shares = {name: share.value for name, share in result.found.sources.items() if share}
    by_source = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    if result.found.share:
        click.echo()
        print_text(
            f"{result.found.share.value:.1%} of {WANTED[task]} was among the first 20 of"
            f" {result.lists[0].ranker}: {by_source}."
        )
    print_legend(result.users)
