"""Where candidates come from: each source alone, in its order; and pages that are full."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import Settings, models
from recommender.feed.statements import _compiled_statements, cached_statement
from recommender.models import Video
from recommender.models.tables import HASHTAGS, SOUNDS, USERS, VIDEOS
from recommender.ranking import scoring, sources
from recommender.ranking.candidates import quota_of, source_candidates
from recommender.ranking.registry import OURS
from recommender.ranking.sources import SOURCES, Source
from recommender.ranking.viewer import Shape, Viewer
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import (
    SOURCE_NAMES,
    TAGS,
    VIEWERS,
    Oracle,
    World,
    dated,
    ids,
    load,
    put,
    random_weights,
    random_world,
)
from tests.support.worlds import (
    NOON,
    at,
    follow,
    make_event,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
    unspread,
)

pytestmark = slow_on_postgresql

QUOTAS = {name: number for number, name in enumerate(SOURCE_NAMES, start=2)}
"""Small enough to be reached in a small world."""


@pytest.fixture
def _small_quotas(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    small = tuple(replace(source, quota=QUOTAS[source.name]) for source in SOURCES)
    monkeypatch.setitem(vars(OURS), "every_source", small)
    monkeypatch.setattr(scoring, "SOURCES", small)
    cached_statement.cache_clear()
    _compiled_statements(session.connection()).clear()
    yield
    cached_statement.cache_clear()
    _compiled_statements(session.connection()).clear()


@pytest.fixture(autouse=True)
def _every_signal(request: pytest.FixtureRequest) -> None:
    if "session" in request.fixturenames:
        session = request.getfixturevalue("session")
        recommender.create_profile(session, "mine", random_weights(1))


def source_of(name: str) -> Source:
    return next(each for each in SOURCES if each.name == name)


def found(
    session: Session, name: str, user: str = "viewer", *, quota: int = 500, **options: Any
) -> list[str]:
    """What a source alone finds of what may be candidates, in its order."""
    request = recommender.resolve(session, user, "mine", **{"as_of": NOON, **options})
    viewer = Viewer.of(request)
    few = source_candidates(replace(source_of(name), quota=quota), Shape.of(request), viewer)
    keys = {row_id: key for key, row_id in ids(session, VIDEOS).items()}
    return [keys[row_id] for row_id in session.scalars(few)]


def page(session: Session, user: str = "viewer", **options: Any) -> recommender.FeedPage:
    return preview(session, user, **{"profile": "mine", "as_of": NOON, **options})


def put_affinity(session: Session, subject: str, of: sa.Table, **scores: float) -> None:
    known, user_id = ids(session, of), ids(session, USERS)["viewer"]
    put(session, "affinities", [
        {"user_id": user_id, "subject": subject, "subject_id": known[name], "score": score}
        for name, score in scores.items()
    ])  # fmt: skip


def set_trends(session: Session, **trends: float | None) -> None:
    for video, trend in trends.items():
        session.execute(VIDEOS.update().where(VIDEOS.c.key == video).values(trending=trend))


def test_sources_are_described_and_their_names_unique() -> None:
    assert tuple(each.name for each in SOURCES) == SOURCE_NAMES
    assert all(each.select.__doc__ for each in SOURCES)


def test_a_sum_of_powers_says_which_sources() -> None:
    for number in range(1 << len(SOURCES)):
        expected = tuple(n for place, n in enumerate(SOURCE_NAMES) if number & 1 << place)
        assert OURS.source_names(float(number)) == expected


@pytest.mark.parametrize(
    ("candidates", "quotas"),
    [
        (90, [12, 5, 25, 10, 5, 8, 8, 5, 5, 8]),
        (720, [100, 40, 200, 80, 40, 60, 60, 40, 40, 60]),
        (7_200, [1_000, 400, 2_000, 800, 400, 600, 600, 400, 400, 600]),
    ],
)
def test_sources_share_the_candidates(session: Session, candidates: int, quotas: list[int]) -> None:
    settings = Settings(candidates=candidates)
    shape = Shape.of(recommender.resolve(session, "nobody", settings=settings))
    assert [quota_of(each, shape) for each in SOURCES] == quotas


def test_fewer_candidates_are_the_best_of_each_source(session: Session) -> None:
    make_user(session, country="FR")
    for number in range(80):
        make_video(session, f"v{number}", country="FR")
    set_trends(session, **{f"v{number}": float(number) for number in range(80)})
    few = Settings(candidates=360)
    nearby = found(session, "nearby", quota=40, settings=few)
    assert nearby == [f"v{number}" for number in range(79, 59, -1)]
    assert len(page(session, limit=80, settings=few).items) == 80


def test_following_finds_the_newest_of_those_followed(session: Session) -> None:
    make_user(session)
    for minutes, (video, creator) in enumerate(
        [("old", "a"), ("other", "x"), ("newer", "b"), ("newest", "a"), ("unfollowed", "c")]
    ):
        make_video(session, video, creator=creator, published_at=at(minutes - 60))
    for creator in "abc":
        recommender.follow(session, "viewer", creator)
    recommender.unfollow(session, "viewer", "c")
    assert found(session, "following") == ["newest", "newer", "old"]
    assert found(session, "following", quota=2) == ["newest", "newer"]
    assert found(session, "following", "nobody") == []


def test_of_many_followed_the_creators_of_the_newest_videos_are_looked_at(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SCAN_FACTOR", 1)
    make_user(session)
    for number, creator in enumerate("dcba"):
        make_video(session, f"of {creator}", creator=creator, published_at=at(number - 60))
        recommender.follow(session, "viewer", creator)
    assert found(session, "following", quota=3) == ["of a", "of b", "of c"]
    assert found(session, "following", quota=4) == ["of a", "of b", "of c", "of d"]


def test_neighbours_finds_the_nearest_to_what_was_engaged_with(session: Session) -> None:
    make_user(session)
    make_videos(session, "first", "second", "near", "nearer", "tie", "seen", "of seen")
    for minutes, video in enumerate(["first", "second"]):
        record(session, "share", video, at=at(minutes))
    record(session, "impression", "seen")
    videos = ids(session, VIDEOS)
    put(session, "video_neighbours", [
        {"source_id": videos[i], "video_id": videos[j], "similarity": similarity}
        for i, j, similarity in [
            ("first", "near", 0.55), ("second", "nearer", 0.2), ("first", "nearer", 0.6),
            ("second", "tie", 0.5), ("second", "seen", 1), ("seen", "of seen", 1),
            ("second", "first", 1),
        ]
    ])  # fmt: skip
    assert found(session, "neighbours") == ["nearer", "tie", "near"]
    assert found(session, "neighbours", settings=Settings(history=1)) == ["tie", "nearer"]


def test_only_the_nearest_are_looked_at(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "NEIGHBOUR_SCAN_FACTOR", 1)
    make_user(session)
    make_videos(session, "liked", "a", "b", "c")
    record(session, "like", "liked")
    videos = ids(session, VIDEOS)
    put(session, "video_neighbours", [
        {"source_id": videos["liked"], "video_id": videos[key], "similarity": similarity}
        for key, similarity in (("a", 0.9), ("b", 0.8), ("c", 0.7))
    ])  # fmt: skip
    record(session, "impression", "a")
    assert found(session, "neighbours", quota=2) == ["b"]


def test_hashtags_finds_the_newest_of_declared_and_learned_ones(session: Session) -> None:
    make_user(session, interests=["Cats"])
    rows = [("cats", ["cats"]), ("dance", ["dance"]), ("both", ["dance", "cats"]),
            ("food", ["food"]), ("none", [])]  # fmt: skip
    for minutes, (video, hashtags) in enumerate(rows):
        make_video(session, video, hashtags=hashtags, published_at=at(minutes - 60))
    put_affinity(session, "hashtag", HASHTAGS, dance=0.1, food=-5)
    assert found(session, "hashtags") == ["both", "dance", "cats"]
    assert found(session, "hashtags", quota=1) == ["both"]


def test_so_many_of_each_hashtag_are_looked_at(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest, and all that were published at once with the last of them."""
    monkeypatch.setattr(sources, "VIDEOS_PER_SUBJECT", 3)
    make_user(session, interests=["busy", "quiet"])
    make_video(session, "quiet", hashtags=["quiet"], published_at=at(-900))
    for number, minutes in enumerate([-50, -40, -30, -30, -20, -10]):
        make_video(session, f"busy{number}", hashtags=["busy"], published_at=at(minutes))
    make_video(session, "future", hashtags=["busy"], published_at=at(9))
    make_video(session, "removed", hashtags=["busy"], published_at=at(-1), status="removed")
    assert found(session, "hashtags") == ["busy5", "busy4", "busy3", "busy2", "quiet"]


