"""The plans of a page's statement on a world of some size: rows read, never times."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Engine
from sqlalchemy.orm import Session

import recommender
from recommender import Registry, Settings, Source, create_engine, resolve
from recommender.benchmark.distributions import END
from recommender.benchmark.large_world import LargeWorld
from recommender.benchmark.load import load
from recommender.database import lookup
from recommender.database.expressions import named
from recommender.database.registered import OPTION
from recommender.feed.reasons import cause_query
from recommender.feed.statements import cached_statement, candidate_rows
from recommender.formats import scalars
from recommender.formats.visibility import FOLLOWERS, PUBLIC, UNLISTED
from recommender.lists.people_reasons import people_cause_query
from recommender.lists.reach import USERS_PER_PLACE, reached_users
from recommender.lists.similar_reasons import likeness_query
from recommender.models import Follow, Interaction, RecentEngagement, Video, VideoHashtag
from recommender.models.types import Base
from recommender.operations import query_plans, registered_plans
from recommender.operations.query_plans import (
    MAX_DISCARDED,
    MAX_READ,
    Plan,
    check_plans,
    page_plan,
    people_plan,
    plan_of,
    similar_plan,
)
from recommender.ranking.candidates import source_candidates
from recommender.ranking.registry import OURS
from recommender.ranking.request import DEFAULT_LIMIT, PEOPLE, SIMILAR
from recommender.ranking.scoring import pool_size, top_candidates
from recommender.ranking.seeds import MAX_SEEDS
from recommender.ranking.sources import CANDIDATES, EXPLORATION, SOURCES
from recommender.ranking.viewer import Shape, Viewer, values_of
from tests.conftest import DATABASES, drop_database
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.shop import BOOSTS, MEMBERS, METADATA, PICK, PICKS, SHOP, make_index
from tests.support.worlds import at, make_user, make_videos

WORLD = LargeWorld(videos=24_000, users=1_500, follows=60_000, interactions=90_000, seen=8_000)
"""Its first user has seen a third of it."""

MOST_STEPS = 1_000_000
"""Steps of SQLite's machine that a page may take."""

EMPTY_PLAN = Plan(0, 0, 0, ())

UNKNOWN = range(10**9, 10**9 + 3_000)
"""Ids of what no video of the world has."""


@pytest.fixture
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world's large tables are large enough."""
    monkeypatch.setattr(query_plans, "LARGE_TABLE_ROWS", 10_000)


@pytest.fixture(scope="module")
def worlds(new_database: Callable[..., str]) -> Iterator[dict[str, Engine]]:
    engines = {kind: create_engine(new_database(kind)) for kind in DATABASES}
    for engine in engines.values():
        load(engine, WORLD)
    yield engines
    for engine in engines.values():
        engine.dispose()


@pytest.fixture
def world(worlds: dict[str, Engine], kind: str) -> Iterator[Session]:
    """A session on a database that holds the world; what it writes is rolled back."""
    with Session(worlds[kind].execution_options(recommender_write=True)) as opened:
        yield opened


@pytest.fixture
def own_world(
    worlds: dict[str, Engine], kind: str, new_database: Callable[..., str]
) -> Iterator[Session]:
    """A session on a copy of the world, for ANALYZE, whose numbers of rows no rollback undoes."""
    worlds[kind].dispose()
    url = new_database(kind, like=worlds[kind].url.render_as_string(hide_password=False))
    engine = create_engine(url)
    with Session(engine.execution_options(recommender_write=True)) as opened:
        yield opened
    engine.dispose()
    drop_database(url)


def plan(session: Session, user: int, profile: str | None = None) -> Plan:
    return page_plan(session, resolve(session, WORLD.user_key(user), profile, as_of=END))


def seen(session: Session, user: int) -> int:
    count = sa.select(sa.func.count()).where(Interaction.user_id == user)
    return session.scalar(count) or 0


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
def test_no_page_reads_a_large_table_as_a_whole_or_more_than_its_quotas(world: Session) -> None:
    found = check_plans(world, [WORLD.user_key(user) for user in range(1, 9)], as_of=END)
    assert found.findings == ()
    assert [each.scanned for each in found.plans.values()] == [()] * 8
    assert [each.scanned for each in found.people.values()] == [()] * 8


