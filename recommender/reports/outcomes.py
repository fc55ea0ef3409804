"""The sections about pages, viewers and what they enjoyed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from recommender.evaluation.bootstrap import Interval
from recommender.reports import charts
from recommender.reports.parts import Cell, Chart, Section, Table
from recommender.reports.places import POSITIONS
from recommender.reports.text import (
    NONE,
    moment_of,
    number,
    percentage,
    plural,
    points,
    share,
    short_day,
)
from recommender.reports.values import Figures, Outcomes, Positions

NO_PLACES = "No page was served in this time."
NO_LOOKS = "No viewer looked at a place in this time: send events, or cursors, as pages are read."

MAX_VERSIONS = 20
"""The number of versions of profiles that a report lists, the newest first."""


def traffic(report: Figures) -> Section:
    """Return the section about pages and viewers by day."""
    now = report.now
    if not now.places:
        chart = Chart(None, "Pages by day", empty=NO_PLACES)
        return Section("No pages", charts=[chart], is_wide=True)
    title = (
        f"{plural(now.users, 'viewer')} {'was' if now.users == 1 else 'were'} served"
        f" {plural(now.pages, 'page')}"
    )
    change = growth(now.pages, report.then.pages, report)
    days = _days(report)
    return Section(
        f"{title}, {change}" if change else title,
        f"{plural(now.places, 'place')} in all: a place is one video at one position of a session.",
        [
            _by_day("Pages by day", "pages", {day: each.pages for day, each in days.items()}),
            _by_day("Viewers by day", "viewers", {day: each.users for day, each in days.items()}),
        ],
        is_wide=True,
    )


def engaged(report: Figures) -> Section:
    """Return the section about the engaged share."""
    now, days = report.now, _days(report)
    if now.share is None:
        chart = Chart(None, "Share of places enjoyed, by day", empty=NO_LOOKS)
        return Section("Nothing was looked at", charts=[chart])
    rows = [
        (short_day(day), number(each.looked), number(each.enjoyed), *_share_cells(each.share))
        for day, each in days.items()
    ]
    labels = [short_day(day) for day in days]
    shares = [each.share for each in days.values()]
    known = [each.value for each in shares if each]
    alt = (
        f"Line of the share of places enjoyed by day: from {percentage(min(known))} to"
        f" {percentage(max(known))}, {percentage(now.share.value)} over all days"
    )
    return Section(
        f"{percentage(now.share.value)} of the places that viewers looked at were enjoyed"
        f"{change_of(now.share, report.then.share, report)}",
        "A place is enjoyed if it led to a watch to the end or for long, a like, a save, a share, a"
        " comment or another positive event. The lines show 95% intervals over viewers.",
        [
            Chart(
                charts.line(alt, labels, shares),
                "Share of places enjoyed, by day",
                table=_table(("day", "looked at", "enjoyed", *SHARE), rows, text=1),
            )
        ],
    )


def unseen(report: Figures) -> Section:
    """Return the section about places that no one looked at."""
    now = report.now
    missed = now.judged - now.looked
    if not now.judged:
        chart = Chart(None, "Share of places looked at", empty=NO_PLACES)
        return Section("How far viewers looked", charts=[chart])
    groups = _groups(report.positions)
    labels = list(groups)
    shares = [each.looked / each.judged if each.judged else 0.0 for each in groups.values()]
    rows = [
        (name, number(each.judged), number(each.looked), percentage(looked))
        for (name, each), looked in zip(groups.items(), shares, strict=True)
    ]
    alt = "Bars of the share of places looked at, by position: " + ", ".join(
        f"{percentage(value)} at {label}" for label, value in zip(labels, shares, strict=True)
    )
    found = f"{share(missed, now.judged)} of the places were not looked at"
    return Section(
        "Every place was looked at" if not missed else found,
        "A place is looked at if it has an event, or if the session was marked as seen up to it."
        " Places of rewatch sessions are left out.",
        [
            Chart(
                charts.bars(alt, labels, shares, charts.percent),
                "Share of places looked at, by position in the session",
                table=_table(("position", "places", "looked at", "share"), rows, text=1),
            )
        ],
    )


def times(report: Figures) -> Section:
    """Return the section about the time that pages took."""
    pages = sum(each.pages for each in report.times)
    if not pages:
        empty = "No session counted the time of its pages."
        return Section("The time of pages", charts=[Chart(None, "By day", empty=empty)])
    mean = sum(each.milliseconds for each in report.times) / pages
    exhausted = sum(each.exhausted for each in report.times)
    means = {each.day: each.milliseconds / each.pages for each in report.times}
    days = _every_day(means, report.until)
    labels, values = [short_day(day) for day in days], [means.get(day) for day in days]
    alt = (
        f"Bars of milliseconds per page by day: from {min(means.values()):.0f} to"
        f" {max(means.values()):.0f}"
    )
    rows = [
        (short_day(each.day), number(each.pages), number(each.exhausted),
         f"{each.milliseconds / each.pages:.1f}")
        for each in report.times
    ]  # fmt: skip
    return Section(
        f"A page took {mean:.0f} ms on average, and {share(exhausted, pages)} were exhausted",
        "The time from the resolved request to the ranked page. A page is exhausted if fewer videos"
        " were left than it asked for.",
        [
            Chart(
                charts.bars(alt, labels, values, lambda value: f"{value:,.0f}"),
                "Milliseconds per page, by day of the session",
                table=_table(("day", "pages", "exhausted", "ms per page"), rows, text=1),
            )
        ],
    )


def trials(report: Figures) -> Section:
    """Return the section about exploration places and new videos."""
    tried, others, exposure = report.trials, report.others, report.exposure
    new = f"{number(exposure.new_served)} of the {plural(exposure.new, 'video')} published in this"
    new = f"{new} time {'was' if exposure.new_served == 1 else 'were'} served."
    if not exposure.new:
        new = "No video was published in this time."
    if not tried.places:
        return Section("No new video was tried out", new, is_wide=True)
    title = f"Trials of new videos took {share(tried.places, report.now.places)} of the places"
    if tried.share and others.share:
        title += (
            f"; {percentage(tried.share.value)} of them were enjoyed, and"
            f" {percentage(others.share.value)} of the others"
        )
    rows = [
        (name, number(each.places), number(each.looked), number(each.enjoyed),
         *_share_cells(each.share))
        for name, each in (("trials", tried), ("all others", others))
    ]  # fmt: skip
    columns = ("kind", "places", "looked at", "enjoyed", *SHARE)
    return Section(
        title,
        f"{plural(exposure.tried, 'video')} had a trial: a place that is kept for videos with few"
        f" impressions. {new}",
        tables=[_table(columns, rows, text=1)],
        is_wide=True,
    )


def profiles(report: Figures) -> Section:
    """Return the section about profiles: what they served, and when they were made."""
    rows = [
        (each.profile, each.feed or "For You", number(each.outcomes.places),
         number(each.outcomes.looked), *_share_cells(each.outcomes.share))
        for each in report.profiles
    ]  # fmt: skip
    history = sorted(report.history, key=lambda each: each.created_at, reverse=True)
    origins = [
        (f"{each.profile}@{each.version}", moment_of(each.created_at),
         moment_of(each.activated_at) if each.activated_at else "never", each.source,
         each.author or NONE, each.note or NONE)
        for each in history[:MAX_VERSIONS]
    ]  # fmt: skip
    versions = _table(
        ("version", "made", "last activated", "by", "author", "note"), origins, text=6,
        caption="Versions of profiles, the newest first",
    )  # fmt: skip
    if not rows:
        return Section("No profile served a page in this time", tables=[versions], is_wide=True)
    first = report.profiles[0]
    part = share(first.outcomes.places, report.now.places)
    is_alone = first.outcomes.places == report.now.places
    title = f"{first.profile} served {'every place' if is_alone else f'{part} of the places'}"
    columns = ("profile", "feed", "places", "looked at", *SHARE)
    return Section(title, tables=[_table(columns, rows, text=2), versions], is_wide=True)


SHARE = ("share enjoyed", "95% interval")
"""The columns of a share."""


NARROW = 0.03
"""The width of an interval below which its ends have a digit more."""


def interval_of(value: Interval | None) -> str:
    """Return the ends of an interval in words."""
    if value is None:
        return ""
    digits = 1 if value.high - value.low < NARROW else 0
    return f"{value.low:.{digits}%} to {value.high:.{digits}%}"


def change_of(now: Interval | None, then: Interval | None, report: Figures) -> str:
    """Return how a share changed, to end a sentence; empty without a share before."""
    if now is None or then is None:
        return ""
    change = now.value - then.value
    # The intervals are independent, but for viewers of both times, who make them too wide.
    sure = math.hypot(now.high - now.low, then.high - then.low) / 2
    if abs(change) <= sure:
        return f", about as many as in {time_before(report)}"
    return f", {points(change)} {'more' if change > 0 else 'fewer'} than in {time_before(report)}"


def growth(now: int, then: int, report: Figures) -> str:
    """Return how a count changed; empty unless the log covers the time before."""
    if not then or report.days[0].day > report.before + timedelta(days=1):
        return ""
    change = now / then - 1
    if abs(change) < 0.005:
        return f"as many as in {time_before(report)}"
    size = f"{abs(change):.0%}" if abs(change) < 10 else f"{now / then:.0f} times"
    word = "more" if change > 0 else "fewer"
    return f"{size} {word} than in {time_before(report)}"


def time_before(report: Figures) -> str:
    """Return the time before in words, such as "the 30 days before"."""
    length = report.until - report.since
    if length % timedelta(days=1) == timedelta(0):
        return "the day before" if length.days == 1 else f"the {length.days} days before"
    hours = length.total_seconds() / 3600
    return f"the {hours:.0f} hours before"


def _share_cells(value: Interval | None) -> tuple[str, str]:
    return (percentage(value.value) if value else NONE, interval_of(value) or NONE)


def _table(
    columns: tuple[str, ...], rows: Sequence[Sequence[Cell]], *, text: int, caption: str = ""
) -> Table:
    """Return a table whose first columns are text, and the others numbers."""
    return Table(columns, rows, frozenset(columns[text:]), caption)


def _days(report: Figures) -> Mapping[datetime, Outcomes]:
    """Return the outcomes of each day from the first with a place on, also of days without."""
    found = {each.day: each.outcomes for each in report.days}
    first = report.since.replace(hour=0, minute=0, second=0, microsecond=0)
    known = [day for day in found if day >= first]
    if not known:
        return {}
    return {day: found.get(day, Outcomes()) for day in _every_day(known, report.until)}


def _every_day(known: Iterable[datetime], until: datetime) -> list[datetime]:
    """Return the days from the first known one up to a time."""
    first = min(known)
    days = math.ceil((until - first) / timedelta(days=1))
    return [first + timedelta(days=number) for number in range(days)]


def _by_day(title: str, noun: str, values: Mapping[datetime, int]) -> Chart:
    labels = [short_day(day) for day in values]
    counts = list(values.values())
    alt = f"Bars of {noun} by day: from {min(counts):,} to {max(counts):,}"
    rows = [(label, number(value)) for label, value in zip(labels, counts, strict=True)]
    table = _table(("day", noun), rows, text=1)
    return Chart(charts.bars(alt, labels, counts), title, table=table)


def _groups(positions: Sequence[Positions]) -> Mapping[str, Outcomes]:
    """Return the outcomes of groups of positions by their names: the first and last one."""
    ends = dict(zip(POSITIONS, [*(first - 1 for first in POSITIONS[1:]), None], strict=True))
    return {_named(each.first, ends[each.first]): each.outcomes for each in positions}


def _named(first: int, last: int | None) -> str:
    if last is None:
        return f"{first}+"
    return str(first) if first == last else f"{first}{NONE}{last}"
