"""The Flask application, asked by Flask's test client."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, event

import recommender
from recommender import models as ours
from tests.hosts import mirror
from tests.support.kinds import only_sqlite

pytestmark = pytest.mark.slow
pytest.importorskip("flask_sqlalchemy", reason="needs the extra hosts")

import flask


@pytest.fixture
def app(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[flask.Flask]:
    """The application on a database of its own: it reads its environment when it is imported."""
    mirror.Base.metadata.create_all(engine)
    monkeypatch.setenv("DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.delitem(sys.modules, "tests.hosts.flask_app", raising=False)
    module = importlib.import_module("tests.hosts.flask_app")
    yield module.app
    with module.app.app_context():
        module.db.engine.dispose()


def begun(app: flask.Flask) -> list[str]:
    """Return a list that every statement that begins a transaction is appended to."""
    statements: list[str] = []

    def append(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            statements.append(statement)

    with app.app_context():
        event.listen(app.extensions["sqlalchemy"].engine, "before_cursor_execute", append)
    return statements


def add_videos(app: flask.Flask, count: int) -> set[str]:
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        session.add(mirror.User(id=1000, language="en"))
        session.add_all(
            [mirror.Video(id=number, owner_id=1000, title="t") for number in range(count)]
        )
        session.commit()
    return {str(number) for number in range(count)}


def videos(page: Any) -> list[str]:
    return [item["video"] for item in page.json["items"]]


def test_a_day_of_an_application(app: flask.Flask) -> None:
    made, client = add_videos(app, 3), app.test_client()
    ana = client.post("/users", data={"language": "en"}).json["id"]
    assert set(videos(client.get(f"/feed/{ana}"))) == made
    assert set(videos(client.get(f"/feed/{ana}"))) == made  # nothing else is left, and none is seen
    event = {"user": ana, "video": "1", "kind": "watch", "completion": "1.0"}
    assert client.post("/events/key", data=event).status_code == 200
    assert set(videos(client.get(f"/feed/{ana}"))) == made - {"1"}
    assert client.post("/events/key", data={**event, "video": "none"}).status_code == 404
    assert set(videos(client.get("/trending"))) == made


@only_sqlite
def test_a_request_writes_unless_its_view_says_otherwise(app: flask.Flask) -> None:
    add_videos(app, 1)
    client, statements = app.test_client(), begun(app)
    client.post("/users", data={"language": "en"})
    client.get("/feed/1")
    client.get("/trending")
    assert statements == ["BEGIN IMMEDIATE", "BEGIN IMMEDIATE", "BEGIN"]


def test_eight_clients_at_once_all_succeed(app: flask.Flask) -> None:
    add_videos(app, 10)

    def ask(number: int) -> list[int]:
        client = app.test_client()
        user = client.post("/users", data={"language": "en"}).json["id"]
        event = {"user": user, "video": str(number), "kind": "like"}
        asked = [client.post(f"/events/{number}", data=event), client.get(f"/feed/{user}")]
        return [response.status_code for response in asked]

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert list(pool.map(ask, range(8))) == [[200, 200]] * 8
    with app.app_context():
        counted = sa.select(sa.func.count()).select_from(ours.Interaction)
        assert app.extensions["sqlalchemy"].session.scalar(counted) == 8


def test_a_conflict_runs_the_view_again_and_an_error_leaves_nothing(app: flask.Flask) -> None:
    module: Any = importlib.import_module("tests.hosts.flask_app")
    tries: list[str] = []

    def view(error: Exception) -> str:
        module.db.session.add(mirror.User(language="en"))
        module.db.session.flush()
        tries.append("try")
        if len(tries) < 3:
            raise error
        return "done"

    with app.app_context():
        assert module.transaction(view)(error=recommender.DatabaseBusy()) == "done"
        tries.clear()
        with pytest.raises(recommender.StorageFailure):
            module.transaction(view)(error=recommender.StorageFailure())
        module.db.session.rollback()
        users = module.db.session.scalars(sa.select(ours.User.key)).all()
    assert (len(users), tries) == (1, ["try"])
