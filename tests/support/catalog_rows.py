"""Users and videos as they are stored, and the statements that write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from recommender.models.tables import (
    CAPTIONS,
    HASHTAGS,
    SOUNDS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEOS,
)


def videos(session: Session) -> dict[str, dict[str, Any]]:
    """Return all videos as interchange rows, with the listing times of their hashtags."""
    names = (
        "language",
        "country",
        "duration_ms",
        "orientation",
        "status",
        "published_at",
        "format",
    )
    query = (
        sa.select(
            VIDEOS.c.id, VIDEOS.c.key, *(VIDEOS.c[name] for name in names), CAPTIONS.c.caption,
            SOUNDS.c.key.label("sound"), USERS.c.key.label("creator"),
        )
        .outerjoin(USERS, USERS.c.id == VIDEOS.c.creator_id)
        .outerjoin(SOUNDS, SOUNDS.c.id == VIDEOS.c.sound_id)
        .outerjoin(CAPTIONS, CAPTIONS.c.video_id == VIDEOS.c.id)
    )  # fmt: skip
    hashtags = members(session, VIDEO_HASHTAGS, "video_id", HASHTAGS, "hashtag_id")
    listed: dict[int, set[Any]] = {}
    for row in session.execute(sa.select(VIDEO_HASHTAGS)):
        listed.setdefault(row.video_id, set()).add(row.listed_at)
    shown = (*names, "caption", "sound", "creator")
    return {
        row.key: {
            **{name: getattr(row, name) for name in shown},
            "hashtags": hashtags.get(row.id, set()),
            "listed_at": listed.get(row.id, set()),
        }
        for row in session.execute(query)
    }


def members(
    session: Session, table: sa.Table, owner: str, named: sa.Table, member: str
) -> dict[int, set[str]]:
    name = named.c.get("name", named.c.get("key"))
    query = sa.select(table.c[owner], name).join(named, named.c.id == table.c[member])
    found: dict[int, set[str]] = {}
    for owner_id, text in session.execute(query):
        found.setdefault(owner_id, set()).add(text)
    return found


def in_order(session: Session, table: sa.Table, column: str = "key") -> list[str]:
    return list(session.scalars(sa.select(table.c[column]).order_by(table.c.id)))


def writes(sent: list[str]) -> list[str]:
    return [statement for statement in sent if not statement.startswith("SELECT")]


@contextmanager
def just_before(engine: Engine, beginning: str, do: Callable[[], Any]) -> Iterator[None]:
    """Call a function once, just before the first statement with this beginning."""
    done: list[bool] = []

    def watch(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(beginning) and not done:
            done.append(True)
            do()

    event.listen(engine, "before_cursor_execute", watch)
    yield
    event.remove(engine, "before_cursor_execute", watch)
    assert done
