"""Following and trending: what they list, page after page, and what a page costs."""

from __future__ import annotations

import base64
import json
import math
import random
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

import recommender
from recommender import Contribution, FeedPage, InvalidCursor, InvalidValue
from recommender.feed.cursors import BY_FOLLOWED, BY_NEWNESS, BY_TREND, ListPosition
from recommender.models import Video
from recommender.models.tables import LEARNING_STATE as LEARNING
from recommender.models.tables import VIDEOS
from recommender.models.types import microseconds
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import CREATORS, VIEWERS, Oracle, World, dated, load, random_world
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    follow,
    follow_oneself,
    make_user,
    make_video,
    make_videos,
    mute,
    names,
    record,
    worked_example,
)

pytestmark = slow_on_postgresql

List = Callable[..., FeedPage]


def following(session: Session, user: str = "viewer", **options: Any) -> FeedPage:
    return recommender.following(session, user, **{"as_of": NOON, **options})


def trending(session: Session, *where: str | None, **options: Any) -> FeedPage:
    return recommender.trending(session, *where, **{"as_of": NOON, **options})


def first_quick(*values: Any) -> list[Any]:
    """Return the values as parameters; all but the first run with the slow tests."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in others)]


def walk(ask: Callable[..., FeedPage], limit: int) -> Iterator[FeedPage]:
    """All pages, each asked for with the cursor of the one before."""
    cursor = None
    for _ in range(200):
        page = ask(limit=limit, cursor=cursor)
        yield page
        if (cursor := page.cursor) is None:
            return
    pytest.fail("the list does not end")


def walked(ask: Callable[..., FeedPage], limit: int) -> list[str]:
    """The videos of all pages; every page but the last is full, and only that one may be short."""
    pages = list(walk(ask, limit))
    assert [page.exhausted for page in pages] == [False] * (len(pages) - 1) + [True]
    assert all(len(page.items) == limit for page in pages[:-1])
    assert len(pages[-1].items) <= limit
    return [video for page in pages for video in names(page)]


def tied_world(seed: int) -> World:
    """A random world of few times and few trends, in which viewers follow several creators."""
    world, chance = random_world(seed, videos=60), random.Random(seed)  # noqa: S311
    for video in world.videos.values():
        video["published_at"] = chance.choice([at(5), at(), *[at(-1)] * 3, at(-60), at(-900), None])
        video["trending"] = chance.choice([None, None, -9.5, 0.1, 0.1, 1000 / 3])
        video["status"] = chance.choice(["published"] * 9 + ["removed"])
    world.follows |= {(user, creator) for user in ("u0", "u1") for creator in CREATORS}
    world.follows -= {("u0", "u0"), ("u1", "u1")}
    return world


def newest_of_followed(world: World, user: str) -> list[str]:
    oracle = Oracle(world, user)

    def may_come(key: str) -> bool:
        passed = oracle.filters(key)
        return all(passed[name] for name in passed if name != "not_seen")

    keys = [k for k, v in world.videos.items() if v["creator"] in oracle.followed and may_come(k)]
    return sorted(keys, key=oracle.newness, reverse=True)


def most_trending(world: World, language: str | None, country: str | None) -> list[str]:
    oracle = Oracle(world, "nobody")
    keys = [
        key
        for key, video in world.videos.items()
        if video["status"] == "published"
        and dated(video) <= NOON
        and (language is None or video["language"] in {language, None})
        and country in {None, video["country"]}
    ]
    trends = {key: world.videos[key]["trending"] for key in keys}
    with_trend = list(filter(oracle.is_trending, keys))
    without = [key for key in keys if key not in with_trend]
    with_trend.sort(key=lambda key: (trends[key], oracle.order[key]), reverse=True)
    return with_trend + sorted(without, key=oracle.newness, reverse=True)


PLACES = [(None, None), ("en", None), (None, "MX"), ("es", "US"), ("xx", None), ("en", "xx")]


@pytest.mark.parametrize("seed", first_quick(31, 32, 33, 34))
def test_following_is_what_plain_python_says(session: Session, seed: int) -> None:
    world = tied_world(seed)
    load(session, world)
    longest = 0
    for user in (*VIEWERS, "nobody"):
        expected = newest_of_followed(world, user)
        longest = max(longest, len(expected))
        for limit in (1, 2, 3, 7, 500):
            asked = lambda user=user, **options: following(session, user, **options)  # noqa: E731
            assert walked(asked, limit) == expected, (user, limit)
    assert longest > 12


@pytest.mark.parametrize("seed", first_quick(41, 42, 43))
def test_trending_is_what_plain_python_says(session: Session, seed: int) -> None:
    world = tied_world(seed)
    load(session, world)
    for place in PLACES:
        expected = most_trending(world, *place)
        for limit in (1, 2, 7, 500):
            asked = lambda place=place, **options: trending(session, *place, **options)  # noqa: E731
            assert walked(asked, limit) == expected, (place, limit)


def test_items_say_what_they_are(session: Session) -> None:
    world = tied_world(44)
    load(session, world)
    oracle = Oracle(world, "nobody")
    for page in walk(lambda **options: trending(session, **options), 7):
        assert [item.position for item in page.items] == list(range(1, len(page.items) + 1))
        for item in page.items:
            is_trending = oracle.is_trending(item.video)
            value = oracle.signals(item.video)["trending"] if is_trending else 0.0
            assert item.signals == {"trending": Contribution(pytest.approx(value), 1.0)}
            assert item.score == pytest.approx(value, abs=1e-9)
            assert item.sources == ("trending",)
            assert item.creator == world.videos[item.video]["creator"]
    for page in walk(lambda **options: following(session, "u0", **options), 3):
        assert [item.position for item in page.items] == list(range(1, len(page.items) + 1))
        for item in page.items:
            assert (item.score, item.signals, item.sources) == (0, {}, ("following",))
            assert set(item.hashtags) == set(world.videos[item.video]["hashtags"])


def test_a_page_says_what_was_asked(session: Session) -> None:
    worked_example(session)
    request = following(session, "user1", limit=3).request
    assert (request.user, request.known, request.as_of, request.limit) == ("user1", True, NOON, 3)
    assert (request.profile.name, request.profile.version) == ("following", 1)
    assert request.profile.weights == {}
    request = trending(session, "en", "US").request
    assert (request.known, request.language, request.country) == (False, "en", "US")
    assert (request.profile.name, request.profile.version) == ("trending", 1)
    assert request.profile.weights == {"trending": 1.0}


def test_following_shows_what_was_seen_and_keeps_out_what_was_muted_or_rejected(
    session: Session,
) -> None:
    make_user(session)
    cases: dict[str, dict[str, Any]] = {
        "seen": {}, "liked": {}, "reported": {}, "rejected": {}, "tag": {"hashtags": ["cats"]},
        "sound": {"sound": "song"}, "word": {"caption": "so much SPAM here"},
        "muted": {"creator": "villain"}, "stranger": {"creator": "else"}, "own":
        {"creator": "viewer"}, "future": {"published_at": at(1)}, "removed": {"status": "removed"},
    }  # fmt: skip
    for key, columns in cases.items():
        make_video(session, key, **{"creator": "star", **columns})
    for creator in ("star", "villain"):
        recommender.follow(session, "viewer", creator)
    follow_oneself(session, "viewer")
    for kind, value in (("creator", "villain"), ("hashtag", "cats"), ("sound", "song"),
                        ("keyword", "spam")):  # fmt: skip
        mute(session, "viewer", kind, value)
    for kind, video in (("watch", "seen"), ("like", "liked"), ("report", "reported"),
                        ("not_interested", "rejected")):  # fmt: skip
        record(session, kind, video)
    assert names(following(session)) == ["liked", "seen"]
    assert names(following(session, as_of=at(2))) == ["future", "liked", "seen"]


def test_a_page_stays_full_whatever_the_filters_take_away(session: Session) -> None:
    """The newest of each creator, and the newest of all, are just what may not come."""
    make_user(session)
    for number in range(6):
        follow(session, "viewer", f"star{number % 2}")
        for part, tags in (("bad", ["cats"]), ("good", [])):
            make_video(session, f"{part}{number}", creator=f"star{number % 2}", hashtags=tags,
                       published_at=at((100 if part == "bad" else 0) + number - 900))  # fmt: skip
    recommender.mute(session, "viewer", "hashtag", "cats")
    expected = [f"good{number}" for number in (5, 4, 3, 2, 1, 0)]
    for limit in (1, 2, 4, 500):
        assert walked(lambda **options: following(session, **options), limit) == expected


@pytest.mark.slow
def test_a_prolific_creator_hides_nobody(session: Session) -> None:
    make_user(session)
    rows = [
        {"id": f"{creator}{n}", "creator": creator, "published_at": at(-n * every)}
        for creator, every, many in (("busy", 1, 50), ("calm", 30, 5), ("rare", 900, 1))
        for n in range(many)
    ]
    recommender.upsert_videos(session, rows)
    for creator in ("busy", "calm", "rare", "silent"):
        follow(session, "viewer", creator)
    rows.sort(key=lambda row: row["published_at"], reverse=True)
    in_time = [row["published_at"] for row in rows]
    for limit in (1, 2, 3, 20):
        asked = walked(lambda **options: following(session, **options), limit)
        assert sorted(asked) == sorted(str(row["id"]) for row in rows)
        moments = {str(row["id"]): row["published_at"] for row in rows}
        assert [moments[video] for video in asked] == in_time


def churned(
    session: Session, ask: Callable[..., FeedPage], seed: int
) -> tuple[list[str], set[str]]:
    """What a walk shows, and what was there throughout, while others come and go between pages."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    before = set(names(ask(limit=500)))
    shown: list[str] = []
    gone: set[str] = set()
    for number, page in enumerate(walk(ask, 3)):
        shown += names(page)
        make_video(session, f"new{number}", creator="c0", language="en",
                   published_at=at(chance.choice([0, -1, -60])))  # fmt: skip
        trend = chance.choice([None, 0.1, -9.5])
        added = VIDEOS.update().where(VIDEOS.c.key == f"new{number}")
        session.execute(added.values(trending=trend))
        removed = chance.choice(sorted({*before, f"new{number}", *names(page)} - gone))
        gone.add(removed)
        session.execute(VIDEOS.update().where(VIDEOS.c.key == removed).values(status="removed"))
    return shown, before - gone


