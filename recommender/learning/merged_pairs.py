"""The one person of two users who were merged: what both taught, but counts once.

Statistics of a video count a viewer once, and affinities count a like once. After a merge, two
states of the two users with one video become one state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from recommender.database import bulk, lookup
from recommender.database.session import Session
from recommender.learning.affinities import (
    AffinityChanges,
    Rules,
    Subjects,
    decay_exponent,
    read_rules,
)
from recommender.learning.engagement import (
    POSITIVE_KINDS,
    fold_signs,
    no_signs,
    positive_since,
    viewed_and_positive,
    watched,
)
from recommender.learning.states import (
    EMPTY_STATE,
    SHOWN_ONLY,
    FoldedEvent,
    State,
    fold_event,
    merge_states,
)
from recommender.learning.statistics import trend_of
from recommender.learning.viewer_subtraction import (
    VIDEO_STATISTICS,
    counted_viewer,
    trend_without,
)
from recommender.models.tables import NEIGHBOURS, VIDEO_HASHTAGS, VIDEOS


class MergedPair(NamedTuple):
    """The states of a guest and a user with one video, the state of both, and rows of the log.

    `twice` are the guest's rows of events that both had, and `events` the rows of both, each once.
    """

    guests: State
    own: State
    merged: State
    guests_events: Sequence[Any]
    own_events: Sequence[Any]
    twice: Sequence[Any]
    events: Sequence[Any]

    @property
    def video_id(self) -> int:
        """The id of the video."""
        video_id: int = self.merged["video_id"]
        return video_id


def merged_pair(
    guests: State,
    own: State,
    guests_events: Sequence[Any],
    own_events: Sequence[Any],
    twice: Sequence[Any],
    duration_ms: int | None,
    learning: Any,
) -> MergedPair:
    """Return a pair with the state of both.

    Args:
        guests: the guest's state.
        own: the user's state with the same video.
        guests_events: the guest's rows of the log.
        own_events: the user's rows of the log.
        twice: the guest's rows of events that both had.
        duration_ms: the video's duration; read only if both had events.
        learning: the row of the learning state.
    """
    merged = merge_states(own, guests, _folded(EMPTY_STATE, twice, duration_ms))
    known = {event.key for event in twice}
    events = [*own_events, *(event for event in guests_events if event.key not in known)]
    pair = MergedPair(guests, own, merged, guests_events, own_events, twice, events)
    if not twice or is_pruned(pair, learning):
        return pair
    # What the events counted depends on the duration when they were recorded, so none is taken out.
    kept = {name: merged[name] for name in ("user_id", "video_id", "first_at", "last_at")}
    return pair._replace(merged=_folded({**EMPTY_STATE, **kept}, events, duration_ms))


def _folded(state: State, events: Sequence[Any], duration_ms: int | None) -> State:
    """Return a state with rows of the log folded in."""
    times = {"first_at": state["first_at"], "last_at": state["last_at"]}
    if events and state["first_at"] is None:
        times = dict.fromkeys(times, events[0].at)
    folded = {**state, **times}
    for row in events:
        seen = watched(row.watch_ms, row.completion, duration_ms)
        fold_event(folded, FoldedEvent(row.kind, row.at, row.engaged, *seen))
    return folded


def is_pruned(pair: MergedPair, learning: Any) -> bool:
    """Return whether events of a pair may be missing in the log."""
    horizon = learning.events_horizon
    return horizon is not None and bool(pair.merged["first_at"] <= horizon)


def correct_statistics(session: Session, pairs: Sequence[MergedPair], learning: Any) -> None:
    """Take out of the statistics of videos what two viewers counted for more than one.

    Args:
        session: the transaction, which has locked the videos and counted the pending events.
        pairs: the pairs of which both users had a state.
        learning: the row of the learning state.
    """
    pair_of = {pair.video_id: pair for pair in pairs}
    if not pair_of:
        return
    keys = [(video_id,) for video_id in sorted(pair_of)]
    rows = lookup.find(session, [VIDEOS.c.id], keys, VIDEO_STATISTICS)
    changed = []
    for video_id, *before in rows:
        after = _statistics(pair_of[video_id], before, learning)
        if after != before:
            changed.append((video_id, *after))
    changes = {column.name: bulk.replace for column in VIDEO_STATISTICS[1:]}
    if changed:
        bulk.update_listed(session, VIDEO_STATISTICS, sorted(changed), changes)
    without = sorted(video_id for video_id, _, engaged, *_ in changed if not engaged)
    if without:
        lookup.run(session, sa.delete(NEIGHBOURS).where(NEIGHBOURS.c.video_id.in_(without)))


def _statistics(pair: MergedPair, before: Sequence[Any], learning: Any) -> list[Any]:
    """Return the statistics of a pair's video, in which both states were counted."""
    impressions, engaged, trend, neighbours_views = before
    counted = zip(viewed_and_positive(pair.own), viewed_and_positive(pair.guests), strict=True)
    viewed, positive = (
        now - sum(parts)
        for now, parts in zip(viewed_and_positive(pair.merged), counted, strict=True)
    )
    trend = _trend_with(trend, pair, learning)
    if positive:
        neighbours_views = 0
    return [max(0, impressions + viewed), max(0, engaged + positive), trend, neighbours_views]


