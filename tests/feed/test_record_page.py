"""Pages that are recorded on another database than the one that ranked them: no dead end."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    CursorAhead,
    FeedPage,
    InvalidCursor,
    UnknownUser,
    erase_user,
    for_you,
    record_page,
    run_transaction,
    upsert_videos,
)
from recommender.feed.cursors import SessionPosition
from recommender.ingest.videos import set_video_status
from recommender.models import Video
from recommender.models.tables import SERVED
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_user,
    make_video,
    names,
    preview,
    record,
    rows_of,
    writes_of_a_page,
)


def make_world(session: Session, videos: int = 12) -> None:
    rows = [
        {
            "id": f"v{number}", "creator": f"c{number % 4}", "sound": f"s{number % 5}",
            "hashtags": [f"h{number % 3}"], "caption": f"word{number}",
            "published_at": at(-60 - number),
        }
        for number in range(videos)
    ]  # fmt: skip
    upsert_videos(session, rows)


def serve(session: Session, **options: Any) -> FeedPage:
    return for_you(session, "viewer", as_of=NOON, **options)


def rank(session: Session, **options: Any) -> FeedPage:
    """Rank a page as on a replica; what is written after it is what the replica lacks."""
    return preview(session, as_of=NOON, **options)


def asked_again(session: Session, page: FeedPage) -> FeedPage:
    """Check that a page is stale, and return the page to which its cursor leads."""
    assert (page.stale, page.items, page.exhausted) == (True, (), False)
    again = serve(session, cursor=page.cursor)
    assert not again.stale
    return again


def test_a_viewer_whom_the_replica_does_not_know_is_served(session: Session) -> None:
    make_world(session)
    ranked = rank(session, limit=5)
    with pytest.raises(UnknownUser, match="there is no user 'viewer'"):
        record_page(session, ranked)
    make_user(session)
    served = record_page(session, ranked)
    assert (names(served), served.stale) == (names(ranked), False)
    assert record_page(session, ranked).items == served.items
    assert len(serve(session, cursor=served.cursor).items) == 7
    assert len(rows_of(session, SERVED)) == 12


def test_a_page_is_recorded_with_two_statements_and_its_writes(session: Session) -> None:
    make_world(session)
    make_user(session)
    ranked = rank(session, limit=5)
    with counted_statements(session.connection()) as sent:
        record_page(session, ranked)
    assert len(sent) == 2 + writes_of_a_page(session)


@pytest.mark.parametrize("pages_before", [0, 1])
def test_a_page_of_which_all_was_served_leads_to_another(
    session: Session, pages_before: int
) -> None:
    make_world(session)
    make_user(session)
    cursor = serve(session, limit=2).cursor if pages_before else None
    ranked = rank(session, limit=3, cursor=cursor)
    others = serve(session, where=Video.key.in_(names(ranked)))
    assert set(names(others)) == set(names(ranked))
    page = record_page(session, ranked)
    assert page.cursor == cursor
    again = asked_again(session, page)
    assert sum(not item.refilled for item in again.items) == 12 - 3 - 2 * pages_before
    assert set(names(again)[-3:]) == set(names(ranked))
    assert again.items[0].position == 1 + 2 * pages_before


def test_an_empty_page_is_stale(session: Session) -> None:
    """The replica may lack every video, and a host may have removed every item."""
    make_user(session)
    ranked = rank(session)
    assert ranked.exhausted
    make_world(session)
    assert len(asked_again(session, record_page(session, ranked)).items) == 12
    assert asked_again(session, record_page(session, replace(rank(session), items=()))).exhausted


def test_a_recorded_page_is_never_the_last(session: Session) -> None:
    """The replica may lack new videos."""
    make_world(session, 3)
    make_user(session)
    ranked = rank(session)
    make_video(session, "new")
    assert ranked.exhausted
    for _ in range(2):
        served = record_page(session, ranked)
        assert (len(served.items), served.exhausted) == (3, False)
    last = serve(session, cursor=served.cursor)
    assert (names(last), last.exhausted) == (["new"], True)
    assert record_page(session, ranked).cursor == served.cursor


MEANWHILE: dict[str, Callable[[Session], object]] = {
    "seen": lambda session: record(session, "watch", "v0", completion=1.0),
    "rejected": lambda session: record(session, "not_interested", "v0"),
    "creator muted": lambda session: recommender.mute(session, "viewer", "creator", "c0"),
    "sound muted": lambda session: recommender.mute(session, "viewer", "sound", "s0"),
    "hashtag muted": lambda session: recommender.mute(session, "viewer", "hashtag", "h0"),
    "keyword muted": lambda session: recommender.mute(session, "viewer", "keyword", "word0"),
    "removed": lambda session: set_video_status(session, "v0", "removed"),
    "postponed": lambda session: make_video(session, "v0", published_at=at(1)),
    "served": lambda session: serve(session, where=Video.key == "v0"),
}


@slow_on_postgresql
@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_videos_that_may_not_come_any_more_are_left_out(session: Session, meanwhile: str) -> None:
    make_world(session)
    make_user(session)
    profiles = ("for_you", "classic")
    ranked = {profile: rank(session, profile=profile) for profile in profiles}
    MEANWHILE[meanwhile](session)
    pages = {profile: rank(session, profile=profile) for profile in profiles}
    left = {
        profile: [item.video for item in page.items if not item.refilled]
        for profile, page in pages.items()
    }
    for profile in profiles:
        served = record_page(session, ranked[profile])
        expected = [video for video in names(ranked[profile]) if video in left[profile]]
        assert names(served) == expected
        assert [item.position for item in served.items] == list(range(1, len(expected) + 1))
    assert "v0" not in left["for_you"]
    assert ("v0" in left["classic"]) == (meanwhile not in {"removed", "postponed"})


@slow_on_postgresql
def test_videos_that_become_neighbours_are_crowded(session: Session) -> None:
    """Also where two pages meet."""
    make_world(session)
    make_user(session)
    first = serve(session, limit=1)
    ranked = rank(session, cursor=first.cursor)
    assert not any(item.crowded for item in ranked.items[:4])
    creator = first.items[0].creator
    alike = tuple(item for item in ranked.items if item.creator == creator)
    others = tuple(item for item in ranked.items if item.creator != creator)
    served = record_page(session, replace(ranked, items=(*alike, others[0])))
    assert [item.crowded for item in served.items] == [
        True,
        True,
        others[0].sound == alike[-1].sound,
    ]
    assert recommender.audit(session).broken == ()


@slow_on_postgresql
def test_the_reference_formula_has_no_crowded_places(session: Session) -> None:
    make_world(session)
    make_user(session)
    ranked = rank(session, profile="classic")
    assert record_page(session, ranked).items == ranked.items


@slow_on_postgresql
def test_a_session_that_shows_seen_videos_leaves_out_what_it_served(session: Session) -> None:
    make_world(session)
    make_user(session)
    record(session, "watch", "v0", completion=1.0)
    first = serve(session, limit=2, rewatch=True, where=Video.key != "v0")
    ranked = rank(session, cursor=first.cursor)
    assert "v0" in names(ranked)
    old = replace(ranked, items=(*first.items, *ranked.items))
    assert names(record_page(session, old)) == names(ranked)


@slow_on_postgresql
def test_conditions_of_the_host_are_not_applied_again(session: Session) -> None:
    """A page holds no SQL, so another process can record it."""
    make_world(session)
    make_user(session)
    ranked = rank(session, where=Video.language.is_(None), exclude=["v0"])
    make_video(session, "v5", language="en", published_at=at(-65))
    sent = pickle.loads(pickle.dumps(ranked))  # noqa: S301 - made here
    assert len(ranked.items) == 11
    assert names(record_page(session, sent)) == names(ranked)


def test_a_preview_of_a_session_that_the_replica_lacks_says_so(session: Session) -> None:
    """Expiry too: the session may have gone on since."""
    make_world(session)
    make_user(session)
    make_user(session, "other")
    first = serve(session, limit=3)
    assert first.session
    own = first.request.session
    assert own
    late = NOON + timedelta(seconds=86_401)
    for user, cursor, as_of in (
        ("viewer", SessionPosition(uuid4(), 4).cursor, NOON),
        ("viewer", SessionPosition(own, 5).cursor, NOON),
        ("other", first.cursor, NOON), ("nobody", first.cursor, NOON),
        ("viewer", first.cursor, late),
    ):  # fmt: skip
        with pytest.raises(CursorAhead, match="ask the primary"):
            preview(session, user, cursor=cursor, as_of=as_of)
        with pytest.raises(CursorAhead):
            recommender.resolve(session, user, cursor=cursor, as_of=as_of)
        with pytest.raises(InvalidCursor) as caught:
            for_you(session, user, cursor=cursor, as_of=as_of)
        assert type(caught.value) is InvalidCursor
    with pytest.raises(CursorAhead):
        preview(session, session_id=own, as_of=late)


@slow_on_postgresql
def test_a_cursor_that_no_database_gave_is_forged_everywhere(session: Session) -> None:
    make_world(session)
    make_user(session)
    page = serve(session, limit=3)
    assert page.request.session
    for cursor in ("x", "A" * 27, SessionPosition(page.request.session, 3).cursor):
        for is_recorded in (True, False):
            with pytest.raises(InvalidCursor) as caught:
                serve(session, cursor=cursor, record=is_recorded)
            assert type(caught.value) is InvalidCursor


def test_a_first_page_that_the_replica_lacks_is_the_page_that_was_served(session: Session) -> None:
    make_world(session)
    make_user(session)
    own = uuid4()
    ranked = rank(session, limit=4, session_id=own)
    served = serve(session, limit=5, session_id=own)
    page = record_page(session, ranked)
    assert (page.items, page.cursor) == (served.items, served.cursor)


@slow_on_postgresql
def test_a_page_ranked_for_an_erased_user_is_not_the_new_users(engine: Engine) -> None:
    def begin(session: Session) -> FeedPage:
        make_world(session)
        make_user(session)
        return rank(session, limit=3)

    ranked = run_transaction(engine, begin)
    erase_user(engine, "viewer")
    run_transaction(engine, make_user)
    again = run_transaction(engine, lambda s: asked_again(s, record_page(s, ranked)))
    assert len(again.items) == 12
