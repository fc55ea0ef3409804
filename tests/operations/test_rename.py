"""A renamed user is the same user."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import (
    InvalidValue,
    UnknownUser,
    erase_user,
    follow,
    for_you,
    merge_users,
    record,
    record_page,
    rename_user,
    run_transaction,
    upsert_users,
    upsert_videos,
)
from recommender.models import User
from recommender.operations.users import show_user
from tests.support.kinds import slow_on_postgresql
from tests.support.refresh_worlds import read
from tests.support.worlds import NOON, at, counted_statements, names

pytestmark = slow_on_postgresql


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """An engine on a world with two users and four videos."""

    def make(session: Session) -> None:
        upsert_users(session, [{"id": "ann"}, {"id": "bob"}])
        upsert_videos(
            session,
            [{"id": f"v{n}", "creator": "bob", "published_at": at(-n)} for n in range(4)],
        )

    run_transaction(engine, make)
    return engine


def test_sessions_and_events_go_on_under_the_new_key(engine: Engine) -> None:
    def act(session: Session, user: str, **options: Any) -> Any:
        record(session, user, "v3", "like", at=NOON, key="k")
        return for_you(session, user, limit=1, as_of=at(1), **options)

    first = run_transaction(engine, lambda s: act(s, "ann"))
    run_transaction(engine, lambda s: follow(s, "bob", "ann"))
    with counted_statements(engine) as sent:
        rename_user(engine, "ann", "anna")
    assert len(sent) == 1
    second = run_transaction(engine, lambda s: act(s, "anna", cursor=first.cursor))
    assert len({*names(first), *names(second)} - {"v3"}) == 2
    with Session(engine) as session:
        assert show_user(session, "bob").follows == ("anna",)
        assert show_user(session, "anna").liked == 1
        with pytest.raises(UnknownUser):
            show_user(session, "ann")


def test_a_page_ranked_before_is_recorded_for_the_same_user(engine: Engine) -> None:
    with Session(engine) as session:
        pages = [for_you(session, "ann", limit=1, record=False, as_of=at(n)) for n in (1, 2)]
    rename_user(engine, "ann", "anna")
    served = run_transaction(engine, lambda s: record_page(s, pages[0]))
    assert (names(served), served.request.user) == (names(pages[0]), "anna")
    after = run_transaction(engine, lambda s: for_you(s, "anna", cursor=served.cursor, as_of=at(3)))
    assert not {*names(served)} & {*names(after)}
    erase_user(engine, "anna")
    with pytest.raises(UnknownUser, match="there is no user 'ann'"):
        run_transaction(engine, lambda s: record_page(s, pages[1]))


def test_a_key_that_is_taken_or_unknown_is_said(engine: Engine) -> None:
    refused = [
        ("ann", "bob", InvalidValue, "new: there is a user 'bob': merge the two with merge_users"),
        ("ann", "ann", InvalidValue, "new: 'ann' is already a key of this user$"),
        ("cookie", "ann", InvalidValue, "new: 'ann' is already a key of this user$"),
        ("ann", "cookie", InvalidValue, "new: 'cookie' is already a key of this user$"),
        ("cookie", "bob", InvalidValue, "new: there is a user 'bob'"),
        ("eve", "ada", UnknownUser, "there is no user 'eve'"),
        ("eve", "bob", UnknownUser, "there is no user 'eve'"),
        ("ann", "", InvalidValue, "new: "),
        ("a\0", "ada", InvalidValue, "old: "),
    ]
    run_transaction(engine, lambda s: upsert_users(s, [{"id": "cookie"}]))
    merge_users(engine, "cookie", "ann")
    for old, new, error, message in refused:
        with pytest.raises(error, match=f"^{message}"):
            rename_user(engine, old, new)
    assert [key for (key,) in read(engine, User.key)] == ["ann", "bob", "cookie"]


def test_an_alias_is_renamed_itself(engine: Engine) -> None:
    run_transaction(engine, lambda s: upsert_users(s, [{"id": "cookie"}]))
    merge_users(engine, "cookie", "ann")
    rename_user(engine, "cookie", "cookie-2")
    rename_user(engine, "ann", "anna")
    assert run_transaction(engine, lambda s: record(s, "cookie-2", "v1", "like"))
    with Session(engine) as session:
        assert show_user(session, "cookie-2") == show_user(session, "anna")
        assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 3