def test_what_only_its_row_says_to_be_removed_or_of_the_future_is_not_shown(
    session: Session,
) -> None:
    """As where a host writes the row and forgets that hashtags are listed with their time."""
    make_user(session, interests=["cats"])
    for video in ("removed", "future", "kept"):
        make_video(session, video, hashtags=["cats"], published_at=at(-1))
    for video, row in (("removed", {"status": "removed"}), ("future", {"published_at": at(1)})):
        session.execute(VIDEOS.update().where(VIDEOS.c.key == video).values(row))
    assert names(page(session)) == ["kept"]


def test_sounds_finds_the_newest_with_declared_and_learned_ones(session: Session) -> None:
    make_user(session, liked_sounds=["song"])
    for minutes, sound in enumerate(["song", "tune", None, "noise"]):
        make_video(session, f"v{minutes}", sound=sound, published_at=at(minutes - 60))
    put_affinity(session, "sound", SOUNDS, tune=0.1, noise=-0.1)
    assert found(session, "sounds") == ["v1", "v0"]


def test_creators_finds_the_newest_of_those_of_most_affinity(session: Session) -> None:
    make_user(session)
    for minutes, creator in enumerate("abca"):
        make_video(session, f"v{minutes}", creator=creator, published_at=at(minutes - 60))
    put_affinity(session, "creator", USERS, a=1, b=2, c=-1)
    assert found(session, "creators") == ["v3", "v1", "v0"]
    assert found(session, "creators", settings=Settings(interests=1)) == ["v1"]


