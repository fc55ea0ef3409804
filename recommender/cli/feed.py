"""``feed``, ``rank`` and ``explain``, which only read, unless a feed is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import click
from sqlalchemy.orm import Session

import recommender
from recommender.cli.database import reading
from recommender.cli.html import html_file
from recommender.cli.options import (
    as_of_option,
    database_option,
    feed_option,
    format_option,
    profile_option,
)
from recommender.cli.output import form_of
from recommender.cli.pages import asked_page, print_explanation, print_page
from recommender.feed.for_you import for_you
from recommender.feed.resolve import resolve
from recommender.feed.values import FeedPage
from recommender.formats import scalars
from recommender.lists import timelines
from recommender.ranking.request import DEFAULT_LIMIT, LARGEST_LIMIT, SMALLEST_LIMIT
from recommender.reports.feed_page import feed_document

limit_option = click.option(
    "--limit",
    type=click.IntRange(SMALLEST_LIMIT, LARGEST_LIMIT),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="The largest number of videos.",
)


@click.command()
@click.argument("user")
@feed_option
@profile_option
@limit_option
@as_of_option
@click.option(
    "--explain",
    "with_signals",
    is_flag=True,
    help="Show the reasons, and what each signal adds to the score.",
)
@click.option(
    "--record",
    is_flag=True,
    help="Serve the page and record it, so that its videos do not come again soon.",
)
@click.option(
    "--cursor", metavar="CURSOR", help="Continue after the page that printed this cursor."
)
@click.option("--rewatch", is_flag=True, help="Show videos that were seen before.")
@click.option(
    "--following", is_flag=True, help="Show the newest videos of followed creators instead."
)
@click.option(
    "--trending",
    is_flag=True,
    help="Show trending videos in the user's language and country instead.",
)
@click.option(
    "--html", "file", metavar="OUT.html",
    help="Write what the viewer sees, and why, to an HTML file instead.",
)  # fmt: skip
@click.option(
    "--against", metavar="NAME[@VERSION]",
    help="With --html: also what another profile would show, side by side.",
)  # fmt: skip
@format_option
@database_option
def feed(
    user: str,
    with_signals: bool,  # noqa: FBT001 - click passes a flag by name
    record: bool,  # noqa: FBT001
    following: bool,  # noqa: FBT001
    trending: bool,  # noqa: FBT001
    cursor: str | None,
    form: str | None,
    file: str | None,
    against: str | None,
    **asked: Any,
) -> None:
    """Show a user's For You feed, or another list of videos."""
    if against and not file:
        raise click.UsageError("--against needs --html")
    if file and (form or with_signals or record or cursor or following or trending):
        raise click.UsageError(
            "--html takes no --format, --explain, --record, --cursor, --following and --trending"
        )
    if file:
        _write_html(file, user, against, asked)
        return
    is_plain = following or trending
    if following and trending:
        raise click.UsageError("--following and --trending exclude each other")
    if is_plain and (with_signals or record or any(asked[name] for name in _OF_FEEDS)):
        raise click.UsageError(
            "--following and --trending take no --feed, --profile, --explain, --record and"
            " --rewatch"
        )
    if cursor and not (record or is_plain):
        raise click.UsageError("--cursor needs --record, --following or --trending")

    def ask(session: Session) -> FeedPage:
        if is_plain:
            walk = timelines.following if following else _trending
            return walk(session, user, limit=asked["limit"], cursor=cursor, as_of=asked["as_of"])
        return for_you(session, user, cursor=cursor, record=record, reasons=with_signals, **asked)

    page = asked_page(ask, user, record=record)
    print_page(page, form, with_signals=with_signals)
    has_memory = page.request.known and not page.request.profile.is_reference
    may_rewatch = has_memory and not (is_plain or page.request.rewatch)
    if page.exhausted and may_rewatch and form_of(form) == "table":
        _say_exhausted(page)


def _write_html(file: str, user: str, against: str | None, asked: Mapping[str, Any]) -> None:
    """Write a preview of a user's page to a file, next to the page of another profile if asked."""
    moment = asked["as_of"] or scalars.now()
    options = {**asked, "as_of": moment, "record": False, "reasons": True}
    with html_file(file) as write, reading() as session:
        page = for_you(session, user, **options)
        other = for_you(session, user, **{**options, "profile": against}) if against else None
        write(feed_document(page, other).html)


def _say_exhausted(page: FeedPage) -> None:
    """Say that nothing is left, and what could be the cause."""
    feed, within = page.request.feed, ""
    if feed and not page.items:
        within = (
            f" in the feed {feed.name}, with the sources and formats of"
            f" `recommender feeds show {feed.name}`"
        )
    user = page.request.user
    click.echo(
        f"Nothing more is left for {user}{within}; --rewatch shows videos that were seen.", err=True
    )


_OF_FEEDS = ("feed", "profile", "rewatch")
"""The options that the plain lists do not take."""


def _trending(
    session: Session, user: str, *, limit: int, cursor: str | None, as_of: datetime | None
) -> FeedPage:
    """Return trending videos for the user's language and country, if known."""
    viewer = resolve(session, user, timelines.TRENDING)
    page = timelines.trending(
        session, viewer.language, viewer.country, limit=limit, cursor=cursor, as_of=as_of
    )
    return replace(page, request=replace(page.request, user=user, user_id=viewer.user_id))


@click.command()
@click.argument("user")
@click.argument("videos", nargs=-1, required=True)
@profile_option
@as_of_option
@click.option(
    "--explain",
    "with_signals",
    is_flag=True,
    help="Show the reasons, and what each signal adds to the score.",
)
@format_option
@database_option
def rank(
    user: str,
    videos: tuple[str, ...],
    profile: str | None,
    as_of: datetime | None,
    with_signals: bool,  # noqa: FBT001 - click passes a flag by name
    form: str | None,
) -> None:
    """Sort the given videos for a user, without filtering."""
    with reading() as session:
        page = recommender.rank(
            session, user, videos, profile=profile, as_of=as_of, reasons=with_signals
        )
    print_page(page, form, with_signals=with_signals)


@click.command()
@click.argument("user")
@click.argument("video")
@feed_option
@profile_option
@limit_option
@as_of_option
@format_option
@database_option
def explain(user: str, video: str, form: str | None, **asked: Any) -> None:
    """Explain why a video has its place in a user's feed, or has none."""
    with reading() as session:
        explanation = recommender.explain(session, user, video, **asked)
    print_explanation(explanation, form)
