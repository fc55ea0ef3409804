"""Simulate pages over a catalogue that is divided among several servers. It is not built.

Each part would hold a share of the videos with all that pages read of them, neighbours by the
video that they lead to. A page would ask every part at once, and merge the best of each. Groups of
as many servers as there are parts would hold one catalogue together, in place of one each.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recommender.benchmark.distributions import uniform, zipf_rank
from recommender.errors import InvalidValue
from recommender.settings import Settings

VIDEOS = 1_000_000
"""The videos of a simulated catalogue; half of the candidates are drawn by popularity."""

TASK_MS = 0.2
"""Processor time of a statement that reads one row by its key, PostgreSQL and driver together."""

PROBE_MS = 0.0026
"""Processor time to look up one key more in the same statement, with its row: 625 took 1.7 ms."""

SLOW = 0.01
"""The part of statements that counts as slow: the slowest hundredth."""


@dataclass(frozen=True, slots=True)
class FanOut:
    """What a page costs if the catalogue is divided into parts.

    Attributes:
        parts: the number of parts.
        added_ms: processor time that a page takes more than on one server: each part is asked once,
            and looks up all videos of the viewer's history.
        fullest: candidates of a page in its fullest part, divided by the mean of the parts. The
            page waits for this part.
        busiest: candidates of all pages in the busiest part, divided by the mean of the parts.
        slow_share: the part of pages that wait for at least one slow statement.
    """

    parts: int
    added_ms: float
    fullest: float
    busiest: float
    slow_share: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return asdict(self)


def fan_out(parts: int, *, pages: int = 1_000, settings: Settings | None = None) -> FanOut:
    """Return what pages cost over so many parts, from fixed random numbers.

    Args:
        parts: the number of parts, 1 to 1,000.
        pages: the number of simulated pages, 1 to 10,000.
        settings: the candidates and the history of a page; the defaults if None.

    Raises:
        InvalidValue: a number is out of its bounds.
    """
    for name, value, most in (("parts", parts, 1_000), ("pages", pages, 10_000)):
        if not 1 <= value <= most:
            raise InvalidValue(f"{name}: {value} is not between 1 and {most:,}")
    settings = settings or Settings()
    draws = np.arange(pages * settings.candidates)
    by_rank = zipf_rank(uniform("rank", draws), VIDEOS)
    by_chance = 1 + (uniform("any", draws) * VIDEOS).astype(int)
    videos = np.where(uniform("popular", draws) < 0.5, by_rank, by_chance)
    # A page has each candidate once.
    pairs = np.unique(draws // settings.candidates * (VIDEOS + 1) + videos)
    page, videos = np.divmod(pairs, VIDEOS + 1)
    part = (uniform("part", videos) * parts).astype(int)
    counts = np.bincount(page * parts + part, minlength=pages * parts).reshape(pages, parts)
    sums = counts.sum(axis=0)
    return FanOut(
        parts=parts,
        added_ms=0.0 if parts == 1 else parts * (TASK_MS + settings.history * PROBE_MS),
        fullest=float((counts.max(axis=1) / counts.mean(axis=1)).mean()),
        busiest=float(sums.max() / sums.mean()),
        slow_share=1 - (1 - SLOW) ** parts,
    )
