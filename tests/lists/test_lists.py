"""One contract for every list: which filter it applies, which it only tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import FILTERS, FeedPage, FilterOutcome, InvalidValue
from recommender.lists.timelines import following as plain_following
from recommender.models import Video
from recommender.models.tables import VIDEOS
from recommender.ranking.filters import HOST_FILTERS, LISTS
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    follow,
    follow_oneself,
    make_user,
    make_video,
    mute,
    names,
    preview,
    record,
)

pytestmark = slow_on_postgresql

README = Path(recommender.__file__).parent / "ranking" / "README.md"

FAILS: Mapping[str, dict[str, Any]] = {
    "published": {"status": "review"},
    "not_in_future": {"published_at": at(1)},
    "available": {"audience": "unlisted"},
    "creator_not_blocked": {"creator": "nemesis"},
    "not_own": {"creator": "viewer"},
    "not_rejected": {},
    "not_seen": {},
    "creator_not_muted": {"creator": "villain"},
    "sound_not_muted": {"sound": "song"},
    "hashtag_not_muted": {"hashtags": ["cats"]},
    "keyword_not_muted": {"caption": "so much SPAM"},
    "where": {"language": "xx"},
    "excluded": {},
}
"""A video for each filter, named after it, which fails that filter and no other."""

OPTIONS: Mapping[str, Any] = {
    "as_of": NOON,
    "exclude": ["excluded"],
    "where": sa.func.coalesce(Video.language, "") != "xx",
}


def make_world(session: Session) -> None:
    """Make a viewer, a video that passes every filter, and the videos of `FAILS`."""
    make_user(session)
    make_video(session, "about", creator="somebody")
    for creator in ("star", "villain", "nemesis"):
        follow(session, "viewer", creator)
    follow_oneself(session, "viewer")
    for key, columns in {"fine": {}, **FAILS}.items():
        make_video(session, key, **{"creator": "star", **columns})
    for kind, value in (("creator", "villain"), ("hashtag", "cats"), ("sound", "song"),
                        ("keyword", "spam")):  # fmt: skip
        mute(session, "viewer", kind, value)
    recommender.block(session, "viewer", "nemesis")
    record(session, "impression", "not_seen")
    record(session, "report", "not_rejected")


def ranked(session: Session) -> FeedPage:
    return recommender.rank(session, "viewer", ["fine", *FAILS], **OPTIONS)


def failed(session: Session, video: str, **options: Any) -> list[str]:
    """Return the names of the filters that a video fails, as `explain` tells them."""
    explanation = recommender.explain(session, "viewer", video, **(options or OPTIONS))
    return [outcome.name for outcome in explanation.filters if not outcome.passed]


PAGES: Mapping[str, Callable[[Session], FeedPage]] = {
    "for_you": lambda session: preview(session, **OPTIONS),
    "following": lambda session: plain_following(session, "viewer", **OPTIONS),
    "trending": lambda session: recommender.trending(session, **OPTIONS),
    "similar": lambda session: recommender.similar(session, "about", user="viewer", **OPTIONS),
    "rank": ranked,
}


def reached(session: Session) -> dict[str, str]:
    """Return which filters keep the viewer from the users who would want a video."""

    def is_reached(video: str) -> bool:
        users = recommender.reach(session, video, as_of=NOON)
        return "viewer" in [each.user for each in users]

    assert is_reached("fine")
    ours = {rule.name: "no" if is_reached(rule.name) else "yes" for rule in FILTERS}
    return {**ours, **dict.fromkeys(HOST_FILTERS, "no")}


def behaviour(session: Session) -> dict[str, dict[str, str]]:
    """Return what each list does with the video that fails each filter: yes, told or no."""
    seen: dict[str, dict[str, str]] = {}
    for name, ask in PAGES.items():
        items = {item.video: item for item in ask(session).items}
        assert "fine" in items
        assert all(outcome.passed for outcome in items["fine"].filters)
        seen[name] = {}
        for rule in FAILS:
            told = FilterOutcome(rule, passed=False)
            is_told = rule in items and told in items[rule].filters
            seen[name][rule] = "told" if is_told else "no" if rule in items else "yes"
    seen["reach"] = reached(session)
    told_by_explain = {*failed(session, "excluded"), *failed(session, "not_own")}
    seen["explain"] = {rule: "told" if rule in told_by_explain else "no" for rule in FAILS}
    return seen


def table_of_the_readme() -> dict[str, dict[str, str]]:
    """Return the table of filters and lists in the README, by list and filter."""
    lines = README.read_text("utf-8").split("| filter | `for_you`")[1].splitlines()
    lists = [cell.strip(" `") for cell in f"`for_you`{lines[0]}".strip("| ").split("|")]
    table: dict[str, dict[str, str]] = {name: {} for name in lists}
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rules, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for rule in rules.replace("`", "").split(", "):
            for name, cell in zip(lists, cells, strict=True):
                table[name][rule] = cell
    return table


def declared() -> dict[str, dict[str, str]]:
    """Return what `LISTS` says, in the words of the table."""

    def word(name: str, rule: str) -> str:
        applied, told = LISTS[name]
        return "yes" if rule in applied else "told" if rule in told else "no"

    return {name: {rule: word(name, rule) for rule in FAILS} for name in LISTS}


def test_every_list_does_with_every_filter_what_the_table_says(session: Session) -> None:
    assert list(FAILS) == [*(rule.name for rule in FILTERS), *HOST_FILTERS]
    make_world(session)
    for item in ranked(session).items:
        # What a viewer rejected is also seen, so it is the only video that fails two filters.
        expected = {"fine": [], "not_rejected": ["not_rejected", "not_seen"]}
        fails = [outcome.name for outcome in item.filters if not outcome.passed]
        assert fails == expected.get(item.video, [item.video])
    assert failed(session, "excluded") == ["excluded"]
    make_everything_bad(session)
    expected = table_of_the_readme()
    assert behaviour(session) == expected
    assert declared() == expected


def make_everything_bad(session: Session) -> None:
    """Make the excluded video fail every filter but `not_own`, since explanations are slow."""
    columns = {name: value for row in FAILS.values() for name, value in row.items()}
    make_video(session, "excluded", **{**columns, "creator": "villain"})
    recommender.block(session, "viewer", "villain")
    record(session, "report", "excluded")


def test_an_explanation_names_the_conditions_of_the_host(session: Session) -> None:
    make_world(session)
    reasons = {
        "where": "Not shown: the application has a condition that it does not fulfil.",
        "excluded": "Not shown: the application left it out of this list.",
    }
    for video, reason in reasons.items():
        explanation = recommender.explain(session, "viewer", video, **OPTIONS)
        assert (explanation.shown, explanation.reason) == (False, reason)
    explanation = recommender.explain(session, "viewer", "excluded", as_of=NOON)
    assert explanation.shown
    assert [each.name for each in explanation.filters] == [rule.name for rule in FILTERS]


def test_rank_leaves_out_what_is_not_allowed_only_if_asked(session: Session) -> None:
    make_world(session)
    every = ranked(session)
    assert sorted(names(every)) == sorted({"fine", *FAILS} - {"excluded"})
    allowed = recommender.rank(session, "viewer", names(every), allowed_only=True, **OPTIONS)
    assert [(item.position, item.video) for item in allowed.items] == [(1, "fine")]
    (item,) = (item for item in every.items if item.video == "not_seen")
    assert {"name": "not_seen", "passed": False} in item.as_dict()["filters"]
    reference = recommender.rank(session, "viewer", ["not_seen"], profile="classic", as_of=NOON)
    told = [outcome.name for outcome in reference.items[0].filters]
    assert told == ["published", "not_in_future", "available", "creator_not_blocked"]
    assert recommender.rank(session, "viewer", ["fine", "no"], exclude=["fine", "no"]).items == ()
    with pytest.raises(recommender.UnknownVideo):
        recommender.rank(session, "viewer", ["fine", "no"], exclude=["fine"])


def test_an_empty_cursor_asks_for_the_first_page(session: Session) -> None:
    make_world(session)
    for ask in (
        lambda **o: recommender.for_you(session, "viewer", record=False, as_of=NOON, **o),
        lambda **o: recommender.following(session, "viewer", as_of=NOON, **o),
        lambda **o: recommender.trending(session, as_of=NOON, **o),
    ):
        assert names(ask(cursor="")) == names(ask(cursor=None)) != []
    served = recommender.for_you(session, "viewer", cursor="", limit=1, as_of=NOON)
    assert (served.items[0].position, served.session is None) == (1, False)


LONG = 650
"""The number of videos of a long list: more than six scans of 100."""


def make_long_list(session: Session, every: int) -> list[str]:
    """Make many videos by two followed creators, and return the keys of those in Peru.

    A third of them trends. Many have the same time, and some have none.
    """
    make_user(session)
    rows = [
        {"id": f"v{n}", "creator": "busy" if n % 5 else "calm", "language": ("en", None)[n % 2],
         "country": "PE" if n % every == 0 else "US",
         "published_at": None if n > LONG - 150 else at(-20 - n // 7)}
        for n in range(1, LONG)
    ]  # fmt: skip
    recommender.upsert_videos(session, rows)
    for creator in ("busy", "calm", "silent"):
        follow(session, "viewer", creator)
    trends = VIDEOS.update().where(VIDEOS.c.id % 3 == 0)
    session.execute(trends.values(trending=sa.cast(VIDEOS.c.id % 9, sa.Double)))
    return [str(row["id"]) for row in rows if row["country"] == "PE"]


def pages_of(ask: Callable[..., FeedPage], **options: Any) -> list[FeedPage]:
    pages = [ask(as_of=NOON, **options)]
    while pages[-1].cursor:
        assert len(pages) < 100
        pages.append(ask(as_of=NOON, cursor=pages[-1].cursor, **options))
    return pages


def videos_of(pages: list[FeedPage]) -> list[str]:
    return [video for page in pages for video in names(page)]


@pytest.mark.parametrize("every", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_rare_condition_cuts_a_page_short_and_the_next_page_goes_on(
    session: Session, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOMMENDER_SCAN_LIMIT", "100")
    rare = make_long_list(session, every)
    excluded = ["v40", "v400"]
    for ask in (
        lambda **o: recommender.following(session, "viewer", **o),
        lambda **o: recommender.trending(session, **o),
        lambda **o: recommender.trending(session, "en", **o),
    ):
        whole = videos_of(pages_of(ask, limit=500))
        assert len(set(whole)) == len(whole) == LONG - 1
        expected = [video for video in whole if video in rare and video not in excluded]
        for limit in (2, 20):
            pages = pages_of(ask, where=Video.country == "PE", exclude=excluded, limit=limit)
            assert videos_of(pages) == expected
            assert all(page.cut_short == (len(page.items) < limit) for page in pages[:-1])
            assert any(page.cut_short for page in pages)
            assert len(pages) <= 14 + len(expected) // limit
            assert [page.exhausted for page in pages] == [False] * (len(pages) - 1) + [True]
            assert not pages[-1].cut_short


def test_only_a_condition_takes_a_statement_more(session: Session) -> None:
    make_world(session)
    lists = (
        lambda **o: recommender.following(session, "viewer", as_of=NOON, limit=1, **o),
        lambda **o: recommender.trending(session, as_of=NOON, **o),
    )
    for ask, usual, more in zip(lists, (2, 3), (1, 2), strict=True):
        for options, expected in (({}, usual), ({"exclude": ["fine"]}, usual),
                                  ({"where": Video.key != "fine"}, usual + more)):  # fmt: skip
            with counted_statements(session.connection()) as sent:
                assert not ask(**options).cut_short
            assert len(sent) == expected


def test_bad_conditions_are_one_clear_error_in_every_list(session: Session) -> None:
    make_world(session)
    lists: list[Callable[..., object]] = [
        lambda **o: preview(session, **o),
        lambda **o: recommender.following(session, "viewer", **o),
        lambda **o: recommender.trending(session, **o),
        lambda **o: recommender.rank(session, "viewer", ["fine"], **o),
        lambda **o: recommender.explain(session, "viewer", "fine", **o),
    ]
    bad = [
        ({"where": "fine"}, "^where: .*is no SQL expression"),
        ({"where": Video.key == sa.bindparam("video")}, "^where: the parameter .* has no value"),
        ({"where": sa.column("x", _selectable=sa.table("t")) == 1}, "^where: it joins t"),
        ({"exclude": "fine"}, "^exclude: .* is one key, not several"),
        ({"exclude": 7}, "^exclude: .* is no list of keys"),
    ]
    for ask in lists:
        for options, message in bad:
            with pytest.raises(InvalidValue, match=message):
                ask(**options)
    for ranks in (preview, recommender.people, recommender.for_you):
        with pytest.raises(InvalidValue, match=r"^settings: 'fast' is no Settings$"):
            ranks(session, "viewer", settings="fast")
