"""Progress bars on stderr, shown on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # the module is slow to import
    from recommender.evaluation.log_replay import Progress


def say(message: str) -> None:
    """Print a message to stderr."""
    click.echo(message, err=True)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show one bar for each stage; the value is told the stage, the steps done and their number."""
    is_hidden = not sys.stderr or not sys.stderr.isatty()
    bars: dict[str, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            _finish(bars)
            bar = click.progressbar(length=total, label=stage, file=sys.stderr, hidden=is_hidden)
            bars[stage] = bar.__enter__()
        bars[stage].update(done - bars[stage].pos)

    try:
        yield progress
    finally:
        _finish(bars)


def _finish(bars: Mapping[str, Any]) -> None:
    """End the line of the last stage."""
    for bar in list(bars.values())[-1:]:
        bar.render_finish()


@contextmanager
def file_bar(file: str, *, keeps: bool, jobs: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar over the bytes of a file; if interrupted, say how many rows were imported.

    Args:
        file: the path of the file; a path without a file has no bar.
        keeps: whether the rows are kept: not in a dry run.
        jobs: the number of importing processes.
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
            # One of several processes may have written rows that it has not reported yet.
            more = " or more" if keeps and jobs > 1 else ""
            say(f"{rows if keeps else 0:,} rows{more} are in: import the file again to go on.")
            raise
