"""The contract of every signal and filter, whichever they are, and each signal's value."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import FILTERS, SIGNALS, Filter, Settings, Signal, models
from recommender.database.expressions import number
from recommender.models.tables import HASHTAGS, SOUNDS, USERS, VIDEOS
from recommender.models.types import Base
from recommender.ranking.features import MOST_TERMS
from recommender.ranking.signals import COUNT_LIMIT
from recommender.ranking.viewer import Viewer
from tests.support.oracle import (
    VIEWERS,
    Oracle,
    ids,
    load,
    put,
    random_weights,
    random_world,
    table,
    terms_of,
)
from tests.support.worlds import (
    NOON,
    at,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
)

SIGNAL = pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
FILTER = pytest.mark.parametrize("each", FILTERS, ids=lambda each: each.name)
EXTREME_TIMES = (
    datetime(1970, 1, 1, tzinfo=UTC), NOON, datetime(2031, 6, 24, tzinfo=UTC),
    datetime(2099, 12, 31, tzinfo=UTC),
)  # fmt: skip


def every_signal(session: Session, weight: float = 1) -> None:
    recommender.create_profile(session, "every", {signal.name: weight for signal in SIGNALS})


def values(session: Session, user: str, *videos: str, **options: Any) -> dict[str, dict[str, Any]]:
    options = {"profile": "every", "as_of": NOON, **options}
    page = recommender.rank(session, user, videos, **options)
    return {i.video: {name: each.value for name, each in i.signals.items()} for i in page.items}


def value(session: Session, signal: str, **options: Any) -> tuple[float, float]:
    """The value of a signal for the best video and for another."""
    found = values(session, "viewer", "best", "other", **options)
    return found["best"][signal], found["other"][signal]


def extreme_world(session: Session, score: float = 1e300) -> None:
    """A video that all speaks for, or against, one that nothing is known of, and one seen."""
    tags = [f"tag{n}" for n in range(300)]
    facts = {"language": "en", "country": "US"}
    make_user(session, interests=tags, liked_sounds=["song"], device="phone", **facts)
    about = {"hashtags": tags, "sound": "song", "orientation": "portrait", **facts}
    make_video(
        session, "all", creator="star", caption="cat", published_at=EXTREME_TIMES[0], **about
    )
    make_video(session, "near", caption="cat", published_at=EXTREME_TIMES[-1])
    make_video(session, "nothing")
    make_video(session, "seen", hashtags=tags)
    recommender.follow(session, "viewer", "star")
    for kind in ("watch", "like", "share", "comment", "save", "report"):
        record(session, kind, "all", completion=1 if kind == "watch" else None)
    record(session, "watch", "seen", completion=1)
    for name in ("creator", "hashtag", "sound"):
        session.execute(table("affinities").delete().where(table("affinities").c.subject == name))
    _extreme_statistics(session, score)


def _extreme_statistics(session: Session, score: float) -> None:
    users, videos = ids(session, USERS), ids(session, VIDEOS)
    viewer = {"user_id": users["viewer"], "score": score}
    subjects = [("creator", users["star"]), ("sound", ids(session, SOUNDS)["song"])]
    subjects += [("hashtag", row_id) for row_id in ids(session, HASHTAGS).values()]
    put(session, "affinities", [{**viewer, "subject": s, "subject_id": i} for s, i in subjects])
    pairs = [(i, j) for i in videos.values() for j in videos.values() if i != j]
    put(session, "video_neighbours", [
        {"source_id": i, "video_id": j, "similarity": 1} for i, j in pairs
    ])  # fmt: skip
    put(session, "recent_engagements", [
        {"user_id": users["star"], "video_id": i, "at": NOON} for i in videos.values()
    ])  # fmt: skip
    put(session, "terms", [{"term": term, "captions": 2**62} for term in terms_of("cat")])
    session.execute(table("learning_state").update().values(captions=2**62))
    for key, sign in (("all", 1), ("near", -1)):
        many = {"engaged_views": 2**62, "impressions": 1 if key == "all" else 2**62}
        extreme = VIDEOS.update().where(VIDEOS.c.key == key)
        session.execute(extreme.values(trending=sign * 1e6, **many))
    state = table("interactions")
    session.execute(state.update().values(shares=2**62, comments=2**62, watch_ms=2**62))


def test_signals_are_numbers_in_their_ranges(session: Session) -> None:
    extreme_world(session)
    every_signal(session)
    half_lives = {f"{subject}_half_life_days": 14 for subject in ("creator", "hashtag", "sound")}
    rules = {"trend_half_life_days": 0.1, **half_lives}
    for landmark in EXTREME_TIMES:
        session.execute(table("learning_state").update().values(landmark=landmark, **rules))
        extremes = zip((1e300, -1e300, 1e-300, -5e-324), (None, 1e6, -1e6, 0.0), strict=True)
        for score, peak in extremes:
            session.execute(table("affinities").update().values(score=score))
            session.execute(table("learning_state").update().values(trend_peak=peak))
            for as_of in EXTREME_TIMES:
                assert_in_ranges(session, "viewer", as_of)
        assert_in_ranges(session, "nobody", landmark)
        preview(session, "viewer", profile="every", as_of=landmark)


def assert_in_ranges(session: Session, user: str, as_of: datetime) -> None:
    found = values(session, user, "all", "near", "nothing", "seen", as_of=as_of)
    assert len(found) == 4
    for of_video in found.values():
        for signal in SIGNALS:
            each = of_video[signal.name]
            assert isinstance(each, float)
            assert math.isfinite(each)
            assert signal.low <= each <= signal.high


def test_signals_reach_the_ends_of_their_ranges(session: Session) -> None:
    extreme_world(session)
    every_signal(session)
    settings = Settings(common_term=1, freshness_half_life=36_500)
    session.execute(table("interactions").update().values(reports=0))
    early = values(session, "viewer", "all", as_of=EXTREME_TIMES[0], settings=settings)["all"]
    session.execute(table("interactions").update().values(reports=1))
    session.execute(table("affinities").update().values(score=-1e300))
    session.execute(table("learning_state").update().values(engaged_share=1))
    session.execute(VIDEOS.update().values(impressions=0))
    late = values(session, "viewer", "all", as_of=NOON, settings=settings)["all"]
    halves = {"caption": 0, "collaborative": 1 / 1.01, "social": 0.5}
    both = {"lately", *(f"{subject}_affinity" for subject in ("creator", "hashtag", "sound"))}
    for signal in SIGNALS:
        highest = max(early[signal.name], late[signal.name])
        assert highest == pytest.approx(halves.get(signal.name, signal.high)), signal.name
        if signal.name in both:
            assert late[signal.name] == signal.low


def test_the_largest_weights_on_the_largest_signals_do_not_overflow(session: Session) -> None:
    extreme_world(session)
    make_video(session, "unseen", creator="star", hashtags=["tag1"])
    for weight in (100, -100):
        every_signal(session, weight)
        (first,) = recommender.rank(session, "viewer", ["all"], profile="every").items
        assert abs(first.score) > 100 * (2 * COUNT_LIMIT + 300)
        parts = math.fsum(each.value * each.weight for each in first.signals.values())
        assert first.score == pytest.approx(parts, abs=1e-6)
        assert preview(session, "viewer", profile="every").items


@pytest.mark.parametrize("weight", [1e-30, 5e-324, -5e-324])
def test_the_smallest_weights_do_not_underflow(session: Session, weight: float) -> None:
    make_user(session)
    make_video(session, "v", published_at=EXTREME_TIMES[0])
    every_signal(session, weight)
    page = preview(session, "viewer", profile="every", as_of=EXTREME_TIMES[-1])
    assert [(item.video, item.score) for item in page.items] == [("v", 0)]


@pytest.mark.parametrize("sign", [1, -1])
def test_halves_of_a_billionth_are_rounded_away_from_zero(session: Session, sign: int) -> None:
    make_user(session)
    make_videos(session, "half", "below", "above")
    for video, completion in (("half", 1 / 1024), ("below", 0.000976562), ("above", 0.000976563)):
        record(session, "watch", video, completion=completion)
    recommender.create_profile(session, "mine", {"completion": sign})
    page = recommender.rank(session, "viewer", ["half", "below", "above"], profile="mine")
    assert {item.video: item.score * sign for item in page.items} == {
        "half": 0.000976563, "below": 0.000976562, "above": 0.000976563,
    }  # fmt: skip


def test_a_trend_goes_on_fading_in_years_to_come(session: Session) -> None:
    """2,000 days are 1,000 half-lives of a trend; times after them differ too."""
    make_user(session)
    make_videos(session, "best", "other")
    every_signal(session)
    as_of = NOON + timedelta(days=3_000)
    trend = (as_of - datetime(2026, 1, 1, tzinfo=UTC)) / timedelta(days=2)
    for video, exponent in (("best", trend + math.log2(10)), ("other", trend - 2)):
        session.execute(VIDEOS.update().where(VIDEOS.c.key == video).values(trending=exponent))
    assert value(session, "trending", as_of=as_of) == pytest.approx((0.5, 0.25 / 10.25))


def watched(session: Session) -> None:
    record(session, "watch", "best", completion=0.75)
    record(session, "watch", "best", completion=0.5)
    record(session, "watch", "other", completion=0.25)


def repeated(kind: str) -> Callable[[Session], None]:
    def deeds(session: Session) -> None:
        record(session, kind, "best")
        record(session, kind, "best")
        record(session, kind, "other")
        record(
            session, f"un{kind}" if kind in {"like", "save"} else "impression", "other", at=at(1)
        )

    return deeds


def affinities(session: Session) -> None:
    """The viewer's affinities are 2 scales at noon to what is best, and -0.5 to the rest."""
    user_id = ids(session, USERS)["viewer"]
    growth = 2 ** (0.5 / 30) * Settings().affinity_scale
    for subject, of, best in (
        ("creator", USERS, "star"), ("hashtag", HASHTAGS, "cats"), ("sound", SOUNDS, "song"),
    ):  # fmt: skip
        for name, subject_id in ids(session, of).items():
            score = (2 if name == best else -0.5) * growth
            row = {"user_id": user_id, "subject": subject, "subject_id": subject_id, "score": score}
            put(session, "affinities", [row])


