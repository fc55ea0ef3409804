"""From a caller's arguments to a request: check them, and look up viewer, session and profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import cache
from hashlib import blake2b
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement, FromClause
from sqlalchemy.orm import aliased

from recommender.database import lookup
from recommender.database.aliases import is_meant, lock_users, user_ids
from recommender.database.expressions import (
    LARGEST_EXPONENT,
    Statement,
    materialized,
)
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.database.written_out import AS_POSITIONAL, identified
from recommender.errors import InvalidValue
from recommender.feed.assignment import assigned, with_experiment
from recommender.feed.feeds import (
    check_sources,
    checked_feed_name,
    checked_formats,
    feed_in,
    formats_of,
    newest_feed_id,
    profile_id_of,
    with_feed,
)
from recommender.feed.resumed import place_of, resumed, with_session
from recommender.feed.statements import read_friends
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey, key_or_none
from recommender.learning.affinities import bounded_decay_exponent, decay_exponent
from recommender.models import (
    FeedSession,
    LearningState,
    ProfileWeight,
    ServedVideo,
    User,
)
from recommender.models.tables import VIDEOS
from recommender.ranking.additions import check_froms
from recommender.ranking.audience import any_with_status
from recommender.ranking.profiles import (
    WantedProfile,
    checked_weight,
    version_id,
    with_profile,
)
from recommender.ranking.registration import check_signal_names
from recommender.ranking.registry import Registry, known_registry
from recommender.ranking.request import (
    DEFAULT_LIMIT,
    NOTHING_LEARNED,
    FeedRequest,
    Learning,
    Profile,
    RequestSummary,
    shared_fields,
)
from recommender.ranking.signals import Signal
from recommender.settings import Settings

MAX_EXCLUDED = 10_000

SEEDS = 2**16
"""The number of random seeds.

They are many more than the places where a page can begin in the shuffled new videos, at most 1,000.
They are so few that a slice finds a key with the same seed as another key.
"""


def resolve(
    session: Session,
    user: AnyKey | None,
    profile: str | Profile | None = None,
    *,
    feed: str | None = None,
    limit: int = DEFAULT_LIMIT,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    formats: Iterable[str] = (),
    exclude: Iterable[AnyKey] = (),
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
    cursor: str | None = None,
    session_id: UUID | str | None = None,
    rewatch: bool = False,
    assign: str | None = None,
    lock: bool = False,
) -> FeedRequest:
    """Check the arguments of a request, and look up viewer, session and profile: one statement.

    Args:
        session: the caller's transaction.
        user: the viewer's key; an unknown user is no error. None for a list without a viewer.
        profile: ``name`` or ``name@version``, or a `Profile`; None for the profile of the session
            that is continued, of the viewer's arm in an experiment, of the feed, or the active
            one.
        feed: the name of a feed of `create_feed`; None for For You, or for the feed of the session
            that is continued, which keeps its version of it.
        limit: the maximum number of videos, 1 to 500.
        as_of: the reading time, with an offset; None for now.
        where: a condition of the host over `Video`; use EXISTS for the host's tables.
        formats: the formats of the videos, 10 at most; empty for all videos, or those of the feed.
        exclude: the keys of videos to leave out, 10,000 at most.
        signals: the host's own signals with their weights, -100 to 100, added to the profile's.
        settings: the numbers that shape signals and sources; None for the environment's.
        cursor: the cursor of the page before; None or empty to begin a session.
        session_id: the client's own id for the session that begins; None for a new id.
        rewatch: whether videos that were seen before the session may come again; a session that
            is continued keeps its first value.
        assign: what decides the arm of an experiment for an unknown user, such as a device's id;
            None if they are in no experiment.
        lock: whether to lock the viewer's row, so that the next page knows what this one serves.

    Raises:
        InvalidValue: a value has the wrong form, or a source of the feed is not registered.
        InvalidCursor: the cursor is not this user's, or its session or `session_id` has expired.
        CursorAhead: the same without `lock`, if a replica that lags could be the reason.
        UnknownFeed: there is no such feed, or it was deleted.
        UnknownProfile: the profile or version does not exist.
    """
    moment = reading_time(as_of)
    key = "" if user is None else scalars.parse_named("user", scalars.key, user)
    own, position, scan_after = place_of(cursor, session_id)
    if not isinstance(rewatch, bool):
        raise InvalidValue(f"rewatch: {scalars.shown(rewatch)} is neither true nor false")
    values = {"key": key, "session": own, "feed": checked_feed_name(feed)}
    resumes = bool(cursor) or session_id is not None
    rows = _viewer_rows(session, values, profile, resumes=resumes, lock=lock)
    row, registry = rows[0], known_registry(lookup.registry(session))
    assignment = assigned(rows, profile, assign)
    named = feed_in(row, feed) if resumes or feed is not None else None
    request = FeedRequest(
        user=key if row.id is None else row.key,
        user_id=row.id,
        language=row.language,
        country=row.country,
        device=row.device,
        learned_since=row.learned_since,
        has_for_followers=bool(row.has_for_followers),
        **assignment._asdict(),
        as_of=moment,
        learning=learning_at(row, moment),
        registry=registry,
        limit=limit,
        where=checked_predicate(where),
        formats=formats_of(named, checked_formats(formats)),
        exclude=excluded_keys(exclude),
        signals=_own_signals(signals or {}, registry),
        settings=_checked_settings(settings),
        session=own,
        rewatch=rewatch,
        scan_after=scan_after,
        feed=named,
        seed=seed_of(str(own)) if resumes or lock else preview_seed(row.key or key, moment.date()),
    )
    if resumes:
        request = resumed(request, row, position, may_lag=not lock)
    if named is not None and not request.is_served:
        check_sources(named, registry)
    return with_friends(session, request)


def with_friends(session: Session, request: FeedRequest) -> FeedRequest:
    """Return a request with what its page cannot read on Citus, unless it was served already."""
    if request.is_served or not lookup.is_distributed(session):
        return request
    return replace(request, friends=read_friends(session, request) if request.known else "[]")


def unranked(session: Session, request: RequestSummary, **fields: Any) -> FeedRequest:
    """Return a request that filters videos and ranks none.

    Args:
        session: the caller's transaction.
        request: the summary of the request.
        **fields: more fields of the request.
    """
    return FeedRequest(
        **{**shared_fields(request), **fields},
        learning=NOTHING_LEARNED,
        registry=known_registry(lookup.registry(session)),
    )


def preview_seed(user: str, day: date) -> int:
    """Return the random seed of the pages of a user that are not recorded: one a day (UTC)."""
    return seed_of(f"{user} {day}")


def seed_of(text: str) -> int:
    """Return the random seed for a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) % SEEDS


