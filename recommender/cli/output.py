"""Printing: tables for people, JSON, JSON Lines and CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from recommender.feed.values import Explanation, FeedItem, FeedPage
from recommender.formats import scalars
from recommender.ranking.request import FeedRequest

Record = Mapping[str, Any]

HIDDEN = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
GAP = 2
STRONGEST = 5
"""How many signals of a video a table shows."""

WRAPPED = {"sources", "signals", "weights", "value", "why", "found", "advice"}
OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def form_of(form: str | None) -> str:
    """The format asked for, else table on a terminal and json otherwise."""
    return form or ("table" if sys.stdout and sys.stdout.isatty() else "json")


def moment(value: datetime | None) -> str | None:
    """A time as every output writes it."""
    return None if value is None else scalars.written_time(value)


def plain(record: Record) -> dict[str, Any]:
    """The record with times and tuples as JSON has them."""
    return {name: _plain(value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value)
    return list(value) if isinstance(value, tuple) else value


def print_records(records: Sequence[Record], form: str | None, *, whole: Any = None) -> None:
    """Print rows: the whole answer as JSON, one row a line, as CSV, or as a table.

    Args:
        records: the rows; nested values are left out of CSV.
        form: table, json, jsonl or csv; by the terminal where None.
        whole: what json prints, the rows where None.
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


def print_table(records: Sequence[Record]) -> None:
    """Print rows as a table no wider than the terminal.

    Columns of short values are shown whole; the others share what is left, their texts cut to it
    and their long lists of parts wrapped.
    """
    from rich.cells import cell_len  # noqa: PLC0415 - slow to import, and only tables want it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if not records:
        click.echo("Nothing.", err=True)
        return
    rows = [[cell(value) for value in record.values()] for record in records]
    longest = [max(map(cell_len, column)) for column in zip(records[0], *rows, strict=True)]
    console = Console(highlight=False, markup=False, emoji=False)
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
    """A width for each column: what it needs, or an equal share of what narrower ones leave."""
    widths = [0] * len(longest)
    for done, column in enumerate(sorted(range(len(longest)), key=lambda each: longest[each])):
        share = (available - sum(widths)) // (len(longest) - done)
        widths[column] = max(1, min(longest[column], share))
    return widths


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def cell(value: Any) -> str:
    """A value on one line, without what could move a terminal's cursor or turn its text around."""
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


def request_record(request: FeedRequest) -> dict[str, Any]:
    """What every answer about a viewer begins with."""
    return {
        "user": request.user,
        "known": request.known,
        "profile": request.profile.name,
        "profile_version": request.profile.version,
    }


def item_record(item: FeedItem, *, with_signals: bool) -> dict[str, Any]:
    """One video of a page."""
    record = {
        "position": item.position,
        "video": item.video,
        "creator": item.creator,
        "caption": item.caption,
        "hashtags": list(item.hashtags),
        "sound": item.sound,
        "published_at": moment(item.published_at),
        "score": item.score,
        "sources": list(item.sources),
    }
    return {**record, "signals": signals_record(item)} if with_signals else record


def signals_record(item: FeedItem) -> dict[str, Any]:
    """Each signal's value, weight and contribution."""
    return {
        name: {"value": each.value, "weight": each.weight, "contribution": each.contribution}
        for name, each in item.signals.items()
    }


def print_page(page: FeedPage, form: str | None, *, with_signals: bool) -> None:
    """Print a page of a feed."""
    items = [item_record(item, with_signals=with_signals) for item in page.items]
    whole = {
        **request_record(page.request),
        "as_of": moment(page.request.as_of),
        "session": page.session,
        "cursor": page.cursor,
        "exhausted": page.exhausted,
        "items": items,
    }
    if form_of(form) == "table":
        print_table([_page_row(item, with_signals=with_signals) for item in page.items])
    else:
        print_records(items, form, whole=whole)


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
    """The signals that say most for or against a video, and how many more say something."""
    parts = {name: each.contribution for name, each in item.signals.items() if each.contribution}
    names = sorted(parts, key=lambda name: -abs(parts[name]))
    said = ", ".join(f"{name} {parts[name]:+.3g}" for name in names[:STRONGEST])
    others = len(names) - STRONGEST
    return f"{said} and {others} more" if others > 0 else said


def print_explanation(explanation: Explanation, form: str | None) -> None:
    """Print why a video stands where it stands."""
    item = explanation.item
    request = request_record(explanation.request)
    filters = [{"name": each.name, "passed": each.passed} for each in explanation.filters]
    whole = {
        "user": request.pop("user"),
        "known": request.pop("known"),
        "video": item.video,
        **request,
        "shown": explanation.shown,
        "rank": explanation.rank,
        "score": item.score,
        "signals": signals_record(item),
        "sources": list(item.sources),
        "filters": filters,
        "reason": explanation.reason,
        "displaced_by": list(explanation.displaced_by),
    }
    if form_of(form) != "table":
        print_records([whole], form, whole=whole)
        return
    click.echo(cell(explanation.reason))
    click.echo(cell(_place(explanation)))
    rows = [{"signal": name, **each} for name, each in signals_record(item).items()]
    total = {"signal": "score", "value": None, "weight": None, "contribution": item.score}
    print_table([*rows, total])


def _place(explanation: Explanation) -> str:
    """Where a video stands and what found it, or what keeps it out."""
    if not explanation.shown:
        failed = [each.name for each in explanation.filters if not each.passed]
        return f"Kept out by {_listed(failed)}." if failed else "Found by no source."
    ahead = explanation.displaced_by
    behind = f", behind {_listed(ahead)}" if ahead else ""
    return f"Rank {explanation.rank:,}{behind}. Found by {_listed(explanation.item.sources)}."


def _listed(names: Sequence[str]) -> str:
    """The names as a sentence lists them."""
    return " and ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])
