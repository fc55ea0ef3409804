"""The write side of the catalogue: what upserts insert, change, keep and clear."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Counts,
    InvalidValue,
    Settings,
    UnknownUser,
    UnknownVideo,
    follow,
    run_transaction,
    set_video_status,
    unfollow,
    upsert_users,
    upsert_videos,
)
from recommender.database import lookup
from recommender.formats import scalars
from recommender.formats import text as text_module
from recommender.ingest import upserts
from recommender.ingest.follows import apply_follows
from recommender.models import Affinity, Follow, User, Video, catalog
from recommender.models.tables import (
    CAPTIONS,
    FOLLOWS,
    HASHTAGS,
    SOUNDS,
    USER_HASHTAGS,
    USER_SOUNDS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEOS,
)
from recommender.models.types import Base
from recommender.operations.users import show_user
from tests.support.catalog_rows import in_order, just_before, members, videos, writes
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import NOON, at, counted_statements, make_user, make_video, rows_of

pytestmark = slow_on_postgresql

VIDEO: Mapping[str, Any] = {"creator": "c", "published_at": NOON}
FULL: Mapping[str, Any] = {
    "creator": "c",
    "published_at": NOON,
    "caption": "hi",
    "hashtags": ["b", "a"],
    "sound": "s",
    "language": "en",
    "country": "US",
    "duration_ms": 1000,
    "orientation": "portrait",
    "status": "review",
    "format": "clip",
}
AWKWARD = (
    "'; DROP TABLE rec_videos; --",
    "%_\\ :name ${x} {0} %s ? $1 ::text",
    '"quoted" `back` [brackets]',
    "new\nline\r\ttab\x01\x1f",
    "  spaces  ",
    "Ελληνικά русский العربية עברית हिन्दी ไทย 한국어 日本語 漢字",
    "e\u0301 is not \u00e9",
    "\u202eleft\u202c",
    "👩‍👩‍👧 🇺🇸 😂",
    "\ufeff\uffff\U0010ffff",
)


def tag_of(text: str) -> str:
    """Return a text without the marks that a hashtag may not have."""
    return text.translate(str.maketrans("", "", "[]{}\"',;"))


SCALARS = [name for name in upserts.USER_SCALARS if name != "on_sight"]


def users(session: Session) -> dict[str, dict[str, Any]]:
    """Every user as an interchange row."""
    columns = [USERS.c[name] for name in ("key", *SCALARS)]
    interests = members(session, USER_HASHTAGS, "user_id", HASHTAGS, "hashtag_id")
    sounds = members(session, USER_SOUNDS, "user_id", SOUNDS, "sound_id")
    return {
        row.key: {
            **{name: getattr(row, name) for name in SCALARS},
            "interests": interests.get(row.id, set()),
            "liked_sounds": sounds.get(row.id, set()),
        }
        for row in session.execute(sa.select(USERS.c.id, *columns))
    }


def test_a_user_with_every_column(session: Session) -> None:
    row = {
        "id": "u", "language": "en", "country": "US", "device": "phone", "created_at": NOON,
        "interests": ["#B", "a", "b"], "liked_sounds": ["s"], "discoverable": False,
    }  # fmt: skip
    assert upsert_users(session, [row]) == Counts(inserted=1)
    assert users(session) == {
        "u": {
            "language": "en", "country": "US", "device": "phone", "created_at": NOON,
            "interests": {"a", "b"}, "liked_sounds": {"s"}, "discoverable": False,
        }
    }  # fmt: skip


def test_a_video_with_every_column(session: Session) -> None:
    assert upsert_videos(session, [{"id": "v", **FULL}]) == Counts(inserted=1)
    assert videos(session) == {"v": {**FULL, "hashtags": {"a", "b"}, "listed_at": {None}}}


def test_a_video_is_published_and_otherwise_empty_by_default(session: Session) -> None:
    upsert_videos(session, [{"id": "v", **VIDEO}])
    empty = dict.fromkeys(set(FULL) - set(VIDEO))
    assert videos(session) == {
        "v": {**empty, **VIDEO, "status": "published", "hashtags": set(), "listed_at": set()}
    }


def test_what_is_there_already_is_unchanged_and_nothing_is_written(session: Session) -> None:
    user_rows = [{"id": f"u{n}", "language": "en", "interests": ["a"]} for n in range(3)]
    video_rows = [{"id": f"v{n}", **FULL} for n in range(3)]
    upsert_users(session, user_rows)
    upsert_videos(session, video_rows)
    with counted_statements(session.connection()) as sent:
        assert upsert_users(session, user_rows) == Counts(unchanged=3)
        assert upsert_videos(session, video_rows) == Counts(unchanged=3)
    assert sent
    assert writes(sent) == []


def test_inserted_updated_and_unchanged_are_counted_apart(session: Session) -> None:
    upsert_videos(session, [{"id": key, **FULL} for key in "abcde"])
    counts = upsert_videos(
        session,
        [
            {"id": "a", **FULL},
            {"id": "b", **FULL, "language": "es"},
            {"id": "c", **FULL, "caption": "other"},
            {"id": "d", **FULL, "hashtags": ["a"]},
            {"id": "e", **FULL, "creator": "other"},
            {"id": "f", **FULL},
        ],
    )
    assert counts == Counts(inserted=1, updated=4, unchanged=1)


@pytest.mark.parametrize(
    "change",
    [
        {"language": "es"}, {"country": None}, {"device": "tv"}, {"created_at": at(1)},
        {"interests": ["b"]}, {"interests": []}, {"liked_sounds": ["s", "t"]},
        {"liked_sounds": None},
    ],
)  # fmt: skip
def test_any_change_of_a_user_counts_as_an_update(session: Session, change: dict[str, Any]) -> None:
    row = {
        "id": "u", "language": "en", "country": "US", "device": "phone", "created_at": NOON,
        "interests": ["a"], "liked_sounds": ["s"],
    }  # fmt: skip
    make_user(session, "u", **row)
    before = users(session)["u"]
    assert upsert_users(session, [{"id": "u", **change}]) == Counts(updated=1)
    lists = {"interests", "liked_sounds"}
    changed = {name: set(v or ()) if name in lists else v for name, v in change.items()}
    assert users(session)["u"] == {**before, **changed}


@pytest.mark.parametrize("column", sorted(FULL))
def test_an_absent_column_keeps_and_none_clears(session: Session, column: str) -> None:
    make_video(session, "v", **FULL)
    before = videos(session)["v"]
    assert upsert_videos(session, [{"id": "v"}]) == Counts(unchanged=1)
    assert videos(session)["v"] == before
    assert upsert_videos(session, [{"id": "v", column: None}]) == Counts(updated=1)
    cleared = {
        "hashtags": {"hashtags": set(), "listed_at": set()},
        "status": {"status": "published", "listed_at": {NOON}},
    }.get(column, {column: None})
    assert videos(session)["v"] == {**before, **cleared}


def test_a_list_replaces_and_an_empty_one_clears(session: Session) -> None:
    make_user(session, "u", interests=["a", "b"], liked_sounds=["s"])
    make_user(session, "u", interests=["b", "c"])
    assert users(session)["u"]["interests"] == {"b", "c"}
    make_user(session, "u", interests=[])
    assert (users(session)["u"]["interests"], users(session)["u"]["liked_sounds"]) == (set(), {"s"})


def test_another_videos_hashtags_and_caption_stay(session: Session) -> None:
    make_video(session, "v", hashtags=["a"], caption="one")
    make_video(session, "w", hashtags=["a"], caption="two")
    make_video(session, "v", hashtags=[], caption="")
    assert {key: (v["hashtags"], v["caption"]) for key, v in videos(session).items()} == {
        "v": (set(), None), "w": ({"a"}, "two"),
    }  # fmt: skip


def test_a_caption_is_set_changed_and_cleared(session: Session) -> None:
    for caption, kept in [("one", "one"), ("two", "two"), ("", None), ("three", "three")]:
        make_video(session, "v", caption=caption)
        assert videos(session)["v"]["caption"] == kept
    make_video(session, "v")
    assert videos(session)["v"]["caption"] == "three"
    make_video(session, "v", caption=None)
    assert rows_of(session, CAPTIONS) == []


def test_of_two_rows_of_one_id_the_later_counts_column_by_column(session: Session) -> None:
    rows = [
        {"id": "v", **VIDEO, "language": "en", "country": "US", "hashtags": ["a"]},
        {"id": "w", **VIDEO},
        {"id": "v", **VIDEO, "language": "es", "hashtags": ["b"]},
    ]
    assert upsert_videos(session, [*rows, rows[2]]) == Counts(inserted=2, updated=1, unchanged=1)
    video = videos(session)["v"]
    assert (video["language"], video["country"], video["hashtags"]) == ("es", "US", {"b"})


def test_everything_named_is_created_in_the_order_of_the_rows(session: Session) -> None:
    rows = [
        {"id": "v2", **VIDEO, "creator": "z", "sound": "s9", "hashtags": ["y", "m"]},
        {"id": "v1", **VIDEO, "creator": "a", "sound": "s1", "hashtags": ["a", "y"]},
        {"id": "v3", **VIDEO, "creator": "z", "sound": "s5", "hashtags": ["B"]},
    ]
    upsert_videos(session, rows)
    assert in_order(session, VIDEOS) == ["v2", "v1", "v3"]
    assert in_order(session, USERS) == ["z", "a"]
    assert in_order(session, SOUNDS) == ["s9", "s1", "s5"]
    assert in_order(session, HASHTAGS, "name") == ["y", "m", "a", "b"]


def test_new_users_get_ids_in_the_order_of_the_rows(session: Session) -> None:
    upsert_users(session, [{"id": key} for key in "zmakb"])
    upsert_users(session, [{"id": key} for key in "ymc"])
    assert in_order(session, USERS) == [*"zmakb", *"yc"]


def test_an_update_keeps_the_id(session: Session) -> None:
    make_video(session, "v", language="en")
    before = rows_of(session, VIDEOS, "id", "key")
    make_video(session, "v", language="es")
    assert rows_of(session, VIDEOS, "id", "key") == before


def test_a_creator_is_a_user_that_keeps_what_is_known(session: Session) -> None:
    make_user(session, "c", language="en")
    make_video(session, "v", creator="c")
    assert users(session)["c"]["language"] == "en"
    assert len(users(session)) == 1


@pytest.mark.parametrize("tags", [{}, {"hashtags": ["a", "b"]}, {"hashtags": ["a", "c"]}])
@pytest.mark.parametrize("before", scalars.STATUSES)
@pytest.mark.parametrize("after", scalars.STATUSES)
@pytest.mark.parametrize("published_at", [NOON, at(5)])
def test_hashtags_are_listed_at_the_publishing_time_while_published(
    session: Session, tags: dict[str, Any], before: str, after: str, published_at: Any
) -> None:
    make_video(session, "v", published_at=NOON, status=before, hashtags=["a", "b"])
    make_video(session, "untouched", published_at=NOON, hashtags=["a"])
    assert videos(session)["v"]["listed_at"] == {NOON if before == "published" else None}
    make_video(session, "v", published_at=published_at, status=after, **tags)
    video = videos(session)["v"]
    assert video["hashtags"] == set(tags.get("hashtags", ["a", "b"]))
    assert video["listed_at"] == {published_at if after == "published" else None}
    assert videos(session)["untouched"]["listed_at"] == {NOON}


@pytest.mark.parametrize("before", scalars.STATUSES)
@pytest.mark.parametrize("after", scalars.STATUSES)
def test_a_status_is_set_as_an_upsert_of_the_whole_row_sets_it(
    session: Session, before: str, after: str
) -> None:
    keys = ["v", "w", "x"]
    rows = [
        {**VIDEO, "id": key, "hashtags": ["a", key], "sound": "s", "status": before} for key in keys
    ]
    upsert_videos(session, rows)
    results = []
    for write in (
        lambda: set_video_status(session, [*keys[:2], "v"], after),
        lambda: upsert_videos(session, [{"id": key, "status": after} for key in keys[:2]]),
        lambda: upsert_videos(session, [{**row, "status": after} for row in rows[:2]]),
    ):
        with session.begin_nested() as savepoint:
            counts = write()
            results.append((counts, [rows_of(session, t) for t in Base.metadata.sorted_tables]))
            savepoint.rollback()
    assert results[0][0] == (Counts(unchanged=2) if before == after else Counts(updated=2))
    assert results[0] == results[1] == results[2]


def test_one_status_or_many_take_the_same_statements(session: Session) -> None:
    keys = [make_video(session, f"v{number}", hashtags=["a"]) for number in range(300)]
    numbers = []
    for chosen in (keys[0], keys[1:]):
        with counted_statements(session.connection()) as sent:
            assert set_video_status(session, chosen, "removed").updated
        numbers.append(len(sent))
    assert numbers[0] == numbers[1]


def test_a_status_of_unknown_videos_names_them_and_writes_nothing(session: Session) -> None:
    make_video(session, "v")
    before = videos(session)
    for keys, message in (
        ("w", "^there is no video 'w'$"),
        (["w", "v", "x"], "^there are no videos 'w', 'x'$"),
        ([str(number) for number in range(22)], "'19' and 2 more$"),
    ):
        with pytest.raises(UnknownVideo, match=message):
            set_video_status(session, keys, "removed")
    with pytest.raises(InvalidValue, match=r"^status: 'gone' is not one of published, review"):
        set_video_status(session, "v", "gone")
    assert set_video_status(session, [], "removed") == Counts()
    assert videos(session) == before


def test_a_video_may_have_neither_creator_nor_time(session: Session) -> None:
    rows: list[recommender.VideoRow] = [
        {"id": "v", "hashtags": ["a"], "sound": "s"}, {"id": "w", "creator": "None"},
        {"id": "old", "published_at": "0001-01-03T00:00:00.000001Z", "hashtags": ["a"]},
        {"id": "zero", "published_at": "0001-01-01T00:00:00Z", "hashtags": ["a"]},
    ]  # fmt: skip
    assert upsert_videos(session, rows) == Counts(inserted=4)
    assert upsert_videos(session, rows) == Counts(unchanged=4)
    stored = videos(session)
    assert {key: row["creator"] for key, row in stored.items() if row["creator"]} == {"w": "None"}
    old = scalars.UNDATED + timedelta(microseconds=1)
    assert {k: row["published_at"] for k, row in stored.items() if row["published_at"]} == {
        "old": old
    }
    assert {key: row["listed_at"] for key, row in stored.items()} == {
        "v": {scalars.UNDATED}, "w": set(), "old": {old}, "zero": {scalars.UNDATED},
    }  # fmt: skip
    assert set_video_status(session, "v", "review") == Counts(updated=1)
    assert videos(session)["v"]["listed_at"] == {None}
    assert set_video_status(session, "v", "published") == Counts(updated=1)
    assert videos(session) == stored
    assert session.scalars(sa.select(Affinity)).all() == []


def test_an_invalid_row_writes_nothing(session: Session) -> None:
    with counted_statements(session.connection()) as sent:
        with pytest.raises(InvalidValue, match=r"^duration_ms: "):
            upsert_videos(session, [{"id": "v", **VIDEO}, {"id": "w", **VIDEO, "duration_ms": -1}])
        with pytest.raises(InvalidValue, match=r"^column id is missing"):
            upsert_users(session, [{"id": "u"}, {}])
    assert sent == []


def test_no_rows_are_no_statements(session: Session) -> None:
    with counted_statements(session.connection()) as sent:
        assert upsert_users(session, []) == Counts()
        assert upsert_videos(session, []) == Counts()
    assert sent == []


def test_awkward_texts_are_kept_as_written(session: Session) -> None:
    upsert_users(
        session,
        [
            {"id": text, "language": text, "country": text, "device": text, "liked_sounds": [text]}
            for text in AWKWARD
        ],
    )
    upsert_videos(
        session,
        [
            {
                "id": text,
                **VIDEO,
                "creator": text,
                "caption": text,
                "sound": text,
                "hashtags": [tag_of(text)],
            }
            for text in AWKWARD
        ],
    )
    for key, row in users(session).items():
        texts = (row["language"], row["country"], row["device"], *row["liked_sounds"])
        assert set(texts) == {key}
    for key, row in videos(session).items():
        assert {row["creator"], row["caption"], row["sound"]} == {key}
        assert row["hashtags"] == {text_module.hashtag(tag_of(key))}
    assert set(users(session)) == set(videos(session)) == set(AWKWARD)


def test_the_longest_texts_are_kept(session: Session) -> None:
    key, caption, tag = "😂" * 255, "漢" * 10_000, "é" * 100
    make_video(session, key, creator=key, sound=key, caption=caption, hashtags=[tag])
    video = videos(session)[key]
    assert (video["creator"], video["sound"], video["caption"], video["hashtags"]) == (
        key, key, caption, {tag},
    )  # fmt: skip


def test_a_video_has_300_hashtags_at_most(session: Session) -> None:
    tags = [f"tag{number}" for number in range(300)]
    make_video(session, "v", hashtags=tags)
    assert videos(session)["v"]["hashtags"] == set(tags)
    with pytest.raises(InvalidValue, match=r"^hashtags: has 301 entries"):
        make_video(session, "v", hashtags=[*tags, "one more"])


def many_videos(prefix: str, number: int, language: str) -> list[dict[str, Any]]:
    return [
        {
            **FULL, "id": f"{prefix}v{n}", "creator": f"{prefix}c{n}", "sound": f"{prefix}s{n}",
            "hashtags": [f"{prefix}a{n}", f"{prefix}b{n}"], "language": language,
            "caption": language,
        }
        for n in range(number)
    ]  # fmt: skip


def test_no_statement_is_sent_per_row(session: Session) -> None:
    sent_of: dict[int, list[int]] = {}
    for number in (120, 1000):
        for language in ("en", "es", "es"):
            with counted_statements(session.connection()) as sent:
                upsert_videos(session, many_videos(f"{number}-", number, language))
            sent_of.setdefault(number, []).append(len(sent))
    assert sent_of[1000] == sent_of[120]
    assert len(videos(session)) == 1120


def test_any_number_of_keys_is_looked_up_at_once(session: Session) -> None:
    make_user(session, "key 123456")
    keys = [f"key {number}" for number in range(200_000)]
    with counted_statements(session.connection()) as sent:
        found = lookup.ids(session, USERS, keys)
    assert (list(found), len(sent)) == (["key 123456"], 1)


def test_a_follow_of_an_unknown_creator_is_refused_and_nothing_written(session: Session) -> None:
    make_user(session, "u")
    with pytest.raises(UnknownUser, match=r"^there is no creator 'star'$"):
        follow(session, "u", "star")
    assert in_order(session, USERS) == ["u"]
    make_user(session, "star")
    assert follow(session, "u", "star", at=NOON) is True
    assert follows(session) == {("u", "star"): NOON}


def test_following_again_changes_nothing(session: Session) -> None:
    make_user(session, "u")
    make_user(session, "star")
    follow(session, "u", "star", at=NOON)
    with counted_statements(session.connection()) as sent:
        assert follow(session, "u", "star", at=at(1)) is False
    assert writes(sent) == []
    assert follows(session) == {("u", "star"): NOON}


def test_a_follow_is_of_now_by_default(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    make_user(session, "u")
    make_user(session, "star")
    monkeypatch.setattr(scalars, "now", lambda: at(7))
    follow(session, "u", "star")
    assert follows(session) == {("u", "star"): at(7)}


def test_unfollowing_ends_that_follow_alone(session: Session) -> None:
    for user in ("u", "w"):
        make_user(session, user)
        for creator in ("star", "other"):
            make_user(session, creator)
            follow(session, user, creator, at=NOON)
    assert unfollow(session, "u", "star") is True
    assert unfollow(session, "u", "star") is False
    assert set(follows(session)) == {("u", "other"), ("w", "star"), ("w", "other")}


def test_unfollowing_an_unknown_creator_creates_nobody(session: Session) -> None:
    make_user(session, "u")
    assert unfollow(session, "u", "star") is False
    assert in_order(session, USERS) == ["u"]


@pytest.mark.parametrize("change", [follow, unfollow])
def test_an_unknown_follower_is_refused_and_nothing_written(
    session: Session, change: Callable[..., bool]
) -> None:
    with pytest.raises(UnknownUser, match=r"^there is no user 'nobody'$"):
        change(session, "nobody", "star")
    assert users(session) == {}


@pytest.mark.parametrize("change", [follow, unfollow])
@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "x" * 256])
def test_a_key_that_nobody_can_have_is_refused(
    session: Session, change: Callable[..., bool], key: str
) -> None:
    make_user(session, "u")
    with pytest.raises(InvalidValue, match=r"^creator: "):
        change(session, "u", key)
    with pytest.raises(InvalidValue, match=r"^user: "):
        change(session, key, "star")
    assert in_order(session, USERS) == ["u"]


def test_follow_rows_are_inserted_updated_kept_and_refused_by_their_place(
    session: Session,
) -> None:
    make_user(session, "u")
    for creator in ("same", "moved", "kept", "cleared"):
        make_user(session, creator)
        follow(session, "u", creator, at=NOON)
    rows = [
        {"user": "u", "creator": "same", "at": NOON},
        {"user": "nobody", "creator": "star", "at": NOON},
        {"user": "u", "creator": "moved", "at": at(1)},
        {"user": "u", "creator": "kept"},
        {"user": "u", "creator": "cleared", "at": None},
        {"user": "u", "creator": "new", "at": at(2)},
        {"user": "u", "creator": "unknown since when"},
    ]
    applied = apply_follows(session, rows)
    assert applied == Counts(2, 2, 2, rejected=applied.rejected)
    assert {place: str(error) for place, error in applied.rejected.items()} == {
        1: "user: there is no user 'nobody'"
    }
    assert follows(session) == {
        ("u", "same"): NOON, ("u", "moved"): at(1), ("u", "kept"): NOON, ("u", "cleared"): None,
        ("u", "new"): at(2), ("u", "unknown since when"): None,
    }  # fmt: skip
    assert "star" not in users(session)


def follows(session: Session) -> dict[tuple[str, str], Any]:
    creators = USERS.alias()
    query = (
        sa.select(USERS.c.key, creators.c.key, FOLLOWS.c.created_at)
        .join(FOLLOWS, FOLLOWS.c.user_id == USERS.c.id)
        .join(creators, creators.c.id == FOLLOWS.c.creator_id)
    )
    return {(user, creator): since for user, creator, since in session.execute(query)}


def test_what_is_shown_of_a_user_is_what_is_stored_now(session: Session) -> None:
    make_user(session, "u", language="en", interests=["a"], liked_sounds=["s"])
    kept = show_user(session, "u"), session.scalars(sa.select(catalog.User)).all()
    make_user(session, "u", language="es", interests=["b", "a"], liked_sounds=[])
    make_video(session, "v", creator="u")
    make_user(session, "star")
    follow(session, "u", "star")
    shown = show_user(session, "u")
    assert (kept[0].language, kept[0].interests, kept[0].videos) == ("en", ("a",), 0)
    assert (shown.language, shown.interests, shown.liked_sounds, shown.follows, shown.videos) == (
        "es", ("a", "b"), (), ("star",), 1,
    )  # fmt: skip


OPTIONAL = {
    "language": st.sampled_from([None, "en", "es"]),
    "sound": st.sampled_from([None, "s", "t"]),
    "caption": st.sampled_from([None, "", "hi", "ho"]),
    "hashtags": st.lists(st.sampled_from("abc"), max_size=3),
    "duration_ms": st.sampled_from([None, 0, 5]),
    "status": st.sampled_from([None, *scalars.STATUSES]),
}
ROW = st.fixed_dictionaries(
    {"id": st.sampled_from(["v", "w", "x"])},
    optional={
        "creator": st.sampled_from([None, "c", "d"]),
        "published_at": st.sampled_from([None, NOON, at(1)]),
        "format": st.sampled_from([None, "clip"]),
        **OPTIONAL,
    },
)


def remember(model: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
    empty = dict.fromkeys(set(FULL), None) | {"status": "published", "hashtags": set()}
    video = {**model.get(row["id"], empty), **row}
    video["hashtags"] = set(video["hashtags"] or ())
    video["caption"] = video["caption"] or None
    video["status"] = video["status"] or "published"
    at = video["published_at"] or scalars.UNDATED
    listed_at = at if video["status"] == "published" else None
    video["listed_at"] = {listed_at} if video["hashtags"] else set()
    model[row["id"]] = video


@pytest.mark.slow
def test_upserts_equal_the_same_rules_in_plain_python(session: Session) -> None:
    @settings(max_examples=100)
    @given(batches=st.lists(st.lists(ROW, max_size=4), max_size=4))
    def compare(batches: list[list[dict[str, Any]]]) -> None:
        model: dict[str, dict[str, Any]] = {}
        with session.begin_nested() as savepoint:
            for batch in batches:
                inserted = updated = 0
                for row in batch:
                    before = model.get(row["id"])
                    remember(model, row)
                    inserted += before is None
                    updated += before not in (None, model[row["id"]])
                unchanged = len(batch) - inserted - updated
                assert upsert_videos(session, batch) == Counts(inserted, updated, unchanged)
            stored = videos(session)
            savepoint.rollback()
        assert stored == {
            key: {name: value for name, value in video.items() if name != "id"}
            for key, video in model.items()
        }

    compare()


@pytest.mark.slow
def test_the_same_new_videos_from_eight_threads_are_there_once(engine: Engine) -> None:
    barrier = Barrier(8, timeout=60)
    once = Settings(tries=1)

    def upsert(number: int) -> None:
        shuffled = random.Random(number)  # noqa: S311 - not for secrets
        for turn in range(5):
            rows = many_videos(f"{turn}-", 30, "en")
            for row in rows:
                if shuffled.random() < 0.5:
                    del row["status"], row["language"]
            shuffled.shuffle(rows)
            barrier.wait()
            run_transaction(
                engine, lambda session, r=rows: upsert_videos(session, r), settings=once
            )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(upsert, range(8)))
    expected = {f"{turn}-v{n}" for turn in range(5) for n in range(30)}
    with Session(engine) as session:
        stored = videos(session)
        assert set(stored) == expected
        assert len(in_order(session, VIDEOS)) == len(expected)
        assert len(in_order(session, USERS)) == len(in_order(session, SOUNDS)) == len(expected)
        assert len(in_order(session, HASHTAGS, "name")) == 2 * len(expected)
        for video in stored.values():
            listed_at = NOON if video["status"] == "published" else None
            assert video["listed_at"] == {listed_at}


@pytest.mark.parametrize("kind", ["postgresql"])
def test_rows_are_written_in_the_order_of_their_keys(engine: Engine) -> None:
    rows = many_videos("", 30, "en")
    random.Random(1).shuffle(rows)  # noqa: S311 - not for secrets
    bare = [{**row, "hashtags": []} for row in reversed(rows)]
    run_transaction(engine, lambda session: upsert_videos(session, bare))
    run_transaction(engine, lambda session: upsert_videos(session, rows))
    run_transaction(engine, lambda session: upsert_users(session, [{"id": k} for k in "zmakb"]))
    with Session(engine) as session:
        for table, first in ((USERS, 30), (SOUNDS, 30), (HASHTAGS, 60), (VIDEOS, 30)):
            name = table.c.get("name", table.c.get("key"))
            keys = list(session.scalars(sa.select(name).order_by(sa.text("ctid"))))
            assert keys[:first] == sorted(keys[:first])
            assert keys[first:] == sorted(keys[first:])
        links = sa.select(*VIDEO_HASHTAGS.primary_key.columns).order_by(sa.text("ctid"))
        pairs = [tuple(row) for row in session.execute(links)]
        assert pairs == sorted(pairs)
        assert len(pairs) == 60


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize("first", scalars.STATUSES)
@pytest.mark.parametrize("second", [None, *scalars.STATUSES])
def test_a_video_that_another_transaction_creates_meanwhile_is_updated(
    engine: Engine, first: str, second: str | None
) -> None:
    theirs = {"id": "v", **FULL, "creator": "another", "status": first}
    ours = {"id": "v", "creator": "c", "published_at": at(5)}
    if second:
        ours["status"] = second

    run_transaction(engine, lambda session: make_user(session, "c"))

    def create() -> None:
        run_transaction(engine, lambda session: upsert_videos(session, [theirs]))

    with just_before(engine, "INSERT INTO rec_videos ", create):
        counts = run_transaction(engine, lambda session: upsert_videos(session, [ours]))
    assert counts == Counts(updated=1)
    with Session(engine) as session:
        status = second or first
        assert videos(session)["v"] == {
            **FULL, "published_at": at(5), "status": status, "hashtags": {"a", "b"},
            "listed_at": {at(5) if status == "published" else None},
        }  # fmt: skip


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize("table", [USERS, SOUNDS, HASHTAGS], ids=str)
def test_a_name_that_another_transaction_creates_meanwhile_is_taken(
    engine: Engine, table: sa.Table
) -> None:
    def create() -> None:
        run_transaction(engine, lambda session: upserts._insert_missing(session, table, {"b": {}}))

    rows = [{**FULL, "id": k, "creator": k, "sound": k, "hashtags": [k]} for k in "cba"]
    with just_before(engine, f"INSERT INTO {table.name} ", create):
        counts = run_transaction(engine, lambda session: upsert_videos(session, rows))
    assert counts == Counts(inserted=3)
    with Session(engine) as session:
        for video in session.scalars(sa.select(Video)):
            tags = [hashtag.name for hashtag in video.hashtags]
            assert (video.creator.key, video.sound and video.sound.key, tags) == (
                video.key, video.key, [video.key],
            )  # fmt: skip


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_follow_that_another_transaction_makes_meanwhile_is_not_new(engine: Engine) -> None:
    run_transaction(engine, lambda session: upsert_users(session, [{"id": "u"}, {"id": "star"}]))

    def theirs() -> None:
        """Write the row without the lock of the user, as a host might."""
        with Session(engine) as session, session.begin():
            u, star = (
                session.scalars(sa.select(User).filter_by(key=k)).one() for k in ("u", "star")
            )
            session.add(Follow(user_id=u.id, creator_id=star.id, created_at=NOON))

    with just_before(engine, "INSERT INTO rec_follows ", theirs):
        is_new = run_transaction(engine, lambda session: follow(session, "u", "star", at=at(1)))
    assert is_new is False
    with Session(engine) as session:
        assert follows(session) == {("u", "star"): NOON}
