"""Candidates from outside: written for users, and read, exported and reset as all of their data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, UnknownUser, UnknownVideo, run_transaction, upsert_candidates
from recommender.ingest.candidates import apply_candidates
from recommender.models import User
from tests.support.kinds import only_postgresql
from tests.support.twin_databases import candidates
from tests.support.worlds import at, counted_statements, make_user, make_videos

GOOD = {"user": "ann", "video": "v1", "score": 0.5}


def make_small_world(session: Session) -> None:
    for user in ("ann", "bob"):
        make_user(session, user)
    make_videos(session, "v1", "v2", "v3")


@pytest.fixture
def small(session: Session) -> Session:
    """A session with two users and three videos."""
    make_small_world(session)
    return session


def counts(found: recommender.Counts) -> tuple[int, int, int]:
    return found.inserted, found.updated, found.unchanged


def test_rows_apply_one_after_the_other(small: Session) -> None:
    first = [
        GOOD, {**GOOD, "score": 1}, {**GOOD, "score": 1, "expires_at": at(5)},
        {**GOOD, "video": "v2", "score": 0}, {**GOOD, "user": "bob", "expires_at": at(1)},
    ]  # fmt: skip
    assert counts(upsert_candidates(small, "model", first)) == (3, 2, 0)
    assert counts(upsert_candidates(small, "model", [{**GOOD, "score": 1}])) == (0, 0, 1)
    assert counts(upsert_candidates(small, "Model", [GOOD])) == (1, 0, 0)
    assert candidates(small) == [
        ("ann", "v1", "Model", 0.5, None), ("ann", "v1", "model", 1.0, at(5)),
        ("ann", "v2", "model", 0.0, None), ("bob", "v1", "model", 0.5, at(1)),
    ]  # fmt: skip
    never = {**GOOD, "score": "1", "expires_at": None}
    assert counts(upsert_candidates(small, "model", [never])) == (0, 1, 0)
    assert candidates(small)[1] == ("ann", "v1", "model", 1.0, None)
    assert counts(upsert_candidates(small, "model", [])) == (0, 0, 0)


REFUSED: dict[str, dict[str, Any]] = {
    "user: is required and empty": {"user": ""},
    "user: 1.5 is not text": {"user": 1.5},
    "video: 1.5 is not text": {"video": 1.5},
    "score: is required and empty": {"score": None},
    "score: 'high' is not a number": {"score": "high"},
    "score: nan is not a number": {"score": float("nan")},
    "score: inf is not between 0 and 1": {"score": float("inf")},
    "score: 1.5 is not between 0 and 1": {"score": 1.5},
    "score: -1e-300 is not between 0 and 1": {"score": -1e-300},
    "score: True is not a number": {"score": True},
    "expires_at: '2026-01-01' has no offset": {"expires_at": "2026-01-01"},
    "expires_at: 7 is not a time": {"expires_at": 7},
    "expires_at: '1969-01-01T00:00:00Z' is not between": {"expires_at": "1969-01-01T00:00:00Z"},
    "unknown column 'source'": {"source": "model"},
}
"""What is said of each of these columns in a row."""


def test_what_cannot_be_written_is_one_sentence_and_nothing_is_written(small: Session) -> None:
    for message, columns in REFUSED.items():
        with pytest.raises(InvalidValue) as caught:
            upsert_candidates(small, "model", [GOOD, {**GOOD, **columns}])
        assert str(caught.value).startswith(message), columns
    with pytest.raises(InvalidValue, match=r"^column score is missing$"):
        upsert_candidates(small, "model", [{"user": "ann", "video": "v1"}])
    names: list[Any] = ["", "a b", "a-b", "1st", "a\x00", "\ud800", "x" * 64, "é" * 32, None, 7]
    for name in names:
        with pytest.raises(InvalidValue, match=r"^source: .* is not one word of letters"):
            upsert_candidates(small, name, [GOOD])
    for error, columns in ((UnknownUser, {"user": "eve"}), (UnknownVideo, {"video": "eve"})):
        kind = "user" if error is UnknownUser else "video"
        with pytest.raises(error, match=rf"^rows\[1\]: there is no {kind} 'eve'$"):
            upsert_candidates(small, "model", [GOOD, {**GOOD, **columns}])
        with pytest.raises(error, match=rf"^there is no {kind} 'eve'$"):
            upsert_candidates(small, "model", [{**GOOD, **columns}])
    assert candidates(small) == []
    for name in ("x" * 63, "é" * 31, "_", "größe", "BEST"):
        assert upsert_candidates(small, name, [GOOD]).inserted == 1


def test_a_batch_is_four_statements_however_long(small: Session) -> None:
    def sent(rows: int) -> int:
        batch = [
            {"source": f"m{n}", "user": user, "video": "v1", "score": n / rows}
            for n in range(rows)
            for user in ("bob", "ann")
        ]
        with counted_statements(small.connection()) as statements:
            assert apply_candidates(small, batch).rejected == {}
        return len(statements)

    assert [sent(rows) for rows in (1, 50, 50)] == [4, 4, 3]


def test_a_reset_deletes_them_and_an_erasure_too(engine: Engine) -> None:
    def propose(session: Session) -> None:
        make_small_world(session)
        rows = [{**GOOD, "user": user} for user in ("ann", "bob")]
        upsert_candidates(session, "model", rows)

    def stored() -> list[tuple[Any, ...]]:
        with Session(engine) as session:
            return candidates(session)

    run_transaction(engine, propose)
    run_transaction(engine, lambda s: recommender.reset_user(s, "ann"))
    assert stored() == [("bob", "v1", "model", 0.5, None)]
    run_transaction(engine, lambda s: upsert_candidates(s, "model", [GOOD]))
    assert recommender.erase_user(engine, "bob").rows["outside_candidates"] == 1
    assert stored() == [("ann", "v1", "model", 0.5, None)]
    with pytest.raises(UnknownUser):
        run_transaction(engine, lambda s: upsert_candidates(s, "m", [{**GOOD, "user": "bob"}]))
    run_transaction(engine, lambda s: recommender.erase_video(s, "v1"))
    with pytest.raises(UnknownVideo):
        run_transaction(engine, lambda s: upsert_candidates(s, "model", [GOOD]))
    assert len(stored()) == 1


def test_a_reset_finds_what_an_unfinished_merge_has_left(small: Session) -> None:
    upsert_candidates(small, "model", [{**GOOD, "user": user} for user in ("ann", "bob")])
    bob = small.scalars(sa.select(User).where(User.key == "bob")).one()
    bob.merged_into = small.scalars(sa.select(User.id).where(User.key == "ann")).one()
    small.flush()
    recommender.reset_user(small, "bob")
    assert candidates(small) == []


def test_a_file_names_the_line_of_a_bad_row(engine: Engine, tmp_path: Path) -> None:
    run_transaction(engine, make_small_world)
    file = tmp_path / "candidates.csv"
    file.write_text(
        "source,user,video,score,expires_at\n"
        "model,ann,v1,0.5,\nmodel,ann,v9,0.5,\nmodel,eve,v1,0.5,\nmodel,ann,v2,1.5,\n"
        "a b,ann,v2,0.5,\nmodel,bob,v2,0,2026-01-01T00:00:00+01:00\n"
    )
    with pytest.raises(recommender.BadData, match=r"line 5: score: '1\.5' is not between 0 and 1"):
        recommender.import_file(engine, "candidates", str(file))
    errors = tmp_path / "errors.jsonl"
    report = recommender.import_file(
        engine, "candidates", str(file), on_error="skip", errors=str(errors)
    )
    assert (report.read, report.inserted, report.rejected) == (6, 2, 4)
    lines = errors.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f'{{"line": {n}' for n in (3, 4, 5, 6)]
    assert "there is no video 'v9', so import the videos first" in lines[0]
    recommender.export_file(engine, "candidates", str(file))
    assert file.read_bytes().decode() == (
        "source,user,video,score,expires_at\r\nmodel,ann,v1,0.5,\r\n"
        "model,bob,v2,0.0,2025-12-31T23:00:00Z\r\n"
    )
    assert recommender.import_file(engine, "candidates", str(file)).unchanged == 2


@pytest.mark.slow
@only_postgresql
def test_writers_of_the_same_users_take_turns(engine: Engine) -> None:
    def write(session: Session, users: str, video: str) -> None:
        rows = [{"user": user, "video": video, "score": 0.5} for user in users.split()]
        upsert_candidates(session, "model", rows)

    run_transaction(engine, make_small_world)
    with ThreadPoolExecutor(1) as threads, Session(engine) as first:
        write(first, "bob", "v1")
        later = threads.submit(run_transaction, engine, lambda s: write(s, "bob ann", "v2"))
        done, _ = wait([later], timeout=0.3)
        assert not done
        first.commit()
        later.result(timeout=10)
        assert [row[:2] for row in candidates(first)] == [
            ("ann", "v2"), ("bob", "v1"), ("bob", "v2"),
        ]  # fmt: skip
