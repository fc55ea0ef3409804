"""Whether lists of people hold whom users followed later, worked out by hand."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import Event, InvalidValue, LogFiles, cli, evaluate_follow, run_transaction
from recommender.evaluation.lists import ListEvaluation
from recommender.formats.rows import FileKind
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import at

CUTOFF = at()

CREATORS = ("star", "niche", "fresh", "own", "unseen")
"""Each has a video, the later ones newer; the last one publishes after the cut."""

BEFORE = (("x", "star"), ("y", "star"), ("z", "star"), ("u", "friend"), ("u", "own"),
          ("friend", "niche"))  # fmt: skip

AFTER = (("u", "niche"), ("u", "star"), ("w", "star"), ("v", "unseen"), ("x", "star"))
"""v follows only someone who was not known, and x follows whom they followed before."""


def write(engine: Engine) -> None:
    def apply(session: Session) -> None:
        users = {user for pair in (*BEFORE, *AFTER) for user in pair} | {*CREATORS}
        recommender.upsert_users(session, [{"id": user} for user in sorted(users)])
        recommender.upsert_videos(session, [
            {"id": f"by {creator}", "creator": creator,
             "published_at": at(9 if creator == "unseen" else place - 99)}
            for place, creator in enumerate(CREATORS)
        ])  # fmt: skip
        for pairs, moment in ((BEFORE, at(-60)), (AFTER, at(60))):
            for user, creator in pairs:
                recommender.follow(session, user, creator, at=moment)
        recommender.unfollow(session, "x", "star")
        recommender.follow(session, "x", "star", at=at(-60))
        events = [Event(f"e{n}", "x", "by own", "like", at(n)) for n in (-30, 30)]
        events.append(Event("e", "x", "by unseen", "watch", at(-20)))
        recommender.record_many(session, events)

    run_transaction(engine, apply)


def ndcg(found: ListEvaluation) -> dict[str, float]:
    values = {each.ranker: each.accuracy["ndcg@20"] for each in found.lists}
    return {name: value.value for name, value in values.items() if value}


@slow_on_postgresql
def test_lists_are_judged_by_whom_users_followed_later(engine: Engine) -> None:
    write(engine)
    found = evaluate_follow(engine, cutoff=CUTOFF)
    assert (found.users, found.choices) == (2, 4)
    second, third, fourth = (1 / math.log2(place + 1) for place in (2, 3, 4))
    # u wants niche and star, w wants star. Most followed: star, own, niche, fresh; newest: own,
    # fresh, niche, star. Of the people whom u follows, one follows niche; w follows no one. u
    # followed own before.
    expected = {
        "social": (1 / (1 + second) + 0) / 2,
        "most followed": (1 + 1) / 2,
        "newest": ((second + third) / (1 + second) + fourth) / 2,
    }
    assert {name: ndcg(found)[name] for name in expected} == pytest.approx(expected)
    assert [each.ranker for each in found.lists] == ["people", *expected, "random"]
    assert 0 < ndcg(found)["people"] <= 1
    shares = {name: share.value for name, share in found.found.sources.items() if share}
    assert shares["social"] == pytest.approx(1 / 3)
    assert found.found.share is not None
    assert found.found.share.value == 1


@only_sqlite
def test_the_command_prints_the_lists_and_refuses_what_makes_no_sense(
    engine: Engine, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(engine)
    command = ["evaluate", "--task", "follow", "--database-url", database]
    command += ["--cutoff", CUTOFF.isoformat()]
    assert cli.run([*command, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["ranker"] for row in printed["lists"]][:2] == ["people", "social"]
    assert (printed["users"], printed["choices"]) == (2, 4)
    assert cli.run([*command, "--format", "table"]) == 0
    printed_table = capsys.readouterr().out
    assert printed_table.startswith(
        "2 users who later followed someone; their lists are chosen from 4 creators."
    )
    assert (
        "100.0% of the creators that they followed was among the first 20 of people"
        in printed_table
    )
    assert "diverse" not in printed_table
    for option in (["--holdout", "per-user:0.2"], ["--target", "like"], ["--ablate"]):
        assert cli.run([*command, *option]) == 2
        assert f"--task follow takes no {option[0]}" in capsys.readouterr().err
    for options, message in (
        ({"profiles": ["for_you"]}, "profile: for_you ranks videos, not people: give people"),
        ({"until": CUTOFF + timedelta(minutes=31)}, "no user followed a creator after the cut"),
    ):
        with pytest.raises(InvalidValue, match=message):
            evaluate_follow(engine, cutoff=CUTOFF, **options)  # type: ignore[arg-type]


@pytest.mark.slow
@only_sqlite
def test_who_was_followed_before_is_not_wanted_again(engine: Engine, tmp_path: Path) -> None:
    write(engine)
    kinds: tuple[FileKind, ...] = ("users", "videos", "follows", "events")
    for kind in kinds:
        recommender.export_file(engine, kind, str(tmp_path / f"{kind}.csv"))
    with (tmp_path / "follows.csv").open("a") as follows:
        follows.write("y,star,2026-01-01T13:00:00Z\n")
    files = LogFiles(*((str(tmp_path / f"{kind}.csv"),) for kind in kinds))
    assert evaluate_follow(files, cutoff=CUTOFF).users == 2
