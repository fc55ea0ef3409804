"""The pages of a slice are the pages of the database that it is from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage, Registry, Settings, create_engine, run_transaction, slice_users
from recommender.benchmark.demo_world import LENGTH, DemoWorld
from recommender.benchmark.demo_world import load as load_demo
from recommender.database.registered import OPTION
from recommender.database.spaces import create_space
from recommender.feed.cursors import SessionPosition
from recommender.models.tables import USERS, VIDEOS
from recommender.slices import page_rows
from recommender.slices.slice import Slice
from tests.support import oracle
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.tied_worlds import FEW, rounded, tied_world
from tests.support.worlds import NOON, at, follow, make_user, make_video, make_videos, mute, record

pytestmark = slow_on_postgresql

LIMITS = (1, 7)

Names = Mapping[str, str]


class Sliced:
    """A slice of a database, and its pages in the names of that database."""

    def __init__(self, engine: Engine, users: list[str], folder: Path, **options: Any) -> None:
        self.engine, self.options = engine, options
        file, map_file = folder / "slice.db", folder / "map.json"
        self.written: Slice = slice_users(
            engine, users, str(file), map_file=str(map_file), **options
        )
        self.keys: dict[str, dict[str, str]] = json.loads(map_file.read_text())
        self.names = {name: key for of in self.keys.values() for name, key in of.items()}
        self.file = file

    def check(self, registry: Registry | None = None) -> list[dict[str, Any]]:
        """Compare all pages of all users; return the pages."""
        pages = []
        bind = create_engine(f"sqlite:///{self.file}", registry=registry)
        with Session(self.engine) as session, Session(bind) as sliced:
            feeds = {feed.name for feed in recommender.list_feeds(session) if not feed.deleted_at}
            for user, name in self.written.users.items():
                own = every_page(session, user, feeds, self.options)
                theirs = every_page(sliced, name, feeds, self.options)
                for (label, page), (_, other) in zip(own, theirs, strict=True):
                    assert (label, told(other, self.names)) == (label, told(page, {}))
                    pages.append(told(page, {}))
        bind.dispose()
        return pages

    def check_orders(self) -> None:
        """Compare all candidates of For You, also those that no page of seven videos shows."""
        bind = create_engine(f"sqlite:///{self.file}")
        with Session(self.engine) as session, Session(bind) as sliced:
            for user, name in self.written.users.items():
                own = whole_order(session, user, self.options, {})
                assert whole_order(sliced, name, self.options, self.names) == own
        bind.dispose()


def whole_order(
    session: Session, user: str, options: Mapping[str, Any], names: Names
) -> list[tuple[Any, ...]]:
    """Return the keys of all candidates in order, with their scores and sources."""
    request = recommender.resolve(session, user, limit=max(LIMITS), **options)
    statement = recommender.feed_query(request).limit(None).add_columns(VIDEOS.c.key)
    rows = session.execute(statement)
    return [(names.get(row.key, row.key), row.score_key, row.sources) for row in rows]


def every_page(
    session: Session, user: str, feeds: set[str], options: Mapping[str, Any]
) -> Iterator[tuple[str, FeedPage]]:
    """Yield the pages of a user that a slice promises, with what each is."""
    for feed, limit in product((None, *sorted(feeds)), LIMITS):
        asked = {"feed": feed, "limit": limit, **options}
        page = recommender.for_you(session, user, record=False, reasons=True, **asked)
        yield f"{user}: {feed}, {limit}", page
    classic = recommender.for_you(session, user, record=False, profile="classic", **asked)
    yield f"{user}: classic", classic
    language, country = session.execute(
        sa.select(USERS.c.language, USERS.c.country).where(USERS.c.key == user)
    ).one()
    for limit in LIMITS:
        plain = {"limit": limit, "as_of": options["as_of"], "reasons": True}
        yield f"{user}: following, {limit}", recommender.following(session, user, **plain)
        trending = recommender.trending(session, language, country, **plain)
        yield f"{user}: trending, {limit}", trending


def told(page: FeedPage, names: Names) -> dict[str, Any]:
    """Return what a page tells, with keys in place of stand-ins."""

    def key(name: str | None) -> str | None:
        return name if name is None else names.get(name, name)

    return {
        "exhausted": page.exhausted,
        "arm": page.request.arm,
        "cursor": page.cursor,
        "items": [
            {
                "position": item.position,
                "video": key(item.video),
                "creator": key(item.creator),
                "has_caption": item.caption is not None,
                "hashtags": [key(tag) for tag in item.hashtags],
                "sound": key(item.sound),
                "published_at": item.published_at,
                "format": item.format,
                "score": item.score,
                "profile": item.profile,
                "sources": item.sources,
                "signals": rounded(item),
                "flags": (item.explored, item.crowded, item.refilled),
                "reasons": [(reason.kind, key(reason.subject)) for reason in item.reasons],
            }
            for item in page.items
        ],
    }


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slice for pages of at most seven videos, so that a small world is not sliced as a whole."""
    monkeypatch.setattr(page_rows, "LARGEST_LIMIT", max(LIMITS))


