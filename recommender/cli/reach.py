"""``reach``: the users who would want a video most."""

from __future__ import annotations

from typing import Any

import click

import recommender
from recommender.cli.database import reading
from recommender.cli.options import as_of_option, database_option, format_option, profile_option
from recommender.cli.output import print_records
from recommender.lists.reach import MOST_REACHED, REACH_LIMIT, Recipient


@click.command()
@click.argument("video")
@click.option(
    "--limit", type=click.IntRange(1, MOST_REACHED), default=REACH_LIMIT, show_default=True,
    help="The largest number of users.",
)  # fmt: skip
@profile_option
@as_of_option
@format_option
@database_option
def reach(video: str, form: str | None, **asked: Any) -> None:
    """Show the users who would want a video most."""
    with reading() as session:
        users = recommender.reach(session, video, **asked)
    print_records([each.as_dict() for each in users], form, example=_EXAMPLE.as_dict())


_EXAMPLE = Recipient("", 0.0, ())
"""A user with the columns of every user."""
