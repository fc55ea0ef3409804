"""Options that several commands share, and the settings of this run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from recommender.errors import InvalidValue
from recommender.formats import scalars
from recommender.settings import URL_VARIABLES, Settings, configured_url

F = TypeVar("F", bound=Callable[..., Any])


class NumberRange(click.FloatRange):
    """A number in a range; click's own type also takes `nan`, which is in no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or fail with a usage error."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


_LENGTH = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _keep_url(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.find_root().meta["database_url"] = value


def database_option(function: F) -> F:
    """Add ``--database-url``, which may also stand before the command's name."""
    return click.option(
        "--database-url",
        metavar="URL",
        expose_value=False,
        callback=_keep_url,
        help="The database: sqlite:///file.db or postgresql://user@host/name.",
    )(function)


def synthetic_database_option(file: str) -> Callable[[F], F]:
    """Add ``--database-url`` to a command that writes a synthetic world.

    Such a command ignores `DATABASE_URL`, which may name the database of an application.

    Args:
        file: the SQLite file that the command uses by default.
    """
    return click.option(
        "--database-url",
        metavar="URL",
        envvar=URL_VARIABLES[0],
        default=f"sqlite:///{file}",
        expose_value=False,
        callback=_keep_synthetic_url,
        help=f"The database. Default: RECOMMENDER_DATABASE_URL, else sqlite:///{file}.",
    )


def _keep_synthetic_url(ctx: click.Context, parameter: click.Parameter, value: str) -> None:
    source = ctx.get_parameter_source(str(parameter.name))
    meta = ctx.find_root().meta
    # The option may also stand before the command's name.
    if source is ParameterSource.COMMANDLINE or "database_url" not in meta:
        meta["database_url"] = value


def settings() -> Settings:
    """Return the settings of this run: the environment, then the defaults."""
    return Settings.from_environment()


def chosen_url() -> str:
    """Return the database URL of this run: the option, then the environment, then the default."""
    url: str | None = click.get_current_context().find_root().meta.get("database_url")
    return configured_url() if url is None else url


class Time(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A time with an offset, such as 2026-01-31T12:00:00Z."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the time in UTC, or fail with a usage error."""
        try:
            return scalars.time(value)
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


class Length(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A length of time, such as 30m, 6h or 1d."""

    name = "length"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return the length, or fail with a usage error."""
        if isinstance(value, timedelta):
            return value
        if not (matched := _LENGTH.fullmatch(value)) or not int(matched[1]):
            self.fail(f"{value!r} is not a length such as 30m, 6h or 1d", param, ctx)
        return timedelta(**{_UNITS[matched[2]]: int(matched[1])})


def format_option(function: F) -> F:
    """Add ``--format``."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json", "jsonl", "csv"]),
        help="The output format. Default: table on a terminal, json otherwise.",
    )(function)


def profile_option(function: F) -> F:
    """Add ``--profile``."""
    return click.option(
        "--profile",
        metavar="NAME[@VERSION]",
        help="The ranking profile. Default: the active one.",
    )(function)


def feed_option(function: F) -> F:
    """Add ``--feed``."""
    return click.option(
        "--feed", metavar="NAME", help="A feed of `feeds create`. Default: For You."
    )(function)


def as_of_option(function: F) -> F:
    """Add ``--as-of``."""
    return click.option(
        "--as-of", type=Time(), metavar="TIME", help="The reading time. Default: now."
    )(function)


def author_option(function: F) -> F:
    """Add ``--author``."""
    return click.option("--author", metavar="NAME", help="Who made this version.")(function)


def note_option(function: F) -> F:
    """Add ``--note``."""
    return click.option("--note", metavar="TEXT", help="Why this version was made.")(function)
