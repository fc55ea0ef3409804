"""``demo``: the five-minute pitch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.benchmark import demo_world
from recommender.cli.database import writable
from recommender.cli.options import database_option, settings
from recommender.cli.output import print_table
from recommender.database.engine import database_url
from recommender.database.transactions import run_transaction
from recommender.errors import RecommenderError, UnknownUser
from recommender.feed.explain import because
from recommender.feed.for_you import for_you
from recommender.feed.values import FeedItem
from recommender.formats import scalars
from recommender.ingest import events
from recommender.learning.refresh import RefreshReport, refresh
from recommender.operations import users
from recommender.operations.users import UserSummary

T = TypeVar("T")

PROFILE = "for_you@1"
ROWS = 7
MOST_CAUSES = 3
LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class Demo:
    """One run: its database, its viewer, and when it takes place."""

    engine: Engine
    viewer: str
    now: datetime

    def read(self, function: Callable[..., T], **how: Any) -> T:
        """What a function says of the viewer."""
        return run_transaction(
            self.engine, lambda session: function(session, self.viewer, **how), write=False
        )

    def feed(self, after: timedelta) -> Sequence[FeedItem]:
        """The viewer's feed so long after the demo began, without what chance adds each day."""
        when: datetime = self.now + after
        certain = replace(settings(), exploration_share=0.0)
        return self.read(
            for_you, limit=LOOKED_AT, profile=PROFILE, as_of=when, record=False,
            settings=certain,
        ).items  # fmt: skip


@click.command()
@database_option
def demo() -> None:
    """Make a small world, show a feed and why, swipe twice, show what changed."""
    now = scalars.now().replace(microsecond=0)
    with writable() as engine:
        world = demo_world.World(beginning=_beginning(engine, now))
        sizes = demo_world.load(engine, world)
        run = Demo(engine, world.viewer(0), now)
        _say_world(sizes, refresh(engine, as_of=now, settings=settings()))
        _say_viewer(run.read(users.show_user))
        before = run.feed(timedelta(0))
        _print_feed(before)
        liked, rejected = _chosen(before)
        _swipe(run, liked, rejected)
        _say_swipes(run.viewer, liked, rejected)
        after = run.feed(timedelta(seconds=30))
        _print_feed(after, before)
        _say_changes(before, after, (_topic(liked), _topic(rejected)))
    _say_next(run.viewer, liked, after[0])


def _beginning(engine: Engine, now: datetime) -> datetime:
    """That of the world which is there, else such that the world ends now."""

    def made(session: Session) -> datetime | None:
        try:
            return users.show_user(session, demo_world.World().viewer(0)).created_at
        except UnknownUser:
            return None

    return run_transaction(engine, made, write=False) or now - 2 * demo_world.LENGTH


def _topic(item: FeedItem) -> str:
    return item.video.rpartition("-")[0]


def _chosen(items: Sequence[FeedItem]) -> tuple[FeedItem, FeedItem]:
    """The best video of a topic that the viewer never declared, and the best of another topic.

    Raises:
        RecommenderError: there are no two topics left that are new to the viewer.
    """
    undeclared = [item for item in items if not item.signals["hashtags"].value]
    liked = (undeclared or items)[:1]
    rejected = [item for item in items if _topic(item) != _topic(liked[0])][:1]
    if not rejected:
        raise RecommenderError(
            "hardly anything in this world is new any more: give the demo another database, such as"
            " --database-url sqlite:///demo.db"
        )
    return liked[0], rejected[0]


def _swipe(run: Demo, liked: FeedItem, rejected: FeedItem) -> None:
    def swipe(session: Session) -> None:
        deeds: Sequence[tuple[FeedItem, str, dict[str, Any]]] = (
            (liked, "watch", {"completion": 1.0}), (liked, "like", {}),
            (rejected, "not_interested", {}),
        )  # fmt: skip
        for second, (item, kind, body) in enumerate(deeds, start=1):
            at = run.now + timedelta(seconds=second)
            key = f"demo-{item.video}-{kind}"
            events.record(session, run.viewer, item.video, kind, at=at, key=key, **body)

    run_transaction(run.engine, swipe)


def _say_world(sizes: dict[str, int], report: RefreshReport) -> None:
    url = database_url(settings().database_url).set(query={}).render_as_string()
    counted = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
    click.echo(
        f"A small synthetic world is in {url}:\n{counted}.\n"
        f"A refresh counted {report.events:,} events"
        f" and found the neighbours of {report.neighbours:,} videos.\n"
    )


def _say_viewer(said: UserSummary) -> None:
    interests = " and ".join(f"#{name}" for name in said.interests)
    click.echo(
        f"{said.user} speaks {said.language}, lives in {said.country},"
        f" is interested in {interests},\n"
        f"likes the sound {said.liked_sounds[0]}, follows {', '.join(said.follows)},\n"
        f"and has seen {said.seen} videos. One SQL statement ranks what is new to {said.user}:\n"
    )


def _print_feed(items: Sequence[FeedItem], before: Sequence[FeedItem] = ()) -> None:
    places = {item.video: item.position for item in before}
    rows = []
    for item in items[:ROWS]:
        was = {"was": places.get(item.video)} if before else {}
        shown = {"video": item.video, "creator": item.creator, "why": because(item)}
        rows.append({"#": item.position, **was, "score": f"{item.score:.3f}", **shown})
    print_table(rows)


def _say_swipes(viewer: str, liked: FeedItem, rejected: FeedItem) -> None:
    click.echo(
        f"\nTwo swipes. {viewer} watches {liked.video} (place {liked.position}) to the end and"
        f" likes it, and says of\n{rejected.video} (place {rejected.position}): not interested."
        " The very next request:\n"
    )


def _say_changes(
    before: Sequence[FeedItem], after: Sequence[FeedItem], topics: tuple[str, str]
) -> None:
    """Of the first topic the video that rose most, of the second the one that fell most."""
    was = {item.video: item for item in before}
    click.echo()
    for topic, direction in zip(topics, (1, -1), strict=True):
        pairs = [(was[item.video], item) for item in after if item.video in was]
        rises = [
            (direction * (old.position - new.position), -new.position, old, new)
            for old, new in pairs
            if _topic(new) == topic
        ]
        if rises:
            click.echo(_change(*max(rises)[2:]))


def _change(old: FeedItem, new: FeedItem) -> str:
    moves = {
        name: each.contribution - old.signals[name].contribution
        for name, each in new.signals.items()
    }
    names = sorted(moves, key=lambda name: -abs(moves[name]))[:MOST_CAUSES]
    causes = ", ".join(f"{name} {moves[name]:+.2f}" for name in names if abs(moves[name]) >= 0.005)
    return f"{new.video}: from place {old.position} to {new.position}\n  {causes or 'hardly'}"


def _say_next(viewer: str, liked: FeedItem, first: FeedItem) -> None:
    click.echo(
        "\nNothing was rebuilt for it: each swipe was learned in its own transaction. Try next:\n"
        f"  recommender explain {viewer} {first.video}\n"
        f"  recommender explain {viewer} {liked.video}\n"
        f"  recommender mute {viewer} creator {first.creator}\n"
        f"  recommender feed {viewer} --explain\n"
        "  recommender refresh\n"
        "  recommender profiles create mine --weight hashtag_affinity=1 --weight freshness=2\n"
        f"  recommender feed {viewer} --profile mine\n"
        "  recommender import videos your-videos.csv --database-url sqlite:///your.db"
    )
