"""Rank pages on a standby and record them on the primary, however far the standby lags."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from recommender import (
    CursorAhead,
    DatabaseUnreachable,
    FeedPage,
    UnknownUser,
    for_you,
    record_page,
    run_transaction,
)


@dataclass(frozen=True)
class Feed:
    """The feed of an application. Users, videos and events are written on the primary."""

    primary: Engine
    standby: Engine

    def page(
        self, user: str, *, cursor: str | None = None, session_id: UUID | None = None
    ) -> FeedPage:
        """Return the page of a cursor, or the first page of a session."""
        asked: dict[str, Any] = {"cursor": cursor, "session_id": session_id}
        page = self._ranked_on_standby(user, asked)
        if page is None or page.stale:
            return run_transaction(self.primary, lambda session: for_you(session, user, **asked))
        return page

    def _ranked_on_standby(self, user: str, asked: dict[str, Any]) -> FeedPage | None:
        try:
            ranked = run_transaction(
                self.standby,
                lambda session: for_you(session, user, record=False, **asked),
                write=False,
            )
            return run_transaction(self.primary, lambda session: record_page(session, ranked))
        except CursorAhead:  # the standby does not have the page before yet
            return None
        except UnknownUser:  # not on the primary either: a page for a stranger
            return None
        except DatabaseUnreachable:  # the standby is down
            return None
