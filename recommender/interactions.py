"""Events, recorded exactly once and folded into each user's state of each video.

The state does not depend on the order of the events: counts and sums add, the best part watched and
all times are maxima or minima. Whoever records locks the rows of the users first, so that two
writers of one user take turns, and touches no row that another user's write touches.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.orm import Session

from recommender import bulk, fields
from recommender.catalog import USERS, VIDEO_HASHTAGS, VIDEOS, Applied
from recommender.columns import Statement
from recommender.errors import (
    EventConflict,
    EventTooOld,
    InvalidValue,
    RecommenderError,
    UnknownUser,
    UnknownVideo,
)
from recommender.learned import LearningState
from recommender.learning import RULES, Learned, Rules, Subjects
from recommender.models import EventRow, Interaction, PendingEvent, Video
from recommender.values import Counts, Event

EVENTS: Table = EventRow.__table__  # type: ignore[assignment] # SQLAlchemy types it as FromClause
PENDING: Table = PendingEvent.__table__  # type: ignore[assignment]
INTERACTIONS: Table = Interaction.__table__  # type: ignore[assignment]
LEARNING_STATE: Table = LearningState.__table__  # type: ignore[assignment]

MOST_AHEAD = timedelta(minutes=5)
"""How far a client's clock may be ahead: an unlike could not undo a like of next year."""

ENGAGED_MS = 18_000
"""A view this long is engaged however long the video; KuaiRand's `long_view` is the same rule."""

_STATE = tuple(column.name for column in INTERACTIONS.c if not column.primary_key)
_TIMES = tuple(name for name in _STATE if name.endswith("_at"))
_NOTHING = {**dict.fromkeys(_STATE, 0), **dict.fromkeys(_TIMES), "completion": 0.0}
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
POSITIVE = ("like", "share", "save", "comment")
"""The kinds of events that say, as an engaged view does, that the user wanted the video."""

_BODY = ("video_id", "kind", "at", "watch_ms", "completion")

Row = Mapping[str, Any]
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
        EventTooOld: events of that time were pruned, so that it may have been recorded before.
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
        EventTooOld: events of that time were pruned; nothing is written.
    """
    return apply_events(session, [_row_of(event) for event in events], strict=True).counts


def _row_of(event: Event) -> Row:
    """The event as an interchange row."""
    return {
        "id": event.key,
        "user": event.user,
        "video": event.video,
        "kind": event.kind,
        "at": event.at,
        "watch_ms": event.watch_ms,
        "completion": event.completion,
    }


def apply_events(session: Session, events: Sequence[Row], *, strict: bool = False) -> Applied:
    """Record events; those that cannot be are left out and reported by their place.

    Those of a time that was pruned are counted only: they were, or might have been, recorded.

    Args:
        session: the caller's transaction; nothing is committed.
        events: rows as `fields.parse_row` gives them, in any order, with any repeats.
        strict: raise the first that cannot be recorded instead, before anything is written.
    """
    places, rejected = _resolve(session, events)
    if strict:
        _raise_first(rejected)
    too_old = {i for i, error in rejected.items() if isinstance(error, EventTooOld)}
    some = session.begin_nested() if strict and len(places) > 1 else nullcontext()
    with some:
        new, conflicts = _insert(session, {index: each.row for index, each in places.items()})
        rejected |= {index: _conflict(session, events[index], conflicts[index])
                     for index in conflicts}  # fmt: skip
        if strict:
            _raise_first(rejected)
    _fold(session, [places[index] for index in new])
    unchanged = len(places) - len(conflicts) - len(new)
    counts = Counts(inserted=len(new), unchanged=unchanged, too_old=len(too_old))
    return Applied(counts, {i: rejected[i] for i in rejected if i not in too_old})


def _raise_first(rejected: Mapping[int, RecommenderError]) -> None:
    if rejected:
        raise rejected[min(rejected)]


class _Viewer(NamedTuple):
    """The row of a user who did something, locked, and the rules by which it is learned."""

    id: int
    learned_since: datetime | None
    rules: Rules


class _Target(NamedTuple):
    """A video that a user did something with, and the state of the two before.

    `horizon` is until when events are pruned, read after the user's row was locked: whoever prunes
    sets it first, and deletes a user's events only with that lock.
    """

    id: int
    duration_ms: int | None
    subjects: Subjects
    horizon: datetime | None
    before: Mapping[str, Any] | None


class _Place(NamedTuple):
    """An event as a row of the log, with its user and video."""

    row: State
    viewer: _Viewer
    target: _Target


def _resolve(
    session: Session, events: Sequence[Row]
) -> tuple[dict[int, _Place], dict[int, RecommenderError]]:
    viewers = _viewers(session, events)
    targets = _targets(session, viewers, events)
    places: dict[int, _Place] = {}
    rejected: dict[int, RecommenderError] = {}
    latest = fields.now() + MOST_AHEAD
    for index, event in enumerate(events):
        if (viewer := viewers.get(event["user"])) is None:
            rejected[index] = UnknownUser(f"there is no user {fields.shown(event['user'])}")
        elif (target := targets.get((viewer.id, event["video"]))) is None:
            rejected[index] = UnknownVideo(f"there is no video {fields.shown(event['video'])}")
        elif (at := event["at"]) > latest:
            rejected[index] = InvalidValue(f"at: {fields.written_time(at)} is in the future")
        elif target.horizon and at <= target.horizon:
            rejected[index] = EventTooOld(
                f"at: {fields.written_time(at)} is too old: events until"
                f" {fields.written_time(target.horizon)} are pruned"
            )
        else:
            places[index] = _Place(_row(event, viewer.id, target), viewer, target)
    return places, rejected


def _row(event: Row, user_id: int, target: _Target) -> State:
    """The event as a row of the log, and its video's duration, which folding wants to know."""
    kind, duration_ms = event["kind"], target.duration_ms
    watch_ms, completion = event.get("watch_ms"), event.get("completion")
    return {
        "user_id": user_id,
        "key": event["id"],
        "video_id": target.id,
        "kind": kind,
        "at": event["at"],
        "watch_ms": watch_ms,
        "completion": completion,
        "engaged": kind == "watch" and is_engaged(watch_ms, completion, duration_ms),
        "duration_ms": duration_ms,
    }


