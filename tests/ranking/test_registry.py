"""A registry of the host's own signals, sources and filters: found everywhere, as ours are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Candidate,
    Filter,
    InvalidValue,
    Registry,
    Signal,
    Source,
    UnknownSignal,
    create_engine,
    prepare_engine,
)
from recommender.database.registered import OPTION
from recommender.feed.statements import cached_statement
from recommender.models import Affinity, Follow, Interaction, Video
from recommender.ranking.registry import OURS
from recommender.ranking.sources import SOURCES
from recommender.ranking.viewer import Viewer
from tests.support.shop import (
    BOOST,
    BOOSTS,
    MEMBERS,
    METADATA,
    PICKS,
    SHOP,
    boosted,
    for_members,
    picked,
)
from tests.support.worlds import at, make_user, make_video, make_videos, names, record, register

NOON = at()


@pytest.fixture
def shop(session: Session) -> Session:
    """A shop with 30 videos of which one is boosted, two are picked, and one is for members."""
    register(session, SHOP)
    METADATA.create_all(session.connection())
    make_videos(session, *(f"v{number:02}" for number in range(30)))
    make_video(session, "secret", format="premium")
    make_user(session)
    session.execute(BOOSTS.insert(), [{"video": "v03", "strength": 0.5}])
    picks = ["v20", "v10", "v20", "gone", "secret"]
    session.execute(
        PICKS.insert(), [{"video": key, "place": place} for place, key in enumerate(picks)]
    )
    session.execute(MEMBERS.insert(), [{"member": "member"}])
    recommender.create_profile(session, "boosted", {"boost": 2.0, "freshness": 0.1})
    return session


def preview(session: Session, user: str = "viewer", **options: Any) -> recommender.FeedPage:
    options = {"as_of": NOON, "profile": "boosted", "limit": 40, **options}
    return recommender.for_you(session, user, record=False, **options)


def test_a_profile_weighs_a_registered_signal_by_its_name(shop: Session) -> None:
    page = preview(shop, reasons=True)
    first = page.items[0]
    assert (first.video, first.signals["boost"].value, first.score > 1) == ("v03", 0.5, True)
    assert first.reason == "Because the shop recommends it and it is new."
    assert first.reasons[0].as_dict() == {
        "kind": "signal", "subject": "boost", "at": None, "text": "the shop recommends it",
    }  # fmt: skip
    assert {item.signals["boost"].value for item in page.items[1:]} == {0.0}


def test_a_registered_source_finds_each_video_once_and_in_order(shop: Session) -> None:
    by_source = {item.video: item.sources for item in preview(shop).items}
    assert {key for key, sources in by_source.items() if "picks" in sources} == {"v10", "v20"}
    assert by_source["v20"] == ("fresh", "newest", "picks")
    explanation = recommender.explain(shop, "viewer", "v10", profile="boosted", as_of=NOON)
    assert "picks" in explanation.item.sources


def test_a_source_keeps_its_order_and_reads_a_limited_number_of_rows(shop: Session) -> None:
    """Two rows are looked at, of which one is the wanted video a second time."""
    few = Registry(sources=[Source("picks", 1, picked, rows=3)])
    register(shop, few)
    found = [item.video for item in preview(shop, profile=None).items if "picks" in item.sources]
    assert found == ["v20"]
    record(shop, "impression", "v20")
    found = [item.video for item in preview(shop, profile=None).items if "picks" in item.sources]
    assert found == ["v10"]
    record(shop, "impression", "v10")
    assert not any("picks" in item.sources for item in preview(shop, profile=None).items)


def test_a_source_may_read_the_videos_themselves(shop: Session) -> None:
    def dear(_viewer: Viewer, _quota: int) -> sa.Select[Any]:
        return sa.select(Video.id).where(Video.format == "premium").order_by(Video.id)

    register(shop, Registry(sources=[Source("dear", 20, dear, is_listed=False)]))
    items = preview(shop, profile=None).items
    assert [item.video for item in items if "dear" in item.sources] == ["secret"]


def test_a_limit_of_a_source_itself_holds(shop: Session) -> None:
    """The host's rows are three, of which two are one video."""

    def few(viewer: Viewer, quota: int) -> sa.Select[Any]:
        return picked(viewer, quota).limit(3).offset(1)

    register(shop, Registry(sources=[Source("few", 5, few)]))
    found = [item.video for item in preview(shop, profile=None).items if "few" in item.sources]
    assert sorted(found) == ["v10", "v20"]
    only = Source("few", 5, lambda viewer, quota: picked(viewer, quota).limit(1))
    register(shop, Registry(sources=[only]))
    found = [item.video for item in preview(shop, profile=None).items if "few" in item.sources]
    assert found == ["v20"]


