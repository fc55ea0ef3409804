"""Tables that `create_all` made: every function says what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import Event, SchemaOutOfDate, create_engine, run_transaction
from recommender.models.types import Base
from tests.support.worlds import NOON

USER = {"id": "ana"}
VIDEO = {"id": "v", "creator": "ana", "published_at": "2026-01-01T00:00:00Z"}
DAYS = timedelta(days=2)

SESSION = "00000000-0000-0000-0000-000000000001"
ON_SESSION: dict[str, tuple[Any, ...]] = {
    "activate_profile": ("classic",),
    "audit": (),
    "block": ("ana", "ben"),
    "create_feed": ("reels",),
    "create_profile": ("mine", {"likes": 1.0}),
    "delete_feed": ("reels",),
    "diff_profiles": ("classic", "for_you"),
    "dismiss": ("ana", "ben"),
    "erase_video": ("v",),
    "explain": ("ana", "v"),
    "follow": ("ana", "ben"),
    "following": ("ana",),
    "for_you": ("ana",),
    "experiment_report": ("tried",),
    "get_experiment": ("tried",),
    "get_feed": ("reels",),
    "get_profile": (),
    "list_experiments": (),
    "list_feeds": (),
    "list_profiles": (),
    "metrics": (),
    "mute": ("ana", "hashtag", "news"),
    "people": ("ana",),
    "profile_history": (),
    "rank": ("ana", ["v"]),
    "reach": ("v",),
    "record": ("ana", "v", "like"),
    "record_many": ([Event("key", "ana", "v", "like", NOON)],),
    "reset_user": ("ana",),
    "resolve": ("ana",),
    "similar": ("v",),
    "start_experiment": ("tried", ["for_you"]),
    "stop_experiment": ("tried",),
    "set_video_status": ("v", "removed"),
    "trending": (),
    "unblock": ("ana", "ben"),
    "unfollow": ("ana", "ben"),
    "unmute": ("ana", "hashtag", "news"),
    "upsert_candidates": ("model", [{"user": "ana", "video": "v", "score": 0.5}]),
    "upsert_embeddings": ("captions", [{"id": "v", "vector": [1.0]}]),
    "upsert_users": ([USER],),
    "upsert_videos": ([VIDEO],),
}
ON_ENGINE: dict[str, Callable[[Engine, Path], object]] = {
    "digest": lambda bind, _: list(recommender.digest(bind, feed="mail", run="today")),
    "diagnose": lambda bind, _: recommender.diagnose(bind),
    "erase_user": lambda bind, _: recommender.erase_user(bind, "ana"),
    "evaluate": lambda bind, _: recommender.evaluate(bind, cutoff=NOON),
    "evaluate_follow": lambda bind, _: recommender.evaluate_follow(bind, cutoff=NOON),
    "evaluate_next": lambda bind, _: recommender.evaluate_next(bind, cutoff=NOON),
    "export_file": lambda bind, path: recommender.export_file(bind, "users", f"{path}/out.csv"),
    "export_user": lambda bind, path: recommender.export_user(bind, "ana", f"{path}/ana.zip"),
    "fit": lambda bind, _: recommender.fit(bind, "mine"),
    "fit_pages": lambda bind, _: recommender.fit_pages(bind, "mine", log=bind, since=NOON),
    "import_file": lambda bind, path: recommender.import_file(bind, "users", f"{path}/in.csv"),
    "mark_seen": lambda bind, _: run_transaction(
        bind, lambda session: recommender.mark_seen(session, "ana", position=1, session_id=SESSION)
    ),
    "merge_users": lambda bind, _: recommender.merge_users(bind, "ana", "bob"),
    "prune": lambda bind, _: recommender.prune(bind, events_older_than=DAYS),
    "refresh": lambda bind, _: recommender.refresh(bind),
    "rename_user": lambda bind, _: recommender.rename_user(bind, "ana", "bob"),
    "report": lambda bind, _: recommender.report(bind),
    "replay_profile": lambda bind, _: recommender.replay_profile(bind, "classic", since=NOON),
    "create_space": lambda bind, _: recommender.create_space(bind, "captions", dim=2),
    "list_spaces": lambda bind, _: recommender.list_spaces(bind),
    "index_space": lambda bind, _: recommender.index_space(bind, "captions"),
    "drop_space": lambda bind, _: recommender.drop_space(bind, "captions"),
    "slice_users": lambda bind, path: recommender.slice_users(bind, ["ana"], f"{path}/ana.db"),
    "upgrade": lambda bind, _: recommender.upgrade(bind),
}
NEITHER = {
    "as_datetime", "create_engine", "feed_query", "prepare_engine", "record_page",
    "run_transaction", "translate_errors",
}  # fmt: skip
"""Functions that read and write nothing of ours, or take what `resolve` gave."""


@pytest.fixture
def created(empty_database: str) -> Iterator[Engine]:
    """An engine on a database whose tables `create_all` made."""
    bind = create_engine(empty_database)
    Base.metadata.create_all(bind)
    yield bind
    bind.dispose()


def test_every_function_says_that_no_migration_made_the_tables(
    created: Engine, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("id\nana\n")
    on_session = {
        name: partial(run_transaction, created, partial(_called, name, values))
        for name, values in ON_SESSION.items()
    }
    on_engine = {name: partial(call, created, tmp_path) for name, call in ON_ENGINE.items()}
    for name, call in {**on_session, **on_engine}.items():
        with pytest.raises(SchemaOutOfDate, match=r"`Base.metadata.create_all`.* db upgrade`"):
            pytest.fail(f"{name} gave {call()}")


def _called(name: str, values: tuple[Any, ...], session: Session) -> object:
    return getattr(recommender, name)(session, *values)


def test_every_public_function_is_tested() -> None:
    functions = {n for n in recommender.__all__ if inspect.isfunction(getattr(recommender, n))}
    assert functions == {*ON_SESSION, *ON_ENGINE} | NEITHER
