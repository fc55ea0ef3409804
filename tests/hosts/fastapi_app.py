"""A FastAPI application: its own tables and the feed, in one transaction of an AsyncSession."""

import os
from contextlib import asynccontextmanager
from uuid import UUID

from fastapi import FastAPI, responses
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from recommender import errors, explain, following, for_you, prepare_engine, record, trending
from tests.hosts.async_transactions import run
from tests.hosts.mirror import HostSession, User, Video

reading = async_sessionmaker()  # on SQLite it neither takes the write lock nor waits for it
writing = async_sessionmaker(sync_session_class=HostSession)
STATUS = {
    404: {errors.NotFound},
    409: {errors.EventConflict, errors.InvalidCursor},
    422: {errors.BadData, errors.InvalidValue},
    503: {errors.DatabaseBusy, errors.DatabaseUnreachable, errors.PoolTimeout, errors.QueryTimeout},
}  # FastAPI looks for the class, then for its bases. It logs all others, and answers 500.


@asynccontextmanager
async def lifespan(_app):
    engine = prepare_engine(create_async_engine(os.environ["DATABASE_URL"]))
    reading.configure(bind=engine)
    writing.configure(bind=engine.execution_options(recommender_write=True))
    yield
    await engine.dispose()


def failed(code):
    return lambda _request, error: responses.JSONResponse({"detail": str(error)}, code)


handlers = {kind: failed(code) for code, kinds in STATUS.items() for kind in kinds}
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
    return (await run(writing, for_you, user, **place)).as_dict()


@app.post("/events/{key}")
async def event(key: str, user: str, video: str, kind: str, completion: float | None = None):
    return {"new": await run(writing, record, user, video, kind, key=key, completion=completion)}


@app.get("/why/{user}/{video}")
async def why(user: str, video: str):
    return (await run(reading, explain, user, video)).as_dict()


@app.get("/following/{user}")
async def followed(user: str, cursor: str | None = None):
    return (await run(reading, following, user, cursor=cursor)).as_dict()


@app.get("/health")
async def health():
    return {"ok": bool(await run(reading, trending, limit=1))}
