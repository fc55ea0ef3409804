"""Charts as SVG, drawn by pygal and coloured by the style sheet of the page.

pygal would add a script and a style sheet to every chart. Both are taken out, so that a page needs
no script, and so that one style sheet serves all charts in light and dark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import pygal
from markupsafe import Markup
from pygal.config import Config
from pygal.style import Style

from recommender.evaluation.bootstrap import Interval
from recommender.reports.text import plain_line

# pygal adds a finder of maps, which warns at every import under Python 3.11. Later versions do not
# ask it.
sys.meta_path[:] = [each for each in sys.meta_path if type(each).__module__ != "pygal"]

WIDTH, HEIGHT = 360, 210
"""The size of a chart in its own units: text of 11 units can be read on a narrow phone."""

FONT_SIZE = 11

ROW_HEIGHT = 30
"""The height of a row of horizontal bars."""

LABELS = 6
"""About the number of labels on the axis of days."""

HALF_A_DAY = 22
"""Half the width of the label of a day."""

LEAST_ROOM = 0.02
"""The least room above and below a line: changes below it should not look large."""

WHISKER = 3
"""Half the width of the ends of an interval."""

Write = Callable[[Any], str]
"""A function that writes a value of an axis."""


def count(value: float) -> str:
    """Return a number with separators of thousands."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.0%}" if round(value, 2) == round(value, 6) else f"{value:.1%}"


def signed_percent(value: float) -> str:
    """Return a change as a percentage with its sign."""
    return f"{value:+.0%}" if round(value, 2) == round(value, 6) else f"{value:+.1%}"


def bars(
    alt: str, labels: Sequence[str], values: Sequence[float | None], write: Write = count
) -> Markup:
    """Return vertical bars.

    Args:
        alt: the text for people who do not see the chart.
        labels: the labels below the bars.
        values: a value for each label, None for no bar.
        write: writes a value.
    """
    chart = pygal.Bar(_config(write, labels))
    chart.add(None, list(values))
    return _drawn(chart, alt)


def line(
    alt: str,
    labels: Sequence[str],
    values: Sequence[Interval | None],
    write: Write = percent,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Markup:
    """Return a line of values with their intervals; a missing value leaves a gap.

    Args:
        alt: the text for people who do not see the chart.
        labels: the labels below the values.
        values: a value for each label.
        write: writes a value.
        limits: the lowest and the highest value that there can be.
    """
    config = _config(write, labels)
    config.dots_size, config.include_x_axis = 2.5, False
    config.margin_right = HALF_A_DAY  # the last label stands below the last point, at the edge
    known = [value for value in values if value]
    low, high = (min(v.low for v in known), max(v.high for v in known)) if known else limits
    room = max(LEAST_ROOM, (high - low) / 10)
    config.range = (max(limits[0], low - room), min(limits[1], high + room))
    chart = pygal.Line(config)
    points = [
        {"value": v.value, "ci": {"low": v.low, "high": v.high}} if v else None for v in values
    ]
    chart.add(None, points, allow_interruptions=True)
    return _drawn(chart, alt)


def compared(
    alt: str,
    labels: Sequence[str],
    series: Sequence[Sequence[float]],
    write: Write = percent,
) -> Markup:
    """Return horizontal bars: for each label one of every series, the first on top."""
    config = _config(write, ())
    config.height = 40 + ROW_HEIGHT * len(labels)
    config.x_labels = [plain_line(label) for label in reversed(labels)]
    config.margin_right = 14
    chart = pygal.HorizontalBar(config)
    for values in series:
        chart.add(None, list(reversed(values)))
    return _drawn(chart, alt)


def rated(
    alt: str, labels: Sequence[str], values: Sequence[Interval], write: Write = percent
) -> Markup:
    """Return a horizontal bar for each label, with its interval."""
    config = _config(write, ())
    config.height = 40 + ROW_HEIGHT * len(labels)
    config.x_labels = [plain_line(label) for label in reversed(labels)]
    config.margin_right = 14
    config.range = (0, max(value.high for value in values))
    chart = pygal.HorizontalBar(config)
    points = [{"value": v.value, "ci": {"low": v.low, "high": v.high}} for v in reversed(values)]
    chart.add(None, points)
    return _drawn(chart, alt)


def curve(alt: str, points: Sequence[tuple[float, float]], write: Write = percent) -> Markup:
    """Return a curve from 0 to 1 over the diagonal of equal shares."""
    config = _config(write, ())
    config.show_dots = False
    config.xrange = config.range = (0, 1)
    config.x_value_formatter = write
    chart = pygal.XY(config)
    chart.add(None, list(points), fill=False)
    chart.add(None, [(0, 0), (1, 1)])
    return _drawn(chart, alt)


def _config(write: Write, labels: Sequence[str]) -> Config:
    return Config(
        width=WIDTH,
        height=HEIGHT,
        margin=4,
        margin_top=10,
        margin_right=8,
        spacing=6,
        style=Style(label_font_size=FONT_SIZE, major_label_font_size=FONT_SIZE),
        show_legend=False,
        js=(),
        css=(),
        min_scale=3,
        max_scale=5,
        include_x_axis=True,
        value_formatter=write,
        x_labels=list(labels) or None,
        x_labels_major_every=max(1, -(-len(labels) // LABELS)),
        truncate_label=-1,
        show_minor_x_labels=len(labels) <= LABELS,
        disable_xml_declaration=True,
        no_prefix=True,
    )


def _drawn(chart: Any, alt: str) -> Markup:
    """Return a chart as SVG for a page, with its alternative text."""
    chart.add_xml_filter(lambda root: _plain(root, alt))
    return Markup(chart.render(is_unicode=True))  # noqa: S704 - pygal escapes all text


def _plain(root: Element, alt: str) -> Element:
    """Remove what a page does not need, and turn the values of marks into titles."""
    for parent in list(root.iter()):
        for child in list(parent):
            is_comment = not isinstance(child.tag, str)
            if is_comment or child.tag in {"defs", "title"}:
                parent.remove(child)
    for mark in list(root.iter()):
        _name(mark)
    for whisker in root.iterfind(".//g[@class='ci']/path"):
        whisker.set("d", _narrow(whisker.get("d", "")))
    root.attrib.pop("id", None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return root


def _name(mark: Element) -> None:
    """Give a mark its value as a title, which browsers show when a pointer rests on it."""
    said = {desc.get("class", ""): desc.text or "" for desc in mark.findall("desc")}
    for desc in mark.findall("desc"):
        mark.remove(desc)
    if value := said.get("value"):
        label = said.get("x_label")
        title = Element("title")
        title.text = f"{label}: {value}" if label else value
        mark.insert(0, title)


def _narrow(path: str) -> str:
    """Return the line of an interval without the wide ends that pygal draws."""
    numbers = [float(part) for part in path.replace("M", " ").replace("L", " ").split()]
    # The first point is one end. The sixth is the other: between them are the wide ends of the one.
    x_0, y_0, x_1, y_1 = *numbers[:2], *numbers[10:12]
    caps = f"v{2 * WHISKER}" if y_0 == y_1 else f"h{2 * WHISKER}"
    x, y = (0, WHISKER) if y_0 == y_1 else (WHISKER, 0)
    ends = "".join(f"M{a - x:.2f} {b - y:.2f}{caps}" for a, b in ((x_0, y_0), (x_1, y_1)))
    return f"M{x_0:.2f} {y_0:.2f}L{x_1:.2f} {y_1:.2f}{ends}"