def test_a_registered_filter_holds_in_every_list(shop: Session) -> None:
    make_user(shop, "member")
    make_video(shop, "star secret", format="premium", creator="star")
    for user in ("viewer", "member"):
        recommender.follow(shop, user, "star")
    for user, sees in (("viewer", False), ("member", True)):
        pages = [
            preview(shop, user),
            preview(shop, user, profile="classic"),
            recommender.following(shop, user, as_of=NOON),
        ]
        assert ["star secret" in names(page) for page in pages] == [sees] * 3
        told = recommender.rank(shop, user, ["secret", "v01"], as_of=NOON).items
        outcomes = {
            item.video: {each.name: each.passed for each in item.filters}["members"]
            for item in told
        }
        assert outcomes == {"secret": sees, "v01": True}
        explanation = recommender.explain(shop, user, "secret", as_of=NOON)
        assert explanation.shown is sees
        assert (explanation.reason == "Not shown: it is for members.") is not sees
    assert names(recommender.trending(shop, as_of=NOON, limit=50)).count("secret") == 0


def test_a_page_that_comes_again_obeys_a_registered_filter(shop: Session) -> None:
    own = uuid4()
    page = recommender.for_you(shop, "viewer", session_id=own, as_of=NOON, limit=40)
    assert "v07" in names(page)
    shop.execute(sa.update(Video).where(Video.key == "v07").values(format="premium"))
    shop.flush()
    again = recommender.for_you(shop, "viewer", session_id=own, as_of=NOON, limit=40)
    assert set(names(page)) - set(names(again)) == {"v07"}


def test_a_recorded_page_obeys_a_registered_filter(shop: Session) -> None:
    page = recommender.for_you(shop, "viewer", as_of=NOON, limit=40, record=False)
    shop.execute(sa.update(Video).where(Video.key == "v07").values(format="premium"))
    recorded = recommender.record_page(shop, page)
    assert set(names(page)) - set(names(recorded)) == {"v07"}


def test_a_reason_names_no_video_that_a_registered_filter_hides(shop: Session) -> None:
    register(shop, OURS)
    make_video(shop, "liked", format="premium")
    record(shop, "like", "liked")
    videos = {row.key: row.id for row in shop.execute(sa.select(Video.key, Video.id))}
    shop.execute(
        sa.text(
            "INSERT INTO rec_video_neighbours (source_id, video_id, similarity)"
            " VALUES (:liked, :other, .5)"
        ),
        {"liked": videos["liked"], "other": videos["v11"]},
    )

    def reason() -> str | None:
        page = preview(shop, profile="for_you", reasons=True)
        return next(item.reason for item in page.items if item.video == "v11")

    assert "you liked liked" in str(reason())
    register(shop, SHOP)
    assert "liked" not in str(reason())


def test_what_is_not_registered_is_refused_with_the_registrys_name(shop: Session) -> None:
    with pytest.raises(
        UnknownSignal, match=r"no signal 'other' in shop: there are completion, .*boost"
    ):
        recommender.create_profile(shop, "other", {"other": 1.0})
    register(shop, OURS)
    assert recommender.get_profile(shop, "boosted").weights == {"boost": 2.0, "freshness": 0.1}
    with pytest.raises(UnknownSignal, match="no signal 'boost': there are completion"):
        preview(shop)
    with pytest.raises(UnknownSignal, match="no signal 'boost'"):
        recommender.explain(shop, "viewer", "v01", profile="boosted")


