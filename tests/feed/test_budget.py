"""Pages within a budget: fewer candidates after slow pages, few sources after a cancelled one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage, InvalidValue, QueryTimeout, Registry, Settings, Source
from recommender.database.server_settings import shorter_statements
from recommender.feed import budget
from recommender.feed.budget import (
    CHEAP_SOURCES,
    MOST_HALVINGS,
    PAGES_BEFORE_FEWER,
    PAGES_BEFORE_MORE,
    Pace,
    more_reduced,
    note,
    pace_of,
)
from recommender.feed.values import Reduction
from recommender.models import User, Video
from recommender.models.tables import SERVED, SESSIONS
from tests.support.kinds import only_postgresql
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    follow,
    make_user,
    make_video,
    mute,
    names,
    register,
    rows_of,
)

ENOUGH, TIGHT = 60_000, 20.0
"""Budgets, in milliseconds: one that every page keeps to, and one that a sleep exceeds."""

CARRYING = Settings(whole_every=3)

IS_ASLEEP = sa.cast(sa.func.pg_sleep(60), sa.Text()) == ""
"""A condition that sleeps for longer than any test."""

SLEEPING = Registry(
    sources=[
        Source("asleep", 5, lambda *_: sa.select(Video.id).where(IS_ASLEEP).order_by(Video.id))
    ]
)


@pytest.fixture(autouse=True)
def _no_pages_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_pace_by_pool", type(budget._pace_by_pool)())


@pytest.fixture
def pool() -> Iterator[sa.Pool]:
    bind = sa.create_engine("sqlite://")
    yield bind.pool
    bind.dispose()


def serve(session: Session, page: FeedPage | None = None, **options: Any) -> FeedPage:
    cursor = page and page.cursor
    given = {"as_of": NOON, "limit": 3, "cursor": cursor, "settings": CARRYING, **options}
    return recommender.for_you(session, "viewer", **given)


def make_world(session: Session, videos: int = 30) -> None:
    make_user(session)
    for number in range(videos):
        make_video(session, f"v{number}", creator=f"c{number % 8}", published_at=at(-60 - number))


def pool_in(session: Session) -> sa.Pool:
    return session.connection().engine.pool


def note_pages(pool: sa.Pool, share: float, pages: int) -> int:
    """Note pages that took a share of their budgets, and return how often candidates are halved."""
    for _ in range(pages):
        note(pool, pace_of(pool).halvings, share)
    return pace_of(pool).halvings


def limit_of_statements(session: Session) -> Any:
    return session.scalar(sa.select(sa.func.current_setting("statement_timeout")))


def test_candidates_are_halved_where_the_median_of_five_pages_was_above_the_budget(
    pool: sa.Pool,
) -> None:
    assert note_pages(pool, 1.1, PAGES_BEFORE_FEWER - 1) == 0
    assert note_pages(pool, 1.1, 1) == 1
    assert pace_of(pool) == Pace(1)  # the times with more candidates do not count
    assert note_pages(pool, 0.9, 3) == 1
    assert note_pages(pool, 9.0, 2) == 1  # the median is within the budget
    assert note_pages(pool, 9.0, 1) == 2
    assert note_pages(pool, 9.0, 100) == MOST_HALVINGS


def test_candidates_are_doubled_where_the_median_of_twenty_pages_was_below_half_of_it(
    pool: sa.Pool,
) -> None:
    note_pages(pool, 9.0, 2 * PAGES_BEFORE_FEWER)
    assert note_pages(pool, 0.6, 2 * PAGES_BEFORE_MORE) == 2  # fast enough, but not for twice
    assert note_pages(pool, 0.4, PAGES_BEFORE_MORE // 2) == 2
    assert note_pages(pool, 0.4, 1) == 1
    assert note_pages(pool, 0.4, PAGES_BEFORE_MORE - 1) == 1
    assert note_pages(pool, 0.4, 1) == 0
    assert note_pages(pool, 0.4, 2 * PAGES_BEFORE_MORE) == 0


def test_a_page_that_began_before_the_last_change_does_not_count(pool: sa.Pool) -> None:
    note_pages(pool, 9.0, PAGES_BEFORE_FEWER)
    note(pool, 0, 9.0)
    assert pace_of(pool) == Pace(1)


def test_engines_have_paces_of_their_own(pool: sa.Pool) -> None:
    other = sa.create_engine("sqlite://").pool
    note_pages(pool, 9.0, PAGES_BEFORE_FEWER)
    assert (pace_of(pool).halvings, pace_of(other).halvings) == (1, 0)


def test_the_reference_is_never_reduced(session: Session) -> None:
    make_world(session, videos=3)
    note_pages(pool_in(session), 9.0, PAGES_BEFORE_FEWER)
    with counted_statements(session.connection()) as sent:
        page = serve(session, profile="classic", record=False, budget_ms=ENOUGH)
    assert page.reduced is None
    assert not [each for each in sent if "set_config" in each]


@pytest.mark.parametrize(
    ("halvings", "given", "left"), [(1, 720, 360), (3, 720, 90), (3, 200, 90), (2, 90, 90)]
)
def test_a_page_after_slow_ones_is_as_with_a_smaller_setting(
    session: Session, halvings: int, given: int, left: int
) -> None:
    make_world(session, videos=3)

    def sent(candidates: int, **options: Any) -> tuple[str, FeedPage]:
        settings = Settings(candidates=candidates)
        with counted_statements(session.connection()) as statements:
            page = serve(session, record=False, settings=settings, **options)
        return next(each for each in statements if "recommender.for_you" in each), page

    note_pages(pool_in(session), 9.0, halvings * PAGES_BEFORE_FEWER)
    expected, whole = sent(left)
    found, reduced = sent(given, budget_ms=ENOUGH)
    assert found == expected
    assert reduced.items == whole.items
    said = {"reduced": "candidates"} if left < given else {}
    assert reduced.as_dict() == {**whole.as_dict(), **said, "session": None}
    assert (sent(given)[0] == expected) is (given == left)  # pages without a budget do not change


def test_no_budget_costs_no_statement_and_a_budget_two_and_a_savepoint(session: Session) -> None:
    make_world(session)
    serve(session), serve(session, budget_ms=ENOUGH)
    savepoints: list[str] = []
    sa.event.listen(session.connection(), "savepoint", lambda _, name: savepoints.append(name))
    sent = []
    for options in ({}, {"budget_ms": None}, {"budget_ms": ENOUGH}):
        with counted_statements(session.connection()) as statements:
            serve(session, **options)
        sent.append([*statements])
        assert len(savepoints) == (len(sent) == 3 and is_limited(session))
    assert sent[0] == sent[1]
    limits = [each for each in sent[2] if "set_config" in each]
    assert len(limits) == 2 * is_limited(session)
    assert [each for each in sent[2] if each not in limits] == sent[0]


def is_limited(session: Session) -> bool:
    return session.connection().dialect.name == "postgresql"


def test_what_is_noted_are_pages_from_all_sources_that_compile_no_statement(
    session: Session,
) -> None:
    make_world(session)
    noted: list[int] = []

    def served(page: FeedPage | None = None, **options: Any) -> FeedPage:
        page = serve(session, page, **options)
        noted.append(len(pace_of(pool_in(session)).shares))
        return page

    # Another number of candidates makes a statement that no other test has built.
    first: dict[str, Any] = {
        "budget_ms": ENOUGH,
        "settings": Settings(candidates=413, whole_every=3),
    }
    page = served(**first)
    served(**first)
    served(page, **first)  # what the session carries
    served(page, **first)  # served already
    served(budget_ms=None)
    served(budget_ms=ENOUGH, profile="classic")
    assert noted == [0, 1, 1, 1, 1, 1]
    assert 0 < pace_of(pool_in(session)).shares[0] < 1


@only_postgresql
def test_a_ranking_that_is_cancelled_gives_a_page_of_few_sources_that_goes_on(
    session: Session,
) -> None:
    make_world(session)
    mute(session, "viewer", "creator", "c0")
    limit = limit_of_statements(session)
    register(session, SLEEPING)
    pages = [serve(session, budget_ms=TIGHT)]
    assert limit_of_statements(session) == limit
    assert rows_of(session, SESSIONS, "contenders") == [(None,)]
    pages += [serve(session, pages[-1], budget_ms=TIGHT, profile="for_you")]
    assert [page.reduced for page in pages] == ["sources", "sources"]
    items = [item for page in pages for item in page.items]
    assert {name for item in items for name in item.sources} <= set(CHEAP_SOURCES)
    assert all(item.signals for item in items)
    assert "c0" not in {item.creator for item in items}
    assert len({item.video for item in items}) == len(rows_of(session, SERVED)) == 6
    again = serve(session, pages[0], budget_ms=TIGHT)
    assert (again.items, again.reduced) == (pages[1].items, None)


@only_postgresql
def test_pages_that_were_cancelled_count_as_slow(session: Session) -> None:
    make_world(session)
    register(session, SLEEPING)
    serve(session, budget_ms=TIGHT)  # may compile its statement
    serve(session, budget_ms=TIGHT)
    shares = pace_of(pool_in(session)).shares
    assert shares
    assert min(shares) > 1


@only_postgresql
def test_what_the_host_has_written_or_holds_stays_after_a_cancelled_ranking(
    session: Session,
) -> None:
    make_world(session)
    register(session, SLEEPING)
    session.add(User(key="pending"))
    assert serve(session, budget_ms=TIGHT).reduced == "sources"
    session.expire_all()
    kept = session.scalars(sa.select(User.key).where(User.key.in_(["viewer", "pending"])))
    assert sorted(kept) == ["pending", "viewer"]


@only_postgresql
def test_a_page_is_an_error_only_where_the_cheap_one_takes_too_long_too(session: Session) -> None:
    make_world(session)
    register(session, SLEEPING)
    # Without the newest videos, few sources would end the feed.
    recommender.create_feed(session, "own", sources=["asleep", "following"])
    session.execute(sa.text("SET LOCAL statement_timeout = '200ms'"))
    for options in ({"where": IS_ASLEEP}, {"feed": "own"}):
        with (
            pytest.raises(QueryTimeout),
            session.begin_nested(),
            recommender.database.transactions.translate_errors(),
        ):
            serve(session, budget_ms=TIGHT, **options)
    assert limit_of_statements(session) == "200ms"


@pytest.mark.slow
@only_postgresql
def test_both_profiles_of_an_interleaved_page_keep_to_the_budget(session: Session) -> None:
    make_world(session)
    recommender.create_profile(session, "old", {"freshness": 1.0, "quality": 1.0})
    recommender.start_experiment(session, "tried", ["old"], interleaved=True)
    register(session, SLEEPING)
    page = serve(session, budget_ms=TIGHT, limit=4)
    assert page.reduced == "sources"
    assert len(page.items) == 4
    assert {item.profile and item.profile.name for item in page.items} == {None, "old"}


def test_a_page_of_two_rankings_is_reduced_as_the_cheaper_one() -> None:
    each: tuple[Reduction | None, ...] = (None, "candidates", "sources")
    found = [more_reduced(one, other) for one in each for other in each]
    assert found == [*each, "candidates", "candidates", "sources", *["sources"] * 3]


@only_postgresql
def test_other_errors_are_raised(session: Session) -> None:
    make_world(session)
    fails = sa.select(Video.id).where(sa.cast(Video.key, sa.Integer()) > 0).order_by(Video.id)
    register(session, Registry(sources=[Source("failing", 5, lambda *_: fails)]))
    with pytest.raises(DBAPIError), session.begin_nested():
        serve(session, budget_ms=ENOUGH)


def test_a_cheap_page_reads_as_little_as_with_the_fewest_candidates_and_nothing_carried(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(session)
    page = serve(session, serve(session))
    ((carried,),) = rows_of(session, SESSIONS, "contenders")
    assert carried is not None
    monkeypatch.setattr(budget, "_ranked_in_time", lambda *_: None)
    with counted_statements(session.connection()) as sent:
        for candidates in (90, 720):
            options: dict[str, Any] = {
                "formats": ["reel", "clip"],
                "settings": Settings(candidates=candidates),
            }
            serve(session, record=False, budget_ms=ENOUGH, **options)
    few, many = (each for each in sent if "recommender.for_you" in each)
    assert few == many
    following = serve(session, page, budget_ms=ENOUGH)
    assert {item.sources for item in following.items} == {("newest",)}


@only_postgresql
def test_a_ranking_is_cancelled_after_twice_its_budget_and_not_before_it_can_be_planned(
    session: Session,
) -> None:
    make_world(session, videos=1)
    limits: list[str] = []

    def collect(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "longest" in statement:
            limits.append(values["written"])

    bind = session.connection()
    sa.event.listen(bind, "before_cursor_execute", collect)
    for given in (1, 5.5, 60.0):
        serve(session, record=False, budget_ms=given)
    sa.event.remove(bind, "before_cursor_execute", collect)
    assert limits == ["10", "11", "120"]


@pytest.mark.slow
@only_postgresql
def test_a_cheap_page_reads_no_source_that_its_feed_does_not_read(session: Session) -> None:
    make_world(session)
    register(session, SLEEPING)
    follow(session, "viewer", "c1")
    quotas = {"newest": 1, "following": 0, "asleep": 5}
    recommender.create_feed(session, "own", sources=quotas, formats=["reel", "clip"])
    for number in range(5):
        make_video(session, f"r{number}", creator="c1", format="reel", published_at=at(-number))
    page = serve(session, budget_ms=TIGHT, feed="own")
    assert (page.reduced, page.request.feed and page.request.feed.label) == ("sources", "own@1")
    assert sorted(names(page)) == ["r0", "r1", "r2"]
    assert {item.sources for item in page.items} == {("newest",)}
    following = serve(session, page, budget_ms=TIGHT)
    assert sorted(names(following)) == ["r3", "r4"]


@only_postgresql
@pytest.mark.parametrize(("before", "within"), [("0", "2s"), ("15s", "2s"), ("90ms", "90ms")])
def test_the_limit_of_statements_is_only_shortened(
    session: Session, before: str, within: str
) -> None:
    session.execute(sa.select(sa.func.set_config("statement_timeout", before, sa.true())))
    for is_failing in (False, True):
        try:
            with shorter_statements(session.connection(), 2.0):
                assert limit_of_statements(session) == within
                if is_failing:
                    raise KeyError
        except KeyError:
            pass
        assert limit_of_statements(session) == before


@only_postgresql
def test_the_limit_of_statements_is_the_same_after_the_transaction(session: Session) -> None:
    limit = limit_of_statements(session)
    with Session(session.connection().engine) as own:
        with own.begin(), shorter_statements(own.connection(), 2.0):
            pass
        assert limit_of_statements(own) == limit


@pytest.mark.parametrize("given", [0, 0.5, -1, float("nan"), 3_600_001, True, "20"])
def test_a_budget_is_a_number_of_milliseconds(session: Session, given: Any) -> None:
    with pytest.raises(InvalidValue, match="budget_ms: "):
        serve(session, budget_ms=given)
