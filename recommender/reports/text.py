"""Words of a report: numbers, shortened keys, and text from outside on one line."""

from __future__ import annotations

import unicodedata
from datetime import datetime

from recommender.formats.plain import MONTHS

LONGEST = 90
"""The longest caption that a report shows; the rest is cut."""

KEPT = 4
"""The number of characters of a key that a report shows, at most; never above half of them."""

NONE = "\N{EN DASH}"
"""Stands for a value that is missing."""

_HIDDEN = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}

_DIRECTIONS = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain_line(text: str) -> str:
    """Return a text on one line, without control and direction characters."""
    return " ".join("".join(map(_visible, text)).split())


def _visible(character: str) -> str:
    is_hidden = character in _DIRECTIONS or unicodedata.category(character) in _HIDDEN
    return " " if is_hidden else character


def short_key(key: str | None) -> str:
    """Return the beginning of a key: enough to find it, and too little to know it."""
    if not key:
        return NONE
    kept = min(KEPT, max(1, len(key) // 2))
    return f"{plain_line(key[:kept])}…"


def cut(text: str | None) -> str:
    """Return a text on one line, cut to the longest length that is shown."""
    shown = plain_line(text or "")
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1].rstrip()}…"


def short_day(moment: datetime) -> str:
    """Return a day such as "3 Jan"."""
    return f"{moment.day} {MONTHS[moment.month - 1][:3]}"


def moment_of(moment: datetime) -> str:
    """Return a time in UTC such as "3 Jan 2026, 14:05 UTC"."""
    return f"{short_day(moment)} {moment.year}, {moment:%H:%M} UTC"


def number(value: int) -> str:
    """Return a whole number with separators of thousands."""
    return f"{value:,}"


def share(part: float, whole: float) -> str:
    """Return a part as a percentage of the whole, a dash without a whole."""
    return percentage(part / whole) if whole else NONE


def percentage(value: float | None) -> str:
    """Return a share as a percentage, with a digit more below 10 %; a dash for none."""
    if value is None:
        return NONE
    return f"{value:.0%}" if value == 0 or value >= 0.0995 else f"{value:.1%}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def points(change: float) -> str:
    """Return the size of a change of a share, in percentage points."""
    size = abs(change) * 100
    written = f"{size:.0f}" if size >= 0.95 else f"{size:.1f}"
    return f"{written} point" if written == "1" else f"{written} points"


def age(seconds: float) -> str:
    """Return a length of time in its largest unit, such as "4 minutes"."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return plural(int(seconds // length), unit)
    return "less than a minute"
