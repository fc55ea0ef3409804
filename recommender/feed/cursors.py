"""feed.cursors: TODO."""

from __future__ import annotations

import base64
import binascii
from uuid import UUID

from recommender.errors import InvalidCursor

POSITION_BYTES = 4


def cursor_of(session: UUID, position: int) -> str:
    """The cursor of the page of a session that begins at a position."""
    named = session.bytes + position.to_bytes(POSITION_BYTES, "big")
    return base64.urlsafe_b64encode(named).rstrip(b"=").decode()


def read_cursor(cursor: str) -> tuple[UUID, int]:
    """The session and the position that a cursor names.

    Raises:
        InvalidCursor: it is not of its form.
    """
    try:
        named = base64.b64decode(f"{cursor}=", altchars=b"-_", validate=True)
        session = UUID(bytes=named[:-POSITION_BYTES])
    except (binascii.Error, TypeError, ValueError):
        raise InvalidCursor from None
    position = int.from_bytes(named[-POSITION_BYTES:], "big")
    if cursor_of(session, position) != cursor:
        raise InvalidCursor
    return session, position
