"""Reasons: the causes of a video's place, each with what it names, and one sentence of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement, Double, Text

from recommender.database import lookup
from recommender.database.expressions import (
    Statement,
    age_days,
    constant,
    is_now,
    is_true,
    named,
    number,
)
from recommender.database.session import Session
from recommender.database.spaces import space_table
from recommender.database.vectors import cosine
from recommender.feed.statements import MAX_STATEMENTS
from recommender.feed.values import FeedItem, FeedPage, Reason, WordsByFormat
from recommender.feed.wording import SHOWN, sentence_of
from recommender.models import (
    Affinity,
    Follow,
    Hashtag,
    Interaction,
    User,
    UserHashtag,
    Video,
    VideoHashtag,
    VideoNeighbour,
)
from recommender.models.tables import RECENT, VIDEOS
from recommender.ranking.filters import FILTERS, still_published
from recommender.ranking.history import engagements_of
from recommender.ranking.registry import Registry
from recommender.ranking.request import FeedRequest
from recommender.ranking.viewer import Viewer, ViewerParts, values_of

MAX_REASONS = 3

LEAST_SHARE = 0.02
"""The part of all that speaks for a video from which a cause is worth naming first."""

IMPERSONAL = ("quality", "trending", "freshness", "exploration", "language", "country", "device")
"""The signals that are the same, or nearly the same, for many viewers."""

TAG_SIGNALS = ("hashtags", "hashtag_affinity", "lately")
"""The signals that a hashtag of the video explains."""

NEEDS_CAUSE = (
    "social", "taste", "alike", "similarity", "shared_hashtags", "same_sound", "same_creator",
)  # fmt: skip
"""The signals that are a reason only together with what they name, or tell of another video."""

NOT_FOR_NAMES = ("published", "not_in_future", "not_own", "not_rejected", "not_seen")
"""The filters that do not decide whether a reason may name a video that the viewer enjoyed.

