"""``profiles list|show|create|diff|activate``."""

from __future__ import annotations

from typing import Any

import click

from recommender.cli.database import reading, writing
from recommender.cli.feed import limit_option
from recommender.cli.options import (
    as_of_option,
    author_option,
    database_option,
    format_option,
    note_option,
)
from recommender.cli.output import cell, day, form_of, print_records, print_table
from recommender.feed import comparison
from recommender.formats.plain import plain
from recommender.formats.profiles import ProfileRecord
from recommender.ranking.profiles import (
    OF_LISTS,
    activate_profile,
    create_profile,
    get_profile,
    list_profiles,
    profile_history,
)
from recommender.ranking.request import Profile


@click.group()
def profiles() -> None:
    """List, create, compare and activate ranking profiles."""


@profiles.command("list")
@format_option
@database_option
def list_(form: str | None) -> None:
    """List every version of every profile and its origin."""
    with reading() as session:
        versions = list_profiles(session)
        origins = {(record.profile, record.version): record for record in profile_history(session)}
    rows = [
        {**profile.as_dict(), **origins[profile.name, profile.version].as_dict()}
        for profile in versions
    ]
    if form_of(form) == "table":
        rows = [{name: row[name] for name in _LISTED} for row in rows]
        for row, version in zip(rows, versions, strict=True):
            row["created_at"] = day(origins[version.name, version.version].created_at)
    print_records(rows, form)


@profiles.command()
@click.argument("profile", metavar="NAME[@VERSION]")
@format_option
@database_option
def show(profile: str, form: str | None) -> None:
    """Show the weights of a profile version and their origin."""
    with reading() as session:
        version = get_profile(session, profile)
        origins = profile_history(session, version.name)
    record = next(origin for origin in origins if origin.version == version.version)
    _print(version, form, record)


@profiles.command()
@click.argument("name")
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="SIGNAL=WEIGHT",
    help="The weight of a signal, -100 to 100; repeatable.",
)
@author_option
@note_option
@format_option
@database_option
def create(name: str, weights: tuple[str, ...], form: str | None, **origin: Any) -> None:
    """Create a new version of a profile; it serves once it is activated.

    Signals without --weight have the weight 0. A version of similar or people ranks the list of
    this name at once, without activation.
    """
    pairs: Any = {
        signal: weight for signal, _, weight in (option.partition("=") for option in weights)
    }
    if len(pairs) < len(weights):
        raise click.UsageError("--weight: a signal is given twice")
    _print(writing(lambda session: create_profile(session, name, pairs, **origin)), form)


@profiles.command()
@click.argument("first", metavar="NAME[@VERSION]")
@click.argument("second", metavar="NAME[@VERSION]")
@click.option(
    "--user", "users", multiple=True, metavar="USER",
    help="Also show how the page of this user changes; repeatable.",
)  # fmt: skip
@limit_option
@as_of_option
@format_option
@database_option
def diff(first: str, second: str, form: str | None, **asked: Any) -> None:
    """Compare the weights of two versions, and optionally users' pages."""
    with reading() as session:
        difference = comparison.diff_profiles(session, first, second, **asked)
    whole = difference.as_dict()
    if form_of(form) != "table":
        rows = [{"user": user, **row} for user, rows in whole["pages"].items() for row in rows]
        shown = rows if whole["pages"] else whole["weights"]
        print_records(shown, form, whole=whole, example=_PLACE)
        return
    print_table([row for row in whole["weights"] if row["change"]])
    for user, rows in whole["pages"].items():
        click.echo(f"\n{cell(user)}:")
        print_table(rows)


@profiles.command()
@click.argument("profile", metavar="NAME[@VERSION]")
@format_option
@database_option
def activate(profile: str, form: str | None) -> None:
    """Make a version the one that serves by default."""
    _print(writing(lambda session: activate_profile(session, profile)), form)


_PLACE = {"user": "", "#": None, "was": None, "video": ""}
"""A row with the columns of a compared page."""

_LISTED = ("profile", "version", "active", "source", "parent", "author", "created_at", "note")
"""The columns of the table of versions."""


def _print(profile: Profile, form: str | None, record: ProfileRecord | None = None) -> None:
    weights = [{"signal": name, "weight": weight} for name, weight in profile.weights.items()]
    if form_of(form) == "table":
        state = "active" if profile.active else "not active"
        if profile.name in OF_LISTS:
            state = f"the newest version ranks the list {profile.name}"
        click.echo(f"{profile.label}, {state}{_made(record)}")
    origin = {} if record is None else record.as_dict()
    print_records(weights, form, whole={**profile.as_dict(), **origin})


def _made(record: ProfileRecord | None) -> str:
    """Return how a version was made, as the end of a sentence."""
    if record is None:
        return ""
    by = f" by {cell(record.author)}" if record.author else ""
    parent = f" from {record.parent}" if record.parent else ""
    note = f": {cell(record.note)}" if record.note else ""
    return f"; made by {record.source}{by}{parent} at {plain(record.created_at)}{note}"
