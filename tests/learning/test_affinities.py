"""What is learned of a user: one sum, whatever the order, and the next page that shows it."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import Event, Settings, record_many, run_transaction
from recommender.formats import scalars
from recommender.learning.affinities import RULE_COLUMNS
from recommender.learning.engagement import is_engaged, watched
from recommender.models import Video
from recommender.models.tables import HASHTAGS, SOUNDS, USERS, VIDEOS
from recommender.operations.users import reset_user
from tests.support.oracle import ids, put, table
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_event,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
    unspread,
)

Affinities = dict[tuple[str, str, str], float]
ABOUT: dict[str, dict[str, Any]] = {
    "short": {"creator": "star", "sound": "song", "hashtags": ["a", "b"], "duration_ms": 10_000},
    "long": {
        "creator": "star",
        "sound": "tune",
        "hashtags": ["b", "c", "d"],
        "duration_ms": 90_000,
    },
    "plain": {"creator": "else", "sound": None, "hashtags": [], "duration_ms": None},
    "own": {"creator": "viewer", "sound": "song", "hashtags": ["a"], "duration_ms": 60_000},
}
PUBLISHED = at(2)
SPREAD = 9
"""Days between one moment of these tests and the next."""


def moment(number: int) -> datetime:
    return NOON + timedelta(days=SPREAD * number)


def catalogue(session: Session, **about: dict[str, Any]) -> None:
    for user in ("viewer", "other"):
        make_user(session, user)
    for video, row in (about or ABOUT).items():
        make_video(session, video, published_at=PUBLISHED, **row)


def affinities(session: Session) -> Affinities:
    named: dict[str, dict[int, str]] = {
        subject: {row_id: name for name, row_id in ids(session, of).items()}
        for subject, of in (("creator", USERS), ("hashtag", HASHTAGS), ("sound", SOUNDS))
    }
    return {
        (named["creator"][user], subject, named[subject][subject_id]): score
        for user, subject, subject_id, score in session.execute(sa.select(table("affinities")))
    }


def rules_of(session: Session) -> dict[str, Any]:
    state = table("learning_state")
    row = session.execute(sa.select(*(state.c[name] for name in RULE_COLUMNS))).one()
    return dict(row._mapping)


OPPOSITES = {
    "like": "unlike", "save": "unsave", "not_interested": "interested",
    "interested": "not_interested",
}  # fmt: skip


class Reference:
    """The documented rules, from all events at once.

    `sizes` are the sums of what each contribution is without its sign: what rounding depends on.
    """

    def __init__(self, rules: dict[str, Any], since: datetime | None = None) -> None:
        self.rules = rules
        self.since = since
        self.sums: dict[tuple[str, str, str], float] = defaultdict(float)
        self.sizes: dict[tuple[str, str, str], float] = defaultdict(float)

    def add(self, user: str, video: str, weight: float, when: datetime, **about: Any) -> None:
        if self.since is not None and user == "viewer" and when <= self.since:
            return
        row = {**ABOUT[video], **about}
        hashtags = row["hashtags"]
        parts = [("creator", row["creator"], 1.0), ("sound", row["sound"], 1.0)]
        parts += [("hashtag", tag, 1 / len(hashtags)) for tag in hashtags]
        for subject, name, part in parts:
            if name is not None:
                days = (when - self.rules["landmark"]) / timedelta(days=1)
                grown = weight * part * 2 ** (days / self.rules[f"{subject}_half_life_days"])
                self.sums[user, subject, name] += grown
                self.sizes[user, subject, name] += abs(grown)

    def events(self, events: Iterable[Event]) -> None:
        rules = self.rules
        turned: dict[tuple[str, str, str], datetime] = {}
        for each in events:
            kind, pair = each.kind, (each.user, each.video)
            if kind in {"share", "comment", "convert", "report"}:
                self.add(*pair, rules[f"{kind}_weight"], each.at)
            elif kind == "watch":
                self.add(*pair, self.of_watch(each), each.at)
            turned[*pair, kind] = max(each.at, turned.get((*pair, kind), each.at))
        for (user, video, kind), when in turned.items():
            off = turned.get((user, video, OPPOSITES.get(kind, "")))
            ties = kind == "interested" and when == off
            if kind in OPPOSITES and (off is None or when > off or ties):
                self.add(user, video, rules[f"{kind}_weight"], when)

    def of_watch(self, each: Event) -> float:
        duration = ABOUT[each.video]["duration_ms"]
        watch_ms, part = watched(each.watch_ms, each.completion, duration)
        half = self.rules["long_video_ms"]
        if is_engaged(each.watch_ms, each.completion, duration):
            length = duration or half
            whole = 1.0 if part is None else part
            return float(self.rules["watch_weight"] * whole * length / (length + half))
        is_fast = each.watch_ms is not None and (watch_ms or 0) < 3_000
        return float(self.rules["skip_weight"]) if is_fast else 0.0

    def own(self) -> None:
        """A video that the user publishes is an engagement with its hashtags and sound."""
        for video, row in ABOUT.items():
            weight = self.rules["publish_weight"]
            self.add(row["creator"], video, weight, PUBLISHED, creator=None)

    def check(self, found: Affinities) -> None:
        for key in {*found, *self.sums}:
            slack = 1e-9 * self.sizes[key]
            assert found.get(key, 0.0) == pytest.approx(self.sums[key], abs=slack, rel=0), key


BODY = st.fixed_dictionaries({
    "user": st.sampled_from(["viewer", "viewer", "other"]),
    "video": st.sampled_from(sorted(ABOUT)),
    "kind": st.sampled_from(scalars.EVENT_KINDS),
    "at": st.integers(0, 5).map(moment),
    "watch_ms": st.sampled_from([None, 0, 2_999, 3_000, 10_000, 18_000]),
    "completion": st.sampled_from([None, 0.0, 0.25, 1.0]),
})  # fmt: skip


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]]]:
    """Some events, and the same in any order, in any batches, some of them again."""
    bodies = draw(st.lists(BODY, min_size=1, max_size=16))
    events = [Event(key=f"k{number}", **body) for number, body in enumerate(bodies)]
    repeats = draw(st.lists(st.sampled_from(events), max_size=6))
    stream = draw(st.permutations([*events, *repeats]))
    cuts = sorted(draw(st.sets(st.integers(1, len(stream)), max_size=4)))
    return events, [stream[low:high] for low, high in pairwise([0, *cuts, len(stream)])]


def future(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalars, "now", lambda: moment(99))


@pytest.mark.slow
def test_any_order_any_batches_and_any_repeats_learn_the_same(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    future(monkeypatch)
    catalogue(session)
    rules = rules_of(session)

    @settings(max_examples=80)
    @given(deliveries(), st.one_of(st.none(), st.integers(-1, 5).map(moment)))
    def compare(delivery: tuple[list[Event], list[list[Event]]], since: datetime | None) -> None:
        events, batches = delivery
        expected = Reference(rules, since)
        expected.own()
        expected.events(events)
        with session.begin_nested() as savepoint:
            if since is not None:
                reset_user(session, "viewer", at=since)
            for batch in batches:
                record_many(session, batch)
            expected.check(affinities(session))
            savepoint.rollback()

    compare()


@pytest.mark.slow
def test_a_reset_in_between_forgets_what_was_until_then(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before or after the reset, recorded once or again: what happened later counts."""
    future(monkeypatch)
    catalogue(session)
    rules = rules_of(session)

    @settings(max_examples=50)
    @given(deliveries(), st.integers(-1, 5).map(moment), st.integers(0, 4))
    def compare(
        delivery: tuple[list[Event], list[list[Event]]], since: datetime, place: int
    ) -> None:
        events, batches = delivery
        expected = Reference(rules, since)
        expected.own()
        expected.events(events)
        with session.begin_nested() as savepoint:
            for number, batch in enumerate([*batches, []]):
                if number == min(place, len(batches)):
                    reset_user(session, "viewer", at=since)
                record_many(session, batch)
            expected.check(affinities(session))
            savepoint.rollback()

    compare()


