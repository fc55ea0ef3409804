"""Events, recorded exactly once and folded into each user's state of each video.

The state does not depend on the order of the events: counts and sums add, the best part watched and
all times are maxima or minima. Whoever records locks the rows of the users first, so that two
writers of one user take turns, and touches no row that another user's write touches.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.database.bulk import columns_of
from recommender.database.expressions import Statement
from recommender.errors import (
    EventConflict,
    EventTooOld,
    InvalidValue,
    RecommenderError,
    UnknownUser,
    UnknownVideo,
)
from recommender.formats import scalars
from recommender.ingest.states import Known, Logged, State, Target, Viewer, fold, states_of
from recommender.ingest.values import Applied, Counts, Event
from recommender.learning.affinities import RULE_COLUMNS, Rules, Subjects
from recommender.learning.engagement import MAX_CLOCK_SKEW, is_engaged, watched
from recommender.models import Video
from recommender.models.tables import (
    EVENTS,
    INTERACTIONS,
    LEARNING_STATE,
    USERS,
    VIDEO_HASHTAGS,
    VIDEOS,
)

_BODY = ("video_id", "kind", "at", "watch_ms", "completion")

Row = Mapping[str, Any]


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
        kind: one of `scalars.EVENT_KINDS`.
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
        at=scalars.now() if at is None else at,
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

    Those of a time that was pruned are counted select_columns: they were, or might have been, recorded.

    Args:
        session: the caller's transaction; nothing is committed.
        events: rows as `rows.parse_row` gives them, in any order, with any repeats.
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
        fold(session, new, known)
    unchanged = len(logged) - len(conflicts) - len(new)
    counts = Counts(inserted=len(new), unchanged=unchanged, too_old=len(too_old))
    return Applied(counts, {i: rejected[i] for i in rejected if i not in too_old})


def _raise_first(rejected: Mapping[int, RecommenderError]) -> None:
    if rejected:
        raise rejected[min(rejected)]


def _read_known(session: Session, events: Sequence[Row]) -> Known:
    """The users and videos of events, the users locked in the order of their keys."""
    user_keys = [(key,) for key in dict.fromkeys(event["user"] for event in events)]
    video_keys = [(key,) for key in dict.fromkeys(event["video"] for event in events)]
    if not events:
        return Known({}, {})
    read = (USERS.c.key, USERS.c.id, USERS.c.learned_since)
    users = lookup.find(session, [USERS.c.key], user_keys, read, lock=True)
    viewers = {key: Viewer(*row) for key, *row in users}
    select_columns = next(iter(viewers.values())).id if len(viewers) == 1 else None
    values = {**lookup.listed_values(session, 1, video_keys), "only": select_columns}
    statement = _find_videos(lookup.is_sqlite(session), with_states=select_columns is not None)
    videos = lookup.run(session, statement, values).all()
    targets = {
        key: Target(row_id, duration_ms, Subjects.of(creator_id, sound_id, _numbers(tags)))
        for key, row_id, duration_ms, creator_id, sound_id, tags, *_ in videos
    }
    if not videos:
        return Known(viewers, targets)
    horizon, *rules = videos[0][6 : 7 + len(RULE_COLUMNS)]  # the same beside all of them
    states = (
        None
        if select_columns is None
        else states_of(row[7 + len(RULE_COLUMNS) :] for row in videos)
    )
    return Known(viewers, targets, horizon, Rules(*rules), states)


@cache
def _find_videos(on_sqlite: bool, *, with_states: bool) -> Statement:  # noqa: FBT001 - cached by it
    """Videos by their keys; and the states of one user with them, which saves a statement."""
    keys = lookup.listed(on_sqlite, (VIDEOS.c.key,))
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
    *(LEARNING_STATE.c[name] for name in ("events_horizon", *RULE_COLUMNS)),
)


def _numbers(listed: str | None) -> tuple[int, ...]:
    return tuple(map(int, listed.split(","))) if listed else ()


def _resolve(
    known: Known, events: Sequence[Row]
) -> tuple[dict[int, Logged], dict[int, RecommenderError]]:
    logged: dict[int, Logged] = {}
    rejected: dict[int, RecommenderError] = {}
    viewers, targets, horizon = known.viewers, known.targets, known.horizon
    latest = scalars.now() + MAX_CLOCK_SKEW
    for index, event in enumerate(events):
        if (viewer := viewers.get(event["user"])) is None:
            rejected[index] = UnknownUser(f"there is no user {scalars.shown(event['user'])}")
        elif (target := targets.get(event["video"])) is None:
            rejected[index] = UnknownVideo(f"there is no video {scalars.shown(event['video'])}")
        elif (at := event["at"]) > latest:
            rejected[index] = InvalidValue(f"at: {scalars.written_time(at)} is in the future")
        elif horizon and at <= horizon:
            rejected[index] = EventTooOld(
                f"at: {scalars.written_time(at)} is too old: events until"
                f" {scalars.written_time(horizon)} are pruned"
            )
        else:
            logged[index] = _logged(event, viewer, target)
    return logged, rejected


def _logged(event: Row, viewer: Viewer, target: Target) -> Logged:
    kind, duration_ms = event["kind"], target.duration_ms
    watch_ms, completion = event.get("watch_ms"), event.get("completion")
    watched_ms, part, engaged = None, None, False
    if kind == "watch":
        watched_ms, part = watched(watch_ms, completion, duration_ms)
        engaged = is_engaged(watched_ms, part, duration_ms)
    return Logged(
        viewer.id, event["id"], target.id, kind, event["at"], watch_ms, completion, engaged,
        watched_ms, part, viewer, target,
    )  # fmt: skip


def _insert(
    session: Session, logged: Mapping[int, Logged]
) -> tuple[list[Logged], dict[int, State]]:
    """Insert what is not in the log yet.

    Returns:
        The new events in the order given, and by the place of each conflicting one the
        body that it conflicts with.
    """
    first: dict[lookup.Key, Logged] = {}
    for event in logged.values():
        first.setdefault(event[:2], event)
    keys = sorted(first)
    rows = [first[key] for key in keys]
    inserted = bulk.insert_new(session, EVENTS, columns_of(Logged._fields, rows))
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


def _recorded(session: Session, keys: Sequence[lookup.Key]) -> dict[lookup.Key, tuple[Any, ...]]:
    """The bodies in the log of events that have these keys."""
    if not keys:
        return {}
    columns = [EVENTS.c.user_id, EVENTS.c.key]
    read = (*columns, *(EVENTS.c[name] for name in _BODY))
    return {row[:2]: row[2:] for row in map(tuple, lookup.find(session, columns, keys, read))}


def _conflict(session: Session, event: Row, before: State) -> EventConflict:
    video = session.scalar(sa.select(Video.key).where(Video.id == before["video_id"]))
    return EventConflict(
        f"event {scalars.shown(event['id'])} of user {scalars.shown(event['user'])} was recorded"
        f" before as {_described({**before, 'video': video})}, and is now {_described(event)}"
    )


def _described(body: Row) -> str:
    parts = [f"{body['kind']} of {scalars.shown(body['video'])}", scalars.written_time(body["at"])]
    parts += [
        f"{name} {body[name]}" for name in ("watch_ms", "completion") if body.get(name) is not None
    ]
    return " ".join(parts)
