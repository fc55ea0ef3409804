"""``feed``, ``rank``, ``explain``: reading, nothing is written."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import click
from sqlalchemy.orm import Session

from recommender import feed as library
from recommender import timelines
from recommender.cli.database import reading
from recommender.cli.options import as_of_option, database_option, format_option, profile_option
from recommender.cli.output import print_explanation, print_page
from recommender.values import DEFAULT_LIMIT, LARGEST_LIMIT, SMALLEST_LIMIT, FeedPage

limit_option = click.option(
    "--limit",
    type=click.IntRange(SMALLEST_LIMIT, LARGEST_LIMIT),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="How many videos at most.",
)


@click.command()
@click.argument("user")
@profile_option
@limit_option
@as_of_option
@click.option("--explain", "with_signals", is_flag=True, help="Show each signal's part.")
@click.option("--following", is_flag=True, help="Instead, the newest by whom USER follows.")
@click.option("--trending", is_flag=True, help="Instead, what trends in USER's language, country.")
@click.option("--cursor", help="Go on after the page that gave this cursor.")
@format_option
@database_option
def feed(
    user: str,
    profile: str | None,
    limit: int,
    as_of: datetime | None,
    with_signals: bool,  # noqa: FBT001 - click passes a flag by name
    following: bool,  # noqa: FBT001
    trending: bool,  # noqa: FBT001
    cursor: str | None,
    form: str | None,
) -> None:
    """Print a user's For You feed, or a plain list instead of it; writes nothing."""
    is_plain = following or trending
    if following and trending:
        raise click.UsageError("--following and --trending exclude each other")
    if is_plain and (profile or with_signals):
        raise click.UsageError("--following and --trending take no --profile and no --explain")
    if cursor is not None and not is_plain:
        raise click.UsageError("--cursor needs --record, --following or --trending")
    with reading() as session:
        if following:
            page = timelines.following(session, user, limit=limit, cursor=cursor, as_of=as_of)
        elif trending:
            page = _trending(session, user, limit, cursor, as_of)
        else:
            page = library.for_you(session, user, limit=limit, profile=profile, as_of=as_of)
    print_page(page, form, with_signals=with_signals)


def _trending(
    session: Session, user: str, limit: int, cursor: str | None, as_of: datetime | None
) -> FeedPage:
    """What trends in the user's language and country, anywhere where these are unknown."""
    viewer = library.resolve(session, user, timelines.TRENDING)
    page = timelines.trending(
        session, viewer.language, viewer.country, limit=limit, cursor=cursor, as_of=as_of
    )
    return replace(page, request=replace(page.request, user=user, user_id=viewer.user_id))


@click.command()
@click.argument("user")
@click.argument("videos", nargs=-1, required=True)
@profile_option
@as_of_option
@click.option("--explain", "with_signals", is_flag=True, help="Show each signal's part.")
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
    """Put the given videos in a user's order; no filter applies."""
    with reading() as session:
        page = library.rank(session, user, videos, profile=profile, as_of=as_of)
    print_page(page, form, with_signals=with_signals)


@click.command()
@click.argument("user")
@click.argument("video")
@profile_option
@limit_option
@as_of_option
@format_option
@database_option
def explain(
    user: str, video: str, profile: str | None, limit: int, as_of: datetime | None, form: str | None
) -> None:
    """Say why a video stands where it stands in a user's feed."""
    with reading() as session:
        explanation = library.explain(
            session, user, video, profile=profile, limit=limit, as_of=as_of
        )
    print_explanation(explanation, form)
