"""The results of a feed: items, pages and explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from recommender.errors import InvalidValue
from recommender.formats import scalars
from recommender.formats.plain import plain
from recommender.ranking.request import FeedRequest, Profile, RequestSummary


class Contribution(NamedTuple):
    """One signal's part of a score: value · weight."""

    value: float
    weight: float

    @property
    def contribution(self) -> float:
        """The number that the signal adds to the score, to nine decimals."""
        return round(self.value * self.weight, 9) + 0.0  # the sum makes 0.0 of -0.0

    def as_dict(self) -> dict[str, float]:
        """Return value, weight and contribution."""
        return {"value": self.value, "weight": self.weight, "contribution": self.contribution}


@dataclass(frozen=True, slots=True)
class Words:
    """The words for one format in explanations, such as ``Words("articles", "read", "read on")``.

    Attributes:
        plural: what several of them are called.
        watched: what a viewer did with one, in the past tense.
        engage: what viewers do who like one, after "of those who see it".
        converted: what an event `convert` means, in the past tense, such as ``bought``.
    """

    plural: str = "videos"
    watched: str = "watched"
    engage: str = "watch on"
    converted: str = "acted on"


@dataclass(frozen=True, slots=True)
class FilterOutcome:
    """The outcome of one filter for one video.

    Attributes:
        name: the name of a filter in `FILTERS`, of a registered one, or ``where`` or ``excluded``.
        passed: whether the filter lets the video through.
    """

    name: str
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the name, and whether the video passed."""
        return {"name": self.name, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Reason:
    """A cause why a video is shown, or is left out, for sentences in a host's own language.

    It names nothing of other people but the creator, and people whom the viewer follows.

    Attributes:
        kind: the kind of cause, such as ``liked``; the README of the feed lists them.
        subject: the key of the video, user or sound, the hashtag or the words that the cause
            names; None if it names nothing.
        at: the time of the cause in UTC, None if it has none or it is not known.
        text: the host's sentence, for its own signals and filters; None for ours.
    """

    kind: str
    subject: str | None = None
    at: datetime | None = None
    text: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the kind, the subject, the time, and the host's sentence if there is one."""
        cause = {"kind": self.kind, "subject": self.subject, "at": plain(self.at)}
        return {**cause, "text": self.text} if self.text else cause


@dataclass(frozen=True, slots=True)
class FeedItem:
    """One video of a page.

    Attributes:
        position: the position in the session, from 1.
        video: the video's key.
        creator: its creator's key, None if it has none.
        caption: its caption, None if it has none.
        hashtags: its hashtags, sorted.
        sound: its sound's key, None if it has none.
        published_at: in UTC, None if unknown.
        score: the weighted sum, to nine decimals.
        sources: the sources that found the candidate.
        signals: each signal's value and weight, in the profile's order.
        video_id: the row id of the video.
        explored: whether the position was kept for exploration: a new video with few impressions.
        crowded: whether every candidate left shared its creator or sound with the video before,
            or `record_page` left out the videos between the two.
        refilled: whether the video was served before and comes again, unseen, because no other
            video was left for the page.
        format: the host's word for what it is, None if not given.
        filters: the outcomes of the filters, which only `rank` tells; empty in other lists.
        reasons: up to three causes of its place, the strongest first; empty if not asked for.
        reason: the sentence of these causes, None if not asked for.
        profile: the profile that ranked it; None for the one of the page.
    """

    position: int
    video: str
    creator: str | None
    caption: str | None
    hashtags: tuple[str, ...]
    sound: str | None
    published_at: datetime | None
    score: float
    sources: tuple[str, ...]
    signals: Mapping[str, Contribution]
    video_id: int = 0
    explored: bool = False
    crowded: bool = False
    refilled: bool = False
    format: str | None = None
    filters: tuple[FilterOutcome, ...] = ()
    reasons: tuple[Reason, ...] = ()
    reason: str | None = None
    profile: Profile | None = None

    def as_dict(self, *, signals: bool = False) -> dict[str, Any]:
        """Return the video as `feed --format json` prints it.

        Args:
            signals: whether to add what each signal adds to the score.
        """
        shown = {
            "position": self.position,
            "video": self.video,
            "creator": self.creator,
            "caption": self.caption,
            "hashtags": list(self.hashtags),
            "sound": self.sound,
            "published_at": plain(self.published_at),
            "format": self.format,
            "score": self.score,
            "sources": list(self.sources),
        }
        if self.refilled:
            shown["refilled"] = True
        if self.profile is not None:
            shown["profile"] = self.profile.label
        if self.filters:
            shown["filters"] = [outcome.as_dict() for outcome in self.filters]
        if self.reasons:
            shown["reasons"] = [reason.as_dict() for reason in self.reasons]
            shown["reason"] = self.reason
        return {**shown, "signals": self.signals_as_dict()} if signals else shown

    def signals_as_dict(self) -> dict[str, dict[str, float]]:
        """Return the value, the weight and the contribution of each signal."""
        return {name: part.as_dict() for name, part in self.signals.items()}


