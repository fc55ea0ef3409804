"""``profiles list|show|create|activate``."""

from __future__ import annotations

from typing import Any

import click

from recommender import profiles as library
from recommender.cli.database import reading, writing
from recommender.cli.options import database_option, format_option
from recommender.cli.output import form_of, print_records
from recommender.values import Profile


@click.group()
def profiles() -> None:
    """List, show, create and activate ranking profiles."""


@profiles.command("list")
@format_option
@database_option
def list_(form: str | None) -> None:
    """List every version of every profile."""
    with reading() as session:
        found = library.list_profiles(session)
    print_records([_record(profile) for profile in found], form)


@profiles.command()
@click.argument("profile", metavar="NAME[@VERSION]")
@format_option
@database_option
def show(profile: str, form: str | None) -> None:
    """Show a profile's weights."""
    with reading() as session:
        _print(library.get_profile(session, profile), form)


@profiles.command()
@click.argument("name")
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="SIGNAL=WEIGHT",
    help="A signal's weight, -100 to 100; once for each signal.",
)
@format_option
@database_option
def create(name: str, weights: tuple[str, ...], form: str | None) -> None:
    """Make a new version of a profile; it serves once it is activated."""
    pairs: Any = {signal: weight for signal, _, weight in (each.partition("=") for each in weights)}
    if len(pairs) < len(weights):
        raise click.UsageError("--weight: a signal is given twice")
    _print(writing(lambda session: library.create_profile(session, name, pairs)), form)


@profiles.command()
@click.argument("profile", metavar="NAME[@VERSION]")
@format_option
@database_option
def activate(profile: str, form: str | None) -> None:
    """Let a version serve where no profile is asked for."""
    _print(writing(lambda session: library.activate_profile(session, profile)), form)


def _record(profile: Profile) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "version": profile.version,
        "active": profile.active,
        "weights": dict(profile.weights),
    }


def _print(profile: Profile, form: str | None) -> None:
    weights = [{"signal": name, "weight": weight} for name, weight in profile.weights.items()]
    if form_of(form) == "table":
        state = "active" if profile.active else "not active"
        click.echo(f"{profile.name}@{profile.version}, {state}")
    print_records(weights, form, whole=_record(profile))