def test_trending_is_in_the_viewers_language_or_in_an_unknown_one(session: Session) -> None:
    make_user(session, language="en")
    make_user(session, "silent")
    for video, language in (("english", "en"), ("more", "en"), ("spanish", "es"), ("none", None)):
        make_video(session, video, language=language)
    make_video(session, "never", language="en")
    set_trends(session, english=-1e6, more=0, spanish=5, none=-3)
    assert found(session, "trending") == ["more", "none", "english"]
    assert found(session, "trending", quota=1) == ["more"]
    everything = ["spanish", "more", "none", "english"]
    assert found(session, "trending", "silent") == everything
    assert found(session, "trending", "nobody") == everything


def test_nearby_is_what_trends_in_the_viewers_country(session: Session) -> None:
    make_user(session, country="MX")
    make_user(session, "nowhere")
    for video, country in (("less", "MX"), ("more", "MX"), ("far", "US"), ("none", None)):
        make_video(session, video, country=country)
    set_trends(session, less=1, more=2, far=3, none=4)
    assert found(session, "nearby") == ["more", "less"]
    assert found(session, "nearby", "nowhere") == found(session, "nearby", "nobody") == []


def set_impressions(session: Session, **impressions: int) -> None:
    for video, number in impressions.items():
        changed = VIDEOS.update().where(VIDEOS.c.key == video)
        session.execute(changed.values(impressions=number))


