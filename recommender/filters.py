"""Which videos a feed may show: one named predicate each.

A filter reads the video's row and the viewer's bound values. The order of `FILTERS` is the order in
which an explanation lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, BindParameter, ColumnElement, Text, literal

from recommender.columns import UtcDateTime
from recommender.models import Video
from recommender.values import FeedRequest


@dataclass(frozen=True, slots=True)
class Viewer:
    """The viewer as bound values of a statement; all but `as_of` are NULL where unknown."""

    user_id: BindParameter[int | None]
    language: BindParameter[str | None]
    country: BindParameter[str | None]
    as_of: BindParameter[datetime]

    @classmethod
    def of(cls, request: FeedRequest) -> Viewer:
        """The viewer of a resolved request."""
        return cls(
            user_id=literal(request.user_id, BigInteger()),
            language=literal(request.language, Text()),
            country=literal(request.country, Text()),
            as_of=literal(request.as_of, UtcDateTime()),
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """A named predicate over `Video`: true where the video may be shown to the viewer.

    `otherwise` says why not, after "Not shown: ".
    """

    name: str
    predicate: Callable[[Viewer], ColumnElement[bool]]
    otherwise: str


def published(_viewer: Viewer) -> ColumnElement[bool]:
    """The video is neither under review nor removed."""
    return Video.status == "published"


def not_in_future(viewer: Viewer) -> ColumnElement[bool]:
    """The video's time of publishing has come."""
    return Video.published_at <= viewer.as_of


FILTERS = (
    Filter("published", published, "it is under review or removed"),
    Filter("not_in_future", not_in_future, "it is published later"),
)
