"""``replay``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from recommender.cli.database import readable
from recommender.cli.figures import figure_rows, interval_cell, targets
from recommender.cli.log_options import sample_option, target_option
from recommender.cli.options import Time, as_of_option, database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table, print_text
from recommender.cli.progress import progress_bars
from recommender.evaluation import off_policy
from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.off_policy_estimator import Expectation, Reordered
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
@click.option(
    "--feed", metavar="NAME", help="Look only at the pages of this feed, and at its next pages."
)
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
    of_feed = f" of {result.feed}" if result.feed else ""
    print_text(
        f"What {result.users:,} users were shown on {result.pages:,} pages{of_feed}, in the order"
        f" of {result.profile}; target: {targets(result.target)}."
    )
    print_table(_halves(result.hindsight))
    for line in _remarks(result):
        print_text(line)
    click.echo()
    print_text(
        f"The next pages of {result.preview_users:,} of these users, out of"
        f" {result.videos:,} videos:"
    )
    print_table([_preview_row(preview) for preview in result.previews])
    click.echo(f"\n±: half of the 95 % interval over users; overlap: with {result.active}.")


def _halves(result: Expectation) -> list[dict[str, str]]:
    """Return the outcome of the first halves of pages, as served and as estimated."""
    return [
        _half("as served", result.logged),
        _estimated_half("reordered", result.reordered, result.overlap),
        _estimated_half("the same, by exploration", result.by_exploration),
        _half("the same, were places alike", result.unweighted),
    ]


def _half(
    name: str,
    value: Interval | None,
    change: Interval | None = None,
    overlap: Interval | None = None,
) -> dict[str, str]:
    return {
        "first half of a page": name,
        "led to the target": interval_cell(value),
        "change": interval_cell(change, "+"),
        "overlap": interval_cell(overlap),
    }


def _estimated_half(
    name: str, result: Reordered | None, overlap: Interval | None = None
) -> dict[str, str]:
    if result is None:
        return _half(name, None, overlap=overlap)
    return _half(name, result.expected, result.change, overlap)


def _remarks(result: off_policy.ProfileReplay) -> Iterator[str]:
    """Yield what the estimate rests on, and reasons to doubt it."""
    hindsight = result.hindsight
    if hindsight.reordered is None:
        unknown = "" if hindsight.by_exploration else ", so the effects of places are unknown"
        yield f"No positive video can be compared with another of about the same score{unknown}."
    else:
        yield (
            f"{hindsight.places:,} places, which say as much as"
            f" {hindsight.reordered.effective:,.0f} of equal weight;"
            f" {hindsight.reordered.clipped:,} weights were clipped."
        )
        yield f"Effects of places, from {_effects(hindsight.reordered, 'of about one score')}."
    if hindsight.by_exploration is not None:
        title = "The same" if hindsight.reordered else "Effects of places"
        yield f"{title}, from {_effects(hindsight.by_exploration, 'on trial')}."
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


def _effects(result: Reordered, which: str) -> str:
    """Return what the effects of positions come from, and the effects."""
    effects = ", ".join(f"{first} {value:.2f}" for first, value in result.effects.items())
    return f"{result.videos:,} videos {which}, {result.positives:,} of them positive: {effects}"


def _preview_row(preview: off_policy.PagePreview) -> dict[str, Any]:
    return {
        "next pages": preview.profile,
        "overlap": interval_cell(preview.overlap),
        "cover": round(preview.coverage, 3),
        "Gini": round(preview.creator_gini, 3),
    }


def _figures(whole: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure."""
    hindsight = {**whole["hindsight"]}
    estimates = [(part, hindsight.pop(part) or {}) for part in ("reordered", "by_exploration")]
    parts = [
        *((part, {"profile": whole["profile"], **figures})
          for part, figures in (("hindsight", hindsight), *estimates)),
        *(("preview", {**row}) for row in whole["previews"]),
    ]  # fmt: skip
    for part, figures in parts:
        profile, effects = figures.pop("profile"), figures.pop("effects", {})
        figures |= {f"effect_{first}": value for first, value in effects.items()}
        for figure in figure_rows(figures):
            yield {"part": part, "profile": profile, **figure}
