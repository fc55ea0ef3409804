"""``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click
from sqlalchemy import Engine

import recommender
from recommender.cli.database import readable
from recommender.cli.figures import (
    accuracy_row,
    change_cell,
    figure_rows,
    interval_cell,
    value_cell,
)
from recommender.cli.log_options import (
    Holdout,
    every_option,
    log_files_options,
    sample_option,
    scratch_option,
    until_option,
)
from recommender.cli.options import Time, database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table
from recommender.cli.progress import progress_bars
from recommender.evaluation.evaluate import Evaluation
from recommender.evaluation.log_files import ENGAGED, TARGETS, LogFiles
from recommender.evaluation.results import CandidateRecall, ImpressionQuality, PageQuality


@click.command()
@click.option("--cutoff", type=Time(), metavar="TIME", help="The time at which to split the log.")
@until_option
@click.option(
    "--holdout", type=Holdout(), metavar="per-user:PART",
    help="Split each user's log before the last PART of their positives instead.",
)  # fmt: skip
@every_option
@click.option(
    "--profile", "profiles", multiple=True, metavar="NAME[@VERSION]",
    help="A ranking profile; repeat it to compare others with the first. Default: the active one.",
)  # fmt: skip
@click.option(
    "--target", type=click.Choice(TARGETS), default=ENGAGED, show_default=True,
    help="The outcome of an impression that counts as a positive.",
)  # fmt: skip
@click.option("--ablate", is_flag=True, help="Also leave out each signal of the first profile.")
@sample_option
@log_files_options
@scratch_option
@format_option
@database_option
def evaluate(log_files: LogFiles | None, form: str | None, **options: Any) -> None:
    """Measure how well the feed ranks what users wanted later.

    The log comes from the database, or from interchange files. The command writes to neither.
    """
    if (options["cutoff"] is None) == (options["holdout"] is None):
        raise click.UsageError("give either --cutoff or --holdout")
    source: AbstractContextManager[Engine | LogFiles] = readable(longest=settings().rollup_timeout)
    if log_files:
        source = nullcontext(log_files)
    with source as log, progress_bars() as progress:
        result = recommender.evaluate(log, settings=settings(), progress=progress, **options)
    _print(result, form)


def _print(result: Evaluation, form: str | None) -> None:
    if form_of(form) != "table":
        whole = result.as_dict()
        parts = ("ranking", "pages")
        figures = [row for part in parts for row in _figures(part, whole[part])]
        figures += _recall_rows(whole["candidates"])
        print_records(figures, form, whole=whole)
        return
    click.echo(
        f"{result.impressions:,} impressions of {result.impression_users:,} users in"
        f" {_slices(result.slices)} were ranked; {result.positives:,} led to: {result.target}."
    )
    print_table([_ranking_row(row) for row in result.ranking])
    click.echo(
        f"\nPages out of {result.videos:,} videos for {result.page_users:,} users who later wanted"
        " some that they had not seen:"
    )
    print_table([_page_row(row) for row in result.pages])
    click.echo(f"\n{_recall_line(result.candidates)}")
    click.echo("\n±: half of the 95 % interval over users; change: against the first row.")


def _recall_line(recall: CandidateRecall) -> str:
    """Return a sentence about the candidates of the pages, and the sources that found them."""
    by_source = ", ".join(
        f"{name} {share.value:.1%}" for name, share in recall.sources.items() if share
    )
    reached = f"{recall.share.value:.1%}" if recall.share else "Nothing"
    return f"{reached} of what they wanted later was among the candidates: {by_source}."


def _figures(part: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure."""
    for row in rows:
        flat = {**row, **row.get("accuracy", {})}
        ranker = flat.pop("ranker")
        flat.pop("accuracy", None)
        for figure in figure_rows(flat):
            yield {"part": part, "ranker": ranker, **figure}


def _recall_rows(recall: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for all sources together, then for each source."""
    for source, share in {"all sources": recall["share"], **recall["sources"]}.items():
        for figure in figure_rows({"recall": share}):
            yield {"part": "candidates", "ranker": source, **figure}


def _slices(count: int) -> str:
    return f"{count:,} slice{'s' * (count != 1)}"


def _ranking_row(quality: ImpressionQuality) -> dict[str, Any]:
    return {
        "ranking": quality.ranker,
        "GAUC": interval_cell(quality.gauc),
        "change": change_cell(quality.change),
        "AUC": interval_cell(quality.auc),
        "log loss": value_cell(quality.log_loss),
        "miscalibrated": value_cell(quality.calibration_error),
    }


def _page_row(quality: PageQuality) -> dict[str, Any]:
    name, figure, *others = accuracy_row(quality.ranker, quality.accuracy).items()
    return {
        **dict([name, figure, ("change", change_cell(quality.change)), *others]),
        "cover": round(quality.coverage, 3),
        "Gini": round(quality.creator_gini, 3),
        "diverse": value_cell(quality.diversity),
        "novel": value_cell(quality.novelty),
    }
