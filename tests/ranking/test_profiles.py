"""Ranking profiles: immutable versions of weights, one of which serves by default."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    SIGNALS,
    FeedPage,
    InvalidValue,
    Profile,
    UnknownProfile,
    UnknownSignal,
    activate_profile,
    create_profile,
    diff_profiles,
    get_profile,
    list_profiles,
    profile_history,
    run_transaction,
)
from recommender.formats import scalars
from recommender.models import ProfileVersion, ProfileWeight
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_video,
    make_videos,
    names,
    preview,
    record,
    rows_of,
    scores,
    unspread,
    worked_example,
)

CLASSIC = {
    "completion": 0.40,
    "likes": 0.30,
    "shares": 0.25,
    "follows": 0.35,
    "hashtags": 0.20,
    "sound": 0.15,
    "language": 0.05,
    "country": 0.02,
}
VIDEOS = ("v1", "v2", "v3")
TABLES = (ProfileVersion.__table__, ProfileWeight.__table__)


def stored(session: Session) -> list[list[tuple[Any, ...]]]:
    columns = (("name", "version"), ("profile_id", "signal", "weight"))
    return [rows_of(session, table, *names) for table, names in zip(TABLES, columns, strict=True)]


def origins(session: Session, name: str = "mine") -> list[tuple[Any, ...]]:
    """Source, author, note and parent of each version."""
    records = profile_history(session, name)
    assert [(each.profile, each.version) for each in records] == [
        (name, number) for number in range(1, len(records) + 1)
    ]
    return [(each.source, each.author, each.note, each.parent) for each in records]


def ranked(session: Session, profile: str | None = None) -> FeedPage:
    """The example's videos, seen or not, as a profile ranks them."""
    return recommender.rank(session, "user1", VIDEOS, profile=profile)


def served(session: Session) -> tuple[str, int]:
    """The profile that serves where none is asked for; all ways to ask agree."""
    profile = get_profile(session)
    assert profile.active
    assert [each for each in list_profiles(session) if each.active] == [profile]
    assert recommender.resolve(session, "nobody").profile == profile
    return profile.name, profile.version


def test_classic_is_there_with_the_documented_weights(session: Session) -> None:
    classic = Profile("classic", 1, CLASSIC)
    assert get_profile(session, "classic") == get_profile(session, "classic@1") == classic
    assert list(get_profile(session, "classic").weights) == list(CLASSIC)


def test_for_you_serves_where_none_is_asked_for_and_weighs_every_signal(session: Session) -> None:
    assert served(session) == ("for_you", 1)
    for_you = get_profile(session, "for_you")
    built_in = ("classic", "for_you", "people", "similar@1", "similar@2")
    assert list_profiles(session) == [get_profile(session, name) for name in built_in]
    assert set(for_you.weights) == {signal.name for signal in SIGNALS}
    assert all(for_you.weights.values())


def test_classic_serves_where_it_is_activated(session: Session) -> None:
    worked_example(session)
    activate_profile(session, "classic")
    assert served(session) == ("classic", 1)
    page = preview(session, "user1")
    assert scores(page) == {"v1": 1.45, "v2": 0.8, "v3": 0.0}


def test_a_profile_is_kept_as_it_was_made(session: Session) -> None:
    weights = {"shares": -100, "completion": 100.0, "likes": 0, "sound": 1 / 3, "country": 5e-324}
    made = create_profile(session, "mine", weights)
    assert made == Profile("mine", 1, weights)
    assert get_profile(session, "mine") == made
    assert list(get_profile(session, "mine").weights) == list(weights)


def test_versions_count_up_for_each_name(session: Session) -> None:
    made = [
        create_profile(session, name, {"likes": weight})
        for weight, name in enumerate(["mine", "mine", "other", "another", "mine"], start=1)
    ]
    assert [(each.name, each.version) for each in made] == [
        ("mine", 1), ("mine", 2), ("other", 1), ("another", 1), ("mine", 3),
    ]  # fmt: skip


def test_a_new_version_changes_no_older_one(session: Session) -> None:
    create_profile(session, "mine", {"likes": 1})
    create_profile(session, "mine", {"shares": 2})
    assert get_profile(session, "mine@1").weights == {"likes": 1}
    assert get_profile(session, "mine@2").weights == {"shares": 2}


def test_a_bare_name_is_its_newest_version(session: Session) -> None:
    for weight in range(1, 12):
        create_profile(session, "mine", {"likes": weight})
    create_profile(session, "mine2", {"likes": 99})
    newest = get_profile(session, "mine")
    assert (newest.version, newest.weights) == (11, {"likes": 11})


