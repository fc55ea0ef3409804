"""Check an evaluation for continuous integration: is the first ranker nowhere below simple ones?

The bounds come from the baselines of the same evaluation, so they suit every catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.results import PageQuality
from recommender.evaluation.segments import ALL_USERS, MIN_USERS, SegmentQuality
from recommender.formats import scalars
from recommender.formats.findings import Finding

BASELINE = "popular"
"""The ranker that the first one must not be worse than in any segment."""

COVERED_BY = ("popular", "newest")
"""The rankers whose coverage the first one must reach."""

SMALL_SHARE = 0.25
"""The minimum share of places with videos by small creators, as a part of it in random order."""

FIGURES = {"gauc": "GAUC", "ndcg@20": "nDCG@20"}
"""The names of figures in tables."""


def check_ranking(
    segments: Sequence[SegmentQuality],
    pages: Sequence[PageQuality],
    small_creators: float | None = None,
) -> tuple[Finding, ...]:
    """Return the findings about the first ranker.

    Args:
        segments: every ranker in every segment, all users included.
        pages: every ranker over pages.
        small_creators: the minimum share of places with videos by small creators, 0 to 1; None for
            `SMALL_SHARE` of their share in random order.

    Raises:
        InvalidValue: the share is malformed.
    """
    if small_creators is not None:
        scalars.parse_named("small_creators", scalars.fraction, small_creators)
    findings = [_enough_users(segments), *_segments(segments)]
    if pages:
        by_ranker = {quality.ranker: quality for quality in pages}
        findings.append(_coverage(pages[0], by_ranker))
        findings.append(_small_creators(pages[0], by_ranker["random"], small_creators))
    return tuple(findings)


def _enough_users(segments: Sequence[SegmentQuality]) -> Finding:
    """Check that the pages of enough users were measured: else no other check could fail."""
    overall = (row for row in segments if row.segment == ALL_USERS and row.figure != "gauc")
    users = max((row.users for row in overall), default=0)
    return _finding(
        "users", users >= MIN_USERS, f"pages of {users:,} users were measured",
        f"evaluate a longer log or a larger sample: it takes {MIN_USERS} users",
    )  # fmt: skip


def _segments(segments: Sequence[SegmentQuality]) -> Iterator[Finding]:
    """Yield a finding per segment: is the baseline better, by the interval of the change?"""
    baseline = {(row.figure, row.segment): row for row in segments if row.ranker == BASELINE}
    for row in segments:
        if row.ranker == segments[0].ranker:
            other = baseline[row.figure, row.segment]
            yield _finding(
                f"{FIGURES[row.figure]}: {row.segment}",
                other.change is None or other.change.low <= 0,
                _compared(row, other),
                "see with --ablate what each signal adds here, or learn weights with fit",
            )


def _compared(row: SegmentQuality, other: SegmentQuality) -> str:
    if row.value is None or other.value is None:
        return f"too few users to compare: {row.users:,}"
    return f"{_figure(row.ranker, row.value)}, {_figure(other.ranker, other.value)}"


def _figure(ranker: str, value: Interval | float) -> str:
    return f"{ranker} {value.value if isinstance(value, Interval) else value:.3f}"


def _coverage(first: PageQuality, by_ranker: Mapping[str, PageQuality]) -> Finding:
    others = [by_ranker[name] for name in COVERED_BY]
    return _finding(
        "coverage", first.coverage >= max(other.coverage for other in others),
        ", ".join(_figure(quality.ranker, quality.coverage) for quality in (first, *others)),
        "raise the weights of signals that differ between viewers, such as affinities",
    )  # fmt: skip


def _small_creators(first: PageQuality, chance: PageQuality, bound: float | None) -> Finding:
    """Check the share of small creators: the high end of its interval must reach the bound."""
    share, of_chance = first.small_creators, chance.small_creators
    if share is None or of_chance is None:
        return Finding("small creators", ok=False, found="no page has a video")
    bound = SMALL_SHARE * of_chance.value if bound is None else bound
    found = f"{_figure(first.ranker, share)}, {_figure(chance.ranker, of_chance)}"
    return _finding(
        "small creators", share.high >= bound, f"{found}: at least {bound:.3f}",
        "raise exploration_share, or lower the weights of quality and trending",
    )  # fmt: skip


def _finding(check: str, ok: bool, found: str, advice: str) -> Finding:  # noqa: FBT001
    return Finding(check, ok, found, None if ok else advice)
