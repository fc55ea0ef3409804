"""Videos without creator and publication time are in every list, the last among equals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage
from recommender.feed.selection import ScoredCandidate, Spread, arrange
from tests.support.kinds import only_postgresql
from tests.support.worlds import NOON, at, follow, make_user, make_video, mute, names, preview

VIEWERS = ("stranger", "plain", "muting")
NOBODYS = [f"v{number}" for number in range(6)]


def world(session: Session) -> None:
    """Six videos without creator and date, one dated, one of a creator, who all are alike."""
    make_user(session, "plain")
    make_user(session, "muting")
    follow(session, "muting", "star")
    for kind, value in (
        ("creator", "villain"), ("hashtag", "bad"), ("sound", "noise"), ("keyword", "spam"),
    ):  # fmt: skip
        make_video(session, "bad", creator="villain", hashtags=["bad"], sound="noise")
        mute(session, "muting", kind, value)
    recommender.upsert_videos(session, [
        {"id": key, "hashtags": ["cats"], "caption": "a cat"} for key in NOBODYS
    ])  # fmt: skip
    make_video(session, "dated", creator=None, published_at="0476-09-04T00:00:00Z")
    make_video(session, "of star", creator="star", published_at=None)


def every_page(ask: Callable[..., FeedPage]) -> list[str]:
    """The videos of all pages, two at a time."""
    page = ask(cursor=None)
    found = names(page)
    while page.cursor:
        page = ask(cursor=page.cursor)
        found += names(page)
    return found


def test_every_list_has_them_for_every_viewer(session: Session) -> None:
    world(session)
    everything = {*NOBODYS, "dated", "of star"}
    newest_last = ["of star", *reversed(NOBODYS)]
    for user in VIEWERS:
        expected = everything | ({"bad"} if user != "muting" else set())

        def page(user: str = user, **options: Any) -> FeedPage:
            return recommender.for_you(session, user, limit=2, as_of=NOON, **options)

        shown = preview(session, user, limit=9, as_of=NOON)
        assert set(names(shown)) == expected
        reference = names(preview(session, user, profile="classic", as_of=NOON))
        assert [key for key in reference if key not in {"of star", "bad"}] == [
            "dated", *reversed(NOBODYS),
        ]  # fmt: skip
        ranked = recommender.rank(session, user, newest_last, profile="classic", as_of=NOON)
        assert names(ranked) == newest_last
        explained = recommender.explain(session, user, "v3", as_of=NOON)
        assert explained.shown
        assert all(outcome.passed for outcome in explained.filters)
        assert (explained.item.creator, explained.item.published_at) == (None, None)
        assert "None" not in explained.reason
        assert explained.item.signals["freshness"].value == 0
        assert "fresh" not in explained.item.sources
        assert user == "stranger" or set(every_page(page)) == expected
    trending = every_page(lambda **o: recommender.trending(session, limit=2, as_of=NOON, **o))
    assert trending == ["bad", "dated", *newest_last]
    assert names(recommender.following(session, "muting", as_of=NOON)) == ["of star"]


def test_no_creator_is_neither_damped_nor_kept_apart(session: Session) -> None:
    world(session)
    page = recommender.for_you(session, "plain", limit=9, as_of=NOON)
    assert not any(item.crowded for item in page.items)
    row = page.items[0].as_dict()
    assert {"creator", "published_at", "format"} <= row.keys()
    served = recommender.record_page(session, preview(session, "muting", limit=9, as_of=NOON))
    assert not any(item.crowded for item in served.items)
    audit = recommender.audit(session)
    assert (audit.neighbours_creator, audit.own, audit.muted) == (0, 0, 0)
    nobodys = [ScoredCandidate(key, None, None) for key in (9, 8, 7)]
    places = arrange([*nobodys, ScoredCandidate(6, 1, None)], Spread(limit=4, damping=0.5)) or []
    assert [place.candidate for place in places] == [0, 1, 2, 3]


@only_postgresql
def test_a_session_in_any_time_zone_reads_them(session: Session) -> None:
    world(session)
    make_video(session, "old", published_at="0001-01-03T00:00:00.000001Z")
    everything = {*NOBODYS, "dated", "of star", "bad", "old"}
    for zone in ("UTC", "America/New_York", "Asia/Manila", "Pacific/Kiritimati"):
        session.execute(sa.select(sa.func.set_config("TimeZone", zone, True)))  # noqa: FBT003 - SQL's
        shown = preview(session, limit=12, as_of=NOON)
        assert {item.video for item in shown.items} == everything
        assert {item.video for item in shown.items if item.published_at is None} == {
            *NOBODYS, "of star",
        }  # fmt: skip
        trending = recommender.trending(session, limit=12, as_of=NOON)
        assert set(names(trending)) == everything


def test_old_videos_are_neither_fresh_nor_on_trial(session: Session) -> None:
    make_video(session, "old", published_at="0001-01-03T00:00:00.000001Z")
    make_video(session, "new", published_at=at(-1))
    page = preview(session, as_of=NOON)
    fresh = {item.video: item.signals["freshness"].value for item in page.items}
    assert fresh["old"] < 1e-9 < fresh["new"]
    assert {item.video for item in page.items if "fresh" in item.sources} == {"new"}
