"""Sessions: nothing comes twice, the next page knows the last swipe, and cursors are safe."""

from __future__ import annotations

import base64
import itertools
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage, InvalidCursor, Settings, UnknownUser, record_page, run_transaction
from recommender.errors import InvalidValue
from recommender.feed.cursors import SessionPosition, read_cursor
from recommender.ingest.videos import set_video_status
from recommender.models.tables import SERVED, SESSIONS, VIDEOS
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.oracle import VIEWERS, Oracle, load, random_world
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
    rows_of,
    unspread,
    writes_of_a_page,
)


def serve(session: Session, user: str = "viewer", **options: Any) -> FeedPage:
    return recommender.for_you(session, user, **{"as_of": NOON, **options})


def pages(session: Session, user: str = "viewer", **options: Any) -> list[FeedPage]:
    """A whole session, page by page."""
    found = [serve(session, user, **options)]
    while found[-1].cursor:
        found.append(serve(session, user, **{**options, "cursor": found[-1].cursor}))
    return found


def make_world(session: Session, videos: int = 12) -> None:
    make_user(session)
    for number in range(videos):
        make_video(session, f"v{number}", creator=f"c{number % 4}", published_at=at(-60 - number))


def test_a_session_shows_everything_once_and_then_is_exhausted(session: Session) -> None:
    world = random_world(21, videos=60)
    load(session, world)
    for user in VIEWERS:
        shown = pages(session, user, limit=7)
        videos = [name for page in shown for name in names(page)]
        assert sorted(videos) == sorted(Oracle(world, user).eligible(lambda _: True, ()))
        assert [page.exhausted for page in shown] == [False] * (len(shown) - 1) + [True]
        assert [len(page.items) for page in shown[:-1]] == [7] * (len(shown) - 1)
        positions = [item.position for page in shown for item in page.items]
        assert positions == list(range(1, len(videos) + 1))
        assert len({page.session for page in shown if page.items}) == 1


def test_a_page_that_is_full_to_the_last_video_is_not_exhausted_yet(session: Session) -> None:
    make_world(session, 4)
    shown = pages(session, limit=2)
    assert [len(page.items) for page in shown] == [2, 2, 0]
    assert shown[-1].exhausted
    assert shown[-1].cursor is None


def test_what_was_served_does_not_come_in_another_session(session: Session) -> None:
    make_world(session)
    first, second = serve(session, limit=5), serve(session, limit=5)
    assert first.session != second.session
    assert not set(names(first)) & set(names(second))
    assert names(first)[0] not in names(preview(session, as_of=NOON, limit=2))
    explanation = recommender.explain(session, "viewer", names(first)[0], as_of=NOON)
    assert [each.name for each in explanation.filters if not each.passed] == ["not_seen"]
    assert explanation.reason == "Not shown: it was on a page for you on 1 January 2026."


def test_rewatch_shows_again_what_was_seen_but_once_in_its_session(session: Session) -> None:
    make_world(session)
    record(session, "watch", "v0", completion=1.0)
    record(session, "not_interested", "v1")
    everything = {f"v{number}" for number in range(12)}
    assert {name for page in pages(session, limit=5) for name in names(page)} == everything - {
        "v0", "v1",
    }  # fmt: skip
    assert serve(session).items == ()
    again = pages(session, limit=5, rewatch=True)
    videos = [name for page in again for name in names(page)]
    assert sorted(videos) == sorted(everything - {"v1"})
    assert again[0].request.rewatch
    assert again[1].request.rewatch
    twice = pages(session, limit=5, rewatch=True)
    assert sorted(name for page in twice for name in names(page)) == sorted(videos)


def test_a_session_that_goes_on_stays_as_it_began(session: Session) -> None:
    make_world(session)
    record(session, "watch", "v0", completion=1.0)
    first = serve(session, limit=11)
    assert "v0" not in names(first)
    assert serve(session, cursor=first.cursor, rewatch=True).items == ()


