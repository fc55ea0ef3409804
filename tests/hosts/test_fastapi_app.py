"""The FastAPI application, asked over ASGI."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from recommender import models as ours
from tests.hosts import mirror

pytestmark = pytest.mark.slow
pytest.importorskip("fastapi", reason="needs the extra hosts")

import httpx

from tests.hosts.fastapi_app import app

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
    lifespan = app.router.lifespan_context(app)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host")
    with asyncio.Runner() as runner:
        runner.run(lifespan.__aenter__())
        yield Client(runner, http)
        runner.run(http.aclose())
        runner.run(lifespan.__aexit__(None, None, None))


def videos(page: dict[str, Any]) -> list[str]:
    return [item["video"] for item in page["items"]]


def test_a_day_of_an_application(client: Client) -> None:
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
    assert client.post(f"/follows/{ana}/{zoe}") == {"new": True}
    assert set(videos(client.get(f"/following/{ana}"))) == made
    assert client.get("/health") == {"videos": 1}


def test_errors_have_status_codes(client: Client) -> None:
    ana = client.post("/users", language="en")["id"]
    assert client.ask("GET", f"/feed/{ana}", cursor="forged").status_code == 422
    assert client.ask("GET", f"/feed/{ana}", session="no uuid").status_code == 422
    like = {"user": ana, "video": "none", "kind": "like"}
    assert client.ask("POST", "/events/key", **like).status_code == 404


def test_both_rows_are_written_or_none(client: Client, engine: Engine) -> None:
    """The recommender refuses the second user's language, so the host has no row either."""
    client.post("/users", language="en")
    assert client.ask("POST", "/users", language="x" * 300).status_code == 422
    with engine.connect() as connection:
        for column in (mirror.User.id, ours.User.id):
            assert connection.scalar(sa.select(sa.func.count(column))) == 1


def test_sixteen_at_once_get_pages_without_repeats(client: Client) -> None:
    ana, zoe = (str(client.post("/users", language="en")["id"]) for _ in range(2))
    made = {str(client.post("/videos", owner=zoe, title=f"no. {n}")["id"]) for n in range(30)}

    async def ask_all() -> list[httpx.Response]:
        return await asyncio.gather(*(client.http.get(f"/feed/{ana}") for _ in range(16)))

    shown = [video for page in client.runner.run(ask_all()) for video in videos(page.json())]
    assert sorted(shown) == sorted(made)
