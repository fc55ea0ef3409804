"""The results of a feed: items, pages and explanations."""

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
        """The number that the signal adds to the score, to nine decimals."""
        return round(self.value * self.weight, 9)


@dataclass(frozen=True, slots=True)
class FeedItem:
    """One video of a page.

    Attributes:
        position: the position in the session, from 1.
        video: the video's key.
        creator: its creator's key.
        caption: its caption, None if it has none.
        hashtags: its hashtags, sorted.
        sound: its sound's key, None if it has none.
        published_at: in UTC.
        score: the weighted sum, to nine decimals.
        sources: the sources that found the candidate.
        signals: each signal's value and weight, in the profile's order.
        video_id: the row id of the video.
        explored: whether the position was kept for exploration: a new video with few impressions.
        crowded: whether every candidate left shared its creator or sound with the video before.
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
    """An ordered page of a feed, with the request that it answers.

    Attributes:
        request: the resolved request.
        items: its videos, in order.
        session: the session that it was recorded in, None if it was not recorded.
        cursor: the text that asks for the next page, None if there is no next page.
        exhausted: whether fewer videos were left than were requested.
        stale: whether `record_page` could record no video of the page: request the page again.
    """

    request: FeedRequest
    items: tuple[FeedItem, ...]
    session: str | None = None
    cursor: str | None = None
    exhausted: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True)
class FilterOutcome:
    """The outcome of one filter for one video."""

    name: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reasons why a video has its rank in a viewer's feed, or is left out.

    Attributes:
        request: the resolved request.
        item: the video with its score and signals.
        filters: every filter with its outcome.
        rank: the rank in the viewer's whole filtered order, from 1; None if it is left out.
        reason: one sentence.
        displaced_by: the keys of up to 3 videos just ahead, the nearest first.
    """

    request: FeedRequest
    item: FeedItem
    filters: tuple[FilterOutcome, ...]
    rank: int | None
    reason: str
    displaced_by: tuple[str, ...] = ()

    @property
    def shown(self) -> bool:
        """True if the video is in the viewer's order at all."""
        return self.rank is not None
