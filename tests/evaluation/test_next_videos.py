"""Whether lists of similar videos hold what users enjoyed next, worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import Event, InvalidValue, cli, evaluate_next, run_transaction
from recommender.evaluation.lists import ListEvaluation
from recommender.evaluation.next_videos import NEXT
from recommender.evaluation.results import RankedPages
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import at

CUTOFF = at()

VIDEOS: dict[str, dict[str, Any]] = {
    "a": {"creator": "ann", "hashtags": ["x"], "published_at": at(-500)},
    "b": {"creator": "bob", "published_at": at(-400)},
    "c": {"creator": "cat", "hashtags": ["x"], "published_at": at(-300)},
    "d": {"creator": "ann", "published_at": at(-200)},
    "e": {"creator": "eve", "hashtags": ["x"], "published_at": at(-100)},
    "new": {"creator": "ann", "hashtags": ["x"], "published_at": at(5)},
}
"""Five videos that are known at the cut, and one that is published later."""

BEFORE = [("p", "b", -90, True), ("q", "b", -80, True), ("q", "d", -70, True),
          ("u", "d", -60, False), ("u", "e", -50, False), ("r", "a", -95, True),
          ("s", "a", -94, True), ("t", "a", -93, True)]  # fmt: skip
"""Watches before the cut: user, video, minutes, whether to the end."""

AFTER = [
    ("u", "new", 6, True), ("u", "a", 10, True), ("u", "b", 20, False), ("u", "d", 25, True),
    ("u", "c", 30, True), ("w", "c", 40, True), ("w", "c", 45, True), ("p", "b", 50, True),
    ("p", "d", 60, True),
]  # fmt: skip

Watches = Iterable[tuple[str, str, int, bool]]


def write(engine: Engine, watches: Watches, *more: Event) -> None:
    events = [
        Event(f"{user}-{video}-{minutes}", user, video, "watch", at(minutes),
              completion=1.0 if whole else 0.1)
        for user, video, minutes, whole in watches
    ]  # fmt: skip

    def apply(session: Session) -> None:
        users = {event.user for event in (*events, *more)}
        recommender.upsert_users(session, [{"id": user} for user in sorted(users)])
        rows = [{"id": key, **columns} for key, columns in VIDEOS.items()]
        recommender.upsert_videos(session, rows)
        recommender.record_many(session, [*events, *more])

    run_transaction(engine, apply)


def ndcg(found: ListEvaluation) -> dict[str, float]:
    values = {each.ranker: each.accuracy["ndcg@20"] for each in found.lists}
    return {name: value.value for name, value in values.items() if value}


@slow_on_postgresql
def test_lists_are_judged_by_what_was_enjoyed_next(engine: Engine) -> None:
    """Given is a to u, who wants c, and b to p, who wants d; w enjoyed a single video.

    u had seen d and e before, and the new video was not known at the cut.
    """
    write(engine, [*BEFORE, *AFTER])
    found = evaluate_next(engine, cutoff=CUTOFF)
    assert (found.users, found.choices, found.target) == (2, 5, "engaged")
    second, third = (1 / math.log2(place + 1) for place in (2, 3))
    # Without what the user has seen and the given video, the lists of u and of p are:
    expected = {
        "similar": (1 + 1) / 2,  # c b, as c has the hashtag of a; d …, as d is trending
        "content": (1 + 1) / 2,  # the same
        "creator": 0.0,  # no list: only d is by the creator of a, and only b by its own
        "newest": (1 + second) / 2,  # c b, and e d c a
        "popular": (second + second) / 2,  # b c, and a d e c
    }
    assert {name: ndcg(found)[name] for name in expected} == pytest.approx(expected)
    assert third < ndcg(found)["random"] <= 1
    assert [each.ranker for each in found.lists] == [
        "similar", "personal", "content", "creator", "random", "newest", "popular",
    ]  # fmt: skip
    shares = {name: share.value for name, share in found.found.sources.items() if share}
    assert found.found.share == (1, 1, 1)
    assert (shares["hashtags"], shares["creators"], shares["sounds"]) == (0.5, 0.0, 0.0)


@only_sqlite
def test_no_more_than_the_next_few_are_wanted_and_none_that_was_taken_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kept_pages(monkeypatch)
    for key in ("x", *(f"v{number}" for number in range(NEXT + 3))):
        monkeypatch.setitem(VIDEOS, key, {"creator": "many", "published_at": at(-100)})
    enjoyed = [("u", f"v{number}", 10 + number, True) for number in range(NEXT + 3)]
    liked = Event("l", "u", "x", "like", at(11)), Event("n", "u", "x", "unlike", at(90))
    write(engine, [*BEFORE, *enjoyed], *liked)
    evaluate_next(engine, cutoff=CUTOFF)
    (shown,) = kept
    assert shown.relevant == [{f"v{number}" for number in range(1, NEXT + 1)}]


def kept_pages(monkeypatch: pytest.MonkeyPatch) -> list[RankedPages]:
    """Return a list that receives the lists of each evaluation."""
    kept: list[RankedPages] = []
    qualities = RankedPages.qualities

    def keep(self: RankedPages, seed: int) -> Any:
        kept.append(self)
        return qualities(self, seed)

    monkeypatch.setattr(RankedPages, "qualities", keep)
    return kept


@only_sqlite
def test_what_comes_after_the_cut_changes_no_list(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kept_pages(monkeypatch)
    write(engine, [*BEFORE, *AFTER])
    evaluate_next(engine, cutoff=CUTOFF)
    crowd = [(f"m{n}", video, 70 + n, True) for n in range(20) for video in ("a", "c", "b")]
    write(engine, crowd)
    evaluate_next(engine, cutoff=CUTOFF)
    first, second = kept
    assert {*first.viewers} == {"u", "p"} < {*second.viewers}
    for name, lists in first.pages.items():
        now = dict(zip(second.viewers, second.pages[name], strict=True))
        assert [now[user] for user in first.viewers] == lists, name


@pytest.mark.slow
@only_sqlite
def test_profiles_are_compared_and_a_baseline_keeps_its_name(engine: Engine) -> None:
    write(engine, [*BEFORE, *AFTER])
    run_transaction(
        engine, lambda s: recommender.create_profile(s, "content", {"same_creator": 1.0})
    )
    found = evaluate_next(engine, cutoff=CUTOFF, profiles=["content", "similar"])
    assert [each.ranker for each in found.lists][:4] == [
        "content@1", "similar", "personal", "content",
    ]  # fmt: skip
    for options, message in (
        ({"profiles": ["classic"]}, "profile: classic has no candidates: choose another"),
        ({"target": "none"}, "target: 'none' is not one of engaged"),
        ({"sample": 0}, "sample: 0 is no whole number of at least 1"),
        ({"target": "like"}, "no user enjoyed two videos after the cut"),
        ({"holdout": 0.5}, "cutoff: either a cutoff or a holdout"),
    ):
        with pytest.raises(InvalidValue, match=message):
            evaluate_next(engine, cutoff=CUTOFF, **options)  # type: ignore[arg-type]


@pytest.mark.slow
@only_sqlite
def test_the_command_prints_the_lists(
    engine: Engine, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(engine, [*BEFORE, *AFTER])
    command = ["evaluate", "--database-url", database, "--cutoff", CUTOFF.isoformat()]
    assert cli.run([*command, "--task", "next", "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["ranker"] for row in printed["lists"]][:2] == ["similar", "personal"]
    assert printed["lists"][0]["accuracy"]["ndcg@20"]["value"] == 1.0
    assert cli.run([*command, "--task", "next", "--format", "csv"]) == 0
    assert "found,hashtags,recall,0.5," in capsys.readouterr().out
    for option in (["--ablate"], ["--checks"], ["--segments"], ["--every", "2d"],
                   ["--small-creators", "0.1"]):  # fmt: skip
        assert cli.run([*command, "--task", "next", *option]) == 2
        assert f"--task next takes no {option[0]}" in capsys.readouterr().err