def following_of_u0(session: Session, **options: Any) -> FeedPage:
    return following(session, "u0", **options)


@pytest.mark.parametrize("seed", first_quick(51, 52))
@pytest.mark.parametrize("ask", [following_of_u0, trending])
def test_what_comes_and_goes_between_pages_neither_repeats_nor_skips_another(
    session: Session, ask: List, seed: int
) -> None:
    load(session, replace(tied_world(seed), mutes=set()))
    shown, throughout = churned(session, lambda **options: ask(session, **options), seed)
    assert len(shown) == len(set(shown))
    assert len(throughout) > 5
    assert throughout <= set(shown)


def test_a_fresh_catalogue_trends_by_newness(session: Session) -> None:
    make_videos(session, "a", "b")
    make_video(session, "c", published_at=at(-90))
    assert names(trending(session)) == ["b", "a", "c"]
    assert [item.score for item in trending(session).items] == [0, 0, 0]


def test_a_full_last_page_is_exhausted_if_no_statement_tells_so(session: Session) -> None:
    load(session, tied_world(63))
    whole = len(names(trending(session, limit=500)))
    assert trending(session, limit=whole).exhausted
    assert not trending(session, limit=whole - 1).exhausted
    whole = len(names(following(session, "u0", limit=500)))
    assert following(session, "u0", limit=whole).exhausted
    assert not following(session, "u0", limit=whole - 1).exhausted
    session.execute(VIDEOS.update().values(trending=100.0))  # only another statement would tell
    page = trending(session, limit=len(names(trending(session, limit=500))))
    assert not page.exhausted
    assert (names(trending(session, cursor=page.cursor)), page.cut_short) == ([], False)


