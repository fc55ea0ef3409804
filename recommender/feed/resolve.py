"""From what a caller asks to a request: the viewer, their session and the profile, looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from recommender.database.expressions import LARGEST_EXPONENT, Statement
from recommender.errors import InvalidValue
from recommender.feed.cursors import read_cursor
from recommender.feed.sessions import resumed, with_session
from recommender.formats import scalars
from recommender.formats.scalars import is_key
from recommender.learning.affinities import exponent, half_lives
from recommender.models import LearningState, User
from recommender.ranking.profiles import checked_weight, get_profile
from recommender.ranking.request import DEFAULT_LIMIT, FeedRequest, Learning, Profile
from recommender.ranking.scoring import COLUMNS
from recommender.ranking.signals import SIGNALS, Signal
from recommender.ranking.viewer import CYCLE
from recommender.settings import Settings

MOST_EXCLUDED = 10_000

LONGEST_SIGNAL = 63
"""Bytes of a host's own signal's name: PostgreSQL cuts what is longer, as a column's."""


def resolve(
    session: Session,
    user: str,
    profile: str | Profile | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[str] = (),
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
    cursor: str | None = None,
    rewatch: bool = False,
    lock: bool = False,
) -> FeedRequest:
    """Look up the viewer with their session, and the profile where it is none yet: two statements.

    Args:
        session: the caller's transaction.
        user: the viewer's key; one that is not in the database is a stranger, not an error.
        profile: ``name`` or ``name@version``, or one as `get_profile` gives it; the active one
            where None.
        limit: how many videos at most, 1 to 500.
        as_of: the reading time, with an offset; now where None.
        where: the caller's own predicate over `Video`; a host's tables come in by EXISTS.
        exclude: keys of videos that shall not come, 10,000 at most.
        signals: the host's own signals with their weights, -100 to 100, on top of the profile's.
        settings: the numbers that shape signals and sources; those of the environment where None.
        cursor: of the page before, or None to begin a session.
        rewatch: whether what was seen before the session may come again; a session that goes on
            stays as it began.
        lock: whether whoever else serves this viewer, or records what they do, waits until the
            transaction has ended: what is served must be known to the next page.

    Raises:
        InvalidValue: a value is not of its form.
        InvalidCursor: the cursor is not this user's, or has expired.
        UnknownProfile: there is no such profile or version.
    """
    moment = reading_time(as_of)
    key = scalars.parse_named("user", scalars.key, user)
    begun, position = (uuid4(), 1) if cursor is None else read_cursor(cursor)
    if not isinstance(rewatch, bool):
        raise InvalidValue(f"rewatch: {scalars.shown(rewatch)} is neither true nor false")
    values, goes_on = {"key": key, "session": begun}, cursor is not None
    locked = session.execute(_locked_query(goes_on=goes_on), values).one_or_none() if lock else None
    found = locked or session.execute(_viewer_query(goes_on=goes_on), values).one()
    request = FeedRequest(
        user=user,
        user_id=found.id,
        language=found.language,
        country=found.country,
        device=found.device,
        learned_since=found.learned_since,
        profile=profile if isinstance(profile, Profile) else get_profile(session, profile),
        as_of=moment,
        learning=learning_at(found, moment),
        limit=limit,
        where=_predicate(where),
        exclude=_excluded(exclude),
        signals=_own_signals(signals or {}),
        settings=settings or Settings.from_environment(),
        session=begun,
        rewatch=rewatch,
        seed=seed_of(str(begun) if cursor or lock else f"{user} {moment.date()}"),
    )
    return request if cursor is None else resumed(request, found, position)


def seed_of(text: str) -> int:
    """What chance depends on, from what it shall depend on."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) % CYCLE


@cache
def _viewer_query(*, goes_on: bool) -> Statement:
    """The learning state, and the viewer beside it where there is one, with their session."""
    query = _state_and_viewer().outerjoin(User, User.key == sa.bindparam("key"))
    return with_session(query) if goes_on else query


@cache
def _locked_query(*, goes_on: bool) -> Statement:
    """The same with the viewer's row locked; no row where there is no such viewer."""
    query = _state_and_viewer().join(User, User.key == sa.bindparam("key"))
    return (with_session(query) if goes_on else query).with_for_update(of=User)


def _state_and_viewer() -> Statement:
    state = LearningState
    return (
        sa.select(
            User.id, User.language, User.country, User.device, User.learned_since,
            state.landmark, state.creator_half_life_days, state.hashtag_half_life_days,
            state.sound_half_life_days, state.trend_half_life_days, state.engaged_share,
            state.trend_peak, state.captions,
        )
        .select_from(state)
        .prefix_with("/* recommender.resolve */")
    )  # fmt: skip


def learning_at(state: Any, as_of: datetime) -> Learning:
    """What a row of the learning state says at a reading time."""

    def faded(half_life_days: float) -> float:
        return half_lives(state.landmark, half_life_days, as_of)

    faded_by = exponent(state.landmark, state.trend_half_life_days, as_of)
    return Learning(
        creator=2.0 ** -faded(state.creator_half_life_days),
        hashtag=2.0 ** -faded(state.hashtag_half_life_days),
        sound=2.0 ** -faded(state.sound_half_life_days),
        trend=faded_by,
        peak=0.0 if state.trend_peak is None else _power(state.trend_peak - faded_by),
        engaged_share=state.engaged_share,
        captions=state.captions,
    )


def _power(exponent: float) -> float:
    """2 to the power of a number, taken within what databases take it."""
    return float(2.0 ** max(-LARGEST_EXPONENT, min(LARGEST_EXPONENT, exponent)))


def _predicate(where: ColumnElement[bool] | None) -> ColumnElement[bool] | None:
    if where is None or isinstance(where, ColumnElement):
        return where
    raise InvalidValue(f"where: {scalars.shown(where)} is no SQL expression")


def _excluded(keys: Iterable[str]) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise InvalidValue(f"exclude: {scalars.shown(keys)} is one key, not several")
    if not isinstance(keys, Iterable):
        raise InvalidValue(f"exclude: {scalars.shown(keys)} is no list of keys")
    excluded = tuple(key for key in dict.fromkeys(keys) if is_key(key))
    if len(excluded) > MOST_EXCLUDED:
        raise InvalidValue(f"exclude: {len(excluded):,} keys are more than {MOST_EXCLUDED:,}")
    return excluded


def _own_signals(signals: Mapping[Signal, float]) -> dict[Signal, float]:
    """The host's signals, checked; SQLite takes names for one that differ only in case."""
    if not isinstance(signals, Mapping):
        raise InvalidValue(f"signals: {scalars.shown(signals)} gives no weight to each signal")
    taken = {*COLUMNS, *(signal.name for signal in SIGNALS)}
    for signal in signals:
        name = signal.name.lower()
        is_ours = name in taken or name.startswith(("page_", "filter_"))
        if is_ours or not signal.name.isidentifier() or len(signal.name.encode()) > LONGEST_SIGNAL:
            raise InvalidValue(
                f"signals: {scalars.shown(signal.name)} is taken, or not one word of letters,"
                f" digits and _, of {LONGEST_SIGNAL} bytes at most"
            )
        taken.add(name)
    return {signal: checked_weight(signal.name, weight) for signal, weight in signals.items()}


def reading_time(as_of: datetime | None) -> datetime:
    """The reading time in UTC, now where None."""
    moment = scalars.now() if as_of is None else as_of
    return scalars.parse_named("as_of", scalars.time, moment)