def test_of_what_trends_so_many_are_looked_at(session: Session) -> None:
    """Who has seen the most trending is not led through all that trend."""
    make_user(session, language="en", country="MX")
    videos = [f"v{number}" for number in range(5)]
    make_videos(session, *videos, language="en", country="MX")
    set_trends(session, **{video: -float(number) for number, video in enumerate(videos)})
    for video in videos[:4]:
        record(session, "impression", video)
    for name in ("trending", "nearby"):
        assert found(session, name, quota=1) == []
        assert found(session, name, quota=2) == ["v4"]


def test_fresh_finds_the_new_ones_that_few_have_seen(session: Session) -> None:
    make_videos(session, "v99", "v100", "v0", "v5000")
    make_video(session, "old", published_at=at(-7 * 24 * 60 - 1))
    make_video(session, "nearly old", published_at=at(-7 * 24 * 60))
    set_impressions(session, v99=99, v100=100, v5000=5_000)
    assert set(found(session, "fresh", "nobody")) == {"v99", "v0", "nearly old"}
    settings = Settings(trial_viewers=101, trial_days=0.01)
    make_video(session, "just now", published_at=at(-0.01 * 24 * 60))
    assert found(session, "fresh", "nobody", settings=settings) == ["just now"]


def test_fresh_looks_only_at_the_newest(session: Session) -> None:
    make_video(session, "oldest", published_at=at(-2))
    rows = [{"id": f"v{n}", "creator": "c", "published_at": at(-1)} for n in range(1_000)]
    recommender.upsert_videos(session, rows)
    assert set(found(session, "fresh", "nobody", quota=2_000)) == {row["id"] for row in rows}


@slow_on_postgresql
def test_fresh_begins_elsewhere_for_another_viewer_and_day(session: Session) -> None:
    """In the long run every video on trial is as likely to come first."""
    keys = [f"v{number}" for number in range(20)]
    make_videos(session, *keys)
    first = [found(session, "fresh", f"user{n}")[0] for n in range(40)]
    assert first == [found(session, "fresh", f"user{n}")[0] for n in range(40)]
    assert len(set(first)) > 10
    days = {found(session, "fresh", as_of=NOON + timedelta(days=n))[0] for n in range(7)}
    assert len(days) > 3


@pytest.mark.parametrize("name", SOURCE_NAMES)
def test_what_is_seen_or_left_out_takes_no_place_in_any_source(session: Session, name: str) -> None:
    facts = {"language": "en", "country": "MX"}
    make_user(session, interests=["cats"], liked_sounds=["song"], **facts)
    make_video(session, "liked")
    about = {"creator": "star", "hashtags": ["cats"], "sound": "song", **facts}
    gone = {"future": {"published_at": at(1)}, "removed": {"status": "removed"}, "excluded": {},
            "where": {"duration_ms": 7}, "seen": {}}  # fmt: skip
    for video in ("kept", *gone):
        make_video(session, video, **{**about, **gone.get(video, {})})
    recommender.follow(session, "viewer", "star")
    record(session, "impression", "seen")
    record(session, "like", "liked")
    videos, star = ids(session, VIDEOS), ids(session, USERS)["star"]
    put(session, "recent_engagements", [
        {"user_id": star, "video_id": videos[key], "at": at(-1)} for key in ("kept", *gone)
    ])  # fmt: skip
    put(session, "video_neighbours", [
        {"source_id": videos["liked"], "video_id": videos[key], "similarity": 0.5}
        for key in ("kept", *gone)
    ])  # fmt: skip
    session.execute(sa.delete(models.Affinity))
    put_affinity(session, "creator", USERS, star=1)
    set_trends(session, **dict.fromkeys(["kept", *gone], 1.0))
    options: dict[str, Any] = {
        "exclude": ["excluded", "unknown"], "where": Video.duration_ms.is_distinct_from(7),
    }  # fmt: skip
    asked_later = {
        "social": {"future", "removed"},
        "neighbours": {"future", "removed"},
        "trending": {"future"},
        "nearby": {"future"},
    }
    quota = 3 if name in asked_later else 1  # of which some times as many are looked at
    assert set(found(session, name, quota=quota, **options)) == {"kept", *asked_later.get(name, ())}
    (item,) = page(session, **options).items
    assert (item.video, item.sources) == ("kept", SOURCE_NAMES)


