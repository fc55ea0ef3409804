"""Embeddings in files: JSON Lines, CSV, and arrays that NumPy saved."""

from __future__ import annotations

import gzip
import io
import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from recommender import (
    BadData,
    FileFormat,
    NotFound,
    Settings,
    create_engine,
    create_space,
    export_file,
    import_file,
    list_spaces,
    run_transaction,
)
from tests.support.erasures import Killed, killed_after
from tests.support.worlds import make_videos

KEYS = [f"v{number}" for number in range(40)]
CAPTIONS = {"space": "captions"}


@pytest.fixture
def space(engine: Engine) -> Engine:
    """A database with forty videos and a space of five dimensions."""
    run_transaction(engine, lambda session: make_videos(session, *KEYS))
    create_space(engine, "captions", dim=5)
    return engine


def vectors() -> Any:
    return np.random.default_rng(3).normal(size=(len(KEYS), 5)).astype(np.float32)


def saved(path: Path, array: Any) -> str:
    np.save(path, array)
    return str(path)


def ids(path: Path, keys: list[str] = KEYS) -> str:
    path.write_text("".join(f"{key}\n" for key in keys))
    return str(path)


def test_lines_are_imported_exported_and_imported_again(space: Engine, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"space": "captions", "id": key, "vector": vector.tolist()}
        for key, vector in zip(KEYS, vectors(), strict=True)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_file(space, "embeddings", str(source))
    assert (report.read, report.inserted, report.rejected) == (40, 40, 0)
    for name in ("out.jsonl", "out.csv", "out.jsonl.gz"):
        assert export_file(space, "embeddings", str(tmp_path / name)).written == 40
        report = import_file(space, "embeddings", str(tmp_path / name))
        assert (report.read, report.unchanged) == (40, 40)
    first = json.loads(target.read_text().splitlines()[0])
    length = np.linalg.norm(vectors()[0])
    assert (first["space"], first["id"]) == ("captions", "v0")
    assert first["vector"] == pytest.approx((vectors()[0] / length).tolist(), abs=1e-3)


def test_an_export_gives_another_database_the_same_bytes(
    space: Engine, tmp_path: Path, new_database: Any, kind: str
) -> None:
    import_array(space, tmp_path)
    export_file(space, "embeddings", str(tmp_path / "first.jsonl"))
    other = create_engine(new_database(kind))
    run_transaction(other, lambda session: make_videos(session, *KEYS))
    create_space(other, "captions", dim=5)
    import_file(other, "embeddings", str(tmp_path / "first.jsonl"))
    export_file(other, "embeddings", str(tmp_path / "second.jsonl"))
    other.dispose()
    assert (tmp_path / "first.jsonl").read_bytes() == (tmp_path / "second.jsonl").read_bytes()


def import_array(bind: Engine, folder: Path, **options: Any) -> Any:
    array = saved(folder / "vectors.npy", options.pop("array", vectors()))
    own = FileFormat(ids=ids(folder / "ids.txt", options.pop("keys", KEYS)), constants=CAPTIONS)
    return import_file(bind, "embeddings", array, form=own, **options)


@pytest.mark.parametrize("kind_of_number", ["<f4", ">f4", "f2", "f8", "i4"])
def test_an_array_is_imported_with_its_ids(
    space: Engine, tmp_path: Path, kind_of_number: str
) -> None:
    array = (10 * vectors()).astype(kind_of_number) + np.ones(5, dtype=kind_of_number)
    report = import_array(space, tmp_path, array=array)
    assert (report.read, report.inserted) == (40, 40)
    assert list_spaces(space)[0].vectors == 40
    assert import_array(space, tmp_path, array=array).unchanged == 40