@pytest.mark.slow
def test_a_strangers_page_keeps_to_them_too(world: Session) -> None:
    assert check_plans(world, ["a stranger"], as_of=END).findings == ()


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
def test_the_reasons_of_a_page_read_a_small_part_of_what_the_page_reads(
    world: Session, kind: str
) -> None:
    for user in (1, 2, 3):
        request = resolve(world, WORLD.user_key(user), as_of=END)
        page = [row.video_id for row in candidate_rows(world, request, top_candidates, "for_you")]
        listed = lookup.listed_values(world, 1, [(video_id,) for video_id in page[:20]])
        values = {**values_of(request), **listed}
        found = plan_of(world, cause_query(kind == "sqlite", OURS), values)
        assert found.scanned == ()
        assert (found.read or 0) <= (plan(world, user).read or 0) / 5


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
@pytest.mark.parametrize("count", [1, MAX_SEEDS])
@pytest.mark.parametrize("order", [Video.engaged_views.desc(), Video.id % 97])
@pytest.mark.parametrize("user", [None, 1, 5])
def test_a_list_of_similar_videos_keeps_to_them_too(
    world: Session, user: int | None, order: ColumnElement[int], count: int
) -> None:
    found = sa.select(Video.key).where(Video.status == "published").order_by(order, Video.id)
    seeds = tuple(world.scalars(found.limit(count)))
    viewer = None if user is None else WORLD.user_key(user)
    request = replace(resolve(world, viewer, SIMILAR, as_of=END), seeds=seeds)
    page = similar_plan(world, request)
    assert (page.scanned, (page.read or 0) <= MAX_READ) == ((), True)
    items = recommender.similar(world, seeds, user=viewer, as_of=END).items
    listed = lookup.listed_values(world, 1, [(item.video_id,) for item in items])
    query = likeness_query(lookup.is_sqlite(world), OURS)
    reasons = plan_of(world, query, {**values_of(request), **listed})
    assert (reasons.scanned, (reasons.read or 0) <= (page.read or 0) / 2) == ((), True)


def work_of(session: Session, user: int) -> int:
    """What a user's page costs: rows read, or SQLite's steps, since its plans do not count rows."""
    if session.get_bind().dialect.name != "sqlite":
        return plan(session, user).read or 0
    request = resolve(session, WORLD.user_key(user), as_of=END)
    return steps_of(
        session, lambda: candidate_rows(session, request, top_candidates, "for_you").all()
    )


def steps_of(session: Session, run: Callable[[], object]) -> int:
    """Return the steps of SQLite's machine that some statements take."""
    driver, steps = session.connection().connection.driver_connection, itertools.count()
    assert isinstance(driver, sqlite3.Connection)
    driver.set_progress_handler(lambda: next(steps) < 0, 100)
    run()
    driver.set_progress_handler(None, 0)
    return 100 * next(steps)


def most_work(session: Session) -> int:
    """How much a page may cost where everything has its usual size."""
    return MOST_STEPS if session.get_bind().dialect.name == "sqlite" else MAX_READ


