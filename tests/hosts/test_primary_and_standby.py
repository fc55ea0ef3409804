"""A primary and a standby that lags: every request gets a page, and nothing is served twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import FeedPage, audit, create_engine, mute, record, run_transaction, upsert_videos
from recommender.database import migrations
from recommender.ingest.videos import set_video_status
from tests.conftest import create_database
from tests.hosts.primary_and_standby import Feed
from tests.support.replicas import CopiedFile, Replica, Standby, primary_and_standby
from tests.support.worlds import at, counted_statements, make_user, names

pytestmark = pytest.mark.slow


@dataclass
class Pair:
    """A database, its replica, and the feed of an application on both."""

    primary: Engine
    replica: Replica
    feed: Feed

    def write(self, unit: Callable[[Session], object]) -> None:
        run_transaction(self.primary, unit)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    with primary_and_standby() as urls:
        yield urls


@pytest.fixture
def pair(kind: str, database: str, request: pytest.FixtureRequest) -> Iterator[Pair]:
    primary_url = database
    if kind == "sqlite":
        replica: Replica = CopiedFile(database)
    else:
        primary_server, standby_server = request.getfixturevalue("servers")
        name = f"pair_{uuid4().hex}"
        create_database(primary_server, name, "template0")
        primary_url = f"{primary_server}/{name}"
        migrations.upgrade(primary_url)
        replica = Standby(primary_url, f"{standby_server}/{name}")
    engines = create_engine(primary_url), create_engine(replica.url)
    yield Pair(engines[0], replica, Feed(*engines))
    for engine in engines:
        engine.dispose()


def test_a_new_viewer_is_served_at_once(pair: Pair) -> None:
    """The standby knows first neither the viewer, nor the session, nor the event."""
    videos = [f"v{number}" for number in range(30)]
    pair.write(lambda session: publish(session, *videos))
    pair.replica.catch_up()
    pair.write(make_user)
    pair.write(lambda session: watch(session, "viewer", "v0"))
    own = uuid4()
    shown = [pair.feed.page("viewer", session_id=own)]
    assert pair.feed.page("viewer", session_id=own).items == shown[0].items
    shown.append(pair.feed.page("viewer", cursor=shown[0].cursor))
    assert pair.feed.page("viewer", cursor=shown[0].cursor).items == shown[1].items
    assert [len(page.items) for page in shown] == [19, 10]
    assert sorted(name for page in shown for name in names(page)) == sorted(videos[1:])
    assert not shown[0].exhausted
    assert shown[1].exhausted


def test_a_standby_that_caught_up_ranks_the_page(pair: Pair) -> None:
    pair.write(lambda session: publish(session, *(f"v{number}" for number in range(90))))
    pair.write(make_user)
    pair.replica.catch_up()
    cursor = pair.feed.page("viewer").cursor
    counts = [statements(pair, cursor)]
    pair.replica.catch_up()
    counts.append(statements(pair, cursor))
    cursor = pair.feed.page("viewer", cursor=cursor).cursor
    writes = 3 if pair.primary.dialect.name == "sqlite" else 1
    assert [*counts, statements(pair, cursor), statements(pair, cursor)] == [
        (1, 3 + writes), (2, 2), (3, 2 + writes), (3, 2),
    ]  # fmt: skip


def statements(pair: Pair, cursor: str | None) -> tuple[int, int]:
    """Return the numbers of statements that a page takes on the standby and on the primary."""
    standby, primary = counted_statements(pair.feed.standby), counted_statements(pair.primary)
    with standby as on_standby, primary as on_primary:
        pair.feed.page("viewer", cursor=cursor)
    return len(on_standby), len(on_primary)


def test_a_stranger_has_pages_without_a_session(pair: Pair) -> None:
    pair.write(lambda session: publish(session, "a", "b"))
    for _ in range(2):
        page = pair.feed.page("stranger")
        assert (len(page.items), page.session, page.cursor) == (2, None, None)
        pair.replica.catch_up()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_standby_that_is_down_costs_no_page(pair: Pair, tmp_path: Path) -> None:
    pair.write(lambda session: publish(session, "a"))
    pair.write(make_user)
    nowhere = create_engine(f"sqlite:///{tmp_path}/missing/replica.db")
    assert names(Feed(pair.primary, nowhere).page("viewer")) == ["a"]
    nowhere.dispose()


def publish(session: Session, *keys: str) -> None:
    rows = [{"id": key, "creator": creator_of(key), "published_at": at(-60)} for key in keys]
    upsert_videos(session, rows)


def creator_of(video: str) -> str:
    return f"creator of {video[:2]}"


def watch(session: Session, user: str, video: str) -> None:
    record(session, user, video, "watch", completion=1.0)


@dataclass
class Model:
    """What an application wrote and was answered, and the checks of its answers."""

    pair: Pair
    chance: random.Random
    published: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    users: list[str] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    muted: set[tuple[str, str]] = field(default_factory=set)
    served: set[tuple[str, str]] = field(default_factory=set)
    session_ids: list[tuple[str, UUID]] = field(default_factory=list)
    pages: dict[tuple[str, str, int], FeedPage] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)

    def add_user(self) -> None:
        self.users.append(f"u{len(self.users)}")
        self.pair.write(lambda session: make_user(session, self.users[-1]))

    def add_videos(self) -> None:
        keys = [f"v{len(self.published) + number}" for number in range(40)]
        self.pair.write(lambda session: publish(session, *keys))
        self.published |= set(keys)

    def remove_video(self) -> None:
        _, key = self.user_and_video()
        self.pair.write(lambda session: set_video_status(session, key, "removed"))
        self.removed.add(key)

    def see_video(self) -> None:
        user, key = self.user_and_video()
        self.pair.write(lambda session: watch(session, user, key))
        self.seen.add((user, key))

    def mute_creator(self) -> None:
        user, key = self.user_and_video()
        self.pair.write(lambda session: mute(session, user, "creator", creator_of(key)))
        self.muted.add((user, creator_of(key)))

    def catch_up(self) -> None:
        self.pair.replica.catch_up()

    def first_page(self) -> None:
        asked = self.chance.choice([*self.session_ids[-2:], (self.user_and_video()[0], uuid4())])
        self.session_ids.append(asked)
        self.check(asked[0], self.pair.feed.page(asked[0], session_id=asked[1]))

    def next_page(self) -> None:
        pages = [(key[0], page) for key, page in self.pages.items() if page.cursor]
        if pages:
            user, page = self.chance.choice(pages[-4:])
            self.check(user, self.pair.feed.page(user, cursor=page.cursor))

    def user_and_video(self) -> tuple[str, str]:
        return self.chance.choice(self.users), self.chance.choice(sorted(self.published))

    def left(self, user: str) -> set[str]:
        """Return the videos that may still be served to a user."""
        return {
            key
            for key in self.published - self.removed
            if not {(user, key)} & (self.seen | self.served)
            and (user, creator_of(key)) not in self.muted
        }

    def check(self, user: str, page: FeedPage) -> None:
        key = (user, page.session or "", page.request.position)
        if key in self.pages:
            again = [item for item in self.pages[key].items if item.video not in self.removed]
            assert (list(page.items), page.cursor) == (again, self.pages[key].cursor)
            self.outcomes["again"] += 1
            return
        left = self.left(user)
        new = {item.video for item in page.items if not item.refilled}
        assert new <= left
        assert len(set(names(page))) == len(page.items)
        assert {(user, name) for name in set(names(page)) - new} <= self.served - self.seen
        self.served |= {(user, name) for name in new}
        assert page.exhausted == (page.cursor is None)
        assert len(new) == len(left) if page.exhausted else page.items
        self.outcomes["last" if page.exhausted else "new"] += 1
        if page.items:
            self.pages[key] = page


@pytest.mark.parametrize("seed", [1, 2])
def test_any_lag_gives_a_page_and_nothing_twice_but_to_fill_it(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    model = Model(pair, chance)
    model.add_user()
    model.add_videos()
    writes = [model.add_user, model.add_videos, model.remove_video, model.see_video]
    steps = [*writes, model.mute_creator, *[model.catch_up] * 2, *[model.first_page] * 4]
    for _ in range(120):
        chance.choice([*steps, *[model.next_page] * 8])()
    for user in model.users:
        page = pair.feed.page(user)
        model.check(user, page)
        while page.cursor:
            page = pair.feed.page(user, cursor=page.cursor)
            model.check(user, page)
        assert not model.left(user)
    with Session(pair.primary) as session:
        assert audit(session).broken == ()
    assert all(model.outcomes[name] > 5 for name in ("again", "new", "last"))
