"""The figures that a benchmark measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any


@dataclass(frozen=True, slots=True)
class Times:
    """The number of measurements, and their percentiles and mean in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    mean: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Return the figures of at least one measurement in seconds."""
        ranked_times = sorted(seconds)

        def percentile(part: float) -> float:
            place = min(len(ranked_times) - 1, int(part * len(ranked_times)))
            return round(ranked_times[place] * 1_000, 3)

        mean = round(fmean(seconds) * 1_000, 3)
        return cls(len(seconds), percentile(0.5), percentile(0.95), percentile(0.99), mean)


@dataclass(frozen=True, slots=True)
class Pages:
    """The times of one kind of pages.

    Attributes:
        profile: the ranking profile, or the name of a list beside For You; `for_you` pages are
            recorded, others are previews.
        state: cold, connected, warm, or warm for a viewer who has seen very many videos; the first,
            next or all pages of sessions; or what concurrent clients ask for, sessions or previews.
        clients: the number of clients; concurrent clients are processes.
        times: milliseconds per page.
        a_second: pages per second of all clients together. The time in which concurrent clients
            record swipes counts; in the other states only the time of the pages does.
        client_share: the part of the processor time that concurrent clients used themselves, 0 to
            1; the server used the rest. None if it is not known.
    """

    profile: str
    state: str
    clients: int
    times: Times
    a_second: float
    client_share: float | None = None

    @classmethod
    def alone(cls, profile: str, state: str, seconds: Sequence[float]) -> Pages:
        """Return the times of pages that one client asked for, one after another."""
        return cls(profile, state, 1, Times.of(seconds), round(1 / fmean(seconds), 1))


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The result of one run; `--format json` prints its `as_dict`.

    Attributes:
        database: the database, its version, and its parallel workers per statement.
        videos: the number of videos in the catalogue.
        pages: the times of pages and lists, by kind.
        whole: the times of the reference formula over every video, by one statement, by numpy and
            by `classic`, and whether all three gave the same videos.
        ratios: ratios between these times.
        exact: the recall of `for_you` against scoring every video, its share of the best sum of
            scores, and the number of viewers.
        events: events recorded per second, with one and with many per transaction.
        read: mean rows and buffers that the statement of a page reads, and rows it discards.
        vectors: what vectors cost, as `measure_vectors` returns it; empty if not asked for.
    """

    database: Mapping[str, Any]
    videos: int
    pages: tuple[Pages, ...]
    whole: Mapping[str, Any]
    ratios: Mapping[str, float]
    exact: Mapping[str, float]
    events: Mapping[str, float]
    read: Mapping[str, float | None] = field(default_factory=dict)
    vectors: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as nested plain values."""
        return asdict(self)
