"""The primary dies in mid-session: its standby takes over, and the session goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    FeedPage,
    InvalidCursor,
    VideoRow,
    audit,
    create_engine,
    record,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.database import migrations
from recommender.models import EventRow, Interaction, ServedVideo, User, Video
from tests.conftest import create_database
from tests.hosts.primary_and_standby import Feed
from tests.support.postgres import Server
from tests.support.replicas import cut_off, promote, replicated_servers, wait_for
from tests.support.worlds import at, counted_statements, names

pytestmark = pytest.mark.slow

VIEWERS = [f"u{number}" for number in range(4)]
OTHER = "u-other"
PAGES = 9
"""The pages that a viewer asks for, of 20 videos each."""


@dataclass
class Pair:
    """A primary with a standby, and the feed of an application that knows the hosts of both."""

    primary: Server
    standby: Server
    feed: Feed

    def fail_over(self) -> None:
        self.primary.stop("immediate")
        promote(self.standby)


@contextmanager
def pair_of(*, is_synchronous: bool) -> Iterator[Pair]:
    with replicated_servers(is_synchronous=is_synchronous) as (primary, standby):
        create_database(primary.url, "pair", "template0")
        migrations.upgrade(f"{primary.url}/pair")
        hosts = f"host=127.0.0.1:{primary.port}&host=127.0.0.1:{standby.port}"
        url = f"postgresql://postgres@/pair?{hosts}&target_session_attrs="
        engines = [create_engine(f"{url}{role}") for role in ("read-write", "prefer-standby")]
        run_transaction(engines[0], publish)
        yield Pair(primary, standby, Feed(*engines))
        for engine in engines:
            engine.dispose()


def publish(session: Session) -> None:
    upsert_users(session, [{"id": viewer} for viewer in [*VIEWERS, OTHER]])
    rows: list[VideoRow] = [
        {"id": f"v{number}", "creator": f"c{number % 7}", "published_at": at(-number)}
        for number in range(20 * PAGES + 40)
    ]
    upsert_videos(session, rows)


def watch(engine: Engine, viewer: str, video: str, key: str) -> None:
    run_transaction(
        engine, lambda session: record(session, viewer, video, "watch", key=key, at=at())
    )


@dataclass
class Viewer:
    """A viewer who scrolls, and what the application acknowledged meanwhile."""

    feed: Feed
    key: str
    pages: list[FeedPage] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)

    def scroll(self) -> None:
        page = self.feed.page(self.key, session_id=uuid4())
        while True:
            self.pages.append(page)
            if len(self.pages) == PAGES:
                return
            video = page.items[0].video
            watch(self.feed.primary, self.key, video, f"{self.key}-{video}")
            self.watched.append(video)
            page = self.feed.page(self.key, cursor=page.cursor)


def test_a_synchronous_standby_takes_over_with_everything_that_was_acknowledged() -> None:
    with pair_of(is_synchronous=True) as pair:
        has_every_page_before(pair.feed)
        viewers = [Viewer(pair.feed, key) for key in VIEWERS]
        with ThreadPoolExecutor(len(viewers)) as threads:
            running = [threads.submit(viewer.scroll) for viewer in viewers]
            wait_for(lambda: all(len(viewer.pages) > 1 for viewer in viewers))
            before = sum(len(viewer.pages) for viewer in viewers)
            pair.fail_over()
            for each in running:
                each.result()
        assert before < PAGES * len(viewers)
        shown = [
            (viewer.key, item.position, item.video)
            for viewer in viewers
            for page in viewer.pages
            for item in page.items
        ]
        assert max(Counter((key, video) for key, _, video in shown).values()) == 1
        with Session(pair.feed.primary) as session:
            assert sorted(served(session)) == sorted(shown)
            watches = [
                (each.key, f"{each.key}-{video}") for each in viewers for video in each.watched
            ]
            assert sorted(recorded(session)) == sorted(watches)
            assert session.scalar(sa.select(sa.func.sum(Interaction.plays))) == len(watches)
            assert audit(session).broken == ()


def has_every_page_before(feed: Feed) -> None:
    """Check that a page which follows at once is ranked on the standby."""
    cursor = feed.page(OTHER).cursor
    with counted_statements(feed.primary) as sent:
        feed.page(OTHER, cursor=cursor)
    assert len(sent) == 3  # it only records the page


def served(session: Session) -> list[tuple[str, int, str]]:
    query = (
        sa.select(User.key, ServedVideo.position, Video.key)
        .join(User, User.id == ServedVideo.user_id)
        .join(Video, Video.id == ServedVideo.video_id)
        .where(User.key != OTHER)
    )
    return [(user, position, video) for user, position, video in session.execute(query)]


def recorded(session: Session) -> list[tuple[str, str]]:
    query = sa.select(User.key, EventRow.key).join(User, User.id == EventRow.user_id)
    return [(user, key) for user, key in session.execute(query)]


def test_an_asynchronous_standby_takes_over_with_what_it_had_received() -> None:
    """What it lacks is one page and one event: the event is sent again, the page is made again."""
    with pair_of(is_synchronous=False) as pair:
        feed, viewer = pair.feed, VIEWERS[0]
        first = feed.page(viewer)
        watch(feed.primary, viewer, "v0", "received")
        second = feed.page(viewer, cursor=first.cursor)
        cut_off(pair.primary, pair.standby)
        lost = feed.page(viewer, cursor=second.cursor)
        watch(feed.primary, viewer, "v1", "lost")
        pair.fail_over()
        with pytest.raises(InvalidCursor):
            feed.page(viewer, cursor=lost.cursor)
        third = feed.page(viewer, cursor=second.cursor)
        fourth = feed.page(viewer, cursor=third.cursor)
        for key, video in (("received", "v0"), ("lost", "v1")):
            watch(feed.primary, viewer, video, key)
        shown = [name for page in (first, second, third, fourth) for name in names(page)]
        assert len(set(shown)) == len(shown) == 80
        assert feed.page(viewer, cursor=first.cursor).items == second.items
        with Session(feed.primary) as session:
            assert [video for *_, video in sorted(served(session))] == shown
            assert sorted(recorded(session)) == [(viewer, "lost"), (viewer, "received")]
            assert session.scalar(sa.select(sa.func.sum(Interaction.plays))) == 2
            assert audit(session).broken == ()
