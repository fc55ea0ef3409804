"""The mirror by session events."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import models as ours
from tests.hosts.drift import USERS, VIDEOS, drift
from tests.hosts.mirror import User, Video

pytestmark = pytest.mark.slow
WORDS = ("published", "review", "removed")


def video(number: int | None, **columns: object) -> Video:
    return Video(**{"id": number, "owner_id": 1, "title": f"video {number}", **columns})


def statuses(session: Session) -> dict[str, str]:
    session.flush()
    return dict(session.execute(sa.select(ours.Video.key, ours.Video.status)).all())


def is_equal(session: Session) -> bool:
    session.flush()
    return all(drift(session, *tables) == ([], []) for tables in (USERS, VIDEOS))


def test_objects_are_mirrored_when_they_are_flushed(host: Session) -> None:
    host.add_all([video(1), video(2)])
    assert statuses(host) == {"1": "published", "2": "published"}
    host.get_one(Video, 1).status = "review"
    host.delete(host.get_one(Video, 2))
    assert statuses(host) == {"1": "review", "2": "removed"}
    host.rollback()
    assert statuses(host) == {}


def test_bulk_statements_are_mirrored_row_by_row(host: Session) -> None:
    host.add_all([video(number) for number in range(1, 5)])
    update = sa.update(Video).where(Video.id > 2, Video.status == "published")
    assert host.execute(update.values(status="review")).rowcount == 2
    host.execute(sa.update(Video), [{"id": 1, "status": "removed"}])
    host.execute(sa.delete(Video).where(Video.title == "video 3"))
    assert statuses(host) == {"1": "removed", "2": "published", "3": "removed", "4": "review"}
    assert is_equal(host)


def test_a_video_that_was_loaded_again_keeps_its_time(host: Session) -> None:
    """SQLite loads a time without its time zone."""
    moment = datetime(2026, 5, 1, 12, tzinfo=UTC)
    host.add(video(1, published_at=moment))
    host.flush()
    host.expire_all()
    host.get_one(Video, 1).title = "other"
    host.flush()
    assert host.scalars(sa.select(ours.Video.published_at)).all() == [moment]


def test_no_id_of_a_deleted_video_is_used_again(host: Session) -> None:
    first, second = video(None), video(None)
    host.add(first)
    host.flush()
    host.delete(first)
    host.flush()
    host.add(second)
    assert statuses(host) == {"1": "removed", "2": "published"}


def change(host: Session, chance: random.Random) -> None:
    """Do one random thing that the events tell."""
    rows = host.scalars(sa.select(Video).order_by(Video.id)).all()
    some = Video.id % 3 == chance.randrange(3)
    what = chance.randrange(6) if rows else 0
    if what == 0:
        host.add(video(max((row.id for row in rows), default=0) + 1))
    elif what == 1:
        chance.choice(rows).status = chance.choice(WORDS)
    elif what == 2:
        host.execute(sa.update(Video).where(some).values(owner_id=chance.choice([1, 2])))
    elif what == 3:
        host.execute(sa.update(User).values(language=chance.choice(["en", "de", None])))
    elif what == 4:
        savepoint = host.begin_nested()
        chance.choice(rows).owner_id = 2
        host.delete(chance.choice(rows))
        savepoint.rollback()
    else:
        host.execute(sa.update(Video), [{"id": rows[0].id, "status": chance.choice(WORDS)}])


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_session_does_nothing_drifts(host: Session, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(40):
        change(host, chance)
        assert is_equal(host)
