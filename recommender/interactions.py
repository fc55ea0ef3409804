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
from operator import itemgetter
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

_STATE = tuple(INTERACTIONS.c.keys())
_TIMES = tuple(name for name in _STATE if name.endswith("_at"))
_NOTHING = {**dict.fromkeys(_STATE, 0), **dict.fromkeys(_TIMES), "completion": 0.0}
_COUNTED = {
    "impression": "impressions",
    "watch": "impressions",
    "share": "shares",
    "comment": "comments",
    "report": "reports",
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
    known = _read_known(session, events)
    logged, rejected = _resolve(known, events)
    if strict:
        _raise_first(rejected)
    too_old = {i for i, error in rejected.items() if isinstance(error, EventTooOld)}
    some = session.begin_nested() if strict and len(logged) > 1 else nullcontext()
    with some:
        new, conflicts = _insert(session, logged)
        rejected |= {index: _conflict(session, events[index], conflicts[index])
                     for index in conflicts}  # fmt: skip
        if strict:
            _raise_first(rejected)
    if new:
        _fold(session, new, known)
    unchanged = len(logged) - len(conflicts) - len(new)
    counts = Counts(inserted=len(new), unchanged=unchanged, too_old=len(too_old))
    return Applied(counts, {i: rejected[i] for i in rejected if i not in too_old})


def _raise_first(rejected: Mapping[int, RecommenderError]) -> None:
    if rejected:
        raise rejected[min(rejected)]


class _Viewer(NamedTuple):
    """The row of a user who did something, locked."""

    id: int
    learned_since: datetime | None


class _Target(NamedTuple):
    """A video that somebody did something with."""

    id: int
    duration_ms: int | None
    subjects: Subjects


class _Known(NamedTuple):
    """Users and videos by their keys, and by which rules to learn, where there is any video.

    `horizon` is until when events are pruned, read after the users' rows were locked: whoever
    prunes sets it first, and deletes a user's events only with that lock. `states` are those of the
    user with the videos, where there is one user.
    """

    viewers: Mapping[str, _Viewer]
    targets: Mapping[str, _Target]
    horizon: datetime | None = None
    rules: Rules | None = None
    states: Mapping[bulk.Key, State] | None = None


class _Logged(NamedTuple):
    """An event: its row of the log, how much was watched as far as known, its user and video."""

    user_id: int
    key: str
    video_id: int
    kind: str
    at: datetime
    watch_ms: int | None
    completion: float | None
    engaged: bool
    watched_ms: int | None
    part: float | None
    viewer: _Viewer
    target: _Target

    @property
    def body(self) -> tuple[Any, ...]:
        """What an event of the same key has in common with it, or is in conflict."""
        return self[2:7]


def _read_known(session: Session, events: Sequence[Row]) -> _Known:
    """The users and videos of events, the users locked in the order of their keys."""
    user_keys = [(key,) for key in dict.fromkeys(event["user"] for event in events)]
    video_keys = [(key,) for key in dict.fromkeys(event["video"] for event in events)]
    if not events:
        return _Known({}, {})
    read = (USERS.c.key, USERS.c.id, USERS.c.learned_since)
    users = bulk.find(session, [USERS.c.key], user_keys, read, lock=True)
    viewers = {key: _Viewer(*row) for key, *row in users}
    only = next(iter(viewers.values())).id if len(viewers) == 1 else None
    values = {**bulk.listed_values(session, 1, video_keys), "only": only}
    statement = _find_videos(bulk.is_sqlite(session), with_states=only is not None)
    videos = session.execute(statement, values, bind_arguments=bulk.OURS).all()
    targets = {
        key: _Target(row_id, duration_ms, Subjects.of(creator_id, sound_id, _numbers(tags)))
        for key, row_id, duration_ms, creator_id, sound_id, tags, *_ in videos
    }
    if not videos:
        return _Known(viewers, targets)
    horizon, *rules = videos[0][6 : 7 + len(RULES)]  # the same beside all of them
    states = None if only is None else _states_of(row[7 + len(RULES) :] for row in videos)
    return _Known(viewers, targets, horizon, Rules(*rules), states)


@cache
def _find_videos(on_sqlite: bool, *, with_states: bool) -> Statement:  # noqa: FBT001 - cached by it
    """Videos by their keys; and the states of one user with them, which saves a statement."""
    keys = bulk.listed(on_sqlite, (VIDEOS.c.key,))
    source = sa.join(VIDEOS, keys, VIDEOS.c.key == keys.c.key).join(LEARNING_STATE, sa.true())
    if not with_states:
        return sa.select(*_ABOUT).select_from(source)
    of_user = sa.and_(
        INTERACTIONS.c.user_id == sa.bindparam("only"), INTERACTIONS.c.video_id == VIDEOS.c.id
    )
    return sa.select(*_ABOUT, *INTERACTIONS.c).select_from(source.outerjoin(INTERACTIONS, of_user))


_ABOUT = (
    *(VIDEOS.c[name] for name in ("key", "id", "duration_ms", "creator_id", "sound_id")),
    sa.select(sa.func.aggregate_strings(sa.cast(VIDEO_HASHTAGS.c.hashtag_id, sa.Text), ","))
    .where(VIDEO_HASHTAGS.c.video_id == VIDEOS.c.id)
    .scalar_subquery(),
    *(LEARNING_STATE.c[name] for name in ("events_horizon", *RULES)),
)


def _numbers(listed: str | None) -> tuple[int, ...]:
    return tuple(map(int, listed.split(","))) if listed else ()


def _resolve(
    known: _Known, events: Sequence[Row]
) -> tuple[dict[int, _Logged], dict[int, RecommenderError]]:
    logged: dict[int, _Logged] = {}
    rejected: dict[int, RecommenderError] = {}
    viewers, targets, horizon = known.viewers, known.targets, known.horizon
    latest = fields.now() + MOST_AHEAD
    for index, event in enumerate(events):
        if (viewer := viewers.get(event["user"])) is None:
            rejected[index] = UnknownUser(f"there is no user {fields.shown(event['user'])}")
        elif (target := targets.get(event["video"])) is None:
            rejected[index] = UnknownVideo(f"there is no video {fields.shown(event['video'])}")
        elif (at := event["at"]) > latest:
            rejected[index] = InvalidValue(f"at: {fields.written_time(at)} is in the future")
        elif horizon and at <= horizon:
            rejected[index] = EventTooOld(
                f"at: {fields.written_time(at)} is too old: events until"
                f" {fields.written_time(horizon)} are pruned"
            )
        else:
            logged[index] = _logged(event, viewer, target)
    return logged, rejected


def _logged(event: Row, viewer: _Viewer, target: _Target) -> _Logged:
    kind, duration_ms = event["kind"], target.duration_ms
    watch_ms, completion = event.get("watch_ms"), event.get("completion")
    watched_ms, part, engaged = None, None, False
    if kind == "watch":
        watched_ms, part = watched(watch_ms, completion, duration_ms)
        engaged = is_engaged(watched_ms, part, duration_ms)
    return _Logged(
        viewer.id, event["id"], target.id, kind, event["at"], watch_ms, completion, engaged,
        watched_ms, part, viewer, target,
    )  # fmt: skip


def _insert(
    session: Session, logged: Mapping[int, _Logged]
) -> tuple[list[_Logged], dict[int, State]]:
    """Insert what is not in the log yet.

    Returns:
        The new events in the order given, and by the place of each conflicting one the
        body that it conflicts with.
    """
    first: dict[bulk.Key, _Logged] = {}
    for event in logged.values():
        first.setdefault(event[:2], event)
    keys = sorted(first)
    rows = [first[key] for key in keys]
    inserted = bulk.insert_new(session, EVENTS, _columns(_Logged._fields, rows))
    new = [event for key, event in first.items() if key in inserted]
    if len(new) == len(logged):
        return new, {}
    recorded = _recorded(session, [key for key in keys if key not in inserted])
    conflicts = {}
    for index, event in logged.items():
        before = recorded.get(event[:2]) or first[event[:2]].body
        if before != event.body:
            conflicts[index] = dict(zip(_BODY, before, strict=True))
    return new, conflicts


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> bulk.Columns:
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}


