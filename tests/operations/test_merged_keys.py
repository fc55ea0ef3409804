"""What is written under the key of a merged guest: it is the user's, and spoils nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    import_file,
    merge_users,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.models import Video
from recommender.operations.users import UserSummary, show_user
from tests.support.kinds import slow_on_postgresql
from tests.support.refresh_worlds import read
from tests.support.worlds import NOON

ANN = {"language": "en", "discoverable": False, "interests": ["cats"], "liked_sounds": ["s1"]}


def merged(engine: Engine, *others: str, **columns: Any) -> None:
    """Create a user and a guest without a profile, and merge them; create others."""
    users: list[Any] = [{"id": "ann", **columns}, *({"id": key} for key in ("guest", *others))]
    run_transaction(engine, lambda session: upsert_users(session, users))
    merge_users(engine, "guest", "ann")


def shown(engine: Engine, user: str = "ann") -> UserSummary:
    with Session(engine) as session:
        return show_user(session, user)


@slow_on_postgresql
def test_a_users_file_with_the_guests_row_only_fills_the_user(
    engine: Engine, tmp_path: Path
) -> None:
    merged(engine, **ANN)
    own = {"id": "secret", "creator": "ann", "published_at": NOON}
    run_transaction(engine, lambda session: upsert_videos(session, [own]))
    before, visibility = shown(engine), read(engine, Video.visibility)
    path = tmp_path / "users.csv"
    head = "id,language,country,device,created_at,interests,liked_sounds,discoverable\n"
    ann = "ann,en,,,,cats,s1,false\n"
    for guests, fills in (
        ("guest,,,,,,,\n", {}),
        ("guest,de,,,,dogs,s2,true\n", {}),
        ("guest,de,,tv,,,,true\nguest,,,phone,2026-01-01T12:00Z,,,\n",
         {"device": "tv", "created_at": NOON}),
    ):  # fmt: skip
        for rows in (ann + guests, guests + ann):
            path.write_text(head + (rows if not fills else guests))
            import_file(engine, "users", str(path))
            found = shown(engine)
            assert {n: getattr(found, n) for n in fills} == fills
            assert {**found.as_dict(), "device": None, "created_at": None} == before.as_dict()
            assert read(engine, Video.visibility) == visibility
