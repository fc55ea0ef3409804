"""Short causes: they name the viewer's own acts and facts of the video, in two statements."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender.feed.reasons import MAX_CAUSES, leading_signals, short_reasons
from recommender.feed.values import Contribution, FeedItem
from recommender.models import RecentEngagement, User, Video, VideoNeighbour
from tests.support.worlds import NOON, at, counted_statements, make_user, make_video, record


def ids(session: Session) -> dict[str, int]:
    return {row.key: row.id for row in session.execute(sa.select(Video.key, Video.id))}


def item_with(video_id: int = 1, **values: float) -> FeedItem:
    """A video whose signals have the given values, each with weight 1."""
    signals = {name: Contribution(value, 1.0) for name, value in values.items()}
    return FeedItem(1, "new", "theo", None, (), "rain", NOON, 1.0, (), signals, video_id)


def causes(session: Session, *items: FeedItem, user: str = "viewer") -> list[tuple[str, ...]]:
    return short_reasons(session, recommender.resolve(session, user, as_of=at(9)), items)


def neighbour(session: Session, source: int, video: int, similarity: float) -> None:
    session.add(VideoNeighbour(source_id=source, video_id=video, similarity=similarity))
    session.flush()


@pytest.fixture
def world(session: Session) -> dict[str, int]:
    """A viewer who liked `liked`, watched `watched` and is offered `new`; gives the videos' ids."""
    make_user(session, "viewer", interests=["clay", "tea"])
    for key in ("liked", "watched", "new", "other"):
        make_video(session, key, hashtags=["clay", "kiln"] if key != "other" else ["zen"])
    record(session, "like", "liked", at=at(1))
    record(session, "watch", "watched", completion=1.0, at=at(2))
    return ids(session)


def test_a_neighbour_names_the_recent_video_that_it_is_nearest_to(
    session: Session, world: dict[str, int]
) -> None:
    neighbour(session, world["liked"], world["new"], 0.9)
    neighbour(session, world["watched"], world["new"], 0.1)
    neighbour(session, world["watched"], world["other"], 0.5)
    items = [item_with(world[key], collaborative=0.5) for key in ("new", "other")]
    assert causes(session, *items) == [("you liked liked",), ("you enjoyed watched",)]


def test_a_video_that_was_rejected_is_no_cause(session: Session, world: dict[str, int]) -> None:
    neighbour(session, world["liked"], world["new"], 0.9)
    neighbour(session, world["watched"], world["new"], 0.1)
    record(session, "not_interested", "liked", at=at(3))
    (found,) = causes(session, item_with(world["new"], collaborative=0.5))
    assert found == ("you enjoyed watched",)


def test_each_hashtag_signal_names_the_hashtag_that_says_most(
    session: Session, world: dict[str, int]
) -> None:
    (declared,) = causes(session, item_with(world["new"], hashtags=1))
    assert declared == ("#clay",)
    record(session, "like", "new", at=at(4), key="more")
    make_video(session, "kiln", hashtags=["kiln"])
    record(session, "like", "kiln", at=at(5))
    (learned,) = causes(session, item_with(world["new"], hashtag_affinity=0.5))
    assert learned == ("#kiln",)
    (recent,) = causes(session, item_with(world["new"], lately=0.5))
    assert recent == ("#kiln",)


def test_a_cause_is_named_once_and_three_are_named_at_most(
    session: Session, world: dict[str, int]
) -> None:
    item = item_with(
        world["new"], hashtags=2, hashtag_affinity=0.9, follows=1, creator_affinity=0.8,
        sound=0.7, sound_affinity=0.6, caption=0.5,
    )  # fmt: skip
    (found,) = causes(session, item)
    assert found == ("#clay", "you follow theo", "the sound rain")
    assert len(found) == MAX_CAUSES


def test_nothing_that_another_user_did_is_named(session: Session, world: dict[str, int]) -> None:
    make_user(session, "friend")
    recommender.follow(session, "viewer", "friend")
    friend = session.scalar(sa.select(User.id).where(User.key == "friend"))
    session.add(RecentEngagement(user_id=friend, video_id=world["new"], at=NOON))
    (found,) = causes(session, item_with(world["new"], social=0.5))
    assert found == ("people you follow enjoyed it",)


def test_a_page_takes_two_statements_and_a_stranger_none(
    session: Session, world: dict[str, int]
) -> None:
    request = recommender.resolve(session, "viewer")
    items = [item_with(video_id, lately=0.5) for video_id in world.values()]
    with counted_statements(session.connection()) as sent:
        assert len(short_reasons(session, request, items)) == 4
    assert len(sent) == 2
    stranger = replace(request, user_id=None)
    with counted_statements(session.connection()) as sent:
        assert short_reasons(session, stranger, [item_with(freshness=1)]) == [("new",)]
        assert short_reasons(session, request, []) == []
    assert sent == []


def test_every_signal_has_a_phrase_and_a_hosts_own_is_named(session: Session) -> None:
    make_user(session)
    for signal in recommender.SIGNALS:
        ((phrase,),) = causes(session, item_with(1, **{signal.name: 0.5}))
        assert not phrase.startswith("its "), signal.name
    assert causes(session, item_with(boost=0.5)) == [("its boost is 0.5",)]


def test_what_the_viewer_did_comes_before_what_holds_for_everyone() -> None:
    item = item_with(freshness=1.0, follows=0.3, lately=0.01, quality=0.5)
    assert leading_signals(item) == ["follows", "freshness", "quality", "lately"]
    unseen = item_with(quality=0.5, exploration=0.9)
    assert leading_signals(unseen) == ["exploration"]


def test_a_signal_that_speaks_against_a_video_is_no_cause() -> None:
    assert leading_signals(item_with(lately=-0.5, follows=0.0)) == []
