"""Transactions of an AsyncSession that run again after a conflict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

import recommender
from recommender.models import User
from tests.hosts import async_transactions
from tests.support.kinds import only_postgresql

pytestmark = pytest.mark.slow
Sessions = async_sessionmaker[AsyncSession]


@asynccontextmanager
async def sessions(database: str) -> AsyncIterator[Sessions]:
    url = sa.make_url(database).set(drivername="postgresql+psycopg")
    engine = create_async_engine(url)
    try:
        yield async_sessionmaker(engine)
    finally:
        await engine.dispose()


@only_postgresql
def test_of_two_that_deadlock_both_succeed(database: str) -> None:
    calls: list[str] = []
    both = asyncio.Barrier(2)

    def lock(session: Session, first: str, second: str) -> None:
        calls.append(first)
        for user in (first, second):
            session.execute(sa.select(User).where(User.key == user).with_for_update())
            if len(calls) <= 2 and user == first:
                sa.util.await_only(both.wait())  # so that each holds what the other waits for

    async def run() -> None:
        async with sessions(database) as made:
            users = [{"id": "ana"}, {"id": "ben"}]
            await async_transactions.run(made, recommender.upsert_users, users)
            pairs = [("ana", "ben"), ("ben", "ana")]
            tasks = [async_transactions.run(made, lock, *pair) for pair in pairs]
            await asyncio.wait_for(asyncio.gather(*tasks), timeout=30)

    asyncio.run(run())
    assert len(calls) == 3
