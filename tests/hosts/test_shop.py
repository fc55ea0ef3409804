"""The shop's registry on the command line: its module lies in the working folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import cli
from recommender.database.transactions import writing
from recommender.testing import check
from tests.hosts.shop.shop.feed import Base, Clip, Customer, Pick, registry
from tests.support.worlds import at, make_event

pytestmark = pytest.mark.slow

SHOP = Path(__file__).parent / "shop"
TOWNS = ("York", "Bath")
USERS = [f"u{number:02}" for number in range(32)]
VIDEOS = [f"v{number:02}" for number in range(80)]
RESERVED = VIDEOS[70:]
DAYS, PAGE = 3, 12
DAY = 24 * 60
END = at(DAYS * DAY)

Run = Callable[..., Any]


def make_world(engine: Engine) -> None:
    """Make a shop whose customers watch local videos to the end, and hardly any other."""
    shop = recommender.create_engine(engine.url, registry=registry)
    Base.metadata.create_all(shop)
    with Session(writing(shop)) as session, session.begin():
        _stock(session)
    chance = Random(1)
    for day in range(DAYS):
        for number, user in enumerate(USERS):
            with Session(writing(shop)) as session, session.begin():
                _visit(session, user, day * DAY + number, chance)
    recommender.refresh(shop, as_of=END)
    shop.dispose()


def _stock(session: Session) -> None:
    recommender.upsert_users(session, [{"id": user} for user in USERS])
    recommender.upsert_videos(session, [
        {"id": key, "creator": f"c{number % 20}", "published_at": at(-DAY * (1 + number % 9))}
        for number, key in enumerate(VIDEOS)
    ])  # fmt: skip
    for number, user in enumerate(USERS):
        session.add(Customer(id=user, email=f"{user}@example.org", town=TOWNS[number % 2],
                             is_member=number == 0))  # fmt: skip
    for number, key in enumerate(VIDEOS):
        session.add(Clip(id=key, town=TOWNS[number // 2 % 2], members_only=key in RESERVED))
        if number >= 60:
            session.add(Pick(clip_id=key, since=at(-DAY)))
    recommender.create_profile(session, "served", {"freshness": 0.1, "local": 0.01})
    recommender.activate_profile(session, "served")


def _visit(session: Session, user: str, minute: float, chance: Random) -> None:
    """Serve a page, and record which of its videos the customer watches to the end."""
    page = recommender.for_you(session, user, limit=PAGE, as_of=at(minute))
    events = []
    for item in page.items:
        is_liked = chance.random() < (0.8 if item.signals["local"].value else 0.2)
        about = {"user": user, "at": at(minute + 1), "completion": 1.0 if is_liked else 0.1}
        events.append(make_event("watch", item.video, **about, watch_ms=20_000 * is_liked))
    recommender.record_many(session, events)


@pytest.fixture
def run(world: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in the shop's folder, and gives its JSON."""
    monkeypatch.chdir(SHOP)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", world)
    monkeypatch.setenv("RECOMMENDER_REGISTRY", "shop.feed:registry")

    def run_one(line: str) -> Any:
        code = cli.run([*line.split(), "--format", "json"])
        printed = capsys.readouterr()
        assert code == 0, f"{line}: {printed.err}"
        return json.loads(printed.out)

    return run_one


@pytest.fixture
def world(database: str) -> str:
    return database


@pytest.mark.usefixtures("world")
def test_the_registry_passes_the_contract_tests(engine: Engine) -> None:
    with Session(engine) as session:
        assert check(registry, session, as_of=END) == ()


def test_pages_show_local_videos_and_picks_and_obey_the_rule(run: Run) -> None:
    run("profiles create local --weight local=1 --weight freshness=.2")
    moment = f"--as-of {END.isoformat()}"
    page = run(f"feed u01 --profile local --explain --limit 80 {moment}")
    first, sources = page["items"][0], {i["video"]: i["sources"] for i in page["items"]}
    assert first["signals"]["local"]["value"] == 1.0
    assert first["reason"] == "Because it was made in your town and it is new."
    picked = {video for video, names in sources.items() if "picks" in names}
    assert picked == sources.keys() & set(VIDEOS[60:])
    assert not sources.keys() & set(RESERVED)
    ranked = run(f"rank u01 v00 v02 --profile local {moment}")
    assert [item["video"] for item in ranked["items"]] == ["v02", "v00"]
    explained = run(f"explain u01 {RESERVED[0]} --profile local {moment}")
    assert (explained["shown"], explained["reason"]) == (False, "Not shown: it is for members.")
    of_member = run(f"explain u00 {RESERVED[0]} {moment}")
    assert {"name": "members", "passed": True} in of_member["filters"]
    assert len(run("feed u01 --profile local --record --limit 5")["items"]) == 5
    assert run("audit")["broken"] == []
    (plans,) = (check for check in run("doctor --plans") if check["check"] == "plans")
    assert plans["ok"]


def test_a_registered_signal_is_learned_and_evaluated(run: Run, tmp_path: Path) -> None:
    """Customers watch 4 of 5 local videos to the end, and 1 of 5 others."""
    since, sample = at(DAY).isoformat(), "--sample 10"
    for command in ("fit shown", f"fit pages --over candidates --replay --since {since} {sample}"):
        learned = run(command)
        assert learned["weights"]["local"] > 3 * learned["errors"]["local"] > 0
    assert learned["reached_by"]["picks"] > 0
    found = run(f"evaluate --profile shown --cutoff {since} --every 2d {sample}")
    gauc = {row["ranker"]: row["gauc"]["value"] for row in found["ranking"]}
    assert gauc["shown"] > gauc["classic"] + 0.2
    assert found["candidates"]["sources"]["picks"]["value"] > 0
    replayed = run(f"replay --profile shown --since {at().isoformat()} --as-of {END.isoformat()}")
    assert replayed["hindsight"]["reordered"]["change"]["low"] > 0
    files = " ".join(f"--{kind} {tmp_path}/{kind}.csv" for kind in ("users", "videos", "events"))
    for kind in ("users", "videos", "events"):
        assert cli.run(["export", kind, f"{tmp_path}/{kind}.csv"]) == 0
    of_files = run(f"evaluate {files} --cutoff {since} --every 2d {sample}")
    assert of_files["candidates"]["sources"]["picks"]["value"] == 0
