"""Worlds of many rows that are alike, so that ties decide which of them a feed shows."""

from __future__ import annotations

from random import Random

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import FeedItem, Settings, refresh, run_transaction
from recommender.ingest.upserts import get_or_create_ids
from recommender.models import Video
from recommender.models.tables import HASHTAGS, SOUNDS, USERS
from tests.support.worlds import NOON, at, make_event

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


def rounded(item: FeedItem) -> dict[str, tuple[float, float]]:
    """Return an item's signals with values but for rounding: a sum depends on its order."""
    return {name: (round(part.value, 12), part.weight) for name, part in item.signals.items()}
