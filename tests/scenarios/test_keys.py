"""Keys as applications have them: whole numbers and UUIDs, which are written as text."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import Event, InvalidValue, RecommenderError, run_transaction
from recommender.files.batches import UserShare
from recommender.formats.scalars import AnyKey
from recommender.ingest.follows import apply_follows
from recommender.models.types import Base
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import NOON, at, names, rows_of

FORMS: dict[str, Callable[[int], AnyKey]] = {"numbers": int, "uuids": lambda n: UUID(int=n)}

KEYS = {"user", "users", "video", "videos", "creator", "exclude", "value"}
"""The names of parameters that take keys; `key` is one of `record`."""


def write(session: Session, key: Callable[[int], AnyKey]) -> None:
    """Write a world through every function that takes a key."""
    rows: list[dict[str, Any]] = [{"id": key(n)} for n in (0, 3, 4)]
    rows += [{"id": key(1), "liked_sounds": [key(30), key(31), key(32)]}]
    recommender.upsert_users(session, rows)
    video = {"creator": key(2), "sound": key(30), "published_at": at(-60)}
    recommender.upsert_videos(session, [{"id": key(10 + n), **video} for n in range(4)])
    apply_follows(session, [{"user": str(key(0)), "creator": str(key(2)), "at": NOON}])
    recommender.follow(session, key(1), key(3), at=NOON)
    recommender.follow(session, key(1), key(4), at=NOON)
    recommender.unfollow(session, key(1), key(4))
    for kind, value in (("creator", 4), ("sound", 31), ("sound", 32)):
        recommender.mute(session, key(1), kind, key(value), at=NOON)
    recommender.unmute(session, key(1), "sound", key(32))
    recommender.block(session, key(1), key(4), at=NOON)
    recommender.block(session, key(1), key(0), at=NOON)
    recommender.unblock(session, key(1), key(0))
    recommender.record(session, key(1), key(10), "like", key=key(50), at=NOON)
    event = Event(key(51), key(1), key(11), "share", NOON)
    assert event.user == str(key(1))
    recommender.record_many(session, [event])


def read(session: Session, key: Callable[[int], AnyKey]) -> Iterator[object]:
    """Give the results of every function that takes a key and reads."""
    page = recommender.for_you(
        session, key(1), exclude=[key(12)], record=False, as_of=at(10), where=None
    )
    yield page.request.user, names(page)
    served = recommender.for_you(session, key(1), limit=1, as_of=at(10), profile="classic")
    after = recommender.for_you(session, key(1), limit=1, as_of=at(10), cursor=served.cursor)
    yield names(served), names(after)
    ranked = recommender.rank(session, key(1), [key(11), key(10), key(11)], as_of=at(10))
    yield ranked.request.user, names(ranked)
    yield names(recommender.following(session, key(1), as_of=at(10)))
    yield recommender.explain(session, key(1), key(13), as_of=at(10)).reason
    yield recommender.resolve(session, key(1), as_of=at(10)).seed
    users = [key(0), key(1)]
    yield [*recommender.diff_profiles(session, "classic", "for_you", users=users).pages]


@slow_on_postgresql
@pytest.mark.parametrize("form", FORMS)
def test_whole_numbers_and_uuids_are_written_as_text(session: Session, form: str) -> None:
    results = []
    for key in (FORMS[form], lambda n: str(FORMS[form](n))):
        with session.begin_nested() as savepoint:
            write(session, key)
            answers = list(read(session, key))
            recommender.reset_user(session, key(0), at=NOON)
            tables = {table: rows_of(session, table) for table in Base.metadata.sorted_tables}
            results.append((answers, keys_and_sizes(tables)))
            savepoint.rollback()
    assert results[0] == results[1]
    assert results[0][0][0] == (str(FORMS[form](1)), [str(FORMS[form](13))])


def keys_and_sizes(tables: dict[Any, list[tuple[Any, ...]]]) -> dict[str, Any]:
    """The keys of the catalogue and the events, and the number of rows of every table."""
    keys = [(table.name, [row[1] for row in rows if isinstance(row[1], str)])
            for table, rows in tables.items() if "key" in table.c or "name" in table.c]  # fmt: skip
    return {"keys": keys, "sizes": {table.name: len(rows) for table, rows in tables.items()}}


@only_sqlite
@pytest.mark.parametrize("form", FORMS)
def test_a_person_is_exported_and_erased_by_any_key(
    engine: Engine, form: str, tmp_path: Path
) -> None:
    key = FORMS[form]
    run_transaction(engine, lambda session: write(session, key))
    recommender.export_user(engine, key(1), str(tmp_path / "archive.jsonl"))
    first = json.loads((tmp_path / "archive.jsonl").read_text().partition("\n")[0])
    assert first["row"]["user"] == str(key(1))
    assert recommender.erase_user(engine, key(1)).user == str(key(1))


@only_sqlite
def test_a_whole_number_in_a_file_is_a_key(engine: Engine, tmp_path: Path) -> None:
    for kind, row in (
        ("users", {"id": 5}),
        ("videos", {"id": 7, "creator": 5, "sound": 9, "published_at": "2026-01-01T00:00:00Z"}),
        ("events", {"id": 1, "user": 5, "video": 7, "kind": "like", "at": "2026-01-02T00:00:00Z"}),
    ):
        (tmp_path / kind).write_text(json.dumps(row))
        assert recommender.import_file(engine, kind, str(tmp_path / kind)).inserted == 1
    with Session(engine) as session:
        (item,) = recommender.rank(session, "5", ["7"]).items
    assert (item.video, item.creator, item.sound) == ("7", "5", "9")
    shares = [UserShare(number, 4) for number in range(4)]
    owners = [[share.has({"user": user}) for share in shares] for user in (5, "5")]
    assert owners[0] == owners[1]


@only_sqlite
def test_a_bool_is_no_key(session: Session) -> None:
    recommender.upsert_users(session, [{"id": 1}])
    wrong: Any = True
    calls: list[Callable[[], object]] = [
        lambda: recommender.upsert_users(session, [{"id": wrong}]),
        lambda: recommender.follow(session, wrong, 1),
        lambda: recommender.mute(session, 1, "creator", wrong),
        lambda: recommender.record(session, 1, wrong, "like"),
        lambda: recommender.for_you(session, wrong),
        lambda: recommender.rank(session, 1, [wrong]),
        lambda: recommender.explain(session, 1, wrong),
    ]
    for call in calls:
        with pytest.raises(RecommenderError, match=r"(True is not text|there is no video True)$"):
            call()
    with pytest.raises(InvalidValue, match=r"^id: .* has more than 255 digits$"):
        recommender.upsert_users(session, [{"id": 10**5000}])


def test_every_public_function_takes_any_key() -> None:
    functions = [getattr(recommender, name) for name in recommender.__all__]
    parameters = {
        f"{function.__name__}({name})": parameter.annotation
        for function in functions
        if inspect.isfunction(function)
        for name, parameter in inspect.signature(function).parameters.items()
        if name in KEYS or (function is recommender.record and name == "key")
    }
    assert len(parameters) > 20
    assert {name: how for name, how in parameters.items() if "AnyKey" not in str(how)} == {}
