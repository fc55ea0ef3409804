"""What `doctor` finds of each thing that can be wrong, and that its advice mends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Registry,
    SchemaOutOfDate,
    Signal,
    cli,
    create_engine,
    create_space,
    diagnose,
    erase_user,
    index_space,
    prepare_engine,
    refresh,
    run_transaction,
    upsert_embeddings,
    upsert_users,
)
from recommender.database import planner_statistics
from recommender.database.registered import OPTION
from recommender.database.transactions import writing
from recommender.formats import scalars
from recommender.formats.findings import Finding
from recommender.models import (
    Base,
    Interaction,
    LearningState,
    PendingEvent,
    User,
    Video,
    VideoHashtag,
)
from recommender.models.types import SCHEMA_REVISION
from recommender.operations import doctor, erase, query_plans
from tests.support.kinds import slow_on_postgresql
from tests.support.refresh_worlds import behave, people
from tests.support.worlds import make_videos

pytestmark = slow_on_postgresql

COMMON = ["database", "clock", "profile", "rollups", "erasures", "merges", "indexes", "spaces",
          "copies", "visibility", "statistics", "log"]  # fmt: skip
OTHERS = {"sqlite": ["journal"], "postgresql": ["dead_rows", "partitions", "planner"]}
INDEXES = sum(len(table.indexes) for table in Base.metadata.tables.values())
HASHTAGS = "rec_video_hashtags_hashtag_id_listed_at_video_id_ix"
PARTIAL = "rec_interactions_user_id_engaged_at_ix"

Run = Callable[..., tuple[int, str, str]]


def make_world(engine: Engine) -> None:
    """Create a world without faults."""
    people(engine, 6, 8)
    behave(engine, 6, 8, 60)
    refresh(engine)


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on the world."""
    return engine


def run_sql(engine: Engine, *statements: Any) -> None:
    alone = {"isolation_level": "AUTOCOMMIT"} if engine.dialect.name == "postgresql" else {}
    with writing(engine).execution_options(**alone).connect() as connection:
        for each in statements:
            connection.execute(sa.text(each) if isinstance(each, str) else each)
        connection.commit()


def found(engine: Engine, check: str) -> Finding:
    (finding,) = [each for each in diagnose(engine) if each.check == check]
    return finding


def wrong(engine: Engine) -> list[str]:
    return [each.check for each in diagnose(engine) if not each.ok]


def test_a_database_that_is_well(world: Engine, kind: str) -> None:
    findings = diagnose(world)
    assert [each.check for each in findings] == [*COMMON, *OTHERS[kind]]
    assert [each for each in findings if not each.ok or each.advice] == []
    assert findings[0].found.endswith(f", migration {SCHEMA_REVISION}")
    assert found(world, "indexes").found == f"all {INDEXES}"


@slow_on_postgresql
def test_nothing_is_written(world: Engine) -> None:
    def states() -> list[Any]:
        with world.connect() as connection:
            tables = Base.metadata.tables.values()
            return [sorted(map(repr, connection.execute(sa.select(table)))) for table in tables]

    before = states()
    diagnose(world)
    assert states() == before


def test_a_profile_whose_signal_is_not_registered_here_is_named(
    world: Engine, database: str
) -> None:
    boost = Signal("boost", 0, 1, lambda _: sa.literal(0.5))
    shop = create_engine(database, registry=Registry(signals=[boost], name="shop"))

    def serve(session: Session) -> None:
        recommender.create_profile(session, "boosted", {"boost": 1.0})
        recommender.activate_profile(session, "boosted")

    run_transaction(shop, serve)
    assert found(shop, "profile").found == "boosted@1 serves"
    missing = found(world, "profile")
    assert (missing.ok, missing.found.startswith("boosted@1 serves, but ")) == (False, True)
    assert "boost" in missing.found.partition("but ")[2]
    shop.dispose()


def test_pages_are_ranked_and_looked_at_where_it_is_asked_for(
    world: Engine, database: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    *others, recall, last = diagnose(world, plans=True)
    assert (recall.check, recall.ok, recall.found) == ("recall", True, "no index of vectors")
    assert [each.check for each in others] == [each.check for each in diagnose(world)]
    assert (last.check, last.ok, last.advice) == ("plans", True, None)
    assert last.found.startswith("3 pages and 3 lists by indexes")
    faulty = query_plans.PlanCheck({}, ("the page of u1 read the whole of rec_videos", "and more"))
    monkeypatch.setattr(doctor, "check_plans", lambda _session: faulty)
    code, out, err = run(database, "--plans")
    assert (code, err) == (1, "Error: not well: plans\n")
    assert json.loads(out)[-1]["found"] == "the page of u1 read the whole of rec_videos; and more"
    assert run(database)[0] == 0


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("minutes", "seconds"), [(-61, 3660), (2, -120), (0, 0)])
def test_a_clock_that_is_off(
    world: Engine, monkeypatch: pytest.MonkeyPatch, minutes: int, seconds: int
) -> None:
    now = scalars.now
    monkeypatch.setattr(scalars, "now", lambda: now() + timedelta(minutes=minutes))
    clock = found(world, "clock")
    assert clock.ok == (minutes == 0)
    said, _, rest = clock.found.partition(" ")
    assert (float(said), rest) == (pytest.approx(seconds, abs=5), "s at the server")
    assert (clock.advice is None) == clock.ok


