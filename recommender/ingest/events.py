"""Events: each is recorded exactly once, and folded into the state of its user and video.

A state does not depend on the order of events: counts and sums add up, the part watched and all
times are maxima or minima. Recording locks the users' rows first, so that writers of one user take
turns. It writes no row that recording for another user writes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from recommender.database import aliases, lookup
from recommender.database.session import Session
from recommender.database.transactions import uncollected
from recommender.errors import (
    EventConflict,
    EventTooOld,
    InvalidValue,
    RecommenderError,
    UnknownUser,
    UnknownVideo,
)
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey, EventKind, OnError
from recommender.ingest.event_context import (
    EventContext,
    EventUser,
    EventVideo,
    Row,
    read_bodies,
    read_context,
)
from recommender.ingest.merged_events import BODY_COLUMNS, Body, derived_bodies, derived_key
from recommender.ingest.states import ResolvedEvent, write_events
from recommender.ingest.values import Counts, Event, raise_first
from recommender.learning.engagement import MAX_CLOCK_SKEW, Thresholds, is_engaging, watched
from recommender.learning.states import State
from recommender.models import Video
from recommender.telemetry import traced


@traced
def record(
    session: Session,
    user: AnyKey,
    video: AnyKey,
    kind: EventKind,
    *,
    at: datetime | None = None,
    key: AnyKey | None = None,
    watch_ms: int | None = None,
    completion: float | None = None,
) -> bool:
    """Record one event, in the caller's transaction.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key.
        video: the video's key.
        kind: one of `scalars.EVENT_KINDS`.
        at: the time of the event, with an offset; now if None.
        key: the event's id, unique per user; a random one if None. A repeated event is ignored.
            Without `at`, an event with the key and other values equal is the same at any time.
        watch_ms: milliseconds watched, 0 to 2,147,483,647; None if unknown.
        completion: part of the video watched, 0 to 1; None if unknown.

    Returns:
        True if the event is new.

    Raises:
        InvalidValue: a value is not valid, or the time is more than five minutes ahead.
        UnknownUser: there is no such user.
        UnknownVideo: there is no such video.
        EventConflict: the user has another event with this key.
        EventTooOld: events of that time were pruned, so it may have been recorded before.
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
    rows = [_interchange_row(event)]
    return apply_events(session, rows, strict=True, any_time=at is None).inserted == 1


@traced
def record_many(session: Session, events: Iterable[Event], *, on_error: OnError = "stop") -> Counts:
    """Record events, in the caller's transaction.

    Args:
        session: the caller's transaction; nothing is committed.
        events: events in any order; repeated events are ignored.
        on_error: ``stop`` raises the error of the first event that cannot be recorded, and writes
            nothing. ``skip`` records all other events, and returns the errors.

    Returns:
        The numbers of new events (`inserted`) and repeated ones (`unchanged`). With ``skip``, the
        errors of the events that were left out, by their index in `events` (`rejected`). Events of
        a pruned time are among them, and `too_old` is their number.

    Raises:
        InvalidValue: a time is more than five minutes ahead, or `on_error` is not valid.
        UnknownUser: there is no such user.
        UnknownVideo: there is no such video.
        EventConflict: a user has another event with a key.
        EventTooOld: events of that time were pruned.
    """
    scalars.parse_named("on_error", scalars.one_of(scalars.ON_ERROR), on_error)
    with uncollected():
        rows = [_interchange_row(event) for event in events]
        return apply_events(session, rows, strict=on_error == "stop")


def _interchange_row(event: Event) -> Row:
    """Return the event as an interchange row."""
    return {
        "id": event.key,
        "user": event.user,
        "video": event.video,
        "kind": event.kind,
        "at": event.at,
        "watch_ms": event.watch_ms,
        "completion": event.completion,
    }


def apply_events(
    session: Session, events: Sequence[Row], *, strict: bool = False, any_time: bool = False
) -> Counts:
    """Record events; leave out and report the events that cannot be recorded.

    Args:
        session: the caller's transaction; nothing is committed.
        events: rows that `rows.parse_row` returned, in any order; repeated events are ignored.
        strict: raise the error of the first such event instead, and write nothing.
        any_time: ignore a repeated event even if its time differs.
    """
    if not events:
        return Counts()
    context = read_context(session, events)
    resolved, rejected = _resolve(context, events)
    if strict:
        raise_first("events", rejected, len(events))
    too_old = sum(isinstance(error, EventTooOld) for error in rejected.values())
    bodies = _recorded_bodies(session, context, resolved.values())
    new, conflicts = _split_new(session, bodies, resolved, any_time=any_time)
    new += _split_late(session, bodies, events, resolved, conflicts, any_time=any_time)
    rejected |= {index: _conflict(session, events[index], conflicts[index])
                 for index in conflicts}  # fmt: skip
    if strict:
        raise_first("events", rejected, len(events))
    if new:
        write_events(session, new, context)
    unchanged = len(resolved) - len(conflicts) - len(new)
    return Counts(len(new), unchanged=unchanged, too_old=too_old, rejected=rejected)


