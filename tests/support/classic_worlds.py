"""Random worlds for the classic formula, with many ties."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from sqlalchemy.orm import Session

import recommender
from tests.support.worlds import (
    NOON,
    at,
    make_event,
)

LANGUAGES = st.sampled_from([None, "en", "es"])


COUNTRIES = st.sampled_from([None, "US", "MX"])


TAGS = st.lists(st.sampled_from("abcd"), max_size=4, unique=True)


SOUNDS = st.sampled_from([None, "s1", "s2"])


CREATORS = st.sampled_from(["c1", "c2", "viewer0"])


COMPLETIONS = st.sampled_from([0.0, 0.05, 0.25, 0.3333, 0.5, 0.75, 0.95, 1.0])


VIDEO = st.fixed_dictionaries({
    "creator": st.one_of(st.none(), CREATORS),
    "hashtags": TAGS,
    "sound": SOUNDS,
    "language": LANGUAGES,
    "country": COUNTRIES,
    "published_at": st.sampled_from([at(-2), at(-1), NOON, at(1), None]),
    "status": st.sampled_from(["published"] * 6 + ["review", "removed"]),
})  # fmt: skip


USER = st.fixed_dictionaries({
    "interests": TAGS,
    "liked_sounds": st.lists(st.sampled_from(["s1", "s2"]), unique=True),
    "language": LANGUAGES,
    "country": COUNTRIES,
})  # fmt: skip


DEED = st.fixed_dictionaries({
    "kind": st.sampled_from(["watch", "like", "unlike", "share"]),
    "minutes": st.integers(1, 6),
    "completion": COMPLETIONS,
})  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a world with few values and many videos, so that many scores are equal."""
    users = draw(st.lists(USER, min_size=2, max_size=3))
    videos = draw(st.lists(VIDEO, min_size=32, max_size=40))
    pair = st.tuples(st.integers(0, len(users) - 1), st.integers(0, len(videos) - 1), DEED)
    deeds = draw(st.lists(pair, max_size=30))
    follow = st.tuples(st.integers(0, len(users) - 1), st.sampled_from(["c1", "c2"]))
    return {
        "users": [{"id": f"viewer{n}", **user} for n, user in enumerate(users)],
        "videos": [{"id": f"v{n}", **video} for n, video in enumerate(videos)],
        "follows": draw(st.sets(follow, max_size=4)),
        "deeds": deeds,
    }


def load(session: Session, world: dict[str, Any]) -> None:
    recommender.upsert_users(session, [*world["users"], {"id": "c1"}, {"id": "c2"}])
    recommender.upsert_videos(session, world["videos"])
    for user, creator in world["follows"]:
        recommender.follow(session, f"viewer{user}", creator)
    recommender.record_many(session, [
        make_event(
            deed["kind"], f"v{video}", f"viewer{user}", at=at(deed["minutes"]),
            completion=deed["completion"] if deed["kind"] == "watch" else None,
        )
        for user, video, deed in world["deeds"]
    ])  # fmt: skip