def test_what_was_recorded_stays_readable_when_everything_registered_is_gone(shop: Session) -> None:
    own, options = uuid4(), {"as_of": NOON, "limit": 40}
    page = recommender.for_you(shop, "viewer", session_id=own, profile="boosted", **options)
    register(shop, OURS)
    again = recommender.for_you(shop, "viewer", session_id=own, **options)
    assert again.items == page.items
    assert {item.signals["boost"].value for item in again.items} == {0.0, 0.5}
    assert any("picks" in item.sources for item in again.items)
    assert recommender.audit(shop).broken == ()


def test_the_signals_of_a_request_may_not_have_a_registered_name(shop: Session) -> None:
    with pytest.raises(InvalidValue, match="signals: the name 'Boost' is taken"):
        preview(shop, signals={Signal("Boost", 0, 1, boosted): 1.0})


def test_a_signal_of_a_request_may_not_join_a_table(shop: Session) -> None:
    with pytest.raises(InvalidValue, match="signal strong: it joins host_boosts: use EXISTS"):
        preview(shop, signals={Signal("strong", 0, 1, lambda _: BOOSTS.c.strength): 1.0})


def test_a_registered_signal_is_held_to_its_range_and_may_not_be_null(shop: Session) -> None:
    register(shop, Registry([Signal("boost", 0, 1, lambda _: sa.literal(7.5))]))
    assert preview(shop).items[0].signals["boost"].value == 1.0
    empty = Signal("boost", 0, 1, lambda _: sa.cast(sa.null(), sa.Double))
    register(shop, Registry([empty]))
    with pytest.raises(InvalidValue, match="signals: boost is NULL for video"):
        preview(shop)


def test_candidates_from_outside_are_a_source_and_a_signal(shop: Session) -> None:
    register(shop, Registry(outside={"tower": 5}))
    recommender.upsert_candidates(shop, "tower", [
        {"user": "viewer", "video": "v04", "score": 0.9},
        {"user": "viewer", "video": "v05", "score": 0.8, "expires_at": at(-1)},
        {"user": "viewer", "video": "v06", "score": 0.2, "expires_at": at(1)},
    ])  # fmt: skip
    recommender.create_profile(shop, "towered", {"tower": 1.0})
    items = preview(shop, profile="towered").items
    assert [(item.video, item.score) for item in items[:2]] == [("v04", 0.9), ("v06", 0.2)]
    assert {item.video for item in items if "tower" in item.sources} == {"v04", "v06"}
    assert items[2].score == 0
    other = preview(shop, "other", profile="towered").items
    assert not any(item.score or "tower" in item.sources for item in other)


def test_expired_candidates_from_outside_keep_no_current_ones_out(shop: Session) -> None:
    register(shop, Registry(outside={"tower": 1}))
    rows = [{"user": "viewer", "video": f"v{n:02}", "score": 0.9, "expires_at": at(-1)}
            for n in range(20)]  # fmt: skip
    recommender.upsert_candidates(shop, "tower", rows)
    current = {"user": "viewer", "video": "v25", "score": 0.1, "expires_at": at(1)}
    recommender.upsert_candidates(shop, "tower", [current])
    found = {item.video for item in preview(shop, profile=None).items if "tower" in item.sources}
    assert found == {"v25"}


def test_a_source_may_give_ids_and_there_are_fifty_at_most(shop: Session) -> None:
    def oldest(_viewer: Viewer, _quota: int) -> sa.Select[Any]:
        return sa.select(Video.id).order_by(Video.published_at, Video.id)

    room = 50 - len(SOURCES)
    many = [Source(f"oldest{number}", 3, oldest) for number in range(room)]
    register(shop, Registry(sources=many))
    found = {
        item.video: item.sources
        for item in preview(shop, profile=None).items
        if f"oldest{room - 1}" in item.sources
    }
    assert found.keys() == {"v00", "v01", "v02"}
    assert all(len(sources) >= room for sources in found.values())
    with pytest.raises(InvalidValue, match="sources: 51 with ours are more than 50"):
        Registry(sources=[*many, Source("more", 3, oldest)])