Reduction: TypeAlias = Literal["candidates", "sources"]
"""How a page within a budget was made cheaper: from fewer candidates, or from few sources."""


@dataclass(frozen=True, slots=True)
class FeedPage:
    """An ordered page of a feed, with the request that it answers.

    It holds values only, so it can be pickled and encoded as JSON.

    Attributes:
        request: the summary of the request.
        items: its videos, in order.
        session: the session that it was recorded in, None if it was not recorded.
        cursor: the text that asks for the next page, None if there is no next page.
        exhausted: whether fewer videos were left than were requested.
        stale: whether `record_page` could record no video of the page: request the page again.
        milliseconds: the time from the resolved request to the ranked page, 0 if not measured.
        cut_short: whether the page is short because the scan for `where` reached
            `Settings.scan_limit`; the next page goes on with it. False if it is served again.
        reduced: how the page was made cheaper to keep to its budget: ``candidates`` if its sources
            gave fewer of them, ``sources`` if only few sources were read, because a ranking from
            all was cancelled. None if it was not, and if it is served again.
    """

    request: RequestSummary
    items: tuple[FeedItem, ...]
    session: str | None = None
    cursor: str | None = None
    exhausted: bool = False
    cut_short: bool = False
    stale: bool = False
    milliseconds: int = field(default=0, compare=False)
    reduced: Reduction | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _summarize(self)

    def as_dict(self, *, signals: bool = False) -> dict[str, Any]:
        """Return the page as `feed --format json` prints it.

        Args:
            signals: whether to add what each signal adds to the scores.
        """
        return {
            **self.request.as_dict(),
            "as_of": plain(self.request.as_of),
            "session": self.session,
            "cursor": self.cursor,
            "exhausted": self.exhausted,
            "cut_short": self.cut_short,
            "stale": self.stale,
            **({"reduced": self.reduced} if self.reduced else {}),
            "items": [item.as_dict(signals=signals) for item in self.items],
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reasons why a video has its rank in a viewer's feed, or is left out.

    Attributes:
        request: the summary of the request.
        item: the video with its score and signals.
        filters: every filter with its outcome.
        rank: the rank in the viewer's whole filtered order, from 1; None if it is left out.
        reason: one sentence.
        reasons: its causes: up to three if the video is shown, else one.
        displaced_by: the keys of up to 3 videos just ahead, the nearest first.
    """

    request: RequestSummary
    item: FeedItem
    filters: tuple[FilterOutcome, ...]
    rank: int | None
    reason: str
    reasons: tuple[Reason, ...]
    displaced_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _summarize(self)

    @property
    def shown(self) -> bool:
        """True if the video is in the viewer's order at all."""
        return self.rank is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the explanation as `explain --format json` prints it."""
        request = self.request.as_dict()
        return {
            "user": request.pop("user"),
            "known": request.pop("known"),
            "video": self.item.video,
            **request,
            "shown": self.shown,
            "rank": self.rank,
            "score": self.item.score,
            "signals": self.item.signals_as_dict(),
            "sources": list(self.item.sources),
            "filters": [outcome.as_dict() for outcome in self.filters],
            "reason": self.reason,
            "reasons": [reason.as_dict() for reason in self.reasons],
            "displaced_by": list(self.displaced_by),
        }


def _summarize(result: FeedPage | Explanation) -> None:
    """Replace the full request, which holds SQL expressions, by its summary."""
    if isinstance(result.request, FeedRequest):
        object.__setattr__(result, "request", result.request.summary())


WordsByFormat: TypeAlias = Mapping[str, Words]


def checked_words(words: WordsByFormat | None) -> WordsByFormat:
    """Return the words of formats, none if not given; `InvalidValue` if they are something else."""
    if words is None:
        return {}
    if not isinstance(words, Mapping):
        raise InvalidValue(f"words: {scalars.shown(words)} is no mapping of formats")
    if odd := [name for name, each in words.items() if not isinstance(each, Words)]:
        raise InvalidValue(f"words: {scalars.shown(words[odd[0]])} is no Words")
    return words
