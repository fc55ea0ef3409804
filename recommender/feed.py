"""From a request to a page: resolve the viewer and profile, score, and say why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from recommender import fields
from recommender.catalog import VIDEOS, ids
from recommender.columns import Statement
from recommender.errors import InvalidValue, UnknownVideo
from recommender.filters import filters_of
from recommender.learned import LearningState
from recommender.learning import exponent, half_lives
from recommender.models import Hashtag, Sound, User, Video, VideoCaption, VideoHashtag
from recommender.profiles import checked_weight, get_profile
from recommender.reasons import reason_of, reason_query
from recommender.scoring import (
    COLUMNS,
    ahead_query,
    explain_query,
    feed_query,
    formula,
    rank_query,
    score_of,
    sources_query,
)
from recommender.settings import Settings
from recommender.signals import SIGNALS, Signal
from recommender.sources import source_names
from recommender.values import (
    DEFAULT_LIMIT,
    LARGEST_LIMIT,
    Contribution,
    Explanation,
    FeedItem,
    FeedPage,
    FeedRequest,
    FilterOutcome,
    Learning,
    Profile,
)

CATALOGUE = ("catalogue",)
"""The source of every candidate of the reference formula: all videos are candidates."""

MOST_EXCLUDED = 10_000
MOST_DISPLACING = 3


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
) -> FeedRequest:
    """Look up the viewer and the profile: two statements, one where the profile is given.

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

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
    """
    moment = reading_time(as_of)
    found = session.execute(_viewer_query(_user_key(user))).one()
    return FeedRequest(
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
    )


def _viewer_query(key: str) -> Statement:
    """The learning state, and the viewer beside it where there is one."""
    state = LearningState
    return (
        sa.select(
            User.id, User.language, User.country, User.device, User.learned_since,
            state.landmark, state.creator_half_life_days, state.hashtag_half_life_days,
            state.sound_half_life_days, state.trend_half_life_days, state.engaged_share,
            state.captions,
        )
        .select_from(state)
        .outerjoin(User, User.key == key)
        .prefix_with("/* recommender.resolve */")
    )  # fmt: skip


def learning_at(state: Any, as_of: datetime) -> Learning:
    """What a row of the learning state says at a reading time."""

    def faded(half_life_days: float) -> float:
        return half_lives(state.landmark, half_life_days, as_of)

    return Learning(
        creator=2.0 ** -faded(state.creator_half_life_days),
        hashtag=2.0 ** -faded(state.hashtag_half_life_days),
        sound=2.0 ** -faded(state.sound_half_life_days),
        trend=exponent(state.landmark, state.trend_half_life_days, as_of),
        engaged_share=state.engaged_share,
        captions=state.captions,
    )


def _predicate(where: ColumnElement[bool] | None) -> ColumnElement[bool] | None:
    if where is None or isinstance(where, ColumnElement):
        return where
    raise InvalidValue(f"where: {fields.shown(where)} is no SQL expression")


def _excluded(keys: Iterable[str]) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise InvalidValue(f"exclude: {fields.shown(keys)} is one key, not several")
    if not isinstance(keys, Iterable):
        raise InvalidValue(f"exclude: {fields.shown(keys)} is no list of keys")
    excluded = tuple(key for key in dict.fromkeys(keys) if _is_key(key))
    if len(excluded) > MOST_EXCLUDED:
        raise InvalidValue(f"exclude: {len(excluded):,} keys are more than {MOST_EXCLUDED:,}")
    return excluded


def _own_signals(signals: Mapping[Signal, float]) -> dict[Signal, float]:
    if not isinstance(signals, Mapping):
        raise InvalidValue(f"signals: {fields.shown(signals)} gives no weight to each signal")
    taken = {*COLUMNS, *(signal.name for signal in SIGNALS)}
    for signal in signals:
        is_ours = signal.name in taken or signal.name.startswith(("page_", "filter_"))
        if is_ours or not signal.name.isidentifier():
            raise InvalidValue(
                f"signals: {fields.shown(signal.name)} is taken, or not one word of letters,"
                " digits and _"
            )
        taken.add(signal.name)
    return {signal: checked_weight(signal.name, weight) for signal, weight in signals.items()}


def for_you(
    session: Session,
    user: str,
    *,
    limit: int = DEFAULT_LIMIT,
    profile: str | None = None,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[str] = (),
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
) -> FeedPage:
    """The viewer's For You page: three statements (viewer, profile, feed), nothing written.

    A page is short only where fewer videos are left that the viewer may be shown.

    Args:
        session: the caller's transaction.
        user: the viewer's key; a stranger gets what trends, what is fresh and what is good.
        limit: how many videos at most, 1 to 500.
        profile: ``name`` or ``name@version``; the active one where None.
        as_of: the reading time, with an offset; now where None.
        where: the caller's own predicate over `Video`; a host's tables come in by EXISTS.
        exclude: keys of videos that shall not come, 10,000 at most.
        signals: the host's own signals with their weights, -100 to 100, on top of the profile's.
        settings: the numbers that shape signals and sources; those of the environment where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
    """
    request = resolve(
        session, user, profile, limit=limit, as_of=as_of, where=where, exclude=exclude,
        signals=signals, settings=settings,
    )  # fmt: skip
    return FeedPage(request, _items(session, request, feed_query(request), "for_you"))


def rank(
    session: Session,
    user: str,
    videos: Iterable[str],
    *,
    profile: str | None = None,
    as_of: datetime | None = None,
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
) -> FeedPage:
    """The given videos, all of them, in the viewer's order; no filter applies.

    Args:
        session: the caller's transaction.
        user: the viewer's key, known or not.
        videos: 1 to 500 videos' keys.
        profile: ``name`` or ``name@version``; the active one where None.
        as_of: the reading time, with an offset; now where None.
        signals: the host's own signals with their weights, -100 to 100, on top of the profile's.
        settings: the numbers that shape signals; those of the environment where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
        UnknownVideo: one of the videos does not exist.
    """
    if isinstance(videos, str):
        raise InvalidValue(f"videos: {fields.shown(videos)} is one key, not several")
    if not isinstance(videos, Iterable):
        raise InvalidValue(f"videos: {fields.shown(videos)} is no list of keys")
    keys = list(dict.fromkeys(videos))
    if not 1 <= len(keys) <= LARGEST_LIMIT:
        raise InvalidValue(f"videos: {len(keys):,} are given, not 1 to {LARGEST_LIMIT}")
    request = resolve(
        session, user, profile, limit=len(keys), as_of=as_of, signals=signals, settings=settings
    )
    video_ids = _video_ids(session, keys)
    return FeedPage(request, _items(session, request, rank_query(request, video_ids), "rank"))


def explain(
    session: Session,
    user: str,
    video: str,
    *,
    profile: str | None = None,
    limit: int = DEFAULT_LIMIT,
    as_of: datetime | None = None,
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
) -> Explanation:
    """Why a video stands where it stands in the viewer's feed, or why it is not there.

    Args:
        session: the caller's transaction.
        user: the viewer's key, known or not.
        video: the video's key.
        profile: ``name`` or ``name@version``; the active one where None.
        limit: of the page in question, 1 to 500; a longer page looks at more candidates.
        as_of: the reading time, with an offset; now where None.
        signals: the host's own signals with their weights, -100 to 100, on top of the profile's.
        settings: the numbers that shape signals and sources; those of the environment where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
        UnknownVideo: there is no such video.
    """
    request = resolve(
        session, user, profile, limit=limit, as_of=as_of, signals=signals,
        settings=settings,
    )  # fmt: skip
    (video_id,) = _video_ids(session, [video])
    row = session.execute(page_query(explain_query(request, video_id), "explain")).one()
    filters = _outcomes(request, row)
    sources = _sources_of(session, request, video_id)
    is_shown = bool(sources) and all(outcome.passed for outcome in filters)
    ahead = session.execute(ahead_query(request, video_id, row.score_key)).all() if is_shown else []
    item = page_item(request, 1 + len(ahead) if is_shown else 0, row, sources)
    facts = session.execute(reason_query(request, video_id)).one()
    return Explanation(
        request=request,
        item=item,
        filters=filters,
        rank=item.position or None,
        reason=reason_of(item, filters, facts),
        displaced_by=tuple(each.key for each in ahead[:MOST_DISPLACING]),
    )


def _outcomes(request: FeedRequest, row: Any) -> tuple[FilterOutcome, ...]:
    return tuple(
        FilterOutcome(each.name, bool(row._mapping[f"filter_{each.name}"]))  # noqa: SLF001 - its API
        for each in filters_of(request)
    )


def _sources_of(session: Session, request: FeedRequest, video_id: int) -> tuple[str, ...]:
    if request.profile.is_reference:
        return CATALOGUE
    return source_names(session.scalar(sources_query(request, video_id)) or 0)


def _user_key(user: str) -> str:
    try:
        return fields.key(user)
    except InvalidValue as error:
        raise InvalidValue(f"user: {error}") from None


def reading_time(as_of: datetime | None) -> datetime:
    """The reading time in UTC, now where None."""
    try:
        return fields.time(fields.now() if as_of is None else as_of)
    except InvalidValue as error:
        raise InvalidValue(f"as_of: {error}") from None


def _video_ids(session: Session, keys: Sequence[str]) -> list[int]:
    """The ids of videos' keys; `UnknownVideo` where one is not there."""
    found = ids(session, VIDEOS, [key for key in keys if _is_key(key)])
    if missing := [key for key in keys if key not in found]:
        raise UnknownVideo(f"there is no video {fields.shown(missing[0])}")
    return [found[key] for key in keys]


