"""SQL of the host: found by its structure, run with the values of the request."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler

import recommender
from recommender import Candidate, InvalidValue, Settings, Signal
from recommender.database.expressions import is_true
from recommender.feed import statements
from recommender.feed.statements import MAX_STATEMENTS, cached_statement
from recommender.models import Hashtag, User, Video, VideoHashtag
from recommender.ranking.additions import kept_shape
from recommender.ranking.registry import OURS
from recommender.ranking.viewer import Shape
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import TAGS, load, random_weights, random_world
from tests.support.worlds import NOON, at, make_user, make_videos, names, preview, record

Predicate = Callable[[random.Random], sa.ColumnElement[bool]]

licences = sa.Table(
    "host_licences", sa.MetaData(), sa.Column("video", sa.Text), sa.Column("region", sa.Text),
    sa.Column("holder", sa.Uuid), sa.Column("until", sa.DateTime(timezone=True)),
)  # fmt: skip


def some_keys(chance: random.Random) -> list[str]:
    return [f"v{number}" for number in chance.sample(range(60), chance.choice([0, 7, 50]))]


def is_licensed(chance: random.Random) -> sa.ColumnElement[bool]:
    region = chance.choice(["DE", "FR"])
    return sa.exists().where(licences.c.video == Video.key, licences.c.region == region)


def is_held(chance: random.Random) -> sa.ColumnElement[bool]:
    held = sa.select(licences.c.video).where(
        licences.c.holder.in_([UUID(int=chance.randrange(3)), UUID(int=5)]),
        licences.c.until > datetime(2026, chance.randint(1, 12), 1, tzinfo=UTC),
    )
    return Video.key.in_(held.limit(chance.randint(1, 60)))


def has_hashtag(chance: random.Random) -> sa.ColumnElement[bool]:
    is_tag = sa.and_(Hashtag.id == VideoHashtag.hashtag_id, Hashtag.name == chance.choice(TAGS))
    return Video.id.in_(sa.select(VideoHashtag.video_id).join(Hashtag, is_tag)) | Video.creator.has(
        User.key == f"c{chance.randrange(3)}"
    )


PREDICATES: dict[str, Predicate] = {
    "list": lambda chance: Video.key.in_(some_keys(chance)),
    "not in a list": lambda chance: Video.key.not_in(some_keys(chance)),
    "host's table": is_licensed,
    "subquery": is_held,
    "our tables": has_hashtag,
    "text": lambda chance: sa.and_(
        Video.id > 0,
        sa.text("rec_videos.language = :language").bindparams(language=chance.choice(["en", "es"])),
    ),
    "name of ours": lambda chance: (
        Video.language == sa.bindparam("language", chance.choice(["en", "es"]))
    ),
    "late value": lambda chance: (
        Video.key != sa.bindparam("user_id", callable_=f"v{chance.randrange(9)}".lower)
    ),
    "pair": lambda chance: sa.tuple_(Video.language, Video.country).in_(
        [(chance.choice(["en", "es"]), chance.choice(["US", "MX"]))]
    ),
    "times": lambda chance: Video.published_at.between(at(-chance.randint(1, 99_999)), NOON),
    "like": lambda chance: Video.key.startswith(chance.choice(["v1", "v%", "v_"]), autoescape=True),
}


@pytest.fixture
def world(session: Session) -> Session:
    """A random world with a table of the host."""
    load(session, random_world(5, videos=60))
    recommender.create_profile(session, "mine", random_weights(5))
    licences.create(session.connection())
    chance = random.Random(5)  # noqa: S311 - not for secrets
    rows = [
        {"video": f"v{number}", "region": chance.choice(["DE", "FR", "IT"]),
         "holder": UUID(int=chance.randrange(6)),
         "until": datetime(2026, chance.randint(1, 12), 2, tzinfo=UTC)}
        for number in range(60)
    ]  # fmt: skip
    session.execute(licences.insert(), rows)
    return session


def shown(session: Session, user: str = "u0", **options: Any) -> Any:
    return preview(session, user, profile="mine", as_of=NOON, **options).items


@slow_on_postgresql
@pytest.mark.parametrize("name", PREDICATES)
def test_a_predicate_written_anew_is_one_statement(
    world: Session, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "pair":  # older ones run no list of pairs that a statement has twice
        pytest.importorskip("sqlalchemy", minversion="2.0.56")
    chance = random.Random(name)  # noqa: S311 - not for secrets
    first = second = PREDICATES[name](chance)
    while first.compile().params == second.compile().params:
        second = PREDICATES[name](chance)
    shown(world, where=first)
    built = cached_statement.cache_info().misses
    page = shown(world, where=second)
    assert cached_statement.cache_info().misses == built
    monkeypatch.setattr(statements, "kept_shape", lambda _shape: None)
    assert page == shown(world, where=second)


SIGNALS: dict[str, Callable[[random.Random, Candidate], Any]] = {
    "column": lambda chance, _: Video.impressions / float(chance.randint(1, 9)),
    "list": lambda chance, _: is_true(Video.key.in_([*some_keys(chance), f"v{chance.random()}"])),
    "facts": lambda chance, it: it.fact("completion") * chance.random() + it.fact("hashtags"),
    "affinities": lambda chance, it: sa.func.coalesce(it.creator.score, chance.random()),
    "viewer": lambda chance, it: is_true(
        sa.or_(Video.language == it.viewer.language, Video.key == f"v{chance.randrange(60)}")
    ),
    "name of ours": lambda chance, it: (
        is_true(Video.language == sa.bindparam("language", chance.choice(["en", "es"])))
        + is_true(Video.language == it.viewer.language)
    ),
    "history": lambda chance, it: (
        is_true(
            Video.id.in_(sa.select(it.viewer.recent.c.video_id))
            | Video.id.in_(sa.select(it.viewer.near.c.video_id))
        )
        * chance.random()
        + sa.select(sa.func.count()).select_from(it.viewer.lately).scalar_subquery() / 99.0
    ),
    "facts of a relationship": lambda chance, it: is_true(
        Video.creator.has(User.id >= it.fact("hashtags") * chance.randint(1, 5))
    ),
    "host's table": lambda chance, _: (
        sa.select(sa.func.count() * chance.random())
        .where(licences.c.video == Video.key)
        .scalar_subquery()
    ),
}


@slow_on_postgresql
@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("profile", ["mine", pytest.param("classic", marks=pytest.mark.slow)])
def test_a_signal_written_anew_is_one_statement(
    world: Session, name: str, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def items(seed: int) -> Any:
        # A seed for each call of the expression: a signal may be asked more than once.
        def expression(candidate: Candidate) -> Any:
            return SIGNALS[name](random.Random(f"{name} {seed}"), candidate)  # noqa: S311

        signals = {Signal("own", -1, 1, expression): 1.0 + seed}
        options: dict[str, Any] = {"profile": profile, "as_of": NOON, "limit": 500}
        return preview(world, "u0", signals=signals, **options).items

    first = items(0)
    built = cached_statement.cache_info().misses
    second = items(1)
    assert cached_statement.cache_info().misses == built
    monkeypatch.setattr(statements, "kept_shape", lambda _shape: None)
    assert second == items(1)
    assert [item.score for item in second] != [item.score for item in first]


@slow_on_postgresql
def test_a_predicate_and_a_signal_may_read_one_common_table_expression(world: Session) -> None:
    def page(region: str) -> Any:
        in_region = sa.select(licences.c.video).where(licences.c.region == region)
        licensed = Video.key.in_(sa.select(in_region.cte("licensed").c.video))
        own = Signal("own", 0, 1, lambda _: is_true(licensed))
        return shown(world, where=licensed, signals={own: 1.0}, limit=500)

    def expected(region: str) -> set[str]:
        rows = sa.select(licences.c.video).where(licences.c.region == region)
        return set(world.scalars(rows))

    for region in ("DE", "FR"):
        items = page(region)
        assert items
        assert {item.video for item in items} <= expected(region)
        assert {item.signals["own"].value for item in items} == {1}


def test_signals_with_other_names_ranges_or_structures_are_other_statements() -> None:
    def structure(signal: Signal) -> Any:
        kept = kept_shape(Shape(("likes",), *[False] * 5, 720, OURS, own=(signal,)))
        assert kept is not None
        return kept.shape

    one = Signal("one", 0, 1, lambda _: Video.impressions * 2)
    assert structure(one) == structure(Signal("one", 0, 1, lambda _: Video.impressions * 3))
    others = [
        Signal("two", 0, 1, one.expression), Signal("one", 0, 2, one.expression),
        Signal("one", 0, 1, lambda _: Video.engaged_views * 2),
    ]  # fmt: skip
    assert len({structure(signal) for signal in (one, *others)}) == 4


def test_ten_thousand_values_are_one_structure_that_holds_no_value() -> None:
    shapes = set()
    for number in range(10_000):
        where = Video.key.in_([f"secret-{number}"] * (number % 3))
        kept = kept_shape(Shape((), *[False] * 5, 720, OURS, where=where))
        assert kept is not None
        assert kept.values == {"where_0": [f"secret-{number}"] * (number % 3)}
        shapes.add(kept.shape)
    (shape,) = shapes
    assert shape.where is not None
    assert not [value for value in shape.where.compile().params.values() if value is not None]


@pytest.mark.slow
def test_many_structures_keep_a_limited_number_of_statements(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 3
    monkeypatch.setattr(statements, "MAX_STATEMENTS", limit)
    monkeypatch.setattr(statements, "_compiled_by_pool", {})
    for number in range(2 * limit):
        nothing = sa.or_(*[Video.language.is_(None)] * number, Video.country.is_(None))
        preview(session, "nobody", where=nothing)
    (compiled,) = statements._compiled_by_pool.values()
    assert len(compiled) == limit
    assert cached_statement.cache_info().maxsize == MAX_STATEMENTS


def test_a_parameter_without_a_value_is_one_clear_error(session: Session) -> None:
    missing = sa.bindparam("region", type_=sa.Text())
    with pytest.raises(InvalidValue, match=r"^where: the parameter 'region' has no value$"):
        preview(session, where=Video.language == missing)
    own = Signal("own", 0, 1, lambda _: is_true(Video.language == missing))
    with pytest.raises(InvalidValue, match=r"^signal_own: the parameter 'region' has no value$"):
        preview(session, signals={own: 1})


class Unidentified(sa.ColumnElement[bool]):
    """A construct that does not say whether SQLAlchemy may cache it."""

    inherit_cache = False


@compiles(Unidentified)
def _true(_element: Unidentified, compiler: SQLCompiler, **_: Any) -> str:
    return compiler.process(sa.true() == sa.true())


def test_sql_that_cannot_be_identified_is_built_for_each_page(session: Session) -> None:
    make_videos(session, "a", "b")
    built = cached_statement.cache_info().currsize
    where = sa.and_(Unidentified(), Video.key == "a")
    assert names(preview(session, where=where)) == ["a"]
    assert cached_statement.cache_info().currsize == built


def test_integer_keys_of_a_host_are_compared_by_its_own_index(session: Session) -> None:
    make_videos(session, "1", "2", "3", "erased:x")
    posts = sa.Table(
        "host_posts", sa.MetaData(), sa.Column("post", sa.BigInteger, primary_key=True)
    )
    posts.create(session.connection())
    session.execute(posts.insert(), [{"post": 2}, {"post": 3}, {"post": 4}])
    key = sa.case((Video.key.not_like("erased:%"), sa.cast(Video.key, sa.BigInteger)))
    where = sa.exists().where(posts.c.post == key)
    assert sorted(names(preview(session, where=where))) == ["2", "3"]


def rare(session: Session, number: int, every: int) -> list[str]:
    """Make videos, and return the keys of the rare ones, which have another language."""
    rows = [
        {"id": f"v{n:05}", "creator": "c", "published_at": at(-20_000 - n // 3),
         "language": "xx" if n % every == 0 else "en"}
        for n in range(number)
    ]  # fmt: skip
    recommender.upsert_videos(session, rows)
    return [row["id"] for row in rows if row["language"] == "xx"]


def is_rare() -> sa.ColumnElement[bool]:
    return Video.language == "xx"


def walk(session: Session, user: str = "viewer", **options: Any) -> list[Any]:
    """Return the pages of a session until the last one."""
    pages = [recommender.for_you(session, user, as_of=NOON, **options)]
    while pages[-1].cursor:
        cursor = pages[-1].cursor
        pages.append(recommender.for_you(session, user, as_of=NOON, cursor=cursor, **options))
    return pages


@pytest.mark.parametrize("limit", [2, 20])
def test_a_rare_condition_stops_a_page_and_the_next_one_goes_on(
    session: Session, limit: int
) -> None:
    make_user(session)
    wanted = rare(session, 1_000, every=40)
    settings = Settings(scan_limit=100)
    pages = walk(session, where=is_rare(), settings=settings, limit=limit)
    assert [item.video for page in pages for item in page.items] == wanted
    assert len(pages) <= 1 + max(1_000 // 100, len(wanted) // limit + 1_000 // 100)
    assert [page.exhausted for page in pages] == [False] * (len(pages) - 1) + [True]
    assert all(page.cut_short == (len(page.items) < limit) for page in pages[:-1])
    assert any(page.cut_short for page in pages)
    assert not pages[-1].cut_short


@slow_on_postgresql
def test_a_condition_that_nothing_fulfils_ends(session: Session) -> None:
    make_user(session)
    rare(session, 350, every=1_000)
    nothing = Video.language == "nowhere"
    pages = walk(session, where=nothing, settings=Settings(scan_limit=100))
    assert [(page.cut_short, page.exhausted) for page in pages] == [(True, False)] * 3 + [
        (False, True)
    ]
    assert [page.items for page in pages] == [()] * 4


@slow_on_postgresql
def test_a_page_without_a_condition_is_never_cut_short(session: Session) -> None:
    make_user(session)
    rare(session, 300, every=3)
    for video in range(250):
        record(session, "watch", f"v{video:05}", completion=0.5)
    (page,) = walk(session, settings=Settings(scan_limit=100), limit=100)
    assert (len(page.items), page.exhausted, page.cut_short) == (50, True, False)


@slow_on_postgresql
def test_a_preview_that_was_cut_short_can_be_recorded(session: Session) -> None:
    make_user(session)
    wanted = rare(session, 300, every=150)
    options: dict[str, Any] = {"where": is_rare(), "settings": Settings(scan_limit=100)}
    ranked = recommender.for_you(session, "viewer", as_of=NOON, record=False, **options)
    assert (names(ranked), ranked.cut_short, ranked.cursor) == (wanted[:1], True, None)
    page = recommender.record_page(session, ranked)
    assert page.cut_short
    later = recommender.for_you(session, "viewer", as_of=NOON, cursor=page.cursor, **options)
    assert names(later) == wanted[1:]
    assert (
        recommender.for_you(session, "viewer", as_of=NOON, cursor=page.cursor, **options).items
        == later.items
    )