def test_a_trend_below_one_viewer_counts_as_none_and_ages_between_pages(
    session: Session,
) -> None:
    make_user(session)
    state = sa.select(LEARNING.c.landmark, LEARNING.c.trend_half_life_days)
    landmark, days = session.execute(state).one()

    def trend_of(viewers: float, moment: datetime = NOON) -> float:
        return (moment - landmark) / timedelta(days=days) + math.log2(viewers)

    trends = {"old hit": 8, "older": 2.0001, "stale": 0.99, "new": None, "newest": 0.01}
    for age, (key, viewers) in enumerate(reversed(trends.items())):
        make_video(session, key, published_at=at(-90 - 1000 * age))
        if viewers is not None:
            stored = VIDEOS.update().where(VIDEOS.c.key == key)
            session.execute(stored.values(trending=trend_of(viewers)))
    expected = ["old hit", "older", "newest", "new", "stale"]
    page = trending(session, limit=500)
    assert names(page) == expected
    assert [item.score > 0 for item in page.items] == [True, True, False, False, False]
    for limit in (1, 2, 3):
        shown, cursor = [], None
        for later in range(6):  # every page is read one half-life later
            moment = NOON + later * timedelta(days=days)
            page = trending(session, limit=limit, cursor=cursor, as_of=moment)
            shown += names(page)
            if (cursor := page.cursor) is None:
                break
        assert len(shown) == len(set(shown)) == len(expected)


