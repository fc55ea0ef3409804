"""The document of a benchmark: the times of pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recommender.reports import charts
from recommender.reports.parts import Chart, Document, Section, Table, Tile
from recommender.reports.text import number, plural

PARTS = {
    "ratios": "ratio", "exact": "exact", "events": "events a second", "read": "rows of a page",
    "vectors": "vectors",
}  # fmt: skip
"""The other figures of a run, with their names."""


def benchmark_document(result: Mapping[str, Any]) -> Document:
    """Return the document of a benchmark; `result` is what `bench --format json` prints."""
    database, pages = result["database"], result["pages"]
    return Document(
        title="Benchmark",
        subtitle=f"{number(result['videos'])} videos in {database['name']} {database['version']}",
        tiles=[
            Tile(f"{page['profile']}, {page['state']}", f"{page['times']['p50']:.1f} ms",
                 plural(page["clients"], "client"))
            for page in pages[:4]
        ],
        sections=[_times(result), _others(result)],
    )  # fmt: skip


def _times(result: Mapping[str, Any]) -> Section:
    pages = result["pages"]
    warm = next((each for each in pages if each["state"] == "warm"), pages[0])
    title = f"A page of {warm['profile']} takes {warm['times']['p50']:.0f} ms"
    return Section(
        title,
        "Milliseconds of a page, at the median and at the 95th percentile.",
        [_chart([each for each in pages if each["clients"] == 1])],
        [_table(pages)],
        is_wide=True,
    )


def _chart(pages: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the bars of pages that one client asked for: those of many clients are far longer."""
    names = [f"{each['profile']}, {each['state']}" for each in pages]
    medians = [each["times"]["p50"] for each in pages]
    tails = [each["times"]["p95"] for each in pages]
    alt = "Bars of the median time of pages in milliseconds: " + ", ".join(
        f"{name} {median:.1f}" for name, median in zip(names, medians, strict=True)
    )
    return Chart(
        charts.compared(alt, names, (medians, tails), charts.count),
        "Milliseconds, by page and state, one client",
        ("median", "95th percentile"),
    )


def _table(pages: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        "page, state, clients", "count", "median", "95th", "99th", "mean", "pages a second",
        "share of the clients",
    )  # fmt: skip
    rows = [
        (f"{each['profile']}, {each['state']}, {each['clients']}", number(each["times"]["count"]),
         *(f"{each['times'][part]:.1f}" for part in ("p50", "p95", "p99")),
         # Runs of earlier versions have no mean and no share.
         _shown(each["times"].get("mean"), ".1f"), f"{each['a_second']:.1f}",
         _shown(each.get("client_share"), ".0%"))
        for each in pages
    ]  # fmt: skip
    return Table(columns, rows, frozenset(columns[1:]))


def _shown(figure: float | None, form: str) -> str:
    return "" if figure is None else format(figure, form)


def _others(result: Mapping[str, Any]) -> Section:
    whole = result["whole"]
    columns = ("way", "median", "95th", "99th")
    ways = [
        (name, *(f"{times[part]:.1f}" for part in ("p50", "p95", "p99")))
        for name, times in whole.items()
        if isinstance(times, Mapping)
    ]
    figures = [
        (f"{title}: {name}", _shown(value, ",.4g"))
        for part, title in PARTS.items()
        for name, value in result[part].items()
    ]
    return Section(
        "The whole catalogue, and other figures",
        "The reference formula over every video, in milliseconds.",
        tables=[
            Table(columns, ways, frozenset(columns[1:])),
            Table(("figure", "value"), figures, frozenset({"value"})),
        ],
        is_wide=True,
    )
