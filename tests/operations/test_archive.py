"""A person's archive has all that is stored of them, nothing of others, and can be imported."""

from __future__ import annotations

import gzip
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    InvalidValue,
    NotFound,
    UnknownUser,
    VideoRow,
    erase_user,
    explain,
    export_user,
    import_file,
    models,
    record,
    run_transaction,
)
from recommender.files.batches import ROW_KINDS
from recommender.formats import scalars
from recommender.models import User
from recommender.models.tables import SESSIONS, VIDEOS
from recommender.operations.archive import CONTAINED, NAMES, WHOSE
from recommender.operations.inventory import PER_USER
from tests.support.catalog_rows import just_before
from tests.support.erasures import MARK, marked_world
from tests.support.kinds import only_sqlite, slow_on_postgresql

Lines = dict[str, list[dict[str, Any]]]


def parsed(text: str) -> Lines:
    found: Lines = {}
    for line in text.splitlines():
        entry = json.loads(line)
        assert entry.keys() == {"kind", "row"}
        found.setdefault(entry["kind"], []).append(entry["row"])
    return found


def exported(engine: Engine, folder: Path, user: str = MARK) -> Lines:
    file = folder / f"{user}.jsonl"
    report = export_user(engine, user, str(file))
    found = parsed(file.read_text())
    assert report.written == sum(map(len, found.values()))
    return found


def test_an_archive_has_every_column_of_every_table_of_the_person(
    engine: Engine, tmp_path: Path
) -> None:
    owner = marked_world(engine)
    found = exported(engine, tmp_path)
    called = {**{f"{name}_id": name for name in NAMES}, "subject_id": "name", "score_key": "score"}
    with Session(engine) as session:
        for table in PER_USER:
            if table in CONTAINED:
                continue
            rows = found[table.name.removeprefix("rec_")]
            own = sa.select(sa.func.count()).where(table.c.user_id == owner)
            assert len(rows) == session.scalar(own)
            columns = [called.get(c.name, c.name) for c in table.c if c.name != "user_id"]
            assert all(list(row) == columns for row in rows)
    for kind in WHOSE:
        assert all(row.keys() == ROW_KINDS[kind].columns.keys() for row in found[kind])
    assert found["sounds"] == [{"sound": f"{MARK}-c"}]
    kinds = {table.name.removeprefix("rec_") for table in PER_USER if table not in CONTAINED}
    assert found.keys() == {"archive", "sounds", *WHOSE, *kinds}


def test_an_archive_says_what_the_person_is_did_and_made(engine: Engine, tmp_path: Path) -> None:
    marked_world(engine)
    found = exported(engine, tmp_path)
    (about,) = found["archive"]
    assert (about["user"], about["learned_since"]) == (MARK, "2025-12-31T19:21:00Z")
    assert found["users"] == [{
        "id": MARK, "language": MARK, "country": MARK, "device": MARK,
        "created_at": "2026-01-01T12:00:00Z", "interests": ["h1", f"{MARK}-a"],
        "liked_sounds": [f"{MARK}-b", "s1"], "discoverable": True,
    }]  # fmt: skip
    assert [video["id"] for video in found["videos"]] == [f"{MARK}-v{n}" for n in range(5)]
    assert {row["user"] for row in (*found["follows"], *found["events"])} == {MARK}
    assert [row["creator"] for row in found["follows"]] == ["u1", "u2"]
    noon = {"user": MARK, "at": "2026-01-01T12:00:00Z"}
    muted = [("creator", "u3"), ("hashtag", "h4"), ("hashtag", f"{MARK}-g"),
             ("keyword", f"no {MARK}"), ("sound", f"{MARK}-h")]  # fmt: skip
    assert found["mutes"] == [{**noon, "kind": kind, "value": value} for kind, value in muted]
    assert found["blocks"] == [{**noon, "other": "u5"}]
    assert "u0" not in json.dumps(found["blocks"])
    proposed = {"source": f"model_{MARK}", "user": MARK, "score": 0.5}
    ends = {"expires_at": "2026-01-01T12:09:00Z"}
    assert found["candidates"] == [
        {**proposed, "video": video, **ends} for video in ("v1", f"{MARK}-v1")
    ]
    (first, *_) = found["feed_items"]
    assert (first["profile"], first["position"]) == ("for_you@1", 1)
    assert first["sources"]
    assert first["signals"]
    assert 0 < first["score"] < 100
    assert len(found["feed_items"]) == 6
    assert {row["session"] for row in found["feed_items"]} == {
        row["session"] for row in found["feed_sessions"]
    }


@slow_on_postgresql
def test_an_archive_has_no_other_users_but_creators(engine: Engine, tmp_path: Path) -> None:
    marked_world(engine)
    run_transaction(
        engine,
        lambda s: [
            recommender.upsert_users(s, [{"id": "secret", "language": "xx"}]),
            recommender.follow(s, "secret", MARK),
            recommender.mute(s, "secret", "creator", MARK),
            recommender.block(s, "secret", MARK),
            recommender.record(s, "secret", f"{MARK}-v1", "like", key="secret-1"),
        ],
    )
    found = exported(engine, tmp_path)
    assert "secret" not in json.dumps(found)
    # Of the world's videos, and whom the person muted or blocked.
    creators = {f"u{n}" for n in range(4)} | {"u5"}
    named = {value for rows in found.values() for row in rows for value in row.values()
             if isinstance(value, str) and value.startswith("u")}  # fmt: skip
    assert named <= creators


