"""Every table and column has a rule in a slice, and nothing readable is left in its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, NotFound, Settings, UnknownUser, run_transaction, slice_users
from recommender.models.tables import AFFINITIES, USERS
from recommender.models.types import Base
from recommender.operations.inventory import OF_OTHERS, OWNERS
from recommender.slices import slice as slices
from recommender.slices.rules import KEPT, LEFT_OUT, NAMED, REPLACED, RULES, WHOLE
from tests.support.kinds import only_sqlite
from tests.support.worlds import NOON, at, follow, make_user, make_video, mute, record

TEXTS = (sa.Text, sa.JSON, sa.Uuid)

COPIED = {*WHOLE, *(rule.table for rule in RULES)}


def test_every_table_is_copied_or_left_out_with_a_reason() -> None:
    assert COPIED | set(LEFT_OUT) == set(Base.metadata.tables.values())
    assert not COPIED & set(LEFT_OUT)
    assert len(RULES) + len(WHOLE) == len(COPIED)


def test_every_column_of_text_is_replaced_or_kept() -> None:
    """Words of the numbers in `rec_video_terms` are text too."""
    texts = {
        column
        for table in COPIED
        for column in table.c
        if isinstance(column.type, TEXTS) or column.name == "term"
    }
    assert texts - set(REPLACED) == set(KEPT)


def test_every_id_of_a_user_a_sound_or_a_hashtag_brings_its_row() -> None:
    names = ("creator_id", "other_id", "sound_id", "hashtag_id")
    ids = {column for table in COPIED for column in table.c if column.name in names}
    assert ids - set(REPLACED) == {column for column in NAMED if column.name in names}
    assert {*OF_OTHERS, *OWNERS} - set(REPLACED) <= {*NAMED, *(c for t in LEFT_OUT for c in t.c)}
    assert AFFINITIES.c.subject_id.name not in names  # `SUBJECTS` is for it


MARK = "zebra"


def make_world(engine: Engine) -> None:
    """Make a world in which every text that a person chose has one word in it."""

    def make(session: Session) -> None:
        columns = {"language": "en", "interests": [f"{MARK}tag"], "liked_sounds": [f"{MARK}song"]}
        make_user(session, f"{MARK}1", **columns)
        for number in range(4):
            make_video(
                session, f"{MARK}v{number}", creator=f"{MARK}creator{number}",
                caption=f"{MARK}{number // 2} {MARK}ling {number} #{MARK}tag", sound=f"{MARK}song",
            )  # fmt: skip
        follow(session, f"{MARK}1", f"{MARK}creator1")
        for kind, value in (("keyword", f"{MARK}ling 2"), ("creator", f"{MARK}creator3")):
            mute(session, f"{MARK}1", kind, value)
        for kind in ("watch", "like"):
            record(session, kind, f"{MARK}v0", f"{MARK}1", key=f"{MARK}{kind}", at=at(-9))
            record(session, kind, f"{MARK}v1", f"{MARK}creator1", key=f"{MARK}{kind}", at=at(-9))
        weights = {"caption": 1.0, "social": 1.0}
        recommender.create_profile(session, "mine", weights, author=MARK, note=f"for {MARK}")
        recommender.for_you(session, f"{MARK}1", limit=1, as_of=at(-5))

    run_transaction(engine, make)
    recommender.refresh(engine, as_of=at(-4))


@pytest.mark.usefixtures("world")
def test_nothing_readable_is_left(engine: Engine, tmp_path: Path) -> None:
    file, map_file = tmp_path / "slice.db", tmp_path / "map.json"
    result = slice_users(
        engine, [f"{MARK}1"], str(file), as_of=NOON, map_file=str(map_file),
        settings=Settings(common_term=1),
    )  # fmt: skip
    assert result.rows["rec_interactions"] == 1
    assert result.rows["rec_recent_engagements"] == 1
    assert result.rows["rec_muted_keywords"] == 1
    assert result.rows["rec_feed_items"] == 1
    assert result.bytes == file.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "slice.db"]
    assert file.stat().st_mode & 0o077 == map_file.stat().st_mode & 0o077 == 0
    stored = file.read_bytes().lower()
    assert MARK.encode() not in stored
    (session_id,) = json.loads(map_file.read_text())["sessions"].values()
    assert session_id.replace("-", "").encode() not in stored
    engine = recommender.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        terms = connection.scalars(sa.text("SELECT term FROM rec_video_terms")).all()
        words = connection.scalars(sa.text("SELECT words FROM rec_video_captions")).all()
        others = connection.execute(sa.select(USERS).where(USERS.c.language.is_(None))).all()
    engine.dispose()
    assert 0 < max(terms) < 10
    assert sorted(words) == ["", "", "", " word1 "]
    assert len(others) == 4
    assert {row[2:8] for row in others} == {(None,) * 6}


@pytest.fixture
def world() -> None:
    """Ask for a copy of `make_world`."""


REFUSED: dict[str, tuple[list[Any], str, type[Exception], str]] = {
    "stranger": (["zebra1", "nobody"], "new.db", UnknownUser, "there is no user 'nobody'"),
    "no user": ([], "new.db", InvalidValue, "users: 0 are given, not 1 to 100"),
    "malformed": ([""], "new.db", InvalidValue, "user: is empty"),
    "one text": ("zebra1", "new.db", InvalidValue, "users: 'zebra1' is no list of keys"),  # type: ignore[dict-item]
    "there": (["zebra1"], "there.db", InvalidValue, "exists: name another"),
    "folder": (["zebra1"], "none/new.db", NotFound, "there is no folder"),
}


@only_sqlite
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("world")
def test_what_cannot_be_sliced_is_refused(engine: Engine, tmp_path: Path, case: str) -> None:
    users, file, error, message = REFUSED[case]
    (tmp_path / "there.db").write_text("kept")
    with pytest.raises(error, match=message):
        slice_users(engine, users, str(tmp_path / file), as_of=NOON)
    assert [path.name for path in tmp_path.iterdir()] == ["there.db"]
    assert (tmp_path / "there.db").read_text() == "kept"


@only_sqlite
@pytest.mark.usefixtures("world")
def test_nothing_is_left_of_a_slice_that_fails(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slices, "_name", fail)
    with pytest.raises(KeyboardInterrupt):
        slice_users(engine, ["zebra1"], str(tmp_path / "new.db"), as_of=NOON)
    assert list(tmp_path.iterdir()) == []


@only_sqlite
@pytest.mark.usefixtures("world")
def test_a_merged_user_is_sliced_and_an_erased_one_refused(engine: Engine, tmp_path: Path) -> None:
    run_transaction(engine, lambda session: make_user(session, "guest"))
    recommender.merge_users(engine, "guest", "zebra1")
    keys = ["guest", "zebra1"]
    result = slice_users(engine, keys, str(tmp_path / "one.db"), as_of=NOON)
    assert list(result.users) == keys
    assert len(set(result.users.values())) == 1
    recommender.erase_user(engine, "zebra1")
    for key in keys:
        with pytest.raises(UnknownUser):
            slice_users(engine, [key], str(tmp_path / "two.db"), as_of=NOON)
