"""Contract tests of a registry: each fault is one sentence, and a good registry has none."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender.testing
from recommender import Filter, InvalidValue, Profile, Registry, Signal, Source
from recommender.database.expressions import is_true
from recommender.feed.statements import read_top_candidates
from recommender.models import Video
from recommender.models.types import Base
from recommender.testing import check
from tests.support.kinds import slow_on_postgresql
from tests.support.shop import BOOST, BOOSTS, MEMBERS, METADATA, PICK, PICKS, SHOP, make_index
from tests.support.worlds import at, counted_statements, make_user, make_videos

pytestmark = slow_on_postgresql

NOON = at()

Mutant = tuple[str, Callable[[], Registry], str]


@pytest.fixture
def shop(session: Session) -> Session:
    """A shop with 30 videos: one is boosted, two are picked. No engine has its registry."""
    METADATA.create_all(session.connection())
    make_user(session, "ana")
    make_videos(session, *(f"v{number:02}" for number in range(30)))
    session.execute(BOOSTS.insert(), [{"video": "v03", "strength": 0.5}])
    session.execute(PICKS.insert(), [{"video": "v20", "place": 1}, {"video": "v10", "place": 2}])
    session.execute(MEMBERS.insert(), [{"member": "ana"}])
    return session


def stored(session: Session) -> dict[str, list[Any]]:
    return {
        name: session.execute(sa.select(table)).all()
        for name, table in Base.metadata.tables.items()
    }


def test_a_good_registry_has_no_fault_and_the_check_writes_nothing(shop: Session) -> None:
    before = stored(shop)
    assert check(SHOP, shop, as_of=NOON) == ()
    assert stored(shop) == before


def signal(expression: Callable[[Any], Any]) -> Registry:
    return Registry([Signal("mine", 0, 1, expression)], name="shop")


def source(select: Callable[..., Any]) -> Registry:
    return Registry(sources=[Source("mine", 10, select)], name="shop")


def rule(predicate: Callable[[Any], Any]) -> Registry:
    return Registry(filters=[Filter("mine", predicate, "no")], name="shop")


def strength(_: Any) -> Any:
    return sa.select(BOOSTS.c.strength).where(BOOSTS.c.video == Video.key).scalar_subquery()


def any_pick(_: Any) -> Any:
    return sa.select(PICKS.c.place).where(PICKS.c.video != Video.key).scalar_subquery()


def is_in(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.exists().where(table.c.video == Video.key)


MISSING = sa.Table("host_missing", sa.MetaData(), sa.Column("video", sa.Text))

PICKED_TWICE = sa.union_all(*[sa.select(PICKS.c.video)] * 2).subquery().c.video


def by(order: Any, column: Any = Video.id) -> Callable[..., Any]:
    return lambda *_: sa.select(column).order_by(order)


def recently(_: Any) -> Any:
    return is_true(Video.published_at < datetime.now(UTC))


SIGNALS: list[tuple[Callable[[Any], Any], str]] = [
    (strength, "is NULL for the video v00 and the user ana"),
    (lambda _: sa.literal(7.5), "is 7.5, which is not in 0 to 1, for the video v00 .*"),
    (lambda _: is_true(is_in(BOOSTS)) * -3, "is -3, .* for the video v03 and the user ana"),
    (lambda _: sa.literal_column("'x'"), "is 'x', which is no number, for the video v00 .*"),
    (lambda _: sa.literal(math.inf), "is inf, which is not in 0 to 1, for the video v00 .*"),
    (lambda _: is_true(is_in(MISSING)), "cannot run: .*host_missing.*"),
    (recently, "makes other SQL each time, but its SQL is kept"),
    (lambda _: sa.literal_column("random() * 0", sa.Double), "reads random, which .*"),
    (lambda _: sa.literal_column("CURRENT_TIMESTAMP"), "reads CURRENT_TIMESTAMP, which .*"),
    (lambda _: sa.func.julianday("now"), "reads the time now, which changes by itself"),
    (lambda _: sa.literal_column("unixepoch() * 0", sa.Double), "reads unixepoch, which .*"),
    (any_pick, "has a subquery of several rows for the video v00 and the user ana: SQLite .*"),
    (lambda _: sa.func.host_noise(type_=sa.Double), r"is \S+ and then \S+ for the video v00 .*"),
]

SOURCES: list[tuple[Callable[..., Any], str]] = [
    (by(PICKED_TWICE, PICKED_TWICE), "gives the video v10 2 times for the user ana: .*"),
    (by(PICKS.c.place, PICKS.c.video.concat("!")), "gives 2 ids or keys, none of which is a video"),
    (by(PICKS.c.place, sa.case((PICKS.c.place > 1, PICKS.c.video))), "gives NULL"),
    (by(MISSING.c.video, MISSING.c.video), "cannot run: .*host_missing.*"),
    (by(sa.literal_column("random()")), "reads random, which changes by itself"),
    (by(sa.func.host_noise()), r"is \d+ and then \d+ for the user ana at one reading time"),
]

FILTERS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda _: Video.country == "US", "is NULL for the video v00 and the user ana"),
    (lambda viewer: viewer.key != "ana", "is NULL for the video v00 and no user"),
    (lambda _: Video.key == "none", "is false for all 30 videos that were sampled, .*"),
    (lambda _: sa.literal_column("7"), "is 7, neither true nor false, for the video v00 .*"),
    (lambda _: ~is_in(MISSING), "cannot run: .*host_missing.*"),
    (lambda _: any_pick(_) > 0, "has a subquery of several rows for the video v00 .*"),
    (lambda _: sa.func.host_noise() > 0.5, r"is \S+ and then \S+ for the video v.*"),
]


def test_each_fault_is_one_sentence(shop: Session, kind: str) -> None:
    noise(shop, kind)
    for make, mutants in ((signal, SIGNALS), (source, SOURCES), (rule, FILTERS)):
        for own, sentence in mutants:
            (found,) = check(make(own), shop, as_of=NOON)
            assert re.fullmatch(f"the {found.check} of shop {sentence}", found.found), found
            assert (found.ok, found.check.partition(" ")[2], bool(found.advice)) == (
                False, "mine", True
            )  # fmt: skip
    assert shop.scalar(sa.select(sa.func.count()).select_from(Video)) == 30


def test_what_only_fails_together_is_told_of_the_page(shop: Session) -> None:
    """Two CTEs of the host have one name."""

    def in_cte(table: sa.Table) -> Callable[[Any], Any]:
        keys = sa.select(table.c.video).cte("listed_by_host")
        return lambda _: is_true(Video.key.in_(sa.select(keys.c.video)))

    signals = [Signal("boosted", 0, 1, in_cte(BOOSTS)), Signal("picked", 0, 1, in_cte(PICKS))]
    (found,) = check(Registry(signals, name="shop"), shop, as_of=NOON)
    assert found.check == "page"
    assert re.fullmatch("a page with all of shop fails: .*CTEs.* 'listed_by_host'.*", found.found)


def test_everything_registered_is_ranked_in_one_statement(shop: Session) -> None:
    request = recommender.resolve(shop, "ana", Profile("testing", 1, {"boost": 1.0}), as_of=NOON)
    with counted_statements(shop.connection()) as sent:
        read_top_candidates(shop, replace(request, registry=SHOP))
    assert len(sent) == 1


def test_a_database_without_users_or_videos_is_refused(session: Session) -> None:
    with pytest.raises(InvalidValue, match="testing: the database has no users"):
        check(SHOP, session)
    make_user(session)
    with pytest.raises(InvalidValue, match="testing: the database has no videos"):
        check(SHOP, session)
    with pytest.raises(InvalidValue, match="registry: 'shop' is no Registry"):
        check("shop", session)  # type: ignore[arg-type]


def test_the_videos_of_sources_are_in_the_sample(
    shop: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommender.testing, "SAMPLED_VIDEOS", 1)
    signal = Signal("mine", 0, 1, lambda _: is_true(is_in(PICKS)) * 2)
    (found,) = check(Registry([signal], [PICK], name="shop"), shop, as_of=NOON)
    assert "is 2, which is not in 0 to 1, for the video v10" in found.found


def test_what_reads_too_much_is_named(shop: Session, kind: str) -> None:
    """An index is enough, although PostgreSQL scans so small a table for each video."""
    shop.execute(BOOSTS.insert(), [{"video": f"other {n}", "strength": 1} for n in range(100)])
    boosted = Registry([BOOST], name="shop")
    (found,) = check(boosted, shop, as_of=NOON)
    assert found.found == "the signal boost of shop reads the whole of host_boosts for each video"
    make_index(shop, BOOSTS.c.video)
    if kind == "postgresql":
        shop.execute(sa.text("ANALYZE host_boosts"))
    assert check(boosted, shop, as_of=NOON) == ()


def noise(session: Session, kind: str) -> None:
    """Give the database a function whose name does not tell that it gives chance."""
    connection = session.connection()
    if kind == "sqlite":
        driver: Any = connection.connection.driver_connection
        driver.create_function("host_noise", 0, random.random)
    else:
        connection.execute(
            sa.text("CREATE FUNCTION host_noise() RETURNS float LANGUAGE sql AS 'SELECT random()'")
        )