FEEDS: Mapping[str, Mapping[str, Any]] = {
    "few": {
        "sources": {
            "following": 2, "social": 1, "neighbours": 2, "hashtags": 2, "sounds": 1, "creators": 1,
            "trending": 1, "nearby": 1, "fresh": 2, "newest": 3,
        },
    },
    "followed": {"sources": {"following": 1, "sounds": 2}, "memory": "own"},
}  # fmt: skip
"""Feeds whose sources look at few videos."""


def add_feeds(session: Session) -> None:
    for name, parts in FEEDS.items():
        recommender.create_feed(session, name, **parts)


def published(engine: Engine) -> int:
    with Session(engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(VIDEOS)) or 0


FRESH = Settings(candidates=90, trial_days=0.01, interests=3, history=4, seen_lately=3)
"""Settings with which sources look at few videos, and few videos are new."""


@pytest.mark.parametrize(("seed", "as_of"), [
    pytest.param(0, NOON, marks=pytest.mark.slow),
    pytest.param(3, NOON + timedelta(days=1), marks=pytest.mark.slow),
    (2, NOON + timedelta(days=1)),
])  # fmt: skip
@pytest.mark.usefixtures("small_pages")
def test_pages_of_random_worlds_are_the_same(
    engine: Engine, tmp_path: Path, seed: int, as_of: datetime
) -> None:
    def make(session: Session) -> None:
        oracle.load(session, oracle.random_world(seed, videos=250))
        add_feeds(session)
        recommender.create_profile(session, "calm", {"quality": 1.0, "social": 0.5})
        recommender.start_experiment(session, "half", ["calm"])
        recommender.start_experiment(session, "turns", ["calm"], feed="few", interleaved=True)

    run_transaction(engine, make)
    sliced = Sliced(engine, ["u0"], tmp_path, as_of=as_of, settings=FRESH)
    pages = sliced.check()
    assert sum(len(page["items"]) for page in pages) > 20
    assert sliced.written.rows["rec_videos"] < published(engine)


def make_sparse_world(session: Session) -> None:
    """Make a world with rows that one source alone looks at, and many videos of one time."""
    creators = [f"c{number}" for number in range(1, 7)]
    make_user(session, interests=["dance"])
    for creator in (*creators, "shy"):
        follow(session, "viewer", creator)
    make_user(session, "shy", discoverable=False)
    mute(session, "viewer", "keyword", "spam")
    mute(session, "viewer", "sound", "horn")
    make_user(session, "noise1")
    recommender.block(session, "viewer", "noise1")
    make_videos(session, "old1", "old2", creator="c1", published_at=at(-9_000))
    add_feeds(session)
    served: dict[str, Any] = {"feed": "followed", "limit": 1, "settings": FRESH}
    for minutes in (-8_000, -7_000):
        recommender.for_you(session, "viewer", as_of=at(minutes), **served)
    for number in range(60):
        rows = {"creator": f"noise{number % 5}", "published_at": at(-100 - number)}
        texts = {"caption": "more spam" if number % 3 else "less", "hashtags": ["dance"]}
        make_video(session, f"noise-{number}", **rows, **texts, sound=["horn", None][number % 2])
    make_videos(session, "shy1", creator="shy", published_at=at(-150))
    # c1 to c4 are those with the newest videos: of more with one time, the oldest creators.
    tied = ["c3", "c4", "c2", *["c1"] * 50, "c6", "c5"]
    for number, creator in enumerate(tied):
        make_video(session, f"tied-{number}", creator=creator, published_at=at(-200))
    trends = sa.update(VIDEOS).where(VIDEOS.c.key.in_(["noise-21", f"tied-{len(tied) - 1}"]))
    session.execute(trends.values(trending=99.0))


@pytest.mark.usefixtures("small_pages")
def test_pages_of_a_sparse_world_are_the_same(engine: Engine, tmp_path: Path) -> None:
    run_transaction(engine, make_sparse_world)
    sliced = Sliced(engine, ["viewer"], tmp_path, as_of=NOON, settings=FRESH)
    pages = sliced.check()
    shown = {item["video"]: item for page in pages for item in page["items"]}
    assert {"shy1", "old1"} <= set(shown)
    assert any(refilled for item in shown.values() for refilled in item["flags"][2:])
    assert sliced.written.rows["rec_videos"] < published(engine)