def _viewers(session: Session, events: Sequence[Row]) -> dict[str, _Viewer]:
    """The users by their keys, locked in the order of these."""
    keys = [(key,) for key in dict.fromkeys(event["user"] for event in events)]
    if not keys:
        return {}
    read = (USERS.c.key, USERS.c.id, USERS.c.learned_since, *(LEARNING_STATE.c[n] for n in RULES))
    found = bulk.find(session, [USERS.c.key], keys, read, lock=True, beside=LEARNING_STATE)
    if not found:
        return {}
    rules = Rules(*found[0][3:])  # the same for all of them
    return {row[0]: _Viewer(row[1], row[2], rules) for row in found}


def _targets(
    session: Session, viewers: Mapping[str, _Viewer], events: Sequence[Row]
) -> dict[tuple[int, str], _Target]:
    """The videos by user's id and video's key."""
    known = [event for event in events if event["user"] in viewers]
    pairs = list(dict.fromkeys((viewers[e["user"]].id, e["video"]) for e in known))
    if not pairs:
        return {}
    statement, values = (
        _find_targets(bulk.is_sqlite(session)),
        bulk.listed_values(session, 2, pairs),
    )
    found, subjects = {}, dict[int, Subjects]()
    for row in session.execute(statement, values, bind_arguments=bulk.OURS).all():
        user_id, key, video_id, duration_ms, creator_id, sound_id, tags, horizon, *state = row
        if video_id not in subjects:
            hashtag_ids = tuple(map(int, tags.split(","))) if tags else ()
            subjects[video_id] = Subjects(creator_id, sound_id, hashtag_ids)
        before = dict(zip(_STATE, state, strict=True)) if state[-1] else None
        found[user_id, key] = _Target(video_id, duration_ms, subjects[video_id], horizon, before)
    return found


@cache
def _find_targets(on_sqlite: bool) -> Statement:  # noqa: FBT001 - what the statement is cached by
    pairs = bulk.listed(on_sqlite, (INTERACTIONS.c.user_id, VIDEOS.c.key))
    tags = (
        sa.select(sa.func.aggregate_strings(sa.cast(VIDEO_HASHTAGS.c.hashtag_id, sa.Text), ","))
        .where(VIDEO_HASHTAGS.c.video_id == VIDEOS.c.id)
        .scalar_subquery()
    )
    is_state = sa.and_(
        INTERACTIONS.c.user_id == pairs.c.user_id, INTERACTIONS.c.video_id == VIDEOS.c.id
    )
    about = [VIDEOS.c[name] for name in ("id", "duration_ms", "creator_id", "sound_id")]
    horizon = sa.select(LEARNING_STATE.c.events_horizon).scalar_subquery()
    state = [INTERACTIONS.c[name] for name in _STATE]
    return sa.select(pairs.c.user_id, pairs.c.key, *about, tags, horizon, *state).select_from(
        sa.join(pairs, VIDEOS, VIDEOS.c.key == pairs.c.key).outerjoin(INTERACTIONS, is_state)
    )


def _identity(row: Mapping[str, Any]) -> bulk.Key:
    return (row["user_id"], row["key"])


def _body(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _BODY)


def _insert(session: Session, rows: Mapping[int, State]) -> tuple[list[int], dict[int, State]]:
    """Insert what is not in the log yet.

    Returns:
        The places of the new events, and of each conflicting one the row that it conflicts with.
    """
    first: dict[bulk.Key, int] = {}
    for index, row in rows.items():
        first.setdefault(_identity(row), index)
    inserted = bulk.insert_new(session, EVENTS, [rows[first[key]] for key in sorted(first)])
    recorded = _recorded(session, first.keys() - inserted)
    recorded |= {key: rows[first[key]] for key in inserted}
    new = {first[key] for key in inserted}
    conflicts = {
        index: recorded[_identity(row)]
        for index, row in rows.items()
        if index not in new and _body(recorded[_identity(row)]) != _body(row)
    }
    return sorted(new), conflicts