def test_a_session_keeps_its_profile(session: Session) -> None:
    make_world(session)
    for weights in ({"likes": 1.0}, {"shares": 1.0}):
        recommender.create_profile(session, "mine", weights)
    shown = [serve(session, limit=2, profile="mine@1")]
    recommender.create_profile(session, "newer", {"quality": 1.0})
    recommender.activate_profile(session, "newer")
    cursor = shown[0].cursor
    for is_recorded in (False, True):
        with counted_statements(session.connection()) as sent:
            shown.append(serve(session, limit=2, cursor=cursor, record=is_recorded))
        assert len(sent) == 3 + (writes_of_a_page(session) if is_recorded else 0)
    shown.append(serve(session, limit=2, cursor=shown[-1].cursor))
    assert {page.request.profile.label for page in shown} == {"mine@1"}
    assert serve(session).request.profile.name == "newer"


@slow_on_postgresql
@pytest.mark.parametrize("other", ["mine", "mine@1", "classic"])
def test_a_page_with_another_profile_changes_the_profile_of_its_session(
    session: Session, other: str
) -> None:
    make_world(session)
    for weights in ({"likes": 1.0}, {"shares": 1.0}):
        recommender.create_profile(session, "mine", weights)
    page = serve(session, limit=2, profile="mine@1")
    wanted = recommender.get_profile(session, other)
    page = serve(session, limit=2, cursor=page.cursor, profile=other)
    assert page.request.profile == wanted
    assert serve(session, limit=2, cursor=page.cursor).request.profile == wanted
    again = recommender.resolve(session, "viewer", cursor=page.cursor, as_of=NOON)
    assert again.profile == wanted


def test_the_next_page_reflects_the_last_swipe(session: Session) -> None:
    make_user(session)
    for topic, number in itertools.product(("cats", "dogs"), range(6)):
        make_video(session, f"{topic}{number}", hashtags=[topic], creator=f"{topic}{number} maker")
    settings = Settings(exploration_share=0)
    first = serve(session, limit=2, settings=settings)
    rejected, topic = names(first)[0], names(first)[0][:4]
    before = unspread(session, limit=12, as_of=at(1))
    record(session, "not_interested", rejected, at=at(1))
    second = serve(session, limit=12, cursor=first.cursor, as_of=at(1), settings=settings)
    was = {item.video: item.score for item in before.items}
    for item in second.items:
        assert (item.score < was[item.video]) == item.video.startswith(topic)
    assert not names(second)[0].startswith(topic)


def test_a_cursor_presented_twice_gives_the_same_page(session: Session) -> None:
    world = random_world(22, videos=60)
    load(session, world)
    first = serve(session, "u0", limit=9)
    second = serve(session, "u0", limit=9, cursor=first.cursor)
    third = serve(session, "u0", limit=9, cursor=second.cursor)
    record(session, "like", names(second)[0], "u0", at=at(1))
    recommender.create_profile(session, "other", {"likes": 1.0})
    for options in ({}, {"limit": 3}, {"profile": "other"}, {"as_of": at(5)}, {"record": False}):
        again = serve(session, "u0", cursor=first.cursor, **options)
        assert again.items == second.items
        assert (again.session, again.cursor) == (second.session, second.cursor)
        assert again.request.as_of == NOON
        assert again.request.profile == second.request.profile
    assert serve(session, "u0", cursor=second.cursor).items == third.items


def test_a_first_page_asked_for_twice_is_the_same_page(session: Session) -> None:
    world = random_world(25, videos=60)
    load(session, world)
    recommender.create_profile(session, "other", {"likes": 1.0})
    own = uuid4()
    first = serve(session, "u0", limit=9, session_id=own)
    assert first.session == str(own)
    second = serve(session, "u0", limit=9, cursor=first.cursor)
    record(session, "like", names(first)[0], "u0", at=at(1))
    for options in (
        {}, {"limit": 3}, {"profile": "other"}, {"as_of": at(5)}, {"record": False},
        {"rewatch": True}, {"exclude": names(first)}, {"where": sa.false()},
    ):  # fmt: skip
        again = serve(session, "u0", **{"session_id": str(own), **options})
        assert (again.items, again.session, again.cursor, again.exhausted) == (
            first.items, first.session, first.cursor, False,
        )  # fmt: skip
    assert serve(session, "u0", cursor=first.cursor).items == second.items
    assert len(rows_of(session, SESSIONS)) == 1


@slow_on_postgresql
def test_a_preview_of_a_first_page_is_the_page(session: Session) -> None:
    make_world(session, 60)
    own = uuid4()
    shown = preview(session, as_of=NOON, session_id=own, limit=9)
    assert (shown.session, rows_of(session, SESSIONS)) == (None, [])
    assert record_page(session, shown).session == str(own)
    assert serve(session, session_id=own).items == shown.items
    other = uuid4()
    shown = preview(session, as_of=NOON, session_id=other, limit=9)
    assert serve(session, session_id=other, limit=9).items == shown.items


