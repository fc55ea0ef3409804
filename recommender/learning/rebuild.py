"""Rebuild users' affinities from the log, as if the events were recorded again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recommender.database import aliases, lookup
from recommender.database.session import Session
from recommender.formats import scalars
from recommender.formats.visibility import PUBLISHED
from recommender.learning.affinities import AffinityChanges, Subjects, read_rules
from recommender.learning.engagement import SWITCHES, watched
from recommender.models.tables import (
    AFFINITIES,
    EVENTS,
    INTERACTIONS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEOS,
)

LearnedSince = Mapping[int, datetime | None]
"""The time per user id until which everything is forgotten; None if nothing is."""

_EVENT_COLUMNS = tuple(
    EVENTS.c[n] for n in ("user_id", "kind", "at", "engaged", "watch_ms", "completion")
)

_ON_TIMES = ("liked_at", "saved_at", "not_interested_at", "interested_at")

_VIDEO_COLUMNS = (VIDEOS.c.id, VIDEOS.c.duration_ms, VIDEOS.c.creator_id, VIDEOS.c.sound_id)


def rebuild_affinities(session: Session, user_keys: Sequence[str]) -> list[int]:
    """Compute users' affinities again from the log, their states and their own videos.

    Args:
        session: the caller's transaction; nothing is committed.
        user_keys: the users' keys. Their rows are locked, so no one can record for them meanwhile.

    Returns:
        The users' ids.
    """
    keys = [(key,) for key in user_keys]
    read = [USERS.c.id, USERS.c.learned_since]
    users = aliases.find_locked(session, USERS.c.key, keys, read)
    since: LearnedSince = {user_id: learned_since for user_id, learned_since in users}  # noqa: C416
    changes = AffinityChanges(read_rules(session))
    _add_all(session, changes, since)
    delete = sa.delete(AFFINITIES).where(
        AFFINITIES.c.user_id.in_(sa.bindparam("users", expanding=True))
    )
    lookup.run(session, delete, {"users": sorted(since)})
    changes.write(session)
    return list(since)


def _add_all(session: Session, changes: AffinityChanges, since: LearnedSince) -> None:
    """Add all engagements of users, by the same rules as when they were recorded."""
    users = list(since)
    events, states = _events(session, users), _states(session, users)
    videos = _own_videos(session, users)
    tags = _hashtags(session, {row.id for row in (*events, *states, *videos)})
    for row in events:
        part = watched(row.watch_ms, row.completion, row.duration_ms)[1]
        weight = changes.rules.event_weight(
            row.kind, part, row.watch_ms, row.duration_ms, engaged=row.engaged
        )
        changes.add(row.user_id, _subjects(row, tags), weight, row.at)
    for row in states:
        for _, weight, at in changes.rules.state_weights(row._mapping, since[row.user_id]):  # noqa: SLF001
            changes.add(row.user_id, _subjects(row, tags), weight, at)
    weight = changes.rules.publish_weight
    for row in videos:
        if _counts(row.published_at, since[row.creator_id]):
            subjects = Subjects.of(None, row.sound_id, tags.get(row.id, ()))
            changes.add(row.creator_id, subjects, weight, min(row.published_at, scalars.now()))


def _counts(at: datetime, since: datetime | None) -> bool:
    """Return True if an engagement came after the time until which all is forgotten."""
    return since is None or at > since


def _subjects(row: Any, tags: Mapping[int, tuple[int, ...]]) -> Subjects:
    """Return the subjects of a row's video."""
    return Subjects.of(row.creator_id, row.sound_id, tags.get(row.id, ()))


def _of_users(
    session: Session, owner: sa.Column[Any], users: Sequence[int], statement: Any
) -> Sequence[Any]:
    """Return the rows of a statement whose owner is one of the users."""
    of_users = statement.where(owner.in_(sa.bindparam("users", expanding=True)))
    return lookup.run(session, of_users, {"users": users}).all()


def _events(session: Session, users: Sequence[int]) -> Sequence[Any]:
    """Return the events that count, with their videos."""
    # The log may be long, so SQL leaves out the events that were forgotten.
    source = sa.join(EVENTS, VIDEOS, VIDEOS.c.id == EVENTS.c.video_id)
    source = source.join(USERS, USERS.c.id == EVENTS.c.user_id)
    since = USERS.c.learned_since
    counts = sa.or_(since.is_(None), EVENTS.c.at > since)
    statement = sa.select(*_EVENT_COLUMNS, *_VIDEO_COLUMNS).select_from(source).where(counts)
    return _of_users(session, EVENTS.c.user_id, users, statement)


def _states(session: Session, users: Sequence[int]) -> Sequence[Any]:
    """Return the states with a like, save, interest or lack of interest, with their videos."""
    source = sa.join(INTERACTIONS, VIDEOS, VIDEOS.c.id == INTERACTIONS.c.video_id)
    read = [INTERACTIONS.c[name] for name in ("user_id", *SWITCHES.values())]
    is_on = sa.or_(*(INTERACTIONS.c[name].is_not(None) for name in _ON_TIMES))
    statement = sa.select(*read, *_VIDEO_COLUMNS).select_from(source).where(is_on)
    return _of_users(session, INTERACTIONS.c.user_id, users, statement)


def _own_videos(session: Session, users: Sequence[int]) -> Sequence[Any]:
    """Return the published videos with a date that the users created."""
    statement = sa.select(*_VIDEO_COLUMNS, VIDEOS.c.published_at).where(
        VIDEOS.c.status.in_(PUBLISHED), VIDEOS.c.published_at != scalars.UNDATED
    )
    return _of_users(session, VIDEOS.c.creator_id, users, statement)


def _hashtags(session: Session, video_ids: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """Return the ids of hashtags by the ids of their videos."""
    keys = [(video_id,) for video_id in sorted(video_ids)]
    read = [VIDEO_HASHTAGS.c.video_id, VIDEO_HASHTAGS.c.hashtag_id]
    hashtags: dict[int, tuple[int, ...]] = {}
    for video_id, hashtag_id in lookup.find(session, [VIDEO_HASHTAGS.c.video_id], keys, read):
        hashtags[video_id] = (*hashtags.get(video_id, ()), hashtag_id)
    return hashtags
