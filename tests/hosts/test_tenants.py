"""One schema a tenant: tables, events and feeds are separate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import SchemaOutOfDate, UnknownUser
from recommender.models import EventRow, User
from tests.hosts.tenants import Tenants
from tests.support.kinds import only_postgresql
from tests.support.worlds import at, make_user, make_videos, names

pytestmark = [only_postgresql, pytest.mark.slow]

TENANTS = ["north", 'so"uth']


@pytest.fixture
def tenants(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenants]:
    """Two tenants on one connection."""
    monkeypatch.setenv("RECOMMENDER_POOL_SIZE", "1")
    monkeypatch.setenv("RECOMMENDER_MAX_OVERFLOW", "0")
    opened = Tenants(empty_database)
    for tenant in TENANTS * 2:  # the second upgrade changes nothing
        opened.create(tenant)
    yield opened
    opened.pool.dispose()


def fill(session: Session, *videos: str) -> None:
    make_user(session, "ada")
    make_videos(session, *videos)


def watch(session: Session, video: str) -> None:
    recommender.record(session, "ada", video, "watch", at=at(), key="1", completion=1.0)


def feed(session: Session) -> list[str]:
    return sorted(names(recommender.for_you(session, "ada", record=False)))


def test_events_and_feeds_are_separate(tenants: Tenants) -> None:
    for turn, tenant in enumerate(TENANTS):
        tenants.run(tenant, lambda s, n=turn: fill(s, f"{n}-a", f"{n}-b", f"{n}-c"))
    for _ in range(3):  # prepared statements of one tenant do not serve the other
        assert [tenants.run(tenant, feed) for tenant in TENANTS] == [
            ["0-a", "0-b", "0-c"], ["1-a", "1-b", "1-c"]
        ]  # fmt: skip
    tenants.run("north", lambda session: watch(session, "0-a"))
    tenants.refresh(TENANTS)
    assert [tenants.run(tenant, feed) for tenant in TENANTS] == [
        ["0-b", "0-c"], ["1-a", "1-b", "1-c"]
    ]  # fmt: skip
    count = sa.select(sa.func.count()).select_from(EventRow)
    assert [tenants.run(tenant, lambda s: s.scalar(count)) for tenant in TENANTS] == [1, 0]


def test_a_connection_forgets_its_tenant(tenants: Tenants) -> None:
    tenants.run("north", fill)
    with pytest.raises(UnknownUser):
        tenants.run(TENANTS[1], lambda session: watch(session, "v"))
    with pytest.raises(SchemaOutOfDate):
        recommender.run_transaction(tenants.pool, lambda s: s.scalars(sa.select(User.key)).all())


def test_a_tenant_is_erased_alone(tenants: Tenants) -> None:
    for tenant in TENANTS:
        tenants.run(tenant, fill)
    recommender.erase_user(tenants.engine("north"), "ada")
    keys = [
        tenants.run(tenant, lambda s: s.scalars(sa.select(User.key)).all()) for tenant in TENANTS
    ]
    assert ["ada" in each for each in keys] == [False, True]