def test_each_registry_has_statements_of_its_own_which_are_kept(shop: Session) -> None:
    doubled = Registry([Signal("boost", 0, 1, lambda c: boosted(c) * 2)], name="other")
    for registry, value in ((SHOP, 0.5), (doubled, 1.0), (SHOP, 0.5)):
        register(shop, registry)
        assert preview(shop).items[0].signals["boost"].value == value
    before = cached_statement.cache_info().misses
    for registry in (SHOP, doubled, SHOP):
        register(shop, registry)
        preview(shop)
    assert cached_statement.cache_info().misses == before


def test_every_session_finds_the_registry_of_its_engine(database: str) -> None:
    engine = create_engine(database, registry=SHOP)
    copy = engine.execution_options(recommender_write=True)
    other = prepare_engine(sa.create_engine(engine.url), registry=Registry(name="other"))

    def name_in(session: Session) -> str:
        with pytest.raises(UnknownSignal) as caught:
            recommender.create_profile(session, "mine", {"none": 1.0})
        return str(caught.value).partition(" in ")[2].partition(":")[0]

    with copy.connect() as connection, Session(connection) as on_connection:
        assert name_in(on_connection) == "shop"
    for binds in (
        {"bind": engine},
        {"bind": copy},
        {"bind": other, "binds": {recommender.models.User: engine}},
    ):
        with Session(**binds) as session:
            assert name_in(session) == "shop"
    with Session(other) as session:
        assert name_in(session) == "other"
    engine.dispose()
    with Session(engine) as session:
        assert name_in(session) == "shop"
    engine.dispose()
    other.dispose()


def test_an_asynchronous_session_finds_it_too(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'own.db'}"
    own = prepare_engine(create_async_engine(url), registry=SHOP)

    async def run() -> str:
        async with AsyncSession(own) as session:
            request = session.sync_session.get_bind(recommender.models.User)
            return str(request.get_execution_options()[OPTION].name)

    assert asyncio.run(run()) == "shop"


NUMBERED = sa.table("host_numbers", sa.column("id", sa.BigInteger), sa.column("person", sa.Uuid))


def a(expression: Callable[[Any], Any], **options: Any) -> Registry:
    return Registry([Signal("mine", 0, 1, expression, **options)])


def source(select: Callable[..., Any], name: str = "mine", **options: Any) -> Registry:
    return Registry(sources=[Source(name, **{"quota": 10, "select": select, **options})])


def rule(predicate: Callable[[Any], Any], name: str = "mine", otherwise: Any = "no") -> Registry:
    return Registry(filters=[Filter(name, predicate, otherwise)])


def newest(_viewer: Viewer, _quota: int) -> sa.Select[Any]:
    return sa.select(Video.id).order_by(Video.published_at.desc())


STATE = Interaction
OTHER = sa.select(STATE.video_id).subquery()
VIEWED = STATE.video_id == Video.id

OF_ALL_USERS: list[Callable[[Any, Viewer], Any]] = [
    # The first SELECT is of the viewer, and the second of all users.
    lambda own, _: sa.and_(sa.exists().where(VIEWED, STATE.user_id == own),
                           sa.exists().where(VIEWED, STATE.shares > 0)),
    lambda own, _: sa.exists().where(VIEWED, sa.or_(STATE.user_id == own, STATE.shares > 0)),
    lambda own, _: sa.exists().where(VIEWED, STATE.user_id != own),
    lambda own, _: sa.exists().where(STATE.user_id == own, STATE.video_id == OTHER.c.video_id),
    lambda own, _: Video.id.in_(sa.select(STATE.video_id).where(
        STATE.video_id.in_(sa.select(STATE.video_id).where(STATE.user_id == own)))),
    lambda own, _: Video.id.in_(sa.select(STATE.video_id).where(
        STATE.user_id == own, STATE.video_id.in_(sa.select(STATE.video_id)))),
    lambda own, _: sa.exists().where(STATE.user_id == own, sa.exists().where(VIEWED)
                                     .correlate(Video)),
    lambda _, viewer: sa.exists().where(VIEWED, STATE.user_id == viewer.limit),
]  # fmt: skip
"""Conditions that read the interactions of other users, too."""

REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Registry("boost"), "registry: signals: 'boost' is no list"),
    (lambda: Registry([boosted]), "registry: signals: .* is no Signal"),
    (lambda: Registry(sources=[BOOST]), "registry: sources: .* is no Source"),
    (
        lambda: Registry([BOOST, Signal("BOOST", 0, 1, boosted)]),
        "signals: the name 'BOOST' is taken",
    ),
    (lambda: a_signal("Likes"), "signals: the name 'Likes' is taken"),
    (lambda: a_signal("page_x"), "signals: the name 'page_x' is taken"),
    (lambda: a_signal("score_key"), "signals: the name 'score_key' is taken"),
    (lambda: a_signal("two words"), "signals: 'two words' is not one word"),
    (lambda: a_signal("x" * 64), "of 63 bytes at most"),
    (lambda: a_signal(7), "signals: 7 is not one word"),
    (lambda: a(lambda _: 1.0), "signals: mine gives 1.0, which is no SQL expression"),
    (lambda: a(lambda _: Video.country == "US"), "signal mine: gives Boolean, not a number"),
    (lambda: a(lambda _: Video.key), "signal mine: gives Text, not a number"),
    (
        lambda: a(lambda _: sa.func.random()),
        r"signal mine: random\(\) gives another value each time",
    ),
    (
        lambda: a(lambda _: sa.extract("epoch", sa.func.now())),
        r"signal mine: now\(\) gives another value",
    ),
    *(
        (lambda clock=clock: a(lambda _: sa.cast(clock, sa.Double)), r"\(\) gives another value")
        for clock in (sa.func.unixepoch(), sa.func.strftime("%s"), sa.func.age(Video.published_at))
    ),
    (lambda: a(lambda _: sa.literal(1.0), sentence=""), "signal mine: its sentence is no text"),
    (
        lambda: a(lambda _: sa.select(Interaction.shares).scalar_subquery()),
        "signal mine: reads rec_interactions of all users: compare its user_id with viewer.user_id",
    ),
    (lambda: a(lambda _: BOOSTS.c.strength), "signal mine: it joins host_boosts: use EXISTS"),
    (lambda: a(lambda one: one.none), "signal mine: its function fails: AttributeError"),
    (lambda: Signal("mine", "0", 1, boosted), "signal 'mine': 0 to 1 is no range"),
    (lambda: Registry(name=None), "registry: name: None is no text"),
    *(
        (
            lambda reads=reads: rule(lambda viewer: reads(viewer.user_id, viewer)),
            "filter mine: reads rec_interactions of all users: compare its user_id with",
        )
        for reads in OF_ALL_USERS
    ),
    (lambda: Registry(outside=["tower"]), "registry: outside: .* gives no quota to a name"),
    (lambda: Registry(outside={"tower": 0}), "source tower: quota is 0"),
    (lambda: Registry(outside={"two towers": 9}), "signals: 'two towers' is not one word"),
    (lambda: Registry(outside={"x" * 64: 9}), "of 63 bytes at most"),
    (lambda: Registry(outside={"newest": 9}), "sources: the name 'newest' is taken"),
    (lambda: Registry(outside={"likes": 9}), "signals: the name 'likes' is taken"),
    (lambda: source(newest, "newest"), "sources: the name 'newest' is taken"),
    (
        lambda: source(newest, quota=0),
        "source mine: quota is 0, not a whole number from 1 to 1,000",
    ),
    (lambda: source(newest, quota=1.5), "source mine: quota is 1.5"),
    (lambda: source(newest, rows=5), "source mine: rows is 5, not a whole number from 10 to"),
    (lambda: source(newest, rows=10**6), "source mine: rows is 1000000"),
    (lambda: source(lambda *_: Video.id), "source mine: gives .* which is no SELECT"),
    (lambda: source(lambda *_: sa.select(Video.id)), "source mine: has no order"),
    (
        lambda: source(lambda *_: sa.select(Video.id, Video.key).order_by(Video.id)),
        "source mine: selects 2 columns, not one",
    ),
    (
        lambda: source(lambda *_: sa.select(Video.published_at).order_by(Video.id)),
        "source mine: selects PublicationTime",
    ),
    (
        lambda: source(lambda *_: sa.select(sa.func.max(PICKS.c.place)).order_by(PICKS.c.video)),
        "source mine: selects the numbers host_picks.place, which are no ids of Video",
    ),
    (
        lambda: source(lambda *_: sa.select(Affinity.subject_id).order_by(Affinity.score)),
        "source mine: reads rec_affinities of all users",
    ),
    (
        lambda: source(lambda *_: sa.select(Video.id).order_by(sa.func.random())),
        r"source mine: random\(\) gives",
    ),
    (lambda: rule(lambda _: True), "filter mine: True is no SQL expression"),
    (lambda: rule(lambda _: Video.id + 1), "filter mine: gives .*, not a condition"),
    (
        lambda: rule(lambda _: BOOSTS.c.video == Video.key),
        "filter mine: it joins host_boosts: use EXISTS",
    ),
    (
        lambda: rule(lambda _: sa.exists().where(NUMBERED.c.id == Video.key)),
        "filter mine: compares text with a number, .* host_numbers.id = rec_videos.key; keys",
    ),
    (
        lambda: rule(lambda viewer: viewer.key.in_(sa.select(NUMBERED.c.person))),
        "filter mine: compares text with a UUID, which PostgreSQL refuses: :key IN",
    ),
    (lambda: rule(for_members, "where"), "filters: the name 'where' is taken"),
    (lambda: rule(for_members, "Not_Seen"), "filters: the name 'Not_Seen' is taken"),
    (lambda: rule(for_members, "x" * 57), "of 56 bytes at most"),
    (lambda: rule(for_members, otherwise=None), "filter mine: its sentence is no text"),
    (lambda: create_engine("sqlite://", registry=Registry), "registry: .* is no Registry"),
    (lambda: create_engine("sqlite://", registry="shop:registry"), "registry: .* is no Registry"),
]  # fmt: skip


