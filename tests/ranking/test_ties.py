"""Cuts among equal values do not depend on ids that an import gives anew."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import resolve
from recommender.ingest.upserts import get_or_create_ids
from recommender.models import Video
from recommender.models.tables import AFFINITIES, HASHTAGS, SOUNDS, USERS
from recommender.ranking import interests, sources
from recommender.ranking.viewer import Viewer
from recommender.settings import Settings
from tests.support.worlds import NOON, at, make_user, make_video

SCORES = {"z": 1.0, "y": 0.5, "b": 0.5, "x": 0.5, "a": 0.5, "c": 0.25}
"""Affinities by name, in the order of their ids."""

BEST = {1: "z", 2: "za", 3: "zab", 4: "zabx", 5: "zabxy", 6: "zabxyc", 9: "zabxyc"}
"""The names with the largest affinities, by their number."""


@pytest.mark.parametrize(("subject", "table"), [("hashtag", HASHTAGS), ("sound", SOUNDS)])
def test_equal_affinities_are_cut_by_name(session: Session, subject: str, table: sa.Table) -> None:
    make_user(session)
    ids = get_or_create_ids(session, table, SCORES)
    (user_id,) = get_or_create_ids(session, USERS, ["viewer"]).values()
    session.execute(
        sa.insert(AFFINITIES),
        [
            {"user_id": user_id, "subject": subject, "subject_id": ids[name], "score": score}
            for name, score in SCORES.items()
        ],
    )
    names = {row_id: name for name, row_id in ids.items()}
    for limit, expected in BEST.items():
        request = resolve(session, "viewer", settings=Settings(interests=limit))
        chosen = session.scalars(interests.most_liked(Viewer.of(request), subject))
        assert {names[row_id] for row_id in chosen} == set(expected)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (Video.creator_id, ("b", "ba", "bac", "baec", "baecd")),
        (Video.sound_id, ("a", "ba", "bac", "baec", "baecd")),
    ],
)
def test_creators_and_sounds_with_equally_new_videos_are_cut_by_id_and_by_name(
    session: Session, monkeypatch: pytest.MonkeyPatch, column: Any, expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sources, "SCAN_FACTOR", 1)
    make_user(session)
    for table in (USERS, SOUNDS):
        get_or_create_ids(session, table, ["d", "b", "a", "c", "e", "idle"])
    for key in ("c", "e", "a", "b", "d"):
        make_video(session, f"old {key}", creator=key, sound=key, published_at=at(-99))
        made = at(-1 - (key == "d"))
        make_video(session, key, creator=key, sound=key, published_at=made)
    viewer = Viewer.of(resolve(session, "viewer", as_of=NOON))
    keys = dict(map(tuple, session.execute(sa.select(Video.id, Video.key))))
    table = USERS if column is Video.creator_id else SOUNDS
    for number, found in enumerate(expected, start=1):
        wanted = sa.select(table.c.id).subquery("wanted")
        newest = sources.newest_of(viewer, column, wanted, number, "any_since")
        assert [keys[row_id] for row_id in session.scalars(newest)] == list(found)
