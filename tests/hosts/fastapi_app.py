"""A FastAPI application: its own tables and the feed, in one transaction of an AsyncSession."""

import os
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

import recommender
from tests.hosts import async_transactions
from tests.hosts.mirror import HostSession, User, Video

sessions = async_sessionmaker(sync_session_class=HostSession)
run = partial(async_transactions.run, sessions)


@asynccontextmanager
async def lifespan(_app):
    engine = recommender.prepare_engine(create_async_engine(os.environ["DATABASE_URL"]))
    sessions.configure(bind=engine.execution_options(recommender_write=True))
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(recommender.RecommenderError)
async def failed(_request, error):
    code = 404 if isinstance(error, LookupError) else 422 if isinstance(error, ValueError) else 503
    return JSONResponse({"detail": str(error)}, code)


def add(session, row):
    session.add(row)
    session.flush()  # the mirror tells the recommender
    return {"id": row.id}


@app.post("/users")
async def add_user(language: str):
    return await run(add, User(language=language))


@app.post("/videos")
async def add_video(owner: int, title: str):
    return await run(add, Video(owner_id=owner, title=title))


@app.get("/feed/{user}")
async def feed(user: str, session: str | None = None, cursor: str | None = None):
    return (await run(recommender.for_you, user, session_id=session, cursor=cursor)).as_dict()


@app.post("/events/{key}")
async def event(key: str, user: str, video: str, kind: str, completion: float | None = None):
    return {"new": await run(recommender.record, user, video, kind, key=key, completion=completion)}


@app.get("/why/{user}/{video}")
async def why(user: str, video: str):
    return (await run(recommender.explain, user, video)).as_dict()


@app.post("/follows/{user}/{creator}")
async def follow(user: str, creator: str):
    return {"new": await run(recommender.follow, user, creator)}


@app.get("/following/{user}")
async def following(user: str, cursor: str | None = None):
    return (await run(recommender.following, user, cursor=cursor)).as_dict()


@app.get("/health")
async def health():
    return {"videos": len((await run(recommender.trending, limit=1)).items)}
