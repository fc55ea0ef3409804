"""The figures of a database, against what plain Python counts, and what they read."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    InvalidValue,
    erase_user,
    for_you,
    metrics,
    refresh,
    set_video_status,
    upsert_videos,
)
from recommender.database import bulk
from recommender.database.transactions import writing
from recommender.formats.visibility import STORED_STATUSES
from recommender.models.tables import SESSIONS
from recommender.monitoring import metrics as module
from recommender.monitoring.exposition import Family, exposed
from recommender.monitoring.metrics import Metrics
from recommender.operations import doctor, erase
from recommender.operations.explained import nodes, rows_read
from tests.support.kinds import only_postgresql, only_sqlite
from tests.support.prose import ROOT
from tests.support.worlds import at, make_user, make_videos, record

NOW = at()
DAY = timedelta(days=1)


def serve(session: Session, seed: int, count: int) -> list[dict[str, Any]]:
    """Sessions with random counters, of the last three days and of one user; their rows."""
    chance = random.Random(seed)  # noqa: S311 - a world, no secret
    make_user(session)
    ((user_id,),) = session.execute(sa.text("SELECT id FROM rec_users WHERE key = 'viewer'")).all()
    counters = ("asked", "exhausted", "pages", "milliseconds")
    rows = [
        {
            "user_id": user_id,
            "session": UUID(int=chance.getrandbits(128)),
            "next_position": chance.randrange(2, 200),
            "rewatch": False,
            "started_at": NOW - 3 * DAY,
            "last_at": NOW - chance.random() * 3 * DAY,
            **{name: chance.randrange(1_000) for name in counters},
        }
        for _ in range(count)
    ]
    bulk.insert(session, SESSIONS, rows, conflict=None)
    return rows


def sums(rows: Sequence[Any]) -> dict[str, Any]:
    """The sums over those with a page within the day."""
    recent = [row for row in rows if row["last_at"] > NOW - DAY]
    return {
        "recent_sessions": len(recent),
        "recent_pages": sum(row["pages"] for row in recent),
        "recent_places": sum(row["next_position"] - 1 for row in recent),
        "recent_asked": sum(row["asked"] for row in recent),
        "recent_exhausted": sum(row["exhausted"] for row in recent),
        "recent_seconds": sum(row["milliseconds"] for row in recent) / 1000,
    }


@pytest.mark.parametrize("seed", range(2))
def test_sessions_are_summed_as_plain_python_does(session: Session, seed: int) -> None:
    rows = serve(session, seed, 50)
    found = metrics(session, as_of=NOW).as_dict()
    assert {name: found[name] for name in sums(rows)} == sums(rows)
    newest = max(row["last_at"] for row in rows)
    assert found["newest_page"] == newest.isoformat().replace("+00:00", "Z")
    assert found["sessions_read"] == 1


def test_a_served_page_is_counted(session: Session) -> None:
    make_user(session)
    make_videos(session, "a", "b", "c")
    first = for_you(session, "viewer", limit=2, as_of=NOW)
    second = for_you(session, "viewer", limit=2, as_of=NOW, cursor=first.cursor)
    found = metrics(session, as_of=NOW)
    assert (found.recent_sessions, found.recent_pages, found.recent_places) == (1, 2, 3)
    assert (found.recent_asked, found.recent_exhausted) == (4, 1)
    assert found.recent_seconds == (first.milliseconds + second.milliseconds) / 1000
    assert found.newest_page == NOW


def test_pending_events_videos_and_erasures_are_counted(engine: Engine, kind: str) -> None:
    with Session(writing(engine)) as session, session.begin():
        make_user(session)
        make_videos(session, *"abcd")
        set_video_status(session, "a", "review")
        set_video_status(session, "b", "removed")
        for minute, video in enumerate("cd"):
            record(session, "like", video, at=at(minute))
    with Session(engine) as session:
        found = metrics(session)
        assert (found.pending_events, found.oldest_pending, found.newest_pending) == (
            2, at(0), at(1),
        )  # fmt: skip
        assert found.refreshed_at is None
        videos = Counter({"published": 2, "review": 1, "removed": 1})
        assert found.videos == {status: videos[status] for status in STORED_STATUSES}
        assert found.unfinished_erasures == 0
        if kind == "sqlite":
            assert found.rows == {"rec_users": 2, "rec_videos": 4}
    refresh(engine, as_of=at(2))
    erase_user(engine, "viewer")
    with Session(engine) as session:
        found = metrics(session)
    assert (found.pending_events, found.oldest_pending, found.refreshed_at) == (0, None, at(2))


def test_an_erasure_that_is_not_finished_is_counted(session: Session) -> None:
    make_user(session)
    erase._mark(session, key="viewer", at=NOW)
    assert metrics(session).unfinished_erasures == 1


def test_no_count_goes_on_for_ever(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTED", 2)
    monkeypatch.setattr(doctor, "MAX_COUNTED", 2)
    make_user(session)
    make_videos(session, *"abcde")
    for video in "abcde":
        record(session, "like", video)
    found = metrics(session)
    assert (found.pending_events, found.videos["published"]) == (3, 3)


@only_sqlite
def test_too_many_sessions_of_sqlite_are_unknown(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = serve(session, 1, 10)
    monkeypatch.setattr(module, "MAX_SESSIONS", 10)
    assert metrics(session, as_of=NOW).recent_pages == sums(rows)["recent_pages"]
    monkeypatch.setattr(module, "MAX_SESSIONS", 9)
    found = metrics(session, as_of=NOW)
    names = (*sums(rows), "newest_page", "sessions_read")
    assert {getattr(found, name) for name in names} == {None}
    assert "session" not in found.as_prometheus()


@only_postgresql
def test_many_sessions_of_postgresql_are_sampled_by_blocks(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(session, 1, 2_000)
    monkeypatch.setattr(module, "MAX_BLOCKS", 10)
    size = "SELECT pg_relation_size('rec_feed_sessions') / current_setting('block_size')::int"
    blocks = session.execute(sa.text(size)).scalar_one()
    assert blocks > 20
    found = metrics(session, as_of=NOW)
    assert found.sessions_read == 10 / blocks
    part = sa.func.system(1_000 / blocks)
    same = sa.tablesample(SESSIONS, part, "same", sa.literal(0))
    read = session.execute(sa.select(same)).mappings().all()
    assert 0 < len(read) < 2_000
    expected = sums(read)
    assert {name: getattr(found, name) for name in expected} == expected


@only_postgresql
def test_postgresql_tells_what_was_inserted_and_how_many_rows_there_are(engine: Engine) -> None:
    with Session(writing(engine)) as session, session.begin():
        make_user(session)
        make_videos(session, *"abc")
        for_you(session, "viewer", limit=2)
        record(session, "like", "a")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE rec_videos"))
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    engine.dispose()  # a connection tells its counts at its end at the latest
    with Session(engine) as session:
        found = metrics(session)
    assert (found.sessions, found.places, found.events) == (1, 2, 1)
    assert found.rows["rec_videos"] == 3


def test_machines_read_what_is_written(session: Session) -> None:
    serve(session, 1, 5)
    record_pending(session)
    found = metrics(session, as_of=NOW)
    families = list(text_string_to_metric_families(found.as_prometheus()))
    read = {
        sample.name: sample.value if not sample.labels else None
        for family in families
        for sample in family.samples
    }
    assert read["recommender_recent_pages"] == found.recent_pages
    assert read["recommender_recent_page_seconds"] == found.recent_seconds
    assert found.newest_page is not None
    assert datetime.fromtimestamp(
        read["recommender_newest_page_timestamp_seconds"] or 0, UTC
    ) == found.newest_page  # fmt: skip
    assert read["recommender_pending_events"] == 1
    assert "recommender_refresh_timestamp_seconds" not in read
    (videos,) = (family for family in families if family.name == "recommender_videos")
    assert {each.labels["status"]: each.value for each in videos.samples} == found.videos
    kinds = {family.name: family.type for family in families}
    assert set(kinds.values()) <= {"gauge", "counter"}
    for family in families:
        assert family.documentation
        is_counter = f"{family.name}_total" in read
        assert family.type == ("counter" if is_counter else "gauge")


def record_pending(session: Session) -> None:
    make_videos(session, "a")
    record(session, "like", "a", at=NOW)


def test_labels_and_meanings_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    empty = Family("empty", "gauge", "", None, {})
    text = exposed([Family("odd", "gauge", odd, "label", {odd: 1.5}), empty])
    (family,) = text_string_to_metric_families(text)
    assert [(each.labels, each.value) for each in family.samples] == [({"label": odd}, 1.5)]
    assert family.documentation == odd


def test_a_time_without_offset_is_refused(session: Session) -> None:
    with pytest.raises(InvalidValue, match="offset"):
        metrics(session, as_of=NOW.replace(tzinfo=None))


def test_the_readme_lists_every_metric() -> None:
    rows = []
    for each in fields(Metrics):
        about = each.metadata
        label = f"{{{about['label']}}}" if about["label"] else ""
        name = f"`recommender_{about['name']}{label}`"
        rows.append(f"| {name} | {about['kind']} | {about['meaning']} |")
    text = (ROOT / "recommender/monitoring/README.md").read_text()
    assert "\n".join(rows) in text


SMALL_PLAN = {"rec_events_pending", "rec_learning_state", "rec_users", "rec_videos"}
"""The tables that are read by an index, or up to a limit."""


def test_five_statements_read_no_large_table(
    own_session: Session, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LISTED", 100)
    monkeypatch.setattr(module, "MAX_BLOCKS", 10)
    videos = [{"id": f"v{n}", "creator": "somebody", "published_at": NOW} for n in range(3_000)]
    upsert_videos(own_session, videos)
    serve(own_session, 1, 2_000)
    if kind == "postgresql":
        own_session.execute(sa.text("ANALYZE"))
    connection, sent = own_session.connection(), list[tuple[str, Any]]()

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    sa.event.listen(connection, "before_cursor_execute", note)
    metrics(own_session, as_of=NOW)
    sa.event.remove(connection, "before_cursor_execute", note)
    assert len(sent) == 5
    (of_videos,) = (values for statement, values in sent if "rec_videos.status" in statement)
    assert kind == "sqlite" or not of_videos  # else PostgreSQL plans without the limits
    read = postgresql_reads if kind == "postgresql" else sqlite_reads
    for statement, parameters in sent:
        for table, way, count in read(connection, statement, parameters):
            if table == "rec_feed_sessions":
                assert way == {"postgresql": "Sample Scan", "sqlite": "SCAN"}[kind]
            elif table.startswith("rec_"):
                assert table in SMALL_PLAN
                assert way != "SCAN" or table in {"rec_events_pending", "rec_learning_state"}
                assert count <= 101


def postgresql_reads(
    connection: sa.Connection, statement: str, parameters: Any
) -> Iterator[tuple[str, str, float]]:
    """The tables that a statement reads, each with the way and the number of rows."""
    explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
    top = connection.exec_driver_sql(explain, parameters).scalar_one()[0]["Plan"]
    for node in nodes(top):
        if "Relation Name" in node:
            yield node["Relation Name"], node["Node Type"], rows_read(node)


def sqlite_reads(
    connection: sa.Connection, statement: str, parameters: Any
) -> Iterator[tuple[str, str, float]]:
    """The same on SQLite, which counts no rows."""
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    for *_, detail in rows:
        if found := re.match(r"(SCAN|SEARCH) (rec_\w+)", detail):
            yield found[2], found[1], 0