def _recorded(session: Session, keys: Sequence[bulk.Key]) -> dict[bulk.Key, tuple[Any, ...]]:
    """The bodies in the log of events that have these keys."""
    if not keys:
        return {}
    columns = [EVENTS.c.user_id, EVENTS.c.key]
    read = (*columns, *(EVENTS.c[name] for name in _BODY))
    return {row[:2]: row[2:] for row in map(tuple, bulk.find(session, columns, keys, read))}


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


def _fold(session: Session, events: Sequence[_Logged], known: _Known) -> None:
    """Fold new events into their states, and learn from them."""
    assert known.rules  # noqa: S101 - they were read with the events' videos
    learned = Learned(known.rules)
    before = _states(session, events) if known.states is None else known.states
    states: dict[bulk.Key, State] = {}
    pending = []
    for event in events:
        pair = event.user_id, event.video_id
        if (state := states.get(pair)) is None:
            state = states[pair] = dict(before.get(pair) or _new_state(event))
        was_seen, was_engaged = state["impressions"] > 0, state["engaged_views"] > 0
        _fold_one(state, event)
        # A pair of user and video counts once in the statistics of its video.
        is_first_view = state["impressions"] > 0 and not was_seen
        is_first_engaged = state["engaged_views"] > 0 and not was_engaged
        counts = int(is_first_view), int(is_first_engaged)
        pending.append((event.user_id, event.key, event.video_id, event.at, *counts))
        _learn_event(learned, event)
    switched = {event[0:3:2]: event for event in events if event.kind in _TIMED}
    for pair, event in switched.items():
        _learn_state(learned, event, before.get(pair, _NOTHING), states[pair])
    bulk.insert_columns(session, PENDING, _columns(_PENDING, sorted(pending)))
    _save(session, [states[pair] for pair in sorted(states)])
    learned.write(session)


