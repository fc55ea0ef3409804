"""The document of an evaluation: rankers, pages, candidates, segments and checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recommender.evaluation.bootstrap import SIGNIFICANT, Interval
from recommender.evaluation.evaluate import Evaluation
from recommender.evaluation.results import JUDGED_BY, ImpressionQuality, PageQuality
from recommender.formats.findings import Finding
from recommender.reports import charts
from recommender.reports.health import findings_table
from recommender.reports.parts import Chart, Document, Section, Table, Tile
from recommender.reports.text import NONE, moment_of, number, percentage, plain_line, plural


def evaluation_document(result: Evaluation, findings: Sequence[Finding] = ()) -> Document:
    """Return the document of an evaluation.

    Args:
        result: the evaluation; its segments are shown if it has any.
        findings: the findings of its checks; empty if they were not asked for.
    """
    cut = f"the log cut at {moment_of(result.cutoff)}" if result.cutoff else "each user's log cut"
    return Document(
        title=f"Evaluation of {plain_line(result.feed or 'For You')}",
        subtitle=f"Target: {plain_line(result.target)}; {cut}",
        tiles=[
            Tile(
                "Impressions", number(result.impressions), plural(result.impression_users, "user")
            ),
            Tile("Positives", number(result.positives)),
            Tile("Users with pages", number(result.page_users)),
            Tile("Videos", number(result.videos)),
        ],
        sections=[
            _impressions(result),
            _pages(result),
            *_candidates(result),
            *_segments(result),
            *_checks(findings),
        ],
    )


def _impressions(result: Evaluation) -> Section:
    """Return the section about the order of impressions."""
    known = [(each.ranker, each.gauc) for each in result.ranking]
    columns = ("ranking", "GAUC", "change", "AUC", "log loss", "miscalibrated")
    rows = [
        (plain_line(each.ranker), _cell(each.gauc), _change(each), _cell(each.auc),
         _cell(each.log_loss), _cell(each.calibration_error))
        for each in result.ranking
    ]  # fmt: skip
    first = result.ranking[0].gauc if result.ranking else None
    title = "No ranking could be compared"
    if first:
        name = plain_line(result.ranking[0].ranker)
        title = f"{name} puts {percentage(first.value)} of pairs of impressions in the right order"
    return Section(
        title,
        "GAUC: the share of pairs of a user's positive and other impressions in which the positive"
        " one scores higher. 50% is chance. The lines show 95% intervals over users. A star marks a"
        " change that is no chance.",
        [_chart("GAUC, by ranking", known, charts.percent)],
        [Table(columns, rows, frozenset(columns[1:]))],
        is_wide=True,
    )


def _pages(result: Evaluation) -> Section:
    """Return the section about pages."""
    known = [(each.ranker, each.accuracy[JUDGED_BY]) for each in result.pages]
    columns = (
        "pages", "nDCG@20", "change", "recall", "hit", "coverage", "Gini", "small creators",
        "diversity",
    )  # fmt: skip
    rows = [
        (plain_line(each.ranker), _cell(each.accuracy[JUDGED_BY]), _change(each),
         _cell(each.accuracy["recall@20"]), _cell(each.accuracy["hit@20"]), f"{each.coverage:.3f}",
         f"{each.creator_gini:.3f}", _cell(each.small_creators), _cell(each.diversity))
        for each in result.pages
    ]  # fmt: skip
    best = max((each for each in known if each[1]), key=lambda each: each[1] or (0,), default=None)
    title = "No page could be measured"
    if best and best[1]:
        title = f"The pages of {plain_line(best[0])} hold most of what users wanted later"
    return Section(
        title,
        "nDCG@20: how much of it is among the first 20 videos, and how far up; 1 is the best.",
        [_chart("nDCG@20, by ranking", known, lambda value: f"{value:.2f}")],
        [Table(columns, rows, frozenset(columns[1:]))],
        is_wide=True,
    )


def _candidates(result: Evaluation) -> Iterator[Section]:
    """Yield the section about candidates, if any page was measured."""
    whole = result.candidates.share
    if whole is None:
        return
    known = sorted(
        ((name, share) for name, share in result.candidates.sources.items() if share),
        key=lambda each: -each[1].value,
    )
    yield Section(
        f"{percentage(whole.value)} of what users wanted later was among the candidates",
        "Several sources may find the same video.",
        [_chart("Share that each source found", known, charts.percent)],
        is_wide=True,
    )


def _segments(result: Evaluation) -> Iterator[Section]:
    rows = [
        (plain_line(each.segment), plain_line(each.ranker), each.figure, number(each.users),
         _cell(each.value), _cell(each.change, sign="+"))
        for each in result.segments
    ]  # fmt: skip
    if rows:
        columns = ("segment", "ranking", "figure", "users", "value", "change")
        table = Table(columns, rows, frozenset(columns[3:]))
        yield Section("Segments of users and videos", tables=[table], is_wide=True)


def _checks(findings: Sequence[Finding]) -> Iterator[Section]:
    if findings:
        wrong = sum(not each.ok for each in findings)
        title = f"{plural(wrong, 'check')} failed" if wrong else "All checks passed"
        yield Section(title, tables=[findings_table(findings)], is_wide=True)


def _chart(title: str, values: Sequence[tuple[str, Interval | None]], write: charts.Write) -> Chart:
    known = [(plain_line(name), value) for name, value in values if value]
    if not known:
        return Chart(None, title, empty="There are no users to compare.")
    alt = f"Bars of {title}: " + ", ".join(f"{name} {write(value.value)}" for name, value in known)
    names, intervals = zip(*known, strict=True)
    return Chart(charts.rated(alt, names, intervals, write), title)


def _cell(value: Interval | None, *, sign: str = "-") -> str:
    """Return a value and half the width of its interval."""
    if value is None:
        return NONE
    return f"{value.value:{sign}.3f} ±{(value.high - value.low) / 2:.3f}"


def _change(quality: ImpressionQuality | PageQuality) -> str:
    """Return the change against the first ranking, with a star if it is no chance."""
    is_sure = quality.p_value is not None and quality.p_value < SIGNIFICANT
    return _cell(quality.change, sign="+") + ("*" if is_sure else "")
