"""``import`` and ``export``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from recommender import interchange
from recommender.cli.database import engine, writable
from recommender.cli.options import database_option, format_option, settings
from recommender.cli.output import print_records
from recommender.engine import check_schema, translate_errors
from recommender.export import FORMATS, export_file

KINDS = click.Choice(list(interchange.KINDS))


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
@click.option("--errors", metavar="FILE", help="Where to write skipped rows, as JSON Lines.")
@click.option("--dry-run", is_flag=True, help="Do all of it and keep nothing.")
@format_option
@database_option
def import_(kind: str, file: str, form: str | None, **how: Any) -> None:
    """Import users, videos, follows or events from a file.

    FILE is CSV or JSON Lines, plain or gzip; - is standard input.
    """
    if how["errors"] and how["on_error"] == "stop":
        raise click.UsageError("--errors goes with --on-error skip")
    with engine() if how["dry_run"] else writable() as bind, _progress(file) as progress:
        done = interchange.import_file(
            bind, kind, file, progress=progress, settings=settings(), **how
        )
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
    with engine() as bind:
        with translate_errors(), bind.connect() as connection:
            check_schema(connection)
        report = export_file(bind, kind, file, form=form)
    click.echo(f"{report.written:,} {kind} in {report.seconds:.1f} s.", err=True)


@contextmanager
def _progress(file: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr over the file's bytes, where stderr is a terminal and the size is known."""
    path = Path(file)
    if not sys.stderr.isatty() or not path.is_file():
        yield None
        return
    with click.progressbar(length=path.stat().st_size, file=sys.stderr, label=path.name) as bar:
        yield lambda _rows, at: bar.update(at - bar.pos)
