"""``fit``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import click
from sqlalchemy import Engine

import recommender
from recommender.cli.database import readable, writable
from recommender.cli.figures import accuracy_row, recall_sentence, targets
from recommender.cli.log_options import (
    every_option,
    log_files_options,
    sample_option,
    scratch_option,
    target_option,
    until_option,
)
from recommender.cli.options import (
    Time,
    author_option,
    database_option,
    format_option,
    note_option,
    settings,
)
from recommender.cli.output import form_of, print_records, print_table, print_text
from recommender.cli.progress import progress_bars
from recommender.evaluation.log_files import LogFiles
from recommender.training.fit import Fit
from recommender.training.fit_pages import PageFit, fit_pages
from recommender.training.impressions import MIN_COMPARED

IMPRESSIONS, CANDIDATES = OVER = ("impressions", "candidates")
"""The rows that a fit learns from."""

Result: TypeAlias = Fit | PageFit


@click.command()
@click.argument("name")
@click.option(
    "--over", type=click.Choice(OVER), default=IMPRESSIONS, show_default=True,
    help="Learn to order impressions, or to choose pages from all candidates of a log.",
)  # fmt: skip
@target_option
@click.option("--since", type=Time(), metavar="TIME", help="Learn from this time on; splits a log.")
@until_option
@click.option("--replay", is_flag=True, help="Replay the log of the database itself.")
@log_files_options
@every_option
@sample_option
@scratch_option
@author_option
@note_option
@format_option
@database_option
def fit(
    name: str,
    log_files: LogFiles | None,
    replay: bool,  # noqa: FBT001 - click passes a flag by name
    over: str,
    form: str | None,
    **options: Any,
) -> None:
    """Learn the weights of a new profile version from what users did.

    It learns from the pages served. With --replay or log files it replays a log instead. The
    version serves after `recommender profiles activate`.
    """
    source = _source(log_files, replay=replay, over=over)
    with writable() as bind, source as log, progress_bars() as progress:
        options |= {"log": log, "settings": settings(), "progress": progress}
        if over == CANDIDATES:
            _print_pages(fit_pages(bind, name, **options), form)
        else:
            del options["sample"]
            _print(recommender.fit(bind, name, **options), form)


def _source(
    log_files: LogFiles | None, *, replay: bool, over: str
) -> AbstractContextManager[Engine | LogFiles | None]:
    """Return the log to replay, None to learn from the pages served."""
    if log_files:
        return nullcontext(log_files)
    if replay:
        return readable(longest=settings().rollup_timeout)
    if over == CANDIDATES:
        raise click.UsageError("--over candidates takes a log: give --replay, or files")
    return nullcontext(None)


def _print(result: Fit, form: str | None) -> None:
    if form_of(form) != "table":
        print_records(_rows(result), form, whole=result.as_dict())
        return
    click.echo(
        f"{result.profile} learned from {result.impressions:,} impressions of"
        f" {result.users:,} users ({result.source}); target: {targets(result.target)}."
    )
    _print_weights(result)
    _print_names("Hardly different within users", result.without_variance)
    _print_names("Not recorded", result.not_recorded)
    _print_cut(result)
    click.echo(f"\nOn the {result.held_out:,} impressions after these:")
    print_table(
        [
            {"profile": profile, "GAUC": _rounded(quality.gauc), "AUC": _rounded(quality.auc)}
            for profile, quality in (
                (result.profile, result.quality),
                (result.parent, result.before),
            )
        ]
    )
    if result.auc is not None:
        click.echo(
            f"Probabilities, with the viewers' histories: AUC {result.auc:.4f},"
            f" log loss {result.log_loss:.4f}."
        )
    _print_verdict(result, "GAUC", f"{result.compared:,} held-out users with both outcomes")


def _print_pages(result: PageFit, form: str | None) -> None:
    if form_of(form) != "table":
        print_records(_rows(result), form, whole=result.as_dict())
        return
    click.echo(
        f"{result.profile} learned from {result.pages:,} pages of {result.users:,} users, chosen"
        f" out of {result.candidates:,} candidates; target: {targets(result.target)}."
    )
    _print_weights(result)
    _print_names("Not told by these pages", result.undetermined)
    _print_names("Of how little a video was shown", result.left_out)
    _print_cut(result)
    print_text(recall_sentence(result.reached, result.reached_by))
    click.echo(f"\nOn the {result.held_out:,} pages after these:")
    print_table(
        [accuracy_row(result.profile, result.quality), accuracy_row(result.parent, result.before)]
    )
    _print_verdict(result, "nDCG@20", f"{result.held_out:,} held-out pages")


def _rows(result: Result) -> list[dict[str, Any]]:
    """Return a row for each signal: its weight and standard error, None if it was not fitted."""
    return [
        {"signal": name, "weight": weight, "error": result.errors.get(name)}
        for name, weight in result.weights.items()
    ]


def _print_weights(result: Result) -> None:
    print_table([row for row in _rows(result) if row["error"] is not None])


def _print_names(title: str, names: Sequence[str]) -> None:
    if names:
        click.echo(f"{title}, and so 0: {', '.join(names)}.")


def _print_cut(result: Result) -> None:
    if result.cut:
        click.echo(f"Cut to the largest weight: {', '.join(result.cut)}.")


def _print_verdict(result: Result, metric: str, held_out: str) -> None:
    """Print whether the new version is better than the previous one, and what to do then."""
    if result.gain is None:
        click.echo(
            f"\n{held_out} are too few to compare it with {result.parent}: it takes"
            f" {MIN_COMPARED}. Learn from a longer time."
        )
        return
    value, low, high = result.gain
    gain = f"{metric} {value:+.4f} ({low:+.4f} to {high:+.4f}) against {result.parent}"
    if low > 0:
        click.echo(f"\n{gain}. It serves after: recommender profiles activate {result.profile}")
    else:
        click.echo(f"\n{gain}: it is not known to be better.")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
