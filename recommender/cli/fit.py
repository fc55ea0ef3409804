"""``fit``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import click
from sqlalchemy import Engine

import recommender
from recommender.cli.database import readable, writable
from recommender.cli.evaluate import accuracy_row, files_option, progress_bars
from recommender.cli.options import (
    Length,
    Time,
    author_option,
    database_option,
    format_option,
    note_option,
    settings,
)
from recommender.cli.output import form_of, print_records, print_table
from recommender.evaluation.evaluate import SAMPLE
from recommender.evaluation.log_files import LogFiles
from recommender.evaluation.log_replay import ENGAGED
from recommender.training.fit import Fit
from recommender.training.fit_pages import PageFit, fit_pages

IMPRESSIONS, CANDIDATES = OVER = ("impressions", "candidates")
"""What a fit is over."""

Found: TypeAlias = Fit | PageFit


@click.command()
@click.argument("name")
@click.option(
    "--over", type=click.Choice(OVER), default=IMPRESSIONS, show_default=True,
    help="Order what was shown; or choose pages out of all candidates, which takes a log.",
)  # fmt: skip
@click.option(
    "--target", default=ENGAGED, show_default=True, metavar="OUTCOME",
    help="What is hoped for, such as like; or what each is worth: engaged=1,like=3,share=5.",
)  # fmt: skip
@click.option(
    "--since", type=Time(), metavar="TIME", help="Learn from then on; where a log is cut."
)
@click.option("--until", type=Time(), metavar="TIME", help="Leave out what comes then or later.")
@click.option("--replay", is_flag=True, help="Replay the database's own log.")
@files_option("users")
@files_option("videos")
@files_option("follows")
@files_option("events")
@click.option(
    "--every", type=Length(), default="1d", show_default=True, metavar="LENGTH",
    help="How long a slice of a log is; each is folded in after it was learned from.",
)  # fmt: skip
@click.option(
    "--sample", type=click.IntRange(min=1), default=SAMPLE, show_default=True, metavar="USERS",
    help="Over candidates: look at the pages of so many users of each slice at most.",
)  # fmt: skip
@click.option(
    "--scratch", metavar="URL", help="An empty database to replay in; a temporary file if left out."
)
@author_option
@note_option
@format_option
@database_option
def fit(
    name: str,
    users: tuple[str, ...],
    videos: tuple[str, ...],
    follows: tuple[str, ...],
    events: tuple[str, ...],
    replay: bool,  # noqa: FBT001 - click passes a flag by name
    over: str,
    sample: int,
    form: str | None,
    **asked: Any,
) -> None:
    """Learn the weights of a new version of a profile from what people did.

    From the pages that were served; or from a log, the database's own or that of interchange files,
    which is replayed. The version serves once it is activated.
    """
    source: AbstractContextManager[Engine | LogFiles | None] = nullcontext(None)
    if users or videos or follows or events:
        source = nullcontext(LogFiles(users, videos, follows, events))
    elif replay:
        source = readable(longest=settings().rollup_timeout)
    elif over == CANDIDATES:
        raise click.UsageError("--over candidates takes a log: give --replay, or files")
    with writable() as bind, source as log, progress_bars() as progress:
        asked |= {"log": log, "settings": settings(), "progress": progress}
        if over == CANDIDATES:
            _print_pages(fit_pages(bind, name, sample=sample, **asked), form)
        else:
            _print(recommender.fit(bind, name, **asked), form)


def _print(found: Fit, form: str | None) -> None:
    if form_of(form) != "table":
        print_records(_rows(found), form, whole=found.as_dict())
        return
    click.echo(
        f"{found.profile} learned from {found.impressions:,} impressions of {found.users:,} users"
        f" ({found.source}); target: {_target(found)}."
    )
    _print_weights(found)
    _print_names("The same throughout for each user", found.without_variance)
    _print_names("Not recorded", found.not_recorded)
    click.echo(f"\nOn the {found.held_out:,} impressions after these:")
    print_table(
        [
            {"profile": profile, "GAUC": _rounded(each.gauc), "AUC": _rounded(each.auc)}
            for profile, each in ((found.profile, found.quality), (found.parent, found.before))
        ]
    )
    if found.auc is not None:
        click.echo(
            f"Probabilities, with what is known of each viewer: AUC {found.auc:.4f},"
            f" log loss {found.log_loss:.4f}."
        )
    _print_activate(found)


def _print_pages(found: PageFit, form: str | None) -> None:
    if form_of(form) != "table":
        print_records(_rows(found), form, whole=found.as_dict())
        return
    click.echo(
        f"{found.profile} learned from {found.pages:,} pages of {found.users:,} users, chosen out"
        f" of {found.candidates:,} candidates; target: {_target(found)}."
    )
    _print_weights(found)
    _print_names("Not told by these pages", found.undetermined)
    _print_names("Of how little a video was shown", found.left_out)
    click.echo(f"{found.reached:.0%} of what the users wanted later was among the candidates.")
    click.echo(f"\nOn the {found.held_out:,} pages after these:")
    print_table(
        [accuracy_row(found.profile, found.quality), accuracy_row(found.parent, found.before)]
    )
    _print_activate(found)


def _rows(found: Found) -> list[dict[str, Any]]:
    """Each signal with its weight, and the error of that; None of one that has no say."""
    return [
        {"signal": name, "weight": weight, "error": found.errors.get(name)}
        for name, weight in found.weights.items()
    ]


def _target(found: Found) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in found.target.items())


def _print_weights(found: Found) -> None:
    print_table([row for row in _rows(found) if row["error"] is not None])


def _print_names(said: str, names: Sequence[str]) -> None:
    if names:
        click.echo(f"{said}, and so 0: {', '.join(names)}.")


def _print_activate(found: Found) -> None:
    click.echo(f"\nIt serves after: recommender profiles activate {found.profile}")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
