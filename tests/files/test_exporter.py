"""What is exported is imported again as it was, on the other database too."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    InvalidValue,
    NotFound,
    NotPermitted,
    create_engine,
    export_file,
    import_file,
    run_transaction,
)
from recommender.benchmark.demo_world import DemoWorld, load
from recommender.files.batches import ROW_KINDS
from recommender.models.types import Base
from tests.conftest import DATABASES
from tests.support.kinds import only_sqlite
from tests.support.worlds import NOON, names, preview, rows_of

ODD = [
    "a,b", 'quote "x"', "two\nlines", "\r", "\r\n", "tab\t", "{", "[1]", " space ", "'; DROP TABLE",
    "%_\\", "\\N", "NULL", "{NULL}",
    "مرحبا", "👩‍👩‍👧", "\x1b[2J", "\u2028", "é", "e\u0301", "-", "=1+1",
    "[", '["a"]',
]  # fmt: skip


@pytest.fixture(scope="module")
def pair(new_database: Callable[..., str]) -> Iterator[dict[str, Engine]]:
    """An empty database of each kind; a test leaves them empty."""
    engines = {kind: create_engine(new_database(kind)) for kind in DATABASES}
    yield engines
    for engine in engines.values():
        engine.dispose()


def empty(engine: Engine) -> None:
    kept = {"rec_ranking_profiles", "rec_profile_weights", "rec_learning_state"}

    def delete(session: Session) -> None:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name not in kept:
                session.execute(table.delete())

    run_transaction(engine, delete)


def exported(engine: Engine, folder: Path, ending: str) -> dict[str, bytes]:
    written = {}
    for kind in ROW_KINDS:
        path = folder / f"{kind}{ending}"
        export_file(engine, kind, str(path))
        written[kind] = path.read_bytes()
    return written


def feeds(engine: Engine, users: list[str]) -> list[list[tuple[str, float]]]:
    with Session(engine) as session:
        pages = [preview(session, user, limit=500, as_of=NOON) for user in users]
    return [[(item.video, item.score) for item in page.items] for page in pages]


def odd_tag(text: str) -> str:
    """Return a hashtag with the text, without the marks that a hashtag may not have."""
    return "tag" + re.sub(r'[][{},;"]', "", text)


def odd_world(session: Session) -> None:
    """Every odd text in every place that takes one."""
    users = [
        {"id": text, "language": text, "country": text, "device": text,
         "interests": [odd_tag(text)], "liked_sounds": [text]}
        for text in ODD
    ]  # fmt: skip
    recommender.upsert_users(session, users)
    recommender.upsert_videos(session, [
        {"id": text, "creator": text, "caption": text, "hashtags": [odd_tag(text), "b"],
         "sound": text, "language": text, "country": text, "published_at": NOON}
        for text in ODD
    ])  # fmt: skip
    for one, other in zip(ODD, reversed(ODD), strict=True):
        recommender.follow(session, one, other, at=NOON)
        recommender.mute(session, one, "hashtag", odd_tag(other), at=NOON)
        recommender.mute(session, one, "sound", other, at=NOON)
        if one != other:
            recommender.block(session, one, other, at=NOON)
        recommender.record(session, one, other, "watch", at=NOON, key=one, completion=0.1)
        row = {"user": one, "video": other, "score": 1 / 3, "expires_at": NOON}
        recommender.upsert_candidates(session, "größe_1", [row, {**row, "video": one, "score": 0}])


QUICK_EXPORTS = {("sqlite", ".csv"), ("postgresql", ".jsonl.gz")}


@pytest.mark.parametrize(
    ("first", "ending"),
    [
        pytest.param(
            first,
            ending,
            marks=[] if (first, ending) in QUICK_EXPORTS else pytest.mark.slow,
        )
        for first in DATABASES
        for ending in (".csv", ".jsonl", ".csv.gz", ".jsonl.gz")
    ],
)
def test_an_export_imported_elsewhere_is_the_same_world(
    pair: dict[str, Engine], tmp_path: Path, first: str, ending: str
) -> None:
    source = pair[first]
    target = pair[next(kind for kind in DATABASES if kind != first)]
    try:
        load(source, DemoWorld(viewer_count=12, creator_count=24, video_count=80))
        run_transaction(source, odd_world)
        before = exported(source, tmp_path, ending)
        for kind in ROW_KINDS:
            report = import_file(target, kind, str(tmp_path / f"{kind}{ending}"))
            assert (report.inserted, report.rejected) == (report.read, 0)
        assert exported(target, tmp_path, ending) == before
        viewers = ["ana", "kai", *ODD]
        assert feeds(source, viewers) == feeds(target, viewers)
    finally:
        empty(source)
        empty(target)


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00|"), min_size=1, max_size=8
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=40)
@given(keys=st.lists(TEXTS, min_size=1, max_size=4, unique=True), caption=TEXTS)
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_any_text_comes_back_as_it_was(
    pair: dict[str, Engine], tmp_path: Path, ending: str, keys: list[str], caption: str
) -> None:
    engine, path = pair["sqlite"], tmp_path / f"videos{ending}"
    rows = [
        {"id": key, "creator": key, "caption": caption, "sound": key, "published_at": NOON}
        for key in keys
    ]
    tables = ["rec_videos", "rec_video_captions", "rec_sounds", "rec_users"]
    try:
        run_transaction(engine, lambda session: recommender.upsert_videos(session, rows))
        before = contents(engine, tables)
        export_file(engine, "videos", str(path))
        empty(engine)
        import_file(engine, "videos", str(path))
        assert contents(engine, tables) == before
    finally:
        empty(engine)


def contents(engine: Engine, tables: list[str]) -> list[list[Any]]:
    ids = {"id", "video_id", "creator_id", "sound_id"}
    with Session(engine) as session:
        return [
            rows_of(session, table, *(c.name for c in table.c if c.name not in ids))
            for table in (Base.metadata.tables[name] for name in tables)
        ]


def test_both_databases_export_the_same_bytes(pair: dict[str, Engine], tmp_path: Path) -> None:
    try:
        for engine in pair.values():
            load(engine, DemoWorld(viewer_count=6, creator_count=12, video_count=24))
        one, other = (exported(engine, tmp_path, ".csv") for engine in pair.values())
        assert one == other
    finally:
        for engine in pair.values():
            empty(engine)


def test_the_columns_are_those_of_the_interchange_format(engine: Engine, tmp_path: Path) -> None:
    load(engine, DemoWorld(viewer_count=2, creator_count=12, video_count=12))
    for kind in ROW_KINDS:
        export_file(engine, kind, str(tmp_path / "rows.csv"))
        export_file(engine, kind, str(tmp_path / "rows.jsonl"))
        with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as text:
            assert next(csv.reader(text)) == list(ROW_KINDS[kind].columns)
        for first in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()[:1]:
            assert list(json.loads(first)) == list(ROW_KINDS[kind].columns)


@only_sqlite
def test_an_export_without_rows_comes_back(engine: Engine, tmp_path: Path) -> None:
    for name in ("follows.csv", "follows.csv.gz", "follows.jsonl", "follows.jsonl.gz"):
        file = str(tmp_path / name)
        assert recommender.export_file(engine, "follows", file).written == 0
        assert recommender.import_file(engine, "follows", file).read == 0


def test_a_compressed_export_has_no_time_and_no_name(engine: Engine, tmp_path: Path) -> None:
    export_file(engine, "users", str(tmp_path / "users.csv.gz"))
    packed = (tmp_path / "users.csv.gz").read_bytes()
    assert packed[3:8] == bytes(5)
    assert gzip.decompress(packed).startswith(b"id,language,")


def test_only_the_owner_may_read_an_export(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    report = export_file(engine, "users", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (report.kind, report.file, report.written) == ("users", str(path), 0)


def test_an_export_that_fails_leaves_the_old_file(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "users.csv"
    path.write_text("old")
    run_transaction(engine, lambda session: recommender.upsert_users(session, [{"id": "u"}]))

    def fail(_value: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recommender.files.exporter._same", fail)
    with pytest.raises(recommender.StorageFailure, match="No space left on device"):
        export_file(engine, "users", str(path))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_can_be_written_is_said(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        export_file(engine, "users", str(tmp_path / "none" / "users.csv"))
    with pytest.raises(NotPermitted, match="is a folder"):
        export_file(engine, "users", str(tmp_path))
    with pytest.raises(InvalidValue, match=r"^kind: 'things' is not one of"):
        export_file(engine, "things", str(tmp_path / "x"))
    with pytest.raises(InvalidValue, match=r"^format: 'xml' is not one of"):
        export_file(engine, "users", str(tmp_path / "x"), form="xml")


def test_a_reader_that_has_seen_enough_is_no_error(engine: Engine, database: str) -> None:
    load(engine, DemoWorld(viewer_count=40, creator_count=48, video_count=400, watches_each=60))
    command = [sys.executable, "-m", "recommender", "export", "events", "-"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RECOMMENDER_DATABASE_URL": database},
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "id,user,video,kind,at,watch_ms,completion\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() in {0, 141, -13}


def test_names_keep_their_order_where_scores_tie(pair: dict[str, Engine], tmp_path: Path) -> None:
    rows = [{"id": key, "creator": "c", "published_at": NOON} for key in "zmakb"]
    source, target = pair["sqlite"], pair["postgresql"]
    try:
        run_transaction(source, lambda session: recommender.upsert_videos(session, rows))
        export_file(source, "videos", str(tmp_path / "videos.csv"))
        import_file(target, "videos", str(tmp_path / "videos.csv"))
        with Session(target) as session:
            assert names(preview(session, "u", as_of=NOON)) == list("bkamz")
    finally:
        empty(source)
        empty(target)
