"""Figures with their intervals, as `evaluate`, `fit` and `replay` print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from recommender.cli.output import print_text
from recommender.evaluation.bootstrap import SIGNIFICANT, Interval
from recommender.evaluation.results import PageQuality
from recommender.evaluation.segments import MIN_USERS

LEGEND = (
    "±: half of the 95 % interval over users; change: against the first row; *: a paired test over"
    f" users finds a difference, p < {SIGNIFICANT} after correction for the number of rows."
)

FEW_USERS = (
    f"Fewer than {MIN_USERS} users were measured: the intervals are too narrow, so do not rely on"
    " any difference."
)


def figure_rows(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure: its value and the ends of its interval, None if it has none."""
    for figure, value in figures.items():
        ends = value if isinstance(value, Mapping) else {"value": value}
        yield {"figure": figure, **{name: ends.get(name) for name in Interval._fields}}


def accuracy_row(
    ranker: str, accuracy: Mapping[str, Interval | None], title: str = "pages"
) -> dict[str, Any]:
    """Return the table row of a ranker's pages: how well they hold what users wanted later."""
    return {
        title: ranker,
        "nDCG@20": interval_cell(accuracy["ndcg@20"]),
        "recall": value_cell(accuracy["recall@20"]),
        "MRR": value_cell(accuracy["mrr@20"]),
        "hit": value_cell(accuracy["hit@20"]),
    }


def page_row(quality: PageQuality, *, is_first: bool, title: str = "pages") -> dict[str, Any]:
    """Return the table row of a ranker's pages: their accuracy, and what else they are."""
    name, figure, *others = accuracy_row(quality.ranker, quality.accuracy, title).items()
    change = "" if is_first else change_cell(quality.change, quality.p_value)
    return {
        **dict([name, figure, ("change", change), *others]),
        "cover": round(quality.coverage, 3),
        "Gini": round(quality.creator_gini, 3),
        "diverse": value_cell(quality.diversity),
        "novel": value_cell(quality.novelty),
    }


def quality_rows(part: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure of rankers, which are as JSON has them."""
    for row in rows:
        flat = {**row, **row.get("accuracy", {})}
        ranker = flat.pop("ranker")
        flat.pop("accuracy", None)
        for figure in figure_rows(flat):
            yield {"part": part, "ranker": ranker, **figure}


def recall_rows(part: str, recall: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for all sources together, then for each source, as JSON has them."""
    for source, share in {"all sources": recall["share"], **recall["sources"]}.items():
        for figure in figure_rows({"recall": share}):
            yield {"part": part, "ranker": source, **figure}


def print_legend(*users: int) -> None:
    """Print what the signs in tables mean, and a warning if few users were measured.

    Args:
        users: the numbers of users that were measured.
    """
    click.echo()
    print_text(LEGEND)
    if any(0 < number < MIN_USERS for number in users):
        print_text(FEW_USERS)


def interval_cell(interval: Interval | None, sign: str = "-") -> str:
    """Return a value and half the width of its interval, or nothing for None."""
    if interval is None:
        return ""
    return f"{interval.value:{sign}.3f} ±{(interval.high - interval.low) / 2:.3f}"


def change_cell(change: Interval | None, p_value: float | None = None) -> str:
    """Return a change with its sign; nothing for None.

    An asterisk marks a change whose p value is significant.
    """
    mark = "*" if p_value is not None and p_value < SIGNIFICANT else ""
    return interval_cell(change, "+") + mark


def value_cell(interval: Interval | None) -> float | None:
    """Return a value rounded to three decimals."""
    return None if interval is None else round(interval.value, 3)


def recall_sentence(reached: float, sources: Mapping[str, float]) -> str:
    """Return a sentence about the shares of later positives that candidates and sources held."""
    by_source = ", ".join(f"{name} {share:.1%}" for name, share in sources.items())
    return f"{reached:.1%} of what they wanted later was among the candidates: {by_source}."


def targets(target: Mapping[str, float]) -> str:
    """Return the outcomes of a target with their values, such as engaged 1, like 3."""
    return ", ".join(f"{name} {value:g}" for name, value in target.items())