@slow_on_postgresql
def test_an_archive_names_the_videos_that_a_session_carries(engine: Engine, tmp_path: Path) -> None:
    rows: list[VideoRow] = [{"id": f"v{number}", "creator": f"c{number}"} for number in range(9)]
    with Session(engine.execution_options(recommender_write=True)) as session, session.begin():
        recommender.upsert_users(session, [{"id": MARK}])
        recommender.upsert_videos(session, rows)
        page = recommender.for_you(session, MARK, limit=2)
        recommender.for_you(session, MARK, limit=2, cursor=page.cursor)
        recommender.for_you(session, MARK, limit=2)
        carried = session.scalars(sa.select(SESSIONS.c.contenders)).all()
        keys = {row.id: row.key for row in session.execute(sa.select(VIDEOS.c.id, VIDEOS.c.key))}
    (ids,) = (each["videos"] for each in carried if each)
    found = {
        row["session"]: row["contenders"] for row in exported(engine, tmp_path)["feed_sessions"]
    }
    assert found.pop(str(page.session)) == [keys[each] for each in ids]
    assert [*found.values()] == [None]


@slow_on_postgresql
def test_an_affinity_is_what_a_feed_of_that_moment_counts(engine: Engine, tmp_path: Path) -> None:
    marked_world(engine)
    found = exported(engine, tmp_path)
    scores = {(row["subject"], row["name"]): row["score"] for row in found["affinities"]}
    liked = max((score, name) for (of, name), score in scores.items() if of == "creator")
    assert {of for of, _ in scores} == {"creator", "hashtag", "sound"}
    with Session(engine) as session:
        video = session.scalars(
            sa.select(models.Video.key).join(models.Video.creator).where(User.key == liked[1])
        ).first()
        moment = scalars.time(found["archive"][0]["exported_at"])
        signal = explain(session, MARK, str(video), as_of=moment).item.signals["creator_affinity"]
    assert signal.value == pytest.approx(liked[0] / (abs(liked[0]) + 3), rel=1e-6)


@slow_on_postgresql
def test_an_archive_is_imported_as_it_was(engine: Engine, tmp_path: Path) -> None:
    marked_world(engine)
    before = exported(engine, tmp_path)
    file = tmp_path / f"{MARK}.jsonl"
    kept = file.read_text()
    erase_user(engine, MARK)
    with pytest.raises(UnknownUser):
        export_user(engine, MARK, str(tmp_path / "none.jsonl"))
    for kind in WHOSE:
        report = import_file(engine, kind, str(file))
        assert (report.read, report.inserted) == (len(before[kind]), len(before[kind]))
        assert import_file(engine, kind, str(file)).unchanged == report.read
    assert file.read_text() == kept
    after = exported(engine, tmp_path)
    for kind in (*WHOSE, "interactions"):
        names = ("id", "creator", "video", "value", "other")
        key = next(name for name in names if name in before[kind][0])
        assert sorted(after[kind], key=lambda row, k=key: row[k]) == sorted(
            before[kind], key=lambda row, k=key: row[k]
        )


def test_a_line_of_an_archive_that_is_bad_is_named(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(
        '{"kind": "archive", "row": {"user": "u"}}\n'
        '{"kind": "users", "row": {"id": "u", "none": 1}}\n'
        '{"kind": "users", "row": 7}\n'
        '{"kind": "users", "id": "u"}\n'
        '{"kind": "users", "row": {"id": "good"}}\n'
    )
    with pytest.raises(recommender.BadData, match="line 2: unknown column 'none'"):
        import_file(engine, "users", str(file))
    report = import_file(engine, "users", str(file), on_error="skip")
    assert (report.read, report.rejected, report.inserted) == (4, 3, 1)
    assert import_file(engine, "events", str(file), on_error="skip").read == 1


def test_an_archive_is_of_one_moment(engine: Engine, tmp_path: Path) -> None:
    marked_world(engine)

    def meanwhile() -> None:
        run_transaction(engine, lambda s: record(s, MARK, "v1", "share", key="late"))

    with just_before(engine, "SELECT rec_events.", meanwhile):
        first = exported(engine, tmp_path)
    second = exported(engine, tmp_path)
    shares = [sum(row["shares"] for row in each["interactions"]) for each in (first, second)]
    logged = [sum(e["kind"] == "share" for e in each["events"]) for each in (first, second)]
    assert shares == logged == [shares[0], shares[0] + 1]


@only_sqlite
def test_only_the_owner_may_read_an_archive(engine: Engine, tmp_path: Path) -> None:
    marked_world(engine)
    file = tmp_path / "person.jsonl.gz"
    file.touch(0o644)
    export_user(engine, MARK, str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert parsed(gzip.decompress(file.read_bytes()).decode())["users"][0]["id"] == MARK


@only_sqlite
def test_an_archive_that_cannot_be_leaves_no_file(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "none.jsonl"
    with pytest.raises(UnknownUser, match="there is no user 'nobody'"):
        export_user(engine, "nobody", str(file))
    with pytest.raises(InvalidValue, match="user: is empty"):
        export_user(engine, "", str(file))
    assert list(tmp_path.iterdir()) == []
    run_transaction(engine, lambda s: recommender.upsert_users(s, [{"id": "u"}]))
    with pytest.raises(NotFound, match="there is no folder"):
        export_user(engine, "u", str(tmp_path / "none" / "file"))


def test_somebody_who_did_nothing_has_an_archive_of_two_lines(
    engine: Engine, tmp_path: Path
) -> None:
    run_transaction(engine, lambda s: recommender.upsert_users(s, [{"id": "new"}]))
    assert exported(engine, tmp_path, "new").keys() == {"archive", "users"}