def test_who_follows_nobody_gets_an_empty_page(session: Session) -> None:
    make_videos(session, "a")
    for user in ("nobody", make_user(session)):
        page = following(session, user)
        assert (page.items, page.cursor, page.exhausted) == ((), None, True)


def test_statements_do_not_grow_with_the_page(session: Session) -> None:
    load(session, tied_world(61))
    for limit in (1, 5, 500):
        with counted_statements(session.connection()) as sent:
            following(session, "u0", limit=limit)
        assert len(sent) == 2
        assert "/* recommender.following */" in sent[-1]
    for limit, expected in ((1, 2), (5, 2), (500, 3)):
        with counted_statements(session.connection()) as sent:
            trending(session, limit=limit)
        assert len(sent) == expected
        assert all("/* recommender.trending */" in statement for statement in sent)


def test_trending_reads_nothing_of_any_viewer(session: Session) -> None:
    load(session, tied_world(62))
    cursors = [None, *(page.cursor for page in walk(lambda **o: trending(session, **o), 9))]
    with counted_statements(session.connection()) as sent:
        for cursor in cursors:
            trending(session, "en", "US", cursor=cursor)
    catalogue = "videos users sounds hashtags video_captions video_hashtags learning_state"
    read = set(re.findall(r"\brec_\w+", " ".join(sent))) - {"rec_exp2"}
    assert read == {f"rec_{name}" for name in catalogue.split()}
    every = " ".join(sent).replace('"', "")
    assert set(re.findall(r"rec_users\.\w+ \S+", every)) == {"rec_users.key AS", "rec_users.id ="}
    assert set(re.findall(r"rec_users\.id = (\S+)", every)) == {"rec_videos.creator_id"}


