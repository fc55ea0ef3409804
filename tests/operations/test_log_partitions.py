"""The log of places in partitions on PostgreSQL: what `prune` makes and drops, and what is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    FeedPage,
    Settings,
    audit,
    create_engine,
    diagnose,
    for_you,
    mark_seen,
    prune,
    run_transaction,
)
from recommender.database.partitions import log_partitions, partition_of, start_of_day
from recommender.formats import scalars
from recommender.models.serving import DEFAULT_PARTITION
from recommender.models.tables import REMEMBERED, SERVED, SESSIONS
from recommender.operations import log_partitions as module
from recommender.operations.explained import nodes
from recommender.operations.log_partitions import EXCLUSION
from tests.support.kinds import only_postgresql
from tests.support.refresh_worlds import people
from tests.support.worlds import NOON

DAY = timedelta(days=1)


def write(engine: Engine, work: Callable[[Session], Any]) -> Any:
    return run_transaction(engine, work)


def serve(engine: Engine, user: str, at: datetime, limit: int = 2, **options: Any) -> FeedPage:
    page: FeedPage = write(engine, lambda s: for_you(s, user, limit=limit, as_of=at, **options))
    return page


def pruned(engine: Engine, at: datetime, days: int = 3) -> int:
    return prune(engine, sessions_older_than=days * DAY, as_of=at).items


def days_of(engine: Engine) -> list[int]:
    """The days of partitions, counted from noon of the first day."""
    with Session(engine) as session:
        found = log_partitions(session)
    return [(one.begins - start_of_day(NOON)) // DAY for one in found]


def places(engine: Engine, table: str = SERVED.name) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table))) or 0


def on_day(number: int) -> str:
    return partition_of(NOON + number * DAY).name


@only_postgresql
def test_a_prune_makes_the_days_of_the_second_week_once_a_week(engine: Engine) -> None:
    people(engine, 1, 12)
    assert days_of(engine) == []
    pruned(engine, NOON)
    assert days_of(engine) == [*range(7, 15)]
    pruned(engine, NOON + 7 * DAY)
    assert days_of(engine) == [*range(7, 15)]
    pruned(engine, NOON + 8 * DAY)
    assert days_of(engine) == [*range(7, 23)]
    serve(engine, "u0", NOON + 8 * DAY)
    serve(engine, "u0", NOON + DAY)
    assert (places(engine, on_day(8)), places(engine, DEFAULT_PARTITION)) == (2, 2)
    assert places(engine) == 4


@only_postgresql
def test_days_that_have_places_already_stay_in_the_default_partition(engine: Engine) -> None:
    people(engine, 1, 12)
    serve(engine, "u0", NOON + 9 * DAY)
    serve(engine, "u0", NOON + 99 * DAY)
    pruned(engine, NOON)
    assert days_of(engine) == [*range(10, 15)]
    assert places(engine, DEFAULT_PARTITION) == 4


@pytest.fixture
def twins(new_database: Callable[..., str]) -> Any:
    engines = [create_engine(new_database(kind)) for kind in ("sqlite", "postgresql")]
    for one in engines:
        people(one, 3, 60)
    yield engines
    for one in engines:
        one.dispose()


def content(engine: Engine) -> list[list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return [
            sorted(map(tuple, connection.execute(sa.select(*columns))))
            for columns in (
                (SESSIONS.c.user_id, SESSIONS.c.session, SESSIONS.c.next_position),
                (SERVED.c.session, SERVED.c.position, SERVED.c.video_id, SERVED.c.served_at),
                (REMEMBERED.c.user_id, REMEMBERED.c.video_id, REMEMBERED.c.attempts),
            )
        ]


def test_a_log_in_partitions_has_what_one_table_has(twins: Sequence[Engine]) -> None:
    """Days of pages, sessions across midnight, one that goes on for weeks, and daily prunes."""
    dropped, cursors = set(), ["", ""]
    settings = Settings(session_lifetime=2 * 86_400)
    for day in range(20):
        at = NOON + day * DAY
        items = []
        for number, engine in enumerate(twins):
            lasting = {"session_id": UUID(int=7)} if not day else {"cursor": cursors[number]}
            page = serve(engine, "u0", at, settings=settings, **lasting)
            cursors[number] = page.cursor or ""
            night = start_of_day(at) - timedelta(seconds=1)
            if day % 4 == 1:
                page = serve(engine, "u1", night, session_id=UUID(int=100 + day))
                serve(engine, "u1", at, cursor=page.cursor)
            before = set(days_of(engine)) if number else set()
            items.append(pruned(engine, at))
            dropped |= before - set(days_of(engine)) if number else set()
        assert items[0] == items[1]
        assert content(twins[0]) == content(twins[1])
    assert dropped == set(range(7, 16))
    with Session(twins[1]) as session:
        assert not audit(session).broken


@only_postgresql
def test_a_partition_that_others_read_is_dropped_by_the_next_run(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT", "20ms")
    people(engine, 1, 12)
    pruned(engine, NOON)
    serve(engine, "u0", NOON + 7 * DAY)
    once = Settings(tries=1)
    later = NOON + 11 * DAY
    with engine.connect() as reader:
        assert reader.scalar(sa.select(sa.func.count()).select_from(SERVED)) == 2
        report = prune(engine, sessions_older_than=3 * DAY, as_of=later, settings=once)
    assert (report.sessions, report.items) == (1, 0)
    assert "an old partition of the log was not dropped" in caplog.text
    assert (days_of(engine)[0], places(engine)) == (7, 2)
    assert pruned(engine, later) == 2
    assert (days_of(engine)[0], places(engine)) == (8, 0)


class Ended(Exception):
    """A run that ends as a killed process does."""


@only_postgresql
@pytest.mark.slow
def test_a_run_that_ends_at_any_statement_goes_on(engine: Engine) -> None:
    people(engine, 2, 40)
    at, lasting = NOON + 12 * DAY, Settings(session_lifetime=30 * 86_400)
    for point in range(1, 200):
        pruned(engine, NOON)
        page = serve(engine, "u0", NOON + 8 * DAY, rewatch=True)
        serve(engine, "u1", NOON + 8 * DAY, rewatch=True)
        serve(engine, "u0", at, cursor=page.cursor, settings=lasting)
        is_whole = not ends_at(engine, point, lambda: pruned(engine, at))
        pruned(engine, at)
        assert (places(engine), places(engine, DEFAULT_PARTITION)) == (4, 2)
        assert days_of(engine) == [*range(9, 15), *range(19, 27)]
        assert exclusions(engine) == 0
        if is_whole:
            break
        clear(engine)
    assert point > 20


def ends_at(engine: Engine, point: int, work: Callable[[], Any]) -> bool:
    """Do work that ends before its n-th statement; return whether it ended so early."""
    left = [point]

    def end(*_: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise Ended

    sa.event.listen(engine, "before_cursor_execute", end)
    try:
        work()
    except Ended:
        return True
    finally:
        sa.event.remove(engine, "before_cursor_execute", end)
    return False


def clear(engine: Engine) -> None:
    """Delete all sessions, places and partitions for days."""
    with engine.begin() as connection:
        for day in days_of(engine):
            connection.execute(sa.text(f"DROP TABLE {on_day(day)}"))
        for table in (SERVED, SESSIONS, REMEMBERED):
            connection.execute(sa.delete(table))


def exclusions(engine: Engine) -> int:
    named = sa.text("SELECT count(*) FROM pg_constraint WHERE conname = :name")
    with engine.connect() as connection:
        return connection.scalar(named, {"name": EXCLUSION}) or 0


@only_postgresql
def test_no_position_and_no_video_is_doubled_by_16_writers(engine: Engine) -> None:
    """On both sides of midnight, where no key of a partition would notice."""
    people(engine, 1, 80)
    pruned(engine, NOON)
    midnight = start_of_day(NOON) + 9 * DAY
    own = UUID(int=7)

    def ask(number: int, cursor: str | None) -> FeedPage:
        at = midnight + timedelta(seconds=1 if number % 2 else -1)
        goes_on = {"cursor": cursor} if cursor else {"session_id": own}
        return serve(engine, "u0", at, 3 + number % 3, rewatch=True, **goes_on)

    cursor = None
    with ThreadPoolExecutor(16) as pool:
        for _ in range(4):
            pages = list(pool.map(partial(ask, cursor=cursor), range(16)))
            assert len({(page.cursor, tuple(i.video for i in page.items)) for page in pages}) == 1
            cursor = pages[0].cursor
    with engine.connect() as connection:
        rows = connection.execute(sa.select(SERVED.c.position, SERVED.c.video_id)).all()
    assert sorted(row.position for row in rows) == [*range(1, len(rows) + 1)]
    assert len({row.video_id for row in rows}) == len(rows) >= 12


@only_postgresql
def test_a_page_reads_only_the_partitions_of_its_session(engine: Engine) -> None:
    people(engine, 1, 30)
    pruned(engine, NOON)
    pruned(engine, NOON + 8 * DAY)
    first = serve(engine, "u0", NOON + 9 * DAY, rewatch=True)
    found: list[set[str]] = []

    def keep(connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if SERVED.name in statement:
            found.append(scanned(connection.connection.cursor(), statement, values))

    sa.event.listen(engine, "before_cursor_execute", keep)
    serve(engine, "u0", NOON + 9 * DAY, rewatch=True, cursor=first.cursor)
    serve(engine, "u0", NOON + 9 * DAY, rewatch=True, cursor=first.cursor)
    write(engine, lambda s: mark_seen(s, "u0", cursor=first.cursor, position=2))
    sa.event.remove(engine, "before_cursor_execute", keep)
    # Two pages by a cursor: resolve both, rank and write one, show the other again. Then a mark.
    assert found == [{on_day(9)}, set(), *[{on_day(9)}] * 4]


def scanned(cursor: Any, statement: str, values: Any) -> set[str]:
    """The partitions that a statement scans, which is then undone."""
    cursor.execute("SAVEPOINT plan")
    cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
    ((plan,),) = cursor.fetchall()
    cursor.execute("ROLLBACK TO plan")
    top = plan[0]["Plan"]
    return {
        node["Relation Name"]
        for node in nodes(top)
        if node.get("Relation Name", "").startswith(SERVED.name)
        and node["Actual Loops"]
        and node["Node Type"] != "ModifyTable"
    }


@only_postgresql
def test_doctor_tells_when_partitions_end(engine: Engine) -> None:
    def found() -> tuple[bool, str]:
        (one,) = (each for each in diagnose(engine) if each.check == "partitions")
        return one.ok, one.found

    assert found() == (True, "none")
    pruned(engine, scalars.now() - 20 * DAY)
    assert found()[0] is False
    pruned(engine, scalars.now())
    assert found() == (True, "8 days")
    refuse = f"ALTER TABLE {DEFAULT_PARTITION} ADD CONSTRAINT {EXCLUSION} CHECK (position > 0)"
    write(engine, lambda s: s.execute(sa.text(refuse)))
    assert found()[0] is False
    pruned(engine, scalars.now())
    assert found() == (True, "8 days")
