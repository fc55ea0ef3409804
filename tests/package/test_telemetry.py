"""Spans and counters of OpenTelemetry: what they say, and that they say nothing of anybody."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

import recommender
from recommender import (
    UnknownVideo,
    create_feed,
    digest,
    for_you,
    rank,
    record,
    refresh,
    run_transaction,
)
from recommender import telemetry as module
from recommender.database.transactions import writing
from recommender.telemetry import Telemetry, traced
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.marked_behaviour import MARKER, behave
from tests.support.worlds import make_user, make_video, make_videos

TAKES = {"session", "engine", "bind", "source"}
"""The first arguments of the functions that read or write a database."""

ADMINISTRATION = (
    "activate_", "create_", "delete_", "drop_", "get_", "index_", "list_", "prepare_", "profile_",
    "start_", "stop_",
)  # fmt: skip
"""How the names of short calls begin that an operator makes now and then."""

PARTS = {"resolve", "run_transaction", "digest"}
"""They serve another call, or the host's own function; a digest has a span for each batch."""


class Watched(NamedTuple):
    """What was exported."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """The finished spans, of one name or all."""
        return [each for each in self.exporter.get_finished_spans() if name in {None, each.name}]

    def points(self) -> dict[str, Any]:
        """The one data point of each metric, by name."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric.data.data_points[0] for metric in scope.metrics}

    def everything(self) -> str:
        """All spans and metrics as text."""
        data = self.reader.get_metrics_data()
        spans = "".join(each.to_json() for each in self.spans())
        return spans + (data.to_json() if data else "")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    own = Telemetry(tracers, meters)
    monkeypatch.setattr(module, "telemetry", lambda: own)
    yield Watched(exporter, reader)
    tracers.shutdown()
    meters.shutdown()


def test_every_public_function_that_does_work_makes_a_span() -> None:
    every = {name: getattr(recommender, name) for name in recommender.__all__}
    functions = {name: each for name, each in every.items() if inspect.isfunction(each)}
    of_database = {
        name for name, each in functions.items()
        if next(iter(inspect.signature(each).parameters), None) in TAKES
    }  # fmt: skip
    untraced = {name for name in of_database if not hasattr(functions[name], "__wrapped__")}
    assert {name for name in untraced if not name.startswith(ADMINISTRATION)} == PARTS


def test_a_page_is_a_span_and_is_counted(session: Session, kind: str, watched: Watched) -> None:
    make_user(session)
    make_videos(session, "a", "b", "c")
    watched.exporter.clear()
    first = for_you(session, "viewer", limit=2)
    for_you(session, "viewer", limit=2, cursor=first.cursor)
    spans, points = watched.spans(), watched.points()
    assert [each.name for each in spans] == ["recommender.for_you"] * 2
    about = {"db.system.name": kind, "db.operation.name": "for_you"}
    names = [f"recommender.{name}" for name in ("videos", "position", "exhausted", "recorded")]
    assert [dict(each.attributes or {}) for each in spans] == [
        {**about, **dict(zip(names, values, strict=True))}
        for values in ((2, 1, False, True), (1, 3, True, True))
    ]
    assert {each.instrumentation_scope.name for each in spans if each.instrumentation_scope} == {
        "recommender"
    }
    duration = points["recommender.page.duration"]
    assert (duration.count, sum(duration.bucket_counts)) == (2, 2)
    assert duration.explicit_bounds == module.PAGE_SECONDS
    nanoseconds = sum((each.end_time or 0) - (each.start_time or 0) for each in spans)
    assert 0 < duration.sum <= nanoseconds / 1e9
    assert points["recommender.places"].value == 3
    assert dict(points["recommender.places"].attributes) == {"recommender.recorded": True}
    assert points["recommender.exhausted_pages"].value == 1


def test_an_error_is_a_class_and_no_message(session: Session, watched: Watched) -> None:
    make_user(session)
    with pytest.raises(UnknownVideo, match=MARKER):
        rank(session, "viewer", [MARKER])
    (failed,) = watched.spans("recommender.rank")
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description is None
    assert failed.events == ()
    assert dict(failed.attributes or {})["error.type"] == "recommender.errors.UnknownVideo"
    assert MARKER not in watched.everything()


