"""All public functions that write for one viewer, as calls with random arguments."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from sqlalchemy.orm import Session

import recommender
from recommender.formats import scalars
from recommender.formats.visibility import AUDIENCES
from recommender.ingest.mutes import KINDS

_numbers = count()


@dataclass
class Viewer:
    """A viewer in one transaction, and what they may name.

    Attributes:
        key: the viewer's key.
        others: the keys of other users; some do not exist.
        names: hashtags and keys of sounds; some do not exist.
        videos: the keys of videos that exist.
        chance: the source of random choices.
        own: the keys of the viewer's own videos.
    """

    key: str
    others: list[str]
    names: list[str]
    videos: list[str]
    chance: random.Random
    own: list[str] = field(default_factory=list)

    def several(self) -> list[str]:
        """Return some of the names, in any order."""
        return self.chance.sample(self.names, self.chance.randint(1, len(self.names)))

    def event(self) -> recommender.Event:
        """Return a new event of the viewer."""
        kind = self.chance.choice(["watch", "like", "unlike", "share", "not_interested"])
        video = self.chance.choice(self.videos)
        return recommender.Event(f"e{next(_numbers)}", self.key, video, kind, scalars.now())

    def muted(self) -> tuple[str, str]:
        """Return a kind of mute and a value."""
        kind = self.chance.choice(list(KINDS))
        return kind, self.chance.choice(self.others if kind == "creator" else self.names)


def _upsert_users(session: Session, me: Viewer) -> None:
    row = {"id": me.key, "language": me.chance.choice("ab")}
    row |= {"interests": me.several(), "liked_sounds": me.several()}
    row |= {"discoverable": me.chance.choice([True, False])}
    recommender.upsert_users(session, [row])


def _upsert_videos(session: Session, me: Viewer) -> None:
    keys = [f"{me.key}-{me.chance.randrange(4)}" for _ in range(2)]
    recommender.upsert_videos(session, [
        {"id": key, "creator": me.key, "published_at": scalars.now(),
         "hashtags": me.several(), "sound": me.chance.choice(me.names),
         "audience": me.chance.choice(AUDIENCES)}
        for key in keys
    ])  # fmt: skip
    me.own += keys


def _set_video_status(session: Session, me: Viewer) -> None:
    if me.own:
        status = me.chance.choice(["published", "removed"])
        recommender.set_video_status(session, me.own[-2:], status)


def _follow(session: Session, me: Viewer) -> None:
    with suppress(recommender.UnknownUser):
        recommender.follow(session, me.key, me.chance.choice(me.others))


def _unfollow(session: Session, me: Viewer) -> None:
    recommender.unfollow(session, me.key, me.chance.choice(me.others))


def _mute(session: Session, me: Viewer) -> None:
    with suppress(recommender.NotFound):
        recommender.mute(session, me.key, *me.muted())


def _unmute(session: Session, me: Viewer) -> None:
    recommender.unmute(session, me.key, *me.muted())


def _dismiss(session: Session, me: Viewer) -> None:
    with suppress(recommender.UnknownUser):
        recommender.dismiss(session, me.key, me.chance.choice(me.others))


def _block(session: Session, me: Viewer) -> None:
    with suppress(recommender.UnknownUser):
        recommender.block(session, me.key, me.chance.choice(me.others))


def _unblock(session: Session, me: Viewer) -> None:
    recommender.unblock(session, me.key, me.chance.choice(me.others))


def _record(session: Session, me: Viewer) -> None:
    recommender.record(session, me.key, me.chance.choice(me.videos), "watch", completion=0.9)


def _record_many(session: Session, me: Viewer) -> None:
    recommender.record_many(session, [me.event() for _ in range(3)])


def _upsert_candidates(session: Session, me: Viewer) -> None:
    rows = [
        {"user": me.key, "video": video, "score": me.chance.random()}
        for video in me.chance.sample(me.videos, min(2, len(me.videos)))
    ]
    recommender.upsert_candidates(session, "model", rows)


def _people(session: Session, me: Viewer) -> None:
    recommender.people(session, me.key, record=True)


def _for_you(session: Session, me: Viewer) -> None:
    page = recommender.for_you(session, me.key, limit=2)
    if page.cursor:
        recommender.for_you(session, me.key, limit=2, cursor=page.cursor)


def _record_page(session: Session, me: Viewer) -> None:
    recommender.record_page(session, recommender.for_you(session, me.key, limit=3, record=False))


def _mark_seen(session: Session, me: Viewer) -> None:
    if own := recommender.for_you(session, me.key, limit=2).session:
        recommender.mark_seen(session, me.key, session_id=own, position=1)


def _resolve(session: Session, me: Viewer) -> None:
    recommender.resolve(session, me.key, lock=True)


def _reset_user(session: Session, me: Viewer) -> None:
    recommender.reset_user(session, me.key)


Write = Callable[[Session, Viewer], None]

WRITES: Mapping[str, Write] = {
    "upsert_users": _upsert_users,
    "upsert_videos": _upsert_videos,
    "set_video_status": _set_video_status,
    "follow": _follow,
    "unfollow": _unfollow,
    "mute": _mute,
    "unmute": _unmute,
    "dismiss": _dismiss,
    "block": _block,
    "unblock": _unblock,
    "record": _record,
    "record_many": _record_many,
    "upsert_candidates": _upsert_candidates,
    "people": _people,
    "for_you": _for_you,
    "record_page": _record_page,
    "mark_seen": _mark_seen,
    "resolve": _resolve,
    "reset_user": _reset_user,
}
"""The public functions that write for a viewer in the caller's transaction."""

OTHERS = {
    "activate_profile", "create_feed", "create_profile", "create_space", "delete_feed", "digest",
    "drop_space", "erase_user", "erase_video", "fit", "fit_pages", "import_file", "index_space",
    "merge_users", "prune", "refresh", "rename_user", "run_transaction", "start_experiment",
    "stop_experiment", "upgrade", "upsert_embeddings",
}  # fmt: skip
"""Public functions that write for no single viewer, or in their own transactions."""

READS = {
    "as_datetime", "audit", "create_engine", "diagnose", "diff_profiles", "evaluate",
    "evaluate_follow", "evaluate_next", "experiment_report", "explain", "export_file",
    "export_user", "feed_query", "following", "get_experiment", "get_feed", "get_profile",
    "list_experiments", "list_feeds",
    "list_profiles", "list_spaces", "metrics", "prepare_engine",
    "profile_history", "rank", "reach", "replay_profile", "report", "similar", "slice_users",
    "translate_errors", "trending",
}  # fmt: skip
"""Public functions that lock nothing."""
