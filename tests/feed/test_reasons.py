"""Reasons name their cause: the same structure and the same sentence in every list."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import SIGNALS, FeedPage, InvalidValue, Reason, Words
from recommender.feed.reasons import MAX_REASONS, leading_signals, read_causes, reasons_of
from recommender.feed.values import Contribution, FeedItem
from recommender.feed.wording import LABELS, NOT_SHOWN, SHOWN, absence_of, label_of, sentence_of
from recommender.models import RecentEngagement, User, Video, VideoNeighbour
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import Oracle, load, random_world
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    follow,
    make_user,
    make_video,
    mute,
    preview,
    record,
    writes_of_a_page,
)

pytestmark = slow_on_postgresql

README = Path(recommender.__file__).parent / "feed" / "README.md"


def ids(session: Session) -> dict[str, int]:
    return {row.key: row.id for row in session.execute(sa.select(Video.key, Video.id))}


def item_with(video_id: int = 1, **values: float) -> FeedItem:
    """A video whose signals have the given values, each with weight 1."""
    signals = {name: Contribution(value, 1.0) for name, value in values.items()}
    return FeedItem(1, "new", "theo", None, (), "rain", NOON, 1.0, (), signals, video_id)


def reasons(session: Session, *items: FeedItem, user: str = "viewer") -> list[list[Reason]]:
    request = recommender.resolve(session, user, as_of=at(9))
    causes = read_causes(session, request, [item.video_id for item in items])
    return [list(reasons_of(item, causes, {})) for item in items]


def neighbour(session: Session, source: int, video: int, similarity: float) -> None:
    session.add(VideoNeighbour(source_id=source, video_id=video, similarity=similarity))
    session.flush()


def engaged(session: Session, user: str, video: int, minutes: float) -> None:
    user_id = session.scalar(sa.select(User.id).where(User.key == user))
    session.add(RecentEngagement(user_id=user_id, video_id=video, at=at(minutes)))
    session.flush()


@pytest.fixture
def world(session: Session) -> dict[str, int]:
    """A viewer who liked `liked`, watched `watched` and is offered `new`; gives the videos' ids."""
    make_user(session, "viewer", interests=["clay", "tea"])
    for key in ("liked", "watched", "new", "other"):
        tags = ["clay", "kiln"] if key != "other" else ["zen"]
        make_video(session, key, creator="theo", hashtags=tags, sound="rain")
    record(session, "like", "liked", at=at(1))
    record(session, "watch", "watched", completion=1.0, at=at(2))
    return ids(session)


def test_a_neighbour_names_the_recent_video_that_it_is_nearest_to(
    session: Session, world: dict[str, int]
) -> None:
    neighbour(session, world["liked"], world["new"], 0.9)
    neighbour(session, world["watched"], world["new"], 0.1)
    neighbour(session, world["watched"], world["other"], 0.5)
    items = [item_with(world[key], collaborative=0.5) for key in ("new", "other", "liked")]
    liked, enjoyed = Reason("liked", "liked"), Reason("enjoyed", "watched")
    assert reasons(session, *items) == [[liked], [enjoyed], [Reason("collaborative")]]
    recommender.set_video_status(session, "liked", "removed")  # it could not be opened
    assert reasons(session, items[0]) == [[enjoyed]]
    recommender.set_video_status(session, "liked", "published")
    mute(session, "viewer", "hashtag", "odd")
    make_video(session, "liked", creator="theo", hashtags=["clay", "odd"])
    assert reasons(session, items[0]) == [[enjoyed]]
    recommender.unmute(session, "viewer", "hashtag", "odd")
    assert reasons(session, items[0]) == [[liked]]
    record(session, "not_interested", "liked", at=at(3))
    assert reasons(session, items[0]) == [[enjoyed]]


def test_each_hashtag_signal_names_the_hashtag_that_says_most(
    session: Session, world: dict[str, int]
) -> None:
    clay, kiln = Reason("hashtag", "clay"), Reason("hashtag", "kiln")
    assert reasons(session, item_with(world["new"], hashtags=1)) == [[clay]]
    record(session, "like", "new", at=at(4), key="more")
    make_video(session, "kiln", hashtags=["kiln"])
    record(session, "like", "kiln", at=at(5))
    assert reasons(session, item_with(world["new"], hashtag_affinity=0.5)) == [[kiln]]
    assert reasons(session, item_with(world["new"], lately=0.5)) == [[kiln]]
    unknown = item_with(world["other"], hashtags=1)
    assert reasons(session, unknown) == [[Reason("hashtags")]]