@slow_on_postgresql
def test_events_that_wait_too_long(world: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(world, 6, 8, 5, 2)
    assert found(world, "rollups").ok
    assert found(world, "rollups").found.startswith("5 events wait, refreshed at 20")
    early = scalars.now() - timedelta(hours=2)
    run_sql(world, sa.update(LearningState).values(refreshed_at=early))
    late = found(world, "rollups")
    assert (late.ok, late.advice) == (False, "run `recommender refresh`, every few minutes")
    run_sql(world, sa.update(LearningState).values(refreshed_at=None))
    assert found(world, "rollups").found == "5 events wait, never refreshed"
    monkeypatch.setattr(doctor, "MAX_COUNTED", 4)
    assert found(world, "rollups").found.startswith("more than 4 events wait")
    refresh(world)
    assert wrong(world) == []


@slow_on_postgresql
def test_an_erasure_that_was_interrupted(world: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(erase, "_subtract", interrupted)
        with pytest.raises(KeyboardInterrupt):
            erase_user(world, "u1")
    assert wrong(world) == ["erasures"]
    assert found(world, "erasures").found == "1 not finished"
    erase_user(world, "u1")
    assert wrong(world) == []


@pytest.mark.parametrize("name", [HASHTAGS, PARTIAL])
def test_an_index_that_is_missing_is_made_by_the_advice(world: Engine, name: str) -> None:
    run_sql(world, f"DROP INDEX {name}")
    finding = found(world, "indexes")
    assert finding.found == f"{name} is missing"
    assert wrong(world) == ["indexes"]
    run_sql(world, str(finding.advice))
    assert wrong(world) == []


def test_an_index_of_other_columns_is_missing(world: Engine) -> None:
    run_sql(world, f"DROP INDEX {HASHTAGS}")
    run_sql(world, f"CREATE INDEX {HASHTAGS} ON rec_video_hashtags (hashtag_id)")
    assert found(world, "indexes").found == f"{HASHTAGS} is missing"


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_an_invalid_index_is_made_anew_by_the_advice(world: Engine) -> None:
    of_index = sa.text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = :name ::regclass")
    run_sql(world, of_index.bindparams(name=HASHTAGS))
    finding = found(world, "indexes")
    assert (finding.ok, finding.found) == (False, f"{HASHTAGS} is invalid")
    run_sql(world, str(finding.advice))
    assert wrong(world) == []


@slow_on_postgresql
def test_a_copy_that_differs_is_mended_by_the_advice(world: Engine) -> None:
    off = sa.update(VideoHashtag).where(VideoHashtag.video_id == 1).values(listed_at=None)
    hidden = sa.update(Video).where(Video.id == 2).values(status="review")
    run_sql(world, off, hidden)
    finding = found(world, "copies")
    assert wrong(world) == ["copies"]
    assert finding.found == "2 listing times of hashtags differ from their videos"
    run_sql(world, str(finding.advice))
    assert wrong(world) == []


def test_a_visibility_that_differs_is_mended_by_the_advice(world: Engine) -> None:
    creator = sa.select(Video.creator_id).where(Video.id == 1).scalar_subquery()
    run_sql(world, sa.update(User).where(User.id == creator).values(discoverable=False))
    assert wrong(world) == ["visibility"]
    with Session(world) as session:
        key = session.scalars(sa.select(User.key).where(~User.discoverable)).one()
    for value in (True, False):
        row = {"id": key, "discoverable": value}
        run_transaction(world, lambda session, row=row: upsert_users(session, [row]))
    assert wrong(world) == []


@pytest.mark.parametrize("column", ["impressions", "engaged_views"])
def test_statistics_that_differ_are_mended_by_the_advice(world: Engine, column: str) -> None:
    run_sql(world, sa.update(Video).where(Video.id == 1).values({column: Video.impressions + 7}))
    finding = found(world, "statistics")
    assert wrong(world) == ["statistics"]
    assert finding.found.startswith(f"{column} are ")
    refresh(world, rebuild=True)
    assert wrong(world) == []


@slow_on_postgresql
def test_statistics_count_what_waits(world: Engine) -> None:
    behave(world, 6, 8, 40, 2)
    assert found(world, "statistics").ok
    run_sql(world, sa.delete(PendingEvent))
    assert not found(world, "statistics").ok


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_journal_that_is_not_a_wal(world: Engine, database: str) -> None:
    world.dispose()
    plain = sa.create_engine(database)
    with plain.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
    (journal,) = [each for each in diagnose(plain) if each.check == "journal"]
    assert (journal.ok, journal.found) == (False, "the mode is delete")
    plain.dispose()
    mended = prepare_engine(sa.create_engine(database))
    assert wrong(mended) == []
    mended.dispose()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_dead_rows_are_found_and_vacuumed_by_the_advice(
    world: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "MIN_DEAD_ROWS", 20)
    assert "rec_interactions" not in found(world, "dead_rows").found
    run_sql(world, *[sa.update(Interaction).values(watch_ms=n) for n in range(3)])
    run_sql(world, "SELECT pg_stat_force_next_flush()")
    finding = found(world, "dead_rows")
    assert (finding.ok, "rec_interactions has " in finding.found) == (False, True)
    run_sql(world, str(finding.advice).partition(";")[0], "SELECT pg_stat_force_next_flush()")
    assert found(world, "dead_rows").ok


def unplanned(engine: Engine) -> list[str]:
    return run_transaction(engine, planner_statistics.unplanned_tables, write=False)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_missing_planner_statistics_are_found_and_made_by_the_advice(engine: Engine) -> None:
    people(engine, 3, 3)
    finding = found(engine, "planner")
    assert not finding.ok
    assert {"rec_users", "rec_videos", "rec_video_hashtags"} <= set(unplanned(engine))
    assert "rec_events" not in unplanned(engine)
    run_sql(engine, str(finding.advice))
    assert (unplanned(engine), found(engine, "planner").ok) == ([], True)


def test_a_schema_that_is_missing_is_an_error(empty_database: str) -> None:
    bind = create_engine(empty_database)
    with pytest.raises(SchemaOutOfDate):
        diagnose(bind)
    bind.dispose()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "120")

    def run_one(database: str, *arguments: str) -> tuple[int, str, str]:
        code = cli.run(["doctor", "--database-url", database, *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_one


def test_the_command_prints_what_it_found(world: Engine, database: str, run: Run) -> None:
    code, out, err = run(database, "--format", "json")
    assert (code, err) == (0, "")
    assert [tuple(row) for row in json.loads(out)] == [("check", "ok", "found", "advice")] * (
        len(COMMON) + len(OTHERS[world.dialect.name])
    )
    run_sql(world, f"DROP INDEX {HASHTAGS}")
    code, out, err = run(database)
    assert (code, err) == (1, "Error: not well: indexes\n")
    assert [row["check"] for row in json.loads(out) if not row["ok"]] == ["indexes"]
    code, out, _ = run(database, "--format", "table")
    assert code == 1
    assert ("not well" in out, "CREATE INDEX" in out) == (True, True)


def test_what_cannot_be_looked_at_exits_so(empty_database: str, run: Run, tmp_path: Path) -> None:
    assert run(empty_database)[0] == 78
    assert run(f"sqlite:///{tmp_path / 'none.db'}")[0] == 78
    assert not (tmp_path / "none.db").exists()
    code, out, err = run("postgresql://nobody:s3cret@127.0.0.1:1/none")
    assert (code, out) == (69, "")
    assert "s3cret" not in err


def test_a_space_that_is_missing_or_too_large(
    engine: Engine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "MAX_READ_VECTORS", 1)
    engine.update_execution_options(**{OPTION: Registry(space="captions")})
    create_space(engine, "audio", dim=1)

    def write(session: Session) -> None:
        make_videos(session, "v1", "v2")
        rows: Any = [{"id": key, "vector": [1]} for key in ("v1", "v2")]
        upsert_embeddings(session, "audio", rows)

    run_transaction(engine, write)
    finding = found(engine, "spaces")
    assert not finding.ok
    assert finding.found == (
        "captions, which the registry reads, is missing; audio has 2 vectors, which each page reads"
    )
    remedy = "use PostgreSQL" if kind == "sqlite" else "recommender embeddings index audio"
    assert finding.advice == f"recommender embeddings create captions --dim N; {remedy}"
    create_space(engine, "captions", dim=1)
    if kind == "postgresql":
        index_space(engine, "audio")
        assert found(engine, "spaces").ok
