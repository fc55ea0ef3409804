"""The sections about where videos come from, and how places are spread over them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from recommender.reports import charts
from recommender.reports.parts import Chart, Section, Table
from recommender.reports.text import number, percentage, plain_line, plural, share
from recommender.reports.values import Figures, SignalShare

MAX_BARS = 10
"""The number of sources or signals that a chart shows; its table has all."""


def sources(report: Figures) -> Section:
    """Return the section about what sources brought to what was enjoyed."""
    now, found = report.now, report.sources
    if not found or not now.enjoyed:
        empty = "No place was enjoyed, so nothing can be said about sources."
        return Section("What sources brought", charts=[Chart(None, "By source", empty=empty)])
    shown = found[:MAX_BARS]
    of_enjoyed = [each.enjoyed / now.enjoyed for each in shown]
    of_looked = [each.looked / now.looked for each in shown]
    names = [each.source for each in shown]
    alt = "Bars of the share of enjoyed places that a source found: " + ", ".join(
        f"{plain_line(name)} {percentage(part)}"
        for name, part in zip(names, of_enjoyed, strict=True)
    )
    rows = [
        (each.source, number(each.looked), number(each.enjoyed), number(each.alone),
         share(each.enjoyed, now.enjoyed), share(each.enjoyed, each.looked))
        for each in found
    ]  # fmt: skip
    columns = (
        "source", "looked at", "enjoyed", "found by it alone", "of all enjoyed", "share enjoyed",
    )  # fmt: skip
    return Section(
        _sources_title(report),
        "Several sources may find the same video. A source whose first bar is longer brings what"
        " viewers enjoy more often than the others.",
        [
            Chart(
                charts.compared(alt, names, (of_enjoyed, of_looked)),
                "Places that a source found",
                ("of enjoyed places", "of places looked at"),
                Table(columns, rows, frozenset(columns[1:])),
            )
        ],
    )


def _sources_title(report: Figures) -> str:
    """Return the source that found much more of what was enjoyed than of all that was seen."""
    now = report.now
    best = max(
        report.sources, key=lambda each: each.enjoyed / now.enjoyed - each.looked / now.looked
    )
    if best.enjoyed * now.looked <= best.looked * now.enjoyed:
        return "No source found more of what was enjoyed than of the rest"
    return (
        f"The source {plain_line(best.source)} found {share(best.enjoyed, now.enjoyed)} of what was"
        f" enjoyed, and {share(best.looked - best.enjoyed, now.looked - now.enjoyed)} of the rest"
    )


def signals(report: Figures) -> Section:
    """Return the section about what signals added to the scores of enjoyed places."""
    sample = report.sample
    found = [each for each in sample.signals if each.enjoyed or each.others]
    if not found or not report.now.enjoyed:
        empty = "No place with signals was enjoyed, so nothing can be said about them."
        return Section("What signals brought", charts=[Chart(None, "By signal", empty=empty)])
    shown = sorted(found, key=lambda each: -max(abs(each.enjoyed), abs(each.others)))[:MAX_BARS]
    names = [each.signal for each in shown]
    alt = "Bars of what signals add to the score of enjoyed places and of others: " + ", ".join(
        f"{plain_line(each.signal)} {each.enjoyed:.2f} and {each.others:.2f}" for each in shown
    )
    series = ([each.enjoyed for each in shown], [each.others for each in shown])
    rows = [
        (each.signal, f"{each.enjoyed:.3f}", f"{each.others:.3f}",
         f"{each.enjoyed - each.others:+.3f}")
        for each in found
    ]  # fmt: skip
    columns = ("signal", "enjoyed", "not enjoyed", "difference")
    every = "" if sample.every == 1 else f", those of every {_ordinal(sample.every)} user"
    return Section(
        _signals_title(found),
        f"What a signal adds to the score of a place on average: its value times its weight. From"
        f" {plural(sample.places, 'place')}{every}.",
        [
            Chart(
                charts.compared(alt, names, series, lambda value: f"{value:.2f}"),
                "Mean contribution to the score",
                ("enjoyed", "looked at, not enjoyed"),
                Table(columns, rows, frozenset(columns[1:])),
            )
        ],
    )


def _signals_title(found: Sequence[SignalShare]) -> str:
    best = max(found, key=lambda each: each.enjoyed - each.others)
    if best.enjoyed <= best.others:
        return "No signal is higher for what was enjoyed"
    return f"The signal {plain_line(best.signal)} tells most about what is enjoyed"


def _ordinal(count: int) -> str:
    is_teen = count % 100 in {11, 12, 13}
    ending = {1: "st", 2: "nd", 3: "rd"}.get(0 if is_teen else count % 10, "th")
    return f"{count:,}{ending}"


def exposure(report: Figures) -> Section:
    """Return the section about coverage, and about how equally creators are served."""
    found = report.exposure
    covered = f"{share(found.served, max(found.published, found.served))} of the published videos"
    facts = [
        ("published videos", number(found.published)),
        ("different videos served", number(found.served)),
        ("creators served", number(found.creators)),
    ]
    if found.gini is not None:
        facts.append(("Gini coefficient of creators", f"{found.gini:.2f}"))
    small = report.audit.small_creators_share if report.audit else None
    if small is not None:
        facts.append(("places of the less followed half of creators", percentage(small)))
    columns = ("figure", "value")
    table = Table(columns, facts, frozenset(columns[1:]))
    if not found.lorenz:
        empty = "No place was by a creator, so nothing can be said about their shares."
        chart = Chart(None, "Places by creator", empty=empty)
        return Section(f"{covered} were served", charts=[chart], tables=[table])
    top = 1 - _at(found.lorenz, 0.9)
    alt = (
        f"Lorenz curve of places over creators, below the diagonal of equal shares: the most served"
        f" tenth of the creators has {percentage(top)} of the places"
    )
    return Section(
        f"{covered} were served; the most served tenth of the creators has {percentage(top)} of the"
        " places",
        "The curve shows the share of places that the creators with the fewest places have"
        " together. On the dashed line all creators would have equal shares: a Gini coefficient of"
        " 0.",
        [Chart(charts.curve(alt, found.lorenz), "Share of places, by share of creators")],
        [table],
    )


def _at(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Return the height of a curve of ascending points."""
    index = bisect_left(curve, (x,))
    (x_0, y_0), (x_1, y_1) = curve[index - 1], curve[index]
    return y_0 + (y_1 - y_0) * (x - x_0) / (x_1 - x_0)


def diversity(report: Figures) -> Section:
    """Return the section about how unlike the videos of a page are."""
    sample = report.sample
    if sample.creators is None:
        return Section("How unlike the videos of a page are", "No page had videos by creators.")
    rows = [("different creators for 10 videos", f"{10 * sample.creators:.1f}")]
    if sample.diversity is not None:
        rows.append(("diversity of hashtags", f"{sample.diversity:.2f}"))
    if report.audit:
        crowded = share(report.audit.crowded, report.audit.items)
        rows.append(("places without an alternative", crowded))
    columns = ("figure", "value")
    return Section(
        f"A page has {10 * sample.creators:.1f} different creators for every 10 videos",
        f"From {plural(sample.pages, 'page')}. The diversity of hashtags is 1 if no two videos of a"
        " page share a hashtag. A place has no alternative if all candidates had the creator or"
        " sound of the place before, or were beyond a limit.",
        tables=[Table(columns, rows, frozenset(columns[1:]))],
    )