def test_a_session_id_is_the_users_own(session: Session) -> None:
    """Another user's session of the same id is neither found nor told about."""
    make_world(session, 20)
    make_user(session, "other")
    own = uuid4()
    first = serve(session, limit=3, session_id=own)
    others = serve(session, "other", limit=4, session_id=own)
    assert [item.position for item in others.items] == [1, 2, 3, 4]
    assert serve(session, session_id=own).items == first.items
    assert serve(session, "other", session_id=own).items == others.items
    stranger = serve(session, "nobody", limit=3, session_id=own)
    assert (len(stranger.items), stranger.session, stranger.cursor) == (3, None, None)
    assert len(rows_of(session, SESSIONS)) == 2


@slow_on_postgresql
def test_a_session_id_of_an_expired_session_is_an_error(session: Session) -> None:
    make_world(session)
    own = uuid4()
    first = serve(session, limit=3, session_id=own)
    serve(session, limit=3, cursor=first.cursor, as_of=at(600))
    assert serve(session, session_id=own, as_of=at(600 + 1_440)).items == first.items
    with pytest.raises(InvalidCursor, match=r"^session_id: the session has expired"):
        serve(session, session_id=own, as_of=at(600 + 1_441))


@only_sqlite
@pytest.mark.parametrize("session_id", ["", "x", "0" * 33, 7, True, b"0" * 16, ["x"]])
def test_a_session_id_is_a_uuid(session: Session, session_id: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^session_id: .* is not a UUID$"):
        serve(session, session_id=session_id)


@slow_on_postgresql
def test_a_session_id_and_a_cursor_exclude_each_other(session: Session) -> None:
    make_world(session)
    first = serve(session, limit=3)
    with pytest.raises(
        InvalidValue, match=r"^session_id: is given with a cursor.*: give the cursor alone$"
    ):
        serve(session, cursor=first.cursor, session_id=first.session)


@slow_on_postgresql
def test_an_empty_first_page_begins_no_session(session: Session) -> None:
    make_user(session)
    own = uuid4()
    assert serve(session, session_id=own).exhausted
    make_video(session, "late")
    assert names(serve(session, session_id=own)) == ["late"]


@pytest.mark.slow
def test_pages_of_a_session_are_spread_as_one(session: Session) -> None:
    """No two in a row by one creator, or with one sound, also where two pages meet."""
    make_user(session)
    for number in range(60):
        song = {"sound": f"s{number % 5}"} if number % 2 else {}
        make_video(session, f"v{number}", creator=f"c{number % 6 if number > 30 else 0}", **song)
    items = [item for page in pages(session, limit=3) for item in page.items]
    assert len(items) == 60
    left = {item.video: item for item in items}
    for one, other in itertools.pairwise(items):
        del left[one.video]
        are_alike = other.creator == one.creator or (other.sound and other.sound == one.sound)
        assert bool(are_alike) == other.crowded
        if other.crowded:
            assert all(
                each.creator == one.creator or (each.sound and each.sound == one.sound)
                for each in left.values()
            )
    assert 0 < sum(item.crowded for item in items) < 45


def make_star(session: Session, videos: int, *, others: int) -> None:
    """A viewer to whom the videos of one creator are the best, and others' that are known too."""
    make_user(session, interests=["cats"])
    rows = [
        {"id": f"star{n}", "creator": "star", "published_at": at(-60), "hashtags": ["cats"]}
        for n in range(videos)
    ]
    recommender.upsert_videos(session, rows)
    make_videos(session, *(f"other{number}" for number in range(others)), published_at=at(-30))
    session.execute(VIDEOS.update().values(impressions=1_000))


@pytest.mark.slow
def test_one_creators_many_do_not_hide_the_others(session: Session) -> None:
    """The best 70 are all by one creator, so that more candidates are read."""
    make_star(session, 130, others=15)
    with counted_statements(session.connection()) as sent:
        shown = serve(session, limit=10)
    assert len(sent) == 4 + writes_of_a_page(session)
    assert [item.creator for item in shown.items[:4]] == ["star", "somebody", "star", "somebody"]
    with counted_statements(session.connection()) as sent:
        serve(session, limit=10, cursor=shown.cursor)
    assert len(sent) <= 5 + writes_of_a_page(session)


def test_a_short_page_of_few_creators_is_of_the_first_candidates_read(session: Session) -> None:
    make_star(session, 30, others=5)
    with counted_statements(session.connection()) as sent:
        shown = serve(session, limit=5)
    assert len(sent) == 3 + writes_of_a_page(session)
    creators = [item.creator for item in shown.items]
    assert creators == ["star", "somebody", "star", "somebody", "star"]


@pytest.mark.parametrize("limit", [1, 50, 500])
def test_serving_is_three_statements_and_its_writes_and_one_more_for_the_last_page(
    session: Session, limit: int
) -> None:
    load(session, random_world(23, videos=70))
    settings = Settings(creator_damping=1)
    with counted_statements(session.connection()) as sent:
        page = serve(session, "u0", limit=limit, settings=settings)
    assert len(sent) == 3 + writes_of_a_page(session) + page.exhausted
    if page.cursor:
        with counted_statements(session.connection()) as sent:
            serve(session, "u0", limit=limit, cursor=page.cursor, settings=settings)
        assert len(sent) <= 7
        with counted_statements(session.connection()) as sent:
            serve(session, "u0", cursor=page.cursor)
        assert len(sent) == 2


def test_what_was_served_is_recorded_as_it_was(session: Session) -> None:
    world = random_world(24, videos=60)
    load(session, world)
    first = serve(session, "u0", limit=12)
    serve(session, "u0", limit=5, cursor=first.cursor, as_of=at(3))
    ((number, after, rewatch, started, last),) = rows_of(
        session, SESSIONS, "session", "next_position", "rewatch", "started_at", "last_at"
    )
    assert (str(number), after, rewatch) == (first.session, 18, False)
    assert (started, last) == (NOON, at(3))
    rows = session.execute(sa.select(SERVED).order_by(SERVED.c.position)).all()
    assert [row.position for row in rows] == list(range(1, 18))
    assert [(row.page, row.asked) for row in rows] == [(1, 12)] * 12 + [(13, 5)] * 5
    assert {row.profile_id for row in rows} == {first.request.profile.id}
    for row, item in zip(rows, first.items, strict=False):
        assert (row.video_id, row.score_key / 1e9) == (item.video_id, item.score)
        assert tuple(row.sources.split("|")) == item.sources
        values = {name: each.value for name, each in item.signals.items() if each.value}
        assert (row.signals, row.explored, row.crowded) == (values, item.explored, item.crowded)


def test_exploration_has_its_share_of_a_session(session: Session) -> None:
    make_user(session)
    rows = [{"id": f"v{n}", "creator": f"c{n}", "published_at": at(-n)} for n in range(300)]
    recommender.upsert_videos(session, rows)
    popular = VIDEOS.update().where(VIDEOS.c.key.not_in([f"v{n}" for n in range(0, 300, 5)]))
    session.execute(popular.values(impressions=1_000, engaged_views=900))
    shown = [serve(session, limit=10)]
    for _ in range(9):
        shown.append(serve(session, limit=10, cursor=shown[-1].cursor))
        assert len(shown[-1].items) == 10
    explored = [item for page in shown for item in page.items if item.explored]
    assert abs(len(explored) - 10) <= 1
    assert all("fresh" in item.sources for item in explored)
    for page in shown:
        assert abs(sum(item.explored for item in page.items) - 1) <= 1


def test_a_stranger_has_no_session(session: Session) -> None:
    make_videos(session, "a", "b")
    page = serve(session, "nobody", limit=1)
    assert (page.session, page.cursor, page.exhausted) == (None, None, False)
    assert rows_of(session, SESSIONS) == []
    with pytest.raises(UnknownUser):
        record_page(session, page)


def test_a_preview_of_a_day_is_the_same_again(session: Session) -> None:
    make_world(session, 60)
    shown = preview(session, as_of=NOON, limit=20)
    assert preview(session, as_of=NOON, limit=20).items == shown.items
    assert (shown.session, shown.cursor) == (None, None)
    days = [names(preview(session, as_of=NOON + timedelta(days=n), limit=20)) for n in range(6)]
    assert len({tuple(each) for each in days}) > 1


def test_the_reference_formula_pages_in_its_own_order(session: Session) -> None:
    make_world(session, 7)
    record(session, "like", "v3")
    everything = names(preview(session, profile="classic", limit=50))
    assert len(everything) == 7
    for _ in range(2):
        shown = pages(session, profile="classic", limit=3)
        assert [name for page in shown for name in names(page)] == everything


FORGED = (
    "x", "é", "=", "AAAA", "A" * 27, "A" * 28, "A" * 10_000, "' OR 1=1 --", "\x00" * 27,
)  # fmt: skip


@pytest.mark.parametrize("cursor", FORGED)
def test_a_forged_cursor_is_one_clear_error(session: Session, cursor: str) -> None:
    make_world(session)
    with pytest.raises(InvalidCursor, match=r"^The cursor is not this user's"):
        serve(session, cursor=cursor)


@pytest.mark.slow
@given(st.text() | st.binary(max_size=30).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_text_is_a_cursor_but_those_that_were_given(text: str) -> None:
    try:
        place = read_cursor(text)
    except InvalidCursor:
        return
    assert place.cursor == text


@pytest.mark.slow
@given(st.uuids(), st.integers(2, 2**32 - 1))
def test_a_cursor_names_its_session_and_position(session: UUID, position: int) -> None:
    assert read_cursor(SessionPosition(session, position).cursor) == (session, position, None)


def test_a_cursor_of_another_user_place_or_time_is_an_error(session: Session) -> None:
    make_world(session)
    make_user(session, "other")
    first = serve(session, limit=3)
    second = serve(session, limit=3, cursor=first.cursor)
    number = UUID(first.session or "")
    with pytest.raises(InvalidCursor):
        serve(session, "other", cursor=first.cursor)
    with pytest.raises(InvalidCursor):
        serve(session, "nobody", cursor=first.cursor)
    for position in (0, 1, 3, 5, 8, 2**32 - 1):
        with pytest.raises(InvalidCursor):
            serve(session, cursor=SessionPosition(number, position).cursor)
    with pytest.raises(InvalidCursor):
        serve(session, cursor=SessionPosition(uuid4(), 4).cursor)
    late = NOON + timedelta(seconds=86_401)
    for cursor in (first.cursor, second.cursor):
        with pytest.raises(InvalidCursor):
            serve(session, cursor=cursor, as_of=late)
    week = Settings(session_lifetime=7 * 86_400)
    assert serve(session, cursor=second.cursor, as_of=late, settings=week).items
    assert issubclass(InvalidCursor, InvalidValue)


def test_a_session_lives_on_while_pages_are_asked_for(session: Session) -> None:
    make_world(session)
    page = serve(session, limit=2)
    for hours in (20, 40, 60):
        page = serve(session, limit=2, cursor=page.cursor, as_of=at(hours * 60))
    assert page.items[0].position == 7
    with pytest.raises(InvalidCursor):
        serve(session, cursor=page.cursor, as_of=at(84 * 60 + 1))


def test_chance_differs_from_session_to_session(session: Session) -> None:
    make_world(session, 30)
    settings = Settings(exploration_share=1.0)
    shown = [
        tuple(names(serve(session, limit=5, rewatch=True, settings=settings))) for _ in range(6)
    ]
    assert len(set(shown)) > 3


def test_a_page_ranked_elsewhere_is_recorded_once(session: Session) -> None:
    make_world(session)
    ranked = serve(session, limit=5, record=False)
    assert (ranked.session, rows_of(session, SESSIONS)) == (None, [])
    served = record_page(session, ranked)
    assert names(served) == names(ranked)
    assert served.session
    again = record_page(session, ranked)
    assert (again.items, again.session, again.cursor) == (
        served.items, served.session, served.cursor,
    )  # fmt: skip
    ahead = serve(session, limit=5, cursor=served.cursor, record=False)
    behind = serve(session, limit=3, cursor=served.cursor)
    assert record_page(session, ahead).items == behind.items
    assert len(rows_of(session, SERVED)) == 8


def test_a_page_from_a_stale_replica_leaves_out_what_its_session_served(session: Session) -> None:
    make_world(session)
    first = serve(session, limit=4)
    second = serve(session, limit=4, cursor=first.cursor, record=False)
    stale = replace(second, items=(
        replace(first.items[0], position=5), *second.items[1:],
    ))  # fmt: skip
    served = record_page(session, stale)
    assert names(served) == names(second)[1:]
    assert [item.position for item in served.items] == [5, 6, 7]
    assert names(serve(session, cursor=first.cursor)) == names(served)
    third = serve(session, limit=50, cursor=served.cursor)
    assert sorted([*names(first), *names(served), *names(third)]) == sorted(
        f"v{number}" for number in range(12)
    )


def test_a_page_that_a_host_cut_leaves_no_gap(session: Session) -> None:
    make_world(session)
    ranked = serve(session, limit=6, record=False)
    cut = replace(ranked, items=(*ranked.items[3:], ranked.items[3]))
    served = record_page(session, cut)
    assert [item.position for item in served.items] == [1, 2, 3]
    assert not served.exhausted
    second = serve(session, limit=6, cursor=served.cursor)
    assert [item.position for item in second.items] == list(range(4, 10))
    assert len({*names(served), *names(second)}) == 9
    again = record_page(session, cut)
    assert (again.items, again.exhausted, again.cursor) == (served.items, False, served.cursor)


def test_a_page_of_which_nothing_may_come_any_more_can_be_asked_for_again(
    session: Session,
) -> None:
    make_world(session)
    first = serve(session, limit=2)
    ahead = serve(session, limit=2, cursor=first.cursor, record=False)
    serve(session, limit=10)
    nothing = record_page(session, ahead)
    assert (nothing.items, nothing.cursor) == ((), first.cursor)
    assert serve(session, cursor=first.cursor).exhausted


def test_what_was_unpublished_meanwhile_does_not_come(session: Session) -> None:
    make_world(session)
    first = serve(session, limit=3)
    second = serve(session, limit=3, cursor=first.cursor)
    ahead = serve(session, limit=3, cursor=second.cursor, record=False)
    for page in (second, ahead):
        set_video_status(session, names(page)[1], "removed")
    again = serve(session, cursor=first.cursor)
    assert names(again) == [names(second)[0], names(second)[2]]
    assert again.cursor == second.cursor
    assert names(record_page(session, ahead)) == [names(ahead)[0], names(ahead)[2]]


@pytest.mark.parametrize("profile", ["for_you", "classic"])
def test_what_may_no_longer_be_shown_is_left_out_of_a_page_that_comes_again(
    session: Session, profile: str
) -> None:
    make_user(session)
    for number in range(8):
        make_video(
            session, f"v{number}", creator=f"c{number}", sound=f"s{number}",
            hashtags=[f"h{number}"], caption=f"word{number}", published_at=at(-1),
        )  # fmt: skip
    page = serve(session, limit=8, profile=profile, as_of=NOON)
    after = {
        "creator": lambda: recommender.mute(session, "viewer", "creator", "c0"),
        "sound": lambda: recommender.mute(session, "viewer", "sound", "s1"),
        "hashtag": lambda: recommender.mute(session, "viewer", "hashtag", "h2"),
        "keyword": lambda: recommender.mute(session, "viewer", "keyword", "word3"),
        "rejected": lambda: record(session, "not_interested", "v4", at=at(1)),
        "reported": lambda: record(session, "report", "v5", at=at(1)),
        "liked": lambda: record(session, "like", "v6", at=at(1)),
        "postponed": lambda: recommender.upsert_videos(
            session, [{"id": "v7", "published_at": at(90)}]
        ),
    }
    left = page.items
    for number, (name, change) in enumerate(after.items()):
        change()
        is_ours = profile == "for_you" or name == "postponed"
        if name != "liked" and is_ours:
            left = tuple(item for item in left if item.video != f"v{number}")
        again = serve(session, session_id=page.session, as_of=at(2))
        assert (again.items, again.cursor, again.exhausted) == (left, page.cursor, page.exhausted)


def test_only_a_page_of_for_you_can_be_recorded(session: Session) -> None:
    make_world(session)
    for page in (
        recommender.rank(session, "viewer", ["v1"]), recommender.following(session, "viewer")
    ):  # fmt: skip
        with pytest.raises(InvalidValue, match=r"^page: only a page of for_you"):
            record_page(session, page)


def test_a_page_comes_again_with_the_hosts_own_signals(session: Session) -> None:
    make_world(session)
    boost = recommender.Signal("boost", 0, 1, lambda _: sa.literal(1.0, sa.Double))
    own: dict[str, Any] = {"signals": {boost: 2.0}}
    first = serve(session, limit=3)
    second = serve(session, limit=3, cursor=first.cursor, **own)
    assert second.items[0].signals["boost"].contribution == 2
    for options in ({}, own, {"signals": {boost: 50.0}}):
        assert serve(session, cursor=first.cursor, **options).items == second.items


def test_the_last_page_comes_again_as_the_last(session: Session) -> None:
    make_world(session, 5)
    first = serve(session, limit=3)
    last = serve(session, limit=3, cursor=first.cursor)
    again = serve(session, limit=3, cursor=first.cursor)
    assert last.exhausted
    assert (again.items, again.exhausted, again.cursor) == (last.items, True, None)
    assert not record_page(session, replace(first, cursor=None)).exhausted


def test_a_crowded_place_is_recorded_so(session: Session) -> None:
    make_user(session)
    make_videos(session, "a", "b", creator="star")
    page = serve(session)
    assert [item.crowded for item in page.items] == [False, True]
    assert [crowded for _, crowded in rows_of(session, SERVED, "position", "crowded")] == [
        False, True,
    ]  # fmt: skip


def test_a_clock_that_goes_back_ends_no_session(session: Session) -> None:
    make_world(session)
    page = serve(session, limit=2)
    for hours in (23, 0):
        page = serve(session, limit=2, cursor=page.cursor, as_of=at(hours * 60))
    assert serve(session, cursor=page.cursor, as_of=at(40 * 60)).items


def test_a_clock_that_goes_back_serves_nothing_again(session: Session) -> None:
    make_world(session)
    pages_shown = [names(serve(session, limit=3, as_of=at(minutes))) for minutes in (120, 60, 0)]
    assert len({name for page in pages_shown for name in page}) == 9


@pytest.mark.parametrize("rewatch", ["yes", None, 2])
def test_rewatch_is_true_or_false(session: Session, rewatch: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^rewatch: "):
        serve(session, rewatch=rewatch)


@pytest.mark.slow
def test_two_devices_of_one_user_are_not_served_the_same(engine: Engine) -> None:
    run_transaction(engine, lambda session: make_world(session, 80))

    def ask(_: int) -> list[str]:
        return names(run_transaction(engine, lambda session: serve(session, limit=5)))

    with ThreadPoolExecutor(8) as pool:
        shown = [name for page in pool.map(ask, range(16)) for name in page]
    assert len(shown) == len(set(shown)) == 80


def test_an_empty_page_is_not_recorded(session: Session) -> None:
    make_user(session)
    page = serve(session)
    assert (page.items, page.session, page.cursor, page.exhausted) == ((), None, None, True)
    assert rows_of(session, SESSIONS) == []


@pytest.mark.slow
def test_one_cursor_is_one_page_for_all_who_ask_at_once(engine: Engine) -> None:
    run_transaction(engine, lambda session: make_world(session, 80))
    cursor = run_transaction(engine, lambda session: serve(session, limit=5)).cursor

    def ask(number: int) -> FeedPage:
        return run_transaction(
            engine, lambda session: serve(session, limit=4 + number % 3, cursor=cursor)
        )

    for _ in range(4):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(16)))
        assert len({(page.session, page.cursor, tuple(names(page))) for page in answers}) == 1
        cursor = answers[0].cursor
    with Session(engine) as session:
        rows = rows_of(session, SERVED, "video_id")
        assert len(rows) == len(set(rows))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [5, 100])
