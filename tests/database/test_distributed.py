"""Citus: the kind of every table, the command that distributes them, and one task a statement.

`RECOMMENDER_TEST_CITUS_URL` names a database on a coordinator, with the extension and its nodes.
Without it, only what is told by the metadata is tested.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender.database import distributed, expressions, migrations
from recommender.database.engine import create_engine
from recommender.database.lookup import listed, matches
from recommender.errors import InvalidValue, RecommenderError
from recommender.models.tables import EVENTS, MUTED_CREATORS, USERS, VIDEO_TERMS, VIDEOS
from recommender.models.types import CLUSTERED, VERSION_TABLE, Base

NOW = datetime(2026, 6, 1, tzinfo=UTC)

CITUS = os.environ.get("RECOMMENDER_TEST_CITUS_URL")

needs_citus = pytest.mark.skipif(not CITUS, reason="RECOMMENDER_TEST_CITUS_URL names no cluster")


def test_every_table_is_a_reference_table_or_one_users_rows() -> None:
    kinds = {table.name: distributed.is_reference(table) for table in Base.metadata.sorted_tables}
    of_users = {name for name, table in Base.metadata.tables.items() if "user_id" in table.c}
    assert {name for name, is_copied in kinds.items() if not is_copied} == of_users


def test_a_table_without_a_rule_is_refused() -> None:
    columns = sa.Column("video_id", sa.BigInteger, primary_key=True), sa.Column("user_id", sa.Text)
    table = sa.Table("rec_new", sa.MetaData(), *columns, **CLUSTERED)
    with pytest.raises(InvalidValue, match=r"^rec_new: the table is neither marked as REFERENCE"):
        distributed.is_reference(table)


def test_a_table_comes_after_all_that_it_refers_to() -> None:
    tables = distributed.ordered_tables()
    places = {table.name: place for place, table in enumerate(tables)}
    assert set(places) == {*Base.metadata.tables, VERSION_TABLE}
    for table in tables:
        for key in table.foreign_keys:
            assert places[key.column.table.name] <= places[table.name]
    is_copied = [table.name == VERSION_TABLE or distributed.is_reference(table) for table in tables]
    assert is_copied == sorted(is_copied, reverse=True)
    assert tables[is_copied.index(False)] is EVENTS


def compiled(statement: Any, *, on_citus: bool) -> str:
    dialect = sa.create_mock_engine("postgresql+psycopg://", lambda *_: None).dialect
    setattr(dialect, expressions.DISTRIBUTED, on_citus)
    return re.sub(r"\s+", " ", str(statement.compile(dialect=dialect)))


@pytest.mark.parametrize("on_citus", [False, True])
def test_a_list_of_keys_names_the_shards_on_citus_only(on_citus: bool) -> None:  # noqa: FBT001
    key = tuple(MUTED_CREATORS.primary_key)
    rows = listed(False, key)  # noqa: FBT003
    text = compiled(sa.select(*key).where(*matches(False, key, rows)), on_citus=on_citus)  # noqa: FBT003
    assert ("= ANY (" in text) == on_citus
    assert ("unnest((SELECT CAST(" in text) != on_citus
    assert ("(SELECT unnest(CAST(" in text) == on_citus


def test_a_value_is_hidden_from_the_planner_but_not_from_citus() -> None:
    value = expressions.opaque(sa.bindparam("owner", type_=sa.BigInteger()), VIDEOS.c.id)
    plain, on_citus = (
        compiled(sa.select(EVENTS.c.key).where(EVENTS.c.user_id == value), on_citus=is_distributed)
        for is_distributed in (False, True)
    )
    assert re.search(r"user_id = %\(owner\)s\S* \+ %\(id_1\)s\S* \* rec_videos\.id", plain)
    assert on_citus.endswith("WHERE rec_events.user_id = %(owner)s::BIGINT")


@pytest.mark.parametrize("kind", ["sqlite"])
def test_sqlite_cannot_be_distributed(engine: Engine) -> None:
    with pytest.raises(RecommenderError, match=r"^SQLite is one file: only PostgreSQL with Citus"):
        distributed.distribute(engine)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_without_the_extension_the_sentence_says_what_to_do(engine: Engine) -> None:
    with pytest.raises(RecommenderError, match="does not have the extension citus: install it"):
        distributed.distribute(engine)


EXAMPLE = Path(__file__).parents[1] / "example"


def fill(engine: Engine) -> None:
    """Import the worked example, refresh it, and record some events."""
    for kind in ("users", "videos", "follows", "events"):
        recommender.import_file(engine, kind, str(EXAMPLE / f"{kind}.csv"))
    recommender.refresh(engine, as_of=NOW)


@pytest.fixture
def cluster() -> Iterator[Engine]:
    """An engine on an empty, migrated schema of the cluster, which is dropped after the test."""
    assert CITUS is not None
    name = f"test_{uuid.uuid4().hex[:12]}"
    bare = sa.create_engine(sa.make_url(CITUS).set(drivername="postgresql+psycopg"))
    with bare.begin() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    url = sa.make_url(CITUS).update_query_dict(
        {"options": f"-csearch_path={name} -ccitus.shard_count=4"}
    )
    migrations.upgrade(url)
    bind = create_engine(url)
    yield bind
    bind.dispose()
    with bare.begin() as connection:
        connection.execute(sa.schema.DropSchema(name, cascade=True))
    bare.dispose()


def again(bind: Engine) -> Engine:
    """Return a new engine, as after a restart: an engine looks for Citus once."""
    other = create_engine(bind.url)
    bind.dispose()
    return other


@needs_citus
def test_a_database_with_rows_is_only_distributed_with_its_data(cluster: Engine) -> None:
    fill(cluster)
    before = rows_of(cluster)
    with pytest.raises(InvalidValue, match=r"^the database has users or videos: run"):
        distributed.distribute(cluster)
    made = distributed.distribute(cluster, with_data=True)
    assert set(made) == {table.name for table in distributed.ordered_tables()}
    assert distributed.distribute(cluster) == ()
    engine = again(cluster)
    migrations.check(engine)
    assert rows_of(engine) == before
    engine.dispose()


def rows_of(engine: Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(sa.select(table))))
            for table in Base.metadata.sorted_tables
        }


@needs_citus
def test_an_interrupted_run_goes_on(cluster: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "_add_foreign_keys", lambda _connection: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            distributed.distribute(cluster)
    assert distributed.distribute(cluster) == ()
    migrations.check(cluster)


@needs_citus
def test_pages_scores_and_exports_are_those_of_plain_postgresql(
    cluster: Engine, new_database: Any, tmp_path: Path
) -> None:
    plain = create_engine(new_database("postgresql"))
    distributed.distribute(cluster)
    engine = again(cluster)
    told = [told_by(each, tmp_path / name) for name, each in (("a", plain), ("b", engine))]
    assert told[0] == told[1]
    plain.dispose()
    engine.dispose()


def told_by(engine: Engine, folder: Path) -> list[Any]:
    """Return pages with scores and reasons, an explanation and all exports of the same writes."""
    folder.mkdir()
    fill(engine)
    told: list[Any] = []
    with Session(engine) as session, session.begin():
        keys = list(session.scalars(sa.select(USERS.c.key).order_by(USERS.c.key)))
        video = session.scalars(sa.select(VIDEOS.c.key).order_by(VIDEOS.c.key)).first()
    for number, user in enumerate(keys):
        with Session(engine) as session, session.begin():
            own, at = str(uuid.UUID(int=number)), NOW + timedelta(minutes=number)
            recommender.record(session, user, video, "watch", completion=1.0, at=NOW, key="w")
            page = recommender.for_you(
                session, user, limit=1, as_of=at, session_id=own, reasons=True
            )
            told.append([(i.video, i.score, i.sources, i.reasons) for i in page.items])
            if page.cursor:
                page = recommender.for_you(session, user, cursor=page.cursor, as_of=at)
                told.append([(i.video, i.score, i.sources) for i in page.items])
            told.append(recommender.explain(session, user, video, as_of=at).as_dict())
            people = recommender.people(session, user, as_of=at, record=True)
            told.append([(person.creator, person.score) for person in people.items])
    recommender.refresh(engine, rebuild=True, as_of=NOW)
    for kind in ("users", "videos", "follows", "events"):
        recommender.export_file(engine, kind, str(folder / f"{kind}.csv"))
        told.append((folder / f"{kind}.csv").read_text())
    return told


@needs_citus
def test_each_statement_of_a_page_and_an_event_is_one_task(cluster: Engine) -> None:
    distributed.distribute(cluster)
    engine = again(cluster)
    fill(engine)
    with engine.connect() as connection:
        follower = sa.select(USERS.c.key).where(USERS.c.key.not_in(followers_of_someone()))
        user, video = connection.scalar(follower), connection.scalar(sa.select(VIDEOS.c.key))
    counts: list[tuple[str, int]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *given: count_tasks(counts, *given))
    with Session(engine) as session, session.begin():
        page = recommender.for_you(session, user, limit=1)
        if page.cursor:
            recommender.for_you(session, user, limit=1, cursor=page.cursor)
        recommender.record(session, user, video, "like")
    assert len(counts) > 12
    assert {(text, tasks) for text, tasks in counts if tasks > 1} == set()
    engine.dispose()


def followers_of_someone() -> Any:
    follows = Base.metadata.tables["rec_follows"]
    return sa.select(USERS.c.key).join(follows, follows.c.user_id == USERS.c.id)


def count_tasks(
    counts: list[tuple[str, int]], connection: Any, _cursor: Any, text: str, values: Any, *_: Any
) -> None:
    """Note the tasks of a statement: those that read no distributed table have none."""
    if text.startswith("EXPLAIN") or isinstance(values, list):
        return
    reader = connection.connection.driver_connection.cursor()
    reader.execute("EXPLAIN (COSTS OFF) " + text, values)
    plan = "\n".join(row[0] for row in reader.fetchall())
    counts.append((text[:100], sum(map(int, re.findall(r"Task Count: (\d+)", plan)))))


def test_terms_of_videos_are_on_every_node() -> None:
    assert distributed.is_reference(VIDEO_TERMS)