def _resolve(
    context: EventContext, events: Sequence[Row]
) -> tuple[dict[int, ResolvedEvent], dict[int, RecommenderError]]:
    """Return the events with their users and videos, and the errors of the others, by index."""
    resolved: dict[int, ResolvedEvent] = {}
    rejected: dict[int, RecommenderError] = {}
    users, videos, horizon = context.users, context.videos, context.horizon
    latest = scalars.now() + MAX_CLOCK_SKEW
    thresholds = context.rules.thresholds
    for index, event in enumerate(events):
        if (user := users.get(event["user"])) is None:
            rejected[index] = UnknownUser(f"there is no user {scalars.shown(event['user'])}")
        elif (video := videos.get(event["video"])) is None:
            rejected[index] = UnknownVideo(f"there is no video {scalars.shown(event['video'])}")
        elif (at := event["at"]) > latest:
            rejected[index] = InvalidValue(f"at: {scalars.written_time(at)} is in the future")
        elif horizon and at <= horizon:
            rejected[index] = EventTooOld(
                f"at: {scalars.written_time(at)} is too old: events until"
                f" {scalars.written_time(horizon)} are pruned"
            )
        else:
            resolved[index] = _resolved(event, user, video, thresholds)
    return resolved, rejected


def _resolved(
    event: Row, user: EventUser, video: EventVideo, thresholds: Thresholds
) -> ResolvedEvent:
    """Return an event with its user and video, judged by the thresholds."""
    kind, duration_ms = event["kind"], video.duration_ms
    watch_ms, completion = event.get("watch_ms"), event.get("completion")
    watched_ms, part, engaged = None, None, False
    if kind == "watch":
        watched_ms, part = watched(watch_ms, completion, duration_ms)
        engaged = is_engaging(watched_ms, part, thresholds)
    return ResolvedEvent(
        user.id, event["id"], video.id, kind, event["at"], watch_ms, completion, engaged,
        watched_ms, part, user, video,
    )  # fmt: skip


def _recorded_bodies(
    session: Session, context: EventContext, events: Iterable[ResolvedEvent]
) -> dict[lookup.Key, Body]:
    """Return the bodies of the events that are in the log already, by user id and key."""
    if context.alone:
        return context.alone.bodies
    keys = sorted({event[:2] for event in events})
    return read_bodies(session, keys) if keys else {}


def _split_new(
    session: Session,
    bodies: dict[lookup.Key, Body],
    resolved: Mapping[int, ResolvedEvent],
    *,
    any_time: bool,
) -> tuple[list[ResolvedEvent], dict[int, State]]:
    """Return the new events in the order given, and the conflicts.

    Args:
        session: the transaction, which has locked the users. So no one else records their events.
        bodies: the recorded bodies by user id and key; the new ones are added.
        resolved: the events by index.
        any_time: whether a repeated event may have another time.

    Returns:
        The new events. Then the recorded bodies, by the index of the event with the same key and
        another body.
    """
    new, conflicts = [], {}
    for index, event in resolved.items():
        before = bodies.setdefault(event[:2], body := event.body)
        if before is body:
            new.append(event)
        elif before != body and not (any_time and _differ_in_time(before, body)):
            conflicts[index] = dict(zip(BODY_COLUMNS, before, strict=True))
    for index in _kept_by_merges(session, resolved, conflicts, any_time=any_time):
        del conflicts[index]
    return new, conflicts


def _split_late(
    session: Session,
    bodies: dict[lookup.Key, Body],
    events: Sequence[Row],
    resolved: Mapping[int, ResolvedEvent],
    conflicts: dict[int, State],
    *,
    any_time: bool,
) -> list[ResolvedEvent]:
    """Return late events of merged users under derived keys, as their merge would have made them.

    Returns:
        The new events. They and the repeated ones are taken out of the conflicts.
    """
    keys = {events[index]["user"] for index in conflicts}
    merged = aliases.locked_targets(session, keys) if keys else {}
    late = {
        index: resolved[index]._replace(key=derived_key(events[index]["id"], events[index]["user"]))
        for index in conflicts
        if events[index]["user"] in merged
    }
    if not late:
        return []
    bodies |= read_bodies(session, sorted({event[:2] for event in late.values()}))
    new, left = _split_new(session, bodies, late, any_time=any_time)
    for index in late:
        del conflicts[index]
    conflicts |= left
    return new


def _kept_by_merges(
    session: Session,
    resolved: Mapping[int, ResolvedEvent],
    conflicts: Iterable[int],
    *,
    any_time: bool,
) -> list[int]:
    """Return the conflicts that are none: the event of a merged user, under a derived key."""
    events = {index: resolved[index] for index in conflicts}
    if not events:
        return []
    kept = derived_bodies(session, {event[:2] for event in events.values()})

    def is_kept(event: ResolvedEvent) -> bool:
        bodies = kept.get(event[:2], ())
        return any(
            body == event.body or (any_time and _differ_in_time(body, event.body))
            for body in bodies
        )

    return [index for index, event in events.items() if is_kept(event)]


def _differ_in_time(before: Body, body: Body) -> bool:
    """Return whether two bodies have nothing but different times."""
    at = BODY_COLUMNS.index("at")
    return [*before[:at], *before[at + 1 :]] == [*body[:at], *body[at + 1 :]]


def _conflict(session: Session, event: Row, before: State) -> EventConflict:
    """Return the error of an event whose key was recorded with another body."""
    video = session.scalar(sa.select(Video.key).where(Video.id == before["video_id"]))
    return EventConflict(
        f"event {scalars.shown(event['id'])} of user {scalars.shown(event['user'])} was recorded"
        f" before as {_described({**before, 'video': video})}, and is now {_described(event)}"
    )


def _described(body: Row) -> str:
    """Return an event's body as text for a message."""
    parts = [f"{body['kind']} of {scalars.shown(body['video'])}", scalars.written_time(body["at"])]
    parts += [
        f"{name} {body[name]}" for name in ("watch_ms", "completion") if body.get(name) is not None
    ]
    return " ".join(parts)
