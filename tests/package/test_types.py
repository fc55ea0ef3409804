"""What type checkers know of the public names, and that it is what runs."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import recommender
from recommender import CandidateRow, Event, UserRow, VideoRow
from recommender.database.transactions import writing
from recommender.files.batches import ROW_KINDS
from recommender.formats import rows
from recommender.ingest.candidates import ROW_COLUMNS
from recommender.ingest.mutes import KINDS, MuteKind
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import at, names, worked_example

HOST = Path(__file__).parent / "typed_host.py"

Call = Callable[[Any], Any]

CALLS: Mapping[str, Call] = {
    "upsert_users": lambda s: recommender.upsert_users(s, [{"id": "ana"}]).inserted,
    "upsert_videos": lambda s: recommender.upsert_videos(s, [{"id": "v3", "caption": "x"}]).updated,
    "set_video_status": lambda s: recommender.set_video_status(s, "v3", "published").unchanged,
    "follow": lambda s: recommender.follow(s, "ana", "creator2"),
    "unfollow": lambda s: recommender.unfollow(s, "ana", "creator2"),
    "mute": lambda s: recommender.mute(s, "ana", "sound", "sound789"),
    "unmute": lambda s: recommender.unmute(s, "ana", "sound", "sound789"),
    "dismiss": lambda s: recommender.dismiss(s, "ana", "creator2"),
    "block": lambda s: recommender.block(s, "ana", "creator2"),
    "unblock": lambda s: recommender.unblock(s, "ana", "creator2"),
    "record": lambda s: recommender.record(s, "ana", "v2", "like", at=at(-1)),
    "record_many": lambda s: (
        recommender.record_many(s, [Event("e", "ana", "v1", "watch", at(-2))]).inserted
    ),
    "upsert_candidates": lambda s: (
        recommender.upsert_candidates(
            s, "model", [{"user": "ana", "video": "v1", "score": 1}]
        ).inserted
    ),
    "upsert_embeddings": lambda s: (
        recommender.create_space(s.connection(), "captions", dim=1).dim,
        recommender.upsert_embeddings(s, "captions", [{"id": "v1", "vector": [1]}]).inserted,
    ),
    "reset_user": lambda s: recommender.reset_user(s, "ana", at=at(-1)) is None,
    "create_profile": lambda s: recommender.create_profile(s, "mine", {"likes": 1.0}).version,
    "activate_profile": lambda s: recommender.activate_profile(s, "for_you").active,
    "get_profile": lambda s: recommender.get_profile(s, "mine").version,
    "list_profiles": lambda s: len(recommender.list_profiles(s)) > 2,
    "profile_history": lambda s: len(recommender.profile_history(s, "mine")),
    "create_feed": lambda s: recommender.create_feed(s, "reels", memory="own").memory_id,
    "get_feed": lambda s: recommender.get_feed(s, "reels").memory == "own",
    "list_feeds": lambda s: len(recommender.list_feeds(s)),
    "delete_feed": lambda s: recommender.delete_feed(s, "reels").deleted_at is not None,
    "start_experiment": lambda s: recommender.start_experiment(s, "tried", ["mine"]).id,
    "get_experiment": lambda s: recommender.get_experiment(s, "tried").feed is None,
    "experiment_report": lambda s: recommender.experiment_report(s, "tried").days,
    "list_experiments": lambda s: len(recommender.list_experiments(s)),
    "stop_experiment": lambda s: recommender.stop_experiment(s, "tried").stopped_at is not None,
    "resolve": lambda s: recommender.resolve(s, "ana").known,
    "for_you": lambda s: names(recommender.for_you(s, "ana", as_of=at())) == ["v3"],
    "record_page": lambda s: (
        not recommender.record_page(
            s, recommender.for_you(s, "user1", as_of=at(), record=False, rewatch=True)
        ).stale
    ),
    "mark_seen": lambda s: recommender.mark_seen(
        s, "user1", position=1, session_id=recommender.for_you(s, "user1", rewatch=True).session
    ),
    "rank": lambda s: len(recommender.rank(s, "ana", ["v1", "v2"]).items) == 2,
    "people": lambda s: (
        [person.creator for person in recommender.people(s, "ana").items]
        == ["creator3", "creator1"]
    ),
    "similar": lambda s: names(recommender.similar(s, "v1")) == ["v3", "v2"],
    "reach": lambda s: recommender.reach(s, "v1") == (),
    "following": lambda s: names(recommender.following(s, "user1")) == ["v1"],
    "trending": lambda s: len(recommender.trending(s).items) == 3,
    "explain": lambda s: recommender.explain(s, "ana", "v1").rank is None,
    "diff_profiles": lambda s: recommender.diff_profiles(s, "mine", "for_you").first == "mine@1",
    "audit": lambda s: recommender.audit(s).broken == (),
    "metrics": lambda s: recommender.metrics(s).videos,
    "erase_video": lambda s: recommender.erase_video(s, "v3") is None,
}
"""A call of every public function that takes a session; what it gives is true."""


def of_a_session() -> set[str]:
    """Return the public functions whose first parameter is a session."""
    functions = {name: getattr(recommender, name) for name in recommender.__all__}
    return {
        name for name, function in functions.items()
        if inspect.isfunction(function) and "session" in inspect.signature(function).parameters
    }  # fmt: skip


def test_the_typed_host_uses_every_public_name() -> None:
    """So `mypy` and `basedpyright`, which `.ci/run` calls, check each of them."""
    nodes = list(ast.walk(ast.parse(HOST.read_text())))
    used = {
        node.attr for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "recommender"
    }  # fmt: skip
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "recommender"]
    used |= {alias.name for node in imports for alias in node.names}
    assert used - {"models"} == set(recommender.__all__)


@pytest.mark.parametrize(
    ("typed", "checked"),
    [
        (get_type_hints(UserRow), rows.USER_COLUMNS),
        (get_type_hints(VideoRow), rows.VIDEO_COLUMNS),
        (get_type_hints(CandidateRow), ROW_COLUMNS),
        (get_args(MuteKind), KINDS),
        (get_args(rows.FileKind), ROW_KINDS),
    ],
    ids=["users", "videos", "candidates", "mutes", "files"],
)
def test_types_name_what_is_accepted(typed: Any, checked: Mapping[str, object]) -> None:
    assert list(typed) == list(checked)


@pytest.mark.parametrize("name", sorted(of_a_session()))
def test_a_session_is_sqlalchemys_or_a_registry_of_sessions(name: str) -> None:
    hints = get_type_hints(getattr(recommender, name))
    assert hints["session"] == Session | scoped_session[Any]


@slow_on_postgresql
def test_every_function_takes_a_registry_of_sessions(engine: Engine) -> None:
    """Flask-SQLAlchemy gives its users a `scoped_session`."""
    registry = scoped_session(sessionmaker(writing(engine)))
    worked_example(registry)  # type: ignore[arg-type] # that is the test
    assert {name: bool(call(registry)) for name, call in CALLS.items()} == dict.fromkeys(
        of_a_session(), True
    )
    registry.commit()
    registry.remove()
