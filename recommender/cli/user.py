"""``user show``."""

from __future__ import annotations

from dataclasses import asdict

import click

from recommender import users
from recommender.cli.database import reading
from recommender.cli.options import database_option, format_option
from recommender.cli.output import form_of, plain, print_records, print_table


@click.group()
def user() -> None:
    """Show what is stored of a user."""


@user.command()
@click.argument("user")
@format_option
@database_option
def show(user: str, form: str | None) -> None:
    """Show a user's own row, interests, follows and how much they did."""
    with reading() as session:
        summary = users.show_user(session, user)
    record = plain(asdict(summary))
    if form_of(form) == "table":
        print_table([{"what": name, "value": value} for name, value in record.items()])
    else:
        print_records([record], form, whole=record)
