"""Dismissals: kept for good, and treated as all data of a user."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, UnknownUser, dismiss, merge_users, prune, run_transaction
from recommender.models import Suggestion, User
from tests.support.erasures import Killed, killed_after
from tests.support.kinds import slow_on_postgresql
from tests.support.twin_databases import suggestions
from tests.support.worlds import NOON, at, counted_statements, make_user

DAY = timedelta(days=1)


def make_people(session: Session) -> None:
    for key in ("ann", "bob", "cleo", "dan", "guest"):
        make_user(session, key)


def show(session: Session, user: str, creator: str, days: int, last: int) -> None:
    """Store that a creator was shown on some days, the last time some minutes after noon."""
    ids = {key: row_id for key, row_id in session.execute(sa.select(User.key, User.id))}  # noqa: C416
    row = {"user_id": ids[user], "creator_id": ids[creator], "shown": days, "shown_at": at(last)}
    session.execute(sa.insert(Suggestion), [row])


def test_a_dismissal_is_kept_once(session: Session) -> None:
    make_people(session)
    show(session, "ann", "bob", 3, 5)
    assert dismiss(session, "ann", "bob")
    with counted_statements(session.connection()) as sent:
        assert not dismiss(session, "ann", "bob")
    assert len(sent) == 3
    assert dismiss(session, "bob", "ann")
    assert suggestions(session) == [("ann", "bob", 3, at(5), True), ("bob", "ann", 0, None, True)]


def test_what_cannot_be_dismissed_is_one_sentence(session: Session) -> None:
    make_people(session)
    with pytest.raises(InvalidValue, match=r"^creator: a user cannot dismiss themselves$"):
        dismiss(session, "ann", "ann")
    with pytest.raises(UnknownUser, match=r"^there is no creator 'eve'$"):
        dismiss(session, "ann", "eve")
    with pytest.raises(UnknownUser, match=r"^there is no user 'eve'$"):
        dismiss(session, "eve", "ann")
    assert suggestions(session) == []


def test_a_reset_forgets_what_was_shown_and_keeps_dismissals(session: Session) -> None:
    make_people(session)
    for user in ("ann", "dan"):
        show(session, user, "bob", 3, 5)
        show(session, user, "cleo", 2, 6)
        dismiss(session, user, "cleo")
    recommender.reset_user(session, "ann")
    assert suggestions(session) == [
        ("ann", "cleo", 0, None, True), ("dan", "bob", 3, at(5), False),
        ("dan", "cleo", 2, at(6), True),
    ]  # fmt: skip


@slow_on_postgresql
def test_a_killed_merge_moves_the_suggestions_of_both_ends(engine: Engine) -> None:
    def declare(session: Session) -> None:
        make_people(session)
        show(session, "ann", "bob", 3, 5)
        show(session, "guest", "bob", 1, 9)
        show(session, "guest", "ann", 1, 1)
        show(session, "guest", "cleo", 4, 2)
        for user, creator in (("guest", "bob"), ("guest", "dan"), ("dan", "guest"),
                              ("ann", "guest")):  # fmt: skip
            dismiss(session, user, creator)
        show(session, "cleo", "guest", 2, 7)
        show(session, "cleo", "ann", 1, 3)

    run_transaction(engine, declare)
    for statements in range(5, 50, 5):
        with suppress(Killed), killed_after(engine, statements):
            merge_users(engine, "guest", "ann")
    merge_users(engine, "guest", "ann")
    with Session(engine) as session:
        assert suggestions(session) == [
            ("ann", "bob", 4, at(9), True), ("ann", "cleo", 4, at(2), False),
            ("ann", "dan", 0, None, True), ("cleo", "ann", 3, at(7), False),
            ("dan", "ann", 0, None, True),
        ]  # fmt: skip


def test_what_was_shown_long_ago_is_pruned_and_no_dismissal(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def declare(session: Session) -> None:
        make_people(session)
        for user in ("ann", "bob"):
            show(session, user, "cleo", 3, 0)
            show(session, user, "dan", 5, 1)
        dismiss(session, "ann", "cleo")
        dismiss(session, "bob", "guest")

    run_transaction(engine, declare)
    monkeypatch.setattr("recommender.operations.prune.MAX_PRUNED_ROWS", 2)
    assert prune(engine, as_of=NOON + 89 * DAY).suggestions == 0
    assert prune(engine, as_of=NOON + 90 * DAY).suggestions == 1
    with Session(engine) as session:
        kept = [("ann", "cleo"), ("ann", "dan"), ("bob", "dan"), ("bob", "guest")]
        assert [row[:2] for row in suggestions(session)] == kept
    assert prune(engine, as_of=at(1) + 90 * DAY).suggestions == 2


@slow_on_postgresql
def test_an_archive_has_the_persons_suggestions(engine: Engine, tmp_path: Path) -> None:
    def declare(session: Session) -> None:
        make_people(session)
        show(session, "ann", "bob", 3, 5)
        dismiss(session, "dan", "ann")

    run_transaction(engine, declare)
    recommender.export_user(engine, "ann", str(tmp_path / "ann.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "ann.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines if line["kind"] == "suggestions"] == [
        {"creator": "bob", "shown": 3, "shown_at": "2026-01-01T12:05:00Z", "dismissed_at": None}
    ]
    assert "dan" not in json.dumps(lines)
