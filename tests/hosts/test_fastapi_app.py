"""The FastAPI application, asked over ASGI."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

import recommender
from recommender import errors
from recommender import models as ours
from recommender.database.transactions import writing
from tests.hosts import async_transactions, mirror
from tests.support.kinds import only_sqlite

pytestmark = pytest.mark.slow
pytest.importorskip("fastapi", reason="needs the extra hosts")

import httpx

from tests.hosts import fastapi_app

STATUS = {
    404: {errors.NotFound, errors.UnknownUser, errors.UnknownVideo},
    409: {errors.CursorAhead, errors.EventConflict, errors.InvalidCursor},
    422: {errors.BadData, errors.EventTooOld, errors.InvalidValue}
    | {errors.UnknownFeed, errors.UnknownProfile, errors.UnknownSignal},
    500: {errors.DatabaseDamaged, errors.ExperimentRunning, errors.NotPermitted}
    | {errors.RecommenderError, errors.SchemaOutOfDate, errors.StorageFailure},
    503: {errors.DatabaseBusy, errors.DatabaseUnreachable}
    | {errors.PoolTimeout, errors.QueryTimeout},
}
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


@dataclass
class Client:
    """Asks the application, on an event loop of its own."""

    runner: asyncio.Runner
    http: httpx.AsyncClient

    def ask(self, method: str, path: str, **parameters: Any) -> httpx.Response:
        return self.runner.run(self.http.request(method, path, params=parameters))

    def get(self, path: str, **parameters: Any) -> Any:
        return self.ask("GET", path, **parameters).raise_for_status().json()

    def post(self, path: str, **parameters: Any) -> Any:
        return self.ask("POST", path, **parameters).raise_for_status().json()


@pytest.fixture
def client(engine: Engine, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    mirror.Base.metadata.create_all(engine)
    url = engine.url.set(drivername=DRIVERS[kind]).render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    lifespan = fastapi_app.app.router.lifespan_context(fastapi_app.app)
    transport = httpx.ASGITransport(fastapi_app.app, raise_app_exceptions=False)
    http = httpx.AsyncClient(transport=transport, base_url="http://host")
    with asyncio.Runner() as runner:
        runner.run(lifespan.__aenter__())
        yield Client(runner, http)
        runner.run(http.aclose())
        runner.run(lifespan.__aexit__(None, None, None))


def videos(page: dict[str, Any]) -> list[str]:
    return [item["video"] for item in page["items"]]


def test_a_day_of_an_application(client: Client, engine: Engine) -> None:
    ana, zoe = (str(client.post("/users", language="en")["id"]) for _ in range(2))
    made = {str(client.post("/videos", owner=zoe, title=f"no. {n}")["id"]) for n in range(3)}
    mine = str(uuid.uuid4())
    page = client.get(f"/feed/{ana}", session=mine)
    assert set(videos(page)) == made
    assert client.get(f"/feed/{ana}", session=mine)["items"] == page["items"]
    watched = videos(page)[0]
    event: dict[str, Any] = {"user": ana, "video": watched, "kind": "watch", "completion": 1.0}
    assert client.post("/events/key", **event) == {"new": True}
    assert client.post("/events/key", **event) == {"new": False}
    assert "watched" in client.get(f"/why/{ana}/{watched}")["reason"]
    recommender.run_transaction(engine, lambda session: recommender.follow(session, ana, zoe))
    assert set(videos(client.get(f"/following/{ana}"))) == made


def test_a_cursor_is_taken_alone(client: Client) -> None:
    ana, zoe = (str(client.post("/users", language="en")["id"]) for _ in range(2))
    made = {str(client.post("/videos", owner=zoe, title=f"no. {n}")["id"]) for n in range(30)}
    mine = str(uuid.uuid4())
    page = client.get(f"/feed/{ana}", session=mine)
    rest = client.get(f"/feed/{ana}", session=mine, cursor=page["cursor"])
    assert {*videos(page), *videos(rest)} == made
    assert not {*videos(page)} & {*videos(rest)}


def test_errors_have_status_codes(client: Client) -> None:
    ana, zoe = (str(client.post("/users", language="en")["id"]) for _ in range(2))
    video = client.post("/videos", owner=zoe, title="title")["id"]
    assert client.ask("GET", f"/feed/{ana}", cursor="forged").status_code == 409
    assert client.ask("GET", f"/feed/{ana}", session="no uuid").status_code == 422
    asked = [("none", "like"), (video, "likes"), (video, "like"), (video, "share"), (video, "like")]
    responses = [
        client.ask("POST", "/events/key", user=ana, video=key, kind=kind) for key, kind in asked
    ]
    assert [response.status_code for response in responses] == [404, 422, 200, 409, 200]


def test_it_says_that_its_database_answers(client: Client) -> None:
    response = client.ask("GET", "/health")
    assert (response.status_code, response.json()) == (200, {"ok": True})


@only_sqlite
def test_every_error_has_its_status(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error without a status of its own here is the application's own: 500."""
    monkeypatch.setattr(async_transactions, "TRIES", 1)
    raised = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    found: dict[int, set[type[Exception]]] = {}
    for kind in raised:
        monkeypatch.setattr(fastapi_app, "explain", Mock(side_effect=kind()))
        found.setdefault(client.ask("GET", "/why/ana/v").status_code, set()).add(kind)
    assert found == STATUS


@only_sqlite
def test_reading_waits_for_no_writer(client: Client, engine: Engine) -> None:
    ana, zoe = (str(client.post("/users", language="en")["id"]) for _ in range(2))
    video = client.post("/videos", owner=zoe, title="title")["id"]
    with writing(engine).connect() as connection:
        connection.execute(sa.update(ours.User).values(language="de"))  # and the lock is held
        assert client.get(f"/why/{ana}/{video}")["reason"]
        assert videos(client.get(f"/following/{ana}")) == []


def test_both_rows_are_written_or_none(client: Client, engine: Engine) -> None:
    """The recommender refuses the second user's language, so the host has no row either."""
    client.post("/users", language="en")
    assert client.ask("POST", "/users", language="x" * 300).status_code == 422
    with engine.connect() as connection:
        for column in (mirror.User.id, ours.User.id):
            assert connection.scalar(sa.select(sa.func.count(column))) == 1


def test_sixteen_at_once_get_pages_that_repeat_only_what_fills_them(client: Client) -> None:
    ana, zoe = (str(client.post("/users", language="en")["id"]) for _ in range(2))
    made = {str(client.post("/videos", owner=zoe, title=f"no. {n}")["id"]) for n in range(30)}

    async def ask_all() -> list[httpx.Response]:
        return await asyncio.gather(*(client.http.get(f"/feed/{ana}") for _ in range(16)))

    pages = [page.json() for page in client.runner.run(ask_all())]
    assert [len(set(videos(page))) for page in pages] == [20] * 16
    new = [item["video"] for page in pages for item in page["items"] if "refilled" not in item]
    assert sorted(new) == sorted(made)
