"""The cursors of sessions and of plain lists: what they hold, and how they are written."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import BigInteger, ColumnElement, Double, literal

from recommender.errors import InvalidCursor, InvalidValue
from recommender.formats import scalars
from recommender.formats.scalars import LARGEST_ID
from recommender.models import Video
from recommender.models.types import UtcDateTime, microseconds
from recommender.ranking.request import ScanPosition
from recommender.ranking.sources import LEAST_TREND

_SESSION_FORM, _SCAN_FORM = ">16sI", ">qq"

_SESSION_BYTES = struct.calcsize(_SESSION_FORM)

SECOND_POSITION = 2
"""The smallest position of a cursor: the first page of a session is requested without one."""

BY_FOLLOWED, BY_TREND, BY_NEWNESS = b"f", b"t", b"n"
"""The orders of the lists: newest videos of followed creators; trending videos with and without a
trend."""

LARGEST_TREND = -LEAST_TREND


class SessionPosition(NamedTuple):
    """The place of a page in a session.

    Attributes:
        session: the id of the session.
        position: the position of the page's first video, from 1.
        scan_after: as in `FeedRequest`.
    """

    session: UUID
    position: int
    scan_after: ScanPosition | None = None

    @property
    def cursor(self) -> str:
        """The text that asks for the page: letters, digits, `-` and `_`."""
        packed = struct.pack(_SESSION_FORM, self.session.bytes, self.position)
        if self.scan_after is None:
            return encoded(packed)
        published_at, video_id = self.scan_after
        return encoded(packed + struct.pack(_SCAN_FORM, microseconds(published_at), video_id))


def read_cursor(cursor: str) -> SessionPosition:
    """Return the place in a session that a cursor holds.

    Raises:
        InvalidCursor: the text has not the form of a cursor.
    """
    try:
        packed = decoded(cursor)
        session, position = struct.unpack_from(_SESSION_FORM, packed)
        after = _scan_position(packed[_SESSION_BYTES:])
    except (struct.error, ValueError, OverflowError):
        raise InvalidCursor from None
    place = SessionPosition(UUID(bytes=session), position, after)
    # The first page of a session is requested without a cursor, unless its scan goes on.
    if position < (SECOND_POSITION if after is None else 1) or place.cursor != cursor:
        raise InvalidCursor
    return place


def _scan_position(packed: bytes) -> ScanPosition | None:
    if not packed:
        return None
    since_1970, video_id = struct.unpack(_SCAN_FORM, packed)
    return ScanPosition(time_of(since_1970), video_id)


def session_uuid(value: object) -> UUID:
    """Return a session's id, which is a UUID or its text; `InvalidValue` if it is neither."""
    try:
        return value if isinstance(value, UUID) else UUID(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError):
        raise InvalidValue(f"session_id: {scalars.shown(value)} is not a UUID") from None


@dataclass(frozen=True, slots=True)
class ListPosition:
    """The position of a video in a plain list: the keys of its order, as a cursor holds them.

    Attributes:
        by: `BY_FOLLOWED`, `BY_TREND` or `BY_NEWNESS`.
        value: the stored trend of the video, or its publication time.
        video_id: the row id of the video.
        least: the trend from which videos were listed by their trend, if the order is `BY_NEWNESS`.
            It stays while time passes, so that none of them comes again.
    """

    by: bytes
    value: Any
    video_id: int
    least: float = 0.0

    @property
    def cursor(self) -> str:
        """The text that asks for the videos below: 23 or 34 letters, digits, `-` and `_`."""
        value = self.value if self.by == BY_TREND else microseconds(self.value)
        least = [self.least] if self.by == BY_NEWNESS else []
        return encoded(struct.pack(_form(self.by), self.by, value, self.video_id, *least))

    @classmethod
    def of(cls, cursor: str, *allowed: bytes) -> ListPosition:
        """Return the position that a cursor holds.

        Raises:
            InvalidCursor: the text is not a cursor of one of the allowed orders.
        """
        try:
            packed = decoded(cursor)
            by, value, *others = struct.unpack(_form(packed[:1]), packed)
            position = cls(by, value if by == BY_TREND else time_of(value), *others)
        except (struct.error, ValueError, OverflowError):
            raise foreign(cursor) from None
        if by not in allowed or not position._is_possible() or position.cursor != cursor:
            raise foreign(cursor)
        return position

    def _is_possible(self) -> bool:
        """Return whether a video can have the position."""
        is_trend = self.by == BY_TREND
        low, high = (LEAST_TREND, LARGEST_TREND) if is_trend else (scalars.UNDATED, scalars.LATEST)
        is_trend_possible = LEAST_TREND <= self.least <= LARGEST_TREND
        return low <= self.value <= high and 1 <= self.video_id <= LARGEST_ID and is_trend_possible

    def is_above(self) -> ColumnElement[bool]:
        """Return the condition that a video comes after the position, in descending order."""
        return self._column() < self._bound()

    def is_reached(self) -> ColumnElement[bool]:
        """Return the condition that a video comes at the position or before it."""
        return self._column() >= self._bound()

    def _column(self) -> sa.Tuple:
        return sa.tuple_(Video.trending if self.by == BY_TREND else Video.published_at, Video.id)

    def _bound(self) -> sa.Tuple:
        value = literal(self.value, Double() if self.by == BY_TREND else UtcDateTime())
        return sa.tuple_(value, literal(self.video_id, BigInteger()))


TOP_OF_TRENDING = ListPosition(BY_TREND, LARGEST_TREND, LARGEST_ID)
"""The position above every video with a trend."""


def encoded(packed: bytes) -> str:
    """Return the text of a cursor that holds some bytes."""
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decoded(cursor: str) -> bytes:
    """Return the bytes of a cursor; `ValueError` if it is not base64 without its ``=``."""
    text = str(cursor)
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _form(by: bytes) -> str:
    return {BY_TREND: ">cdq", BY_NEWNESS: ">cqqd"}.get(by, ">cqq")


def time_of(since_1970: int) -> datetime:
    """Return the time of a number of microseconds since 1970."""
    return scalars.EARLIEST + timedelta(microseconds=since_1970)


def foreign(cursor: object) -> InvalidCursor:
    """Return the error for a text that is not a cursor of the list."""
    return InvalidCursor(
        f"cursor: {scalars.shown(cursor)} is not one of this list: ask for a page without one"
    )
