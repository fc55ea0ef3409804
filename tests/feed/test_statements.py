"""The statements of pages: one text for each shape of request, and no values of another one."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import CacheStats
from sqlalchemy.orm import Session

import recommender
from recommender import Registry, Settings, Source, feed_query
from recommender.database.expressions import named
from recommender.database.written_out import written_out
from recommender.feed.statements import (
    MAX_STATEMENTS,
    _compiled_statements,
    cached_statement,
    page_query,
)
from recommender.formats.scalars import UNDATED
from recommender.models import Video
from recommender.ranking.classic import ranked_reference
from recommender.ranking.scoring import top_candidates
from recommender.ranking.viewer import Shape, values_of
from tests.support.oracle import VIEWERS, load, random_weights, random_world
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    names,
    preview,
    register,
    unspread,
)


@pytest.fixture
def world(session: Session) -> Session:
    """A random world, a profile of every signal and another one of the same signals."""
    load(session, random_world(5))
    recommender.create_profile(session, "mine", random_weights(5))
    recommender.create_profile(session, "other", random_weights(6))
    return session


def sent_for(session: Session, **options: Any) -> str:
    with counted_statements(session.connection()) as sent:
        preview(session, **{"profile": "mine", "as_of": NOON, "limit": 3, **options})
    return sent[1]


def test_only_values_differ_between_requests_of_a_shape(world: Session) -> None:
    settings = Settings(history=3, interests=2, trial_viewers=7, common_term=0.5, trend_scale=2)
    one = sent_for(world, user="u0", exclude=["v1"])
    others = [
        {"user": "u1"}, {"profile": "other"}, {"as_of": at(90)}, {"limit": 500},
        {"settings": settings}, {"exclude": [f"v{n}" for n in range(9_000)]},
    ]  # fmt: skip
    for options in others:
        assert sent_for(world, **{"user": "u0", "exclude": ["v1"], **options}) == one


def served(session: Session, user: str, limit: int, profile: str, minutes: int) -> None:
    """A page and the one after it, both recorded."""
    options: dict[str, Any] = {"limit": limit, "profile": profile, "as_of": at(minutes)}
    first = recommender.for_you(session, user, **options)
    if first.cursor:
        recommender.for_you(session, user, cursor=first.cursor, **options)


@pytest.mark.parametrize("profile", ["mine", "classic"])
def test_after_the_first_page_no_statement_is_compiled(world: Session, profile: str) -> None:
    """Whoever asks, for how many, when; `hit` is SQLAlchemy's own word of its cache."""
    found: list[tuple[CacheStats, str]] = []

    def note(*given: Any) -> None:
        if given[4].compiled is not None:  # not one that we compiled ourselves, once
            found.append((given[4].cache_hit, given[2].split("*/")[0]))

    served(world, "u0", 3, profile, 0)
    with world.begin_nested() as nested:  # a page that goes on with carried candidates
        served(world, "u2", 5, profile, 90)
        nested.rollback()
    sa.event.listen(world.connection(), "before_cursor_execute", note)
    try:
        for user, limit, minutes in (("u1", 3, 0), ("u0", 2, 60), ("u2", 5, 90)):
            served(world, user, limit, profile, minutes)
    finally:
        sa.event.remove(world.connection(), "before_cursor_execute", note)
    savepoints = ("SAVEPOINT", "RELEASE")
    sent = [each for each in found if not each[1].startswith(savepoints)]
    assert len(sent) >= 3 * 2 * 3
    assert [
        each for each in sent if each[0] is not CacheStats.CACHE_HIT and not no_key(*each)
    ] == []


def no_key(found: CacheStats, statement: str) -> bool:
    """Return whether SQLAlchemy 2.0 compiles a statement each time; 2.1 does not."""
    compiles_conflicts = sa.__version__.startswith("2.0.")
    return compiles_conflicts and found is CacheStats.NO_CACHE_KEY and "ON CONFLICT" in statement


def test_only_values_differ_between_lists_of_videos_to_rank(world: Session) -> None:
    with counted_statements(world.connection()) as sent:
        for user, videos in (("u0", ["v1"]), ("u1", [f"v{n}" for n in range(40)])):
            recommender.rank(world, user, videos, profile="mine", as_of=NOON)
    assert len(sent) == 4
    assert sent[1] == sent[3]


@pytest.mark.slow
def test_a_cached_statement_answers_as_a_new_one(world: Session) -> None:
    for profile in ("mine", "classic"):
        for user in ("u0", "nobody"):
            options: dict[str, Any] = {"profile": profile, "as_of": NOON, "exclude": ["v3", "v4"]}
            request = recommender.resolve(world, user, **options)
            rows = world.execute(feed_query(request).add_columns(Video.key))
            shown = [(row.key, row.score_key / 1e9) for row in rows]
            page = unspread(world, user, **options)
            assert [(item.video, item.score) for item in page.items] == shown
            same = preview(world, user, where=sa.true(), **options)
            assert same.items == preview(world, user, **options).items