@pytest.mark.slow
def test_a_page_for_who_has_seen_thousands_costs_no_more(world: Session) -> None:
    assert seen(world, 1) > 15 * max(seen(world, user) for user in (2, 3, 4))
    many, *few = [work_of(world, user) for user in (1, 2, 3, 4)]
    assert many < 1.3 * max(few) < 1.3 * most_work(world)


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
def test_a_page_costs_no_more_where_a_followed_creator_has_thousands(
    own_world: Session, kind: str
) -> None:
    """And where a sound is in thousands, and a hashtag."""
    before = work_of(own_world, 5)
    creator = sa.select(sa.func.min(Base.metadata.tables["rec_follows"].c.creator_id)).where(
        Base.metadata.tables["rec_follows"].c.user_id == 5
    )
    changed = sa.update(Video).where(Video.id % 3 == 0)
    own_world.execute(changed.values(creator_id=own_world.scalar(creator)))
    if kind == "postgresql":
        own_world.execute(sa.text("ANALYZE rec_videos"))
    assert work_of(own_world, 5) < 1.3 * before
    assert plan(own_world, 5).scanned == ()


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
@pytest.mark.parametrize("hidden", ["review", "unlisted", "followers"])
def test_a_page_costs_little_more_where_most_videos_are_not_for_everyone(
    own_world: Session, kind: str, hidden: str
) -> None:
    before = work_of(own_world, 5)
    visibility = {"unlisted": UNLISTED, "followers": FOLLOWERS}.get(hidden, PUBLIC)
    changed = sa.update(Video).where(Video.id % 10 > 0, Video.status == "published")
    own_world.execute(changed.values(status=hidden, visibility=visibility))
    own_world.execute(
        sa.update(VideoHashtag).where(VideoHashtag.video_id % 10 > 0).values(listed_at=None)
    )
    if kind == "postgresql":
        own_world.execute(sa.text("ANALYZE rec_videos"))
    assert work_of(own_world, 5) < 1.1 * before
    assert plan(own_world, 5).scanned == ()


def fill(
    session: Session, name: str, column: str, subjects: Iterable[int | str], **others: Any
) -> None:
    """Give the fifth user rows about each of the subjects."""
    rows = [{"user_id": 5, column: each, **others} for each in subjects]
    session.execute(sa.insert(Base.metadata.tables[f"rec_{name}"]), rows)


@pytest.mark.slow
def test_a_page_for_who_has_learned_of_thousands_looks_up_those_of_its_videos(
    world: Session, kind: str
) -> None:
    """The sources go through them for the best: three times, and once more where a tie is cut.

    This user's hashtags have one. PostgreSQL goes through the hashtags once for the signals, too.
    """
    before = work_of(world, 5)
    for subject in ("creator", "hashtag", "sound"):
        # Different ones: equal affinities at the cut are ordered by names, all of them looked up.
        rows = [
            {"user_id": 5, "subject": subject, "subject_id": each, "score": 1e-9 + place * 1e-13}
            for place, each in enumerate(UNKNOWN)
        ]
        world.execute(sa.insert(Base.metadata.tables["rec_affinities"]), rows)
    more = work_of(world, 5) - before
    assert more <= len(UNKNOWN) * (5 if kind == "postgresql" else 95)
    assert (plan(world, 5).discarded or 0) < 20_000


@pytest.mark.slow
def test_a_page_for_who_muted_thousands_goes_through_them_a_few_times(
    world: Session, kind: str
) -> None:
    before = work_of(world, 5)
    for name in ("creator", "hashtag", "sound"):
        fill(world, f"muted_{name}s", f"{name}_id", range(201, 1_201), muted_at=END)
    more = work_of(world, 5) - before
    assert more < (20_000 if kind == "postgresql" else 100_000)


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
def test_a_page_for_who_follows_thousands_reads_the_engagements_of_a_few(
    world: Session, kind: str
) -> None:
    """Of each it looks up the creator's newest video, and the newest that they engaged with."""
    before = work_of(world, 5)
    people, tables = UNKNOWN[:2_500], Base.metadata.tables
    users = [{"id": each, "key": f"person{each}", "created_at": END} for each in people]
    world.execute(sa.insert(tables["rec_users"]), users)
    fill(world, "follows", "creator_id", people)
    engagements = [
        {"user_id": each, "video_id": 1 + (each * 7 + number * 97) % WORLD.videos, "at": END}
        for each in people
        for number in range(20)
    ]
    world.execute(sa.insert(tables["rec_recent_engagements"]), engagements)
    more = work_of(world, 5) - before
    assert more < len(people) * (4 if kind == "postgresql" else 150)
    assert plan(world, 5).scanned == ()


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
def test_who_would_want_a_video_takes_no_more_work_if_everyone_follows_its_creator(
    world: Session, kind: str
) -> None:
    """And if everyone enjoyed the newest videos of the creator."""
    creator = 7
    everyone, tables = range(8, WORLD.users + 1), Base.metadata.tables
    follows = [{"user_id": each, "creator_id": creator} for each in everyone]
    world.execute(sa.delete(Follow).where(Follow.creator_id == creator))
    world.execute(sa.insert(tables["rec_follows"]), follows)
    newest = sa.select(Video.id).where(Video.creator_id == creator).limit(20)
    ids = world.scalars(newest).all()
    world.execute(sa.delete(RecentEngagement).where(RecentEngagement.video_id.in_(ids)))
    engagements = [
        {"user_id": each, "video_id": video_id, "at": END} for each in everyone for video_id in ids
    ]
    world.execute(sa.insert(tables["rec_recent_engagements"]), engagements)
    after = work_of_reach(world, creator, limit=50)
    assert after < (10_000 if kind == "postgresql" else 300_000)


