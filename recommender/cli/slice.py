"""``slice``: a small database for a bug report."""

from __future__ import annotations

from datetime import datetime

import click

from recommender.cli.database import readable
from recommender.cli.options import as_of_option, database_option, format_option
from recommender.cli.output import form_of, print_records, print_table
from recommender.slices.slice import slice_users


@click.command()
@click.argument("users", metavar="USER...", nargs=-1, required=True)
@click.argument("file", metavar="OUT.db")
@click.option(
    "--map", "map_file", metavar="FILE",
    help="Also write the key for each stand-in to this JSON file.",
)  # fmt: skip
@as_of_option
@format_option
@database_option
def slice(  # noqa: A001 - the name of the command
    users: tuple[str, ...],
    file: str,
    map_file: str | None,
    as_of: datetime | None,
    form: str | None,
) -> None:
    """Write what the pages of users read to a file, for a bug report.

    The file is an SQLite database without any key. The command prints the names of the users in
    it. Their pages are the same at the printed time.
    """
    with readable() as bind:
        result = slice_users(bind, users, file, as_of=as_of, map_file=map_file).as_dict()
    if form_of(form) == "table":
        click.echo(f"{result['bytes']:,} bytes in {result['seconds']:.1f} s.", err=True)
        print_table([
            {"user": user, "in the file": name, "as of": result["as_of"]}
            for user, name in result["users"].items()
        ])  # fmt: skip
    else:
        print_records([result], form, whole=result)
