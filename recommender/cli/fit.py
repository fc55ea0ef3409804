"""``fit``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click
from sqlalchemy import Engine

from recommender import fitting
from recommender.cli.database import readable, writable
from recommender.cli.evaluate import files_option, progress_bars
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
from recommender.replay import ENGAGED, LogFiles


@click.command()
@click.argument("name")
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
    with writable() as bind, source as log, progress_bars() as progress:
        found = fitting.fit(bind, name, log=log, settings=settings(), progress=progress, **asked)
    _print(found, form)


def _print(found: fitting.Fit, form: str | None) -> None:
    rows = [
        {"signal": name, "weight": weight, "error": found.errors.get(name)}
        for name, weight in found.weights.items()
    ]
    if form_of(form) != "table":
        print_records(rows, form, whole=found.as_dict())
        return
    target = ", ".join(f"{name} {value:g}" for name, value in found.target.items())
    click.echo(
        f"{found.profile} learned from {found.impressions:,} impressions of {found.users:,} users"
        f" ({found.source}); target: {target}."
    )
    print_table([row for row in rows if row["error"] is not None])
    for said, names in (
        ("The same throughout for each user", found.without_variance),
        ("Not recorded", found.not_recorded),
    ):
        if names:
            click.echo(f"{said}, and so 0: {', '.join(names)}.")
    click.echo(f"\nOn the {found.held_out:,} impressions after these:")
    print_table(
        [
            {"profile": profile, "GAUC": _rounded(each.gauc), "AUC": _rounded(each.auc)}
            for profile, each in ((found.profile, found.quality), (found.parent, found.before))
        ]
    )
    click.echo(f"\nIt serves after: recommender profiles activate {found.profile}")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
