"""Candidates from outside as a source and as a signal of a page."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender.models import OutsideCandidate, User, Video
from recommender.ranking.outside import MAX_SCANNED, outside_signal, outside_source
from recommender.ranking.viewer import Viewer
from tests.support.worlds import NOON, at, make_user, make_videos

SECOND = timedelta(seconds=1)

PROPOSED: list[tuple[str, str, float, datetime | None]] = [
    # user, video, score, end
    ("ann", "a", 0.5, None), ("ann", "b", 0.9, NOON + SECOND), ("ann", "c", 0.5, at(9)),
    ("ann", "d", 1.0, NOON), ("ann", "e", 0.0, None), ("bob", "f", 0.8, None),
]  # fmt: skip


@pytest.fixture
def world(session: Session) -> Session:
    """A session with candidates of two users, from two sources."""
    for user in ("ann", "bob"):
        make_user(session, user)
    make_videos(session, *"abcdefg")
    for user, video, score, end in PROPOSED:
        row = {"user": user, "video": video, "score": score, "expires_at": end}
        recommender.upsert_candidates(session, "model", [row])
    other = {"user": "ann", "video": "g", "score": 0.7}
    recommender.upsert_candidates(session, "Model", [other])
    return session


def viewer(session: Session, user: str) -> Viewer:
    return Viewer.of(recommender.resolve(session, user, as_of=NOON))


def found(session: Session, user: str, name: str = "model", quota: int = 100) -> list[str]:
    """Return the keys of the videos that a source finds, in its order."""
    source = outside_source(name, quota)
    assert (source.name, source.quota, source.is_listed) == (name, quota, True)
    ids = session.scalars(source.select(viewer(session, user), quota)).all()
    keys = {row.id: row.key for row in session.execute(sa.select(Video.id, Video.key))}
    return [keys[video_id] for video_id in ids]


def test_a_source_finds_the_viewers_current_candidates_best_first(world: Session) -> None:
    assert found(world, "ann") == ["b", "c", "a", "e"]
    assert found(world, "ann", "Model") == ["g"]
    assert found(world, "bob") == ["f"]
    assert found(world, "nobody") == found(world, "ann", "other") == []


def test_a_signal_is_the_stored_score_or_zero(world: Session) -> None:
    signals = {outside_signal("model"): 1.0, outside_signal("Model_"): 1.0}
    for user in ("ann", "bob", "nobody"):
        page = recommender.rank(world, user, list("abcdefg"), signals=signals, as_of=NOON)
        is_current = {"ann": "abce", "bob": "f", "nobody": ""}[user]
        scores = {v: score for u, v, score, _ in PROPOSED if u == user and v in is_current}
        values = {item.video: item.signals["model"].value for item in page.items}
        assert values == {video: scores.get(video, 0.0) for video in "abcdefg"}
        assert {item.signals["Model_"].value for item in page.items} == {0.0}


def test_the_reason_is_a_sentence_for_users(world: Session) -> None:
    given: dict[str, Any] = {"signals": {outside_signal("Model"): 9.0}, "as_of": NOON}
    found = recommender.explain(world, "ann", "g", **given)
    assert found.reason.startswith("Because it was picked for you")
    assert (found.reasons[0].kind, found.reasons[0].subject) == ("signal", "Model")


def test_a_page_reads_a_bounded_number_of_many_candidates(session: Session, kind: str) -> None:
    make_user(session, "ann")
    ann = session.scalars(sa.select(User.id).where(User.key == "ann")).one()
    rows: list[dict[str, Any]] = [
        {"user_id": ann, "source": "model", "video_id": number, "score": 0.5}
        for number in range(5_000)
    ]
    session.execute(sa.insert(OutsideCandidate), rows)
    own = viewer(session, "ann")
    source = outside_source("model", 10).select(own, 10)
    assert session.scalars(source).all() == list(range(4_999, 4_999 - MAX_SCANNED, -1))
    explain = sa.text("EXPLAIN QUERY PLAN " if kind == "sqlite" else "EXPLAIN (COSTS off) ")
    compiled = source.compile(session.connection(), compile_kwargs={"literal_binds": True})
    plan = " ".join(str(row) for row in session.execute(sa.text(f"{explain}{compiled}")))
    assert "user_id_source_score_video_id_ix" in plan
    assert plan.count("TEMP B-TREE") + plan.count("Sort Key") <= 1  # of those that were read