def test_all_are_listed_by_name_and_version(session: Session) -> None:
    for name in ("zeta", "alpha", *["zeta"] * 9, "Beta"):
        create_profile(session, name, {"likes": 1, "shares": 2})
    assert [(each.name, each.version) for each in list_profiles(session)] == [
        ("Beta", 1), ("alpha", 1), ("classic", 1), ("for_you", 1),
        ("people", 1), ("similar", 1), ("similar", 2),
        *(("zeta", number) for number in range(1, 11)),
    ]  # fmt: skip


def test_a_profile_is_read_in_one_statement(session: Session) -> None:
    create_profile(session, "mine", {"likes": 1})
    for wanted in (None, "mine", "mine@1"):
        with counted_statements(session.connection()) as sent:
            get_profile(session, wanted)
        assert len(sent) == 1


@pytest.mark.parametrize(
    "wanted",
    [
        "other", "mine@2", "mine@0", "mine@-1", "mine@x", "mine@", "mine@1@1", "mine@01",
        "mine@1 ", "mine@9999999999", "mine@\u0661", "@1", "", " mine", "Mine", "min", "mine%",
        "a\0b", "\ud800", "m" * 101,
    ],
)  # fmt: skip
def test_what_is_not_there_is_an_unknown_profile(session: Session, wanted: str) -> None:
    create_profile(session, "mine", {"likes": 1})
    for ask in (get_profile, activate_profile):
        with pytest.raises(UnknownProfile, match=r"^there is no profile ") as caught:
            ask(session, wanted)
        assert caught.value.exit_code == 2
    assert served(session) == ("for_you", 1)


def test_a_new_profile_serves_once_it_is_activated(session: Session) -> None:
    create_profile(session, "mine", {"likes": 1})
    assert served(session) == ("for_you", 1)
    assert activate_profile(session, "mine") == Profile("mine", 1, {"likes": 1}, active=True)
    assert served(session) == ("mine", 1)
    create_profile(session, "mine", {"likes": 2})
    assert served(session) == ("mine", 1)
    activate_profile(session, "mine")
    assert served(session) == ("mine", 2)


@pytest.mark.parametrize(
    "clock",
    [
        [NOON] * 20,
        [at(-minutes) for minutes in range(20)],
        [at(minutes) for minutes in range(20)],
        [at(5), at(-600), at(-600), at(6), *[at(-9000)] * 16],
    ],
    ids=["stands still", "goes back", "goes on", "jumps"],
)
def test_the_one_activated_last_serves_whatever_the_clock_does(
    session: Session, clock: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(clock)
    monkeypatch.setattr(scalars, "now", lambda: next(ticks))
    for weight in (1, 2):
        create_profile(session, "mine", {"likes": weight})
    monkeypatch.setattr(scalars, "now", lambda: next(ticks, clock[-1]))
    order = ["mine@1", "mine@2", "mine@1", "classic@1", "mine@2", "classic", "classic", "mine@1"]
    for wanted in order:
        activated = activate_profile(session, wanted)
        assert served(session) == (activated.name, activated.version)
        assert f"{activated.name}@{activated.version}".startswith(wanted)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({}, InvalidValue, "weights: a profile needs at least one"),
        ({"likes": 100.0000001}, InvalidValue, "weight of likes: 100.0000001 is not between -100"),
        ({"likes": -101}, InvalidValue, "weight of likes: -101 is not between -100 and 100"),
        ({"likes": float("nan")}, InvalidValue, "weight of likes: nan is not a number"),
        ({"likes": float("inf")}, InvalidValue, "weight of likes: inf is not between"),
        ({"likes": float("1e400")}, InvalidValue, "weight of likes: inf is not between"),
        ({"likes": 2**63}, InvalidValue, "weight of likes: 9223372036854775808 is not between"),
        ({"likes": True}, InvalidValue, "weight of likes: True is not a number"),
        ({"likes": None}, InvalidValue, "weight of likes: None is not a number"),
        ({"likes": "much"}, InvalidValue, "weight of likes: 'much' is not a number"),
        ({"likes": 1, "charm": 1}, UnknownSignal, "there is no signal 'charm': there are complet"),
        ({"Likes": 1}, UnknownSignal, "there is no signal 'Likes': there are completion, likes"),
        ({"": 1}, UnknownSignal, "there is no signal ''"),
        ({"likes; DROP TABLE": 1}, UnknownSignal, "there is no signal 'likes; DROP TABLE'"),
    ],
)
def test_weights_that_are_not_of_their_form_are_refused_and_nothing_is_written(
    session: Session, weights: Mapping[str, Any], error: type[InvalidValue], message: str
) -> None:
    before = stored(session)
    with pytest.raises(error) as caught:
        create_profile(session, "mine", weights)
    assert str(caught.value).startswith(message)
    session.flush()
    assert stored(session) == before


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "1a", "_a", "-a", ".a", "a b", "a@1", "a/b", "a\n", "a\0", "é", "\u0430bc",
        "\ud800", "a" * 101,
    ],
)  # fmt: skip
def test_a_name_that_is_not_of_its_form_is_refused_and_nothing_is_written(
    session: Session, name: str
) -> None:
    before = stored(session)
    with pytest.raises(InvalidValue, match=r"^profile: .* is not a letter followed by"):
        create_profile(session, name, {"likes": 1})
    session.flush()
    assert stored(session) == before


