"""The results of the list of people to follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recommender.feed.values import Contribution
from recommender.formats.plain import plain
from recommender.ranking.request import RequestSummary


@dataclass(frozen=True, slots=True)
class PersonReason:
    """A cause why a person is suggested, for sentences in a host's own language.

    It names no one but one person whom the viewer follows and whom everyone may find.

    Attributes:
        kind: the kind of cause, such as ``followed_by``; the README of the lists names them.
        subject: the key of the person whom the cause names; None if it names none.
        count: the number of people or of videos that the cause is about; None if it has none.
    """

    kind: str
    subject: str | None = None
    count: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the kind, the subject and the count."""
        return {"kind": self.kind, "subject": self.subject, "count": self.count}


@dataclass(frozen=True, slots=True)
class Person:
    """A creator whom the viewer could follow.

    Attributes:
        position: the position on the page, from 1.
        creator: the creator's key.
        score: the weighted sum, to nine decimals.
        sources: the sources that found the creator.
        signals: each signal's value and weight, in the profile's order.
        creator_id: the row id of the creator.
        reasons: up to three causes, the strongest first; empty if not asked for.
        reason: the sentences of these causes, None if not asked for.
    """

    position: int
    creator: str
    score: float
    sources: tuple[str, ...]
    signals: Mapping[str, Contribution]
    creator_id: int = 0
    reasons: tuple[PersonReason, ...] = ()
    reason: str | None = None

    def as_dict(self, *, signals: bool = False) -> dict[str, Any]:
        """Return the person as `people --format json` prints it.

        Args:
            signals: whether to add what each signal adds to the score.
        """
        shown: dict[str, Any] = {
            "position": self.position,
            "creator": self.creator,
            "score": self.score,
            "sources": list(self.sources),
        }
        if self.reasons:
            shown["reasons"] = [reason.as_dict() for reason in self.reasons]
            shown["reason"] = self.reason
        if signals:
            shown["signals"] = {name: part.as_dict() for name, part in self.signals.items()}
        return shown


@dataclass(frozen=True, slots=True)
class PeoplePage:
    """An ordered page of people to follow, with the request that it answers.

    Attributes:
        request: the summary of the request.
        items: the people, in order.
        cursor: the text that asks for the next page, None if there is no next page.
        exhausted: whether no more people are left.
    """

    request: RequestSummary
    items: tuple[Person, ...]
    cursor: str | None = None
    exhausted: bool = False

    def as_dict(self, *, signals: bool = False) -> dict[str, Any]:
        """Return the page as `people --format json` prints it.

        Args:
            signals: whether to add what each signal adds to the scores.
        """
        return {
            **self.request.as_dict(),
            "as_of": plain(self.request.as_of),
            "cursor": self.cursor,
            "exhausted": self.exhausted,
            "items": [item.as_dict(signals=signals) for item in self.items],
        }
