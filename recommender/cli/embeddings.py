"""``embeddings create|list|index|drop``: spaces of vectors."""

from __future__ import annotations

import click

from recommender.cli.database import engine
from recommender.cli.options import database_option, format_option
from recommender.cli.output import print_records
from recommender.cli.progress import say
from recommender.database.spaces import (
    METRICS,
    Space,
    create_space,
    drop_space,
    index_space,
    list_spaces,
)
from recommender.formats.vectors import MOST_DIMENSIONS


@click.group()
def embeddings() -> None:
    """Create, list, index and drop spaces: tables of vectors."""


@embeddings.command()
@click.argument("space")
@click.option(
    "--dim", required=True, type=click.IntRange(1, MOST_DIMENSIONS), metavar="N",
    help=f"The number of dimensions of its vectors, 1 to {MOST_DIMENSIONS:,}.",
)  # fmt: skip
@click.option(
    "--metric", type=click.Choice(METRICS), default="cosine", show_default=True,
    help="How vectors are compared.",
)  # fmt: skip
@format_option
@database_option
def create(space: str, dim: int, metric: str, form: str | None) -> None:
    """Create a space, unless it is there. It needs the role that owns the tables."""
    with engine() as bind:
        created = create_space(bind, space, dim=dim, metric=metric)
    print_records([created.as_dict()], form, whole=created.as_dict())


@embeddings.command("list")
@format_option
@database_option
def list_(form: str | None) -> None:
    """List every space with the number of its vectors."""
    with engine() as bind:
        spaces = list_spaces(bind)
    rows = [space.as_dict() for space in spaces]
    print_records(rows, form, example=Space("", 1, "cosine", 0, None).as_dict())


@embeddings.command()
@click.argument("space")
@database_option
def index(space: str) -> None:
    """Build the index of nearest vectors on PostgreSQL. Fill the space first."""
    with engine() as bind:
        index_space(bind, space)
    say(f"The space {space} has its index.")


@embeddings.command()
@click.argument("space")
@database_option
def drop(space: str) -> None:
    """Drop a space with all its vectors."""
    with engine() as bind:
        drop_space(bind, space)
    say(f"The space {space} is dropped.")