def test_one_session_id_is_one_page_for_all_who_ask_at_once(engine: Engine, limit: int) -> None:
    """Also if the page leaves no video for the requests that wait for it."""
    run_transaction(engine, lambda session: make_world(session, 40))
    at_once(engine, partial(serve, limit=limit, session_id=uuid4()), videos=min(limit, 40))


@pytest.mark.slow
def test_one_cursor_is_the_last_page_for_all_who_ask_at_once(engine: Engine) -> None:
    run_transaction(engine, lambda session: make_world(session, 40))
    cursor = run_transaction(engine, partial(serve, limit=5)).cursor
    at_once(engine, partial(serve, limit=100, cursor=cursor), videos=35)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [5, 100])
def test_a_page_recorded_by_all_at_once_is_one_page(engine: Engine, limit: int) -> None:
    run_transaction(engine, lambda session: make_world(session, 40))
    page = run_transaction(engine, partial(serve, limit=limit, record=False))
    at_once(engine, partial(record_page, page=page), videos=min(limit, 40))


def at_once(engine: Engine, unit: Callable[[Session], FeedPage], *, videos: int) -> None:
    """Ask for one page in 16 threads, and check that all receive one full page."""
    start = Barrier(16)

    def ask(_: int) -> FeedPage:
        start.wait()
        return run_transaction(engine, unit)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert (
        len({(page.session, page.cursor, page.exhausted, tuple(names(page))) for page in answers})
        == 1
    )
    assert len(answers[0].items) == videos


