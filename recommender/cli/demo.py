"""``demo``: a feed, two swipes, and the feed that follows from them."""

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
from recommender.cli.options import chosen_url, settings, synthetic_database_option
from recommender.cli.output import print_table
from recommender.database.engine import database_url
from recommender.database.transactions import run_transaction
from recommender.errors import RecommenderError, UnknownUser
from recommender.feed.for_you import for_you
from recommender.feed.values import FeedItem, FeedPage
from recommender.feed.wording import label_of
from recommender.formats import scalars
from recommender.ingest import events
from recommender.learning.refresh import RefreshReport, refresh
from recommender.operations import users
from recommender.operations.users import UserSummary
from recommender.ranking.registry import OURS

T = TypeVar("T")

FILE = "demo.db"
PROFILE = "for_you@1"
ROWS = 7
MAX_CAUSES = 3
PAGE_SIZE = 100
WIDTH = 80


@dataclass(frozen=True, slots=True)
class Demo:
    """One run of the demo: its database, its viewer and its reading time."""

    engine: Engine
    viewer: str
    now: datetime

    def read(self, function: Callable[..., T], **options: Any) -> T:
        """Call a function with a read-only session and the viewer's key."""
        return run_transaction(
            self.engine, lambda session: function(session, self.viewer, **options), write=False
        )

    def feed(self, after: timedelta) -> FeedPage:
        """Return the viewer's feed some time after the demo began."""
        # Without exploration, whose choice depends on the day, each run shows the same feed.
        chosen = replace(settings(), exploration_share=0.0)
        return self.read(
            for_you, limit=PAGE_SIZE, profile=PROFILE, as_of=self.now + after, record=False,
            settings=chosen, reasons=True,
        )  # fmt: skip


@click.command()
@synthetic_database_option(FILE)
def demo() -> None:
    """Create a small world, show a feed, swipe twice, show the change."""
    now = scalars.now().replace(microsecond=0)
    with writable(makes_tables=True, registry=OURS) as engine:
        world = demo_world.DemoWorld(beginning=_beginning(engine, now))
        sizes = demo_world.load(engine, world)
        _print_world(sizes, refresh(engine, as_of=now, settings=settings()))
        _show(Demo(engine, world.viewer(0), now))


def _show(run: Demo) -> None:
    """Print the feed, swipe twice, and print the feed again."""
    _print_viewer(run.read(users.show_user))
    before = run.feed(timedelta(0))
    _print_feed(before)
    liked, rejected = _swiped_items(before.items)
    _swipe(run, liked, rejected)
    _print_swipes(run.viewer, liked, rejected)
    after = run.feed(timedelta(seconds=30))
    _print_feed(after, before)
    _print_changes(before, after, (_topic(liked), _topic(rejected)))
    _print_next(run.viewer, liked, after.items[0])


def _beginning(engine: Engine, now: datetime) -> datetime:
    """Return when the world in the database began, or a time that lets a new one end now."""

    def existing(session: Session) -> datetime | None:
        try:
            return users.show_user(session, demo_world.DemoWorld().viewer(0)).created_at
        except UnknownUser:
            return None

    return run_transaction(engine, existing, write=False) or now - 2 * demo_world.LENGTH


def _topic(item: FeedItem) -> str:
    return item.video.rpartition("-")[0]


def _swiped_items(items: Sequence[FeedItem]) -> tuple[FeedItem, FeedItem]:
    """Return the best video without a declared interest, and the best of another topic.

    Raises:
        RecommenderError: fewer than two topics are left that are new to the viewer.
    """
    undeclared = [item for item in items if not item.signals["hashtags"].value]
    liked = (undeclared or items)[:1]
    rejected = [item for item in items if _topic(item) != _topic(liked[0])][:1]
    if not rejected:
        raise RecommenderError(
            "the viewer has seen nearly all of this world: give the demo another database, such as"
            " --database-url sqlite:///demo-2.db"
        )
    return liked[0], rejected[0]


