"""``import`` and ``export``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, TypeVar

import click

from recommender.cli.database import readable, writable
from recommender.cli.lacks import say_lacks
from recommender.cli.options import database_option, format_option, settings
from recommender.cli.output import print_records
from recommender.cli.progress import file_bar, say
from recommender.database.transactions import uncollected
from recommender.files import batches, importer
from recommender.files.exporter import FORMATS, Format, export_file
from recommender.files.file_format import TIME_UNITS, FileFormat
from recommender.formats.rows import FileKind
from recommender.formats.scalars import LIST_SEPARATOR

KINDS = click.Choice(list(batches.ROW_KINDS))

F = TypeVar("F", bound=Callable[..., Any])


class Assignment(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A text such as user=userId, as its two parts."""

    name = "assignment"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return the parts before and behind the sign, or fail with a usage error."""
        name, sign, rest = value.partition("=")
        if not sign or not name:
            self.fail(f"{value!r} has no name and = before its value", param, ctx)
        return name, rest


FORMAT_OPTIONS = (
    click.option(
        "--column",
        "columns",
        metavar="NAME=FILE_NAME",
        type=Assignment(),
        multiple=True,
        help="The file's name of a column, such as user=userId. Repeatable.",
    ),
    click.option("--ignore-unknown", is_flag=True, help="Leave out the file's other columns."),
    click.option(
        "--set",
        "constants",
        metavar="NAME=VALUE",
        type=Assignment(),
        multiple=True,
        help="The value of a column in every row, such as kind=watch. Repeatable.",
    ),
    click.option(
        "--value",
        "values",
        metavar="NAME:WORD=VALUE",
        type=Assignment(),
        multiple=True,
        help="The meaning of a word in a column, such as kind:view=watch. Repeatable.",
    ),
    click.option(
        "--time-unit",
        type=click.Choice(TIME_UNITS),
        help="The meaning of a number as a time: seconds or ms since 1970, or a year.",
    ),
    click.option(
        "--timezone",
        metavar="ZONE",
        help="The time zone of times without an offset, such as Europe/Berlin.",
    ),
    click.option(
        "--list-separator",
        metavar="TEXT",
        default=LIST_SEPARATOR,
        show_default=True,
        help="The text between the entries of a list in CSV.",
    ),
    click.option(
        "--ids",
        metavar="FILE",
        help="The ids of the rows of a NumPy array (.npy), one per line.",
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        help="The character between the cells of CSV; \\t is a tab. Default: by the header.",
    ),
)


def file_format_options(function: F) -> F:
    """Add the options that describe a file of another program."""
    for option in reversed(FORMAT_OPTIONS):
        function = option(function)
    return function


def _mapping(option: str, assignments: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return assignments by name, or fail with a usage error if a name is given twice."""
    mapping: dict[str, str] = {}
    for name, value in assignments:
        if mapping.setdefault(name, value) != value:
            raise click.UsageError(f"{option} {name} has two values: {mapping[name]} and {value}")
    return mapping


def _file_format(options: dict[str, Any]) -> FileFormat:
    """Take the format options out of `options`, or fail with a usage error."""
    chosen = {field.name: options.pop(field.name) for field in fields(FileFormat)}
    values: dict[str, dict[str, str]] = {}
    for place, meaning in _mapping("--value", chosen["values"]).items():
        column, sign, word = place.partition(":")
        if not sign:
            raise click.UsageError(f"--value {place}={meaning} is not like kind:view=watch")
        values.setdefault(column, {})[word] = meaning
    chosen["columns"] = _mapping("--column", chosen["columns"])
    chosen["constants"] = _mapping("--set", chosen["constants"])
    delimiter = {"\\t": "\t"}.get(chosen["delimiter"], chosen["delimiter"])
    return FileFormat(**chosen | {"values": values, "delimiter": delimiter})


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
@file_format_options
@format_option
@database_option
def import_(kind: FileKind, file: str, form: str | None, **options: Any) -> None:
    """Import users, videos, events and other rows.

    FILE is CSV, JSON Lines or a JSON array, plain or gzip; for embeddings also an array of NumPy.
    - is standard input. The options from --column to --delimiter describe a file that another
    program wrote.
    """
    file_format = _file_format(options)
    if options["errors"] and options["on_error"] == "stop":
        raise click.UsageError("--errors goes with --on-error skip")
    keeps = not options["dry_run"]
    bar = file_bar(file, keeps=keeps, jobs=options["jobs"])
    with writable() if keeps else readable() as bind, bar as progress, uncollected():
        report = importer.import_file(
            bind, kind, file, form=file_format, progress=progress, settings=settings(), **options
        ).as_dict()
    print_records([report], form, whole=report)
    if kind == "events" and keeps:
        with readable() as bind:
            say_lacks(bind)


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
    """Export users, videos, events and other rows.

    FILE is compressed if its name ends in .gz. - is standard output.
    """
    with readable() as bind:
        report = export_file(bind, kind, file, form=form)
    say(f"{report.written:,} {kind} in {report.seconds:.1f} s.")
