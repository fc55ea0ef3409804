"""A session carries contenders: its next pages rank what the page before left over."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage, Filter, Registry, Settings, Source
from recommender.ingest.videos import set_video_status
from recommender.models import Video
from recommender.models.tables import SESSIONS, VIDEOS
from recommender.ranking.request import POOL
from tests.support.oracle import VIEWERS, load, random_world
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_user,
    make_video,
    mute,
    names,
    record,
    register,
    rows_of,
)

EACH, THIRD = Settings(whole_every=1), Settings(whole_every=3)
OWN = UUID(int=7)


def serve(session: Session, user: str = "viewer", **options: Any) -> FeedPage:
    return recommender.for_you(
        session, user, **{"as_of": NOON, "limit": 3, "settings": THIRD, **options}
    )


def begin(session: Session, **options: Any) -> FeedPage:
    """Serve the first two pages of a session, which read all sources, and return the second."""
    return go_on(session, serve(session, **options), **options)


def go_on(session: Session, page: FeedPage, **options: Any) -> FeedPage:
    return serve(session, **{"user": page.request.user, "cursor": page.cursor, **options})


def from_pool(page: FeedPage) -> list[bool]:
    return [POOL in item.sources for item in page.items]


def carried(session: Session) -> Any:
    """Return what the only session carries."""
    ((contenders,),) = rows_of(session, SESSIONS, "contenders")
    return contenders


def make_world(session: Session, videos: int = 40) -> None:
    make_user(session)
    for number in range(videos):
        make_video(session, f"v{number}", creator=f"c{number % 8}", published_at=at(-60 - number))


def a_session(
    session: Session, user: str, settings: Settings, swipe: Callable[[FeedPage], None]
) -> list[FeedPage]:
    """Serve a session, with swipes between its pages, and roll it back."""
    with session.begin_nested() as nested:
        pages = [serve(session, user, session_id=OWN, settings=settings)]
        while pages[-1].cursor:
            swipe(pages[-1])
            pages.append(go_on(session, pages[-1], settings=settings))
        nested.rollback()
    return pages


@pytest.mark.parametrize("seed", [4])
def test_where_every_video_is_a_contender_pages_are_as_if_all_sources_were_read(
    session: Session, seed: int
) -> None:
    load(session, random_world(seed, videos=45))

    for user in VIEWERS:

        def swipe(page: FeedPage, user: str = user) -> None:
            chance = random.Random(page.request.position)  # noqa: S311 - no secret
            for item in page.items:
                kind = chance.choice(["watch", "like", "not_interested", "impression"])
                more = {"completion": 1.0} if kind == "watch" else {}
                record(session, kind, item.video, user, key=f"{item.position}", at=NOON, **more)

        # Without exploration, whose candidates are others by chance.
        whole, carrying = (
            a_session(session, user, replace(each, exploration_share=0.0), swipe)
            for each in (EACH, THIRD)
        )
        assert any(from_pool(page) != [False] * len(page.items) for page in carrying)
        assert [shown(page) for page in carrying] == [shown(page) for page in whole]


def shown(page: FeedPage) -> list[Any]:
    """Return what a page shows, without sources."""
    items = [replace(item, sources=()) for item in page.items]
    return [items, page.exhausted, page.cursor]


def test_after_the_first_two_of_three_pages_rank_what_the_page_before_left_over(
    session: Session,
) -> None:
    make_world(session)
    first = serve(session)
    assert carried(session) is None
    pages = [first, go_on(session, first)]
    left = carried(session)["videos"]
    while len(pages) < 8:
        pages.append(go_on(session, pages[-1]))
    assert [any(from_pool(page)) for page in pages] == [False, *[False, True, True] * 2, False]
    ids = [item.video_id for page in pages for item in page.items]
    assert len(ids) == len(set(ids))
    assert set(ids[6:12]) <= set(left)
    assert set(left) & set(ids[:6]) == set()


def test_a_page_of_contenders_takes_as_many_statements_and_reads_no_walk_of_the_newest(
    session: Session,
) -> None:
    make_world(session)
    page = begin(session, settings=EACH)
    with counted_statements(session.get_bind()) as whole:  # type: ignore[arg-type]
        go_on(session, page, settings=EACH)
    page = begin(session)
    with counted_statements(session.get_bind()) as carrying:  # type: ignore[arg-type]
        assert all(from_pool(go_on(session, page)))
    assert len(carrying) == len(whole)
    ranked = [
        next(each for each in sent if "recommender.for_you" in each) for sent in (whole, carrying)
    ]
    assert ["followed_since" in each for each in ranked] == [True, False]


def test_every_filter_is_asked_again(session: Session) -> None:
    make_world(session)
    page = begin(session)
    for_next = names(go_on_quietly(session, page))
    seen, muted, gone = for_next
    record(session, "impression", seen)
    mute(session, "viewer", "creator", creator_of(session, muted))
    set_video_status(session, gone, "removed")
    following = go_on(session, page)
    assert all(from_pool(following))
    assert not {seen, gone} & set(names(following))
    assert creator_of(session, muted) not in {item.creator for item in following.items}


def go_on_quietly(session: Session, page: FeedPage, **options: Any) -> FeedPage:
    """Return the next page, and take it back."""
    with session.begin_nested() as nested:
        following = go_on(session, page, **options)
        nested.rollback()
    return following


def creator_of(session: Session, video: str) -> str:
    creator = sa.select(Video.creator_id).where(Video.key == video).scalar_subquery()
    key = sa.select(recommender.models.User.key).where(recommender.models.User.id == creator)
    return session.scalars(key).one()


def test_signals_are_of_the_moment(session: Session) -> None:
    make_world(session)
    page = begin(session)
    record(session, "like", page.items[0].video)
    following = go_on(session, page)
    assert all(from_pool(following))
    ranked = recommender.rank(session, "viewer", names(following), as_of=NOON)
    signals = {item.video: (item.score, item.signals) for item in ranked.items}
    assert {item.video: (item.score, item.signals) for item in following.items} == signals
    assert any(item.signals["creator_affinity"].value for item in ranked.items) is any(
        item.creator == page.items[0].creator for item in ranked.items
    )


def test_what_was_enjoyed_brings_in_its_creators_newest_videos(session: Session) -> None:
    make_world(session)
    page = begin(session)
    liked = page.items[0]
    make_video(session, "new", creator=liked.creator, published_at=at(-1))
    record(session, "like", liked.video, at=at(-0.5))
    following = go_on(session, page)
    assert "new" in names(following)
    assert any(from_pool(following))


@pytest.mark.parametrize(
    "options",
    [
        {"record": False},
        {"profile": "fresh_start"},
        {"where": Video.key != "v0"},
        {"settings": EACH},
        {"formats": ["video"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_another_request_reads_all_sources(session: Session, options: dict[str, Any]) -> None:
    make_world(session)
    session.execute(sa.update(VIDEOS).values(format="video"))
    recommender.create_profile(session, "fresh_start", {"freshness": 1.0})
    page = begin(session)
    assert any(from_pool(go_on_quietly(session, page)))
    following = go_on(session, page, **options)
    assert len(following.items) == 3
    assert not any(from_pool(following))


def test_after_a_reset_nothing_is_carried(session: Session) -> None:
    make_world(session)
    page = begin(session)
    recommender.reset_user(session, "viewer", at=NOON)
    following = go_on(session, page)
    assert len(following.items) == 3
    assert not any(from_pool(following))


def test_another_registry_carries_nothing(session: Session) -> None:
    make_world(session)
    page = begin(session)
    newest = Source("own", 5, lambda _viewer, _quota: sa.select(Video.id).order_by(Video.id))
    register(session, Registry(sources=[newest]))
    assert not any(from_pool(go_on(session, page)))


def test_a_page_that_contenders_do_not_fill_reads_all_sources(session: Session) -> None:
    make_world(session)
    page = begin(session)
    ids: Sequence[int] = carried(session)["videos"]
    for video in session.scalars(sa.select(Video.key).where(Video.id.in_(ids[1:]))):
        record(session, "impression", video)
    for number in range(9):
        make_video(session, f"new{number}", creator=f"c{number}", published_at=at(-1))
    session.execute(sa.update(VIDEOS).values(impressions=1_000))  # none is on trial
    following = go_on(session, page)
    assert len(following.items) == 3
    assert not any(from_pool(following))


def test_what_is_fewer_than_two_pages_is_not_carried(session: Session) -> None:
    make_world(session, videos=11)
    page = begin(session)
    assert carried(session) is None  # five are left
    assert len(go_on(session, page).items) == 3


def test_a_larger_page_than_the_one_before_reads_all_sources(session: Session) -> None:
    make_user(session)
    for number in range(60):
        make_video(session, f"v{number}", creator=f"c{number}", published_at=at(-60 - number))
    page = begin(session, limit=10)
    half = len(carried(session)["videos"]) // 2
    assert all(from_pool(go_on_quietly(session, page, limit=half)))
    following = go_on(session, page, limit=half + 1)
    assert len(following.items) == half + 1
    assert not any(from_pool(following))


def test_as_many_places_are_for_trials_as_if_all_sources_were_read(session: Session) -> None:
    make_user(session)
    for number in range(200):
        make_video(session, f"v{number}", creator=f"c{number % 100}", published_at=at(-60 - number))
    session.execute(sa.update(VIDEOS).where(VIDEOS.c.id % 2 == 0).values(impressions=1_000))
    explored = []
    for each in (EACH, Settings(whole_every=5)):
        settings = replace(each, exploration_share=0.25)
        with session.begin_nested() as nested:
            pages = [serve(session, session_id=OWN, limit=20, settings=settings)]
            for _ in range(3):
                pages.append(go_on(session, pages[-1], limit=20, settings=settings))
            nested.rollback()
        explored.append([[item.explored for item in page.items].count(True) for page in pages])
    assert any(from_pool(pages[-1]))
    assert explored[0] == explored[1] == [5, 5, 5, 5]


def test_a_cursor_presented_again_gives_the_page_that_was_served(session: Session) -> None:
    make_world(session)
    page = begin(session)
    following = go_on(session, page)
    again = go_on(session, page)
    assert names(again) == names(following)
    assert from_pool(again) == from_pool(following)


def test_explain_names_the_pool_of_a_served_page(session: Session) -> None:
    make_world(session)
    following = go_on(session, begin(session))
    stored = session.scalars(sa.text("SELECT sources FROM rec_feed_items WHERE page > 4")).all()
    assert {POOL in each.split("|") for each in stored} == {True}
    assert json.dumps([item.as_dict() for item in following.items])


def test_a_feed_of_formats_and_a_registered_filter_are_asked_again(session: Session) -> None:
    make_world(session)
    session.execute(sa.update(VIDEOS).where(VIDEOS.c.id % 2 == 0).values(format="reel"))
    recommender.create_feed(session, "reels", formats=["reel"])
    own = Filter("own", lambda _viewer: Video.key != "v9", "the shop has no more of it")
    register(session, Registry(filters=[own]))
    page = begin(session, feed="reels")
    following = go_on(session, page)
    assert any(from_pool(following))
    assert {item.format for item in following.items} == {"reel"}
    assert "v9" not in names(following)


def test_where_videos_are_scarce_nothing_is_carried(session: Session) -> None:
    make_user(session)
    for number in range(40):
        make_video(session, f"v{number}", creator="one", published_at=at(-60 - number))
    page = serve(session)
    assert [item.crowded for item in page.items] == [False, True, True]
    assert [item.crowded for item in go_on(session, page).items] == [True] * 3
    assert carried(session) is None


def test_a_source_of_the_host_cannot_have_the_name() -> None:
    with pytest.raises(recommender.InvalidValue, match="pool"):
        Registry(sources=[Source(POOL, 5, lambda _viewer, _quota: sa.select(Video.id))])
