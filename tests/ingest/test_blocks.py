"""Blocks: two rows each, and only the row of the blocker is locked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, UnknownUser
from recommender.ingest.blocks import apply_blocks
from recommender.ingest.mutes import apply_mutes
from recommender.models import Block, User
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import NOON, at, make_user


def stored(session: Session) -> list[tuple[Any, ...]]:
    own, other = sa.orm.aliased(User), sa.orm.aliased(User)
    rows = (
        sa.select(own.key, Block.direction, other.key, Block.blocked_at)
        .join(own, own.id == Block.user_id)
        .join(other, other.id == Block.other_id)
    )
    return sorted(tuple(row) for row in session.execute(rows))


def both(user: str, other: str, moment: datetime = NOON) -> list[tuple[Any, ...]]:
    return [(user, "by_me", other, moment), (other, "of_me", user, moment)]


def test_a_block_is_two_rows_until_it_is_removed(session: Session) -> None:
    for user in "abc":
        make_user(session, user)
    assert recommender.block(session, "a", "b", at=NOON)
    assert not recommender.block(session, "a", "b", at=at(1))
    assert recommender.block(session, "b", "a", at=at(2))
    assert recommender.block(session, "c", "b", at=at(3))
    assert stored(session) == sorted(both("a", "b") + both("b", "a", at(2)) + both("c", "b", at(3)))
    assert recommender.unblock(session, "a", "b")
    assert not recommender.unblock(session, "a", "b")
    assert not recommender.unblock(session, "a", "nobody")
    assert stored(session) == sorted(both("b", "a", at(2)) + both("c", "b", at(3)))


@slow_on_postgresql
def test_what_cannot_be_blocked_is_an_error(session: Session) -> None:
    make_user(session, "a")
    with pytest.raises(InvalidValue, match=r"^other: a user cannot block themselves$"):
        recommender.block(session, "a", "a")
    for pair in (("a", "nobody"), ("nobody", "a")):
        with pytest.raises(UnknownUser, match=r"^there is no user 'nobody'$"):
            recommender.block(session, *pair)
    with pytest.raises(UnknownUser):
        recommender.unblock(session, "nobody", "a")
    assert stored(session) == []


def test_files_of_blocks_and_mutes_apply_row_after_row(session: Session) -> None:
    make_user(session, "a")
    rows = [
        {"user": "a", "other": "b", "at": NOON},
        {"user": "a", "other": "b"},
        {"user": "a", "other": "b", "at": at(1)},
        {"user": "a", "other": "a"},
        {"user": "nobody", "other": "a"},
    ]
    counts = apply_blocks(session, rows)
    assert (counts.inserted, counts.updated, counts.unchanged) == (1, 1, 1)
    errors = {3: InvalidValue, 4: UnknownUser}
    assert {index: type(error) for index, error in counts.rejected.items()} == errors
    assert stored(session) == both("a", "b", at(1))
    mutes = [
        {"user": "a", "kind": "creator", "value": "c", "at": NOON},
        {"user": "a", "kind": "hashtag", "value": "#News"},
        {"user": "a", "kind": "hashtag", "value": "news"},
        {"user": "a", "kind": "sound", "value": "song", "at": NOON},
        {"user": "a", "kind": "keyword", "value": "Bad words", "at": NOON},
        {"user": "a", "kind": "keyword", "value": "!"},
        {"user": "a", "kind": "creator", "value": "a"},
        {"user": "nobody", "kind": "sound", "value": "song"},
    ]
    counts = apply_mutes(session, mutes)
    assert (counts.inserted, counts.updated, counts.unchanged) == (4, 0, 1)
    errors = {5: InvalidValue, 6: InvalidValue, 7: UnknownUser}
    assert {index: type(error) for index, error in counts.rejected.items()} == errors
    assert apply_mutes(session, mutes[:5]).unchanged == 5
    assert recommender.unmute(session, "a", "keyword", "bad words")
    known = session.scalars(sa.select(User.key).where(User.on_sight).order_by(User.key)).all()
    assert known == ["b", "c"]


@pytest.mark.slow
def test_only_the_blocker_is_locked(new_database: Any) -> None:
    bind = recommender.create_engine(new_database("postgresql"))
    recommender.run_transaction(bind, lambda s: [make_user(s, user) for user in "ab"])
    with Session(bind) as one, Session(bind) as other:
        recommender.block(one, "a", "b")
        recommender.block(other, "b", "a")  # would wait for ever if the first had locked b
        one.commit()
        other.commit()
        assert len(stored(one)) == 4
    bind.dispose()


def test_erasing_either_deletes_both_rows(engine: Engine) -> None:
    recommender.run_transaction(engine, lambda s: [make_user(s, user) for user in "abc"])
    pairs = (("a", "b"), ("b", "a"), ("c", "b"), ("a", "c"))
    recommender.run_transaction(
        engine, lambda s: [recommender.block(s, *pair, at=NOON) for pair in pairs]
    )
    receipt = recommender.erase_user(engine, "b")
    assert receipt.rows["blocks"] == 1  # who blocked b is not told
    with Session(engine) as session:
        assert stored(session) == both("a", "c")
