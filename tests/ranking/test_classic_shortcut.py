"""`classic` without scoring every video: the very page that scoring every video gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

import recommender
from recommender import FeedRequest
from recommender.database.expressions import is_true
from recommender.feed.statements import page_rows
from recommender.models import Video
from recommender.ranking.classic import SEEDS, ranked_reference
from recommender.ranking.scoring import ranked
from tests.support.classic_worlds import load, worlds
from tests.support.worlds import (
    NOON,
    at,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
)


def asked(session: Session, user: str = "viewer", **options: Any) -> FeedRequest:
    return recommender.resolve(session, user, "classic", as_of=NOON, **options)


def rows(session: Session, request: FeedRequest, ranking: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in page_rows(session, request, ranking, "for_you")]


def check_equal(session: Session, request: FeedRequest) -> list[str]:
    """Every column of every row, scores and signals too; the keys of the videos."""
    every = rows(session, request, ranked)
    assert rows(session, request, ranked_reference) == every
    return [row.page_video for row in page_rows(session, request, ranked_reference, "for_you")]


@pytest.mark.parametrize(
    ("examples", "least"), [(4, 0), pytest.param(25, 30, marks=pytest.mark.slow)]
)
def test_random_worlds_give_the_page_that_scoring_every_video_gives(
    session: Session, examples: int, least: int
) -> None:
    pages = 0

    @settings(max_examples=examples)
    @given(
        world=worlds(),
        limit=st.sampled_from([1, 2, 3, 5, 8, 13, 40]),
        excluded=st.sets(st.integers(0, 31), max_size=12),
    )
    def compare(world: dict[str, Any], limit: int, excluded: set[int]) -> None:
        nonlocal pages
        with session.begin_nested() as savepoint:
            load(session, world)
            left_out = [f"v{number}" for number in excluded]
            for user in ("viewer0", "viewer1", "a stranger"):
                request = asked(session, user, limit=limit)
                found = check_equal(session, request)
                pages += len(found) == limit
                check_equal(session, replace(request, exclude=tuple(left_out)))
                check_equal(session, replace(request, where=Video.language == "en"))
            savepoint.rollback()

    compare()
    assert pages > least


def test_of_many_ties_the_newest_are_found_whatever_the_lists_hold(session: Session) -> None:
    """More tied videos than are ever seeds, in a list and in none."""
    make_user(session, interests=["a"], language="en", country="US")
    for number in range(5 * SEEDS):
        make_video(session, f"listed{number}", hashtags=["a"], published_at=at(-100 - number))
        make_video(session, f"none{number}", language="en", published_at=at(-number))
    assert check_equal(session, asked(session, limit=3)) == ["listed0", "listed1", "listed2"]


@pytest.mark.parametrize("kind", ["language", "country", "both", "neither"])
def test_without_any_list_the_newest_of_a_kind_are_found(session: Session, kind: str) -> None:
    make_user(session, language="en", country="US")
    mine = {"language": {"language": "en"}, "country": {"country": "US"}, "neither": {}}
    chosen = mine.get(kind, {"language": "en", "country": "US"})
    for number in range(4):
        make_video(session, f"mine{number}", published_at=at(-200 - number), **chosen)
        make_video(session, f"other{number}", published_at=at(-300 - number), language="de")
    assert check_equal(session, asked(session, limit=3)) == ["mine0", "mine1", "mine2"]


def test_a_low_threshold_lets_videos_in_that_are_in_no_list(session: Session) -> None:
    make_user(session, language="en", country="US")
    for number in range(3):
        record_a_glance(session, f"glanced{number}")
    make_videos(session, "spoken", "older", language="en")
    make_video(session, "near", country="US")
    assert check_equal(session, asked(session, limit=3)) == ["older", "spoken", "glanced2"]


def record_a_glance(session: Session, video: str) -> None:
    make_video(session, video)
    record(session, "watch", video, completion=0.1)


def test_what_may_not_be_shown_raises_no_threshold(session: Session) -> None:
    """The viewer did most with videos that were removed, or come later."""
    make_user(session, interests=["a"])
    make_videos(session, *(f"gone{number}" for number in range(9)), hashtags=["a"])
    make_videos(session, "left", "another")
    make_video(session, "low", hashtags=["a"])
    for number in range(9):
        record(session, "like", f"gone{number}")
        changed = {"status": "removed"} if number % 2 else {"published_at": at(9)}
        make_video(session, f"gone{number}", **changed)
    assert check_equal(session, asked(session, limit=2)) == ["low", "another"]


def test_a_language_can_lift_a_video_over_the_threshold(session: Session) -> None:
    make_user(session, interests=["a", "b"], language="en", country="US")
    make_video(session, "sum", hashtags=["a"], creator="star", published_at=at(-1))
    make_video(session, "lifted", hashtags=["a"], creator="star", language="en", country="US")
    recommender.follow(session, "viewer", "star")
    assert check_equal(session, asked(session, limit=1)) == ["lifted"]


def test_a_session_goes_on_with_what_is_left(session: Session) -> None:
    make_user(session, interests=["a"])
    make_videos(session, *"abcdef", hashtags=["a"])
    recommender.activate_profile(session, "classic")
    cursor, found = None, []
    while not found or cursor:
        page = recommender.for_you(session, "viewer", limit=2, cursor=cursor, as_of=NOON)
        found, cursor = [*found, *names(page)], page.cursor
    assert found == [*"fedcba"]


def test_a_hosts_own_signal_is_scored_for_every_video(session: Session) -> None:
    make_user(session, interests=["a"])
    make_videos(session, *"abc", hashtags=["a"])
    make_video(session, "boosted", published_at=at(-900))
    own = recommender.Signal("own", 0, 1, lambda _: is_true(Video.key == "boosted"))
    page = preview(session, profile="classic", limit=1, signals={own: 1.0})
    assert names(page) == ["boosted"]
