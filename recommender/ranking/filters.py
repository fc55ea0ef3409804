"""The filters of a feed: named predicates that every shown video fulfils.

A filter reads the video's row and the viewer's bound values; it is true if the video may be shown.
`FILTERS` is in the order in which an explanation lists them. `LISTS` says which filters each list
applies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Label
from sqlalchemy.orm import InstrumentedAttribute

from recommender.database.expressions import is_rejected
from recommender.formats.scalars import STATUSES
from recommender.formats.visibility import FOLLOWERS, PUBLIC
from recommender.models import (
    Block,
    Follow,
    Interaction,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    Sound,
    Video,
    VideoCaption,
    VideoHashtag,
)
from recommender.ranking.audience import blocked_users
from recommender.ranking.history import (
    VideoId,
    interaction_of,
    none,
    not_seen,
    not_served,
    some,
    unseen,
)
from recommender.ranking.viewer import Shape, Viewer


@dataclass(frozen=True, slots=True)
class Filter:
    """A named predicate over `Video`: true if the video may be shown to the viewer.

    A host's own filter applies in every list, as `where` does. Its name is one word of at most 56
    bytes, unique without regard to case.

    Attributes:
        name: its name in explanations.
        predicate: a function from a viewer to a condition over `Video`; use EXISTS for the host's
            tables.
        otherwise: the reason in an explanation, after "Not shown: ".
    """

    name: str
    predicate: Callable[[Viewer], ColumnElement[bool]]
    otherwise: str


def listed(_viewer: Viewer) -> ColumnElement[bool]:
    """The video is published for everyone; the indexes of lists begin with this condition."""
    return Video.status == "published"


def published(_viewer: Viewer) -> ColumnElement[bool]:
    """The video is neither under review nor removed."""
    # Written so that no index matches: a database would start at all published videos.
    return sa.and_(*(Video.status != status for status in STATUSES if status != "published"))


def not_in_future(viewer: Viewer) -> ColumnElement[bool]:
    """The video is published at or before the reading time."""
    return Video.published_at <= viewer.as_of


def still_published(viewer: Viewer) -> ColumnElement[bool]:
    """Return `published` and `not_in_future`, for candidates."""
    return sa.and_(published(viewer), not_in_future(viewer))


def available(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer may find the video: by its audience, and because its creator lets them."""
    return sa.and_(_in_audience(viewer), _let_by_creator(viewer))


def available_to_all(viewer: Viewer) -> ColumnElement[bool]:
    """The same for the reference formula, which has public videos only."""
    return sa.and_(Video.visibility == PUBLIC, _let_by_creator(viewer))


def _in_audience(viewer: Viewer) -> ColumnElement[bool]:
    is_followed = some(
        sa.select(Follow.creator_id).where(
            Follow.user_id == viewer.user_id, Follow.creator_id == Video.creator_id
        )
    )
    is_own = sa.func.coalesce(Video.creator_id == viewer.user_id, sa.false())
    is_theirs = sa.or_(is_own, is_followed)
    return sa.or_(Video.visibility == PUBLIC, sa.and_(Video.visibility == FOLLOWERS, is_theirs))


def _let_by_creator(viewer: Viewer) -> ColumnElement[bool]:
    """The creator did not block the viewer, as far as the viewer may learn it."""
    # A viewer who blocked the creator must not see that the creator blocked them too.
    return sa.or_(_not_blocked(viewer, "of_me"), ~_not_blocked(viewer, "by_me"))