@contextmanager
def bound(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """The statements sent meanwhile, with their values."""
    sent: list[tuple[str, Any]] = []

    def keep(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        sent.append((statement, values))

    event.listen(connection, "before_cursor_execute", keep)
    yield sent
    event.remove(connection, "before_cursor_execute", keep)


def fill(session: Session, videos: int, creators: int) -> None:
    """Many videos, one each minute, by all creators in turn; the viewer follows every other one."""
    make_user(session)
    recommender.upsert_videos(session, [
        {"id": f"v{n}", "creator": f"c{n % creators}", "language": ("en", "es", None, "es")[n % 4],
         "country": ("US", "MX", None)[n % 3], "published_at": at(n - videos)}
        for n in range(videos)
    ])  # fmt: skip
    for number in range(0, creators, 2):
        recommender.follow(session, "viewer", f"c{number}")
    session.execute(VIDEOS.update().where(VIDEOS.c.id % 4 != 0).values(
        trending=100 + sa.cast(VIDEOS.c.id, sa.Double) / 1_000
    ))  # fmt: skip
    if session.connection().dialect.name == "postgresql":
        session.execute(sa.text("ANALYZE"))


PAGES = {
    "following": (
        lambda session, **options: following(session, limit=10, **options),
        "rec_videos_creator_id_status_published_at_id_ix",
        BY_FOLLOWED,
    ),
    "trending": (
        lambda session, **options: trending(session, limit=10, **options),
        "rec_videos_status_trending_id_ix",
        BY_TREND,
    ),
    "trending in a language": (
        lambda session, **options: trending(session, "en", limit=10, **options),
        "rec_videos_status_language_trending_id_ix",
        BY_TREND,
    ),
    "trending in a country": (
        lambda session, **options: trending(session, None, "MX", limit=10, **options),
        "rec_videos_status_country_trending_id_ix",
        BY_TREND,
    ),
    "without a trend": (
        lambda session, **options: trending(session, limit=10, **options),
        "rec_videos_status_published_at_id_ix",
        BY_NEWNESS,
    ),
}
MANY = 4_000


def page_statement(session: Session, ask: List, **options: Any) -> tuple[str, Any]:
    with bound(session.connection()) as sent:
        page = ask(session, **options)
    assert len(page.items) == 10
    return sent[-1]


def middle(session: Session, by: bytes) -> str:
    """A cursor in the middle of the catalogue."""
    is_in = Video.trending.is_(None) if by == BY_NEWNESS else Video.trending.is_not(None)
    rows = session.scalars(sa.select(Video).where(is_in).order_by(Video.id)).all()
    row = rows[len(rows) // 2]
    return ListPosition(by, row.trending if by == BY_TREND else row.published_at, row.id).cursor


def looked_at(plan: dict[str, Any]) -> float:
    """How many rows of the videos' table and indexes a plan's scans read."""
    own = 0.0
    if plan.get("Relation Name") == "rec_videos":
        own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return own + sum(looked_at(each) for each in plan.get("Plans", ()))


@pytest.mark.parametrize("name", first_quick(*PAGES))
def test_a_page_walks_an_index_and_costs_the_same_at_any_depth(
    own_session: Session, kind: str, name: str
) -> None:
    ask, index, by = PAGES[name]
    fill(own_session, MANY, 40)
    first = page_statement(own_session, ask, cursor=None)
    deep = page_statement(own_session, ask, cursor=middle(own_session, by))
    is_plain = by != BY_NEWNESS
    assert (deep[0] == first[0]) is is_plain
    connection = own_session.connection()
    if kind == "sqlite":
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {deep[0]}", deep[1]).all()
        plan = "\n".join(row[-1] for row in rows)
        assert f"SEARCH rec_videos USING INDEX {index} (" in plan
        assert not re.search(r"SCAN (rec_videos|rec_users)", plan)
        return
    plans = [
        connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values).scalar_one()
        for sql, values in ((first, deep) if is_plain else (deep, deep))
    ]
    written = json.dumps(plans)
    assert index in written
    assert not re.search(r'"Seq Scan"[^{}]*"Relation Name": "rec_videos"', written)
    read = [looked_at(plan[0]["Plan"]) for plan in plans]
    assert max(read) < 300
    assert read[1] < 2 * read[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_condition_that_nothing_fulfils_reads_a_bounded_number_of_rows(
    own_session: Session, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "sqlite":
        return  # its plans do not count rows
    monkeypatch.setenv("RECOMMENDER_SCAN_LIMIT", "200")
    ask, _, by = PAGES[name]
    fill(own_session, MANY, 40)
    connection = own_session.connection()
    for cursor in (None, middle(own_session, by)):
        with bound(connection) as sent:
            page = ask(own_session, cursor=cursor, where=Video.duration_ms == 7)
        assert (page.items, page.cut_short) == ((), True)
        for sql, values in sent:
            explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}"
            plan = connection.exec_driver_sql(explained, values).scalar_one()
            assert looked_at(plan[0]["Plan"]) < 800


@pytest.mark.parametrize("name", ["following", "trending"])
def test_no_offset_grows_with_depth(own_session: Session, name: str) -> None:
    """Of a deep page's values only the place is another."""
    ask, _, by = PAGES[name]
    fill(own_session, 400, 10)
    (_, first), (_, deep) = (
        page_statement(own_session, ask, cursor=cursor)
        for cursor in (None, middle(own_session, by))
    )
    values = [list(each.values()) if isinstance(each, dict) else list(each)
              for each in (first, deep)]  # fmt: skip
    others = [new for old, new in zip(*values, strict=True) if old != new]
    place = ListPosition.of(middle(own_session, by), by)
    moment = microseconds(NOON if by == BY_TREND else place.value)
    assert set(others) <= {place.value, moment, place.video_id}
    assert others


@pytest.mark.slow
def test_a_creator_of_many_videos_costs_no_more_than_one_of_few(
    own_session: Session, kind: str
) -> None:
    if kind == "sqlite":
        return  # its plans do not count rows
    read = []
    for videos in (MANY, 2 * MANY):
        with own_session.begin_nested() as savepoint:
            fill(own_session, videos, 4)
            sql, values = page_statement(own_session, PAGES["following"][0])
            explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}"
            plan = own_session.connection().exec_driver_sql(explained, values).scalar_one()
            read.append(looked_at(plan[0]["Plan"]))
            savepoint.rollback()
    assert read[1] == pytest.approx(read[0], rel=0.2)
    assert max(read) < 150


def packed(kind: bytes, value: float, video_id: int) -> str:
    form = ">cdq" if isinstance(value, float) else ">cqq"
    return base64.urlsafe_b64encode(struct.pack(form, kind, value, video_id)).decode().rstrip("=")


GOOD = ListPosition(BY_FOLLOWED, NOON, 7).cursor
BAD_CURSORS: dict[str, Any] = {
    "garbage": "garbage", "truncated": GOOD[:-1], "longer": f"{GOOD}A",
    "padded": f"{GOOD}=", "spaced": f" {GOOD}", "broken": f"{GOOD[:9]}!{GOOD[10:]}",
    "no partition": packed(BY_NEWNESS, 1_000_000, 7),
    "other end": f"{GOOD[:-1]}{'B' if GOOD[-1] == 'A' else 'A'}",
    "unknown kind": packed(b"x", 1_000_000, 7), "year 0": packed(BY_FOLLOWED, -(2**56), 7),
    "after 2100": packed(BY_FOLLOWED, 2**62, 7), "no time": packed(BY_FOLLOWED, 2**63 - 1, 7),
    "row 0": packed(BY_FOLLOWED, 1_000_000, 0), "row -1": packed(BY_NEWNESS, 1_000_000, -1),
    "nan": packed(BY_TREND, float("nan"), 7), "inf": packed(BY_TREND, float("inf"), 7),
    "no trend": packed(BY_TREND, 1e7, 7), "surrogate": "\ud800" * 23, "nul": "\0" * 23,
    "long": "A" * 100_000, "number": 7, "bytes": GOOD.encode(), "false": False,
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CURSORS)
def test_a_bad_cursor_is_one_clear_error(session: Session, case: str) -> None:
    cursor = BAD_CURSORS[case]
    for ask in (
        lambda: following(session, cursor=cursor),
        lambda: trending(session, cursor=cursor),
    ):
        with pytest.raises(InvalidCursor, match=r"^cursor: .* is not one of this list: ask for"):
            ask()


def test_a_cursor_of_the_other_list_is_refused(session: Session) -> None:
    assert following(session, cursor=GOOD).items == ()
    with pytest.raises(InvalidCursor):
        trending(session, cursor=GOOD)
    for place in (ListPosition(BY_TREND, -9.5, 7), ListPosition(BY_NEWNESS, NOON, 7)):
        assert trending(session, cursor=place.cursor).items == ()
        with pytest.raises(InvalidCursor):
            following(session, cursor=place.cursor)


MOMENTS = st.datetimes(
    datetime(1970, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC)  # noqa: DTZ001
)  # fmt: skip
ROWS = st.integers(1, 2**63 - 1)
A_PLACE = st.one_of(
    st.builds(ListPosition, st.sampled_from([BY_FOLLOWED, BY_NEWNESS]), MOMENTS, ROWS),
    st.builds(ListPosition, st.just(BY_TREND), st.floats(-1e6, 1e6), ROWS),
)


@given(place=A_PLACE)
def test_a_cursor_stands_for_its_place(place: ListPosition) -> None:
    assert re.fullmatch(r"[\w-]{23}|[\w-]{34}", place.cursor, re.ASCII)
    assert ListPosition.of(place.cursor, place.by) == place


@pytest.mark.slow
@given(
    cursor=st.one_of(
        st.text(),
        st.text("ABab01-_", min_size=23, max_size=23),
        st.binary(min_size=17, max_size=17).map(
            lambda each: base64.urlsafe_b64encode(each).decode().rstrip("=")
        ),
        st.builds(packed, st.sampled_from([b"f", b"t", b"n"]), st.floats(), ROWS),
        st.builds(packed, st.sampled_from([b"f", b"t", b"n"]), st.integers(-(2**63), 2**63 - 1),
                  st.integers(-(2**63), 2**63 - 1)),
    )
)  # fmt: skip
@hypothesis_settings(max_examples=300)
def test_any_text_is_a_place_or_one_clear_error(cursor: str) -> None:
    try:
        place = ListPosition.of(cursor, BY_FOLLOWED, BY_TREND, BY_NEWNESS)
    except InvalidCursor:
        return
    assert place.cursor == cursor


@given(place=A_PLACE)
@hypothesis_settings(max_examples=30)
def test_any_place_gives_a_page(session: Session, place: ListPosition) -> None:
    ask = following if place.by == BY_FOLLOWED else trending
    assert ask(session, cursor=place.cursor).exhausted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"limit": limit}, "^limit: ") for limit in (0, 501, True, 1.5, "20", None)),
        ({"as_of": datetime(2026, 1, 1)}, "^as_of: .* no offset"),  # noqa: DTZ001
        ({"as_of": datetime(2100, 1, 1, tzinfo=UTC)}, "^as_of: .* not between 1970 and 2100"),
        ({"as_of": "today"}, "^as_of: "),
    ],
)
def test_a_bad_value_is_one_clear_error(
    session: Session, options: dict[str, Any], message: str
) -> None:
    for ask in (following, trending):
        with pytest.raises(InvalidValue, match=message):
            ask(session, **options)


