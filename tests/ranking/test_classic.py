"""`classic`: the reference formula, exactly, on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, UnknownProfile, UnknownVideo
from recommender.feed.statements import _compiled_statements
from recommender.formats.scalars import UNDATED
from recommender.models import Video
from tests.support.classic_worlds import load, worlds
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
    scores,
    worked_example,
)

WEIGHTS = {
    "completion": Fraction("0.40"),
    "likes": Fraction("0.30"),
    "shares": Fraction("0.25"),
    "follows": Fraction("0.35"),
    "hashtags": Fraction("0.20"),
    "sound": Fraction("0.15"),
    "language": Fraction("0.05"),
    "country": Fraction("0.02"),
}


@pytest.fixture(autouse=True)
def _classic_serves(session: Session) -> None:
    recommender.activate_profile(session, "classic")


def test_the_worked_example(session: Session) -> None:
    worked_example(session)
    page = preview(session, "user1")
    assert [(item.video, item.score) for item in page.items] == [
        ("v1", 1.45), ("v2", 0.8), ("v3", 0.0),
    ]  # fmt: skip


def test_every_part_of_the_worked_example(session: Session) -> None:
    worked_example(session)
    first, second, third = preview(session, "user1").items
    assert [list(item.signals) for item in (first, second, third)] == [list(WEIGHTS)] * 3
    assert [each.value for each in first.signals.values()] == [0.95, 1, 0, 1, 1, 1, 1, 1]
    assert [each.value for each in second.signals.values()] == [0.75, 0, 1, 0, 1, 0, 1, 0]
    assert [each.value for each in third.signals.values()] == [0] * 8
    assert [each.weight for each in first.signals.values()] == [float(w) for w in WEIGHTS.values()]


def test_a_page_shows_what_a_video_is(session: Session) -> None:
    worked_example(session)
    first = preview(session, "user1").items[0]
    assert (first.position, first.creator, first.caption, first.hashtags, first.sound) == (
        1, "creator1", "Pulled it off again 😂", ("comedy", "prank"), "sound123",
    )  # fmt: skip
    assert first.published_at == datetime.fromisoformat("2025-12-01T12:00:00Z")


def test_sums_that_are_equal_on_paper_tie_and_the_newer_comes_first(session: Session) -> None:
    make_user(session, interests=["a", "b"], language="en")
    make_video(session, "two hashtags", hashtags=["a", "b"], published_at=at(-3))
    make_video(session, "followed and language", creator="star", language="en", published_at=at(-2))
    make_video(session, "older", creator="star", language="en", published_at=at(-4))
    recommender.follow(session, "viewer", "star")
    page = preview(session, "viewer", as_of=NOON)
    assert set(scores(page).values()) == {0.4}
    assert names(page) == ["followed and language", "two hashtags", "older"]


def test_of_equals_published_at_once_the_later_row_comes_first(session: Session) -> None:
    make_videos(session, "first", "second", "third")
    assert names(preview(session, "viewer")) == ["third", "second", "first"]


def test_new_rows_get_ids_in_the_order_of_the_file(session: Session) -> None:
    rows = [{"id": key, "creator": "c", "published_at": NOON} for key in "zmakb"]
    recommender.upsert_videos(session, rows)
    in_order = session.scalars(sa.select(Video.key).order_by(Video.id)).all()
    assert in_order == list("zmakb")


def test_only_published_videos_whose_time_has_come(session: Session) -> None:
    make_video(session, "now", published_at=NOON)
    make_video(session, "later", published_at=NOON + timedelta(microseconds=1))
    make_video(session, "review", status="review")
    make_video(session, "removed", status="removed")
    assert names(preview(session, "viewer", as_of=NOON)) == ["now"]
    later = preview(session, "viewer", as_of=at(1))
    assert names(later) == ["later", "now"]


def test_own_and_seen_videos_stay(session: Session) -> None:
    make_user(session)
    make_video(session, "own", creator="viewer")
    make_video(session, "seen")
    record(session, "watch", "seen", completion=1)
    assert names(preview(session, "viewer")) == ["seen", "own"]


def test_a_missing_value_never_matches(session: Session) -> None:
    make_user(session)
    make_videos(session, "a", "b")
    assert scores(preview(session, "viewer")) == {"a": 0, "b": 0}


def test_languages_and_countries_are_compared_as_written(session: Session) -> None:
    make_user(session, language="en", country="US")
    make_video(session, "same", language="en", country="US")
    make_video(session, "other case", language="EN", country="us")
    make_video(session, "longer", language="en-US", country="USA")
    page = preview(session, "viewer")
    assert scores(page) == {"same": 0.07, "longer": 0, "other case": 0}


def test_liking_a_video_declares_no_sound_and_watching_no_hashtag(session: Session) -> None:
    make_user(session)
    make_video(session, "liked", sound="song", hashtags=["a"])
    make_video(session, "same sound", sound="song", hashtags=["a"])
    record(session, "like", "liked")
    record(session, "watch", "liked", completion=1)
    assert scores(preview(session, "viewer")) == {"liked": 0.7, "same sound": 0}


def test_every_share_counts(session: Session) -> None:
    make_user(session)
    make_videos(session, "a", "b")
    for _ in range(3):
        record(session, "share", "a")
    record(session, "share", "b")
    assert scores(preview(session, "viewer")) == {"a": 0.75, "b": 0.25}


def test_a_like_taken_back_counts_no_more(session: Session) -> None:
    make_user(session)
    make_videos(session, "kept", "undone", "again")
    for video in ("kept", "undone", "again"):
        record(session, "like", video, at=at(1))
    record(session, "unlike", "undone", at=at(2))
    record(session, "unlike", "again", at=at(2))
    record(session, "like", "again", at=at(3))
    page = preview(session, "viewer")
    assert scores(page) == {"again": 0.3, "kept": 0.3, "undone": 0}


def test_another_users_deeds_count_for_nobody_else(session: Session) -> None:
    make_user(session, "viewer")
    make_user(session, "other", interests=["a"], liked_sounds=["s"], language="en", country="US")
    make_video(session, "v", creator="star", hashtags=["a"], sound="s", language="en", country="US")
    recommender.follow(session, "other", "star")
    for kind in ("like", "share", "watch"):
        record(session, kind, "v", "other", completion=1 if kind == "watch" else None)
    assert scores(preview(session, "viewer")) == {"v": 0}
    assert scores(preview(session, "other")) == {"v": 1.72}


def test_a_stranger_gets_the_newest(session: Session) -> None:
    make_video(session, "old", published_at=at(-9), language="en")
    make_video(session, "new", published_at=at(-1))
    page = preview(session, "nobody")
    assert names(page) == ["new", "old"]
    assert (page.request.known, page.request.user_id) == (False, None)


def test_a_limit_cuts_the_order(session: Session) -> None:
    make_videos(session, *"abcde")
    assert names(preview(session, "viewer", limit=2)) == ["e", "d"]


def test_an_empty_catalogue_is_an_empty_page(session: Session) -> None:
    assert preview(session, "viewer").items == ()


@pytest.mark.parametrize("limit", [0, -1, 501, 10_000_000, True, 1.5, "20"])
def test_a_limit_out_of_bounds_is_refused(session: Session, limit: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^limit: "):
        preview(session, "viewer", limit=limit)


@pytest.mark.parametrize(
    "profile", ["none", "classic@2", "classic@0", "classic@x", "", "@1", "a@1@1"]
)
def test_an_unknown_profile_is_refused(session: Session, profile: str) -> None:
    with pytest.raises(UnknownProfile, match=r"^there is no profile "):
        preview(session, "viewer", profile=profile)


@pytest.mark.parametrize("user", ["", "x" * 256, "a\0b", "\ud800"])
def test_a_key_that_no_user_can_have_is_refused(session: Session, user: str) -> None:
    with pytest.raises(InvalidValue, match=r"^user: "):
        preview(session, user)


@pytest.mark.parametrize("as_of", [datetime(2026, 1, 1), datetime(1969, 12, 31).astimezone()])  # noqa: DTZ001
def test_a_reading_time_without_offset_or_out_of_range_is_refused(
    session: Session, as_of: datetime
) -> None:
    with pytest.raises(InvalidValue, match=r"^as_of: "):
        preview(session, "viewer", as_of=as_of)


def test_a_page_is_two_statements_of_any_length(session: Session) -> None:
    worked_example(session)
    for limit in (1, 50, 500):
        with counted_statements(session.connection()) as sent:
            preview(session, "user1", limit=limit)
        assert len(sent) == 2
        assert "SELECT /* recommender.for_you */" in sent[-1]


def test_reading_writes_nothing(session: Session) -> None:
    worked_example(session)
    with counted_statements(session.connection()) as sent:
        preview(session, "user1")
        recommender.explain(session, "user1", "v1")
        recommender.rank(session, "user1", ["v1", "v2"])
    assert {statement.split()[0] for statement in sent} == {"SELECT", "WITH"}


def test_a_statement_is_compiled_once(session: Session) -> None:
    worked_example(session)
    caches = (
        session.connection().engine._compiled_cache,
        _compiled_statements(session.connection()),
    )
    preview(session, "user1")
    cached = [len(cache) for cache in caches]
    preview(session, "user1", limit=7, as_of=at(9))
    assert [len(cache) for cache in caches] == cached


def test_rank_orders_the_given_videos_and_filters_none(session: Session) -> None:
    worked_example(session)
    make_video(session, "removed", status="removed", language="en")
    page = recommender.rank(session, "user1", ["v3", "removed", "v2", "v3"])
    assert names(page) == ["v2", "removed", "v3"]


def test_rank_of_an_unknown_video_is_refused(session: Session) -> None:
    worked_example(session)
    for unknown in ("v9", "a\0b", ""):
        with pytest.raises(UnknownVideo):
            recommender.rank(session, "user1", ["v1", unknown])


@pytest.mark.parametrize("videos", [[], [f"v{n}" for n in range(501)]])
def test_rank_takes_1_to_500_videos(session: Session, videos: list[str]) -> None:
    with pytest.raises(InvalidValue, match=r"^videos: "):
        recommender.rank(session, "user1", videos)


def test_explain_gives_place_parts_and_a_sentence(session: Session) -> None:
    worked_example(session)
    explanation = recommender.explain(session, "user1", "v2")
    assert (explanation.shown, explanation.rank, explanation.item.score) == (True, 2, 0.8)
    assert [(each.name, each.passed) for each in explanation.filters] == [
        ("published", True), ("not_in_future", True), ("available", True),
        ("creator_not_blocked", True),
    ]  # fmt: skip
    assert explanation.reason == (
        "Because you watched 75% of it, you shared it and you like #dance."
    )


@pytest.mark.parametrize(
    ("columns", "failed", "reason"),
    [
        ({"status": "removed"}, "published", "Not shown: it is under review or removed."),
        (
            {"published_at": at(5)},
            "not_in_future",
            "Not shown: it will be published on 1 January 2026.",
        ),
    ],
)
def test_explain_says_why_not(
    session: Session, columns: dict[str, Any], failed: str, reason: str
) -> None:
    make_video(session, "v", **columns)
    explanation = recommender.explain(session, "viewer", "v", as_of=NOON)
    assert [each.name for each in explanation.filters if not each.passed] == [failed]
    assert (explanation.shown, explanation.rank, explanation.reason) == (False, None, reason)


def test_the_rank_of_every_video_is_its_place_in_the_feed(session: Session) -> None:
    make_user(session, interests=["a"])
    for number in range(12):
        tags = ["a"] if number % 3 == 0 else []
        make_video(session, f"v{number}", hashtags=tags, published_at=at(-(number % 2)))
    feed = names(preview(session, "viewer"))
    ranks = [recommender.explain(session, "viewer", video).rank for video in feed]
    assert ranks == list(range(1, 13))


def test_a_feed_query_composes_with_a_hosts_own_conditions(session: Session) -> None:
    worked_example(session)
    request = recommender.resolve(session, "user1")
    composed = recommender.feed_query(request).where(Video.language == "en").limit(1)
    (row,) = session.execute(composed).all()
    assert (row.score_key, row.completion, row.likes) == (1_450_000_000, 0.95, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_halves_of_a_billionth_are_rounded_away_from_zero(session: Session, sign: int) -> None:
    make_user(session)
    make_videos(session, "half", "below", "above")
    for video, completion in (("half", 1 / 1024), ("below", 0.000976562), ("above", 0.000976563)):
        record(session, "watch", video, completion=completion)
    recommender.create_profile(session, "mine", {"completion": sign})
    page = recommender.rank(session, "viewer", ["half", "below", "above"], profile="mine")
    assert {video: score * sign for video, score in scores(page).items()} == {
        "half": 0.000976563, "below": 0.000976562, "above": 0.000976563,
    }  # fmt: skip


def test_a_string_is_not_a_list_of_videos(session: Session) -> None:
    make_video(session, "v")
    with pytest.raises(InvalidValue, match=r"^videos: 'v' is one key"):
        recommender.rank(session, "viewer", "v")


def reference(world: dict[str, Any], user: int) -> list[tuple[str, Fraction]]:
    """The same formula in plain Python, in exact fractions."""
    viewer = world["users"][user]
    followed = {creator for follower, creator in world["follows"] if follower == user}
    scored = []
    for index, video in enumerate(world["videos"]):
        moment = video["published_at"] or UNDATED
        if video["status"] != "published" or moment > NOON:
            continue
        deeds = [deed for who, what, deed in world["deeds"] if (who, what) == (user, index)]
        values = signal_values(viewer, video, deeds, followed)
        score = sum((WEIGHTS[name] * value for name, value in values.items()), Fraction())
        scored.append((video["id"], score, moment, index))
    scored.sort(key=lambda row: row[1:], reverse=True)
    return [(key, score) for key, score, *_ in scored]


def signal_values(
    viewer: dict[str, Any], video: dict[str, Any], deeds: list[dict[str, Any]], followed: set[str]
) -> dict[str, Fraction]:
    watched = [Fraction(str(d["completion"])) for d in deeds if d["kind"] == "watch"]
    liked = [d["minutes"] for d in deeds if d["kind"] == "like"]
    unliked = [d["minutes"] for d in deeds if d["kind"] == "unlike"]
    return {
        "completion": max(watched, default=Fraction()),
        "likes": Fraction(bool(liked) and max(liked) > max(unliked, default=0)),
        "shares": Fraction(sum(d["kind"] == "share" for d in deeds)),
        "follows": Fraction(video["creator"] in followed),
        "hashtags": Fraction(len(set(video["hashtags"]) & set(viewer["interests"]))),
        "sound": Fraction(video["sound"] in viewer["liked_sounds"]),
        "language": Fraction(bool(video["language"]) and video["language"] == viewer["language"]),
        "country": Fraction(bool(video["country"]) and video["country"] == viewer["country"]),
    }


@pytest.mark.parametrize(
    ("examples", "least"), [(12, 100), pytest.param(60, 2_500, marks=pytest.mark.slow)]
)
def test_scores_and_order_equal_plain_python(session: Session, examples: int, least: int) -> None:
    pairs = 0

    @settings(max_examples=examples)
    @given(world=worlds())
    def compare(world: dict[str, Any]) -> None:
        nonlocal pairs
        with session.begin_nested() as savepoint:
            load(session, world)
            for user in range(len(world["users"])):
                page = preview(session, f"viewer{user}", limit=500, as_of=NOON)
                expected = reference(world, user)
                assert names(page) == [key for key, _ in expected]
                assert [item.score for item in page.items] == [float(s) for _, s in expected]
                pairs += len(expected)
            savepoint.rollback()

    compare()
    assert pairs >= least
