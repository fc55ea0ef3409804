"""The key of a merged user works wherever the key of the user does, into whom they were merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, run_transaction
from recommender.files.batches import ROW_KINDS
from recommender.models import Affinity, Block, Follow, Interaction, MutedCreator, User
from recommender.operations.inventory import OF_OTHERS, PER_USER
from recommender.operations.users import show_user
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import NOON, at, counted_statements, make_event, names

pytestmark = slow_on_postgresql

OWN, ALIAS = "ann", "cookie-1"

EVENTS = [make_event("like", "v1", ALIAS, key="k1"), make_event("share", "v1", OWN, key="k2")]

EXPECTED: list[tuple[str, Callable[[Session], Any], Any]] = [
    ("an upsert", lambda s: recommender.upsert_users(
        s, [{"id": ALIAS, "language": "en", "interests": ["cats"]}, {"id": OWN, "country": "US"}]
    ).updated, 2),
    ("a follow", lambda s: recommender.follow(s, ALIAS, "bob"), True),
    ("the same follow", lambda s: recommender.follow(s, OWN, "bob"), False),
    ("a follower", lambda s: recommender.follow(s, "bob", ALIAS), True),
    ("an unfollow", lambda s: recommender.unfollow(s, "bob", OWN), True),
    ("a mute", lambda s: recommender.mute(s, ALIAS, "hashtag", "dogs"), True),
    ("a creator's mute", lambda s: recommender.mute(s, "bob", "creator", ALIAS), True),
    ("the same mute", lambda s: recommender.mute(s, "bob", "creator", OWN), False),
    ("an unmute", lambda s: recommender.unmute(s, "bob", "creator", ALIAS), True),
    ("a dismissal", lambda s: recommender.dismiss(s, "bob", ALIAS), True),
    ("the same dismissal", lambda s: recommender.dismiss(s, "bob", OWN), False),
    ("a block", lambda s: recommender.block(s, "eve", ALIAS), True),
    ("the same block", lambda s: recommender.block(s, "eve", OWN), False),
    ("an unblock", lambda s: recommender.unblock(s, "eve", ALIAS), True),
    ("a video", lambda s: recommender.upsert_videos(
        s, [{"id": "v9", "creator": ALIAS, "published_at": NOON}]
    ).inserted, 1),
    ("the same video", lambda s: recommender.upsert_videos(
        s, [{"id": "v9", "creator": OWN}]
    ).unchanged, 1),
    ("an event", lambda s: recommender.record(s, ALIAS, "v1", "like", at=NOON, key="k1"), True),
    ("events", lambda s: recommender.record_many(s, EVENTS).inserted, 1),
    ("the same event", lambda s: recommender.record(s, OWN, "v1", "like", key="k1"), False),
    ("follows of a file", lambda s: ROW_KINDS["follows"].apply(
        s, [{"user": ALIAS, "creator": "eve"}, {"user": OWN, "creator": "eve"}]
    ).as_dict()["inserted"], 1),
    ("a follow of oneself in a file", lambda s: ROW_KINDS["follows"].apply(
        s, [{"user": OWN, "creator": ALIAS}, {"user": OWN, "creator": OWN}]
    ).rejected.keys(), {0, 1}),
    ("mutes of a file", lambda s: ROW_KINDS["mutes"].apply(
        s, [{"user": ALIAS, "kind": "creator", "value": OWN}]
    ).rejected.keys(), {0}),
    ("blocks of a file", lambda s: ROW_KINDS["blocks"].apply(
        s, [{"user": OWN, "other": ALIAS}]
    ).rejected.keys(), {0}),
    ("candidates", lambda s: recommender.upsert_candidates(s, "model", [
        {"user": ALIAS, "video": "v1", "score": 0.5}, {"user": OWN, "video": "v1", "score": 0.6},
    ]).updated, 1),
    ("a ranking", lambda s: [
        outcome.name
        for outcome in recommender.rank(s, ALIAS, ["v9"], as_of=NOON).items[0].filters
        if not outcome.passed
    ], ["not_own"]),
    ("an explanation", lambda s: recommender.explain(s, ALIAS, "v9").request.user, OWN),
    ("a summary", lambda s: show_user(s, ALIAS), None),
    ("following", lambda s: names(recommender.following(s, ALIAS)), ["v0", "v1", "v2"]),
    ("a reset", lambda s: recommender.reset_user(s, ALIAS), None),
]  # fmt: skip
"""Calls with the results that they have."""


@pytest.fixture
def alias(engine: Engine) -> int:
    """The id of an alias of a user, in a small world."""

    def make(session: Session) -> int:
        recommender.upsert_users(session, [{"id": key} for key in (OWN, "bob", "eve")])
        rows = [{"id": f"v{n}", "creator": "bob", "published_at": at(-n)} for n in range(3)]
        recommender.upsert_videos(session, [*rows[:2], {**rows[2], "creator": "eve"}])
        own = sa.select(User.id).where(User.key == OWN).scalar_subquery()
        session.add(User(key=ALIAS, merged_into=session.scalar(sa.select(own)), merged_at=NOON))
        session.flush()
        return session.scalars(sa.select(User.id).where(User.key == ALIAS)).one()

    return run_transaction(engine, make)


in_the_world = pytest.mark.usefixtures("alias")


def rows_of(engine: Engine, user_id: int) -> list[str]:
    """The tables with rows of a user, or about them."""
    with Session(engine) as session:
        return [
            str(column)
            for column in (*(table.c.user_id for table in PER_USER), *OF_OTHERS)
            if session.scalar(sa.select(sa.func.count()).where(column == user_id))
        ]


def test_every_call_with_an_alias_is_the_users(engine: Engine, alias: int) -> None:
    for name, call, expected in EXPECTED:
        found = run_transaction(engine, call)
        if expected is not None:
            assert found == expected, name
    assert rows_of(engine, alias) == []
    with Session(engine) as session:
        assert show_user(session, ALIAS) == show_user(session, OWN)
        (own,) = session.scalars(sa.select(User).where(User.key == OWN))
        assert (own.language, own.country) == ("en", "US")
        assert session.scalars(sa.select(User.language).where(User.id == alias)).all() == [None]
        assert session.scalars(sa.select(Interaction.user_id)).all() == [own.id]
        assert session.scalars(sa.select(Follow.creator_id)).all()
        assert session.scalars(sa.select(Affinity.user_id)).all() == []
        assert session.scalars(sa.select(Block.user_id)).all() == []


@in_the_world
def test_no_one_is_refused_by_themselves_under_another_key(engine: Engine) -> None:
    calls: list[Callable[[Session], Any]] = [
        lambda s: recommender.follow(s, ALIAS, OWN),
        lambda s: recommender.follow(s, OWN, ALIAS),
        lambda s: recommender.follow(s, OWN, OWN),
        lambda s: recommender.block(s, ALIAS, OWN),
        lambda s: recommender.block(s, OWN, ALIAS),
        lambda s: recommender.mute(s, ALIAS, "creator", OWN),
        lambda s: recommender.mute(s, OWN, "creator", ALIAS),
        lambda s: recommender.dismiss(s, ALIAS, OWN),
    ]
    for call in calls:
        with pytest.raises(InvalidValue, match="themselves"):
            run_transaction(engine, call)


def test_what_an_unfinished_merge_left_can_be_undone(engine: Engine, alias: int) -> None:
    """Until it goes on, rows that others have about the guest name the alias."""

    def leave(session: Session) -> None:
        ids = {row.key: row.id for row in session.execute(sa.select(User.key, User.id))}
        own, bob, eve = (ids[key] for key in (OWN, "bob", "eve"))
        session.add_all(
            Block(user_id=user, direction=direction, other_id=other, blocked_at=NOON)
            for user, direction, other in (
                (own, "by_me", bob), (bob, "of_me", alias),
                (eve, "by_me", alias), (own, "of_me", eve),
            )
        )  # fmt: skip
        session.add(Follow(user_id=bob, creator_id=alias))
        session.add(MutedCreator(user_id=bob, creator_id=alias, muted_at=NOON))

    run_transaction(engine, leave)
    undo: list[Callable[[Session], bool]] = [
        lambda s: recommender.unblock(s, OWN, "bob"),
        lambda s: recommender.unblock(s, "eve", OWN),
        lambda s: recommender.unfollow(s, "bob", OWN),
        lambda s: recommender.unmute(s, "bob", "creator", OWN),
    ]
    for call in undo:
        assert run_transaction(engine, call)
        assert not run_transaction(engine, call)
    with Session(engine) as session:
        for model in (Block, Follow, MutedCreator):
            assert session.scalars(sa.select(model.user_id)).all() == []


def test_pages_of_both_keys_are_of_one_viewer(engine: Engine, alias: int) -> None:
    """Cursors, `mark_seen` and `record_page` of one key work with the other."""

    def pages(session: Session) -> list[str]:
        first = recommender.for_you(session, ALIAS, limit=1, as_of=NOON)
        second = recommender.for_you(session, OWN, limit=1, cursor=first.cursor, as_of=NOON)
        assert recommender.mark_seen(session, ALIAS, cursor=first.cursor, position=2) == 2
        preview = recommender.for_you(session, ALIAS, record=False, as_of=NOON)
        assert preview.request.user == OWN
        third = recommender.record_page(session, preview)
        again = recommender.for_you(session, ALIAS, limit=1, cursor=first.cursor, as_of=NOON)
        assert names(again) == names(second)
        return [*names(first), *names(second), *names(third)]

    assert sorted(run_transaction(engine, pages)) == ["v0", "v1", "v2"]
    assert rows_of(engine, alias) == []


@in_the_world
def test_an_alias_costs_a_page_no_statement(engine: Engine) -> None:
    def sent(key: str) -> int:
        with counted_statements(engine) as statements:
            run_transaction(engine, lambda s: recommender.for_you(s, key, limit=1, as_of=NOON))
        return len(statements)

    assert sent(OWN) == sent(ALIAS)


@in_the_world
def test_either_key_gives_the_whole_archive(engine: Engine, tmp_path: Path) -> None:
    run_transaction(engine, lambda s: recommender.follow(s, OWN, "bob", at=NOON))

    def exported(key: str) -> list[str]:
        file = tmp_path / f"{key}.jsonl"
        recommender.export_user(engine, key, str(file))
        return file.read_text().splitlines()

    one, other = exported(OWN), exported(ALIAS)
    assert one[1:] == other[1:]
    assert f'"aliases": ["{ALIAS}"]' in one[0]
    assert f'"user": "{OWN}"' in other[0]
    recommender.export_file(engine, "users", str(tmp_path / "users.csv"))
    assert ALIAS not in (tmp_path / "users.csv").read_text()


@in_the_world
@pytest.mark.parametrize("key", [OWN, ALIAS])
def test_erasing_either_key_erases_both(engine: Engine, key: str) -> None:
    run_transaction(engine, lambda s: recommender.follow(s, OWN, "bob"))
    assert recommender.erase_user(engine, key).rows["users"] == 2
    with Session(engine) as session:
        assert session.scalars(sa.select(User.key).where(User.key.in_([OWN, ALIAS]))).all() == []
        assert session.scalars(sa.select(User.merged_into)).all() == [None] * 4
        assert session.scalars(sa.select(Follow.user_id)).all() == []
    for again in (OWN, ALIAS):
        with pytest.raises(recommender.UnknownUser):
            recommender.erase_user(engine, again)
