"""What recording reads before it writes: users, videos, states, recorded events, learning rules.

The users are locked first. Later statements read their states and recorded events. These cannot
change before the caller's transaction ends, because every writer locks the user first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from recommender.database import aliases, lookup
from recommender.database.expressions import Statement
from recommender.database.schema import first_state
from recommender.database.session import Session
from recommender.ingest.merged_events import BODY_COLUMNS, Body
from recommender.learning.affinities import RULE_COLUMNS, Rules, Subjects
from recommender.learning.states import STATE_COLUMNS, State
from recommender.models.tables import (
    EVENTS,
    INTERACTIONS,
    LEARNING_STATE,
    USERS,
    VIDEO_HASHTAGS,
    VIDEOS,
)

Row = Mapping[str, Any]


class EventUser(NamedTuple):
    """The locked row of a user who has events in a batch."""

    id: int
    learned_since: datetime | None


class EventVideo(NamedTuple):
    """A video that has events in a batch."""

    id: int
    duration_ms: int | None
    subjects: Subjects


class EventContext(NamedTuple):
    """The users and videos that the events of a batch name, by key, and the learning rules.

    `horizon` is the time until which events are pruned, or None. `alone` is what the statement of a
    single event has read as well: None for several events, and if there is no such video.
    """

    # The horizon is read after the users were locked. A prune sets it first, and deletes a user's
    # events only with that lock.
    users: Mapping[str, EventUser]
    videos: Mapping[str, EventVideo]
    horizon: datetime | None
    rules: Rules
    alone: Alone | None = None


class Alone(NamedTuple):
    """The state and the recorded body of a single event, by their keys; empty if there are none."""

    states: dict[lookup.Key, State]
    bodies: dict[lookup.Key, Body]


def read_context(session: Session, events: Sequence[Row]) -> EventContext:
    """Return what events need; lock their users in the order of their keys.

    Args:
        session: the caller's transaction.
        events: one or more interchange rows.
    """
    keys = (event["user"] for event in events)
    rows = aliases.find_users(session, keys, _USER_COLUMNS, lock=True)
    users = {key: EventUser(*row) for key, *row in rows}
    if len(events) == 1:
        return _read_one(session, events[0], users)
    video_keys = [(key,) for key in dict.fromkeys(event["video"] for event in events)]
    found = lookup.find(session, [VIDEOS.c.key], video_keys, _VIDEO_COLUMNS)
    videos = {row[0]: _video(row) for row in found}
    return EventContext(users, videos, *_read_rules(session))


def _read_one(session: Session, event: Row, users: Mapping[str, EventUser]) -> EventContext:
    """Return what a single event needs, by one statement."""
    user_id = users[event["user"]].id if users else None
    values = {"only_user": user_id, "only_video": event["video"], "only_key": event["id"]}
    row = lookup.connection(session).execute(_find_one(), values).one_or_none()
    if row is None:
        return EventContext(users, {}, *_read_rules(session))
    columns = iter(row)
    video, (horizon, *rules), state, body = (
        [next(columns) for _ in part] for part in (_VIDEO_COLUMNS, _RULES, STATE_COLUMNS, _BODY)
    )
    bodies = {} if body[0] is None else {(user_id, event["id"]): tuple(body)}
    alone = Alone(states_by_pair([state]), bodies)
    return EventContext(users, {event["video"]: _video(video)}, horizon, Rules(*rules), alone)


def _read_rules(session: Session) -> tuple[datetime | None, Rules]:
    """Return the time until which events are pruned, and the learning rules."""
    horizon, *rules = first_state(lookup.run(session, sa.select(*_RULES)))
    return horizon, Rules(*rules)


def _video(row: Sequence[Any]) -> EventVideo:
    _, row_id, duration_ms, creator_id, sound_id, tags = row
    hashtags = tuple(map(int, tags.split(","))) if tags else ()
    return EventVideo(row_id, duration_ms, Subjects.of(creator_id, sound_id, hashtags))


@cache
def _find_one() -> Statement:
    """Build the SELECT of a video, the rules, and the state and body of one event."""
    user_id: sa.BindParameter[int] = sa.bindparam("only_user")
    of_state = sa.and_(INTERACTIONS.c.user_id == user_id, INTERACTIONS.c.video_id == VIDEOS.c.id)
    of_event = sa.and_(EVENTS.c.user_id == user_id, EVENTS.c.key == sa.bindparam("only_key"))
    source = sa.join(VIDEOS, LEARNING_STATE, sa.true())
    return (
        sa.select(*_VIDEO_COLUMNS, *_RULES, *INTERACTIONS.c, *_BODY)
        .select_from(source.outerjoin(INTERACTIONS, of_state).outerjoin(EVENTS, of_event))
        .where(VIDEOS.c.key == sa.bindparam("only_video"))
    )


_USER_COLUMNS = (USERS.c.id, USERS.c.learned_since)

_VIDEO_COLUMNS = (
    *(VIDEOS.c[name] for name in ("key", "id", "duration_ms", "creator_id", "sound_id")),
    sa.select(sa.func.aggregate_strings(sa.cast(VIDEO_HASHTAGS.c.hashtag_id, sa.Text), ","))
    .where(VIDEO_HASHTAGS.c.video_id == VIDEOS.c.id)
    .scalar_subquery(),
)

_RULES = tuple(LEARNING_STATE.c[name] for name in ("events_horizon", *RULE_COLUMNS))

_BODY = tuple(EVENTS.c[name] for name in BODY_COLUMNS)


def read_states(
    session: Session, context: EventContext, pairs: Iterable[lookup.Key]
) -> dict[lookup.Key, State]:
    """Return the existing states of pairs of a user's and a video's id."""
    if context.alone:
        return context.alone.states
    columns = [INTERACTIONS.c.user_id, INTERACTIONS.c.video_id]
    found = lookup.find(session, columns, list(dict.fromkeys(pairs)), tuple(INTERACTIONS.c))
    return states_by_pair(found)


def states_by_pair(rows: Iterable[Sequence[Any]]) -> dict[lookup.Key, State]:
    """Return states by user and video id; rows of NULLs are left out."""
    return {(row[0], row[1]): dict(zip(STATE_COLUMNS, row, strict=True)) for row in rows if row[0]}


def read_bodies(session: Session, keys: Sequence[lookup.Key]) -> dict[lookup.Key, Body]:
    """Return the bodies of recorded events by user id and key."""
    columns = [EVENTS.c.user_id, EVENTS.c.key]
    rows = lookup.find(session, columns, keys, (*columns, *_BODY))
    return {row[:2]: row[2:] for row in map(tuple, rows)}