def _is_key(value: str) -> bool:
    try:
        return bool(fields.key(value))
    except InvalidValue:
        return False


def _items(
    session: Session, request: FeedRequest, ranked: Statement, name: str
) -> tuple[FeedItem, ...]:
    rows = session.execute(page_query(ranked, name))
    return tuple(
        page_item(request, position, row, _row_sources(request, row))
        for position, row in enumerate(rows, start=1)
    )


def _row_sources(request: FeedRequest, row: Any) -> tuple[str, ...]:
    return CATALOGUE if request.profile.is_reference else source_names(row.sources)


def page_query(ranked: Statement, name: str) -> Statement:
    """The ranked videos with what a page shows of them, read for these few rows only."""
    top = ranked.subquery("ranked")
    tags = (
        sa.select(sa.func.aggregate_strings(Hashtag.name, fields.LIST_SEPARATOR))
        .join(VideoHashtag, VideoHashtag.hashtag_id == Hashtag.id)
        .where(VideoHashtag.video_id == Video.id)
        .scalar_subquery()
    )
    return (
        sa.select(
            top,
            Video.key.label("page_video"),
            Video.published_at.label("page_published_at"),
            User.key.label("page_creator"),
            Sound.key.label("page_sound"),
            VideoCaption.caption.label("page_caption"),
            tags.label("page_hashtags"),
        )
        .join(Video, Video.id == top.c.video_id)
        .join(User, User.id == Video.creator_id)
        .outerjoin(Sound, Sound.id == Video.sound_id)
        .outerjoin(VideoCaption, VideoCaption.video_id == Video.id)
        .order_by(top.c.score_key.desc(), Video.published_at.desc(), Video.id.desc())
        .prefix_with(f"/* recommender.{name} */")
    )


def page_item(request: FeedRequest, position: int, row: Any, sources: tuple[str, ...]) -> FeedItem:
    """One row of `page_query`, with the signals of the request's profile."""
    signals = {
        signal.name: Contribution(row._mapping[signal.name], weight)  # noqa: SLF001 - its API
        for signal, weight in formula(request)
    }
    if row.score_key is None:
        missing = next(name for name, each in signals.items() if each.value is None)
        raise InvalidValue(f"signals: {missing} is NULL for video {fields.shown(row.page_video)}")
    tags = row.page_hashtags
    return FeedItem(
        position=position,
        video=row.page_video,
        creator=row.page_creator,
        caption=row.page_caption,
        hashtags=tuple(sorted(tags.split(fields.LIST_SEPARATOR))) if tags else (),
        sound=row.page_sound,
        published_at=row.page_published_at,
        score=score_of(row.score_key),
        sources=sources,
        signals=signals,
    )
