"""What users mute and unmute, and what a reset forgets."""

# ruff: noqa: RUF001 - captions in many scripts

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import InvalidValue, NotFound, UnknownUser, follow, mute, reset_user, unmute
from recommender.formats import scalars
from recommender.ingest.mutes import KINDS
from recommender.models import Affinity, MutedKeyword, RecentEngagement, User
from recommender.models.tables import HASHTAGS, USERS
from recommender.models.types import Base
from recommender.operations.users import show_user
from tests.support.catalog_rows import in_order, writes
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_user,
    make_video,
    record,
    rows_of,
)

MUTED = {"creator": "star", "hashtag": "#Spam", "sound": "song", "keyword": "Bad  Words!"}


def muted(session: Session, user: str = "u") -> dict[str, tuple[str, ...]]:
    shown = show_user(session, user)
    return {kind: getattr(shown, f"muted_{kind}s") for kind in KINDS}


@pytest.mark.parametrize("kind_of_mute", sorted(KINDS))
def test_what_is_muted_is_muted_once_for_one_user(session: Session, kind_of_mute: str) -> None:
    make_user(session, "u")
    make_user(session, "w")
    make_video(session, "v", creator="star", sound="song")
    value = MUTED[kind_of_mute]
    nothing: dict[str, tuple[str, ...]] = dict.fromkeys(KINDS, ())
    assert mute(session, "u", kind_of_mute, value) is True
    assert mute(session, "w", kind_of_mute, value) is True
    with counted_statements(session.connection()) as sent:
        assert mute(session, "u", kind_of_mute, value) is False
    assert writes(sent) == []
    kept = {"hashtag": "spam", "keyword": "bad words"}.get(kind_of_mute, value)
    assert muted(session) == {**nothing, kind_of_mute: (kept,)}
    assert unmute(session, "u", kind_of_mute, value) is True
    assert unmute(session, "u", kind_of_mute, value) is False
    assert (muted(session), muted(session, "w")) == (nothing, {**nothing, kind_of_mute: (kept,)})


@pytest.mark.parametrize(("kind_of_mute", "error"), [("creator", UnknownUser), ("sound", NotFound)])
def test_a_mute_of_what_does_not_exist_is_refused_and_nothing_written(
    session: Session, kind_of_mute: str, error: type[NotFound]
) -> None:
    make_user(session, "u")
    before = [rows_of(session, table) for table in Base.metadata.sorted_tables]
    with pytest.raises(error, match=f"^there is no {kind_of_mute} 'new'$"):
        mute(session, "u", kind_of_mute, "new")
    assert unmute(session, "u", kind_of_mute, "new") is False
    assert [rows_of(session, table) for table in Base.metadata.sorted_tables] == before


def test_a_hashtag_may_be_muted_before_a_video_has_it(session: Session) -> None:
    make_user(session, "u")
    assert unmute(session, "u", "hashtag", "new") is False
    assert in_order(session, HASHTAGS, "name") == []
    assert mute(session, "u", "hashtag", "new") is True
    assert in_order(session, HASHTAGS, "name") == ["new"]


def test_a_keyword_is_kept_as_its_words(session: Session) -> None:
    make_user(session, "u")
    for value, kept in [
        ("GIVEAWAY", " giveaway "), ("don't", " don t "), ("抽奖", " 抽 奖 "), ("x1", " x1 "),
        ("a b", " a b "), ("42", " 42 "), ("ＦＲＥＥ money", " free money "),
        ("x" * 253, f" {'x' * 253} "),
    ]:  # fmt: skip
        assert mute(session, "u", "keyword", value) is True
        assert session.scalars(sa.select(MutedKeyword.keyword)).all() == [kept]
        assert mute(session, "u", "keyword", kept.upper()) is False
        assert unmute(session, "u", "keyword", kept) is True