@pytest.mark.parametrize("word", ["", "a\0b", "x" * 256, 7.5])
def test_a_bad_user_language_or_country_is_one_clear_error(session: Session, word: Any) -> None:
    for name, arguments in (("language", (word,)), ("country", (None, word))):
        with pytest.raises(InvalidValue, match=f"^{name}: "):
            trending(session, *arguments)
    with pytest.raises(InvalidValue, match=r"^user: "):
        following(session, word)


def test_the_reading_time_may_be_before_the_cursor(session: Session) -> None:
    make_user(session)
    follow(session, "viewer", "somebody")
    for minutes in range(5):
        make_video(session, f"v{minutes}", published_at=at(minutes - 60))
    for ask in (following, trending):
        cursor = ask(session, limit=1).cursor
        early = at(-58) + timedelta(seconds=1)
        assert names(ask(session, cursor=cursor, as_of=early)) == ["v2", "v1", "v0"]
        assert names(ask(session, cursor=cursor)) == ["v3", "v2", "v1", "v0"]


def test_the_reading_time_is_now_where_left_out(session: Session) -> None:
    make_user(session)
    follow(session, "viewer", "somebody")
    make_video(session, "past")
    make_video(session, "ahead", published_at=datetime.now(UTC) + timedelta(minutes=9))
    for page in (recommender.following(session, "viewer"), recommender.trending(session)):
        assert names(page) == ["past"]
