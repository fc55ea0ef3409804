"""``video status|erase``."""

from __future__ import annotations

import click

from recommender.cli.database import writing
from recommender.cli.options import database_option
from recommender.formats import scalars
from recommender.ingest import videos
from recommender.operations.erase import erase_video


@click.group()
def video() -> None:
    """Publish, review, remove or erase a video."""


@video.command()
@click.argument("video")
@click.argument("status", type=click.Choice(scalars.STATUSES))
@database_option
def status(video: str, status: scalars.VideoStatus) -> None:
    """Set the status of a video; feeds show only published videos."""
    is_new = writing(lambda session: videos.set_video_status(session, video, status)).updated
    click.echo(f"Now {status}." if is_new else f"{status.capitalize()} before; nothing changed.",
               err=True)  # fmt: skip


@video.command()
@click.argument("video")
@database_option
def erase(video: str) -> None:
    """Erase a video for good: caption, hashtags, sound, key and what was derived from them."""
    writing(lambda session: erase_video(session, video))
    click.echo("Erased.", err=True)
