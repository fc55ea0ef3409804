"""``import`` and ``export``."""

from __future__ import annotations

from typing import Any

import click

from recommender.cli.database import readable, writable
from recommender.cli.options import database_option, format_option, settings
from recommender.cli.output import print_records
from recommender.cli.progress import file_bar, say
from recommender.database.bulk import uncollected
from recommender.files import batches, importer
from recommender.files.exporter import FORMATS, Format, export_file
from recommender.formats.rows import FileKind

KINDS = click.Choice(list(batches.ROW_KINDS))


@click.command("import")
@click.argument("kind", type=KINDS)
@click.argument("file")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="Stop at the first bad row, or skip and count bad rows.",
)
@click.option("--errors", metavar="FILE", help="A new file for the skipped rows, as JSON Lines.")
@click.option("--dry-run", is_flag=True, help="Check every row and keep nothing.")
@click.option(
    "--jobs",
    metavar="N",
    type=int,
    default=1,
    show_default=True,
    help="The number of importing processes, 1 to 16. Events into PostgreSQL only.",
)
@click.option(
    "--creator-prefix",
    metavar="TEXT",
    help="A text before every creator's id, if users and creators are numbered separately.",
)
@format_option
@database_option
def import_(kind: FileKind, file: str, form: str | None, **options: Any) -> None:
    """Import users, videos, follows or events from a file.

    FILE is CSV or JSON Lines, plain or gzip. - is standard input.
    """
    if options["errors"] and options["on_error"] == "stop":
        raise click.UsageError("--errors goes with --on-error skip")
    keeps = not options["dry_run"]
    bar = file_bar(file, keeps=keeps, jobs=options["jobs"])
    with writable() if keeps else readable() as bind, bar as progress, uncollected():
        report = importer.import_file(
            bind, kind, file, progress=progress, settings=settings(), **options
        ).as_dict()
    print_records([report], form, whole=report)


@click.command("export")
@click.argument("kind", type=KINDS)
@click.argument("file")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="The file format. Default: by the name of the file, else csv.",
)
@database_option
def export(kind: FileKind, file: str, form: Format | None) -> None:
    """Export users, videos, follows or events to a file.

    FILE is compressed if its name ends in .gz. - is standard output.
    """
    with readable() as bind:
        report = export_file(bind, kind, file, form=form)
    say(f"{report.written:,} {kind} in {report.seconds:.1f} s.")
