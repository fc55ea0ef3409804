"""``user show|reset``."""

from __future__ import annotations

from dataclasses import asdict

import click

from recommender import users
from recommender.cli.database import reading, writing
from recommender.cli.options import database_option, format_option
from recommender.cli.output import form_of, plain, print_records, print_table


@click.group()
def user() -> None:
    """Show what is stored of a user, or forget what was learned."""


@user.command()
@click.argument("user")
@format_option
@database_option
def show(user: str, form: str | None) -> None:
    """Show a user's own row, interests, follows, mutes and how much they did."""
    with reading() as session:
        summary = users.show_user(session, user)
    record = plain(asdict(summary))
    if form_of(form) == "table":
        print_table([{"what": name, "value": value} for name, value in record.items()])
    else:
        print_records([record], form, whole=record)


@user.command()
@click.argument("user")
@database_option
def reset(user: str) -> None:
    """Forget what was learned of a user; follows, mutes and what they did stay."""
    writing(lambda session: users.reset_user(session, user))
    click.echo("Reset.", err=True)
