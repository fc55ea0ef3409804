"""``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource
from sqlalchemy import Engine

import recommender
from recommender.cli.database import readable
from recommender.cli.figures import (
    change_cell,
    figure_rows,
    interval_cell,
    page_row,
    print_legend,
    quality_rows,
    recall_rows,
    recall_sentence,
    value_cell,
)
from recommender.cli.findings import fail_if_not_well, print_findings
from recommender.cli.html import html_file, html_option
from recommender.cli.list_tasks import print_lists
from recommender.cli.log_options import (
    Holdout,
    every_option,
    log_files_options,
    sample_option,
    scratch_option,
    until_option,
)
from recommender.cli.options import NumberRange, Time, database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table, print_text
from recommender.cli.progress import progress_bars
from recommender.evaluation.checks import FIGURES
from recommender.evaluation.evaluate import Evaluation
from recommender.evaluation.log_files import ENGAGED, TARGETS, LogFiles
from recommender.evaluation.results import ImpressionQuality
from recommender.evaluation.segments import MIN_USERS, SegmentQuality
from recommender.formats.findings import Finding
from recommender.reports.report import evaluation_html

SEGMENT_TABLES = {
    "gauc": "Impressions by segment",
    "ndcg@20": f"Pages by segment; fewer than {MIN_USERS} users are too few to compare",
}

FEED, NEXT, FOLLOW = TASKS = ("feed", "next", "follow")
"""The values of --task."""

OF_FEED = ("feed", "ablate", "segments", "checks", "small_creators", "every", "html")
"""The options that only --task feed takes."""

NOT_OF_FOLLOW = ("holdout", "target")
"""The options that --task follow does not take: follows have a time, and no other outcome."""


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
    help="A ranking profile; repeat it to compare others with the first. Default: the active one,"
    " and for lists and feeds with names their own.",
)  # fmt: skip
@click.option(
    "--feed", metavar="NAME",
    help="Make pages as this feed does, with its sources, formats and limits. With log files it is"
    " read from the database, and so are profiles.",
)  # fmt: skip
@click.option(
    "--target", type=click.Choice(TARGETS), default=ENGAGED, show_default=True,
    help="The outcome of an impression that counts as a positive.",
)  # fmt: skip
@click.option(
    "--task", type=click.Choice(TASKS), default=FEED, show_default=True,
    help="What to measure: the feed, whether lists of similar videos hold what is enjoyed next, or"
    " whether lists of people hold whom users follow later.",
)  # fmt: skip
@click.option("--ablate", is_flag=True, help="Also leave out each signal of the first profile.")
@click.option("--segments", is_flag=True, help="Also compare in segments of users and videos.")
@click.option(
    "--checks", is_flag=True,
    help="Also check the first ranking against simple ones; exit with 1 if a check fails.",
)  # fmt: skip
@click.option(
    "--small-creators", type=NumberRange(0, 1), metavar="SHARE",
    help="The smallest share of places for small creators that --checks accepts."
    " Default: a quarter of their share in random order.",
)  # fmt: skip
@sample_option
@log_files_options
@scratch_option
@html_option
@format_option
@database_option
def evaluate(
    log_files: LogFiles | None,
    form: str | None,
    task: str,
    html: str | None,
    *,
    segments: bool,
    checks: bool,
    small_creators: float | None,
    **options: Any,
) -> None:
    """Measure how well the feed ranks what users wanted later.

    The log comes from the database, or from interchange files. The command writes to neither.
    """
    _check_options(task)
    if (options["cutoff"] is None) == (options["holdout"] is None):
        raise click.UsageError("give either --cutoff or --holdout")
    if small_creators is not None and not checks:
        raise click.UsageError("--small-creators needs --checks")
    source, database = _origins(log_files, needs_database=options["feed"] is not None)
    if task != FEED:
        _evaluate_lists(task, source, form, options)
        return
    with html_file(html) as write:
        with source as log, database as host, progress_bars() as progress:
            result = recommender.evaluate(
                log, database=host, segments=segments or checks, settings=settings(),
                progress=progress, **options,
            )  # fmt: skip
        findings = result.checks(small_creators=small_creators) if checks else ()
        shown = result if segments else replace(result, segments=())
        write(lambda: evaluation_html(shown, findings))
    if form_of(form) == "table":
        _print_tables(result, findings, segments=segments)
    else:
        _print_records(result, findings, form)
    fail_if_not_well(findings)


def _origins(
    log_files: LogFiles | None, *, needs_database: bool
) -> tuple[AbstractContextManager[Engine | LogFiles], AbstractContextManager[Engine | None]]:
    """Return the log; and the database, if it is needed besides a log of files."""
    database = readable(longest=settings().rollup_timeout)
    if not log_files:
        return database, nullcontext()
    return nullcontext(log_files), database if needs_database else nullcontext()


def _evaluate_lists(
    task: str,
    source: AbstractContextManager[Engine | LogFiles],
    form: str | None,
    options: Mapping[str, Any],
) -> None:
    """Evaluate lists of similar videos, or of people."""
    unused = (*OF_FEED, *(NOT_OF_FOLLOW if task == FOLLOW else ()))
    asked = {name: value for name, value in options.items() if name not in unused}
    evaluate_task = recommender.evaluate_next if task == NEXT else recommender.evaluate_follow
    with source as log, progress_bars() as progress:
        found = evaluate_task(log, settings=settings(), progress=progress, **asked)
    print_lists(found, form, task)


def _check_options(task: str) -> None:
    """Raise `UsageError` if an option was given that the task does not take."""
    context = click.get_current_context()
    refused = {FEED: (), NEXT: OF_FEED, FOLLOW: (*OF_FEED, *NOT_OF_FOLLOW)}[task]
    for name in refused:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--task {task} takes no --{name.replace('_', '-')}")


def _print_records(result: Evaluation, findings: Sequence[Finding], form: str | None) -> None:
    """Print JSON, or a row for each figure."""
    whole = result.as_dict()
    if findings:
        whole["checks"] = [finding.as_dict() for finding in findings]
    parts = ("ranking", "pages")
    figures = [row for part in parts for row in quality_rows(part, whole[part])]
    figures += recall_rows("candidates", whole["candidates"])
    figures += _segment_records(whole["segments"])
    figures += _check_records(findings)
    print_records(figures, form, whole=whole)


def _print_tables(result: Evaluation, findings: Sequence[Finding], *, segments: bool) -> None:
    print_text(
        f"{result.impressions:,} impressions of {result.impression_users:,} users in"
        f" {_slices(result.slices)} were ranked; {result.positives:,} led to: {result.target}."
    )
    print_table([_ranking_row(row, is_first=not place) for place, row in enumerate(result.ranking)])
    click.echo()
    of_feed = f" of {result.feed}" if result.feed else ""
    print_text(
        f"Pages{of_feed} out of {result.videos:,} videos for {result.page_users:,} users who later"
        " wanted some that they had not seen:"
    )
    print_table([page_row(row, is_first=not place) for place, row in enumerate(result.pages)])
    reached, sources = result.candidates.share, result.candidates.sources
    if reached:
        click.echo()
        shares = {name: share.value for name, share in sources.items() if share}
        print_text(recall_sentence(reached.value, shares))
    if segments:
        _print_segments(result.segments)
    if findings:
        click.echo()
        print_findings(findings)
    print_legend(result.impression_users, result.compared_users, result.page_users)


def _print_segments(rows: Sequence[SegmentQuality]) -> None:
    """Print a table of impressions and a table of pages, with all rankers in every segment."""
    for figure, title in SEGMENT_TABLES.items():
        shown = [
            _segment_row(row, is_first=row.ranker == rows[0].ranker)
            for row in rows
            if row.figure == figure and (row.users >= MIN_USERS or row.ranker == rows[0].ranker)
        ]
        click.echo(f"\n{title}:")
        print_table(shown)


def _segment_row(row: SegmentQuality, *, is_first: bool) -> dict[str, Any]:
    """Return a ranker's row; a segment of too few users has a single one without figures."""
    is_thin = row.users < MIN_USERS
    return {
        "segment": row.segment,
        "users": row.users,
        "ranking": "too few" if is_thin else row.ranker,
        FIGURES[row.figure]: interval_cell(row.value),
        "change": "" if is_first else change_cell(row.change),
    }


def _segment_records(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure of a ranker in a segment."""
    for row in rows:
        name, part = row["figure"], f"segment: {row['segment']}"
        figures = {
            f"{name} users": row["users"],
            name: row["value"],
            f"{name} change": row["change"],
        }
        for figure in figure_rows(figures):
            yield {"part": part, "ranker": row["ranker"], **figure}


def _check_records(findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """Yield a row for each check, whose value is true if it is well."""
    for finding in findings:
        for figure in figure_rows({finding.check: finding.ok}):
            yield {"part": "checks", "ranker": None, **figure}


def _slices(count: int) -> str:
    return f"{count:,} slice{'s' * (count != 1)}"


def _ranking_row(quality: ImpressionQuality, *, is_first: bool) -> dict[str, Any]:
    return {
        "ranking": quality.ranker,
        "GAUC": interval_cell(quality.gauc),
        "change": "" if is_first else change_cell(quality.change, quality.p_value),
        "AUC": interval_cell(quality.auc),
        "log loss": value_cell(quality.log_loss),
        "miscalibrated": value_cell(quality.calibration_error),
    }
