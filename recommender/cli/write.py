"""What a user does: ``record``, ``follow``, ``mute``, ``dismiss``, ``block``; their opposites."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from recommender.cli.database import writing
from recommender.cli.options import Time, database_option
from recommender.formats import scalars
from recommender.ingest import blocks, dismissals, events, follows, mutes


@click.command()
@click.argument("user")
@click.argument("video")
@click.argument("kind", type=click.Choice(scalars.EVENT_KINDS))
@click.option("--completion", type=float, help="The share of the video watched, 0 to 1.")
@click.option("--watch-ms", type=int, help="The time watched, in milliseconds.")
@click.option("--at", type=Time(), metavar="TIME", help="The time of the event. Default: now.")
@click.option("--id", "key", help="The event's own id, so that it is recorded once. Needs --at.")
@database_option
def record(
    user: str,
    video: str,
    kind: scalars.EventKind,
    completion: float | None,
    watch_ms: int | None,
    at: datetime | None,
    key: str | None,
) -> None:
    """Record one event: something that a user did with a video."""
    if key is not None and at is None:
        raise click.UsageError("--id goes with --at: the same event has the same time")
    body: Any = {"at": at, "key": key, "watch_ms": watch_ms, "completion": completion}
    is_new = writing(lambda session: events.record(session, user, video, kind, **body))
    click.echo("Recorded." if is_new else "Recorded before; nothing changed.", err=True)


@click.command()
@click.argument("user")
@click.argument("creator")
@database_option
def follow(user: str, creator: str) -> None:
    """Make a user follow a creator."""
    is_new = writing(lambda session: follows.follow(session, user, creator))
    click.echo("Followed." if is_new else "Followed before; nothing changed.", err=True)


@click.command()
@click.argument("user")
@click.argument("creator")
@database_option
def unfollow(user: str, creator: str) -> None:
    """Make a user stop following a creator."""
    followed = writing(lambda session: follows.unfollow(session, user, creator))
    click.echo("Unfollowed." if followed else "Not followed; nothing changed.", err=True)


@click.command()
@click.argument("user")
@click.argument("kind", type=click.Choice(list(mutes.KINDS)))
@click.argument("value")
@database_option
def mute(user: str, kind: scalars.MuteKind, value: str) -> None:
    """Hide a creator, hashtag, sound or keyword from a user's feeds."""
    is_new = writing(lambda session: mutes.mute(session, user, kind, value))
    click.echo("Muted." if is_new else "Muted before; nothing changed.", err=True)


@click.command()
@click.argument("user")
@click.argument("kind", type=click.Choice(list(mutes.KINDS)))
@click.argument("value")
@database_option
def unmute(user: str, kind: scalars.MuteKind, value: str) -> None:
    """Remove a mute."""
    muted = writing(lambda session: mutes.unmute(session, user, kind, value))
    click.echo("Unmuted." if muted else "Not muted; nothing changed.", err=True)


@click.command()
@click.argument("user")
@click.argument("creator")
@database_option
def dismiss(user: str, creator: str) -> None:
    """Keep a creator out of a user's lists of people to follow."""
    is_new = writing(lambda session: dismissals.dismiss(session, user, creator))
    click.echo("Dismissed." if is_new else "Dismissed before; nothing changed.", err=True)


@click.command()
@click.argument("user")
@click.argument("other")
@database_option
def block(user: str, other: str) -> None:
    """Block a user: neither sees the other in lists of theirs."""
    is_new = writing(lambda session: blocks.block(session, user, other))
    click.echo("Blocked." if is_new else "Blocked before; nothing changed.", err=True)


@click.command()
@click.argument("user")
@click.argument("other")
@database_option
def unblock(user: str, other: str) -> None:
    """Remove a block."""
    blocked = writing(lambda session: blocks.unblock(session, user, other))
    click.echo("Unblocked." if blocked else "Not blocked; nothing changed.", err=True)
