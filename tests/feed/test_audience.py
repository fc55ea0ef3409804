"""Audiences, discoverable creators and blocks: who sees which video in which list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender.ingest import visibility
from recommender.models import Video, VideoHashtag
from recommender.operations.users import show_user
from recommender.ranking.sources import VIDEOS_PER_SUBJECT
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    follow,
    make_event,
    make_user,
    make_video,
    names,
    preview,
    record,
)

pytestmark = slow_on_postgresql

VIDEOS = {
    f"{audience} {creator}": {"audience": audience, "creator": creator, "hashtags": ["cats"]}
    for audience in ("public", "followers", "unlisted")
    for creator in ("star", "shy")
}
"""A video of each audience by a discoverable and by an undiscoverable creator."""

FOR_YOU: Mapping[str, set[str]] = {
    "follower": {"public star", "followers star"},
    "stranger": {"public star"},
    "unknown": {"public star"},
}

IN_FOLLOWING = {"public star", "followers star", "public shy", "followers shy"}


@pytest.fixture
def world(session: Session) -> Session:
    """A session with the videos, a user who follows both creators, and one who does not."""
    for user in ("follower", "stranger"):
        make_user(session, user, interests=["cats"])
    make_user(session, "shy", discoverable=False)
    for creator in ("star", "shy"):
        follow(session, "follower", creator)
    make_user(session, "shy", discoverable=False)
    for key, columns in VIDEOS.items():
        make_video(session, key, **columns)
    return session


def for_you(session: Session, user: str, **options: Any) -> set[str]:
    return set(names(preview(session, user, as_of=NOON, **options)))


def followed(session: Session, user: str) -> set[str]:
    return set(names(recommender.following(session, user, as_of=NOON)))


def test_each_list_has_the_videos_that_its_viewer_may_find(world: Session) -> None:
    assert {user: for_you(world, user) for user in FOR_YOU} == FOR_YOU
    assert followed(world, "follower") == IN_FOLLOWING
    assert followed(world, "stranger") == set()
    assert names(recommender.trending(world, as_of=NOON)) == ["public star"]
    for user in FOR_YOU:
        assert for_you(world, user, profile="classic") == {"public star"}
        page = recommender.rank(world, user, list(VIDEOS), as_of=NOON)
        assert set(names(page)) == set(VIDEOS)
        page = recommender.rank(world, user, list(VIDEOS), as_of=NOON, allowed_only=True)
        assert set(names(page)) == FOR_YOU[user]
    recommender.unfollow(world, "follower", "star")
    assert for_you(world, "follower") == {"public star"}


def hashtag_lists(session: Session) -> set[str]:
    listed = sa.select(Video.key).join(VideoHashtag, VideoHashtag.video_id == Video.id)
    return set(session.scalars(listed.where(VideoHashtag.listed_at.is_not(None))))


def everything(session: Session) -> list[tuple[Any, ...]]:
    rows = sa.select(Video.key, Video.status, Video.visibility, VideoHashtag.listed_at)
    rows = rows.join(VideoHashtag, VideoHashtag.video_id == Video.id)
    return sorted(map(tuple, session.execute(rows)), key=str)


def test_a_change_of_the_creator_reaches_all_videos_in_batches(
    world: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hashtag_lists(world) == {"public star"}
    before = everything(world)
    monkeypatch.setattr(visibility, "VIDEOS_PER_STATEMENT", 2)
    for cached in (visibility._outdated, visibility._changes):
        cached.cache_clear()
    for is_discoverable, expected in ((True, {"public star", "public shy"}), (False, set())):
        users = [{"id": user, "discoverable": is_discoverable} for user in ("shy", "star")]
        recommender.upsert_users(world, users)
        assert hashtag_lists(world) == expected
        assert for_you(world, "stranger") == expected
        assert followed(world, "follower") == IN_FOLLOWING
    make_user(world, "star", discoverable=None)
    assert everything(world) == before
    for cached in (visibility._outdated, visibility._changes):
        cached.cache_clear()


@slow_on_postgresql
def test_an_audience_outlives_a_review_another_creator_and_a_write_without_it(
    world: Session,
) -> None:
    def stored(key: str) -> tuple[str, int]:
        row = world.execute(sa.select(Video.status, Video.visibility).where(Video.key == key))
        status, number = row.one()
        return status, number

    key = "followers star"
    assert stored(key) == ("followers", 1)
    recommender.set_video_status(world, key, "review")
    assert stored(key) == ("review", 1)
    assert recommender.set_video_status(world, key, "published").updated == 1
    assert recommender.set_video_status(world, key, "published").unchanged == 1
    make_video(world, key, creator="shy", caption="new")
    assert stored(key) == ("undiscoverable", 4)
    make_video(world, key, creator=None, audience="unlisted")
    assert stored(key) == ("unlisted", 2)
    make_video(world, key, creator="star", audience=None)
    assert stored(key) == ("published", 0)
    row = {"id": key, "audience": "public"}
    assert recommender.upsert_videos(world, [row]).unchanged == 1


def test_neither_of_two_sees_the_other_from_the_next_statement_on(session: Session) -> None:
    for user in ("ana", "ben", "fan"):
        make_user(session, user)
    for one, other in (("ana", "ben"), ("ben", "ana"), ("ana", "fan"), ("fan", "ana")):
        follow(session, one, other)
    for creator in ("ana", "ben", "else"):
        make_video(session, f"by {creator}", creator=creator)
    record(session, "like", "by else", "ben", at=at(-9))
    assert for_you(session, "ana") == {"by ben", "by else"}
    assert followed(session, "ana") == {"by ben"}
    assert recommender.block(session, "ben", "ana")
    for user in ("ana", "ben"):
        assert for_you(session, user) == ({"by else"} if user == "ana" else set())
        assert for_you(session, user, profile="classic") & {"by ana", "by ben"} == {f"by {user}"}
        assert followed(session, user) == set()
    assert for_you(session, "fan") == {"by ana", "by ben", "by else"}
    assert show_user(session, "ana").follows == ("ben", "fan")
    for viewer, video, name in (("ana", "by ben", "available"), ("ben", "by ana", "creator_not")):
        explanation = recommender.explain(session, viewer, video, as_of=NOON)
        failed = [rule.name for rule in explanation.filters if not rule.passed]
        assert [rule[: len(name)] for rule in failed] == [name]
    assert show_user(session, "ana").blocked == ()
    assert recommender.unblock(session, "ben", "ana")
    assert for_you(session, "ana") == {"by ben", "by else"}
    assert followed(session, "ana") == {"by ben"}


@pytest.mark.parametrize("profile", [None, "classic"])
def test_a_block_of_the_viewers_own_hides_that_they_were_blocked_too(
    session: Session, profile: str | None
) -> None:
    for user in ("ana", "ben"):
        make_user(session, user, interests=["cats"])
    make_video(session, "by ben", creator="ben", hashtags=["cats"])

    def told() -> tuple[Mapping[str, Any], list[str]]:
        options: dict[str, Any] = {"profile": profile, "as_of": NOON}
        page = recommender.rank(session, "ana", ["by ben"], **options)
        failed = [rule.name for rule in page.items[0].filters if not rule.passed]
        explanation = recommender.explain(session, "ana", "by ben", **options).as_dict()
        return explanation, failed

    recommender.block(session, "ana", "ben", at=at(1))
    alone = told()
    assert alone[1] == ["creator_not_blocked"]
    recommender.block(session, "ben", "ana", at=at(2))
    assert told() == alone
    recommender.unblock(session, "ana", "ben")
    assert told()[1] == ["available"]
    recommender.block(session, "ana", "ben", at=at(1))
    assert told() == alone


def test_an_explanation_does_not_tell_a_block_from_an_audience(session: Session) -> None:
    make_user(session, "ana", interests=["cats"])
    make_user(session, "shy", discoverable=False)
    for creator in ("ben", "shy"):
        follow(session, "ana", creator)
    make_user(session, "shy", discoverable=False)
    hidden = {
        "blocked": {"creator": "ben"},
        "unlisted": {"creator": "ben", "audience": "unlisted"},
        "for followers": {"creator": "else", "audience": "followers"},
        "undiscoverable": {"creator": "shy"},
    }
    for key, columns in hidden.items():
        make_video(session, key, hashtags=["cats"], **columns)
    recommender.block(session, "ben", "ana")
    for key in hidden:
        explanation = recommender.explain(session, "ana", key, as_of=NOON)
        assert [rule.name for rule in explanation.filters if not rule.passed] == ["available"]
        assert explanation.as_dict()["sources"] == [], key


def social(engine: Engine) -> float:
    with Session(engine) as session:
        (item,) = recommender.rank(session, "ana", ["video"], as_of=NOON).items
    return item.signals["social"].value


@slow_on_postgresql
@pytest.mark.parametrize("pair", [("ana", "ben"), ("ben", "ana")])
def test_a_blocked_user_is_no_social_signal(engine: Engine, pair: tuple[str, str]) -> None:
    def make(session: Session) -> None:
        for user in ("ana", "ben"):
            make_user(session, user)
        follow(session, "ana", "ben")
        make_video(session, "video", creator="else")
        record(session, "like", "video", "ben", at=at(-9))

    recommender.run_transaction(engine, make)
    recommender.refresh(engine, as_of=at(-1))
    assert social(engine) > 0
    recommender.run_transaction(engine, lambda session: recommender.block(session, *pair))
    assert social(engine) == 0
    recommender.run_transaction(engine, lambda session: recommender.unblock(session, *pair))
    assert social(engine) > 0


@slow_on_postgresql
def test_a_page_goes_on_with_followers_only_videos_however_many_were_seen(
    session: Session,
) -> None:
    """The sources read few videos of a creator; the last one reads until a page is full."""
    make_user(session)
    follow(session, "viewer", "star")
    keys = [f"v{n:03}" for n in range(VIDEOS_PER_SUBJECT + 5)]
    recommender.upsert_videos(session, [
        {"id": key, "creator": "star", "published_at": at(-n), "audience": "followers"}
        for n, key in enumerate(keys, start=1)
    ])  # fmt: skip
    seen = keys[: VIDEOS_PER_SUBJECT + 2]
    recommender.record_many(session, [make_event("impression", key) for key in seen])
    page = preview(session, as_of=NOON, limit=2)
    assert len(page.items) == 2
    for item in page.items:
        explanation = recommender.explain(session, "viewer", item.video, limit=2, as_of=NOON)
        assert (explanation.rank, explanation.item.sources) == (item.position, item.sources)
    assert for_you(session, "viewer") == set(keys) - set(seen)
    assert for_you(session, "stranger") == set()


@slow_on_postgresql
def test_only_a_short_page_looks_for_more_videos_for_followers(session: Session) -> None:
    make_user(session)
    make_video(session, "public", creator="star")

    def statements(limit: int) -> int:
        with counted_statements(session.connection()) as sent:
            preview(session, as_of=NOON, limit=limit)
        return len(sent)

    full, short = statements(1), statements(2)
    make_video(session, "for followers", creator="other", audience="followers")
    assert (statements(1), statements(2)) == (full, short + 1)


def test_a_page_that_comes_again_obeys_a_block_and_an_audience(session: Session) -> None:
    make_user(session)
    for creator in ("star", "moon", "sun"):
        make_video(session, f"by {creator}", creator=creator)
    page = recommender.for_you(session, "viewer", limit=3, as_of=NOON)
    following = recommender.for_you(session, "viewer", limit=3, as_of=NOON, cursor=page.cursor)
    assert (len(page.items), following.items) == (3, ())

    def again() -> set[str]:
        own = page.session
        return set(names(recommender.for_you(session, "viewer", session_id=own, as_of=NOON)))

    assert again() == {"by star", "by moon", "by sun"}
    recommender.block(session, "star", "viewer")
    make_video(session, "by moon", creator="moon", audience="unlisted")
    assert again() == {"by sun"}
    recommender.unblock(session, "star", "viewer")
    assert again() == {"by star", "by sun"}