def test_the_person_followed_who_enjoyed_it_last_is_named_and_nobody_else(
    session: Session, world: dict[str, int]
) -> None:
    for friend in ("ann", "bob"):
        follow(session, "viewer", friend)
    make_user(session, "stranger")
    follow(session, "stranger", "viewer")
    for person, minutes in (("ann", 1), ("bob", 2), ("stranger", 3)):
        engaged(session, person, world["new"], minutes)
    engaged(session, "stranger", world["other"], 3)
    items = [item_with(world[key], social=0.5) for key in ("new", "other")]
    assert reasons(session, *items) == [[Reason("followed", "bob")], [Reason("no_signal")]]
    mute(session, "viewer", "creator", "bob")
    assert reasons(session, items[0]) == [[Reason("followed", "ann")]]
    recommender.unmute(session, "viewer", "creator", "bob")
    recommender.unfollow(session, "viewer", "bob")
    assert reasons(session, items[0]) == [[Reason("followed", "ann")]]
    mute(session, "viewer", "creator", "ann")
    assert reasons(session, items[0]) == [[Reason("no_signal")]]


def test_a_page_that_comes_again_names_no_one_whom_the_viewer_no_longer_follows(
    session: Session, world: dict[str, int]
) -> None:
    for friend in ("ann", "theo"):
        follow(session, "viewer", friend)
    engaged(session, "ann", world["new"], 1)

    def page(**options: Any) -> FeedPage:
        return recommender.for_you(session, "viewer", as_of=at(9), reasons=True, **options)

    def kinds(page: FeedPage) -> set[str]:
        return {reason.kind for item in page.items for reason in item.reasons}

    def kinds_again() -> set[str]:
        return kinds(page(session_id=served.session))

    served = page()
    assert kinds(served) == kinds_again() >= {"follows", "followed"}
    recommender.unfollow(session, "viewer", "theo")
    assert kinds_again() & {"follows", "creator", "followed"} == {"creator", "followed"}
    recommender.block(session, "ann", "viewer")
    assert kinds_again() & {"follows", "followed"} == set()


@pytest.mark.parametrize("blocker", ["viewer", "ann"])
def test_no_reason_names_who_is_on_the_other_side_of_a_block(
    session: Session, world: dict[str, int], blocker: str
) -> None:
    follow(session, "viewer", "ann")
    make_video(session, "hers", creator="ann", hashtags=["clay"])
    record(session, "like", "hers", at=at(3))
    neighbour(session, ids(session)["hers"], world["new"], 0.9)
    engaged(session, "ann", world["new"], 1)
    item = item_with(world["new"], collaborative=0.9, social=0.5)
    named = [Reason("liked", "hers"), Reason("followed", "ann")]
    options: dict[str, Any] = {"as_of": at(9), "reasons": True}

    def ranked() -> list[str | None]:
        (shown,) = recommender.rank(session, "viewer", ["hers"], **options).items
        return [reason.subject for reason in shown.reasons]

    assert reasons(session, item) == [named]
    assert "ann" in ranked()
    other = {"viewer": "ann", "ann": "viewer"}[blocker]
    recommender.block(session, blocker, other, at=at(4))
    assert reasons(session, item) == [[Reason("collaborative")]]
    assert "ann" not in ranked()
    explained = recommender.explain(session, "viewer", "hers", as_of=at(9))
    told = {"viewer": Reason("blocked_creator", "ann", at(4)), "ann": Reason("available")}
    assert explained.reasons == (told[blocker],)
    recommender.unblock(session, blocker, other)
    assert reasons(session, item) == [named]


def test_a_cause_is_named_once_and_three_are_named_at_most(
    session: Session, world: dict[str, int]
) -> None:
    follow(session, "viewer", "theo")
    item = item_with(
        world["new"], hashtags=2, hashtag_affinity=0.9, follows=1, creator_affinity=0.8,
        sound=0.7, sound_affinity=0.6, caption=0.5,
    )  # fmt: skip
    (found,) = reasons(session, item)
    assert found == [Reason("hashtag", "clay"), Reason("follows", "theo"), Reason("sound", "rain")]
    assert len(found) == MAX_REASONS
    assert sentence_of(item, found, {}) == (
        "Because you like #clay, you follow theo and you like the sound rain."
    )
    assert [label_of(item, reason) for reason in found] == [
        "#clay", "you follow theo", "the sound rain",
    ]  # fmt: skip


