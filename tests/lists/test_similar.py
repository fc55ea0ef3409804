"""More like this: videos that are like one, or like several together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage, InvalidCursor, InvalidValue, Settings, UnknownVideo, similar
from recommender.lists.similar import SimilarPosition
from recommender.models import Video
from recommender.models.tables import VIDEOS
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import ids, put
from tests.support.worlds import (
    at,
    counted_statements,
    make_user,
    make_video,
    make_videos,
    names,
    record,
)

NOON = at()


def alike(session: Session, *pairs: tuple[str, str, float]) -> None:
    known = ids(session, VIDEOS)
    put(session, "video_neighbours", [
        {"source_id": known[one], "video_id": known[other], "similarity": cosine}
        for one, other, cosine in pairs
    ])  # fmt: skip


SEED: dict[str, Any] = {"creator": "ana", "sound": "song", "hashtags": ["pottery", "clay"]}

ALIKE = {"similarity", "shared_hashtags", "same_sound", "same_creator"}
"""The kinds of reasons that tell what a video has in common with a given one."""


@pytest.fixture
def shop(session: Session) -> Session:
    """A seed, five videos that are like it in one way each, and ten that are not."""
    make_video(session, "seed", **SEED)
    make_video(session, "forward", creator="x1")
    make_video(session, "backward", creator="x2")
    make_video(session, "tagged", creator="x3", hashtags=["pottery"])
    make_video(session, "same sound", creator="x4", sound="song")
    make_video(session, "by ana", creator="ana")
    make_videos(session, *(f"other{number}" for number in range(10)), creator="x5")
    alike(session, ("seed", "forward", 0.5), ("backward", "seed", 0.4))
    return session


def page(session: Session, *videos: str, **options: Any) -> FeedPage:
    return similar(session, list(videos) or "seed", **{"as_of": NOON, **options})


def walked(session: Session, *videos: str, **options: Any) -> Iterator[FeedPage]:
    cursor = None
    while True:
        one = page(session, *videos, cursor=cursor, **options)
        yield one
        if (cursor := one.cursor) is None:
            return


def test_what_is_most_alike_comes_first_and_the_newest_follow(shop: Session) -> None:
    first = page(shop, limit=15)
    assert names(first) == [
        "forward", "backward", "tagged", "by ana", "same sound",
        *(f"other{number}" for number in range(9, -1, -1)),
    ]  # fmt: skip
    values = {item.video: {n: c.value for n, c in item.signals.items()} for item in first.items}
    assert values["forward"]["similarity"] == 0.5
    assert values["backward"]["similarity"] == 0.4
    rarity = 1 / math.log(math.e + 2)
    assert values["tagged"]["shared_hashtags"] == pytest.approx(rarity / (rarity + 1))
    assert (values["by ana"]["same_creator"], values["same sound"]["same_sound"]) == (1, 1)
    assert first.items[0].sources == ("neighbours",)
    assert first.items[-1].sources == ("newest",)
    assert (first.exhausted, first.cursor, first.session) == (True, None, None)


def test_the_reasons_name_what_videos_have_in_common(shop: Session) -> None:
    told = {item.video: item for item in page(shop, reasons=True).items}
    assert {video: told[video].reason for video in names(page(shop, limit=5))} == {
        "forward": "Because people who enjoyed seed enjoyed it too and few have seen it yet.",
        "backward": "Because people who enjoyed seed enjoyed it too and few have seen it yet.",
        "tagged": "Because it has #pottery too and few have seen it yet.",
        "by ana": "Because it is by ana too and few have seen it yet.",
        "same sound": "Because it has the same sound and few have seen it yet.",
    }
    assert told["forward"].reasons[0].as_dict() == {
        "kind": "similarity", "subject": "seed", "at": None,
    }  # fmt: skip


def test_reasons_tell_nothing_of_a_given_video_that_the_viewer_may_not_find(shop: Session) -> None:
    make_user(shop)
    make_user(shop, "friend")
    recommender.follow(shop, "friend", "ana")

    def told(user: str | None) -> set[str]:
        items = page(shop, user=user, reasons=True, limit=5).items
        return {reason.kind for item in items for reason in item.reasons} & ALIKE

    for change, restore in (
        ({"status": "removed"}, {"status": "published"}),
        ({"audience": "unlisted"}, {"audience": "public"}),
        ({"published_at": at(1)}, {"published_at": at(-60)}),
        ({"audience": "followers"}, {}),
    ):
        assert told(None) == told("viewer") == ALIKE
        make_video(shop, "seed", **SEED, **change)
        assert told(None) == told("viewer") == set(), change
        if change != {"audience": "followers"}:
            make_video(shop, "seed", **SEED, **restore)
    assert told("friend") == ALIKE
    make_video(shop, "seed", **SEED, audience="public")
    recommender.mute(shop, "viewer", "hashtag", "clay")
    assert told("viewer") == set()
    assert told("friend") == ALIKE


def test_several_videos_count_together(shop: Session) -> None:
    """What is near both comes before what is nearer to one of them."""
    make_video(shop, "both", creator="x6")
    make_video(shop, "second", creator="x7")
    alike(shop, ("seed", "both", 0.3), ("second", "both", 0.3), ("both", "second", 0.3))
    found = page(shop, "seed", "second", "seed")
    assert names(found)[:2] == ["both", "forward"]
    values = {item.video: item.signals["similarity"].value for item in found.items}
    assert (values["both"], values["forward"]) == (pytest.approx(0.3), pytest.approx(0.25))
    assert not {"seed", "second"} & values.keys()


def test_pages_follow_one_another_until_the_catalogue_ends(shop: Session) -> None:
    whole = names(page(shop, limit=500))
    for limit in (1, 4, 14):
        pages = list(walked(shop, limit=limit))
        assert [video for one in pages for video in names(one)] == whole
        assert pages[-1].exhausted
        assert all(len(one.items) == limit for one in pages[:-1])
    make_video(shop, "new", creator="ana", published_at=at(1))
    cursor = page(shop, limit=2).cursor
    later = similar(shop, "seed", cursor=cursor, limit=500)
    assert names(later) == whole[2:]  # the reading time is kept


def test_a_cursor_asks_for_nothing_that_is_published_later(shop: Session) -> None:
    """It is text of a client, who may write another reading time into it."""
    later = datetime.now(UTC) + timedelta(days=9)
    make_video(shop, "scheduled", creator="ana", published_at=later)
    ahead = SimilarPosition(later + timedelta(days=1), False, 2**62, NOON, 1).cursor  # noqa: FBT003
    assert "scheduled" not in names(similar(shop, "seed", cursor=ahead, limit=500))
    assert "scheduled" in names(similar(shop, "seed", as_of=later, limit=500))
    for day in (timedelta(days=-36_500), timedelta(days=36_500)):
        far = SimilarPosition(NOON + day, False, 0, NOON, 1).cursor  # noqa: FBT003
        with pytest.raises(InvalidCursor, match="is not one of this list"):
            similar(shop, "seed", cursor=far)


def test_a_list_never_ends_while_anything_is_left(session: Session) -> None:
    """Not even if no source finds anything, and with equal publication times."""
    make_video(session, "seed", creator=None)
    make_videos(session, *(f"v{number:03}" for number in range(150)), creator="somebody")
    found = [video for one in walked(session, limit=40) for video in names(one)]
    assert sorted(found) == [f"v{number:03}" for number in range(150)]


def test_with_a_user_the_filters_of_for_you_apply(shop: Session) -> None:
    make_user(shop)
    record(shop, "impression", "forward")
    recommender.mute(shop, "viewer", "creator", "x2")
    recommender.block(shop, "x3", "viewer")
    make_video(shop, "mine", creator="viewer", sound="song")
    found = set(names(page(shop, user="viewer", limit=500)))
    assert not found & {"forward", "backward", "tagged", "mine", "seed"}
    assert {"same sound", "by ana", "other0"} <= found
    assert "forward" in names(page(shop, user="nobody"))


def test_with_a_user_the_order_leans_to_their_taste(shop: Session) -> None:
    make_user(shop, language="es")
    make_video(shop, "by ana in spanish", creator="ana", language="es", published_at=at(-90))
    assert names(page(shop)).index("by ana in spanish") == 5
    assert names(page(shop, user="viewer")).index("by ana in spanish") == 2


def test_without_a_user_unlisted_and_unpublished_videos_are_out(shop: Session) -> None:
    make_video(shop, "unlisted", creator="ana", audience="unlisted")
    make_video(shop, "followers", creator="ana", audience="followers")
    make_video(shop, "removed", creator="ana", status="removed")
    make_video(shop, "future", creator="ana", published_at=at(1))
    alike(shop, ("seed", "unlisted", 0.9), ("seed", "removed", 0.9), ("seed", "future", 0.9))
    out = {"unlisted", "followers", "removed", "future"}
    assert not set(names(page(shop, limit=500))) & out
    make_user(shop)
    recommender.follow(shop, "viewer", "ana")
    assert set(names(page(shop, user="viewer", limit=500))) & out == {"followers"}


def test_a_page_takes_three_statements(shop: Session) -> None:
    for options, expected in (
        ({}, 3), ({"user": "viewer"}, 3), ({"where": Video.duration_ms.is_(None), "limit": 3}, 3),
        ({"where": Video.duration_ms.is_(None)}, 4), ({"reasons": True}, 4),
    ):  # fmt: skip
        with counted_statements(shop.connection()) as statements:
            page(shop, **options)
        assert len(statements) == expected, options


def test_a_condition_that_few_fulfil_cuts_a_page_short_and_it_goes_on(shop: Session) -> None:
    make_videos(shop, *(f"old{number}" for number in range(3)), creator="x9",
                published_at=at(-9_000))  # fmt: skip
    make_videos(shop, *(f"between{number:03}" for number in range(250)), creator="x8")
    where = Video.key.like("old%")
    settings = Settings(scan_limit=100)
    pages = list(walked(shop, where=where, settings=settings))
    assert [video for one in pages for video in names(one)] == ["old2", "old1", "old0"]
    assert [one.cut_short for one in pages] == [True, True, False]
    assert names(page(shop, exclude=["forward", "tagged"], limit=2)) == ["backward", "by ana"]


def test_a_version_of_the_profile_decides_and_the_newest_serves(shop: Session) -> None:
    recommender.create_profile(shop, "similar", {"same_sound": 1.0})
    assert names(page(shop, limit=1)) == ["same sound"]
    assert names(page(shop, limit=1, profile="similar@1")) == ["forward"]
    with pytest.raises(InvalidValue, match="profile: classic has no candidates"):
        page(shop, profile="classic")


@slow_on_postgresql
def test_bad_input_is_refused_in_one_sentence(shop: Session) -> None:
    cursor = str(page(shop, limit=1).cursor)
    for videos, options, error, message in (
        ([], {}, InvalidValue, "videos: 0 are given, not 1 to 50"),
        ([f"v{number}" for number in range(51)], {}, InvalidValue, "videos: 51 are given"),
        (["none"], {}, UnknownVideo, "there is no video 'none'"),
        (["seed", ""], {}, UnknownVideo, "there is no video ''"),
        (["seed"], {"limit": 0}, InvalidValue, "limit: 0 is not between"),
        (["seed"], {"user": ""}, InvalidValue, "user: "),
        (["seed"], {"cursor": "x"}, InvalidCursor, "'x' is not one of this list"),
        (["seed"], {"cursor": cursor + "A"}, InvalidCursor, "is not one of this list"),
        (["seed"], {"cursor": "A" * len(cursor)}, InvalidCursor, "is not one of this list"),
        (["seed"], {"profile": "none"}, recommender.UnknownProfile, "there is no profile 'none'"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            similar(shop, videos, **options)  # type: ignore[arg-type]