@pytest.mark.slow
def test_a_feed_inside_another_statement_keeps_its_values(world: Session) -> None:
    for user in ("u0", "u1"):
        feed = feed_query(recommender.resolve(world, user, "mine", as_of=NOON))
        alone = [row.video_id for row in world.execute(feed)]
        inside = world.scalars(sa.select(feed.subquery("feed").c.video_id))
        assert sorted(inside) == sorted(alone)


def test_the_number_of_cached_statements_is_limited() -> None:
    assert cached_statement.cache_info().maxsize == MAX_STATEMENTS


@pytest.mark.slow
def test_threads_share_cached_statements(engine: Engine) -> None:
    with Session(engine.execution_options(recommender_write=True)) as session, session.begin():
        load(session, random_world(7))
        recommender.create_profile(session, "mine", random_weights(7))
    users = [*VIEWERS, "nobody"] * 4

    def page(user: str) -> list[str]:
        with Session(engine) as session:
            return names(preview(session, user, profile="mine", as_of=NOON))

    cached_statement.cache_clear()
    with ThreadPoolExecutor(max_workers=8) as pool:
        together = list(pool.map(page, users))
    assert together == [page(user) for user in users]
    # A page of a viewer, a page of a stranger, and what fills a last page of a viewer.
    assert cached_statement.cache_info().currsize == 3


@pytest.mark.slow
def test_sqlalchemy_knows_a_statement_that_is_built_again(engine: Engine) -> None:
    """Otherwise each dropped statement would fill its cache, by some megabytes."""
    with Session(engine) as session:
        compiled = _compiled_statements(session.connection())
        seen = []
        for rewatch in (False, False, True, True):
            cached_statement.cache_clear()
            preview(session, "nobody", as_of=NOON, rewatch=rewatch)
            seen.append(len(compiled))
    first, again, other, other_again = seen
    assert first == again < other == other_again


def test_a_cached_statement_has_only_the_values_of_the_request(world: Session) -> None:
    for profile, ranking, finish in (
        ("mine", top_candidates, named),
        ("classic", ranked_reference, page_query),
    ):
        request = recommender.resolve(world, "u0", profile, as_of=NOON)
        written = cached_statement(ranking, finish, "for_you", Shape.of(request)).compile(
            world.get_bind()
        )
        others = {name: written.params[name] for name in written.params.keys() - values_of(request)}
        assert set(others.values()) <= {UNDATED, 0, -1}  # SQLAlchemy's own LIMIT -1 OFFSET 0
        # An anonymous CTE is named after an address that another one may have had.
        assert not re.search(r"\banon_\d+ AS\b", str(written))


@pytest.mark.parametrize("value", ["", "it's 100% :so \\ %(x)s", -1.5, 1e-300, 7, -(2**40), 0.1])
def test_what_is_written_out_is_the_same_value(session: Session, value: Any) -> None:
    bound = sa.literal(value, sa.BigInteger() if isinstance(value, int) else None)
    for twice in (sa.select(bound, bound == value), sa.select(bound).where(bound == value)):
        read = tuple(session.execute(twice).one())
        written = written_out(twice)
        assert "%(" in str(value) or written.compile(session.get_bind()).params == {}
        assert tuple(session.execute(written).one()) == read
    bound = sa.literal(value, bound.type)
    given = sa.select(sa.bindparam("given", type_=sa.Text()), bound)
    assert tuple(session.execute(written_out(given), {"given": "me"}).one()) == ("me", value)


def test_two_statements_with_other_values_written_out_are_two(session: Session) -> None:
    for values in ([1, 2], [0.5, 0.25], ["a", "b"], [1, 1.0]):
        rows = [session.execute(written_out(sa.select(sa.literal(it)))).scalar() for it in values]
        assert rows == values


def test_an_expression_may_be_a_condition_of_requests_and_a_part_of_the_registry(
    world: Session,
) -> None:
    shared = sa.func.length(Video.key) < 3
    own = Source("short", 5, lambda *_: sa.select(Video.id).where(shared).order_by(Video.id))
    options: dict[str, Any] = {"user": "u0", "as_of": NOON, "limit": 5}
    alone = names(preview(world, where=shared, **options))
    register(world, Registry(sources=[own]))
    preview(world, **options)  # writes its numbers out
    assert set(names(preview(world, where=shared, **options))) == set(alone)
    assert {len(name) for name in alone} == {2}
