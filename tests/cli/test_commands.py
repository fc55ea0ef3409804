"""The command line: what it prints, where, and what it exits with."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from recommender import FILTERS, SIGNALS, cli, create_engine
from recommender.cli import COMMANDS, GROUPS
from recommender.cli.output import cell, column_widths
from recommender.database.transactions import writing
from recommender.models.types import SCHEMA_REVISION
from recommender.operations import erase
from tests.conftest import drop_database
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import EXAMPLE

pytestmark = slow_on_postgresql

CLASSIC = ("--profile", "classic")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process; gives its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")

    def run_one(*arguments: str, database: str | None = None) -> tuple[int, str, str]:
        if database:
            monkeypatch.setenv("RECOMMENDER_DATABASE_URL", database)
        code = cli.run(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_one


@pytest.fixture(scope="session")
def example_database(new_database: Callable[..., str]) -> Callable[[str], str]:
    """Gives the URL of a new database with the worked example; its rows are imported once."""

    @cache
    def template(kind: str) -> str:
        url = new_database(kind)
        for rows in ("users", "videos", "follows", "events"):
            file = str(EXAMPLE / f"{rows}.csv")
            assert cli.run(["import", rows, file, "--database-url", url, "--format", "json"]) == 0
        return url

    return lambda kind: new_database(kind, like=template(kind))


@pytest.fixture
def database(
    kind: str, request: pytest.FixtureRequest, new_database: Callable[..., str]
) -> Iterator[str]:
    """The URL of a database that no other test uses; it holds the example if the test asks."""
    is_filled = "example" in request.fixturenames
    url = request.getfixturevalue("example_database")(kind) if is_filled else new_database(kind)
    yield url
    drop_database(url)


@pytest.fixture
def example(database: str, run: Run, capsys: pytest.CaptureFixture[str]) -> Run:
    """The same, on a database with the worked example."""
    capsys.readouterr()

    def run_one(*arguments: str, **options: Any) -> tuple[int, str, str]:
        return run(*arguments, **{"database": database, **options})

    return run_one


def answer(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert (code, err) == (0, "")
    return json.loads(out)


def test_feed_prints_the_documented_json(example: Run) -> None:
    moment = ("--as-of", "2026-01-01T00:00:00Z")
    page = answer(example("feed", "user1", *CLASSIC, *moment, "--limit", "1"))
    assert page == {
        "user": "user1",
        "known": True,
        "profile": "classic",
        "profile_version": 1,
        "as_of": "2026-01-01T00:00:00Z",
        "session": None,
        "cursor": None,
        "exhausted": False,
        "cut_short": False,
        "stale": False,
        "items": [
            {
                "position": 1,
                "video": "v1",
                "creator": "creator1",
                "caption": "Pulled it off again 😂",
                "hashtags": ["comedy", "prank"],
                "sound": "sound123",
                "format": None,
                "published_at": "2025-12-01T12:00:00Z",
                "score": 1.45,
                "sources": ["catalogue"],
            }
        ],
    }


@slow_on_postgresql
def test_feed_is_for_you_where_no_profile_is_asked_for(example: Run) -> None:
    page = answer(example("feed", "user1", "--as-of", "2026-01-01T00:00:00Z"))
    assert (page["profile"], page["profile_version"]) == ("for_you", 1)
    assert [item["video"] for item in page["items"]] == ["v3"]
    assert page["items"][0]["sources"] == ["newest"]
    assert page == answer(
        example("feed", "user1", "--as-of", "2026-01-01T00:00:00Z", "--profile", "for_you@1")
    )


@slow_on_postgresql
def test_an_empty_cursor_is_the_first_page(example: Run) -> None:
    for options in ((), ("--following",), ("--trending",)):
        first, same = (
            answer(example("feed", "user1", *options, *cursor)) for cursor in ((), ("--cursor", ""))
        )
        assert first["items"] == same["items"] != []


def test_feed_following_pages_on_by_cursor(example: Run) -> None:
    assert example("follow", "user1", "creator3")[0] == 0
    first = answer(example("feed", "user1", "--following", "--limit", "1"))
    assert (first["user"], first["known"], first["session"]) == ("user1", True, None)
    assert (first["profile"], first["profile_version"]) == ("following", 1)
    assert ([item["video"] for item in first["items"]], first["exhausted"]) == (["v3"], False)
    rest = answer(example("feed", "user1", "--following", "--cursor", first["cursor"]))
    assert [(item["position"], item["video"]) for item in rest["items"]] == [(1, "v1")]
    assert (rest["cursor"], rest["exhausted"]) == (None, True)
    assert rest["items"][0]["sources"] == ["following"]


def test_tables_of_feeds_and_profiles_have_days(example: Run) -> None:
    example("feeds", "create", "reels", "--source", "newest")
    example("feeds", "create", "reels", "--limit", "creator=1/5")
    deleted = answer(example("feeds", "delete", "reels"))["deleted_at"][:10]
    out = example("feeds", "list", "--format", "table")[1]
    assert len(re.findall(rf"^reels +[12] .* {deleted} *$", out, re.MULTILINE)) == 2
    out = example("profiles", "list", "--format", "table")[1]
    assert re.search(r"^for_you .* 2026-01-01 *$", out, re.MULTILINE)


def test_a_digest_is_printed_as_lines_rows_or_a_document(example: Run) -> None:
    example("feeds", "create", "mail", "--memory", "own")
    asked = ("digest", "--feed", "mail", "--run", "one", "--limit", "1", "--format")
    document = answer(example(*asked, "json"))
    assert [each["user"] for each in document] == ["user1", "creator1", "creator2", "creator3"]
    lines = example(*asked, "jsonl")[1].splitlines()
    assert [json.loads(line) for line in lines] == document
    first = document[0]["items"][0]
    row = ("user1", "1", first["video"], first["creator"], str(first["score"]))
    rows = example(*asked, "csv")[1].splitlines()
    assert rows[:2] == ["user,position,video,creator,score", ",".join(row)]
    assert len(rows) == 1 + len(document)
    assert answer(example(*asked, "json", "--since", "1h", "--run", "two")) == []


def test_an_empty_feed_says_where_its_formats_are(example: Run) -> None:
    example("feeds", "create", "reels", "--video-format", "reel")
    code, out, err = example("feed", "user1", "--feed", "reels", "--format", "table")
    assert (code, out) == (0, "")
    assert (
        "in the feed reels, with the sources and formats of `recommender feeds show reels`" in err
    )


@slow_on_postgresql
def test_feed_trending_is_of_the_users_language_and_country(example: Run) -> None:
    page = answer(example("feed", "user1", "--trending"))
    assert (page["user"], page["known"], page["profile"]) == ("user1", True, "trending")
    assert [item["video"] for item in page["items"]] == ["v1"]
    assert (page["cursor"], page["exhausted"]) == (None, True)
    first = answer(example("feed", "nobody", "--trending", "--limit", "2"))
    assert (first["user"], first["known"]) == ("nobody", False)
    rest = answer(example("feed", "nobody", "--trending", "--cursor", first["cursor"]))
    shown = [item["video"] for page in (first, rest) for item in page["items"]]
    assert shown == ["v3", "v2", "v1"]


@slow_on_postgresql
def test_feed_explains_with_each_signals_part(example: Run) -> None:
    page = answer(example("feed", "user1", *CLASSIC, "--explain"))
    assert [item["score"] for item in page["items"]] == [1.45, 0.8, 0.0]
    assert page["items"][0]["signals"]["completion"] == {
        "value": 0.95, "weight": 0.4, "contribution": 0.38,
    }  # fmt: skip
    assert page["items"][0]["reason"] == (
        "Because you watched 95% of it, you follow creator1 and you like it."
    )
    assert page["items"][0]["reasons"][1] == {"kind": "follows", "subject": "creator1", "at": None}
    assert list(page["items"][0]["signals"]) == [
        "completion", "likes", "shares", "follows", "hashtags", "sound", "language", "country",
    ]  # fmt: skip


@pytest.mark.slow
def test_feed_explains_with_every_signal_of_for_you(example: Run) -> None:
    (item,) = answer(example("feed", "user1", "--explain"))["items"]
    assert item["signals"].keys() == {signal.name for signal in SIGNALS}
    parts = [each["contribution"] for each in item["signals"].values()]
    assert item["score"] == pytest.approx(sum(parts), abs=1e-7)


@only_sqlite
def test_json_lines_are_the_items(example: Run) -> None:
    code, out, _ = example("feed", "user1", *CLASSIC, "--format", "jsonl")
    assert (code, [json.loads(line)["video"] for line in out.splitlines()]) == (
        0,
        ["v1", "v2", "v3"],
    )


@only_sqlite
def test_csv_leaves_nested_values_out(example: Run) -> None:
    _, out, _ = example("feed", "user1", *CLASSIC, "--format", "csv", "--explain")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["video"], row["score"]) for row in rows] == [
        ("v1", "1.45"),
        ("v2", "0.8"),
        ("v3", "0.0"),
    ]
    assert not {"hashtags", "sources", "signals"} & set(rows[0])


@only_sqlite
def test_csv_of_nothing_is_the_header(example: Run) -> None:
    some, none = (
        example("feed", user, "--following", "--format", "csv")[1].splitlines()
        for user in ("user1", "nobody")
    )
    assert (len(some), none) == (2, some[:1])
    watched = ("record", "creator1", "v2", "watch", "--completion", "1")
    assert [example(*watched[:2], video, *watched[3:])[0] for video in ("v2", "v3")] == [0, 0]
    explained = ("--profile", "classic", "--explain", "--format", "csv")
    some, none = (
        example("feed", "user1", *more, *explained)[1].splitlines()
        for more in ((), ("--as-of", "2020-01-01T00:00:00Z"))
    )
    assert (len(some), none) == (4, some[:1])
    difference = ("profiles", "diff", "for_you", "for_you", "--format", "csv", "--user")
    some, none = (example(*difference, user)[1].splitlines() for user in ("user1", "creator1"))
    assert (some[0], none) == ("user,#,was,video", some[:1])


@only_sqlite
def test_a_refresh_is_of_the_given_time(example: Run) -> None:
    assert answer(example("refresh", "--as-of", "2026-01-01T00:00:00Z"))["events"] == 4
    (rollups,) = [row for row in answer(example("doctor")) if row["check"] == "rollups"]
    assert "refreshed at 2026-01-01T00:00:00Z" in rollups["found"]
    code, _, err = example("refresh", "--as-of", "2026-01-01T00:00:00Z", "--every", "5")
    assert (code, "--as-of is one time" in err) == (2, True)


def test_no_option_takes_what_is_not_a_number() -> None:
    def options(command: click.Command) -> Iterator[click.Parameter]:
        yield from command.params
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                yield from options(command.get_command(click.Context(command), name) or command)

    found = [one for one in options(cli.cli) if isinstance(one.type, click.FloatRange)]
    assert len(found) == 4
    for one in found:
        assert (one.type.min, one.type.max) != (None, None)  # help would say x<=None
        with pytest.raises(click.BadParameter, match="'nan' is not a number"):
            one.type.convert("nan", one, None)


def test_a_table_breaks_no_word_if_all_words_fit() -> None:
    assert column_widths([9, 12, 13], [9, 6, 6], 34) == [9, 12, 13]
    assert column_widths([9, 12, 13], [9, 6, 6], 23) == [9, 7, 7]
    assert column_widths([9, 30], [9, 20], 12) == [6, 6]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--explain",)])
@pytest.mark.parametrize("profile", ["classic", "for_you"])
def test_a_table_is_no_wider_than_the_terminal(
    example: Run, profile: str, more: tuple[str, ...]
) -> None:
    for command in (("feed", "user1"), ("rank", "user1", "v1", "v2", "v3")):
        code, out, _ = example(*command, "--profile", profile, "--format", "table", *more)
        assert code == 0
        assert max(map(len, out.splitlines())) <= 100
        assert "v3" in out


@only_sqlite
def test_a_table_shows_the_reasons_the_sources_and_the_strongest_signals(
    example: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # so wide that no cell is wrapped
    table = ("--format", "table", "--explain")
    out = " ".join(example("feed", "user1", *CLASSIC, *table)[1].split())
    assert "creator1 you watched 95% of it · you follow creator1 · you like it catalogue" in out
    assert "catalogue completion +0.38, follows +0.35," in out
    out = " ".join(example("feed", "user1", *table)[1].split())
    assert "v3 creator3 few have seen it yet newest " in out
    shown = re.findall(r" (\w+) [+-]\d", out)
    assert {"quality", "exploration"} <= set(shown) <= {signal.name for signal in SIGNALS}


@only_sqlite
def test_a_table_counts_the_signals_that_it_leaves_out(
    example: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    weights = [f"--weight={signal.name}=1" for signal in SIGNALS]
    assert example("profiles", "create", "every", *weights)[0] == 0
    every = ("--profile", "every", "--explain")
    out = " ".join(example("rank", "user1", "v1", *every, "--format", "table")[1].split())
    (item,) = answer(example("rank", "user1", "v1", *every))["items"]
    parts = [each["contribution"] for each in item["signals"].values()]
    others = sum(1 for part in parts if part) - 5
    assert f"and {others} more" in out
    assert [float(x) for x in re.findall(r" \w+ ([+-][\d.]+)", out)] == pytest.approx(
        sorted(parts, key=abs, reverse=True)[:5], rel=0.01
    )


@slow_on_postgresql
def test_an_unknown_user_is_a_stranger(example: Run) -> None:
    page = answer(example("feed", "nobody", *CLASSIC))
    assert (page["known"], [item["video"] for item in page["items"]]) == (False, ["v3", "v2", "v1"])
    learned = answer(example("feed", "nobody"))
    assert (learned["known"], {item["video"] for item in learned["items"]}) == (
        False, {"v1", "v2", "v3"},
    )  # fmt: skip
    assert answer(example("rank", "nobody", "v1"))["known"] is False
    assert answer(example("explain", "nobody", "v1"))["known"] is False


def test_rank_prints_the_given_videos(example: Run) -> None:
    page = answer(example("rank", "user1", "v3", "v2", *CLASSIC))
    assert [(item["position"], item["video"]) for item in page["items"]] == [(1, "v2"), (2, "v3")]


def test_explain_prints_the_documented_json(example: Run) -> None:
    explained = answer(example("explain", "user1", "v3", *CLASSIC))
    signals = explained.pop("signals")
    assert signals["country"] == {"value": 0.0, "weight": 0.02, "contribution": 0.0}
    assert explained == {
        "user": "user1",
        "known": True,
        "video": "v3",
        "profile": "classic",
        "profile_version": 1,
        "shown": True,
        "rank": 3,
        "score": 0.0,
        "sources": ["catalogue"],
        "filters": [
            {"name": "published", "passed": True},
            {"name": "not_in_future", "passed": True},
            {"name": "available", "passed": True},
            {"name": "creator_not_blocked", "passed": True},
        ],
        "reason": "Because it is published; no signal speaks for it.",
        "reasons": [{"kind": "no_signal", "subject": None, "at": None}],
        "displaced_by": ["v2", "v1"],
    }


@slow_on_postgresql
def test_explain_says_why_a_video_is_not_shown(example: Run) -> None:
    explained = answer(example("explain", "user1", "v1"))
    assert (explained["shown"], explained["rank"], explained["displaced_by"]) == (False, None, [])
    assert explained["reason"] == "Not shown: you watched it on 3 December 2025."
    failed = [each["name"] for each in explained["filters"] if not each["passed"]]
    assert (failed, len(explained["filters"])) == (["not_seen"], len(FILTERS))
    assert explained["signals"].keys() == {signal.name for signal in SIGNALS}


@only_sqlite
def test_explain_as_a_table_says_where_a_video_stands(example: Run) -> None:
    table = ("--format", "table")
    lines = example("explain", "user1", "v3", *CLASSIC, *table)[1].splitlines()
    assert lines[:2] == [
        "Because it is published; no signal speaks for it.",
        "Rank 3, behind v2 and v1. Found by catalogue.",
    ]
    lines = example("explain", "user1", "v1", *CLASSIC, *table)[1].splitlines()
    assert lines[1] == "Rank 1. Found by catalogue."
    lines = example("explain", "user1", "v1", *table)[1].splitlines()
    assert lines[:2] == [
        "Not shown: you watched it on 3 December 2025.",
        "Kept out by not_seen.",
    ]
    assert max(map(len, lines)) <= 100


@only_sqlite
def test_import_refuses_format_options_that_say_nothing(database: str, run: Run) -> None:
    refused = {
        ("--column", "user"): "'user' has no name and = before its value",
        ("--set", "=watch"): "'=watch' has no name and = before its value",
        ("--column", "user=a", "--column", "user=b"): "--column user has two values: a and b",
        ("--value", "kind:a=like", "--value", "kind:a=save"): "--value kind:a has two values: like",
        ("--value", "view=watch"): "--value view=watch is not like kind:view=watch",
        ("--set", "age=5"): "column: 'age' is not one of id, user, video",
        ("--delimiter", "::"): "delimiter: '::' is not one character",
        ("--timezone", "Mars"): "timezone: there is no time zone 'Mars'",
        ("--time-unit", "minutes"): "'minutes' is not one of 's', 'ms', 'year'",
    }
    for options, message in refused.items():
        code, out, err = run("import", "events", "log.csv", *options, database=database)
        assert (code, out) == (2, "")
        assert message in err


def test_import_prints_a_report(database: str, run: Run) -> None:
    file = str(EXAMPLE / "videos.csv")
    report = answer(run("import", "videos", file, database=database))
    assert report.pop("seconds") >= 0
    assert report == {
        "kind": "videos", "file": file,
        "read": 3, "inserted": 3, "updated": 0, "unchanged": 0, "too_old": 0,
        "rejected": 0, "cut_times": 0,
    }  # fmt: skip
    again = answer(run("import", "videos", file))
    assert (again["inserted"], again["updated"], again["unchanged"]) == (0, 0, 3)


def test_record_changes_the_next_feed(example: Run) -> None:
    body = ("--completion", "1", "--at", "2026-01-01T00:00:00Z", "--id", "swipe")
    assert example("record", "user1", "v3", "watch", *body) == (0, "", "Recorded.\n")
    assert example("record", "user1", "v3", "watch", *body) == (
        0, "", "Recorded before; nothing changed.\n",
    )  # fmt: skip
    classic = answer(example("feed", "user1", *CLASSIC))
    scores = {item["video"]: item["score"] for item in classic["items"]}
    assert scores == {"v1": 1.45, "v2": 0.8, "v3": 0.4}
    assert answer(example("feed", "user1"))["items"] == []


@slow_on_postgresql
def test_the_same_event_with_another_body_is_bad_data(example: Run) -> None:
    when = ("--at", "2026-01-01T00:00:00Z", "--id", "swipe")
    assert example("record", "user1", "v3", "like", *when)[0] == 0
    code, out, err = example("record", "user1", "v3", "share", *when)
    assert (code, out) == (65, "")
    assert err.startswith("Error: event 'swipe' of user 'user1' was recorded before as like")


def test_follow_and_unfollow(example: Run) -> None:
    assert example("follow", "user1", "creator3") == (0, "", "Followed.\n")
    assert example("follow", "user1", "creator3") == (0, "", "Followed before; nothing changed.\n")
    assert answer(example("explain", "user1", "v3", *CLASSIC))["score"] == 0.35
    assert "you follow creator3" in answer(example("explain", "user1", "v3"))["reason"]
    assert example("unfollow", "user1", "creator3") == (0, "", "Unfollowed.\n")
    assert example("unfollow", "user1", "creator3") == (0, "", "Not followed; nothing changed.\n")
    assert answer(example("explain", "user1", "v3", *CLASSIC))["score"] == 0


def test_user_show(example: Run) -> None:
    assert answer(example("user", "show", "user1")) == {
        "user": "user1",
        "language": "en",
        "country": "US",
        "device": None,
        "created_at": None,
        "discoverable": True,
        "learned_since": None,
        "interests": ["comedy", "dance"],
        "liked_sounds": ["sound123"],
        "follows": ["creator1"],
        "muted_creators": [],
        "muted_hashtags": [],
        "muted_sounds": [],
        "muted_keywords": [],
        "blocked": [],
        "videos": 0,
        "seen": 2,
        "liked": 1,
        "plays": 2,
        "shares": 1,
        "comments": 0,
    }


@slow_on_postgresql
@pytest.mark.parametrize(
    ("muted", "value", "kept"),
    [
        ("creator", "creator1", "creator1"),
        ("hashtag", "New", "new"),
        ("sound", "sound456", "sound456"),
        ("keyword", "New words", "new words"),
    ],
)
def test_mute_and_unmute(example: Run, muted: str, value: str, kept: str) -> None:
    again = "Muted before; nothing changed.\n"
    assert example("mute", "user1", muted, value) == (0, "", "Muted.\n")
    assert example("mute", "user1", muted, value) == (0, "", again)
    assert answer(example("user", "show", "user1"))[f"muted_{muted}s"] == [kept]
    assert example("unmute", "user1", muted, value) == (0, "", "Unmuted.\n")
    assert example("unmute", "user1", muted, value) == (0, "", "Not muted; nothing changed.\n")


def test_dismiss(example: Run) -> None:
    again = "Dismissed before; nothing changed.\n"
    assert example("dismiss", "user1", "creator2") == (0, "", "Dismissed.\n")
    assert example("dismiss", "user1", "creator2") == (0, "", again)


def test_block_and_unblock(example: Run) -> None:
    again = "Blocked before; nothing changed.\n"
    assert example("block", "user1", "creator1") == (0, "", "Blocked.\n")
    assert example("block", "user1", "creator1") == (0, "", again)
    assert answer(example("user", "show", "user1"))["blocked"] == ["creator1"]
    assert answer(example("user", "show", "creator1"))["blocked"] == []
    assert example("unblock", "user1", "creator1") == (0, "", "Unblocked.\n")
    assert example("unblock", "user1", "creator1") == (0, "", "Not blocked; nothing changed.\n")


def test_user_reset(example: Run) -> None:
    before = answer(example("user", "show", "user1"))
    assert example("user", "reset", "user1") == (0, "", "Reset.\n")
    after = answer(example("user", "show", "user1"))
    assert after.pop("learned_since") > "2026"
    assert {**after, "learned_since": None} == before


def test_user_export_and_erase(example: Run, tmp_path: Path) -> None:
    code, out, err = example("user", "export", "user1")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, len(lines)) == (0, 21)
    assert re.fullmatch(r"21 lines in \d\.\d s\.\n", err)
    assert [line["kind"] for line in lines[:4]] == ["archive", "users", "follows", "events"]
    file = tmp_path / "user1.jsonl"
    assert example("user", "export", "user1", str(file))[0] == 0
    receipt = answer(example("user", "erase", "user1", "--format", "json"))
    assert receipt.keys() == {"user", "rows", "seconds", "wal_cleared"}
    done = {name: rows for name, rows in receipt["rows"].items() if rows}
    assert (receipt["user"], done) == ("user1", {
        "users": 1, "follows": 1, "user_hashtags": 2, "user_sounds": 1, "events": 4,
        "events_pending": 4, "interactions": 2, "affinities": 8,
    })  # fmt: skip
    assert receipt["rows"]["videos"] == 0
    assert example("user", "erase", "user1") == (66, "", "Error: there is no user 'user1'\n")
    for kind in ("users", "follows", "events"):
        assert answer(example("import", kind, str(file)))["rejected"] == 0
    _, out, _ = example("user", "erase", "user1", "--format", "table")
    assert ["events", "4"] in [line.split() for line in out.splitlines()]
    assert "videos" not in out


@slow_on_postgresql
def test_an_interrupted_erasure_says_how_to_go_on(
    example: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(erase, "_subtract", interrupted)
        code, out, err = example("user", "erase", "user1")
    assert (code, out) == (130, "")
    assert "erase the same user again to go on.\n" in err
    assert example("user", "show", "user1")[0] == 66
    assert answer(example("user", "erase", "user1"))["rows"]["interactions"] == 2


def test_video_status(example: Run) -> None:
    assert example("video", "status", "v1", "removed") == (0, "", "Now removed.\n")
    assert example("video", "status", "v1", "removed") == (
        0, "", "Removed before; nothing changed.\n",
    )  # fmt: skip
    assert "v1" not in example("feed", "nobody")[1]
    assert example("video", "status", "v1", "published") == (0, "", "Now published.\n")
    assert '"v1"' in example("feed", "nobody")[1]


def test_profiles_are_made_listed_shown_and_activated(example: Run) -> None:
    made = answer(example("profiles", "create", "calm", "--weight", "likes=2"))
    assert made == {"profile": "calm", "version": 1, "active": False, "weights": {"likes": 2.0}}
    shown = answer(example("profiles", "show", "calm@1"))
    assert shown == {**shown, **made, "source": "hand", "parent": None, "metrics": None}
    assert answer(example("feed", "user1"))["profile"] == "for_you"
    assert answer(example("profiles", "activate", "calm")) == {**made, "active": True}
    assert answer(example("feed", "user1"))["profile"] == "calm"
    listed = answer(example("profiles", "list"))
    assert [(row["profile"], row["version"], row["active"]) for row in listed] == [
        ("calm", 1, True), ("classic", 1, False), ("for_you", 1, False),
        ("people", 1, False), ("similar", 1, False), ("similar", 2, False),
    ]  # fmt: skip
    code, out, _ = example("profiles", "list", "--format", "table")
    assert (code, max(map(len, out.splitlines())) <= 100) == (0, True)
    assert re.findall(r"^(\w+) +1 +(True|False) ", out, re.MULTILINE) == [
        ("calm", "True"), ("classic", "False"), ("for_you", "False"),
        ("people", "False"), ("similar", "False"),
    ]  # fmt: skip


def test_a_profile_of_a_list_says_that_its_newest_version_serves(example: Run) -> None:
    made = ("profiles", "create", "people", "--weight", "shown=-1", "--format", "table")
    assert example(*made)[1].startswith("people@2, the newest version ranks the list people\n")
    assert example("profiles", "activate", "similar")[0] == 2


@pytest.mark.slow
def test_versions_are_told_apart(example: Run) -> None:
    origin = ("--author", "ana", "--note", "to\tsee")
    example("profiles", "create", "calm", "--weight", "follows=2", *origin)
    example("profiles", "create", "calm", "--weight", "freshness=2")
    (first, second) = answer(example("profiles", "list"))[:2]
    assert (first["author"], first["note"], first["parent"]) == ("ana", "to\tsee", None)
    assert (second["author"], second["parent"], second["activated_at"]) == (None, "calm@1", None)
    out = example("profiles", "show", "calm@1", "--format", "table")[1]
    assert re.match(r"calm@1, not active; made by hand by ana at 20\S+Z: to see\n", out)
    diff = ("profiles", "diff", "calm@1", "calm", "--user", "user1", "--user", "nobody")
    found = answer(example(*diff))
    assert found["weights"] == [
        {"signal": "follows", "calm@1": 2.0, "calm@2": 0.0, "change": -2.0},
        {"signal": "freshness", "calm@1": 0.0, "calm@2": 2.0, "change": 2.0},
    ]
    assert found["pages"]["user1"] == [{"#": 1, "was": 1, "video": "v3"}]
    assert {row["video"] for row in found["pages"]["nobody"]} == {"v1", "v2", "v3"}
    out = example(*diff, "--format", "table")[1]
    assert re.findall(r"^(\w+):$", out, re.MULTILINE) == ["user1", "nobody"]


def test_a_fit_without_served_pages_says_so(example: Run) -> None:
    assert example("fit", "mine") == (
        2,
        "",
        (
            "Error: there are no impressions to learn from: record the pages that you serve and"
            " their events, or replay a log\n"
        ),
    )
    assert example("fit", "mine", "--replay")[0] == 2
    assert answer(example("profiles", "list"))[-1]["profile"] == "similar"


def test_a_replay_says_what_a_profile_would_have_served(example: Run) -> None:
    begun = ("--since", "2026-01-01T00:00:00Z", "--until", "2026-01-03T00:00:00Z")
    asked = ("replay", "--profile", "classic", *begun, "--as-of", "2026-01-02T00:00:00Z")
    assert example(*asked)[::2] == (
        2,
        (
            "Error: no page of For You was served in a session that began then, except pages of"
            " classic: record the pages that you serve, or choose another time\n"
        ),
    )
    feed = ("feed", "creator2", "--record", "--as-of", "2026-01-01T00:00:00Z")
    shown = [item["video"] for item in answer(example(*feed))["items"]]
    for number, video in enumerate(shown):
        when = ("--at", f"2026-01-01T00:0{number}:00Z", "--id", f"e{number}")
        assert example("record", "creator2", video, "watch", "--completion", "0", *when)[0] == 0
    unknown = "the effects of places are unknown"
    assert unknown in " ".join(example(*asked, "--format", "table")[1].split())
    for number, video in enumerate(shown):
        when = ("--at", f"2026-01-01T00:1{number}:00Z", "--id", f"l{number}")
        assert example("record", "creator2", video, "like", *when)[0] == 0
    found = answer(example(*asked))
    assert (found["profile"], found["active"], found["pages"]) == ("classic@1", "for_you@1", 1)
    assert found["hindsight"]["logged"] == {"value": 1, "low": 1, "high": 1}
    assert [row["profile"] for row in found["previews"]] == ["classic@1", "for_you@1"]
    table = example(*asked, "--format", "table")[1]
    assert "What 1 users were shown on 1 pages, in the order of classic@1" in table
    assert re.search(r"^as served +1\.000 ±0\.000", table, re.MULTILINE)
    assert "Effects of places, from 2 videos of about one score, 2 of them positive: 1" in table
    assert "1 places, which say as much as 1 of equal weight; 0 weights were clipped." in table
    rows = list(csv.DictReader(example(*asked, "--format", "csv")[1].splitlines()))
    assert {"part": "hindsight", "profile": "classic@1", "figure": "logged", "value": "1.0",
            "low": "1.0", "high": "1.0"} in rows  # fmt: skip
    assert {"part": "reordered", "profile": "classic@1", "figure": "effect_2", "value": "1.0",
            "low": "", "high": ""} in rows  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("replay", "--since", "2026-01-01T00:00:00Z"), 2, "Missing option '--profile'"),
        (("replay", "--profile", "for_you"), 2, "Missing option '--since'"),
        (("replay", "--profile", "for_you", "--since", "now"), 2, "is not a time such as"),
        (
            ("replay", "--profile", "for_you", "--since", "2026-01-01T00:00:00Z", "--feed", "none"),
            2,
            "there is no feed 'none'",
        ),
        (
            ("replay", "--profile", "none", "--since", "2026-01-01T00:00:00Z"),
            2,
            "there is no profile 'none'",
        ),
        (
            ("replay", "--profile", "for_you", "--since", "2026-01-01T00:00:00Z", "--sample", "0"),
            2,
            "--sample",
        ),
        (("fit", "classic"), 2, "classic is the reference formula"),
        (("fit", "mine", "--target", "love"), 2, "'love' is not one of engaged, like"),
        (("fit", "mine", "--target", "like=x"), 2, "target: like: 'x' is not a number"),
        (
            (
                "fit",
                "mine",
                "--users",
                "none.csv",
                "--videos",
                "n",
                "--events",
                "n",
                "--since",
                "2026-01-01T00:00:00Z",
            ),
            66,
            "none.csv",
        ),
        (("fit", "mine", "--users", "u.csv"), 2, "videos: no file is given"),
        (("fit", "mine", "--over", "candidates"), 2, "takes a log: give --replay, or files"),
        (("fit", "mine", "--over", "candidates", "--replay"), 2, "needs the time that cuts it"),
        (("profiles", "diff", "for_you", "none"), 2, "there is no profile 'none'"),
        (("profiles", "diff", "for_you", "classic", "--limit", "0"), 2, "--limit"),
        (("profiles", "create", "n", "--weight", "likes=1", "--note", ""), 2, "note: is empty"),
        (("feed", "user1", "--limit", "0"), 2, "--limit"),
        (("feed", "user1", "--limit", "501"), 2, "--limit"),
        (("feed", "user1", "--as-of", "yesterday"), 2, "is not a time such as"),
        (("feed", "user1", "--as-of", "2026-01-01T00:00:00"), 2, "has no offset"),
        (("feed", "user1", "--profile", "none"), 2, "there is no profile 'none'"),
        (("feed", "user1", "--profile", "classic@9"), 2, "there is no profile 'classic@9'"),
        (("feed", ""), 2, "user: is empty"),
        (("feed",), 2, "Missing argument"),
        (("feed", "user1", "--following", "--trending"), 2, "exclude each other"),
        (
            ("feed", "user1", "--following", "--explain"),
            2,
            "no --feed, --profile, --explain",
        ),
        (("feed", "user1", "--trending", "--profile", "classic"), 2, "take no --feed, --profile"),
        (("feed", "user1", "--cursor", "x"), 2, "--cursor needs --record"),
        (("feed", "user1", "--following", "--cursor", "x"), 2, "cursor: 'x' is not one of this"),
        (("feed", "", "--trending"), 2, "user: is empty"),
        (("nothing",), 2, "No such command"),
        (("rank", "user1"), 2, "Missing argument"),
        (("rank", "user1", "v9"), 66, "there is no video 'v9'"),
        (("explain", "user1", "v9"), 66, "there is no video 'v9'"),
        (("record", "nobody", "v1", "like"), 66, "there is no user 'nobody'"),
        (("record", "user1", "v9", "like"), 66, "there is no video 'v9'"),
        (("record", "user1", "v1", "love"), 2, "'love' is not one of"),
        (("record", "user1", "v1", "watch", "--completion", "1.5"), 2, "completion: 1.5 is not"),
        (("record", "user1", "v1", "watch", "--completion", "nan"), 2, "completion: nan is not"),
        (("record", "user1", "v1", "watch", "--watch-ms", "-1"), 2, "watch_ms: -1 is not"),
        (("record", "user1", "v1", "like", "--id", "x"), 2, "--id goes with --at"),
        (("follow", "nobody", "creator1"), 66, "there is no user 'nobody'"),
        (("unfollow", "nobody", "creator1"), 66, "there is no user 'nobody'"),
        (("follow", "user1", "nobody"), 66, "there is no creator 'nobody'"),
        (("mute", "user1", "creator", "nobody"), 66, "there is no creator 'nobody'"),
        (("mute", "user1", "sound", "none"), 66, "there is no sound 'none'"),
        (("user", "show", "nobody"), 66, "there is no user 'nobody'"),
        (("user", "reset", "nobody"), 66, "there is no user 'nobody'"),
        (("user", "erase", "nobody"), 66, "there is no user 'nobody'"),
        (("user", "erase", ""), 2, "user: is empty"),
        (("user", "export", "nobody"), 66, "there is no user 'nobody'"),
        (("mute", "nobody", "sound", "s"), 66, "there is no user 'nobody'"),
        (("unmute", "nobody", "sound", "s"), 66, "there is no user 'nobody'"),
        (("block", "nobody", "user1"), 66, "there is no user 'nobody'"),
        (("block", "user1", "nobody"), 66, "there is no user 'nobody'"),
        (("block", "user1", "user1"), 2, "other: a user cannot block themselves"),
        (("unblock", "nobody", "user1"), 66, "there is no user 'nobody'"),
        (("mute", "user1", "video", "v1"), 2, "'video' is not one of"),
        (("mute", "user1", "creator", "user1"), 2, "creator: a user cannot mute themselves"),
        (("dismiss", "user1", "user1"), 2, "creator: a user cannot dismiss themselves"),
        (("dismiss", "user1", "nobody"), 66, "there is no creator 'nobody'"),
        (("dismiss", "nobody", "creator1"), 66, "there is no user 'nobody'"),
        (("mute", "user1", "keyword", ".*"), 2, "keyword: '.*' has no letter and no digit"),
        (("unmute", "user1", "keyword", "x"), 2, "keyword: 'x' has fewer than two"),
        (("video", "status", "v9", "removed"), 66, "there is no video 'v9'"),
        (("video", "status", "v1", "gone"), 2, "'gone' is not one of"),
        (("import", "users", "none.csv"), 66, "there is no file 'none.csv'"),
        (("import", "things", "none.csv"), 2, "'things' is not one of"),
        (("profiles", "show", "none"), 2, "there is no profile 'none'"),
        (("profiles", "activate", "none"), 2, "there is no profile 'none'"),
        (("profiles", "create", "new"), 2, "a profile needs at least one"),
        (("profiles", "create", "new", "--weight", "love=1"), 2, "there is no signal 'love'"),
        (("profiles", "create", "new", "--weight", "likes=nan"), 2, "weight of likes: 'nan'"),
        (("profiles", "create", "new", "--weight", "likes=101"), 2, "is not between -100 and 100"),
        (("profiles", "create", "new", "--weight", "likes"), 2, "weight of likes: '' is not"),
        (("profiles", "create", "@", "--weight", "likes=1"), 2, "profile: '@' is not"),
        (("profiles", "create", "n", "--weight", "likes=1", "--weight", "likes=2"), 2, "twice"),
        (("db", "upgrade", "9999"), 2, "there is no migration '9999'"),
    ],
)
def test_what_a_user_can_cause_is_one_clear_message(
    example: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    exit_code, out, err = example(*arguments)
    assert (exit_code, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_a_database_that_is_not_there_is_not_created(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "none.db"
    for arguments in (("feed", "u"), ("user", "show", "u"), ("profiles", "list"), ("db", "check"),
                      ("user", "erase", "u"), ("user", "export", "u"), ("doctor",),
                      ("prune", "--events-older-than", "9d")):  # fmt: skip
        code, out, err = run(*arguments, database=f"sqlite:///{file}")
        assert (code, out) == (78, "")
        assert err == f"Error: there is no database {file}: run `recommender db upgrade`\n"
    assert not file.exists()


def test_a_schema_that_is_missing_names_the_command(
    kind: str, empty_database: str, run: Run
) -> None:
    if kind == "sqlite":
        Path(empty_database.removeprefix("sqlite:///")).touch()
    code, _, err = run("feed", "u", database=empty_database)
    assert code == 78
    assert "run `recommender db upgrade`" in err


def test_the_first_command_that_writes_makes_a_sqlite_file(run: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    answer(run("import", "users", str(EXAMPLE / "users.csv"), database=url))
    assert run("db", "current") == (0, f"{SCHEMA_REVISION}\n", "")


def test_the_first_command_that_writes_leaves_a_new_postgresql_alone(
    new_database: Callable[..., str], run: Run
) -> None:
    url = new_database("postgresql", migrated=False)
    code, _, err = run("import", "users", str(EXAMPLE / "users.csv"), database=url)
    assert code == 78
    assert "run `recommender db upgrade`" in err


@pytest.mark.parametrize("command", ["demo", pytest.param("bench", marks=pytest.mark.slow)])
def test_demo_and_bench_make_the_tables_of_an_empty_database(
    empty_database: str, run: Run, command: str
) -> None:
    sizes = (
        "--videos",
        "100",
        "--pages",
        "2",
        "--seconds",
        "0.1",
        "--exact",
        "0",
        "--clients",
        "1",
    )
    code, out, err = run(command, *(sizes if command == "bench" else ()), database=empty_database)
    assert (code, bool(out)) == (0, True), err
    assert run("db", "check")[0] == 0


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_demo_and_bench_leave_a_database_with_other_tables_alone(
    new_database: Callable[..., str], run: Run, command: str
) -> None:
    url = new_database("postgresql", migrated=False)
    engine = create_engine(url)
    with writing(engine).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE mine (id int)")
    engine.dispose()
    code, _, err = run(command, database=url)
    assert (code, "run `recommender db upgrade`" in err) == (78, True)


def test_the_database_option_stands_before_or_after_the_command(database: str, run: Run) -> None:
    for arguments in (
        ("--database-url", database, "db", "current"),
        ("db", "current", "--database-url", database),
    ):
        assert run(*arguments) == (0, f"{SCHEMA_REVISION}\n", "")


def test_an_unreachable_database_is_69_without_the_password(run: Run) -> None:
    code, out, err = run("feed", "u", database="postgresql://me:s3cret@127.0.0.1:9/none")
    assert (code, out) == (69, "")
    assert "s3cret" not in err
    assert "Traceback" not in err


READING = (
    ("feed", "user1"), ("rank", "user1", "v1"), ("explain", "user1", "v1"), ("audit",),
    ("metrics",), ("user", "show", "user1"), ("user", "export", "user1"), ("export", "users", "-"),
    ("profiles", "list"), ("db", "current"), ("db", "history"), ("db", "check"),
    ("import", "users", str(EXAMPLE / "users.csv"), "--dry-run"),
)  # fmt: skip
WRITING = (
    ("record", "user1", "v1", "share"), ("feed", "user1", "--record"),
    ("follow", "user1", "creator2"), ("unfollow", "user1", "creator1"),
    ("mute", "user1", "sound", "sound123"), ("user", "reset", "user1"),
    ("unmute", "user1", "sound", "s"), ("block", "user1", "creator1"),
    ("unblock", "user1", "creator1"), ("dismiss", "user1", "creator2"),
    ("user", "erase", "user1"), ("refresh",),
    ("video", "status", "v1", "removed"),
    ("prune", "--events-older-than", "9d"), ("profiles", "activate", "classic"),
    ("profiles", "create", "mine", "--weight", "likes=1"), ("db", "downgrade", "base"),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_database_that_is_read_only_is_read_and_not_written(
    example: Run, database: str, tmp_path: Path
) -> None:
    new = tmp_path / "new.csv"
    new.write_text("id\nnew\n")
    writing = (*WRITING, ("import", "users", str(new)))
    url = f"sqlite:///file:{database.removeprefix('sqlite:///')}?mode=ro&uri=true"
    before = example("export", "events", "-")
    said = {each: example(*each, database=url) for each in (*READING, *writing)}
    assert {each: said[each][0] for each in READING} == dict.fromkeys(READING, 0)
    assert {each: said[each][0] for each in writing} == dict.fromkeys(writing, 77)
    assert {said[each][2].count("\n") for each in writing} == {1}
    assert example("export", "events", "-")[1] == before[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_database_that_is_cut_short_is_one_clear_message(example: Run, database: str) -> None:
    file = Path(database.removeprefix("sqlite:///"))
    file.write_bytes(file.read_bytes()[:100_000])
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    said = {each: example(*each) for each in (*READING, *WRITING)}
    damaged = (
        "Error: The file is damaged or not an SQLite database: restore a backup, or name another"
    )
    one_message = (69, "", f"{damaged} file. (database disk image is malformed)\n")
    assert {each: said[each] for each in said} == dict.fromkeys(said, one_message)


def test_a_url_of_another_database_is_usage(run: Run) -> None:
    code, _, err = run("feed", "u", database="mysql://me:s3cret@localhost/x")
    assert code == 2
    assert "neither SQLite nor PostgreSQL" in err
    assert "s3cret" not in err


def test_db_goes_up_and_down(empty_database: str, run: Run) -> None:
    upgraded = f"The database is at migration {SCHEMA_REVISION}.\n"
    assert run("db", "upgrade", database=empty_database) == (0, "", upgraded)
    assert run("db", "check") == (0, "", "The schema is up to date.\n")
    history = answer(run("db", "history"))
    applied = [(row["revision"], row["applied"]) for row in history]
    newest_first = range(int(SCHEMA_REVISION), 0, -1)
    assert applied == [(f"{number:04}", True) for number in newest_first]
    assert run("db", "downgrade", "base") == (0, "", "The database is at migration none.\n")
    assert run("db", "current") == (0, "none\n", "")
    assert run("db", "check")[0] == 78


def test_help_of_every_command_is_its_summary(run: Run) -> None:
    for name, (_, summary) in COMMANDS.items():
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        assert (command.help or "").splitlines()[0] == summary
        assert run(name, "--help")[0] == 0


def test_help_lists_every_command_in_its_group(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("--help")
    _, *sections = re.split(r"^(\S.*):$", out.partition("Options:")[2], flags=re.MULTILINE)
    listed = dict(zip(sections[::2], sections[1::2], strict=True))
    for title, commands in GROUPS.items():
        assert re.findall(r"^  (\S+)  ", listed[title], re.MULTILINE) == list(commands)
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)


def test_help_imports_no_database() -> None:
    code = "import sys, recommender.cli as c; c.run(['--help']); print('sqlalchemy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.endswith("False\n")


def test_a_cell_cannot_move_the_cursor_or_turn_the_text_around() -> None:
    assert cell("a\x1b[2Jb\r\nc\u202ed\u2066e") == "a [2Jb c d e"
    assert cell("مرحبا #été 👩‍👩‍👧 日本") == "مرحبا #été 👩‍👩‍👧 日本"
    assert cell(None) == ""
    assert cell(["a", "b"]) == "a b"
    assert cell({"likes": 2.0}) == "likes 2"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_import_exits_so(tmp_path: Path, number: int, code: int) -> None:
    file = tmp_path / "new.db"
    command = [sys.executable, "-m", "recommender", "import", "events", "-"]
    environment = {**os.environ, "RECOMMENDER_DATABASE_URL": f"sqlite:///{file}"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not file.exists():
            assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate()
        assert (process.returncode, "Traceback" in err) == (code, False)


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -W error -m recommender"
    return subprocess.run(  # noqa: S602 - as a shell user
        command.replace("recommender", program, 1), shell=True, check=False, cwd=folder, text=True,
        capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("recommender feed u > /dev/full", 74),
        ("recommender export users - > /dev/full", 74),
        ("recommender export users - >&-", 77),
        ("recommender import users - <&-", 66),
        ("recommender export users .", 77),
        ("recommender export users ''", 77),
        ("recommender export users /", 77),
        ("recommender export users /dev/null", 0),
        ("recommender feed u >&-", 0),
    ],
)
def test_a_stream_that_is_full_or_closed_is_no_traceback(
    tmp_path: Path, command: str, code: int
) -> None:
    assert shell("recommender db upgrade", tmp_path).returncode == 0
    done = shell(command, tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
def test_a_terminal_that_cannot_show_a_character_gets_its_escape(
    tmp_path: Path, encoding: str
) -> None:
    for kind in ("users", "videos"):
        file = EXAMPLE / f"{kind}.csv"
        assert shell(f"recommender import {kind} {file}", tmp_path).returncode == 0
    command = "recommender feed user1 --profile classic"
    done = shell(command, tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert json.loads(done.stdout)["items"][0]["caption"] == "Pulled it off again 😂"


def test_the_input_is_never_overwritten_with_its_errors(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_text("id\nu1\n")
    url = f"sqlite:///{tmp_path / 'x.db'}"
    skip = ("--on-error", "skip", "--errors", str(file))
    code, _, err = run("import", "users", str(file), *skip, database=url)
    assert (code, file.read_text()) == (77, "id\nu1\n")
    assert "may not be written: File exists" in err


def test_a_dry_run_makes_no_database(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "none.db"
    example = str(EXAMPLE / "users.csv")
    code, _, _ = run("import", "users", example, "--dry-run", database=f"sqlite:///{file}")
    assert (code, file.exists()) == (78, False)


@pytest.mark.slow
def test_a_url_shows_no_password_however_it_is_given(
    new_database: Callable[..., str], run: Run
) -> None:
    url = f"{new_database('postgresql')}?password=s3cret"
    code, out, err = run("demo", database=url)
    assert code == 0
    assert "s3cret" not in out + err
