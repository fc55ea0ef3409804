"""HTML files that commands write: whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

from recommender.files.created_file import created_file
from recommender.reports.parts import require_extra

F = TypeVar("F", bound=Callable[..., None])

Write = Callable[[Callable[[], str]], None]
"""Takes a function that makes the HTML, and writes what it returns if a file was asked for."""


def html_option(function: F) -> F:
    """Add ``--html`` to a command that prints its results too."""
    return click.option(
        "--html", metavar="OUT.html", help="Also write the results to an HTML file, with charts."
    )(function)


@contextmanager
def html_file(file: str | None) -> Iterator[Write]:
    """Open an HTML file before a long command begins; it gets its name when the command is done.

    Args:
        file: the path, ``-`` for standard output; None for no file.

    Raises:
        RecommenderError: the extra `report` is not installed.
        NotFound: the file's folder does not exist.
        NotPermitted: the file may not be written.
        StorageFailure: the disk is full or failing.
    """
    if file is None:
        yield lambda _: None
        return
    require_extra()
    with created_file(file) as text:
        yield lambda html: click.echo(html(), file=text, nl=False)