@pytest.mark.parametrize(("kind", "subjects"), [("like", 4), ("save", 4), ("not_interested", 4)])
def test_a_hundred_likes_under_a_hundred_keys_are_one(
    session: Session, kind: str, subjects: int
) -> None:
    catalogue(session, short=ABOUT["short"])
    once = Reference(rules_of(session))
    once.events([make_event(kind, "short")])
    record_many(session, [make_event(kind, "short") for _ in range(50)])
    for _ in range(50):
        record(session, kind, "short")
    viewers = {key: score for key, score in affinities(session).items() if key[0] == "viewer"}
    assert len(viewers) == subjects
    assert viewers == pytest.approx({key: once.sums[key] for key in viewers}, rel=1e-12)


def test_a_like_taken_back_leaves_nothing(session: Session) -> None:
    catalogue(session, short=ABOUT["short"])
    for minutes, kind in enumerate(["like", "unlike", "like", "save", "unlike", "unsave"]):
        record(session, kind, "short", at=at(minutes))
    scores = [score for key, score in affinities(session).items() if key[0] == "viewer"]
    assert scores == pytest.approx([0] * 4, abs=1e-12)


def test_the_longest_times_there_can_be_are_learned_of(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalars, "now", lambda: datetime(2099, 12, 31, tzinfo=UTC))
    catalogue(session)
    half_lives = {f"{subject}_half_life_days": 14 for subject in ("creator", "hashtag", "sound")}
    weights = {name: 100 if "weight" in name else half for name, half in half_lives.items()}
    first = datetime(1970, 1, 1, tzinfo=UTC)
    state = {**weights, "landmark": first, "like_weight": 100}
    session.execute(table("learning_state").update().values(state))
    for when in (first, datetime(2099, 12, 31, tzinfo=UTC)):
        for kind in ("like", "save", "share", "watch"):
            record(session, kind, "long", at=when, watch_ms=90_000 if kind == "watch" else None)
    assert max(affinities(session).values()) > 1e200
    recommender.create_profile(session, "mine", {"creator_affinity": 1})
    for as_of in (first, NOON, datetime(2099, 12, 31, tzinfo=UTC)):
        (item,) = recommender.rank(session, "viewer", ["long"], profile="mine", as_of=as_of).items
        assert 0.9 < item.score <= 1