def neighbours(session: Session) -> None:
    """The viewer liked two videos, the later of which counts 1 and the other 10/11."""
    make_videos(session, "first", "second")
    for minutes, video in enumerate(("first", "second")):
        record(session, "like", video, at=at(minutes))
    videos = ids(session, VIDEOS)
    pair = {"video_id": videos["best"], "similarity": 0.9}
    for source, weight in (("second", 0.05), ("first", 0.055)):
        row = {"source_id": videos[source], **pair, "weight": weight}
        put(session, "video_neighbours", [row])


def friends(session: Session) -> None:
    rows = []
    for user in ("a", "b", "stranger"):
        make_user(session, user)
        if user != "stranger":
            recommender.follow(session, "viewer", user)
        user_id, videos = ids(session, USERS)[user], ids(session, VIDEOS)
        rows.append({"user_id": user_id, "video_id": videos["best"], "at": NOON})
    put(session, "recent_engagements", rows)


def statistics(**columns: float) -> Callable[[Session], None]:
    def write(session: Session) -> None:
        session.execute(VIDEOS.update().where(VIDEOS.c.key == "best").values(columns))

    return write


def captions(session: Session) -> None:
    """Of what the viewer liked, `rare` is in 5 captions of 1,000, `common` in 20."""
    make_video(session, "liked", caption="rare common")
    make_video(session, "best", creator="star", caption="a rare common thing")
    make_video(session, "other", caption="a common thing")
    record(session, "like", "liked")
    for word, number_of in (("rare", 5), ("common", 20), ("thing", 2)):
        put(session, "terms", [{"term": t, "captions": number_of} for t in terms_of(word)])
    session.execute(table("learning_state").update().values(captions=1_000))


