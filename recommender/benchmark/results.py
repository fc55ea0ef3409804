"""benchmark.results: TODO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds: how many were measured, and below which a half, 95 and 99 of 100 are."""

    count: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Of some measurements, at least one."""
        ranked_times = sorted(seconds)

        def percentile(part: float) -> float:
            place = min(len(ranked_times) - 1, int(part * len(ranked_times)))
            return round(ranked_times[place] * 1_000, 3)

        return cls(len(seconds), percentile(0.5), percentile(0.95), percentile(0.99))


@dataclass(frozen=True, slots=True)
class Pages:
    """How long pages took.

    Attributes:
        profile: which ranking; `for_you` is served and so recorded, others are previews.
        state: cold or warm, or warm for a viewer who has seen very many videos.
        clients: how many asked at once, each a process of its own.
        times: milliseconds a page.
        a_second: pages a second of all clients together.
    """

    profile: str
    state: str
    clients: int
    times: Times
    a_second: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What one run found; `as_dict` is what `--format json` prints.

    Attributes:
        database: which, its version, and how many workers PostgreSQL may take for one statement.
        videos: how many the catalogue has.
        pages: how long pages took.
        whole: milliseconds of the reference formula over every video: by one statement, and by
            numpy on arrays in memory; and whether all three gave the same videos.
        ratios: times as parts of each other.
        exact: of the first videos of `for_you`, the part that scoring every video finds too
            (recall), and the part of the best possible sum of scores; and of how many viewers.
        events: recorded a second: one a transaction, and many.
        read: rows and buffers that one page's statement reads, and rows joined for nothing; means.
    """

    database: Mapping[str, Any]
    videos: int
    pages: tuple[Pages, ...]
    whole: Mapping[str, Any]
    ratios: Mapping[str, float]
    exact: Mapping[str, float]
    events: Mapping[str, float]
    read: Mapping[str, float | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)