def _viewer_rows(
    session: Session,
    values: Mapping[str, Any],
    profile: str | Profile | None,
    *,
    resumes: bool,
    lock: bool,
) -> Sequence[Any]:
    """Read the learning state, the viewer and the profile: a row per weight of the profile.

    The columns of the viewer and of the profile are NULL if there is none.
    """
    wanted = None if isinstance(profile, Profile) else WantedProfile.of(profile)
    form = None if wanted is None else wanted.form
    is_distributed = lookup.is_distributed(session)
    owner = _found_apart(session, values["key"], lock=lock) if is_distributed else None
    named = wanted._asdict() if wanted else {}
    values = {**values, "of_feed": values["feed"] or "", "owner": owner, **named}
    connection = lookup.connection(session)
    for is_locked in (True, False) if lock and not is_distributed else (False,):
        names_feed = values["feed"] is not None
        query = _viewer_query(form, resumes=resumes, names_feed=names_feed, is_locked=is_locked)
        rows = connection.execute(query, values, execution_options=AS_POSITIONAL).all()
        is_other = is_distributed and rows and rows[0].id != owner
        if rows and (rows[0].merged_into is not None or is_other):
            # The viewer was merged while this transaction waited for the lock.
            return _viewer_rows(session, values, profile, resumes=resumes, lock=lock)
        if rows:
            return rows
    check_first_rows(session)
    return []


def _found_apart(session: Session, key: str, *, lock: bool) -> int | None:
    """Return the row id of the viewer on Citus, whose lock is on the node of their rows."""
    owner = user_ids(session, [key]).get(key)
    if lock and owner is not None:
        lock_users(session, [owner])
    return owner


@cache
def _viewer_query(
    form: tuple[bool, bool] | None, *, resumes: bool, names_feed: bool, is_locked: bool
) -> sa.StatementLambdaElement:
    """Return the query of the learning state, the viewer, the feed and the profile.

    Args:
        form: the form of the `WantedProfile`; None to read no profile.
        resumes: whether to read the viewer's session too, whose feed and profile are then the
            defaults.
        names_feed: whether to read the feed of a name.
        is_locked: whether to lock the viewer's row; there is no row then without a viewer.
    """
    query = _state_and_viewer(is_locked=is_locked)
    if resumes:
        query = with_session(query).add_columns(ServedVideo.profile_id.label("kept_profile"))
    if resumes or names_feed:
        query = with_feed(query, _feed_id(resumes=resumes, names_feed=names_feed))
    query = query.with_for_update(key_share=True, of=User) if is_locked else query
    if form == WantedProfile().form:
        query = with_experiment(query, resumes=resumes)
    if form is not None:
        # One row by itself: with a row per weight, the viewer's row would be locked for each.
        viewer = materialized(query.cte("viewer"))
        row_ids = [version_id(form)]
        if form == WantedProfile().form:
            row_ids = [
                *([viewer.c.kept_profile] if resumes else []),
                *([profile_id_of(viewer)] if resumes or names_feed else []),
                *row_ids,
            ]
        row_id = sa.func.coalesce(*row_ids) if len(row_ids) > 1 else row_ids[0]
        # In the first row only, so that they are not converted for each weight.
        is_first = sa.func.coalesce(ProfileWeight.position, 1) == 1
        columns = [sa.case((is_first, column)).label(column.name) for column in viewer.c]
        query = with_profile(sa.select(*columns).select_from(viewer), row_id)
    statement = query.prefix_with("/* recommender.resolve */")
    return identified(statement, _viewer_query, form, resumes, names_feed, is_locked)


