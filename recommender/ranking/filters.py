"""Which videos a feed may show: one named predicate each.

A filter reads the video's row and the viewer's bound values; it is true where the video may be
shown. The order of `FILTERS` is the order in which an explanation lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from recommender.formats.scalars import STATUSES
from recommender.models import (
    Interaction,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    ServedVideo,
    Sound,
    Video,
    VideoCaption,
    VideoHashtag,
)
from recommender.ranking.viewer import Shape, Viewer

VideoId: TypeAlias = ColumnElement[int] | InstrumentedAttribute[int]
"""A column that names videos."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A named predicate over `Video`: true where the video may be shown to the viewer.

    `otherwise` says why not, after "Not shown: ".
    """

    name: str
    predicate: Callable[[Viewer], ColumnElement[bool]]
    otherwise: str


def none(rows: sa.Select[int]) -> ColumnElement[bool]:
    """There is no such row.

    A NOT EXISTS would say the same, but PostgreSQL makes a join of it, and then sorts a catalogue
    instead of walking an index to the first few. Of `!=` it expects that nearly all rows pass.
    """
    found = rows.with_only_columns(sa.literal(1)).limit(1).scalar_subquery()
    return sa.func.coalesce(found, 0) != 1


def published(_viewer: Viewer) -> ColumnElement[bool]:
    """The video is neither under review nor removed."""
    return Video.status == "published"


def not_in_future(viewer: Viewer) -> ColumnElement[bool]:
    """The video's time of publishing has come."""
    return Video.published_at <= viewer.as_of


def still_published(viewer: Viewer) -> ColumnElement[bool]:
    """`published` and `not_in_future`, said so that no database begins at all such videos."""
    is_out = [Video.status != status for status in STATUSES if status != "published"]
    return sa.and_(*is_out, Video.published_at <= viewer.as_of)


