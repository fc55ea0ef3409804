"""Events, recorded exactly once and folded into each user's state of each video.

The state does not depend on the order of the events: counts and sums add, the best part watched and
all times are maxima or minima. A user's write touches no row that another user's write touches.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.orm import Session

from recommender import bulk, fields
from recommender.catalog import USERS, VIDEOS, Applied, ids
from recommender.errors import (
    EventConflict,
    InvalidValue,
    RecommenderError,
    UnknownUser,
    UnknownVideo,
)
from recommender.models import EventRow, Interaction, PendingEvent, Video
from recommender.values import Counts, Event

EVENTS: Table = EventRow.__table__  # type: ignore[assignment] # SQLAlchemy types it as FromClause
PENDING: Table = PendingEvent.__table__  # type: ignore[assignment]
INTERACTIONS: Table = Interaction.__table__  # type: ignore[assignment]

MOST_AHEAD = timedelta(minutes=5)
"""How far a client's clock may be ahead: an unlike could not undo a like of next year."""

ENGAGED_MS = 18_000
"""A view this long is engaged however long the video; KuaiRand's `long_view` is the same rule."""

MERGES: Mapping[str, bulk.Merge] = {
    "impressions": bulk.added,
    "plays": bulk.added,
    "engaged_views": bulk.added,
    "completion": bulk.greatest,
    "watch_ms": bulk.added,
    "shares": bulk.added,
    "comments": bulk.added,
    "reports": bulk.added,
    "liked_at": bulk.greatest,
    "unliked_at": bulk.greatest,
    "saved_at": bulk.greatest,
    "unsaved_at": bulk.greatest,
    "not_interested_at": bulk.greatest,
    "first_at": bulk.least,
    "last_at": bulk.greatest,
}
_NOTHING = {
    **{name: 0 if how is bulk.added else None for name, how in MERGES.items()},
    "completion": 0.0,
}
_COUNTED = {
    "impression": ("impressions",),
    "watch": ("impressions", "plays"),
    "share": ("shares",),
    "comment": ("comments",),
    "report": ("reports",),
}
_TIMED = {
    "like": "liked_at",
    "unlike": "unliked_at",
    "save": "saved_at",
    "unsave": "unsaved_at",
    "not_interested": "not_interested_at",
}
_BODY = ("video_id", "kind", "at", "watch_ms", "completion")

State = dict[str, Any]


def watched(
    watch_ms: int | None, completion: float | None, duration_ms: int | None
) -> tuple[int | None, float | None]:
    """Watched milliseconds and the part watched, each from the other where only one is known."""
    if watch_ms is None and completion is not None and duration_ms is not None:
        watch_ms = round(completion * duration_ms)
    elif completion is None and watch_ms is not None and duration_ms:
        completion = min(1.0, watch_ms / duration_ms)
    return watch_ms, completion


def is_engaged(watch_ms: int | None, completion: float | None, duration_ms: int | None) -> bool:
    """Whether a watch is an engaged view: to the end, or min(duration, 18 s) long."""
    watch_ms, completion = watched(watch_ms, completion, duration_ms)
    if completion is not None and completion >= 1:
        return True
    enough = min(duration_ms, ENGAGED_MS) if duration_ms else ENGAGED_MS
    return watch_ms is not None and watch_ms >= enough


def _row(event: Event, user_id: int, video_id: int, duration_ms: int | None) -> State:
    """The event as a row of the log, and its video's duration, which folding wants to know."""
    is_watch = event.kind == "watch"
    return {
        "user_id": user_id,
        "key": event.key,
        "video_id": video_id,
        "kind": event.kind,
        "at": event.at,
        "watch_ms": event.watch_ms,
        "completion": event.completion,
        "engaged": is_watch and is_engaged(event.watch_ms, event.completion, duration_ms),
        "duration_ms": duration_ms,
    }


