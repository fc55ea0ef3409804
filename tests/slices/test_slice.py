"""The pages of a slice are the pages of the database that it is from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage, Registry, Settings, create_engine, run_transaction, slice_users
from recommender.models.tables import USERS, VIDEOS
from recommender.slices import page_rows
from recommender.slices.slice import Slice
from tests.support import oracle
from tests.support.tied_worlds import FEW, rounded, tied_world
from tests.support.worlds import NOON, at

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
        "cursor": page.cursor,
        "items": [
            {
                "position": item.position,
                "video": key(item.video),
                "creator": key(item.creator),
                "hashtags": [key(tag) for tag in item.hashtags],
                "sound": key(item.sound),
                "published_at": item.published_at,
                "format": item.format,
                "score": item.score,
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


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("small_pages")
def test_pages_of_random_worlds_are_the_same(engine: Engine, tmp_path: Path, seed: int) -> None:
    def make(session: Session) -> None:
        oracle.load(session, oracle.random_world(seed, videos=250))
        add_feeds(session)

    run_transaction(engine, make)
    sliced = Sliced(engine, ["u0", "u1"], tmp_path, as_of=NOON, settings=FRESH)
    pages = sliced.check()
    assert sum(len(page["items"]) for page in pages) > 60
    assert sliced.written.rows["rec_videos"] < published(engine)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("small_pages")
def test_pages_of_worlds_full_of_ties_are_the_same(
    engine: Engine, tmp_path: Path, seed: int
) -> None:
    tied_world(engine, seed)
    run_transaction(engine, add_feeds)
    users = [f"u{number}" for number in range(6)]
    sliced = Sliced(engine, users, tmp_path, as_of=at(10), settings=FEW)
    sliced.check()