TOPICS = ("cooking", "dancing", "hiking", "singing")


def topics(session: Session) -> None:
    """Videos of four topics, one after another, each by a creator of its own."""
    make_user(session)
    for number in range(80):
        make_video(
            session, f"{TOPICS[number % 4]} {number}", creator=f"c{number}",
            hashtags=[TOPICS[number % 4]], duration_ms=30_000, published_at=at(-number - 60),
        )  # fmt: skip


def share(session: Session, topic: str, profile: str) -> int:
    page = unspread(session, "viewer", limit=20, profile=profile, as_of=at(10))
    return Counter(name.split()[0] for name in names(page))[topic]


@pytest.mark.parametrize("profile", ["mine", "for_you"])
def test_the_next_page_reflects_the_last_swipes(session: Session, profile: str) -> None:
    topics(session)
    recommender.create_profile(session, "mine", {"hashtag_affinity": 1})
    shares = [share(session, "dancing", profile)]
    for number in range(5):
        record(session, "watch", f"dancing {4 * number + 1}", watch_ms=29_000, at=at(number))
    shares.append(share(session, "dancing", profile))
    assert shares[0] == 5 < shares[1]
    for number in range(5, 10):
        record(session, "not_interested", f"dancing {4 * number + 1}", at=at(number))
    shares.append(share(session, "dancing", profile))
    assert shares[2] < shares[0]
    for number in range(5):
        record(session, "watch", f"hiking {4 * number + 2}", watch_ms=500, at=at(number))
    assert share(session, "hiking", profile) < 5


def test_the_more_of_a_long_video_is_watched_the_more_it_says(session: Session) -> None:
    make_user(session)
    bodies = {
        "short to the end": (10_000, 1.0), "long to a third": (90_000, 0.33),
        "long to the end": (90_000, 1.0), "very long to the end": (900_000, 1.0),
    }  # fmt: skip
    for video, (duration_ms, completion) in bodies.items():
        make_video(session, video, creator=video, duration_ms=duration_ms)
        record(session, "watch", video, completion=completion)
    learned = affinities(session)
    found = [learned["viewer", "creator", video] for video in bodies]
    assert found == sorted(found)
    assert len(set(found)) == 4


