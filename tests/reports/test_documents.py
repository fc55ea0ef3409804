"""The files of evaluations and benchmarks show their figures."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.evaluate import Evaluation
from recommender.evaluation.results import CandidateRecall, ImpressionQuality, PageQuality
from recommender.evaluation.segments import SegmentQuality
from recommender.formats.findings import Finding
from recommender.reports import charts
from recommender.reports.report import benchmark_html, evaluation_html
from tests.support.worlds import NOON

HALF = Interval(0.5, 0.4, 0.6)


def evaluation(**given: Any) -> Evaluation:
    gauc = {"for_you<": Interval(0.724, 0.7, 0.748), "random": HALF}
    ranking = [
        ImpressionQuality(name, value, Interval(-0.2, -0.25, -0.15), 0.01, HALF, None, None)
        for name, value in gauc.items()
    ]
    figures = {"ndcg@20": HALF, "recall@20": HALF, "hit@20": None}
    pages = [PageQuality(name, figures, None, None, 0.25, 0.75, None, None, None) for name in gauc]
    whole: dict[str, Any] = {
        "target": "engaged", "feed": None, "cutoff": NOON, "until": None, "slices": 1,
        "impressions": 1_234, "positives": 321, "impression_users": 12, "compared_users": 10,
        "page_users": 7, "videos": 99, "ranking": tuple(ranking), "pages": tuple(pages),
        "candidates": CandidateRecall(Interval(0.8, 0.7, 0.9), {"newest": HALF, "social": None}),
        "segments": (), "seconds": 1.0,
    }  # fmt: skip
    return Evaluation(**{**whole, **given})


def text_of(html: str) -> str:
    return " ".join(
        unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)).split()
    )


def test_an_evaluation() -> None:
    segments = (SegmentQuality("gauc", "new users", "random", 5, HALF, None),)
    findings = (Finding("popular", ok=False, found="worse", advice="look"),)
    html = evaluation_html(evaluation(segments=segments), findings)
    text = text_of(html)
    for part in (
        "Evaluation of For You", "1,234", "for_you< puts 72% of pairs of impressions",
        "0.724 ±0.024 -0.200 ±0.050* 0.500 ±0.100", "0.250 0.750",
        "80% of what users wanted later was among the candidates", "new users random gauc 5 0.500",
        "1 check failed", "popular not well worse look",
    ):  # fmt: skip
        assert part in text
    assert html.count("<svg") == 3
    assert "social" not in text


def test_an_evaluation_of_nothing() -> None:
    nothing = evaluation(ranking=(), pages=(), candidates=CandidateRecall(None, {}), cutoff=None)
    text = text_of(evaluation_html(nothing))
    assert "No ranking could be compared" in text
    assert text.count("There are no users to compare.") == 2
    assert "each user's log cut" in text


def test_a_benchmark() -> None:
    times = {"count": 50, "p50": 12.34, "p95": 20.0, "p99": 30.0}
    page = {"profile": "for_you@1", "state": "cold", "clients": 1, "times": times, "a_second": 8.1}
    warm = {**page, "state": "warm", "times": {**times, "p50": 9.8}}
    sessions = {
        **page, "state": "sessions", "clients": 32, "times": {**times, "p50": 98.7, "mean": 95.67},
        "client_share": 0.456,
    }  # fmt: skip
    result = {
        "database": {"name": "PostgreSQL", "version": "18", "parallel_workers": 2},
        "videos": 100_000, "pages": [page, warm, sessions],
        "whole": {"statement": times, "equal": True},
        "ratios": {"a / b": 2.5}, "exact": {}, "events": {"one": 345.6}, "read": {"rows": None},
        "vectors": {},
    }  # fmt: skip
    html = benchmark_html(result)
    text = text_of(html)
    for part in (
        "100,000 videos in PostgreSQL 18", "A page of for_you@1 takes 10 ms",
        "for_you@1, cold, 1 50",
        "12.3 20.0 30.0 8.1", "ratio: a / b 2.5", "events a second: one 345.6",
        "for_you@1, sessions, 32 50 98.7 20.0 30.0 95.7 8.1 46%",
    ):  # fmt: skip
        assert part in text
    assert 'in milliseconds: for_you@1, cold 12.3, for_you@1, warm 9.8"' in html
    assert html.count("<svg") == 1


@pytest.mark.parametrize("draw", [charts.line, charts.rated])
def test_an_interval_has_the_length_of_its_ends(draw: Any) -> None:
    svg = draw("x", ["a", "b"], [Interval(0.4, 0.2, 0.8), Interval(0.5, 0.5, 0.5)])
    paths = re.findall(r'<path d="(M[^"]*)" class="nofill reactive"', svg)
    lengths = []
    for path in paths:
        x_0, y_0, x_1, y_1 = map(float, re.findall(r"[\d.]+", path)[:4])
        lengths.append(abs(x_1 - x_0) + abs(y_1 - y_0))
        assert 0 in {x_1 - x_0, y_1 - y_0}
    whole = max(lengths)
    assert sorted(lengths) == [0, whole]
    first, second = sorted(re.findall(r"<title>([^<]*)</title>", svg)[-2:])
    assert ("40%" in first, "50%" in second) == (True, True)
    assert whole > 60
