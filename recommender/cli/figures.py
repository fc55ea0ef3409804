"""Figures with their intervals, as `evaluate`, `fit` and `replay` print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recommender.evaluation.bootstrap import SIGNIFICANT, Interval


def figure_rows(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure: its value and the ends of its interval, None if it has none."""
    for figure, value in figures.items():
        ends = value if isinstance(value, Mapping) else {"value": value}
        yield {"figure": figure, **{name: ends.get(name) for name in Interval._fields}}


def accuracy_row(ranker: str, accuracy: Mapping[str, Interval | None]) -> dict[str, Any]:
    """Return the table row of a ranker's pages: how well they hold what users wanted later."""
    return {
        "pages": ranker,
        "nDCG@20": interval_cell(accuracy["ndcg@20"]),
        "recall": value_cell(accuracy["recall@20"]),
        "MRR": value_cell(accuracy["mrr@20"]),
        "hit": value_cell(accuracy["hit@20"]),
    }


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
