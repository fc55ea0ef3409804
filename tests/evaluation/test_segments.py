"""Segments and checks against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from recommender import InvalidValue
from recommender.evaluation import metrics
from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.checks import check_ranking
from recommender.evaluation.results import PageQuality, RankedPages, ScoredImpressions
from recommender.evaluation.segments import (
    MIN_USERS,
    SegmentQuality,
    mark_video,
    measure_segments,
    user_segments,
    video_segments,
)
from recommender.formats.findings import Finding
from recommender.formats.scalars import UNDATED
from tests.support.worlds import at

DAY = timedelta(days=1)


@dataclass(frozen=True)
class PlainVideo:
    """The facts about a video."""

    engaged_views: int = 100
    published_at: datetime = UNDATED
    creator: int | None = None
    viewers: int = 100
    tags: frozenset[tuple[str, int]] = frozenset()


RARE = PlainVideo(9)
NEW = PlainVideo(100, at() - 6 * DAY)
OLD = PlainVideo(10, at() - 7 * DAY)


def test_users_and_videos_are_in_the_segments_that_their_bounds_give() -> None:
    positives = {"four": 4, "five": 5, "nineteen": 19, "twenty": 20}
    languages = dict(
        zip(("four", "five", "none", "nineteen", "twenty", "other"), "ddcbba", strict=True)
    )
    found = user_segments({*positives, "none", "other"}, positives, languages)
    assert {name: sorted(keys) for name, keys in found.items()} == {
        "all users": sorted(["five", "four", "nineteen", "none", "other", "twenty"]),
        "new users": ["four", "none", "other"],
        "heavy users": ["twenty"],
        # the biggest three, ties by name
        "language b": ["nineteen", "twenty"],
        "language d": ["five", "four"],
        "language a": ["other"],
    }
    # a language that all have is no segment
    assert "language a" not in user_segments({"x", "y"}, {}, dict.fromkeys("xy", "a"))
    assert [video_segments(video, at()) for video in (RARE, NEW, OLD, PlainVideo(0, at(1)))] == [
        ["rare videos"], ["new videos"], [], ["rare videos", "new videos"],
    ]  # fmt: skip


def rows_of(
    scored: ScoredImpressions, shown: RankedPages, members: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str, str], SegmentQuality]:
    rows = measure_segments(scored, shown, members, at(), 0)
    return {(row.figure, row.segment, row.ranker): row for row in rows}


def test_every_segment_has_the_figures_of_its_own_users_and_videos() -> None:
    users = [f"u{number}" for number in range(MIN_USERS + 4)]
    most, others = users[:MIN_USERS], users[MIN_USERS:]
    scored = ScoredImpressions(keys=users)
    for number, user in enumerate(users):
        # the first wants a rare video and not an old one; of two new ones, it wants one
        is_good = user in most
        for video, outcome, score in ((RARE, True, is_good), (OLD, False, not is_good),
                                      (NEW, True, 0.0), (NEW, False, 0.0)):  # fmt: skip
            scored.users.append(number)
            scored.outcomes.append(outcome)
            scored.scores["first"].append(float(score))
            scored.scores["other"].append(0.0)
            mark_video(scored, video, at())
    videos = {"rare": RARE, "new": NEW, "old": OLD}
    shown = RankedPages(videos, 100, viewers=users)
    for user in users:
        shown.relevant.append({"rare", "old"} if user in most else {"old"})
        shown.pages["first"].append(["rare", "new", "old"] if user in most else [])
        shown.pages["other"].append([])
    found = rows_of(scored, shown, {"all users": users, "most": most, "others": others})

    # within most: the rare positive is above both negatives, the new one above one and a half
    gauc = {name: found["gauc", name, "first"] for name in ("all users", "most", "new videos")}
    assert gauc["most"].value == (0.75, 0.75, 0.75)
    # within others: both positives are below the old negative, and tie with the new one
    assert gauc["all users"].value is not None
    assert gauc["all users"].value.value == pytest.approx((20 * 0.75 + 4 * 0.25) / 24)
    assert gauc["new videos"].value == (0.5, 0.5, 0.5)
    assert {name: row.users for name, row in gauc.items()} == {
        "all users": 24, "most": 20, "new videos": 24,
    }  # fmt: skip
    change = found["gauc", "most", "other"].change
    assert change == (-0.25, -0.25, -0.25)
    # no user has two outcomes among rare videos; four users are too few
    for figure, name, count in (
        ("gauc", "rare videos", 0),
        ("gauc", "others", 4),
        ("ndcg@20", "others", 4),
        ("ndcg@20", "new videos", 0),
    ):
        row = found[figure, name, "first"]
        assert (row.users, row.value, row.change) == (count, None, None)
    # only the wanted rare video counts, at the first place
    rare = found["ndcg@20", "rare videos", "first"]
    assert (rare.users, rare.value) == (20, (1, 1, 1))
    both = found["ndcg@20", "most", "first"].value
    assert both is not None
    assert both.value == pytest.approx(metrics.ndcg(["rare", "new", "old"], {"rare", "old"}, 20))
    assert found["ndcg@20", "rare videos", "other"].change == (-1, -1, -1)


def test_users_count_by_their_impressions_in_a_segment_as_in_the_whole() -> None:
    users = [f"u{number}" for number in range(MIN_USERS)]
    scored = ScoredImpressions(keys=users)
    for number in range(MIN_USERS):
        # the first user has most of the impressions, and the worst order
        for _ in range(1 if number else 40):
            for outcome in (True, False):
                scored.users.append(number)
                scored.outcomes.append(outcome)
                scored.scores["first"].append(float(outcome == bool(number)))
                mark_video(scored, NEW, at())
    scored.bounds.append(len(scored.outcomes))
    found = rows_of(scored, RankedPages({}, 100), {"all users": users})
    (whole,) = scored.qualities(0)
    assert whole.gauc is not None
    assert whole.gauc.value == pytest.approx(19 / 59)
    for name in ("all users", "new videos"):
        assert found["gauc", name, "first"].value == whole.gauc


def segment(name: str, ranker: str, change: Interval | None, users: int = 50) -> SegmentQuality:
    value = None if change is None else Interval(0.5, 0.4, 0.6)
    return SegmentQuality("ndcg@20", name, ranker, users, value, change)


def pages(ranker: str, coverage: float, small: Interval | None) -> PageQuality:
    return PageQuality(ranker, {}, None, None, coverage, 0.0, small, None, None)


SAME = Interval(0.0, 0.0, 0.0)
SURE, UNSURE = Interval(0.2, 0.1, 0.3), Interval(0.2, 0.0, 0.3)
SEGMENTS = [
    segment(name, ranker, change)
    for name in ("all users", "new users")
    for ranker, change in (("mine", SAME), ("popular", UNSURE), ("newest", SURE))
]
PAGES = [
    pages("mine", 0.5, Interval(0.08, 0.04, 0.1)),
    pages("random", 1.0, Interval(0.4, 0.3, 0.5)),
    pages("popular", 0.5, Interval(0.0, 0.0, 0.0)),
    pages("newest", 0.4, Interval(0.9, 0.8, 1.0)),
]


def failed(
    segments: Sequence[SegmentQuality],
    pages: Sequence[PageQuality],
    small_creators: float | None = None,
) -> list[str]:
    findings = check_ranking(segments, pages, small_creators)
    return [finding.check for finding in findings if not finding.ok]


def test_each_check_fails_for_its_own_reason() -> None:
    checks = [finding.check for finding in check_ranking(SEGMENTS, PAGES)]
    assert checks == [
        "users", "nDCG@20: all users", "nDCG@20: new users", "coverage", "small creators",
    ]  # fmt: skip
    assert failed(SEGMENTS, PAGES) == []
    worse = [
        segment("new users", "popular", SURE) if row is SEGMENTS[4] else row for row in SEGMENTS
    ]
    assert failed(worse, PAGES) == ["nDCG@20: new users"]
    few = [replace(row, users=MIN_USERS - 1, value=None, change=None) for row in SEGMENTS]
    assert failed(few, PAGES) == ["users"]
    assert failed([replace(row, figure="gauc") for row in SEGMENTS], []) == ["users"]
    narrow = [replace(PAGES[0], coverage=0.49), *PAGES[1:]]
    assert failed(SEGMENTS, narrow) == ["coverage"]
    newer = [*PAGES[:3], replace(PAGES[3], coverage=0.51)]
    assert failed(SEGMENTS, newer) == ["coverage"]
    # a quarter of 0.4 is 0.1, which the interval must reach
    big = [replace(PAGES[0], small_creators=Interval(0.08, 0.04, 0.099)), *PAGES[1:]]
    assert failed(SEGMENTS, big) == ["small creators"]
    assert failed(SEGMENTS, [replace(row, small_creators=None) for row in PAGES]) == [
        "small creators"
    ]
    bounds = (0.0, 0.099, 0.1, 1.0)
    assert [bool(failed(SEGMENTS, big, bound)) for bound in bounds] == [False, False, True, True]
    for bad in (-0.1, 1.5, float("nan"), "much", True):
        with pytest.raises(InvalidValue, match="small_creators: "):
            check_ranking(SEGMENTS, PAGES, bad)  # type: ignore[arg-type]
    assert check_ranking(SEGMENTS, big)[-1] == Finding(
        "small creators", False, "mine 0.080, random 0.400: at least 0.100",  # noqa: FBT003
        "raise exploration_share, or lower the weights of quality and trending",
    )  # fmt: skip


def test_small_creators_are_those_with_at_most_the_median_of_engaged_views() -> None:
    videos = {
        "a": PlainVideo(5, creator=1), "b": PlainVideo(5, creator=1), "c": PlainVideo(9, creator=2),
        "d": PlainVideo(30, creator=3), "e": PlainVideo(0),
    }  # fmt: skip
    shown = RankedPages(videos, 10, [{"a"}, {"b"}])
    # the creators have 10, 9 and 30; a video without a creator has no small creator
    shown.pages["one"] = [["a", "c", "d", "e"], ["d"]]
    (quality,) = shown.qualities(0)
    assert quality.small_creators is not None
    assert quality.small_creators.value == pytest.approx(2 / 5)
    assert metrics.lower_half({"a": 1, "b": 2, "c": 2, "d": 3}) == {"a", "b", "c"}
    assert metrics.lower_half({}) == set()
