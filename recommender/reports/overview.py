"""The document of a report: its key figures, and the order of its sections."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from recommender.reports import content, health, outcomes
from recommender.reports.page_lists import served_listing
from recommender.reports.parts import Document, Section, Tile
from recommender.reports.text import age, moment_of, number, percentage
from recommender.reports.values import Figures
from recommender.reports.verdicts import experiment


def document(report: Figures) -> Document:
    """Return the document of a report."""
    return Document(
        title="For You report",
        subtitle=f"{moment_of(report.since)} to {moment_of(report.until)}",
        tiles=list(_tiles(report)),
        sections=[
            outcomes.traffic(report),
            outcomes.engaged(report),
            outcomes.unseen(report),
            content.sources(report),
            content.signals(report),
            outcomes.trials(report),
            content.exposure(report),
            health.promises(report),
            outcomes.times(report),
            content.diversity(report),
            *map(experiment, report.experiments),
            outcomes.profiles(report),
            health.database(report),
            *_pages(report),
        ],
    )


def _tiles(report: Figures) -> Iterator[Tile]:
    now, then = report.now, report.then
    yield Tile("Places enjoyed", percentage(now.share.value if now.share else None),
               outcomes.interval_of(now.share))  # fmt: skip
    yield Tile("Pages", number(now.pages), outcomes.growth(now.pages, then.pages, report))
    yield Tile("Viewers", number(now.users), outcomes.growth(now.users, then.users, report))
    found = next((each.found for each in report.findings if each.check == "rollups"), "")
    yield Tile("Age of rollups", _rollups(report), found.partition(", ")[0])


def _rollups(report: Figures) -> str:
    if report.refreshed_at is None:
        return "never"
    passed = report.until - report.refreshed_at
    return age(max(passed, timedelta(0)).total_seconds())


def _pages(report: Figures) -> Iterator[Section]:
    if report.pages:
        text = (
            "The first pages of the latest sessions, as they were served. Keys are shortened."
            " Videos that may no longer be shown are left out."
        )
        lists = [served_listing(page) for page in report.pages]
        yield Section("What viewers saw, and why", text, lists=lists, is_wide=True)
