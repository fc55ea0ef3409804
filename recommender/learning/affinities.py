"""What one thing that a user did says about their interests, as numbers to add up.

Forward decay (Cormode, Shkapenyuk, Srivastava and Xu, 2009): an engagement at time t adds its
weight times 2 to the power of the half-lives from the landmark to t. Sums of such numbers age all
alike, so that one factor brings them to any reading time and no row is rewritten for age.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.learning.engagement import FAST_SKIP_MS
from recommender.models import LearningState
from recommender.models.tables import AFFINITIES

DAY = 86_400.0

LARGEST_DECAY_EXPONENT = 950
"""The largest exponent of 2 in a forward-decayed score.

Python computes it. A sum of larger powers, each times a weight, could overflow a double.
"""

RULES = (
    "landmark", "creator_half_life_days", "hashtag_half_life_days", "sound_half_life_days",
    "watch_weight", "like_weight", "save_weight", "share_weight", "comment_weight",
    "publish_weight", "skip_weight", "not_interested_weight", "report_weight", "long_video_ms",
)  # fmt: skip
"""The columns of the learning state that an affinity depends on."""

Key = tuple[int, str, int]
"""A user's id, a subject of `SUBJECTS`, and the id of the creator, hashtag or sound."""


def exponent(landmark: datetime, half_life_days: float, at: datetime) -> float:
    """How many half-lives after the landmark a time is."""
    return (at - landmark).total_seconds() / (half_life_days * DAY)


def half_lives(landmark: datetime, half_life_days: float, at: datetime) -> float:
    """How many half-lives after the landmark a time is, at most 950 either way."""
    return _bounded(exponent(landmark, half_life_days, at))


def _bounded(number: float) -> float:
    if -LARGEST_DECAY_EXPONENT <= number <= LARGEST_DECAY_EXPONENT:
        return number
    return math.copysign(LARGEST_DECAY_EXPONENT, number)


class Subjects(NamedTuple):
    """What a video is about: the ids of its creator, sound and hashtags, none or more of each."""

    creators: tuple[int, ...] = ()
    sounds: tuple[int, ...] = ()
    hashtags: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, creator_id: int | None, sound_id: int | None, hashtag_ids: tuple[int, ...]
    ) -> Subjects:
        """Those of a video that may have no sound, or whose creator does not matter."""
        creators, sounds = (() if one is None else (one,) for one in (creator_id, sound_id))
        return cls(creators, sounds, hashtag_ids)


@dataclass(frozen=True, slots=True)
class Rules:
    """The learning state that affinities depend on; see `LearningState`."""

    landmark: datetime
    creator_half_life_days: float
    hashtag_half_life_days: float
    sound_half_life_days: float
    watch_weight: float
    like_weight: float
    save_weight: float
    share_weight: float
    comment_weight: float
    publish_weight: float
    skip_weight: float
    not_interested_weight: float
    report_weight: float
    long_video_ms: int

    def of_event(
        self,
        kind: str,
        part: float | None,
        watch_ms: int | None,
        duration_ms: int | None,
        *,
        engaged: bool,
    ) -> float:
        """The weight of one event that counts each time: a watch, share, comment or report.

        A longer video watched to its end says more than a short one.

        Args:
            kind: one of `scalars.KINDS`.
            part: the part watched, 0 to 1, None where unknown.
            watch_ms: milliseconds watched as the log has them, None where it does not say.
            duration_ms: those that the video takes, None where unknown.
            engaged: whether it is an engaged view.
        """
        if kind != "watch":
            return {
                "share": self.share_weight,
                "comment": self.comment_weight,
                "report": self.report_weight,
            }.get(kind, 0.0)
        if engaged:
            duration = duration_ms or self.long_video_ms
            whole = self.watch_weight * (1.0 if part is None else part)
            return whole * duration / (duration + self.long_video_ms)
        return self.skip_weight if watch_ms is not None and watch_ms < FAST_SKIP_MS else 0.0

    def of_state(
        self, state: Mapping[str, Any], since: datetime | None
    ) -> set[tuple[str, float, datetime]]:
        """What is on in a state: like, save, lack of interest; each with its weight and since when.

        Args:
            state: a row of interactions.
            since: what was turned on at or before this time does not count.
        """
        found = set()
        for name, weight, on, off in (
            ("like", self.like_weight, state["liked_at"], state["unliked_at"]),
            ("save", self.save_weight, state["saved_at"], state["unsaved_at"]),
            ("no", self.not_interested_weight, state["not_interested_at"], None),
        ):
            if on and (off is None or on > off) and (since is None or on > since):
                found.add((name, weight, on))
        return found


class Learned:
    """Contributions to affinities, summed by their keys and not yet written."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._sums: defaultdict[Key, float] = defaultdict(float)
        self._half_lives = (
            ("creator", rules.creator_half_life_days * DAY),
            ("sound", rules.sound_half_life_days * DAY),
            ("hashtag", rules.hashtag_half_life_days * DAY),
        )

    def add(self, user_id: int, subjects: Subjects, weight: float, at: datetime) -> None:
        """Add one engagement of a user, or take it back by a weight of the other sign.

        A video's hashtags share its weight, so that many of them do not say more than one.
        """
        if not weight:
            return
        seconds = (at - self.rules.landmark).total_seconds()
        for (subject, half_life), ids in zip(self._half_lives, subjects, strict=True):
            if ids:
                grown = weight / len(ids) * 2.0 ** _bounded(seconds / half_life)
                for subject_id in ids:
                    self._sums[user_id, subject, subject_id] += grown

    def write(self, session: Session) -> None:
        """Add the sums to those in the database, in the order of their users."""
        if not self._sums:
            return
        keys = sorted(self._sums, key=itemgetter(0))
        users, subjects, ids = zip(*keys, strict=True)
        scores = list(map(self._sums.__getitem__, keys))
        columns = {"user_id": users, "subject": subjects, "subject_id": ids, "score": scores}
        bulk.insert_columns(session, AFFINITIES, columns, merge={"score": bulk.added})


def rules(session: Session) -> Rules:
    """The rules in force: one statement."""
    columns = [getattr(LearningState, name) for name in RULES]
    return Rules(*lookup.run(session, sa.select(*columns)).one())
