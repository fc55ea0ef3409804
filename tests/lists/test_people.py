"""People to follow: who comes, in which order, why, and what was shown before."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    InvalidCursor,
    InvalidValue,
    PeoplePage,
    Settings,
    UnknownSignal,
    people,
    run_transaction,
)
from recommender.lists.people import PeoplePosition
from recommender.lists.people_signals import PEOPLE_SIGNALS
from recommender.lists.people_sources import FOLLOWS_OF_EACH, NEWEST_VIDEOS, PEOPLE_SOURCES
from recommender.models import Interaction, Suggestion, User, Video
from recommender.models.tables import USERS
from recommender.ranking import request as ranking_request
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import ids, put
from tests.support.twin_databases import suggestions
from tests.support.worlds import at, counted_statements, make_user, make_video, record

NOON, DAY = at(), timedelta(days=1)


def page(session: Session, user: str = "viewer", **options: Any) -> PeoplePage:
    return people(session, user, **{"as_of": NOON, **options})


def keys(found: PeoplePage) -> list[str]:
    return [person.creator for person in found.items]


def make_creators(session: Session, *creators: str, **columns: Any) -> None:
    """Create creators with a video each; the last one has the greatest id."""
    for creator in creators:
        make_user(session, creator)
        make_video(session, f"by {creator}", creator=creator, **columns)


def befriend(session: Session, user: str, *creators: str) -> None:
    for creator in creators:
        recommender.follow(session, user, creator)


@pytest.fixture
def town(session: Session) -> Session:
    """A viewer who follows ana and bob, and creators who stand for one source each."""
    make_creators(session, "ana", "bob", "both", "one", "liked", "near", "star", "new")
    make_user(session, language="en")
    befriend(session, "viewer", "ana", "bob")
    befriend(session, "ana", "both", "one")
    befriend(session, "bob", "both")
    for number in range(3):
        make_video(session, f"liked {number}", creator="liked")
        record(session, "watch", f"liked {number}", completion=1.0, at=at(-9 - number))
    make_video(session, "by near", creator="near", published_at=at(-60))
    known = ids(session, Video.__table__)  # type: ignore[arg-type]
    pair = {"source_id": known["liked 0"], "video_id": known["by near"], "similarity": 0.05}
    put(session, "video_neighbours", [pair])
    trend = sa.update(Video).where(Video.key == "by star").values(trending=9.0, language="en")
    session.execute(trend)
    return session


def values(found: PeoplePage) -> dict[str, dict[str, float]]:
    return {
        person.creator: {name: part.value for name, part in person.signals.items()}
        for person in found.items
    }


def test_the_list_names_each_cause_and_its_source(town: Session) -> None:
    found = page(town, reasons=True)
    told = {person.creator: (person.sources, person.reason) for person in found.items}
    assert told == {
        "both": (("social", "newest"), "Followed by ana and 1 other whom you follow."),
        "one": (("social", "newest"), "Followed by ana."),
        "liked": (("creators", "newest"), "You enjoyed 3 of their videos lately."),
        "near": (("taste", "newest"), "People who like what you like enjoy their videos."),
        "star": (("popular", "newest"), "Popular in your language."),
        "new": (("newest",), "They published lately."),
    }
    assert keys(found)[:2] == ["both", "one"]
    assert keys(found)[-1] == "new"
    assert found.items[0].reasons[0].as_dict() == {
        "kind": "followed_by", "subject": "ana", "count": 2,
    }  # fmt: skip
    assert (found.exhausted, found.cursor) == (True, None)
    assert found.items[0].as_dict(signals=True)["signals"]["followed_by"]["weight"] == 2
    assert page(town, reasons=True) == found


def test_more_than_two_who_follow_are_counted_and_the_first_one_is_named(town: Session) -> None:
    make_creators(town, "cleo", "abe")
    befriend(town, "viewer", "cleo", "abe")
    befriend(town, "cleo", "both")
    befriend(town, "abe", "both")
    assert page(town, reasons=True, limit=1).items[0].reason == (
        "Followed by abe and 3 others whom you follow."
    )
    assert values(page(town))["both"]["followed_by"] == 4 / 5


def test_what_is_true_for_all_viewers_is_named_last(town: Session) -> None:
    trend = sa.update(Video).where(Video.key == "liked 0").values(trending=20.0)
    town.execute(trend)
    weights = {"popular": 9.0, "enjoyed": 0.1, "active": 1.0}
    recommender.create_profile(town, "people", weights)
    found = {person.creator: person.reason for person in page(town, reasons=True).items}
    assert found["liked"] == "You enjoyed 3 of their videos lately. Popular now."
    assert found["star"] == "Popular in your language."


@slow_on_postgresql
def test_the_three_strongest_reasons_are_told(town: Session) -> None:
    befriend(town, "ana", "liked")
    known = ids(town, Video.__table__)  # type: ignore[arg-type]
    pair = {"source_id": known["liked 0"], "video_id": known["liked 1"], "similarity": 0.05}
    put(town, "video_neighbours", [pair])
    town.execute(sa.update(Video).where(Video.key == "liked 2").values(trending=20.0))
    person = next(each for each in page(town, reasons=True).items if each.creator == "liked")
    told = {reason.kind for reason in person.reasons}
    assert told == {"followed_by", "enjoyed", "similar_taste"}
    assert person.signals["popular"].value > 0


def test_who_published_long_ago_is_not_said_to_have_published_lately(town: Session) -> None:
    told = {}
    for days in (8, 10):
        make_creators(town, f"{days} days", published_at=NOON - days * DAY)
        found = page(town, reasons=True, where=User.key == f"{days} days")
        told[days] = found.items[0].reason
    assert told == {8: "They published lately.", 10: "They publish videos."}


def test_who_may_not_be_named_is_neither_named_nor_counted(town: Session) -> None:
    make_creators(town, "abe")
    befriend(town, "abe", "both")
    for how in (
        lambda: make_user(town, "abe", discoverable=False),
        lambda: recommender.block(town, "abe", "viewer"),
        lambda: recommender.block(town, "viewer", "abe"),
        lambda: recommender.mute(town, "viewer", "creator", "abe"),
        # Their rows follow in later transactions.
        lambda: change(town, "abe", erased_at=NOON),
        lambda: change(town, "abe", merged_into=ids(town, USERS)["star"]),
    ):
        with town.begin_nested() as savepoint:
            befriend(town, "viewer", "abe")
            assert "abe" in str(page(town, reasons=True).items[0].reason)
            how()
            found = page(town, reasons=True).items[0]
            assert found.reason == "Followed by ana and 1 other whom you follow."
            assert found.signals["followed_by"].value == 2 / 3
            savepoint.rollback()


def change(session: Session, user: str, **columns: Any) -> None:
    session.execute(sa.update(User).where(User.key == user).values(columns))


HIDING = {
    "followed": lambda s: befriend(s, "viewer", "one"),
    "dismissed": lambda s: recommender.dismiss(s, "viewer", "one"),
    "muted": lambda s: recommender.mute(s, "viewer", "creator", "one"),
    "blocked by the viewer": lambda s: recommender.block(s, "viewer", "one"),
    "blocked the viewer": lambda s: recommender.block(s, "one", "viewer"),
    "not discoverable": lambda s: make_user(s, "one", discoverable=False),
    "without a published video": lambda s: recommender.set_video_status(s, "by one", "removed"),
    "with videos for followers": lambda s: make_video(
        s, "by one", creator="one", audience="followers"
    ),
    "publishing later": lambda s: make_video(s, "by one", creator="one", published_at=at(1)),
}


def test_who_may_not_be_suggested_is_out(town: Session) -> None:
    assert "viewer" not in keys(page(town))
    make_video(town, "own", creator="viewer")
    assert "viewer" not in keys(page(town))
    for name, hide in HIDING.items():
        with town.begin_nested() as savepoint:
            assert keys(page(town))[:2] == ["both", "one"]
            hide(town)
            assert "one" not in keys(page(town)), name
            savepoint.rollback()


def test_who_is_being_erased_merged_or_hidden_is_out_before_their_videos_are(town: Session) -> None:
    """The row of the user decides; their videos follow in later transactions."""
    other = sa.select(User.id).where(User.key == "bob").scalar_subquery()
    for changed in ({"erased_at": NOON}, {"merged_into": other}, {"discoverable": False}):
        with town.begin_nested() as savepoint:
            change(town, "one", **changed)
            assert "one" not in keys(page(town)), changed
            savepoint.rollback()


@slow_on_postgresql
def test_the_erased_and_the_merged_are_out(engine: Engine) -> None:
    def make(session: Session) -> None:
        make_creators(session, "ana", "one", "two", "three")
        make_user(session)
        befriend(session, "viewer", "ana")
        befriend(session, "ana", "one", "two", "three")

    run_transaction(engine, make)
    recommender.erase_user(engine, "one")
    recommender.merge_users(engine, "two", "three")
    with Session(engine) as session:
        assert keys(page(session)) == ["three"]
        assert values(page(session))["three"]["followed_by"] == 1 / 2
    recommender.erase_user(engine, "ana")
    with Session(engine) as session:
        assert page(session, reasons=True).items[0].reason == "They published lately."


def test_a_stranger_gets_popular_and_new_people(town: Session) -> None:
    found = page(town, "a stranger", reasons=True, record=True)
    assert keys(found)[0] == "star"
    assert {person.reason for person in found.items} == {"Popular now.", "They published lately."}
    newest_account_first = ["new", "near", "liked", "one", "both", "bob", "ana"]
    assert keys(found)[1:] == newest_account_first
    pages = walked(town, user="a stranger", limit=1)
    assert [key for each in pages for key in keys(each)] == keys(found)
    assert found.request.known is False
    assert suggestions(town) == []


def test_in_another_language_the_popular_are_of_that_language(town: Session) -> None:
    make_creators(town, "estrella", language="es")
    town.execute(sa.update(Video).where(Video.key == "by estrella").values(trending=5.0))
    make_user(town, "spanish", language="es")
    make_user(town, "silent")
    popular = {
        user: {k for k, signals in values(page(town, user)).items() if signals["popular"]}
        for user in ("viewer", "spanish", "silent")
    }
    assert popular == {
        "viewer": {"star"}, "spanish": {"estrella"}, "silent": {"star", "estrella"},
    }  # fmt: skip


def walked(session: Session, **options: Any) -> Iterator[PeoplePage]:
    cursor = None
    while True:
        found = page(session, cursor=cursor, **options)
        yield found
        if (cursor := found.cursor) is None:
            return


def test_pages_follow_one_another_to_the_end_also_while_they_are_recorded(town: Session) -> None:
    whole = keys(page(town))
    assert len(whole) == 6
    for limit in (1, 4, 5, 6):
        pages = list(walked(town, limit=limit, record=limit == 4))
        assert [key for found in pages for key in keys(found)] == whole
        assert [found.exhausted for found in pages] == [False] * (len(pages) - 1) + [True]
        assert all(len(found.items) == limit for found in pages[:-1])


def test_a_cursor_keeps_its_time_and_asks_for_none_later(town: Session) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    make_creators(town, "later", published_at=tomorrow)
    ahead = PeoplePosition(tomorrow + timedelta(days=1)).cursor
    assert "later" not in keys(people(town, "viewer", cursor=ahead))
    assert "later" in keys(people(town, "viewer", as_of=tomorrow))
    kept = people(town, "viewer", as_of=tomorrow + DAY, cursor=page(town, limit=1).cursor)
    assert kept.request.as_of == NOON
    assert keys(kept) == keys(page(town))[1:]


@slow_on_postgresql
def test_bad_input_is_refused_in_one_sentence(town: Session) -> None:
    cursor = str(page(town, limit=1).cursor)
    early, far = (
        base64.urlsafe_b64encode(struct.pack(">qBqq", moment, 0, 0, 1)).rstrip(b"=").decode()
        for moment in (-1, 2**62)
    )
    for options, error, message in (
        ({"limit": 0}, InvalidValue, "^limit: 0 is not between 1 and 500"),
        ({"user": ""}, InvalidValue, "^user: "),
        ({"cursor": "x"}, InvalidCursor, "'x' is not one of this list"),
        ({"cursor": cursor + "A"}, InvalidCursor, "is not one of this list"),
        ({"cursor": early}, InvalidCursor, "is not one of this list"),
        ({"cursor": far}, InvalidCursor, "is not one of this list"),
        ({"profile": "none"}, recommender.UnknownProfile, "there is no profile 'none'"),
        ({"profile": "for_you"}, InvalidValue, "^profile: for_you ranks videos, not people: "),
        ({"where": "x"}, InvalidValue, "^where: 'x' is no SQL expression"),
        ({"where": Video.key == "v"}, InvalidValue, "^where: it joins rec_videos: use EXISTS"),
        ({"where": User.key == sa.bindparam("p")}, InvalidValue, "^where: the parameter 'p' has"),
        ({"exclude": "one"}, InvalidValue, "^exclude: 'one' is one key, not several"),
        ({"as_of": datetime(2026, 1, 1)}, InvalidValue, "has no offset"),  # noqa: DTZ001
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            page(town, **options)  # type: ignore[arg-type]


def test_a_condition_of_the_host_and_excluded_people_use_up_no_places(town: Session) -> None:
    assert keys(page(town, where=User.key.in_(["one", "new"]))) == ["one", "new"]
    watched = sa.exists().where(Interaction.video_id == Video.id, Video.creator_id == User.id)
    assert keys(page(town, where=watched)) == ["liked"]
    assert keys(page(town, exclude=["both", "nobody"], limit=1)) == ["one"]
    town.add(User(key="alias", merged_into=ids(town, USERS)["both"], merged_at=NOON))
    town.flush()
    assert keys(page(town, exclude=["alias"], limit=1)) == ["one"]


def test_a_page_takes_two_statements(town: Session) -> None:
    for options, expected in (
        ({}, 2), ({"where": User.language.is_(None), "exclude": ["one"]}, 2),
        ({"record": True}, 3), ({"reasons": True}, 3), ({"record": True, "reasons": True}, 4),
        ({"user": "a stranger", "reasons": True}, 2),
    ):  # fmt: skip
        page(town, **options)  # type: ignore[arg-type]
        with counted_statements(town.connection()) as sent:
            page(town, **options)  # type: ignore[arg-type]
        assert len(sent) == expected, options


# What was shown


def shown(session: Session) -> dict[str, tuple[int, datetime]]:
    return {row[1]: (row[2], row[3]) for row in suggestions(session)}


def test_a_person_counts_once_a_day(town: Session) -> None:
    page(town, record=True, limit=2)
    page(town, record=True, limit=2, as_of=at(11 * 60))
    assert shown(town) == {"both": (1, NOON), "one": (1, NOON)}
    page(town, record=True, limit=1, as_of=NOON + DAY)
    page(town, record=True, limit=1, as_of=NOON)  # a late request of the day before
    assert shown(town) == {"both": (2, NOON + DAY), "one": (1, NOON)}
    page(town, reasons=True)
    assert shown(town) == {"both": (2, NOON + DAY), "one": (1, NOON)}


def test_a_day_begins_at_midnight_in_utc(town: Session) -> None:
    midnight = NOON + DAY / 2
    moments = (midnight - timedelta(microseconds=1), midnight, midnight + DAY / 2, midnight + DAY)
    found = []
    for moment in moments:
        there = moment.astimezone(timezone(timedelta(hours=14)))
        page(town, record=True, limit=1, as_of=there, where=User.key == "both")
        counted = values(page(town, as_of=there))["both"]["shown"]
        found.append((*shown(town)["both"], round(counted * Settings().suggestion_days)))
    assert found == [
        (1, moments[0], 0), (2, midnight, 1), (2, midnight, 1), (3, moments[3], 2),
    ]  # fmt: skip


def test_who_was_shown_on_five_days_comes_after_all_others(town: Session) -> None:
    orders = []
    for number in range(7):
        as_of = NOON + number * DAY
        before = page(town, as_of=as_of)
        assert page(town, as_of=as_of, record=True, limit=1).items == before.items[:1]
        assert page(town, as_of=as_of) == before, "the list stays for the day"
        orders.append(keys(before))
    assert [order[0] for order in orders] == [
        "both", "both", "one", "both", "one", "both", "liked",
    ]  # fmt: skip
    assert shown(town)["both"][0] == 4
    assert keys(page(town, as_of=NOON + 7 * DAY))[-1] == "new"
    page(town, as_of=NOON + 7 * DAY, record=True, limit=1, where=User.key == "both")
    last = page(town, as_of=NOON + 13 * DAY)
    assert keys(last)[-1] == "both"
    assert values(last)["both"]["shown"] == 1
    assert keys(page(town, as_of=NOON + 13 * DAY, settings=Settings(suggestion_days=50)))[-1] == (
        "new"
    )
    pages = list(walked(town, limit=1, as_of=NOON + 13 * DAY))
    assert [key for found in pages for key in keys(found)] == keys(last)


@slow_on_postgresql
def test_what_was_shown_long_ago_is_forgotten_and_counts_anew(town: Session) -> None:
    for number in range(6):
        page(town, as_of=NOON + number * DAY, record=True, where=User.key == "both")
    last = NOON + 5 * DAY
    for days, value in ((1, 1.0), (89, 1.0), (90, 0.0), (400, 0.0)):
        found = page(town, as_of=last + days * DAY)
        assert values(found)["both"]["shown"] == value, days
    again = last + 91 * DAY
    page(town, as_of=again, record=True, where=User.key == "both")
    assert shown(town)["both"] == (1, again)


@slow_on_postgresql
def test_a_person_who_was_erased_or_merged_meanwhile_is_not_recorded(engine: Engine) -> None:
    """Between the reading and the recording; SQLite lets no one write in between."""

    def make(session: Session) -> None:
        make_creators(session, "one", "two", "three")
        make_user(session)

    run_transaction(engine, make)
    with Session(engine.execution_options(recommender_write=True)) as session:
        request = recommender.resolve(session, "viewer", "people", as_of=NOON)
        known = ids(session, USERS)
        change(session, "one", erased_at=NOON)
        change(session, "three", merged_into=known["two"])
        recommender.lists.people_shown.record_shown(
            session, request, [known[key] for key in ("one", "two", "three")]
        )
        assert session.scalars(sa.select(Suggestion.creator_id)).all() == [known["two"]]


@slow_on_postgresql
def test_of_each_friend_the_latest_hundred_follows_are_read(session: Session) -> None:
    make_creators(session, "ana")
    make_user(session)
    befriend(session, "viewer", "ana")
    rows = [{"key": f"c{number:03}"} for number in range(FOLLOWS_OF_EACH + 5)]
    session.execute(sa.insert(User), rows)
    known = ids(session, USERS)
    put(session, "follows", [
        {"user_id": known["ana"], "creator_id": known[row["key"]]} for row in rows
    ])  # fmt: skip
    make_video(session, "first", creator="c000")
    make_video(session, "last", creator="c104")
    found = values(page(session))
    assert (found["c104"]["followed_by"], found["c000"]["followed_by"]) == (0.5, 0.0)


@slow_on_postgresql
def test_a_source_gives_its_best_creators_up_to_its_quota(session: Session) -> None:
    """All but the first are followed by one friend each; of these the newest accounts are best."""
    make_user(session)
    friends = ("ana", "bob", "cleo")
    crowd = [f"c{number:03}" for number in range(3 * (FOLLOWS_OF_EACH - 1))]
    session.execute(sa.insert(User), [{"key": key} for key in (*friends, *crowd, "best")])
    of = ids(session, USERS)
    session.execute(sa.insert(Video), [
        {"key": key, "creator_id": of[key], "published_at": NOON} for key in (*crowd, "best")
    ])  # fmt: skip
    befriend(session, "viewer", *friends)
    put(session, "follows", [
        {"user_id": of[friend], "creator_id": of[key]}
        for place, friend in enumerate(friends)
        for key in (*crowd[place::3], "best")
    ])  # fmt: skip
    found = page(session, limit=500).items
    social = [person.creator for person in found if "social" in person.sources]
    quota = next(source.quota for source in PEOPLE_SOURCES if source.name == "social")
    assert social == ["best", *reversed(crowd[1 - quota :])]


@slow_on_postgresql
def test_whom_a_viewer_follows_takes_no_one_elses_place(session: Session) -> None:
    """The viewer follows whom friends follow most, whom they enjoy most, and the newest."""
    make_user(session)
    make_creators(session, "left")
    friends = [f"friend{number}" for number in range(17)]
    crowd = [f"c{number:03}" for number in range(NEWEST_VIDEOS - 1)]
    session.execute(sa.insert(User), [{"key": key} for key in (*friends, *crowd)])
    of = ids(session, USERS)
    viewer = {"user_id": of["viewer"]}
    put(session, "follows", [{**viewer, "creator_id": of[key]} for key in (*friends, *crowd)])
    put(session, "follows", [
        {"user_id": of[friends[2 * (place // 100) + each]], "creator_id": of[key]}
        for place, key in enumerate(crowd[:800])
        for each in (0, 1)
    ])  # fmt: skip
    befriend(session, friends[-1], "left")
    put(session, "affinities", [
        {**viewer, "subject": "creator", "subject_id": of[key], "score": 1.0 + (key != "left")}
        for key in (*crowd, "left")
    ])  # fmt: skip
    session.execute(sa.insert(Video), [
        {"key": key, "creator_id": of[key], "published_at": NOON} for key in crowd
    ])  # fmt: skip
    (person,) = page(session).items
    assert (person.creator, person.sources) == ("left", ("social", "creators", "newest"))


# Signals and the profile


def test_every_signal_has_its_name_its_range_and_its_description() -> None:
    assert tuple(signal.name for signal in PEOPLE_SIGNALS) == ranking_request.PEOPLE_SIGNALS
    for signal in PEOPLE_SIGNALS:
        doc = str(signal.expression.__doc__)
        assert f"Range: {signal.low} to {signal.high}. Reads: " in doc, signal.name


def test_signals_of_people_and_of_videos_do_not_mix(town: Session) -> None:
    with pytest.raises(UnknownSignal, match=r"^the signal popular is about people, not videos: "):
        recommender.create_profile(town, "mine", {"popular": 1})
    with pytest.raises(UnknownSignal, match=r"^there is no signal 'likes' in the profile people, "):
        recommender.create_profile(town, "people", {"likes": 1})
    for call in (
        lambda: recommender.for_you(town, "viewer", profile="people", record=False),
        lambda: recommender.rank(town, "viewer", ["by one"], profile="people"),
        lambda: recommender.similar(town, "by one", profile="people"),
        lambda: recommender.explain(town, "viewer", "by one", profile="people"),
    ):
        with pytest.raises(
            UnknownSignal, match=r"^the signal followed_by is about people, not vid"
        ):
            call()
    for name in ("people", "similar"):
        with pytest.raises(InvalidValue, match=f"^profile: {name} is for the list {name}, which "):
            recommender.activate_profile(town, name)


def test_a_version_of_the_profile_decides_and_the_newest_serves(town: Session) -> None:
    made = recommender.create_profile(town, "people", {"popular": 1.0, "shown": -0.5})
    assert made.version == 2
    assert keys(page(town, limit=1)) == ["star"]
    assert list(page(town, limit=1).items[0].signals) == ["popular", "shown"]
    assert keys(page(town, limit=1, profile="people@1")) == ["both"]
    told = {person.reason for person in page(town, reasons=True).items}
    assert told == {"Popular in your language.", "They publish videos."}
