"""Who would want a video: the users whom For You could show it, against plain Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import Filter, InvalidValue, Recipient, Registry, UnknownVideo, reach
from recommender.database.registered import OPTION
from recommender.lists.reach import SOURCES, USERS_PER_PLACE, found_users
from recommender.models.tables import USERS, VIDEOS
from recommender.ranking.viewer import Shape, values_of
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import (
    Oracle,
    World,
    ids,
    load,
    put,
    random_weights,
    random_world,
    saturated,
)
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    follow,
    make_user,
    make_video,
    mute,
    record,
)

NEW: dict[str, Any] = {"creator": "star", "hashtags": ["cats"], "sound": "song"}


def users(found: Iterable[Recipient]) -> list[str]:
    return [each.user for each in found]


def enjoyed(session: Session, *pairs: tuple[str, str]) -> None:
    """Note that users lately enjoyed videos; each is a user and a video."""
    of, known = ids(session, USERS), ids(session, VIDEOS)
    put(session, "recent_engagements", [
        {"user_id": of[user], "video_id": known[video], "at": at(-9)} for user, video in pairs
    ])  # fmt: skip


@pytest.fixture
def world(session: Session) -> Session:
    """A new video, a user for each source, and one whom no source finds."""
    for user in ("creator fan", "tag fan", "sound fan", "neighbour", "follower", "other"):
        make_user(session, user)
    make_video(session, "of creator", creator="star")
    make_video(session, "with tag", creator="x", hashtags=["cats"])
    make_video(session, "with sound", creator="x", sound="song")
    make_video(session, "near", creator="x")
    make_video(session, "else", creator="x")
    make_video(session, "new", **NEW, published_at=at(-1))
    follow(session, "follower", "star")
    enjoyed(session, ("creator fan", "of creator"), ("tag fan", "with tag"), ("other", "else"),
            ("sound fan", "with sound"), ("neighbour", "near"))  # fmt: skip
    known = ids(session, VIDEOS)
    put(session, "video_neighbours", [
        {"source_id": known["near"], "video_id": known["new"], "similarity": 0.5, "weight": 0.1}
    ])  # fmt: skip
    return session


def test_each_source_finds_its_users_and_the_score_orders_them(world: Session) -> None:
    found = reach(world, "new", as_of=NOON)
    assert [(each.user, each.score, each.sources) for each in found] == [
        ("neighbour", 3.0, ("neighbours",)),
        ("follower", 1.0, ("followers",)),
        ("creator fan", 0.0, ("creators",)),
        ("tag fan", 0.0, ("hashtags",)),
        ("sound fan", 0.0, ("sounds",)),
    ]
    assert found[0].as_dict() == {"user": "neighbour", "score": 3.0, "sources": ["neighbours"]}
    assert users(reach(world, "new", as_of=NOON, limit=3)) == users(found)[:3]
    recommender.create_profile(world, "mine", {"follows": 1, "freshness": 5})
    assert users(reach(world, "new", as_of=NOON, profile="mine"))[0] == "follower"
    recommender.create_profile(world, "none", {"freshness": 5})
    assert {each.score for each in reach(world, "new", as_of=NOON, profile="none")} == {0}


def test_it_takes_three_statements(world: Session) -> None:
    with counted_statements(world.connection()) as statements:
        reach(world, "new", as_of=NOON)
    assert len(statements) == 3


def test_a_user_whom_for_you_could_not_show_it_is_out(world: Session) -> None:
    """Each of these users is found by three sources, and fails one filter."""
    fails = ("blocker", "blocked", "muter", "sound muter", "tag muter", "word muter", "viewer",
             "bored", "served", "star")  # fmt: skip
    for user in (*fails, "fine"):
        make_user(world, user)
        enjoyed(world, (user, "with tag"), (user, "with sound"), (user, "near"))
    recommender.block(world, "blocker", "star")
    recommender.block(world, "star", "blocked")
    mute(world, "muter", "creator", "star")
    mute(world, "sound muter", "sound", "song")
    mute(world, "tag muter", "hashtag", "cats")
    mute(world, "word muter", "keyword", "spam")
    make_video(world, "new", **NEW, published_at=at(-1), caption="so much spam")
    record(world, "impression", "new", "viewer", at=at(-0.5))
    record(world, "not_interested", "new", "bored", at=at(-0.5))
    page = recommender.for_you(world, "served", as_of=NOON, limit=500)
    assert "new" in [item.video for item in page.items]
    found = users(reach(world, "new", as_of=NOON))
    assert "fine" in found
    assert not {*fails} & {*found}


def test_only_who_may_find_the_video_is_reached(world: Session) -> None:
    for audience, expected in (("followers", ["follower"]), ("unlisted", []), ("public", None)):
        make_video(world, "new", **NEW, published_at=at(-1), audience=audience)
        found = users(reach(world, "new", as_of=NOON))
        assert found == (expected if expected is not None else [*found]), audience
    assert len(found) == 5
    make_user(world, "star", discoverable=False)
    assert reach(world, "new", as_of=NOON) == ()
    make_user(world, "star", discoverable=True)
    for change in ({"published_at": at(1)}, {"status": "review"}, {"status": "removed"}):
        make_video(world, "new", **{**NEW, "published_at": at(-1), "status": "published", **change})
        assert reach(world, "new", as_of=NOON) == ()


def test_a_merged_guest_and_an_erased_user_are_out_before_their_rows_are_gone(
    world: Session,
) -> None:
    for user in ("guest", "erased"):
        make_user(world, user)
        follow(world, user, "star")
    for user, change in (
        ("guest", {"merged_into": ids(world, USERS)["follower"]}), ("erased", {"erased_at": at()}),
    ):  # fmt: skip
        assert user in users(reach(world, "new", as_of=NOON))
        world.execute(sa.update(USERS).where(USERS.c.key == user).values(change))
        assert user not in users(reach(world, "new", as_of=NOON))


def test_a_registered_filter_is_asked_about_each_user(world: Session) -> None:
    spoken = Filter("spoken", lambda viewer: viewer.language == "es", "-")
    keyed = Filter("keyed", lambda viewer: viewer.key != "follower", "-")
    placed = Filter("placed", lambda viewer: viewer.country == "MX", "-")
    held = Filter("held", lambda viewer: viewer.device == "phone", "-")
    for user in ("follower", "neighbour"):
        make_user(world, user, language="es", country="MX", device="phone")
    for filters, expected in (([spoken, placed, held], ["neighbour", "follower"]),
                              ([spoken, keyed], ["neighbour"])):  # fmt: skip
        world.connection().execution_options(**{OPTION: Registry(filters=filters, name="host")})
        assert users(reach(world, "new", as_of=NOON)) == expected


@slow_on_postgresql
def test_a_popular_creator_and_popular_videos_fill_no_more_than_their_places(
    world: Session,
) -> None:
    crowd = [f"u{number:03}" for number in range(100)]
    recommender.upsert_users(world, [{"id": user} for user in crowd])
    of = ids(world, USERS)
    put(world, "follows", [{"user_id": of[user], "creator_id": of["star"]} for user in crowd])
    make_video(world, "also of creator", creator="star")
    popular = [(user, "of creator") for user in crowd if user != "u099"]
    enjoyed(world, *popular, ("u099", "also of creator"))
    limit = 3
    request = replace(recommender.resolve(world, None, as_of=NOON), seeds=("new",))
    found = found_users(Shape.of(request).any_viewer())
    values = {**values_of(request), "users_of_source": USERS_PER_PLACE * limit}
    rows = world.execute(sa.select(found), values).all()
    bits = range(len(SOURCES))
    counts = Counter(bit for row in rows for bit in bits if int(row.sources) >> bit & 1)
    share = USERS_PER_PLACE * limit // 3 + 1  # of three videos, one of which nobody has enjoyed
    assert counts == {0: USERS_PER_PLACE * limit, 1: share + 1, 2: 1, 3: 1, 4: 1}
    assert of["u099"] in {row.user_id for row in rows}
    assert len(reach(world, "new", as_of=NOON, limit=limit)) == limit
    assert len(reach(world, "new", as_of=NOON, limit=99)) == 99


@slow_on_postgresql
def test_a_short_list_is_the_beginning_of_a_longer_one(world: Session) -> None:
    """Also if the first followers have all seen the video."""
    recommender.upsert_users(world, [{"id": f"fan{number}"} for number in range(9)])
    for number in range(9):
        follow(world, f"fan{number}", "star")
        if number < 8:
            record(world, "impression", "new", f"fan{number}", at=at(-0.5))
    whole = reach(world, "new", as_of=NOON)
    assert {"follower", "fan8"} < {*users(whole)}
    for limit in range(1, 4):
        assert reach(world, "new", as_of=NOON, limit=limit) == whole[:limit]


@pytest.mark.parametrize("worlds", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_the_list_equals_plain_python_on_random_worlds(session: Session, worlds: int) -> None:
    for seed in range(60, 60 + worlds):
        world, weights = random_world(seed), random_weights(seed)
        with session.begin_nested() as savepoint:
            load(session, world)
            recommender.create_profile(session, "mine", weights)
            everyone = ids(session, USERS)
            oracles = {user: Oracle(world, user) for user in everyone}
            for video in world.videos:
                found = reach(session, video, as_of=NOON, profile="mine")
                got = [(each.user, each.score, each.sources) for each in found]
                assert got == expected(world, oracles, weights, video, everyone)
            savepoint.rollback()


def expected(
    world: World,
    oracles: dict[str, Oracle],
    weights: dict[str, float],
    video: str,
    order: dict[str, int],
) -> list[tuple[str, float, tuple[str, ...]]]:
    """Return the users who may be shown a video, with their scores and sources."""
    rows = []
    for user, oracle in oracles.items():
        sources = sources_of(world, oracle, video)
        if not sources or not all(oracle.filters(video).values()):
            continue
        signals = {**oracle.signals(video), "collaborative": collaborative(world, oracle, video)}
        told = {name: value for name, value in signals.items() if name in SIGNALS}
        score = math.fsum(weights.get(name, 0) * value for name, value in told.items())
        rows.append((user, score, sources))
    rows.sort(key=lambda row: (-row[1], order[row[0]]))
    return [(user, pytest.approx(score, abs=2e-9), sources) for user, score, sources in rows]


SIGNALS = {
    "follows", "hashtags", "sound", "language", "country", "creator_affinity", "hashtag_affinity",
    "sound_affinity", "collaborative",
}  # fmt: skip


def lately(world: World, user: str) -> set[str]:
    return {video for (each, video), moment in world.recent.items()
            if each == user and moment <= NOON}  # fmt: skip


def collaborative(world: World, oracle: Oracle, video: str) -> float:
    near = math.fsum(world.neighbours.get((source, video), 0.0)
                     for source in lately(world, oracle.user))  # fmt: skip
    return saturated(near**2, oracle.settings.collaborative_scale**2)


def sources_of(world: World, oracle: Oracle, video: str) -> tuple[str, ...]:
    own, recent = world.videos[video], lately(world, oracle.user)
    is_out = ("published", "not_in_future")
    listed = [
        world.videos[each] for each in recent if all(oracle.filters(each)[name] for name in is_out)
    ]
    found = {
        "followers": own["creator"] in oracle.followed,
        "creators": any(own["creator"] == each["creator"] is not None for each in listed),
        "hashtags": any(set(own["hashtags"]) & set(each["hashtags"]) for each in listed),
        "sounds": any(own["sound"] == each["sound"] is not None for each in listed),
        "neighbours": any((each, video) in world.neighbours for each in recent),
    }
    return tuple(name for name, is_found in found.items() if is_found)


@slow_on_postgresql
def test_bad_input_is_refused_in_one_sentence(world: Session) -> None:
    for video, options, error, message in (
        ("none", {}, UnknownVideo, "there is no video 'none'"),
        ("", {}, UnknownVideo, "there is no video ''"),
        ("new", {"limit": 0}, InvalidValue, "limit: 0 is not between 1 and 10,000"),
        ("new", {"limit": 10_001}, InvalidValue, "limit: 10,001 is not between 1 and 10,000"),
        ("new", {"limit": "9"}, InvalidValue, "limit: '9' is not a whole number"),
        ("new", {"profile": "none"}, recommender.UnknownProfile, "there is no profile 'none'"),
        ("new", {"profile": "people"}, recommender.UnknownSignal, "is about people, not videos"),
        ("new", {"as_of": NOON.replace(tzinfo=None)}, InvalidValue, "as_of: "),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            reach(world, video, **options)  # type: ignore[arg-type]
