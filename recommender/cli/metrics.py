"""``metrics``."""

from __future__ import annotations

import click

import recommender
from recommender.cli.database import reading
from recommender.cli.options import database_option


@click.command()
@database_option
def metrics() -> None:
    """Print figures for monitoring, for Prometheus. Read-only."""
    with reading() as session:
        click.echo(recommender.metrics(session).as_prometheus(), nl=False)