def test_what_is_muted_is_no_interest(session: Session) -> None:
    """Declared, followed or learned: it takes nobody's place in a source either."""
    make_user(session, interests=["bad", "good"], liked_sounds=["noise", "song"])
    for sort, creator, hashtag, sound in (
        ("good", "star", "good", "song"), ("bad", "villain", "bad", "noise"),
    ):  # fmt: skip
        follow(session, "viewer", creator)
        for minutes in range(3):
            published_at = at(minutes - (90 if sort == "good" else 60))
            make_video(session, f"{sort} creator{minutes}", creator=creator,
                       published_at=published_at)  # fmt: skip
            make_video(session, f"{sort} tag{minutes}", hashtags=[hashtag],
                       published_at=published_at)  # fmt: skip
            make_video(session, f"{sort} sound{minutes}", sound=sound, published_at=published_at)
    put_affinity(session, "creator", USERS, star=1, villain=2)
    put_affinity(session, "hashtag", HASHTAGS, good=1, bad=2)
    put_affinity(session, "sound", SOUNDS, song=1, noise=2)
    for kind, value in (("creator", "villain"), ("hashtag", "bad"), ("sound", "noise")):
        recommender.mute(session, "viewer", kind, value)
    one = Settings(interests=1)
    by_creator = ["good creator2", "good creator1", "good creator0"]
    assert found(session, "following") == by_creator
    assert found(session, "creators", settings=one) == by_creator
    assert found(session, "hashtags", settings=one) == ["good tag2", "good tag1", "good tag0"]
    assert found(session, "sounds", settings=one) == ["good sound2", "good sound1", "good sound0"]
    assert all(video.startswith("good") for video in names(page(session)))


def test_a_stranger_gets_what_trends_what_is_fresh_and_what_is_new(session: Session) -> None:
    make_videos(session, "a", "b")
    set_trends(session, a=1)
    for user in ("nobody", make_user(session)):
        sources_of = {item.video: item.sources for item in page(session, user).items}
        assert sources_of == {"a": ("trending", "fresh", "newest"), "b": ("fresh", "newest")}


