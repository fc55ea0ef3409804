"""Embeddings: vectors of videos, written, replaced and erased."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Counts,
    InvalidValue,
    NotFound,
    UnknownVideo,
    create_space,
    erase_user,
    erase_video,
    run_transaction,
    upsert_embeddings,
)
from recommender.database.spaces import embeddings
from recommender.ingest.embeddings import apply_embeddings
from tests.support.worlds import make_video, make_videos

HALF = pytest.approx


@pytest.fixture
def small(session: Session) -> Session:
    """A session with three videos and a space of two dimensions."""
    make_videos(session, "v1", "v2", "v3")
    create_space(session.connection(), "captions", dim=2)
    return session


def stored(session: Session) -> dict[tuple[str, str], list[float]]:
    connection = session.connection()
    found = [row for statement in embeddings(connection) for row in connection.execute(statement)]
    return {(space, key): vector.tolist() for space, key, vector in found}


def counts(found: Counts) -> tuple[int, int, int]:
    return found.inserted, found.updated, found.unchanged


def row(video: str, *vector: float) -> Any:
    return {"id": video, "vector": list(vector)}


def test_vectors_are_inserted_replaced_and_left_as_they_are(small: Session) -> None:
    assert counts(upsert_embeddings(small, "captions", [])) == (0, 0, 0)
    first = [row("v1", 3, 4), row("v2", 0, 2), row("v1", 0.6, 0.8)]
    assert counts(upsert_embeddings(small, "captions", first)) == (2, 0, 1)
    assert counts(upsert_embeddings(small, "Captions", first)) == (0, 0, 3)
    again = [{"id": "v1", "vector": np.array([1.0, 0.0])}, row("v2", 0, 7), row("v3", 1, 1)]
    assert counts(upsert_embeddings(small, "captions", again)) == (1, 1, 1)
    root = 0.5**0.5
    assert stored(small) == {
        ("captions", "v1"): [1, 0],
        ("captions", "v2"): [0, 1],
        ("captions", "v3"): HALF([root, root], abs=1e-3),
    }


REFUSED: dict[str, tuple[list[Any], type[Exception], str]] = {
    "too short": ([row("v1", 1)], InvalidValue, "it has 1 numbers, and the space captions has 2"),
    "too long": ([row("v1", 1, 2, 3)], InvalidValue, "it has 3 numbers, and the space captions"),
    "not finite": ([row("v1", 1, float("nan"))], InvalidValue, "number 2 is nan, which is not fin"),
    "zero": ([row("v1", 0, 0)], InvalidValue, "all its numbers are 0, so it has no direction"),
    "no vector": ([{"id": "v1"}], InvalidValue, "column vector is missing"),
    "empty": ([{"id": "v1", "vector": None}], InvalidValue, "vector: is required and empty"),
    "another column": ([{**row("v1", 1, 2), "x": 1}], InvalidValue, "unknown column 'x'"),
    "no row": ([5], InvalidValue, "5 is not a row of columns and values"),
    "unknown video": ([row("v2", 1, 2), row("no", 1, 2)], UnknownVideo, r"rows\[2\]: there is no"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_row_writes_nothing(small: Session, case: str) -> None:
    rows, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        upsert_embeddings(small, "captions", [row("v3", 1, 1), *rows])
    assert stored(small) == {}


def test_rows_of_files_are_left_out_one_by_one(small: Session) -> None:
    rows: list[Any] = [
        {"space": space, "id": video, "vector": np.array(vector, dtype=np.float32)}
        for space, video, vector in (
            ("captions", "v1", [1, 0]), ("nowhere", "v1", [1, 0]), ("captions", "no", [1, 0]),
            ("captions", "v2", [1, 0, 0]), ("captions", "v3", [0, 1]),
        )
    ]  # fmt: skip
    applied = apply_embeddings(small, rows)
    assert counts(applied) == (2, 0, 0)
    assert {place: type(error) for place, error in applied.rejected.items()} == {
        1: NotFound, 2: UnknownVideo, 3: InvalidValue,
    }  # fmt: skip


def test_each_space_has_its_own_vectors(small: Session) -> None:
    create_space(small.connection(), "audio", dim=3)
    upsert_embeddings(small, "captions", [row("v1", 1, 0)])
    upsert_embeddings(small, "audio", [row("v1", 0, 0, 1)])
    assert stored(small) == {("audio", "v1"): [0, 0, 1], ("captions", "v1"): [1, 0]}


@pytest.mark.parametrize("size", [2, 3, 7, 384])
def test_a_vector_of_any_length_comes_back(session: Session, size: int) -> None:
    """The numbers of all vectors of a batch are one array on their way to PostgreSQL."""
    keys = [f"v{number}" for number in range(30)]
    make_videos(session, *keys)
    create_space(session.connection(), "captions", dim=size)
    given = np.random.default_rng(size).normal(size=(len(keys), size))
    rows: Any = [{"id": key, "vector": one} for key, one in zip(keys, given, strict=True)]
    upsert_embeddings(session, "captions", rows[::-1])
    found = stored(session)
    for key, one in zip(keys, given / np.linalg.norm(given, axis=1, keepdims=True), strict=True):
        assert found["captions", key] == pytest.approx(one.tolist(), abs=1e-3)


def test_the_vectors_of_an_erased_video_are_gone(small: Session) -> None:
    upsert_embeddings(small, "captions", [row("v1", 1, 0), row("v2", 0, 1)])
    create_space(small.connection(), "audio", dim=1)
    upsert_embeddings(small, "audio", [row("v1", 1)])
    erase_video(small, "v1")
    assert stored(small) == {("captions", "v2"): [0, 1]}


def test_the_vectors_of_an_erased_persons_videos_are_gone(engine: Engine) -> None:
    def write(session: Session) -> None:
        make_video(session, "v1", creator="ann")
        make_video(session, "v2", creator="bob")
        create_space(session.connection(), "captions", dim=2)
        upsert_embeddings(session, "captions", [row("v1", 1, 0), row("v2", 0, 1)])

    run_transaction(engine, write)
    erasure = erase_user(engine, "ann")
    assert erasure.rows["embeddings_captions"] == 1
    with Session(engine) as session:
        assert stored(session) == {("captions", "v2"): [0, 1]}


def test_no_vector_is_written_for_a_video_that_is_being_erased(engine: Engine, kind: str) -> None:
    """An erasure waits for the writer of a vector, and then deletes the vector."""
    if kind == "sqlite":
        pytest.skip("SQLite has one writer at a time")

    def begin(session: Session) -> None:
        make_videos(session, "v1")
        create_space(session.connection(), "captions", dim=2)

    run_transaction(engine, begin)
    with Session(engine) as writer:
        upsert_embeddings(writer, "captions", [row("v1", 1, 0)])
        with Session(engine) as eraser:
            eraser.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(sa.exc.OperationalError, match="lock"):
                erase_video(eraser, "v1")
        writer.commit()
    run_transaction(engine, lambda session: erase_video(session, "v1"))
    with Session(engine) as session:
        assert stored(session) == {}
        with pytest.raises(UnknownVideo):
            upsert_embeddings(session, "captions", [row("v1", 1, 0)])
        session.rollback()
    assert recommender.list_spaces(engine)[0].vectors == 0