def creator_not_blocked(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer did not block the video's creator."""
    return _not_blocked(viewer, "by_me")


def _not_blocked(viewer: Viewer, direction: str) -> ColumnElement[bool]:
    blocked = blocked_users(viewer).where(Block.direction == direction)
    is_free = sa.or_(Video.creator_id.is_(None), Video.creator_id.not_in(blocked))
    return _unless_any(viewer, Block.user_id, is_free)


def not_own(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer is not the video's creator."""
    # An unknown viewer has no id, and some videos have no creator.
    has_none = Video.creator_id.is_(None)
    return sa.or_(has_none, Video.creator_id.is_distinct_from(viewer.user_id))


def not_rejected(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer neither reported the video nor marked it as not interesting."""
    return none(interaction_of(viewer).where(is_rejected(Interaction)))


def creator_not_muted(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer did not mute the video's creator."""
    has_none = Video.creator_id.is_(None)
    return sa.or_(has_none, Video.creator_id.not_in(_muted_creators(viewer)))


def _muted_creators(viewer: Viewer) -> sa.Select[int]:
    return sa.select(MutedCreator.creator_id).where(MutedCreator.user_id == viewer.user_id)


def sound_not_muted(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer muted neither the video's sound nor the creator whose sound it is."""
    muted = sa.select(MutedSound.sound_id).where(MutedSound.user_id == viewer.user_id)
    of_muted = sa.select(Sound.id).where(Sound.creator_id.in_(_muted_creators(viewer)))
    is_muted = sa.or_(Video.sound_id.in_(muted), Video.sound_id.in_(of_muted))
    return sa.or_(Video.sound_id.is_(None), ~is_muted)


def hashtag_not_muted(viewer: Viewer) -> ColumnElement[bool]:
    """The viewer muted none of the video's hashtags."""
    muted = sa.select(MutedHashtag.hashtag_id).where(MutedHashtag.user_id == viewer.user_id)
    # The CASE keeps PostgreSQL from sorting the muted hashtags again for every video.
    is_muted = sa.case((VideoHashtag.hashtag_id.in_(muted), 1), else_=0)
    muted_tags = sa.select(VideoHashtag.hashtag_id).where(
        VideoHashtag.video_id == Video.id, is_muted == 1
    )
    return _unless_any(viewer, MutedHashtag.user_id, none(muted_tags))


def keyword_not_muted(viewer: Viewer, video_id: VideoId = Video.id) -> ColumnElement[bool]:
    """The video's caption has no word or phrase that the viewer muted."""
    # It searches the caption once per keyword, so it runs last and only for the top candidates.
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
    """Return a condition that skips the check for viewers without rows in a table."""
    mutes = sa.select(sa.literal(1)).where(owner == viewer.user_id).limit(1).scalar_subquery()
    return sa.or_(mutes.is_(None), is_let_through)


FILTERS = (
    Filter("published", published, "it is under review or removed"),
    Filter("not_in_future", not_in_future, "it is published later"),
    Filter("available", available, "it is not available"),
    Filter("creator_not_blocked", creator_not_blocked, "you blocked its creator"),
    Filter("not_own", not_own, "it is your own"),
    Filter("not_rejected", not_rejected, "you reported it or said that it does not interest you"),
    Filter("not_seen", not_seen, "you have seen it"),
    Filter("creator_not_muted", creator_not_muted, "you muted its creator"),
    Filter("sound_not_muted", sound_not_muted, "you muted its sound, or whose sound it is"),
    Filter("hashtag_not_muted", hashtag_not_muted, "you muted one of its hashtags"),
    Filter("keyword_not_muted", keyword_not_muted, "its caption has words that you muted"),
)

EARLY = (published, not_in_future, not_seen)
"""The most selective filters, which sources apply themselves."""

REFERENCE_FILTERS = (
    *FILTERS[:2],
    replace(FILTERS[2], predicate=available_to_all),
    FILTERS[3],
)
"""The filters of the reference formula, which keeps own, seen and muted videos."""

HOST_FILTERS = {
    "where": "the application has a condition that it does not fulfil",
    "excluded": "the application left it out of this list",
}
"""The filters that the host adds with `where` and `exclude`, with their reasons as in `Filter`."""


class ListFilters(NamedTuple):
    """The filters of a list, by name.

    Attributes:
        applied: the filters that every video of the list passes.
        told: the filters whose outcomes the list tells without leaving a video out.
    """

    applied: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


_OURS = tuple(rule.name for rule in FILTERS)

LISTS: Mapping[str, ListFilters] = {
    "for_you": ListFilters(applied=(*_OURS, *HOST_FILTERS)),
    "similar": ListFilters(applied=(*_OURS, *HOST_FILTERS)),
    "following": ListFilters(
        applied=(*(name for name in _OURS if name != "not_seen"), *HOST_FILTERS)
    ),
    "trending": ListFilters(applied=("published", "not_in_future", "available", *HOST_FILTERS)),
    "reach": ListFilters(applied=_OURS),
    "rank": ListFilters(applied=("excluded",), told=(*_OURS, "where")),
    "explain": ListFilters(told=(*_OURS, *HOST_FILTERS)),
}
"""The filters of every list. A host's registered filters are told and applied as `where` is.
`for_you` with the reference formula has only `REFERENCE_FILTERS` and
the host's, and `rank` and `explain` then tell only these."""


def filters_in(name: str) -> tuple[Filter, ...]:
    """Return the filters of this package that a list applies."""
    return tuple(rule for rule in FILTERS if rule.name in LISTS[name].applied)


def filters_of(shape: Shape) -> tuple[Filter, ...]:
    """Return the filters that apply to a request of `for_you`."""
    if shape.is_reference:
        return REFERENCE_FILTERS
    if shape.rewatch:
        return tuple(rule for rule in FILTERS if rule.predicate is not not_seen)
    return filters_in("for_you")


def still_allowed(
    viewer: Viewer, registered: Iterable[Filter], *, is_reference: bool
) -> ColumnElement[bool]:
    """Return whether a video of a page that was served may still be shown: only seen is allowed."""
    ours = REFERENCE_FILTERS if is_reference else filters_in("for_you")
    filters = (*ours, *registered)
    rules = (rule.predicate for rule in filters if rule.predicate is not not_seen)
    return sa.and_(*(predicate(viewer) for predicate in rules))


def outcomes(name: str, shape: Shape, viewer: Viewer) -> list[Label[bool]]:
    """Return the outcomes of the filters that a list tells, each as a column `filter_…`."""
    ours = {rule.name: rule.predicate(viewer) for rule in filters_of(shape)}
    own = host_conditions(shape, viewer, Video.id)
    told = {*LISTS[name].told, *(rule.name for rule in shape.registry.filters)}
    return [
        condition.label(f"filter_{rule}")
        for rule, condition in {**ours, **own}.items()
        if rule in told
    ]


def _needed(shape: Shape) -> list[Filter]:
    """Return the filters that apply, without `not_rejected` if `not_seen` implies it."""
    filters = filters_of(shape)
    is_implied = any(rule.predicate is not_seen for rule in filters)
    return [rule for rule in filters if not (is_implied and rule.predicate is not_rejected)]


def eligible(
    shape: Shape, viewer: Viewer, video_id: VideoId = Video.id
) -> list[ColumnElement[bool]]:
    """Return the conditions inside a source: the most selective filters and the caller's own.

    Args:
        shape: the shape of the request.
        viewer: the viewer of the request.
        video_id: the source's column of video ids; `Video.id` if it reads `Video`.
    """
    unread = [] if video_id is not Video.id else [listed(viewer), not_in_future(viewer)]
    seen = [] if shape.rewatch else [not_seen(viewer, video_id)]
    # Written so that no index matches: a database would read all videos of the formats.
    is_wanted = sa.func.coalesce(Video.format, "").in_(viewer.formats)
    formats = [is_wanted] if shape.formats else []
    return [*unread, *seen, *formats, *_requested(shape, viewer, video_id)]


def remaining(shape: Shape, viewer: Viewer) -> list[ColumnElement[bool]]:
    """Return the filters left for `eligible` candidates, without `keyword_not_muted`."""
    # Listed sources did not check publication, or trusted a column that the host may not update.
    others = [rule for rule in _needed(shape) if rule.predicate not in (*EARLY, keyword_not_muted)]
    return [still_published(viewer), *(rule.predicate(viewer) for rule in others)]


def allowed(shape: Shape, viewer: Viewer, *, again: bool = False) -> list[ColumnElement[bool]]:
    """Return all conditions for a video, including the caller's own.

    The reference formula reads an index that begins with `listed`.

    Args:
        shape: the shape of the request.
        viewer: the viewer of the request.
        again: whether the video may have been served before, if it was not seen.
    """
    predicates = [rule.predicate for rule in _needed(shape)]
    seen = unseen if again else not_seen
    return [
        *([listed(viewer)] if shape.is_reference else []),
        *(seen(viewer) if rule is not_seen else rule(viewer) for rule in predicates),
        *([Video.format.in_(viewer.formats)] if shape.formats else []),
        *_requested(shape, viewer, Video.id),
    ]


def _requested(shape: Shape, viewer: Viewer, video_id: VideoId) -> list[ColumnElement[bool]]:
    conditions = []
    if shape.goes_on and not_seen not in {rule.predicate for rule in filters_of(shape)}:
        conditions.append(not_served(viewer, video_id))
    if shape.has_seeds:
        conditions.append(video_id.not_in(sa.select(viewer.seeds.videos.c.id)))
    return [*conditions, *host_conditions(shape, viewer, video_id).values()]


def host_conditions(
    shape: Shape, viewer: Viewer, video_id: VideoId
) -> dict[str, ColumnElement[bool]]:
    """Return the conditions that the host adds to a list, by the names of its filters."""
    conditions = {rule.name: rule.predicate(viewer) for rule in shape.registry.filters}
    if shape.where is not None:
        conditions["where"] = shape.where
    if viewer.excluded is not None:
        conditions["excluded"] = video_id.not_in(sa.select(viewer.excluded.c.id))
    return conditions
