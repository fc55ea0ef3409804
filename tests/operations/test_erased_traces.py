"""No word that an erased person ever gave is left: in no table, no dump, no file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    block,
    erase_user,
    follow,
    for_you,
    mute,
    record_many,
    refresh,
    run_transaction,
    unblock,
    unfollow,
    unmute,
    upsert_users,
    upsert_videos,
)
from recommender.database import engine as engines
from recommender.ingest.follows import apply_follows
from recommender.models import Base, User
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.refresh_worlds import people, read
from tests.support.worlds import NOON, at, make_event

WORD = "qzw"
"""A text that is part of every word of the person, and of no other text."""

Act = Callable[[Session], Any]


def live(engine: Engine) -> None:
    """Let a person give words of every kind, and give most of them up again."""
    people(engine, 3, 6)
    for act in ACTS:
        run_transaction(engine, act)
    refresh(engine, as_of=at(99))


def import_follows(session: Session, user: str, *creators: str) -> None:
    apply_follows(session, [{"user": user, "creator": creator} for creator in creators])


def own_video(session: Session, **columns: Any) -> None:
    row = {"id": f"{WORD} video", "creator": WORD, "published_at": NOON, **columns}
    upsert_videos(session, [row])


ACTS: tuple[Act, ...] = (
    lambda s: upsert_users(s, [{
        "id": WORD, "language": f"{WORD} language", "country": f"{WORD} country",
        "device": f"{WORD} device", "interests": [f"{WORD} interest"],
        "liked_sounds": [f"{WORD} liked", f"{WORD} given up", f"{WORD} muted"],
    }]),
    lambda s: import_follows(s, WORD, f"{WORD} followed", f"{WORD} unfollowed", f"{WORD} mute"),
    lambda s: unfollow(s, WORD, f"{WORD} unfollowed"),
    lambda s: mute(s, WORD, "creator", f"{WORD} mute"),
    lambda s: unfollow(s, WORD, f"{WORD} mute"),
    lambda s: unmute(s, WORD, "creator", f"{WORD} mute"),
    lambda s: import_follows(s, WORD, f"{WORD} blocked"),
    lambda s: unfollow(s, WORD, f"{WORD} blocked"),
    lambda s: block(s, WORD, f"{WORD} blocked"),
    lambda s: unblock(s, WORD, f"{WORD} blocked"),
    lambda s: mute(s, WORD, "hashtag", f"{WORD} hashtag"),
    lambda s: mute(s, WORD, "hashtag", f"{WORD} unmuted hashtag"),
    lambda s: unmute(s, WORD, "hashtag", f"{WORD} unmuted hashtag"),
    lambda s: mute(s, WORD, "sound", f"{WORD} muted"),
    lambda s: unmute(s, WORD, "sound", f"{WORD} muted"),
    lambda s: mute(s, WORD, "keyword", f"{WORD} keyword"),
    lambda s: mute(s, WORD, "keyword", f"{WORD} unmuted keyword"),
    lambda s: unmute(s, WORD, "keyword", f"{WORD} unmuted keyword"),
    lambda s: upsert_users(s, [{"id": WORD, "interests": [], "liked_sounds": [f"{WORD} liked"]}]),
    lambda s: own_video(s, caption=f"{WORD} caption #{WORD}tag", hashtags=[f"{WORD} listed"],
                        sound=f"{WORD} sound", language=f"{WORD} spoken"),
    lambda s: own_video(s, caption=f"{WORD} other", hashtags=[f"{WORD} else"], sound=None),
    lambda s: record_many(s, [
        make_event("like", "v1", WORD, key=f"{WORD} event"),
        make_event("unlike", "v1", WORD, key=f"{WORD} again"),
        make_event("watch", f"{WORD} video", "u1", watch_ms=20_000),
    ]),
    lambda s: for_you(s, WORD, as_of=at(9)),
)  # fmt: skip
"""What the person does. The words that they give up are in no row of theirs at the end."""


def tables_as_text(engine: Engine) -> str:
    with engine.connect() as connection:
        return "\n".join(
            repr(row) for table in Base.metadata.sorted_tables
            for row in connection.execute(sa.select(table))
        )  # fmt: skip


def files_as_text(engine: Engine) -> dict[str, str]:
    """Return the file of a SQLite database and its WAL, after VACUUM, while an engine is open."""
    file = Path(str(engine.url.database))
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    files = file.parent.glob(f"{file.name}*")
    return {each.name: each.read_bytes().decode("latin-1").lower() for each in files}


def test_no_word_of_an_erased_person_is_left(engine: Engine) -> None:
    live(engine)
    before = tables_as_text(engine)
    assert before.count(WORD) > 20
    receipt = erase_user(engine, WORD)
    assert WORD not in tables_as_text(engine)
    assert tables_as_text(engine).count("\n") < before.count("\n")
    expected = {"users": 5, "videos": 1, "hashtags": 6, "sounds": 4}
    assert {name: receipt.rows[name] for name in expected} == expected
    assert {"u0", "u1", "u2"} < {key for (key,) in read(engine, User.key)}
    if engine.dialect.name == "sqlite":
        wal = Path(f"{engine.url.database}-wal")
        assert (receipt.wal_cleared, wal.stat().st_size) == (True, 0)
        assert not [name for name, text in files_as_text(engine).items() if WORD in text]


@only_sqlite
def test_a_reader_keeps_the_wal(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WAL_WAIT_MS", 1)
    people(engine, 2, 1)
    with engine.connect() as reader:
        reader.execute(sa.select(User.key)).all()
        assert erase_user(engine, "u0").wal_cleared is False
    assert erase_user(engine, "u1").wal_cleared is True
    in_memory = sa.create_engine("sqlite://")
    assert engines.clear_wal(in_memory) is True
    in_memory.dispose()


def publish_for_a_while(session: Session, key: str) -> None:
    for creator in (key, "u2"):
        upsert_videos(session, [{"id": "own", "creator": creator, "published_at": NOON}])


def follow_for_a_while(session: Session, key: str) -> None:
    follow(session, key, "u2")
    unfollow(session, key, "u2")


def block_for_a_while(session: Session, key: str) -> None:
    block(session, key, "u2")
    unblock(session, key, "u2")


def mute_for_a_while(session: Session, key: str) -> None:
    mute(session, key, "keyword", "abc")
    unmute(session, key, "keyword", "abc")


def import_a_follow_for_a_while(session: Session, key: str) -> None:
    import_follows(session, key, "u2")
    unfollow(session, key, "u2")


BY_MORE: dict[str, Callable[[Session, str], Any]] = {
    "host": lambda s, key: upsert_users(s, [{"id": key}]),
    "another follower": lambda s, key: import_follows(s, "u1", key),
    "watched": lambda s, key: record_many(s, [make_event("watch", "v0", key)]),
    "published": publish_for_a_while,
    "followed": follow_for_a_while,
    "muted": mute_for_a_while,
    "blocked": block_for_a_while,
    "imported": import_a_follow_for_a_while,
}
"""What makes a user more than the name in a follow."""


@slow_on_postgresql
def test_a_user_who_is_more_than_the_name_in_a_follow_stays(engine: Engine) -> None:
    people(engine, 3, 1)
    run_transaction(engine, lambda s: upsert_users(s, [{"id": "host before"}]))
    named = ("host before", *BY_MORE, "nobody", "nobody again")
    run_transaction(engine, lambda s: import_follows(s, "u0", *named))
    for name, act in BY_MORE.items():
        run_transaction(engine, lambda s, act=act, name=name: act(s, name))
    run_transaction(engine, lambda s: unfollow(s, "u0", "nobody again"))
    assert erase_user(engine, "u0").rows["users"] == 3
    keys = {key for (key,) in read(engine, User.key) if not key.startswith("erased:")}
    assert keys & set(named) == {"host before", *BY_MORE}
    assert run_transaction(engine, lambda s: upsert_users(s, [{"id": "nobody"}])).inserted == 1
