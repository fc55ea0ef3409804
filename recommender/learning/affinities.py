"""Affinities of users to creators, hashtags and sounds, as exponentially decayed sums.

They use forward decay (Cormode, Shkapenyuk, Srivastava and Xu, 2009). An engagement at time t adds
weight * 2 ** n, where n is the number of half-lives between a fixed landmark and t. All sums then
decay by the same factor, which a reader applies once. No row is rewritten because of its age.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from recommender.database import bulk, lookup
from recommender.database.schema import first_state
from recommender.database.session import Session
from recommender.learning.engagement import FAST_SKIP_MS, Thresholds
from recommender.models import LearningState
from recommender.models.tables import AFFINITIES

DAY_SECONDS = 86_400.0

LARGEST_DECAY_EXPONENT = 950
"""The largest exponent of 2 in a forward-decayed score.

Python computes it. A sum of larger powers, each times a weight, could overflow a double.
"""

RULE_COLUMNS = (
    "landmark", "creator_half_life_days", "hashtag_half_life_days", "sound_half_life_days",
    "watch_weight", "like_weight", "save_weight", "share_weight", "comment_weight",
    "publish_weight", "skip_weight", "not_interested_weight", "report_weight", "convert_weight",
    "interested_weight", "long_video_ms", "engaged_part", "engaged_ms",
)  # fmt: skip
"""The columns of the learning state that affinities depend on."""


def decay_exponent(landmark: datetime, half_life_days: float, at: datetime) -> float:
    """Return the number of half-lives from the landmark to a time; negative before it."""
    return (at - landmark).total_seconds() / (half_life_days * DAY_SECONDS)


def bounded_decay_exponent(landmark: datetime, half_life_days: float, at: datetime) -> float:
    """Return the number of half-lives from the landmark to a time, from -950 to 950."""
    return _bounded(decay_exponent(landmark, half_life_days, at))


def _bounded(number: float) -> float:
    if -LARGEST_DECAY_EXPONENT <= number <= LARGEST_DECAY_EXPONENT:
        return number
    return math.copysign(LARGEST_DECAY_EXPONENT, number)


class Subjects(NamedTuple):
    """The ids of a video's creator, sound and hashtags, to which users have affinities."""

    creators: tuple[int, ...] = ()
    sounds: tuple[int, ...] = ()
    hashtags: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, creator_id: int | None, sound_id: int | None, hashtag_ids: tuple[int, ...]
    ) -> Subjects:
        """Return the subjects of a video; None stands for no creator or no sound."""
        creators = () if creator_id is None else (creator_id,)
        sounds = () if sound_id is None else (sound_id,)
        return cls(creators, sounds, hashtag_ids)


