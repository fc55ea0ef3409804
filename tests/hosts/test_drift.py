"""The check that finds what the mirror was not told."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import models as ours
from tests.hosts.drift import USERS, VIDEOS, drift, repair
from tests.hosts.mirror import User, Video, utc_now
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
    new = {"owner_id": 1, "title": "new", "status": "published", "published_at": utc_now()}
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