def work_of_reach(session: Session, creator: int, limit: int) -> int:
    """Return the rows that the users for a creator's video take, or SQLite's steps."""
    video = session.scalars(sa.select(Video.key).where(Video.creator_id == creator)).first()
    request = replace(resolve(session, None, as_of=END), seeds=(str(video),))
    statement = cached_statement(reached_users, named, "reach", Shape.of(request))
    bounds = {"users": limit, "users_of_source": USERS_PER_PLACE * limit}
    values = {**values_of(request), **bounds}
    planned = plan_of(session, statement, values)
    assert planned.scanned == ()
    if planned.read is not None:
        return planned.read
    return steps_of(session, lambda: session.execute(statement, values).all())


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
def test_a_list_of_people_reads_little_even_for_who_follows_thousands_who_do_too(
    world: Session, kind: str
) -> None:
    """Of 50 of them it reads the latest 100 follows each, which it looks for by another 100."""
    request = resolve(world, WORLD.user_key(5), PEOPLE, as_of=END)
    page = recommender.people(world, WORLD.user_key(5), as_of=END)
    listed = lookup.listed_values(world, 1, [(item.creator_id,) for item in page.items])
    causes = people_cause_query(kind == "sqlite"), {**values_of(request), **listed}
    before, reasons = people_plan(world, request), plan_of(world, *causes)
    assert (before.scanned, reasons.scanned) == ((), ())
    users = [{"id": each, "key": f"person{each}", "created_at": END} for each in UNKNOWN]
    world.execute(sa.insert(Base.metadata.tables["rec_users"]), users)
    fill(world, "follows", "creator_id", UNKNOWN[:2_500])
    pairs = [
        {"user_id": one, "creator_id": other} for one in UNKNOWN[:100] for other in range(1, 1_001)
    ]
    world.execute(sa.insert(Base.metadata.tables["rec_follows"]), pairs)
    after, reasons = people_plan(world, request), plan_of(world, *causes)
    assert (after.scanned, reasons.scanned) == ((), ())
    if kind == "postgresql":
        assert (before.read or 0) < MAX_READ / 5
        assert (after.read or 0) - (before.read or 0) < 2 * 2_500 + 2 * 50 * 100 + 5_000
        assert (reasons.read or 0) < MAX_READ / 5


