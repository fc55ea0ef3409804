"""A report: the figures of a time, and the file that shows them."""

from __future__ import annotations

from dataclasses import dataclass

from recommender.reports.parts import require_extra
from recommender.reports.values import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Figures):
    """The figures of a time, which `html` shows."""

    def html(self) -> str:
        """Return the report as one HTML file, with shortened keys of users and videos.

        Raises:
            RecommenderError: the extra `report` is not installed.
        """
        require_extra()
        from recommender.reports.overview import document  # noqa: PLC0415 - needs the extra

        return document(self).html()