`still_published` stands for the first two, and the others are about what the viewer did with it.
"""

HIDES_CREATOR = ("available", "creator_not_blocked")
"""The filters without which no reason names a creator: one may have blocked the other."""

Causes: TypeAlias = Mapping[tuple[int, str], Reason]
"""The reasons that name something the viewer knows, by the video and the signal they explain."""


def with_reasons(
    session: Session, request: FeedRequest, page: FeedPage, words: WordsByFormat
) -> FeedPage:
    """Return a page whose items tell their reasons: one statement, none for an unknown viewer.

    Args:
        session: the caller's transaction.
        request: the request that the page answers.
        page: the page, just ranked or recorded earlier.
        words: the words for each format.
    """
    causes = read_causes(session, request, [item.video_id for item in page.items])
    own = request.sentences
    items = tuple(telling(item, reasons_of(item, causes, own), words) for item in page.items)
    return replace(page, items=items)


def telling(item: FeedItem, reasons: tuple[Reason, ...], words: WordsByFormat) -> FeedItem:
    """Return an item that tells its reasons, and the sentence of them."""
    return replace(item, reasons=reasons, reason=sentence_of(item, reasons, words))


def reasons_of(
    item: FeedItem, causes: Causes, sentences: Mapping[str, str | None]
) -> tuple[Reason, ...]:
    """Return up to three reasons for a video, the strongest first.

    `leading_signals` gives their order.

    Args:
        item: the video with its signals.
        causes: as `read_causes` returns them.
        sentences: the host's sentences about its own signals, by their names.
    """
    found = dict.fromkeys(_reason(signal, item, causes) for signal in leading_signals(item))
    first = tuple(filter(None, found))[:MAX_REASONS] or (Reason("no_signal"),)
    return tuple(
        replace(reason, text=sentences.get(str(reason.subject)))
        if reason.kind == "signal"
        else reason
        for reason in first
    )


def leading_signals(item: FeedItem) -> list[str]:
    """Return the signals that speak for a video, the ones to name first at the front.

    What the viewer did or chose comes before what is true for everyone, unless it adds next to
    nothing to the score.
    """
    parts = {n: c.contribution for n, c in item.signals.items() if c.contribution > 0 < c.value}
    least = LEAST_SHARE * sum(parts.values())
    unseen = item.signals.get("exploration")
    # A video with few viewers has no share of viewers yet: its quality is the mean of all videos.
    if unseen and unseen.value > 1 / 2:
        parts.pop("quality", None)
    return sorted(parts, key=lambda n: (n in IMPERSONAL or parts[n] < least, -parts[n]))


def _reason(signal: str, item: FeedItem, causes: Causes) -> Reason | None:
    """Return the reason that a signal stands for; None if what it would name is not known."""
    if signal in {"follows", "creator_affinity"}:
        return _creator_reason(signal, item, causes)
    if cause := causes.get((item.video_id, signal)):
        return cause
    if signal in NEEDS_CAUSE:
        # A page that comes again keeps the signal, also of people no longer followed.
        return None
    if signal in TAG_SIGNALS:
        return Reason("hashtags")
    if signal in {"sound", "sound_affinity"}:
        return Reason("sound", item.sound) if item.sound else None
    return Reason(signal) if signal in SHOWN else Reason("signal", signal)


def _creator_reason(signal: str, item: FeedItem, causes: Causes) -> Reason | None:
    """Return that the viewer follows or enjoys the creator; None if there is none to name."""
    is_hidden = any(one.name in HIDES_CREATOR and not one.passed for one in item.filters)
    if item.creator is None or is_hidden:
        return None
    followed = item.signals.get("follows")
    if followed and followed.value and (item.video_id, "follows") in causes:
        return Reason("follows", item.creator)
    return Reason("creator", item.creator) if signal == "creator_affinity" else None


def read_causes(session: Session, request: FeedRequest, video_ids: Sequence[int]) -> Causes:
    """Read the reasons that name something the viewer knows, for some videos: one statement.

    They name what the viewer did, what the videos are, and people whom the viewer follows.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        video_ids: the row ids of the videos.
    """
    if not request.known or not video_ids:
        return {}
    listed = lookup.listed_values(session, 1, [(video_id,) for video_id in video_ids])
    has_friends = request.friends is not None
    query = cause_query(lookup.is_sqlite(session), request.registry, has_friends=has_friends)
    rows = lookup.connection(session).execute(query, {**values_of(request), **listed})
    found = (row for row in rows if row.video_id is not None)
    return {(row.video_id, row.signal): Reason(row.kind, row.subject) for row in found}


@lru_cache(MAX_STATEMENTS)
def cause_query(
    on_sqlite: bool,  # noqa: FBT001 - the cache key
    registry: Registry,
    *,
    has_friends: bool = False,
) -> Statement:
    """Return the statement that reads the strongest cause per video and signal.

    Execute it with `values_of` a request and `lookup.listed_values` of the videos' row ids. A row
    whose video is NULL stands for the recent videos without a neighbour among the videos.
    """
    viewer = Viewer.named(ViewerParts(space=registry.space, has_friends=has_friends))
    listed = lookup.listed(on_sqlite, (VIDEOS.c.id,))
    page = sa.select(listed.c.id.label("video_id")).cte("page")
    people = _follows(viewer, page), _followed(viewer, page)
    parts = [_neighbours(viewer, registry, page), *_hashtags(viewer, page), *people]
    if registry.space:
        parts.append(_tastes(viewer, registry, registry.space, page))
    rows = sa.union_all(*parts).subquery("rows")
    place = sa.func.row_number().over(
        partition_by=(rows.c.video_id, rows.c.signal),
        order_by=(rows.c.strength.desc(), rows.c.subject),
    )
    ranked = sa.select(*rows.c, place.label("place")).subquery("ranked")
    return named(sa.select(ranked).where(ranked.c.place == 1), "reasons")


def _cause(
    video_id: Any, signal: str, kind: str | ColumnElement[str], subject: Any, strength: Any
) -> list[ColumnElement[Any]]:
    """Return the columns of a cause; the strongest cause of a signal is named."""
    return [
        video_id.label("video_id"),
        _text(signal).label("signal"),
        (_text(kind) if isinstance(kind, str) else kind).label("kind"),
        subject.label("subject"),
        sa.cast(strength, Double).label("strength"),
    ]


def _text(value: str) -> ColumnElement[str]:
    return constant(value, Text())


def _neighbours(viewer: Viewer, registry: Registry, page: CTE) -> Statement:
    """Return the recently engaged videos whose neighbours the videos are."""
    recent, near = viewer.recent, VideoNeighbour
    is_liked = is_now(Interaction.liked_at, Interaction.unliked_at)
    kind = sa.case((is_liked > 0, _text("liked")), else_=_text("enjoyed"))
    strength = near.similarity * recent.c.weight
    # An outer join keeps both databases from starting at the neighbours of all videos.
    is_near = sa.and_(
        near.source_id == recent.c.video_id, near.video_id.in_(sa.select(page.c.video_id))
    )
    state = sa.and_(
        Interaction.user_id == viewer.user_id, Interaction.video_id == recent.c.video_id
    )
    return (
        sa.select(*_cause(near.video_id, "collaborative", kind, Video.key, strength))
        .select_from(recent)
        .join(Video, Video.id == recent.c.video_id)
        .join(Interaction, state)
        .outerjoin(near, is_near)
        .where(*may_be_named(viewer, registry))
    )


def _tastes(viewer: Viewer, registry: Registry, space: str, page: CTE) -> Statement:
    """Return the recently engaged videos whose vectors point the same way as a video's vector."""
    recent, vectors = viewer.recent, space_table(space)
    own, other = vectors.alias("own"), vectors.alias("other")
    likeness = cosine(own.c.vector, other.c.vector)
    causes = _cause(page.c.video_id, "taste", "taste", Video.key, likeness)
    return (
        sa.select(*causes)
        .select_from(page)
        .join(own, own.c.video_id == page.c.video_id)
        .join(recent, sa.true())
        .join(other, other.c.video_id == recent.c.video_id)
        .join(Video, Video.id == other.c.video_id)
        .where(likeness > number(0), other.c.video_id != page.c.video_id)
        .where(*may_be_named(viewer, registry))
    )