ASK = """
import sys
from collections import Counter
from tests.support.worlds import at, names
import recommender
engine = recommender.create_engine(sys.argv[1])
cursor = sys.argv[2]
for _ in range(8):
    page = recommender.run_transaction(
        engine, lambda s: recommender.for_you(s, "viewer", limit=5, cursor=cursor, as_of=at())
    )
    print(" ".join(names(page)))
    cursor = page.cursor
"""


@pytest.mark.slow
def test_processes_walk_one_session_side_by_side(database: str, engine: Engine) -> None:
    run_transaction(engine, lambda session: make_world(session, 80))
    cursor = run_transaction(engine, lambda session: serve(session, limit=5)).cursor
    walkers = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, database, str(cursor)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    walks = [walker.communicate()[0].splitlines() for walker in walkers]
    assert walks[0] == walks[1] == walks[2]
    videos = " ".join(walks[0]).split()
    assert len(videos) == len(set(videos)) == 40


@pytest.mark.slow
def test_a_session_is_stable_while_the_catalogue_changes(session: Session) -> None:
    """Nothing twice, and nothing that was there throughout is left out."""
    chance = random.Random(9)  # noqa: S311 - not for secrets
    make_user(session)
    keys = [f"v{number}" for number in range(400)]
    recommender.upsert_videos(
        session,
        [
            {"id": key, "creator": f"c{chance.randrange(40)}", "published_at": at(-60)}
            for key in keys
        ],
    )
    gone: set[str] = set()
    shown: list[str] = []
    page = serve(session, limit=50)
    while True:
        shown += names(page)
        if page.cursor is None:
            break
        left = sorted(set(keys) - set(shown) - gone)
        for key in chance.sample(left, min(3, len(left))):
            set_video_status(session, key, "removed")
            gone.add(key)
        make_video(session, f"new{len(shown)}", creator=f"c{len(shown)}")
        session.execute(VIDEOS.update().values(
            impressions=len(shown), engaged_views=sa.func.abs(VIDEOS.c.id % 7)
        ))  # fmt: skip
        page = serve(session, limit=50, cursor=page.cursor)
    assert len(shown) == len(set(shown))
    assert set(keys) - gone <= set(shown)
    assert not gone & set(shown)


