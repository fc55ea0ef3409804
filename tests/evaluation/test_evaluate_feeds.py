"""Evaluations of feeds with names: their pages, and the videos that count."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    InvalidValue,
    LogFiles,
    Settings,
    UnknownFeed,
    cli,
    create_feed,
    create_profile,
    delete_feed,
    evaluate,
    get_feed,
    get_profile,
    import_file,
    refresh,
    run_transaction,
)
from recommender.evaluation.evaluate import Evaluation
from recommender.evaluation.rankers import Catalogue, PageRequest, profile_ranker, seen_videos
from recommender.formats import scalars
from recommender.models import Video
from recommender.models.tables import FEEDS
from recommender.ranking.registry import OURS
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import at, follow, make_user, make_video, names, preview, record

CUTOFF, NOON, SETTINGS = at(), at(600), Settings()


@slow_on_postgresql
def test_a_page_is_what_the_feed_would_serve(own_session: Session) -> None:
    """With its sources and quotas, formats and limits, for every profile."""
    session = own_session
    chance = random.Random(3)  # noqa: S311 - not for secrets
    for number in range(60):
        make_video(
            session, f"v{number}", creator=f"c{chance.randrange(6)}",
            sound=f"s{chance.randrange(20)}", published_at=at(-60 * number),
            format=chance.choice(["reel", "story", "post"]),
        )  # fmt: skip
    for user in ("ana", "ben"):
        make_user(session, user)
        for number in chance.sample(range(6), 3):
            follow(session, user, f"c{number}")
        for number in chance.sample(range(60), 9):
            record(session, "watch", f"v{number}", user, at=at(number), completion=number % 2)
    refresh(session.connection(), as_of=NOON)
    create_feed(
        session, "reels", sources={"following": 9, "creators": 4, "fresh": 2},
        formats=["reel", "story"], limits={"creator": (2, 9), "format": (2, 3)}, memory="own",
    )  # fmt: skip
    catalogue = Catalogue(session, NOON, SETTINGS, get_feed(session, "reels"))
    formats = {row.key: row.format for row in session.execute(sa.select(Video.key, Video.format))}
    assert {formats[key] for key in catalogue.videos} == {"reel", "story"}
    for profile in (get_profile(session, name) for name in ("for_you", "classic")):
        ranker = profile_ranker(profile, profile.name, OURS)
        for user in ("ana", "ben"):
            seen = seen_videos(session, user)
            page = ranker.page(PageRequest(session, user, NOON, SETTINGS, catalogue, seen))
            asked = {"profile": profile.name, "as_of": NOON}
            assert page == names(preview(session, user, feed="reels", **asked))
            assert len(page) > 5
            assert page != names(preview(session, user, **asked))


def watch(user: str, key: str, minutes: float, completion: float) -> dict[str, Any]:
    about = {"id": f"{user}-{key}", "user": user, "video": key, "kind": "watch"}
    return {**about, "at": scalars.written_time(at(minutes)), "completion": completion}


VIDEOS = [
    {"id": key, "creator": f"by-{key}", "format": kind,
     "published_at": scalars.written_time(at(-900))}
    for key, kind in (("a", "reel"), ("b", "story"), ("c", "reel"), ("d", "story"))
]  # fmt: skip
EVENTS = [
    watch("x", "a", -50, 1), watch("x", "b", -49, 1), watch("y", "c", -40, 0),
    watch("u", "a", 10, 1), watch("u", "b", 11, 0), watch("u", "c", 12, 1), watch("u", "d", 13, 0),
    watch("w", "a", 20, 0), watch("w", "d", 21, 1),
]  # fmt: skip
ROWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "users": [{"id": user} for user in "uwxy"],
    "videos": VIDEOS,
    "events": EVENTS,
}


@pytest.fixture
def log(tmp_path: Path) -> LogFiles:
    """A log of two reels and two stories; after the cut u likes both reels, and w a story."""
    paths = {}
    for kind, rows in ROWS.items():
        paths[kind] = (str(tmp_path / f"{kind}.jsonl"),)
        Path(paths[kind][0]).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return LogFiles(**paths)


@pytest.fixture
def with_feed(engine: Engine) -> Engine:
    """A database with a feed of reels, and a profile of its own."""

    def make(session: Session) -> None:
        create_profile(session, "calm", {"quality": 1.0})
        create_feed(
            session, "reels", profile="calm", sources=["following", "newest"], formats=["reel"]
        )

    run_transaction(engine, make)
    return engine


def timeless(found: Evaluation) -> Evaluation:
    return replace(found, seconds=0.0)


@slow_on_postgresql
def test_only_what_the_feed_could_show_counts(with_feed: Engine, log: LogFiles) -> None:
    found = evaluate(log, cutoff=CUTOFF, feed="reels", database=with_feed)
    assert (found.feed, found.videos, found.page_users) == ("reels@1", 2, 1)
    assert (found.impressions, found.positives, found.impression_users) == (3, 2, 2)
    assert (found.ranking[0].ranker, found.pages[0].ranker) == ("calm", "calm")
    shares = {name: share and share.value for name, share in found.candidates.sources.items()}
    assert shares == {"following": 0, "newest": 1}
    for row in found.pages:
        recall = row.accuracy["recall@20"]
        assert recall is not None
        assert recall.value == (row.ranker != "following")
    asked = evaluate(
        log, cutoff=CUTOFF, feed="reels", database=with_feed, profiles=["for_you", "calm@1"]
    )
    assert [row.ranker for row in asked.pages[:2]] == ["for_you", "calm@1"]
    assert asked.pages[1].accuracy == found.pages[0].accuracy
    every = evaluate(log, cutoff=CUTOFF)
    assert (every.feed, every.videos, every.impressions) == (None, 4, 6)


@pytest.mark.slow
def test_a_database_and_its_files_give_the_same(with_feed: Engine, log: LogFiles) -> None:
    for kind in ROWS:
        import_file(with_feed, kind, getattr(log, kind)[0])
    of_files = evaluate(log, cutoff=CUTOFF, feed="reels", database=with_feed)
    assert timeless(evaluate(with_feed, cutoff=CUTOFF, feed="reels")) == timeless(of_files)


@only_sqlite
def test_a_feed_that_is_not_there(with_feed: Engine, log: LogFiles) -> None:
    asked: dict[str, Any] = {"cutoff": CUTOFF, "feed": "reels"}
    with pytest.raises(InvalidValue, match="files have no feeds: give the database"):
        evaluate(log, **asked)
    with pytest.raises(InvalidValue, match="database: goes with a log of files"):
        evaluate(with_feed, database=with_feed, **asked)
    with pytest.raises(UnknownFeed, match="there is no feed 'mail'"):
        evaluate(log, cutoff=CUTOFF, feed="mail", database=with_feed)
    change = sa.update(FEEDS).values(sources={"gone": None}, formats=["film"])
    run_transaction(with_feed, lambda session: session.execute(change))
    with pytest.raises(InvalidValue, match="feed reels reads gone, which is not registered"):
        evaluate(log, database=with_feed, **asked)
    change = sa.update(FEEDS).values(sources={})
    run_transaction(with_feed, lambda session: session.execute(change))
    with pytest.raises(InvalidValue, match=r"feed's formats \(film\) after the cut led to"):
        evaluate(log, database=with_feed, **asked)
    run_transaction(with_feed, lambda session: delete_feed(session, "reels"))
    with pytest.raises(UnknownFeed, match="there is no feed 'reels'"):
        evaluate(log, database=with_feed, **asked)


@pytest.mark.slow
@only_sqlite
def test_on_the_command_line_a_log_of_files_takes_the_feed_of_the_database(
    with_feed: Engine, log: LogFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [part for kind in ROWS for part in (f"--{kind}", getattr(log, kind)[0])]
    url = with_feed.url.render_as_string(hide_password=False)
    moment = ["--cutoff", "2026-01-01T12:00:00Z"]

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["evaluate", *moment, *arguments])
        return code, *capsys.readouterr()

    code, out, _ = run(*files, "--feed", "reels", "--database-url", url)
    found, expected = (
        json.loads(out),
        evaluate(log, cutoff=CUTOFF, feed="reels", database=with_feed),
    )
    assert (code, {**found, "seconds": 0}) == (0, timeless(expected).as_dict())
    code, out, _ = run(*files, "--feed", "reels", "--database-url", url, "--format", "table")
    assert "Pages of reels@1 out of 2 videos for 1 users" in " ".join(out.split())
    unknown = 2, "", "Error: there is no feed 'mail'\n"
    assert run(*files, "--feed", "mail", "--database-url", url) == unknown
    assert run("--feed", "mail", "--database-url", url) == unknown
    code, _, error = run("--task", "next", "--feed", "reels", "--database-url", url)
    assert (code, "--task next takes no --feed" in error) == (2, True)
    code, _, error = run(*files, "--feed", "reels", "--database-url", "sqlite:///none.db")
    assert (code, "there is no database none.db" in error) == (78, True)
