"""``replay``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from recommender.cli.database import readable
from recommender.cli.evaluate import figure_rows, interval_cell, progress_bars
from recommender.cli.options import Time, as_of_option, database_option, format_option, settings
from recommender.cli.output import form_of, moment, print_records, print_table
from recommender.evaluation import off_policy
from recommender.evaluation.evaluate import SAMPLE
from recommender.evaluation.log_replay import ENGAGED
from recommender.evaluation.off_policy_estimator import Expectation


@click.command()
@click.option(
    "--profile", required=True, metavar="NAME[@VERSION]", help="The candidate to be replayed."
)
@click.option(
    "--since", type=Time(), required=True, metavar="TIME",
    help="Look at sessions that began then or later.",
)  # fmt: skip
@click.option("--until", type=Time(), metavar="TIME", help="And before this time.")
@click.option(
    "--target", default=ENGAGED, show_default=True, metavar="OUTCOME",
    help="What is hoped for, such as like; or what each is worth: engaged=1,like=3,share=5.",
)  # fmt: skip
@click.option(
    "--sample", type=click.IntRange(min=1), default=SAMPLE, show_default=True, metavar="USERS",
    help="Look at the next pages of so many of those who came at most.",
)  # fmt: skip
@as_of_option
@format_option
@database_option
def replay(form: str | None, **asked: Any) -> None:
    """Say what a profile would have served to those who came; writes nothing.

    Pages that were served are put into the candidate's order, and what their first halves would
    have led to is estimated. Beside it, what the next pages of the same people would be.
    """
    with readable(longest=settings().rollup_timeout) as bind, progress_bars() as progress:
        found = off_policy.replay_profile(bind, settings=settings(), progress=progress, **asked)
    _print(found, form)


def _print(found: off_policy.ProfileReplay, form: str | None) -> None:
    whole = found.as_dict()
    if form_of(form) != "table":
        print_records(list(_figures(whole)), form, whole=whole)
        return
    target = ", ".join(f"{name} {value:g}" for name, value in found.target.items())
    click.echo(
        f"What {found.users:,} users were shown on {found.pages:,} pages, in the order of"
        f" {found.profile}; target: {target}."
    )
    print_table(_halves(found.hindsight))
    for line in _remarks(found):
        click.echo(line)
    click.echo(
        f"\nThe next pages of {found.preview_users:,} of those who came, out of"
        f" {found.videos:,} videos:"
    )
    print_table([_preview_row(each) for each in found.previews])
    click.echo(f"\n±: half of the 95 % interval over users; overlap: with {found.active}.")


def _halves(found: Expectation) -> list[dict[str, Any]]:
    """What the first halves of pages led to, and would have."""
    rows = (
        ("as served", found.logged, None, None),
        ("reordered", found.expected, found.change, found.overlap),
        ("the same, were places alike", found.unweighted, None, None),
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


def _remarks(found: off_policy.ProfileReplay) -> Iterator[str]:
    """What the estimate rests on, and what is to be doubted."""
    hindsight = found.hindsight
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
    if found.left_out:
        yield (
            f"{found.left_out:,} pages were left out, served without:"
            f" {', '.join(found.not_recorded)}."
        )
    if found.is_flattered:
        yield (
            f"{found.profile} has learned from what came before"
            f" {moment(found.learned_until)}, and so is flattered: replay it from then on."
        )


def _preview_row(preview: off_policy.PagePreview) -> dict[str, Any]:
    return {
        "next pages": preview.profile,
        "overlap": interval_cell(preview.overlap),
        "cover": round(preview.coverage, 3),
        "Gini": round(preview.creator_gini, 3),
    }


def _figures(whole: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each figure in a row of its own."""
    hindsight = {**whole["hindsight"], "profile": whole["profile"]}
    effects = hindsight.pop("effects")
    hindsight |= {f"effect_{first}": value for first, value in effects.items()}
    parts = [("hindsight", hindsight), *(("preview", {**row}) for row in whole["previews"])]
    for part, figures in parts:
        profile = figures.pop("profile")
        for each in figure_rows(figures):
            yield {"part": part, "profile": profile, **each}