def _trend_with(trend: float | None, pair: MergedPair, learning: Any) -> float | None:
    """Return the trend of a pair's video with the first positive event of both in it, once."""
    sides = ((pair.own, pair.own_events), (pair.guests, pair.guests_events))
    counted = [_counted_at(state, events, pair, learning) for state, events in sides]
    removed = [at for at in counted if at is not None]
    kept = _merged_at(pair, removed, learning) if removed else None
    if kept in removed:
        removed.remove(kept)
        least = _exponent(learning, kept)
    elif kept is not None:
        least = _exponent(learning, kept)
        trend = trend_of([least] if trend is None else [trend, least])
    else:
        least = None
    for at in removed:
        trend = trend_without(trend, at, learning)
    # What one pair gives is left at least, however much was subtracted.
    return max((value for value in (trend, least) if value is not None), default=None)


def _exponent(learning: Any, at: datetime | None) -> float:
    assert at is not None  # noqa: S101 - the caller has checked
    return decay_exponent(learning.landmark, learning.trend_half_life_days, at)


def _counted_at(
    state: State, events: Sequence[Any], pair: MergedPair, learning: Any
) -> datetime | None:
    """Return the time by which a refresh counted a state in the trend, or None."""
    at = counted_viewer(state, (), None, learning).trend_at
    return at if at is None or is_pruned(pair, learning) else _first_positive(events)


def _merged_at(pair: MergedPair, counted: Sequence[datetime], learning: Any) -> datetime | None:
    """Return the time by which the trend would have counted the events of both."""
    if is_pruned(pair, learning):
        return min(counted)
    return _first_positive(pair.events)


def _first_positive(events: Iterable[Any]) -> datetime | None:
    """Return the time of the first positive event, in the order of times, if a trend counts it.

    A refresh counts the event that makes a state positive, unless it had a positive event before.
    """
    signs = no_signs()
    for event in sorted(events, key=lambda event: (event.at, event.key)):
        if event.engaged or event.kind not in SHOWN_ONLY:
            fold_signs(signs, event.kind, event.at, engaged=event.engaged)
        if event.engaged or event.kind in POSITIVE_KINDS:
            at: datetime = event.at
            return at if positive_since(signs) else None
    return None


def correct_affinities(session: Session, user: Any, pairs: Sequence[MergedPair]) -> bool:
    """Take out of a user's affinities what both users taught, but counts once.

    Args:
        session: the transaction, which has locked the user.
        user: the row of the user, to whom the guest's affinities are added.
        pairs: the pairs of which both users had a state.

    Returns:
        Whether the result is exact. It is not if engaged views were taken out: what they taught
        depends on the video's duration when they were recorded.
    """
    changes = AffinityChanges(read_rules(session))
    switched = {pair.video_id: _switched(changes.rules, pair, user) for pair in pairs}
    twice = {pair.video_id: pair.twice for pair in pairs}
    ids = [(video_id,) for video_id in twice if switched[video_id] or twice[video_id]]
    tags: dict[int, tuple[int, ...]] = {}
    columns = list(VIDEO_HASHTAGS.c)[:2]
    for video_id, hashtag_id in lookup.find(session, columns[:1], ids, columns) if ids else ():
        tags[video_id] = (*tags.get(video_id, ()), hashtag_id)
    read = [VIDEOS.c[name] for name in ("id", "duration_ms", "creator_id", "sound_id")]
    for row in lookup.find(session, [VIDEOS.c.id], ids, read) if ids else ():
        subjects = Subjects.of(row.creator_id, row.sound_id, tags.get(row.id, ()))
        for weight, at in switched[row.id]:
            changes.add(user.id, subjects, weight, at)
        for event in twice[row.id]:
            weight = _weight(changes.rules, event, row.duration_ms, user.learned_since)
            changes.add(user.id, subjects, -weight, event.at)
    changes.write(session)
    return not any(event.engaged for pair in pairs for event in pair.twice)


def _switched(rules: Rules, pair: MergedPair, user: Any) -> list[tuple[float, datetime]]:
    """Return weights and times to add, so that a like, save or interest counts once for both."""
    now = Counter(rules.state_weights(pair.merged, user.learned_since))
    for state in (pair.own, pair.guests):
        now.subtract(Counter(rules.state_weights(state, user.learned_since)))
    return [(weight * count, at) for (_, weight, at), count in now.items() if count]


def _weight(rules: Rules, event: Any, duration_ms: int | None, since: datetime | None) -> float:
    """Return the weight with which an event was learned."""
    if since is not None and event.at <= since:
        return 0.0
    part = watched(event.watch_ms, event.completion, duration_ms)[1]
    return rules.event_weight(event.kind, part, event.watch_ms, duration_ms, engaged=event.engaged)
