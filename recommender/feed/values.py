"""feed.values: TODO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from recommender.ranking.request import FeedRequest


class Contribution(NamedTuple):
    """One signal's part of a score: value · weight."""

    value: float
    weight: float

    @property
    def contribution(self) -> float:
        """What the signal adds to the score, to nine decimals."""
        return round(self.value * self.weight, 9)


@dataclass(frozen=True, slots=True)
class FeedItem:
    """One video of a page.

    Attributes:
        position: 1 for the first of the session.
        video: the video's key.
        creator: its creator's key.
        caption: its caption, None where it has none.
        hashtags: its hashtags, sorted.
        sound: its sound's key, None where it has none.
        published_at: in UTC.
        score: the weighted sum, to nine decimals.
        sources: where the candidate came from.
        signals: each signal's value and weight, in the profile's order.
        video_id: the video's row.
        explored: whether the place was kept for a video on trial.
        crowded: whether all else was by the creator, or with the sound, of the video before.
    """

    position: int
    video: str
    creator: str
    caption: str | None
    hashtags: tuple[str, ...]
    sound: str | None
    published_at: datetime
    score: float
    sources: tuple[str, ...]
    signals: Mapping[str, Contribution]
    video_id: int = 0
    explored: bool = False
    crowded: bool = False


@dataclass(frozen=True, slots=True)
class FeedPage:
    """An ordered page of a feed, and what it was made from.

    Attributes:
        request: the resolved request.
        items: its videos, in order.
        session: the session that it was recorded in, None for a preview that begins none.
        cursor: what asks for the next page, None where there is none to ask for.
        exhausted: whether fewer videos were left than were asked for.
    """

    request: FeedRequest
    items: tuple[FeedItem, ...]
    session: str | None = None
    cursor: str | None = None
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class FilterOutcome:
    """Whether a video passed one named filter."""

    name: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a video stands where it stands in a viewer's feed, or why it is not there.

    Attributes:
        request: the resolved request.
        item: the video with its score and signals.
        filters: every filter with its outcome.
        rank: 1 for the first of the whole filtered order, None where it is not in it.
        reason: one sentence.
        displaced_by: the keys of the videos just ahead, the nearest first, 3 at most.
    """

    request: FeedRequest
    item: FeedItem
    filters: tuple[FilterOutcome, ...]
    rank: int | None
    reason: str
    displaced_by: tuple[str, ...] = ()

    @property
    def shown(self) -> bool:
        """Whether the video is in the viewer's order at all."""
        return self.rank is not None
