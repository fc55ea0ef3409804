"""Printing: tables for people, JSON, JSON Lines and CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import click

from recommender.feed.values import Explanation, FeedItem, FeedPage

Record = Mapping[str, Any]

HIDDEN = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
GAP = 2
STRONGEST = 5
"""The number of signals of a video that a table shows."""

WRAPPED = {"sources", "signals", "weights", "value", "why", "found", "advice"}
OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def form_of(form: str | None) -> str:
    """Return the given format; if None, table on a terminal and json otherwise."""
    return form or ("table" if sys.stdout and sys.stdout.isatty() else "json")


def print_records(records: Sequence[Record], form: str | None, *, whole: Any = None) -> None:
    """Print rows as a JSON document, as JSON Lines, as CSV or as a table.

    Args:
        records: the rows; CSV leaves out nested values.
        form: table, json, jsonl or csv; `form_of` decides if None.
        whole: the document that json prints; the rows if None.
    """
    chosen = form_of(form)
    if chosen == "json":
        click.echo(_json(records if whole is None else whole, indent=2))
    elif chosen == "jsonl":
        for record in records:
            click.echo(_json(record))
    elif chosen == "csv":
        _print_csv(records)
    else:
        print_table(records)


def _json(value: Any, indent: int | None = None) -> str:
    is_unicode = bool(sys.stdout) and sys.stdout.encoding.lower().startswith("utf")
    return json.dumps(value, ensure_ascii=not is_unicode, indent=indent)


def _print_csv(records: Sequence[Record]) -> None:
    flat = [
        {name: value for name, value in record.items() if not isinstance(value, list | Mapping)}
        for record in records
    ]
    if flat:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)


def print_table(records: Sequence[Record], *, widest: int | None = None) -> None:
    """Print rows as a table that fits the terminal.

    Columns of short values keep their width. The others share the rest: `WRAPPED` columns are
    wrapped, and the others are cut.

    Args:
        records: the rows, with the same names.
        widest: the largest width, in characters; the terminal's width if None.
    """
    from rich.cells import cell_len  # noqa: PLC0415 - slow to import, and only tables need it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if not records:
        click.echo("Nothing.", err=True)
        return
    rows = [[cell(value) for value in record.values()] for record in records]
    longest = [max(map(cell_len, column)) for column in zip(records[0], *rows, strict=True)]
    console = Console(highlight=False, markup=False, emoji=False)
    if widest is not None:
        console.width = min(console.width, widest)
    widths = column_widths(longest, console.width - GAP * len(longest))
    table = Table(box=None, padding=(0, GAP, 0, 0))
    for name, width in zip(records[0], widths, strict=True):
        is_number = all(_is_number(record[name]) for record in records)
        justify: Any = "right" if is_number else "left"
        is_wrapped = name in WRAPPED
        table.add_column(
            name, justify=justify, width=width, no_wrap=not is_wrapped, overflow="ellipsis"
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def column_widths(longest: Sequence[int], available: int) -> list[int]:
    """Return a width for each column: its longest value, or an equal share of the rest."""
    widths = [0] * len(longest)
    for done, column in enumerate(sorted(range(len(longest)), key=longest.__getitem__)):
        share = (available - sum(widths)) // (len(longest) - done)
        widths[column] = max(1, min(longest[column], share))
    return widths


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def cell(value: Any) -> str:
    """Return a value on one line, without control or direction characters."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(cell(part) for part in value)
    return " ".join("".join(map(_visible, str(value))).split())


def _visible(character: str) -> str:
    is_hidden = character in OVERRIDES or unicodedata.category(character) in HIDDEN
    return " " if is_hidden else character


def print_page(page: FeedPage, form: str | None, *, with_signals: bool) -> None:
    """Print a page of a feed."""
    if form_of(form) == "table":
        print_table([_page_row(item, with_signals=with_signals) for item in page.items])
    else:
        whole = page.as_dict(signals=with_signals)
        print_records(whole["items"], form, whole=whole)


def _page_row(item: FeedItem, *, with_signals: bool) -> dict[str, Any]:
    row = {
        "#": item.position,
        "score": round(item.score, 3),
        "video": item.video,
        "creator": item.creator,
        "hashtags": [f"#{tag}" for tag in item.hashtags],
        "caption": item.caption,
    }
    if not with_signals:
        return row
    del row["caption"], row["hashtags"]
    return {**row, "sources": ", ".join(item.sources), "signals": _strongest(item)}


def _strongest(item: FeedItem) -> str:
    """Return the strongest signals for or against a video, and the number of others."""
    parts = {name: part.contribution for name, part in item.signals.items() if part.contribution}
    names = sorted(parts, key=lambda name: -abs(parts[name]))
    strongest = ", ".join(f"{name} {parts[name]:+.3g}" for name in names[:STRONGEST])
    others = len(names) - STRONGEST
    return f"{strongest} and {others} more" if others > 0 else strongest


def print_explanation(explanation: Explanation, form: str | None) -> None:
    """Print why a video has its place in a feed, or has none."""
    whole = explanation.as_dict()
    if form_of(form) != "table":
        print_records([whole], form, whole=whole)
        return
    click.echo(cell(explanation.reason))
    click.echo(cell(_place(explanation)))
    rows = [{"signal": name, **part} for name, part in whole["signals"].items()]
    total = {"signal": "score", "value": None, "weight": None, "contribution": whole["score"]}
    print_table([*rows, total])


def _place(explanation: Explanation) -> str:
    """Return the rank and sources of a video, or the filters that keep it out."""
    if not explanation.shown:
        failed = [one.name for one in explanation.filters if not one.passed]
        return f"Kept out by {_listed(failed)}." if failed else "Found by no source."
    ahead = explanation.displaced_by
    behind = f", behind {_listed(ahead)}" if ahead else ""
    return f"Rank {explanation.rank:,}{behind}. Found by {_listed(explanation.item.sources)}."


def _listed(names: Sequence[str]) -> str:
    """Return the names joined with commas and "and"."""
    return " and ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])
