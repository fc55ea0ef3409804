"""Transactions of an AsyncSession that run again after a conflict."""

import asyncio
import random

import recommender

TRIES = 5


async def run(sessions, function, *arguments, **options):
    """Call a function with a Session, commit, and return its result.

    After a deadlock, a serialization failure or a lock timeout everything was rolled back: then
    the whole function runs again, in a new transaction. Other requests go on meanwhile.

    Args:
        sessions: an `async_sessionmaker`.
        function: called with a `Session`, the arguments and the options.
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
