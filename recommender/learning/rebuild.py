"""Affinities computed anew from the log, as recording one event after another gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.formats import scalars
from recommender.learning.affinities import Learned, Subjects, rules
from recommender.learning.engagement import watched
from recommender.models.tables import (
    AFFINITIES,
    EVENTS,
    INTERACTIONS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEOS,
)

Since = Mapping[int, datetime | None]
"""Of each user's id, after when what they did counts."""

_EVENT = tuple(EVENTS.c[n] for n in ("user_id", "kind", "at", "engaged", "watch_ms", "completion"))

_TURNED = ("liked_at", "unliked_at", "saved_at", "unsaved_at", "not_interested_at")

_ON = ("liked_at", "saved_at", "not_interested_at")

_VIDEO = (VIDEOS.c.id, VIDEOS.c.duration_ms, VIDEOS.c.creator_id, VIDEOS.c.sound_id)


def relearn(session: Session, user_keys: Sequence[str]) -> list[int]:
    """Replace users' affinities by what the log, their states and their own videos say.

    Args:
        session: the caller's transaction; nothing is committed.
        user_keys: the users' keys; their rows are locked, so that nobody records meanwhile.

    Returns:
        The users' ids.
    """
    keys = [(key,) for key in user_keys]
    read = [USERS.c.id, USERS.c.learned_since]
    found = lookup.find(session, [USERS.c.key], keys, read, lock=True)
    since: Since = {user_id: learned_since for user_id, learned_since in found}  # noqa: C416
    learned = Learned(rules(session))
    _learn(session, learned, since)
    gone = sa.delete(AFFINITIES).where(
        AFFINITIES.c.user_id.in_(sa.bindparam("users", expanding=True))
    )
    lookup.run(session, gone, {"users": sorted(since)})
    learned.write(session)
    return list(since)


def _learn(session: Session, learned: Learned, since: Since) -> None:
    """Add up what the users did, each of it by the same rules as when it was recorded."""
    users = list(since)
    events, states, videos = _events(session, users), _states(session, users), _own(session, users)
    tags = _hashtags(session, {row.id for row in (*events, *states, *videos)})
    for row in events:
        part = watched(row.watch_ms, row.completion, row.duration_ms)[1]
        weight = learned.rules.of_event(
            row.kind, part, row.watch_ms, row.duration_ms, engaged=row.engaged
        )
        learned.add(row.user_id, _subjects(row, tags), weight, row.at)
    for row in states:
        for _, weight, at in learned.rules.of_state(row._mapping, since[row.user_id]):  # noqa: SLF001
            learned.add(row.user_id, _subjects(row, tags), weight, at)
    weight = learned.rules.publish_weight
    for row in videos:
        if _counts(row.published_at, since[row.creator_id]):
            subjects = Subjects.of(None, row.sound_id, tags.get(row.id, ()))
            learned.add(row.creator_id, subjects, weight, min(row.published_at, scalars.now()))


def _counts(at: datetime, since: datetime | None) -> bool:
    return since is None or at > since


def _subjects(row: Any, tags: Mapping[int, tuple[int, ...]]) -> Subjects:
    return Subjects.of(row.creator_id, row.sound_id, tags.get(row.id, ()))


def _of_users(
    session: Session, owner: sa.Column[Any], users: Sequence[int], statement: Any
) -> Sequence[Any]:
    chosen = statement.where(owner.in_(sa.bindparam("users", expanding=True)))
    return lookup.run(session, chosen, {"users": users}).all()


def _events(session: Session, users: Sequence[int]) -> Sequence[Any]:
    """What counts of the log, which may be long."""
    about = sa.join(EVENTS, VIDEOS, VIDEOS.c.id == EVENTS.c.video_id)
    about = about.join(USERS, USERS.c.id == EVENTS.c.user_id)
    since = USERS.c.learned_since
    counts = sa.or_(since.is_(None), EVENTS.c.at > since)
    statement = sa.select(*_EVENT, *_VIDEO).select_from(about).where(counts)
    return _of_users(session, EVENTS.c.user_id, users, statement)


def _states(session: Session, users: Sequence[int]) -> Sequence[Any]:
    about = sa.join(INTERACTIONS, VIDEOS, VIDEOS.c.id == INTERACTIONS.c.video_id)
    read = [INTERACTIONS.c[name] for name in ("user_id", *_TURNED)]
    is_on = sa.or_(*(INTERACTIONS.c[name].is_not(None) for name in _ON))
    statement = sa.select(*read, *_VIDEO).select_from(about).where(is_on)
    return _of_users(session, INTERACTIONS.c.user_id, users, statement)


def _own(session: Session, users: Sequence[int]) -> Sequence[Any]:
    statement = sa.select(*_VIDEO, VIDEOS.c.published_at).where(VIDEOS.c.status == "published")
    return _of_users(session, VIDEOS.c.creator_id, users, statement)


def _hashtags(session: Session, video_ids: Iterable[int]) -> dict[int, tuple[int, ...]]:
    wanted = [(video_id,) for video_id in sorted(video_ids)]
    read = [VIDEO_HASHTAGS.c.video_id, VIDEO_HASHTAGS.c.hashtag_id]
    found: dict[int, tuple[int, ...]] = {}
    for video_id, hashtag_id in lookup.find(session, [VIDEO_HASHTAGS.c.video_id], wanted, read):
        found[video_id] = (*found.get(video_id, ()), hashtag_id)
    return found
