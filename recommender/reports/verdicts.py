"""The sections about experiments: their verdicts, and how they came to them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from recommender.evaluation.bootstrap import Interval
from recommender.experiments.report import DailyEffect, ExperimentReport, VariantResult
from recommender.experiments.verdict import Range
from recommender.reports import charts
from recommender.reports.parts import Chart, Document, Mark, Section, Table, Tile
from recommender.reports.text import NONE, moment_of, number, plain_line, plural, short_day

KINDS = {"better": "good", "not harmed": "good", "worse": "bad", "harmed": "bad"}
"""The verdicts that stand out."""


def experiment(report: ExperimentReport) -> Section:
    """Return the section about an experiment: its verdicts, and its effect day by day."""
    name = plain_line(report.experiment.name)
    said = "; ".join(
        f"{plain_line(variant)}: {verdict}" for variant, verdict in report.verdicts.items()
    )
    harmed = [f"{variant} harms {', '.join(names)}" for variant, names in report.harmed.items()
              if names]  # fmt: skip
    return Section(
        "; ".join([f"Experiment {name}: {said}", *map(plain_line, harmed)]),
        _text(report),
        list(_charts(report)),
        [_table(report)],
        is_wide=True,
    )


def experiment_document(report: ExperimentReport) -> Document:
    """Return the page of one experiment."""
    until = report.experiment.stopped_at or report.as_of
    return Document(
        title=f"Experiment {plain_line(report.experiment.name)}",
        subtitle=f"{moment_of(report.experiment.started_at)} to {moment_of(until)}",
        tiles=[
            Tile("Users", number(report.users), f"{number(report.left_out)} left out"),
            Tile("Days", f"{report.days:.0f}"),
            Tile("Metric", plain_line(report.metric)),
            Tile("Sample ratio", "fits" if report.sample_ratio.ok else "wrong",
                 f"p = {report.sample_ratio.p_value:.3f}"),
        ],
        sections=[experiment(report)],
    )  # fmt: skip


def _text(report: ExperimentReport) -> str:
    counted = plural(report.users, "user")
    text = (
        f"{counted} over {plural(math.ceil(report.days), 'day')}, by the metric {report.metric}."
        " The lines show intervals that hold however often one looks."
    )
    if report.sample_ratio.ok:
        return text
    return f"The numbers of users do not fit the planned shares, so there is no verdict. {text}"


def _charts(report: ExperimentReport) -> Iterator[Chart]:
    """Yield the effect of each variant by day."""
    for result in report.results:
        if not result.is_guardrail:
            title = f"{plain_line(result.variant)} against the control, by day"
            yield _chart(title, result)


def _chart(title: str, result: VariantResult) -> Chart:
    values = [_interval(each) for each in result.by_day]
    known = [value for value in values if value]
    if not known:
        return Chart(None, title, empty="There are too few users for an interval yet.")
    labels = [short_day(each.at) for each in result.by_day]
    last = known[-1]
    alt = (
        f"Line of the relative effect on {result.metric} by day, with its sequence: at the end"
        f" {last.value:+.1%}, from {last.low:+.1%} to {last.high:+.1%}"
    )
    rows = [
        (label, _users(each.users), _percent(each.effect.relative),
         _ends(each.effect.relative_plain), _ends(each.effect.relative_sequence))
        for label, each in zip(labels, result.by_day, strict=True)
    ]  # fmt: skip
    columns = ("day", "users", "effect", "interval at one look", "sequence")
    svg = charts.line(alt, labels, values, charts.signed_percent, (-math.inf, math.inf))
    return Chart(svg, title, table=Table(columns, rows, frozenset(columns[1:])))


def _interval(each: DailyEffect) -> Interval | None:
    effect = each.effect
    if effect.relative is None or effect.relative_sequence is None:
        return None
    return Interval(effect.relative, *effect.relative_sequence)


def _table(report: ExperimentReport) -> Table:
    """Return every metric and guardrail of every variant."""
    rows = [
        (
            f"{plain_line(each.variant)}, {each.metric}",
            _users(each.users),
            _mean(each.effect.control),
            _mean(each.effect.variant),
            _percent(each.effect.relative),
            _ends(each.effect.relative_sequence),
            Mark(str(each.verdict), KINDS.get(each.verdict.kind, "plain")),
        )
        for each in report.results
    ]
    columns = ("variant, metric", "users", "control", "variant", "effect", "sequence", "verdict")
    return Table(columns, rows, frozenset(columns[1:-1]))


def _users(users: tuple[int, int]) -> str:
    """Return the users of the control and of the variant."""
    return " / ".join(map(number, users))


def _mean(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:+.1%}"


def _ends(value: Range | None) -> str:
    return NONE if value is None else f"{value.low:+.1%} to {value.high:+.1%}"
