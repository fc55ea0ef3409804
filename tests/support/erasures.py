"""A world with a person to erase, interrupted erasures, and the expected result."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from recommender import (
    block,
    dismiss,
    follow,
    for_you,
    record_many,
    refresh,
    reset_user,
    run_transaction,
    upsert_candidates,
    upsert_users,
    upsert_videos,
)
from recommender.models import Base, Interaction, PendingEvent, Sound, User, Video
from recommender.operations.inventory import OF_OTHERS, PER_USER
from tests.support.refresh_worlds import (
    GIVING,
    behave,
    people,
    read,
)
from tests.support.worlds import NOON, at, make_event, mute

MARK = "mrkqz"
"""A text that is part of every text of the person, and of no other text."""


KINDS = ("watch", "like", "share", "save", "comment", "not_interested", "report", "impression")


def marked_world(engine: Engine) -> int:
    """Create a person with rows in every table, and other active users; return the id."""
    people(engine, 6, 12)
    behave(engine, 6, 12, 150, kinds=GIVING)

    def make(session: Session) -> None:
        upsert_users(session, [{
            "id": MARK, "language": MARK, "country": MARK, "device": MARK, "created_at": NOON,
            "interests": [f"{MARK}-a", "h1"], "liked_sounds": [f"{MARK}-b", "s1"],
        }])  # fmt: skip
        upsert_videos(session, [
            {"id": f"{MARK}-v{n}", "creator": MARK, "published_at": at(n), "language": MARK,
             "country": MARK, "duration_ms": 9_000, "sound": f"{MARK}-{'cd'[n % 2]}",
             "orientation": "square", "hashtags": [f"{MARK}-e{n}", "h2"],
             "caption": f"{MARK} says {MARK} to h2 #{MARK}f"}
            for n in range(5)
        ])  # fmt: skip
        owned = sa.update(Sound).where(Sound.key == f"{MARK}-c")
        mine = sa.select(User.id).where(User.key == MARK).scalar_subquery()
        session.execute(owned.values(creator_id=mine))
        for other in ("u1", "u2"):
            follow(session, MARK, other, at=NOON)
            follow(session, other, MARK, at=NOON)
        mute(session, "u3", "creator", MARK, at=NOON)
        dismiss(session, MARK, "u2")
        dismiss(session, "u4", MARK)
        block(session, MARK, "u5", at=NOON)
        block(session, "u0", MARK, at=NOON)
        for kind, value in (("creator", "u3"), ("hashtag", f"{MARK}-g"), ("hashtag", "h4"),
                            ("sound", f"{MARK}-h"), ("keyword", f"no {MARK}")):  # fmt: skip
            mute(session, MARK, kind, value, at=NOON)
        first = for_you(session, MARK, limit=3, as_of=at(10))
        for_you(session, MARK, limit=3, as_of=at(10), cursor=first.cursor)
        for_you(session, "u4", limit=9, as_of=at(10))

    run_transaction(engine, make)
    do_things(engine, "counted")
    owner = run_transaction(engine, reset)
    run_transaction(engine, propose)
    refresh(engine, as_of=at(99))
    do_things(engine, "pending")
    behave(engine, 6, 12, 20, seed=2, kinds=GIVING)
    return owner


def reset(session: Session) -> int:
    """Reset the affinities of the person to an old date, and add an alias; return the id."""
    reset_user(session, MARK, at=at(-999))
    row_id = session.scalars(sa.select(User.id).where(User.key == MARK)).one()
    session.add(User(key=f"{MARK}-alias", merged_into=row_id, merged_at=NOON))
    return row_id


def propose(session: Session) -> None:
    """Write candidates from outside for the person and of the person's videos."""
    pairs = ((MARK, "v1"), (MARK, f"{MARK}-v1"), ("u1", f"{MARK}-v1"))
    rows = [{"user": u, "video": v, "score": 0.5, "expires_at": at(9)} for u, v in pairs]
    upsert_candidates(session, f"model_{MARK}", rows[:2])
    upsert_candidates(session, "model", rows[2:])


def do_things(engine: Engine, when: str) -> None:
    """Record views by the person and of the person's videos, engaged or not."""
    shift = 0 if when == "counted" else 4
    events = [
        make_event("watch", f"v{n + shift}", MARK, at=at(20 + n + 999 * m),
                   key=f"{MARK}-{when}-{n}-{m}", watch_ms=(20_000, 1_000)[n % 3 == 2])
        for n in range(7) for m in range(2)
    ]  # fmt: skip
    events += [
        make_event(kind, "v0", MARK, at=at(40), key=f"{MARK}-{when}-{kind}") for kind in KINDS
    ]
    events += [
        make_event("watch", f"{MARK}-v{n}", f"u{n}", at=at(30), key=f"{when}-{n}", watch_ms=20_000)
        for n in range(4)
    ]
    run_transaction(engine, lambda session: record_many(session, events))


def rows_with(session: Session, column: Any, value: Any) -> int:
    return session.scalar(sa.select(sa.func.count()).where(column.in_(value))) or 0


def counted(engine: Engine) -> dict[int, tuple[int, int]]:
    """Return the expected statistics: viewers per video, without pending events."""
    found: dict[int, list[int]] = {}
    state, waiting = Interaction, PendingEvent
    is_positive = state.engaged_at.is_not(None)
    for video_id, impressions, positive, _ in read(
        engine, state.video_id, state.impressions, is_positive, state.user_id
    ):
        pair = found.setdefault(video_id, [0, 0])
        pair[0] += bool(impressions or positive)
        pair[1] += bool(positive)
    for video_id, impressions, engaged, _ in read(
        engine, waiting.video_id, waiting.impressions, waiting.engaged_views, waiting.key
    ):
        found[video_id][0] -= impressions
        found[video_id][1] -= engaged
    return {video_id: (v, e) for video_id, (v, e) in found.items() if v or e}


def dumped(engine: Engine) -> str:
    """Return all that the database keeps: a SQLite file's bytes, or the text of every row."""
    if engine.dialect.name == "sqlite":
        file = Path(str(engine.url.database))
        engine.dispose()
        with sqlite3.connect(file, isolation_level=None) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return "".join(f.read_bytes().decode("latin-1") for f in file.parent.glob(f"{file.name}*"))
    with engine.connect() as connection:
        return "\n".join(
            str(row[0])
            for table in Base.metadata.sorted_tables
            for row in connection.execute(sa.select(sa.cast(table.table_valued(), sa.Text)))
        )


class Killed(Exception):
    """The simulated end of the process."""


@contextmanager
def killed_after(engine: Engine, statements: int) -> Iterator[None]:
    """Raise `Killed` after the given number of statements."""
    sent = 0

    def count(*_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == statements:
            raise Killed

    event.listen(engine, "after_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(engine, "after_cursor_execute", count)


def is_gone(engine: Engine, owner: int) -> None:
    """Check that no row of a user is left, nor any row about the user."""
    with Session(engine) as session:
        for column in (*(table.c.user_id for table in PER_USER), *OF_OTHERS):
            assert rows_with(session, column, [owner]) == 0, column
        shown = sa.select(Video.key).where(Video.creator_id == owner, Video.status != "removed")
        assert session.scalars(shown).all() == []
