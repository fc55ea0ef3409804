"""Feeds with names: their versions, sources, formats, profiles, memories and limits."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    FeedItem,
    FeedPage,
    InvalidValue,
    Settings,
    UnknownFeed,
    UnknownProfile,
    UnknownUser,
    audit,
    create_feed,
    delete_feed,
    get_feed,
    list_feeds,
    mark_seen,
    run_transaction,
)
from recommender.models import ServedVideo, Video
from recommender.models.tables import FEEDS, REMEMBERED, SESSIONS
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    follow,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
    rows_of,
    writes_of_a_page,
)

pytestmark = slow_on_postgresql


def serve(session: Session, feed: str | None = "reels", **options: Any) -> FeedPage:
    return recommender.for_you(session, "viewer", feed=feed, **{"as_of": NOON, **options})


def pages(session: Session, **options: Any) -> list[FeedPage]:
    """A whole session, page by page; the cursors name no feed."""
    found = [serve(session, **options)]
    while found[-1].cursor:
        found.append(serve(session, **{**options, "feed": None, "cursor": found[-1].cursor}))
    return found


def make_world(session: Session, videos: int = 12) -> set[str]:
    """Videos of two formats by four creators, newest first."""
    make_user(session)
    for number in range(videos):
        make_video(
            session, f"v{number}", creator=f"c{number % 4}", published_at=at(-60 - number),
            format="reel" if number % 2 else "post",
        )  # fmt: skip
    return {f"v{number}" for number in range(videos)}


REELS = {f"v{number}" for number in range(1, 12, 2)}


def sources_of(page: FeedPage) -> set[str]:
    return {source for item in page.items for source in item.sources}


def test_a_name_that_is_created_again_is_the_next_version(session: Session) -> None:
    first = create_feed(session, "reels", formats=["reel"], limits={"creator": (2, 10)})
    other = create_feed(session, "mail", memory="own", sources={"newest": 50, "fresh": 0})
    second = create_feed(session, "reels", profile="for_you@1", memory="own")
    assert [each.label for each in (first, other, second)] == ["reels@1", "mail@1", "reels@2"]
    assert list_feeds(session) == [other, first, second]
    assert get_feed(session, "reels") == second
    assert [each.memory_id for each in list_feeds(session)] == [1, 0, 2]
    assert create_feed(session, "mail", memory="own").memory_id == 1
    plain = second.as_dict()
    assert plain.pop("created_at").endswith("Z")
    assert plain == {
        "feed": "reels", "version": 2, "profile": "for_you@1", "sources": {}, "formats": [],
        "memory": "own", "limits": {}, "deleted_at": None,
    }  # fmt: skip
    assert first.as_dict()["limits"] == {"creator": [2, 10]}
    assert other.as_dict()["sources"] == {"newest": 50, "fresh": 0}
    assert not other.reads("fresh")
    assert not other.reads("trending")
    assert other.reads("newest")


def test_a_deleted_feed_begins_no_session_and_those_that_began_go_on(session: Session) -> None:
    make_world(session)
    create_feed(session, "reels", formats=["reel"])
    first = serve(session, limit=2)
    second = serve(session, feed=None, limit=2, cursor=first.cursor)
    deleted = delete_feed(session, "reels")
    assert deleted.deleted_at is not None
    assert list_feeds(session) == [deleted]
    for ask in (lambda: serve(session), lambda: get_feed(session, "reels"),
                lambda: delete_feed(session, "reels")):  # fmt: skip
        with pytest.raises(UnknownFeed, match=r"^there is no feed 'reels'$"):
            ask()
    again = serve(session, feed=None, cursor=first.cursor)
    assert again.items == second.items
    third = serve(session, limit=2, cursor=second.cursor)
    assert {*names(first), *names(second), *names(third)} == REELS
    assert create_feed(session, "reels").version == 2
    assert serve(session).request.feed == get_feed(session, "reels")


def test_a_session_keeps_the_version_with_which_it_began(session: Session) -> None:
    make_world(session)
    old = create_feed(session, "reels", formats=["reel"])
    first = serve(session, limit=2)
    create_feed(session, "reels", formats=["post"])
    for options in ({"feed": None}, {"feed": "reels"}):
        page = serve(session, limit=2, cursor=first.cursor, **options)
        assert page.request.feed == old
        assert {item.format for item in page.items} == {"reel"}
    assert {item.format for item in serve(session).items} == {"post"}
    assert page.as_dict()["feed"] == "reels"


def test_a_cursor_of_another_feed_is_refused(session: Session) -> None:
    make_world(session)
    create_feed(session, "reels")
    create_feed(session, "mail")
    own, other = serve(session, limit=2), serve(session, feed=None, limit=2)
    with pytest.raises(InvalidValue, match=r"^feed: the session has 'reels': leave feed out"):
        serve(session, feed="mail", cursor=own.cursor)
    with pytest.raises(InvalidValue, match=r"^feed: the session has none: leave feed out"):
        serve(session, cursor=other.cursor)
    assert "feed" not in other.as_dict()


@pytest.mark.parametrize("name", ["nothing", "a b", "a\x00", "", 7])
def test_a_feed_that_is_not_there(session: Session, name: Any) -> None:
    make_world(session)
    for user in ("viewer", "nobody"):
        for record_it in (True, False):
            with pytest.raises(UnknownFeed, match=r"^there is no feed "):
                recommender.for_you(session, user, feed=name, record=record_it)
    with pytest.raises(UnknownFeed):
        recommender.explain(session, "viewer", "v1", feed=name)


def test_only_its_sources_give_candidates(session: Session) -> None:
    everything = make_world(session)
    follow(session, "viewer", "c1")
    follow(session, "viewer", "c2")
    followed = {f"v{number}" for number in range(12) if number % 4 in {1, 2}}
    create_feed(session, "reels", sources=["following"])
    page = preview(session, feed="reels", as_of=NOON)
    assert (set(names(page)), sources_of(page)) == (followed, {"following"})
    create_feed(session, "reels", sources={"following": 1, "newest": 0, "fresh": 2})
    page = preview(session, feed="reels", as_of=NOON)
    assert len(page.items) in {2, 3}
    assert sources_of(page) == {"following", "fresh"}
    assert Counter(source for each in page.items for source in each.sources)["fresh"] == 2
    assert page.exhausted
    assert set(names(preview(session, as_of=NOON))) == everything


def test_a_quota_that_is_given_is_not_scaled(session: Session) -> None:
    make_world(session, 40)
    create_feed(session, "reels", sources={"fresh": 5})
    create_feed(session, "mail", sources=["fresh"])
    fewer = Settings(candidates=90)
    found = {
        feed: len(preview(session, feed=feed, as_of=NOON, limit=50, settings=fewer).items)
        for feed in ("reels", "mail")
    }
    assert found == {"reels": 5, "mail": 40 * 90 // 720}


def test_a_page_without_newest_ends_where_its_sources_end(session: Session) -> None:
    """It scans no catalogue for a condition, and shows nothing that For You had found."""
    everything = make_world(session)
    make_video(session, "own", creator="friend", audience="followers")
    follow(session, "viewer", "friend")
    follow(session, "viewer", "c1")
    create_feed(session, "reels", sources=["following"])
    page = serve(session, where=Video.key.in_(["v1", "v5"]))
    assert (set(names(page)), page.cut_short, page.exhausted) == ({"v1", "v5"}, False, True)
    assert set(names(serve(session, feed=None, limit=50))) == {*everything, "own"}
    assert serve(session, as_of=at(1)).items == ()
    create_feed(session, "reels", sources=["following"], memory="own")
    with counted_statements(session.connection()) as sent:
        page = serve(session)
    assert (set(names(page)), len(sent)) == (
        {"v1", "v5", "v9", "own"},
        4 + writes_of_a_page(session),
    )
    again = serve(session, as_of=at(1))
    assert (set(names(again)), {item.refilled for item in again.items}) == (
        set(names(page)),
        {True},
    )


def test_a_page_without_newest_scans_no_catalogue_for_a_condition(session: Session) -> None:
    make_user(session)
    rows = [{"id": f"v{number}", "creator": "c", "published_at": at(-1)} for number in range(120)]
    recommender.upsert_videos(session, rows)
    create_feed(session, "reels", sources=["trending"])
    none = {"where": Video.key == "none", "settings": Settings(scan_limit=100)}
    ends = [
        (page.cut_short, page.exhausted)
        for page in (preview(session, feed=feed, as_of=NOON, **none) for feed in ("reels", None))
    ]
    assert ends == [(False, True), (True, False)]


def test_its_formats_are_those_of_every_page_and_a_request_narrows_them(session: Session) -> None:
    make_world(session)
    make_video(session, "story", format="story", creator="c9")
    create_feed(session, "reels", formats=["reel", "story"])
    shown = pages(session, limit=3)
    assert sorted(name for page in shown for name in names(page)) == sorted([*REELS, "story"])
    own = {"feed": "reels", "as_of": NOON, "rewatch": True}
    assert set(names(preview(session, formats=["story", "post"], **own))) == {"story"}
    with pytest.raises(InvalidValue, match=r"^formats: the feed reels has only reel, story$"):
        preview(session, formats=["post"], **own)
    explained = recommender.explain(session, "viewer", "v0", feed="reels", as_of=NOON)
    assert explained.reason == "Not shown: this feed has other formats only."
    create_feed(session, "reels", sources=["newest"])
    assert recommender.explain(session, "viewer", "v0", feed="reels", as_of=NOON).shown


def test_its_profile_is_the_active_one_or_the_newest_or_a_numbered_one(session: Session) -> None:
    make_world(session)
    for weight in (1.0, 2.0):
        recommender.create_profile(session, "mine", {"likes": weight})
    for name, profile in (("any", None), ("newest", "mine"), ("first", "mine@1")):
        create_feed(session, name, profile=profile)

    def profiles(**options: Any) -> list[str]:
        return [
            preview(session, user, feed=feed, **options).request.profile.label
            for feed in ("any", "newest", "first")
            for user in ("viewer", "nobody")
        ]

    active = recommender.get_profile(session).label
    assert profiles() == [active, active, "mine@2", "mine@2", "mine@1", "mine@1"]
    assert profiles(profile="classic") == ["classic@1"] * 6
    began = serve(session, feed="newest", limit=1)
    recommender.create_profile(session, "mine", {"quality": 1.0})
    recommender.activate_profile(session, "mine@3")
    assert profiles() == ["mine@3"] * 4 + ["mine@1"] * 2
    with counted_statements(session.connection()) as sent:
        page = serve(session, feed=None, limit=1, cursor=began.cursor)
    assert (page.request.profile.label, len(sent)) == (
        "mine@2",
        3 + writes_of_a_page(session),
    )


@pytest.mark.parametrize("limit", [1, 5])
def test_a_page_of_a_feed_takes_as_many_statements_as_another(session: Session, limit: int) -> None:
    make_world(session)
    create_feed(
        session, "reels", profile="for_you", sources={"newest": 60, "fresh": 40},
        formats=["reel", "post"], memory="own", limits={"creator": (2, 6), "format": (3, 4)},
    )  # fmt: skip
    cursor, counts = None, []
    for feed in ("reels", None):
        with counted_statements(session.connection()) as sent:
            cursor = serve(session, feed=feed, limit=limit, cursor=cursor).cursor
        counts.append(len(sent))
    assert counts == [3 + writes_of_a_page(session)] * 2


def test_a_feed_with_its_own_memory_uses_up_nothing_elsewhere(session: Session) -> None:
    everything = make_world(session)
    create_feed(session, "reels", memory="own")
    create_feed(session, "mail", memory="own")
    create_feed(session, "shared")
    shown = pages(session, limit=5)
    assert {name for page in shown for name in names(page)} == everything
    again = serve(session, limit=20, as_of=at(1))
    assert {item.refilled for item in again.items} == {True}
    assert set(names(preview(session, feed="mail", as_of=NOON))) == everything
    explained = recommender.explain(session, "viewer", "v1", as_of=NOON)
    assert explained.shown
    kept_out = recommender.explain(session, "viewer", "v1", feed="reels", as_of=NOON)
    assert kept_out.reason == "Not shown: it was on a page for you on 1 January 2026."
    for_you = serve(session, feed=None, limit=4)
    assert set(names(preview(session, feed="mail", as_of=NOON))) == everything
    assert set(names(for_you)).isdisjoint(
        item.video
        for item in preview(session, feed="shared", as_of=NOON).items
        if not item.refilled
    )
    record(session, "watch", "v3", completion=1.0)
    for feed in ("mail", "shared", None):
        assert "v3" not in names(preview(session, feed=feed, as_of=at(1)))
    assert audit(session).broken == ()


def test_what_was_looked_at_is_seen_in_the_memory_of_its_session(session: Session) -> None:
    everything = make_world(session)
    create_feed(session, "reels", memory="own")
    other, page = serve(session, feed=None, limit=20), serve(session, limit=20)
    assert set(names(other)) == set(names(page)) == everything
    mark_seen(session, "viewer", cursor=None, session_id=page.session, position=3)
    seen = {name: set() for name in (0, 1)}
    videos = dict(session.execute(sa.select(Video.id, Video.key)).all())
    for memory, video, is_seen in rows_of(session, REMEMBERED, "memory", "video_id", "seen"):
        seen[memory] |= {videos[video]} if is_seen else set()
    assert seen == {0: set(), 1: set(names(page)[:3])}
    tomorrow = at(25 * 60)
    long = {"settings": Settings(session_lifetime=1e6), "limit": 20, "as_of": tomorrow}
    assert set(names(preview(session, feed="reels", **long))) == everything - seen[1]
    assert set(names(preview(session, **long))) == everything


def test_the_next_page_means_seen_in_its_own_memory(session: Session) -> None:
    make_world(session)
    create_feed(session, "reels", memory="own")
    serve(session, feed=None, limit=20)
    pages(session, limit=5)
    rows = rows_of(session, REMEMBERED, "memory", "seen")
    assert Counter(rows) == {(0, False): 12, (1, True): 10, (1, False): 2}


def over_limits(items: Sequence[FeedItem], limits: dict[str, tuple[int, int]]) -> list[int]:
    """The positions of places that are beyond a limit, by a count of the places before them."""
    every = [*limits.items(), ("creator", (1, 2)), ("sound", (1, 2))]
    return [
        item.position
        for number, item in enumerate(items)
        if any(
            getattr(item, subject) is not None
            and sum(
                getattr(before, subject) == getattr(item, subject)
                for before in items[max(0, number - places + 1) : number]
            ) >= most
            for subject, (most, places) in every
        )
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_no_place_of_a_session_is_beyond_a_limit_unless_it_is_crowded(
    session: Session, seed: int
) -> None:
    """In pages of any length, and where they meet; an audit says the same."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    make_user(session)
    for number in range(45):
        make_video(
            session, f"v{number}", creator=f"c{chance.randrange(9)}", published_at=at(-60 - number),
            sound=chance.choice([None, "s0", "s1", "s2"]),
            format=chance.choice([None, "reel", "post", "story"]),
        )  # fmt: skip
    limits = {"creator": (2, 7), "sound": (1, 4), "format": (2, 4)}
    create_feed(session, "reels", limits=limits, memory="own")
    found = pages(session, limit=chance.randrange(2, 5))
    items = [item for page in found for item in page.items]
    assert len(items) == 45
    crowded = {item.position for item in items if item.crowded}
    assert set(over_limits(items, limits)) == crowded
    assert 0 < len(crowded) < 20
    assert audit(session, feed="reels").beyond_limits == 0
    session.execute(sa.update(ServedVideo).values(crowded=False))
    report = audit(session, feed="reels")
    own = {subject: {subject: limit} for subject, limit in limits.items()}
    expected = sum(
        position in crowded_by
        for limit in own.values()
        for crowded_by in (set(only_over(items, limit)),)
        for position in crowded
    )
    assert report.beyond_limits == expected > 0
    assert "beyond_limits" in report.broken