@pytest.mark.parametrize("subject", ["creator", "hashtag", "sound"])
def test_a_dislike_heals_with_the_half_life(session: Session, subject: str) -> None:
    """What a score was squeezed from halves after each half-life, whatever its sign."""
    catalogue(session, short=ABOUT["short"], like=ABOUT["plain"] | {"creator": "good"})
    half_lives = {"creator": 20.0, "hashtag": 35.0, "sound": 50.0}
    rules = {f"{each}_half_life_days": days for each, days in half_lives.items()}
    session.execute(table("learning_state").update().values(rules))
    record(session, "not_interested", "short")
    recommender.create_profile(session, "mine", {f"{subject}_affinity": 1})
    found = []
    for number in range(4):
        as_of = NOON + timedelta(days=number * half_lives[subject])
        page = recommender.rank(session, "viewer", ["short"], profile="mine", as_of=as_of)
        value = page.items[0].signals[f"{subject}_affinity"].value
        found.append(Settings().affinity_scale * value / (1 - abs(value)))
    assert found[0] == pytest.approx(-1.5, abs=1e-9)
    assert found == pytest.approx([found[0] / 2**number for number in range(4)], abs=1e-9)


def test_affinities_are_squeezed_and_one_topic_is_no_more_than_one(session: Session) -> None:
    """A video with many hashtags of one mind is not above the range."""
    tags = [f"t{number}" for number in range(300)]
    make_user(session)
    make_video(session, "v", hashtags=tags)
    user_id, known = ids(session, USERS)["viewer"], ids(session, HASHTAGS)
    put(session, "affinities", [
        {"user_id": user_id, "subject": "hashtag", "subject_id": known[tag], "score": 10}
        for tag in tags
    ])  # fmt: skip
    recommender.create_profile(session, "mine", {"hashtag_affinity": 1})
    (item,) = preview(session, "viewer", profile="mine", as_of=NOON).items
    assert 0.99 < item.score < 1


@pytest.mark.parametrize("kind_of_event", scalars.EVENT_KINDS)
def test_one_event_of_any_kind_is_six_statements_at_most(
    session: Session, kind_of_event: str
) -> None:
    catalogue(session)
    for _ in range(2):
        with counted_statements(session.connection()) as sent:
            recommender.record(session, "viewer", "long", kind_of_event, at=NOON)
        assert len(sent) <= 6, sent


def streams(seed: int, users: Sequence[str]) -> list[list[Event]]:
    """Eight streams of events of some users."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    return [
        [
            make_event(
                chance.choice(scalars.EVENT_KINDS),
                chance.choice(sorted(ABOUT)),
                chance.choice(users),
                at=moment(0) + timedelta(minutes=chance.randrange(9_999)),
                watch_ms=chance.choice([None, 1_000, 60_000]),
            )
            for _ in range(24)
        ]
        for _ in range(8)
    ]  # fmt: skip


def test_eight_writers_of_one_user_learn_what_one_writer_learns(engine: Engine) -> None:
    run_transaction(engine, catalogue)
    each = streams(1, ["viewer"])
    barrier = Barrier(8, timeout=60)

    def write(events: list[Event]) -> None:
        barrier.wait()
        for start in range(0, len(events), 4):
            run_transaction(engine, partial(record_many, events=events[start : start + 4]))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, each))
    with Session(engine) as session:
        expected = Reference(rules_of(session))
        expected.own()
        expected.events([event for events in each for event in events])
        expected.check(affinities(session))


def test_a_page_of_a_writer_shows_what_it_did_in_the_same_transaction(session: Session) -> None:
    make_user(session)
    make_videos(session, "a", "b", creator="star")
    recommender.create_profile(session, "mine", {"creator_affinity": 1})
    record(session, "like", "a")
    (item,) = preview(session, "viewer", profile="mine", as_of=NOON).items
    assert (item.video, item.sources) == ("b", ("creators", "fresh", "newest"))
    grown = 0.5 / Settings().affinity_scale
    assert item.score == pytest.approx(grown / (1 + grown), abs=1e-9)
    assert session.scalar(sa.select(sa.func.count()).select_from(Video)) == 2
    assert ids(session, VIDEOS).keys() == {"a", "b"}
