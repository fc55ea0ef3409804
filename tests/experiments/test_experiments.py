"""Experiments: who is in which arm, what their pages are ranked by, and how one ends."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    ExperimentRunning,
    FeedPage,
    InvalidValue,
    NotFound,
    UnknownFeed,
    UnknownProfile,
    get_experiment,
    list_experiments,
    run_transaction,
    start_experiment,
    stop_experiment,
)
from recommender.evaluation.labels import served_pages
from recommender.feed.selection import ScoredCandidate, draft
from recommender.formats.experiments import arm_number
from recommender.models.tables import EXPERIMENTS, SERVED, SESSIONS, USERS
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import NOON, at, counted_statements, make_user, make_videos, rows_of

pytestmark = slow_on_postgresql

ARM = "experiment_id", "arm"
COUNTERS = "pages", "asked", "exhausted"


def serve(session: Session, user: str = "viewer", **options: Any) -> FeedPage:
    return recommender.for_you(session, user, **{"as_of": NOON, "limit": 2, **options})


def make_world(session: Session, users: int = 1) -> list[str]:
    """Users, and videos that the profile `old` shows in the other order than For You."""
    recommender.create_profile(session, "old", {"freshness": -1.0})
    keys = ["viewer", *(f"u{number}" for number in range(users - 1))]
    for key in keys:
        make_user(session, key)
    for number in range(9):
        make_videos(session, f"v{number}", creator=f"c{number}", published_at=at(-60 - number))
    return keys


def arms_of(session: Session) -> list[tuple[Any, ...]]:
    """The arms of all sessions, those in no experiment first."""
    rows = session.execute(sa.select(*(SESSIONS.c[name] for name in ARM)))
    return sorted(map(tuple, rows), key=lambda row: (row[0] or 0, row[1] or 0))


def user_in(session: Session, keys: list[str], number: int, name: str = "tried") -> str:
    """The first user whose arm has a number."""
    ids = dict(rows_of(session, USERS, "key", "id"))
    return next(key for key in keys if arm_number(name, f"user {ids[key]}", [0.5, 0.5]) == number)


def test_shares_are_kept_and_experiments_do_not_depend_on_one_another() -> None:
    units = [f"user {number}" for number in range(20_000)]
    arms = [tuple(arm_number(name, unit, (0.5, 0.3, 0.2)) for name in "ab") for unit in units]
    assert arms == [tuple(arm_number(name, u, (0.5, 0.3, 0.2)) for name in "ab") for u in units]
    for (one, other), count in Counter(arms).items():
        shares = (0.5, 0.3, 0.2)
        expected = 20_000 * shares[one] * shares[other]
        assert abs(count - expected) < 5 * expected**0.5
    assert arm_number("a", "user 1", (0.1,) * 9) == arm_number("a", "user 1", (0.1,) * 9) <= 8


def test_a_session_has_the_profile_of_its_users_arm_and_keeps_it(session: Session) -> None:
    keys = make_world(session, users=12)
    tried = start_experiment(session, "tried", ["old"])
    for number, label in enumerate(("for_you@1", "old@1")):
        user = user_in(session, keys, number)
        first = serve(session, user)
        shown = [item.video for item in first.items]
        named = recommender.rank(session, user, shown, profile=label, as_of=NOON)
        wanted = {item.video: item.score for item in named.items}
        assert {item.video: item.score for item in first.items} == wanted
        assert first.request.arm == ("tried", label, number, tried.id)
        assert first.as_dict()["experiment"] == "tried"
        for same in (
            recommender.explain(session, user, "v8", as_of=NOON),
            recommender.rank(session, user, ["v8"], as_of=NOON),
        ):
            assert same.request.profile.label == label
        stopped = number == 1 and stop_experiment(session, "tried")
        second = serve(session, user, cursor=first.cursor)
        assert second.request.arm == first.request.arm
        assert second.request.profile.label == label
        served = serve(session, user, cursor=first.cursor)
        assert (served.items, served.request.arm) == (second.items, second.request.arm)
        assert not stopped or serve(session, user).request.arm is None
    assert arms_of(session) == [(None, None), (tried.id, 0), (tried.id, 1)]


def test_a_request_that_names_a_profile_is_in_no_experiment(session: Session) -> None:
    make_world(session)
    tried = start_experiment(session, "tried", ["old"])
    named = serve(session, profile="for_you")
    assert named.request.arm is None
    assert "experiment" not in named.as_dict()
    assert serve(session, cursor=named.cursor).request.arm is None
    assert arms_of(session) == [(None, None)]
    first = serve(session)
    assert serve(session, cursor=first.cursor, profile="for_you").request.arm is None
    assert arms_of(session) == [(None, None), (tried.id, None)]
    report = recommender.experiment_report(session, "tried", as_of=tried.started_at)
    assert (report.users, report.left_out) == (0, 0)


def test_pages_add_up_in_their_session(session: Session) -> None:
    make_world(session)
    own = str(uuid4())
    first = serve(session, limit=6, session_id=own)
    assert serve(session, limit=6, session_id=own).items == first.items
    second = serve(session, limit=6, cursor=first.cursor)
    assert (len(second.items), second.exhausted) == (3, True)
    assert rows_of(session, SESSIONS, *COUNTERS) == [(2, 12, 1)]
    preview = serve(session, record=False, rewatch=True)
    slow = recommender.record_page(session, replace(preview, milliseconds=250))
    assert not slow.stale
    ((took,),) = session.execute(
        sa.select(SESSIONS.c.milliseconds).where(SESSIONS.c.session == preview.request.session)
    )
    assert took == 250
    assert rows_of(session, SESSIONS, *COUNTERS)[-1] in {(1, 2, 0), (2, 12, 1)}


def test_an_experiment_takes_no_further_statement(session: Session) -> None:
    keys = make_world(session, users=12)
    counts = []
    for _ in range(2):
        user = user_in(session, keys, 1)
        with counted_statements(session.connection()) as statements:
            assert serve(session, user).items
        counts.append(len(statements))
        if len(counts) == 1:
            start_experiment(session, "tried", ["old"])
    assert counts[0] == counts[1]


def test_a_new_key_and_a_merge_keep_the_arm(engine: Engine) -> None:
    keys = run_transaction(engine, lambda s: make_world(s, users=12))
    run_transaction(engine, lambda s: start_experiment(s, "tried", ["old"]))
    with Session(engine) as session:
        control, variant = user_in(session, keys, 0), user_in(session, keys, 1)
    recommender.rename_user(engine, variant, "renamed")
    assert run_transaction(engine, lambda s: number_of(s, "renamed")) == 1
    recommender.merge_users(engine, "renamed", control)
    assert run_transaction(engine, lambda s: number_of(s, "renamed")) == 0


def number_of(session: Session, user: str, **options: Any) -> int | None:
    arm = serve(session, user, **options).request.arm
    return arm and arm.number


def test_a_stranger_is_assigned_by_what_the_host_gives(session: Session) -> None:
    keys = make_world(session, users=12)
    start_experiment(session, "tried", ["old"])
    for number in (0, 1):
        assert number_of(session, user_in(session, keys, number), assign="any") == number
    assert number_of(session, "stranger") is None
    wanted = [arm_number("tried", f"assign d{number}", [0.5, 0.5]) for number in range(30)]
    got = [number_of(session, "stranger", assign=f"d{number}") for number in range(30)]
    assert got == wanted
    assert set(wanted) == {0, 1}
    with pytest.raises(InvalidValue, match=r"^assign: "):
        serve(session, "stranger", assign="")


def test_a_feed_has_an_experiment_of_its_own(session: Session) -> None:
    keys = make_world(session, users=12)
    recommender.create_feed(session, "reels", profile="for_you@1", limits={"creator": (1, 5)})
    start_experiment(session, "tried", ["old"], feed="reels")
    start_experiment(session, "other", ["old"])
    user = user_in(session, keys, 1)
    page = serve(session, user, feed="reels")
    assert (page.request.arm.experiment, page.request.profile.label) == ("tried", "old@1")
    assert serve(session, user, cursor=page.cursor).request.arm == page.request.arm
    assert serve(session, user).request.arm.experiment == "other"
    stopped = stop_experiment(session, "tried", promote="old")
    feed = recommender.get_feed(session, "reels")
    assert (stopped.promoted, feed.profile, feed.version) == ("old@1", "old@1", 2)
    assert feed.limits == {"creator": (1, 5)}
    assert serve(session, user, feed="reels").request.arm is None


def test_the_promoted_arm_serves_and_the_name_is_used_up(session: Session) -> None:
    make_world(session)
    tried = start_experiment(
        session, "tried", ["old"], share=0.2, metric="like", guardrails=["reports", "share"],
        least_effect=0.05,
    )  # fmt: skip
    assert get_experiment(session, "tried") == tried
    plain = tried.as_dict()
    assert plain.pop("started_at").endswith("Z")
    assert plain == {
        "experiment": "tried", "feed": None, "control": {"profile": "for_you@1", "share": 0.8},
        "variants": [{"profile": "old@1", "share": 0.2}], "interleaved": False, "metric": "like",
        "guardrails": ["reports", "share"], "least_effect": 0.05, "stopped_at": None,
        "promoted": None,
    }  # fmt: skip
    with pytest.raises(ExperimentRunning, match=r"^the experiment tried runs on For You: stop it"):
        start_experiment(session, "other", ["old"])
    stopped = stop_experiment(session, "tried", promote="old@1")
    assert (stopped.promoted, recommender.get_profile(session).label) == ("old@1", "old@1")
    other = start_experiment(session, "other", ["for_you"])
    assert list_experiments(session) == [other, stopped]
    assert other.control.profile == "old@1"
    with pytest.raises(InvalidValue, match=r"^experiment: tried was stopped at "):
        stop_experiment(session, "tried")
    with pytest.raises(InvalidValue, match=r"^experiment: tried exists already"):
        start_experiment(session, "tried", ["for_you"])


REFUSED: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "experiment: '1' is not a letter": (InvalidValue, {"name": "1"}),
    "variants: 0 are given": (InvalidValue, {"variants": []}),
    "variants: 'old' is no list": (InvalidValue, {"variants": "old"}),
    "variants: None is no name": (InvalidValue, {"variants": [None]}),
    "variants: for_you@1 is in two arms": (InvalidValue, {"variants": ["for_you"]}),
    "there is no profile 'new'": (UnknownProfile, {"variants": ["new"]}),
    "profile: people is for the list people": (InvalidValue, {"variants": ["people"]}),
    "profile: classic has neither": (InvalidValue, {"variants": ["classic"], "feed": "reels"}),
    "there is no feed 'none'": (UnknownFeed, {"feed": "none"}),
    "share: 1.0 leaves an arm": (InvalidValue, {"share": 1}),
    "share: 1e-09 leaves an arm": (InvalidValue, {"share": 1e-9}),
    "share: ": (InvalidValue, {"share": "half"}),
    "metric: 'joy' is unknown": (InvalidValue, {"metric": "joy"}),
    "guardrails: 'joy' is unknown": (InvalidValue, {"guardrails": ["joy"]}),
    "guardrails: ['joy'] is no name": (InvalidValue, {"guardrails": [["joy"]]}),
    "least_effect: 0 is not": (InvalidValue, {"least_effect": 0}),
    "least_effect: 1e-200 is not": (InvalidValue, {"least_effect": 1e-200}),
    "interleaved: a page holds": (
        InvalidValue,
        {"interleaved": True, "variants": ["old", "classic"]},
    ),
    "interleaved: compares engaged only": (InvalidValue, {"interleaved": True, "metric": "like"}),
    "interleaved: classic has no": (
        InvalidValue,
        {"interleaved": True, "variants": ["classic"]},
    ),
    "interleaved: 1 is neither": (InvalidValue, {"interleaved": 1}),
}


def test_bad_input_is_one_sentence_and_starts_nothing(session: Session) -> None:
    make_world(session)
    recommender.create_feed(session, "reels")
    for sentence, (kind, options) in REFUSED.items():
        with pytest.raises(kind) as refused:
            start_experiment(session, **{"name": "tried", "variants": ["old"], **options})
        assert str(refused.value).startswith(sentence)
    assert list_experiments(session) == []
    for name in ("tried", "tri\0ed", "\ud800", None):
        with pytest.raises(NotFound, match=r"^there is no experiment "):
            stop_experiment(session, name)  # type: ignore[arg-type]
    start_experiment(session, "tried", ["old"])
    with pytest.raises(
        InvalidValue, match=r"^promote: 'new' is no arm: there are for_you@1, old@1$"
    ):
        stop_experiment(session, "tried", promote="new")
    assert get_experiment(session, "tried").stopped_at is None


def test_prune_keeps_what_a_running_experiment_reads(engine: Engine) -> None:
    run_transaction(engine, make_world)
    tried = run_transaction(engine, lambda s: start_experiment(s, "tried", ["old"]))
    run_transaction(engine, lambda s: serve(s, as_of=tried.started_at - timedelta(days=9)))
    ages: list[dict[str, Any]] = [
        {"events_older_than": timedelta(days=8)},
        {"sessions_older_than": timedelta(days=8)},
    ]
    before = tried.started_at - timedelta(days=10)
    with engine.begin() as connection:
        connection.execute(sa.update(EXPERIMENTS).values(started_at=before))
    for age in ages:
        with pytest.raises(ExperimentRunning, match=r"^the experiment tried reads events and"):
            recommender.prune(engine, **age)
    assert recommender.prune(engine, sessions_older_than=timedelta(days=11)).sessions == 0
    assert recommender.prune(engine, **ages[1], force=True).sessions == 1
    run_transaction(engine, lambda s: stop_experiment(s, "tried"))
    assert [recommender.prune(engine, **age).sessions for age in ages] == [0, 0]


def test_an_export_names_the_experiment_and_an_erasure_ends_it(
    engine: Engine, tmp_path: Path
) -> None:
    run_transaction(engine, make_world)
    run_transaction(engine, lambda s: start_experiment(s, "tried", ["old"]))
    run_transaction(engine, serve)
    recommender.export_user(engine, "viewer", str(tmp_path / "viewer.jsonl"))
    text = (tmp_path / "viewer.jsonl").read_text()
    assert '"experiment": "tried", "arm": ' in text
    recommender.erase_user(engine, "viewer")
    with Session(engine) as session:
        assert arms_of(session) == []


def test_interleaved_pages_take_turns_and_each_place_knows_its_profile(session: Session) -> None:
    make_world(session, users=2)
    start_experiment(session, "tried", ["old"], interleaved=True)
    with counted_statements(session.connection()) as alone:
        serve(session, "u0", profile="for_you", limit=4)
    with counted_statements(session.connection()) as both:
        first = serve(session, limit=4)
    assert len(both) - len(alone) == 2
    second = serve(session, limit=4, cursor=first.cursor)
    assert not {item.video for item in first.items} & {item.video for item in second.items}
    for page, cursor in ((first, None), (second, first.cursor)):
        labels = [(item.profile or page.request.profile).label for item in page.items]
        assert sorted(labels) == ["for_you@1"] * 2 + ["old@1"] * 2
        assert sorted(labels[:2]) == ["for_you@1", "old@1"]
        for item, label in zip(page.items, labels, strict=True):
            alike = recommender.rank(session, "viewer", [item.video], profile=label, as_of=NOON)
            assert item.signals.keys() == alike.items[0].signals.keys()
        again = serve(session, limit=4, cursor=cursor) if cursor else page
        assert again.items == page.items
        assert page.as_dict()["items"][0].get("profile") in {None, "old@1"}
    assert [item.position for item in (*first.items, *second.items)] == list(range(1, 9))
    assert second.request.profile.label == "for_you@1"


def test_replay_leaves_interleaved_pages_out(session: Session) -> None:
    make_world(session)
    serve(session, limit=4)
    start_experiment(session, "tried", ["old"], interleaved=True)
    mixed = serve(session, limit=4)
    read = session.execute(served_pages({"engaged": 1.0}, at(-1), at(1))).all()
    assert [row.position for row in read] == [1, 2, 3, 4]
    assert len(rows_of(session, SERVED, "position")) == 4 + len(mixed.items)


@pytest.mark.parametrize("seed", range(20))
def test_a_draft_is_fair_and_keeps_apart_what_can_be_kept_apart(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    videos = {n: ScoredCandidate(-n, chance.randrange(9), None) for n in range(30)}
    teams = [chance.sample(range(30), 12) for _ in range(2)]
    request = RequestLike(limit=10, seed=seed)
    picks = draft(teams, videos, request)  # type: ignore[arg-type]
    shown = [teams[pick.team][pick.place] for pick in picks]
    assert len(set(shown)) == 10
    sides = [pick.team for pick in picks]
    # A team that had nothing apart from the video before lets the other one pick.
    assert abs(sides.count(0) - sides.count(1)) <= 2
    for number, (pick, video) in enumerate(zip(picks, shown, strict=True)):
        is_alike = number > 0 and videos[video].creator == videos[shown[number - 1]].creator
        assert is_alike <= pick.crowded
        left = [v for team in teams for v in team if v not in shown[:number]]
        others = {videos[v].creator for v in left}
        assert pick.crowded == (number > 0 and others <= {videos[shown[number - 1]].creator})
    assert picks == draft(teams, videos, request)  # type: ignore[arg-type]


@dataclass
class RequestLike:
    """What a draft reads of a request."""

    limit: int
    seed: int
    feed: None = None
    places_before: tuple[()] = ()

    def chance(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311