_PENDING = ("user_id", "key", "video_id", "at", "impressions", "engaged_views")


def _states(session: Session, events: Sequence[_Logged]) -> dict[bulk.Key, State]:
    """The states before of the users and videos of events, where there are any."""
    pairs = list(dict.fromkeys(event[0:3:2] for event in events))
    columns = [INTERACTIONS.c.user_id, INTERACTIONS.c.video_id]
    return _states_of(bulk.find(session, columns, pairs, tuple(INTERACTIONS.c)))


def _states_of(rows: Iterable[Sequence[Any]]) -> dict[bulk.Key, State]:
    """Rows of the table, or of NULLs for none, by user and video."""
    return {(row[0], row[1]): dict(zip(_STATE, row, strict=True)) for row in rows if row[0]}


def _new_state(event: _Logged) -> State:
    pair = {"user_id": event.user_id, "video_id": event.video_id}
    return {**_NOTHING, **pair, "first_at": event.at, "last_at": event.at}


def _save(session: Session, states: Sequence[State]) -> None:
    used = [name for name in _STATE if any(map(itemgetter(name), states))]
    columns = _columns(used, list(map(itemgetter(*used), states)))
    merge = {name: bulk.replace for name in used if not INTERACTIONS.c[name].primary_key}
    bulk.insert_columns(session, INTERACTIONS, columns, merge=merge)


def _fold_one(state: State, event: _Logged) -> None:
    """Fold an event into a state."""
    kind, at = event.kind, event.at
    if column := _COUNTED.get(kind):
        state[column] += 1
    elif column := _TIMED.get(kind):
        state[column] = max(state[column] or at, at)
    if kind == "watch":
        state["plays"] += 1
        state["watch_ms"] += event.watched_ms or 0
        state["completion"] = max(state["completion"], event.part or 0.0)
        state["engaged_views"] += event.engaged
    if event.engaged or kind in POSITIVE:
        state["engaged_at"] = max(state["engaged_at"] or at, at)
    state["first_at"] = min(state["first_at"], at)
    state["last_at"] = max(state["last_at"], at)


def _learn_event(learned: Learned, event: _Logged) -> None:
    since = event.viewer.learned_since
    if since is None or event.at > since:
        weight = learned.rules.of_event(
            event.kind, event.part, event.watch_ms, event.target.duration_ms, engaged=event.engaged
        )
        learned.add(event.user_id, event.target.subjects, weight, event.at)


def _learn_state(learned: Learned, event: _Logged, before: State, after: State) -> None:
    """Learn what a like, save or lack of interest changed; a hundred likes are one."""
    since = event.viewer.learned_since
    was = learned.rules.of_state(before, since)
    now = learned.rules.of_state(after, since)
    for _, weight, at in now - was:
        learned.add(event.user_id, event.target.subjects, weight, at)
    for _, weight, at in was - now:
        learned.add(event.user_id, event.target.subjects, -weight, at)
