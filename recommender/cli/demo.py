"""``demo``: the five-minute pitch."""

from __future__ import annotations

from collections.abc import Sequence

import click
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import feed, interactions, synthetic, users
from recommender.cli.database import writable
from recommender.cli.options import database_option, settings
from recommender.cli.output import print_table
from recommender.engine import database_url, run_transaction
from recommender.reasons import because
from recommender.values import FeedItem, FeedPage

ROWS = 8


@click.command()
@database_option
def demo() -> None:
    """Make a small world, show a feed and why, swipe twice, show what changed."""
    world = synthetic.World()
    with writable() as engine:
        sizes = synthetic.load(engine, world)
        _say_world(sizes)
        viewer = world.viewer(0)
        before = _read(engine, viewer)
        _say_viewer(engine, viewer)
        _print_feed(before.items)
        chosen = _unwatched(before.items)
        _swipe(engine, viewer, chosen)
        _say_swipes(viewer, chosen)
        after = _read(engine, viewer)
        _print_feed(after.items, before.items)
        _say_changes(chosen, after.items)
    _say_next(viewer, chosen[0].video)


def _read(engine: Engine, viewer: str) -> FeedPage:
    def read(session: Session) -> FeedPage:
        return feed.for_you(session, viewer, limit=100, profile="classic")

    return run_transaction(engine, read, write=False)


def _unwatched(items: Sequence[FeedItem]) -> list[FeedItem]:
    """The two best videos that the viewer has not watched yet, else the last two."""
    fresh = [item for item in items if not item.signals["completion"].value]
    return (fresh if len(fresh) >= 2 else list(items[-2:]))[:2]


def _swipe(engine: Engine, viewer: str, chosen: Sequence[FeedItem]) -> None:
    first, second = (item.video for item in chosen)

    def swipe(session: Session) -> None:
        interactions.record(session, viewer, first, "watch", completion=1.0)
        interactions.record(session, viewer, first, "share")
        interactions.record(session, viewer, second, "watch", completion=0.6)
        interactions.record(session, viewer, second, "like")

    run_transaction(engine, swipe)


def _say_world(sizes: dict[str, int]) -> None:
    url = database_url(settings().database_url).set(query={}).render_as_string()
    counted = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
    click.echo(f"A small synthetic world is in {url}:\n{counted}.\n")


def _say_viewer(engine: Engine, viewer: str) -> None:
    said = run_transaction(engine, lambda session: users.show_user(session, viewer), write=False)
    interests = " and ".join(f"#{name}" for name in said.interests)
    click.echo(
        f"{viewer} speaks {said.language}, lives in {said.country}, is interested in {interests},\n"
        f"likes the sound {said.liked_sounds[0]}, follows {', '.join(said.follows)},\n"
        f"and has watched {said.seen} videos. One SQL statement ranks the feed:\n"
    )


def _print_feed(items: Sequence[FeedItem], before: Sequence[FeedItem] = ()) -> None:
    places = {item.video: item.position for item in before}
    rows = []
    for item in items[:ROWS]:
        was = {"was": places.get(item.video)} if before else {}
        shown = {"video": item.video, "creator": item.creator, "why": because(item)}
        rows.append({"#": item.position, **was, "score": round(item.score, 3), **shown})
    print_table(rows)


def _say_swipes(viewer: str, chosen: Sequence[FeedItem]) -> None:
    first, second = chosen
    click.echo(
        f"\nTwo swipes. {viewer} watches {first.video} to the end and shares it,"
        f" then watches 60% of\n{second.video} and likes it. The very next request:\n"
    )


def _say_changes(chosen: Sequence[FeedItem], after: Sequence[FeedItem]) -> None:
    now = {item.video: item for item in after}
    click.echo()
    for item in chosen:
        click.echo(
            f"{item.video}: from place {item.position} to {now[item.video].position},"
            f" from {item.score:.3g} to {now[item.video].score:.3g}."
        )


def _say_next(viewer: str, video: str) -> None:
    click.echo(
        "\nNothing was rebuilt for it: the swipes are rows that the ranking reads. Try next:\n"
        f"  recommender explain {viewer} {video}\n"
        f"  recommender feed {viewer} --explain\n"
        f"  recommender profiles create mine --weight completion=1 --weight likes=2\n"
        f"  recommender feed {viewer} --profile mine\n"
        f"  recommender import videos your-videos.csv --database-url sqlite:///your.db"
    )