def seen(session: Session) -> None:
    """The viewer engaged with all five of what is best that they saw, with none of the others."""
    for number_of in range(5):
        for tag, kind in (("cats", "like"), ("food", "impression")):
            make_video(session, f"{tag}{number_of}", hashtags=[tag])
            record(session, kind, f"{tag}{number_of}")


def nothing(_session: Session) -> None:
    pass


FADED = 2 / 3, -1 / 3
TOLD: dict[str, tuple[Callable[[Session], None], tuple[float, float]]] = {
    "completion": (watched, (0.75, 0.25)),
    "likes": (repeated("like"), (1, 0)),
    "shares": (repeated("share"), (2, 1)),
    "follows": (lambda session: recommender.follow(session, "viewer", "star") and None, (1, 0)),
    "hashtags": (nothing, (2, 0)),
    "sound": (nothing, (1, 0)),
    "language": (nothing, (1, 0)),
    "country": (nothing, (1, 0)),
    "comments": (repeated("comment"), (2, 1)),
    "saves": (repeated("save"), (1, 0)),
    "device": (nothing, (1, 0)),
    "creator_affinity": (affinities, FADED),
    "hashtag_affinity": (affinities, FADED),
    "lately": (seen, (3.5 / 35, -1.5 / 35)),
    "sound_affinity": (affinities, FADED),
    "caption": (captions, (0.75 / 1.75, 0)),
    "collaborative": (neighbours, (0.5, 0)),
    "social": (friends, (2 / 3, 0)),
    "quality": (statistics(impressions=80, engaged_views=64), (0.7, 0.3)),
    "trending": (statistics(trending=math.log2(30) + 0.25), (0.75, 0)),
    "freshness": (nothing, (0.5, 0.25)),
    "exploration": (
        lambda session: (
            session.execute(VIDEOS.update().where(VIDEOS.c.key == "other").values(impressions=300))
            and None
        ),
        (1, 0.25),
    ),
}
"""Of each signal a world, and the value that it has for the best video and for the other."""