@slow_on_postgresql
def test_nothing_of_a_user_is_in_any_span_or_metric(
    engine: Engine, watched: Watched, tmp_path: Path
) -> None:
    behave(engine, tmp_path)
    named = {each.name.removeprefix("recommender.") for each in watched.spans()}
    assert named >= {"record", "follow", "mute", "for_you", "rank", "explain", "import_file",
                     "refresh", "prune", "diagnose", "upsert_users", "upsert_videos"}  # fmt: skip
    assert any(each.status.status_code is StatusCode.ERROR for each in watched.spans())
    assert MARKER not in watched.everything()


@only_sqlite
def test_the_span_of_a_job_has_the_numbers_of_its_report(engine: Engine, watched: Watched) -> None:
    with Session(writing(engine)) as session, session.begin():
        make_user(session)
        make_video(session, "a")
        record(session, "viewer", "a", "like")
    report = refresh(engine)
    (found,) = watched.spans("recommender.refresh")
    numbers = {f"recommender.{name}": value for name, value in report.as_dict().items()}
    about = {"db.system.name": "sqlite", "db.operation.name": "refresh"}
    assert dict(found.attributes or {}) == {**about, **numbers}


@only_sqlite
def test_a_digest_is_a_span_for_each_batch(
    engine: Engine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recommender.lists.digest.USERS_AT_ONCE", 2)
    with Session(writing(engine)) as session, session.begin():
        for user in ("ana", "ben", "cleo"):
            make_user(session, user)
        make_videos(session, "a", "b")
        create_feed(session, "mail", memory="own")
    assert len(list(digest(engine, feed="mail", run="1"))) == 3
    assert len(watched.spans("recommender.digest_batch")) == 2


def test_a_transaction_that_is_tried_again_is_counted(
    engine: Engine, kind: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    tries = iter(range(3))
    code = {"sqlite": "SQLITE_BUSY", "postgresql": "40001"}[kind]

    def unit(_session: Session) -> str:
        if next(tries) < 2:
            raise DBAPIError("SELECT", {}, clash(kind, code))
        return "done"

    assert run_transaction(engine, unit) == "done"
    retries = watched.points()["recommender.retries"]
    assert (retries.value, dict(retries.attributes)) == (2, {"db.response.status_code": code})


def clash(kind: str, code: str) -> Exception:
    """The error of a driver, with its code."""
    error: Any = Exception(MARKER)
    setattr(error, "sqlite_errorname" if kind == "sqlite" else "sqlstate", code)
    return error


@only_sqlite
def test_the_system_is_left_out_where_it_is_not_known(
    engine: Engine, kind: str, watched: Watched
) -> None:
    @traced
    def look(bind: object = None) -> object:
        return bind

    for bind in (None, object(), Session(binds={sa.Table: engine}), engine):
        look(bind)
    look(bind=engine)
    with engine.connect() as connection:
        look(connection)
    spans = watched.spans()
    systems = [(each.attributes or {}).get("db.system.name") for each in spans]
    assert systems == [None, None, None, kind, None, kind]


def test_a_traced_function_stays_itself() -> None:
    """A pickle, or a job in a queue, refers to it by its name."""
    assert for_you.__wrapped__.__name__ == "for_you"
    assert sys.modules[for_you.__module__].__dict__[for_you.__qualname__] is for_you
    assert inspect.getdoc(for_you) == inspect.getdoc(for_you.__wrapped__)


def test_without_a_provider_of_the_host_nothing_is_recorded() -> None:
    @traced
    def twice(number: int) -> int:
        return 2 * number

    assert twice(4) == 8
    own = module.telemetry()
    assert own is not None
    assert not own.current_span().is_recording()


def imported_by(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_only_the_first_traced_call_imports_it() -> None:
    code = "import sys, recommender; recommender.for_you; print('opentelemetry' in sys.modules)"
    assert imported_by(code) == "False"


def test_without_the_package_functions_are_as_they_are() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import recommender, logging;"
    code += "from recommender.telemetry import count_page, count_retry, telemetry;"
    code += "from recommender.logs import log; log(logging.INFO, 'prune', events=3);"
    code += "count_page(videos=1, position=1, seconds=1.0, exhausted=True, recorded=True);"
    code += "count_retry('40001');"
    code += "print(hasattr(recommender.for_you, '__wrapped__'), telemetry())"
    assert imported_by(code) == "False None"


def test_another_package_of_opentelemetry_is_not_its_api() -> None:
    code = "import sys; sys.modules['opentelemetry.metrics'] = None;"
    code += "from recommender.telemetry import IS_INSTALLED, telemetry;"
    code += "print(IS_INSTALLED, telemetry())"
    assert imported_by(code) == "True None"