@pytest.mark.slow
@pytest.mark.usefixtures("small_pages")
def test_pages_of_a_world_full_of_ties_are_the_same(engine: Engine, tmp_path: Path) -> None:
    tied_world(engine, seed=1)
    run_transaction(engine, add_feeds)
    users, few = ["u1", "u2"], replace(FEW, trial_days=0.01)
    sliced = Sliced(engine, users, tmp_path, as_of=at(30), settings=few)
    sliced.check()
    sliced.check_orders()
    assert sliced.written.rows["rec_videos"] < published(engine)


@pytest.mark.slow
def test_pages_of_the_demo_are_the_same(engine: Engine, tmp_path: Path) -> None:
    world = DemoWorld(beginning=NOON)
    load_demo(engine, world)
    recommender.refresh(engine, as_of=NOON + LENGTH)
    sliced = Sliced(engine, ["ana"], tmp_path, as_of=NOON + LENGTH)
    page = sliced.check()[1]
    assert len(page["items"]) == 7
    other = create_engine(f"sqlite:///{sliced.file}")
    names = {key: name for name, key in sliced.keys["videos"].items()}
    with Session(engine) as session, Session(other) as copied:
        for video in [item["video"] for item in page["items"][::4]]:
            own = recommender.explain(session, "ana", video, as_of=NOON + LENGTH)
            theirs = recommender.explain(
                copied, sliced.written.users["ana"], names[video], as_of=NOON + LENGTH
            )
            assert (own.rank, own.item.score, own.filters) == (
                theirs.rank, theirs.item.score, theirs.filters,
            )  # fmt: skip
            assert own.displaced_by == tuple(sliced.names[key] for key in theirs.displaced_by)
    other.dispose()


@pytest.mark.slow
@only_sqlite  # PostgreSQL stores vectors in half precision
def test_pages_with_models_and_vectors_are_the_same(engine: Engine, tmp_path: Path) -> None:
    registry = Registry(outside={"model": 3}, space="pictures", near=3)
    engine = engine.execution_options(**{OPTION: registry})
    chance = np.random.default_rng(3)
    keys = [f"v{number}" for number in range(30)]

    def make(session: Session) -> None:
        make_user(session)
        make_videos(session, *keys)
        create_space(session.connection(), "pictures", dim=4)
        vectors = chance.normal(size=(len(keys), 4))
        rows: Any = [{"id": key, "vector": v} for key, v in zip(keys, vectors, strict=True)]
        recommender.upsert_embeddings(session, "pictures", rows)
        proposed: Any = [
            {"user": "viewer", "video": key, "score": score, "expires_at": at(minutes)}
            for key, score, minutes in zip(keys, chance.random(30), [-1, 1, 1] * 10, strict=True)
        ]
        recommender.upsert_candidates(session, "model", proposed)
        for minutes, kind in enumerate(["like", "share", "not_interested"]):
            record(session, kind, keys[7 * minutes], at=at(minutes - 9))
        recommender.create_profile(session, "mine", {"model": 2.0, "taste": 1.0})
        recommender.activate_profile(session, "mine")

    run_transaction(engine, make)
    pages = Sliced(engine, ["viewer"], tmp_path, as_of=NOON).check(registry)
    found = {source for page in pages for item in page["items"] for source in item["sources"]}
    assert found >= {"model", "near"}


@pytest.mark.usefixtures("small_pages")
def test_a_session_goes_on_in_a_slice(engine: Engine, tmp_path: Path) -> None:
    def make(session: Session) -> None:
        oracle.load(session, oracle.random_world(5, videos=150))

    run_transaction(engine, make)
    serve = partial(recommender.for_you, user="u0", limit=7, settings=FRESH)
    _, page = (
        run_transaction(engine, partial(serve, as_of=NOON - before))
        for before in (timedelta(days=2), timedelta(hours=1))
    )
    sliced = Sliced(engine, ["u0"], tmp_path, as_of=NOON, settings=FRESH)
    names = {key: name for name, key in sliced.keys["sessions"].items()}
    assert list(names) == [page.session]  # the other one has expired
    assert sliced.written.rows["rec_feed_items"] == len(page.items)
    asked: dict[str, Any] = {"limit": 7, "as_of": NOON, "settings": FRESH, "record": False}
    with Session(engine) as session:
        own = recommender.for_you(session, "u0", cursor=page.cursor, **asked)
    name = sliced.written.users["u0"]
    cursor = SessionPosition(UUID(names[str(page.session)]), 8).cursor
    bind = create_engine(f"sqlite:///{sliced.file}")
    with Session(bind) as session:
        other = recommender.for_you(session, name, cursor=cursor, **asked)
    bind.dispose()
    assert told(other, sliced.names)["items"] == told(own, {})["items"] != []
