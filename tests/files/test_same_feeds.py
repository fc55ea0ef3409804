"""An export imported into the other kind of database gives the same feeds, ties included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    FeedItem,
    Settings,
    create_engine,
    export_file,
    import_file,
    refresh,
    run_transaction,
)
from recommender.files.batches import ROW_KINDS
from recommender.ingest.upserts import get_or_create_ids
from recommender.models import Video
from recommender.models.tables import HASHTAGS, SOUNDS, USERS
from tests.conftest import DATABASES
from tests.support.worlds import NOON, at, make_event, names

SESSION = UUID(int=7)
FEW = Settings(interests=2, candidates=90, history=3, seen_lately=3, recent_engagements=4)
"""Settings that cut every list, among rows that are alike."""

VIDEOS, USERS_, TAGS, TUNES = 260, 36, 40, 40


def tied_world(engine: Engine, seed: int) -> None:
    """Make a world with few times and many alike rows, whose ids have gaps and no order."""
    chance = Random(seed)  # noqa: S311 - not for secrets

    def some(prefix: str, number: int, count: int) -> list[str]:
        return [f"{prefix}{n}" for n in chance.sample(range(number), count)]

    def catalogue(session: Session) -> None:
        for table, prefix, number in ((HASHTAGS, "h", TAGS), (SOUNDS, "s", TUNES)):
            get_or_create_ids(session, table, some(prefix, number, number))
        get_or_create_ids(session, USERS, some("u", USERS_, USERS_))
        recommender.upsert_videos(
            session, [{"id": f"gap{n}", "creator": "u0", "published_at": NOON} for n in range(9)]
        )
        session.execute(sa.delete(Video).where(Video.key.startswith("gap")))
        recommender.upsert_videos(session, [
            {"id": key, "creator": chance.choice(some("u", USERS_, 1)), "duration_ms": 9_000,
             "published_at": at(-chance.choice([1, 1, 1, 2])), "hashtags": some("h", TAGS, 2),
             "sound": chance.choice(some("s", TUNES, 1)), "language": chance.choice(["en", None]),
             "country": chance.choice(["US", "MX"]), "caption": chance.choice(["one two", "two"])}
            for key in some("v", VIDEOS, VIDEOS)
        ])  # fmt: skip

    def people(session: Session) -> None:
        recommender.upsert_users(session, [
            {"id": f"u{n}", "language": "en", "country": "US", "device": "phone",
             "liked_sounds": some("s", TUNES, 30), "interests": some("h", TAGS, n % 3)}
            for n in range(USERS_)
        ])  # fmt: skip
        for n in range(USERS_):
            for creator in some("u", USERS_, 20):
                if creator != f"u{n}":
                    recommender.follow(session, f"u{n}", creator, at=NOON)

    def behave(session: Session) -> None:
        recommender.record_many(session, [
            make_event(kind, video, f"u{n}", at=at(place % 2), key=f"{n} {video} {kind}")
            for n in range(USERS_)
            for place, video in enumerate(some("v", VIDEOS, 12))
            for kind in ("watch", "like")
        ])  # fmt: skip

    for step in (catalogue, people, behave):
        run_transaction(engine, step)
    refresh(engine, as_of=at(9))


def feeds(engine: Engine) -> dict[str, Any]:
    """Return what viewers are shown: videos, sources, scores, signals and reasons."""
    with Session(engine) as session:
        return {
            f"{name} {user}": shown
            for user in ("u1", "u2", "u3")
            for name, shown in lists(session, user)
        }


def lists(session: Session, user: str) -> Iterator[tuple[str, Any]]:
    """Return what one viewer is shown, with the name of each list."""
    options: dict[str, Any] = {"as_of": at(10), "limit": 12, "settings": FEW}
    page = recommender.for_you(session, user, record=False, **options)
    yield "for_you", [(i.video, i.score, i.sources, i.explored, rounded(i)) for i in page.items]
    classic = recommender.for_you(session, user, record=False, profile="classic", **options)
    yield "classic", [(item.video, item.score) for item in classic.items]
    yield "following", names(recommender.following(session, user, as_of=at(10), limit=50))
    yield "trending", names(recommender.trending(session, "en", "US", as_of=at(10), limit=50))
    for item in page.items[:1]:
        told = recommender.explain(session, user, item.video, **options)
        yield f"explain {item.video}", told.as_dict()


def rounded(item: FeedItem) -> dict[str, tuple[float, float]]:
    """Return an item's signals with values but for rounding: a sum depends on its order."""
    return {name: (round(part.value, 12), part.weight) for name, part in item.signals.items()}


@pytest.fixture
def other(kind: str, new_database: Callable[..., str]) -> Iterator[Engine]:
    engine = create_engine(new_database(next(each for each in DATABASES if each != kind)))
    yield engine
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_an_import_gives_the_same_feeds(
    engine: Engine, other: Engine, tmp_path: Path, seed: int
) -> None:
    tied_world(engine, seed)
    for kind in ROW_KINDS:
        export_file(engine, kind, str(tmp_path / f"{kind}.csv"))
        assert import_file(other, kind, str(tmp_path / f"{kind}.csv")).rejected == 0
    refresh(other, as_of=at(9))
    assert feeds(other) == feeds(engine)