def quota(name: str) -> int:
    return next(each.quota for each in SOURCES if each.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_muted_keywords_are_looked_for_in_the_captions_of_the_best(world: Session) -> None:
    before = work_of(world, 5)
    keywords = [f" word{number} " for number in range(50)]
    fill(world, "muted_keywords", "keyword", keywords, muted_at=END)
    more = work_of(world, 5) - before
    most = pool_size(DEFAULT_LIMIT) + quota("fresh") + quota("newest")
    assert more / len(keywords) < most + 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_of_new_videos_no_more_are_looked_at_than_are_given(world: Session) -> None:
    request = resolve(world, WORLD.user_key(5), as_of=END)
    (fresh,) = [each for each in SOURCES if each.name == EXPLORATION]
    statement = source_candidates(fresh, Shape.of(request), Viewer.of(request))
    given = len(world.execute(statement).all())
    since = END - timedelta(days=request.settings.trial_days)
    new = sa.select(sa.func.count()).where(
        Video.status == "published", Video.published_at.between(since, END)
    )
    read = (world.scalar(new) or 0) + given
    assert (given, plan_of(world, statement, {}).read) == (fresh.quota, read)


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
def test_a_plan_counts_what_is_read_thrown_away_and_read_as_a_whole(
    world: Session, kind: str
) -> None:
    every = plan_of(world, sa.select(Video.duration_ms), {})
    assert every.scanned == ("rec_videos",)
    if kind == "sqlite":
        return
    other = sa.orm.aliased(Video)
    far_apart = sa.select(Video.id).join(other, Video.impressions + other.impressions < 0)
    joined = plan_of(world, far_apart.where(Video.id <= 50, other.id <= 50), {})
    assert (every.read, every.discarded, joined.discarded) == (WORLD.videos, 0, 2_500)
    few = sa.select(Video.id).where(Video.id <= sa.bindparam("last"), Video.duration_ms < 0)
    filtered = plan_of(world, few, {"last": 70})
    assert (filtered.read, filtered.scanned) == (70, ())
    assert 0 < (filtered.buffers or 0) < (every.buffers or 0)


@pytest.mark.parametrize(
    ("node", "loops", "read", "scanned"),
    [
        ("Seq Scan", 0, 0, ()),
        ("Seq Scan", 1, 0, ()),
        ("Parallel Seq Scan", 3, 2 * 70_000, ()),
        ("Index Scan", 3, 3 * 70_000, ()),
        ("Seq Scan of a big one", 1, 70_000, ("rec_big",)),
    ],
)
def test_a_small_table_may_be_read_as_a_whole_but_once(
    node: str, loops: int, read: int, scanned: tuple[str, ...]
) -> None:
    """PostgreSQL does so where it is quicker."""
    node_type, of_big, _ = node.partition(" of a big one")
    told = {
        "Node Type": node_type, "Relation Name": "rec_big" if of_big else "rec_small",
        "Actual Loops": loops, "Actual Rows": 60_000, "Rows Removed by Filter": 10_000,
    }  # fmt: skip
    found = query_plans._counted(EMPTY_PLAN, told, frozenset({"rec_big"}))
    assert (found.read, found.scanned) == (read, scanned)


@pytest.mark.slow
@pytest.mark.usefixtures("_strict")
@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_table_that_is_read_as_a_whole_is_named(world: Session) -> None:
    for index in ("rec_videos_status_published_at_id_ix", "rec_videos_status_trending_id_ix"):
        world.execute(sa.text("DROP INDEX " + index))
    found = check_plans(world, [WORLD.user_key(2)], as_of=END).findings
    assert f"the page of {WORLD.user_key(2)} read the whole of rec_videos" in found


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["classic", "for_you"])
def test_the_page_that_is_served_is_looked_at(world: Session, profile: str) -> None:
    recommender.activate_profile(world, profile)
    found = check_plans(world, [WORLD.user_key(2)], as_of=END)
    assert found.findings == ()
    served, looked_at = plan(world, 2, profile), found.plans[WORLD.user_key(2)]
    assert (looked_at.scanned, looked_at.read) == (served.scanned, served.read)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"read": MAX_READ}, []),
        ({"read": MAX_READ + 1}, [f"read {MAX_READ + 1:,} rows, more than {MAX_READ:,}"]),
        ({"discarded": MAX_DISCARDED}, []),
        ({"discarded": MAX_DISCARDED + 1}, [f"joined {MAX_DISCARDED + 1:,} rows for nothing"]),
        ({"scanned": ("rec_a", "rec_b")}, ["read the whole of rec_a", "read the whole of rec_b"]),
    ],
)
def test_each_fault_is_a_sentence(changed: dict[str, object], said: list[str]) -> None:
    found = list(query_plans._faults("the page of ana", replace(EMPTY_PLAN, **changed), MAX_READ))
    assert found == [f"the page of ana {each}" for each in said]


