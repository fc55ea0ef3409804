"""Sessions of interleaved experiments: pages that come again, and sessions that leave."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage, start_experiment
from recommender.evaluation.labels import served_pages
from recommender.models.tables import SERVED
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import NOON, at, make_user, make_videos, rows_of

pytestmark = slow_on_postgresql


def serve(session: Session, **options: Any) -> FeedPage:
    return recommender.for_you(session, "viewer", **{"as_of": NOON, "limit": 4, **options})


def make_world(session: Session) -> None:
    """An interleaved experiment with the profile `old`, which shows the oldest videos first."""
    recommender.create_profile(session, "old", {"freshness": -1.0})
    make_user(session)
    for number in range(9):
        make_videos(session, f"v{number}", creator=f"c{number}", published_at=at(-60 - number))
    start_experiment(session, "tried", ["old"], interleaved=True)


def test_a_page_that_one_profile_fills_is_the_same_when_it_comes_again(session: Session) -> None:
    make_world(session)
    pages = [serve(session, limit=1)]
    while len(pages) < 9:
        pages.append(serve(session, limit=1, cursor=pages[-1].cursor))
    assert {item.profile and item.profile.name for page in pages for item in page.items} == {
        None, "old",
    }  # fmt: skip
    for before, page in pairwise(pages):
        again = serve(session, limit=1, cursor=before.cursor)
        assert again.as_dict() == page.as_dict()
        assert again.request.profile == page.request.profile


def test_a_session_that_left_is_not_replayed_either(session: Session) -> None:
    make_world(session)
    mixed = serve(session)
    left = serve(session, cursor=mixed.cursor, profile="for_you")
    last = serve(session, cursor=left.cursor)
    assert [page.request.arm and page.request.arm.name for page in (mixed, left, last)] == [
        "for_you@1", None, None,
    ]  # fmt: skip
    assert [item.profile for item in (*left.items, *last.items)] == [None] * 5
    assert len(rows_of(session, SERVED, "position")) == 9
    assert session.execute(served_pages({"engaged": 1.0}, at(-1), at(1))).all() == []