def test_a_limit_looks_at_fifty_places_of_the_pages_before(session: Session) -> None:
    """The seventh page begins at place 50, which is one of fifty with place 1, and 51 is not."""
    make_user(session)
    for number in range(60):
        creator = "often" if number < 2 else f"c{number}"
        make_video(session, f"v{number}", creator=creator, published_at=at(-60 - number))
    create_feed(session, "reels", limits={"creator": (1, 50)})
    own = {"limit": 7, "settings": Settings(exploration_share=0)}
    items = [item for page in pages(session, **own) for item in page.items]
    assert [item.position for item in items if item.creator == "often"] == [1, 51]


def only_over(items: Sequence[FeedItem], limits: dict[str, tuple[int, int]]) -> list[int]:
    """The positions beyond these limits, without those of every feed."""
    ((subject, (most, places)),) = limits.items()
    return [
        item.position
        for number, item in enumerate(items)
        if getattr(item, subject) is not None
        and sum(
            getattr(before, subject) == getattr(item, subject)
            for before in items[max(0, number - places + 1) : number]
        ) >= most
    ]  # fmt: skip


def test_a_page_that_is_recorded_elsewhere_keeps_feed_and_limits(session: Session) -> None:
    make_user(session)
    for number in range(8):
        make_video(session, f"v{number}", creator=f"c{number % 3}", published_at=at(-60 - number))
    feed = create_feed(session, "reels", memory="own", limits={"creator": (1, 3)})
    page = preview(session, feed="reels", as_of=NOON, limit=6)
    assert not any(item.crowded for item in page.items)
    record(session, "like", page.items[1].video)
    served = recommender.record_page(session, page)
    assert names(served) == [name for name in names(page) if name != names(page)[1]]
    assert [item.crowded for item in served.items] == [False, False, True, False, False]
    assert served.request.feed == feed
    assert rows_of(session, SESSIONS, "feed_id") == [(feed.id,)]
    assert {memory for (memory,) in rows_of(session, REMEMBERED, "memory")} == {1}
    assert audit(session).broken == ()


