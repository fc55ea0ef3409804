"""Options that `evaluate`, `fit` and `replay` share.

They stand apart from `options`, which every command imports, because these imports are slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from recommender.cli.options import F, Length, Time
from recommender.evaluation.log_cut import SAMPLE
from recommender.evaluation.log_files import ENGAGED, LogFiles

LOG_FILES = ("users", "videos", "follows", "events")

_HOLDOUT = re.compile(r"per-user:(0?\.\d{1,9})", re.ASCII)


class Holdout(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """The share of every user's positives to hold out, such as per-user:0.2."""

    name = "holdout"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share, or fail with a usage error."""
        if isinstance(value, float):
            return value
        if not (matched := _HOLDOUT.fullmatch(value)) or not float(matched[1]):
            self.fail(f"{value!r} is not of the form per-user:0.2", param, ctx)
        return float(matched[1])


def until_option(function: F) -> F:
    """Add ``--until``."""
    return click.option(
        "--until", type=Time(), metavar="TIME", help="Leave out everything from this time on."
    )(function)


def every_option(function: F) -> F:
    """Add ``--every``."""
    return click.option(
        "--every", type=Length(), default="1d", show_default=True, metavar="LENGTH",
        help="The length of a slice of the log. Each slice is used first and then added.",
    )(function)  # fmt: skip


def sample_option(function: F) -> F:
    """Add ``--sample``."""
    return click.option(
        "--sample", type=click.IntRange(min=1), default=SAMPLE, show_default=True, metavar="USERS",
        help="The largest number of users whose pages are made.",
    )(function)  # fmt: skip


def target_option(function: F) -> F:
    """Add ``--target``."""
    return click.option(
        "--target", default=ENGAGED, show_default=True, metavar="OUTCOME",
        help="The outcome to aim at, such as like, or several with values: engaged=1,like=3.",
    )(function)  # fmt: skip


def scratch_option(function: F) -> F:
    """Add ``--scratch``."""
    return click.option(
        "--scratch", metavar="URL",
        help="An empty database to replay the log in. Default: a temporary file.",
    )(function)  # fmt: skip


def log_files_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--users``, ``--videos``, ``--follows`` and ``--events``, passed on as `log_files`."""

    @wraps(function)
    def command(**options: Any) -> Any:
        files = {kind: options.pop(kind) for kind in LOG_FILES}
        log_files = LogFiles(**files) if any(files.values()) else None
        return function(log_files=log_files, **options)

    for kind in reversed(LOG_FILES):
        command = click.option(
            f"--{kind}", multiple=True, metavar="FILE", help=f"A log file of {kind}; repeatable."
        )(command)
    return command