def test_a_compressed_array_is_imported(space: Engine, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, vectors())
    (tmp_path / "v.npy.gz").write_bytes(gzip.compress(buffer.getvalue()))
    own = FileFormat(ids=ids(tmp_path / "ids"), constants=CAPTIONS)
    assert import_file(space, "embeddings", str(tmp_path / "v.npy.gz"), form=own).inserted == 40


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "fewer ids": ({"keys": KEYS[:7]}, "the array has 40 rows, and .*ids.txt only 7 ids"),
    "more ids": ({"keys": [*KEYS, "x"]}, "the array has 40 rows, and .*ids.txt more ids"),
    "a list": ({"array": np.ones(5)}, r"the array has the shape \(5,\) of float64, not rows of"),
    "texts": ({"array": np.array([["a"] * 5] * 40)}, "not rows of numbers"),
    "by columns": ({"array": np.asfortranarray(vectors())}, "the array is stored by columns"),
    "no columns": ({"array": np.ones((40, 0))}, "its rows have 0 numbers, not 1 to 100,000"),
    "other dimensions": ({"array": np.ones((40, 4))}, "line 1: vector: it has 4 numbers, and"),
    "not finite": ({"array": vectors() * [[1]] * 6 + [[np.nan]] * 40}, "line 1: vector: number 1 "),
    "an unknown video": ({"keys": [*KEYS[:39], "no"]}, "line 40: there is no video 'no'"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_array_is_one_sentence(space: Engine, tmp_path: Path, case: str) -> None:
    options, message = BAD_ARRAYS[case]
    with pytest.raises(BadData, match=message):
        import_array(space, tmp_path, **options)
    assert list_spaces(space)[0].vectors == 0


def test_an_array_needs_its_ids(space: Engine, tmp_path: Path) -> None:
    path = saved(tmp_path / "v.npy", vectors())
    with pytest.raises(BadData, match="an array of NumPy has no ids: give --ids FILE"):
        import_file(space, "embeddings", path, form=FileFormat(constants=CAPTIONS))
    own = FileFormat(constants=CAPTIONS, ids=str(tmp_path / "absent"))
    with pytest.raises(NotFound, match=r"there is no file .* of ids that can be read"):
        import_file(space, "embeddings", path, form=own)
    (tmp_path / "latin").write_bytes(b"\xff\n")
    own = FileFormat(constants=CAPTIONS, ids=str(tmp_path / "latin"))
    with pytest.raises(BadData, match="latin is not UTF-8"):
        import_file(space, "embeddings", path, form=own)


def test_an_array_that_ends_early_names_the_row(space: Engine, tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "v.npy", vectors()))
    path.write_bytes(path.read_bytes()[:-30])
    own = FileFormat(ids=ids(tmp_path / "ids"), constants=CAPTIONS)
    with pytest.raises(BadData, match="row 39: the file ends within it"):
        import_file(space, "embeddings", str(path), form=own)
    path.write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(BadData, match="not an array that NumPy saved"):
        import_file(space, "embeddings", str(path), form=own)


def test_an_array_without_a_space_says_what_is_missing(space: Engine, tmp_path: Path) -> None:
    path = saved(tmp_path / "v.npy", vectors())
    own = FileFormat(ids=ids(tmp_path / "ids"))
    with pytest.raises(BadData, match=r"column space is missing; give .*--set space=VALUE"):
        import_file(space, "embeddings", path, form=own)


def test_bad_lines_are_skipped_and_told(space: Engine, tmp_path: Path) -> None:
    lines = [
        {"id": "v0", "vector": [1, 2, 3, 4, 5]}, {"id": "v1", "vector": [1, 2]},
        {"id": "v2", "vector": [0, 0, 0, 0, 0]}, {"id": "v3", "vector": "abc"},
        {"id": "v4", "vector": [1, 2, 3, 4, 1e999]}, {"id": "v5", "vector": [5, 4, 3, 2, 1]},
        {"space": "x" * 37, "id": "v5", "vector": [1]}, {"space": "no", "id": "v6", "vector": [1]},
        {"id": "v0", "vector": [0, 0, 0, 0, 1]},
        {"space": "CAPTIONS", "id": "v0", "vector": [5, 0, 0, 0, 0]},
    ]  # fmt: skip
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps({**CAPTIONS, **line}) + "\n" for line in lines))
    errors = tmp_path / "errors.jsonl"
    report = import_file(space, "embeddings", str(path), on_error="skip", errors=str(errors))
    assert (report.read, report.inserted, report.rejected) == (10, 2, 6)
    told = [json.loads(line) for line in errors.read_text().splitlines()]
    assert [(one["line"], one["error"][:20]) for one in told] == [
        (2, "vector: it has 2 num"), (3, "vector: all its numb"), (4, "vector: 'abc' is no "),
        (5, "not JSON: Infinity i"), (7, "space: 'xxxxxxxxxxxx"), (8, "there is no space no"),
    ]  # fmt: skip
    export_file(space, "embeddings", str(tmp_path / "out.jsonl"))
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first == {**CAPTIONS, "id": "v0", "vector": [1, 0, 0, 0, 0]}  # the last row counts


def test_an_import_that_ends_at_any_statement_is_of_whole_batches(
    space: Engine, tmp_path: Path
) -> None:
    """Each run ends one statement later than the run before."""
    path = tmp_path / "v.jsonl"
    rows = zip(KEYS, vectors().tolist(), strict=True)
    lines = ({**CAPTIONS, "id": key, "vector": vector} for key, vector in rows)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    there = set()
    for runs in count(1):
        try:
            with killed_after(space, runs):
                import_file(space, "embeddings", str(path), settings=Settings(batch_size=20))
            break
        except Killed:
            there.add(list_spaces(space)[0].vectors)
    assert there in ({0, 20, 40}, {0, 20})
