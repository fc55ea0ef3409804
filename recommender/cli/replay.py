"""``replay``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from recommender.cli.database import readable
from recommender.cli.figures import figure_rows, interval_cell, targets
from recommender.cli.log_options import sample_option, target_option
from recommender.cli.options import Time, as_of_option, database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table
from recommender.cli.progress import progress_bars
from recommender.evaluation import off_policy
from recommender.evaluation.off_policy_estimator import Expectation
from recommender.formats.plain import plain


@click.command()
@click.option(
    "--profile", required=True, metavar="NAME[@VERSION]", help="The candidate profile to estimate."
)
@click.option(
    "--since", type=Time(), required=True, metavar="TIME",
    help="Look at sessions that began at this time or later.",
)  # fmt: skip
@click.option("--until", type=Time(), metavar="TIME", help="Look at sessions before this time.")
@target_option
@sample_option
@as_of_option
@format_option
@database_option
def replay(form: str | None, **options: Any) -> None:
    """Estimate how another profile would have done. Read-only.

    The pages that were served are put into the candidate profile's order. The outcome of their
    first halves is estimated. The next pages of the same users are compared as well.
    """
    with readable(longest=settings().rollup_timeout) as bind, progress_bars() as progress:
        result = off_policy.replay_profile(bind, settings=settings(), progress=progress, **options)
    _print(result, form)


def _print(result: off_policy.ProfileReplay, form: str | None) -> None:
    whole = result.as_dict()
    if form_of(form) != "table":
        print_records(list(_figures(whole)), form, whole=whole)
        return
    click.echo(
        f"What {result.users:,} users were shown on {result.pages:,} pages, in the order of"
        f" {result.profile}; target: {targets(result.target)}."
    )
    print_table(_halves(result.hindsight))
    for line in _remarks(result):
        click.echo(line)
    click.echo(
        f"\nThe next pages of {result.preview_users:,} of those who came, out of"
        f" {result.videos:,} videos:"
    )
    print_table([_preview_row(preview) for preview in result.previews])
    click.echo(f"\n±: half of the 95 % interval over users; overlap: with {result.active}.")


def _halves(result: Expectation) -> list[dict[str, Any]]:
    """Return the outcome of the first halves of pages, as served and as estimated."""
    rows = (
        ("as served", result.logged, None, None),
        ("reordered", result.expected, result.change, result.overlap),
        ("the same, were places alike", result.unweighted, None, None),
    )
    return [
        {
            "first half of each page": name,
            "led to the target": interval_cell(value),
            "change": interval_cell(change, "+"),
            "overlap": interval_cell(overlap),
        }
        for name, value, change, overlap in rows
    ]


def _remarks(result: off_policy.ProfileReplay) -> Iterator[str]:
    """Yield what the estimate rests on, and reasons to doubt it."""
    hindsight = result.hindsight
    if hindsight.effective is None:
        yield "No video on trial led to the target: what a place is worth is unknown."
    else:
        effects = ", ".join(f"{first} {value:.2f}" for first, value in hindsight.effects.items())
        yield (
            f"{hindsight.places:,} places, which say as much as {hindsight.effective:,.0f} of equal"
            f" weight; {hindsight.clipped:,} weights were clipped."
        )
        yield (
            f"What a place is worth, from {hindsight.trials:,} videos on trial with"
            f" {hindsight.trial_labels:,.0f} outcomes: {effects}."
        )
    if result.left_out:
        yield (
            f"{result.left_out:,} pages were left out, served without:"
            f" {', '.join(result.not_recorded)}."
        )
    if result.is_flattered:
        yield (
            f"{result.profile} has learned from what came before"
            f" {plain(result.learned_until)}, and so is flattered: replay it from then on."
        )


def _preview_row(preview: off_policy.PagePreview) -> dict[str, Any]:
    return {
        "next pages": preview.profile,
        "overlap": interval_cell(preview.overlap),
        "cover": round(preview.coverage, 3),
        "Gini": round(preview.creator_gini, 3),
    }


def _figures(whole: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure."""
    hindsight = {**whole["hindsight"], "profile": whole["profile"]}
    effects = hindsight.pop("effects")
    hindsight |= {f"effect_{first}": value for first, value in effects.items()}
    parts = [("hindsight", hindsight), *(("preview", {**row}) for row in whole["previews"])]
    for part, figures in parts:
        profile = figures.pop("profile")
        for figure in figure_rows(figures):
            yield {"part": part, "profile": profile, **figure}