def test_what_the_viewer_did_comes_before_what_holds_for_everyone() -> None:
    item = item_with(freshness=1.0, follows=0.3, lately=0.01, quality=0.5)
    assert leading_signals(item) == ["follows", "freshness", "quality", "lately"]
    unseen = item_with(quality=0.5, exploration=0.9)
    assert leading_signals(unseen) == ["exploration"]


def test_a_signal_that_speaks_against_a_video_is_no_cause() -> None:
    item = item_with(lately=-0.5, follows=0.0)
    assert leading_signals(item) == []
    assert reasons_of(item, {}, {}) == (Reason("no_signal"),)


def test_every_signal_has_a_reason_and_what_is_not_known_is_not_named() -> None:
    unknown = FeedItem(1, "v", None, None, (), None, None, 1.0, (), {}, 1)
    for signal in SIGNALS:
        item = item_with(**{signal.name: 0.5})
        known = {
            (1, "social"): Reason("followed", "ann"),
            (1, "follows"): Reason("follows", "theo"),
        }
        (reason,) = reasons_of(item, known, {})
        assert reason.kind in SHOWN.keys() - {"signal", "no_signal"}
        bare = FeedItem(1, "v", None, None, (), None, None, 1.0, (), item.signals, 1)
        assert "None" not in sentence_of(bare, reasons_of(bare, {}, {}), {})
    assert reasons_of(unknown, {}, {}) == (Reason("no_signal"),)
    item = item_with(boost=0.5)
    assert reasons_of(item, {}, {}) == (Reason("signal", "boost"),)
    assert sentence_of(item, reasons_of(item, {}, {}), {}) == "Because its boost is 0.5."


def strongest(values: Mapping[str, float]) -> str | None:
    """Return the name of the greatest value above 0, of equal ones the first name."""
    names = sorted(values, key=lambda name: (-round(values[name], 9), name))
    return next((name for name in names if values[name] > 0), None)


def expected_causes(oracle: Oracle, video: str) -> dict[str, Reason]:
    """Return what may be named for a video by signal, worked out in plain Python."""
    world, tags = oracle.world, oracle.world.videos[video]["hashtags"]
    own_acts = {"not_own", "not_rejected", "not_seen"}
    near = {
        source: similarity * oracle.recent[source]
        for (source, other), similarity in world.neighbours.items()
        if other == video
        and source in oracle.recent
        and all(passed for name, passed in oracle.filters(source).items() if name not in own_acts)
    }
    people = {
        person: 1 / (1 + (oracle.as_of - moment) / timedelta(days=1))
        for person, moment in oracle.people(video).items()
        if moment <= oracle.as_of
    }
    creator = world.videos[video].get("creator")
    affinities = {tag: world.affinities.get((oracle.user, "hashtag", tag), 0.0) for tag in tags}
    interests = oracle.viewer.get("interests", ())
    source = strongest(near)
    kind = "liked" if source and oracle.is_on(source, "like", "unlike") else "enjoyed"
    named = {
        "collaborative": (kind, source),
        "social": ("followed", strongest(people)),
        "follows": ("follows", creator if creator in oracle.followed else None),
        "hashtags": ("hashtag", strongest({tag: 1.0 for tag in tags if tag in interests})),
        "hashtag_affinity": ("hashtag", strongest(affinities)),
        "lately": ("hashtag", strongest({tag: oracle.lately(tag) for tag in tags})),
    }
    return {signal: Reason(*cause) for signal, cause in named.items() if cause[1]}


