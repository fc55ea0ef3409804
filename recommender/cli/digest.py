"""``digest``: the first videos of a feed for many users."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

import recommender
from recommender.cli.database import readable
from recommender.cli.options import (
    Length,
    as_of_option,
    database_option,
    format_option,
    settings,
)
from recommender.cli.output import form_of, print_records
from recommender.formats import scalars
from recommender.lists.digest import DIGEST_LIMIT, Digest
from recommender.ranking.request import LARGEST_LIMIT, SMALLEST_LIMIT


@click.command()
@click.option("--feed", required=True, metavar="NAME", help="A feed of `feeds create`.")
@click.option(
    "--run", required=True, metavar="NAME",
    help="The name of the run, such as its date. The same run again gives the same videos.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(SMALLEST_LIMIT, LARGEST_LIMIT), default=DIGEST_LIMIT,
    show_default=True, help="The largest number of videos of a user.",
)  # fmt: skip
@click.option(
    "--since", "active", type=Length(), metavar="LENGTH",
    help="Only users with an event in this time before now, such as 7d. Default: all users.",
)  # fmt: skip
@click.option(
    "--least", type=float, metavar="SCORE",
    help="Leave out users for whom no video has this score. Default: any score.",
)  # fmt: skip
@as_of_option
@format_option
@database_option
def digest(
    active: timedelta | None, as_of: datetime | None, form: str | None, **asked: Any
) -> None:
    """Serve the first videos of a feed to many users, and print them."""
    since = None if active is None else (as_of or scalars.now()) - active
    with readable() as bind:
        found = recommender.digest(bind, since=since, as_of=as_of, settings=settings(), **asked)
        if form_of(form) == "jsonl":
            for each in found:  # as they come: there may be many users
                print_records([each.as_dict()], form)
            return
        as_printed = _whole if form_of(form) == "json" else _rows
        rows = [row for each in found for row in as_printed(each)]
    example = {"user": "", "position": 1, "video": "", "creator": None, "score": 0.0}
    print_records(rows, form, example=example)


def _whole(each: Digest) -> list[dict[str, Any]]:
    return [each.as_dict()]


def _rows(each: Digest) -> list[dict[str, Any]]:
    """Return a row for each video of a user."""
    return [
        {
            "user": each.user,
            "position": item.position,
            "video": item.video,
            "creator": item.creator,
            "score": item.score,
        }
        for item in each.items
    ]