def _recorded(session: Session, keys: Iterable[bulk.Key]) -> dict[bulk.Key, State]:
    """The rows of the log that have these keys."""
    wanted = sorted(keys)
    if not wanted:
        return {}
    columns = [EVENTS.c.user_id, EVENTS.c.key]
    read = (*columns, *(EVENTS.c[name] for name in _BODY))
    found = bulk.find(session, columns, wanted, read)
    return {(row.user_id, row.key): dict(row._mapping) for row in found}  # noqa: SLF001 - its API


def _conflict(session: Session, event: Row, before: State) -> EventConflict:
    video = session.scalar(sa.select(Video.key).where(Video.id == before["video_id"]))
    return EventConflict(
        f"event {fields.shown(event['id'])} of user {fields.shown(event['user'])} was recorded"
        f" before as {_described({**before, 'video': video})}, and is now {_described(event)}"
    )


def _described(body: Row) -> str:
    parts = [f"{body['kind']} of {fields.shown(body['video'])}", fields.written_time(body["at"])]
    parts += [
        f"{name} {body[name]}" for name in ("watch_ms", "completion") if body.get(name) is not None
    ]
    return " ".join(parts)


def _fold(session: Session, places: Sequence[_Place]) -> None:
    """Fold new events into their states, and learn from them."""
    if not places:
        return
    learned = Learned(places[0].viewer.rules)
    states: dict[bulk.Key, State] = {}
    pending = []
    for place in places:
        pair = (place.viewer.id, place.target.id)
        state = states.get(pair) or states.setdefault(pair, _state_before(place))
        counted = bool(state["impressions"]), bool(state["engaged_views"])
        completion = _fold_one(state, place.row)
        pending.append(_pending(place.row, state, counted))
        _learn_event(learned, place, completion)
    switched = [each for each in places if each.row["kind"] in _TIMED]
    for place in {(each.viewer.id, each.target.id): each for each in switched}.values():
        _learn_state(learned, place, states[place.viewer.id, place.target.id])
    bulk.insert(session, PENDING, sorted(pending, key=_identity))
    _save(session, [states[pair] for pair in sorted(states)])
    learned.write(session)


def _state_before(place: _Place) -> State:
    at = place.row["at"]
    pair = {"user_id": place.viewer.id, "video_id": place.target.id}
    return {**pair, **(place.target.before or {**_NOTHING, "first_at": at, "last_at": at})}


def _save(session: Session, states: Sequence[State]) -> None:
    used = [name for name in _STATE if any(state[name] for state in states)]
    merge = dict.fromkeys(used, bulk.replace)
    bulk.insert(session, INTERACTIONS, states, columns=("user_id", "video_id", *used), merge=merge)


def _pending(row: State, state: State, counted: tuple[bool, bool]) -> State:
    """What an event adds to the statistics of its video: a pair of user and video counts once."""
    impressions, engaged_views = counted
    return {
        "user_id": row["user_id"],
        "key": row["key"],
        "video_id": row["video_id"],
        "at": row["at"],
        "impressions": int(not impressions and state["impressions"] > 0),
        "engaged_views": int(not engaged_views and state["engaged_views"] > 0),
    }


def _fold_one(state: State, event: State) -> float | None:
    """Fold an event into a state; return the part watched."""
    kind, at = event["kind"], event["at"]
    completion = None
    for column in _COUNTED.get(kind, ()):
        state[column] += 1
    if column := _TIMED.get(kind, ""):
        state[column] = max(state[column] or at, at)
    if kind == "watch":
        watch_ms, completion = watched(event["watch_ms"], event["completion"], event["duration_ms"])
        state["watch_ms"] += watch_ms or 0
        state["completion"] = max(state["completion"], completion or 0.0)
        state["engaged_views"] += event["engaged"]
    if event["engaged"] or kind in POSITIVE:
        state["engaged_at"] = max(state["engaged_at"] or at, at)
    state["first_at"] = min(state["first_at"], at)
    state["last_at"] = max(state["last_at"], at)
    return completion


def _learn_event(learned: Learned, place: _Place, completion: float | None) -> None:
    since, at = place.viewer.learned_since, place.row["at"]
    if since is None or at > since:
        weight = learned.rules.of_event(place.row, completion)
        learned.add(place.viewer.id, place.target.subjects, weight, at)


def _learn_state(learned: Learned, place: _Place, after: State) -> None:
    """Learn what a like, save or lack of interest changed; a hundred likes are one."""
    since = place.viewer.learned_since
    before = learned.rules.of_state(place.target.before or _NOTHING, since)
    now = learned.rules.of_state(after, since)
    for _, weight, at in now - before:
        learned.add(place.viewer.id, place.target.subjects, weight, at)
    for _, weight, at in before - now:
        learned.add(place.viewer.id, place.target.subjects, -weight, at)