def record(
    session: Session,
    user: str,
    video: str,
    kind: str,
    *,
    at: datetime | None = None,
    key: str | None = None,
    watch_ms: int | None = None,
    completion: float | None = None,
) -> bool:
    """Record one event and fold it into the user's state, in the caller's transaction.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        video: the video's key.
        kind: one of `fields.KINDS`.
        at: when, with an offset; now where None.
        key: the event's own id; a new one where None. The same key with the same body is ignored.
        watch_ms: milliseconds watched, 0 to 2,147,483,647; None where unknown.
        completion: part of the video watched, 0 to 1; None where unknown.

    Returns:
        Whether the event is new.

    Raises:
        InvalidValue: a value is not of its form, or the time more than five minutes ahead.
        UnknownUser: there is no such user.
        UnknownVideo: there is no such video.
        EventConflict: the key was recorded before with another body.
    """
    event = Event(
        key=str(uuid.uuid4()) if key is None else key,
        user=user,
        video=video,
        kind=kind,
        at=fields.now() if at is None else at,
        watch_ms=watch_ms,
        completion=completion,
    )
    return record_many(session, [event]).inserted == 1


def record_many(session: Session, events: Iterable[Event]) -> Counts:
    """Record events and fold them into their users' states, in the caller's transaction.

    Args:
        session: the caller's transaction; nothing is committed.
        events: in any order, with any repeats.

    Returns:
        How many events were new (`inserted`) and how many were there (`unchanged`).

    Raises:
        InvalidValue: a time is more than five minutes ahead; nothing is written.
        UnknownUser: there is no such user; nothing is written.
        UnknownVideo: there is no such video; nothing is written.
        EventConflict: a key was recorded before with another body; nothing is written.
    """
    return apply_events(session, list(events), strict=True).counts


def apply_events(session: Session, events: Sequence[Event], *, strict: bool = False) -> Applied:
    """Record events; those that cannot be are left out and reported by their place.

    Args:
        session: the caller's transaction; nothing is committed.
        events: in any order, with any repeats.
        strict: raise the first that cannot be recorded instead, before anything is written.
    """
    rows, rejected = _resolve(session, events)
    new, conflicts = _unrecorded(session, rows)
    rejected |= {index: _conflict(session, events[index], conflicts[index])
                 for index in conflicts}  # fmt: skip
    if strict and rejected:
        raise rejected[min(rejected)]
    inserted = _insert(session, [rows[index] for index in new])
    fresh = [rows[index] for index in new if _identity(rows[index]) in inserted]
    if len(fresh) < len(new):
        _check_same(session, [rows[i] for i in new if _identity(rows[i]) not in inserted])
    _fold(session, fresh)
    counts = Counts(inserted=len(fresh), unchanged=len(rows) - len(conflicts) - len(fresh))
    return Applied(counts, rejected)


def _resolve(
    session: Session, events: Sequence[Event]
) -> tuple[dict[int, State], dict[int, RecommenderError]]:
    users = ids(session, USERS, (event.user for event in events))
    videos = _videos(session, events)
    rows: dict[int, State] = {}
    rejected: dict[int, RecommenderError] = {}
    latest = fields.now() + MOST_AHEAD
    for index, event in enumerate(events):
        if event.user not in users:
            rejected[index] = UnknownUser(f"there is no user {fields.shown(event.user)}")
        elif event.video not in videos:
            rejected[index] = UnknownVideo(f"there is no video {fields.shown(event.video)}")
        elif event.at > latest:
            rejected[index] = InvalidValue(f"at: {fields.written_time(event.at)} is in the future")
        else:
            rows[index] = _row(event, users[event.user], *videos[event.video])
    return rows, rejected


def _videos(session: Session, events: Sequence[Event]) -> dict[str, tuple[int, int | None]]:
    keys = [(key,) for key in dict.fromkeys(event.video for event in events)]
    if not keys:
        return {}
    columns = (VIDEOS.c.key, VIDEOS.c.id, VIDEOS.c.duration_ms)
    found = bulk.find(session, [VIDEOS.c.key], keys, columns)
    return {key: (video_id, duration_ms) for key, video_id, duration_ms in found}


def _identity(row: Mapping[str, Any]) -> bulk.Key:
    return (row["user_id"], row["key"])


def _body(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _BODY)