@pytest.mark.parametrize("worlds", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("_small_quotas")
def test_sources_equal_plain_python_on_random_worlds(session: Session, worlds: int) -> None:
    for seed in range(100, 100 + worlds):
        world, weights = random_world(seed, videos=60), random_weights(seed)
        with session.begin_nested() as savepoint:
            load(session, world)
            recommender.create_profile(session, "theirs", weights)
            for user in (*VIEWERS, "nobody"):
                settings = Settings(interests=2, history=5)
                oracle = Oracle(world, user, settings=settings)
                every = oracle.sources(dict.fromkeys(SOURCE_NAMES, 500))
                for name in SOURCE_NAMES[:-1]:
                    assert found(session, name, user, settings=settings) == every[name], name
                shown = unspread(
                    session, user, limit=5, profile="theirs", settings=settings, as_of=NOON
                )
                expected = oracle.feed(weights, oracle.sources(QUOTAS))
                got = [(item.video, item.score, item.sources) for item in shown.items]
                assert got == expected[:5]
            savepoint.rollback()


Allowed = Callable[[dict[str, Any]], bool]
PREDICATES: tuple[tuple[Any, Allowed], ...] = (
    (None, lambda _: True),
    (Video.country == "MX", lambda video: video["country"] == "MX"),
    (Video.language.is_(None), lambda video: video["language"] is None),
    (sa.false(), lambda _: False),
    (Video.key == "v7", lambda video: video["id"] == "v7"),
    (
        sa.and_(Video.duration_ms == 9_000, Video.impressions == 99, Video.orientation == "square"),
        lambda video: (
            (video["duration_ms"], video["impressions"], video["orientation"])
            == (9_000, 99, "square")
        ),
    ),
    (
        Video.published_at < at(-14_000),
        lambda video: dated(video) < NOON - timedelta(minutes=14_000),
    ),
)


def crowded_world(seed: int) -> World:
    """Hundreds of videos; u1 has seen most, u2 all but five, and u3 muted nearly everything."""
    world = random_world(seed, videos=620)
    for key, video in world.videos.items():
        video["id"] = key
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    keys = list(world.videos)
    for user, most in (("u1", 500), ("u2", 615)):
        world.events += [
            make_event("impression", video, user, at=at(-1)) for video in chance.sample(keys, most)
        ]
    world.mutes |= {("u3", "creator", creator) for creator in ("c0", "c1", "c2", "c3", "u0", "u1")}
    world.mutes |= {("u3", "hashtag", tag) for tag in TAGS[1:]}
    return world


def load_crowded(session: Session, world: World) -> None:
    plain = {key: {n: v for n, v in row.items() if n != "id"} for key, row in world.videos.items()}
    load(session, replace(world, videos=plain))


@pytest.mark.parametrize("pages", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_a_page_is_short_only_where_no_more_may_be_shown(session: Session, pages: int) -> None:
    chance = random.Random(7)  # noqa: S311 - not for secrets
    world = crowded_world(7)
    load_crowded(session, world)
    lengths = []
    for number in range(pages):
        user = ("nobody", *VIEWERS)[number % 5]
        limit = chance.choice([1, 2, 19, 20, 59, 60, 61, 120, 121, chance.randint(1, 500), 500])
        where, allowed = chance.choice([*PREDICATES[:2], *PREDICATES])
        exclude = chance.sample(list(world.videos), chance.choice([0, 0, 0, 7, 600]))
        shown = names(page(session, user, limit=limit, where=where, exclude=exclude))
        may_be = Oracle(world, user).eligible(allowed, set(exclude))
        assert len(shown) == len(set(shown)) == min(limit, len(may_be))
        assert set(shown) <= set(may_be)
        lengths.append(len(shown) / limit)
    assert lengths.count(1) > pages // 10
    assert sum(0 < length < 1 for length in lengths) > pages // 10


@slow_on_postgresql
def test_a_page_is_no_worse_for_being_longer(session: Session) -> None:
    """Whatever its length, it is ordered, and the same where it is asked for again."""
    world = crowded_world(8)
    load_crowded(session, world)
    for limit in (30, 500):
        shown = unspread(session, "u0", limit=limit, profile="mine", as_of=NOON).items
        order = [(item.score, *Oracle(world, "u0").newness(item.video)) for item in shown]
        assert order == sorted(order, reverse=True)
        assert [item.position for item in shown] == list(range(1, len(shown) + 1))
        spread = page(session, "u0", limit=limit).items
        assert [item.position for item in spread] == list(range(1, len(spread) + 1))
        assert page(session, "u0", limit=limit).items == spread


def test_a_catalogue_of_fewer_videos_than_candidates_is_scored_whole(session: Session) -> None:
    make_user(session)
    for number in range(130):
        make_video(session, f"v{number}", published_at=at(-number))
    few, many = Settings(candidates=100), Settings(candidates=130)
    for counted, settings, expected in [
        (None, many, 40), (130, few, 40), (130, many, 130), (131, many, 40), (1, few, 100),
    ]:  # fmt: skip
        session.execute(sa.update(models.LearningState).values(published_videos=counted))
        listed = found(session, "newest", quota=11, settings=settings)
        assert len(listed) == expected, (counted, settings.candidates)