@pytest.mark.slow
def test_a_page_may_read_more_where_it_may_have_more_candidates(world: Session, kind: str) -> None:
    most = Settings(candidates=7_200)
    found = check_plans(world, [WORLD.user_key(5)], as_of=END, settings=most)
    assert found.findings == ()
    if kind == "postgresql":
        assert (found.plans[WORLD.user_key(5)].read or 0) > 1.3 * (plan(world, 5).read or 0)


@pytest.mark.slow
def test_three_users_are_looked_at_where_none_are_named(world: Session) -> None:
    found = list(check_plans(world, as_of=END).plans)
    assert found == [WORLD.user_key(user) for user in (1, 501, 1001)]


def test_an_empty_database_has_no_findings(session: Session) -> None:
    assert check_plans(session, as_of=scalars.now()) == query_plans.PlanCheck({}, ())


@pytest.fixture
def shop(session: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A shop with 30 videos and many boosts, picks and members, without an index."""
    monkeypatch.setattr(registered_plans, "MAX_SCANNED", 50)
    session.connection().execution_options(**{OPTION: SHOP})
    METADATA.create_all(session.connection())
    make_user(session)
    make_videos(session, *(f"v{number:02}" for number in range(30)))
    keys = [f"other {number}" for number in range(100)]
    session.execute(BOOSTS.insert(), [{"video": key, "strength": 0.5} for key in keys])
    session.execute(PICKS.insert(), [{"video": key, "place": 1} for key in keys])
    return session


@slow_on_postgresql
def test_the_registered_thing_that_is_slow_is_named(shop: Session) -> None:
    slow = [
        "the signal boost of shop reads the whole of host_boosts for each video",
        "the source picks of shop reads the whole of host_picks",
    ]
    checked = check_plans(shop, as_of=at())
    assert (list(checked.findings), checked.is_registered) == (slow, True)
    for column in (BOOSTS.c.video, PICKS.c.place):
        make_index(shop, column)
    assert check_plans(shop, as_of=at()).findings == ()
    shop.execute(sa.update(Video).values(format="premium"))
    shop.execute(MEMBERS.insert(), [{"member": f"user {number}"} for number in range(100)])
    (found,) = check_plans(shop, as_of=at()).findings
    assert found == "the filter members of shop reads the whole of host_members"


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_the_rows_that_a_registered_thing_reads_by_indexes_count(shop: Session) -> None:
    """SQLite's plans do not count rows."""
    short = sa.select(Video.id).where(Video.key > "v", Video.duration_ms < 9).order_by(Video.key)
    registry = Registry(sources=[Source("short", 1, lambda *_: short)], name="shop")
    shop.connection().execution_options(**{OPTION: registry})
    shop.execute(sa.text("SET LOCAL enable_seqscan = off"))
    (found,) = check_plans(shop, as_of=at()).findings
    assert found == "the source short of shop reads 30 rows, more than 16"


def test_what_cannot_run_is_named_without_a_page(shop: Session) -> None:
    shop.execute(sa.schema.DropTable(PICKS))
    checked = check_plans(shop, as_of=at())
    cannot = [each for each in checked.findings if "cannot run" in each]
    assert [each.partition(":")[0] for each in cannot] == ["the source picks of shop cannot run"]
    assert (checked.plans, "host_picks" in cannot[0]) == ({}, True)


@only_sqlite
def test_a_page_may_read_more_with_what_is_registered(session: Session) -> None:
    """Quotas scale with the setting `candidates`, and so does what sources may read."""
    for times in (1, 10):
        settings = Settings(candidates=times * CANDIDATES)
        request = replace(resolve(session, "somebody", settings=settings), registry=SHOP)
        signal_and_filter = 2 * registered_plans.READS_PER_VIDEO * settings.candidates
        source = registered_plans.READS_PER_ROW * 4 * PICK.quota * times
        ours = query_plans._most_read(replace(request, registry=OURS))
        assert ours == MAX_READ * times
        assert query_plans._most_read(request) == ours + signal_and_filter + source