@pytest.mark.parametrize(
    ("kind_of_mute", "value", "message"),
    [
        ("keyword", "", "keyword: '' has no letter and no digit"),
        ("keyword", ".*", "keyword: '.*' has no letter and no digit"),
        ("keyword", "%_", "has no letter and no digit"),
        ("keyword", "❤️", "has no letter and no digit"),
        ("keyword", "a", "keyword: 'a' has fewer than two letters or digits"),
        ("keyword", "e\u0301", "has fewer than two"),
        ("keyword", "漢", "has fewer than two"),
        ("keyword", "ที่", "has fewer than two"),
        ("keyword", "x" * 254, "is longer than 253 characters"),
        ("keyword", "x" * 10_001, "is 10,001 characters long"),
        ("keyword", "a\0b", "has the character U+0000"),
        ("keyword", None, "keyword: None is not text"),
        ("hashtag", "", "hashtag: '' is an empty hashtag"),
        ("hashtag", "a|b", "which separates lists"),
        ("hashtag", "x" * 101, "more than 100 characters"),
        ("sound", "", "sound: is empty"),
        ("sound", "a|b", "which separates lists"),
        ("creator", "", "creator: is empty"),
        ("creator", "x" * 256, "creator: is 256 characters long"),
        ("video", "v", "kind: 'video' is not one of creator, hashtag, sound, keyword"),
    ],
)
@pytest.mark.parametrize("change", [mute, unmute])
def test_what_cannot_be_muted_is_one_clear_sentence(
    session: Session, change: Callable[..., bool], kind_of_mute: str, value: Any, message: str
) -> None:
    make_user(session, "u")
    with counted_statements(session.connection()) as sent, pytest.raises(InvalidValue) as raised:
        change(session, "u", kind_of_mute, value)
    assert message in str(raised.value)
    assert writes(sent) == []


def test_a_user_cannot_mute_themselves(session: Session) -> None:
    make_user(session, "u")
    with pytest.raises(InvalidValue, match=r"^creator: a user cannot mute themselves$"):
        mute(session, "u", "creator", "u")
    assert muted(session)["creator"] == ()


@pytest.mark.parametrize("change", [mute, unmute])
def test_an_unknown_user_is_refused_and_nothing_written(
    session: Session, change: Callable[..., bool]
) -> None:
    for kind_of_mute, value in MUTED.items():
        with pytest.raises(UnknownUser, match=r"^there is no user 'nobody'$"):
            change(session, "nobody", kind_of_mute, value)
    assert in_order(session, USERS) == []


def test_a_reset_forgets_what_was_learned_and_nothing_else(session: Session) -> None:
    for user in ("viewer", "other"):
        make_user(session, user, interests=["dance"], liked_sounds=["song"])
        make_video(session, f"by {user}", creator=user, hashtags=["a"], sound="s")
        make_user(session, "star")
        follow(session, user, "star", at=NOON)
        mute(session, user, "keyword", "spam")
        record(session, "like", "by viewer", user)
        row_id = session.scalars(sa.select(User.id).where(User.key == user)).one()
        session.add(RecentEngagement(user_id=row_id, video_id=1, at=NOON))
    session.flush()
    before, other = show_user(session, "viewer"), learned_of(session, "other")
    reset_user(session, "viewer", at=at(10))
    assert learned_of(session, "viewer") == (0, 0)
    assert learned_of(session, "other") == other
    after = show_user(session, "viewer")
    assert (before.learned_since, after.learned_since) == (None, at(10))
    assert show_user(session, "other").learned_since is None
    same = [f for f in before.__dataclass_fields__ if f != "learned_since"]
    assert [getattr(after, f) for f in same] == [getattr(before, f) for f in same]


def learned_of(session: Session, user: str) -> tuple[int, int]:
    row_id = session.scalars(sa.select(User.id).where(User.key == user)).one()
    counted = [
        session.scalars(sa.select(sa.func.count()).where(table.user_id == row_id)).one()
        for table in (Affinity, RecentEngagement)
    ]
    return counted[0], counted[1]


def test_the_latest_reset_stays(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    make_user(session, "u")
    reset_user(session, "u", at=at(5))
    reset_user(session, "u", at=at(3))
    assert show_user(session, "u").learned_since == at(5)
    monkeypatch.setattr(scalars, "now", lambda: at(7))
    reset_user(session, "u")
    assert show_user(session, "u").learned_since == at(7)


def test_a_reset_of_nobody_is_refused(session: Session) -> None:
    with pytest.raises(UnknownUser, match=r"^there is no user 'nobody'$"):
        reset_user(session, "nobody")
    with pytest.raises(InvalidValue, match=r"^user: is empty"):
        reset_user(session, "")
