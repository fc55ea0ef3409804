"""The check that finds what the mirror was not told."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import models as ours
from tests.hosts.drift import USERS, VIDEOS, drift, repair
from tests.hosts.mirror import User, Video, remove
from tests.support.worlds import counted_statements

pytestmark = pytest.mark.slow
NOTHING = ((set(), set()), (set(), set()))


def add_videos(session: Session, count: int) -> None:
    session.add_all([Video(id=number, owner_id=1, title="title") for number in range(1, count + 1)])
    session.flush()


def found(session: Session) -> tuple[tuple[set[str], set[str]], ...]:
    """Return the stale and the extra keys of users and of videos."""
    keys = [drift(session, *tables) for tables in (USERS, VIDEOS)]
    return tuple((set(stale), set(extra)) for stale, extra in keys)


def test_what_the_session_does_not_tell_is_found_and_repaired(host: Session) -> None:
    add_videos(host, 5)
    table = Video.__table__
    connection = host.connection()  # the events are the session's, not the connection's
    connection.execute(sa.update(table).where(table.c.id == 1).values(status="removed"))
    connection.execute(sa.update(table).where(table.c.id == 2).values(owner_id=2))
    connection.execute(sa.delete(table).where(table.c.id == 3))
    new = {"owner_id": 1, "title": "new", "status": "published", "published_at": datetime.now(UTC)}
    connection.execute(sa.insert(table).values(id=9, **new))
    host.execute(sa.update(User.__table__).values(language="de"))
    connection.execute(sa.insert(User.__table__).values(id=7))
    host.expire_all()
    differing = (({"1", "2", "7"}, set()), ({"2", "9"}, {"1", "3"}))
    assert found(host) == differing
    repair(host)
    assert found(host) == NOTHING
    removed = sa.select(ours.Video.key).where(ours.Video.status == "removed")
    assert set(host.scalars(removed)) == {"1", "3"}


def test_the_check_is_two_statements_for_each_table(host: Session) -> None:
    add_videos(host, 30)
    with counted_statements(host.connection().engine) as sent:
        found(host)
    assert len(sent) == 4


def test_uuid_keys_are_compared_without_dashes(host: Session) -> None:
    table = sa.Table("clips", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True))
    table.create(host.connection())
    kept, deleted = uuid4(), uuid4()
    host.execute(sa.insert(table).values(id=kept))
    rows = [{"id": key, "creator": 1, "published_at": datetime.now(UTC)} for key in (kept, deleted)]
    recommender.upsert_videos(host, rows)
    theirs, mirrored = (
        sa.select(sa.func.replace(sa.cast(key, sa.String), "-", "").label("key"))
        for key in (table.c.id, ours.Video.key)
    )
    stale, extra = drift(host, theirs, mirrored)
    assert (stale, [UUID(key) for key in extra]) == ([], [deleted])
    remove(host, [UUID(key) for key in extra])
    removed = sa.select(ours.Video.key).where(ours.Video.status == "removed")
    assert host.scalars(removed).all() == [str(deleted)]
