"""Transactions of an AsyncSession that run again after a conflict."""

import asyncio
import random
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

import recommender

TRIES = 5
P = ParamSpec("P")
T = TypeVar("T")


async def run(
    sessions: async_sessionmaker[AsyncSession],
    function: Callable[Concatenate[Session, P], T],
    *arguments: P.args,
    **options: P.kwargs,
) -> T:
    """Call a function with a Session, the arguments and the options; commit, return its result.

    After a deadlock, a serialization failure or a lock timeout everything was rolled back: then
    the whole function runs again, in a new transaction. Other requests go on meanwhile.
    """
    tried = 0
    while True:
        try:
            with recommender.translate_errors():
                async with sessions.begin() as session:
                    return await session.run_sync(function, *arguments, **options)
        except recommender.DatabaseBusy:
            tried += 1
            if tried == TRIES:
                raise
        await asyncio.sleep(random.uniform(0, 0.1 * 4**tried))
