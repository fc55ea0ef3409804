"""Figures from the places of some users: signals, and how unlike the videos of a page are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from statistics import fmean
from typing import Any

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import named
from recommender.database.session import Session
from recommender.evaluation.metrics import diversity
from recommender.models import FeedSession, ProfileWeight, ServedVideo, Video
from recommender.models.tables import VIDEO_HASHTAGS
from recommender.reports.places import ENJOYED, joined_places, outcome_of_place
from recommender.reports.values import Sample, SignalShare

SAMPLED_PLACES = 20_000
"""About the number of places in a sample: their signals are read one by one."""

MAX_PLACES = 3 * SAMPLED_PLACES
"""The largest number of places that are read, if the users of a sample have many."""

FETCHED_ROWS = 1_000
"""The number of rows fetched per batch."""

Weights = Mapping[int, Mapping[str, float]]
"""The weights of each profile by its row id."""

Page = tuple[int, Any, int]
"""The key of a page: user, session, and its first position."""


def sampled(session: Session, since: datetime, until: datetime, places: int) -> Sample:
    """Return the figures of a sample of users: three statements, or none without places.

    Args:
        session: the caller's transaction.
        since: the start of the report's time.
        until: its end.
        places: the number of places in it.
    """
    if not places:
        return Sample()
    every = -(-places // SAMPLED_PLACES)
    rows = lookup.run(session, _rows(since, until, every).execution_options(yield_per=FETCHED_ROWS))
    sample = _Sums(_weights(session))
    for row in rows:
        sample.add(row)
    return Sample(
        every=every,
        places=sample.places,
        pages=len(sample.videos),
        signals=sample.signals(),
        creators=_share_of_creators(sample.creators.values()),
        diversity=_diversity(session, list(sample.videos.values())),
    )


def _rows(since: datetime, until: datetime, every: int) -> sa.Select[Any]:
    """Return the places of the users whose row ids are divisible by a number."""
    key = (ServedVideo.user_id, ServedVideo.session)
    columns = (ServedVideo.page, ServedVideo.video_id, ServedVideo.profile_id, ServedVideo.signals)
    outcome = (outcome_of_place().label("outcome"), Video.creator_id)
    rows = joined_places(*key, *columns, *outcome).join(Video, Video.id == ServedVideo.video_id)
    is_sampled = (ServedVideo.user_id % every == 0, FeedSession.last_at >= since)
    in_time = (ServedVideo.served_at >= since, ServedVideo.served_at < until)
    return named(rows.where(*is_sampled, *in_time).limit(MAX_PLACES), "report")


def _weights(session: Session) -> Weights:
    weights: dict[int, dict[str, float]] = defaultdict(dict)
    columns = (ProfileWeight.profile_id, ProfileWeight.signal, ProfileWeight.weight)
    for profile, signal, weight in lookup.run(session, named(sa.select(*columns), "report")):
        weights[profile][signal] = weight
    return weights


class _Sums:
    """The sums over the places of a sample, and the pages that they are on."""

    def __init__(self, weights: Weights) -> None:
        self.places = 0
        self.videos: dict[Page, list[int]] = defaultdict(list)
        self.creators: dict[Page, list[int]] = defaultdict(list)
        self._weights = weights
        self._counts: Counter[bool] = Counter()
        self._added: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}

    def add(self, row: Any) -> None:
        """Add a place."""
        self.places += 1
        page = (row.user_id, row.session, row.page)
        self.videos[page].append(row.video_id)
        if row.creator_id is not None:
            self.creators[page].append(row.creator_id)
        if not row.outcome:
            return
        is_enjoyed = row.outcome == ENJOYED
        self._counts[is_enjoyed] += 1
        weights, added = self._weights.get(row.profile_id, {}), self._added[is_enjoyed]
        for name, value in row.signals.items():
            # A signal of the host is recorded with its weight.
            own = value if isinstance(value, list) else (value, weights.get(name, 0.0))
            added[name] += own[0] * own[1]

    def signals(self) -> tuple[SignalShare, ...]:
        """Return what each signal added to the places that were looked at."""
        names = {name for added in self._added.values() for name in added}
        shares = [
            SignalShare(name, *(self._mean(name, is_enjoyed=each) for each in (True, False)))
            for name in names
        ]
        return tuple(sorted(shares, key=lambda share: (-share.enjoyed, share.signal)))

    def _mean(self, name: str, *, is_enjoyed: bool) -> float:
        count = self._counts[is_enjoyed]
        return self._added[is_enjoyed][name] / count if count else 0.0


def _share_of_creators(pages: Iterable[list[int]]) -> float | None:
    """Return the number of different creators on pages, by the number of places."""
    different, places = 0, 0
    for creators in pages:
        different += len(set(creators))
        places += len(creators)
    return different / places if places else None


def _diversity(session: Session, pages: list[list[int]]) -> float | None:
    """Return the mean intra-list diversity of hashtags; None if no video has a hashtag."""
    videos = {video for page in pages for video in page}
    columns = [VIDEO_HASHTAGS.c.video_id, VIDEO_HASHTAGS.c.hashtag_id]
    keys = [(video,) for video in sorted(videos)]
    tags: dict[int, set[int]] = defaultdict(set)
    for video, hashtag in lookup.find(session, columns[:1], keys, columns):
        tags[video].add(hashtag)
    if not tags:
        return None
    shares = [diversity([tags.get(video, set()) for video in page]) for page in pages]
    known = [share for share in shares if share is not None]
    return fmean(known) if known else None
