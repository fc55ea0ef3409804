"""From a request to a page: resolve the viewer and profile, score, and say why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import fields
from recommender.catalog import VIDEOS, ids
from recommender.columns import Statement
from recommender.errors import InvalidValue, UnknownVideo
from recommender.filters import FILTERS
from recommender.models import Hashtag, Sound, User, Video, VideoCaption, VideoHashtag
from recommender.profiles import get_profile
from recommender.scoring import ahead_query, explain_query, feed_query, rank_query, score_of
from recommender.values import (
    DEFAULT_LIMIT,
    LARGEST_LIMIT,
    Contribution,
    Explanation,
    FeedItem,
    FeedPage,
    FeedRequest,
    FilterOutcome,
)

CATALOGUE = ("catalogue",)
"""The source of every candidate where all published videos are candidates."""


def resolve(
    session: Session,
    user: str,
    profile: str | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    as_of: datetime | None = None,
) -> FeedRequest:
    """Look up the viewer and the profile: two statements.

    Args:
        session: the caller's transaction.
        user: the viewer's key; one that is not in the database is a stranger, not an error.
        profile: ``name`` or ``name@version``; the active one where None.
        limit: how many videos at most, 1 to 500.
        as_of: the reading time, with an offset; now where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
    """
    viewer = sa.select(User.id, User.language, User.country).where(User.key == _user_key(user))
    found = session.execute(viewer.prefix_with("/* recommender.resolve */")).one_or_none()
    user_id, language, country = found or (None, None, None)
    return FeedRequest(
        user=user,
        user_id=user_id,
        language=language,
        country=country,
        profile=get_profile(session, profile),
        as_of=_time(as_of),
        limit=limit,
    )


def for_you(
    session: Session,
    user: str,
    *,
    limit: int = DEFAULT_LIMIT,
    profile: str | None = None,
    as_of: datetime | None = None,
) -> FeedPage:
    """The viewer's For You page: three statements (viewer, profile, feed), nothing written.

    Args:
        session: the caller's transaction.
        user: the viewer's key; a stranger gets the newest of what scores alike.
        limit: how many videos at most, 1 to 500.
        profile: ``name`` or ``name@version``; the active one where None.
        as_of: the reading time, with an offset; now where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
    """
    request = resolve(session, user, profile, limit=limit, as_of=as_of)
    return FeedPage(request, _items(session, request, feed_query(request), "for_you"))


def rank(
    session: Session,
    user: str,
    videos: Iterable[str],
    *,
    profile: str | None = None,
    as_of: datetime | None = None,
) -> FeedPage:
    """The given videos, all of them, in the viewer's order; no filter applies.

    Args:
        session: the caller's transaction.
        user: the viewer's key, known or not.
        videos: 1 to 500 videos' keys.
        profile: ``name`` or ``name@version``; the active one where None.
        as_of: the reading time, with an offset; now where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
        UnknownVideo: one of the videos does not exist.
    """
    if isinstance(videos, str):
        raise InvalidValue(f"videos: {fields.shown(videos)} is one key, not several")
    keys = list(dict.fromkeys(videos))
    if not 1 <= len(keys) <= LARGEST_LIMIT:
        raise InvalidValue(f"videos: {len(keys):,} are given, not 1 to {LARGEST_LIMIT}")
    request = resolve(session, user, profile, limit=len(keys), as_of=as_of)
    video_ids = _video_ids(session, keys)
    return FeedPage(request, _items(session, request, rank_query(request, video_ids), "rank"))


def explain(
    session: Session,
    user: str,
    video: str,
    *,
    profile: str | None = None,
    as_of: datetime | None = None,
) -> Explanation:
    """Why a video stands where it stands in the viewer's feed, or why it is not there.

    Args:
        session: the caller's transaction.
        user: the viewer's key, known or not.
        video: the video's key.
        profile: ``name`` or ``name@version``; the active one where None.
        as_of: the reading time, with an offset; now where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
        UnknownVideo: there is no such video.
    """
    request = resolve(session, user, profile, as_of=as_of)
    (video_id,) = _video_ids(session, [video])
    row = session.execute(_page(explain_query(request, video_id), "explain")).one()
    filters = tuple(
        FilterOutcome(each.name, bool(row._mapping[f"filter_{each.name}"]))  # noqa: SLF001
        for each in FILTERS
    )
    place = None
    if all(outcome.passed for outcome in filters):
        place = 1 + (session.scalar(ahead_query(request, video_id, row.score_key)) or 0)
    item = _item(request, place or 0, row)
    return Explanation(request, item, filters, place, _reason(item, filters))


def _user_key(user: str) -> str:
    try:
        return fields.key(user)
    except InvalidValue as error:
        raise InvalidValue(f"user: {error}") from None


def _time(as_of: datetime | None) -> datetime:
    try:
        return fields.time(as_of or fields.now())
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
    rows = session.execute(_page(ranked, name))
    return tuple(_item(request, position, row) for position, row in enumerate(rows, start=1))


def _page(ranked: Statement, name: str) -> Statement:
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


def _item(request: FeedRequest, position: int, row: Any) -> FeedItem:
    signals = {
        name: Contribution(row._mapping[name], weight)  # noqa: SLF001 - the public way to a name
        for name, weight in request.profile.weights.items()
    }
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
        sources=CATALOGUE,
        signals=signals,
    )


def because(item: FeedItem) -> str:
    """What speaks most for a video, the strongest three signals, as it ends a sentence."""
    for_it = sorted(
        (name for name, each in item.signals.items() if each.contribution > 0),
        key=lambda name: -item.signals[name].contribution,
    )
    if not for_it:
        return "it is published; no signal speaks for it"
    said = [_phrase(name, item) for name in for_it[:3]]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _reason(item: FeedItem, filters: Sequence[FilterOutcome]) -> str:
    for each, outcome in zip(FILTERS, filters, strict=True):
        if not outcome.passed:
            return f"Not shown: {each.otherwise}."
    return f"Shown because {because(item)}."


def _phrase(name: str, item: FeedItem) -> str:
    value = item.signals[name].value
    phrases = {
        "completion": f"you watched {value:.0%} of it",
        "likes": "you like it",
        "shares": "you shared it",
        "follows": f"you follow {item.creator}",
        "hashtags": f"it has {value:.0f} of your interests",
        "sound": f"you like its sound {item.sound}",
        "language": "it is in your language",
        "country": "it is from your country",
    }
    return phrases[name]
