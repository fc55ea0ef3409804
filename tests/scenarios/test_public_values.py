"""Nothing that a public function returns, logs or raises holds a password or an SQL expression."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import timedelta
from inspect import isfunction
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Counts,
    DatabaseUnreachable,
    Explanation,
    FeedPage,
    InvalidValue,
    Profile,
    Settings,
    Signal,
    create_engine,
    prepare_engine,
    run_transaction,
)
from recommender.benchmark import demo_world
from recommender.benchmark.demo_world import LENGTH, DemoWorld
from recommender.database import migrations
from recommender.models import Video
from recommender.ranking.request import RequestSummary
from recommender.settings import URL_VARIABLES, variable_of
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import EXAMPLE, at, worked_example

SECRET = "s3cret-3f9a"  # noqa: S105 - invented
WORLD = DemoWorld(viewer_count=20, creator_count=24, video_count=120)
BOOST = Signal("boost", 0.0, 1.0, lambda _candidate: sa.literal(0.5))
OWN: dict[str, Any] = {"signals": {BOOST: 1.0}, "as_of": at()}


def with_secret(url: str) -> str:
    """Return the URL of the same database with a password in it."""
    if url.startswith("sqlite"):
        return f"sqlite:///file:{url.removeprefix('sqlite:///')}?uri=true&key={SECRET}"
    return sa.make_url(url).set(password=SECRET).render_as_string(hide_password=False)


@pytest.fixture
def secret_engine(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine whose URL has a password, as have all variables that may name a database."""
    for name in ("RECOMMENDER_DATABASE_URL", "DATABASE_URL", "PGPASSWORD"):
        monkeypatch.setenv(name, f"postgresql://me:{SECRET}@127.0.0.1:1/none")
    engine = create_engine(with_secret(database))
    yield engine
    engine.dispose()


def returned(engine: Engine, folder: Path) -> dict[str, Any]:
    """Call every public function that returns a value; give what it returned by its name."""
    values: dict[str, Any] = {}

    def write(session: Session) -> None:
        worked_example(session)
        values["upsert_users"] = recommender.upsert_users(session, [{"id": "ana"}])
        video = {"id": "v9", "creator": "bo", "published_at": at(-5)}
        values["upsert_videos"] = recommender.upsert_videos(session, [video])
        for name in ("follow", "unfollow", "block", "unblock"):
            values[name] = getattr(recommender, name)(session, "ana", "bo")
        for name in ("mute", "unmute"):
            values[name] = getattr(recommender, name)(session, "ana", "creator", "bo")
        values["record"] = recommender.record(session, "ana", "v1", "like", at=at(-4))
        event = recommender.Event("e9", "ana", "v2", "watch", at(-3), completion=1.0)
        values["record_many"] = recommender.record_many(session, [event])
        unknown = replace(event, key="e8", user="nobody")
        values["rejected"] = recommender.record_many(session, [unknown], on_error="skip")
        weights = {"freshness": 1.0}
        values["create_profile"] = recommender.create_profile(session, "mine", weights)
        values["activate_profile"] = recommender.activate_profile(session, "mine")
        where = Video.key.in_(["v1", "v2", "v3", "v9", SECRET])
        page = recommender.for_you(
            session, "user1", where=where, rewatch=True, limit=1, reasons=True, **OWN
        )
        values["for_you"] = page
        values["for_you again"] = recommender.for_you(session, "user1", cursor=page.cursor, **OWN)
        shown = recommender.for_you(session, "ana", where=where, record=False, **OWN)
        values["record_page"] = recommender.record_page(session, shown)

    def read(session: Session) -> None:
        values["rank"] = recommender.rank(session, "ana", ["v1", "v2"], reasons=True, **OWN)
        values["explain"] = recommender.explain(session, "ana", "v1", **OWN)
        values["similar"] = recommender.similar(session, "v1", as_of=at(), reasons=True)
        values["reach"] = recommender.reach(session, "v1", as_of=at())
        values["people"] = recommender.people(session, "user1", as_of=at(), reasons=True)
        values["following"] = recommender.following(session, "user1", as_of=at(), reasons=True)
        values["trending"] = recommender.trending(session, as_of=at())
        for name in (
            "get_profile",
            "list_profiles",
            "profile_history",
            "list_feeds",
            "audit",
            "metrics",
        ):
            values[name] = getattr(recommender, name)(session)
        values["diff_profiles"] = recommender.diff_profiles(
            session, "classic", "for_you", users=["ana"], as_of=at()
        )

    run_transaction(engine, write)
    values["refresh"] = recommender.refresh(engine)
    with Session(engine) as session:
        read(session)
    values.update(of_feeds(engine))
    values["diagnose"] = recommender.diagnose(engine)
    values["report"] = recommender.report(engine, as_of=at(60))
    values["import_file"] = recommender.import_file(engine, "users", str(EXAMPLE / "users.csv"))
    values["export_file"] = recommender.export_file(engine, "users", str(folder / "users.csv"))
    values["export_user"] = recommender.export_user(engine, "ana", str(folder / "ana.jsonl"))
    values["slice_users"] = recommender.slice_users(engine, ["ana"], str(folder / "ana.db"))
    values["prune"] = recommender.prune(engine, sessions_older_than=timedelta(days=30))
    values["erase_user"] = recommender.erase_user(engine, "ana")
    values["reset_user"] = run_transaction(engine, lambda s: recommender.reset_user(s, "user1"))
    values["merge_users"] = recommender.merge_users(engine, "creator1", "user1")
    values["rename_user"] = recommender.rename_user(engine, "creator2", "creator4")
    values["Settings"] = asdict(Settings.from_environment())
    return values


