"""Make small worlds in few lines, and read pages as lists of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

import recommender
import recommender.files.batches
import recommender.files.reader
from recommender import Event, FeedPage, Registry
from recommender.database.registered import OPTION
from recommender.feed.items import placed_items
from recommender.feed.places import in_order
from recommender.feed.statements import Candidates, page_rows
from recommender.files.layout import Layout
from recommender.ingest.upserts import get_or_create_ids
from recommender.models import Follow, User
from recommender.models.tables import SOUNDS
from recommender.ranking.scoring import ranked

EXAMPLE = Path(__file__).parents[1] / "example"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

_numbers = count()


def at(minutes: float = 0) -> datetime:
    """Return noon of 1 January 2026 plus some minutes."""
    return NOON + timedelta(minutes=minutes)


def make_user(session: Session, key: str = "viewer", **columns: Any) -> str:
    recommender.upsert_users(session, [{"id": key, **columns}])
    return key


def make_video(session: Session, key: str, **columns: Any) -> str:
    row = {"creator": "somebody", "published_at": at(-60), **columns, "id": key}
    recommender.upsert_videos(session, [row])
    return key


def make_videos(session: Session, *keys: str, **columns: Any) -> None:
    for key in keys:
        make_video(session, key, **columns)


def follow(session: Session, user: str, creator: str, **options: Any) -> bool:
    """Let a user follow a creator, who is created first if missing."""
    make_user(session, creator)
    return recommender.follow(session, user, creator, **options)


def follow_oneself(session: Session, user: str) -> None:
    """Let a user follow themselves, as earlier versions allowed."""
    (row_id,) = session.scalars(sa.select(User.id).where(User.key == user))
    session.add(Follow(user_id=row_id, creator_id=row_id))
    session.flush()


def mute(session: Session, user: str, kind: str, value: str, **options: Any) -> bool:
    """Mute something, which is created first if missing."""
    if kind == "creator":
        make_user(session, value)
    if kind == "sound":
        get_or_create_ids(session, SOUNDS, [value])
    return recommender.mute(session, user, kind, value, **options)


def make_event(kind: str, video: str = "v", user: str = "viewer", **body: Any) -> Event:
    body.setdefault("key", f"event-{next(_numbers)}")
    body.setdefault("at", at())
    return Event(user=user, video=video, kind=kind, **body)


def record(session: Session, kind: str, video: str, user: str = "viewer", **body: Any) -> None:
    recommender.record_many(session, [make_event(kind, video, user, **body)])


def register(session: Session, registry: Registry) -> None:
    """Hand a registry to the engine of a test's session, for this test."""
    session.connection().execution_options(**{OPTION: registry})


def names(page: FeedPage) -> list[str]:
    return [item.video for item in page.items]


def preview(session: Session, user: str = "viewer", **options: Any) -> FeedPage:
    """Return a page of For You without recording it as served."""
    return recommender.for_you(session, user, record=False, **options)


def unspread(session: Session, user: str = "viewer", **options: Any) -> FeedPage:
    """Return the first candidates by score, before the rules of diversity apply."""
    request = recommender.resolve(session, user, **options)
    candidates = Candidates(page_rows(session, request, ranked, "unspread").all(), shown=True)
    items = placed_items(session, request, candidates, in_order(candidates))
    return FeedPage(request, items)


def scores(page: FeedPage) -> dict[str, float]:
    return {item.video: item.score for item in page.items}


def worked_example(session: Session) -> None:
    """Load the worked example of the README."""
    for kind in ("users", "videos", "follows", "events"):
        with (EXAMPLE / f"{kind}.csv").open("rb") as binary:
            rows = list(recommender.files.reader.read_rows(_layout(kind), binary))
        _apply(session, kind, [each.row for each in rows])


def _layout(kind: str) -> Layout:
    return Layout(recommender.files.batches.ROW_KINDS[kind].columns)


def _apply(session: Session, kind: str, rows: Sequence[Any]) -> None:
    spec = recommender.files.batches.ROW_KINDS[kind]
    assert not spec.apply(session, [spec.parse(row) for row in rows]).rejected


@contextmanager
def counted_statements(bind: Engine | sa.Connection) -> Iterator[list[str]]:
    """Collect the statements that are sent, without savepoints."""
    sent: list[str] = []

    def count_one(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN", "COMMIT")):
            sent.append(statement)

    event.listen(bind, "before_cursor_execute", count_one)
    try:
        yield sent
    finally:
        event.remove(bind, "before_cursor_execute", count_one)


def writes_of_a_page(session: Session) -> int:
    """Return the number of statements that write a served page."""
    return 3 if session.get_bind().dialect.name == "sqlite" else 1


def rows_of(session: Session, table: sa.Table, *columns: str) -> list[tuple[Any, ...]]:
    """Return the sorted rows of a table; all columns if none is named."""
    chosen: Iterable[sa.Column[Any]] = [table.c[name] for name in columns] or table.c
    return sorted(tuple(row) for row in session.execute(sa.select(*chosen)))