def _swipe(run: Demo, liked: FeedItem, rejected: FeedItem) -> None:
    swipes: Sequence[tuple[FeedItem, scalars.EventKind, dict[str, Any]]] = (
        (liked, "watch", {"completion": 1.0}), (liked, "like", {}),
        (rejected, "not_interested", {}),
    )  # fmt: skip

    def record_swipes(session: Session) -> None:
        for second, (item, kind, body) in enumerate(swipes, start=1):
            at = run.now + timedelta(seconds=second)
            key = f"demo-{item.video}-{kind}"
            events.record(session, run.viewer, item.video, kind, at=at, key=key, **body)

    run_transaction(run.engine, record_swipes)


def _url() -> str:
    """Return the URL of the demo's database without its password."""
    return database_url(chosen_url()).set(query={}).render_as_string()


def _selection() -> str:
    """Return the line that selects the demo's database, if its URL can be shown in full."""
    whole = database_url(chosen_url()).render_as_string(hide_password=False)
    return f"  export RECOMMENDER_DATABASE_URL={whole}\n" if whole == _url() else ""


def _print_world(sizes: dict[str, int], report: RefreshReport) -> None:
    counted = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
    click.echo(
        f"A small synthetic world is in {_url()}:\n{counted}.\n"
        f"A refresh counted {report.events:,} events"
        f" and found the neighbours of {report.neighbours:,} videos.\n"
    )


def _print_viewer(viewer: UserSummary) -> None:
    interests = " and ".join(f"#{name}" for name in viewer.interests)
    click.echo(
        f"{viewer.user} speaks {viewer.language}, lives in {viewer.country},"
        f" is interested in {interests},\n"
        f"likes the sound {viewer.liked_sounds[0]}, follows {', '.join(viewer.follows)},\n"
        f"and has seen {viewer.seen} videos."
        f" One SQL statement ranks what is new to {viewer.user}:\n"
    )


def _print_feed(page: FeedPage, before: FeedPage | None = None) -> None:
    old_positions = {item.video: item.position for item in before.items} if before else {}
    rows = []
    for item in page.items[:ROWS]:
        was = {"was": old_positions.get(item.video)} if before else {}
        why = " · ".join(label_of(item, reason) for reason in item.reasons)
        row = {"score": f"{item.score:.3f}", "video": item.video, "why": why}
        rows.append({"#": item.position, **was, **row})
    print_table(rows, widest=WIDTH)


def _print_swipes(viewer: str, liked: FeedItem, rejected: FeedItem) -> None:
    click.echo(
        f"\nTwo swipes. {viewer} watches {liked.video} (place {liked.position}) to the end"
        f" and likes it,\nand says of {rejected.video} (place {rejected.position}):"
        " not interested. The very next request:\n"
    )


def _print_changes(before: FeedPage, after: FeedPage, topics: tuple[str, str]) -> None:
    """Print the video of the first topic that rose most, and of the second that fell most."""
    old_items = {item.video: item for item in before.items}
    click.echo()
    for topic, direction in zip(topics, (1, -1), strict=True):
        pairs = [(old_items[item.video], item) for item in after.items if item.video in old_items]
        moves = [
            (direction * (old.position - new.position), -new.position, old, new)
            for old, new in pairs
            if _topic(new) == topic
        ]
        if moves:
            click.echo(_change(*max(moves)[2:]))


def _change(old: FeedItem, new: FeedItem) -> str:
    moves = {
        name: part.contribution - old.signals[name].contribution
        for name, part in new.signals.items()
    }
    names = sorted(moves, key=lambda name: -abs(moves[name]))[:MAX_CAUSES]
    causes = ", ".join(f"{name} {moves[name]:+.2f}" for name in names if abs(moves[name]) >= 0.005)
    return f"{new.video}: from place {old.position} to {new.position}\n  {causes or 'hardly'}"


def _print_next(viewer: str, liked: FeedItem, first: FeedItem) -> None:
    click.echo(
        "\nNothing was rebuilt: each swipe was learned in its own transaction. Try next:\n"
        f"{_selection()}"
        f"  recommender explain {viewer} {first.video}\n"
        f"  recommender explain {viewer} {liked.video}\n"
        f"  recommender mute {viewer} creator {first.creator}\n"
        f"  recommender feed {viewer} --explain\n"
        "  recommender refresh\n"
        "  recommender profiles create mine --weight hashtag_affinity=1 \\\n"
        "    --weight freshness=2\n"
        f"  recommender feed {viewer} --profile mine\n"
        "  recommender import videos your-videos.csv \\\n"
        "    --database-url sqlite:///your.db"
    )
