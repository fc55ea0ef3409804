"""Short causes for the videos of a page, such as "you liked pottery-12"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import Statement, is_now, is_true
from recommender.database.session import Session
from recommender.feed.values import FeedItem
from recommender.models import (
    Affinity,
    Hashtag,
    Interaction,
    UserHashtag,
    Video,
    VideoHashtag,
    VideoNeighbour,
)
from recommender.ranking.request import FeedRequest
from recommender.ranking.viewer import Viewer

MAX_CAUSES = 3

LEAST_SHARE = 0.02
"""The part of all that speaks for a video from which a cause is worth naming first."""

IMPERSONAL = ("quality", "trending", "freshness", "exploration", "language", "country", "device")
"""The signals that are the same, or nearly the same, for many viewers."""

TAG_SIGNALS = ("hashtags", "hashtag_affinity", "lately")
"""The signals that a hashtag of the video explains."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """The facts that the causes of one page may name.

    Attributes:
        liked: for each video, the video that it is a neighbour of, as a phrase.
        hashtags: for each video and each name in `TAG_SIGNALS`, the strongest hashtag.
    """

    liked: dict[int, str] = field(default_factory=dict)
    hashtags: dict[tuple[int, str], str] = field(default_factory=dict)


def short_reasons(
    session: Session, request: FeedRequest, items: Sequence[FeedItem]
) -> list[tuple[str, ...]]:
    """Return up to three short causes for each video of a page, the strongest first.

    The causes of a whole page take two statements. They name what the viewer did and what is true
    of the video, and nothing that another user did.

    Args:
        session: the caller's transaction.
        request: the request that the page answers.
        items: the videos of the page, with their signals.
    """
    ids = [item.video_id for item in items]
    facts = _facts(session, request, ids) if request.known and ids else _Facts()
    return [_causes(item, facts) for item in items]


def _facts(session: Session, request: FeedRequest, ids: Sequence[int]) -> _Facts:
    viewer = Viewer.of(request)
    facts = _Facts()
    for row in lookup.run(session, neighbour_query(viewer, ids)):
        verb = "liked" if row.is_liked else "enjoyed"
        facts.liked[row.video_id] = f"you {verb} {row.source}"
    largest: dict[tuple[int, str], float] = {}
    for row in lookup.run(session, hashtag_query(viewer, ids)):
        for signal in TAG_SIGNALS:
            value, key = row._mapping[signal], (row.video_id, signal)  # noqa: SLF001 - its API
            if value is not None and value > largest.get(key, 0):
                largest[key] = value
                facts.hashtags[key] = f"#{row.name}"
    return facts


def neighbour_query(viewer: Viewer, ids: Sequence[int]) -> Statement:
    """Return the statement that finds the recent video that each video is nearest to.

    Its columns are the video, the key of the video that the viewer engaged with, and whether the
    viewer likes that one now. Videos that are near to none are left out.

    Args:
        viewer: the viewer, with their recent engagements.
        ids: the videos of a page.
    """
    recent, near = viewer.recent, VideoNeighbour
    part = (near.similarity * recent.c.weight).desc()
    place = sa.func.row_number().over(
        partition_by=near.video_id, order_by=(part, recent.c.video_id.desc())
    )
    # An outer join keeps both databases from starting at the neighbours of all videos.
    is_near = sa.and_(near.source_id == recent.c.video_id, near.video_id.in_(ids))
    nearest = (
        sa.select(near.video_id, recent.c.video_id.label("source_id"), place.label("place"))
        .select_from(recent)
        .outerjoin(near, is_near)
        .subquery("nearest")
    )
    state = sa.and_(
        Interaction.user_id == viewer.user_id, Interaction.video_id == nearest.c.source_id
    )
    is_liked = is_now(Interaction.liked_at, Interaction.unliked_at)
    return (
        sa.select(nearest.c.video_id, Video.key.label("source"), is_liked.label("is_liked"))
        .select_from(nearest)
        .join(Video, Video.id == nearest.c.source_id)
        .join(Interaction, state)
        .where(nearest.c.place == 1, nearest.c.video_id.is_not(None))
        .prefix_with("/* recommender.neighbour_query */")
    )


def hashtag_query(viewer: Viewer, ids: Sequence[int]) -> Statement:
    """Return the statement that rates the hashtags of some videos for the viewer.

    Its columns are the video, the hashtag's name, and one column for each name in `TAG_SIGNALS`:
    above 0 if that signal speaks for the hashtag, else 0 or NULL. The rows are sorted by name.

    Args:
        viewer: the viewer, with the hashtags of what they saw last.
        ids: the videos of a page.
    """
    tag, lately = VideoHashtag.hashtag_id, viewer.lately
    declared = sa.and_(UserHashtag.user_id == viewer.user_id, UserHashtag.hashtag_id == tag)
    learned = sa.and_(
        Affinity.user_id == viewer.user_id,
        Affinity.subject == "hashtag",
        Affinity.subject_id == tag,
        Affinity.score > 0,
    )
    recent = sa.and_(lately.c.hashtag_id == tag, lately.c.surplus > 0)
    return (
        sa.select(
            VideoHashtag.video_id,
            Hashtag.name,
            is_true(UserHashtag.hashtag_id.is_not(None)).label("hashtags"),
            Affinity.score.label("hashtag_affinity"),
            lately.c.surplus.label("lately"),
        )
        .join(Hashtag, Hashtag.id == tag)
        .outerjoin(UserHashtag, declared)
        .outerjoin(Affinity, learned)
        .outerjoin(lately, recent)
        .where(VideoHashtag.video_id.in_(ids))
        .order_by(Hashtag.name)
        .prefix_with("/* recommender.hashtag_query */")
    )


def leading_signals(item: FeedItem) -> list[str]:
    """Return the signals that speak for a video, the ones to name first at the front.

    What the viewer did or chose comes before what is true for everyone, unless it adds next to
    nothing to the score.
    """
    parts = {n: c.contribution for n, c in item.signals.items() if c.contribution > 0 < c.value}
    least = LEAST_SHARE * sum(parts.values())
    unseen = item.signals.get("exploration")
    # A video with few viewers has no share of viewers yet: its quality is that of all videos.
    if unseen and unseen.value > 1 / 2:
        parts.pop("quality", None)
    return sorted(parts, key=lambda n: (n in IMPERSONAL or parts[n] < least, -parts[n]))


def _causes(item: FeedItem, facts: _Facts) -> tuple[str, ...]:
    phrases = dict.fromkeys(_cause(name, item, facts) for name in leading_signals(item))
    return tuple(phrases)[:MAX_CAUSES]


def _cause(signal: str, item: FeedItem, facts: _Facts) -> str:
    if signal in TAG_SIGNALS:
        return facts.hashtags.get((item.video_id, signal), "hashtags that you like")
    if signal == "collaborative":
        return facts.liked.get(item.video_id, "people with your taste enjoyed it")
    value = item.signals[signal].value
    followed = item.signals.get("follows")
    affinity = "follow" if followed and followed.value else "enjoy"
    phrases = {
        "completion": f"you watched {value:.0%} of it",
        "likes": "you like it",
        "shares": "you shared it",
        "follows": f"you follow {item.creator}",
        "sound": f"the sound {item.sound}",
        "language": "in your language",
        "country": "from your country",
        "comments": "you commented on it",
        "saves": "you saved it",
        "device": "fits your device",
        "creator_affinity": f"you {affinity} {item.creator}",
        "sound_affinity": f"the sound {item.sound}",
        "caption": "a caption like those you enjoyed",
        "social": "people you follow enjoyed it",
        "quality": f"{value:.0%} of its viewers watch on",
        "trending": "trending now",
        "freshness": "new",
        "exploration": "few have seen it yet",
    }
    return phrases.get(signal, f"its {signal} is {value:g}")