def of_feeds(engine: Engine) -> dict[str, Any]:
    """Call the functions of feeds with names; give what they returned by their names."""
    values: dict[str, Any] = {}
    with Session(engine) as session, session.begin():
        values["create_feed"] = recommender.create_feed(session, "mail", memory="own")
        values["get_feed"] = recommender.get_feed(session, "mail")
        values["for_you feed"] = recommender.for_you(session, "user1", feed="mail", as_of=at())
    values["digest"] = list(recommender.digest(engine, feed="mail", run="today", as_of=at()))
    with Session(engine) as session, session.begin():
        values["delete_feed"] = recommender.delete_feed(session, "mail")
    return values


def learned(engine: Engine, _folder: Path) -> dict[str, Any]:
    """Call every public function that evaluates or learns; give what it returned by its name."""
    demo_world.load(engine, WORLD)
    viewer = WORLD.viewer(0)
    run_transaction(engine, lambda s: recommender.for_you(s, viewer, as_of=WORLD.end))
    fits = {"log": engine, "since": WORLD.beginning, "every": LENGTH / 2}
    cutoff = WORLD.end - LENGTH / 4
    return {
        "evaluate": recommender.evaluate(engine, cutoff=cutoff, sample=1),
        "evaluate_next": recommender.evaluate_next(engine, cutoff=cutoff, sample=1),
        "experiment_report": run_transaction(engine, tried),
        "fit": recommender.fit(engine, "learned", **fits),
        "fit_pages": recommender.fit_pages(engine, "paged", sample=10, **fits),
        "replay_profile": recommender.replay_profile(engine, "for_you", since=WORLD.beginning),
    }


def tried(session: Session) -> Any:
    recommender.create_profile(session, "warmer", {"freshness": 2.0})
    recommender.start_experiment(session, "tried", ["warmer"], guardrails=["reports"])
    return recommender.experiment_report(session, "tried")


def plain_of(value: Any) -> Any:
    """Return what a host sends of a value, which `json.dumps` takes."""
    if isinstance(value, list | tuple):
        return [plain_of(part) for part in value]
    return value.as_dict() if hasattr(value, "as_dict") else value