@pytest.mark.slow
def test_readers_see_whole_batches_while_writers_write(engine: Engine) -> None:
    """No page has half a batch or a video twice, and no reader or writer fails."""
    run_transaction(engine, make_user)

    def write(number: int) -> None:
        rows = [
            {"id": f"{number}-{each}", "creator": f"c{each}", "hashtags": [f"batch{number}"],
             "published_at": at(-number)} for each in range(10)
        ]  # fmt: skip
        run_transaction(engine, lambda session: recommender.upsert_videos(session, rows))

    def read(number: int) -> FeedPage:
        show = preview if number % 2 else unspread
        return run_transaction(
            engine, lambda session: show(session, limit=500, as_of=NOON), write=False
        )

    with ThreadPoolExecutor(8) as pool:
        written = [pool.submit(write, number) for number in range(16)]
        shown = list(pool.map(read, range(24)))
    assert [each.result() for each in written] == [None] * 16
    sizes = set()
    for page in shown:
        batches = Counter(name.partition("-")[0] for name in names(page))
        assert set(batches.values()) <= {10}
        assert len(set(names(page))) == len(page.items)
        sizes.add(len(batches))
    for page in shown[::2]:
        order = [
            (-item.score, -item.published_at.timestamp(), -item.video_id) for item in page.items
        ]
        assert order == sorted(order)
    assert len(sizes) > 1