def not_own(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer is not the video's creator."""
    return Video.creator_id.is_distinct_from(viewer.user_id)


def not_rejected(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer neither reported the video nor said that it does not interest them."""
    rejected = sa.or_(Interaction.not_interested_at.is_not(None), Interaction.reports > 0)
    return none(_interaction(viewer).where(rejected))


def not_seen(viewer: Viewer, video_id: VideoId = Video.id) -> ColumnElement[bool]:
    """The viewer has done nothing with the video, not even seen it, nor was it served to them."""
    return sa.and_(none(_interaction(viewer, video_id)), none(_served(viewer, video_id)))


def not_served(viewer: Viewer, video_id: VideoId = Video.id) -> ColumnElement[bool]:
    """The video was not on a page of this session."""
    return none(_served(viewer, video_id).where(ServedVideo.session == viewer.session))


def _served(viewer: Viewer, video_id: VideoId) -> sa.Select[int]:
    """To the viewer, on any page."""
    return sa.select(ServedVideo.video_id).where(
        ServedVideo.user_id == viewer.user_id, ServedVideo.video_id == video_id
    )


def _interaction(viewer: Viewer, video_id: VideoId = Video.id) -> sa.Select[int]:
    """Of the viewer with the video."""
    return sa.select(Interaction.video_id).where(
        Interaction.user_id == viewer.user_id, Interaction.video_id == video_id
    )


def creator_not_muted(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer did not mute the video's creator."""
    return Video.creator_id.not_in(_muted_creators(viewer))


def _muted_creators(viewer: Viewer) -> sa.Select[int]:
    return sa.select(MutedCreator.creator_id).where(MutedCreator.user_id == viewer.user_id)


def sound_not_muted(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer muted neither the video's sound nor the creator whose sound it is."""
    muted = sa.select(MutedSound.sound_id).where(MutedSound.user_id == viewer.user_id)
    of_muted = sa.select(Sound.id).where(Sound.creator_id.in_(_muted_creators(viewer)))
    is_muted = sa.or_(Video.sound_id.in_(muted), Video.sound_id.in_(of_muted))
    return sa.or_(Video.sound_id.is_(None), ~is_muted)


def hashtag_not_muted(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer muted none of the video's hashtags.

    A CASE of the IN keeps PostgreSQL from sorting all that the viewer muted anew for each video.
    """
    muted = sa.select(MutedHashtag.hashtag_id).where(MutedHashtag.user_id == viewer.user_id)
    is_muted = sa.case((VideoHashtag.hashtag_id.in_(muted), 1), else_=0)
    found = sa.select(VideoHashtag.hashtag_id).where(
        VideoHashtag.video_id == Video.id, is_muted == 1
    )
    return _unless_any(viewer, MutedHashtag.user_id, none(found))


def keyword_not_muted(viewer: Viewer, video_id: VideoId = Video.id) -> ColumnElement[bool]:
    """The video's caption has none of the words, or phrases, that the viewer muted.

    It looks at the caption once for each of them, and so is asked last, of the best alone.
    """
    without = sa.func.replace(VideoCaption.words, MutedKeyword.keyword, "")
    muted = (
        sa.select(VideoCaption.video_id)
        .join(MutedKeyword, without != VideoCaption.words)
        .where(VideoCaption.video_id == video_id, MutedKeyword.user_id == viewer.user_id)
    )
    return _unless_any(viewer, MutedKeyword.user_id, none(muted))


def _unless_any(
    viewer: Viewer, owner: InstrumentedAttribute[int], is_let_through: ColumnElement[bool]
) -> ColumnElement[bool]:
    """True at once for a viewer who muted nothing of the kind, without a look at each video."""
    mutes = sa.select(sa.literal(1)).where(owner == viewer.user_id).limit(1).scalar_subquery()
    return sa.or_(mutes.is_(None), is_let_through)


FILTERS = (
    Filter("published", published, "it is under review or removed"),
    Filter("not_in_future", not_in_future, "it is published later"),
    Filter("not_own", not_own, "it is your own"),
    Filter("not_rejected", not_rejected, "you reported it or said that it does not interest you"),
    Filter("not_seen", not_seen, "you have seen it"),
    Filter("creator_not_muted", creator_not_muted, "you muted its creator"),
    Filter("sound_not_muted", sound_not_muted, "you muted its sound, or whose sound it is"),
    Filter("hashtag_not_muted", hashtag_not_muted, "you muted one of its hashtags"),
    Filter("keyword_not_muted", keyword_not_muted, "its caption has words that you muted"),
)

EARLY = (published, not_in_future, not_seen)
"""What takes most away, so that sources apply it."""

REFERENCE_FILTERS = FILTERS[:2]
"""The filters of the reference formula, which keeps own, seen and muted videos."""


def filters_of(shape: Shape) -> tuple[Filter, ...]:
    """The filters that apply to a request."""
    if shape.is_reference:
        return REFERENCE_FILTERS
    if shape.rewatch:
        return tuple(each for each in FILTERS if each.predicate is not not_seen)
    return FILTERS


def _needed(shape: Shape) -> list[Filter]:
    """The filters that apply, without the one that lets through all that another does."""
    filters = filters_of(shape)
    is_implied = any(each.predicate is not_seen for each in filters)
    return [each for each in filters if not (is_implied and each.predicate is not_rejected)]


def eligible(
    shape: Shape, viewer: Viewer, video_id: VideoId = Video.id
) -> list[ColumnElement[bool]]:
    """What applies inside each source: what takes most away, and what the caller wants.

    Args:
        shape: of the request.
        viewer: its viewer.
        video_id: of videos whose rows the source does not read; `Video.id` where it does.
    """
    unread = [] if video_id is not Video.id else [published(viewer), not_in_future(viewer)]
    seen = [] if shape.rewatch else [not_seen(viewer, video_id)]
    return [*unread, *seen, *_requested(shape, viewer, video_id)]


def remaining(shape: Shape, viewer: Viewer) -> list[ColumnElement[bool]]:
    """What candidates that are `eligible` still have to fulfil, but for `keyword_not_muted`.

    That they are published is asked of all: of some nobody asked, and of some an index said so,
    which a host may forget.
    """
    others = [each for each in _needed(shape) if each.predicate not in (*EARLY, keyword_not_muted)]
    return [still_published(viewer), *(each.predicate(viewer) for each in others)]


def allowed(shape: Shape, viewer: Viewer) -> list[ColumnElement[bool]]:
    """All that a video has to fulfil, what the request asks for included."""
    return [
        *(each.predicate(viewer) for each in _needed(shape)),
        *_requested(shape, viewer, Video.id),
    ]


def _requested(shape: Shape, viewer: Viewer, video_id: VideoId) -> list[ColumnElement[bool]]:
    found = []
    if shape.goes_on and not_seen not in {each.predicate for each in filters_of(shape)}:
        found.append(not_served(viewer, video_id))
    if shape.where is not None:
        found.append(shape.where)
    if viewer.excluded is not None:
        found.append(video_id.not_in(sa.select(viewer.excluded.c.id)))
    return found