def fields_of(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [fields_of(part) for part in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


FUNCTIONS = [name for name in recommender.__all__ if isfunction(getattr(recommender, name))]


def named_classes(name: str) -> set[type]:
    """Return the dataclasses of ours that the return type of a public function names."""
    hints = get_type_hints(getattr(recommender, name))
    parts = {hints["return"], *get_args(hints["return"])}
    return {kind for kind in parts if isinstance(kind, type) and is_dataclass(kind)}


FORMS: Mapping[str, Callable[[Any], str]] = {
    "repr": repr,
    "asdict": lambda value: repr(fields_of(value)),
    "pickle": lambda value: pickle.dumps(value).decode("latin-1"),
    "json": lambda value: json.dumps(plain_of(value)),
}


@slow_on_postgresql
@pytest.mark.parametrize(
    "results", [returned, pytest.param(learned, marks=pytest.mark.slow)], ids=["all", "learned"]
)
def test_no_value_shows_a_password_and_every_value_can_be_sent(
    secret_engine: Engine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    results: Callable[[Engine, Path], dict[str, Any]],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy.engine", "sqlalchemy.pool"):
        caplog.set_level(logging.DEBUG, logger=name)
    values = results(secret_engine, tmp_path)
    shown = {
        (name, form): write(value)
        for name, value in values.items()
        for form, write in FORMS.items()
    }
    assert [case for case, text in shown.items() if SECRET in text] == []
    assert [each for each in caplog.records if SECRET in f"{each.getMessage()} {vars(each)}"] == []


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/none",
        f"postgresql+psycopg://127.0.0.1:1/none?password={SECRET}",
        f"sqlite:///file:/none/none.db?uri=true&key={SECRET}",
    ],
    ids=["user", "query", "sqlite"],
)
def test_no_engine_and_no_error_shows_a_password(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engines = (create_engine(url), prepare_engine(sa.create_engine(url)))
    # SQLAlchemy hides passwords, and SQLite has none: `key` is a parameter of some of its builds.
    said = [repr(engines[0])] if url.startswith("postgresql") else []
    calls: tuple[Callable[[Engine], Any], ...] = (
        recommender.refresh, recommender.diagnose, migrations.check,
        lambda bind: run_transaction(bind, recommender.audit, settings=Settings(tries=1)),
        lambda bind: recommender.export_user(bind, "ana", "-"),
        lambda bind: recommender.evaluate(bind, cutoff=at()),
        recommender.upgrade,
    )  # fmt: skip
    monkeypatch.setenv("RECOMMENDER_TRIES", "1")
    for call in calls:
        for engine in engines:
            with pytest.raises(DatabaseUnreachable) as caught:
                call(engine)
            said += [repr(caught.value), *traceback.format_exception(caught.value)]
    said += [f"{each.getMessage()} {vars(each)}" for each in caplog.records]
    assert [text for text in said if SECRET in text] == []


@pytest.mark.parametrize("name", [*URL_VARIABLES, *(variable_of(f.name) for f in fields(Settings))])
def test_no_error_shows_the_value_of_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that stands in a wrong variable, or has a wrong form, is not shown."""
    monkeypatch.setenv(name, f"postgresql//me:{SECRET}@127.0.0.1/none")
    with pytest.raises(InvalidValue) as caught:
        create_engine()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_page_keeps_no_sql_of_its_request(session: Session) -> None:
    worked_example(session)
    where = Video.key.in_(["v1", "v2"])
    page = recommender.for_you(session, "user1", where=where, record=False, rewatch=True, **OWN)
    request = recommender.resolve(session, "user1", where=where, **OWN)
    assert type(page.request) is RequestSummary
    assert request.where is where
    assert page.request == replace(request.summary(), session=page.request.session, rewatch=True)
    assert pickle.loads(pickle.dumps(page)) == page  # noqa: S301 - our own


@pytest.mark.slow
def test_fastapi_encodes_every_value_and_declares_pages_as_responses(
    secret_engine: Engine, tmp_path: Path
) -> None:
    fastapi, encoders = pytest.importorskip("fastapi"), pytest.importorskip("fastapi.encoders")
    values = returned(secret_engine, tmp_path)
    shown = {name: json.dumps(encoders.jsonable_encoder(each)) for name, each in values.items()}
    assert [name for name, text in shown.items() if SECRET in text] == []
    app = fastapi.FastAPI()
    app.get("/feed", response_model=FeedPage)(lambda: values["for_you"])
    app.get("/why", response_model=Explanation)(lambda: values["explain"])
    assert {"FeedPage", "Explanation"} <= app.openapi()["components"]["schemas"].keys()


def test_every_result_has_a_dictionary() -> None:
    """The classes that public functions return, and the classes in their fields."""
    results = {kind for name in FUNCTIONS for kind in named_classes(name)}
    assert {FeedPage, Explanation, Counts, Profile} <= results
    assert [kind for kind in results if not hasattr(kind, "as_dict")] == []
