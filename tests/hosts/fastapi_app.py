"""A FastAPI application: its own tables and the feed, in one transaction of an AsyncSession."""

import os
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

import recommender
from tests.hosts.async_transactions import run
from tests.hosts.mirror import HostSession, User, Video

reading = async_sessionmaker()  # on SQLite it neither takes the write lock nor waits for it
writing = async_sessionmaker(sync_session_class=HostSession)
STATUS = {
    404: {recommender.NotFound},
    409: {recommender.EventConflict, recommender.InvalidCursor},
    422: {recommender.BadData, recommender.InvalidValue},
    503: {recommender.DatabaseBusy, recommender.DatabaseUnreachable}
    | {recommender.PoolTimeout, recommender.QueryTimeout},
}  # FastAPI looks for the class, then for its bases. It logs all others, and answers 500.


@asynccontextmanager
async def lifespan(_app):
    engine = recommender.prepare_engine(create_async_engine(os.environ["DATABASE_URL"]))
    reading.configure(bind=engine)
    writing.configure(bind=engine.execution_options(recommender_write=True))
    yield
    await engine.dispose()


async def failed(code, _request, error):
    return JSONResponse({"detail": str(error)}, code)


handlers = {kind: partial(failed, code) for code, kinds in STATUS.items() for kind in kinds}
app = FastAPI(lifespan=lifespan, exception_handlers=handlers)


def add(session, row):
    session.add(row)
    session.flush()  # the mirror tells the recommender
    return {"id": row.id}


@app.post("/users")
async def add_user(language: str):
    return await run(writing, add, User(language=language))


@app.post("/videos")
async def add_video(owner: int, title: str):
    return await run(writing, add, Video(owner_id=owner, title=title))


@app.get("/feed/{user}")
async def feed(user: str, session: UUID | None = None, cursor: str | None = None):
    place = {"cursor": cursor} if cursor else {"session_id": session}
    return (await run(writing, recommender.for_you, user, **place)).as_dict()


@app.post("/events/{key}")
async def event(key: str, user: str, video: str, kind: str, completion: float | None = None):
    values = {"key": key, "completion": completion}
    return {"new": await run(writing, recommender.record, user, video, kind, **values)}


@app.get("/why/{user}/{video}")
async def why(user: str, video: str):
    return (await run(reading, recommender.explain, user, video)).as_dict()


@app.get("/following/{user}")
async def following(user: str, cursor: str | None = None):
    return (await run(reading, recommender.following, user, cursor=cursor)).as_dict()