@pytest.mark.parametrize("seed", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_all_that_reasons_name_is_what_plain_python_names(session: Session, seed: int) -> None:
    world, named = random_world(seed), Counter[str]()
    load(session, world)
    keys = {row_id: key for key, row_id in world.rows.items()}
    for user in (*world.users, "nobody"):
        oracle = Oracle(world, user)
        causes = read_causes(session, recommender.resolve(session, user, as_of=NOON), list(keys))
        found = {(keys[row_id], signal): cause for (row_id, signal), cause in causes.items()}
        assert found == {
            (video, signal): cause
            for video in world.videos
            for signal, cause in expected_causes(oracle, video).items()
        }
        named.update(cause.kind for cause in found.values())
    assert named.keys() == {"liked", "enjoyed", "followed", "follows", "hashtag"}


def make_lists(session: Session) -> None:
    """Make a viewer with a reason of each personal kind, and a video to show."""
    make_user(session, "viewer", interests=["clay"], language="en")
    for creator in ("theo", "mia"):
        follow(session, "viewer", creator)
    for key in ("liked", "new"):
        make_video(session, key, creator="theo", hashtags=["clay"], language="en")
    make_video(session, "trend", creator="zoe")
    record(session, "like", "liked", at=at(1))
    found = ids(session)
    neighbour(session, found["liked"], found["new"], 0.9)
    engaged(session, "mia", found["trend"], 1)
    session.execute(sa.update(Video).where(Video.key == "trend").values(trending=9.0))


OPTIONS: Mapping[str, Any] = {"as_of": at(9)}

VIDEOS = ("new", "trend", "liked")

LISTS: Mapping[str, tuple[Callable[..., FeedPage], int]] = {
    "for_you": (lambda session, **o: preview(session, **OPTIONS, **o), 1),
    "rank": (lambda session, **o: recommender.rank(session, "viewer", VIDEOS, **OPTIONS, **o), 1),
    "following": (lambda session, **o: recommender.following(session, "viewer", **OPTIONS, **o), 0),
    "trending": (lambda session, **o: recommender.trending(session, **OPTIONS, **o), 0),
    "a stranger's": (lambda session, **o: preview(session, "stranger", **OPTIONS, **o), 0),
    "classic": (lambda session, **o: preview(session, profile="classic", **OPTIONS, **o), 1),
}  # fmt: skip


def test_every_list_tells_its_reasons_and_only_for_you_and_rank_ask_the_database(
    session: Session,
) -> None:
    make_lists(session)
    told: dict[str, dict[str, str | None]] = {}
    for name, (ask, more) in LISTS.items():
        with counted_statements(session.connection()) as sent:
            plain = ask(session)
        usual = len(sent)
        with counted_statements(session.connection()) as sent:
            page = ask(session, reasons=True)
        assert len(sent) == usual + more, name
        assert all((item.reasons, item.reason) == ((), None) for item in plain.items)
        assert all(1 <= len(item.reasons) <= MAX_REASONS for item in page.items)
        assert [item.video for item in page.items] == [item.video for item in plain.items] != []
        assert "reason" not in plain.items[0].as_dict()
        told[name] = {item.video: item.reason for item in page.items}
        assert json.loads(json.dumps(page.as_dict()))["items"][0]["reason"]
    best = "Because you liked liked, you follow theo and you like #clay."
    assert told["for_you"]["new"] == told["rank"]["new"] == best
    assert told["for_you"]["trend"] == "Because mia enjoyed it, it is trending now and it is new."
    assert told["following"]["new"] == "Because you follow theo."
    assert told["trending"]["trend"] == "Because it is trending now."
    assert told["trending"]["new"] == "Because it is one of the newest."


def test_explain_tells_the_reasons_that_a_page_tells(session: Session) -> None:
    make_lists(session)
    for item in preview(session, reasons=True, **OPTIONS).items:
        explained = recommender.explain(session, "viewer", item.video, **OPTIONS)
        assert (explained.reasons, explained.reason) == (item.reasons, item.reason)
        assert explained.as_dict()["reasons"] == item.as_dict()["reasons"]


def test_a_page_that_was_served_tells_its_reasons_again(session: Session) -> None:
    make_lists(session)

    def page(**options: Any) -> tuple[FeedPage, int]:
        with counted_statements(session.connection()) as sent:
            served = recommender.for_you(session, "viewer", limit=1, **OPTIONS, **options)
        return served, len(sent)

    cursor = page()[0].cursor
    (first, cost) = page(cursor=cursor, reasons=True)
    assert cost == 4 + writes_of_a_page(session)
    (again, cost), (plain, usual) = page(cursor=cursor, reasons=True), page(cursor=cursor)
    assert cost == usual + 1
    assert first.items == again.items != plain.items
    assert again.items[0].reasons
    assert (again.cursor, again.exhausted) == (plain.cursor, plain.exhausted)


def test_a_recorded_page_keeps_the_reasons_it_came_with(session: Session) -> None:
    make_lists(session)
    ranked = preview(session, reasons=True, **OPTIONS)
    recorded = recommender.record_page(session, ranked)
    assert [item.reasons for item in recorded.items] == [item.reasons for item in ranked.items]


def test_sentences_have_the_words_of_the_format(session: Session) -> None:
    make_user(session)
    make_video(session, "tea", format="article")
    record(session, "watch", "tea", completion=0.4, at=at(1))
    words = {"article": Words("articles", "read", "read on")}
    recommender.create_profile(session, "mine", {"completion": 1})
    lists: tuple[Callable[..., FeedPage], ...] = (
        lambda **o: preview(session, rewatch=True, profile="mine", **o),
        lambda **o: recommender.rank(session, "viewer", ["tea"], profile="mine", **o),
    )
    for ask in lists:
        (item,) = ask(reasons=True, words=words).items
        assert (item.reason, item.reasons) == (
            "Because you read 40% of it.", (Reason("completion"),),
        )  # fmt: skip
    everywhere = (
        *lists,
        lambda **o: recommender.following(session, "viewer", **o),
        lambda **o: recommender.trending(session, **o),
        lambda **o: recommender.explain(session, "viewer", "tea", **o),
    )
    for ask in everywhere:
        for odd in ("article", {"article": "articles"}):
            with pytest.raises(InvalidValue, match=r"^words: "):
                ask(words=odd)


def test_the_latest_mute_that_hides_a_video_is_named(session: Session) -> None:
    make_user(session)
    make_video(session, "v", hashtags=["cats", "dogs"])
    for kind, value, minutes in (("hashtag", "cats", -2 * 1440), ("hashtag", "dogs", -1440)):
        mute(session, "viewer", kind, value, at=at(minutes))
    explained = recommender.explain(session, "viewer", "v", as_of=NOON)
    assert explained.reasons == (Reason("muted_hashtag", "dogs", at(-1440)),)
    assert explained.reason == "Not shown: you muted its hashtag #dogs on 31 December 2025."
    recommender.unmute(session, "viewer", "hashtag", "dogs")
    explained = recommender.explain(session, "viewer", "v", as_of=NOON)
    assert explained.reasons == (Reason("muted_hashtag", "cats", at(-2 * 1440)),)


SUBJECTS: Mapping[str, str | None] = {
    "a video": "pottery-12",
    "a creator": "theo.clay",
    "a user whom the viewer follows": "mia",
    "a hashtag": "pottery",
    "a sound": "slow-morning-1",
    "words": "spoiler alert",
    "a signal of yours": "boost",
    "none": None,
}
"""What the README's tables call a subject, and the example that they use for it."""


def rows_of_the_readme(title: str) -> list[list[str]]:
    """Return the cells of the table below a header cell."""
    lines = README.read_text("utf-8").split(f"| {title} | subject |")[1].splitlines()[2:]
    table = lines[: next(n for n, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]


def test_the_readme_lists_every_kind_with_its_sentence() -> None:
    example = item_with(completion=0.75, quality=0.63, boost=0.5)
    shown, absent = rows_of_the_readme("shown because"), rows_of_the_readme("not shown")
    assert [row[0] for row in shown] == list(SHOWN)
    assert sorted(row[0] for row in absent) == sorted(NOT_SHOWN)
    for kind, subject, sentence in shown:
        assert sentence_of(example, [Reason(kind, SUBJECTS[subject])], {}) == f"Because {sentence}."
    for kind, subject, sentence in absent:
        moment = NOON if "1 January 2026" in sentence else None
        reason = Reason(kind, SUBJECTS[subject], moment)
        assert absence_of(example, [reason], {}) == f"Not shown: {sentence}."
    assert LABELS.keys() < SHOWN.keys()
    named = {kind for kind, subject, _ in (*shown, *absent) if SUBJECTS[subject]}
    assert named == {kind for kind, text in {**SHOWN, **NOT_SHOWN}.items() if "{subject}" in text}
    dated = {kind for kind, _, sentence in absent if re.search(r"\b1 January", sentence)}
    assert dated == {kind for kind, text in NOT_SHOWN.items() if "{on}" in text}


def test_a_reason_is_a_frozen_value() -> None:
    reason = Reason("muted_creator", "theo", NOON)
    assert reason.as_dict() == {
        "kind": "muted_creator", "subject": "theo", "at": "2026-01-01T12:00:00Z",
    }  # fmt: skip
    assert Reason("likes").as_dict() == {"kind": "likes", "subject": None, "at": None}
    with pytest.raises(FrozenInstanceError):
        reason.kind = "liked"  # type: ignore[misc]