@pytest.mark.parametrize("name", ["a", "Z", "for_me", "v2.1-beta_x", "a" * 100])
def test_a_name_of_the_form_is_kept_as_written(session: Session, name: str) -> None:
    create_profile(session, name, {"likes": 1})
    assert get_profile(session, f"{name}@1").name == name


@pytest.mark.parametrize("signal", CLASSIC)
def test_the_weights_of_the_table_make_the_score(session: Session, signal: str) -> None:
    worked_example(session)
    record(session, "share", "v1", "user1")
    classic = preview(session, "user1", profile="classic")
    values = {item.video: item.signals[signal].value for item in classic.items}
    assert any(values.values())
    create_profile(session, "mine", {signal: 2.5})
    page = ranked(session, "mine")
    assert scores(page) == {video: round(2.5 * value, 9) for video, value in values.items()}
    activate_profile(session, "mine")
    assert ranked(session).items == page.items
    assert list(page.items[0].signals) == [signal]


def test_a_profile_of_ones_own_shows_what_is_new_to_the_viewer(session: Session) -> None:
    worked_example(session)
    make_videos(session, "new", "newest", creator="creator1")
    make_video(session, "other", creator="creator2")
    create_profile(session, "mine", {"follows": 2})
    page = unspread(session, "user1", profile="mine")
    assert scores(page) == {"new": 2, "newest": 2, "other": 0, "v3": 0}
    assert names(page) == ["newest", "new", "other", "v3"]


def test_a_new_version_of_for_you_serves_once_it_is_activated(session: Session) -> None:
    assert create_profile(session, "for_you", {"likes": 1}).version == 2
    assert served(session) == ("for_you", 1)
    activate_profile(session, "for_you")
    assert served(session) == ("for_you", 2)


def test_a_negative_weight_turns_the_order_around(session: Session) -> None:
    worked_example(session)
    create_profile(session, "mine", {name: -weight for name, weight in CLASSIC.items()})
    page = ranked(session, "mine")
    assert [(item.video, item.score) for item in page.items] == [
        ("v3", 0.0), ("v2", -0.8), ("v1", -1.45),
    ]  # fmt: skip


def test_a_page_says_which_version_it_was_made_with(session: Session) -> None:
    for weight in (1, 2):
        create_profile(session, "mine", {"likes": weight})
    for wanted, version in (("mine", 2), ("mine@1", 1)):
        request = preview(session, "nobody", profile=wanted).request
        assert (request.profile.name, request.profile.version) == ("mine", version)


def test_a_signal_that_this_version_does_not_have_is_an_error_where_it_is_used(
    session: Session,
) -> None:
    worked_example(session)
    create_profile(session, "mine", {"likes": 1, "shares": 1})
    session.execute(
        sa.update(ProfileWeight).where(ProfileWeight.signal == "shares", ProfileWeight.weight == 1)
        .values(signal="gone")
    )  # fmt: skip
    assert get_profile(session, "mine").weights == {"likes": 1, "gone": 1}
    for ask in (
        lambda: preview(session, "user1", profile="mine"),
        lambda: recommender.rank(session, "user1", ["v1"], profile="mine"),
        lambda: recommender.explain(session, "user1", "v1", profile="mine"),
    ):
        with pytest.raises(UnknownSignal, match="there is no signal 'gone'") as caught:
            ask()
        assert caught.value.exit_code == 2
    assert scores(ranked(session, "classic"))["v1"] == 1.45


def test_the_reference_formula_keeps_its_one_version(session: Session) -> None:
    with pytest.raises(InvalidValue, match=r"^profile: classic is the reference formula"):
        create_profile(session, "classic", {"likes": 1})
    assert [profile.name for profile in list_profiles(session)] == [
        "classic", "for_you", "people", "similar", "similar",
    ]  # fmt: skip


def test_ten_makers_of_one_profile_make_ten_versions(engine: Engine) -> None:
    def make(_number: int) -> int:
        return run_transaction(
            engine, lambda session: create_profile(session, "mine", {"likes": 1}).version
        )

    with ThreadPoolExecutor(max_workers=10) as pool:
        assert sorted(pool.map(make, range(10))) == list(range(1, 11))