@SIGNAL
def test_a_signal_tells_the_best_video_from_another(session: Session, signal: Signal) -> None:
    facts = {"language": "en", "country": "US"}
    make_user(
        session, device="phone", interests=["cats", "dogs", "news"], liked_sounds=["song"], **facts
    )
    make_video(
        session, "best", creator="star", sound="song", orientation="portrait",
        published_at=NOON - timedelta(days=3), **facts,
    )  # fmt: skip
    make_video(
        session, "other", creator="else", sound="noise", orientation="landscape", language="es",
        country="MX", published_at=NOON - timedelta(days=6),
    )  # fmt: skip
    hashtags = ["cats", "dogs"] if signal.name == "hashtags" else ["cats"]
    make_video(session, "best", creator="star", hashtags=hashtags, published_at=at(-60 * 72))
    make_video(session, "other", creator="else", hashtags=["food"], published_at=at(-60 * 144))
    set_up, expected = TOLD[signal.name]
    every_signal(session)
    session.execute(table("affinities").delete())
    set_up(session)
    assert value(session, signal.name) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("worlds", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_scores_order_and_every_signal_equal_plain_python(session: Session, worlds: int) -> None:
    pairs = 0
    for seed in range(worlds):
        world, weights = random_world(seed), random_weights(seed)
        keys = list(world.videos)
        with session.begin_nested() as savepoint:
            load(session, world)
            recommender.create_profile(session, "mine", weights)
            for user in (*VIEWERS, "nobody"):
                oracle = Oracle(world, user)
                page = recommender.rank(session, user, keys, profile="mine", as_of=NOON)
                for item in page.items:
                    found = {name: each.value for name, each in item.signals.items()}
                    assert found == pytest.approx(oracle.signals(item.video), abs=1e-9)
                ranked = [(oracle.score_key(k, weights), *oracle.newness(k), k) for k in keys]
                ranked.sort(reverse=True)
                expected = [(key, score / 1e9) for score, *_, key in ranked]
                assert [(item.video, item.score) for item in page.items] == expected
                pairs += len(expected)
            savepoint.rollback()
    assert pairs == 200 * worlds


def test_settings_shape_signals(session: Session) -> None:
    settings = Settings(
        quality_prior=3.5, trend_scale=0.7, freshness_half_life=0.3, trial_viewers=7, history=2,
        history_scale=0.5, common_term=0.5, affinity_scale=0.4, seen_lately=3,
        lately_prior=0.2,
    )  # fmt: skip
    world = random_world(99)
    load(session, world)
    every_signal(session)
    for user in VIEWERS:
        oracle = Oracle(world, user, at(90), settings)
        found = values(session, user, *world.videos, as_of=at(90), settings=settings)
        for video, of_video in found.items():
            assert of_video == pytest.approx(oracle.signals(video), abs=1e-9)


def test_only_so_many_words_of_what_was_liked_count(session: Session) -> None:
    """The most frequent first, then those of what was liked last."""
    make_user(session)
    words = [f"word{n:03}" for n in range(MOST_TERMS + 40)]
    written = [" ".join(words[start : start + 20]) for start in range(0, len(words), 20)]
    for number_of, caption in enumerate([*written, written[0]]):
        make_video(session, f"liked{number_of}", caption=caption)
        record(session, "like", f"liked{number_of}", at=at(number_of))
    put(session, "terms", [{"term": term, "captions": 0} for w in words for term in terms_of(w)])
    session.execute(table("learning_state").update().values(captions=10**9))
    every_signal(session)
    for number_of, caption in enumerate(written):
        make_video(session, f"v{number_of}", caption=caption)
    found = values(session, "viewer", *(f"v{n}" for n in range(len(written))))
    dropped = {"v1", "v2"}
    expected = {video: 0 if video in dropped else 20 / 21 for video in found}
    assert {video: each["caption"] for video, each in found.items()} == pytest.approx(expected)


def test_what_was_seen_last_is_read_from_an_index_however_much_was_seen(
    own_session: Session, kind: str
) -> None:
    make_user(own_session)
    make_video(own_session, "v", hashtags=["cats"])
    user_id, (first,) = ids(own_session, USERS)["viewer"], ids(own_session, VIDEOS).values()
    put(own_session, "interactions", [
        {"user_id": user_id, "video_id": first + n, "first_at": at(n % 999), "last_at": at(n % 999)}
        for n in range(3_000)
    ])  # fmt: skip
    lately = Viewer.of(recommender.resolve(own_session, "viewer", as_of=NOON)).lately
    connection, index = own_session.connection(), "rec_interactions_user_id_last_at_ix"
    sent = sa.select(lately).compile(connection, compile_kwargs={"literal_binds": True})
    if kind == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sent}").all()
        steps = "\n".join(row[-1] for row in plan)
        assert f"SEARCH rec_interactions USING INDEX {index} (user_id=? AND last_at>?)" in steps
        assert "FOR ORDER BY" not in steps
        return
    own_session.execute(sa.text("ANALYZE"))
    (plan,) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sent}").scalar_one()
    scans = [each for each in nodes(plan["Plan"]) if each.get("Index Name") == index]
    assert [each["Actual Rows"] <= 2 * Settings().seen_lately for each in scans] == [True]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan and all that it is made of."""
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


@SIGNAL
def test_a_signal_says_its_range_and_what_it_reads(signal: Signal) -> None:
    said = inspect.getdoc(signal.expression) or ""
    ranges = re.search(r"\bRange: (-?\d+) (?:to|or) ([\d,]+)", said)
    assert ranges
    assert [float(end.replace(",", "")) for end in ranges.groups()] == [signal.low, signal.high]
    reads = re.search(r"Reads:\s([a-z_,\s]+)\.", said)
    assert reads
    for name in re.split(r",\s", reads[1]):
        assert f"rec_{name}" in Base.metadata.tables


def test_nothing_but_the_reading_time_is_a_clock(session: Session) -> None:
    make_user(session)
    every_signal(session)
    request = recommender.resolve(session, "viewer", "every", as_of=NOON)
    sent = str(recommender.feed_query(request).compile(session.get_bind()))
    assert all(signal.name in sent for signal in SIGNALS)
    clock = r"now\(|current_|localtime|clock_|strftime|julianday|random|unixepoch|timeofday"
    assert not re.search(clock, sent, re.IGNORECASE)


def test_a_host_adds_a_signal_of_its_own(session: Session) -> None:
    """With what the package's own signals read, on top of any profile."""
    make_user(session)
    make_video(session, "short", creator="star", duration_ms=1_000)
    make_video(session, "long", duration_ms=90_000)
    record(session, "like", "short", at=at(-9))
    liking = Signal("liking", -1, 1, lambda c: sa.func.coalesce(c.creator.score, number(0)))
    brevity = Signal("brevity", 0, 1, lambda _: 1 / (1 + models.Video.duration_ms / 1_000.0))
    every_signal(session)
    for profile in ("classic", "every"):
        plain = recommender.rank(session, "viewer", ["short", "long"], profile=profile, as_of=NOON)
        page = recommender.rank(
            session, "viewer", ["short", "long"], profile=profile, as_of=NOON,
            signals={brevity: 100, liking: -1},
        )  # fmt: skip
        assert names(page) == ["short", "long"]
        assert [item.signals["brevity"].value for item in page.items] == [0.5, 1 / 91]
        assert page.items[0].signals["liking"].value > 0 == page.items[1].signals["liking"].value
        assert [list(item.signals)[:-2] for item in page.items] == [
            list(item.signals) for item in plain.items
        ]


@FILTER
def test_a_filter_is_described(each: Filter) -> None:
    assert inspect.getdoc(each.predicate)
    assert each.otherwise[0].islower()


def test_names_are_unique() -> None:
    assert len({signal.name for signal in SIGNALS}) == len(SIGNALS)
    assert len({each.name for each in FILTERS}) == len(FILTERS)


def test_missing_values_match_nothing(session: Session) -> None:
    make_user(session)
    make_video(session, "v")
    every_signal(session)
    found = values(session, "viewer", "v")["v"]
    told = {"quality": 0.3, "freshness": pytest.approx(2 ** (-1 / 72)), "exploration": 1}
    assert found == {**dict.fromkeys(found, 0), **told}