@dataclass(frozen=True, slots=True)
class Rules:
    """The values of the learning state that affinities depend on; see `LearningState`."""

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
    convert_weight: float
    interested_weight: float
    long_video_ms: int
    engaged_part: float
    engaged_ms: int

    @property
    def thresholds(self) -> Thresholds:
        """What makes a watch an engaged view."""
        return Thresholds(self.engaged_part, self.engaged_ms)

    def event_weight(
        self,
        kind: str,
        part: float | None,
        watch_ms: int | None,
        duration_ms: int | None,
        *,
        engaged: bool,
    ) -> float:
        """Return the weight of a watch, share, comment, conversion or report; 0 for other kinds.

        These events count every time they occur. A watched long video weighs more than a short one.

        Args:
            kind: one of `scalars.EVENT_KINDS`.
            part: the part watched, 0 to 1; None if unknown.
            watch_ms: milliseconds watched, as recorded in the log; None if not recorded.
            duration_ms: the video's duration in milliseconds; None if unknown.
            engaged: True if the event is an engaged view.
        """
        if kind != "watch":
            return {
                "share": self.share_weight,
                "comment": self.comment_weight,
                "convert": self.convert_weight,
                "report": self.report_weight,
            }.get(kind, 0.0)
        if engaged:
            duration = duration_ms or self.long_video_ms
            whole = self.watch_weight * (1.0 if part is None else part)
            return whole * duration / (duration + self.long_video_ms)
        return self.skip_weight if watch_ms is not None and watch_ms < FAST_SKIP_MS else 0.0

    def state_weights(
        self, state: Mapping[str, Any], since: datetime | None
    ) -> set[tuple[str, float, datetime]]:
        """Return the like, save, interest and lack of interest that hold in a state.

        These count once per user and video, however often they are set.

        Args:
            state: a row of interactions.
            since: the time until which everything is forgotten; None if nothing is.

        Returns:
            Triples of a name, its weight and the time it was set.
        """
        weights = set()
        for name, weight, on, off in (
            ("like", self.like_weight, state["liked_at"], state["unliked_at"]),
            ("save", self.save_weight, state["saved_at"], state["unsaved_at"]),
            (*self._interest(state), None),
        ):
            if on and (off is None or on > off) and (since is None or on > since):
                weights.add((name, weight, on))
        return weights

    def _interest(self, state: Mapping[str, Any]) -> tuple[str, float, datetime | None]:
        """Return the later of interest and lack of interest: its name, weight and time."""
        refused, wanted = state["not_interested_at"], state["interested_at"]
        if refused and (wanted is None or refused > wanted):
            return "no", self.not_interested_weight, refused
        return "yes", self.interested_weight, wanted


_SUBJECTS = ("creator", "sound", "hashtag")
"""The stored names of the fields of `Subjects`."""


class AffinityChanges:
    """Changes of affinities, summed by key and not yet written."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._half_lives = (
            rules.creator_half_life_days * DAY_SECONDS,
            rules.sound_half_life_days * DAY_SECONDS,
            rules.hashtag_half_life_days * DAY_SECONDS,
        )
        self._sums: dict[int, tuple[dict[int, float], ...]] = {}
        """The sums of each user by the ids of subjects: creators, sounds and hashtags."""

    def add(self, user_id: int, subjects: Subjects, weight: float, at: datetime) -> None:
        """Add one engagement of a user; a negated weight takes it back.

        Args:
            user_id: the user's id.
            subjects: the subjects of the video.
            weight: the engagement's weight; may be negative.
            at: the engagement's time.
        """
        if not weight:
            return
        if (sums := self._sums.get(user_id)) is None:
            sums = self._sums[user_id] = ({}, {}, {})
        seconds = (at - self.rules.landmark).total_seconds()
        for half_life, ids, scores in zip(self._half_lives, subjects, sums, strict=True):
            if ids:
                # Hashtags share the weight, so many of them count no more than one.
                score = weight / len(ids) * 2.0 ** _bounded(seconds / half_life)
                for subject_id in ids:
                    scores[subject_id] = scores.get(subject_id, 0.0) + score

    def rows(self) -> list[bulk.Insert]:
        """Return the sums to add to the stored scores, in the order of users' ids; maybe none."""
        columns: dict[str, list[Any]] = {column.name: [] for column in AFFINITIES.c}
        for user_id in sorted(self._sums):
            for subject, scores in zip(_SUBJECTS, self._sums[user_id], strict=True):
                columns["user_id"] += [user_id] * len(scores)
                columns["subject"] += [subject] * len(scores)
                columns["subject_id"] += scores
                columns["score"] += scores.values()
        return [bulk.Insert(AFFINITIES, columns, {"score": bulk.added})] if self._sums else []

    def write(self, session: Session) -> None:
        """Add the sums to the stored scores."""
        bulk.insert_together(session, self.rows())


def read_rules(session: Session) -> Rules:
    """Return the rules in force, read by one statement."""
    columns = [getattr(LearningState, name) for name in RULE_COLUMNS]
    return Rules(*first_state(lookup.run(session, sa.select(*columns))))
