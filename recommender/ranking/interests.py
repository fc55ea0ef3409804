"""The interests of a viewer: creators, hashtags and sounds that candidates come from."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Subquery
from sqlalchemy.orm import InstrumentedAttribute, aliased

from recommender.models import (
    Affinity,
    Hashtag,
    MutedCreator,
    MutedHashtag,
    MutedSound,
    Sound,
    Video,
    VideoHashtag,
)
from recommender.ranking.audience import blocked_users
from recommender.ranking.ties import Order, largest
from recommender.ranking.viewer import Viewer

MUTED = {
    "creator": MutedCreator.creator_id,
    "hashtag": MutedHashtag.hashtag_id,
    "sound": MutedSound.sound_id,
}


def enjoyed_last(viewer: Viewer) -> Subquery:
    """Return the videos that the viewer enjoyed last, with weights."""
    recent = viewer.recent
    latest = sa.select(recent).order_by(recent.c.weight.desc()).limit(viewer.interests)
    return latest.subquery("enjoyed_last")


def creators_enjoyed_last(viewer: Viewer) -> sa.Select[Any]:
    """Return the creators of the videos that the viewer enjoyed last; some more than once."""
    video, latest = aliased(Video), enjoyed_last(viewer)
    return (
        sa.select(video.creator_id.label("subject"))
        .select_from(latest)
        .join(video, video.id == latest.c.video_id)
        .where(video.creator_id.is_not(None), is_wanted(viewer, "creator", video.creator_id))
    )


def liked_creators(viewer: Viewer) -> Subquery:
    """Return the creators to whom the viewer has most affinity, and those enjoyed last."""
    both = sa.union(most_liked(viewer, "creator"), creators_enjoyed_last(viewer))
    return both.subquery("liked_creators")


def hashtags_enjoyed_last(viewer: Viewer) -> sa.Select[Any]:
    """Return the hashtags of the videos that the viewer enjoyed last; some more than once."""
    tag, latest = VideoHashtag, enjoyed_last(viewer)
    return (
        sa.select(tag.hashtag_id)
        .select_from(latest)
        .join(tag, tag.video_id == latest.c.video_id)
        .where(is_wanted(viewer, "hashtag", tag.hashtag_id))
    )


def most_liked(viewer: Viewer, subject: str) -> sa.Select[int]:
    """Return the creators, hashtags or sounds that the viewer has most affinity to."""
    liked = sa.select(Affinity.subject_id.label("subject"), Affinity.score.label("value")).where(
        Affinity.user_id == viewer.user_id,
        Affinity.subject == subject,
        Affinity.score > 0,
        is_wanted(viewer, subject, Affinity.subject_id),
    )
    best = largest(liked, viewer.interests, ORDER.get(subject), f"liked_{subject}")
    return sa.select(best.c.subject)


def _named(name: InstrumentedAttribute[str]) -> Order:
    return lambda subject: sa.select(name).where(name.class_.id == subject).scalar_subquery()


ORDER: dict[str, Order] = {"hashtag": _named(Hashtag.name), "sound": _named(Sound.key)}
"""The order of subjects with equal affinities, or with equally new videos.

Creators keep the order of their ids, because an import keeps it.
"""


def is_wanted(
    viewer: Viewer, subject: str, column: InstrumentedAttribute[Any]
) -> ColumnElement[bool]:
    """Return the condition that the viewer did not mute a subject, and no block is between them."""
    muted = MUTED[subject]
    owner: ColumnElement[int] = muted.class_.user_id
    unmuted = column.not_in(sa.select(muted).where(owner == viewer.user_id))
    if subject != "creator":
        return unmuted
    return sa.and_(unmuted, column.not_in(blocked_users(viewer)))
