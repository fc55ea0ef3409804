"""``import`` and ``export``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from recommender.cli.database import readable, writable
from recommender.cli.options import database_option, format_option, settings
from recommender.cli.output import print_records
from recommender.database.bulk import uncollected
from recommender.files import batches, importer
from recommender.files.exporter import FORMATS, export_file

KINDS = click.Choice(list(batches.KINDS))


@click.command("import")
@click.argument("kind", type=KINDS)
@click.argument("file")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="Stop at the first bad row, or skip each and count it.",
)
@click.option("--errors", metavar="FILE", help="A new file for skipped rows, as JSON Lines.")
@click.option("--dry-run", is_flag=True, help="Try each batch and keep nothing.")
@click.option(
    "--jobs",
    metavar="N",
    type=int,
    default=1,
    show_default=True,
    help="Processes that import, up to 16: events into PostgreSQL only.",
)
@format_option
@database_option
def import_(kind: str, file: str, form: str | None, **how: Any) -> None:
    """Import users, videos, follows or events from a file.

    FILE is CSV or JSON Lines, plain or gzip; - is standard input.
    """
    if how["errors"] and how["on_error"] == "stop":
        raise click.UsageError("--errors goes with --on-error skip")
    keeps = not how["dry_run"]
    told = _progress(file, keeps=keeps, more=how["jobs"] > 1)
    with writable() if keeps else readable() as bind, told as progress, uncollected():
        done = importer.import_file(bind, kind, file, progress=progress, settings=settings(), **how)
    report = done.as_dict()
    print_records([report], form, whole=report)


@click.command("export")
@click.argument("kind", type=KINDS)
@click.argument("file")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="The file's format; by its name where left out, else csv.",
)
@database_option
def export(kind: str, file: str, form: str | None) -> None:
    """Export users, videos, follows or events to a file.

    FILE is compressed where its name ends in .gz; - is standard output.
    """
    with readable() as bind:
        report = export_file(bind, kind, file, form=form)
    click.echo(f"{report.written:,} {kind} in {report.seconds:.1f} s.", err=True)


@contextmanager
def _progress(file: str, *, keeps: bool, more: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar over the file's bytes, on a terminal; and how far it came, where it is interrupted.

    More can be in than was told, where more processes than one write.
    """
    path, rows = Path(file), 0
    size = path.stat().st_size if path.is_file() else 0
    is_hidden = not size or not sys.stderr or not sys.stderr.isatty()
    with click.progressbar(length=size, file=sys.stderr, label=path.name, hidden=is_hidden) as bar:

        def progress(count: int, at: int) -> None:
            nonlocal rows
            rows += count
            bar.update(at - bar.pos)

        try:
            yield progress
        except (KeyboardInterrupt, SystemExit):
            kept = f"{rows if keeps else 0:,} rows{' or more' if keeps and more else ''}"
            click.echo(f"{kept} are in: import the file again to go on.", err=True)
            raise