def may_be_named(viewer: Viewer, registry: Registry) -> list[ColumnElement[bool]]:
    """Return the conditions that a reason may name a video beside the one that it is about."""
    ours = [rule for rule in FILTERS if rule.name not in NOT_FOR_NAMES]
    rules = (*ours, *registry.filters)
    return [still_published(viewer), *(rule.predicate(viewer) for rule in rules)]


def _hashtags(viewer: Viewer, page: CTE) -> Iterator[Statement]:
    """Return the hashtags of the videos that each signal in `TAG_SIGNALS` speaks for."""
    tags = _rated_hashtags(viewer, page)
    for signal in TAG_SIGNALS:
        strength = tags.c[signal]
        cause = _cause(tags.c.video_id, signal, "hashtag", tags.c.name, strength)
        yield sa.select(*cause).where(strength > 0)


def _rated_hashtags(viewer: Viewer, page: CTE) -> CTE:
    """Return the hashtags of the videos, with a column for each name in `TAG_SIGNALS`."""
    tag, lately = VideoHashtag.hashtag_id, viewer.lately
    # A subquery for each name: with a join PostgreSQL would read all hashtags.
    name = sa.select(Hashtag.name).where(Hashtag.id == tag).scalar_subquery()
    declared = sa.and_(UserHashtag.user_id == viewer.user_id, UserHashtag.hashtag_id == tag)
    learned = sa.and_(
        Affinity.user_id == viewer.user_id,
        Affinity.subject == "hashtag",
        Affinity.subject_id == tag,
    )
    return (
        sa.select(
            page.c.video_id,
            name.label("name"),
            is_true(UserHashtag.hashtag_id.is_not(None)).label("hashtags"),
            Affinity.score.label("hashtag_affinity"),
            lately.c.surplus.label("lately"),
        )
        .select_from(page)
        .join(VideoHashtag, VideoHashtag.video_id == page.c.video_id)
        .outerjoin(UserHashtag, declared)
        .outerjoin(Affinity, learned)
        .outerjoin(lately, lately.c.hashtag_id == tag)
        .cte("tags")
    )


def _follows(viewer: Viewer, page: CTE) -> Statement:
    """Return the creators of the videos whom the viewer follows."""
    creator = sa.select(User.key).where(User.id == Follow.creator_id).scalar_subquery()
    is_followed = sa.and_(Follow.user_id == viewer.user_id, Follow.creator_id == Video.creator_id)
    cause = _cause(page.c.video_id, "follows", "follows", creator, number(1))
    rows = sa.select(*cause).select_from(page).join(Video, Video.id == page.c.video_id)
    return rows.join(Follow, is_followed)


def _followed(viewer: Viewer, page: CTE) -> Statement:
    """Return the followed people who engaged with the videos recently."""
    person = sa.select(User.key).where(User.id == RECENT.c.user_id).scalar_subquery()
    newness = 1 / (1 + age_days(RECENT.c.at, viewer.as_of))
    cause = _cause(RECENT.c.video_id, "social", "followed", person, newness)
    # The sum keeps SQLite from looking up every video for every person.
    is_on_page = (RECENT.c.video_id + 0).in_(sa.select(page.c.video_id))
    return engagements_of(viewer.people, *cause).where(is_on_page, RECENT.c.at <= viewer.as_of)
