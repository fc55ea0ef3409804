"""The parts of a page: sections, charts, tables; and the page as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeAlias

from recommender.errors import RecommenderError
from recommender.reports.text import NONE

NEEDS_EXTRA = "a report needs jinja2 and pygal: pip install 'recommender[report]'"


@dataclass(frozen=True, slots=True)
class Mark:
    """A cell that says how something is: `kind` is ``good``, ``bad`` or ``plain``."""

    text: str
    kind: str = "plain"


Cell: TypeAlias = str | Mark


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns whose titles are in `numbers` are aligned to the right."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[str] = frozenset()
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its title, the names of its series, and its figures as a table.

    Attributes:
        svg: as `charts` returns it; None shows `empty` in its place.
        title: what the chart shows.
        series: the names of its colours, in order; empty for one series.
        table: the same figures for people who do not see the chart.
        empty: one sentence that stands in place of the chart.
    """

    svg: str | None
    title: str
    series: tuple[str, ...] = ()
    table: Table | None = None
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure with its name, and a note such as its change."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A section whose title says the finding; on a large screen two stand next to each other.

    A wide section has the whole width. Of each list the first `shown_places` are shown at once.
    """

    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    lists: Sequence[Listing] = ()
    is_wide: bool = False
    shown_places: int = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A video on a page: its names, why it is there, and details in small print."""

    position: int
    name: str
    by: str
    text: str
    why: str
    details: str
    change: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of videos, in order."""

    title: str
    places: Sequence[Place]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A page with its key figures and sections."""

    title: str
    subtitle: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]

    def html(self) -> str:
        """Return the page as one HTML file, without scripts and without links to other files.

        Raises:
            RecommenderError: jinja2 is not installed.
        """
        require_extra()
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - an extra

        environment = Environment(
            loader=PackageLoader("recommender.reports"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("page.html").render(document=self, none=NONE)


def require_extra() -> None:
    """Raise `RecommenderError` unless the extra `report` is installed."""
    if not all(map(find_spec, ("jinja2", "pygal"))):
        raise RecommenderError(NEEDS_EXTRA)
