"""``user show|export|merge|rename|erase|reset``."""

from __future__ import annotations

from typing import Any

import click

from recommender.cli.database import readable, reading, writing
from recommender.cli.options import database_option, format_option, settings
from recommender.cli.output import form_of, print_records, print_table
from recommender.operations import archive, users
from recommender.operations.erase import erase_user
from recommender.operations.merge import merge_users


@click.group()
def user() -> None:
    """Show, export, merge, rename, erase or reset a user."""


@user.command()
@click.argument("user")
@format_option
@database_option
def show(user: str, form: str | None) -> None:
    """Show a user's profile, interests, follows, mutes, blocks and counts of events."""
    with reading() as session:
        summary = users.show_user(session, user)
    record = summary.as_dict()
    if form_of(form) == "table":
        print_table([{"what": name, "value": value} for name, value in record.items()])
    else:
        print_records([record], form, whole=record)


@user.command()
@click.argument("user")
@click.argument("file", default="-")
@database_option
def export(user: str, file: str) -> None:
    """Write all data of a user to a file of JSON Lines, which `import` can read.

    FILE is compressed if its name ends in .gz. - or no FILE is standard output.
    """
    with readable() as bind:
        report = archive.export_user(bind, user, file)
    click.echo(f"{report.written:,} lines in {report.seconds:.1f} s.", err=True)


@user.command()
@click.argument("guest")
@click.argument("user")
@format_option
@database_option
def merge(guest: str, user: str, form: str | None) -> None:
    """Merge GUEST into USER: everything of GUEST becomes USER's, and GUEST another key of USER.

    If it is interrupted, run it again. It prints the number of moved rows for each table.
    """
    with readable() as bind:
        try:
            result = merge_users(bind, guest, user, settings=settings()).as_dict()
        except (KeyboardInterrupt, SystemExit):
            click.echo("Not all is merged yet: merge the same users again to go on.", err=True)
            raise
    if form_of(form) == "table":
        rows: Any = result["rows"]
        print_table([{"table": name, "rows": count} for name, count in rows.items() if count])
    else:
        print_records([result], form, whole=result)


@user.command()
@click.argument("old")
@click.argument("new")
@database_option
def rename(old: str, new: str) -> None:
    """Change a user's key from OLD to NEW, which no user may have."""
    with readable() as bind:
        users.rename_user(bind, old, new, settings=settings())
    click.echo("Renamed.", err=True)


@user.command()
@click.argument("user")
@format_option
@database_option
def erase(user: str, form: str | None) -> None:
    """Erase a user for good: their events, their videos and what was learned from them.

    If it is interrupted, run it again. It prints the number of erased rows for each table.
    """
    with readable() as bind:
        try:
            receipt = erase_user(bind, user, settings=settings()).as_dict()
        except (KeyboardInterrupt, SystemExit):
            click.echo("Not all is erased yet: erase the same user again to go on.", err=True)
            raise
    if receipt["wal_cleared"] is False:
        click.echo(
            "The WAL still holds erased rows, because another connection is reading: run"
            " `PRAGMA wal_checkpoint(TRUNCATE)` later.",
            err=True,
        )
    if form_of(form) == "table":
        rows: Any = receipt["rows"]
        print_table([{"table": name, "rows": count} for name, count in rows.items() if count])
    else:
        print_records([receipt], form, whole=receipt)


@user.command()
@click.argument("user")
@database_option
def reset(user: str) -> None:
    """Forget what was learned about a user, but keep follows, mutes, blocks and events."""
    writing(lambda session: users.reset_user(session, user))
    click.echo("Reset.", err=True)