def test_refilled_places_are_within_the_limits_too(session: Session) -> None:
    make_user(session)
    for number in range(12):
        make_video(session, f"v{number}", creator=f"c{number % 4}", published_at=at(-60 - number))
    limits = {"creator": (1, 4)}
    create_feed(session, "reels", memory="own", limits=limits)
    serve(session, limit=7)
    items = serve(session, limit=12, as_of=at(1)).items
    assert len({item.creator for item in items[:4]}) == 4
    assert set(over_limits(items, limits)) == {item.position for item in items if item.crowded}
    assert any(item.refilled for item in items)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "1st"}, "^feed: '1st' is not a letter followed by"),
        ({"name": 5}, "^feed: 5 is not a letter followed by"),
        ({"profile": "classic"}, "^profile: classic has neither sources nor limits"),
        ({"profile": "people@1"}, "^profile: people@1 ranks people, not videos"),
        ({"sources": "newest"}, "^sources: 'newest' is no list of sources"),
        (
            {"sources": ["news"]},
            "^sources: there is no source 'news': there are following, .* newest; one of your own ",
        ),
        ({"sources": {"newest": 1_001}}, "^sources: the quota of newest is 1001, not 0 to 1,000"),
        ({"sources": {"newest": -1}}, "^sources: the quota of newest is -1, not 0 to 1,000"),
        ({"sources": {"newest": True}}, "^sources: the quota of newest is True, not 0 to 1,000"),
        ({"sources": {"newest": None}}, "^sources: the quota of newest is None, not 0 to 1,000"),
        ({"sources": {"newest": 0}}, "^sources: the quotas add up to 0, not 1 to 7,200"),
        (
            {"sources": dict.fromkeys(
                ["following", "social", "neighbours", "hashtags", "sounds", "creators", "trending",
                 "nearby"], 1_000,
            )},
            "^sources: the quotas add up to 8,000, not 1 to 7,200",
        ),
        ({"formats": "reel"}, "^formats: 'reel' is no list of formats"),
        ({"formats": [""]}, "^formats: is empty"),
        ({"formats": [str(number) for number in range(11)]}, "^formats: 11 are more than 10"),
        ({"memory": "none"}, "^memory: 'none' is neither shared nor own"),
        ({"limits": ["creator"]}, "^limits: .* is no mapping"),
        ({"limits": {"tag": (1, 2)}}, "^limits: 'tag' is not one of creator, sound, format"),
        *(
            ({"limits": {"creator": limit}}, "^limits: creator: .* is not a pair such as ")
            for limit in ((0, 5), (5, 5), (1, 51), (1,), 3, (1.0, 5), (True, 5), "15")
        ),
    ],
)  # fmt: skip
@only_sqlite
def test_a_feed_that_cannot_be_is_refused(
    session: Session, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        create_feed(session, **{"name": "reels", **options})
    assert list_feeds(session) == []


@only_sqlite
def test_a_profile_that_is_not_there(session: Session) -> None:
    with pytest.raises(UnknownProfile, match="there is no profile 'nothing'"):
        create_feed(session, "reels", profile="nothing")


def test_a_source_that_is_no_longer_registered_is_named_and_served_pages_remain(
    session: Session,
) -> None:
    make_world(session)
    create_feed(session, "reels", sources=["newest"])
    first = serve(session, limit=2)
    second = serve(session, feed=None, limit=2, cursor=first.cursor)
    session.execute(sa.update(FEEDS).values(sources={"gone": None}))
    again = serve(session, feed=None, limit=2, cursor=first.cursor)
    assert again.items == second.items
    for options in ({}, {"cursor": second.cursor}):
        with pytest.raises(InvalidValue, match=r"^sources: the feed reels reads gone, which is "):
            serve(session, **options)


def test_the_numbers_of_memories_end(session: Session) -> None:
    for name in ("first", "last"):
        create_feed(session, name, memory="own")
    session.execute(sa.update(FEEDS).where(FEEDS.c.name == "last").values(memory=2**15 - 1))
    with pytest.raises(InvalidValue, match=r"^memory: 32,767 feeds have their own, choose shared$"):
        create_feed(session, "other", memory="own")
    assert create_feed(session, "last", memory="own").memory_id == 2**15 - 1
    assert create_feed(session, "other").version == 1


def test_a_guest_who_signs_in_keeps_the_memory_of_each_feed(engine: Engine) -> None:
    def write(session: Session) -> tuple[FeedPage, FeedPage]:
        make_world(session)
        make_user(session, "guest")
        create_feed(session, "reels", memory="own")
        mine = serve(session, limit=3)
        guests = recommender.for_you(session, "guest", feed="reels", limit=5, as_of=NOON)
        return mine, guests

    mine, guests = run_transaction(engine, write)
    recommender.merge_users(engine, "guest", "viewer")

    def read(session: Session) -> None:
        page = preview(session, feed="reels", as_of=at(1), limit=20)
        fresh = {item.video for item in page.items if not item.refilled}
        assert fresh.isdisjoint({*names(mine), *names(guests)})
        assert len(preview(session, as_of=at(1), limit=20).items) == 12
        again = recommender.for_you(session, "viewer", cursor=guests.cursor, as_of=at(2))
        assert again.request.feed == get_feed(session, "reels")

    run_transaction(engine, read)


def test_an_archive_names_the_feed_of_a_session(engine: Engine, tmp_path: Path) -> None:
    def write(session: Session) -> None:
        make_world(session)
        create_feed(session, "reels", memory="own")
        serve(session, limit=2)

    run_transaction(engine, write)
    file = tmp_path / "viewer.jsonl"
    recommender.export_user(engine, "viewer", str(file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    begun = [line["row"] for line in lines if line["kind"] == "feed_sessions"]
    assert [row["feed"] for row in begun] == ["reels@1"]


@only_sqlite
def test_an_audit_of_one_feed_reads_its_sessions_only(session: Session) -> None:
    make_world(session)
    for name in ("reels", "mail"):
        create_feed(session, name, memory="own", limits={"creator": (2, 10)})
        serve(session, feed=name, limit=3)
    serve(session, feed=None, limit=2)
    delete_feed(session, "mail")
    figures = [audit(session, feed=feed) for feed in ("reels", "mail", None)]
    assert [(each.sessions, each.items) for each in figures] == [(1, 3), (1, 3), (3, 8)]
    assert figures[2].broken == ()
    assert audit(session, feed="reels", since=at(1)).sessions == 0
    counts = []
    for feed in ("reels", None):
        with counted_statements(session.connection()) as sent:
            audit(session, feed=feed)
        counts.append(len(sent))
    assert counts[1] == counts[0] + 1  # the limit of the other feed
    with pytest.raises(UnknownFeed, match="there is no feed 'nothing'"):
        audit(session, feed="nothing")


@only_sqlite
def test_an_unknown_viewer_gets_pages_of_a_feed(session: Session) -> None:
    make_world(session)
    make_videos(session, "w1", "w2", creator="c9", format="story")
    create_feed(session, "reels", formats=["story"])
    page = recommender.for_you(session, "nobody", feed="reels", as_of=NOON)
    assert (set(names(page)), page.session) == ({"w1", "w2"}, None)
    with pytest.raises(UnknownUser):
        recommender.record_page(session, page)