def test_a_version_says_where_it_comes_from(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalars, "now", at)
    create_profile(session, "mine", {"likes": 1})
    create_profile(session, "mine", {"likes": 2}, author="ana", note="more\nlikes")
    create_profile(session, "mine", {"likes": 3}, parent="mine@1")
    create_profile(session, "mine", {"likes": 4}, parent="for_you", metrics={"auc": 0.5, "of": []})
    assert origins(session) == [
        ("hand", None, None, None),
        ("hand", "ana", "more\nlikes", "mine@1"),
        ("hand", None, None, "mine@1"),
        ("fit", None, None, "for_you@1"),
    ]
    assert {each.created_at for each in profile_history(session, "mine")} == {at()}
    assert [each.metrics for each in profile_history(session, "mine")] == [
        None, None, None, {"auc": 0.5, "of": []},
    ]  # fmt: skip
    assert (
        origins(session, "classic") == origins(session, "for_you") == [("hand", None, None, None)]
    )
    with pytest.raises(UnknownProfile, match="there is no profile 'nobodys'"):
        profile_history(session, "nobodys")


def test_all_history_is_in_the_order_of_the_list(session: Session) -> None:
    for name in ("zeta", "Beta", *["zeta"] * 10):
        create_profile(session, name, {"likes": 1})
    records = [(each.profile, each.version) for each in profile_history(session)]
    assert records == [(each.name, each.version) for each in list_profiles(session)]


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"author": ""}, InvalidValue, "author: is empty"),
        ({"author": "a" * 256}, InvalidValue, "author: is 256 characters long"),
        ({"author": 1}, InvalidValue, "author: 1 is not text"),
        ({"note": ""}, InvalidValue, "note: is empty"),
        ({"note": "a\0"}, InvalidValue, "note: has the character U+0000"),
        ({"note": "n" * 10_001}, InvalidValue, "note: is 10,001 characters long"),
        ({"parent": "other"}, UnknownProfile, "there is no profile 'other'"),
        ({"parent": "mine@2"}, UnknownProfile, "there is no profile 'mine@2'"),
    ],
)
def test_an_origin_that_is_not_of_its_form_is_refused(
    session: Session, said: Any, error: type[Exception], message: str
) -> None:
    create_profile(session, "mine", {"likes": 1})
    before = stored(session)
    with pytest.raises(error) as caught:
        create_profile(session, "mine", {"likes": 1}, **said)
    assert str(caught.value).startswith(message)
    session.flush()
    assert stored(session) == before


def test_activating_and_going_back_change_one_row_each(session: Session) -> None:
    for weight in (1, 2, 3):
        create_profile(session, "mine", {"likes": weight})
    order = ["mine@2", "mine@3", "mine@2", "for_you@1"]
    for wanted in order:
        before = rows_of(session, TABLES[0])
        with counted_statements(session.connection()) as sent:
            activate_profile(session, wanted)
        assert sum(statement.startswith("UPDATE") for statement in sent) == 1
        assert not any(statement.startswith(("INSERT", "DELETE")) for statement in sent)
        after = rows_of(session, TABLES[0])
        changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
        assert len(changed) == 1
        is_time = [column.name == "activated_at" for column in TABLES[0].c]
        pairs = zip(*changed[0], is_time, strict=True)
        assert all(one == other or may_change for one, other, may_change in pairs)
        assert "@".join(map(str, served(session))) == wanted


def test_two_versions_differ_in_weights_and_in_pages(session: Session) -> None:
    make_videos(session, "old", creator="a", published_at=at(-3000))
    make_videos(session, "new", creator="b", published_at=at(-10))
    recommender.upsert_users(session, [{"id": "viewer"}])
    recommender.follow(session, "viewer", "a")
    create_profile(session, "mine", {"follows": 1, "freshness": 0.5})
    create_profile(session, "mine", {"freshness": 2, "likes": 1})
    found = diff_profiles(
        session, "mine@1", "mine", users=["viewer", "stranger"], limit=2, as_of=at()
    )
    assert (found.first, found.second) == ("mine@1", "mine@2")
    assert found.weights == {"follows": (1, 0), "freshness": (0.5, 2), "likes": (0, 1)}
    assert {user: tuple(map(names, pages)) for user, pages in found.pages.items()} == {
        "viewer": (["old", "new"], ["new", "old"]),
        "stranger": (["new", "old"], ["new", "old"]),
    }


def test_comparing_serves_nothing(session: Session) -> None:
    worked_example(session)
    with counted_statements(session.connection()) as sent:
        diff_profiles(session, "for_you", "classic", users=["user1"])
    assert len(sent) >= 5
    assert {each.split()[0] for each in sent} == {"SELECT", "WITH"}
    assert not any("FOR UPDATE" in each for each in sent)


def test_one_key_is_not_several_users(session: Session) -> None:
    with pytest.raises(InvalidValue, match=r"^users: 'ana' is one key"):
        diff_profiles(session, "for_you", "classic", users="ana")
    with pytest.raises(UnknownProfile):
        diff_profiles(session, "for_you", "nobodys")