def _recorded(session: Session, rows: Iterable[State]) -> dict[bulk.Key, State]:
    """The rows of the log that have the same keys."""
    keys = list(dict.fromkeys(_identity(row) for row in rows))
    if not keys:
        return {}
    columns = [EVENTS.c.user_id, EVENTS.c.key]
    read = (*columns, *(EVENTS.c[name] for name in _BODY))
    found = bulk.find(session, columns, keys, read)
    return {(row.user_id, row.key): dict(row._mapping) for row in found}  # noqa: SLF001 - its API


def _unrecorded(session: Session, rows: Mapping[int, State]) -> tuple[list[int], dict[int, State]]:
    """The places of new events, and of each conflicting one the row that it conflicts with."""
    seen = _recorded(session, rows.values())
    new: list[int] = []
    conflicts: dict[int, State] = {}
    for index, row in rows.items():
        before = seen.setdefault(_identity(row), row)
        if before is row:
            new.append(index)
        elif _body(before) != _body(row):
            conflicts[index] = before
    return new, conflicts


def _conflict(session: Session, event: Event, before: State) -> EventConflict:
    video = session.scalar(sa.select(Video.key).where(Video.id == before["video_id"]))
    return EventConflict(
        f"event {fields.shown(event.key)} of user {fields.shown(event.user)} was recorded before as"
        f" {_described({**before, 'video': video})}, and is now {_described(asdict(event))}"
    )


def _described(body: Mapping[str, Any]) -> str:
    parts = [f"{body['kind']} of {fields.shown(body['video'])}", fields.written_time(body["at"])]
    parts += [
        f"{name} {body[name]}" for name in ("watch_ms", "completion") if body[name] is not None
    ]
    return " ".join(parts)


def _insert(session: Session, rows: Iterable[State]) -> set[bulk.Key]:
    ordered = sorted(rows, key=_identity)
    inserted = bulk.insert_new(session, EVENTS, ordered)
    bulk.insert(session, PENDING, [row for row in ordered if _identity(row) in inserted])
    return inserted


def _check_same(session: Session, rows: Sequence[State]) -> None:
    """Raise where an event that another transaction recorded meanwhile has another body."""
    recorded = _recorded(session, rows)
    for row in rows:
        if _body(recorded[_identity(row)]) != _body(row):
            raise EventConflict(
                f"event {fields.shown(row['key'])} was recorded at the same time with another body"
            )


def _fold(session: Session, events: Iterable[State]) -> None:
    states: dict[bulk.Key, State] = {}
    for event in events:
        pair = (event["user_id"], event["video_id"])
        if pair not in states:
            states[pair] = _blank(event)
        _fold_one(states[pair], event)
    rows = [states[pair] for pair in sorted(states)]
    used = {name: how for name, how in MERGES.items() if any(row[name] for row in rows)}
    columns = ("user_id", "video_id", *used)
    bulk.insert(session, INTERACTIONS, rows, columns=columns, merge=used)


def _blank(event: State) -> State:
    at = event["at"]
    key = {"user_id": event["user_id"], "video_id": event["video_id"]}
    return {**key, **_NOTHING, "first_at": at, "last_at": at}


def _fold_one(state: State, event: State) -> None:
    kind, at = event["kind"], event["at"]
    for column in _COUNTED.get(kind, ()):
        state[column] += 1
    if column := _TIMED.get(kind, ""):
        state[column] = max(state[column] or at, at)
    if kind == "watch":
        watch_ms, completion = watched(event["watch_ms"], event["completion"], event["duration_ms"])
        state["watch_ms"] += watch_ms or 0
        state["completion"] = max(state["completion"], completion or 0.0)
        state["engaged_views"] += event["engaged"]
    state["first_at"] = min(state["first_at"], at)
    state["last_at"] = max(state["last_at"], at)


def parse_event(row: Mapping[str, object]) -> Event:
    """The event of an interchange row.

    Raises:
        InvalidValue: a column is unknown or missing, or a value not of its form.
    """
    fields.check_names(fields.EVENT_COLUMNS, row.keys())
    given: dict[str, Any] = {"key": row["id"], **row}
    del given["id"]
    return Event(**given)