def a_signal(name: Any) -> Registry:
    return Registry([Signal(name, 0, 1, boosted)])


def test_what_cannot_be_registered_is_refused_in_one_sentence_at_once() -> None:
    for make, message in REFUSED:
        with pytest.raises(InvalidValue, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_rows_of_the_viewer_may_be_read() -> None:
    def own(viewer: Viewer, _quota: int) -> sa.Select[Any]:
        other = sa.orm.aliased(Follow)
        return (
            sa.select(Video.id)
            .join(other, other.creator_id == Video.creator_id)
            .where(viewer.user_id == other.user_id)
            .order_by(Video.published_at)
        )

    def familiar(candidate: Candidate) -> Any:
        lately = sa.exists().where(PICKS.c.video == Video.key, PICKS.c.place < STATE.shares)
        state = sa.exists().where(VIEWED, STATE.user_id == candidate.viewer.user_id, lately)
        close = sa.exists().where(PICKS.c.place < candidate.creator.score)
        return sa.case((sa.and_(state, close), 1.0), else_=0.0)

    registry = Registry([Signal("familiar", 0, 1, familiar)], [Source("mine", 10, own)])
    assert registry.every_source[-1].name == "mine"


@pytest.fixture
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "host_of_a_registry.py").write_text(
        "from recommender import Registry\nshop = Registry(name='shop')\nnone = None\n"
        "def broken(): return Registry(['x'])\n"
    )
    (tmp_path / "broken_host.py").write_text("from recommender import Registry\nRegistry(['x'])\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("_module")
def test_the_environment_names_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "RECOMMENDER_REGISTRY"
    monkeypatch.setenv(variable, "host_of_a_registry:shop")
    engine = create_engine("sqlite://")
    assert engine.get_execution_options()[OPTION].name == "shop"
    assert create_engine("sqlite://", registry=SHOP).get_execution_options()[OPTION] is SHOP
    for written, message in (
        ("host_of_a_registry", "is not of the form package.module:name"),
        ("host_of_a_registry:other", "cannot be imported: AttributeError"),
        ("host_of_a_registry:none", "None is no Registry"),
        ("host_of_a_registry:broken", "is no Registry"),
        ("no_such_module:shop", "cannot be imported: ModuleNotFoundError: No module named"),
        ("broken_host:shop", "broken_host:shop: registry: signals: 'x' is no Signal"),
        (":", "cannot be imported: ValueError"),
    ):
        monkeypatch.setenv(variable, written)
        with pytest.raises(InvalidValue, match=f"^{variable}: .*{message}"):
            create_engine("sqlite://")