def _feed_id(*, resumes: bool, names_feed: bool) -> sa.SQLColumnExpression[int | None]:
    """Return the row id of the session's feed; without a session, of the named feed."""
    if not names_feed:
        return FeedSession.feed_id
    named = newest_feed_id()
    is_begun = FeedSession.next_position.is_not(None)
    return sa.case((is_begun, FeedSession.feed_id), else_=named) if resumes else named


def _state_and_viewer(*, is_locked: bool) -> Statement:
    state, named = LearningState, aliased(User, name="named")
    # An erasure changes the key. PostgreSQL checks only the locked row again after a wait.
    is_viewer = sa.and_(is_meant(User, named), User.erased_at.is_(None))
    for_followers = any_with_status("followers")
    return (
        sa.select(
            User.id, User.key, User.merged_into,
            User.language, User.country, User.device, User.learned_since,
            for_followers.label("has_for_followers"),
            state.landmark, state.creator_half_life_days, state.hashtag_half_life_days,
            state.sound_half_life_days, state.trend_half_life_days, state.engaged_share,
            state.trend_peak, state.captions, state.published_videos,
        )
        .select_from(state)
        .join(named, named.key == sa.bindparam("key"), isouter=not is_locked)
        .join(User, is_viewer, isouter=not is_locked)
    )  # fmt: skip


def learning_at(state: Any, as_of: datetime) -> Learning:
    """Return the values of a row of the learning state at a reading time."""

    def faded(half_life_days: float) -> float:
        return bounded_decay_exponent(state.landmark, half_life_days, as_of)

    faded_by = decay_exponent(state.landmark, state.trend_half_life_days, as_of)
    return Learning(
        creator=2.0 ** -faded(state.creator_half_life_days),
        hashtag=2.0 ** -faded(state.hashtag_half_life_days),
        sound=2.0 ** -faded(state.sound_half_life_days),
        trend=faded_by,
        peak=0.0 if state.trend_peak is None else _power(state.trend_peak - faded_by),
        engaged_share=state.engaged_share,
        captions=state.captions,
        videos=state.published_videos,
    )


def _power(exponent: float) -> float:
    """Return 2 to the power of a number that is first limited to the range of the databases."""
    return float(2.0 ** max(-LARGEST_EXPONENT, min(LARGEST_EXPONENT, exponent)))


def checked_predicate(
    where: ColumnElement[bool] | None, own: FromClause = VIDEOS
) -> ColumnElement[bool] | None:
    """Return the host's condition; `InvalidValue` if it reads another table than its own."""
    if where is None:
        return None
    if not isinstance(where, ColumnElement):
        raise InvalidValue(f"where: {scalars.shown(where)} is no SQL expression")
    check_froms("where", where, own=own)
    return where


def _checked_settings(settings: Settings | None) -> Settings:
    if settings is None:
        return Settings.from_environment()
    if not isinstance(settings, Settings):
        raise InvalidValue(f"settings: {scalars.shown(settings)} is no Settings")
    return settings


def excluded_keys(keys: Iterable[AnyKey]) -> tuple[str, ...]:
    """Return the distinct keys of videos to leave out; `InvalidValue` for more than 10,000."""
    if isinstance(keys, str):
        raise InvalidValue(f"exclude: {scalars.shown(keys)} is one key, not several")
    if not isinstance(keys, Iterable):
        raise InvalidValue(f"exclude: {scalars.shown(keys)} is no list of keys")
    excluded = tuple(dict.fromkeys(key for key in map(key_or_none, keys) if key is not None))
    if len(excluded) > MAX_EXCLUDED:
        raise InvalidValue(f"exclude: {len(excluded):,} keys are more than {MAX_EXCLUDED:,}")
    return excluded


def _own_signals(signals: Mapping[Signal, float], registry: Registry) -> dict[Signal, float]:
    """Return the host's signals with checked names and weights."""
    if not isinstance(signals, Mapping):
        raise InvalidValue(f"signals: {scalars.shown(signals)} gives no weight to each signal")
    check_signal_names(tuple(signals), registry.every_signal)
    return {signal: checked_weight(signal.name, weight) for signal, weight in signals.items()}


def reading_time(as_of: datetime | None) -> datetime:
    """Return the reading time in UTC; None stands for now."""
    moment = scalars.now() if as_of is None else as_of
    return scalars.parse_named("as_of", scalars.time, moment)
