"""What was served and not seen comes again; what was seen does not."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

import recommender
from recommender import (
    FeedPage,
    InvalidCursor,
    InvalidValue,
    Settings,
    UnknownUser,
    mark_seen,
    record_page,
)
from recommender.models import Video
from recommender.models.tables import REMEMBERED, SERVED, SESSIONS
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import (
    at,
    counted_statements,
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

LONG = {"settings": Settings(session_lifetime=1e6)}


def hours(number: float) -> Any:
    return at(60 * number)


def serve(session: Session, hour: float = 0, **options: Any) -> FeedPage:
    return recommender.for_you(session, "viewer", as_of=hours(hour), **options)


def make_world(session: Session, videos: int = 6) -> None:
    make_user(session)
    for number in range(videos):
        make_video(session, f"v{number}", creator=f"c{number}", published_at=at(-60 - number))


def fresh(session: Session, hour: float, **options: Any) -> set[str]:
    """The videos of a preview that are there by their rank, not because nothing else is left."""
    page = preview(session, as_of=hours(hour), limit=20, **options)
    return {item.video for item in page.items if not item.refilled}


def again(session: Session, hour: float, **options: Any) -> list[str]:
    """The videos that refill a preview."""
    page = preview(session, as_of=hours(hour), limit=20, **options)
    assert [item.refilled for item in page.items] == sorted(item.refilled for item in page.items)
    return [item.video for item in page.items if item.refilled]


def test_what_nobody_looked_at_comes_again_after_a_day_three_times(session: Session) -> None:
    make_world(session)
    everything = {f"v{number}" for number in range(6)}
    first = set(names(serve(session, limit=3)))
    assert fresh(session, 23.99) == everything - first
    assert set(again(session, 23.99)) == first
    assert (fresh(session, 24), again(session, 24)) == (everything, [])
    assert fresh(session, 999, settings=Settings(served_again_after=0)) == everything - first
    hourly = Settings(served_again_after=3_600)
    assert fresh(session, 1, settings=hourly) == everything
    seen, *_ = first
    record(session, "impression", seen, at=hours(1))
    for hour in (24, 48):
        assert len(serve(session, hour).items) == 5
    assert fresh(session, 99) == everything - first
    assert set(again(session, 99)) == first - {seen}
    assert fresh(session, 99, settings=Settings(served_attempts=4)) == everything - {seen}
    rows = rows_of(session, SERVED, "served_at", "attempt")
    assert rows == [(hours(0), 1)] * 3 + [
        *[(hours(24), 1)] * 3, *[(hours(24), 2)] * 2, *[(hours(48), 2)] * 3, *[(hours(48), 3)] * 2,
    ]  # fmt: skip


@slow_on_postgresql
def test_the_next_page_means_that_all_pages_before_were_looked_at(session: Session) -> None:
    make_world(session)
    prefetching = Settings(next_page_means_seen=0)
    page = serve(session, limit=2)
    page = serve(session, limit=2, cursor=page.cursor, settings=prefetching)
    assert len(fresh(session, 25)) == 6
    page = serve(session, limit=2, cursor=page.cursor)
    assert len(fresh(session, 25)) == 2
    assert (
        sorted(seen for (seen,) in rows_of(session, REMEMBERED, "seen")) == [False] * 2 + [True] * 4
    )
    assert rows_of(session, SESSIONS, "seen_until") == [(4,)]
    # The page after the last one is empty, and no page is recorded.
    assert serve(session, cursor=page.cursor, settings=prefetching).exhausted
    assert rows_of(session, SESSIONS, "seen_until") == [(4,)]
    assert serve(session, cursor=page.cursor).exhausted
    assert (fresh(session, 25), again(session, 25)) == (set(), [])


def test_a_host_says_exactly_how_far_a_viewer_looked(session: Session) -> None:
    make_world(session)
    make_user(session, "other")
    page = serve(session, limit=4)
    own: dict[str, Any] = {"cursor": page.cursor}
    with counted_statements(session.connection()) as sent:
        assert mark_seen(session, "viewer", position=2, **own) == 2
    assert len(sent) == 3
    assert fresh(session, 25) == {f"v{number}" for number in range(6)} - set(names(page)[:2])
    assert mark_seen(session, "viewer", position=1, **own) == 2
    assert mark_seen(session, "viewer", position=9, session_id=page.session) == 4
    assert set(again(session, 1)) == set()
    for user, error, options in (
        ("other", InvalidCursor, own), ("nobody", UnknownUser, own),
        ("viewer", InvalidCursor, {"session_id": uuid4()}),
        ("viewer", InvalidCursor, {"cursor": "x"}),
        ("viewer", InvalidValue, {}), ("viewer", InvalidValue, {**own, "session_id": uuid4()}),
        *(("viewer", InvalidValue, {**own, "position": bad}) for bad in (0, -1, True, "2", None)),
    ):  # fmt: skip
        with pytest.raises(error):
            mark_seen(session, user, **{"position": 1, **options})


def test_a_page_is_refilled_with_the_oldest_before_it_is_exhausted(session: Session) -> None:
    """Three pulls to refresh do not exhaust a small catalogue."""
    make_world(session, 7)
    served = [name for hour in range(3) for name in names(serve(session, hour, limit=2))]
    with counted_statements(session.connection()) as sent:
        page = serve(session, 3, limit=4)
    assert len(sent) == 4 + writes_of_a_page(session)
    assert [item.refilled for item in page.items] == [False, True, True, True]
    assert names(page)[1:] == [*sorted(served[:2]), min(served[2:4])]
    assert [item["refilled"] for item in page.as_dict()["items"][1:]] == [True] * 3
    assert not page.exhausted
    assert serve(session, 3, session_id=page.session).items == page.items
    last = serve(session, 4, limit=4, cursor=page.cursor)
    assert (set(names(last)), last.exhausted) == (set(served[3:]) - {names(page)[3]} | {
        name for name in served[2:4] if name not in names(page)
    }, True)  # fmt: skip
    assert recommender.audit(session).broken == ()
    assert rows_of(session, SERVED, "attempt", "refilled") == ([(1, False)] * 7 + [(2, True)] * 6)


def cost(session: Session, limit: int, options: Any) -> int:
    """The number of statements of a preview."""
    with counted_statements(session.connection()) as sent:
        preview(session, as_of=hours(1), limit=limit, **options)
    return len(sent)


@pytest.mark.slow
def test_every_statement_of_a_page_beyond_the_usual_ones_has_a_cause(session: Session) -> None:
    """A short page looks for videos for followers, for the end of the scan, and for served ones."""
    make_world(session)
    serve(session, limit=2)
    every: dict[str, Any] = {"where": Video.key != "x"}
    pages: tuple[tuple[int, dict[str, Any]], ...] = (
        (4, {}), (4, every), (5, {}), (5, every), (7, {"rewatch": True}), (7, {"user": "nobody"}),
        (7, {"profile": "classic"}),
    )  # fmt: skip
    assert [cost(session, *page) for page in pages] == [3, 3, 4, 5, 3, 3, 2]
    make_video(session, "for followers", creator="other", audience="followers")
    assert [cost(session, *page) for page in pages] == [3, 3, 5, 6, 4, 3, 2]
    with counted_statements(session.connection()) as sent:
        assert serve(session, 1, limit=5, **every).items[-1].refilled
    assert len(sent) == 6 + writes_of_a_page(session)


@slow_on_postgresql
def test_refilled_places_are_spread(session: Session) -> None:
    make_user(session)
    make_videos(session, "a1", "a2", "a3", creator="a")
    serve(session)
    make_videos(session, "b1", "b2", creator="b")
    serve(session, 1, limit=2)
    page = serve(session, 2)
    assert [item.creator for item in page.items] == ["a", "b", "a", "b", "a"]
    assert not any(item.crowded for item in page.items)
    make_videos(session, "a4", creator="a")
    page = serve(session, 3)
    assert [item.creator for item in page.items] == ["a", "b", "a", "b", "a", "a"]
    assert [item.crowded for item in page.items] == [False] * 5 + [True]


@slow_on_postgresql
def test_many_served_by_one_creator_do_not_hide_the_others(session: Session) -> None:
    """The oldest that are read first are all by one creator, so that all are read."""
    make_user(session)
    make_videos(session, *(f"a{number}" for number in range(60)), creator="a")
    serve(session, limit=60)
    make_videos(session, "b", creator="b")
    serve(session, 1, limit=1)
    with counted_statements(session.connection()) as sent:
        page = serve(session, 2, limit=2)
    assert len(sent) == 5 + writes_of_a_page(session)
    assert [item.creator for item in page.items] == ["a", "b"]


def test_nothing_comes_twice_in_a_session_whatever_other_devices_are_served(
    session: Session,
) -> None:
    """The memory knows the last session of a video only."""
    make_world(session)
    one = serve(session, limit=2, **LONG)
    other = serve(session, 25, limit=6)
    assert set(names(one)) < set(names(other))
    late = serve(session, 50, cursor=one.cursor, limit=6, **LONG)
    assert set(names(late)) == {f"v{number}" for number in range(6)} - set(names(one))
    rewatch = serve(session, 51, limit=2, rewatch=True)
    serve(session, 51, limit=6, rewatch=True)
    rest = serve(session, 51, limit=6, cursor=rewatch.cursor)
    assert set(names(rest)) == {f"v{number}" for number in range(6)} - set(names(rewatch))
    assert recommender.audit(session).out_of_order == 0


def test_what_was_looked_at_is_seen_also_if_another_session_served_it_since(
    session: Session,
) -> None:
    make_world(session, 4)
    for number, later in enumerate(({}, {"rewatch": True}, {"profile": "classic"})):
        for is_marked in (True, False):
            user = f"viewer {number} {is_marked}"
            make_user(session, user)
            first = recommender.for_you(session, user, as_of=hours(0), limit=2)
            since = recommender.for_you(session, user, as_of=hours(1), limit=4, **later)
            assert set(names(first)) < set(names(since))
            if is_marked:
                mark_seen(session, user, position=2, session_id=first.session)
            else:
                recommender.for_you(session, user, as_of=hours(2), cursor=first.cursor, limit=1)
            page = preview(session, user, as_of=hours(50), limit=4)
            assert set(names(page)) == {"v0", "v1", "v2", "v3"} - set(names(first)), (later, user)


@slow_on_postgresql
def test_what_was_seen_stays_seen_when_it_is_watched_again(session: Session) -> None:
    make_world(session, 3)
    page = serve(session, limit=2)
    mark_seen(session, "viewer", position=2, session_id=page.session)
    for options in ({"rewatch": True}, {"profile": "classic"}):
        assert len(serve(session, 1, **options).items) == 3
    assert fresh(session, 99) | set(again(session, 99)) == {"v0", "v1", "v2"} - set(names(page))


@slow_on_postgresql
def test_a_refilled_page_can_be_recorded_later(session: Session) -> None:
    """What was seen meanwhile is left out; what a page ranks as new must still be new."""
    make_world(session, 4)
    first = serve(session, limit=3)
    ranked = preview(session, as_of=hours(1), limit=4)
    assert [item.refilled for item in ranked.items] == [False, True, True, True]
    record(session, "impression", names(first)[0], at=hours(1))
    served = record_page(session, ranked)
    assert set(names(served)) == {f"v{number}" for number in range(4)} - {names(first)[0]}
    late = preview(session, as_of=hours(26), limit=4)
    assert len(late.items) == 3
    serve(session, 26, limit=4)
    assert record_page(session, late).stale
    own = Settings(served_again_after=60, served_attempts=9)
    for hour, options in ((27, {"settings": own}), (28, {})):
        late = preview(session, as_of=hours(hour), limit=4, settings=own)
        assert [item.refilled for item in late.items] == [False] * 3
        assert len(record_page(session, late, **options).items) == (3 if options else 0)
