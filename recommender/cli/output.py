"""Printing: tables for people, JSON, JSON Lines and CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # slow to import, and only tables need it
    from rich.console import Console

Record = Mapping[str, Any]

HIDDEN = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
GAP = 2
CUT = {"caption"}
"""The columns of free text, of which a table shows the beginning; all others are wrapped."""

OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def form_of(form: str | None) -> str:
    """Return the given format; if None, table on a terminal and json otherwise."""
    return form or ("table" if sys.stdout and sys.stdout.isatty() else "json")


def print_records(
    records: Sequence[Record], form: str | None, *, whole: Any = None, example: Record | None = None
) -> None:
    """Print rows as a JSON document, as JSON Lines, as CSV or as a table.

    Args:
        records: the rows; CSV leaves out nested values.
        form: table, json, jsonl or csv; `form_of` decides if None.
        whole: the document that json prints; the rows if None.
        example: a row with the columns of CSV, if there may be no rows.
    """
    chosen = form_of(form)
    if chosen == "json":
        click.echo(_json(records if whole is None else whole, indent=2))
    elif chosen == "jsonl":
        for record in records:
            click.echo(_json(record))
    elif chosen == "csv":
        _print_csv(records, example)
    elif len(records) == 1:
        _print_record(records[0])
    else:
        print_table(records)


def _json(value: Any, indent: int | None = None) -> str:
    is_unicode = bool(sys.stdout) and sys.stdout.encoding.lower().startswith("utf")
    return json.dumps(value, ensure_ascii=not is_unicode, indent=indent)


def _print_csv(records: Sequence[Record], example: Record | None) -> None:
    flat = [_flat(record) for record in records]
    if header := flat[0] if flat else _flat(example or {}):
        writer = csv.DictWriter(sys.stdout, fieldnames=list(header))
        writer.writeheader()
        writer.writerows(flat)


def _flat(record: Record) -> dict[str, Any]:
    return {n: value for n, value in record.items() if not isinstance(value, list | Mapping)}


def _print_record(record: Record) -> None:
    """Print a single row: its names above its values if they fit the terminal, else beside them."""
    if _natural_width([record]) <= _console().width:
        print_table([record])
    else:
        print_table([{"name": name, "value": value} for name, value in record.items()])


def day(at: datetime | None) -> str:
    """Return the day of a time for a table, where a whole time would be wrapped."""
    return f"{at:%Y-%m-%d}" if at else ""


def print_text(text: str) -> None:
    """Print a paragraph, wrapped to the terminal, or to 80 columns in a pipe."""
    click.echo(textwrap.fill(text, _console().width, break_on_hyphens=False))


def print_table(records: Sequence[Record], *, widest: int | None = None) -> None:
    """Print rows as a table that fits the terminal, or 80 columns in a pipe.

    Columns of short values keep their width. The others share the rest and are wrapped, so that
    nothing is lost. Only the columns in `CUT` are cut.

    Args:
        records: the rows, with the same names.
        widest: the largest width, in characters; the terminal's width if None.
    """
    from rich.table import Table  # noqa: PLC0415 - slow to import, and only tables need it

    if not records:
        click.echo("Nothing.", err=True)
        return
    console = _console()
    if widest is not None:
        console.width = min(console.width, widest)
    longest = _longest(records, cell)
    broken = [{name: "" if name in CUT else value for name, value in r.items()} for r in records]
    words = _longest(broken, _longest_word)
    widths = column_widths(longest, words, console.width - GAP * (len(longest) - 1))
    table = Table(box=None, padding=0)
    for name, width in zip(records[0], widths, strict=True):
        if table.columns:  # padding would be part of the last width in some versions of rich
            table.add_column(width=GAP)
        is_number = all(_is_number(record[name]) for record in records)
        justify: Any = "right" if is_number else "left"
        overflow: Any = "ellipsis" if name in CUT else "fold"
        table.add_column(name, justify=justify, width=width, no_wrap=name in CUT, overflow=overflow)
    for record in records:
        first, *others = map(cell, record.values())
        table.add_row(first, *(text for value in others for text in ("", value)))
    console.print(table)


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - slow to import

    return Console(highlight=False, markup=False, emoji=False)


def _longest(records: Sequence[Record], text: Callable[[Any], str]) -> list[int]:
    """Return the widths of the columns: the longest text, names included."""
    from rich.cells import cell_len  # noqa: PLC0415 - slow to import

    return [
        max(cell_len(text(value)) for value in (name, *(record[name] for record in records)))
        for name in records[0]
    ]


def _longest_word(value: Any) -> str:
    return max(cell(value).split(), key=len, default="")


def _natural_width(records: Sequence[Record]) -> int:
    """Return the width of a table that wraps nothing."""
    longest = _longest(records, cell)
    return sum(longest) + GAP * (len(longest) - 1)


def column_widths(longest: Sequence[int], words: Sequence[int], available: int) -> list[int]:
    """Return a width for each column, which breaks no word if all words fit.

    Args:
        longest: the widths of the longest values, by column.
        words: the widths of the longest words, by column.
        available: the width of all columns together.
    """
    rest = available - sum(words)
    if rest < 0:
        return [max(1, width) for width in _shares(longest, available)]
    wanted = [value - word for value, word in zip(longest, words, strict=True)]
    return [word + more for word, more in zip(words, _shares(wanted, rest), strict=True)]


def _shares(wanted: Sequence[int], available: int) -> list[int]:
    """Return what each column gets: what it wants, or an equal share of the rest."""
    shares = [0] * len(wanted)
    for done, column in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        share = (available - sum(shares)) // (len(wanted) - done)
        shares[column] = min(wanted[column], share)
    return shares


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
