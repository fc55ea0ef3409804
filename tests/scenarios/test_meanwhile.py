"""Between any two statements of a public function somebody is erased, or a video goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

import recommender
from recommender import RecommenderError, Settings, create_engine, run_transaction
from recommender.database.transactions import writing
from tests.conftest import CopyOf, drop_database
from tests.support.kinds import only_postgresql
from tests.support.worlds import follow, make_user, make_video, make_videos, mute, record

READS: dict[str, Callable[[Session], object]] = {
    "explain": lambda s: recommender.explain(s, "viewer", "v"),
    "explain what was watched": lambda s: recommender.explain(s, "viewer", "seen"),
    "explain what bores": lambda s: recommender.explain(s, "viewer", "bored"),
    "rank": lambda s: recommender.rank(s, "viewer", ["v", "w", "seen"]),
    "for_you": lambda s: recommender.for_you(s, "viewer"),
    "classic": lambda s: recommender.for_you(s, "viewer", profile="classic"),
    "similar": lambda s: recommender.similar(s, "v", user="viewer"),
    "reach": lambda s: recommender.reach(s, "v"),
    "people": lambda s: recommender.people(s, "viewer", reasons=True),
    "following": lambda s: recommender.following(s, "viewer"),
    "trending": recommender.trending,
}

WRITES: dict[str, Callable[[Session], object]] = {
    "record": lambda s: recommender.record(s, "viewer", "v", "like"),
    "follow": lambda s: recommender.follow(s, "viewer", "owner"),
    "unfollow": lambda s: recommender.unfollow(s, "viewer", "creator"),
    "mute": lambda s: recommender.mute(s, "viewer", "creator", "owner"),
    "unmute": lambda s: recommender.unmute(s, "viewer", "hashtag", "muted"),
    "dismiss": lambda s: recommender.dismiss(s, "viewer", "owner"),
    "show people": lambda s: recommender.people(s, "viewer", record=True, reasons=True),
    "block": lambda s: recommender.block(s, "viewer", "owner"),
    "unblock": lambda s: recommender.unblock(s, "viewer", "owner"),
    "upsert_users": lambda s: recommender.upsert_users(s, [{"id": "viewer", "interests": ["a"]}]),
    "set_video_status": lambda s: recommender.set_video_status(s, ["v", "w"], "review"),
    "reset_user": lambda s: recommender.reset_user(s, "viewer"),
    "record_page": lambda s: recommender.record_page(
        s, recommender.for_you(s, "viewer", record=False)
    ),
}

IMPATIENT = Settings(tries=1, lock_timeout=0.02)

CHANGES: dict[str, Callable[[Engine], object]] = {
    "video erased": lambda bind: _change(bind, lambda s: recommender.erase_video(s, "v")),
    "viewer erased": lambda bind: recommender.erase_user(bind, "viewer", settings=IMPATIENT),
    "mind changed": lambda bind: _change(
        bind, lambda s: recommender.record(s, "viewer", "bored", "interested")
    ),
}


def _change(bind: Engine, write: Callable[[Session], object]) -> None:
    run_transaction(bind, write, settings=IMPATIENT)


def make_world(engine: Engine) -> None:
    def write(session: Session) -> None:
        for user in ("viewer", "creator", "owner"):
            make_user(session, user)
        make_videos(session, "v", "seen", "bored", creator="creator", hashtags=["a", "muted"])
        make_video(session, "w", creator="owner", sound="tune")
        follow(session, "viewer", "creator")
        mute(session, "viewer", "hashtag", "muted")
        record(session, "watch", "seen", completion=1.0)
        record(session, "not_interested", "bored")

    run_transaction(engine, write)


def _run_meanwhile(
    database: str, function: Callable[[Session], object], change: Callable[[Engine], object], n: int
) -> bool:
    """Run a function with a change before its nth statement; return whether it had that many."""
    others, own = create_engine(database, settings=IMPATIENT), create_engine(database)
    count = 0

    def meanwhile(*_: object) -> None:
        nonlocal count
        count += 1
        if count == n:
            with suppress(RecommenderError):  # it waits for the function's own locks
                change(others)

    event.listen(own, "before_cursor_execute", meanwhile)
    try:
        with Session(writing(own)) as session, suppress(RecommenderError):
            function(session)
            session.commit()
    finally:
        own.dispose()
        others.dispose()
    return count >= n


def _check(copy_of: CopyOf, function: Callable[[Session], object], *changes: str) -> None:
    for change in map(CHANGES.__getitem__, changes):
        n, has_more = 1, True
        while has_more:
            database = copy_of("postgresql", make_world)
            has_more = _run_meanwhile(database, function, change, n)
            drop_database(database)
            n += 1
        assert n > 2


@only_postgresql
def test_an_explanation_fits_whatever_happens_meanwhile(copy_of: CopyOf, kind: str) -> None:
    assert kind
    _check(copy_of, READS["explain"], "video erased")
    _check(copy_of, READS["explain what bores"], "mind changed")


@pytest.mark.slow
@only_postgresql
@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_what_happens_meanwhile_is_a_result_or_an_error_of_ours(
    copy_of: CopyOf, kind: str, name: str
) -> None:
    assert kind
    changes = ("video erased", "viewer erased") if name in READS else ("viewer erased",)
    _check(copy_of, {**READS, **WRITES}[name], *changes)
