"""What is logged: durations and numbers of rows, under one name, and nothing of anybody."""

from __future__ import annotations

import ast
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Settings,
    create_engine,
    for_you,
    import_file,
    prune,
    refresh,
)
from recommender.logs import LOGGER, log
from tests.support.kinds import slow_on_postgresql
from tests.support.marked_behaviour import MARKER, behave
from tests.support.worlds import EXAMPLE

PACKAGE = Path(recommender.__file__).parent
DAY = timedelta(days=1)


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """What was logged under our name, from DEBUG on."""
    caplog.set_level(logging.DEBUG, logger=LOGGER.name)
    return lambda: [each for each in caplog.records if each.name == LOGGER.name]


def facts(records: list[logging.LogRecord], level: int) -> list[dict[str, Any]]:
    found = [dict(each.recommender) for each in records if each.levelno == level]  # type: ignore[attr-defined]
    for each in found:
        assert 0 <= each.pop("seconds") < 60
    return found


def test_an_import_a_refresh_a_prune_and_a_page_are_logged(
    engine: Engine, records: Callable[[], list[logging.LogRecord]]
) -> None:
    for kind in ("users", "videos", "events"):
        import_file(engine, kind, str(EXAMPLE / f"{kind}.csv"), settings=Settings(batch_size=3))
    refresh(engine)
    prune(engine, events_older_than=DAY, sessions_older_than=DAY)
    with Session(engine) as session:
        for_you(session, "user1", record=False, rewatch=True, limit=2)
    none = {"updated": 0, "unchanged": 0, "too_old": 0, "rejected": 0, "cut_times": 0}
    assert facts(records(), logging.INFO) == [
        {"did": "import users", "read": 1, "inserted": 1, **none},
        {"did": "import videos", "read": 3, "inserted": 3, **none},
        {"did": "import events", "read": 4, "inserted": 4, **none},
        {
            "did": "refresh",
            "events": 4,
            "videos": 2,
            "users": 1,
            "neighbours": 2,
            "terms": 0,
            "kept": 0,
        },
        {
            "did": "prune",
            "events": 4,
            "waiting": 0,
            "sessions": 0,
            "items": 0,
            "candidates": 0,
            "suggestions": 0,
        },
    ]
    batches = [("import users batch", 1), ("import videos batch", 3), ("import events batch", 3),
               ("import events batch", 1)]  # fmt: skip
    assert facts(records(), logging.DEBUG) == [
        *({"did": did, "rows": rows} for did, rows in batches),
        {"did": "prune batch", "events": 4, "waiting": 0},
        {"did": "page", "videos": 2, "position": 1},
    ]


def test_the_message_says_what_the_attribute_says(
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    log(logging.INFO, "prune", events=3, seconds=0.5)
    (record,) = records()
    assert record.getMessage() == "prune events=3 seconds=0.5"
    assert record.recommender == {"did": "prune", "events": 3, "seconds": 0.5}  # type: ignore[attr-defined]
    assert record.funcName == "test_the_message_says_what_the_attribute_says"


def test_nothing_is_made_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    class Loud:
        def __str__(self) -> str:
            raise AssertionError

    caplog.set_level(logging.INFO, logger=LOGGER.name)
    log(logging.DEBUG, "page", videos=Loud())  # type: ignore[arg-type]
    assert caplog.records == []


def test_every_record_has_our_name_and_no_other_logger_is_made() -> None:
    """Nor does anything print: data goes to stdout by the command line alone."""
    made = {}
    for path in PACKAGE.rglob("*.py"):
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        names = {ast.unparse(call.func) for call in calls}
        made |= {path.stem: names & {"logging.getLogger", "logging.basicConfig", "print"}}
    assert {stem: names for stem, names in made.items() if names} == {"logs": {"logging.getLogger"}}


@slow_on_postgresql
def test_nothing_of_a_user_is_in_any_record(
    database: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Nor in SQLAlchemy's, which hides the values of statements from an engine of ours."""
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy.engine", "sqlalchemy.pool"):
        caplog.set_level(logging.INFO, logger=name)
    engine = create_engine(database)
    behave(engine, tmp_path)
    engine.dispose()
    said = [f"{each.getMessage()} {vars(each)}" for each in caplog.records]
    assert [each for each in said if MARKER in each] == []
    assert {each.name.partition(".")[0] for each in caplog.records} >= {"recommender", "sqlalchemy"}
