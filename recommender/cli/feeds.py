"""``feeds list|show|create|delete``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from recommender.cli.database import reading, writing
from recommender.cli.options import database_option, format_option
from recommender.cli.output import day, form_of, print_records
from recommender.feed.feeds import LIMITED, create_feed, delete_feed, get_feed, list_feeds
from recommender.ranking.request import FEED_MEMORIES, Feed

_QUOTA = re.compile(r"([^=]+)(?:=(\d{1,9}))?", re.ASCII)

_LIMIT = re.compile(r"([a-z]+)=(\d{1,9})/(\d{1,9})", re.ASCII)


@click.group()
def feeds() -> None:
    """List, show, create and delete feeds with names."""


@feeds.command("list")
@format_option
@database_option
def list_(form: str | None) -> None:
    """List every version of every feed."""
    with reading() as session:
        versions = list_feeds(session)
    rows = [feed.as_dict() for feed in versions]
    if form_of(form) == "table":  # without the column that 80 characters have no room for
        rows = [{n: v for n, v in _row(feed).items() if n != "created_at"} for feed in versions]
    print_records(rows, form, example=_row(Feed("", 1)))


@feeds.command()
@click.argument("name")
@format_option
@database_option
def show(name: str, form: str | None) -> None:
    """Show the newest version of a feed."""
    with reading() as session:
        feed = get_feed(session, name)
    _print(feed, form)


@feeds.command()
@click.argument("name")
@click.option(
    "--profile", metavar="NAME[@VERSION]", help="Its ranking profile. Default: the active one."
)
@click.option(
    "--source", "sources", multiple=True, metavar="SOURCE[=QUOTA]",
    help="A source of candidates, and how many it may give; repeatable. Default: all sources.",
)  # fmt: skip
@click.option(
    "--video-format", "formats", multiple=True, metavar="FORMAT",
    help="A format of its videos; repeatable. Default: all formats.",
)  # fmt: skip
@click.option(
    "--memory", type=click.Choice(FEED_MEMORIES), default="shared", show_default=True,
    help="Whether what it shows counts as served in For You, and the other way around.",
)  # fmt: skip
@click.option(
    "--limit", "limits", multiple=True, metavar="SUBJECT=MOST/PLACES",
    help=f"At most n videos of one {', '.join(LIMITED[:-1])} or {LIMITED[-1]} in m"
    " consecutive places, such as creator=2/10; repeatable.",
)  # fmt: skip
@format_option
@database_option
def create(
    name: str, sources: tuple[str, ...], limits: tuple[str, ...], form: str | None, **options: Any
) -> None:
    """Create a new version of a feed; sessions that begin from now on have it."""
    own = {"sources": _sources(sources), "limits": _limits(limits), **options}
    _print(writing(lambda session: create_feed(session, name, **own)), form)


@feeds.command()
@click.argument("name")
@format_option
@database_option
def delete(name: str, form: str | None) -> None:
    """Delete a feed: it begins no sessions. Sessions that have begun go on."""
    _print(writing(lambda session: delete_feed(session, name)), form)


def _sources(options: tuple[str, ...]) -> list[str] | dict[str, int]:
    """Return the names of sources, or their quotas by name."""
    pairs = [matched.groups() for each in options if (matched := _QUOTA.fullmatch(each))]
    names = [name for name, _ in pairs]
    if len(pairs) < len(options):
        raise click.UsageError("--source: is not of the form following or following=200")
    if len(set(names)) < len(names):
        raise click.UsageError("--source: a source is given twice")
    quotas = {name: int(quota) for name, quota in pairs if quota is not None}
    if quotas and len(quotas) < len(names):
        raise click.UsageError("--source: give a quota to each source, or to none")
    return quotas or names


def _limits(options: tuple[str, ...]) -> Mapping[str, tuple[int, int]]:
    pairs = [matched.groups() for each in options if (matched := _LIMIT.fullmatch(each))]
    if len(pairs) < len(options):
        raise click.UsageError("--limit: is not of the form creator=2/10")
    limits = {subject: (int(most), int(places)) for subject, most, places in pairs}
    if len(limits) < len(pairs):
        raise click.UsageError("--limit: a subject is given twice")
    return limits


def _print(feed: Feed, form: str | None) -> None:
    row = _row(feed) if form_of(form) == "table" else feed.as_dict()
    print_records([row], form, whole=feed.as_dict())


def _row(feed: Feed) -> dict[str, Any]:
    """Return a feed as a row of a table."""
    whole = feed.as_dict()
    quotas = feed.sources.items()
    limits = feed.limits.items()
    return {
        **whole,
        "sources": " ".join(name if quota is None else f"{name}={quota}" for name, quota in quotas),
        "formats": " ".join(feed.formats),
        "limits": " ".join(f"{subject}={most}/{places}" for subject, (most, places) in limits),
        "deleted_at": day(feed.deleted_at),
    }
